//! Past builds: what they were, how they ended, what became of each step.
//!
//! A build writes its row when it ends, in one small transaction, whether it succeeded or not. The store keeps a bounded
//! number of them; what steps printed and were made of is in the steps' own records.

mod account;
mod matching;

use std::path::Path;

use kiln_cache::{BuildRow, Details, Store};
use kiln_solver::explain::NoCacheBy;
use serde::{Deserialize, Serialize};

use crate::build::default_root;
use crate::{Error, Explanation, explain};

pub(crate) use account::{Account, context_name, dockerfile_name, past_step};
pub(crate) use matching::{Match, matching};

/// Raised when rows change their meaning: others are then not shown.
const VERSION: u32 = 1;
/// Fewer digits of an id are a step's name rather than a build's.
const SHORTEST_ID: usize = 4;

/// A build that has ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct PastBuild {
    version: u32,
    /// Its id: twelve hex digits.
    pub id: String,
    /// When it began, in milliseconds since the epoch.
    pub started_at: u64,
    /// How long it took, in milliseconds.
    pub millis: u64,
    /// The context's directory or address; `-` for standard input, empty for none.
    pub context: String,
    /// The Dockerfile's path or address; `-` for one that was given as text.
    pub dockerfile: String,
    /// The stage asked for.
    pub target: Option<String>,
    /// The names asked for.
    pub tags: Vec<String>,
    /// What the build itself is called: the build argument `BUILDKIT_BUILD_NAME`.
    pub name: Option<String>,
    /// How it ended.
    pub result: PastResult,
    /// The image's id.
    pub image: Option<String>,
    /// Why it failed, in one sentence.
    pub error: Option<String>,
    /// The end of what the failed step printed.
    pub log_tail: String,
    /// Its steps in the order of their numbers.
    pub steps: Vec<PastStep>,
}

/// How a build ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum PastResult {
    /// With an image, or what else was asked for.
    #[default]
    Completed,
    /// By an error.
    Failed,
    /// By the user.
    Canceled,
}

/// A step of a past build.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct PastStep {
    /// Its number, as `#7` of plain progress.
    pub number: u32,
    /// `[stage 2/5] RUN make`.
    pub name: String,
    /// Its line in the Dockerfile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// How it ended.
    pub outcome: PastOutcome,
    /// How long it ran; of a cached one, how long it ran then.
    pub millis: u64,
    /// Whether it is RUN, COPY, ADD or WORKDIR, which have results of their own.
    pub has_result: bool,
    /// What tells the instruction from others of the file.
    pub(crate) text: String,
    /// Numbers of what it starts from.
    pub(crate) inputs: Vec<u32>,
    /// Of FROM: name and digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) image: Option<(String, String)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) no_cache: Option<NoCacheBy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lifetime_seconds: Option<u64>,
    /// Of its record, hex digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
    /// Of its root file system.
    pub(crate) layers: usize,
    /// Of a failed one, what it was made of.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) facts: String,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum PastOutcome {
    /// Its result was found.
    Cached,
    /// It ran.
    Ran,
    /// It failed, with this exit status where a command did.
    Failed(Option<i32>),
    /// It was not its turn, it was stopped, or there is nothing to do for it.
    #[default]
    None,
}

impl PastStep {
    /// How its command ended: 128 and the signal's number if by one. `None` for what is no command, or was not run.
    pub fn exit_code(&self) -> Option<i32> {
        match self.outcome {
            PastOutcome::Failed(code) => code,
            PastOutcome::Cached | PastOutcome::Ran if self.is_command() => Some(0),
            _ => None,
        }
    }

    fn is_command(&self) -> bool {
        let words = self.name.split_once("] ").map_or("", |(_, words)| words);
        self.has_result
            && words.split_whitespace().next().is_some_and(|word| word.eq_ignore_ascii_case("RUN"))
    }
}

impl PastBuild {
    /// How many of its steps were found, and how many there were that were found or run.
    pub fn hits(&self) -> (usize, usize) {
        let count = |wanted: &dyn Fn(&PastStep) -> bool| {
            self.steps.iter().filter(|step| step.has_result && wanted(step)).count()
        };
        let cached = count(&|step| step.outcome == PastOutcome::Cached);
        (cached, count(&|step| step.outcome != PastOutcome::None))
    }

    /// The steps that `what` means: `#7`, `2/5` or words of the name (case does not matter).
    pub fn find_steps(&self, what: &str) -> Vec<&PastStep> {
        let steps = self.steps.iter().filter(|step| step.line.is_some());
        if let Some(number) = what.strip_prefix('#').and_then(|number| number.parse::<u32>().ok()) {
            return steps.filter(|step| step.number == number).collect();
        }
        let wanted = what.to_lowercase();
        let is_position = what.split_once('/').is_some_and(|(number, total)| {
            [number, total].iter().all(|text| text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty())
        });
        steps
            .filter(|step| {
                let name = step.name.to_lowercase();
                match name.split_once("] ") {
                    Some((head, _)) if is_position => {
                        head.trim_start_matches('[').rsplit(' ').next() == Some(&wanted)
                    }
                    _ => name.contains(&wanted),
                }
            })
            .collect()
    }

    /// The exit code of the command that made it fail.
    pub fn exit_code(&self) -> Option<i32> {
        self.steps.iter().find_map(|step| step.exit_code().filter(|code| *code != 0))
    }

    pub(crate) fn step(&self, number: u32) -> Option<&PastStep> {
        self.steps.iter().find(|step| step.number == number)
    }

