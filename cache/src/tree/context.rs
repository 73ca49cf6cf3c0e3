//! The build context: a directory of the host's, seen through an ignore file.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use kiln_image::Digest;
use rustix::fs::{FileType, OFlags, Stat};
use rustix::io::Errno;

use super::beneath::{
    has_portable_xattrs, hash_file, list_dir, open_beneath, open_file, open_root, stat_at, stat_entry,
    stat_entry_but_xattrs,
};
use super::file_index::{FileIndex, Finder, Known, SETTLED_NS, Stamp, now_ns};
use super::resolve::{Follow, Step, resolve};
use super::{At as _, Entry, EntryKind, Listed, PathFilter, SourceTree, TreeError, Verdict, list_levels};

/// A directory of the host's as a build context; owners are 0:0, filtered by the ignore file's rules.
///
/// What the filter leaves out does not exist for any method, also not as the target of a link. A directory that is left out
/// is there nevertheless if something below it is kept.
#[derive(Debug)]
pub struct ContextTree {
    root: OwnedFd,
    filter: Option<Box<dyn PathFilter>>,
    index: Option<FileIndex>,
    files_hashed: AtomicU64,
}

impl ContextTree {
    /// Opens the directory `root`. `index` is a file in the store that remembers files' digests between builds.
    ///
    /// # Errors
    /// When `root` is no directory that can be read.
    pub fn open(
        root: &Path,
        filter: Option<Box<dyn PathFilter>>,
        index: Option<&Path>,
    ) -> Result<Self, TreeError> {
        Self::open_with(root, filter, index, SETTLED_NS)
    }

    fn open_with(
        root: &Path,
        filter: Option<Box<dyn PathFilter>>,
        index: Option<&Path>,
        settled_ns: i64,
    ) -> Result<Self, TreeError> {
        let index = index.map(|path| FileIndex::new(path, root, settled_ns));
        Ok(Self { root: open_root(root)?, filter, index, files_hashed: AtomicU64::new(0) })
    }

    /// The same directory, seen through `filter`.
    #[must_use]
    pub fn filtered(mut self, filter: Box<dyn PathFilter>) -> Self {
        self.filter = Some(filter);
        self
    }

    /// Writes the file-hash index if it changed; dropping the tree does it as well, but tells nobody of an error.
    ///
    /// # Errors
    /// I/O on the index.
    pub fn save_index(&self) -> std::io::Result<()> {
        self.index.as_ref().map_or(Ok(()), FileIndex::save)
    }

    /// How many files were read to hash them, the index not knowing them.
    pub fn files_hashed(&self) -> u64 {
        self.files_hashed.load(Ordering::Relaxed)
    }

    fn verdict(&self, path: &Path) -> Verdict {
        match &self.filter {
            Some(filter) if !path.as_os_str().is_empty() => filter.verdict(&path.to_string_lossy()),
            _ => Verdict::Keep,
        }
    }

    /// The entry at `path`, in which no component but the last is a link.
    fn entry_at(&self, path: &Path) -> Result<Option<Entry>, TreeError> {
        let Some(name) = path.file_name() else { return self.stat(OsStr::new(""), PathBuf::new()) };
        let hidden = path.ancestors().skip(1).any(|above| self.verdict(above) == Verdict::Prune);
        let verdict = self.verdict(path);
        if hidden || verdict == Verdict::Prune {
            return Ok(None);
        }
        let entry = self.stat(name, path.to_path_buf())?;
        Ok(match entry {
            Some(entry) if verdict == Verdict::Skip => match entry.kind {
                EntryKind::Dir if self.keeps_something_in(path)? => Some(entry),
                _ => None,
            },
            entry => entry,
        })
    }

