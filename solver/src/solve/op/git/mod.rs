//! Git trees (FEATURES CX5, CP28–CP33), fetched by the host's `git`.
//!
//! The commit is found first (`ls-remote`, or nothing at all when it is named), and a tree that the store has of it is
//! taken as it is. What is fetched becomes a layer of its own, recorded under the commit; a directory of it is picked
//! from there.
//!
//! The repository is hostile (THREATS D1–D4): see `command` for how git is called, `files` for what becomes of a checkout.

mod command;
mod files;
mod remote;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use kiln_cache::{Claim, ContextTree, Cost, Lookup, NewRecord, Record, StepKey};

use super::Step;
use super::source::timed;
use crate::git_url::{is_commit, redacted};
use crate::graph::{GitSource, GitTimes};
use crate::solve::key::KeyHasher;
use crate::solve::{Download, Outcome, Output, SolveError};
use command::Git;
use remote::Remote;

/// Finds the tree, or fetches it.
pub(super) fn fetch(step: &Step<'_>, source: &GitSource) -> Result<Output, SolveError> {
    let remote = Remote::of(&source.remote, &step.solver.inputs.secrets);
    let fetch = Fetch { step, source, remote: &remote };
    let wanted = fetch.wanted()?;
    let key = fetch.key(&wanted);
    step.note(&key, Outcome::Cached);
    let record = match step.claim(&key)? {
        Lookup::Found(record) => {
            if let Some(id) = step.id {
                step.solver.reporter.cached(id);
            }
            record
        }
        Lookup::Missing(claim) => {
            step.note(&key, Outcome::Ran);
            timed(step, || fetch.checkout(&wanted, claim))?
        }
    };
    let Some(layer) = record.layers.first() else {
        return Err(SolveError::MissingInput { what: "git tree", name: remote.shown });
    };
    step.solver.journal.downloaded(Download::Git {
        remote: redacted(&source.remote),
        reference: source.reference.clone(),
        object: wanted.object,
    });
    let root = step.solver.store.layer_path(layer.id);
    let dir = files::directory(&root, &source.subdir).map_err(|problem| SolveError::GitDirectory {
        remote: remote.shown.clone(),
        directory: source.subdir.clone(),
        problem,
    })?;
    Ok(Output::Tree(Arc::new(ContextTree::open(&dir, None, None)?)))
}

/// Finds what a source means now: a commit, or an annotated tag.
pub(super) fn object(step: &Step<'_>, source: &GitSource) -> Result<String, SolveError> {
    let remote = Remote::of(&source.remote, &step.solver.inputs.secrets);
    Ok(Fetch { step, source, remote: &remote }.wanted()?.object)
}

struct Fetch<'a> {
    step: &'a Step<'a>,
    source: &'a GitSource,
    remote: &'a Remote,
}

/// What is to be checked out.
#[derive(Debug)]
struct Wanted {
    /// A commit or an annotated tag.
    object: String,
    /// The whole name of the reference it was found by or, fetched by its commit, shall have.
    reference: Option<String>,
}

