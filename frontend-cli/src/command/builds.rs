//! `kiln builds`: past builds, one in detail, and forgetting them.

use std::fmt::Write as _;
use std::path::Path;

use kiln::history::{History, PastBuild, PastOutcome, PastResult, PastStep};
use kiln::{Cost, Details};
use serde::Serialize;

use crate::args::{BuildsArgs, BuildsCommand};
use crate::human;
use crate::printable::printable;
use crate::report::Failure;
use crate::table::table;

pub(super) fn run(args: &BuildsArgs, root: Option<&Path>) -> Result<u8, Failure> {
    let history = History::open(root)?;
    match &args.command {
        None => {
            let builds = history.builds()?;
            let shown = match args.format.as_str() {
                "json" => super::json(&builds.iter().map(BuildDocument::of).collect::<Vec<_>>())?,
                _ if args.quiet => builds.iter().map(|build| format!("{}\n", build.id)).collect(),
                _ => list(&builds, jiff::Timestamp::now()),
            };
            super::print(&shown)?;
        }
        Some(BuildsCommand::Inspect { build, format }) => {
            let (build, _) = super::explain::choose(&history, build.as_deref(), None)?;
            let mut details = Vec::with_capacity(build.steps.len());
            for step in &build.steps {
                details.push((step, history.details(step)?));
            }
            let shown = match format.as_str() {
                "json" => super::json(&InspectDocument::of(&build, &details))?,
                _ => inspect(&build, &details),
            };
            super::print(&shown)?;
        }
        Some(BuildsCommand::Rm { all: true, .. }) => {
            history.remove(&history.builds()?)?;
        }
        Some(BuildsCommand::Rm { builds, .. }) => {
            if builds.is_empty() {
                return Err(Failure::usage("`kiln builds rm` requires BUILD").with_hint("or --all"));
            }
            for name in builds {
                let (build, _) = super::explain::choose(&history, Some(name), None)?;
                history.remove(std::slice::from_ref(&build))?;
                super::print(&format!("{}\n", build.id))?;
            }
        }
    }
    Ok(0)
}

fn list(builds: &[PastBuild], now: jiff::Timestamp) -> String {
    let rows: Vec<Vec<String>> = builds
        .iter()
        .map(|build| {
            vec![
                build.id.clone(),
                name(build),
                ended(build),
                human::ago(Some(&started(build)), now),
                human::seconds(build.millis),
                hits(build),
            ]
        })
        .collect();
    table(&["BUILD", "NAME", "RESULT", "STARTED", "DURATION", "CACHED"], &rows)
}

/// What a build is called, or was of: its image's first name, else its context; and the stage.
fn name(build: &PastBuild) -> String {
    let name = match (build.name.as_ref().or(build.tags.first()), build.context.as_str()) {
        (Some(tag), _) => tag.clone(),
        (None, "") => "(no context)".to_owned(),
        (None, context) => context.to_owned(),
    };
    match &build.target {
        Some(target) => format!("{name} ({target})"),
        None => name,
    }
}

fn result(build: &PastBuild) -> &'static str {
    match build.result {
        PastResult::Completed => "completed",
        PastResult::Failed => "failed",
        _ => "canceled",
    }
}

/// The result, with the exit code where a command failed.
fn ended(build: &PastBuild) -> String {
    match (build.result, build.exit_code()) {
        (PastResult::Failed, Some(code)) => format!("failed ({code})"),
        _ => result(build).to_owned(),
    }
}

fn hits(build: &PastBuild) -> String {
    match build.hits() {
        (_, 0) => "-".to_owned(),
        (cached, all) => format!("{cached}/{all} ({}%)", cached * 100 / all),
    }
}

/// RFC 3339.
fn started(build: &PastBuild) -> String {
    let millis = i64::try_from(build.started_at).unwrap_or_default();
    jiff::Timestamp::from_millisecond(millis).unwrap_or_default().to_string()
}

fn outcome(step: &PastStep) -> String {
    match step.outcome {
        PastOutcome::Cached => "cached".to_owned(),
        PastOutcome::Ran => "ran".to_owned(),
        PastOutcome::Failed(Some(code)) => format!("failed ({code})"),
        PastOutcome::Failed(None) => "failed".to_owned(),
        _ => "-".to_owned(),
    }
}