    fn stat(&self, name: &OsStr, path: PathBuf) -> Result<Option<Entry>, TreeError> {
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => {
                match open_beneath(self.root.as_fd(), parent, OFlags::RDONLY | OFlags::DIRECTORY) {
                    Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
                    dir => Some(dir.at(parent)?),
                }
            }
            _ => None,
        };
        let dir = parent.as_ref().unwrap_or(&self.root).as_fd();
        let name = if name.is_empty() { OsStr::new(".") } else { name };
        let Some(stat) = stat_at(dir, name).at(&path)? else { return Ok(None) };
        let known = self.stamp_of_file(&stat).and_then(|(index, stamp)| index.find(&path, &stamp));
        Ok(entry_of(dir, name, path, &stat, known)?.map(owned_by_root))
    }

    fn keeps_something_in(&self, path: &Path) -> Result<bool, TreeError> {
        let mut pending = vec![path.to_path_buf()];
        while let Some(dir) = pending.pop() {
            for (entry, verdict) in self.list(&dir, &dir)? {
                match verdict {
                    Verdict::Keep => return Ok(true),
                    _ if entry.kind == EntryKind::Dir => pending.push(entry.path),
                    _ => {}
                }
            }
        }
        Ok(false)
    }

    /// What is in the directory `real` but for what is pruned, under the name `shown`.
    fn list(&self, real: &Path, shown: &Path) -> Result<Vec<(Entry, Verdict)>, TreeError> {
        let dir = open_beneath(self.root.as_fd(), real, OFlags::RDONLY | OFlags::DIRECTORY).at(real)?;
        let mut finder = Finder::new(shown);
        let names = list_dir(dir.as_fd(), real)?;
        let mut entries = Vec::with_capacity(names.len());
        for name in names {
            let path = shown.join(&name);
            let verdict = match &self.filter {
                None => Verdict::Keep,
                Some(_) if real == shown => self.verdict(&path),
                Some(_) => self.verdict(&real.join(&name)),
            };
            if verdict == Verdict::Prune {
                continue;
            }
            // Gone since it was listed: as if it had never been.
            let Some(stat) = stat_at(dir.as_fd(), &name).at(&path)? else { continue };
            let known = self
                .stamp_of_file(&stat)
                .and_then(|(index, stamp)| index.find_in(&mut finder, &name, &stamp));
            let Some(entry) = entry_of(dir.as_fd(), &name, path, &stat, known)? else { continue };
            if verdict == Verdict::Keep || entry.kind == EntryKind::Dir {
                entries.push((owned_by_root(entry), verdict));
            }
        }
        Ok(entries)
    }

    /// The index and what a regular file is known by in it.
    fn stamp_of_file(&self, stat: &Stat) -> Option<(&FileIndex, Stamp)> {
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return None;
        }
        Some((self.index.as_ref()?, Stamp::of(stat)?))
    }

    /// The directory `top` and all that is kept below it.
    fn walk_dir(&self, real: &Path, top: Entry) -> Result<Vec<Entry>, TreeError> {
        let found = list_levels(None, (real.to_path_buf(), top.path.clone()), |(real, shown)| {
            let below = |entry: &Entry| match entry.kind {
                EntryKind::Dir => Some((real.join(entry.path.file_name()?), entry.path.clone())),
                _ => None,
            };
            Ok(Listed::new(self.list(real, shown)?, |(entry, _)| below(entry)))
        })?;
        // From the end: what is below a directory comes right behind it.
        let mut kept: Vec<Entry> = Vec::with_capacity(found.len() + 1);
        for (entry, verdict) in found.into_iter().rev() {
            let has_kept = || kept.last().is_some_and(|next| next.path.starts_with(&entry.path));
            if verdict == Verdict::Keep || has_kept() {
                kept.push(entry);
            }
        }
        kept.push(top);
        kept.reverse();
        Ok(kept)
    }

    /// What `read` finds, noted in the index if `file` stays as it was `before`.
    fn digest_noted(
        &self,
        path: &Path,
        file: &File,
        before: Option<Stamp>,
        read: &mut dyn FnMut() -> std::io::Result<Digest>,
    ) -> Result<Digest, TreeError> {
        let started = now_ns();
        let digest = read().at(path)?;
        self.files_hashed.fetch_add(1, Ordering::Relaxed);
        let Some(index) = &self.index else { return Ok(digest) };
        let has_xattrs = has_portable_xattrs(file).at(path)?;
        let after = Stamp::of(&rustix::fs::fstat(file).at(path)?);
        if let Some(stamp) = before
            && before == after
        {
            index.remember(path, stamp, Known { digest, has_xattrs }, started);
        }
        Ok(digest)
    }

    fn real_path(&self, path: &Path, follow: Follow) -> Result<PathBuf, TreeError> {
        resolve(path, follow, |path| {
            Ok(match self.entry_at(path)?.map(|entry| entry.kind) {
                None => Step::Missing,
                Some(EntryKind::Symlink(target)) => Step::Symlink(target),
                Some(_) => Step::Other,
            })
        })
    }
}

impl SourceTree for ContextTree {
    fn entry(&self, path: &Path) -> Result<Option<Entry>, TreeError> {
        let real = self.real_path(path, Follow::Parents)?;
        Ok(self.entry_at(&real)?.map(|entry| Entry { path: clean(path), ..entry }))
    }

    fn resolve(&self, path: &Path) -> Result<PathBuf, TreeError> {
        self.real_path(path, Follow::All)
    }

    fn read_dir(&self, path: &Path) -> Result<Vec<Entry>, TreeError> {
        let real = self.real_path(path, Follow::Parents)?;
        let mut entries = Vec::new();
        for (entry, verdict) in self.list(&real, &clean(path))? {
            let name = entry.path.file_name().unwrap_or_default();
            if verdict == Verdict::Keep || self.keeps_something_in(&real.join(name))? {
                entries.push(entry);
            }
        }
        Ok(entries)
    }

