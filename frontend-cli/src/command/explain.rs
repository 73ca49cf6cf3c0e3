//! `kiln explain`, and what `kiln build --explain` says at its end.

use std::fmt::Write as _;
use std::path::Path;

use kiln::Explanation;
use kiln::history::{History, PastBuild};
use serde::Serialize;

use crate::args::ExplainArgs;
use crate::printable::printable;
use crate::report::Failure;

pub(super) fn run(args: &ExplainArgs, root: Option<&Path>) -> Result<u8, Failure> {
    let history = History::open(root)?;
    let (build, step) = choose(&history, args.build.as_deref(), args.step.as_deref())?;
    let mut explanations = history.explain(&build)?;
    if let Some(step) = &step {
        let wanted: Vec<u32> = steps(&build, step)?.iter().map(|step| step.number).collect();
        explanations.retain(|explanation| wanted.contains(&explanation.number));
    }
    let shown = match args.format.as_str() {
        "json" => json(&build, &explanations)?,
        _ => text(&build, &explanations, step.as_deref()),
    };
    super::print(&shown)?;
    Ok(0)
}

/// What a build that has just ended has to say.
pub(super) fn of_build(id: &str, root: Option<&Path>, format: Option<&str>) -> Result<String, Failure> {
    let history = History::open(root)?;
    let Some(build) = history.find(id)? else { return Ok(String::new()) };
    let explanations = history.explain(&build)?;
    match format {
        Some("json") => json(&build, &explanations),
        _ => Ok(text(&build, &explanations, None)),
    }
}

/// The build meant, and the step of it: a word that is a build's name means that build.
pub(super) fn choose(
    history: &History,
    build: Option<&str>,
    what: Option<&str>,
) -> Result<(PastBuild, Option<String>), Failure> {
    let unknown = |name: &str| {
        Failure::usage(format!("there is no build {name}")).with_hint("`kiln builds` lists those there are")
    };
    if let Some(name) = build {
        return Ok((history.find(name)?.ok_or_else(|| unknown(name))?, what.map(str::to_owned)));
    }
    if let Some(name) = what {
        match history.find(name)? {
            Some(build) => return Ok((build, None)),
            None if name.starts_with('^') => return Err(unknown(name)),
            None => {}
        }
    }
    Ok((history.latest(Path::new("."))?, what.map(str::to_owned)))
}

/// The steps that `what` means.
pub(super) fn steps<'b>(
    build: &'b PastBuild,
    what: &str,
) -> Result<Vec<&'b kiln::history::PastStep>, Failure> {
    let found = build.find_steps(what);
    if found.is_empty() {
        return Err(Failure::usage(format!("build {} has no step `{what}`", build.id))
            .with_hint("name it as progress did: `#7`, `2/5`, or words of its instruction"));
    }
    Ok(found)
}

fn text(build: &PastBuild, explanations: &[Explanation], step: Option<&str>) -> String {
    let (cached, all) = build.hits();
    let mut text = String::new();
    for Explanation { name, causes, .. } in explanations {
        let words = causes.first().map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(text, "{}: {}", printable(name), printable(&words));
        for cause in causes.iter().skip(1).take(MOST_FURTHER) {
            let _ = writeln!(text, "    also: {}", printable(&cause.to_string()));
        }
        if let Some(more) = causes.len().checked_sub(1 + MOST_FURTHER).filter(|more| *more > 0) {
            let _ = writeln!(text, "    and {more} more");
        }
    }
    match step {
        Some(step) if explanations.is_empty() => {
            let _ = writeln!(text, "`{}` did not run in build {}", printable(step), build.id);
        }
        Some(_) => {}
        None => {
            let _ = writeln!(text, "{cached} of {all} steps were cached in build {}", build.id);
        }
    }
    text
}

/// So many differences are named beside the first.
const MOST_FURTHER: usize = 4;

fn json(build: &PastBuild, explanations: &[Explanation]) -> Result<String, Failure> {
    let (cached, all) = build.hits();
    let steps = explanations
        .iter()
        .map(|explanation| ExplanationDocument {
            number: explanation.number,
            name: &explanation.name,
            line: explanation.line,
            compared_with: explanation.compared_with.as_deref(),
            causes: causes(&explanation.causes),
        })
        .collect();
    super::json(&ExplainDocument { build: &build.id, cached, steps_total: all, steps })
}

pub(super) fn causes(causes: &[kiln::Cause]) -> Vec<CauseDocument<'_>> {
    causes.iter().map(|cause| CauseDocument { text: cause.to_string(), cause }).collect()
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ExplainDocument<'a> {
    build: &'a str,
    cached: usize,
    steps_total: usize,
    steps: Vec<ExplanationDocument<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ExplanationDocument<'a> {
    number: u32,
    name: &'a str,
    line: Option<u32>,
    compared_with: Option<&'a str>,
    causes: Vec<CauseDocument<'a>>,
}

#[derive(Serialize)]
pub(super) struct CauseDocument<'a> {
    text: String,
    #[serde(flatten)]
    cause: &'a kiln::Cause,
}
