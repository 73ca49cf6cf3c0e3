//! ADD of a URL (FEATURES CP24–CP27).
//!
//! A download becomes a layer of one file. Its record is found by the URL and keeps what the server said to tell one
//! version from another (`ETag`, `Last-Modified`), so that the next build asks "has it changed?" and transfers nothing if
//! it has not. With `--checksum` there is nothing to ask: the record is found by the bytes' digest.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use kiln_cache::{Claim, ContextTree, Cost, Lookup, NewRecord, Record, StepKey};
use kiln_image::Digest;
use kiln_image::http::{self, Download, Fetch, Fetched};
use rustix::fs::{Mode, Timespec, Timestamps};
use sha2::{Digest as _, Sha256};

use super::super::Step;
use crate::git_url::redacted;
use crate::solve::journal;
use crate::solve::key::KeyHasher;
use crate::solve::{Outcome, Output, SolveError};

/// Mode of a downloaded file (FEATURES CP24).
const DOWNLOAD_MODE: Mode = Mode::RUSR.union(Mode::WUSR);

/// Name of a file whose URL gives none (FEATURES CP24).
const UNNAMED: &str = "__unnamed__";

/// A file that changed so shortly ago may change again within the second that its date names (RFC 9110, 8.8.2.2).
const STRONG_DATE_AGE: Duration = Duration::from_secs(60);

/// A longer `ETag` is not remembered.
const MAX_VALIDATOR_BYTES: usize = 4096;

/// Finds the file, or downloads it.
pub(super) fn fetch(step: &Step<'_>, url: &str, checksum: Option<&Digest>) -> Result<Output, SolveError> {
    let download = Source { step, url, name: file_name(url) };
    let record = match checksum {
        Some(checksum) => download.with_checksum(checksum)?,
        None => download.if_changed()?,
    };
    let Some(layer) = record.layers.first() else {
        return Err(SolveError::MissingInput { what: "download", name: redacted(url) });
    };
    let root = step.solver.store.layer_path(layer.id);
    step.solver
        .journal
        .downloaded(journal::Download::File { url: redacted(url), path: root.join(&download.name) });
    Ok(Output::Tree(Arc::new(ContextTree::open(&root, None, None)?)))
}

struct Source<'a> {
    step: &'a Step<'a>,
    url: &'a str,
    name: PathBuf,
}

