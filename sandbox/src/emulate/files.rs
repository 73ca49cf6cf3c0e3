//! The answers to calls about files: their owners, and what becomes whose.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;

use super::credentials::{Credentials, KEEP, SET_GROUP_ID};
use super::process::{Host, Place, Process};
use crate::sys::{Answer, StatBytes};

/// An answer, or the errno that is one.
pub(crate) type Answered = Result<Answer, Errno>;

const READ: u32 = 4;
const WRITE: u32 = 2;
const EXECUTE: u32 = 1;

/// A file's mode and owner, as its processes see it.
struct Facts {
    stat: Stat,
    uid: u32,
    gid: u32,
}

impl Facts {
    fn of(host: &Host, file: BorrowedFd<'_>) -> Result<Facts, Errno> {
        let stat = rustix::fs::fstat(file)?;
        let (uid, gid) = host.noted_owner(file).unwrap_or((stat.st_uid, stat.st_gid));
        Ok(Facts { stat, uid, gid })
    }

    fn allow(&self, who: &Credentials, wanted: u32) -> bool {
        who.may(wanted, self.stat.st_mode, self.uid, self.gid)
    }

    fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }
}

/// chown(2) and its kin. What has no owner noted (links, pipes, what only procfs leads to) stays as it is, silently.
pub(crate) fn change_owner(
    process: &Process<'_>,
    who: &Credentials,
    place: Place,
    uid: u32,
    gid: u32,
) -> Answered {
    let file = match process.file(place) {
        Err(Errno::LOOP) => return Ok(Answer::Value(0)),
        // Missing, or below /proc/self, where the kernel knows better.
        Err(Errno::NOENT) => return Ok(Answer::Continue),
        other => other?,
    };
    let before = Facts::of(process.host, file.as_fd())?;
    let new_uid = if uid == KEEP { before.uid } else { uid };
    let new_gid = if gid == KEEP { before.gid } else { gid };
    let is_owner = who.user.files == before.uid;
    let may = who.is_privileged()
        || (is_owner && new_uid == before.uid && (new_gid == before.gid || who.is_in_group(new_gid)));
    if !may {
        return Err(Errno::PERM);
    }
    // The kernel's own chown takes the set-id bits and capabilities away, and refuses where nothing may be written.
    let (root, group) = (Uid::from_raw(0), Gid::from_raw(0));
    let changed = rustix::fs::chownat(&file, c"", Some(root), Some(group), AtFlags::EMPTY_PATH);
    match changed {
        // A file of the host's that is not the user's own: a device of /dev.
        Err(Errno::PERM | Errno::INVAL) => return Ok(Answer::Value(0)),
        other => other?,
    }
    if matches!(before.kind(), FileType::RegularFile | FileType::Directory) {
        process.host.note_owner(file.as_fd(), new_uid, new_gid)?;
    }
    Ok(Answer::Value(0))
}

/// stat(2) and its kin: the kernel answers for what has no owner noted.
pub(crate) fn stat(process: &Process<'_>, place: Place, buffer: u64) -> Answered {
    let Some((file, owner)) = noted(process, place) else { return Ok(Answer::Continue) };
    let stat = StatBytes::stat(file.as_fd()).map_err(|error| errno_of(&error))?;
    write_stat(process, stat, owner, buffer)
}

/// statx(2).
pub(crate) fn statx(process: &Process<'_>, place: Place, flags: i32, mask: u32, buffer: u64) -> Answered {
    let Some((file, owner)) = noted(process, place) else { return Ok(Answer::Continue) };
    let stat = StatBytes::statx(file.as_fd(), flags, mask).map_err(|error| errno_of(&error))?;
    write_stat(process, stat, owner, buffer)
}

/// The file, if an owner is noted beside it. Errors are the kernel's to word.
fn noted(process: &Process<'_>, place: Place) -> Option<(OwnedFd, (u32, u32))> {
    let file = process.file(place).ok()?;
    let owner = process.host.noted_owner(file.as_fd())?;
    Some((file, owner))
}

fn write_stat(process: &Process<'_>, mut stat: StatBytes, (uid, gid): (u32, u32), buffer: u64) -> Answered {
    stat.set_owner(uid, gid);
    process.write(buffer, &stat.bytes)?;
    Ok(Answer::Value(0))
}

/// access(2) and its kin.
pub(crate) fn access(
    process: &Process<'_>,
    who: &Credentials,
    place: Place,
    wanted: u32,
    by_real: bool,
) -> Answered {
    let mut who = who.clone();
    if by_real {
        (who.user.files, who.group.files) = (who.user.real, who.group.real);
    }
    if who.opens_as_root() {
        return Ok(Answer::Continue);
    }
    let Ok(file) = process.file(place) else { return Ok(Answer::Continue) };
    let facts = Facts::of(process.host, file.as_fd())?;
    if facts.allow(&who, wanted & (READ | WRITE | EXECUTE)) {
        return Ok(Answer::Continue);
    }
    Err(Errno::ACCESS)
}

