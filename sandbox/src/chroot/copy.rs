//! Copies of files, with all that a layer says of them, between directories that no step works in.
//!
//! Names come from images and steps: each is used beneath a descriptor, and no link is followed.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, SeekFrom, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

/// How a directory is filled with what another one has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// As overlayfs shows a layer above what is there.
    Layer,
    /// Copied to an empty directory.
    Copy,
    /// The same files, linked into an empty directory.
    Link,
}

/// Fills `to` from `from`. What is still to do is a list, so that depth costs neither stack nor descriptors.
pub(super) fn fill(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    how: How,
    cancel: &AtomicBool,
) -> io::Result<()> {
    let mut pending = vec![Vec::new()];
    let mut directories = Vec::new();
    while let Some(path) = pending.pop() {
        if cancel.load(Ordering::Relaxed) {
            return Err(Errno::CANCELED.into());
        }
        let source = open_directory(from, &path)?;
        let target = open_directory(to, &path)?;
        for name in names(source.as_fd())? {
            let found = rustix::fs::statat(&source, &name, AtFlags::SYMLINK_NOFOLLOW)?;
            if is_directory(&found) {
                let child = join(&path, name.as_bytes());
                let replaces = how == How::Layer && is_opaque(source.as_fd(), &name)?;
                make_directory(target.as_fd(), &name, replaces)?;
                pending.push(child);
                continue;
            }
            if how == How::Layer {
                remove(target.as_fd(), &name)?;
                if is_whiteout(&found) {
                    continue;
                }
            }
            match how {
                How::Link => rustix::fs::linkat(&source, &name, &target, &name, AtFlags::empty())?,
                How::Layer | How::Copy => copy_entry(source.as_fd(), &name, target.as_fd(), &name, &found)?,
            }
        }
        directories.push(path);
    }
    // At the end, since filling a directory changes its time.
    for path in directories {
        copy_directory_facts(open_directory(from, &path)?.as_fd(), open_directory(to, &path)?.as_fd())?;
    }
    Ok(())
}

/// Whether overlayfs takes it for the absence of what is below.
fn is_whiteout(found: &Stat) -> bool {
    FileType::from_raw_mode(found.st_mode) == FileType::CharacterDevice && found.st_rdev == 0
}

pub(super) fn is_directory(found: &Stat) -> bool {
    FileType::from_raw_mode(found.st_mode) == FileType::Directory
}

