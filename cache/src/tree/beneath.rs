//! Reading beneath a directory descriptor: no path ever meets the host's root, and no link is followed by the kernel. Links
//! are resolved by `resolve`, which knows what the tree shows; a link that appears in between is an error.

use std::cell::RefCell;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use blake3::hazmat::{
    ChainingValue, HasherExt as _, Mode as HashMode, left_subtree_len, merge_subtrees_non_root,
    merge_subtrees_root,
};
use kiln_image::Digest;
use kiln_image::layer::{OverlayXattrs, is_portable_xattr, next_data, unnoted};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags, Stat};
use rustix::io::Errno;

use super::{At as _, Entry, EntryKind, TreeError};
use crate::space::Space;
use crate::spread;

/// Opens a tree's root.
pub(crate) fn open_root(path: &Path) -> Result<OwnedFd, TreeError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).at(path)
}

/// Opens what is at the clean relative `path` (empty: the root itself) without following any link.
pub(crate) fn open_beneath(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, path, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// Opens the regular file at `path`; a pipe or device is refused without waiting for it.
pub(crate) fn open_file(root: BorrowedFd<'_>, path: &Path) -> Result<File, TreeError> {
    Ok(as_file(unnoted(|more| open_beneath(root, path, FILE_FLAGS | more)), path)?.0)
}

/// As [`open_file`], of the file `name` of `dir`, which is at `path`, with its properties.
pub(crate) fn open_file_at(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    path: &Path,
) -> Result<(File, Stat), TreeError> {
    let flags = FILE_FLAGS | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    as_file(unnoted(|more| rustix::fs::openat(dir, name, flags | more, Mode::empty())), path)
}

/// NONBLOCK: opening a pipe that nobody writes to would wait for ever (THREATS A14, D7).
const FILE_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

fn as_file(opened: rustix::io::Result<OwnedFd>, path: &Path) -> Result<(File, Stat), TreeError> {
    let file = match opened {
        Err(Errno::LOOP | Errno::NXIO) => return Err(TreeError::NotAFile(path.to_path_buf())),
        result => result.at(path)?,
    };
    let stat = rustix::fs::fstat(&file).at(path)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok((File::from(file), stat)),
        _ => Err(TreeError::NotAFile(path.to_path_buf())),
    }
}

/// Opens files directory by directory: the path down to each directory is gone once.
pub(crate) struct FileOpener<'a> {
    root: BorrowedFd<'a>,
    parent: Option<(PathBuf, OwnedFd)>,
}

impl<'a> FileOpener<'a> {
    pub(crate) fn new(root: BorrowedFd<'a>) -> Self {
        Self { root, parent: None }
    }

    /// As [`open_file`], with the file's properties.
    pub(crate) fn open(&mut self, path: &Path) -> Result<(File, Stat), TreeError> {
        let (dir, name) = self.parent_of(path)?;
        open_file_at(dir, name, path)
    }

    /// The directory that `path` is in, and its name there.
    pub(crate) fn parent_of<'p>(&mut self, path: &'p Path) -> Result<(BorrowedFd<'_>, &'p OsStr), TreeError> {
        let parent = path.parent().unwrap_or(Path::new(""));
        let known = match self.parent.take().filter(|(known, _)| known == parent) {
            Some(known) => known,
            None => {
                let dir = open_beneath(self.root, parent, OFlags::PATH | OFlags::DIRECTORY).at(parent)?;
                (parent.to_path_buf(), dir)
            }
        };
        Ok((self.parent.insert(known).1.as_fd(), path.file_name().unwrap_or_default()))
    }
}

/// The names in a directory that was just opened, sorted by their bytes.
pub(crate) fn list_dir(dir: BorrowedFd<'_>, path: &Path) -> Result<Vec<OsString>, TreeError> {
    let mut names = Vec::new();
    each_name(dir, path, |name, _| names.push(OsString::from_vec(name.to_vec())))?;
    names.sort_unstable();
    Ok(names)
}

