//! Calls that a filter hands to this program to be answered, seccomp_unotify(2).

use std::io;
use std::mem::{MaybeUninit, offset_of};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::check;
use super::seccomp::Instruction;

/// A system call that waits for its answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    /// Of this call alone.
    pub(crate) id: u64,
    /// The calling thread, as this process's namespace numbers it; 0 when that cannot see it.
    pub(crate) thread: u32,
    /// Number of the call.
    pub(crate) number: i32,
    /// Its arguments.
    pub(crate) arguments: [u64; 6],
}

/// What a call gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The kernel does it after all.
    Continue,
    /// This value.
    Value(i64),
    /// This errno.
    Error(i32),
    /// It has been answered already, with a descriptor.
    Given,
}

/// Applies `program`, whose `SECCOMP_RET_USER_NOTIF` answers arrive at the descriptor returned; see
/// [`super::load_filter`].
pub(crate) fn load_listened_filter(program: &[Instruction]) -> io::Result<OwnedFd> {
    let length = u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let filter = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    let load = |flags: libc::c_ulong| {
        // SAFETY: `Instruction` has the layout of `sock_filter`, `filter` covers exactly `program`, both live through
        // the call, and the kernel only reads them.
        check(unsafe {
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const filter)
        })
    };
    // Else a signal makes the kernel start a call anew that was carried out already (Linux 5.19).
    let patient = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    let listener = match load(patient) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            load(libc::SECCOMP_FILTER_FLAG_NEW_LISTENER)?
        }
        other => other?,
    };
    // SAFETY: the kernel has just made this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(listener as i32) })
}

const RECEIVE: u64 = 0xc050_2100;
const SEND: u64 = 0xc018_2101;
const IS_VALID: u64 = 0x4008_2102;
const ADD_DESCRIPTOR: u64 = 0x4018_2103;
const SET_FLAGS: u64 = 0x4008_2104;
/// Wakes the caller on the processor that answered, which halves a call's time (Linux 6.6).
const SYNC_WAKE_UP: u64 = 1;

/// Asks for quick answers; nothing where the kernel knows no such thing.
pub(crate) fn wake_at_once(listener: BorrowedFd<'_>) {
    // SAFETY: the flags are passed by value; no memory is touched.
    unsafe { libc::syscall(libc::SYS_ioctl, listener.as_raw_fd(), SET_FLAGS, SYNC_WAKE_UP) };
}

/// Takes the next waiting call. `ENOENT` when its thread has been killed meanwhile.
pub(crate) fn receive(listener: BorrowedFd<'_>) -> io::Result<Call> {
    let mut call = MaybeUninit::<libc::seccomp_notif>::zeroed();
    // SAFETY: the kernel wants it zeroed and writes at most the size that the number of the ioctl holds, which is this
    // structure's.
    check(unsafe { libc::syscall(libc::SYS_ioctl, listener.as_raw_fd(), RECEIVE, call.as_mut_ptr()) })?;
    // SAFETY: plain integers, for which zeroes and whatever the kernel wrote are valid.
    let call = unsafe { call.assume_init() };
    Ok(Call { id: call.id, thread: call.pid, number: call.data.nr, arguments: call.data.args })
}

