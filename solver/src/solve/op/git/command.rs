//! One call of `git`, with nothing of the host's but the program, its certificates and proxies.
//!
//! - The environment is made from nothing. No configuration is read but the fetched repository's own, which this crate
//!   made; no template, hook, filter, credential helper or pager is there to be run.
//! - Only `https`, `http`, `git` and `ssh` are spoken, by submodules too: `file` would read the host, `ext` run programs.
//! - Credentials are in the environment, which the user's own processes see, and never in arguments, which all see.
//! - ssh offers only what an agent holds that the build was given, and never asks.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use super::remote::Remote;
use crate::git_url::redacted;
use crate::solve::SolveError;

/// How often a running `git` is looked at for the cancel flag.
const POLL: Duration = Duration::from_millis(10);

/// So much of git's complaint is shown.
const MESSAGE_CHARS: usize = 2000;

/// So much of what git says is read, a list of references for example.
const MAX_OUTPUT_BYTES: u64 = 64 << 20;

/// What git takes for its certificates, proxies and programs.
const PASSED_ON: [&str; 12] = [
    "PATH",
    "GIT_SSL_CAINFO",
    "GIT_SSL_CAPATH",
    "SSL_CERT_DIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
];

/// Settings that no repository may have otherwise.
const CONFIG: [(&str, &str); 12] = [
    ("core.hooksPath", "/dev/null"),
    ("core.attributesFile", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.symlinks", "true"),
    ("core.autocrlf", "false"),
    // Logs of references name the user, the host and the time.
    ("core.logAllRefUpdates", "false"),
    ("credential.helper", ""),
    ("submodule.recurse", "false"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("init.defaultBranch", "master"),
    // The store may be another user's: of root's, for a user that became root.
    ("safe.directory", "*"),
];

/// Calls git in a directory.
pub(super) struct Git<'a> {
    pub(super) dir: &'a Path,
    pub(super) remote: &'a Remote,
    pub(super) ssh_agent: Option<&'a PathBuf>,
    pub(super) cancel: &'a AtomicBool,
}

impl Git<'_> {
    /// Runs it to its end and returns what it printed.
    pub(super) fn run(&self, arguments: &[&str]) -> Result<String, SolveError> {
        let name = arguments.first().copied().unwrap_or_default();
        let failed = |message: String| SolveError::Git { command: name.to_owned(), message };
        let mut child = self.command(arguments).spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => SolveError::NoGit { remote: self.remote.shown.clone() },
            _ => failed(error.to_string()),
        })?;
        let output = child.stdout.take().map(read_all);
        let complaint = child.stderr.take().map(read_all);
        let status = self.wait(&mut child);
        let output = joined(output);
        let complaint = joined(complaint);
        if !status?.success() {
            let text = String::from_utf8_lossy(&complaint);
            let text: String = redacted(text.trim()).chars().take(MESSAGE_CHARS).collect();
            return Err(failed(text));
        }
        Ok(String::from_utf8_lossy(&output).into_owned())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("git");
        command.args(arguments).current_dir(self.dir).env_clear();
        for name in PASSED_ON {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        if let (None, Some(bundle)) = (std::env::var_os("GIT_SSL_CAINFO"), std::env::var_os("SSL_CERT_FILE"))
        {
            command.env("GIT_SSL_CAINFO", bundle);
        }
        command
            .env("LC_ALL", "C")
            .env("HOME", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_ATTR_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ALLOW_PROTOCOL", "https:http:git:ssh")
            .env("GIT_SSH_COMMAND", "ssh -F /dev/null -o BatchMode=yes -o IdentityFile=none");
        if let Some(socket) = self.ssh_agent {
            command.env("SSH_AUTH_SOCK", socket);
        }
        let authorization =
            self.remote.authorization.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let settings: Vec<(&str, &str)> = CONFIG.into_iter().chain(authorization).collect();
        command.env("GIT_CONFIG_COUNT", settings.len().to_string());
        for (index, (name, value)) in settings.iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{index}"), name);
            command.env(format!("GIT_CONFIG_VALUE_{index}"), OsString::from(value));
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own, so that its helpers end with it.
        command.process_group(0);
        command
    }

    fn wait(&self, child: &mut Child) -> Result<ExitStatus, SolveError> {
        loop {
            let waited = child.try_wait();
            let waited = waited.map_err(|source| SolveError::Io { path: "git".into(), source })?;
            if let Some(status) = waited {
                return Ok(status);
            }
            if self.cancel.load(Ordering::Relaxed) {
                // Both may fail only because it has ended by itself.
                let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
                let _ = child.wait();
                return Err(SolveError::Canceled);
            }
            std::thread::sleep(POLL);
        }
    }
}

/// Reads a pipe on a thread of its own: git must not wait for one while the other is read.
fn read_all(pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is all there is to show.
        let _ = pipe.take(MAX_OUTPUT_BYTES).read_to_end(&mut bytes);
        bytes
    })
}

fn joined(reader: Option<JoinHandle<Vec<u8>>>) -> Vec<u8> {
    reader.and_then(|reader| reader.join().ok()).unwrap_or_default()
}