/// Calls `see` with each name in a directory that was just opened, in any order, and with what it names as far as that is
/// told with the names.
pub(crate) fn each_name(
    dir: BorrowedFd<'_>,
    path: &Path,
    mut see: impl FnMut(&[u8], FileType),
) -> Result<(), TreeError> {
    // Not on the stack, where all of its pages would be touched.
    let mut buffer = Vec::with_capacity(LIST_BUFFER_BYTES);
    let mut entries = RawDir::new(dir, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry.at(path)?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            see(name, entry.file_type());
        }
    }
    Ok(())
}

/// The properties of `name` in `dir`; `None` when there is none.
pub(crate) fn stat_at(dir: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<Option<Stat>> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The entry `name` of `dir`, as `path`; an empty name is `dir` itself. `None` for sockets, which no image holds.
pub(crate) fn stat_entry(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    path: PathBuf,
    stat: &Stat,
) -> Result<Option<Entry>, TreeError> {
    Ok(stat_marked(dir, name, path, stat)?.map(|(entry, _)| entry))
}

/// As [`stat_entry`], and whether it is an opaque directory.
pub(crate) fn stat_marked(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    path: PathBuf,
    stat: &Stat,
) -> Result<Option<(Entry, bool)>, TreeError> {
    let Some(mut entry) = stat_entry_but_xattrs(dir, name, path, stat)? else { return Ok(None) };
    // The kernel allows users' attributes and capabilities on files and directories only.
    if !matches!(entry.kind, EntryKind::File { .. } | EntryKind::Dir) {
        return Ok(Some((entry, false)));
    }
    let xattrs = Xattrs::of(dir, name).at(&entry.path)?;
    entry.xattrs = xattrs.portable().at(&entry.path)?;
    if let Some((uid, gid)) = kiln_image::layer::owner::take_noted(&mut entry.xattrs) {
        (entry.uid, entry.gid) = (uid, gid);
    }
    let is_opaque = entry.kind == EntryKind::Dir && xattrs.have_opaque_mark().at(&entry.path)?;
    Ok(Some((entry, is_opaque)))
}

/// As [`stat_entry`], without asking for attributes.
pub(super) fn stat_entry_but_xattrs(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    path: PathBuf,
    stat: &Stat,
) -> Result<Option<Entry>, TreeError> {
    let device = || (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => return Ok(Some(file_entry(path, stat))),
        FileType::Directory => EntryKind::Dir,
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(dir, name, Vec::new()).at(&path)?;
            EntryKind::Symlink(PathBuf::from(OsString::from_vec(target.into_bytes())))
        }
        FileType::Fifo => EntryKind::Fifo,
        FileType::CharacterDevice => {
            let (major, minor) = device();
            EntryKind::CharDevice { major, minor }
        }
        FileType::BlockDevice => {
            let (major, minor) = device();
            EntryKind::BlockDevice { major, minor }
        }
        _ => return Ok(None),
    };
    Ok(Some(entry_of_kind(kind, path, stat)))
}

/// The entry of a regular file, without its attributes.
pub(crate) fn file_entry(path: PathBuf, stat: &Stat) -> Entry {
    let size = u64::try_from(stat.st_size).unwrap_or_default();
    entry_of_kind(EntryKind::File { size }, path, stat)
}

fn entry_of_kind(kind: EntryKind, path: PathBuf, stat: &Stat) -> Entry {
    let hard_link = (kind != EntryKind::Dir && stat.st_nlink > 1).then_some((stat.st_dev, stat.st_ino));
    Entry {
        path,
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime_ns: nanoseconds(stat.st_mtime, stat.st_mtime_nsec),
        xattrs: Vec::new(),
        hard_link,
        digest: None,
    }
}

/// A time of `stat(2)` as one number.
pub(crate) fn nanoseconds(seconds: i64, nanoseconds: impl TryInto<i128>) -> i128 {
    i128::from(seconds) * 1_000_000_000 + nanoseconds.try_into().unwrap_or_default()
}

