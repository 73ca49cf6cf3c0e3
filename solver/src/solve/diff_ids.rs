//! DiffIds of new layers: computed by threads beside the steps that follow, asked for when the image is put together.

use std::collections::HashMap;
use std::sync::{MutexGuard, PoisonError};
use std::thread;

use kiln_cache::{Layer, LayerFacts, LayerId, LayerListing, Store, StoreError};
use kiln_image::DiffId;

use super::layers::Pulls;

/// So many DiffIds that no step of the build started are computed at once.
const DIFF_IDS_AT_ONCE: usize = 4;

/// A thread that computes a layer's DiffId.
#[derive(Debug)]
pub(super) enum DiffIdWorker {
    /// The store's own way, which remembers it.
    Store(thread::JoinHandle<Result<DiffId, StoreError>>),
    /// Started before the layer was complete.
    Follower(JoinFollower),
}

/// `None`: it could not, and somebody else has to.
pub(super) type JoinFollower = thread::JoinHandle<Option<DiffId>>;

impl Pulls {
    /// Starts computing a new layer's DiffId beside the steps that follow, of its `listing` if there is one.
    pub(super) fn start_diff_id(&self, store: &Store, id: LayerId, listing: Option<LayerListing>) {
        let store = store.clone();
        let compute = move || match listing {
            Some(listing) => store.diff_id_of_listed(id, listing),
            None => store.diff_id(id),
        };
        let worker = thread::Builder::new().name("kiln-diff-id".into()).spawn(compute);
        // Without a thread the DiffId is computed when it is asked for.
        if let Ok(worker) = worker {
            self.note_worker(id, DiffIdWorker::Store(worker));
        }
    }

    /// A new layer's DiffId will come from `worker`.
    pub(super) fn follow_diff_id(&self, id: LayerId, worker: JoinFollower) {
        self.note_worker(id, DiffIdWorker::Follower(worker));
    }

    fn note_worker(&self, id: LayerId, worker: DiffIdWorker) {
        self.workers().insert(id, worker);
    }

    fn workers(&self) -> MutexGuard<'_, HashMap<LayerId, DiffIdWorker>> {
        self.diff_id_workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The DiffIds of layers, waiting for the threads that compute them; `facts` is what the store knows of them. Those that
    /// nobody computes yet are computed beside each other.
    ///
    /// # Errors
    /// I/O.
    pub fn diff_ids(
        &self,
        store: &Store,
        layers: &[Layer],
        facts: &[Option<LayerFacts>],
    ) -> Result<Vec<DiffId>, StoreError> {
        let known = layers.iter().zip(facts).map(|(layer, facts)| {
            // A pulled layer is named by its DiffId and need not be there.
            let pulled = DiffId(layer.contents.0);
            let is_pulled = LayerId::from(pulled) == layer.id;
            if is_pulled { Some(pulled) } else { facts.and_then(|facts| facts.diff_id) }
        });
        let known: Vec<_> = known.collect();
        let unknown = layers.iter().zip(&known).filter(|(_, known)| known.is_none());
        for (layer, _) in unknown.take(DIFF_IDS_AT_ONCE) {
            let is_started = self.workers().contains_key(&layer.id);
            if !is_started {
                self.start_diff_id(store, layer.id, None);
            }
        }
        let computed = known.iter().zip(layers).map(|(known, layer)| match known {
            Some(diff_id) => Ok(*diff_id),
            None => self.computed_diff_id(store, layer.id),
        });
        computed.collect()
    }

    /// What the layer's worker found, or what is computed now.
    fn computed_diff_id(&self, store: &Store, id: LayerId) -> Result<DiffId, StoreError> {
        let worker = self.workers().remove(&id);
        match worker {
            Some(DiffIdWorker::Store(worker)) => worker.join().unwrap_or_else(|_| store.diff_id(id)),
            Some(DiffIdWorker::Follower(worker)) => match worker.join() {
                Ok(Some(diff_id)) => {
                    store.remember_diff_id(id, diff_id)?;
                    Ok(diff_id)
                }
                _ => store.diff_id(id),
            },
            None => store.diff_id(id),
        }
    }
}
