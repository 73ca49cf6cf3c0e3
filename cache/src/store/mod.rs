//! The store on disk.
//!
//! ```text
//! db.sqlite            records, layers, images, memos, past builds (see `db`)
//! blobs/sha256/<hex>   blobs, as in an OCI image layout
//! layers/<LayerId>/    unpacked trees in overlayfs' format
//! mounts/<hash>[.<n>]/ cache mounts
//! stubs/               empty mount points of every step, which most images lack (see `stubs`)
//! contexts/<hash>      file-hash indexes of build contexts
//! contexts/<hash>.copy what the last layers of copies from them were made of
//! work/<random>/       what is in progress; locked while its maker lives, swept when not
//! locks/               step keys and others (see `locks`)
//! ```

mod attestations;
mod blobs;
mod builds;
mod check;
mod collect;
mod db;
mod definitions;
mod details;
mod draft;
mod error;
mod images;
mod layers;
mod lease;
mod limit;
mod live_log;
mod locks;
mod migrate;
mod mounts;
mod open;
mod packed;
mod pulled;
mod records;
mod recover;
mod removed;
mod repair;
mod settle;
mod stubs;
mod sweep;
mod usage;
mod uses;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use kiln_image::Digest;

pub use blobs::BlobWriter;
pub use builds::BuildRow;
pub use check::{CheckDepth, Problem};
pub use collect::{ImageRule, Keep, Prune, Pruned};
pub use details::{Cost, Details};
pub use draft::LayerDraft;
pub use error::StoreError;
pub use images::ImageRecord;
pub use layers::{InvalidLayerId, Layer, LayerFacts, LayerId};
pub use limit::Disk;
pub use mounts::{CacheMount, CacheMountRequest, MountSharing};
pub use records::{Claim, Committed, Lookup, NewRecord, Record, StepKey, Wait};
pub use removed::{Removed, RemovedBy};
pub use repair::Repair;
pub use usage::{Usage, UsageKind};

/// The store. Cheap to clone; any number of threads and processes at once.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    db: db::Db,
    /// Shared for as long as any clone lives: a rebuild wants the store alone.
    _in_use: locks::FileLock,
    lease: lease::Lease,
    uses: uses::Uses,
    has_news: AtomicBool,
    /// Bytes that the store may take; `u64::MAX` for no limit.
    max_bytes: AtomicU64,
    settler: settle::Settler,
    stubs: OnceLock<PathBuf>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Err(error) = self.uses.write(&self.db) {
            tracing::debug!(%error, "uses are not noted");
        }
    }
}

impl Store {
    /// Opens or makes the store at `root` (made 0700), sweeps leftovers of killed processes, drops what an unclean stop
    /// of the machine left unsettled and damaged.
    ///
    /// A damaged database is moved aside and begun anew, with all layers swept, unless another process uses the store.
    ///
    /// # Errors
    /// Not writable, foreign owner, newer format, disk full, network file system.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        open::open(root)
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// Where the file-hash index of the context at `context` (a canonical path) is kept.
    pub fn context_index_path(&self, context: &Path) -> PathBuf {
        use std::os::unix::ffi::OsStrExt;
        self.root().join("contexts").join(Digest::of(context.as_os_str().as_bytes()).hex())
    }

    /// Where is kept what the last layer of the copy that `step` names was made of: 8 bytes of whoever writes it, the
    /// layer's id in 64 hex digits, and the rest. Garbage collection removes it once that layer is gone.
    pub fn copy_memory_path(&self, step: &Digest) -> PathBuf {
        self.root().join("contexts").join(format!("{}.copy", step.hex()))
    }

    /// Sets the most bytes that the store may take. From then on whatever this handle and its clones add makes room first,
    /// at the cost of all that no running build uses, or is refused.
    pub fn set_max_bytes(&self, bytes: Option<u64>) {
        self.inner.max_bytes.store(bytes.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Whether this handle or a clone of it added anything that takes space.
    pub fn has_news(&self) -> bool {
        self.inner.has_news.load(Ordering::Relaxed)
    }

    /// The limit of [`Store::set_max_bytes`].
    pub fn max_bytes(&self) -> Option<u64> {
        Some(self.inner.max_bytes.load(Ordering::Relaxed)).filter(|&bytes| bytes != u64::MAX)
    }

    fn db(&self) -> &db::Db {
        &self.inner.db
    }

    fn lock_path(&self, name: &str) -> PathBuf {
        self.root().join("locks").join(name)
    }

    fn wake_settler(&self) {
        self.inner.settler.wake(settle::Wake::Soon, self.root(), self.db().path());
    }
}
