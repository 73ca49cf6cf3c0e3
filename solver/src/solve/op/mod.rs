//! What vertices do.

mod cache_mounts;
mod exec;
pub(super) mod executor;
pub(super) mod file;
mod git;
pub(super) mod log;
mod secrets;
mod source;
mod volumes;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kiln_cache::{
    Claim, Committed, Cost, Layer, LayerDraft, Lookup, NewRecord, Record, Space, StepKey, Wait,
};
use kiln_image::{ContentsDigest, Digest};
use kiln_sandbox::Usage;

use super::diff_ids::JoinFollower;
use super::forecast::Forecast;
use super::schedule::Slots;
use super::{Outcome, Output, RemoteRecord, Snapshot, SolveError, Solved, Solver};
use crate::event::{Event, LogStream, StepId};
use crate::explain::Facts;
use crate::graph::{CacheUse, GitSource, InputIndex, Op, Source, Vertex};

/// A vertex with its inputs, about to run.
pub(super) struct Step<'a> {
    pub(super) solver: &'a Solver<'a>,
    pub(super) vertex: &'a Vertex,
    /// In the vertex's own order.
    pub(super) inputs: &'a [Output],
    pub(super) input_ops: Vec<&'a Op>,
    /// `None`: not shown.
    pub(super) id: Option<StepId>,
    /// Whether its layers are the target's: nobody asks for the DiffIds of others.
    pub(super) is_in_result: bool,
    pub(super) slots: &'a Slots,
    /// Set where it is only to be said what would happen.
    pub(super) forecast: Option<&'a Forecast>,
}

/// Finds what a git source means now, without a checkout.
pub(super) fn git_object(solver: &Solver<'_>, source: &GitSource) -> Result<String, SolveError> {
    let vertex = Vertex {
        op: Op::Source(Source::Git(source.clone())),
        name: format!("git {}", crate::git_url::redacted(&source.remote)),
        span: None,
        created_by: String::new(),
        cache: CacheUse::Any,
        platform: kiln_image::Platform::host(),
    };
    let slots = Slots::new(solver.max_parallelism);
    let step = Step {
        solver,
        vertex: &vertex,
        input_ops: Vec::new(),
        inputs: &[],
        id: None,
        slots: &slots,
        is_in_result: false,
        forecast: None,
    };
    git::object(&step, source)
}

/// Finds or makes the vertex's output.
pub(super) fn run(step: &Step<'_>) -> Result<Output, SolveError> {
    match &step.vertex.op {
        Op::Source(source) => source::run(step, source),
        Op::Exec(exec) => exec::run(step, exec),
        Op::File(file) => file::run(step, file),
        Op::Merge => merge(step),
        Op::Diff => diff(step),
        Op::After => after(step),
    }
}

/// All inputs' layers, the first input's lowest.
fn merge(step: &Step<'_>) -> Result<Output, SolveError> {
    step.report_instant();
    let mut merged = Snapshot::default();
    for index in 0..step.inputs.len() {
        let input = step.snapshot(InputIndex(index))?;
        merged = if merged.is_empty() { input } else { merged.with(input.layers()) };
    }
    Ok(Output::Snapshot(merged))
}

/// The layers input 1 has above input 0.
fn diff(step: &Step<'_>) -> Result<Output, SolveError> {
    step.report_instant();
    let (lower, upper) = (step.snapshot(InputIndex(0))?, step.snapshot(InputIndex(1))?);
    let layers = upper.above(&lower).ok_or(SolveError::UnrelatedDiff)?;
    Ok(Output::Snapshot(Snapshot::of(layers)))
}

/// What the stage starts from; by now the others are done.
fn after(step: &Step<'_>) -> Result<Output, SolveError> {
    step.report_instant();
    Ok(Output::Snapshot(step.snapshot(InputIndex(0))?))
}

fn on_top(parent: &Snapshot, added: Vec<Layer>) -> Output {
    Output::Snapshot(parent.with(added))
}

/// Whether `record` is young enough.
pub(super) fn is_fresh(cache: CacheUse, record: &Record) -> bool {
    match cache {
        CacheUse::Any => true,
        CacheUse::Never(_) => false,
        CacheUse::NewerThan(lifetime) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            // One from the future was made by a clock that was wrong.
            u64::try_from(record.made_at)
                .is_ok_and(|made| now.checked_sub(made).is_some_and(|age| age < lifetime.as_secs()))
        }
    }
}

