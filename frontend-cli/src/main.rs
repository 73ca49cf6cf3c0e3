//! The `kiln` binary: arguments to a request, a call of the engine, events to the screen. No build logic.
//!
//! `args` understands the words, `command` has a file for each command, `progress` shows what goes on, `report` says
//! why something failed. Called by the name `build`, the program behaves as `kiln build`.
#![forbid(unsafe_code)]

mod args;
mod cancel;
mod command;
mod human;
mod printable;
mod progress;
mod report;
mod table;
mod template;

use std::io::Write as _;
use std::process::ExitCode;

use args::Parsed;
use report::{Failure, Paint};

fn main() -> ExitCode {
    let paint = Paint::for_stderr();
    let cli = match args::parse(std::env::args_os()) {
        Ok(Parsed::Run(cli)) => cli,
        Ok(Parsed::Print(text)) => {
            // Nothing can be done about a reader that has gone.
            let _ = std::io::stdout().write_all(text.as_bytes());
            return ExitCode::SUCCESS;
        }
        Err(usage) => {
            let failure = Failure::usage(usage.message).with_hint(usage.hint).with_status(usage.status);
            report::show(&failure, paint);
            return ExitCode::from(usage.status);
        }
    };
    trace_to_stderr(cli.debug);
    match command::run(*cli) {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            report::show(&failure, paint);
            ExitCode::from(failure.status())
        }
    }
}

/// `tracing` is for kiln's developers: silent unless `-D` or `KILN_LOG` (tracing's own filter words) asks for it.
fn trace_to_stderr(debug: bool) {
    use tracing_subscriber::EnvFilter;
    let filter = match std::env::var("KILN_LOG") {
        Ok(words) => EnvFilter::new(words),
        Err(_) if debug => EnvFilter::new("debug"),
        Err(_) => return,
    };
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
}
