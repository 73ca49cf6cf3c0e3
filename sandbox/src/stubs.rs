//! Removal of mount points that the sandbox made in the upper directory.
//!
//! The step has had all the time it wanted to put something else in their place, so nothing is believed: every path is
//! opened beneath the upper directory without following a link, and only the very inode that was made, still empty, is
//! removed. Copying a directory up to make a stub in it leaves the directory behind; it is removed too where it says
//! nothing that the layers below do not say.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;

/// A stub as the child reported it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stub<'a> {
    pub(crate) inode: u64,
    pub(crate) directory: bool,
    /// Relative to the upper directory.
    pub(crate) path: &'a [u8],
}

/// Removes `stubs` from `upper`, the last made first.
pub(crate) fn remove(upper: &Path, layers: &[PathBuf], stubs: &[Stub<'_>]) -> io::Result<()> {
    if stubs.is_empty() {
        return Ok(());
    }
    let root = rustix::fs::openat(CWD, upper, DIRECTORY, Mode::empty())?;
    let mut emptier: Vec<&Path> = Vec::new();
    for stub in stubs.iter().rev() {
        let path = Path::new(OsStr::from_bytes(stub.path));
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { continue };
        let Ok(directory) = beneath(root.as_fd(), parent) else { continue };
        let Ok(found) = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        if !is_untouched(&found, stub) {
            continue;
        }
        if unlink_keeping_time(directory.as_fd(), name, stub.directory)? == Unlinked::Filled {
            continue;
        }
        if !emptier.contains(&parent) {
            emptier.push(parent);
        }
    }
    emptier.into_iter().try_for_each(|path| remove_copied_up(root.as_fd(), layers, path))
}

fn is_untouched(found: &Stat, stub: &Stub<'_>) -> bool {
    let kind = FileType::from_raw_mode(found.st_mode);
    let mode = found.st_mode & 0o7777;
    let as_made = match kind {
        FileType::Directory => stub.directory && mode == 0o755,
        FileType::RegularFile => !stub.directory && mode == 0o644 && found.st_size == 0,
        _ => false,
    };
    as_made && found.st_ino == stub.inode && (found.st_uid, found.st_gid) == (0, 0)
}

/// Removes `path` and its parents as long as each is empty and equal to what the layers have.
fn remove_copied_up(root: BorrowedFd<'_>, layers: &[PathBuf], path: &Path) -> io::Result<()> {
    for path in path.ancestors() {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { break };
        let Ok(directory) = beneath(root, path) else { break };
        let Some(below) = in_layers(layers, path)? else { break };
        if !says_the_same(directory.as_fd(), below.as_fd())? {
            break;
        }
        let parent = beneath(root, parent)?;
        if unlink_keeping_time(parent.as_fd(), name, true)? == Unlinked::Filled {
            break;
        }
    }
    Ok(())
}

/// The directory at `path` in the topmost layer that has it.
fn in_layers(layers: &[PathBuf], path: &Path) -> io::Result<Option<OwnedFd>> {
    for layer in layers.iter().rev() {
        let layer = rustix::fs::openat(CWD, layer, DIRECTORY, Mode::empty())?;
        match beneath(layer.as_fd(), path) {
            Ok(directory) => return Ok(Some(directory)),
            Err(Errno::NOENT) => {}
            // A whiteout or another kind of file hides what lies below.
            Err(_) => return Ok(None),
        }
    }
    Ok(None)
}

/// Whether two directories have the same owner, mode, time and attributes.
fn says_the_same(upper: BorrowedFd<'_>, lower: BorrowedFd<'_>) -> io::Result<bool> {
    let (a, b) = (rustix::fs::fstat(upper)?, rustix::fs::fstat(lower)?);
    let facts = |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_mtime, stat.st_mtime_nsec);
    Ok(facts(&a) == facts(&b) && attributes(upper)? == attributes(lower)?)
}

/// Bytes of one attribute list or value, the kernel's own limit (`XATTR_LIST_MAX`).
const ATTRIBUTE_LIMIT: usize = 64 * 1024;

/// The extended attributes that are the image's; overlayfs' notes of where a directory came from are not.
fn attributes(directory: BorrowedFd<'_>) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut list = vec![0_u8; ATTRIBUTE_LIMIT];
    let length = rustix::fs::flistxattr(directory, list.as_mut_slice())?;
    let mut found = Vec::new();
    for name in list[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        if ORIGIN_NOTES.contains(&name) {
            continue;
        }
        let mut value = vec![0_u8; ATTRIBUTE_LIMIT];
        let length = rustix::fs::fgetxattr(directory, OsStr::from_bytes(name), value.as_mut_slice())?;
        value.truncate(length);
        found.push((name.to_vec(), value));
    }
    found.sort();
    Ok(found)
}

/// Of any other mark of overlayfs (`opaque` above all) the directory must stay.
const ORIGIN_NOTES: [&[u8]; 6] = [
    b"trusted.overlay.origin",
    b"trusted.overlay.impure",
    b"trusted.overlay.uuid",
    b"user.overlay.origin",
    b"user.overlay.impure",
    b"user.overlay.uuid",
];

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

fn beneath(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    rustix::fs::openat2(
        root,
        path,
        DIRECTORY,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
    )
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unlinked {
    Gone,
    /// A directory with something in it, which the kernel refuses to remove: it is the step's now.
    Filled,
}

fn unlink_keeping_time(directory: BorrowedFd<'_>, name: &OsStr, is_directory: bool) -> io::Result<Unlinked> {
    let before = rustix::fs::fstat(directory)?;
    let flags = if is_directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
    match rustix::fs::unlinkat(directory, name, flags) {
        Err(Errno::NOTEMPTY) => return Ok(Unlinked::Filled),
        other => other?,
    }
    let time = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps {
        last_access: time(before.st_atime, before.st_atime_nsec as i64),
        last_modification: time(before.st_mtime, before.st_mtime_nsec as i64),
    };
    rustix::fs::futimens(directory, &times)?;
    Ok(Unlinked::Gone)
}
