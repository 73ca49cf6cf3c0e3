//! What can go wrong with the store, and what the user can do.

use std::io;
use std::path::{Path, PathBuf};

use kiln_image::layer::LayerError;
use kiln_image::{DiffId, Digest};

use crate::tree::TreeError;

/// Whose a store is. In a user namespace everybody outside of it has the overflow number, which says nothing.
fn owner_name(owner: u32) -> String {
    const OVERFLOW: u32 = 65534;
    if owner == OVERFLOW { "another user".into() } else { format!("user {owner}") }
}

/// What is wrong with the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The system said no.
    #[error("{path}: {source}")]
    Io {
        /// What was touched.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No space, no inodes or no quota left where the store is.
    #[error("{path}: no space left on the store's file system")]
    DiskFull {
        /// What was written.
        path: PathBuf,
    },
    /// The store is on a read-only file system, or its permissions say no.
    #[error("{path}: the store is not writable")]
    NotWritable {
        /// What was to be written.
        path: PathBuf,
    },
    /// Somebody else made this directory or link.
    #[error("{path}: the store belongs to {}", owner_name(*owner))]
    ForeignOwner {
        /// The store's root.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who is asking.
        user: u32,
    },
    /// Root made it with other rights: layers are marked in a way that this process does not see.
    #[error(
        "{path}: the store was made by root of another kind: one with the right to mount, or one of a container without"
    )]
    OtherMarks {
        /// The store's root.
        path: PathBuf,
    },
    /// A newer kiln wrote it.
    #[error("{path}: the store has format {found}, this kiln knows formats up to {known}")]
    NewerFormat {
        /// The database.
        path: PathBuf,
        /// What it says.
        found: u32,
        /// The newest known here.
        known: u32,
    },
    /// SQLite's shared memory and file locks are not safe there.
    #[error("{path}: the store cannot be on a network file system ({kind})")]
    NetworkFileSystem {
        /// The store's root.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// A file of the store's holds what kiln never wrote.
    #[error("{path}: damaged: {reason}")]
    Corrupt {
        /// What.
        path: PathBuf,
        /// How it shows.
        reason: String,
    },
    /// Bytes that are not what their digest promised.
    #[error("digest mismatch: expected {expected}, got {actual}")]
    DigestMismatch {
        /// What was asked for.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// A layer is not what its image's config says.
    #[error("layer {expected} unpacked to {actual}")]
    OtherLayer {
        /// The config's.
        expected: DiffId,
        /// The bytes'.
        actual: DiffId,
    },
    /// The database said no for a reason of its own.
    #[error("{path}: {reason}")]
    Database {
        /// The database.
        path: PathBuf,
        /// Its words.
        reason: String,
    },
    /// There is no such layer.
    #[error("layer {id} is not in the store")]
    NoSuchLayer {
        /// Which.
        id: super::LayerId,
    },
    /// A layer's tree could not be read.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A layer could not be packed.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// The store has a limit, and running builds use more.
    #[error("{root}: the store needs {needed_bytes} bytes, and may take {max_bytes}")]
    OverLimit {
        /// The store's root.
        root: PathBuf,
        /// What it takes with all that running builds use.
        needed_bytes: u64,
        /// The limit.
        max_bytes: u64,
    },
    /// The caller's cancel flag went up while waiting.
    #[error("canceled")]
    Canceled,
}

impl StoreError {
    /// What the user can do, in one sentence.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::DiskFull { .. } => {
                Some("free some space, or choose another store with `--root`".into())
            }
            Self::NotWritable { .. } | Self::ForeignOwner { .. } | Self::OtherMarks { .. } => {
                Some("choose a store of your own with `--root` or KILN_ROOT".into())
            }
            Self::NewerFormat { .. } => {
                Some("use the newer kiln, or choose another store with `--root`".into())
            }
            Self::NetworkFileSystem { .. } => {
                Some("choose a directory on a local disk with `--root` or KILN_ROOT".into())
            }
            Self::OverLimit { .. } => {
                Some("everything else is removed already: raise the limit (`--max-size`, `maxSize` in config.toml), or build less at once".into())
            }
            Self::Corrupt { .. } => {
                Some("when no other build is running, the next kiln command moves the damaged database aside and starts anew".into())
            }
            Self::Layer(error) => error.hint(),
            _ => None,
        }
    }

    /// Says what a system error on a file of the store's means: a full disk and a read-only one have their own variants.
    /// For callers that stream into a [`BlobWriter`](super::BlobWriter) or a draft themselves.
    pub fn io(path: &Path, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path },
            io::ErrorKind::ReadOnlyFilesystem => Self::NotWritable { path },
            _ => Self::Io { path, source },
        }
    }
}

/// Gives a system error its path.
pub(super) trait At<T> {
    fn at(self, path: &Path) -> Result<T, StoreError>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, path: &Path) -> Result<T, StoreError> {
        self.map_err(|error| StoreError::io(path, error.into()))
    }
}