fn inspect(build: &PastBuild, steps: &[(&PastStep, Option<Details>)]) -> String {
    let mut text = String::new();
    let mut line = |what: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(text, "{what:<12}{}", printable(value));
        }
    };
    line("Build:", &build.id);
    line("Names:", &build.tags.join(" "));
    line("Context:", &build.context);
    line("Dockerfile:", &build.dockerfile);
    line("Target:", build.target.as_deref().unwrap_or_default());
    line("Started:", &started(build));
    line("Duration:", &human::seconds(build.millis));
    line("Result:", &ended(build));
    line("Image:", build.image.as_deref().unwrap_or_default());
    line("Error:", build.error.as_deref().unwrap_or_default());
    line("Cached:", &hits(build));
    text.push('\n');
    let rows: Vec<Vec<String>> = steps
        .iter()
        .filter(|(step, _)| step.line.is_some())
        .map(|(step, details)| {
            let cost = details.as_ref().map(|details| details.cost).filter(|_| step.has_result);
            let cell = |show: &dyn Fn(&Cost) -> String| cost.as_ref().map(show).unwrap_or_else(|| "-".into());
            let bytes = |bytes: u64| if bytes == 0 { "-".to_owned() } else { human::size(bytes) };
            let added = details.as_ref().and_then(|details| details.added_bytes);
            vec![
                format!("#{}", step.number),
                outcome(step),
                cell(&|cost| human::seconds(millis(cost.duration))),
                cell(&|cost| human::seconds(millis(cost.cpu))),
                cell(&|cost| bytes(cost.peak_memory_bytes)),
                cell(&|cost| bytes(cost.read_bytes)),
                cell(&|cost| bytes(cost.written_bytes)),
                added.filter(|_| step.has_result).map_or("-".to_owned(), human::size),
                step.name.clone(),
            ]
        })
        .collect();
    text + &table(&["STEP", "OUTCOME", "TIME", "CPU", "MEMORY", "READ", "WRITTEN", "ADDED", "NAME"], &rows)
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BuildDocument<'a> {
    id: &'a str,
    started: String,
    seconds: f64,
    result: PastResult,
    exit_code: Option<i32>,
    context: &'a str,
    dockerfile: &'a str,
    target: Option<&'a str>,
    names: &'a [String],
    image: Option<&'a str>,
    error: Option<&'a str>,
    cached: usize,
    steps_total: usize,
}

impl<'a> BuildDocument<'a> {
    fn of(build: &'a PastBuild) -> Self {
        let (cached, steps_total) = build.hits();
        Self {
            id: &build.id,
            started: started(build),
            seconds: build.millis as f64 / 1000.0,
            result: build.result,
            exit_code: build.exit_code(),
            context: &build.context,
            dockerfile: &build.dockerfile,
            target: build.target.as_deref(),
            names: &build.tags,
            image: build.image.as_deref(),
            error: build.error.as_deref(),
            cached,
            steps_total,
        }
    }
}

#[derive(Serialize)]
struct InspectDocument<'a> {
    #[serde(flatten)]
    build: BuildDocument<'a>,
    steps: Vec<StepDocument<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StepDocument<'a> {
    number: u32,
    name: &'a str,
    line: Option<u32>,
    outcome: PastOutcome,
    exit_code: Option<i32>,
    seconds: f64,
    cpu_seconds: Option<f64>,
    peak_memory_bytes: Option<u64>,
    read_bytes: Option<u64>,
    written_bytes: Option<u64>,
    added_bytes: Option<u64>,
}

impl<'a> InspectDocument<'a> {
    fn of(build: &'a PastBuild, steps: &'a [(&'a PastStep, Option<Details>)]) -> Self {
        let steps = steps.iter().map(|(step, details)| {
            let cost = details.as_ref().map(|details| details.cost);
            StepDocument {
                number: step.number,
                name: &step.name,
                line: step.line,
                outcome: step.outcome,
                exit_code: step.exit_code(),
                seconds: step.millis as f64 / 1000.0,
                cpu_seconds: cost.map(|cost| cost.cpu.as_secs_f64()),
                peak_memory_bytes: cost.map(|cost| cost.peak_memory_bytes),
                read_bytes: cost.map(|cost| cost.read_bytes),
                written_bytes: cost.map(|cost| cost.written_bytes),
                added_bytes: details.as_ref().and_then(|details| details.added_bytes),
            }
        });
        Self { build: BuildDocument::of(build), steps: steps.collect() }
    }
}
