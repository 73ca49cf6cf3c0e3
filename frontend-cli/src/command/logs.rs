//! `kiln logs`: what steps printed when they ran.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;

use kiln::history::{History, PastBuild, PastOutcome, PastStep};

use crate::args::LogsArgs;
use crate::printable::{log_line, printable};
use crate::report::Failure;

pub(super) fn run(args: &LogsArgs, root: Option<&Path>) -> Result<u8, Failure> {
    let history = History::open(root)?;
    let (build, step) = super::explain::choose(&history, args.build.as_deref(), args.what.as_deref())?;
    match step {
        Some(step) => {
            let steps = super::explain::steps(&build, &step)?;
            let has_heads = steps.len() > 1;
            for step in steps {
                show(&history, &build, step, has_heads)?;
            }
        }
        None => {
            for step in build.steps.iter().filter(|step| step.has_result) {
                show(&history, &build, step, true)?;
            }
        }
    }
    Ok(0)
}

fn show(history: &History, build: &PastBuild, step: &PastStep, has_head: bool) -> Result<(), Failure> {
    let log = match step.outcome {
        PastOutcome::Failed(_) => Some(build.log_tail.clone().into_bytes()),
        _ => history.details(step)?.map(|details| details.log),
    };
    if has_head {
        // Steps without a word are passed over.
        match &log {
            Some(log) if log.is_empty() && !matches!(step.outcome, PastOutcome::Failed(_)) => return Ok(()),
            _ if step.outcome == PastOutcome::None => return Ok(()),
            _ => super::print(&format!("#{} {}\n", step.number, printable(&step.name)))?,
        }
    }
    match log {
        Some(log) => print_log(&log)?,
        None => say(&format!("the log of {} is no longer there", printable(&step.name))),
    }
    if let Some(code) = step.exit_code().filter(|code| *code != 0) {
        say(&format!("exit code: {code}"));
    }
    Ok(())
}

/// What the step did not print itself.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// As it was printed; on a terminal harmless.
fn print_log(log: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let written = if std::io::stdout().is_terminal() {
        let lines = log.strip_suffix(b"\n").unwrap_or(log).split(|byte| *byte == b'\n');
        lines.map(log_line).try_for_each(|line| writeln!(out, "{line}"))
    } else {
        out.write_all(log)
    };
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::file(Path::new("standard output"), &error))
        }
        _ => Ok(()),
    }
}
