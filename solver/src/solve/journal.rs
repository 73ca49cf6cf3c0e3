//! What became of each step of a build: for the history, and for explanations.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kiln_cache::StepKey;
use kiln_parser::Span;

use crate::event::StepId;
use crate::explain::Facts;
use crate::graph::{CacheUse, Op, Source, Vertex};

/// The steps of one build.
#[derive(Debug, Default)]
pub struct Journal {
    steps: Mutex<BTreeMap<StepId, StepNote>>,
    downloads: Mutex<Vec<Download>>,
}

/// What an address stood for when a build asked. No password or secret is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Download {
    /// A file of a web server.
    File {
        /// Its address.
        url: String,
        /// Where the store has it.
        path: PathBuf,
    },
    /// A git tree.
    Git {
        /// The repository's address.
        remote: String,
        /// Branch, tag or commit as it was asked for; empty is the default branch.
        reference: String,
        /// The hash of a commit or of an annotated tag.
        object: String,
    },
}

/// What became of a step.
#[derive(Clone, Debug)]
pub struct StepNote {
    /// Its number in events.
    pub id: StepId,
    /// `[stage 2/5] RUN make`.
    pub name: String,
    /// The instruction in the Dockerfile.
    pub span: Option<Span>,
    /// What it starts from, first the root file system.
    pub inputs: Vec<StepId>,
    /// Of FROM: the image's name, and the digest of its manifest.
    pub image: Option<(String, String)>,
    /// Whether a record might be its result.
    pub cache: CacheUse,
    /// Whether it is one that has a result of its own: RUN, COPY, ADD, WORKDIR.
    pub has_result: bool,
    /// The key of its result, once it is known.
    pub key: Option<StepKey>,
    /// How it ended.
    pub outcome: Outcome,
    /// How long it ran; of a step that was found, how long it ran then.
    pub duration: Duration,
    /// How many layers its root file system has.
    pub layers: usize,
    /// Of a step that failed: what it was made of, since no record will say so.
    pub facts: Vec<u8>,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// It was never its turn, or it was stopped.
    #[default]
    NotReached,
    /// Its result was found.
    Cached,
    /// It ran.
    Ran,
    /// It failed, with this exit status where it was a command that did.
    Failed(Option<i32>),
}

impl StepNote {
    /// A step before its turn.
    pub fn new(id: StepId, vertex: &Vertex, inputs: Vec<StepId>) -> Self {
        let image = match &vertex.op {
            Op::Source(Source::Image { reference, manifest }) => {
                Some((reference.to_string(), manifest.to_string()))
            }
            _ => None,
        };
        Self {
            id,
            name: vertex.name.clone(),
            span: vertex.span,
            inputs,
            image,
            cache: vertex.cache,
            has_result: matches!(vertex.op, Op::Exec(_) | Op::File(_)),
            key: None,
            outcome: Outcome::default(),
            duration: Duration::ZERO,
            layers: 0,
            facts: Vec::new(),
        }
    }
}

impl Journal {
    /// All steps, in the order of their numbers.
    pub fn take(&self) -> Vec<StepNote> {
        std::mem::take(&mut *self.lock()).into_values().collect()
    }

    /// What the build fetched so far by address, in no order; images are not among it.
    pub fn downloads(&self) -> Vec<Download> {
        self.downloads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn downloaded(&self, download: Download) {
        let mut known = self.downloads.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.contains(&download) {
            known.push(download);
        }
    }

    pub(super) fn add(&self, id: StepId, vertex: &Vertex, inputs: Vec<StepId>) {
        self.lock().insert(id, StepNote::new(id, vertex, inputs));
    }

    pub(super) fn note(&self, id: StepId, key: &StepKey, outcome: Outcome, duration: Duration) {
        self.change(id, |step| {
            step.key = Some(*key);
            step.outcome = outcome;
            step.duration = duration;
        });
    }

    pub(super) fn layers(&self, id: StepId, layers: usize) {
        self.change(id, |step| step.layers = layers);
    }

    pub(super) fn failed(&self, id: StepId, code: Option<i32>) {
        self.change(id, |step| step.outcome = Outcome::Failed(code));
    }

    pub(super) fn facts(&self, id: StepId, facts: &Facts) {
        self.change(id, |step| step.facts = facts.encode());
    }

    fn change(&self, id: StepId, change: impl FnOnce(&mut StepNote)) {
        if let Some(step) = self.lock().get_mut(&id) {
            change(step);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<StepId, StepNote>> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
