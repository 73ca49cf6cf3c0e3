//! Records: which step made which layers; and claims: who is making one.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use kiln_image::{ContentsDigest, DiffId, Digest};
use rusqlite::{Connection, params};

use super::Store;
use super::db::{self, TxError};
use super::details::{Cost, PackedDetails, nanoseconds};
use super::draft::LayerDraft;
use super::error::StoreError;
use super::layers::{Layer, LayerId, New};
use super::live_log;
use super::locks::{FileLock, Kind, Mode};
use super::removed::{self, RemovedBy};
use crate::listing::LayerListing;
use crate::space::Space;

/// The digest that names a step: what it does and what it starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StepKey(pub Digest);

/// What a step made, as the store remembers it. Immutable.
#[derive(Clone, Debug)]
pub struct Record {
    /// The key it was found by.
    pub key: StepKey,
    /// The layers the step *added* on top of its input, bottom first.
    pub layers: Vec<Layer>,
    /// What the step was, for people.
    pub name: String,
    /// How long it ran.
    pub duration: Duration,
    /// When it was made, in seconds since the epoch.
    pub made_at: i64,
}

/// What a finished step tells the store.
#[derive(Clone, Debug, Default)]
pub struct NewRecord {
    /// What the step was, for people.
    pub name: String,
    /// What it took.
    pub cost: Cost,
    /// Bytes of file data that it added, where its maker knows. What has no digest given is measured.
    pub added_bytes: Option<u64>,
    /// What it printed, stdout and stderr interleaved, capped.
    pub log: Vec<u8>,
    /// What it was made of, for explanations; in words of the solver's own.
    pub facts: Vec<u8>,
    /// The disk space of its layer, where its maker knows both that and the contents. Else it is measured.
    pub space: Option<Space>,
    /// Its layer's DiffId will be asked for: that of a small one is computed at once, a larger one is listed.
    pub wants_diff_id: bool,
}

/// What came of [`Claim::commit`].
#[derive(Debug)]
pub struct Committed {
    /// The step's record.
    pub record: Record,
    /// Its layer's DiffId, where it is known.
    pub diff_id: Option<DiffId>,
    /// What [`Store::diff_id_of_listed`] computes a larger layer's DiffId of, if that is wanted.
    pub listing: Option<LayerListing>,
}

/// What [`Store::find_or_claim`] found.
#[derive(Debug)]
pub enum Lookup {
    /// A result; all its layers are there.
    Found(Record),
    /// None: the caller makes it, others that need it wait.
    Missing(Claim),
}

/// What those who wait for a step hear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait<'a> {
    /// Waiting begins; the process that runs the step, where known.
    Holder(Option<u32>),
    /// The step printed this.
    Log(&'a [u8]),
}

/// The right to make one step's result; others wait until it is committed or dropped.
#[derive(Debug)]
pub struct Claim {
    store: Store,
    key: StepKey,
    /// Before the lock: nobody else may have begun when it goes.
    log: live_log::Writer,
    _lock: FileLock,
}

impl Store {
    /// The record of `key`, if all its layers are there; takes no lock, waits for nobody.
    ///
    /// # Errors
    /// I/O.
    pub fn find(&self, key: &StepKey) -> Result<Option<Record>, StoreError> {
        let Some((mut record, layers, used_at)) =
            self.db().read(|connection| read_record(connection, key))?
        else {
            return Ok(None);
        };
        let ids: Vec<_> = layers.iter().map(|(id, _)| *id.as_bytes()).collect();
        let mut gone = None;
        self.inner.lease.hold_if(&ids, || {
            gone = layers.iter().find(|(id, known)| known.is_none() || !self.layer_path(*id).is_dir());
            gone.is_none()
        })?;
        if let Some((id, _)) = gone {
            return self.drop_record(key, *id).map(|()| None);
        }
        self.inner.uses.record(key, used_at);
        for (id, known) in layers {
            if let Some((contents, used_at)) = known {
                self.inner.uses.layer(id, used_at);
                record.layers.push(Layer { id, contents });
            }
        }
        Ok(Some(record))
    }

