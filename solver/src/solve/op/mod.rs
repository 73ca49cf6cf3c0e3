//! What vertices do.

pub(super) mod exec;
pub(super) mod file;
mod git;
pub(super) mod log;
mod secrets;
mod source;

use std::time::{Duration, Instant};

use kiln_cache::{Claim, Cost, LayerDraft, Lookup, NewRecord, Record, Space, StepKey};
use kiln_image::ContentsDigest;
use kiln_sandbox::Usage;

use super::layers::JoinFollower;
use super::schedule::Slots;
use super::{Output, Snapshot, SolveError, Solver};
use crate::event::{Event, StepId};
use crate::graph::{InputIndex, Op, Vertex};

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
}

/// Finds or makes the vertex's output.
pub(super) fn run(step: &Step<'_>) -> Result<Output, SolveError> {
    match &step.vertex.op {
        Op::Source(source) => source::run(step, source),
        Op::Exec(exec) => exec::run(step, exec),
        Op::File(file) => file::run(step, file),
        Op::Merge => merge(step),
        Op::Diff => diff(step),
    }
}

/// All inputs' layers, the first input's lowest.
fn merge(step: &Step<'_>) -> Result<Output, SolveError> {
    step.report_instant();
    let mut layers = Vec::new();
    for index in 0..step.inputs.len() {
        layers.extend(step.snapshot(InputIndex(index))?.layers);
    }
    Ok(Output::Snapshot(Snapshot { layers }))
}

/// The layers input 1 has above input 0.
fn diff(step: &Step<'_>) -> Result<Output, SolveError> {
    step.report_instant();
    let (lower, upper) = (step.snapshot(InputIndex(0))?, step.snapshot(InputIndex(1))?);
    let layers = upper.layers.strip_prefix(lower.layers.as_slice()).ok_or(SolveError::UnrelatedDiff)?;
    Ok(Output::Snapshot(Snapshot { layers: layers.to_vec() }))
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

    /// Finds the layers recorded under `key`, or makes them on top of `parent`.
    pub(super) fn find_or_make(
        &self,
        key: StepKey,
        parent: &Snapshot,
        make: impl FnOnce() -> Result<Made, SolveError>,
    ) -> Result<Output, SolveError> {
        let record = match self.claim(&key)? {
            Lookup::Found(record) => {
                if let Some(id) = self.id {
                    self.solver.reporter.cached(id);
                }
                self.solver.reporter.count_cached();
                record
            }
            Lookup::Missing(claim) => self.make(claim, make)?,
        };
        self.solver.pulls.note_present(&record.layers);
        let mut layers = parent.layers.clone();
        layers.extend(record.layers);
        Ok(Output::Snapshot(Snapshot { layers }))
    }

    /// The record of `key` or the right to make it; `--no-cache` never takes the former.
    pub(super) fn claim(&self, key: &StepKey) -> Result<Lookup, SolveError> {
        let mut on_wait = |pid| {
            if let Some(id) = self.id {
                self.solver.reporter.send(Event::Waiting { id, pid });
            }
        };
        let store = self.solver.store;
        if self.vertex.ignore_cache {
            return Ok(Lookup::Missing(store.claim(key, &mut on_wait, &self.solver.cancel)?));
        }
        // The usual case takes no lock.
        if let Some(record) = store.find(key)? {
            return Ok(Lookup::Found(record));
        }
        Ok(store.find_or_claim(key, &mut on_wait, &self.solver.cancel)?)
    }

    fn make(
        &self,
        claim: Claim,
        make: impl FnOnce() -> Result<Made, SolveError>,
    ) -> Result<Record, SolveError> {
        let _slot = self.slots.take();
        if let Some(id) = self.id {
            self.solver.reporter.started(id);
        }
        let start = Instant::now();
        let made = make()?;
        let record = self.commit(claim, made, start.elapsed())?;
        if let Some(id) = self.id {
            self.solver.reporter.done(id);
        }
        self.solver.reporter.count_run();
        Ok(record)
    }

    /// Makes it a layer; the DiffId of one that an image is made of is computed while later steps run.
    pub(super) fn commit(&self, claim: Claim, made: Made, duration: Duration) -> Result<Record, SolveError> {
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
            facts: Vec::new(),
            space: made.space,
        };
        let layer = made.draft.id();
        let record = claim.commit(made.draft, made.contents, record)?;
        let mut started = made.diff_id;
        for added in record.layers.iter().filter(|_| self.is_in_result) {
            match started.take_if(|_| added.id == layer) {
                Some(worker) => self.solver.pulls.follow_diff_id(layer, worker),
                None => self.solver.pulls.start_diff_id(self.solver.store, added.id),
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