/// The digest of a file's bytes as trees have it: BLAKE3, since it never leaves the store. It is several times as fast as
/// SHA-256, most of all where the processor has no instructions for that.
pub fn bytes_digest(bytes: &[u8]) -> Digest {
    Digest::from_bytes(*blake3::hash(bytes).as_bytes())
}

/// A [`bytes_digest`] of bytes that come one after the other.
#[derive(Clone, Debug, Default)]
pub struct BytesHasher(blake3::Hasher);

impl BytesHasher {
    /// Adds what comes next.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all that was added.
    pub fn finish(&self) -> Digest {
        Digest::from_bytes(*self.0.finalize().as_bytes())
    }
}

/// A file as [`hash_file`] found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileHash {
    /// The [`bytes_digest`].
    pub(crate) digest: Digest,
    pub(crate) size_bytes: u64,
    /// Bytes of disk.
    pub(crate) disk_bytes: u64,
}

impl FileHash {
    pub(crate) fn new(digest: Digest, size_bytes: u64, stat: &Stat) -> Self {
        let blocks = u64::try_from(stat.st_blocks).unwrap_or_default();
        let disk_bytes = Space::of_file(size_bytes).min(Space::of_blocks(blocks));
        Self { digest, size_bytes, disk_bytes }
    }
}

/// Hashes a file that was just opened. A large one is read and hashed on all processors, and holes are not read.
pub(crate) fn hash_file(file: &File) -> std::io::Result<FileHash> {
    hash_file_of(file, &rustix::fs::fstat(file)?)
}

/// As [`hash_file`], of one whose properties are known.
pub(crate) fn hash_file_of(file: &File, stat: &Stat) -> std::io::Result<FileHash> {
    let size = u64::try_from(stat.st_size).unwrap_or_default();
    let is_large = size >= PARALLEL_HASH_BYTES;
    let (digest, size_bytes) = match spread(is_large, || Ok(None), || hash_in_parallel(file, size))? {
        Some(digest) => (digest, size),
        None => {
            if is_large {
                rustix::fs::seek(file, rustix::fs::SeekFrom::Start(0))?;
            }
            hash_to_the_end(file)?
        }
    };
    Ok(FileHash::new(digest, size_bytes, stat))
}

/// All bytes of a file that was just opened, with one read(2); `None` if it has not `size` bytes or does not give them at
/// once.
pub(crate) fn read_at_once(file: &File, size: usize) -> std::io::Result<Option<Vec<u8>>> {
    // One byte more says that there is none.
    let mut bytes = Vec::with_capacity(size + 1);
    let read =
        rustix::io::retry_on_intr(|| rustix::io::read(file, rustix::buffer::spare_capacity(&mut bytes)))?;
    if read == size {
        return Ok(Some(bytes));
    }
    rustix::fs::seek(file, rustix::fs::SeekFrom::Start(0))?;
    Ok(None)
}

