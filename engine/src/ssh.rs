//! Private keys given as files (`--ssh default=KEY`): an ssh agent that lives as long as the build (FEATURES CL8).
//!
//! It is the host's `ssh-agent`. It makes its socket in a directory of its own, and goes when what it was started with
//! goes: a program that waits for the end of a pipe whose other end is the engine's. So a killed engine leaves none.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::Error;

/// A key file is read up to this size.
const KEY_LIMIT: u64 = 1 << 20;
/// Tells where the agent is, then waits.
const KEEPER: &str = "echo \"$SSH_AUTH_SOCK\"; echo \"$SSH_AGENT_PID\"; exec cat";

/// A running agent; ends when dropped.
#[derive(Debug)]
pub(crate) struct Agent {
    keeper: Child,
    pid: Option<Pid>,
    /// Where it is reached.
    pub(crate) socket: PathBuf,
}

impl Agent {
    /// Starts an agent that has `keys`.
    pub(crate) fn start(keys: &[PathBuf]) -> Result<Self, Error> {
        let mut keeper = Command::new("ssh-agent")
            .args(["sh", "-c", KEEPER])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| missing("ssh-agent", &error))?;
        let mut lines = keeper.stdout.take().map(|output| BufReader::new(output).lines());
        let mut line = || lines.as_mut()?.next()?.ok().filter(|line| !line.is_empty());
        let (socket, pid) = (line(), line().and_then(|pid| Pid::from_raw(pid.parse().ok()?)));
        let agent = Self { keeper, pid, socket: socket.clone().unwrap_or_default().into() };
        if socket.is_none() || pid.is_none() {
            return Err(Error::user("ssh-agent does not start"));
        }
        for key in keys {
            agent.add(key)?;
        }
        Ok(agent)
    }

    fn add(&self, path: &Path) -> Result<(), Error> {
        let mut key = Vec::new();
        let file = std::fs::File::open(path).map_err(|error| Error::io(path, error))?;
        file.take(KEY_LIMIT).read_to_end(&mut key).map_err(|error| Error::io(path, error))?;
        // By a pipe, since ssh-add minds the modes of files, and nobody is asked for a passphrase.
        let mut adding = Command::new("ssh-add")
            .args(["-q", "-"])
            .env("SSH_AUTH_SOCK", &self.socket)
            .env("SSH_ASKPASS", "false")
            .env("SSH_ASKPASS_REQUIRE", "force")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| missing("ssh-add", &error))?;
        if let Some(mut stdin) = adding.stdin.take() {
            // What ssh-add does not read it does not want.
            let _ = stdin.write_all(&key);
        }
        let added = adding.wait_with_output().map_err(|error| Error::io(path, error))?;
        if added.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&added.stderr).trim().to_owned();
        if said.contains("(stdin)") {
            return Err(Error::user(format!("{} is no private key: {said}", path.display())));
        }
        Err(Error::user(format!("the key {} is protected by a passphrase", path.display()))
            .hinted("add it to a running ssh-agent (ssh-add) and give that with --ssh default"))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(pid) = self.pid {
            // It removes its socket. It may be gone already.
            let _ = kill_process(pid, Signal::TERM);
        }
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

fn missing(program: &str, error: &std::io::Error) -> Error {
    Error::user(format!("key files given with --ssh need the program {program}: {error}"))
        .hinted("install OpenSSH's client, or give the socket of a running agent")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(directory: &Path, passphrase: &str) -> Option<PathBuf> {
        let path = directory.join("key");
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", passphrase, "-f"])
            .arg(&path)
            .status();
        if !made.is_ok_and(|status| status.success()) {
            eprintln!("skipped: needs ssh-keygen");
            return None;
        }
        Some(path)
    }

    #[test]
    fn an_agent_has_the_keys_and_goes_with_the_build() {
        let directory = tempfile::tempdir().unwrap();
        let Some(path) = key(directory.path(), "") else { return };
        let agent = Agent::start(&[path]).unwrap();
        let socket = agent.socket.clone();
        let listed = Command::new("ssh-add").arg("-l").env("SSH_AUTH_SOCK", &socket).output().unwrap();
        assert!(String::from_utf8_lossy(&listed.stdout).contains("ED25519"), "{listed:?}");
        drop(agent);
        // It goes in its own time.
        while std::os::unix::net::UnixStream::connect(&socket).is_ok() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_key_with_a_passphrase_and_a_file_that_is_no_key_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let Some(path) = key(directory.path(), "secret") else { return };
        let error = Agent::start(&[path]).unwrap_err().to_string();
        assert!(error.contains("is protected by a passphrase"), "{error}");
        let other = directory.path().join("other");
        std::fs::write(&other, "no key").unwrap();
        let error = Agent::start(&[other]).unwrap_err().to_string();
        assert!(error.contains("is no private key"), "{error}");
    }
}
