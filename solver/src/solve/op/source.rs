//! What brings things in: images, contexts, downloads, git.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use kiln_cache::ContextTree;
use kiln_image::Digest;
use rustix::fs::{Mode, Timespec, Timestamps};
use sha2::{Digest as _, Sha256};

use super::Step;
use super::git::{self, Scratch};
use crate::graph::Source;
use crate::solve::{ImageOrigin, Output, Snapshot, SolveError};

/// Mode of a downloaded file (FEATURES CP24).
const DOWNLOAD_MODE: Mode = Mode::RUSR.union(Mode::WUSR);

/// Name of a file whose URL gives none (FEATURES CP24).
const UNNAMED: &str = "__unnamed__";

/// Runs a source vertex.
pub(super) fn run(step: &Step<'_>, source: &Source) -> Result<Output, SolveError> {
    match source {
        Source::Scratch => Ok(Output::Snapshot(Snapshot::default())),
        Source::Image { reference, manifest } => image(step, &reference.to_string(), manifest),
        Source::Context { name } => context(step, name),
        Source::Http { url, checksum } => timed(step, || http(step, url, checksum.as_ref())),
        Source::Git { remote, reference, subdir, keep_git_dir, checksum } => timed(step, || {
            let request = git::Request {
                remote,
                reference,
                subdir,
                keep_git_dir: *keep_git_dir,
                checksum: checksum.as_deref(),
            };
            git::fetch(step, &request)
        }),
    }
}

/// The names of the layers; nothing is pulled.
fn image(step: &Step<'_>, name: &str, manifest: &Digest) -> Result<Output, SolveError> {
    let Some(origin) = step.solver.inputs.images.get(manifest) else {
        return Err(SolveError::MissingInput { what: "image", name: name.to_owned() });
    };
    if matches!(origin, ImageOrigin::Store { .. })
        && let Some(id) = step.id
    {
        step.solver.reporter.cached(id);
    }
    Ok(Output::Snapshot(step.solver.pulls.add_image(origin, step.id)?))
}

fn context(step: &Step<'_>, name: &str) -> Result<Output, SolveError> {
    let Some(tree) = step.solver.inputs.contexts.get(name) else {
        return Err(SolveError::MissingInput { what: "build context", name: name.to_owned() });
    };
    step.report_instant();
    Ok(Output::Tree(Arc::clone(tree)))
}

fn timed(step: &Step<'_>, work: impl FnOnce() -> Result<Output, SolveError>) -> Result<Output, SolveError> {
    let _slot = step.slots.take();
    if let Some(id) = step.id {
        step.solver.reporter.started(id);
    }
    let output = work()?;
    if let Some(id) = step.id {
        step.solver.reporter.done(id);
    }
    Ok(output)
}

/// Downloads a file into scratch space: a tree of one file, named after the URL.
fn http(step: &Step<'_>, url: &str, checksum: Option<&Digest>) -> Result<Output, SolveError> {
    let files = step.solver.store.scratch_dir()?;
    let mut response = step.solver.http.fetch_url(url, &step.solver.cancel)?;
    // The URL names the file, whatever Content-Disposition says (as BuildKit has it).
    let path = files.fs().join(file_name(url));
    let at = |source: io::Error| SolveError::Io { path: path.clone(), source };
    let mut file = File::create_new(&path).map_err(at)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = response.reader.read(&mut buffer).map_err(at)?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
        io::Write::write_all(&mut file, &buffer[..read]).map_err(at)?;
    }
    let actual = Digest::from_bytes(hasher.finalize().into());
    if let Some(&expected) = checksum
        && expected != actual
    {
        return Err(SolveError::Checksum { url: url.to_owned(), expected, actual });
    }
    rustix::fs::fchmod(&file, DOWNLOAD_MODE).map_err(|error| at(error.into()))?;
    // Without a date the file is from the epoch, so that every download of it is alike.
    let modified = response.last_modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let seconds = modified.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(0));
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::futimens(&file, &times).map_err(|error| at(error.into()))?;
    let tree = ContextTree::open(&files.fs(), None, None)?;
    Ok(Output::Tree(Arc::new(Scratch { tree, _files: files })))
}

/// The last component of a URL's path.
fn file_name(url: &str) -> PathBuf {
    let path = url.split(['?', '#']).next().unwrap_or(url);
    let path = path.split_once("://").map_or(path, |(_, rest)| rest);
    let name = path.split_once('/').map_or("", |(_, path)| path.rsplit('/').next().unwrap_or(""));
    match name {
        "" | "." | ".." => UNNAMED.into(),
        name => name.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_download_is_named_by_the_last_component_of_its_url() {
        for (url, name) in [
            ("http://h/a/b.txt?x=/y", "b.txt"),
            ("http://h/a/b.txt#frag", "b.txt"),
            ("http://h/", "__unnamed__"),
            ("http://h", "__unnamed__"),
            ("http://h/a/..", "__unnamed__"),
        ] {
            assert_eq!(file_name(url), PathBuf::from(name), "{url}");
        }
    }
}
