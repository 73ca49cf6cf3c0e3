//! Mending what [`Store::check`] finds, by dropping it: whatever is missing is made or fetched again when it is needed.

use rusqlite::{Connection, params};

use super::Store;
use super::check::{CheckDepth, Problem};
use super::db::{self, TxError};
use super::draft::LayerDraft;
use super::error::StoreError;
use super::layers::{self, LayerId};
use super::lease;
use super::locks::{FileLock, Kind, Mode};
use super::removed::{self, RemovedBy};

/// What was found, and what is left of it.
#[derive(Clone, Debug, Default)]
pub struct Repair {
    /// What was wrong.
    pub found: Vec<Problem>,
    /// What still is: a damaged database is begun anew by whoever opens the store next.
    pub left: Vec<Problem>,
}

impl Store {
    /// Looks for problems and drops what has one, with the records and images that need it. Builds may go on beside it;
    /// one that uses a damaged layer may fail.
    ///
    /// # Errors
    /// I/O.
    pub fn repair(&self, depth: CheckDepth) -> Result<Repair, StoreError> {
        let found = self.check(depth)?;
        if found.is_empty() {
            return Ok(Repair::default());
        }
        let _alone = FileLock::take_now(&self.lock_path("collect"), Mode::Exclusive, Kind::Kept)?;
        let trash = LayerDraft::new(self.root())?;
        self.db().write(|tx| {
            let gate = lease::close_gate(self.root())?;
            for problem in &found {
                self.drop_problem(tx, problem, &trash)?;
            }
            self.remove_unknown(tx, &lease::leased(self.root(), &gate)?, &trash)?;
            drop_incomplete(tx)?;
            Ok(())
        })?;
        self.db().sync()?;
        drop(trash);
        Ok(Repair { found, left: self.check(depth)? })
    }

    fn drop_problem(&self, tx: &Connection, problem: &Problem, trash: &LayerDraft) -> Result<(), TxError> {
        match problem {
            Problem::DamagedBlob { expected: blob, .. } | Problem::MissingBlob(blob) => {
                self.remove_blob(tx, blob, trash)
            }
            Problem::ChangedLayer { id, .. } | Problem::MissingLayer(id) => {
                layers::discard(self.root(), *id, trash)?;
                drop_layer(tx, *id)
            }
            Problem::RecordWithoutLayer { key, .. } => {
                Ok(removed::drop_record(tx, key.0.as_bytes(), RemovedBy::Damage)?)
            }
            Problem::Database(_) => {
                // Nothing can be trusted in it.
                db::mark_damaged(self.db().path());
                Ok(())
            }
            // What has no row and what needs them is dropped with all of its kind.
            Problem::UnknownLayer(_)
            | Problem::ImageWithoutBlob { .. }
            | Problem::ImageWithoutLayer { .. } => Ok(()),
        }
    }
}

fn drop_layer(tx: &Connection, id: LayerId) -> Result<(), TxError> {
    tx.execute("DELETE FROM layers WHERE id = ?1", params![id.as_bytes()])?;
    tx.execute(
        "UPDATE layers SET shared_bytes = 0, shared_with = NULL WHERE shared_with = ?1",
        params![id.as_bytes()],
    )?;
    Ok(())
}

/// Removes records and images whose parts are gone. A pulled layer can be pulled again, so an image with a manifest stays.
pub(super) fn drop_incomplete(tx: &Connection) -> Result<(), TxError> {
    let broken = "key IN (SELECT key FROM record_layers WHERE layer NOT IN (SELECT id FROM layers))";
    removed::note_all(tx, broken, RemovedBy::Damage)?;
    tx.execute_batch(
        "DELETE FROM records WHERE key IN
             (SELECT key FROM record_layers WHERE layer NOT IN (SELECT id FROM layers));
         DELETE FROM record_layers WHERE key NOT IN (SELECT key FROM records);
         DELETE FROM record_details WHERE key NOT IN (SELECT key FROM records);
         DELETE FROM images WHERE config NOT IN (SELECT digest FROM blobs)
             OR (manifest IS NOT NULL AND manifest NOT IN (SELECT digest FROM blobs))
             OR (manifest IS NULL AND seq IN
                 (SELECT image FROM image_layers WHERE layer NOT IN (SELECT id FROM layers)));
         DELETE FROM image_layers WHERE image NOT IN (SELECT seq FROM images);
         DELETE FROM compressed WHERE blob NOT IN (SELECT digest FROM blobs);",
    )?;
    Ok(())
}
