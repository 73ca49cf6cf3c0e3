//! Reading a layer's directory: everything in it, with its digests, each file once.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use kiln_image::layer::MAX_LAYER_BYTES;
use rayon::prelude::*;
use rustix::fs::{AtFlags, FileType, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

use crate::listing::Room;
use crate::spread;
use crate::tree::{
    At as _, Entry, EntryKind, FileHash, FileOpener, TreeError, bytes_digest, has_portable_xattrs,
    hash_file_of, is_worth_threads, list_dir, list_levels, open_beneath, open_root, portable_xattrs,
    read_at_once, stat_at, stat_entry_but_xattrs, stat_marked,
};
use crate::unchanged::Below;

/// An entry of a layer, and whether it is an opaque directory.
pub(crate) type LayerEntry = (Entry, bool);

/// What there is in a layer's directory, the root first.
pub(crate) struct LayerContents {
    pub(crate) entries: Vec<LayerEntry>,
    /// What was read of each entry that is a file, but for further names of one.
    pub(crate) hashes: Vec<Option<FileHash>>,
    /// The bytes of each small file, as far as there was room for them.
    pub(crate) files: Vec<Option<Vec<u8>>>,
}

impl LayerContents {
    /// Reads a layer (overlayfs format), files in parallel on the current rayon pool; keeps small ones as long as there is `room`.
    ///
    /// # Errors
    /// When something in it cannot be read; when it is larger than a layer may be.
    pub(crate) fn read(tree: &Path, room: &Room) -> Result<Self, TreeError> {
        let root = open_root(tree)?;
        let mut entries = vec![root_entry(&root, tree)?];
        entries.extend(walk(root.as_fd())?);
        // Names of one file are hashed once: which of them, does not matter.
        let mut seen = HashSet::new();
        let files: Vec<_> = entries
            .iter()
            .enumerate()
            .filter(|(_, (entry, _))| matches!(entry.kind, EntryKind::File { .. }))
            .filter(|(_, (entry, _))| entry.hard_link.is_none_or(|link| seen.insert(link)))
            .map(|(index, (entry, _))| (index, entry))
            .collect();
        check_size(files.iter().map(|(_, entry)| *entry))?;
        let opener = || FileOpener::new(root.as_fd());
        let read = |opener: &mut FileOpener<'_>, &(index, entry): &(usize, &Entry)| {
            read_file(opener, index, &entry.path, room)
        };
        let done = spread(
            is_worth_threads(files.iter().map(|(_, entry)| *entry)),
            || {
                let mut opener = opener();
                files.iter().map(|file| read(&mut opener, file)).collect::<Result<Vec<_>, TreeError>>()
            },
            || files.par_iter().map_init(opener, read).collect(),
        )?;
        let (mut hashes, mut files) = (vec![None; entries.len()], vec![None; entries.len()]);
        for ReadFile { index, hash, xattrs, bytes } in done {
            (hashes[index], files[index]) = (Some(hash), bytes);
            entries[index].0.xattrs = xattrs;
        }
        Ok(Self { entries, hashes, files })
    }

    /// Leaves out, and removes from `tree`, which is the layer's directory, what a step left as it was `below`.
    ///
    /// # Errors
    /// I/O.
    pub(crate) fn drop_unchanged(&mut self, tree: &Path, below: &Below) -> Result<(), TreeError> {
        let unchanged = below.unchanged(self)?;
        if unchanged.is_empty() {
            return Ok(());
        }
        let root = open_root(tree)?;
        let mut opener = FileOpener::new(root.as_fd());
        let mut emptied = HashSet::new();
        for &index in &unchanged {
            let path = &self.entries[index].0.path;
            let (dir, name) = opener.parent_of(path)?;
            rustix::fs::unlinkat(dir, name, AtFlags::empty()).at(path)?;
            emptied.extend(path.parent());
        }
        // Their times are the step's, not of this moment.
        for (dir, _) in self.entries.iter().filter(|(entry, _)| emptied.contains(entry.path.as_path())) {
            let (above, name) = opener.parent_of(&dir.path)?;
            let name = if name.is_empty() { OsStr::new(".") } else { name };
            set_mtime(above, name, dir.mtime_ns).at(&dir.path)?;
        }
        leave_out(&mut self.entries, &unchanged);
        leave_out(&mut self.hashes, &unchanged);
        leave_out(&mut self.files, &unchanged);
        Ok(())
    }
}

