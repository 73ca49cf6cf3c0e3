//! Which vertex runs when.
//!
//! A vertex runs as soon as its inputs are ready. Every running vertex has a thread of its own, since most of them wait
//! for processes, disks and networks; the thread that made the last missing input goes on with the vertex that waited
//! for it, so that a chain of cached steps starts no thread at all. The first failure stops the rest.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Scope};

use petgraph::Direction;
use petgraph::visit::EdgeRef as _;

use super::op::{self, Step};
use super::{Output, SolveError, Solver, room};
use crate::event::StepId;
use crate::graph::{Graph, Op, Source, VertexId};

/// Runs what `targets` need, then `targets`.
pub(super) fn solve(
    solver: &Solver<'_>,
    graph: &Graph,
    targets: &[VertexId],
) -> Result<Vec<Output>, SolveError> {
    let nodes = number(solver, graph, &needed(graph, targets));
    let waiting: HashMap<_, _> = nodes
        .keys()
        .map(|&id| (id, inputs_of(graph, id).into_iter().collect::<HashSet<_>>().len()))
        .collect();
    let mut ready: Vec<_> = waiting.iter().filter(|(_, inputs)| **inputs == 0).map(|(&id, _)| id).collect();
    ready.sort();
    let run = Run {
        solver,
        graph,
        nodes,
        in_results: layers_of(graph, targets),
        state: Mutex::new(State { waiting, outputs: HashMap::new(), failure: None }),
        slots: Slots::new(solver.max_parallelism),
    };
    thread::scope(|scope| run.work(scope, ready.into()));
    let state = run.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(error) = state.failure {
        return Err(error);
    }
    solver.pulls.report_unneeded(&solver.reporter);
    let output = |target| state.outputs.get(target).cloned();
    targets
        .iter()
        .map(|target| output(target).ok_or_else(|| SolveError::LostStep(graph[*target].name.clone())))
        .collect()
}

/// One solve.
struct Run<'a> {
    solver: &'a Solver<'a>,
    graph: &'a Graph,
    /// The vertices that are needed, with their numbers in events; what has no number is not shown.
    nodes: HashMap<VertexId, Option<StepId>>,
    /// The vertices whose layers are the targets' own.
    in_results: HashSet<VertexId>,
    state: Mutex<State>,
    slots: Slots,
}

struct State {
    /// How many inputs a vertex still waits for.
    waiting: HashMap<VertexId, usize>,
    outputs: HashMap<VertexId, Output>,
    failure: Option<SolveError>,
}