    fn walk(&self, path: &Path) -> Result<Vec<Entry>, TreeError> {
        let real = self.real_path(path, Follow::Parents)?;
        let Some(entry) = self.entry_at(&real)? else { return Ok(Vec::new()) };
        let entry = Entry { path: clean(path), ..entry };
        match entry.kind {
            EntryKind::Dir => self.walk_dir(&real, entry),
            _ => Ok(vec![entry]),
        }
    }

    fn open(&self, path: &Path) -> Result<File, TreeError> {
        let real = self.real_path(path, Follow::Parents)?;
        if self.entry_at(&real)?.is_none() {
            return Err(Errno::NOENT).at(path);
        }
        open_file(self.root.as_fd(), &real)
    }

    fn open_entry(&self, entry: &Entry) -> Result<File, TreeError> {
        // Entries come from this tree; most have no link above them, and resolving each component of each of thousands of
        // files would cost more than the look-up.
        match open_file(self.root.as_fd(), &entry.path) {
            Err(TreeError::Io { .. } | TreeError::NotAFile(_)) => self.open(&entry.path),
            file => file,
        }
    }

    fn identity(&self) -> Option<Digest> {
        self.index.as_ref().map(FileIndex::identity)
    }

    fn digest(&self, entry: &Entry) -> Result<Digest, TreeError> {
        let path = &entry.path;
        let file = self.open_entry(entry)?;
        let stamp = Stamp::of(&rustix::fs::fstat(&file).at(path)?);
        let known = self.index.as_ref().zip(stamp).and_then(|(index, stamp)| index.find(path, &stamp));
        if let Some(known) = known {
            return Ok(known.digest);
        }
        self.digest_noted(path, &file, stamp, &mut || Ok(hash_file(&file)?.digest))
    }

    fn digest_by(
        &self,
        entry: &Entry,
        file: &File,
        read: &mut dyn FnMut() -> std::io::Result<Digest>,
    ) -> Result<Digest, TreeError> {
        let stamp = Stamp::of(&rustix::fs::fstat(file).at(&entry.path)?);
        self.digest_noted(&entry.path, file, stamp, read)
    }

    fn digests(&self, entries: &[Entry]) -> Result<Vec<Option<Digest>>, TreeError> {
        super::digests_in_parallel(self, entries)
    }
}

impl Drop for ContextTree {
    fn drop(&mut self) {
        if let Err(error) = self.save_index() {
            tracing::debug!(%error, "file-hash index not saved");
        }
    }
}

/// The entry `name` of `dir`, of which the index says what is `known`.
fn entry_of(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    path: PathBuf,
    stat: &Stat,
    known: Option<Known>,
) -> Result<Option<Entry>, TreeError> {
    let entry = match known {
        Some(Known { has_xattrs: false, .. }) => stat_entry_but_xattrs(dir, name, path, stat)?,
        _ => stat_entry(dir, name, path, stat)?,
    };
    Ok(entry.map(|entry| Entry { digest: known.map(|known| known.digest), ..entry }))
}

fn owned_by_root(entry: Entry) -> Entry {
    Entry { uid: 0, gid: 0, ..entry }
}

