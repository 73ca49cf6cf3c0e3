//! From an older format of the database to this one.

use rusqlite::{Connection, params};

use super::packed::pack;

/// Format 2: a record's log stood beside it, and was read whenever it was found.
pub(super) const FIRST_KNOWN: u32 = 2;

/// What format 3 adds.
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
CREATE TABLE builds(seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, about BLOB NOT NULL);
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
    Ok(())
}
