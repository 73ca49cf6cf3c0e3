//! What a context's files hashed to in earlier builds, so that unchanged ones are not read again.
//!
//! A digest is used while the file's size, times, inode and device are what they were. The change time cannot be set by
//! anyone, so an edit that keeps size and modification time is seen. What cannot be seen is a second edit within one tick of
//! the clock that stamps files; therefore a digest is kept only if the file had not been touched for [`SETTLED_NS`] when
//! hashing began (git solves the same problem: "racy git"). A file edited just now is hashed again next time.
//!
//! On disk, all numbers little-endian:
//! ```text
//! magic 8 bytes · count u64
//! count times, sorted by path: path length u32 · size u64 · mtime i64 · ctime i64 · inode u64 · device u64
//!                              · idle u8 · digest 32 bytes · path
//! SHA-256 of all that, 32 bytes
//! ```
//! Whatever is wrong with the file, it counts as empty.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use kiln_image::Digest;
use rustix::fs::Stat;

use super::beneath::nanoseconds;

/// What must be equal for a digest to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    size: u64,
    mtime_ns: i64,
    ctime_ns: i64,
    inode: u64,
    device: u64,
}

impl Stamp {
    /// `None` for times that do not fit, which are never remembered.
    pub(super) fn of(stat: &Stat) -> Option<Self> {
        Some(Self {
            size: u64::try_from(stat.st_size).ok()?,
            mtime_ns: i64::try_from(nanoseconds(stat.st_mtime, stat.st_mtime_nsec)).ok()?,
            ctime_ns: i64::try_from(nanoseconds(stat.st_ctime, stat.st_ctime_nsec)).ok()?,
            inode: stat.st_ino,
            device: stat.st_dev,
        })
    }
}

/// The index of one context.
#[derive(Debug)]
pub(super) struct FileIndex {
    path: PathBuf,
    settled_ns: i64,
    stored: OnceLock<Stored>,
    session: Mutex<Session>,
}

/// What this build added and used.
#[derive(Debug, Default)]
struct Session {
    new: BTreeMap<Vec<u8>, (Stamp, Digest)>,
    /// Whether something is new since the last save.
    is_changed: bool,
    /// One flag a stored record.
    used: Vec<bool>,
}

impl FileIndex {
    /// The index at `path`; it is read when first needed.
    pub(super) fn new(path: &Path, settled_ns: i64) -> Self {
        Self { path: path.to_path_buf(), settled_ns, stored: OnceLock::new(), session: Mutex::default() }
    }

    /// The digest of the file at `path`, if it is as it was.
    pub(super) fn find(&self, path: &Path, stamp: &Stamp) -> Option<Digest> {
        let path = path.as_os_str().as_bytes();
        if let Some((known, digest)) = self.session().new.get(path) {
            return (known == stamp).then_some(*digest);
        }
        let stored = self.stored();
        let at = stored.position(path)?;
        let record = stored.record(at)?;
        if record.stamp != *stamp {
            return None;
        }
        let mut session = self.session();
        session.used.resize(stored.starts.len(), false);
        session.used[at] = true;
        Some(record.digest)
    }

    /// Remembers a digest; `hashed_at_ns` is when hashing began.
    pub(super) fn remember(&self, path: &Path, stamp: Stamp, digest: Digest, hashed_at_ns: i64) {
        let touched = stamp.mtime_ns.max(stamp.ctime_ns);
        if touched.checked_add(self.settled_ns).is_some_and(|settled| settled < hashed_at_ns) {
            let mut session = self.session();
            session.new.insert(path.as_os_str().as_bytes().to_vec(), (stamp, digest));
            session.is_changed = true;
        }
    }

    /// Writes the index if this build learned anything. Readers see the old one or the new one.
    pub(super) fn save(&self) -> std::io::Result<()> {
        let mut session = self.session();
        if !session.is_changed {
            return Ok(());
        }
        let bytes = encode(self.stored(), &session);
        let temporary = temporary_beside(&self.path);
        let written =
            std::fs::OpenOptions::new().write(true).create_new(true).open(&temporary).and_then(|mut file| {
                file.write_all(&bytes)?;
                std::fs::rename(&temporary, &self.path)
            });
        if written.is_err() {
            // Best effort: what the first error says is what the caller has to know.
            let _ = std::fs::remove_file(&temporary);
        }
        written?;
        session.is_changed = false;
        Ok(())
    }

