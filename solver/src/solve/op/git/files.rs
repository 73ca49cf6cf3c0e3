//! What becomes of a checkout.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

use crate::solve::SolveError;

/// The directory `subdir` of the tree at `root`. Every component must be a directory itself: a link of the repository's
/// could lead out of it (THREATS D2).
pub(super) fn directory(root: &Path, subdir: &str) -> Result<PathBuf, &'static str> {
    let mut dir = root.to_owned();
    for component in Path::new(subdir).components() {
        let Component::Normal(name) = component else { return Err("is no path in the repository") };
        dir.push(name);
        match dir.symlink_metadata() {
            Ok(found) if found.is_dir() => {}
            Ok(found) if found.is_symlink() => return Err("is, or is behind, a symbolic link"),
            Ok(_) => return Err("is no directory"),
            Err(_) => return Err("is not there"),
        }
    }
    Ok(dir)
}

/// Whether there is a regular file, and no link to one.
pub(super) fn is_file(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|found| found.is_file())
}

/// Takes away the note of the last fetch, which says how kiln came to the commit and nothing of the commit.
pub(super) fn remove_fetch_head(root: &Path) -> Result<(), SolveError> {
    let path = root.join(".git/FETCH_HEAD");
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(&path)(error)),
        _ => Ok(()),
    }
}

/// Takes away what git needs for itself, gives all files the modes they would have with umask 022 (FEATURES CP28) and,
/// where asked, one time.
pub(super) fn settle(root: &Path, keep_git_dir: bool, modified: Option<i64>) -> Result<(), SolveError> {
    // Not a recursion: the tree may be as deep as a path is long.
    let mut waiting = vec![root.to_owned()];
    let mut dirs = Vec::new();
    while let Some(dir) = waiting.pop() {
        for entry in std::fs::read_dir(&dir).map_err(at(&dir))? {
            let entry = entry.map_err(at(&dir))?;
            let path = entry.path();
            let kind = entry.file_type().map_err(at(&path))?;
            if entry.file_name() == ".git" && !keep_git_dir {
                // The repository's own, and submodules' pointers to it.
                let removed =
                    if kind.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
                removed.map_err(at(&path))?;
                continue;
            }
            if kind.is_dir() {
                waiting.push(path);
                continue;
            }
            if kind.is_file() {
                set_mode(&path)?;
            }
            set_time(&path, modified)?;
        }
        dirs.push(dir);
    }
    // Directories last, and those within first: what is done in one changes its time.
    for dir in dirs.iter().rev() {
        if dir != root {
            set_mode(dir)?;
        }
        set_time(dir, modified)?;
    }
    Ok(())
}

fn set_mode(path: &Path) -> Result<(), SolveError> {
    let mode = path.symlink_metadata().map_err(at(path))?.permissions().mode();
    let owner = mode >> 6 & 0o7;
    let others = owner & 0o5;
    let wanted = owner << 6 | others << 3 | others;
    if mode & 0o7777 == wanted {
        return Ok(());
    }
    std::fs::set_permissions(path, Permissions::from_mode(wanted)).map_err(at(path))
}

fn set_time(path: &Path, modified: Option<i64>) -> Result<(), SolveError> {
    let Some(seconds) = modified else { return Ok(()) };
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(|error| at(path)(error.into()))
}

fn at(path: &Path) -> impl Fn(io::Error) -> SolveError + '_ {
    |source| SolveError::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_a_tree_is_never_behind_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::write(root.join("file"), "").unwrap();
        std::os::unix::fs::symlink("/", root.join("out")).unwrap();
        std::os::unix::fs::symlink("a", root.join("in")).unwrap();
        assert_eq!(directory(root, "a/b"), Ok(root.join("a/b")));
        assert_eq!(directory(root, ""), Ok(root.to_owned()));
        assert_eq!(directory(root, "out/etc"), Err("is, or is behind, a symbolic link"));
        assert_eq!(directory(root, "in/b"), Err("is, or is behind, a symbolic link"));
        assert_eq!(directory(root, "../x"), Err("is no path in the repository"));
        assert_eq!(directory(root, "file"), Err("is no directory"));
        assert_eq!(directory(root, "gone"), Err("is not there"));
    }

    #[test]
    fn modes_are_those_of_umask_022_whatever_the_hosts_is() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for (name, mode) in [("plain", 0o600), ("shared", 0o664), ("program", 0o700), ("object", 0o400)] {
            std::fs::write(root.join(name), "").unwrap();
            std::fs::set_permissions(root.join(name), Permissions::from_mode(mode)).unwrap();
        }
        std::fs::create_dir_all(root.join("dir/.git")).unwrap();
        std::fs::set_permissions(root.join("dir"), Permissions::from_mode(0o775)).unwrap();
        settle(root, false, Some(7)).unwrap();
        let seen = |name: &str| {
            use std::os::unix::fs::MetadataExt as _;
            let found = root.join(name).metadata().unwrap();
            (found.mode() & 0o7777, found.mtime())
        };
        assert_eq!(
            ["plain", "shared", "program", "object", "dir"].map(seen),
            [(0o644, 7), (0o644, 7), (0o755, 7), (0o444, 7), (0o755, 7)]
        );
        assert!(!root.join("dir/.git").exists());
    }
}
