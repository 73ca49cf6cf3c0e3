//! What a build tells while it goes on: one typed stream that displays, reports and embedders read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kiln_parser::Span;

/// Names a step in events; the numbers of one build are dense from 1 in the order of first mention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StepId(pub u32);

/// Something happened. Times are since the build's start.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A step is known (before anything of it starts). Sent once a step.
    Step {
        /// Its number.
        id: StepId,
        /// `[stage 2/5] RUN make`.
        name: String,
        /// What it needs.
        inputs: Vec<StepId>,
    },
    /// Work on it starts.
    Started {
        /// Which.
        id: StepId,
        /// When.
        at: Duration,
    },
    /// Its result was found.
    Cached {
        /// Which.
        id: StepId,
        /// When.
        at: Duration,
    },
    /// Another process (or build) makes it; this one waits for the result.
    Waiting {
        /// Which.
        id: StepId,
        /// Who makes it.
        pid: Option<u32>,
    },
    /// It printed this.
    Log {
        /// Which.
        id: StepId,
        /// 1 or 2.
        stream: LogStream,
        /// Bytes as printed; may end in the middle of a line.
        bytes: Vec<u8>,
        /// When.
        at: Duration,
    },
    /// Part of it goes on: bytes downloaded, unpacked, exported.
    Progress {
        /// Which.
        id: StepId,
        /// What part: `sha256:… downloading`.
        part: String,
        /// Bytes done.
        current: u64,
        /// Bytes in all, where known.
        total: Option<u64>,
    },
    /// It is done.
    Done {
        /// Which.
        id: StepId,
        /// When.
        at: Duration,
    },
    /// It failed; the build's error says why.
    Failed {
        /// Which.
        id: StepId,
        /// One line.
        message: String,
        /// When.
        at: Duration,
    },
    /// It was stopped because another failed or the user gave up.
    Canceled {
        /// Which.
        id: StepId,
        /// When.
        at: Duration,
    },
    /// Something that works but should be changed.
    Warning {
        /// BuildKit's rule name, where it is one of those.
        rule: Option<&'static str>,
        /// What.
        message: String,
        /// Where.
        span: Option<Span>,
    },
}

/// Which of a step's streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogStream {
    /// 1.
    Stdout,
    /// 2.
    Stderr,
}

/// Takes events from any thread.
pub type EventSink = dyn Fn(Event) + Send + Sync;

/// Sends the events of one build: it has the clock, the numbers of the steps and the counts of what was done.
pub struct Reporter {
    sink: Arc<EventSink>,
    start: Instant,
    last_step: AtomicU32,
    cached: AtomicUsize,
    run: AtomicUsize,
}

impl std::fmt::Debug for Reporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reporter").field("start", &self.start).field("last_step", &self.last_step).finish()
    }
}

impl Reporter {
    /// Starts the build's clock.
    pub fn new(sink: Arc<EventSink>) -> Self {
        Self {
            sink,
            start: Instant::now(),
            last_step: AtomicU32::new(0),
            cached: AtomicUsize::new(0),
            run: AtomicUsize::new(0),
        }
    }

    /// Sends any event.
    pub fn send(&self, event: Event) {
        (self.sink)(event);
    }

    /// Time since the build's start.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Makes a step known and numbers it.
    pub fn step(&self, name: impl Into<String>, inputs: Vec<StepId>) -> StepId {
        let id = StepId(self.last_step.fetch_add(1, Ordering::Relaxed) + 1);
        self.send(Event::Step { id, name: name.into(), inputs });
        id
    }

    /// Work on a step starts.
    pub fn started(&self, id: StepId) {
        self.send(Event::Started { id, at: self.elapsed() });
    }

    /// A step's result was found.
    pub fn cached(&self, id: StepId) {
        self.send(Event::Cached { id, at: self.elapsed() });
    }

    /// A step is done.
    pub fn done(&self, id: StepId) {
        self.send(Event::Done { id, at: self.elapsed() });
    }

    /// A step failed.
    pub fn failed(&self, id: StepId, message: impl Into<String>) {
        self.send(Event::Failed { id, message: message.into(), at: self.elapsed() });
    }

    /// A step was stopped.
    pub fn canceled(&self, id: StepId) {
        self.send(Event::Canceled { id, at: self.elapsed() });
    }

    /// Counts a result that was found, for the summary.
    pub(crate) fn count_cached(&self) {
        self.cached.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a result that was made, for the summary.
    pub(crate) fn count_run(&self) {
        self.run.fetch_add(1, Ordering::Relaxed);
    }

    /// How many results of the Dockerfile's steps were found, and how many were made.
    pub fn counts(&self) -> (usize, usize) {
        (self.cached.load(Ordering::Relaxed), self.run.load(Ordering::Relaxed))
    }
}
