//! The DiffId of a layer that is listed: its entries are known before its files are in place, or without asking for them
//! once more.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use sha2::digest::common::hazmat::{SerializableState, SerializedState};
use sha2::{Digest as _, Sha256};
use tar::EntryType;

use super::digest_stream::Fed;
use super::tar_writer::{TarEntry, write_rest_of_tar};
use super::{At as _, LayerError, Packed, WHITEOUT_OPAQUE, WHITEOUT_PREFIX, shown};

/// One entry of a layer.
#[derive(Clone, Debug)]
pub struct ListedEntry {
    /// From the layer's root, which itself is not listed.
    pub path: PathBuf,
    /// What it is.
    pub kind: ListedKind,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since the epoch.
    pub mtime: i64,
    /// Of files and directories: name and value, sorted; an owner may be [noted](super::owner) there.
    pub xattrs: Vec<(OsString, Vec<u8>)>,
}

/// What an entry is.
#[derive(Clone, Debug)]
pub enum ListedKind {
    /// A directory.
    Dir,
    /// A file of so many bytes.
    File(u64),
    /// A symbolic link and what it says.
    Symlink(PathBuf),
    /// A further name of what was listed before.
    HardLink(PathBuf),
    /// A named pipe.
    Fifo,
    /// A device, with its major and minor number.
    CharDevice(u32, u32),
    /// As before.
    BlockDevice(u32, u32),
    /// The entry's path is gone.
    Whiteout,
    /// The entry's path is a directory, listed just before or the root, that hides what layers below have in it.
    Opaque,
}

/// The files of a list, which may still be written while they are read.
pub trait ListedFiles {
    /// The file of the entry with this number, as soon as it is there. Asked for files that have bytes only.
    ///
    /// # Errors
    /// It will never be there.
    fn open(&mut self, number: usize, entry: &ListedEntry) -> io::Result<File>;

    /// How many of its bytes are in place, as soon as they are more than `read`.
    ///
    /// # Errors
    /// They will never be.
    fn in_place(&mut self, number: usize, read: u64) -> io::Result<u64>;

    /// The bytes of the entry's file, if they are at hand: it is not opened then.
    fn bytes(&self, _number: usize) -> Option<&[u8]> {
        None
    }

    /// Where the bytes of the entry's file come from, if somebody feeds them: it is not opened then.
    fn fed(&self, _number: usize) -> Option<&Fed> {
        None
    }
}

/// The first part of a list's tar: how many entries and bytes it has, and SHA-256 of it, not finished.
#[derive(Clone)]
pub struct TarPrefix {
    /// How many of the list's entries.
    pub entries: usize,
    /// Bytes of them in the tar.
    pub bytes: u64,
    hash: Sha256,
}

/// Bytes of [`TarPrefix::hash_state`].
pub const HASH_STATE_BYTES: usize = size_of::<SerializedState<Sha256>>();

impl TarPrefix {
    /// The hash's state.
    pub fn hash_state(&self) -> [u8; HASH_STATE_BYTES] {
        let mut state = [0; HASH_STATE_BYTES];
        state.copy_from_slice(&self.hash.serialize());
        state
    }

    /// From what was kept of one; `None` if that is no state of a hash.
    pub fn new(entries: usize, bytes: u64, hash_state: &[u8; HASH_STATE_BYTES]) -> Option<Self> {
        let state: SerializedState<Sha256> = (*hash_state).into();
        Some(Self { entries, bytes, hash: Sha256::deserialize(&state).ok()? })
    }
}

impl std::fmt::Debug for TarPrefix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TarPrefix")
            .field("entries", &self.entries)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

/// The DiffId and size of the tar that [`pack`](super::pack) would write of these entries, which come in its order: sorted
/// by their paths' components. Of the entries that `known` has, nothing is read. Returned are also the parts of the tar, about
/// [`MARK_BYTES`] apart, that another list may begin with.
///
/// # Errors
/// Those of `files` and of reading; a name that is reserved for whiteouts.
pub fn digest_listed(
    entries: &[ListedEntry],
    known: Option<&TarPrefix>,
    files: &mut dyn ListedFiles,
) -> Result<(Packed, Vec<TarPrefix>), LayerError> {
    let (first, before, hash) = match known {
        Some(known) => (known.entries, known.bytes, known.hash.clone()),
        None => (0, 0, Sha256::new()),
    };
    let mut places: Vec<(usize, u64)> = Vec::new();
    let (rest, states) = write_rest_of_tar(hash, &mut io::sink(), |tar| {
        let mut since = 0;
        for (number, entry) in entries.iter().enumerate().skip(first) {
            let record = record_of(entry)?;
            let size = record.size;
            match files.bytes(number).filter(|bytes| bytes.len() as u64 == size) {
                Some(bytes) => tar.bytes(record, bytes)?,
                None => {
                    tar.entry(record)?;
                    let path = entry.path.as_os_str().as_encoded_bytes();
                    match files.fed(number) {
                        _ if size == 0 => {}
                        Some(fed) => tar.fed(fed, size, path)?,
                        None => {
                            let file = files.open(number, entry).at(path)?;
                            tar.contents(&file, size, path, &mut |read| files.in_place(number, read))?;
                        }
                    }
                }
            }
            since += HEADER_BYTES + size;
            if since >= MARK_BYTES && places.len() < MAX_MARKS {
                since = 0;
                places.push((number + 1, before + tar.mark()?));
            }
        }
        Ok(())
    })?;
    let prefixes = places.into_iter().zip(states);
    let prefixes = prefixes.map(|((entries, bytes), hash)| TarPrefix { entries, bytes, hash }).collect();
    Ok((Packed { size_bytes: before + rest.size_bytes, ..rest }, prefixes))
}

