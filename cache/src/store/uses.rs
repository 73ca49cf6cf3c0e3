//! When things were used last.
//!
//! Finding something notes the use in memory; the notes are written in one transaction at the end of a build. Most builds
//! write nothing: a note may lag behind by [`GRAIN_SECONDS`].

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kiln_image::Digest;
use rusqlite::params;

use super::Store;
use super::db::{self, Db};
use super::error::StoreError;
use super::layers::LayerId;
use super::records::StepKey;

/// An hour: nothing is decided by less.
const GRAIN_SECONDS: i64 = 3600;

/// Uses that are not written yet.
#[derive(Debug, Default)]
pub(super) struct Uses(Mutex<Notes>);

#[derive(Debug, Default)]
struct Notes {
    layers: HashSet<LayerId>,
    records: HashSet<StepKey>,
    blobs: HashSet<Digest>,
}

impl Uses {
    pub(super) fn layer(&self, id: LayerId, used_at: i64) {
        if is_stale(used_at) {
            self.lock().layers.insert(id);
        }
    }

    pub(super) fn record(&self, key: &StepKey, used_at: i64) {
        if is_stale(used_at) {
            self.lock().records.insert(*key);
        }
    }

    pub(super) fn blob(&self, digest: &Digest, used_at: i64) {
        if is_stale(used_at) {
            self.lock().blobs.insert(*digest);
        }
    }

    /// Writes what was noted, in one transaction; nothing for nothing.
    pub(super) fn write(&self, db: &Db) -> Result<(), StoreError> {
        let notes = std::mem::take(&mut *self.lock());
        if notes.layers.is_empty() && notes.records.is_empty() && notes.blobs.is_empty() {
            return Ok(());
        }
        let now = db::now();
        db.write(|tx| {
            let mut layer =
                tx.prepare_cached("UPDATE layers SET used_at = ?2, uses = uses + 1 WHERE id = ?1")?;
            for id in &notes.layers {
                layer.execute(params![id.as_bytes(), now])?;
            }
            let mut record =
                tx.prepare_cached("UPDATE records SET used_at = ?2, uses = uses + 1 WHERE key = ?1")?;
            for key in &notes.records {
                record.execute(params![key.0.as_bytes(), now])?;
            }
            let mut blob = tx.prepare_cached("UPDATE blobs SET used_at = ?2 WHERE digest = ?1")?;
            for digest in &notes.blobs {
                blob.execute(params![digest.as_bytes(), now])?;
            }
            Ok(())
        })
    }

    fn lock(&self) -> MutexGuard<'_, Notes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// Writes down what this handle and its clones used, for garbage collection. Whoever forgets it has it done when the
    /// last clone is dropped.
    ///
    /// # Errors
    /// I/O.
    pub fn note_uses(&self) -> Result<(), StoreError> {
        self.inner.uses.write(self.db())
    }
}

fn is_stale(used_at: i64) -> bool {
    db::now() - used_at >= GRAIN_SECONDS
}
