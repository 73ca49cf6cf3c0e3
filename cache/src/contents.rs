//! Reading a layer's directory: everything in it, with its digests, each file once.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use kiln_image::layer::MAX_LAYER_BYTES;
use rayon::prelude::*;
use rustix::fs::{AtFlags, FileType, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

use crate::listing::{Room, is_small};
use crate::spread;
use crate::tree::{
    At as _, Entry, EntryKind, FileHash, FileOpener, Listed, TreeError, bytes_digest, each_name, file_entry,
    has_portable_xattrs, hash_file_of, is_worth_threads, list_levels, open_beneath, open_file_at, open_root,
    portable_xattrs, read_at_once, stat_at, stat_marked,
};
use crate::unchanged::Below;

/// What there is in a layer's directory, the root first.
pub(crate) struct LayerContents(pub(crate) Vec<Found>);

/// Something in a layer's directory.
pub(crate) struct Found {
    pub(crate) entry: Entry,
    pub(crate) is_opaque: bool,
    /// What was read of a file, but for further names of one.
    pub(crate) hash: Option<FileHash>,
    /// The bytes of a small file, if there was room for them.
    pub(crate) bytes: Option<Vec<u8>>,
}

impl LayerContents {
    /// Reads a layer (overlayfs format), files in parallel on the current rayon pool; keeps small ones as long as there is `room`.
    ///
    /// # Errors
    /// When something in it cannot be read; when it is larger than a layer may be.
    pub(crate) fn read(tree: &Path, room: &Room) -> Result<Self, TreeError> {
        let root = open_root(tree)?;
        let mut found = walk(find_root(&root, tree)?, root.as_fd(), room)?;
        let unread = unread(&found)?;
        let opener = || FileOpener::new(root.as_fd());
        let read = |opener: &mut FileOpener<'_>, &(number, entry): &(usize, &Entry)| {
            let (file, stat) = opener.open(&entry.path)?;
            let hash = hash_file_of(&file, &stat).at(&entry.path)?;
            let (dir, name) = opener.parent_of(&entry.path)?;
            Ok((number, hash, xattrs_of(&file, dir, name).at(&entry.path)?))
        };
        let done = spread(
            is_worth_threads(unread.iter().map(|(_, entry)| *entry)),
            || {
                let mut opener = opener();
                unread.iter().map(|file| read(&mut opener, file)).collect::<Result<Vec<_>, TreeError>>()
            },
            || unread.par_iter().map_init(opener, read).collect(),
        )?;
        for (number, hash, xattrs) in done {
            found[number].hash = Some(hash);
            found[number].entry.xattrs = xattrs;
        }
        Ok(Self(found))
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
            let path = &self.0[index].entry.path;
            let (dir, name) = opener.parent_of(path)?;
            rustix::fs::unlinkat(dir, name, AtFlags::empty()).at(path)?;
            emptied.extend(path.parent());
        }
        // Their times are the step's, not of this moment.
        let emptied =
            self.0.iter().map(|found| &found.entry).filter(|dir| emptied.contains(dir.path.as_path()));
        for dir in emptied {
            let (above, name) = opener.parent_of(&dir.path)?;
            let name = if name.is_empty() { OsStr::new(".") } else { name };
            set_mtime(above, name, dir.mtime_ns).at(&dir.path)?;
        }
        let mut number = 0;
        self.0.retain(|_| {
            number += 1;
            // They are sorted.
            unchanged.binary_search(&(number - 1)).is_err()
        });
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

/// The files of which nothing was read yet, each once whatever names it has, with their numbers.
///
/// # Errors
/// When there are more bytes of files than a layer may have: hashing what `truncate` made in no time would take hours.
fn unread(found: &[Found]) -> Result<Vec<(usize, &Entry)>, TreeError> {
    let (mut total, mut seen, mut unread) = (0_u64, HashSet::new(), Vec::new());
    for (number, Found { entry, hash, .. }) in found.iter().enumerate() {
        let EntryKind::File { size } = entry.kind else { continue };
        if entry.hard_link.is_some_and(|link| !seen.insert(link)) {
            continue;
        }
        total = total.saturating_add(size);
        if total > MAX_LAYER_BYTES {
            return Err(TreeError::LayerTooLarge { path: entry.path.clone(), limit: MAX_LAYER_BYTES });
        }
        if hash.is_none() {
            unread.push((number, entry));
        }
    }
    Ok(unread)
}

fn find_root(root: &OwnedFd, tree: &Path) -> Result<Found, TreeError> {
    find_other(root.as_fd(), OsStr::new("."), PathBuf::new())?.ok_or(Errno::NOENT).at(tree)
}

/// What was `found` of the root and all below it, depth first, sorted by components.
fn walk(found: Found, root: BorrowedFd<'_>, room: &Room) -> Result<Vec<Found>, TreeError> {
    list_levels(Some(found), PathBuf::new(), |path| {
        let below = |found: &Found| (found.entry.kind == EntryKind::Dir).then(|| found.entry.path.clone());
        Ok(Listed::new(list(root, path, room)?, below))
    })
}

fn list(root: BorrowedFd<'_>, path: &Path, room: &Room) -> Result<Vec<Found>, TreeError> {
    let dir = open_beneath(root, path, OFlags::RDONLY | OFlags::DIRECTORY).at(path)?;
    let mut names = Vec::new();
    each_name(dir.as_fd(), path, |name, kind| names.push((OsString::from_vec(name.to_vec()), kind)))?;
    names.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    let find = |(name, kind): &(OsString, FileType)| {
        find(dir.as_fd(), name, *kind, path.join(name), room).transpose()
    };
    spread(
        names.len() >= MANY_NAMES,
        || names.iter().filter_map(find).collect(),
        || names.par_iter().filter_map(find).collect(),
    )
}

/// The names of a directory with so many are looked at in parallel.
const MANY_NAMES: usize = 512;

/// What `name` of `dir` is, of this kind as far as the directory tells; `None` for sockets.
fn find(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    kind: FileType,
    path: PathBuf,
    room: &Room,
) -> Result<Option<Found>, TreeError> {
    let stat = || stat_at(dir, name).at(&path)?.ok_or(Errno::NOENT).at(&path);
    let kind = match kind {
        FileType::Unknown => FileType::from_raw_mode(stat()?.st_mode),
        kind => kind,
    };
    match kind {
        FileType::RegularFile => find_file(dir, name, path, room).map(Some),
        _ => find_other(dir, name, path),
    }
}

/// The file `name` of `dir`; reads it now if it is small: what follows its opening costs less than to find it again.
fn find_file(dir: BorrowedFd<'_>, name: &OsStr, path: PathBuf, room: &Room) -> Result<Found, TreeError> {
    let (file, stat) = open_file_at(dir, name, &path)?;
    let mut entry = file_entry(path, &stat);
    if entry.hard_link.is_some() || !is_small(stat.st_size) {
        return Ok(Found { entry, is_opaque: false, hash: None, bytes: None });
    }
    let bytes = match room.take(stat.st_size) {
        Some(size) => read_at_once(&file, size).at(&entry.path)?,
        None => None,
    };
    let hash = match &bytes {
        Some(bytes) => FileHash::new(bytes_digest(bytes), bytes.len() as u64, &stat),
        None => hash_file_of(&file, &stat).at(&entry.path)?,
    };
    entry.xattrs = xattrs_of(&file, dir, name).at(&entry.path)?;
    Ok(Found { entry, is_opaque: false, hash: Some(hash), bytes })
}

/// What layers carry of the attributes of `file`, which is `name` in `dir`.
fn xattrs_of(file: &File, dir: BorrowedFd<'_>, name: &OsStr) -> Result<Vec<(OsString, Vec<u8>)>, Errno> {
    match has_portable_xattrs(file)? {
        true => portable_xattrs(dir, name),
        false => Ok(Vec::new()),
    }
}

/// As [`find`], of all but files.
fn find_other(dir: BorrowedFd<'_>, name: &OsStr, path: PathBuf) -> Result<Option<Found>, TreeError> {
    let stat = stat_at(dir, name).at(&path)?.ok_or(Errno::NOENT).at(&path)?;
    let Some((mut entry, is_opaque)) = stat_marked(dir, name, path, &stat)? else { return Ok(None) };
    if entry.kind == (EntryKind::CharDevice { major: 0, minor: 0 }) {
        // A whiteout is its name: overlayfs makes them as hard links of each other, or not, as it likes.
        entry = Entry { mode: 0, uid: 0, gid: 0, hard_link: None, ..entry };
    }
    Ok(Some(Found { entry, is_opaque, hash: None, bytes: None }))
}
