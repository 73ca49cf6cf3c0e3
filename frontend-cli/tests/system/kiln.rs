//! Calls the binary with a store of the test's own.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use kiln_fixtures::Bases;

/// A store, and the binary that uses it.
pub struct Kiln {
    store: tempfile::TempDir,
    bases: &'static Bases,
}

impl Drop for Kiln {
    fn drop(&mut self) {
        if kiln_fixtures::is_root() {
            return;
        }
        // An ordinary user's subordinate ids own part of it, which only root of their namespace may remove.
        let _ = Command::new("unshare")
            .args(["--user", "--map-root-user", "--map-auto", "--", "rm", "-rf"])
            .arg(self.root())
            .output();
    }
}

/// What a call printed and how it ended.
#[derive(Debug)]
pub struct Ended {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Kiln {
    /// `None`, and a printed reason, where the base images cannot be made.
    pub fn new(test: &str) -> Option<Self> {
        let bases = Bases::get_or_skip(test)?;
        Some(Self { store: tempfile::tempdir().unwrap(), bases })
    }

    pub fn bases(&self) -> &'static Bases {
        self.bases
    }

    pub fn root(&self) -> PathBuf {
        self.store.path().join("store")
    }

    /// A command line in `folder`, not started yet.
    pub fn command<S: AsRef<str>>(&self, folder: &Path, words: &[S]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kiln"));
        command
            .args(words.iter().map(AsRef::as_ref))
            .current_dir(folder)
            .env("KILN_ROOT", self.root())
            .env("CONTAINERS_REGISTRIES_CONF", self.bases.registries_conf())
            .env_remove("BUILDKIT_PROGRESS")
            .env_remove("SOURCE_DATE_EPOCH")
            .stdin(Stdio::null());
        command
    }

    pub fn call<S: AsRef<str>>(&self, folder: &Path, words: &[S]) -> Ended {
        self.command(folder, words).output().unwrap().into()
    }

    /// A call that must succeed.
    #[track_caller]
    pub fn ok<S: AsRef<str>>(&self, folder: &Path, words: &[S]) -> Ended {
        let ended = self.call(folder, words);
        let line: Vec<_> = words.iter().map(AsRef::as_ref).collect();
        assert_eq!(ended.status, 0, "kiln {}\n{}\n{}", line.join(" "), ended.stdout, ended.stderr);
        ended
    }

    /// `kiln build` that must succeed.
    #[track_caller]
    pub fn build<S: AsRef<str>>(&self, folder: &Path, words: &[S]) -> Ended {
        let mut line = vec!["build", "--progress=plain"];
        line.extend(words.iter().map(AsRef::as_ref));
        self.ok(folder, &line)
    }

    /// Whether all layers are what the database says of them. Told by the binary, which can read what an ordinary user's
    /// subordinate ids own.
    #[track_caller]
    pub fn is_sound(&self) {
        self.ok(Path::new("/"), &["doctor", "--check"]).says("the store is sound");
    }

    /// `kiln run --rm` that must succeed; its standard output.
    #[track_caller]
    pub fn run<S: AsRef<str>>(&self, words: &[S]) -> String {
        let mut line = vec!["run", "--rm"];
        line.extend(words.iter().map(AsRef::as_ref));
        self.ok(Path::new("/"), &line).stdout
    }
}

impl Ended {
    /// Steps of the Dockerfile that ran and that were found, from plain progress; FROM is not counted.
    pub fn steps(&self) -> (usize, usize) {
        let mut names = std::collections::HashMap::new();
        let (mut ran, mut cached) = (0, 0);
        for line in self.stderr.lines() {
            let Some((number, rest)) = line.strip_prefix('#').and_then(|line| line.split_once(' ')) else {
                continue;
            };
            if rest.starts_with('[') {
                names.insert(number.to_owned(), rest.to_owned());
            }
            let is_step = names.get(number).is_some_and(|name| {
                let (head, instruction) = name.split_once("] ").unwrap_or(("", ""));
                head.contains('/') && !instruction.starts_with("FROM")
            });
            match rest {
                "CACHED" if is_step => cached += 1,
                _ if is_step && rest.starts_with("DONE") => ran += 1,
                _ => {}
            }
        }
        (ran, cached)
    }

    #[track_caller]
    pub fn says(&self, words: &str) {
        let all = format!("{}\n{}", self.stderr, self.stdout);
        assert!(all.contains(words), "`{words}` is not in:\n{all}");
    }
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// What a tree is: paths, owners, modes, sizes, times of change.
pub fn facts(folder: &Path) -> String {
    let listing = std::process::Command::new("find")
        .arg(folder)
        .args(["-printf", "%P %U:%G %m %s %C@\n"])
        .output()
        .unwrap()
        .stdout;
    String::from_utf8(listing).unwrap()
}

/// Nothing that was in progress is left in the store at `root`.
///
/// What killed processes leave is removed beside a later one's own work, and one that is over before that is done leaves the
/// rest to the next: `call` is another process on that store.
#[track_caller]
pub fn nothing_is_in_progress(root: &Path, call: impl Fn()) {
    let left = || -> Vec<_> { std::fs::read_dir(root.join("work")).unwrap().flatten().collect() };
    for _ in 0..100 {
        if left().is_empty() {
            return;
        }
        call();
    }
    panic!("leftovers: {:?}", left());
}

/// Whether the test named `test` may do what only the machine's root can; says what that is if not.
pub fn is_root_to(act: &str, test: &str) -> bool {
    let is_root = kiln_fixtures::is_root();
    if !is_root {
        eprintln!("skipped {test}: needs root to {act}");
    }
    is_root
}
