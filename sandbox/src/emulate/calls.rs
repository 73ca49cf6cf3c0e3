//! The answer to each call: who a process is. What is about files is in [`super::files`].

use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use super::credentials::{Credentials, Ids, Refused};
use super::files::{self, Answered};
use super::filter::{CALLS, Path, Subject};
use super::identities::Identities;
use super::process::{Host, Place, Process};
use crate::sys::{Answer, Call};

/// Supplementary groups that a process may have (`NGROUPS_MAX`).
const GROUPS_LIMIT: usize = 65536;

/// Answers `call`.
pub(crate) fn answer(
    host: &Host,
    listener: BorrowedFd<'_>,
    call: &Call,
    identities: &mut Identities,
) -> Answer {
    let Some(&(_, subject)) = CALLS.iter().find(|&&(number, _)| number == i64::from(call.number)) else {
        return Answer::Continue;
    };
    let process = Process::new(host, listener, call);
    if subject == Subject::End {
        identities.end(host, call.thread);
        return Answer::Continue;
    }
    let before = identities.of(host, call.thread);
    let answered = match subject {
        Subject::GetUser => value(before.user.real),
        Subject::GetEffectiveUser => value(before.user.effective),
        Subject::GetGroup => value(before.group.real),
        Subject::GetEffectiveGroup => value(before.group.effective),
        Subject::GetUsers => write_ids(&process, call, &before.user),
        Subject::GetGroups => write_ids(&process, call, &before.group),
        Subject::GetSupplementaryGroups => write_groups(&process, call, &before.groups),
        Subject::ChangeOwner(path, ids) => {
            let [uid, gid] = [argument(call, ids), argument(call, ids + 1)];
            files::change_owner(&process, &before, place(call, path), uid, gid)
        }
        Subject::Stat(path, buffer) => files::stat(&process, place(call, path), long_argument(call, buffer)),
        Subject::Statx(path) => {
            let (flags, mask) = (argument(call, 2) as i32, argument(call, 3));
            files::statx(&process, place(call, path), flags, mask, long_argument(call, 4))
        }
        Subject::Access(path, mode, flags) => {
            let flags = flags.map_or(0, |at| argument(call, at) as i32);
            let by_real = flags & libc::AT_EACCESS == 0;
            files::access(&process, &before, place(call, path), argument(call, mode), by_real)
        }
        Subject::Open(path, flags, mode) => {
            let flags = flags
                .map_or((libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC) as u32, |at| argument(call, at));
            files::open(&process, &before, place(call, path), flags, argument(call, mode))
        }
        Subject::OpenHow => open_how(&process, &before, call),
        Subject::MakeDirectory(path, mode) => {
            files::make_directory(&process, &before, place(call, path), argument(call, mode))
        }
        Subject::Execute(path) => files::execute(&process, &before, place(call, path)).map(|after| {
            identities.change(host, call.thread, &before, after);
            Answer::Continue
        }),
        _ => {
            let mut after = before.clone();
            let set = set(&process, call, subject, &mut after);
            if set.is_ok() {
                identities.change(host, call.thread, &before, after);
            }
            set
        }
    };
    answered.unwrap_or_else(|errno| Answer::Error(errno.raw_os_error()))
}

