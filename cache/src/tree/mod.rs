//! Trees that steps copy from: a directory of the host's (the build context) or the merged view of layers.

mod beneath;
mod context;
mod file_index;
mod layer_stack;
mod layers;
mod resolve;
mod squash;

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use kiln_image::Digest;
use rayon::prelude::*;

use crate::spread;

pub use beneath::{BytesHasher, bytes_digest};
pub(crate) use beneath::{
    FileHash, FileOpener, each_name, file_entry, has_portable_xattrs, hash_file_of, open_beneath,
    open_file_at, open_root, portable_xattrs, read_at_once, stat_at, stat_marked,
};
pub use context::ContextTree;
pub(crate) use file_index::index_context;
pub use layer_stack::LayerDir;
pub use layers::LayerTree;
pub use squash::squash_layers;

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
    /// The [`bytes_digest`] of a file, where the tree knows it without reading.
    pub digest: Option<Digest>,
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

impl EntryKind {
    /// A file's bytes; `None` for all else.
    pub fn file_bytes(&self) -> Option<u64> {
        match self {
            Self::File { size } => Some(*size),
            _ => None,
        }
    }
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
    /// With this file there are more bytes than a layer may have.
    #[error("{path}: with it the layer has more than {limit} bytes, and no image's layer may")]
    LayerTooLarge {
        /// The file.
        path: PathBuf,
        /// The limit.
        limit: u64,
    },
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

    /// As [`SourceTree::open`], of an entry that this tree gave: trees may find it sooner than by its path alone.
    fn open_entry(&self, entry: &Entry) -> Result<File, TreeError> {
        self.open(&entry.path)
    }

    /// What the tree is known by from one build to the next, whatever is in it; `None` if it is another each time.
    fn identity(&self) -> Option<Digest> {
        None
    }

    /// The [`bytes_digest`] of a regular file, from the index where nothing changed since.
    fn digest(&self, entry: &Entry) -> Result<Digest, TreeError>;

    /// As [`SourceTree::digest`], of which `read` finds what it is by reading all of `file`, this tree's own: for those who read
    /// it anyway.
    fn digest_by(
        &self,
        entry: &Entry,
        _file: &File,
        read: &mut dyn FnMut() -> std::io::Result<Digest>,
    ) -> Result<Digest, TreeError> {
        read().at(&entry.path)
    }

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

/// The digests of `entries`, beside each other where there are many.
fn digests_in_parallel(tree: &dyn SourceTree, entries: &[Entry]) -> Result<Vec<Option<Digest>>, TreeError> {
    let digest = |entry: &Entry| match entry.kind {
        EntryKind::File { .. } => entry.digest.map_or_else(|| tree.digest(entry), Ok).map(Some),
        _ => Ok(None),
    };
    spread(
        is_worth_threads(entries),
        || entries.iter().map(digest).collect(),
        || entries.par_iter().map(digest).collect(),
    )
}

/// Whether hashing files is more than starting threads for it.
pub(crate) fn is_worth_threads<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> bool {
    const FILES: usize = 16;
    const BYTES: u64 = 1 << 20;
    let sizes = entries.into_iter().filter_map(|entry| entry.kind.file_bytes());
    let (count, bytes) =
        sizes.fold((0, 0_u64), |(count, bytes), size| (count + 1, bytes.saturating_add(size)));
    count >= FILES || (count > 1 && bytes >= BYTES)
}

/// What a directory holds.
pub(crate) struct Listed<E, D> {
    /// By name.
    pub(crate) entries: Vec<E>,
    /// The directories among them to go on with, by the numbers of their entries.
    pub(crate) below: Vec<(usize, D)>,
}

impl<E, D> Listed<E, D> {
    /// Of `entries`, with those `below` which this says to go on.
    pub(crate) fn new(entries: Vec<E>, below: impl Fn(&E) -> Option<D>) -> Self {
        let numbered = entries.iter().enumerate();
        let below = numbered.filter_map(|(number, entry)| Some((number, below(entry)?))).collect();
        Self { entries, below }
    }
}

/// A thread that has nothing left takes over what another has not begun: in pieces as small as this, or it would wait for
/// half of a level.
const DIRECTORIES_A_TASK: usize = 4;

/// Lists directories level by level, those of one level in parallel, and returns what all of them held, depth first, behind
/// what comes `first`.
/// Not a recursion: a hostile tree may be as deep as a path is long, and neither the pool's stacks nor the number of open
/// files shall depend on it.
pub(crate) fn list_levels<D: Sync + Send, E: Send>(
    first: Option<E>,
    top: D,
    list: impl Fn(&D) -> Result<Listed<E, D>, TreeError> + Sync,
) -> Result<Vec<E>, TreeError> {
    // Each directory's entries; of those that are directories their numbers and their own places in here.
    let mut listings = Vec::new();
    let mut level = vec![top];
    let mut seen_dirs = 1;
    let mut seen_entries = 0;
    while !level.is_empty() {
        let listed = spread(
            level.len() > 1,
            || level.iter().map(&list).collect::<Result<Vec<_>, TreeError>>(),
            || level.par_iter().with_max_len(DIRECTORIES_A_TASK).map(&list).collect(),
        )?;
        level = Vec::new();
        for Listed { entries, below } in listed {
            seen_entries += entries.len();
            let first_below = seen_dirs;
            seen_dirs += below.len();
            let (numbers, dirs): (Vec<_>, Vec<_>) = below.into_iter().unzip();
            level.extend(dirs);
            let places = numbers.into_iter().zip(first_below..).peekable();
            listings.push(Some((entries.into_iter().enumerate(), places)));
        }
    }
    // A slash sorts before all else: what is in a directory comes right behind it.
    let mut found = Vec::with_capacity(seen_entries + 1);
    found.extend(first);
    let mut open: Vec<_> = listings.first_mut().and_then(Option::take).into_iter().collect();
    while let Some((entries, places)) = open.last_mut() {
        match entries.next() {
            Some((number, entry)) => {
                found.push(entry);
                let place = places.next_if(|(of, _)| *of == number);
                open.extend(place.and_then(|(_, at)| listings.get_mut(at)?.take()));
            }
            None => drop(open.pop()),
        }
    }
    Ok(found)
}

/// The order of clean paths by their components' bytes: depth first, as a slash sorts before all else.
pub(crate) fn depth_first(a: &Path, b: &Path) -> std::cmp::Ordering {
    let rank = |&byte: &u8| if byte == b'/' { 0 } else { byte };
    a.as_os_str().as_bytes().iter().map(rank).cmp(b.as_os_str().as_bytes().iter().map(rank))
}