    /// The record of `key`, or the right to make it. While another thread or process holds the claim this waits:
    /// `on_wait` is told once who holds it, and then what that prints. A holder that dies is replaced.
    ///
    /// # Errors
    /// [`StoreError::Canceled`]; I/O.
    pub fn find_or_claim(
        &self,
        key: &StepKey,
        on_wait: &mut dyn FnMut(Wait<'_>),
        cancel: &AtomicBool,
    ) -> Result<Lookup, StoreError> {
        if let Some(record) = self.find(key)? {
            return Ok(Lookup::Found(record));
        }
        let claim = self.claim(key, on_wait, cancel)?;
        // Whoever held the lock until now, or a moment ago, may have made it.
        match self.find(key)? {
            Some(record) => Ok(Lookup::Found(record)),
            None => Ok(Lookup::Missing(claim)),
        }
    }

    /// The right to make `key`'s result anew whatever is recorded (`--no-cache`); waits as `find_or_claim`.
    ///
    /// # Errors
    /// As [`Store::find_or_claim`].
    pub fn claim(
        &self,
        key: &StepKey,
        on_wait: &mut dyn FnMut(Wait<'_>),
        cancel: &AtomicBool,
    ) -> Result<Claim, StoreError> {
        // Whoever makes something lives long enough to settle what processes before this one left.
        self.wake_settler();
        let path = self.lock_path(&key.0.hex());
        let log = self.lock_path(&format!("{}{}", key.0.hex(), live_log::SUFFIX));
        let mut reader = live_log::Reader::new(log.clone());
        let on_wait = std::cell::RefCell::new(on_wait);
        let lock = FileLock::take_watching(
            &path,
            Mode::Exclusive,
            Kind::Transient,
            &mut |holder| (on_wait.borrow_mut())(Wait::Holder(holder)),
            &mut || reader.read(&mut |bytes| (on_wait.borrow_mut())(Wait::Log(bytes))),
            cancel,
        )?;
        reader.read_open(&mut |bytes| (on_wait.borrow_mut())(Wait::Log(bytes)));
        Ok(Claim { store: self.clone(), key: *key, log: live_log::Writer::new(log), _lock: lock })
    }

    /// Forgets a record whose layer is gone, unless another one came in its place meanwhile.
    fn drop_record(&self, key: &StepKey, gone: LayerId) -> Result<(), StoreError> {
        self.db().write(|tx| {
            let still_so = tx
                .prepare_cached("SELECT EXISTS(SELECT 1 FROM record_layers WHERE key = ?1 AND layer = ?2)")?
                .query_row(params![key.0.as_bytes(), gone.as_bytes()], |row| row.get::<_, bool>(0))?;
            if still_so {
                removed::drop_record(tx, key.0.as_bytes(), RemovedBy::Damage)?;
            }
            Ok(())
        })
    }
}

impl Claim {
    /// The key of the step that is being made.
    pub fn key(&self) -> &StepKey {
        &self.key
    }

    /// Tells those who wait for the step what it prints; what is kept of it is the record's business.
    pub fn log(&mut self, bytes: &[u8]) {
        self.log.push(bytes);
    }

    /// Makes `draft` a layer and records it under the claim's key, all at once, then lets waiters go. `contents` is
    /// given by a step that knows it (a copy); else it is computed here.
    ///
    /// # Errors
    /// I/O, disk full. Nothing is visible then.
    pub fn commit(
        self,
        draft: LayerDraft,
        contents: Option<ContentsDigest>,
        record: NewRecord,
    ) -> Result<Committed, StoreError> {
        let (made, listing) =
            New::from_draft(&draft, contents, record.added_bytes, record.space, record.wants_diff_id)?;
        let details = PackedDetails::of(&record);
        let record = self.record_of(vec![made.layer], record);
        self.store.keep(&draft, &made, |tx| write_record(tx, &record, &details))?;
        // Waiters go before what is left of the draft is removed.
        drop(self);
        Ok(Committed { record, diff_id: made.diff_id, listing })
    }

    /// Records layers that are in the store already as the step's result: none for a step that changed nothing, or
    /// those of an equal result.
    ///
    /// # Errors
    /// [`StoreError::NoSuchLayer`]; I/O.
    pub fn commit_layers(self, layers: Vec<Layer>, record: NewRecord) -> Result<Record, StoreError> {
        let details = PackedDetails::of(&record);
        let record = self.record_of(layers, record);
        self.store.db().write(|tx| {
            for layer in &record.layers {
                let known = tx
                    .prepare_cached("SELECT EXISTS(SELECT 1 FROM layers WHERE id = ?1)")?
                    .query_row(params![layer.id.as_bytes()], |row| row.get::<_, bool>(0))?;
                if !known {
                    return Err(StoreError::NoSuchLayer { id: layer.id }.into());
                }
            }
            write_record(tx, &record, &details)
        })?;
        Ok(record)
    }

    fn record_of(&self, layers: Vec<Layer>, new: NewRecord) -> Record {
        Record { key: self.key, layers, name: new.name, duration: new.cost.duration, made_at: db::now() }
    }
}

/// With contents and last use where the layer is known.
type LayerOfRecord = (LayerId, Option<(ContentsDigest, i64)>);

/// The record without its layers, and these.
fn read_record(
    connection: &Connection,
    key: &StepKey,
) -> rusqlite::Result<Option<(Record, Vec<LayerOfRecord>, i64)>> {
    // One statement, so that both come from the same state of the database. A record without layers is one row of nulls.
    let mut statement = connection.prepare_cached(
        "SELECT r.name, r.duration_ns, r.made_at, rl.layer, l.contents, l.used_at, r.used_at FROM records r
         LEFT JOIN record_layers rl ON rl.key = r.key LEFT JOIN layers l ON l.id = rl.layer
         WHERE r.key = ?1 ORDER BY rl.position",
    )?;
    let mut rows = statement.query(params![key.0.as_bytes()])?;
    let mut found = None;
    while let Some(row) = rows.next()? {
        if found.is_none() {
            let record = Record {
                key: *key,
                layers: Vec::new(),
                name: row.get(0)?,
                duration: Duration::from_nanos(row.get::<_, i64>(1)?.cast_unsigned()),
                made_at: row.get(2)?,
            };
            found = Some((record, Vec::new(), row.get(6)?));
        }
        if let (Some((_, layers, _)), Some(layer)) = (found.as_mut(), row.get::<_, Option<[u8; 32]>>(3)?) {
            let known = match row.get::<_, Option<[u8; 32]>>(4)? {
                Some(contents) => Some((ContentsDigest(Digest::from_bytes(contents)), row.get(5)?)),
                None => None,
            };
            layers.push((LayerId::from_bytes(layer), known));
        }
    }
    Ok(found)
}

fn write_record(connection: &Connection, record: &Record, details: &PackedDetails) -> Result<(), TxError> {
    let key = record.key.0.as_bytes();
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO records(key, name, duration_ns, made_at, used_at) VALUES(?1, ?2, ?3, ?4, ?4)",
        )?
        .execute(params![key, record.name, nanoseconds(record.duration), record.made_at])?;
    details.write(connection, &record.key)?;
    connection.prepare_cached("DELETE FROM record_layers WHERE key = ?1")?.execute(params![key])?;
    for (position, layer) in (0_i64..).zip(&record.layers) {
        connection
            .prepare_cached("INSERT INTO record_layers(key, position, layer) VALUES(?1, ?2, ?3)")?
            .execute(params![key, position, layer.id.as_bytes()])?;
    }
    Ok(())
}