fn hash_to_the_end(mut file: &File) -> std::io::Result<(Digest, u64)> {
    with_hash_buffer(|buffer| {
        let mut hash = blake3::Hasher::new();
        let mut size = 0;
        loop {
            match file.read(buffer) {
                Ok(0) => return Ok((Digest::from_bytes(*hash.finalize().as_bytes()), size)),
                Ok(length) => {
                    hash.update(&buffer[..length]);
                    size += length as u64;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    })
}

/// The digest of a file of `size` bytes; `None` if it has another size by now.
fn hash_in_parallel(file: &File, size: u64) -> std::io::Result<Option<Digest>> {
    let left = left_subtree_len(size);
    let halves = rayon::join(|| hash_subtree(file, 0, left), || hash_subtree(file, left, size - left));
    let digest = match halves {
        (Ok(left), Ok(right)) => merge_subtrees_root(&left, &right, HashMode::Hash),
        (Err(error), _) | (_, Err(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            return Ok(None);
        }
        (Err(error), _) | (_, Err(error)) => return Err(error),
    };
    let has_size = u64::try_from(rustix::fs::fstat(file)?.st_size) == Ok(size);
    Ok(has_size.then(|| Digest::from_bytes(*digest.as_bytes())))
}

/// The chaining value of the subtree of `length` bytes from `offset` on (BLAKE3, section 2.1).
fn hash_subtree(file: &File, offset: u64, length: u64) -> std::io::Result<ChainingValue> {
    if length > PARALLEL_HASH_BYTES {
        let left = left_subtree_len(length);
        let (left, right) = rayon::join(
            || hash_subtree(file, offset, left),
            || hash_subtree(file, offset + left, length - left),
        );
        return Ok(merge_subtrees_non_root(&left?, &right?, HashMode::Hash));
    }
    with_hash_buffer(|buffer| {
        let mut hash = blake3::Hasher::new();
        hash.set_input_offset(offset);
        let (mut at, end, mut data) = (offset, offset + length, offset..offset);
        while at < end {
            if data.end <= at {
                data = next_data(file, at..end)?;
            }
            let until = if at < data.start { data.start } else { data.end };
            let piece = &mut buffer[..(until - at).min(HASH_BUFFER_BYTES as u64) as usize];
            if at < data.start {
                piece.fill(0);
            } else {
                file.read_exact_at(piece, at)?;
            }
            hash.update(piece);
            at += piece.len() as u64;
        }
        Ok(hash.finalize_non_root())
    })
}

fn with_hash_buffer<T>(read: impl FnOnce(&mut [u8]) -> T) -> T {
    thread_local! {
        // Asking for and clearing so much memory for each of thousands of small files costs more than hashing them.
        static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    BUFFER.with_borrow_mut(|buffer| {
        buffer.resize(HASH_BUFFER_BYTES, 0);
        read(buffer)
    })
}

/// Whether the directory `name` of `dir` (empty: `dir` itself) is opaque to the overlayfs that this process mounts. Of the
/// mark's two spellings the other one is nothing but an attribute, which steps can set (THREATS B6).
pub(crate) fn has_opaque_mark(dir: BorrowedFd<'_>, name: &OsStr) -> Result<bool, Errno> {
    Xattrs::of(dir, name)?.have_opaque_mark()
}

/// The attributes of `name` in `dir` that layers carry, sorted.
pub(crate) fn portable_xattrs(dir: BorrowedFd<'_>, name: &OsStr) -> Result<Vec<(OsString, Vec<u8>)>, Errno> {
    Xattrs::of(dir, name)?.portable()
}

/// What attributes something has: listed once, as most have none, and read where they are wanted.
struct Xattrs {
    path: CString,
    /// Each ends with a zero byte.
    names: Vec<u8>,
}

impl Xattrs {
    /// Those of `name` in `dir`; an empty name is `dir` itself.
    fn of(dir: BorrowedFd<'_>, name: &OsStr) -> Result<Self, Errno> {
        let path = by_descriptor(dir, name)?;
        let mut names = [0_u8; 512];
        let names = match rustix::fs::llistxattr(&path, &mut names) {
            Ok(length) => names[..length].to_vec(),
            Err(Errno::NOTSUP) => Vec::new(),
            Err(Errno::RANGE) => {
                let mut names = vec![0; MAX_XATTR_BYTES];
                let length = rustix::fs::llistxattr(&path, names.as_mut_slice())?;
                names.truncate(length);
                names
            }
            Err(error) => return Err(error),
        };
        Ok(Self { path, names })
    }

    fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.names.split(|&byte| byte == 0)
    }

    fn portable(&self) -> Result<Vec<(OsString, Vec<u8>)>, Errno> {
        let mut xattrs = Vec::new();
        for name in self.names().filter(|name| is_portable_xattr(name)) {
            let mut value = vec![0; MAX_XATTR_BYTES];
            let length = rustix::fs::lgetxattr(&self.path, name, value.as_mut_slice())?;
            xattrs.push((OsString::from_vec(name.to_vec()), value[..length].to_vec()));
        }
        xattrs.sort();
        Ok(xattrs)
    }

    fn have_opaque_mark(&self) -> Result<bool, Errno> {
        static MARK: LazyLock<&str> = LazyLock::new(|| OverlayXattrs::of_this_process().opaque());
        if !self.names().any(|name| name == MARK.as_bytes()) {
            return Ok(false);
        }
        let mut value = [0; 1];
        match rustix::fs::lgetxattr(&self.path, *MARK, &mut value) {
            Ok(1) => Ok(value == *b"y"),
            Ok(_) | Err(Errno::NODATA | Errno::NOTSUP | Errno::RANGE) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Whether an open file may have attributes that layers carry: much sooner known than which, by its name.
pub(crate) fn has_portable_xattrs(file: &File) -> Result<bool, Errno> {
    let mut names = [0_u8; 512];
    match rustix::fs::flistxattr(file, &mut names) {
        Ok(length) => Ok(names[..length].split(|&b| b == 0).any(is_portable_xattr)),
        Err(Errno::NOTSUP) => Ok(false),
        // Too many to look through here.
        Err(Errno::RANGE) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Attributes can be asked for by path or by a descriptor open for reading only, and opening a file can have effects: the
/// directory's name in /proc pins it, and the last component is not followed by the `l` calls.
fn by_descriptor(dir: BorrowedFd<'_>, name: &OsStr) -> Result<CString, Errno> {
    let mut path = format!("/proc/self/fd/{}/", dir.as_fd().as_raw_fd()).into_bytes();
    path.extend_from_slice(if name.is_empty() { b"." } else { name.as_bytes() });
    CString::new(path).map_err(|_| Errno::INVAL)
}

/// The kernel's own limits for a list of names and for a value (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const MAX_XATTR_BYTES: usize = 64 * 1024;
const HASH_BUFFER_BYTES: usize = 128 * 1024;
/// A thousand names at once; what does not fit comes with further calls.
const LIST_BUFFER_BYTES: usize = 32 * 1024;
/// Files from this size on are hashed in parallel, and in pieces of at most this size.
const PARALLEL_HASH_BYTES: u64 = 4 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, Write as _};

    use super::*;

    #[test]
    fn a_file_of_any_size_has_the_digest_of_its_bytes() {
        let bytes: Vec<u8> = (0..3 * PARALLEL_HASH_BYTES + 5000).map(|i| ((i * i) >> 7) as u8).collect();
        let pieces = PARALLEL_HASH_BYTES as usize;
        for size in [0, 1, pieces - 1, pieces, pieces + 1, 2 * pieces, 2 * pieces + 1024, 3 * pieces + 4999] {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&bytes[..size]).unwrap();
            file.rewind().unwrap();
            let found = hash_file(&file).unwrap();
            assert_eq!(
                (found.digest, found.size_bytes),
                (bytes_digest(&bytes[..size]), size as u64),
                "{size}"
            );
        }
    }

    #[test]
    fn a_sparse_file_has_the_digest_of_its_bytes_and_takes_the_disk_of_its_data() {
        let file = tempfile::tempfile().unwrap();
        let mut bytes = vec![0; 3 * PARALLEL_HASH_BYTES as usize + 17];
        for at in [0, 5_000_000, PARALLEL_HASH_BYTES as usize * 2 - 1] {
            bytes[at..at + 9000].fill(b'x');
            file.write_all_at(&[b'x'; 9000], at as u64).unwrap();
        }
        file.set_len(bytes.len() as u64).unwrap();
        let found = hash_file(&file).unwrap();
        assert_eq!((found.digest, found.size_bytes), (bytes_digest(&bytes), bytes.len() as u64));
        assert!(found.disk_bytes < 100_000, "{}", found.disk_bytes);
    }

    #[test]
    fn a_file_that_changes_its_size_meanwhile_is_hashed_to_its_end() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(2 * PARALLEL_HASH_BYTES).unwrap();
        for size in [2 * PARALLEL_HASH_BYTES - 1, 2 * PARALLEL_HASH_BYTES + 1, 9 * PARALLEL_HASH_BYTES] {
            assert_eq!(hash_in_parallel(&file, size).unwrap(), None, "{size}");
        }
        assert!(hash_in_parallel(&file, 2 * PARALLEL_HASH_BYTES).unwrap().is_some());
    }
}
