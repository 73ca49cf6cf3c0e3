//! The database: schema, versions, transactions.
//!
//! WAL with `synchronous=NORMAL`: a commit is a write without fsync, a kill loses nothing, a power cut may lose the
//! newest transactions but never the order among them. Nothing checkpoints in a step's way: the settling thread does
//! (see `settle`), and SQLite itself only once the log has [`BACKSTOP_PAGES`] pages.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Transaction, TransactionBehavior};

use super::error::{At, StoreError};
use super::migrate;

/// The format of the database and of the directories beside it (`PRAGMA user_version`).
pub(super) const FORMAT: u32 = 5;
/// Another process' transaction takes milliseconds; this long means it is stuck.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);
/// 16 MB of log, should no settling thread ever live long enough to checkpoint.
const BACKSTOP_PAGES: u32 = 4_000;
/// The first to open the database reads the whole log, page by page (some 2 ms and 250 system calls for each MB), and so
/// does each of the builds that follow and find everything done: above this it is worth two fsyncs in the background, once.
const LARGE_LOG_BYTES: u64 = 96 << 10;
/// Builds go first: a checkpoint that finds them at work leaves the log's end for the next time.
const CHECKPOINT_TIMEOUT: Duration = Duration::from_millis(100);
/// 8 MB of free pages are worth a rewrite of the database's end.
const WORTH_PAGES: u32 = 2_000;
/// All statements of this crate stay prepared.
const CACHED_STATEMENTS: usize = 64;

