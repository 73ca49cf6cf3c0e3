//! What a context's files hashed to in earlier builds, so that unchanged ones are not read again.
//!
//! A digest is used while the file's size, times, inode and device are what they were. The change time cannot be set by
//! anyone, so an edit that keeps size and modification time is seen. What cannot be seen is a second edit within one tick of
//! the clock that stamps files; therefore a digest is kept only if the file had not been touched for [`SETTLED_NS`] when
//! hashing began (git solves the same problem: "racy git"). A file edited just now is hashed again next time.
//!
//! Setting an attribute moves the change time as well, so that a record also says whether the file has any: asking for
//! those of each file costs more than all else that an unchanged file needs.
//!
//! On disk, all numbers little-endian:
//! ```text
//! magic 8 bytes · count u64 · context's path: length u32 · bytes
//! count times, sorted by key: key length u32 · size u64 · mtime i64 · ctime i64 · inode u64 · device u64
//!                             · idle u8 · digest 32 bytes · attributes u8 · key
//! BLAKE3 of all that, 32 bytes
//! ```
//! A key is a path with NUL for each slash, so that keys sort as a walk goes: depth first. Whatever is wrong with the file, it counts as empty.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use kiln_image::Digest;
use rustix::fs::Stat;

use super::beneath::{bytes_digest, nanoseconds};

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

/// What is known of a file that is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) digest: Digest,
    /// Whether the file has attributes that layers carry.
    pub(super) has_xattrs: bool,
}

/// Where a file's record is looked for: the path as a key, and a guess at its place. Whoever looks for the files of a
/// directory in order uses one of these for all of them.
#[derive(Debug)]
pub(super) struct Finder {
    key: Vec<u8>,
    dir_length: usize,
    next: usize,
}

impl Finder {
    /// For the entries of directory `dir`.
    pub(super) fn new(dir: &Path) -> Self {
        let mut key = key_of(dir);
        if !key.is_empty() {
            key.push(0);
        }
        Self { dir_length: key.len(), key, next: usize::MAX }
    }
}

fn key_of(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().iter().map(|&byte| if byte == b'/' { 0 } else { byte }).collect()
}

/// The index of one context.
#[derive(Debug)]
pub(super) struct FileIndex {
    path: PathBuf,
    /// The context's directory.
    context: PathBuf,
    settled_ns: i64,
    stored: OnceLock<Stored>,
    session: Mutex<Session>,
    /// Whether the session has anything, so that most need not lock it.
    has_new: AtomicBool,
}

/// What this build added and used.
#[derive(Debug, Default)]
struct Session {
    new: BTreeMap<Vec<u8>, (Stamp, Known)>,
    /// Whether something is new since the last save.
    is_changed: bool,
}

impl FileIndex {
    /// The index at `path` of the directory `context`; it is read when first needed.
    pub(super) fn new(path: &Path, context: &Path, settled_ns: i64) -> Self {
        Self {
            path: path.to_path_buf(),
            context: context.to_path_buf(),
            settled_ns,
            stored: OnceLock::new(),
            session: Mutex::default(),
            has_new: AtomicBool::new(false),
        }
    }

    /// Names the context: there is one index for each.
    pub(super) fn identity(&self) -> Digest {
        Digest::of(self.path.as_os_str().as_bytes())
    }

    /// What is known of the file at `path`, if it is as it was.
    pub(super) fn find(&self, path: &Path, stamp: &Stamp) -> Option<Known> {
        let mut anywhere = usize::MAX;
        self.find_key(&key_of(path), &mut anywhere, stamp)
    }

    /// As [`FileIndex::find`], of the file `name` in the finder's directory.
    pub(super) fn find_in(&self, finder: &mut Finder, name: &OsStr, stamp: &Stamp) -> Option<Known> {
        finder.key.truncate(finder.dir_length);
        finder.key.extend_from_slice(name.as_bytes());
        self.find_key(&finder.key, &mut finder.next, stamp)
    }

