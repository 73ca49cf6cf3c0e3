//! `kiln lock`.

use std::fmt::Write as _;
use std::path::Path;

use kiln::{Lock, LockReport};

use super::build;
use crate::args::LockArgs;
use crate::progress::Progress;
use crate::report::Failure;

pub(super) fn run(args: &LockArgs, root: Option<&Path>) -> Result<u8, Failure> {
    let mode = build::mode(&args.build, super::env("BUILDKIT_PROGRESS").as_deref())?;
    let request = build::request(&args.build, root, &[])?;
    let cancel = request.cancel_handle();
    crate::cancel::on_signal(move || cancel.cancel());
    let progress = Progress::start(mode, &super::env)?;
    let request = request.on_event(progress.sink());
    let report = if args.verify { request.look_up_sources() } else { request.lock() };
    progress.finish();
    let report = report?;
    let changes = changes(&report);
    super::print(&changes)?;
    if args.verify && (report.before.is_none() || !changes.is_empty()) {
        let path = report.path.display();
        return Err(Failure::usage(match report.before {
            None => format!("there is no lock {path}"),
            Some(_) => format!("{path} does not say what the sources are"),
        })
        .with_hint("`kiln lock` writes it"));
    }
    if !args.verify {
        super::print(&format!("{} sources are in {}\n", report.lock.iter().count(), report.path.display()))?;
    }
    Ok(0)
}

/// A line for each source that is new, gone or another: `+`, `-` and `~`.
fn changes(report: &LockReport) -> String {
    let empty = Lock::default();
    let before = report.before.as_ref().unwrap_or(&empty);
    let mut lines = String::new();
    for (source, value) in report.lock.iter() {
        match before.get(source) {
            None => _ = writeln!(lines, "+ {source} {value}"),
            Some(old) if old != value => _ = writeln!(lines, "~ {source} {old} -> {value}"),
            Some(_) => {}
        }
    }
    for (source, value) in before.iter().filter(|(source, _)| report.lock.get(source).is_none()) {
        _ = writeln!(lines, "- {source} {value}");
    }
    lines
}
