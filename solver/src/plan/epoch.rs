//! `SOURCE_DATE_EPOCH`: a number of seconds, or where to look one up (FEATURES AS15).

use kiln_parser::{CopySource, Dockerfile, InstructionKind, Span, Stage};

use super::arguments::GlobalArgs;
use super::dispatch::remote::{SourceKind, kind};
use super::environment::Environment;
use super::expansion::expand;
use super::stages::SCRATCH;
use super::{PlanError, PlanRequest};

/// The argument's name.
pub(super) const NAME: &str = "SOURCE_DATE_EPOCH";

/// Where an image's time comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EpochSource {
    /// Seconds since 1970, as given.
    Seconds(i64),
    /// A context's own time: `context`, or the name of one.
    Context(String),
    /// The time of what a URL gives: of a stage with nothing but one ADD.
    Url {
        /// The URL, of a file or of a git tree.
        url: String,
        /// The ADD.
        span: Span,
    },
}

/// What the build argument, or else an `ARG` above the first FROM, says; `None` where nothing is asked for.
///
/// # Errors
/// [`PlanError::InvalidEpoch`] and [`PlanError::UnusableEpochStage`].
pub fn source_date_epoch(
    dockerfile: &Dockerfile,
    request: &PlanRequest,
) -> Result<Option<EpochSource>, PlanError> {
    let args = GlobalArgs::new(dockerfile, request)?;
    let given = request.build_args.get(NAME).map(String::as_str).or_else(|| args.get(NAME));
    let Some(value) = given.filter(|value| !value.is_empty()) else { return Ok(None) };
    if let Ok(seconds) = value.parse() {
        return Ok(Some(EpochSource::Seconds(seconds)));
    }
    if value == "context" || request.contexts.contains_key(value) {
        return Ok(Some(EpochSource::Context(value.to_owned())));
    }
    let named =
        |stage: &&Stage| stage.name.as_ref().is_some_and(|name| name.value.eq_ignore_ascii_case(value));
    match dockerfile.stages.iter().find(named) {
        Some(stage) => of_stage(stage, dockerfile.directives.escape, &args, request).map(Some),
        None => Err(PlanError::InvalidEpoch { value: value.to_owned() }),
    }
}

fn of_stage(
    stage: &Stage,
    escape: char,
    args: &GlobalArgs,
    request: &PlanRequest,
) -> Result<EpochSource, PlanError> {
    let unusable =
        |problem: &str, span: Span| Err(PlanError::UnusableEpochStage { problem: problem.to_owned(), span });
    if expand(&stage.base, args.values(), escape, stage.span)?.value != SCRATCH {
        return unusable("stage must use FROM scratch", stage.span);
    }
    let mut environment: Environment = args.values().clone();
    let mut found = None;
    for instruction in &stage.instructions {
        let span = instruction.span;
        match &instruction.kind {
            InstructionKind::Arg(pairs) => {
                for pair in pairs {
                    let name = &pair.name.value;
                    let value = match (request.build_args.get(name), &pair.default) {
                        (Some(value), _) => value.clone(),
                        (None, Some(default)) => expand(default, &environment, escape, span)?.value,
                        (None, None) => continue,
                    };
                    environment.set(name, &value);
                }
            }
            InstructionKind::Add(add) => {
                if found.is_some() {
                    return unusable("stage must contain exactly one remote ADD", span);
                }
                let [CopySource::Path(source)] = add.copy.sources.as_slice() else {
                    return unusable("stage must contain exactly one remote ADD source", span);
                };
                let url = expand(source, &environment, escape, span)?.value;
                match kind(&url) {
                    Ok(SourceKind::Url { .. } | SourceKind::Git(_)) => {
                        found = Some(EpochSource::Url { url, span });
                    }
                    Ok(SourceKind::Local) => {
                        return unusable("stage source must be a single HTTP(S) or Git ADD", span);
                    }
                    Err(problem) => return Err(PlanError::InvalidGitSource { url, problem, span }),
                }
            }
            _ => {
                let keyword = instruction.original.split_whitespace().next().unwrap_or_default();
                let problem = format!(
                    "stage does not meet source-only requirements: unsupported {} instruction",
                    keyword.to_ascii_uppercase()
                );
                return unusable(&problem, stage.span);
            }
        }
    }
    match found {
        Some(source) => Ok(source),
        None => unusable("stage must contain exactly one remote ADD", stage.span),
    }
}
