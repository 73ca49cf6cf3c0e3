//! Git trees, fetched by the host's `git` (looked up on the host's path only, THREATS A18).

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use kiln_cache::{ContextTree, Entry, LayerDraft, SourceTree, TreeError};
use kiln_image::Digest;

use super::Step;
use crate::solve::{Output, SolveError};

/// How often a running `git` is looked at for the cancel flag.
const POLL: std::time::Duration = std::time::Duration::from_millis(20);

/// So much of git's complaint is shown.
const MESSAGE_LIMIT: usize = 4096;

/// What to fetch.
pub(super) struct Request<'a> {
    pub(super) remote: &'a str,
    pub(super) reference: &'a str,
    pub(super) subdir: &'a str,
    pub(super) keep_git_dir: bool,
    pub(super) checksum: Option<&'a str>,
}

/// Fetches a tree into scratch space that lives as long as the output.
pub(super) fn fetch(step: &Step<'_>, request: &Request<'_>) -> Result<Output, SolveError> {
    let files = step.solver.store.scratch_dir()?;
    let dir = files.fs();
    let git = Git { step, dir: &dir };
    git.run(&["init", "--quiet", "."])?;
    git.run(&["remote", "add", "--", "origin", request.remote])?;
    let wanted = if request.reference.is_empty() { "HEAD" } else { request.reference };
    // A server may refuse single commits: then everything is fetched and the commit looked for.
    let shallow = git.run(&["fetch", "--quiet", "--depth=1", "--no-tags", "--", "origin", wanted]);
    let target = match shallow {
        Ok(_) => "FETCH_HEAD".to_owned(),
        Err(error) if is_commit(wanted) => {
            git.run(&["fetch", "--quiet", "--tags", "--", "origin"]).map_err(|_| error)?;
            wanted.to_owned()
        }
        Err(error) => return Err(error),
    };
    git.run(&["-c", "advice.detachedHead=false", "checkout", "--quiet", "--force", &target])?;
    let commit = git.run(&["rev-parse", "HEAD"])?;
    let commit = commit.trim();
    if let Some(expected) = request.checksum
        && !commit.starts_with(expected)
    {
        let message = format!("expected checksum to match {expected}, got {commit}");
        return Err(SolveError::Git { command: "checkout".into(), message });
    }
    if dir.join(".gitmodules").exists() {
        git.run(&["submodule", "update", "--quiet", "--init", "--recursive", "--depth=1"])?;
    }
    if !request.keep_git_dir {
        let path = dir.join(".git");
        std::fs::remove_dir_all(&path).map_err(|source| SolveError::Io { path, source })?;
    }
    let whole = ContextTree::open(&dir, None, None)?;
    let root = whole.resolve(Path::new(request.subdir.trim_matches('/')))?;
    let tree =
        if root.as_os_str().is_empty() { whole } else { ContextTree::open(&dir.join(root), None, None)? };
    Ok(Output::Tree(Arc::new(Scratch { tree, _files: files })))
}

fn is_commit(reference: &str) -> bool {
    reference.len() == 40 && reference.bytes().all(|byte| byte.is_ascii_hexdigit())
}

struct Git<'a> {
    step: &'a Step<'a>,
    dir: &'a Path,
}

impl Git<'_> {
    /// Runs git with nothing of the user's configuration that could run a program, and no prompts.
    fn run(&self, arguments: &[&str]) -> Result<String, SolveError> {
        let name = arguments.iter().find(|word| !word.starts_with('-') && !word.contains('=')).copied();
        let name = name.unwrap_or("git").to_owned();
        let failed = |message: String| SolveError::Git { command: name.clone(), message };
        let mut child = Command::new("git")
            .args(["-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false"])
            .args(["-c", "protocol.ext.allow=never", "-c", "protocol.file.allow=user"])
            .args(["-c", "core.symlinks=true", "-c", "safe.directory=*"])
            .args(arguments)
            .current_dir(self.dir)
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_SSH_COMMAND", "ssh -o BatchMode=yes")
            .env_remove("GIT_DIR")
            .env_remove("GIT_WORK_TREE")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        // Both are small: git is quiet. Its pipes are read after its end.
        let status = loop {
            if let Some(status) = child.try_wait().map_err(|error| failed(error.to_string()))? {
                break status;
            }
            if self.step.solver.cancel.load(Ordering::Relaxed) {
                // It may have ended by itself.
                drop(child.kill());
                drop(child.wait());
                return Err(SolveError::Canceled);
            }
            std::thread::sleep(POLL);
        };
        let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
        if !status.success() {
            let message = String::from_utf8_lossy(&output.stderr);
            let message: String = message.trim().chars().take(MESSAGE_LIMIT).collect();
            return Err(failed(message));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// A tree in scratch space.
#[derive(Debug)]
pub(super) struct Scratch {
    pub(super) tree: ContextTree,
    /// Removed on drop.
    pub(super) _files: LayerDraft,
}

impl SourceTree for Scratch {
    fn entry(&self, path: &Path) -> Result<Option<Entry>, TreeError> {
        self.tree.entry(path)
    }
    fn resolve(&self, path: &Path) -> Result<PathBuf, TreeError> {
        self.tree.resolve(path)
    }
    fn read_dir(&self, path: &Path) -> Result<Vec<Entry>, TreeError> {
        self.tree.read_dir(path)
    }
    fn walk(&self, path: &Path) -> Result<Vec<Entry>, TreeError> {
        self.tree.walk(path)
    }
    fn open(&self, path: &Path) -> Result<std::fs::File, TreeError> {
        self.tree.open(path)
    }
    fn open_entry(&self, entry: &Entry) -> Result<std::fs::File, TreeError> {
        self.tree.open_entry(entry)
    }
    fn digest(&self, entry: &Entry) -> Result<Digest, TreeError> {
        self.tree.digest(entry)
    }
    fn digests(&self, entries: &[Entry]) -> Result<Vec<Option<Digest>>, TreeError> {
        self.tree.digests(entries)
    }
}
