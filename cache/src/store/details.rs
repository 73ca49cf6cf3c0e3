//! What a record says beside its result: what the step printed, what it cost, what it was made of. No build reads it.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};

use super::Store;
use super::error::StoreError;
use super::packed::{pack, unpack};
use super::records::{NewRecord, StepKey};

/// What running a step took. Zero for what was not measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// How long it ran.
    pub duration: Duration,
    /// CPU time, user and system, of all its processes.
    pub cpu: Duration,
    /// Peak memory in bytes: of its control group where it had one, else of its largest process.
    pub peak_memory_bytes: u64,
    /// Bytes read from disk.
    pub read_bytes: u64,
    /// Bytes written to disk.
    pub written_bytes: u64,
}

/// A record for people.
#[derive(Clone, Debug, Default)]
pub struct Details {
    /// What the step was.
    pub name: String,
    /// When it ran, in seconds since the epoch.
    pub made_at: i64,
    /// What it took.
    pub cost: Cost,
    /// Bytes of file data that it added, where known.
    pub added_bytes: Option<u64>,
    /// What it printed, stdout and stderr interleaved, capped.
    pub log: Vec<u8>,
    /// What it was made of, see [`NewRecord::facts`].
    pub facts: Vec<u8>,
}

impl Store {
    /// The details of a record. Its layers need not be there.
    ///
    /// # Errors
    /// I/O.
    pub fn details(&self, key: &StepKey) -> Result<Option<Details>, StoreError> {
        self.db().read(|connection| read(connection, key))
    }
}

fn read(connection: &Connection, key: &StepKey) -> rusqlite::Result<Option<Details>> {
    let mut statement = connection.prepare_cached(
        "SELECT r.name, r.made_at, r.duration_ns, d.cpu_ns, d.peak_memory_bytes, d.read_bytes, d.written_bytes,
             d.log, d.facts,
             (SELECT sum(l.size_bytes) FROM record_layers rl JOIN layers l ON l.id = rl.layer WHERE rl.key = r.key)
         FROM records r LEFT JOIN record_details d ON d.key = r.key WHERE r.key = ?1",
    )?;
    let found = statement.query_row(params![key.0.as_bytes()], |row| {
        let number = |column: usize| {
            row.get::<_, Option<i64>>(column).map(|value| value.map_or(0, i64::cast_unsigned))
        };
        let bytes = |column: usize| {
            let packed: Option<Vec<u8>> = row.get(column)?;
            Ok::<_, rusqlite::Error>(packed.and_then(|packed| unpack(&packed)).unwrap_or_default())
        };
        Ok(Details {
            name: row.get(0)?,
            made_at: row.get(1)?,
            cost: Cost {
                duration: Duration::from_nanos(number(2)?),
                cpu: Duration::from_nanos(number(3)?),
                peak_memory_bytes: number(4)?,
                read_bytes: number(5)?,
                written_bytes: number(6)?,
            },
            log: bytes(7)?,
            facts: bytes(8)?,
            added_bytes: row.get::<_, Option<i64>>(9)?.map(i64::cast_unsigned),
        })
    });
    found.optional()
}

/// As the database has them; packed outside of any transaction.
pub(super) struct PackedDetails {
    cost: Cost,
    log: Vec<u8>,
    facts: Vec<u8>,
}

impl PackedDetails {
    pub(super) fn of(new: &NewRecord) -> Self {
        Self { cost: new.cost, log: pack(&new.log), facts: pack(&new.facts) }
    }

    pub(super) fn write(&self, tx: &Connection, key: &StepKey) -> rusqlite::Result<()> {
        let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        tx.prepare_cached(
            "INSERT OR REPLACE INTO record_details(key, cpu_ns, peak_memory_bytes, read_bytes, written_bytes, log, facts)
             VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            key.0.as_bytes(),
            nanoseconds(self.cost.cpu),
            signed(self.cost.peak_memory_bytes),
            signed(self.cost.read_bytes),
            signed(self.cost.written_bytes),
            self.log,
            self.facts,
        ])?;
        Ok(())
    }
}

pub(super) fn nanoseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}
