//! Directories of the host's that steps see (`--volume`) and that shall be their user's first (`U`).

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};

use crate::solve::SolveError;

/// Gives what is at `path` on the host, and all below it, to one owner.
///
/// Every name is looked up beneath the directory, without links: another step may be changing what is in it.
pub(super) fn give_all(path: &Path, uid: u32, gid: u32) -> Result<(), SolveError> {
    give_below(path, uid, gid).map_err(|(at, source)| SolveError::Io { path: path.join(at), source })
}

fn give_below(path: &Path, uid: u32, gid: u32) -> Result<(), (PathBuf, io::Error)> {
    let entry = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| (PathBuf::new(), errno.into()))?;
    let mut pending = vec![PathBuf::new()];
    while let Some(at) = pending.pop() {
        let fail = |source: io::Error| (at.clone(), source);
        let open = |flags| {
            let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            match at.as_os_str().is_empty() {
                true => rustix::fs::openat2(&root, ".", flags, Mode::empty(), beneath),
                false => rustix::fs::openat2(&root, &at, flags, Mode::empty(), beneath),
            }
        };
        let is_file = at.as_os_str().is_empty() && !is_directory(&root).map_err(fail)?;
        let file = match is_file {
            true => rustix::io::fcntl_dupfd_cloexec(&root, 0),
            false => open(entry),
        };
        let file = file.map_err(|errno| fail(errno.into()))?;
        let found = rustix::fs::fstat(&file).map_err(|errno| fail(errno.into()))?;
        if (found.st_uid, found.st_gid) != (uid, gid) {
            let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            rustix::fs::chownat(&file, "", owner.0, owner.1, AtFlags::EMPTY_PATH)
                .map_err(|errno| fail(errno.into()))?;
        }
        if !is_directory(&file).map_err(fail)? {
            continue;
        }
        let directory = open(OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC);
        let directory = directory.and_then(Dir::new).map_err(|errno| fail(errno.into()))?;
        for name in directory {
            let name = name.map_err(|errno| fail(errno.into()))?;
            let name = OsStr::from_bytes(name.file_name().to_bytes());
            if name != "." && name != ".." {
                pending.push(at.join(name));
            }
        }
    }
    Ok(())
}

fn is_directory(file: impl std::os::fd::AsFd) -> io::Result<bool> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode) == FileType::Directory)
}