    /// `next` is where the record may be, and then where the one behind it is.
    fn find_key(&self, key: &[u8], next: &mut usize, stamp: &Stamp) -> Option<Known> {
        if self.has_new.load(Ordering::Acquire)
            && let Some((then, known)) = self.session().new.get(key)
        {
            return (then == stamp).then_some(*known);
        }
        let stored = self.stored();
        let at = match stored.record(*next) {
            Some(record) if record.key == key => *next,
            _ => stored.position(key)?,
        };
        *next = at + 1;
        let record = stored.record(at)?;
        if record.stamp != *stamp {
            return None;
        }
        if let Some(used) = stored.used.get(at) {
            used.store(true, Ordering::Relaxed);
        }
        Some(record.known)
    }

    /// Remembers a file; `looked_at_ns` is when looking at it began.
    pub(super) fn remember(&self, path: &Path, stamp: Stamp, known: Known, looked_at_ns: i64) {
        let touched = stamp.mtime_ns.max(stamp.ctime_ns);
        if touched.checked_add(self.settled_ns).is_some_and(|settled| settled < looked_at_ns) {
            let mut session = self.session();
            session.new.insert(key_of(path), (stamp, known));
            session.is_changed = true;
            self.has_new.store(true, Ordering::Release);
        }
    }

    /// Writes the index if this build learned anything. Readers see the old one or the new one.
    pub(super) fn save(&self) -> std::io::Result<()> {
        let mut session = self.session();
        if !session.is_changed {
            return self.note_use();
        }
        let bytes = encode(self.context.as_os_str().as_bytes(), self.stored(), &session);
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

    /// An index that is read and never written is young all the same: its modification time says when it was used.
    fn note_use(&self) -> std::io::Result<()> {
        if self.stored.get().is_none_or(|stored| stored.starts.is_empty()) {
            return Ok(());
        }
        let age = std::fs::metadata(&self.path)?.modified()?.elapsed().unwrap_or_default();
        if age <= USE_GRAIN {
            return Ok(());
        }
        std::fs::File::options().write(true).open(&self.path)?.set_modified(SystemTime::now())
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
    /// Which records this build used.
    used: Vec<AtomicBool>,
}

struct Record<'a> {
    key: &'a [u8],
    stamp: Stamp,
    idle: u8,
    known: Known,
}

impl Stored {
    fn parse(bytes: Vec<u8>) -> Option<Self> {
        let body = bytes.len().checked_sub(32).filter(|&body| body >= HEADER_BYTES)?;
        if bytes[..8] != MAGIC || bytes_digest(&bytes[..body]).as_bytes()[..] != bytes[body..] {
            return None;
        }
        let count = usize::try_from(u64_at(&bytes, COUNT_AT)?).ok()?;
        // Each record has a fixed part, so the count cannot ask for more memory than the file has.
        if count > body / FIXED_BYTES {
            return None;
        }
        let first = context_end(&bytes)?;
        let mut stored = Self { bytes, starts: Vec::with_capacity(count), used: Vec::new() };
        stored.used.resize_with(count, AtomicBool::default);
        let mut at = first;
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
        let key_length = u32::from_le_bytes(fixed[..4].try_into().ok()?);
        let end = at + FIXED_BYTES + usize::try_from(key_length).ok()?;
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
        let known = Known { digest, has_xattrs: fixed[77] != 0 };
        let key = &self.bytes[at + FIXED_BYTES..end];
        Some((Record { key, stamp, idle: fixed[44], known }, end))
    }

