//! Past builds, a row each; what is in it is the engine's business.

use rusqlite::params;

use super::Store;
use super::error::StoreError;
use super::packed::{pack, unpack};

/// So many are remembered.
const MAX_BUILDS: i64 = 256;
/// A build that takes more is not remembered: with [`MAX_BUILDS`], the history stays below 64 MB.
const MAX_BUILD_BYTES: usize = 256 << 10;

/// A past build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildRow {
    /// Its name among all, lower-case hex digits.
    pub id: String,
    /// What is known of it, as the engine wrote it.
    pub about: Vec<u8>,
}

impl Store {
    /// Remembers a build, and forgets the oldest beyond 256. One transaction.
    ///
    /// # Errors
    /// I/O.
    pub fn add_build(&self, build: &BuildRow) -> Result<(), StoreError> {
        let about = pack(&build.about);
        if about.len() > MAX_BUILD_BYTES {
            return Ok(());
        }
        self.db().write(|tx| {
            tx.prepare_cached("INSERT OR REPLACE INTO builds(id, about) VALUES(?1, ?2)")?
                .execute(params![build.id, about])?;
            let newest = tx.last_insert_rowid();
            tx.prepare_cached("DELETE FROM builds WHERE seq <= ?1")?.execute(params![newest - MAX_BUILDS])?;
            Ok(())
        })
    }

    /// The remembered builds, newest first.
    ///
    /// # Errors
    /// I/O.
    pub fn builds(&self) -> Result<Vec<BuildRow>, StoreError> {
        let rows: Vec<(String, Vec<u8>)> = self.db().read(|connection| {
            connection
                .prepare_cached("SELECT id, about FROM builds ORDER BY seq DESC")?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        })?;
        let unpacked =
            rows.into_iter().filter_map(|(id, about)| Some(BuildRow { id, about: unpack(&about)? }));
        Ok(unpacked.collect())
    }

    /// Forgets builds. Returns how many there were; unknown ids are none.
    ///
    /// # Errors
    /// I/O.
    pub fn remove_builds(&self, ids: &[String]) -> Result<usize, StoreError> {
        self.db().write(|tx| {
            let mut removed = 0;
            for id in ids {
                removed += tx.prepare_cached("DELETE FROM builds WHERE id = ?1")?.execute(params![id])?;
            }
            Ok(removed)
        })
    }
}