/// open(2) and its kin, to write or to make.
pub(crate) fn open(
    process: &Process<'_>,
    who: &Credentials,
    place: Place,
    flags: u32,
    mode: u32,
) -> Answered {
    let flags = OFlags::from_bits_retain(flags);
    // A file without a name has no owner noted before it gets one.
    if flags.intersects(OFlags::PATH | OFlags::DIRECTORY) {
        return Ok(Answer::Continue);
    }
    if !flags.contains(OFlags::CREATE) {
        return may_write(process, who, place);
    }
    let Some(new) = NewEntry::of(process, who, place)? else { return may_write(process, who, place) };
    let Some(owner) = new.owner else { return Ok(Answer::Continue) };
    // Exclusively: what is there may be a pipe, and must not be waited for.
    let kept = OFlags::ACCMODE
        | OFlags::APPEND
        | OFlags::NONBLOCK
        | OFlags::SYNC
        | OFlags::DSYNC
        | OFlags::NOATIME
        | OFlags::DIRECT;
    let own = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(&new.parent, &new.name, (flags & kept) | own, new.mode(process, mode))
    {
        Err(Errno::EXIST) if !flags.contains(OFlags::EXCL) => return may_write(process, who, place),
        other => other?,
    };
    process.host.note_owner(file.as_fd(), owner.0, owner.1)?;
    process.give(&file, flags.contains(OFlags::CLOEXEC))?;
    Ok(Answer::Given)
}

/// Whether an existing file may be written to; the kernel opens it, and says what is missing.
fn may_write(process: &Process<'_>, who: &Credentials, place: Place) -> Answered {
    if who.opens_as_root() {
        return Ok(Answer::Continue);
    }
    let Ok(file) = process.file(place) else { return Ok(Answer::Continue) };
    let facts = Facts::of(process.host, file.as_fd())?;
    // Devices, pipes and sockets are given to who has them.
    if facts.kind() != FileType::RegularFile || facts.allow(who, WRITE) {
        return Ok(Answer::Continue);
    }
    Err(Errno::ACCESS)
}

/// mkdir(2) and its kin.
pub(crate) fn make_directory(process: &Process<'_>, who: &Credentials, place: Place, mode: u32) -> Answered {
    let Some(new) = NewEntry::of(process, who, place)? else { return Ok(Answer::Continue) };
    let Some((uid, gid)) = new.owner else { return Ok(Answer::Continue) };
    rustix::fs::mkdirat(&new.parent, &new.name, new.mode(process, mode))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = rustix::fs::openat(&new.parent, &new.name, flags, Mode::empty())?;
    process.host.note_owner(made.as_fd(), uid, gid)?;
    Ok(Answer::Value(0))
}

/// Something about to be made.
struct NewEntry {
    parent: OwnedFd,
    name: CString,
    /// Who will own it, if that must be noted.
    owner: Option<(u32, u32)>,
}

impl NewEntry {
    /// `None` where the kernel has to say what is wrong.
    fn of(process: &Process<'_>, who: &Credentials, place: Place) -> Result<Option<NewEntry>, Errno> {
        let path = process.path(place.path)?;
        let Some((parent, name)) = split(&path) else { return Ok(None) };
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let Ok(parent) = process.resolve(place.directory, &parent, flags) else { return Ok(None) };
        let facts = Facts::of(process.host, parent.as_fd())?;
        // Who is refused sees the same error for what is there already, unless that is what the kernel would say.
        if !facts.allow(who, WRITE | EXECUTE) {
            let exists = rustix::fs::statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
            return if exists { Ok(None) } else { Err(Errno::ACCESS) };
        }
        let is_inherited = facts.stat.st_mode & SET_GROUP_ID != 0;
        let gid = if is_inherited { facts.gid } else { who.group.files };
        let owner = (who.user.files, gid);
        Ok(Some(NewEntry { parent, name, owner: (owner != (0, 0)).then_some(owner) }))
    }

    fn mode(&self, process: &Process<'_>, mode: u32) -> Mode {
        Mode::from_raw_mode(mode & 0o7777 & !process.umask())
    }
}

/// The directory and the name of a path; `None` where the last component is no name.
fn split(path: &CStr) -> Option<(CString, CString)> {
    let bytes = path.to_bytes();
    let (parent, name) = match bytes.iter().rposition(|&byte| byte == b'/') {
        Some(0) => (&b"/"[..], &bytes[1..]),
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (&b"."[..], bytes),
    };
    if matches!(name, b"" | b"." | b"..") {
        return None;
    }
    Some((CString::new(parent).ok()?, CString::new(name).ok()?))
}

/// execve(2): who the process is afterwards, if that succeeds. Root stays root whatever the bits of the file.
pub(crate) fn execute(process: &Process<'_>, who: &Credentials, place: Place) -> Result<Credentials, Errno> {
    let mut after = who.clone();
    if who.opens_as_root() && who.user.real == 0 {
        return Ok(after);
    }
    let facts = process.file(place).and_then(|file| Facts::of(process.host, file.as_fd()));
    let (mode, uid, gid) = facts.map_or((0, 0, 0), |facts| (facts.stat.st_mode, facts.uid, facts.gid));
    after.execute(mode, uid, gid);
    Ok(after)
}

fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_parted_before_its_last_name() {
        let parts = |path: &CStr| {
            split(path).map(|(parent, name)| {
                (parent.to_string_lossy().into_owned(), name.to_string_lossy().into_owned())
            })
        };
        let pair = |parent: &str, name: &str| Some((parent.to_owned(), name.to_owned()));
        assert_eq!(parts(c"a"), pair(".", "a"));
        assert_eq!(parts(c"/a"), pair("/", "a"));
        assert_eq!(parts(c"a//b"), pair("a/", "b"));
        for none in [c"", c"/", c"a/", c".", c"a/.."] {
            assert_eq!(parts(none), None);
        }
    }
}
