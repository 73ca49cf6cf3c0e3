//! `kiln build --dry-run`.

use std::fmt::Write as _;

use kiln::{Build, ForecastReport, ForecastStep, Verdict};
use serde::Serialize;

use super::explain::{CauseDocument, causes};
use crate::human;
use crate::printable::printable;
use crate::progress::{Mode, Progress};
use crate::report::Failure;
use crate::table::table;

/// Tells what `build` would do; returns the exit status.
pub(super) fn run(build: Build, format: Option<&str>) -> Result<u8, Failure> {
    let cancel = build.cancel_handle();
    crate::cancel::on_signal(move || cancel.cancel());
    // The report says it all; a display would show steps that nobody runs.
    let progress = Progress::start(Mode::Quiet, &super::env)?;
    let report = build.on_event(progress.sink()).foresee();
    progress.finish();
    let report = report?;
    super::print(&match format {
        Some("json") => super::json(&ForecastDocument::of(&report))?,
        _ => text(&report),
    })?;
    Ok(0)
}

fn text(report: &ForecastReport) -> String {
    let rows: Vec<Vec<String>> = report
        .steps
        .iter()
        .map(|step| {
            let time = match (step.verdict, step.duration) {
                (Verdict::Run, Some(duration)) => seconds(duration),
                (Verdict::Run, None) => "?".to_owned(),
                (Verdict::Pull { size_bytes }, _) => human::size(size_bytes),
                _ => String::new(),
            };
            let why = step.causes.first().map(|cause| format!(": {cause}")).unwrap_or_default();
            vec![verdict(step).to_owned(), time, format!("{}{why}", step.name)]
        })
        .collect();
    let mut text = table(&["EXPECTED", "TIME", "STEP"], &rows);
    let count = |wanted: &str| report.steps.iter().filter(|step| verdict(step) == wanted).count();
    let unknown = report.steps.iter().any(|step| step.verdict == Verdict::Run && step.duration.is_none());
    let (cached, runs, pulls) = (count("cached"), count("run"), count("pull"));
    let least = if unknown { "at least " } else { "" };
    let _ = writeln!(
        text,
        "{cached} cached, {runs} to run, {pulls} to pull; expected time: {least}{}",
        printable(&seconds(report.expected))
    );
    text
}

fn seconds(duration: std::time::Duration) -> String {
    human::seconds(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

fn verdict(step: &ForecastStep) -> &'static str {
    match step.verdict {
        Verdict::Run => "run",
        Verdict::Pull { .. } => "pull",
        Verdict::Ask => "ask",
        // A base image whose layers are not needed, or are there.
        _ => "cached",
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ForecastDocument<'a> {
    expected_seconds: f64,
    steps: Vec<StepDocument<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StepDocument<'a> {
    name: &'a str,
    line: Option<u32>,
    expected: &'static str,
    /// Of the last time it ran.
    seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    download_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    causes: Vec<CauseDocument<'a>>,
}

impl<'a> ForecastDocument<'a> {
    fn of(report: &'a ForecastReport) -> Self {
        let steps = report.steps.iter().map(|step| StepDocument {
            name: &step.name,
            line: step.line,
            expected: verdict(step),
            seconds: step.duration.map(|duration| duration.as_secs_f64()),
            download_bytes: match step.verdict {
                Verdict::Pull { size_bytes } => Some(size_bytes),
                _ => None,
            },
            causes: causes(&step.causes),
        });
        Self { expected_seconds: report.expected.as_secs_f64(), steps: steps.collect() }
    }
}
