//! Trees that steps copy from: a directory of the host's (the build context) or the merged view of layers.

mod beneath;
mod context;
mod file_index;
mod layers;
mod resolve;

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};

use kiln_image::Digest;
use rayon::prelude::*;

pub(crate) use beneath::{
    has_opaque_mark, hash_file, list_dir, open_beneath, open_file, open_root, stat_at, stat_entry,
};
pub use context::ContextTree;
pub use layers::LayerTree;

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
    /// Name and value, sorted: those that layers carry ([`kiln_image::layer::is_portable_xattr`]).
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
    /// A pipe, device or directory where a file's bytes are wanted.
    #[error("{0}: not a regular file")]
    NotAFile(PathBuf),
    /// More bytes than the reader takes.
    #[error("{path}: more than {limit} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit.
        limit: u64,
    },
}

/// Adds the path to an I/O error.
pub(crate) trait At<T> {
    /// Names what was touched.
    fn at(self, path: &Path) -> Result<T, TreeError>;
}

impl<T, E: Into<std::io::Error>> At<T> for Result<T, E> {
    fn at(self, path: &Path) -> Result<T, TreeError> {
        self.map_err(|source| TreeError::Io { path: path.to_path_buf(), source: source.into() })
    }
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

/// The path as entries carry it: relative, without `.` or empty components; `..` is kept for the resolution.
fn clean(path: &Path) -> PathBuf {
    path.components()
        .filter(|part| matches!(part, std::path::Component::Normal(_) | std::path::Component::ParentDir))
        .collect()
}

/// The digests of `entries`, on the current rayon pool.
fn digests_in_parallel(tree: &dyn SourceTree, entries: &[Entry]) -> Result<Vec<Option<Digest>>, TreeError> {
    entries
        .par_iter()
        .map(|entry| match entry.kind {
            EntryKind::File { .. } => tree.digest(entry).map(Some),
            _ => Ok(None),
        })
        .collect()
}