    fn position(&self, key: &[u8]) -> Option<usize> {
        self.starts
            .binary_search_by(|&at| {
                self.record_at(at, self.bytes.len())
                    .map_or(std::cmp::Ordering::Less, |(record, _)| record.key.cmp(key))
            })
            .ok()
    }
}

/// The file's new bytes: what is new, and of the rest what was in use lately.
fn encode(context: &[u8], stored: &Stored, session: &Session) -> Vec<u8> {
    let added = session.new.len() * (FIXED_BYTES + 64);
    let mut bytes = Vec::with_capacity(HEADER_BYTES + context.len() + stored.bytes.len() + added + 32);
    bytes.extend(MAGIC);
    bytes.extend([0; 8]);
    bytes.extend(u32::try_from(context.len()).unwrap_or_default().to_le_bytes());
    bytes.extend(context);
    let mut count = 0_u64;
    let mut push = |record: Record<'_>| {
        count += 1;
        record.encode(&mut bytes);
    };
    // Both are sorted.
    let mut new =
        session.new.iter().map(|(key, &(stamp, known))| Record { key, stamp, idle: 0, known }).peekable();
    for index in 0..stored.starts.len() {
        let Some(record) = stored.record(index) else { continue };
        while let Some(record) = new.next_if(|new| new.key < record.key) {
            push(record);
        }
        let is_replaced = new.peek().is_some_and(|new| new.key == record.key);
        let was_used = stored.used.get(index).is_some_and(|used| used.load(Ordering::Relaxed));
        let idle = if was_used { 0 } else { record.idle.saturating_add(1) };
        if !is_replaced && idle <= MAX_IDLE {
            push(Record { idle, ..record });
        }
    }
    new.for_each(push);
    bytes[COUNT_AT..COUNT_AT + 8].copy_from_slice(&count.to_le_bytes());
    let sum = bytes_digest(&bytes);
    bytes.extend(sum.as_bytes());
    bytes
}

impl Record<'_> {
    fn encode(&self, bytes: &mut Vec<u8>) {
        // Paths come from the kernel, which has none near 4 GiB.
        bytes.extend(u32::try_from(self.key.len()).unwrap_or_default().to_le_bytes());
        bytes.extend(self.stamp.size.to_le_bytes());
        bytes.extend(self.stamp.mtime_ns.to_le_bytes());
        bytes.extend(self.stamp.ctime_ns.to_le_bytes());
        bytes.extend(self.stamp.inode.to_le_bytes());
        bytes.extend(self.stamp.device.to_le_bytes());
        bytes.push(self.idle);
        bytes.extend(self.known.digest.as_bytes());
        bytes.push(u8::from(self.known.has_xattrs));
        bytes.extend(self.key);
    }
}

/// The directory that the index at `path` is of; `None` if it is none, or cannot be read.
pub(crate) fn index_context(path: &Path) -> Option<PathBuf> {
    use std::io::Read as _;
    use std::os::unix::ffi::OsStringExt as _;
    let mut head = Vec::new();
    std::fs::File::open(path).ok()?.take(MAX_HEAD_BYTES).read_to_end(&mut head).ok()?;
    let end = context_end(&head).filter(|_| head.starts_with(&MAGIC))?;
    Some(PathBuf::from(std::ffi::OsString::from_vec(head.get(HEADER_BYTES..end)?.to_vec())))
}

