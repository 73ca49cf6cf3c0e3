//! Expansion with limits, places and the names that were asked for.

use kiln_parser::Span;
use kiln_parser::expand::{ExpandError, Variables};

use super::PlanError;
use super::environment::{MAX_EXPANDED_BYTES, Recorder};

/// A word in an error message is cut here.
const MAX_SHOWN_CHARS: usize = 80;

/// A word's value and the variables it used.
#[derive(Debug)]
pub(super) struct Expansion {
    pub(super) value: String,
    /// Used and set.
    pub(super) found: Vec<String>,
    /// Used and not set, whether or not a default stood in.
    pub(super) missing: Vec<String>,
}

/// Expands one word.
pub(super) fn expand(
    word: &str,
    variables: &dyn Variables,
    escape: char,
    span: Span,
) -> Result<Expansion, PlanError> {
    // Most words have nothing to expand.
    if !word.contains(['$', '\'', '"', escape]) {
        return Ok(Expansion { value: word.to_owned(), found: Vec::new(), missing: Vec::new() });
    }
    with_recorder(word, variables, span, |recorder| {
        kiln_parser::expand::expand(word, recorder, escape).map(|expanded| expanded.value)
    })
    .map(|(value, found, missing)| Expansion { value, found, missing })
}

/// Runs an expansion of `word` by `run`; returns what it gives, the names found and the names missed.
pub(super) fn with_recorder<T>(
    word: &str,
    variables: &dyn Variables,
    span: Span,
    run: impl FnOnce(&Recorder<'_>) -> Result<T, ExpandError>,
) -> Result<(T, Vec<String>, Vec<String>), PlanError> {
    let shown = || word.chars().take(MAX_SHOWN_CHARS).collect();
    let recorder = Recorder::new(variables);
    let result = run(&recorder);
    if recorder.exhausted() {
        return Err(PlanError::ExpansionTooLong { word: shown(), limit_bytes: MAX_EXPANDED_BYTES, span });
    }
    let value = result.map_err(|cause| PlanError::Expansion { cause, span })?;
    let (found, missing) = recorder.into_names();
    Ok((value, found, missing))
}