    fn stored(&self) -> &Stored {
        self.stored.get_or_init(|| match std::fs::read(&self.path) {
            Ok(bytes) => Stored::parse(bytes).unwrap_or_else(|| {
                tracing::debug!(path = %self.path.display(), "file-hash index is damaged or of another version");
                Stored::default()
            }),
            Err(_) => Stored::default(),
        })
    }

    fn session(&self) -> MutexGuard<'_, Session> {
        // A map is whole after any panic: every change of it is one call.
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The file's bytes and where each record starts in them; nothing is copied out of them, so that tens of thousands of
/// records load in the time of reading and checking the file.
#[derive(Debug, Default)]
struct Stored {
    bytes: Vec<u8>,
    starts: Vec<usize>,
}

struct Record<'a> {
    path: &'a [u8],
    stamp: Stamp,
    idle: u8,
    digest: Digest,
}

impl Stored {
    fn parse(bytes: Vec<u8>) -> Option<Self> {
        let body = bytes.len().checked_sub(32).filter(|&body| body >= HEADER_BYTES)?;
        if bytes[..8] != MAGIC || Digest::of(&bytes[..body]).as_bytes()[..] != bytes[body..] {
            return None;
        }
        let count = usize::try_from(u64_at(&bytes, 8)?).ok()?;
        // Each record has a fixed part, so the count cannot ask for more memory than the file has.
        if count > body / FIXED_BYTES {
            return None;
        }
        let mut stored = Self { bytes, starts: Vec::with_capacity(count) };
        let mut at = HEADER_BYTES;
        for _ in 0..count {
            let end = stored.record_at(at, body)?.1;
            stored.starts.push(at);
            at = end;
        }
        (at == body).then_some(stored)
    }

    fn record(&self, index: usize) -> Option<Record<'_>> {
        Some(self.record_at(*self.starts.get(index)?, self.bytes.len())?.0)
    }

    /// The record that starts at `at`, and where the next one does.
    fn record_at(&self, at: usize, limit: usize) -> Option<(Record<'_>, usize)> {
        let fixed = self.bytes.get(at..at.checked_add(FIXED_BYTES)?)?;
        let path_length = u32::from_le_bytes(fixed[..4].try_into().ok()?);
        let end = at + FIXED_BYTES + usize::try_from(path_length).ok()?;
        if end > limit {
            return None;
        }
        let stamp = Stamp {
            size: u64_at(fixed, 4)?,
            mtime_ns: u64_at(fixed, 12)?.cast_signed(),
            ctime_ns: u64_at(fixed, 20)?.cast_signed(),
            inode: u64_at(fixed, 28)?,
            device: u64_at(fixed, 36)?,
        };
        let digest = Digest::from_bytes(fixed[45..77].try_into().ok()?);
        let path = &self.bytes[at + FIXED_BYTES..end];
        Some((Record { path, stamp, idle: fixed[44], digest }, end))
    }

    fn position(&self, path: &[u8]) -> Option<usize> {
        self.starts
            .binary_search_by(|&at| {
                self.record_at(at, self.bytes.len())
                    .map_or(std::cmp::Ordering::Less, |(record, _)| record.path.cmp(path))
            })
            .ok()
    }
}