impl Fetch<'_> {
    /// Finds the commit; asks the server only if the source does not name it.
    fn wanted(&self) -> Result<Wanted, SolveError> {
        let GitSource { reference, checksum, .. } = self.source;
        if is_commit(reference) {
            let object = reference.to_ascii_lowercase();
            self.check(&object, None)?;
            return Ok(Wanted { object, reference: None });
        }
        if let (true, Some(commit)) = (self.source.fetch_by_commit, checksum) {
            let reference = match reference.as_str() {
                "" => None,
                name if name.starts_with("refs/") => Some(name.to_owned()),
                name => Some(format!("refs/heads/{name}")),
            };
            return Ok(Wanted { object: commit.to_ascii_lowercase(), reference });
        }
        let _slot = self.step.slots.take();
        if reference.is_empty() { self.default_branch() } else { self.named(reference) }
    }

    fn default_branch(&self) -> Result<Wanted, SolveError> {
        let scratch = self.step.solver.store.scratch_dir()?;
        let dir = scratch.fs();
        let git = self.git(&dir);
        let lines = git.run(&["ls-remote", "--symref", "--", &self.remote.url, "HEAD"])?;
        let mut wanted = Wanted { object: String::new(), reference: None };
        for line in lines.lines() {
            let Some((target, "HEAD")) = line.split_once('\t') else { continue };
            match target.strip_prefix("ref: ") {
                Some(name) if name.starts_with("refs/heads/") => wanted.reference = Some(name.to_owned()),
                Some(_) => {}
                None => wanted.object = target.to_owned(),
            }
        }
        if !is_commit(&wanted.object) {
            return Err(self.unknown("HEAD"));
        }
        self.check(&wanted.object, None)?;
        Ok(wanted)
    }

    /// A branch goes before a tag of the same name, as for git-checkout(1).
    fn named(&self, name: &str) -> Result<Wanted, SolveError> {
        let scratch = self.step.solver.store.scratch_dir()?;
        let dir = scratch.fs();
        let git = self.git(&dir);
        let candidates = if name.starts_with("refs/") {
            vec![name.to_owned()]
        } else {
            ["refs/", "refs/heads/", "refs/tags/"].iter().map(|prefix| format!("{prefix}{name}")).collect()
        };
        let peeled = |name: &str| format!("{name}^{{}}");
        let patterns: Vec<String> = candidates.iter().flat_map(|name| [name.clone(), peeled(name)]).collect();
        let mut arguments = vec!["ls-remote", "--", &self.remote.url];
        arguments.extend(patterns.iter().map(String::as_str));
        let answer = git.run(&arguments)?;
        let object = |name: &str| {
            let found =
                answer.lines().filter_map(|line| line.split_once('\t')).find(|(_, known)| *known == name);
            found.map(|(object, _)| object.to_owned()).filter(|object| is_commit(object))
        };
        for candidate in candidates {
            if let Some(found) = object(&candidate) {
                self.check(&found, object(&peeled(&candidate)).as_deref())?;
                return Ok(Wanted { object: found, reference: Some(candidate) });
            }
        }
        Err(self.unknown(name))
    }

    /// `--checksum`: the object, or the commit of the tag, must begin with it.
    fn check(&self, object: &str, peeled: Option<&str>) -> Result<(), SolveError> {
        let Some(expected) = &self.source.checksum else { return Ok(()) };
        let expected = expected.to_ascii_lowercase();
        if object.starts_with(&expected) || peeled.is_some_and(|commit| commit.starts_with(&expected)) {
            return Ok(());
        }
        Err(SolveError::GitChecksum {
            remote: self.remote.shown.clone(),
            expected,
            actual: peeled.unwrap_or(object).to_owned(),
        })
    }

    fn key(&self, wanted: &Wanted) -> StepKey {
        let GitSource { keep_git_dir: _, submodules, times, remote: _, .. } = self.source;
        let mut key = KeyHasher::new("git");
        // Submodules may be named relative to it.
        key.text(&self.remote.shown).text(&wanted.object).flag(*submodules);
        key.number(match times {
            GitTimes::Checkout => 0,
            GitTimes::Commit => 1,
        });
        key.flag(self.keeps_git_dir());
        if self.keeps_git_dir() {
            key.text(wanted.reference.as_deref().unwrap_or_default());
        }
        key.finish()
    }

    /// A directory of a repository is none itself.
    fn keeps_git_dir(&self) -> bool {
        self.source.keep_git_dir && self.source.subdir.is_empty()
    }

    fn git<'g>(&'g self, dir: &'g Path) -> Git<'g> {
        Git {
            dir,
            remote: self.remote,
            ssh_agent: self.step.solver.inputs.ssh.get("default"),
            cancel: &self.step.solver.cancel,
        }
    }

    /// Makes a layer of the tree.
    fn checkout(&self, wanted: &Wanted, claim: Claim) -> Result<Record, SolveError> {
        let start = Instant::now();
        let draft = self.step.solver.store.draft_layer()?;
        let dir = draft.fs();
        let git = self.git(&dir);
        let object = wanted.object.as_str();
        let format = if object.len() == 64 { "--object-format=sha256" } else { "--object-format=sha1" };
        git.run(&["init", "--quiet", "--template=", format, "."])?;
        git.run(&["remote", "add", "--", "origin", &self.remote.url])?;
        self.fetch_objects(&git, wanted)?;
        let commit = format!("{object}^{{commit}}");
        git.run(&["checkout", "--quiet", "--force", "--detach", &commit, "--"])?;
        if self.source.submodules && files::is_file(&dir.join(".gitmodules")) {
            self.submodules(&git)?;
        }
        let modified = match self.source.times {
            GitTimes::Checkout => None,
            GitTimes::Commit => {
                let time = git.run(&["show", "--no-patch", "--format=%ct", &commit, "--"])?;
                time.trim().parse().ok()
            }
        };
        if self.keeps_git_dir() {
            if let (true, Some(reference)) = (self.source.fetch_by_commit, &wanted.reference) {
                git.run(&["update-ref", "--no-deref", "--", reference, object])?;
            }
            files::remove_fetch_head(&dir)?;
        }
        files::settle(&dir, self.keeps_git_dir(), modified)?;
        let record = NewRecord {
            name: format!("git {} {object}", self.remote.shown),
            cost: Cost { duration: start.elapsed(), ..Cost::default() },
            ..NewRecord::default()
        };
        Ok(claim.commit(draft, None, record)?.record)
    }

    /// Fetches as little as the server allows (FEATURES CP33).
    fn fetch_objects(&self, git: &Git<'_>, wanted: &Wanted) -> Result<(), SolveError> {
        let object = wanted.object.as_str();
        if let (false, Some(reference)) = (self.source.fetch_by_commit, &wanted.reference) {
            let refspec = format!("+{reference}:{reference}");
            fetch_shallow(git, &refspec)?;
            let found = git.run(&["rev-parse", "--verify", "--quiet", "--end-of-options", reference])?;
            if found.trim() == object {
                return Ok(());
            }
            // It has moved since it was looked up: the older one is what the record is named after.
        }
        let Err(refused) = fetch_shallow(git, object) else { return Ok(()) };
        if matches!(refused, SolveError::Canceled) {
            return Err(refused);
        }
        // Servers may refuse what no reference points to.
        let all = ["fetch", "--quiet", "--tags", "--force", "--no-recurse-submodules", "--", "origin"];
        let unshallow = files::is_file(&git.dir.join(".git/shallow"));
        let all: Vec<&str> = all.iter().copied().chain(["+refs/heads/*:refs/remotes/origin/*"]).collect();
        let mut arguments = all.clone();
        if unshallow {
            arguments.insert(1, "--unshallow");
        }
        git.run(&arguments)?;
        git.run(&["cat-file", "-e", &format!("{object}^{{commit}}")]).map_err(|_| refused)?;
        Ok(())
    }

    fn submodules(&self, git: &Git<'_>) -> Result<(), SolveError> {
        let listed = git.run(&["config", "--file", ".gitmodules", "--null", "--list"])?;
        for entry in listed.split('\0') {
            let (_, value) = entry.split_once('\n').unwrap_or((entry, ""));
            // git itself had to learn of each of these (THREATS D3).
            if entry.contains(|c: char| c.is_control() && c != '\n')
                || value.contains('\n')
                || value.starts_with('-')
            {
                return Err(SolveError::Git {
                    command: "submodule".into(),
                    message: "a submodule's name, path or address is not one that git would write".into(),
                });
            }
        }
        // `--checkout`: whatever the repository asks to be run instead.
        git.run(&[
            "submodule",
            "--quiet",
            "update",
            "--init",
            "--recursive",
            "--checkout",
            "--force",
            "--depth=1",
        ])?;
        Ok(())
    }

    fn unknown(&self, reference: &str) -> SolveError {
        SolveError::GitReference { remote: self.remote.shown.clone(), reference: reference.to_owned() }
    }
}

fn fetch_shallow(git: &Git<'_>, what: &str) -> Result<(), SolveError> {
    // `--refmap=`: a branch is fetched under its own name alone.
    let options = [
        "--quiet",
        "--no-tags",
        "--no-recurse-submodules",
        "--update-head-ok",
        "--refmap=",
        "--",
        "origin",
        what,
    ];
    let fetch = |depth: &[&'static str]| {
        let words: Vec<&str> = ["fetch"].iter().chain(depth).chain(&options).copied().collect();
        git.run(&words).map(drop)
    };
    match fetch(&["--depth=1"]) {
        // Plain file servers have no way to send less than all.
        Err(SolveError::Git { message, .. }) if message.contains("shallow") || message.contains("depth") => {
            fetch(&[])
        }
        result => result,
    }
}
