//! The caches that a build imports.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use kiln_cache::StepKey;
use kiln_image::Digest;
use kiln_image::oci::Descriptor;
use kiln_solver::event::Reporter;
use kiln_solver::solve::{RemoteCache, RemoteMount, RemoteRecord};

use crate::{CacheConfig, CacheError, Place};

/// Tells the user what is wrong with a cache.
pub type Warn = dyn Fn(String) + Send + Sync;

/// Several places in the order in which they are asked. Nothing is read before the first miss.
pub struct Imports {
    places: Vec<Box<dyn Place>>,
    reporter: Arc<Reporter>,
    warn: Box<Warn>,
    known: OnceLock<Known>,
    forgotten: AtomicUsize,
    is_given_up: AtomicBool,
}

/// What the places say.
#[derive(Default)]
struct Known {
    /// By both keys; what the first place has comes first.
    records: HashMap<StepKey, Vec<Arc<RemoteRecord>>>,
    /// By their ids; the first place that has one counts.
    mounts: HashMap<String, RemoteMount>,
    /// Which places still have a blob, as far as is known.
    blobs: Mutex<HashMap<Digest, Vec<usize>>>,
}

impl Imports {
    /// Asks `places` in their order.
    pub fn new(places: Vec<Box<dyn Place>>, reporter: Arc<Reporter>, warn: Box<Warn>) -> Self {
        Self {
            places,
            reporter,
            warn,
            known: OnceLock::new(),
            forgotten: AtomicUsize::new(0),
            is_given_up: AtomicBool::new(false),
        }
    }

    /// The cache mounts that the places have.
    pub fn mounts(&self) -> Vec<RemoteMount> {
        let mut mounts: Vec<RemoteMount> = self.known().mounts.values().cloned().collect();
        mounts.sort_by(|a, b| a.id.cmp(&b.id));
        mounts
    }

    /// How many layers turned out to be unusable.
    pub fn forgotten(&self) -> usize {
        self.forgotten.load(Ordering::Relaxed)
    }

    /// Finds nothing any more.
    pub fn give_up(&self) {
        self.is_given_up.store(true, Ordering::Relaxed);
    }

    fn known(&self) -> &Known {
        self.known.get_or_init(|| self.load())
    }

    /// Reads what all places have, at once; what cannot be read is left out.
    fn load(&self) -> Known {
        let found: Vec<_> = std::thread::scope(|scope| {
            let readers: Vec<_> =
                self.places.iter().map(|place| scope.spawn(|| self.load_one(place.as_ref()))).collect();
            readers.into_iter().map(|reader| reader.join().unwrap_or_default()).collect()
        });
        let mut known = Known::default();
        let mut blobs: HashMap<Digest, Vec<usize>> = HashMap::new();
        for (index, (place, config)) in self.places.iter().zip(found).enumerate() {
            let repository = place.repository();
            let mut has = |blob: Digest| {
                let having = blobs.entry(blob).or_default();
                if having.last() != Some(&index) {
                    having.push(index);
                }
            };
            for mount in config.mounts {
                has(mount.descriptor.digest);
                known.mounts.entry(mount.id.clone()).or_insert(mount);
            }
            for mut record in config.records {
                for layer in &mut record.layers {
                    layer.registry.clone_from(&repository);
                    has(layer.descriptor.digest);
                }
                let record = Arc::new(record);
                for key in [Some(record.key), record.definition].into_iter().flatten() {
                    known.records.entry(key).or_default().push(Arc::clone(&record));
                }
            }
        }
        known.blobs = Mutex::new(blobs);
        known
    }

    fn load_one(&self, place: &dyn Place) -> CacheConfig {
        let name = place.name();
        let step = self.reporter.step(format!("importing cache manifest from {name}"), Vec::new());
        self.reporter.started(step);
        let config = match place.load() {
            Ok(found) => {
                if found.config.records.is_empty() && found.config.foreign_records > 0 {
                    (self.warn)(format!(
                        "cache {name} was written by another builder, whose steps have other keys: \
                         nothing of it is used"
                    ));
                }
                found.config
            }
            Err(CacheError::Canceled) => CacheConfig::default(),
            Err(error) if error.is_absent() => {
                (self.warn)(format!("there is no cache {name} yet"));
                CacheConfig::default()
            }
            Err(error) => {
                (self.warn)(format!("cache {name} is not used: {error}"));
                CacheConfig::default()
            }
        };
        self.reporter.done(step);
        config
    }
}

impl RemoteCache for Imports {
    fn find(&self, key: &StepKey) -> Option<RemoteRecord> {
        if self.is_given_up.load(Ordering::Relaxed) {
            return None;
        }
        let known = self.known();
        let records = known.records.get(key)?;
        let blobs = known.blobs.lock().unwrap_or_else(PoisonError::into_inner);
        let is_usable = |record: &&Arc<RemoteRecord>| {
            record
                .layers
                .iter()
                .all(|layer| blobs.get(&layer.descriptor.digest).is_some_and(|having| !having.is_empty()))
        };
        records.iter().find(is_usable).map(|record| RemoteRecord::clone(record))
    }

    fn mount(&self, id: &str) -> Option<RemoteMount> {
        self.known().mounts.get(id).cloned()
    }

    fn warn(&self, message: String) {
        (self.warn)(message);
    }

    fn open(&self, blob: &Descriptor) -> io::Result<Box<dyn Read + Send>> {
        let place = {
            let blobs = self.known().blobs.lock().unwrap_or_else(PoisonError::into_inner);
            blobs.get(&blob.digest).and_then(|having| having.first().copied())
        };
        let place = place.and_then(|index| self.places.get(index));
        let place = place.ok_or_else(|| io::Error::other(CacheError::MissingBlob(blob.digest)))?;
        place.open(blob).map_err(io::Error::other)
    }

    fn forget(&self, blob: &Descriptor, reason: &str) {
        self.forgotten.fetch_add(1, Ordering::Relaxed);
        let gone = {
            let mut blobs = self.known().blobs.lock().unwrap_or_else(PoisonError::into_inner);
            match blobs.get_mut(&blob.digest) {
                Some(having) if !having.is_empty() => Some(having.remove(0)),
                _ => None,
            }
        };
        if let Some(place) = gone.and_then(|index| self.places.get(index)) {
            (self.warn)(format!("cache {}: layer {} is not used: {reason}", place.name(), blob.digest));
        }
    }
}

impl fmt::Debug for Imports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Imports").field("places", &self.places).finish_non_exhaustive()
    }
}
