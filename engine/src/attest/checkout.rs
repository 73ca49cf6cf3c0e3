//! Which revision of a repository a context on this machine is: a hint for readers that nobody has verified.
//!
//! git's own files are read and git does not run: a repository's settings could make it run anything (gitrepository-layout).

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use kiln_solver::git_url::{is_commit, redacted};

/// A working tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Checkout {
    /// The commit that is checked out. Files may have changed since.
    pub(super) revision: String,
    /// Where it was cloned from, without a password.
    pub(super) source: Option<String>,
}

impl Checkout {
    /// Of the repository that `dir` is in.
    pub(super) fn of(dir: &Path) -> Option<Self> {
        let dir = dir.canonicalize().ok()?;
        let git = dir.ancestors().map(|dir| dir.join(".git")).find(|git| git.exists())?;
        let own = if git.is_dir() {
            git
        } else {
            // A worktree or a submodule: a file that says where the directory is.
            let text = read(&git)?;
            git.parent()?.join(text.strip_prefix("gitdir: ")?.trim_end())
        };
        let shared = match read(&own.join("commondir")) {
            Some(path) => own.join(path.trim_end()),
            None => own.clone(),
        };
        let head = read(&own.join("HEAD"))?;
        let revision = match head.trim_end().strip_prefix("ref: ") {
            Some(name) => reference(&[&own, &shared], name)?,
            None => head.trim_end().to_owned(),
        };
        let source = read(&shared.join("config")).and_then(|config| origin(&config));
        is_commit(&revision).then_some(Self { revision, source })
    }
}

/// The commit of a branch: in a file of its own, or packed with others.
fn reference(dirs: &[&PathBuf], name: &str) -> Option<String> {
    if !name.starts_with("refs/") || name.split('/').any(|part| part == "..") {
        return None;
    }
    let loose = dirs.iter().find_map(|dir| read(&dir.join(name)));
    loose.map(|text| text.trim_end().to_owned()).or_else(|| {
        let packed = dirs.iter().find_map(|dir| read(&dir.join("packed-refs")))?;
        let mut lines = packed.lines().filter_map(|line| line.split_once(' '));
        lines.find(|(_, known)| *known == name).map(|(commit, _)| commit.to_owned())
    })
}

/// The address of the remote `origin` (git-config(1), "Syntax").
fn origin(config: &str) -> Option<String> {
    let mut lines = config.lines().map(str::trim).skip_while(|line| *line != "[remote \"origin\"]").skip(1);
    let line =
        lines.by_ref().take_while(|line| !line.starts_with('[')).find(|line| line.starts_with("url"))?;
    let (key, url) = line.split_once('=')?;
    (key.trim() == "url").then(|| redacted(url.trim()))
}

fn read(path: &Path) -> Option<String> {
    let file = File::open(path).ok().filter(|file| file.metadata().is_ok_and(|found| found.is_file()))?;
    let mut text = String::new();
    file.take(MAX_BYTES).read_to_string(&mut text).ok()?;
    Some(text)
}

/// Of `packed-refs`, which repositories with many tags have long.
const MAX_BYTES: u64 = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn repository(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        dir
    }

    #[test]
    fn a_branch_is_found_in_its_file_or_among_the_packed_ones() {
        let config = "[core]\n\tbare = false\n[remote \"origin\"]\n\turl = https://me:CANARY@host/r.git\n\tfetch = x\n";
        let head = (".git/HEAD", "ref: refs/heads/main\n");
        let line = format!("{COMMIT}\n");
        let loose =
            repository(&[head, (".git/refs/heads/main", &line), (".git/config", config), ("a/f", "")]);
        let found = Checkout::of(&loose.path().join("a")).unwrap();
        assert_eq!(found.revision, COMMIT);
        assert_eq!(found.source.as_deref(), Some("https://xxxxx:xxxxx@host/r.git"));
        let line = format!("# pack-refs with: peeled\n{COMMIT} refs/heads/main\n");
        let packed = repository(&[head, (".git/packed-refs", &line)]);
        assert_eq!(Checkout::of(packed.path()), Some(Checkout { revision: COMMIT.to_owned(), source: None }));
    }

    #[test]
    fn a_worktree_shares_its_branches() {
        let dir = repository(&[
            ("r/.git/worktrees/w/HEAD", "ref: refs/heads/b\n"),
            ("r/.git/worktrees/w/commondir", "../..\n"),
            ("r/.git/refs/heads/b", COMMIT),
            ("w/.git", "gitdir: ../r/.git/worktrees/w\n"),
        ]);
        assert_eq!(Checkout::of(&dir.path().join("w")).unwrap().revision, COMMIT);
    }

    #[test]
    fn what_is_no_repository_is_none() {
        for head in ["", "ref: ../../x", "ref: refs/../../x", "ref: refs/heads/none", "abc"] {
            let dir = repository(&[(".git/HEAD", head)]);
            assert_eq!(Checkout::of(dir.path()), None, "{head}");
        }
    }
}
