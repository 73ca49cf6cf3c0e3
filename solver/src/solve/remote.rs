//! Results that others made: looked up when the store has none.
//!
//! A record of a remote cache names layers that may be nowhere on this machine. A hit is taken as it is, and its layers
//! are fetched like a base image's: when a step must read their files. Once they are here the store gets a record of its
//! own ([`Solver::keep_imports`]); it never names what is not there. A cache is trusted for *which* layer a key stands
//! for, as far as its user trusts who may write to it; that the bytes are that layer is verified.

use std::fmt::Debug;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kiln_cache::{Cost, Layer, LayerId, NewRecord, StepKey};
use kiln_image::oci::Descriptor;
use kiln_image::{ContentsDigest, DiffId, ImageRef};

use super::{SolveError, Solver};

/// Caches beyond the store.
pub trait RemoteCache: Send + Sync + Debug {
    /// What is recorded under `key`, be it the step's own key or one by its definition. Called for misses only.
    fn find(&self, key: &StepKey) -> Option<RemoteRecord>;

    /// Opens a layer's blob. The caller verifies what it reads.
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