    fn decode(row: &BuildRow) -> Option<Self> {
        serde_json::from_slice(&row.about).ok().filter(|build: &Self| build.version == VERSION)
    }

    fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// The past builds of a store.
#[derive(Debug)]
pub struct History {
    store: Store,
}

impl History {
    /// Of the store at `root`, by default the user's.
    ///
    /// # Errors
    /// The store cannot be opened.
    pub fn open(root: Option<&Path>) -> Result<Self, Error> {
        let root = root.map_or_else(default_root, Path::to_owned);
        Ok(Self { store: Store::open(&root)? })
    }

    pub(crate) fn of(store: &Store) -> Self {
        Self { store: store.clone() }
    }

    /// All that are remembered, newest first.
    ///
    /// # Errors
    /// I/O.
    pub fn builds(&self) -> Result<Vec<PastBuild>, Error> {
        Ok(self.store.builds()?.iter().filter_map(PastBuild::decode).collect())
    }

    /// The build that `name` means: `^0` is the newest, `^1` the one before it; an id, or the beginning of one.
    /// `None` for what is no build's name.
    ///
    /// # Errors
    /// I/O; a beginning that several ids have.
    pub fn find(&self, name: &str) -> Result<Option<PastBuild>, Error> {
        let mut builds = self.builds()?;
        if let Some(number) = name.strip_prefix('^') {
            let number = number.parse().ok().filter(|number| *number < builds.len());
            return Ok(number.map(|number: usize| builds.swap_remove(number)));
        }
        if name.len() < SHORTEST_ID {
            return Ok(None);
        }
        builds.retain(|build| build.id.starts_with(name));
        match builds.len() {
            0 | 1 => Ok(builds.pop()),
            count => Err(Error::user(format!("{name} is the beginning of {count} builds' ids"))
                .hinted("give more of its digits, see `kiln builds`")),
        }
    }

    /// The newest build of the context `directory`; without one, the newest of all.
    ///
    /// # Errors
    /// I/O; there is none.
    pub fn latest(&self, directory: &Path) -> Result<PastBuild, Error> {
        let directory = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
        let mut builds = self.builds()?;
        let here = builds.iter().position(|build| Path::new(&build.context) == directory).unwrap_or_default();
        if here < builds.len() {
            return Ok(builds.swap_remove(here));
        }
        Err(Error::user("no build is remembered").hinted("`kiln build` remembers each"))
    }

    /// What a step printed, took and was made of; `None` where its record is gone.
    ///
    /// # Errors
    /// I/O.
    pub fn details(&self, step: &PastStep) -> Result<Option<Details>, Error> {
        match step.key() {
            Some(key) => Ok(self.store.details(&key)?),
            None => Ok(None),
        }
    }

    /// Why each step of `build` ran that did.
    ///
    /// # Errors
    /// I/O.
    pub fn explain(&self, build: &PastBuild) -> Result<Vec<Explanation>, Error> {
        explain::explain(&self.store, build, &self.builds()?)
    }

    /// Forgets builds; what they made stays. Returns how many.
    ///
    /// # Errors
    /// I/O.
    pub fn remove(&self, builds: &[PastBuild]) -> Result<usize, Error> {
        let ids: Vec<String> = builds.iter().map(|build| build.id.clone()).collect();
        Ok(self.store.remove_builds(&ids)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build() -> PastBuild {
        let step = |number, name: &str, outcome| PastStep {
            number,
            name: name.into(),
            line: Some(number),
            has_result: number > 1,
            outcome,
            ..PastStep::default()
        };
        PastBuild {
            version: VERSION,
            steps: vec![
                step(1, "[1/12] FROM busybox", PastOutcome::Cached),
                step(2, "[2/12] COPY . /src", PastOutcome::Cached),
                step(3, "[lib 2/2] RUN make lib", PastOutcome::Ran),
                step(4, "[12/12] RUN make", PastOutcome::None),
            ],
            ..PastBuild::default()
        }
    }

    #[test]
    fn steps_are_found_by_number_by_position_and_by_words() {
        let build = build();
        let found = |what: &str| build.find_steps(what).iter().map(|step| step.number).collect::<Vec<_>>();
        assert_eq!(found("#3"), [3]);
        assert_eq!(found("2/12"), [2]);
        assert_eq!(found("run make"), [3, 4]);
        assert_eq!(found("/src"), [2]);
        assert_eq!(found("9/9"), [0; 0]);
    }

    #[test]
    fn a_command_that_was_found_or_ran_ended_well_and_a_copy_has_no_exit_code() {
        let mut build = build();
        let codes = |build: &PastBuild| build.steps.iter().map(PastStep::exit_code).collect::<Vec<_>>();
        assert_eq!(codes(&build), [None, None, Some(0), None]);
        assert_eq!(build.exit_code(), None);
        build.steps[3].outcome = PastOutcome::Failed(Some(137));
        assert_eq!(codes(&build), [None, None, Some(0), Some(137)]);
        assert_eq!(build.exit_code(), Some(137));
    }

    #[test]
    fn the_hit_rate_counts_what_could_be_found() {
        assert_eq!(build().hits(), (1, 2));
    }

    #[test]
    fn a_row_of_another_version_is_none() {
        let row = |build: &PastBuild| BuildRow { id: String::new(), about: build.encode() };
        assert_eq!(PastBuild::decode(&row(&build())), Some(build()));
        assert_eq!(PastBuild::decode(&row(&PastBuild { version: VERSION + 1, ..build() })), None);
        assert_eq!(PastBuild::decode(&BuildRow { id: String::new(), about: b"{".to_vec() }), None);
    }
}
