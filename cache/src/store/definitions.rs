//! Which key a step's definition came to.
//!
//! Some keys are made of what is at a path of a stage, and the stage must be looked into to make them. What a step is
//! by its text and by the names of its stages' layers, its definition, costs nothing; the same one always comes to the
//! same key. So a build asks here first, and looks only where a definition is new. An entry whose record is gone does
//! no harm; the newest [`MAX_DEFINITIONS`] are kept.

use rusqlite::{Connection, OptionalExtension, params};

use super::Store;
use super::error::StoreError;
use super::records::StepKey;
use kiln_image::Digest;

/// Some 2 MB.
const MAX_DEFINITIONS: i64 = 16_384;

impl Store {
    /// The key that `definition` came to.
    ///
    /// # Errors
    /// I/O.
    pub fn defined(&self, definition: &StepKey) -> Result<Option<StepKey>, StoreError> {
        self.db().read(|connection| find(connection, definition))
    }

    /// Remembers that `definition` came to `key`.
    ///
    /// # Errors
    /// I/O.
    pub fn define(&self, definition: &StepKey, key: &StepKey) -> Result<(), StoreError> {
        self.db().write(|tx| {
            if find(tx, definition)? == Some(*key) {
                return Ok(());
            }
            tx.prepare_cached("INSERT OR REPLACE INTO definitions(definition, key) VALUES(?1, ?2)")?
                .execute(params![definition.0.as_bytes(), key.0.as_bytes()])?;
            tx.prepare_cached(
                "DELETE FROM definitions WHERE seq <= (SELECT max(seq) FROM definitions) - ?1",
            )?
            .execute(params![MAX_DEFINITIONS])?;
            Ok(())
        })
    }
}

fn find(connection: &Connection, definition: &StepKey) -> rusqlite::Result<Option<StepKey>> {
    connection
        .prepare_cached("SELECT key FROM definitions WHERE definition = ?1")?
        .query_row(params![definition.0.as_bytes()], |row| Ok(StepKey(Digest::from_bytes(row.get(0)?))))
        .optional()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: i64) -> StepKey {
        StepKey(Digest::of(&n.to_le_bytes()))
    }

    #[test]
    fn a_definition_comes_to_what_was_said_last() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        assert_eq!(store.defined(&key(1)).unwrap(), None);
        store.define(&key(1), &key(2)).unwrap();
        store.define(&key(1), &key(2)).unwrap();
        assert_eq!(store.defined(&key(1)).unwrap(), Some(key(2)));
        store.define(&key(1), &key(3)).unwrap();
        assert_eq!(store.defined(&key(1)).unwrap(), Some(key(3)));
    }

    #[test]
    fn only_the_newest_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        store.define(&key(0), &key(0)).unwrap();
        store
            .db()
            .write(|tx| Ok(tx.execute("UPDATE definitions SET seq = seq - ?1", params![MAX_DEFINITIONS])?))
            .unwrap();
        store.define(&key(1), &key(1)).unwrap();
        store.define(&key(2), &key(2)).unwrap();
        assert_eq!(store.defined(&key(0)).unwrap(), None);
        assert_eq!(store.defined(&key(2)).unwrap(), Some(key(2)));
    }
}
