//! Writes a build down when it ends.

use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use kiln_cache::{BuildRow, StepKey};
use kiln_image::Digest;
use kiln_solver::git_url::masked;
use kiln_solver::graph::CacheUse;
use kiln_solver::solve::{Outcome, StepNote};

use super::{PastBuild, PastOutcome, PastResult, PastStep, VERSION};
use crate::build::{Build, BuildResult, ContextSource, DockerfileSource};
use crate::context::DEFAULT_DOCKERFILES;
use crate::session::Session;
use crate::{Error, ErrorKind};

/// More steps than these are not written down.
const MAX_STEPS: usize = 2_000;
/// Of a step's name, an error: so much.
const MAX_TEXT_CHARS: usize = 400;
/// Of what a failed step was made of, if that is not too long.
const MAX_FACTS_BYTES: usize = 64 << 10;
const TEXT_ID_DIGITS: usize = 16;

/// A build that goes on.
pub(crate) struct Account {
    started_at: SystemTime,
    start: Instant,
    /// The Dockerfile's text, once it is known.
    pub(crate) dockerfile: Vec<u8>,
}

impl Account {
    /// It begins now.
    pub(crate) fn open() -> Self {
        Self { started_at: SystemTime::now(), start: Instant::now(), dockerfile: Vec::new() }
    }

    /// It has ended. That this cannot be written is no reason for a build to fail.
    pub(crate) fn close(self, session: &Session<'_>, result: &Result<BuildResult, Error>) {
        let build = session.build;
        let mut notes = session.journal.take();
        notes.truncate(MAX_STEPS);
        let (outcome, error) = match result {
            Ok(_) => (PastResult::Completed, None),
            Err(error) if error.kind == ErrorKind::Canceled => (PastResult::Canceled, None),
            Err(error) => (PastResult::Failed, Some(error)),
        };
        let past = PastBuild {
            version: VERSION,
            id: build.id.clone(),
            started_at: self
                .started_at
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX)),
            millis: millis(self.start.elapsed()),
            context: context_name(build),
            dockerfile: dockerfile_name(build),
            target: build.target.clone(),
            tags: build.tags.clone(),
            name: build.arg_value("BUILDKIT_BUILD_NAME").map(str::to_owned),
            result: outcome,
            image: result.as_ref().ok().map(|made| made.config_digest.to_string()),
            error: error.map(|error| cut(&error.message)),
            log_tail: error
                .map(|error| String::from_utf8_lossy(&error.log_tail).into_owned())
                .unwrap_or_default(),
            steps: notes.into_iter().map(|note| past_step(note, &self.dockerfile)).collect(),
        };
        let row = BuildRow { id: past.id.clone(), about: past.encode() };
        if let Err(error) = session.store.add_build(&row) {
            tracing::debug!(%error, "the build is not remembered");
        }
    }
}

/// A step of a build as the history has it.
pub(crate) fn past_step(note: StepNote, dockerfile: &[u8]) -> PastStep {
    let (no_cache, lifetime_seconds) = match note.cache {
        CacheUse::Any => (None, None),
        CacheUse::NewerThan(lifetime) => (None, Some(lifetime.as_secs())),
        CacheUse::Never(by) => (Some(by), None),
    };
    PastStep {
        number: note.id.0,
        name: cut(&note.name),
        line: note.span.map(|span| span.line),
        outcome: match note.outcome {
            Outcome::Cached => PastOutcome::Cached,
            Outcome::Ran => PastOutcome::Ran,
            Outcome::Failed(code) => PastOutcome::Failed(code),
            _ => PastOutcome::None,
        },
        millis: millis(note.duration),
        has_result: note.has_result && note.span.is_some() && !note.name.starts_with("[internal]"),
        text: note.span.and_then(|span| dockerfile.get(span.range())).map(text_id).unwrap_or_default(),
        inputs: note.inputs.iter().map(|id| id.0).collect(),
        image: note.image,
        no_cache,
        lifetime_seconds,
        key: note.key.map(|key| key.0.hex()),
        layers: note.layers,
        facts: String::from_utf8(note.facts)
            .ok()
            .filter(|facts| facts.len() <= MAX_FACTS_BYTES)
            .unwrap_or_default(),
    }
}

impl PastStep {
    pub(crate) fn key(&self) -> Option<StepKey> {
        Some(StepKey(Digest::from_hex(self.key.as_ref()?).ok()?))
    }
}

/// What tells an instruction's text from others.
fn text_id(text: &[u8]) -> String {
    let mut id = Digest::of(text).hex();
    id.truncate(TEXT_ID_DIGITS);
    id
}

/// The context as the history names it.
pub(crate) fn context_name(build: &Build) -> String {
    match &build.context {
        ContextSource::Directory(path) => absolute(path),
        ContextSource::Stream(_) => "-".to_owned(),
        ContextSource::Empty => String::new(),
        ContextSource::Url(url) => masked(url),
    }
}

/// The Dockerfile as the history names it.
pub(crate) fn dockerfile_name(build: &Build) -> String {
    match (&build.dockerfile, &build.context) {
        (DockerfileSource::Default, ContextSource::Directory(path)) => {
            let there = DEFAULT_DOCKERFILES.iter().map(|name| path.join(name)).find(|name| name.exists());
            absolute(&there.unwrap_or_else(|| path.join(DEFAULT_DOCKERFILES[0])))
        }
        (DockerfileSource::Default, _) => DEFAULT_DOCKERFILES[0].to_owned(),
        (DockerfileSource::Path(path), ContextSource::Directory(_)) => absolute(path),
        (DockerfileSource::Path(path), _) => path.display().to_string(),
        (DockerfileSource::Text(_), _) => "-".to_owned(),
        (DockerfileSource::Url(url), _) => masked(url),
    }
}

fn absolute(path: &Path) -> String {
    path.canonicalize().unwrap_or_else(|_| path.to_owned()).display().to_string()
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
