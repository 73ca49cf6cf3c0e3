//! What a build would do, without doing it: nothing runs, nothing is downloaded, nothing is written.
//!
//! A step whose inputs are known is looked up as in a build. One that would run gives the layers that it gave the last
//! time, so that what stands below can be looked at too; a process on such a root file system is expected to run, a copy
//! onto one to find what it found, since a copy looks at little of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kiln_cache::{ContextTree, Record, StepKey};

use super::op::{self, Step};
use super::schedule::{Slots, inputs_of, needed};
use super::{Outcome, Output, SolveError, Solver, StepNote};
use crate::event::StepId;
use crate::explain::Facts;
use crate::graph::{CacheUse, Graph, Op, Source, Vertex, VertexId};

/// What is expected of one step.
#[derive(Clone, Debug)]
pub struct Foreseen {
    /// What it is; with the key that it was looked up by, where all that it starts from is known.
    pub note: StepNote,
    /// What it will do.
    pub verdict: Verdict,
    /// What it is made of, where that is known and it will run.
    pub facts: Option<Facts>,
    /// How long it took the last time.
    pub duration: Option<Duration>,
}

/// What a step will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// Its result is there.
    Cached,
    /// It runs.
    Run,
    /// Layers of a base image are downloaded.
    Pull {
        /// Their compressed size.
        size_bytes: u64,
    },
    /// A server is asked whether what it has is still what is known; downloaded if not.
    Ask,
    /// Nothing worth a word: a context, a base image whose layers are there.
    Nothing,
}

/// The steps of a build that is not done.
#[derive(Debug, Default)]
pub struct Forecast {
    now: Mutex<Option<Looked>>,
}

/// What a step found when it was its turn.
#[derive(Debug)]
struct Looked {
    key: StepKey,
    found: Option<Record>,
    facts: Facts,
}

/// What is known of a vertex' output.
#[derive(Clone, Debug)]
enum Known {
    /// Just this.
    Surely(Output),
    /// What it was the last time.
    Probably(Output),
    /// Nothing.
    Not,
}

impl Known {
    fn output(&self) -> Option<&Output> {
        match self {
            Self::Surely(output) | Self::Probably(output) => Some(output),
            Self::Not => None,
        }
    }
}

impl Solver<'_> {
    /// Says what [`Solver::solve_all`] would do, in the order of the steps' numbers. `earlier` names the key that a step
    /// had in an earlier build.
    ///
    /// # Errors
    /// Reading the context or the store.
    pub fn foresee(
        &self,
        graph: &Graph,
        targets: &[VertexId],
        earlier: &dyn Fn(&Vertex) -> Option<StepKey>,
    ) -> Result<Vec<Foreseen>, SolveError> {
        let mut seer = Seer { solver: self, graph, earlier, known: HashMap::new(), steps: Vec::new() };
        for id in needed(graph, targets) {
            seer.look_at(id)?;
        }
        Ok(seer.steps)
    }
}

struct Seer<'a> {
    solver: &'a Solver<'a>,
    graph: &'a Graph,
    earlier: &'a dyn Fn(&Vertex) -> Option<StepKey>,
    known: HashMap<VertexId, (Option<StepId>, Known)>,
    steps: Vec<Foreseen>,
}

