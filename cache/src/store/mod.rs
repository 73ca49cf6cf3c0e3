//! The store on disk.
//!
//! ```text
//! db.sqlite            records, layers, images, memos, past builds (see `db`)
//! blobs/sha256/<hex>   blobs, as in an OCI image layout
//! layers/<LayerId>/    unpacked trees in overlayfs' format
//! mounts/<hash>[.<n>]/ cache mounts
//! contexts/<hash>      file-hash indexes of build contexts
//! contexts/<hash>.copy what the last layers of copies from them were made of
//! work/<random>/       what is in progress; locked while its maker lives, swept when not
//! locks/               step keys and others (see `locks`)
//! ```

mod blobs;
mod builds;
mod check;
mod collect;
mod db;
mod details;
mod draft;
mod error;
mod images;
mod layers;
mod locks;
mod migrate;
mod mounts;
mod open;
mod packed;
mod records;
mod recover;
mod removed;
mod settle;
mod sweep;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kiln_image::Digest;

pub use blobs::BlobWriter;
pub use builds::BuildRow;
pub use check::{CheckDepth, Problem};
pub use collect::Freed;
pub use details::{Cost, Details};
pub use draft::LayerDraft;
pub use error::StoreError;
pub use images::ImageRecord;
pub use layers::{InvalidLayerId, Layer, LayerFacts, LayerId};
pub use mounts::{CacheMount, CacheMountRequest, MountSharing};
pub use records::{Claim, Lookup, NewRecord, Record, StepKey};
pub use removed::{Removed, RemovedBy};

/// The store. Cheap to clone; any number of threads and processes at once.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    db: db::Db,
    /// Shared for as long as any clone lives: garbage collection and a rebuild want it alone.
    in_use: locks::FileLock,
    /// Whether this handle ever found or made a layer or blob, that is, whether its holder may be using one.
    has_given: AtomicBool,
    settler: settle::Settler,
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

    /// Where is kept what the last layer of the copy that `step` names was made of.
    pub fn copy_memory_path(&self, step: &Digest) -> PathBuf {
        self.root().join("contexts").join(format!("{}.copy", step.hex()))
    }

    fn db(&self) -> &db::Db {
        &self.inner.db
    }

    fn lock_path(&self, name: &str) -> PathBuf {
        self.root().join("locks").join(name)
    }

    /// To be called before a look at the database that may find something for the caller to use.
    fn note_use(&self) {
        self.inner.has_given.store(true, Ordering::SeqCst);
    }

    fn wake_settler(&self) {
        self.inner.settler.wake(settle::Wake::Soon, self.root(), self.db().path());
    }
}
