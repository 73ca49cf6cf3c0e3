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

use super::remote::Address;
use super::text::{TEXT_LIMIT, beneath, read_limited};
use super::{MAIN, Origin, Preparation, git, remote};
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

/// Gets hold of it, or of the directory in it that is meant.
pub(super) fn open(preparation: &mut Preparation<'_>) -> Result<Main, Error> {
    let main = match &preparation.session.build.context {
        ContextSource::Empty => Main::Empty,
        ContextSource::Directory(path) => directory(path)?,
        ContextSource::Stream(stream) => {
            let mut stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
            archive_or_text(preparation, &mut *stream, Path::new("standard input"))?
        }
        ContextSource::Url(url) => match url.split_once("://") {
            Some(("tar", path)) => Main::Extracted(archive_file(preparation, Path::new(path))?),
            Some(("dir", path)) => directory(Path::new(path))?,
            _ => return at_address(preparation, url),
        },
    };
    below(main, preparation.session.build.context_sub_path.as_deref())
}

fn at_address(preparation: &mut Preparation<'_>, url: &str) -> Result<Main, Error> {
    let sub_path = preparation.session.build.context_sub_path.as_deref();
    let what = format!("build context {:?}", redacted(url));
    if let Some(mut git) = git::parse_context(url, &what)? {
        if let Some(path) = sub_path {
            git.descend(&path.to_string_lossy());
        }
        return git_tree(preparation, git).map(Main::Tree);
    }
    if !Address::is_one(url) {
        let message =
            format!("unable to prepare context: {:?} is no address that can be fetched", redacted(url));
        return Err(Error::user(message).hinted(
            "give a directory, `-`, an archive (tar://FILE), or an address with http, https, git, ssh, s3 or gs",
        ));
    }
    let main = download(preparation, url)?;
    below(main, sub_path)
}

/// A directory of the context in its place (`--context-sub-path`); links do not lead out.
fn below(main: Main, sub_path: Option<&Path>) -> Result<Main, Error> {
    let Some(path) = sub_path.filter(|path| !path.as_os_str().is_empty()) else { return Ok(main) };
    let found = |root: &Path| {
        let inner = beneath(root, path.strip_prefix("/").unwrap_or(path))?;
        match inner.is_dir() {
            true => Ok(inner),
            false => Err(Error::user(format!("the context has no directory `{}`", path.display()))),
        }
    };
    match &main {
        Main::Directory(root) => Ok(Main::Directory(found(root)?)),
        Main::Extracted(root) => Ok(Main::Extracted(found(root)?)),
        Main::Tree(_) | Main::Dockerfile(_) | Main::DockerfileUrl { .. } | Main::Empty => {
            Err(Error::user(format!("there is no context to find `{}` in", path.display())))
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
    let address = Address::parse(preparation.session, url)?;
    let file = remote::download(preparation.session, &address)?;
    let name = address.name();
    preparation.origins.insert(MAIN.to_owned(), Origin::Url(address));
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
    let mut head = head(stream, name)?;
    if !layer::is_archive(&head) {
        // Within the limit already, and one byte more tells that it is over.
        let room = (TEXT_LIMIT + 1).saturating_sub(head.len() as u64);
        read_limited(&mut Read::take(&mut *stream, room), &mut head, name)?;
        return Ok(Main::Dockerfile(head));
    }
    extract(preparation, Cursor::new(head).chain(stream)).map(Main::Extracted)
}

/// An archive on the host, unpacked (kaniko's `tar://`).
pub(super) fn archive_file(preparation: &mut Preparation<'_>, path: &Path) -> Result<PathBuf, Error> {
    let file = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::user(format!("the archive {} is not there", path.display())),
        _ => Error::io(path, error),
    })?;
    archive(preparation, file, path)
}

/// An archive, unpacked.
pub(super) fn archive(
    preparation: &mut Preparation<'_>,
    mut stream: impl Read,
    name: &Path,
) -> Result<PathBuf, Error> {
    let head = head(&mut stream, name)?;
    if !layer::is_archive(&head) {
        return Err(Error::user(format!("{} is no archive", name.display()))
            .hinted("a tar is wanted, plain or in gzip, zstd, bzip2 or xz"));
    }
    extract(preparation, Cursor::new(head).chain(stream))
}

/// As much as tells what it is.
fn head(stream: &mut dyn Read, name: &Path) -> Result<Vec<u8>, Error> {
    let mut head = Vec::new();
    let read = stream.take(layer::ARCHIVE_HEAD_BYTES as u64).read_to_end(&mut head);
    read.map_err(|error| Error::io(name, error))?;
    Ok(head)
}

fn extract(preparation: &mut Preparation<'_>, mut whole: impl Read) -> Result<PathBuf, Error> {
    let files = preparation.session.store.scratch_dir()?;
    let root = files.fs();
    let target = File::open(&root).map_err(|error| Error::io(&root, error))?;
    layer::extract_archive(&mut whole, target.as_fd(), ExtractOptions::default())?;
    preparation.scratch.push(files);
    Ok(root)
}
