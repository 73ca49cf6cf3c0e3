//! What a build tells while it goes on: one typed stream that displays, reports and embedders read.

use std::time::Duration;

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