/// The file's new bytes: what is new, and of the rest what was in use lately.
fn encode(stored: &Stored, session: &Session) -> Vec<u8> {
    let mut records: BTreeMap<&[u8], (Stamp, u8, Digest)> = BTreeMap::new();
    for index in 0..stored.starts.len() {
        let Some(record) = stored.record(index) else { continue };
        let was_used = session.used.get(index).copied().unwrap_or_default();
        let idle = if was_used { 0 } else { record.idle.saturating_add(1) };
        if idle <= MAX_IDLE {
            records.insert(record.path, (record.stamp, idle, record.digest));
        }
    }
    for (path, (stamp, digest)) in &session.new {
        records.insert(path, (*stamp, 0, *digest));
    }
    let mut bytes = Vec::with_capacity(HEADER_BYTES + records.len() * (FIXED_BYTES + 64) + 32);
    bytes.extend(MAGIC);
    bytes.extend((records.len() as u64).to_le_bytes());
    for (path, (stamp, idle, digest)) in records {
        // Paths come from the kernel, which has none near 4 GiB.
        bytes.extend(u32::try_from(path.len()).unwrap_or_default().to_le_bytes());
        bytes.extend(stamp.size.to_le_bytes());
        bytes.extend(stamp.mtime_ns.to_le_bytes());
        bytes.extend(stamp.ctime_ns.to_le_bytes());
        bytes.extend(stamp.inode.to_le_bytes());
        bytes.extend(stamp.device.to_le_bytes());
        bytes.push(idle);
        bytes.extend(digest.as_bytes());
        bytes.extend(path);
    }
    let sum = Digest::of(&bytes);
    bytes.extend(sum.as_bytes());
    bytes
}

/// Nanoseconds since the epoch, now.
pub(super) fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// A name beside `path` that nobody else uses; the store's folder is kiln's alone.
fn temporary_beside(path: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.{}.tmp", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
    PathBuf::from(name)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// How long a file must have been left alone for its digest to be kept: coarser than any file system's time stamps.
pub(super) const SETTLED_NS: i64 = 2_000_000_000;

const MAGIC: [u8; 8] = *b"kilnidx1";
const HEADER_BYTES: usize = 16;
const FIXED_BYTES: usize = 4 + 5 * 8 + 1 + 32;
/// How often the index is written without a record's use before the record goes: its file is gone, most likely.
const MAX_IDLE: u8 = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(size: u64) -> Stamp {
        Stamp { size, mtime_ns: 5, ctime_ns: 6, inode: 7, device: 8 }
    }

    #[test]
    fn what_was_saved_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let index = FileIndex::new(&path, SETTLED_NS);
        for number in 0..1000 {
            let file = PathBuf::from(format!("dir/file{number}"));
            index.remember(&file, stamp(number), Digest::of(&number.to_le_bytes()), now_ns());
        }
        index.save().unwrap();
        let again = FileIndex::new(&path, SETTLED_NS);
        for number in 0..1000_u64 {
            let file = PathBuf::from(format!("dir/file{number}"));
            assert_eq!(again.find(&file, &stamp(number)), Some(Digest::of(&number.to_le_bytes())));
            assert_eq!(again.find(&file, &stamp(number + 1)), None);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn a_file_touched_just_before_it_was_hashed_is_not_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let index = FileIndex::new(&dir.path().join("index"), SETTLED_NS);
        index.remember(Path::new("a"), stamp(1), Digest::of(b"a"), 6 + SETTLED_NS);
        assert_eq!(index.find(Path::new("a"), &stamp(1)), None);
    }

    #[test]
    fn a_damaged_index_is_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let index = FileIndex::new(&path, SETTLED_NS);
        index.remember(Path::new("a"), stamp(1), Digest::of(b"a"), now_ns());
        index.save().unwrap();
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            std::fs::write(&path, bad).unwrap();
            assert_eq!(FileIndex::new(&path, SETTLED_NS).find(Path::new("a"), &stamp(1)), None, "{at}");
            std::fs::write(&path, &good[..at]).unwrap();
            assert_eq!(FileIndex::new(&path, SETTLED_NS).find(Path::new("a"), &stamp(1)), None, "{at}");
        }
    }

    #[test]
    fn a_record_that_nobody_uses_goes_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        for round in 0..40_u64 {
            let index = FileIndex::new(&path, SETTLED_NS);
            let name = if round == 0 { "old" } else { "new" };
            index.remember(Path::new(name), stamp(round), Digest::of(b"a"), now_ns());
            index.save().unwrap();
        }
        let index = FileIndex::new(&path, SETTLED_NS);
        assert_eq!(index.find(Path::new("old"), &stamp(0)), None);
        assert!(index.find(Path::new("new"), &stamp(39)).is_some());
    }
}