impl Source<'_> {
    fn with_checksum(&self, checksum: &Digest) -> Result<Record, SolveError> {
        let mut key = KeyHasher::new("http checksum");
        key.digest(checksum).bytes(self.name.as_os_str().as_encoded_bytes());
        let key = key.finish();
        self.step.note(&key, Outcome::Cached);
        match self.step.claim(&key)? {
            Lookup::Found(record) => {
                self.report_cached();
                Ok(record)
            }
            Lookup::Missing(claim) => self.timed(|| {
                if let Some(record) = self.known_as(checksum)? {
                    self.step.note(&key, Outcome::Cached);
                    return Ok(record);
                }
                self.step.note(&key, Outcome::Ran);
                let download = match self.ask(&Validators::default())? {
                    Fetched::Download(download) => download,
                    // Only a server that answers what nobody asked.
                    Fetched::NotModified => return Err(self.gone()),
                };
                self.save(download, claim, Some(checksum))
            }),
        }
    }

    /// What was downloaded from there without a checksum, if it has this one. It may be asked for offline.
    fn known_as(&self, checksum: &Digest) -> Result<Option<Record>, SolveError> {
        let store = self.step.solver.store;
        let Some(record) = store.find(&self.url_key())? else { return Ok(None) };
        let Some(layer) = record.layers.first() else { return Ok(None) };
        let path = store.layer_path(layer.id).join(&self.name);
        let found = File::open(&path).and_then(|mut file| Digest::of_reader(&mut file));
        Ok(found.is_ok_and(|found| found == *checksum).then_some(record))
    }

    fn if_changed(&self) -> Result<Record, SolveError> {
        let key = self.url_key();
        self.step.note(&key, Outcome::Cached);
        let known = self.step.solver.store.find(&key)?;
        let validators = match &known {
            Some(_) => self.step.solver.store.details(&key)?.map(|details| Validators::decode(&details.log)),
            None => None,
        };
        let validators = validators.unwrap_or_default();
        let answer = {
            let _slot = self.step.slots.take();
            self.ask(&validators)?
        };
        match (answer, known) {
            (Fetched::NotModified, Some(record)) => {
                self.report_cached();
                Ok(record)
            }
            (Fetched::NotModified, None) => Err(self.gone()),
            (Fetched::Download(download), _) => {
                let mut on_wait = |_: kiln_cache::Wait<'_>| {};
                let claim = self.step.solver.store.claim(&key, &mut on_wait, &self.step.solver.cancel)?;
                self.step.note(&key, Outcome::Ran);
                self.timed(|| self.save(download, claim, None))
            }
        }
    }

    /// No password or secret is in it: whoever asks, the server says whether what it would send is what is known.
    fn url_key(&self) -> StepKey {
        let mut key = KeyHasher::new("http");
        key.text(&redacted(self.url)).bytes(self.name.as_os_str().as_encoded_bytes());
        key.finish()
    }

    fn ask(&self, validators: &Validators) -> Result<Fetched, SolveError> {
        let authorization = self.authorization();
        let fetch = Fetch {
            url: self.url,
            authorization: authorization.as_deref(),
            etag: validators.etag.as_deref(),
            last_modified: validators.last_modified.as_deref(),
            signer: self.step.solver.inputs.signers.get(self.url).map(AsRef::as_ref),
        };
        Ok(self.step.solver.http.fetch(&fetch, &self.step.solver.cancel)?)
    }

    /// The secrets `HTTP_AUTH_TOKEN_<host>` and `HTTP_AUTH_HEADER_<host>`, the former before the latter.
    fn authorization(&self) -> Option<String> {
        let host = http::host(self.url).ok()?;
        let secret = |name: String| {
            let value = &self.step.solver.inputs.secrets.get(&name)?.0;
            Some(String::from_utf8_lossy(value).trim().to_owned())
        };
        secret(format!("HTTP_AUTH_TOKEN_{host}"))
            .map(|token| format!("Bearer {token}"))
            .or_else(|| secret(format!("HTTP_AUTH_HEADER_{host}")))
    }

    fn save(
        &self,
        download: Download,
        claim: Claim,
        checksum: Option<&Digest>,
    ) -> Result<Record, SolveError> {
        let start = Instant::now();
        let validators = Validators::of(&download);
        let draft = self.step.solver.store.draft_layer()?;
        // The URL names the file, whatever Content-Disposition says (as BuildKit has it).
        let path = draft.fs().join(&self.name);
        let at = |source: io::Error| SolveError::Io { path: path.clone(), source };
        let mut file = File::create_new(&path).map_err(at)?;
        let modified = download.last_modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let actual = copy(download, &mut file).map_err(at)?;
        if let Some(&expected) = checksum
            && expected != actual
        {
            return Err(SolveError::Checksum { url: redacted(self.url), expected, actual });
        }
        rustix::fs::fchmod(&file, DOWNLOAD_MODE).map_err(|error| at(error.into()))?;
        // Without a date the file is from the epoch, so that every download of it is alike.
        let seconds = modified.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(0));
        let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::futimens(&file, &times).map_err(|error| at(error.into()))?;
        let name = format!("download {}", redacted(self.url));
        let cost = Cost { duration: start.elapsed(), ..Cost::default() };
        let record = NewRecord { name, cost, log: validators.encode(), ..NewRecord::default() };
        Ok(claim.commit(draft, None, record)?.record)
    }

    fn timed<T>(&self, work: impl FnOnce() -> Result<T, SolveError>) -> Result<T, SolveError> {
        super::timed(self.step, work)
    }

    fn report_cached(&self) {
        if let Some(id) = self.step.id {
            self.step.solver.reporter.cached(id);
        }
    }

    fn gone(&self) -> SolveError {
        SolveError::MissingInput { what: "download", name: redacted(self.url) }
    }
}

fn copy(mut download: Download, file: &mut File) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = download.reader.read(&mut buffer)?;
        if read == 0 {
            return Ok(Digest::from_bytes(hasher.finalize().into()));
        }
        hasher.update(&buffer[..read]);
        io::Write::write_all(file, &buffer[..read])?;
    }
}

/// What a server says to tell one version of a file from another. In a record's log: one a line, empty if not known.
#[derive(Debug, Default, PartialEq, Eq)]
struct Validators {
    etag: Option<String>,
    last_modified: Option<String>,
}

impl Validators {
    fn of(download: &Download) -> Self {
        let usable = |text: &Option<String>| {
            let text = text.as_ref().filter(|text| text.len() <= MAX_VALIDATOR_BYTES)?;
            (!text.is_empty() && !text.contains(char::is_control)).then(|| text.clone())
        };
        let age = download.last_modified.and_then(|time| time.elapsed().ok());
        let is_strong = age.is_some_and(|age| age >= STRONG_DATE_AGE);
        Self {
            etag: usable(&download.etag),
            last_modified: usable(&download.last_modified_text).filter(|_| is_strong),
        }
    }

    fn encode(&self) -> Vec<u8> {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        format!("{}\n{}\n", text(&self.etag), text(&self.last_modified)).into_bytes()
    }

    fn decode(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.lines().map(|line| Some(line.to_owned()).filter(|line| !line.is_empty()));
        Self { etag: lines.next().flatten(), last_modified: lines.next().flatten() }
    }
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

    #[test]
    fn validators_come_back_from_a_record() {
        for (etag, last_modified) in [(None, None), (Some("\"e\""), None), (None, Some("Sun, 06 Nov 1994"))] {
            let validators =
                Validators { etag: etag.map(str::to_owned), last_modified: last_modified.map(str::to_owned) };
            assert_eq!(Validators::decode(&validators.encode()), validators);
        }
    }
}
