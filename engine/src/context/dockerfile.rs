//! Where the Dockerfile is (FEATURES LX1, LX38, CX3, CX4, CX8, CX10).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_cache::SourceTree;

use super::main_context::Main;
use super::text::{beneath, from_tree, read_text};
use super::{Preparation, preprocess, remote};
use crate::build::DockerfileSource;
use crate::{DockerfileName, Error};

/// A Dockerfile that was found.
pub(super) struct Found {
    /// As people know it.
    pub(super) name: DockerfileName,
    /// On the host: an ignore file may be beside it.
    pub(super) path: Option<PathBuf>,
    pub(super) text: Vec<u8>,
}

impl Found {
    fn text(name: &str, text: Vec<u8>) -> Self {
        Self { name: name.into(), path: None, text }
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
        found.name.push(&more.name, &found.text);
        found.text.extend_from_slice(&more.text);
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
                return Ok(Found { name: path.display().to_string().into(), path: Some(host), text });
            }
        }
    }
    let error = missing(paths[0]);
    Err(match similar(root, paths[0]) {
        Some(near) => error.hinted(format!("there is `{near}`: name it with `-f`")),
        None => error.hinted("the Dockerfile is named with `-f`; without, it is `Dockerfile` in the context"),
    })
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
            return Ok(Found { name: path.display().to_string().into(), path: Some(host), text });
        }
    }
    let error = missing(path);
    let near = candidates.iter().find_map(|candidate| {
        let folder = candidate.parent().filter(|folder| !folder.as_os_str().is_empty());
        similar(folder.unwrap_or(Path::new(".")), candidate)
    });
    Err(match near {
        Some(near) => error.hinted(format!("did you mean `{}`?", path.with_file_name(near).display())),
        None => error.hinted("`-f` is looked for in the working directory, then in the context"),
    })
}

/// The file in `folder` that was most likely meant by the last part of `path`: one whose name is the same but for the
/// letter case, begins or ends with it, or where a Dockerfile is wanted has that word in it.
fn similar(folder: &Path, path: &Path) -> Option<String> {
    let wanted = path.file_name()?.to_string_lossy().to_lowercase();
    let rank = |name: &str| {
        let name = name.to_lowercase();
        let is_dockerfile = |name: &str| name.contains("dockerfile") || name.contains("containerfile");
        if name.ends_with(".dockerignore") || name.ends_with(".containerignore") {
            return None;
        }
        match () {
            () if name == wanted => Some(0),
            () if name.starts_with(&wanted) || name.ends_with(&wanted) => Some(1),
            () if is_dockerfile(&wanted) && is_dockerfile(&name) => Some(2),
            () => None,
        }
    };
    let entries = std::fs::read_dir(folder).ok()?.take(MOST_ENTRIES).flatten();
    let files = entries.filter(|entry| entry.file_type().is_ok_and(|kind| !kind.is_dir()));
    let names = files.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter_map(|name| Some((rank(&name)?, name))).min().map(|(_, name)| name)
}

/// Larger directories are not searched to their end for a hint.
const MOST_ENTRIES: usize = 4096;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_dockerfile_names_the_one_that_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str| std::fs::write(folder.path().join(name), "").unwrap();
        let near = |name: &str| similar(folder.path(), Path::new(name));
        std::fs::create_dir(folder.path().join("Dockerfile.d")).unwrap();
        make("Dockerfile.dockerignore");
        make("README.md");
        assert_eq!(near("Dockerfile"), None);
        make("web.Dockerfile");
        assert_eq!(near("dockerfile.web").as_deref(), Some("web.Dockerfile"));
        make("DockerFile");
        assert_eq!(near("Dockerfile").as_deref(), Some("DockerFile"));
        make("build.txt");
        assert_eq!(near("build").as_deref(), Some("build.txt"));
        assert_eq!(near("other"), None);
    }
}