/// `seq` never comes again (AUTOINCREMENT), so "all up to this one" means the same before and after a sync.
/// `layers.origin`: see `layers::Origin`. Times are seconds since the epoch.
const SCHEMA: &str = "
CREATE TABLE meta(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE layers(
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id BLOB NOT NULL UNIQUE,
    contents BLOB NOT NULL,
    origin INTEGER NOT NULL,
    size_bytes INTEGER,
    diff_id BLOB,
    settled INTEGER NOT NULL DEFAULT 0,
    made_at INTEGER NOT NULL,
    used_at INTEGER NOT NULL
);
CREATE INDEX layers_unsettled ON layers(seq) WHERE settled = 0;
CREATE TABLE blobs(
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    digest BLOB NOT NULL UNIQUE,
    size_bytes INTEGER NOT NULL,
    settled INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX blobs_unsettled ON blobs(seq) WHERE settled = 0;
CREATE TABLE records(
    key BLOB PRIMARY KEY,
    name TEXT NOT NULL,
    duration_ns INTEGER NOT NULL,
    made_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE record_layers(
    key BLOB NOT NULL,
    position INTEGER NOT NULL,
    layer BLOB NOT NULL,
    PRIMARY KEY(key, position)
) WITHOUT ROWID;
CREATE INDEX record_layers_by_layer ON record_layers(layer);
CREATE TABLE images(
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT,
    os TEXT NOT NULL,
    architecture TEXT NOT NULL,
    variant TEXT NOT NULL,
    config BLOB NOT NULL,
    manifest BLOB,
    remote_digest BLOB,
    tagged_at INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL
);
CREATE UNIQUE INDEX images_by_name ON images(name, os, architecture, variant) WHERE name IS NOT NULL;
CREATE INDEX images_by_config ON images(config);
CREATE TABLE image_layers(
    image INTEGER NOT NULL,
    position INTEGER NOT NULL,
    layer BLOB NOT NULL,
    PRIMARY KEY(image, position)
) WITHOUT ROWID;
CREATE INDEX image_layers_by_layer ON image_layers(layer);
CREATE TABLE compressed(
    diff_id BLOB NOT NULL,
    how TEXT NOT NULL,
    blob BLOB NOT NULL,
    PRIMARY KEY(diff_id, how)
) WITHOUT ROWID;
CREATE TABLE mounts(name TEXT PRIMARY KEY, id TEXT NOT NULL, made_at INTEGER NOT NULL) WITHOUT ROWID;
";

/// The connection; one a store, used by one thread at a time.
#[derive(Debug)]
pub(super) struct Db {
    path: PathBuf,
    connection: Mutex<Connection>,
}

/// What a freshly opened database is.
pub(super) enum Opened {
    /// Ready, and the run of the machine in which the store was last recovered.
    Ready(Db, Option<String>),
    /// Empty: it wants its schema, under the store's opening lock.
    Unformatted,
    /// Of an older format: to be brought up to date by who has the store alone.
    Older,
}

/// What stops a transaction.
#[derive(Debug)]
pub(super) enum TxError {
    Sql(rusqlite::Error),
    Store(StoreError),
}

impl From<rusqlite::Error> for TxError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<StoreError> for TxError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Db {
    /// Opens a database that has its schema.
    pub(super) fn open(path: &Path) -> Result<Opened, StoreError> {
        if damage_mark(path).exists() {
            return Err(StoreError::Corrupt { path: path.into(), reason: "found damaged before".into() });
        }
        if !path.exists() {
            return Ok(Opened::Unformatted);
        }
        let failed = |error| failure(path, &error);
        let connection = connect(path).map_err(failed)?;
        let (format, boot_id) = read_head(&connection).map_err(failed)?;
        if format > FORMAT {
            return Err(StoreError::NewerFormat { path: path.into(), found: format, known: FORMAT });
        }
        if (migrate::FIRST_KNOWN..FORMAT).contains(&format) {
            return Ok(Opened::Older);
        }
        if format < FORMAT {
            return Ok(Opened::Unformatted);
        }
        be_durable(&connection).map_err(failed)?;
        Ok(Opened::Ready(Self { path: path.into(), connection: Mutex::new(connection) }, boot_id))
    }

    /// Gives an empty database its schema, or an older one what it lacks. The caller holds the opening lock, and for an
    /// older one the store alone.
    pub(super) fn format(path: &Path) -> Result<Self, StoreError> {
        let failed = |error| failure(path, &error);
        let mut connection = connect(path).map_err(failed)?;
        let format: u32 =
            connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed)?;
        // A new database holds nothing that a power cut could take, and costs eight fsyncs.
        if format == 0 {
            connection.pragma_update(None, "synchronous", "OFF").map_err(failed)?;
        } else {
            be_durable(&connection).map_err(failed)?;
        }
        // To be said before there is anything: what removed rows leave can be given back (see `shrink`).
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL").map_err(failed)?;
        connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        if format != FORMAT {
            if format < migrate::FIRST_KNOWN {
                transaction.execute_batch(SCHEMA).map_err(failed)?;
                transaction.execute_batch(migrate::FORMAT_3).map_err(failed)?;
                transaction.execute_batch(migrate::FORMAT_4).map_err(failed)?;
                transaction.execute_batch(migrate::FORMAT_5).map_err(failed)?;
            } else {
                migrate::migrate(&transaction, format).map_err(failed)?;
            }
            transaction.pragma_update(None, "user_version", FORMAT).map_err(failed)?;
        }
        transaction.commit().map_err(failed)?;
        be_durable(&connection).map_err(failed)?;
        Ok(Self { path: path.into(), connection: Mutex::new(connection) })
    }

    /// Reads. The statements of `body` see one state of the database only if it makes just one.
    pub(super) fn read<T>(
        &self,
        body: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        body(&self.connection()).map_err(|error| failure(&self.path, &error))
    }

    /// Reads with many statements, which see one state of the database: a lock is taken for all of them, not for each.
    pub(super) fn read_together<T>(
        &self,
        body: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        self.read(|connection| {
            let transaction = connection.unchecked_transaction()?;
            let value = body(&transaction)?;
            transaction.commit()?;
            Ok(value)
        })
    }

    /// Runs `body` as one transaction, alone among all processes' writers from its start.
    pub(super) fn write<T>(
        &self,
        body: impl FnOnce(&Transaction<'_>) -> Result<T, TxError>,
    ) -> Result<T, StoreError> {
        let mut connection = self.connection();
        let run = || {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = body(&transaction)?;
            transaction.commit()?;
            Ok(value)
        };
        run().map_err(|error| match error {
            TxError::Sql(error) => failure(&self.path, &error),
            TxError::Store(error) => error,
        })
    }

    /// Gets what is committed to the disk: fdatasync(2) of the log. Commits do not wait for it, so that after a power cut the
    /// database may be behind the files; this is for what it must not be behind of.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        let [log, _] = companions(&self.path);
        match File::open(&log).and_then(|log| log.sync_data()) {
            // Folded into the database, which was synced then.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            synced => synced.at(&log),
        }
    }

    /// Whether the log is long enough to slow the next opening down.
    pub(super) fn has_large_log(&self) -> bool {
        let [log, _] = companions(&self.path);
        std::fs::metadata(&log).is_ok_and(|found| found.len() > LARGE_LOG_BYTES)
    }

    /// Folds the log into the database, empties it and begins it anew. Waits for three fsyncs; other connections write on
    /// meanwhile, but for the last moments.
    pub(super) fn checkpoint(&self) -> Result<(), StoreError> {
        self.read(|connection| {
            connection.busy_timeout(CHECKPOINT_TIMEOUT)?;
            // The bulk without a lock; then what came meanwhile, and the emptying, with one.
            for pragma in ["PRAGMA wal_checkpoint(PASSIVE)", "PRAGMA wal_checkpoint(TRUNCATE)"] {
                connection.query_row(pragma, [], |_| Ok(()))?;
            }
            connection.busy_timeout(BUSY_TIMEOUT)
        })?;
        self.begin_log()
    }

    /// Writes what is there already. The first commit into an empty log waits for the disk, and would wait for all files that
    /// a step just made: it is this one.
    fn begin_log(&self) -> Result<(), StoreError> {
        self.write(|tx| Ok(tx.pragma_update(None, "user_version", FORMAT)?))
    }

    /// Gives back what removed rows left, where it is much.
    pub(super) fn shrink(&self) -> Result<(), StoreError> {
        let free: u32 =
            self.read(|connection| connection.pragma_query_value(None, "freelist_count", |row| row.get(0)))?;
        if free < WORTH_PAGES {
            return Ok(());
        }
        self.read(|connection| {
            let mut statement = connection.prepare("PRAGMA incremental_vacuum")?;
            let mut rows = statement.query([])?;
            while rows.next()?.is_some() {}
            Ok(())
        })?;
        self.checkpoint()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        // A panic in a closure rolled its transaction back; the connection is whole.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a schema that is not ours, or is broken, is set aside under.
pub(super) fn aside(path: &Path) -> PathBuf {
    path.with_extension("sqlite.damaged")
}

/// A file that says "this database turned out damaged": seen where no rebuild is possible, acted on at the next open.
pub(super) fn damage_mark(path: &Path) -> PathBuf {
    path.with_extension("sqlite.is-damaged")
}

/// Has the database begun anew by whoever opens it next and is alone then.
pub(super) fn mark_damaged(path: &Path) {
    let _ = std::fs::write(damage_mark(path), b"");
}

/// SQLite's companions of a database file.
pub(super) fn companions(path: &Path) -> [PathBuf; 2] {
    [path.with_extension("sqlite-wal"), path.with_extension("sqlite-shm")]
}

pub(super) fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs().cast_signed())
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        // One thread at a time, by the mutex.
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // The file is input: no function of its schema runs, no trigger or view that was planted acts.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false)?;
    // The last process to leave would wait for two fsyncs.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    // Else whatever is bound to a statement may make it be prepared once more.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    // Not read through a map: where the file is cut off or the disk fails, that kills the process.
    connection.pragma_update(None, "wal_autocheckpoint", BACKSTOP_PAGES)?;
    connection.set_prepared_statement_cache_capacity(CACHED_STATEMENTS);
    Ok(connection)
}

/// What every opening looks at, in one transaction: the format and the [`boot_id`].
fn read_head(connection: &Connection) -> rusqlite::Result<(u32, Option<String>)> {
    let transaction = connection.unchecked_transaction()?;
    let format = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if format != FORMAT {
        return Ok((format, None));
    }
    let boot_id = boot_id(&transaction)?;
    transaction.commit()?;
    Ok((format, boot_id))
}

/// The run of the machine in which the store was last recovered.
pub(super) fn boot_id(connection: &Connection) -> rusqlite::Result<Option<String>> {
    connection
        .prepare_cached("SELECT value FROM meta WHERE name = 'boot_id'")?
        .query_row([], |row| row.get(0))
        .optional()
}

/// Before the first write. It wants to know the schema, which costs nothing once that was read.
fn be_durable(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "synchronous", "NORMAL")
}

/// Says what SQLite's refusal means for the store, and leaves a mark if it means damage.
fn failure(path: &Path, error: &rusqlite::Error) -> StoreError {
    const NO_SHARED_MEMORY: i32 = rusqlite::ffi::SQLITE_IOERR_SHMSIZE;
    let path = path.to_path_buf();
    let reason = error.to_string();
    let damaged = match error {
        rusqlite::Error::SqliteFailure(code, message) => match (code.code, code.extended_code) {
            (ErrorCode::DiskFull, _) | (_, NO_SHARED_MEMORY) => return StoreError::DiskFull { path },
            (ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied, _) => {
                return StoreError::NotWritable { path };
            }
            (ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase, _) => true,
            // A table or column of the schema above is gone, or was there before it.
            (ErrorCode::Unknown, _) => message
                .as_deref()
                .is_some_and(|text| text.contains("no such") || text.contains("already exists")),
            _ => false,
        },
        rusqlite::Error::SqlInputError { msg, .. } => {
            msg.contains("no such") || msg.contains("already exists") || msg.contains("malformed")
        }
        // A value of a kind that kiln never writes there.
        rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::IntegralValueOutOfRange(..) => true,
        _ => false,
    };
    if damaged {
        mark_damaged(&path);
        return StoreError::Corrupt { path, reason };
    }
    StoreError::Database { path, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_format_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db.sqlite");
        drop(Db::format(&path).unwrap());
        connect(&path).unwrap().pragma_update(None, "user_version", FORMAT + 7).unwrap();
        assert!(matches!(
            Db::open(&path),
            Err(StoreError::NewerFormat { found, known: FORMAT, .. }) if found == FORMAT + 7
        ));
    }

    #[test]
    fn a_log_that_was_folded_in_has_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db.sqlite");
        let db = Db::format(&path).unwrap();
        db.checkpoint().unwrap();
        let [log, _] = companions(&path);
        let head = || std::fs::read(&log).unwrap()[..32].to_vec();
        let begun = head();
        db.write(|tx| Ok(tx.execute("INSERT INTO meta VALUES('a', 'b')", [])?)).unwrap();
        assert_eq!(head(), begun, "the commit begins the log, and waits for the disk");
    }

    #[test]
    fn a_planted_trigger_does_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db.sqlite");
        drop(Db::format(&path).unwrap());
        Connection::open(&path)
            .unwrap()
            .execute_batch("CREATE TRIGGER t AFTER INSERT ON meta BEGIN DELETE FROM meta; END;")
            .unwrap();
        let Opened::Ready(db, _) = Db::open(&path).unwrap() else { panic!("no schema") };
        db.write(|tx| Ok(tx.execute("INSERT INTO meta VALUES('a', 'b')", [])?)).unwrap();
        let rows: u32 = db.read(|c| c.query_row("SELECT count(*) FROM meta", [], |row| row.get(0))).unwrap();
        assert_eq!(rows, 1);
    }
}