impl Seer<'_> {
    fn look_at(&mut self, id: VertexId) -> Result<(), SolveError> {
        let vertex = &self.graph[id];
        let inputs = inputs_of(self.graph, id);
        let known: Vec<_> = inputs.iter().filter_map(|input| self.known.get(input).cloned()).collect();
        let step = (vertex.op != Op::Source(Source::Scratch)).then(|| {
            let inputs: Vec<StepId> = known.iter().filter_map(|(id, _)| *id).collect();
            let step = self.solver.reporter.step(vertex.name.clone(), inputs.clone());
            let note = StepNote::new(step, vertex, inputs);
            self.steps.push(Foreseen { note, verdict: Verdict::Nothing, facts: None, duration: None });
            step
        });
        let known: Vec<Known> = known.into_iter().map(|(_, known)| known).collect();
        let output = match &vertex.op {
            Op::Source(Source::Http { .. } | Source::Git(_)) => self.remote(vertex)?,
            Op::Exec(_) | Op::File(_) => self.operation(id, step, &known)?,
            _ => self.instant(id, step, &known)?,
        };
        if let (Some(_), Some(last), Some(Output::Snapshot(snapshot))) =
            (step, self.steps.last_mut(), output.output())
        {
            last.note.layers = snapshot.len();
        }
        self.known.insert(id, (step, output));
        Ok(())
    }

    /// What takes no time, and reads nothing.
    fn instant(&self, id: VertexId, step: Option<StepId>, known: &[Known]) -> Result<Known, SolveError> {
        let Some(inputs) = all_outputs(known) else { return Ok(Known::Not) };
        let output = self.run(id, step, &inputs, &Forecast::default())?;
        Ok(if known.iter().all(|known| matches!(known, Known::Surely(_))) {
            Known::Surely(output)
        } else {
            Known::Probably(output)
        })
    }

    /// What a server has: nobody is asked.
    fn remote(&mut self, vertex: &Vertex) -> Result<Known, SolveError> {
        let record = self.earlier_record(vertex)?;
        let Some(step) = self.steps.last_mut() else { return Ok(Known::Not) };
        step.verdict = if record.is_some() { Verdict::Ask } else { Verdict::Run };
        step.duration = record.as_ref().map(|record| record.duration);
        let Some(layer) = record.as_ref().and_then(|record| record.layers.first()) else {
            return Ok(Known::Not);
        };
        // Of a git tree a directory may be meant, which only its fetching knows to resolve.
        if matches!(&vertex.op, Op::Source(Source::Git(git)) if !git.subdir.is_empty()) {
            return Ok(Known::Not);
        }
        let tree = ContextTree::open(&self.solver.store.layer_path(layer.id), None, None)?;
        Ok(Known::Surely(Output::Tree(Arc::new(tree))))
    }

    fn operation(
        &mut self,
        id: VertexId,
        step: Option<StepId>,
        known: &[Known],
    ) -> Result<Known, SolveError> {
        let vertex = &self.graph[id];
        let looked = match all_outputs(known) {
            Some(inputs) => {
                let forecast = Forecast::default();
                match self.run(id, step, &inputs, &forecast) {
                    // Whether it is found depends on files that are not here.
                    Ok(_) => {}
                    Err(error) if matches!(error.root(), SolveError::NotForeseen) => {}
                    Err(error) => return Err(error.in_step(&vertex.name, vertex.span)),
                }
                forecast.now.into_inner().unwrap_or_else(PoisonError::into_inner)
            }
            None => None,
        };
        let is_certain = match &vertex.op {
            Op::File(_) => known.iter().skip(1).all(|known| matches!(known, Known::Surely(_))),
            _ => known.iter().all(|known| matches!(known, Known::Surely(_))),
        };
        let root = known.first().and_then(Known::output).and_then(|output| match output {
            Output::Snapshot(snapshot) => Some(snapshot.clone()),
            Output::Tree(_) => None,
        });
        let (key, found, facts) = match looked {
            Some(Looked { key, found, facts }) => (Some(key), found, Some(facts)),
            None => (None, None, None),
        };
        let on_root = |record: &Record| {
            Output::Snapshot(root.clone().unwrap_or_default().with(record.layers.iter().copied()))
        };
        if let (Some(record), true) = (&found, is_certain) {
            self.note(Verdict::Cached, key, None, Some(record.duration));
            let root_is_certain = matches!(known.first(), None | Some(Known::Surely(_)));
            let output = on_root(record);
            return Ok(if root_is_certain { Known::Surely(output) } else { Known::Probably(output) });
        }
        let before = match found {
            Some(record) => Some(record),
            None => self.earlier_record(vertex)?,
        };
        let duration = before.as_ref().map(|record| record.duration);
        self.note(Verdict::Run, key.filter(|_| is_certain), facts.filter(|_| is_certain), duration);
        self.pull_what_it_needs(known)?;
        Ok(match (&before, &root) {
            (Some(record), Some(_)) => Known::Probably(on_root(record)),
            _ => Known::Not,
        })
    }

    /// The images whose layers a step that runs will need.
    fn pull_what_it_needs(&mut self, known: &[Known]) -> Result<(), SolveError> {
        for known in known {
            let Some(Output::Snapshot(snapshot)) = known.output() else { continue };
            for (image, size_bytes) in self.solver.pulls.not_here(self.solver.store, snapshot)? {
                if let Some(step) = self.steps.iter_mut().find(|step| step.note.id == image) {
                    step.verdict = Verdict::Pull { size_bytes };
                }
            }
        }
        Ok(())
    }

    fn note(
        &mut self,
        verdict: Verdict,
        key: Option<StepKey>,
        facts: Option<Facts>,
        duration: Option<Duration>,
    ) {
        if let Some(step) = self.steps.last_mut() {
            step.verdict = verdict;
            step.note.key = key;
            step.note.outcome = match verdict {
                Verdict::Run => Outcome::Ran,
                _ => Outcome::Cached,
            };
            step.facts = facts;
            step.duration = duration;
        }
    }

    fn earlier_record(&self, vertex: &Vertex) -> Result<Option<Record>, SolveError> {
        match (self.earlier)(vertex) {
            Some(key) => Ok(self.solver.store.find(&key)?),
            None => Ok(None),
        }
    }

    fn run(
        &self,
        id: VertexId,
        step: Option<StepId>,
        inputs: &[Output],
        forecast: &Forecast,
    ) -> Result<Output, SolveError> {
        op::run(&Step {
            solver: self.solver,
            vertex: &self.graph[id],
            inputs,
            input_ops: inputs_of(self.graph, id).into_iter().map(|input| &self.graph[input].op).collect(),
            id: step,
            is_in_result: false,
            slots: &Slots::new(0),
            forecast: Some(forecast),
        })
    }
}

impl Forecast {
    /// In place of [`Step::find_or_make`]'s making.
    pub(super) fn look(&self, step: &Step<'_>, key: StepKey, facts: Facts) -> Result<Output, SolveError> {
        let found = match step.vertex.cache {
            CacheUse::Never(_) => None,
            cache => step.solver.store.find(&key)?.filter(|record| op::is_fresh(cache, record)),
        };
        let looked = Looked { key, found, facts };
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = Some(looked);
        Err(SolveError::NotForeseen)
    }
}

fn all_outputs(known: &[Known]) -> Option<Vec<Output>> {
    known.iter().map(|known| known.output().cloned()).collect()
}