/// Where the context's path ends and the records begin.
fn context_end(bytes: &[u8]) -> Option<usize> {
    let length = u32::from_le_bytes(bytes.get(HEADER_BYTES - 4..HEADER_BYTES)?.try_into().ok()?);
    HEADER_BYTES.checked_add(usize::try_from(length).ok()?)
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

const MAGIC: [u8; 8] = *b"kilnidx5";
const COUNT_AT: usize = 8;
const HEADER_BYTES: usize = 8 + 8 + 4;
/// The kernel's longest path, and what stands before it.
const MAX_HEAD_BYTES: u64 = 4096 + HEADER_BYTES as u64;
/// A day: garbage collection asks for no more.
const USE_GRAIN: std::time::Duration = std::time::Duration::from_secs(24 * 3600);
const FIXED_BYTES: usize = 4 + 5 * 8 + 1 + 32 + 1;
/// How often the index is written without a record's use before the record goes: its file is gone, most likely.
const MAX_IDLE: u8 = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(size: u64) -> Stamp {
        Stamp { size, mtime_ns: 5, ctime_ns: 6, inode: 7, device: 8 }
    }

    fn known(bytes: &[u8]) -> Known {
        Known { digest: Digest::of(bytes), has_xattrs: bytes.len() > 1 }
    }

    #[test]
    fn what_was_saved_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let index = FileIndex::new(&path, Path::new("/context"), SETTLED_NS);
        for number in 0..1000 {
            let file = PathBuf::from(format!("dir/file{number}"));
            index.remember(&file, stamp(number), known(&number.to_le_bytes()), now_ns());
        }
        index.save().unwrap();
        let again = FileIndex::new(&path, Path::new("/context"), SETTLED_NS);
        for number in 0..1000_u64 {
            let file = PathBuf::from(format!("dir/file{number}"));
            assert_eq!(again.find(&file, &stamp(number)), Some(known(&number.to_le_bytes())));
            assert_eq!(again.find(&file, &stamp(number + 1)), None);
        }
        let mut finder = Finder::new(Path::new("dir"));
        for number in [5, 50, 500, 501_u64, 5] {
            let name = format!("file{number}");
            let found = again.find_in(&mut finder, OsStr::new(&name), &stamp(number));
            assert_eq!(found, Some(known(&number.to_le_bytes())), "{name}");
        }
        assert_eq!(again.find_in(&mut finder, OsStr::new("file"), &stamp(0)), None);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn what_is_new_takes_its_place_among_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        // Before, between, instead of and behind what is there; a directory's name sorts before those that go on with it.
        for (round, names) in [["b", "d/x", "d-"], ["a", "b", "d"], ["c", "d/x", "e"]].iter().enumerate() {
            let index = FileIndex::new(&path, Path::new("/context"), SETTLED_NS);
            for name in names {
                index.remember(Path::new(name), stamp(round as u64), known(name.as_bytes()), now_ns());
            }
            index.save().unwrap();
        }
        let index = FileIndex::new(&path, Path::new("/context"), SETTLED_NS);
        let expected = [("a", 1), ("b", 1), ("c", 2), ("d", 1), ("d/x", 2), ("d-", 0), ("e", 2)];
        for (name, round) in expected {
            assert_eq!(index.find(Path::new(name), &stamp(round)), Some(known(name.as_bytes())), "{name}");
        }
        assert_eq!(index.stored().starts.len(), expected.len());
    }

    #[test]
    fn a_file_touched_just_before_it_was_hashed_is_not_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let index = FileIndex::new(&dir.path().join("index"), Path::new("/context"), SETTLED_NS);
        index.remember(Path::new("a"), stamp(1), known(b"a"), 6 + SETTLED_NS);
        assert_eq!(index.find(Path::new("a"), &stamp(1)), None);
    }

    #[test]
    fn a_damaged_index_is_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let index = FileIndex::new(&path, Path::new("/context"), SETTLED_NS);
        index.remember(Path::new("a"), stamp(1), known(b"a"), now_ns());
        index.save().unwrap();
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            std::fs::write(&path, bad).unwrap();
            assert_eq!(
                FileIndex::new(&path, Path::new("/context"), SETTLED_NS).find(Path::new("a"), &stamp(1)),
                None,
                "{at}"
            );
            std::fs::write(&path, &good[..at]).unwrap();
            assert_eq!(
                FileIndex::new(&path, Path::new("/context"), SETTLED_NS).find(Path::new("a"), &stamp(1)),
                None,
                "{at}"
            );
        }
    }

    #[test]
    fn a_record_that_nobody_uses_goes_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        for round in 0..40_u64 {
            let index = FileIndex::new(&path, Path::new("/context"), SETTLED_NS);
            let name = if round == 0 { "old" } else { "new" };
            index.remember(Path::new(name), stamp(round), known(b"a"), now_ns());
            index.save().unwrap();
        }
        let index = FileIndex::new(&path, Path::new("/context"), SETTLED_NS);
        assert_eq!(index.find(Path::new("old"), &stamp(0)), None);
        assert!(index.find(Path::new("new"), &stamp(39)).is_some());
    }
}