/// The entry as [`pack`](super::pack) writes it.
fn record_of(entry: &ListedEntry) -> Result<TarEntry, LayerError> {
    let path = entry.path.clone().into_os_string().into_vec();
    let name = entry.path.file_name().unwrap_or_default();
    if name.as_encoded_bytes().starts_with(WHITEOUT_PREFIX) {
        return Err(LayerError::ReservedName(shown(&path)));
    }
    let in_dir = |dir: &Path, name: &[u8]| {
        TarEntry::new(dir.join(OsStr::from_bytes(name)).into_os_string().into_vec())
    };
    match entry.kind {
        ListedKind::Whiteout => {
            let dir = entry.path.parent().unwrap_or(Path::new(""));
            return Ok(in_dir(dir, &[WHITEOUT_PREFIX, name.as_encoded_bytes()].concat()));
        }
        ListedKind::Opaque => return Ok(in_dir(&entry.path, WHITEOUT_OPAQUE)),
        _ => {}
    }
    let mut record = TarEntry {
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        mtime: entry.mtime,
        ..TarEntry::new(path)
    };
    record.take_xattrs(entry.xattrs.clone());
    match &entry.kind {
        ListedKind::Dir => {
            record.kind = EntryType::Directory;
            record.path.push(b'/');
        }
        ListedKind::File(size) => record.size = *size,
        ListedKind::Symlink(target) => {
            record.kind = EntryType::Symlink;
            // The kernel's, whoever made it.
            record.mode = 0o777;
            record.link = target.clone().into_os_string().into_vec();
        }
        ListedKind::HardLink(first) => {
            record.kind = EntryType::Link;
            record.link = first.clone().into_os_string().into_vec();
        }
        ListedKind::Fifo => record.kind = EntryType::Fifo,
        ListedKind::CharDevice(major, minor) => {
            (record.kind, record.device) = (EntryType::Char, (*major, *minor));
        }
        ListedKind::BlockDevice(major, minor) => {
            (record.kind, record.device) = (EntryType::Block, (*major, *minor));
        }
        ListedKind::Whiteout | ListedKind::Opaque => {}
    }
    Ok(record)
}

/// How far the parts of a tar that are kept are apart, in bytes.
pub const MARK_BYTES: u64 = 4 << 20;
/// More are not kept: by then reading takes longer than anything.
const MAX_MARKS: usize = 4096;
/// Of an entry, at least.
const HEADER_BYTES: u64 = 512;

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek as _, Write as _};

    /// Every file has bytes of its number; those below `from` must not be asked for.
    struct Numbered {
        from: usize,
    }

    impl ListedFiles for Numbered {
        fn open(&mut self, number: usize, entry: &ListedEntry) -> io::Result<File> {
            assert!(number >= self.from, "{number}");
            let ListedKind::File(size) = entry.kind else { panic!("{entry:?}") };
            let mut file = tempfile::tempfile()?;
            file.write_all(&vec![number as u8; size as usize])?;
            file.rewind()?;
            Ok(file)
        }

        fn in_place(&mut self, _: usize, _: u64) -> io::Result<u64> {
            Ok(u64::MAX)
        }
    }

    #[test]
    fn hashing_begins_again_behind_any_part_that_is_known() {
        let entry = |number: u64| ListedEntry {
            path: format!("f{number:03}").into(),
            kind: if number.is_multiple_of(7) { ListedKind::Dir } else { ListedKind::File(number * 9000) },
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: 1,
            xattrs: Vec::new(),
        };
        let entries: Vec<ListedEntry> = (0..60).map(entry).collect();
        let (whole, prefixes) = digest_listed(&entries, None, &mut Numbered { from: 0 }).unwrap();
        assert!(prefixes.len() >= 2, "{prefixes:?}");
        for prefix in &prefixes {
            let kept = TarPrefix::new(prefix.entries, prefix.bytes, &prefix.hash_state()).unwrap();
            let (again, later) =
                digest_listed(&entries, Some(&kept), &mut Numbered { from: prefix.entries }).unwrap();
            assert_eq!((again.diff_id, again.size_bytes), (whole.diff_id, whole.size_bytes));
            assert!(later.iter().all(|later| later.entries > prefix.entries));
        }
    }
}
