//! `kiln run`: a container on the same sandbox.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use kiln_solver::event::EventSink;

use crate::Error;

/// What to run.
#[derive(Debug, Default)]
pub struct RunRequest {
    /// The store's directory.
    pub root: Option<PathBuf>,
    /// Name or id; pulled when missing.
    pub image: String,
    /// Arguments in place of CMD.
    pub command: Vec<String>,
    /// `--entrypoint`.
    pub entrypoint: Option<String>,
    /// `-e`: `NAME=value`.
    pub env: Vec<String>,
    /// `-v`: host path, path inside, read-only.
    pub volumes: Vec<(PathBuf, String, bool)>,
    /// `-w`.
    pub workdir: Option<String>,
    /// `-u`.
    pub user: Option<String>,
    /// `--network none`.
    pub no_network: bool,
    /// `-h`.
    pub hostname: Option<String>,
    /// `-t`.
    pub terminal: bool,
    /// `-i`: the process's stdin; `None` is `/dev/null`.
    pub stdin: Option<OwnedFd>,
}

/// Runs it with this process's stdout and stderr (or a terminal on them) and returns its exit status as docker has it
/// (128 + signal). Changes to the root file system are dropped at the end.
///
/// # Errors
/// 125 for the engine, 126 and 127 for a command that cannot be run, see [`crate::ErrorKind`].
pub fn run(request: RunRequest, events: Arc<EventSink>, cancel: Arc<AtomicBool>) -> Result<i32, Error> {
    let _ = (request, events, cancel);
    todo!()
}

pub enum CommandFailure { NotFound, NotExecutable }
pub fn command_failure(error: &Error) -> Option<CommandFailure> { None }
