//! Trees that steps copy from: a directory of the host's (the build context) or the merged view of layers.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use kiln_image::Digest;

/// One thing in a tree. Paths are slash-separated, relative to the tree's root, clean; the root itself is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where.
    pub path: PathBuf,
    /// What.
    pub kind: EntryKind,
    /// Permission bits, 0–07777.
    pub mode: u32,
    /// Owner; 0 for everything of a context (FEATURES CX21).
    pub uid: u32,
    /// Group; as `uid`.
    pub gid: u32,
    /// Nanoseconds since the epoch.
    pub mtime_ns: i128,
    /// Name and value, sorted; overlayfs' own left out.
    pub xattrs: Vec<(OsString, Vec<u8>)>,
    /// Device and inode of a file with several links, to keep hard links within one copy.
    pub hard_link: Option<(u64, u64)>,
}

/// The kinds of entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// With its size in bytes.
    File {
        /// Bytes.
        size: u64,
    },
    /// A directory.
    Dir,
    /// With its target as stored.
    Symlink(PathBuf),
    /// A named pipe.
    Fifo,
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
}

/// Why a tree cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// The system said no.
    #[error("{path}: {source}")]
    Io {
        /// What was touched.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// More symlinks than the kernel would follow.
    #[error("{0}: too many levels of symbolic links")]
    SymlinkLoop(PathBuf),
}

/// A read-only tree. No method leaves the root: links are resolved as if it were `/`.
pub trait SourceTree: Send + Sync + std::fmt::Debug {
    /// The entry at `path` itself, without following a link in the last component; `None` when there is none (or it is
    /// filtered out). Links in earlier components are followed within the root.
    fn entry(&self, path: &Path) -> Result<Option<Entry>, TreeError>;

    /// The path that `path` leads to when every link, the last one too, is followed within the root. Components that
    /// do not exist are kept as they are.
    fn resolve(&self, path: &Path) -> Result<PathBuf, TreeError>;

    /// The entries of directory `path` (no link), sorted by name's bytes. Sockets are left out.
    fn read_dir(&self, path: &Path) -> Result<Vec<Entry>, TreeError>;

    /// All entries below `path` (and itself first), depth first, sorted by path components' bytes; descends in parallel
    /// where it pays.
    fn walk(&self, path: &Path) -> Result<Vec<Entry>, TreeError>;

    /// Opens the regular file at `path` (no link).
    fn open(&self, path: &Path) -> Result<File, TreeError>;

    /// The digest of a regular file's bytes, from the index where nothing changed since.
    fn digest(&self, entry: &Entry) -> Result<Digest, TreeError>;

    /// The digests of many files, computed in parallel; in the order of `entries`, `None` for what is no regular file.
    fn digests(&self, entries: &[Entry]) -> Result<Vec<Option<Digest>>, TreeError>;
}

/// What a filter says of a path; see `.dockerignore`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Part of the tree.
    Keep,
    /// Not part of it, but something below may be.
    Skip,
    /// Not part of it, nor is anything below.
    Prune,
}

/// Decides what a context shows.
pub trait PathFilter: Send + Sync + std::fmt::Debug {
    /// Judges a clean, relative, slash-separated path.
    fn verdict(&self, path: &str) -> Verdict;
}

/// A directory of the host's as a build context; owners are 0:0, filtered by the ignore file's rules.
#[derive(Debug)]
pub struct ContextTree {
    _root: OwnedFd,
}

impl ContextTree {
    /// Opens the directory `root`. `index` is a file in the store that remembers files' digests between builds.
    ///
    /// # Errors
    /// When `root` is no directory that can be read.
    pub fn open(
        root: &Path,
        filter: Option<Box<dyn PathFilter>>,
        index: Option<&Path>,
    ) -> Result<Self, TreeError> {
        let _ = (root, filter, index);
        todo!()
    }
}

/// The merged view of unpacked layers in overlayfs' format, without mounting anything.
#[derive(Debug)]
pub struct LayerTree {
    _layers: Vec<OwnedFd>,
}

impl LayerTree {
    /// Opens the layers' directories, bottom first.
    ///
    /// # Errors
    /// When one cannot be opened.
    pub fn open<P: AsRef<Path>>(layers: &[P]) -> Result<Self, TreeError> {
        let _ = layers.len();
        todo!()
    }

    /// Reads a small regular file (`/etc/passwd`), links followed in the root, never blocking on a pipe or device.
    ///
    /// # Errors
    /// I/O, or a file over `limit` bytes.
    pub fn read_small(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>, TreeError> {
        let _ = (path, limit, OsStr::new(""));
        todo!()
    }
}
