//! Results that others made: looked up when the store has none.
//!
//! A record of a remote cache names layers that may be nowhere on this machine. A hit is taken as it is, and its layers
//! are fetched like a base image's: when a step must read their files. Once they are here the store gets a record of its
//! own ([`Solver::keep_imports`]); it never names what is not there. A cache is trusted for *which* layer a key stands
//! for, as far as its user trusts who may write to it; that the bytes are that layer is verified.

use std::fmt::Debug;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kiln_cache::{Cost, Layer, LayerId, NewRecord, StepKey};
use kiln_image::layer::{self, LayerError, OverlayXattrs};
use kiln_image::oci::Descriptor;
use kiln_image::{ContentsDigest, DiffId, ImageRef, Verified};

use super::{SolveError, Solver};

/// Caches beyond the store.
pub trait RemoteCache: Send + Sync + Debug {
    /// What is recorded under `key`, be it the step's own key or one by its definition. Called for misses only.
    fn find(&self, key: &StepKey) -> Option<RemoteRecord>;

    /// The contents of a cache mount, by the id that the store knows it by.
    fn mount(&self, id: &str) -> Option<RemoteMount>;

    /// Tells the user what is wrong with a cache.
    fn warn(&self, message: String);

    /// Opens a blob. The caller verifies what it reads.
    ///
    /// # Errors
    /// It cannot be had.
    fn open(&self, blob: &Descriptor) -> io::Result<Box<dyn Read + Send>>;

    /// A layer turned out to be unusable: no record may name it any more.
    fn forget(&self, blob: &Descriptor, reason: &str);
}

/// A step's result in a remote cache.
#[derive(Clone, Debug)]
pub struct RemoteRecord {
    /// The step's key by contents: the store's record will have it.
    pub key: StepKey,
    /// Its key by definition, where it has one.
    pub definition: Option<StepKey>,
    /// What the step added, bottom first.
    pub layers: Vec<RemoteLayer>,
    /// What the step was, for people.
    pub name: String,
    /// How long it ran.
    pub duration: Duration,
}

/// A layer in a remote cache.
#[derive(Clone, Debug)]
pub struct RemoteLayer {
    /// What keys of later steps have of it.
    pub contents: ContentsDigest,
    /// Of its tar.
    pub diff_id: DiffId,
    /// Of its blob.
    pub descriptor: Descriptor,
    /// Seconds since the epoch: a layer keeps its time wherever it goes, so that images of it stay the same.
    pub made_at: i64,
    /// The repository that has the blob, if it is one: a push to its registry need not move the bytes.
    pub registry: Option<ImageRef>,
}

impl RemoteLayer {
    /// The layer as it is called once it is in the store.
    pub(super) fn layer(&self) -> Layer {
        Layer { id: LayerId::imported(self.diff_id, self.contents), contents: self.contents }
    }
}

/// The contents of a cache mount in a remote cache: a layer's tar.
#[derive(Clone, Debug)]
pub struct RemoteMount {
    /// As the store knows it: namespace and id, shape and seed.
    pub id: String,
    /// Of its blob.
    pub descriptor: Descriptor,
    /// Of its tar.
    pub size_bytes: u64,
}

/// A step whose result was found or made, for caches to be written.
#[derive(Clone, Debug)]
pub struct Solved {
    /// The key by contents.
    pub key: StepKey,
    /// The key by definition, where there is one: it needs no files of the input.
    pub definition: Option<StepKey>,
    /// What the step added, bottom first.
    pub layers: Vec<Layer>,
    /// What the step was, for people.
    pub name: String,
    /// How long it ran.
    pub duration: Duration,
}

/// What a build has to do with remote caches; by default nothing.
#[derive(Debug, Default)]
pub struct Remote {
    /// Where misses are looked up.
    pub cache: Option<Arc<dyn RemoteCache>>,
    /// Whether results are listed for export.
    pub exports: bool,
    solved: Mutex<Vec<Solved>>,
    imported: Mutex<Vec<RemoteRecord>>,
}

