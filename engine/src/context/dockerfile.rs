//! Where the Dockerfile is (FEATURES LX1, LX38, CX3, CX4, CX8, CX10).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_cache::SourceTree;

use super::main_context::Main;
use super::text::{beneath, from_tree, read_text};
use super::{Preparation, preprocess, remote};
use crate::Error;
use crate::build::DockerfileSource;

/// A Dockerfile that was found.
pub(super) struct Found {
    /// As people know it.
    pub(super) name: String,
    /// On the host: an ignore file may be beside it.
    pub(super) path: Option<PathBuf>,
    pub(super) text: Vec<u8>,
}

impl Found {
    fn text(name: &str, text: Vec<u8>) -> Self {
        Self { name: name.to_owned(), path: None, text }
    }
}

/// Finds it: the lines of all that are given, one after the other (FEATURES LX37).
pub(super) fn find(preparation: &Preparation<'_>, main: &Main) -> Result<Found, Error> {
    let build = preparation.session.build;
    let mut found = preprocess::found(build, main, find_one(preparation, &build.dockerfile, main)?)?;
    for path in &build.more_dockerfiles {
        let source = DockerfileSource::Path(path.clone());
        let more = preprocess::found(build, main, find_one(preparation, &source, main)?)?;
        if !found.text.ends_with(b"\n") {
            found.text.push(b'\n');
        }
        found.text.extend_from_slice(&more.text);
        found.name = format!("{}+{}", found.name, more.name);
    }
    Ok(found)
}

fn find_one(preparation: &Preparation<'_>, source: &DockerfileSource, main: &Main) -> Result<Found, Error> {
    match (source, main) {
        (DockerfileSource::Default, Main::Dockerfile(text) | Main::DockerfileUrl { text, .. }) => {
            Ok(Found::text("Dockerfile", text.clone()))
        }
        (_, Main::Dockerfile(_)) => {
            Err(Error::user("ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles"))
        }
        (DockerfileSource::Text(text), _) => Ok(Found::text("Dockerfile", text.clone())),
        (DockerfileSource::Url(url), _) => {
            Ok(Found::text(&kiln_solver::git_url::redacted(url), remote::text(preparation.session, url)?))
        }
        // What was downloaded is the Dockerfile; a path in it means nothing.
        (DockerfileSource::Path(path), Main::DockerfileUrl { text, .. }) if path.is_relative() => {
            Ok(Found::text("Dockerfile", text.clone()))
        }
        (DockerfileSource::Path(path), Main::Tree(tree)) if path.is_relative() => in_tree(tree, &[path]),
        (DockerfileSource::Path(path), Main::Extracted(root)) if path.is_relative() => in_root(root, &[path]),
        (DockerfileSource::Path(path), Main::Directory(root)) if path.is_relative() => {
            on_host(&[path.clone(), root.join(path)], path)
        }
        (DockerfileSource::Path(path), _) => on_host(std::slice::from_ref(path), path),
        (DockerfileSource::Default, Main::Tree(tree)) => in_tree(tree, &DEFAULT_DOCKERFILES.map(Path::new)),
        (DockerfileSource::Default, Main::Extracted(root) | Main::Directory(root)) => {
            in_root(root, &DEFAULT_DOCKERFILES.map(Path::new))
        }
        (DockerfileSource::Default, Main::Empty) => {
            Err(Error::user("there is neither a Dockerfile nor a context to find one in"))
        }
    }
}

/// Where nothing is said: docker's name, else buildah's. A context means the same to docker.
pub(crate) const DEFAULT_DOCKERFILES: [&str; 2] = ["Dockerfile", "Containerfile"];

/// The first of `paths` in a directory whose links must not lead out.
fn in_root(root: &Path, paths: &[&Path]) -> Result<Found, Error> {
    for path in paths {
        for name in spellings(path) {
            let host = beneath(root, &name)?;
            if let Some(text) = read_text(&host)? {
                return Ok(Found { name: path.display().to_string(), path: Some(host), text });
            }
        }
    }
    Err(missing(paths[0]))
}

fn in_tree(tree: &Arc<dyn SourceTree>, paths: &[&Path]) -> Result<Found, Error> {
    for path in paths {
        for name in spellings(path) {
            if let Some(text) = from_tree(tree, &name)? {
                return Ok(Found::text(&path.display().to_string(), text));
            }
        }
    }
    Err(missing(paths[0]))
}

fn on_host(candidates: &[PathBuf], path: &Path) -> Result<Found, Error> {
    for host in candidates.iter().flat_map(|candidate| spellings(candidate)) {
        if let Some(text) = read_text(&host)? {
            return Ok(Found { name: path.display().to_string(), path: Some(host), text });
        }
    }
    Err(missing(path))
}

/// `Dockerfile` may be spelled in lower case; no other name may (FEATURES LX1).
fn spellings(path: &Path) -> Vec<PathBuf> {
    let mut spellings = vec![path.to_owned()];
    if path.file_name().is_some_and(|name| name == "Dockerfile") {
        spellings.push(path.with_file_name("dockerfile"));
    }
    spellings
}

fn missing(path: &Path) -> Error {
    Error::user(format!("failed to read dockerfile: open {}: no such file or directory", path.display()))
        .hinted("name the file with `-f`; the last argument is the folder to build")
}
