//! The commands, one file each: arguments to a request, a call of the engine, its answer to the screen.

mod build;
mod builds;
mod check;
mod diff;
mod doctor;
mod du;
mod explain;
mod export;
mod filter;
mod forecast;
mod history;
mod image_filter;
mod image_prune;
mod images;
mod import;
mod inspect;
mod load;
mod lock;
mod login;
mod logout;
mod logs;
mod metadata;
mod prune;
mod pull;
mod push;
mod rmi;
mod run;
mod save;
mod system;
mod tag;
mod version;

use std::io::Write as _;
use std::path::Path;

use kiln::images::Images;
use kiln::storage::Storage;

use crate::args::{Cli, Command};
use crate::report::{self, Failure};

/// Runs the command; returns the exit status.
pub(crate) fn run(cli: Cli) -> Result<u8, Failure> {
    let needs_ids = match &cli.command {
        // A look at the machine enters by itself, to tell what it finds.
        Command::Doctor(args) => args.check || args.repair,
        // What touches the user's own files only needs no other ids.
        Command::Login(_) | Command::Logout(_) | Command::Version => false,
        _ => true,
    };
    if needs_ids {
        become_able_to_build()?;
    }
    let root = cli.root.as_deref();
    match cli.command {
        Command::Build(args) => build::run(&args, root),
        Command::Builds(args) => builds::run(&args, root),
        Command::Diff(args) => diff::run(&args, &open(root)?),
        Command::Doctor(args) => doctor::run(&args, root),
        Command::Du(args) => du::run(&args, &storage(root)?),
        Command::Explain(args) => explain::run(&args, root),
        Command::Export(args) => export::run(&args, &open(root)?),
        Command::History(args) => history::run(&args, &open(root)?),
        Command::ImagePrune(args) => image_prune::run(&args, &open(root)?),
        Command::Images(args) => images::run(&args, &open(root)?),
        Command::Import(args) => import::run(&args, &open(root)?),
        Command::Inspect(args) => inspect::run(&args, &open(root)?),
        Command::Logs(args) => logs::run(&args, root),
        Command::Load(args) => load::run(&args, root),
        Command::Lock(args) => lock::run(&args, root),
        Command::Login(args) => login::run(&args),
        Command::Logout(args) => logout::run(&args),
        Command::Prune(args) => prune::run(&args, &storage(root)?),
        Command::Pull(args) => pull::run(&args, root),
        Command::Push(args) => push::run(&args, root),
        Command::Rmi(args) => rmi::run(&args, &open(root)?),
        Command::Run(args) => run::run(*args, root),
        Command::Save(args) => save::run(&args, root),
        Command::SystemDf(args) => system::df(&args, &storage(root)?, &open(root)?),
        Command::SystemPrune(args) => system::prune(&args, root),
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

fn storage(root: Option<&Path>) -> Result<Storage, Failure> {
    Ok(Storage::open(root)?)
}

/// Asks on standard output; anything but `y` is no.
fn confirm(question: &str) -> Result<bool, Failure> {
    print(&format!("{question}\nAre you sure you want to continue? [y/N] "))?;
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .map_err(|error| Failure::file(Path::new("standard input"), &error))?;
    Ok(matches!(answer.trim(), "y" | "Y"))
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

/// A document for programs.
fn json(document: &impl serde::Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(document).map_err(|error| Failure::usage(error.to_string()))?;
    Ok(text + "\n")
}

/// A variable of the environment, where it is set and text.
pub(crate) fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The first twelve digits of an id, which docker shows.
fn short_id(digest: &kiln::Digest) -> String {
    digest.hex()[..12].to_owned()
}