impl Run<'_> {
    /// Runs `ready` and all that becomes ready by it.
    fn work<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>, mut ready: VecDeque<VertexId>) {
        while let Some(id) = ready.pop_front() {
            if !ready.is_empty() && !is_instant(&self.graph[id].op) {
                scope.spawn(move || self.work(scope, VecDeque::from([id])));
                continue;
            }
            let Some(inputs) = self.inputs(id) else { return };
            let result = self.run(id, &inputs);
            ready.extend(self.finish(id, result));
        }
    }

    /// The outputs `id` starts from; `None` once something failed.
    fn inputs(&self, id: VertexId) -> Option<Vec<Output>> {
        let state = self.lock();
        if state.failure.is_some() {
            return None;
        }
        inputs_of(self.graph, id).into_iter().map(|input| state.outputs.get(&input).cloned()).collect()
    }

    fn run(&self, id: VertexId, inputs: &[Output]) -> Result<Output, SolveError> {
        let vertex = &self.graph[id];
        let step = Step {
            solver: self.solver,
            vertex,
            input_ops: inputs_of(self.graph, id).into_iter().map(|input| &self.graph[input].op).collect(),
            inputs,
            id: self.nodes.get(&id).copied().flatten(),
            is_in_result: self.in_results.contains(&id),
            slots: &self.slots,
            forecast: None,
        };
        if self.solver.cancel.load(Ordering::Relaxed) {
            return Err(SolveError::Canceled);
        }
        let mut result = op::run(&step);
        // Whatever a failed attempt wrote is gone by now.
        if result.as_ref().is_err_and(SolveError::is_disk_full) && room::make(self.solver) {
            result = op::run(&step);
        }
        let result = result.map_err(|error| error.in_step(&vertex.name, vertex.span));
        if let (Err(error), Some(id)) = (&result, step.id) {
            if error.is_canceled() {
                self.solver.reporter.canceled(id);
            } else {
                self.solver.reporter.failed(id, error.to_string());
                self.solver.journal.failed(id, exit_code(error));
            }
        }
        result
    }

    /// Notes the result; returns what became ready by it.
    fn finish(&self, id: VertexId, result: Result<Output, SolveError>) -> Vec<VertexId> {
        let mut state = self.lock();
        let output = match result {
            Ok(output) => output,
            Err(error) => {
                // What is stopped by the first failure must not hide it.
                if state.failure.as_ref().is_none_or(|first| first.is_canceled() && !error.is_canceled()) {
                    state.failure = Some(error);
                }
                // What a remote cache lacks will be made in a second attempt, to which what runs now is of use.
                if !state.failure.as_ref().is_some_and(SolveError::is_remote_layer) {
                    self.solver.cancel.store(true, Ordering::Relaxed);
                }
                return Vec::new();
            }
        };
        if let (Some(Some(step)), Output::Snapshot(snapshot)) = (self.nodes.get(&id), &output) {
            self.solver.journal.layers(*step, snapshot.len());
        }
        state.outputs.insert(id, output);
        let dependents: HashSet<_> = self.graph.neighbors_directed(id, Direction::Incoming).collect();
        let mut ready = Vec::new();
        for dependent in dependents {
            if let Some(waiting) = state.waiting.get_mut(&dependent) {
                *waiting -= 1;
                if *waiting == 0 {
                    ready.push(dependent);
                }
            }
        }
        ready.sort();
        ready
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The exit status of the command that failed, where one did.
fn exit_code(error: &SolveError) -> Option<i32> {
    match error.root() {
        SolveError::StepFailed { code, .. } => Some(*code),
        _ => None,
    }
}

/// Whether it takes no time worth a thread.
fn is_instant(op: &Op) -> bool {
    matches!(
        op,
        Op::Merge
            | Op::Diff
            | Op::After
            | Op::Source(Source::Scratch | Source::Image { .. } | Source::Context { .. })
    )
}

/// The inputs of a vertex in its own order.
pub fn inputs_of(graph: &Graph, id: VertexId) -> Vec<VertexId> {
    let mut inputs: Vec<_> = graph.edges(id).map(|edge| (*edge.weight(), edge.target())).collect();
    inputs.sort();
    inputs.into_iter().map(|(_, input)| input).collect()
}

/// What `targets` need, inputs before what needs them.
pub fn needed(graph: &Graph, targets: &[VertexId]) -> Vec<VertexId> {
    let mut order = Vec::new();
    let mut seen = HashSet::new();
    for &target in targets {
        if !seen.insert(target) {
            continue;
        }
        let mut stack = vec![(target, inputs_of(graph, target).into_iter())];
        while let Some((id, inputs)) = stack.last_mut() {
            let id = *id;
            match inputs.next() {
                Some(input) => {
                    if seen.insert(input) {
                        stack.push((input, inputs_of(graph, input).into_iter()));
                    }
                }
                None => {
                    order.push(id);
                    stack.pop();
                }
            }
        }
    }
    order
}

/// What the layers of `targets` come from: not what they copy from or mount.
fn layers_of(graph: &Graph, targets: &[VertexId]) -> HashSet<VertexId> {
    let mut found = HashSet::new();
    let mut pending = targets.to_vec();
    while let Some(id) = pending.pop() {
        if !found.insert(id) {
            continue;
        }
        let inputs = inputs_of(graph, id);
        let below = match graph[id].op {
            Op::Merge | Op::Diff => inputs.len(),
            Op::Exec(_) | Op::File(_) | Op::Source(_) | Op::After => 1,
        };
        pending.extend(inputs.into_iter().take(below));
    }
    found
}

/// Makes the steps known.
fn number(solver: &Solver<'_>, graph: &Graph, order: &[VertexId]) -> HashMap<VertexId, Option<StepId>> {
    let mut nodes = HashMap::new();
    for &id in order {
        let number = (graph[id].op != Op::Source(Source::Scratch)).then(|| {
            let inputs: Vec<StepId> =
                inputs_of(graph, id).iter().filter_map(|input| *nodes.get(input)?).collect();
            let step = solver.reporter.step(graph[id].name.clone(), inputs.clone());
            solver.journal.add(step, &graph[id], inputs);
            step
        });
        nodes.insert(id, number);
    }
    nodes
}

/// The right to make results, of which there may be a limited number.
pub(super) struct Slots {
    free: Option<Mutex<usize>>,
    returned: Condvar,
}

impl Slots {
    pub(super) fn new(limit: usize) -> Self {
        Self { free: (limit > 0).then(|| Mutex::new(limit)), returned: Condvar::new() }
    }

    /// Waits for a slot; it is free again when the guard is dropped.
    pub(super) fn take(&self) -> Slot<'_> {
        if let Some(free) = &self.free {
            let mut free = free.lock().unwrap_or_else(PoisonError::into_inner);
            while *free == 0 {
                free = self.returned.wait(free).unwrap_or_else(PoisonError::into_inner);
            }
            *free -= 1;
        }
        Slot(self)
    }
}

/// One slot in use.
pub(super) struct Slot<'a>(&'a Slots);

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        if let Some(free) = &self.0.free {
            *free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
            self.0.returned.notify_one();
        }
    }
}
