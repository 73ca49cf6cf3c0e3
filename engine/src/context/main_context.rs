//! The build context itself (FEATURES CX1–CX9, CX19).

use std::fs::File;
use std::io::{self, Cursor, Read};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use kiln_cache::SourceTree;
use kiln_image::layer::{self, ExtractOptions};
use kiln_solver::git_url::{GitUrl, redacted};
use kiln_solver::graph::GitTimes;

use super::text::{TEXT_LIMIT, read_limited};
use super::{MAIN, Origin, Preparation, remote};
use crate::Error;
use crate::build::ContextSource;

/// The main context.
pub(super) enum Main {
    Directory(PathBuf),
    /// Whole, no ignore file (FEATURES CX19), with a path to read the Dockerfile from.
    Extracted(PathBuf),
    Tree(Arc<dyn SourceTree>),
    /// Standard input was a Dockerfile.
    Dockerfile(Vec<u8>),
    /// What a URL led to was a Dockerfile; it is also all there is in the context.
    DockerfileUrl {
        text: Vec<u8>,
        tree: Arc<dyn SourceTree>,
    },
    Empty,
}

/// Gets hold of it.
pub(super) fn open(preparation: &mut Preparation<'_>) -> Result<Main, Error> {
    match &preparation.session.build.context {
        ContextSource::Empty => Ok(Main::Empty),
        ContextSource::Directory(path) => directory(path),
        ContextSource::Stream(stream) => {
            let mut stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
            archive_or_text(preparation, &mut *stream, Path::new("standard input"))
        }
        ContextSource::Url(url) => {
            let invalid = |problem| Error::user(format!("build context {:?}: {problem}", redacted(url)));
            match GitUrl::parse_context(url).map_err(invalid)? {
                Some(git) => git_tree(preparation, git).map(Main::Tree),
                None if remote::is_http(url) => download(preparation, url),
                None => Err(Error::user(format!(
                    "unable to prepare context: {:?} is no address that can be fetched",
                    redacted(url)
                ))
                .hinted("give a directory, `-`, or an address with http, https, git or ssh")),
            }
        }
    }
}

fn directory(path: &Path) -> Result<Main, Error> {
    let shown = path.display();
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => {
            let root = path.canonicalize().map_err(|error| Error::io(path, error))?;
            Ok(Main::Directory(root))
        }
        Ok(_) => Err(Error::user(format!("unable to prepare context: path \"{shown}\" is no directory"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Error::user(format!("unable to prepare context: path \"{shown}\" not found")))
        }
        Err(error) => Err(Error::io(path, error)),
    }
}

fn git_tree(preparation: &mut Preparation<'_>, mut git: GitUrl) -> Result<Arc<dyn SourceTree>, Error> {
    let argument = |wanted: &str| {
        let args = &preparation.session.build.args;
        args.iter().rev().find(|(name, _)| name == wanted).map_or("", |(_, value)| value.as_str())
    };
    let keep = argument("BUILDKIT_CONTEXT_KEEP_GIT_DIR");
    git.source.keep_git_dir |= kiln_parser::boolean(keep) == Some(true);
    if !argument("SOURCE_DATE_EPOCH").is_empty() {
        // Times of the checkout would not be the same twice (FEATURES CX5).
        git.source.times = GitTimes::Commit;
    }
    preparation.origins.insert(MAIN.to_owned(), Origin::Git(git.source.clone()));
    remote::git(preparation.session, git.source)
}

fn download(preparation: &mut Preparation<'_>, url: &str) -> Result<Main, Error> {
    let file = remote::download(preparation.session, url)?;
    preparation.origins.insert(MAIN.to_owned(), Origin::Url(url.to_owned()));
    let name = redacted(url);
    match archive_or_text(preparation, &mut file.open()?, Path::new(&name))? {
        Main::Dockerfile(text) => {
            let tree = remote::as_context_file(preparation, &file)?;
            Ok(Main::DockerfileUrl { text, tree })
        }
        main => Ok(main),
    }
}

/// An archive is the context; anything else is a Dockerfile (FEATURES CX2, CX3, CX6).
fn archive_or_text(
    preparation: &mut Preparation<'_>,
    stream: &mut dyn Read,
    name: &Path,
) -> Result<Main, Error> {
    let mut head = Vec::new();
    let read = Read::take(&mut *stream, layer::ARCHIVE_HEAD_BYTES as u64).read_to_end(&mut head);
    read.map_err(|error| Error::io(name, error))?;
    if !layer::is_archive(&head) {
        // Within the limit already, and one byte more tells that it is over.
        let room = (TEXT_LIMIT + 1).saturating_sub(head.len() as u64);
        read_limited(&mut Read::take(&mut *stream, room), &mut head, name)?;
        return Ok(Main::Dockerfile(head));
    }
    let files = preparation.session.store.scratch_dir()?;
    let root = files.fs();
    let target = File::open(&root).map_err(|error| Error::io(&root, error))?;
    let mut whole = Cursor::new(head).chain(stream);
    layer::extract_archive(&mut whole, target.as_fd(), ExtractOptions::default())?;
    preparation.scratch.push(files);
    Ok(Main::Extracted(root))
}
