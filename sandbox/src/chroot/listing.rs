//! What a tree has, so that two listings say what happened between them.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};

use rustix::fs::{AtFlags, FileType, Statx, StatxFlags, StatxTimestamp};

use super::copy::{join, names, open_directory};

/// A path by components: a directory comes just before all that is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Path(Vec<Vec<u8>>);

impl Path {
    /// From a relative path without `.` and `..`.
    pub(super) fn of(path: &[u8]) -> Path {
        Path(path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect())
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.0.join(&b'/')
    }

    /// The directory it is in; `None` for the root.
    pub(super) fn parent(&self) -> Option<Path> {
        let (_, parent) = self.0.split_last()?;
        Some(Path(parent.to_vec()))
    }

    pub(super) fn join(&self, name: &[u8]) -> Path {
        let mut names = self.0.clone();
        names.push(name.to_vec());
        Path(names)
    }

    pub(super) fn starts_with(&self, other: &Path) -> bool {
        self.0.starts_with(&other.0)
    }

    pub(super) fn name(&self) -> &[u8] {
        self.0.last().map_or(b"", Vec::as_slice)
    }
}

/// Nanoseconds since the epoch.
pub(super) type Time = i128;

/// An inode. A new one of the same number has another time of birth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    inode: u64,
    born: Time,
}

/// All that changes when anything changes: no process can set a time of change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) identity: Identity,
    pub(super) changed: Time,
    mode: u16,
    size: u64,
    modified: Time,
}

impl Mark {
    pub(super) fn is_directory(&self) -> bool {
        FileType::from_raw_mode(self.mode.into()) == FileType::Directory
    }

    fn of(found: &Statx) -> Mark {
        Mark {
            identity: identity(found),
            changed: time(&found.stx_ctime),
            mode: found.stx_mode,
            size: found.stx_size,
            modified: time(&found.stx_mtime),
        }
    }
}

/// The identity of what `name` is in `directory`.
pub(super) fn identity_at(directory: BorrowedFd<'_>, name: &std::ffi::CStr) -> io::Result<Identity> {
    Ok(identity(&look(directory, name)?))
}

fn identity(found: &Statx) -> Identity {
    Identity { inode: found.stx_ino, born: time(&found.stx_btime) }
}

fn time(time: &StatxTimestamp) -> Time {
    i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
}

fn look(directory: BorrowedFd<'_>, name: &std::ffi::CStr) -> io::Result<Statx> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    Ok(rustix::fs::statx(directory, name, AtFlags::SYMLINK_NOFOLLOW, wanted)?)
}

/// All paths of a tree but those of what stands there for a mount.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) entries: BTreeMap<Path, Mark>,
    /// Where mounts' contents are, wherever the step has moved them.
    pub(super) mounts: HashMap<Identity, Vec<Path>>,
}

impl Listing {
    /// Lists `root`; `mounts` and what is in them is left out.
    pub(super) fn of(root: BorrowedFd<'_>, mounts: &[Identity]) -> io::Result<Listing> {
        let mut listing = Listing::default();
        let mut pending = vec![(Vec::new(), false)];
        while let Some((path, is_mounted)) = pending.pop() {
            let directory = open_directory(root, &path)?;
            for name in names(directory.as_fd())? {
                let found = look(directory.as_fd(), &name)?;
                let mark = Mark::of(&found);
                let child = join(&path, name.as_bytes());
                let is_mount = mounts.contains(&mark.identity);
                if is_mount {
                    listing.mounts.entry(mark.identity).or_default().push(Path::of(&child));
                } else if !is_mounted {
                    listing.entries.insert(Path::of(&child), mark);
                }
                if mark.is_directory() {
                    pending.push((child, is_mounted || is_mount));
                }
            }
        }
        Ok(listing)
    }

    /// The latest time of change.
    pub(super) fn last_change(&self) -> Time {
        self.entries.values().map(|mark| mark.changed).max().unwrap_or_default()
    }
}

/// The time of change of an open file.
pub(super) fn time_of_change(file: BorrowedFd<'_>) -> io::Result<Time> {
    Ok(time(&rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::CTIME)?.stx_ctime))
}