/// The path as entries carry it.
fn clean(path: &Path) -> PathBuf {
    super::clean(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes_digest;
    use std::fs;
    use std::os::unix::fs::symlink;

    /// `out` hides all but `out/kept`; `gone` is pruned; `*.log` files are hidden.
    #[derive(Debug)]
    struct Filter;

    impl PathFilter for Filter {
        fn verdict(&self, path: &str) -> Verdict {
            match path {
                "out/deep/kept" => Verdict::Keep,
                path if path == "gone" || path.starts_with("gone/") => Verdict::Prune,
                path if path == "out" || path.starts_with("out/") || path == "empty" => Verdict::Skip,
                path if path.ends_with(".log") => Verdict::Prune,
                _ => Verdict::Keep,
            }
        }
    }

    fn context() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for sub in ["out/deep", "out/other", "gone", "src/sub", "empty"] {
            fs::create_dir_all(dir.path().join(sub)).unwrap();
        }
        for file in ["out/deep/kept", "out/other/x", "gone/x", "src/a", "src/sub/b", "src/c.log", "src.txt"] {
            fs::write(dir.path().join(file), file).unwrap();
        }
        symlink("/src/sub", dir.path().join("link")).unwrap();
        symlink("/gone", dir.path().join("to-gone")).unwrap();
        symlink("/../../etc/passwd", dir.path().join("leak")).unwrap();
        dir
    }

    fn names(entries: &[Entry]) -> Vec<&str> {
        entries.iter().map(|entry| entry.path.to_str().unwrap()).collect()
    }

    #[test]
    fn a_walk_shows_what_the_filter_keeps_and_the_directories_above_it_in_order() {
        let dir = context();
        let tree = ContextTree::open(dir.path(), Some(Box::new(Filter)), None).unwrap();
        let entries = tree.walk(Path::new("")).unwrap();
        assert_eq!(
            names(&entries),
            [
                "",
                "leak",
                "link",
                "out",
                "out/deep",
                "out/deep/kept",
                "src",
                "src/a",
                "src/sub",
                "src/sub/b",
                "src.txt",
                "to-gone"
            ]
        );
        assert!(entries.iter().all(|entry| (entry.uid, entry.gid) == (0, 0)));
        assert_eq!(names(&tree.read_dir(Path::new("out")).unwrap()), ["out/deep"]);
    }

    #[test]
    fn what_is_filtered_out_is_not_there_for_anyone() {
        let dir = context();
        let tree = ContextTree::open(dir.path(), Some(Box::new(Filter)), None).unwrap();
        for path in ["gone", "gone/x", "out/other", "out/other/x", "empty", "src/c.log", "to-gone/x"] {
            assert_eq!(tree.entry(Path::new(path)).unwrap(), None, "{path}");
            assert!(tree.walk(Path::new(path)).unwrap().is_empty(), "{path}");
            assert!(tree.open(Path::new(path)).is_err(), "{path}");
        }
        assert!(tree.entry(Path::new("out")).unwrap().is_some());
    }

    #[test]
    fn links_stay_inside() {
        let dir = context();
        let tree = ContextTree::open(dir.path(), None, None).unwrap();
        assert_eq!(tree.resolve(Path::new("link/b")).unwrap(), Path::new("src/sub/b"));
        assert_eq!(tree.resolve(Path::new("leak")).unwrap(), Path::new("etc/passwd"));
        assert!(tree.open(Path::new("leak")).is_err());
        let entry = tree.entry(Path::new("link/b")).unwrap().unwrap();
        assert_eq!(entry.path, Path::new("link/b"));
        assert_eq!(tree.digest(&entry).unwrap(), bytes_digest(b"src/sub/b"));
        assert_eq!(names(&tree.walk(Path::new("link")).unwrap()), ["link"]);
    }

    #[test]
    fn a_pipe_is_listed_but_never_waited_for_and_a_socket_is_left_out() {
        let dir = context();
        let fifo = dir.path().join("fifo");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
        let tree = ContextTree::open(dir.path(), None, None).unwrap();
        assert!(matches!(tree.open(Path::new("fifo")), Err(TreeError::NotAFile(_))));
        assert_eq!(tree.entry(Path::new("fifo")).unwrap().unwrap().kind, EntryKind::Fifo);
        assert_eq!(tree.entry(Path::new("socket")).unwrap(), None);
    }

    #[test]
    fn an_edit_that_keeps_size_and_time_is_seen_through_the_index() {
        let dir = context();
        let store = tempfile::tempdir().unwrap();
        let index = store.path().join("index");
        let hash = |settled| {
            let tree = ContextTree::open_with(dir.path(), None, Some(&index), settled).unwrap();
            let entry = tree.entry(Path::new("src/a")).unwrap().unwrap();
            (tree.digest(&entry).unwrap(), tree.files_hashed())
        };
        assert_eq!(hash(i64::MIN / 2), (bytes_digest(b"src/a"), 1));
        assert_eq!(hash(i64::MIN / 2), (bytes_digest(b"src/a"), 0));
        let file = dir.path().join("src/a");
        let mtime = fs::metadata(&file).unwrap().modified().unwrap();
        // The change time has the kernel's tick as its grain; until it moves the kernel itself knows no difference.
        let before = rustix::fs::stat(&file).unwrap();
        loop {
            fs::write(&file, "SRC/A").unwrap();
            File::options().write(true).open(&file).unwrap().set_modified(mtime).unwrap();
            let now = rustix::fs::stat(&file).unwrap();
            if (now.st_ctime, now.st_ctime_nsec) != (before.st_ctime, before.st_ctime_nsec) {
                break;
            }
        }
        assert_eq!(fs::metadata(&file).unwrap().modified().unwrap(), mtime);
        assert_eq!(hash(i64::MIN / 2), (bytes_digest(b"SRC/A"), 1));
    }

    #[test]
    fn a_file_edited_just_now_is_hashed_again() {
        let dir = context();
        let store = tempfile::tempdir().unwrap();
        let index = store.path().join("index");
        for _ in 0..2 {
            let tree = ContextTree::open_with(dir.path(), None, Some(&index), i64::MAX / 2).unwrap();
            tree.digest(&tree.entry(Path::new("src/a")).unwrap().unwrap()).unwrap();
            assert_eq!(tree.files_hashed(), 1);
        }
    }
}
