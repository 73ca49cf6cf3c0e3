//! The commands, one file each: arguments to a request, a call of the engine, its answer to the screen.

mod build;
mod check;
mod doctor;
mod history;
mod images;
mod inspect;
mod load;
mod pull;
mod rmi;
mod run;
mod save;
mod tag;
mod version;

use std::io::Write as _;
use std::path::Path;

use kiln::images::Images;

use crate::args::{Cli, Command};
use crate::report::{self, Failure};

/// Runs the command; returns the exit status.
pub(crate) fn run(cli: Cli) -> Result<u8, Failure> {
    if !matches!(cli.command, Command::Doctor | Command::Version) {
        become_able_to_build()?;
    }
    let root = cli.root.as_deref();
    match cli.command {
        Command::Build(args) => build::run(&args, root),
        Command::Doctor => doctor::run(root),
        Command::History(args) => history::run(&args, &open(root)?),
        Command::Images(args) => images::run(&args, &open(root)?),
        Command::Inspect(args) => inspect::run(&args, &open(root)?),
        Command::Load(args) => load::run(&args, root),
        Command::Pull(args) => pull::run(&args, root),
        Command::Rmi(args) => rmi::run(&args, &open(root)?),
        Command::Run(args) => run::run(*args, root),
        Command::Save(args) => save::run(&args, root),
        Command::Tag(args) => tag::run(&args, &open(root)?),
        Command::Version => version::run(),
    }
}

/// Enters a user namespace where the user is not root: the store's files belong to the ids of it.
fn become_able_to_build() -> Result<(), Failure> {
    use kiln::rootless::{Privileges, enter};
    match enter() {
        Ok(Privileges::SingleId { why }) => {
            let message = format!(
                "{why}: kiln answers for owners and users itself, which is slower (docs/rootless.md)"
            );
            report::warn(&message, &why.hint());
            Ok(())
        }
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::usage(error.to_string()).with_hint(error.hint())),
    }
}

fn open(root: Option<&Path>) -> Result<Images, Failure> {
    Ok(Images::open(root)?)
}

/// Writes a result to standard output. A reader that has gone (`kiln images | head -1`) is no failure.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::file(Path::new("standard output"), &error))
        }
        _ => Ok(()),
    }
}

/// A variable of the environment, where it is set and text.
fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The first twelve digits of an id, which docker shows.
fn short_id(digest: &kiln::Digest) -> String {
    digest.hex()[..12].to_owned()
}
