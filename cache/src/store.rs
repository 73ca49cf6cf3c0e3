//! The store on disk.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use kiln_image::{ContentsDigest, DiffId, Digest, ImageRef, Platform};

/// The name of one unpacked layer directory, unique to it. A pulled layer's is made of its DiffId (so it is known
/// before anything is downloaded), a built layer's is random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LayerId([u8; 32]);

impl From<DiffId> for LayerId {
    fn from(diff_id: DiffId) -> Self {
        Self(*diff_id.0.as_bytes())
    }
}

/// The digest that names a step: what it does and what it starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StepKey(pub Digest);

/// A layer as results name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Layer {
    /// Which directory.
    pub id: LayerId,
    /// What is in it.
    pub contents: ContentsDigest,
}

/// What a step made, as the store remembers it. Immutable.
#[derive(Clone, Debug)]
pub struct Record {
    /// The key it was found by.
    pub key: StepKey,
    /// The layers the step *added* on top of its input, bottom first.
    pub layers: Vec<Layer>,
    /// What the step was, for people.
    pub name: String,
    /// How long it ran.
    pub duration: Duration,
    /// What it printed.
    pub log: Vec<u8>,
}

/// What a finished step tells the store.
#[derive(Clone, Debug, Default)]
pub struct NewRecord {
    /// What the step was, for people.
    pub name: String,
    /// How long it ran.
    pub duration: Duration,
    /// What it printed, stdout and stderr interleaved, capped.
    pub log: Vec<u8>,
}

/// What [`Store::find_or_claim`] found.
#[derive(Debug)]
pub enum Lookup {
    /// A result; all its layers are there.
    Found(Record),
    /// None: the caller makes it, others that need it wait.
    Missing(Claim),
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
        source: std::io::Error,
    },
    /// The caller's cancel flag went up while waiting.
    #[error("canceled")]
    Canceled,
}

/// The store. Cheap to clone; any number of threads and processes at once.
#[derive(Clone, Debug)]
pub struct Store {
    root: Arc<PathBuf>,
}

impl Store {
    /// Opens or makes the store at `root` (made 0700), sweeps leftovers of killed processes, drops what an unclean stop
    /// of the machine left unsettled and damaged.
    ///
    /// # Errors
    /// Not writable, foreign owner, newer format, disk full, network file system.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let _ = root;
        todo!()
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    // ---- steps

    /// The record of `key`, if all its layers are there; takes no lock, waits for nobody.
    ///
    /// # Errors
    /// I/O.
    pub fn find(&self, key: &StepKey) -> Result<Option<Record>, StoreError> {
        let _ = key;
        todo!()
    }

    /// The record of `key`, or the right to make it. While another thread or process holds the claim this waits:
    /// `on_wait` is called once with the process id of the holder. A holder that dies is replaced.
    ///
    /// # Errors
    /// [`StoreError::Canceled`]; I/O.
    pub fn find_or_claim(
        &self,
        key: &StepKey,
        on_wait: &mut dyn FnMut(Option<u32>),
        cancel: &AtomicBool,
    ) -> Result<Lookup, StoreError> {
        let _ = (key, on_wait, cancel);
        todo!()
    }

    /// The right to make `key`'s result anew whatever is recorded (`--no-cache`); waits as `find_or_claim`.
    ///
    /// # Errors
    /// As [`Store::find_or_claim`].
    pub fn claim(
        &self,
        key: &StepKey,
        on_wait: &mut dyn FnMut(Option<u32>),
        cancel: &AtomicBool,
    ) -> Result<Claim, StoreError> {
        let _ = (key, on_wait, cancel);
        todo!()
    }

    // ---- layers

    /// A new empty directory that may become a layer: `fs()` is its upper directory, `work()` overlayfs' work
    /// directory on the same file system. Removed on drop, swept after a kill.
    ///
    /// # Errors
    /// I/O.
    pub fn draft_layer(&self) -> Result<LayerDraft, StoreError> {
        todo!()
    }

    /// The directory of a layer, in overlayfs' format.
    pub fn layer_path(&self, id: LayerId) -> PathBuf {
        let _ = id;
        todo!()
    }