/// The calls that make a process another user.
fn set(process: &Process<'_>, call: &Call, subject: Subject, after: &mut Credentials) -> Answered {
    let privileged = after.is_privileged();
    let [a, b, c] = [0, 1, 2].map(|at| argument(call, at));
    let done = match subject {
        Subject::SetUser => after.become_user(|ids, privileged| ids.set(a, privileged)),
        Subject::SetGroup => after.group.set(a, privileged),
        Subject::SetTwoUsers => after.become_user(|ids, privileged| ids.set_two(a, b, privileged)),
        Subject::SetTwoGroups => after.group.set_two(a, b, privileged),
        Subject::SetUsers => after.become_user(|ids, privileged| ids.set_three(a, b, c, privileged)),
        Subject::SetGroups => after.group.set_three(a, b, c, privileged),
        Subject::SetFilesUser => return value(after.user.set_files(a, privileged)),
        Subject::SetFilesGroup => return value(after.group.set_files(a, privileged)),
        Subject::KeepRights => {
            after.keeps_rights = b != 0;
            return Ok(Answer::Continue);
        }
        Subject::SetSupplementaryGroups if !privileged => Err(Refused),
        Subject::SetSupplementaryGroups => {
            after.groups = read_groups(process, call)?;
            Ok(())
        }
        _ => return Ok(Answer::Continue),
    };
    done.map(|()| Answer::Value(0)).map_err(|Refused| Errno::PERM)
}

fn value(id: u32) -> Answered {
    Ok(Answer::Value(id.into()))
}

fn write_ids(process: &Process<'_>, call: &Call, ids: &Ids) -> Answered {
    for (at, id) in [ids.real, ids.effective, ids.saved].into_iter().enumerate() {
        process.write(long_argument(call, at), &id.to_ne_bytes())?;
    }
    Ok(Answer::Value(0))
}

fn write_groups(process: &Process<'_>, call: &Call, groups: &[u32]) -> Answered {
    let room = argument(call, 0) as usize;
    if room > 0 {
        if room < groups.len() {
            return Err(Errno::INVAL);
        }
        let bytes: Vec<u8> = groups.iter().flat_map(|group| group.to_ne_bytes()).collect();
        process.write(long_argument(call, 1), &bytes)?;
    }
    Ok(Answer::Value(groups.len() as i64))
}

fn read_groups(process: &Process<'_>, call: &Call) -> Result<Vec<u32>, Errno> {
    let count = argument(call, 0) as usize;
    if count > GROUPS_LIMIT {
        return Err(Errno::INVAL);
    }
    let mut bytes = vec![0; count * size_of::<u32>()];
    if count > 0 && process.read(long_argument(call, 1), &mut bytes)? != bytes.len() {
        return Err(Errno::FAULT);
    }
    Ok(bytes.as_chunks().0.iter().map(|&id| u32::from_ne_bytes(id)).collect())
}

/// openat2(2), whose flags are behind a pointer.
fn open_how(process: &Process<'_>, who: &Credentials, call: &Call) -> Answered {
    let mut how = [0_u8; 24];
    if process.read(long_argument(call, 2), &mut how)? != how.len() {
        return Ok(Answer::Continue);
    }
    let [flags, mode, resolve] = [0, 8, 16]
        .map(|at| how.get(at..at + 8).and_then(|word| word.try_into().ok()).map_or(0, u64::from_ne_bytes));
    // Its ways of resolving are its own; what it makes then is root's.
    let (Ok(flags), Ok(mode), 0) = (u32::try_from(flags), u32::try_from(mode), resolve) else {
        return Ok(Answer::Continue);
    };
    let path = Path { directory: Some(0), path: Some(1), flags: None, follow: true };
    files::open(process, who, place(call, path), flags, mode)
}

/// The kernel takes ids, flags and modes as 32 bits.
fn argument(call: &Call, at: usize) -> u32 {
    long_argument(call, at) as u32
}

fn long_argument(call: &Call, at: usize) -> u64 {
    call.arguments.get(at).copied().unwrap_or_default()
}

fn place(call: &Call, path: Path) -> Place {
    let flags = path.flags.map_or(0, |at| argument(call, at) as i32);
    // fchownat's, fstatat's and statx's flag is not to follow; faccessat2's and execveat's as well.
    Place {
        directory: path.directory.map_or(libc::AT_FDCWD, |at| argument(call, at) as i32),
        path: path.path.map_or(0, |at| long_argument(call, at)),
        follow: path.follow && flags & libc::AT_SYMLINK_NOFOLLOW == 0,
        may_be_empty: flags & libc::AT_EMPTY_PATH != 0,
    }
}
