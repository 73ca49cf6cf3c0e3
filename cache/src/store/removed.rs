//! Which records are gone, and why: an explanation's "removed by garbage collection on …".
//!
//! Whoever deletes a record calls [`drop_record`] (or, for many at once, [`note_all`] first), in the transaction that
//! deletes it. The newest [`MAX_REMOVED`] are remembered.

use rusqlite::{Connection, OptionalExtension, params};

use super::Store;
use super::db;
use super::error::StoreError;
use super::records::StepKey;

/// Some 300 kB.
const MAX_REMOVED: i64 = 4096;

/// Why a record went. Stored as the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RemovedBy {
    /// Its layer was missing or damaged.
    Damage = 0,
    /// The store kept itself within its limits.
    GarbageCollection = 1,
    /// The user removed it.
    Prune = 2,
}

/// A record that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removed {
    /// Why.
    pub by: RemovedBy,
    /// When, in seconds since the epoch.
    pub at: i64,
}

impl Store {
    /// When and why the record of `key` was last removed, if it was and that is still known. It may have been made again
    /// since then.
    ///
    /// # Errors
    /// I/O.
    pub fn removed(&self, key: &StepKey) -> Result<Option<Removed>, StoreError> {
        self.db().read(|connection| {
            connection
                .prepare_cached("SELECT removed_by, removed_at FROM removed WHERE key = ?1")?
                .query_row(params![key.0.as_bytes()], |row| {
                    let by = match row.get(0)? {
                        1 => RemovedBy::GarbageCollection,
                        2 => RemovedBy::Prune,
                        _ => RemovedBy::Damage,
                    };
                    Ok(Removed { by, at: row.get(1)? })
                })
                .optional()
        })
    }
}

/// Deletes the record of `key` with all that belongs to it, and remembers that.
pub(super) fn drop_record(tx: &Connection, key: &[u8; 32], by: RemovedBy) -> rusqlite::Result<()> {
    let noted = tx
        .prepare_cached(
            "INSERT OR REPLACE INTO removed(key, removed_by, removed_at)
             SELECT key, ?2, ?3 FROM records WHERE key = ?1",
        )?
        .execute(params![key, by as i64, db::now()])?;
    for table in ["records", "record_layers", "record_details"] {
        tx.prepare_cached(&format!("DELETE FROM {table} WHERE key = ?1"))?.execute(params![key])?;
    }
    if noted > 0 { forget_oldest(tx) } else { Ok(()) }
}

/// Remembers that the records which `condition`, in SQL, selects are about to be deleted.
pub(super) fn note_all(tx: &Connection, condition: &str, by: RemovedBy) -> rusqlite::Result<()> {
    tx.prepare(&format!(
        "INSERT OR REPLACE INTO removed(key, removed_by, removed_at)
         SELECT key, ?1, ?2 FROM records WHERE {condition}"
    ))?
    .execute(params![by as i64, db::now()])?;
    forget_oldest(tx)
}

fn forget_oldest(tx: &Connection) -> rusqlite::Result<()> {
    tx.prepare_cached("DELETE FROM removed WHERE seq <= (SELECT max(seq) FROM removed) - ?1")?
        .execute(params![MAX_REMOVED])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_are_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let key = |n: i64| {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&n.to_le_bytes());
            key
        };
        store
            .db()
            .write(|tx| {
                for n in 0..=MAX_REMOVED {
                    tx.execute(
                        "INSERT INTO records(key, name, duration_ns, made_at) VALUES(?1, '', 0, 0)",
                        params![key(n)],
                    )?;
                    drop_record(tx, &key(n), RemovedBy::Prune)?;
                }
                Ok(())
            })
            .unwrap();
        let removed = |n| store.removed(&StepKey(kiln_image::Digest::from_bytes(key(n)))).unwrap();
        assert_eq!(removed(0), None);
        assert_eq!(removed(1).unwrap().by, RemovedBy::Prune);
        assert_eq!(removed(MAX_REMOVED).unwrap().by, RemovedBy::Prune);
    }
}