    /// Whether the layer is there (unpacked and complete).
    ///
    /// # Errors
    /// I/O.
    pub fn has_layer(&self, id: LayerId) -> Result<bool, StoreError> {
        let _ = id;
        todo!()
    }

    /// Unpacks a pulled layer once, however many threads and processes want it: `unpack` fills the draft and returns
    /// the DiffId it streamed; if that is not `diff_id` the layer is refused.
    ///
    /// # Errors
    /// The DiffId differs; whatever `unpack` says; I/O.
    pub fn add_pulled_layer<E: From<StoreError>>(
        &self,
        diff_id: DiffId,
        cancel: &AtomicBool,
        unpack: impl FnOnce(&LayerDraft) -> Result<(DiffId, u64), E>,
    ) -> Result<Layer, E> {
        let _ = (diff_id, cancel, unpack);
        todo!()
    }

    /// Keeps a layer that no record names (an imported one, `kiln run`'s…). Otherwise as [`Claim::commit`].
    ///
    /// # Errors
    /// I/O.
    pub fn commit_layer(&self, draft: LayerDraft) -> Result<Layer, StoreError> {
        let _ = draft;
        todo!()
    }

    /// The DiffId of a layer: remembered, or computed by packing it into SHA-256 now. Call from a worker thread as soon
    /// as the layer is there.
    ///
    /// # Errors
    /// I/O.
    pub fn diff_id(&self, id: LayerId) -> Result<DiffId, StoreError> {
        let _ = id;
        todo!()
    }

    // ---- blobs

    /// Whether blob `digest` is in the store.
    pub fn has_blob(&self, digest: &Digest) -> bool {
        let _ = digest;
        todo!()
    }

    /// Opens a blob.
    ///
    /// # Errors
    /// I/O.
    pub fn open_blob(&self, digest: &Digest) -> Result<Option<std::fs::File>, StoreError> {
        let _ = digest;
        todo!()
    }

    /// Stores bytes as a blob.
    ///
    /// # Errors
    /// I/O.
    pub fn put_blob(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let _ = bytes;
        todo!()
    }

    /// A writer of a new blob; nothing is visible before [`BlobWriter::finish`].
    ///
    /// # Errors
    /// I/O.
    pub fn blob_writer(&self) -> Result<BlobWriter, StoreError> {
        todo!()
    }

    /// Remembers that compressing `diff_id` with `how` (such as `gzip`) gave `blob`, so that it is done once.
    ///
    /// # Errors
    /// I/O.
    pub fn remember_compressed(&self, diff_id: DiffId, how: &str, blob: Digest) -> Result<(), StoreError> {
        let _ = (diff_id, how, blob);
        todo!()
    }

    /// The blob remembered for it, if it is still there.
    ///
    /// # Errors
    /// I/O.
    pub fn compressed(&self, diff_id: DiffId, how: &str) -> Result<Option<Digest>, StoreError> {
        let _ = (diff_id, how);
        todo!()
    }

    // ---- images

    /// Points `name` at an image (replacing what it pointed at).
    ///
    /// # Errors
    /// I/O.
    pub fn put_image(&self, image: &ImageRecord) -> Result<(), StoreError> {
        let _ = image;
        todo!()
    }

    /// What `name` points at for `platform`.
    ///
    /// # Errors
    /// I/O.
    pub fn image(&self, name: &ImageRef, platform: &Platform) -> Result<Option<ImageRecord>, StoreError> {
        let _ = (name, platform);
        todo!()
    }

    /// All image names and unnamed images, newest first.
    ///
    /// # Errors
    /// I/O.
    pub fn images(&self) -> Result<Vec<ImageRecord>, StoreError> {
        todo!()
    }

    /// Takes a name away (`None`: the unnamed entry of `config`). Returns whether it was there.
    ///
    /// # Errors
    /// I/O.
    pub fn remove_image(&self, name: Option<&ImageRef>, config: &Digest) -> Result<bool, StoreError> {
        let _ = (name, config);
        todo!()
    }

    // ---- cache mounts