impl Remote {
    /// Caches to look misses up in, and whether results are to be listed.
    pub fn new(cache: Option<Arc<dyn RemoteCache>>, exports: bool) -> Self {
        Self { cache, exports, ..Self::default() }
    }

    /// Whether there is anything to do at all.
    pub(super) fn is_used(&self) -> bool {
        self.cache.is_some() || self.exports
    }

    pub(super) fn note(&self, solved: Solved) {
        self.solved.lock().unwrap_or_else(PoisonError::into_inner).push(solved);
    }

    pub(super) fn note_import(&self, record: RemoteRecord) {
        self.imported.lock().unwrap_or_else(PoisonError::into_inner).push(record);
    }

    /// The steps solved so far, each once, in the order in which they were done.
    pub fn solved(&self) -> Vec<Solved> {
        let mut seen = std::collections::HashSet::new();
        let solved = self.solved.lock().unwrap_or_else(PoisonError::into_inner);
        let mut latest: Vec<Solved> =
            solved.iter().rev().filter(|solved| seen.insert(solved.key)).cloned().collect();
        latest.reverse();
        latest
    }
}

impl Solver<'_> {
    /// Fills the new directory of a cache mount with what a remote cache has of it, if one has. What cannot be had is a
    /// warning, and the directory is as empty as before.
    pub(super) fn restore_mount(&self, id: &str, target: &Path) -> bool {
        let Some(cache) = &self.remote.cache else { return false };
        let Some(mount) = cache.mount(id) else { return false };
        match unpack_mount(cache.as_ref(), &mount, target) {
            Ok(()) => true,
            Err(error) => {
                empty(target);
                if !self.cancel.load(Ordering::Relaxed) {
                    cache.warn(format!("cache mount {id} is not restored: {error}"));
                }
                false
            }
        }
    }

    /// Records in the store what was found in remote caches and is here by now.
    ///
    /// # Errors
    /// The store.
    pub fn keep_imports(&self) -> Result<(), SolveError> {
        let imported =
            std::mem::take(&mut *self.remote.imported.lock().unwrap_or_else(PoisonError::into_inner));
        'records: for record in imported {
            let layers: Vec<Layer> = record.layers.iter().map(RemoteLayer::layer).collect();
            for layer in &layers {
                if !self.store.has_layer(layer.id)? {
                    continue 'records;
                }
            }
            let cost = Cost { duration: record.duration, ..Cost::default() };
            let new = NewRecord { name: record.name, cost, ..NewRecord::default() };
            if let kiln_cache::Lookup::Missing(claim) =
                self.store.find_or_claim(&record.key, &mut |_| {}, &self.cancel)?
            {
                claim.commit_layers(layers, new)?;
            }
        }
        Ok(())
    }
}

fn unpack_mount(cache: &dyn RemoteCache, mount: &RemoteMount, target: &Path) -> Result<(), LayerError> {
    let failed = |source| LayerError::Io { path: mount.descriptor.digest.to_string(), source };
    let Descriptor { digest, size, .. } = mount.descriptor;
    let reader = cache.open(&mount.descriptor).map_err(failed)?.take(size.saturating_add(1));
    let mut reader = Verified::new(reader, digest, size);
    let directory = File::open(target).map_err(failed)?;
    layer::unpack(&mut reader, directory.as_fd(), OverlayXattrs::of_this_process())?;
    // The reader verifies at its end.
    io::copy(&mut reader, &mut io::sink()).map_err(failed)?;
    Ok(())
}

/// Removes what is in a directory that nobody else sees yet; what stays is of no harm.
fn empty(directory: &Path) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let removed = if is_directory { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        if let Err(error) = removed {
            tracing::debug!(%error, path = %path.display(), "left in a new cache mount");
        }
    }
}