/// Gives `name` in `dir` a time of change, in nanoseconds since the epoch.
fn set_mtime(dir: BorrowedFd<'_>, name: &OsStr, mtime_ns: i128) -> Result<(), Errno> {
    const SECOND: i128 = 1_000_000_000;
    let out_of_range = |_| Errno::RANGE;
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        last_modification: Timespec {
            tv_sec: mtime_ns.div_euclid(SECOND).try_into().map_err(out_of_range)?,
            tv_nsec: mtime_ns.rem_euclid(SECOND).try_into().map_err(out_of_range)?,
        },
    };
    rustix::fs::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)
}

/// Removes the elements with these numbers, which are sorted.
fn leave_out<T>(list: &mut Vec<T>, numbers: &[usize]) {
    let mut number = 0;
    list.retain(|_| {
        number += 1;
        numbers.binary_search(&(number - 1)).is_err()
    });
}

fn read_file(
    opener: &mut FileOpener<'_>,
    index: usize,
    path: &Path,
    room: &Room,
) -> Result<ReadFile, TreeError> {
    let (file, stat) = opener.open(path)?;
    let bytes = match room.take(stat.st_size) {
        Some(size) => read_at_once(&file, size).at(path)?,
        None => None,
    };
    let hash = match &bytes {
        Some(bytes) => FileHash::new(bytes_digest(bytes), bytes.len() as u64, &stat),
        None => hash_file_of(&file, &stat).at(path)?,
    };
    let xattrs = match has_portable_xattrs(&file).at(path)? {
        true => {
            let (dir, name) = opener.parent_of(path)?;
            portable_xattrs(dir, name).at(path)?
        }
        false => Vec::new(),
    };
    Ok(ReadFile { index, hash, xattrs, bytes })
}

/// Refuses more bytes of files than a layer may have: hashing what `truncate` made in no time would take hours.
fn check_size<'a>(mut files: impl Iterator<Item = &'a Entry>) -> Result<(), TreeError> {
    let add = |total: u64, entry: &'a Entry| match entry.kind {
        EntryKind::File { size } => {
            total.checked_add(size).filter(|&total| total <= MAX_LAYER_BYTES).ok_or(entry)
        }
        _ => Ok(total),
    };
    let too_large =
        |entry: &Entry| TreeError::LayerTooLarge { path: entry.path.clone(), limit: MAX_LAYER_BYTES };
    files.try_fold(0, add).map(drop).map_err(too_large)
}

/// What was read of the file that is entry `index`.
struct ReadFile {
    index: usize,
    hash: FileHash,
    xattrs: Vec<(OsString, Vec<u8>)>,
    /// Kept, if it is small and there was room.
    bytes: Option<Vec<u8>>,
}

fn root_entry(root: &OwnedFd, tree: &Path) -> Result<LayerEntry, TreeError> {
    let dot = OsStr::new(".");
    let stat = stat_at(root.as_fd(), dot).at(tree)?.ok_or(Errno::NOENT).at(tree)?;
    stat_marked(root.as_fd(), dot, PathBuf::new(), &stat)?.ok_or(Errno::NOENT).at(tree)
}

/// All below the root, depth first, sorted by components.
fn walk(root: BorrowedFd<'_>) -> Result<Vec<LayerEntry>, TreeError> {
    list_levels(PathBuf::new(), |path| {
        let entries = list(root, path)?.into_iter().map(|found| {
            let below = (found.0.kind == EntryKind::Dir).then(|| found.0.path.clone());
            (found, below)
        });
        Ok(entries.collect())
    })
}

fn list(root: BorrowedFd<'_>, path: &Path) -> Result<Vec<LayerEntry>, TreeError> {
    let dir = open_beneath(root, path, OFlags::RDONLY | OFlags::DIRECTORY).at(path)?;
    let mut entries = Vec::new();
    for name in list_dir(dir.as_fd(), path)? {
        let child = path.join(&name);
        let stat = stat_at(dir.as_fd(), &name).at(&child)?.ok_or(Errno::NOENT).at(&child)?;
        // Of files that are read anyway attributes are asked for then.
        let found = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                stat_entry_but_xattrs(dir.as_fd(), &name, child, &stat)?.map(|entry| (entry, false))
            }
            _ => stat_marked(dir.as_fd(), &name, child, &stat)?,
        };
        let Some((mut entry, is_opaque)) = found else { continue };
        if entry.kind == (EntryKind::CharDevice { major: 0, minor: 0 }) {
            // A whiteout is its name: overlayfs makes them as hard links of each other, or not, as it likes.
            entry = Entry { mode: 0, uid: 0, gid: 0, hard_link: None, ..entry };
        }
        entries.push((entry, is_opaque));
    }
    Ok(entries)
}
