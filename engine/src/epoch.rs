//! `SOURCE_DATE_EPOCH` (FEATURES AS15): a number, or the time of what a context or a stage fetches.
//!
//! A git tree has its commit's time, a download what the server says (`Last-Modified`) or, of an archive, its newest file.
//! A directory has no time of its own.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Cursor, Read};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::UNIX_EPOCH;

use kiln_cache::{ContextTree, EntryKind, SourceTree as _};
use kiln_image::http::{Fetch, Fetched, Signer};
use kiln_image::layer::{self, ExtractOptions};
use kiln_parser::Dockerfile;
use kiln_solver::git_url::GitUrl;
use kiln_solver::graph::{GitSource, GitTimes};
use kiln_solver::plan::{self, EpochSource, PlanRequest};

use crate::context::{Origin, git_tree};
use crate::session::Session;
use crate::{Error, assemble};

/// The argument.
const NAME: &str = "SOURCE_DATE_EPOCH";

const NANOSECONDS: i128 = 1_000_000_000;

/// Returns what the image is dated, in seconds since 1970. The argument becomes the number that it stands for.
pub(crate) fn resolve(
    session: &Session<'_>,
    dockerfile: &Dockerfile,
    origins: &HashMap<String, Origin>,
    request: &mut PlanRequest,
) -> Result<Option<i64>, Error> {
    let seconds = match plan::source_date_epoch(dockerfile, request)? {
        None => None,
        Some(EpochSource::Seconds(seconds)) => Some(seconds),
        Some(EpochSource::Url { url, .. }) => match GitUrl::parse(&url) {
            Ok(Some(git)) => of_commit(session, git.source)?,
            _ => of_download(session, &url, None)?,
        },
        Some(EpochSource::Context(name)) => match origins.get(&name) {
            Some(Origin::Git(source)) => of_commit(session, source.clone())?,
            Some(Origin::Url(address)) => of_download(session, address.url(), address.signer())?,
            None => None,
        },
        Some(_) => None,
    };
    match seconds {
        Some(seconds) if assemble::timestamp(seconds).is_none() => {
            return Err(Error::user(format!("invalid {NAME}: {seconds} is beyond any calendar")));
        }
        Some(seconds) => _ = request.build_args.insert(NAME.to_owned(), seconds.to_string()),
        None => _ = request.build_args.remove(NAME),
    }
    Ok(seconds)
}

/// All files of a tree with the times of its commit have that one time.
fn of_commit(session: &Session<'_>, source: GitSource) -> Result<Option<i64>, Error> {
    let tree = git_tree(session, GitSource { times: GitTimes::Commit, ..source })?;
    let files = tree.read_dir(Path::new(""))?;
    Ok(files.first().and_then(|file| seconds(file.mtime_ns)))
}

fn of_download(session: &Session<'_>, url: &str, signer: Option<&dyn Signer>) -> Result<Option<i64>, Error> {
    let fetch = Fetch { url, signer, ..Fetch::default() };
    let Fetched::Download(mut download) = session.http.fetch(&fetch, session.cancel)? else {
        return Ok(None);
    };
    if let Some(time) = download.last_modified {
        let since = time.duration_since(UNIX_EPOCH).ok();
        return Ok(since.and_then(|since| i64::try_from(since.as_secs()).ok()));
    }
    let mut head = Vec::new();
    let shown = Path::new(url);
    let read = Read::take(&mut download.reader, layer::ARCHIVE_HEAD_BYTES as u64).read_to_end(&mut head);
    read.map_err(|error| Error::io(shown, error))?;
    if !layer::is_archive(&head) {
        return Ok(None);
    }
    let scratch = session.store.scratch_dir()?;
    let root = scratch.fs();
    let target = File::open(&root).map_err(|error| Error::io(&root, error))?;
    layer::extract_archive(
        &mut Cursor::new(head).chain(download.reader),
        target.as_fd(),
        ExtractOptions::default(),
    )?;
    let files = ContextTree::open(&root, None, None)?.walk(Path::new(""))?;
    let times =
        files.iter().filter(|file| matches!(file.kind, EntryKind::File { .. })).map(|file| file.mtime_ns);
    Ok(times.max().and_then(seconds))
}

fn seconds(nanoseconds: impl Into<i128>) -> Option<i64> {
    i64::try_from(nanoseconds.into().div_euclid(NANOSECONDS)).ok()
}