/// Whether a layer's directory hides what is below, in either spelling of the mark.
fn is_opaque(directory: BorrowedFd<'_>, name: &CStr) -> io::Result<bool> {
    let path = by_descriptor(directory, name);
    for mark in ["trusted.overlay.opaque", "user.overlay.opaque"] {
        let mut value = [0; 1];
        match rustix::fs::lgetxattr(&path, mark, &mut value) {
            Ok(1) if value == *b"y" => return Ok(true),
            Ok(_) | Err(Errno::NODATA | Errno::NOTSUP | Errno::RANGE) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(false)
}

/// Makes a directory, or leaves the one that is there unless it is to be replaced.
fn make_directory(parent: BorrowedFd<'_>, name: &CStr, replaces: bool) -> io::Result<()> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) if is_directory(&found) && !replaces => return Ok(()),
        Ok(_) => remove(parent, name)?,
        Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    Ok(rustix::fs::mkdirat(parent, name, Mode::RWXU)?)
}

/// Copies what is no directory.
pub(super) fn copy_entry(
    from: BorrowedFd<'_>,
    name: &CStr,
    to: BorrowedFd<'_>,
    new_name: &CStr,
    found: &Stat,
) -> io::Result<()> {
    match FileType::from_raw_mode(found.st_mode) {
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let source = rustix::fs::openat(from, name, flags, Mode::empty())?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let target = rustix::fs::openat(to, new_name, flags, Mode::RUSR | Mode::WUSR)?;
            copy_data(&source, &target, found)?;
            return copy_facts(source.as_fd(), target.as_fd(), found);
        }
        FileType::Symlink => {
            let link = rustix::fs::readlinkat(from, name, Vec::new())?;
            rustix::fs::symlinkat(&link, to, new_name)?;
        }
        kind => {
            match rustix::fs::mknodat(to, new_name, kind, Mode::from_raw_mode(found.st_mode), found.st_rdev) {
                // Who may make no devices goes without, as an ordinary user's unpacked layers do.
                Err(Errno::PERM) if matches!(kind, FileType::CharacterDevice | FileType::BlockDevice) => {
                    return Ok(());
                }
                other => other?,
            }
        }
    }
    let (uid, gid) = owner(found);
    rustix::fs::chownat(to, new_name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(found.st_mode) != FileType::Symlink {
        rustix::fs::chmodat(to, new_name, Mode::from_raw_mode(found.st_mode), AtFlags::empty())?;
    }
    Ok(rustix::fs::utimensat(to, new_name, &times(found), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Shares the blocks where the file system can, and copies else; holes stay holes.
fn copy_data(source: &OwnedFd, target: &OwnedFd, found: &Stat) -> io::Result<()> {
    const BLOCK_BYTES: i64 = 512;
    let size = u64::try_from(found.st_size).unwrap_or_default();
    if size == 0 || rustix::fs::ioctl_ficlone(target, source).is_ok() {
        return Ok(());
    }
    if found.st_blocks.saturating_mul(BLOCK_BYTES) >= found.st_size {
        return copy_range(source, target, 0, size);
    }
    rustix::fs::ftruncate(target, size)?;
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(source, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => break,
            other => other?,
        };
        at = rustix::fs::seek(source, SeekFrom::Hole(start))?.min(size);
        copy_range(source, target, start, at)?;
    }
    Ok(())
}

fn copy_range(source: &OwnedFd, target: &OwnedFd, start: u64, end: u64) -> io::Result<()> {
    let (mut from, mut to) = (start, start);
    while from < end {
        let rest = usize::try_from(end - from).unwrap_or(usize::MAX);
        match rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), rest) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => {
                return copy_bytes(source, target, from, end);
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn copy_bytes(source: &OwnedFd, target: &OwnedFd, mut at: u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![0; 128 * 1024];
    while at < end {
        let wanted = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
        let read = rustix::io::pread(source, &mut buffer[..wanted], at)?;
        if read == 0 {
            break;
        }
        let mut rest = &buffer[..read];
        while !rest.is_empty() {
            let written = rustix::io::pwrite(target, rest, at)?;
            rest = &rest[written..];
            at += written as u64;
        }
    }
    Ok(())
}

/// Owner, mode, attributes and times of an open directory.
pub(super) fn copy_directory_facts(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let found = rustix::fs::fstat(from)?;
    let kept = attributes(from)?;
    for (name, _) in attributes(to)? {
        if !kept.iter().any(|(other, _)| *other == name) {
            rustix::fs::fremovexattr(to, &name)?;
        }
    }
    copy_facts(from, to, &found)
}

/// In this order: a new owner takes set-id bits and capabilities away, and all else changes times.
fn copy_facts(from: BorrowedFd<'_>, to: BorrowedFd<'_>, found: &Stat) -> io::Result<()> {
    let (uid, gid) = owner(found);
    rustix::fs::fchown(to, uid, gid)?;
    for (name, value) in attributes(from)? {
        rustix::fs::fsetxattr(to, &name, &value, XattrFlags::empty())?;
    }
    rustix::fs::fchmod(to, Mode::from_raw_mode(found.st_mode))?;
    Ok(rustix::fs::futimens(to, &times(found))?)
}

fn owner(found: &Stat) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(found.st_uid)), Some(Gid::from_raw(found.st_gid)))
}

pub(super) fn times(found: &Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: found.st_atime, tv_nsec: found.st_atime_nsec as _ },
        last_modification: Timespec { tv_sec: found.st_mtime, tv_nsec: found.st_mtime_nsec as _ },
    }
}

/// The attributes that layers carry: not the host's labels, and not overlayfs' marks.
fn attributes(file: BorrowedFd<'_>) -> io::Result<Vec<(OsString, Vec<u8>)>> {
    let mut names = vec![0_u8; MAX_XATTR_BYTES];
    let length = match rustix::fs::flistxattr(file, names.as_mut_slice()) {
        Err(Errno::NOTSUP) => 0,
        other => other?,
    };
    let mut found = Vec::new();
    for name in names[..length].split(|&byte| byte == 0) {
        let is_users = name.starts_with(b"user.") && !name.starts_with(b"user.overlay.");
        if !is_users && name != b"security.capability" {
            continue;
        }
        let mut value = vec![0; MAX_XATTR_BYTES];
        let length = rustix::fs::fgetxattr(file, name, value.as_mut_slice())?;
        value.truncate(length);
        found.push((OsString::from_vec(name.to_vec()), value));
    }
    Ok(found)
}

/// The kernel's own limits for a list of names and for a value (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const MAX_XATTR_BYTES: usize = 64 * 1024;

/// Removes whatever `name` is, with all in it; nothing where there is nothing.
pub(super) fn remove(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => std::fs::remove_dir_all(by_descriptor(parent, name)),
        Err(errno) => Err(errno.into()),
    }
}

/// Opens the directory at `path` (empty: `root` itself), in which no component is a link.
pub(super) fn open_directory(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
    let path = if path.is_empty() { OsStr::new(".") } else { OsStr::from_bytes(path) };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    Ok(rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)?)
}

/// What is in a directory.
pub(super) fn names(directory: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    let mut found = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory)? {
        let name = entry?.file_name().to_owned();
        if !matches!(name.as_bytes(), b"." | b"..") {
            found.push(name);
        }
    }
    Ok(found)
}

pub(super) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() }
}

/// A path for calls that take no descriptor of a directory; the descriptor pins it.
pub(super) fn by_descriptor(directory: impl AsFd, name: &CStr) -> PathBuf {
    let mut path = format!("/proc/self/fd/{}/", directory.as_fd().as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    PathBuf::from(OsString::from_vec(path))
}
