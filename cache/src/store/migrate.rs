//! From an older format of the database to this one.

use rusqlite::{Connection, params};

use super::packed::pack;

/// Format 2: a record's log stood beside it, and was read whenever it was found.
pub(super) const FIRST_KNOWN: u32 = 2;

/// What format 3 adds. Some stores have a table `builds` as well, which nothing uses: past builds have a file of their own.
pub(super) const FORMAT_3: &str = "
CREATE TABLE record_details(
    key BLOB PRIMARY KEY,
    cpu_ns INTEGER NOT NULL,
    peak_memory_bytes INTEGER NOT NULL,
    read_bytes INTEGER NOT NULL,
    written_bytes INTEGER NOT NULL,
    log BLOB NOT NULL,
    facts BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE removed(
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    key BLOB NOT NULL UNIQUE,
    removed_by INTEGER NOT NULL,
    removed_at INTEGER NOT NULL
);
";

/// What format 4 adds. `disk_bytes` counts what the layer shares with `shared_with` (hard links), `shared_bytes` is that part.
pub(super) const FORMAT_4: &str = "
ALTER TABLE layers ADD COLUMN disk_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE layers ADD COLUMN shared_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE layers ADD COLUMN shared_with BLOB;
ALTER TABLE layers ADD COLUMN uses INTEGER NOT NULL DEFAULT 1;
UPDATE layers SET disk_bytes = coalesce(size_bytes, 0);
CREATE INDEX layers_shared_with ON layers(shared_with) WHERE shared_with IS NOT NULL;
CREATE INDEX layers_space ON layers(disk_bytes, shared_bytes);
ALTER TABLE blobs ADD COLUMN used_at INTEGER NOT NULL DEFAULT 0;
CREATE INDEX blobs_space ON blobs(size_bytes);
ALTER TABLE records ADD COLUMN used_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE records ADD COLUMN uses INTEGER NOT NULL DEFAULT 1;
UPDATE records SET used_at = made_at;
ALTER TABLE mounts ADD COLUMN used_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE mounts ADD COLUMN uses INTEGER NOT NULL DEFAULT 1;
ALTER TABLE mounts ADD COLUMN size_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE mounts ADD COLUMN measured_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE mounts ADD COLUMN settled INTEGER NOT NULL DEFAULT 0;
CREATE INDEX mounts_unsettled ON mounts(name) WHERE settled = 0;
UPDATE mounts SET used_at = made_at, settled = 1;
";

/// What format 5 adds.
pub(super) const FORMAT_5: &str = "
CREATE TABLE definitions(
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    definition BLOB NOT NULL UNIQUE,
    key BLOB NOT NULL
);
";

/// Brings a database of format `from` up to date. The caller holds the store alone, and the transaction.
pub(super) fn migrate(tx: &Connection, from: u32) -> rusqlite::Result<()> {
    if from < 3 {
        tx.execute_batch(FORMAT_3)?;
        let mut records = tx.prepare("SELECT key, log FROM records")?;
        let mut rows = records.query([])?;
        while let Some(row) = rows.next()? {
            let (key, log): ([u8; 32], Vec<u8>) = (row.get(0)?, row.get(1)?);
            tx.execute(
                "INSERT INTO record_details VALUES(?1, 0, 0, 0, 0, ?2, ?3)",
                params![key, pack(&log), pack(b"")],
            )?;
        }
        tx.execute_batch("ALTER TABLE records DROP COLUMN log")?;
    }
    if from < 4 {
        tx.execute_batch(FORMAT_4)?;
    }
    if from < 5 {
        tx.execute_batch(FORMAT_5)?;
    }
    Ok(())
}