/// What a step made, before it is a layer.
pub(super) struct Made {
    pub(super) draft: LayerDraft,
    /// Known to those who wrote every file themselves.
    pub(super) contents: Option<ContentsDigest>,
    /// Likewise.
    pub(super) size_bytes: Option<u64>,
    pub(super) log: Vec<u8>,
    /// Likewise, on disk.
    pub(super) space: Option<Space>,
    /// What its processes used.
    pub(super) usage: Usage,
    /// Being computed already.
    pub(super) diff_id: Option<JoinFollower>,
    /// What it is recorded under, where that was not known before.
    pub(super) key: Option<StepKey>,
}

impl Step<'_> {
    /// An input that must be a root file system.
    pub(super) fn snapshot(&self, index: InputIndex) -> Result<Snapshot, SolveError> {
        match self.inputs.get(index.0) {
            Some(Output::Snapshot(snapshot)) => Ok(snapshot.clone()),
            _ => {
                Err(SolveError::MissingInput { what: "root file system of input", name: index.0.to_string() })
            }
        }
    }

    /// Finds the layers recorded under `key`, or makes them on top of `parent`. `facts` are what the key is made of.
    /// `definition` is what remote caches know the step by as well.
    pub(super) fn find_or_make(
        &self,
        key: StepKey,
        definition: Option<StepKey>,
        parent: &Snapshot,
        facts: &dyn Fn() -> Facts,
        make: impl FnOnce(&mut Claim) -> Result<Made, SolveError>,
    ) -> Result<Output, SolveError> {
        if let Some(forecast) = self.forecast {
            return forecast.look(self, key, facts());
        }
        let record = match self.claim(&key)? {
            Lookup::Found(record) => {
                self.note_found(&record);
                record
            }
            Lookup::Missing(claim) => {
                if let Some(output) = self.import(&key, parent) {
                    return Ok(output);
                }
                self.make(claim, facts, make)?
            }
        };
        Ok(self.output(record, definition, parent))
    }

    /// What is recorded under `key`, if it is as the vertex wants its results: for who knows the key without what it is made of.
    pub(super) fn found(
        &self,
        key: &StepKey,
        definition: Option<StepKey>,
        parent: &Snapshot,
    ) -> Result<Option<Output>, SolveError> {
        if self.forecast.is_some() || self.solver.rehearsal.is_some() {
            return Ok(None);
        }
        let Some(record) = self.solver.store.find(key)? else { return Ok(None) };
        if !is_fresh(self.vertex.cache, &record) {
            return Ok(None);
        }
        self.note_found(&record);
        Ok(Some(self.output(record, definition, parent)))
    }

    fn note_found(&self, record: &Record) {
        self.report_found();
        if let Some(id) = self.id {
            self.solver.journal.note(id, &record.key, Outcome::Cached, record.duration);
        }
    }

    /// Makes what says its key itself, which nobody knew; `claim` kept others from making the same meanwhile. There is no
    /// remote cache.
    pub(super) fn make_unkeyed(
        &self,
        claim: Claim,
        parent: &Snapshot,
        facts: &dyn Fn() -> Facts,
        make: impl FnOnce(&mut Claim) -> Result<Made, SolveError>,
    ) -> Result<Output, SolveError> {
        let record = self.make(claim, facts, make)?;
        Ok(self.output(record, None, parent))
    }

    fn output(&self, record: Record, definition: Option<StepKey>, parent: &Snapshot) -> Output {
        self.solver.pulls.note_present(&record.layers);
        if self.solver.remote.exports {
            let Record { key, layers, name, duration, .. } = record.clone();
            self.solver.remote.note(Solved { key, definition, layers, name, duration });
        }
        on_top(parent, record.layers)
    }

    /// What remote caches have under `key`; their layers stay where they are until somebody needs them.
    pub(super) fn import(&self, key: &StepKey, parent: &Snapshot) -> Option<Output> {
        let remote = &self.solver.remote;
        // Of what another machine made nobody knows the age.
        if self.vertex.cache != CacheUse::Any || self.solver.rehearsal.is_some() {
            return None;
        }
        let record = remote.cache.as_ref()?.find(key)?;
        let layers = self.solver.pulls.add_record(&record);
        self.report_found();
        if remote.exports {
            let RemoteRecord { key, definition, name, duration, .. } = record.clone();
            remote.note(Solved { key, definition, layers: layers.clone(), name, duration });
        }
        remote.note_import(record);
        Some(on_top(parent, layers))
    }

    fn report_found(&self) {
        if let Some(id) = self.id {
            self.solver.reporter.cached(id);
        }
        self.solver.reporter.count_cached();
    }

    /// The record of `key` or the right to make it, as the vertex wants its results.
    pub(super) fn claim(&self, key: &StepKey) -> Result<Lookup, SolveError> {
        let mut on_wait = |wait: Wait<'_>| {
            let Some(id) = self.id else { return };
            let reporter = &self.solver.reporter;
            reporter.send(match wait {
                Wait::Holder(pid) => Event::Waiting { id, pid },
                // Both of its streams as one: that is how its runner passes them on.
                Wait::Log(bytes) => Event::Log {
                    id,
                    stream: LogStream::Stdout,
                    bytes: bytes.to_vec(),
                    at: reporter.elapsed(),
                },
            });
        };
        let store = self.solver.store;
        let mixed = |salt: &Digest| StepKey(Digest::of(&[*salt.as_bytes(), *key.0.as_bytes()].concat()));
        let key = &self.solver.rehearsal.as_ref().map_or(*key, mixed);
        let cache = self.vertex.cache;
        if let CacheUse::Never(_) = cache {
            return Ok(Lookup::Missing(store.claim(key, &mut on_wait, &self.solver.cancel)?));
        }
        // The usual case takes no lock.
        if let Some(record) = store.find(key)? {
            if is_fresh(cache, &record) {
                return Ok(Lookup::Found(record));
            }
            let claim = store.claim(key, &mut on_wait, &self.solver.cancel)?;
            // Whoever held the lock until now may have made it anew.
            let renewed = store.find(key)?.filter(|record| is_fresh(cache, record));
            return Ok(renewed.map_or(Lookup::Missing(claim), Lookup::Found));
        }
        Ok(store.find_or_claim(key, &mut on_wait, &self.solver.cancel)?)
    }

    /// Notes what becomes of the step.
    pub(super) fn note(&self, key: &StepKey, outcome: Outcome) {
        if let Some(id) = self.id {
            self.solver.journal.note(id, key, outcome, Duration::ZERO);
        }
    }

    fn make(
        &self,
        mut claim: Claim,
        facts: &dyn Fn() -> Facts,
        make: impl FnOnce(&mut Claim) -> Result<Made, SolveError>,
    ) -> Result<Record, SolveError> {
        let slot = self.slots.take();
        if let Some(id) = self.id {
            self.solver.reporter.started(id);
        }
        let start = Instant::now();
        let made = make(&mut claim);
        let duration = start.elapsed();
        let own_key = made.as_ref().ok().and_then(|made| made.key);
        let key = own_key.unwrap_or(*claim.key());
        if let Some(id) = self.id {
            self.solver.journal.note(id, &key, Outcome::Ran, duration);
            if made.is_err() {
                self.solver.journal.facts(id, &facts());
            }
        }
        let made = made?;
        let own_claim = match own_key {
            None => None,
            Some(key) => {
                // Whoever holds that claim may wait for the slot.
                drop(slot);
                Some(self.claim(&key)?)
            }
        };
        let record = match own_claim {
            None => self.commit(claim, made, duration, facts().encode())?,
            Some(Lookup::Missing(own)) => self.commit(own, made, duration, facts().encode())?,
            // Somebody who had it under another name was sooner.
            Some(Lookup::Found(record)) => record,
        };
        if let Some(id) = self.id {
            self.solver.reporter.done(id);
        }
        self.solver.reporter.count_run();
        Ok(record)
    }

    /// Makes it a layer; the DiffId of one that an image is made of is computed while later steps run.
    pub(super) fn commit(
        &self,
        claim: Claim,
        made: Made,
        duration: Duration,
        facts: Vec<u8>,
    ) -> Result<Record, SolveError> {
        let cost = Cost {
            duration,
            cpu: made.usage.cpu,
            peak_memory_bytes: made.usage.peak_memory_bytes,
            read_bytes: made.usage.read_bytes,
            written_bytes: made.usage.written_bytes,
        };
        let record = NewRecord {
            name: self.vertex.name.clone(),
            cost,
            added_bytes: made.size_bytes,
            log: made.log,
            facts,
            space: made.space,
            wants_diff_id: self.is_in_result,
        };
        let layer = made.draft.id();
        let Committed { record, diff_id, mut listing } = claim.commit(made.draft, made.contents, record)?;
        let mut started = made.diff_id;
        for added in record.layers.iter().filter(|_| self.is_in_result && diff_id.is_none()) {
            match started.take_if(|_| added.id == layer) {
                Some(worker) => self.solver.pulls.follow_diff_id(layer, worker),
                None => {
                    let listing = listing.take_if(|_| added.id == layer);
                    self.solver.pulls.start_diff_id(self.solver.store, added.id, listing);
                }
            }
        }
        Ok(record)
    }

    /// For what takes no time.
    pub(super) fn report_instant(&self) {
        if let Some(id) = self.id {
            self.solver.reporter.started(id);
            self.solver.reporter.done(id);
        }
    }
}