/// Answers a call.
pub(crate) fn answer(listener: BorrowedFd<'_>, id: u64, answer: Answer) -> io::Result<()> {
    let (val, error, flags) = match answer {
        Answer::Continue => (0, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
        Answer::Value(value) => (value, 0, 0),
        Answer::Error(errno) => (0, -errno, 0),
        Answer::Given => return Ok(()),
    };
    let response = libc::seccomp_notif_resp { id, val, error, flags };
    // SAFETY: the kernel reads the structure, which outlives the call.
    check(unsafe { libc::syscall(libc::SYS_ioctl, listener.as_raw_fd(), SEND, &raw const response) })?;
    Ok(())
}

/// Whether the call still waits, and with it the thread is the one it was.
pub(crate) fn still_waits(listener: BorrowedFd<'_>, id: u64) -> bool {
    // SAFETY: the kernel reads the eight bytes of `id`, which outlives the call.
    check(unsafe { libc::syscall(libc::SYS_ioctl, listener.as_raw_fd(), IS_VALID, &raw const id) }).is_ok()
}

/// Answers a call with a descriptor of its own for what `file` is (Linux 5.14).
pub(crate) fn give_descriptor(
    listener: BorrowedFd<'_>,
    id: u64,
    file: BorrowedFd<'_>,
    close_on_exec: bool,
) -> io::Result<()> {
    let request = libc::seccomp_notif_addfd {
        id,
        flags: libc::SECCOMP_ADDFD_FLAG_SEND as u32,
        srcfd: file.as_raw_fd() as u32,
        newfd: 0,
        newfd_flags: if close_on_exec { libc::O_CLOEXEC as u32 } else { 0 },
    };
    // SAFETY: the kernel reads the structure, which outlives the call; the descriptor stays this process's own.
    check(unsafe {
        libc::syscall(libc::SYS_ioctl, listener.as_raw_fd(), ADD_DESCRIPTOR, &raw const request)
    })?;
    Ok(())
}

/// Gives this thread a root and a working directory apart from those of the other threads.
pub(crate) fn unshare_folders() -> io::Result<()> {
    // SAFETY: no pointer is passed, and no memory or descriptor is unshared: only this thread's root, working directory
    // and umask.
    check(unsafe { libc::syscall(libc::SYS_unshare, libc::CLONE_FS) })?;
    Ok(())
}

/// What stat(2) or statx(2) writes, and where the owner stands in it.
#[derive(Debug)]
pub(crate) struct StatBytes {
    pub(crate) bytes: Vec<u8>,
    owner_at: usize,
    group_at: usize,
}

impl StatBytes {
    /// What stat(2) says of an open file.
    pub(crate) fn stat(file: BorrowedFd<'_>) -> io::Result<StatBytes> {
        let mut bytes = vec![0; size_of::<libc::stat>()];
        // SAFETY: the kernel writes its `struct stat`, which is libc's on the supported architectures, into a buffer of
        // that size; the empty path is NUL-terminated.
        check(unsafe {
            let (path, flags) = (c"".as_ptr(), libc::AT_EMPTY_PATH);
            libc::syscall(libc::SYS_newfstatat, file.as_raw_fd(), path, bytes.as_mut_ptr(), flags)
        })?;
        let (owner_at, group_at) = (offset_of!(libc::stat, st_uid), offset_of!(libc::stat, st_gid));
        Ok(StatBytes { bytes, owner_at, group_at })
    }

    /// What statx(2) says of an open file; `flags` are those of synchronisation.
    pub(crate) fn statx(file: BorrowedFd<'_>, flags: i32, mask: u32) -> io::Result<StatBytes> {
        let mut bytes = vec![0; size_of::<libc::statx>()];
        let flags = (flags & libc::AT_STATX_SYNC_TYPE) | libc::AT_EMPTY_PATH;
        // SAFETY: as above, with the kernel's `struct statx`.
        check(unsafe {
            libc::syscall(libc::SYS_statx, file.as_raw_fd(), c"".as_ptr(), flags, mask, bytes.as_mut_ptr())
        })?;
        let (owner_at, group_at) = (offset_of!(libc::statx, stx_uid), offset_of!(libc::statx, stx_gid));
        Ok(StatBytes { bytes, owner_at, group_at })
    }

    /// Puts another owner in.
    pub(crate) fn set_owner(&mut self, uid: u32, gid: u32) {
        for (at, id) in [(self.owner_at, uid), (self.group_at, gid)] {
            if let Some(slot) = self.bytes.get_mut(at..at + size_of::<u32>()) {
                slot.copy_from_slice(&id.to_ne_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn the_owner_is_where_programs_look_for_it() {
        let file = tempfile::tempfile().unwrap();
        let known = file.metadata().unwrap();
        let stat = StatBytes::stat(file.as_fd()).unwrap();
        let statx = StatBytes::statx(file.as_fd(), 0, libc::STATX_BASIC_STATS).unwrap();
        for mut found in [stat, statx] {
            let id = |at: usize, found: &StatBytes| {
                u32::from_ne_bytes(found.bytes[at..at + 4].try_into().unwrap())
            };
            assert_eq!((id(found.owner_at, &found), id(found.group_at, &found)), (known.uid(), known.gid()));
            found.set_owner(12, 34);
            assert_eq!((id(found.owner_at, &found), id(found.group_at, &found)), (12, 34));
        }
    }

    #[test]
    fn the_numbers_of_the_requests_hold_the_structures_sizes() {
        let size = |request: u64| (request >> 16 & 0x3fff) as usize;
        assert_eq!(size(RECEIVE), size_of::<libc::seccomp_notif>());
        assert_eq!(size(SEND), size_of::<libc::seccomp_notif_resp>());
        assert_eq!(size(ADD_DESCRIPTOR), size_of::<libc::seccomp_notif_addfd>());
    }
}