    /// The directory of a cache mount, held as `sharing` says until the guard is dropped; waits for a locked one.
    ///
    /// # Errors
    /// [`StoreError::Canceled`]; I/O.
    pub fn cache_mount(
        &self,
        request: &CacheMountRequest,
        on_wait: &mut dyn FnMut(Option<u32>),
        cancel: &AtomicBool,
    ) -> Result<CacheMount, StoreError> {
        let _ = (request, on_wait, cancel);
        todo!()
    }

    /// A new file or directory path in the store's work folder for `what` (a context read from stdin), removed on drop
    /// of the returned guard and swept after a kill.
    ///
    /// # Errors
    /// I/O.
    pub fn scratch_dir(&self) -> Result<LayerDraft, StoreError> {
        self.draft_layer()
    }

    /// Where the file-hash index of the context at `context` (a canonical path) is kept.
    pub fn context_index_path(&self, context: &Path) -> PathBuf {
        let _ = context;
        todo!()
    }
}

/// The right to make one step's result; others wait until it is committed or dropped.
#[derive(Debug)]
pub struct Claim {
    _key: StepKey,
}

impl Claim {
    /// Makes `draft` a layer and records it under the claim's key, all at once, then lets waiters go. `contents` is
    /// given by a step that knows it (a copy); else it is computed here.
    ///
    /// # Errors
    /// I/O, disk full. Nothing is visible then.
    pub fn commit(
        self,
        draft: LayerDraft,
        contents: Option<ContentsDigest>,
        record: NewRecord,
    ) -> Result<Record, StoreError> {
        let _ = (draft, contents, record);
        todo!()
    }
}

/// A directory in progress.
#[derive(Debug)]
pub struct LayerDraft {
    path: PathBuf,
}

impl LayerDraft {
    /// The tree that becomes the layer.
    pub fn fs(&self) -> PathBuf {
        self.path.join("fs")
    }
    /// overlayfs' work directory.
    pub fn work(&self) -> PathBuf {
        self.path.join("work")
    }
}

/// Writes one blob.
#[derive(Debug)]
pub struct BlobWriter {
    _file: std::fs::File,
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _ = bytes;
        todo!()
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl BlobWriter {
    /// Makes it visible under its digest; returns that and the size in bytes.
    ///
    /// # Errors
    /// I/O; `expected` given and different.
    pub fn finish(self, expected: Option<Digest>) -> Result<(Digest, u64), StoreError> {
        let _ = expected;
        todo!()
    }
}

/// An image the store knows. Manifest, config and any layer blobs are blobs; layers are unpacked or can be fetched.
#[derive(Clone, Debug)]
pub struct ImageRecord {
    /// The name; `None` for an image whose name was taken by another.
    pub name: Option<ImageRef>,
    /// What it runs on.
    pub platform: Platform,
    /// The image id: the config's digest.
    pub config: Digest,
    /// The manifest's digest, where the manifest is stored (pulled or exported images).
    pub manifest: Option<Digest>,
    /// What the name pointed at in the registry it was pulled from (index or manifest).
    pub remote_digest: Option<Digest>,
    /// Layers bottom first, as many as the config has DiffIds.
    pub layers: Vec<LayerId>,
    /// Seconds since the epoch when the name was set.
    pub tagged_at: u64,
    /// Bytes of file data in the layers, as far as known.
    pub size_bytes: u64,
}

/// Who may use a cache mount at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountSharing {
    /// Everybody.
    Shared,
    /// A directory of its own if this one is in use.
    Private,
    /// One after another.
    Locked,
}

/// What a step wants of a cache mount.
#[derive(Clone, Debug)]
pub struct CacheMountRequest {
    /// Namespace and id as the Dockerfile gives them; hashed before they become a name on disk.
    pub id: String,
    /// Sharing.
    pub sharing: MountSharing,
    /// Mode of a new directory.
    pub mode: u32,
    /// Owner of a new directory.
    pub uid: u32,
    /// Group of a new directory.
    pub gid: u32,
}

/// A cache mount in use.
#[derive(Debug)]
pub struct CacheMount {
    path: PathBuf,
    is_new: bool,
}

impl CacheMount {
    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// Whether it was made just now (and wants its seed).
    pub fn is_new(&self) -> bool {
        self.is_new
    }
}
