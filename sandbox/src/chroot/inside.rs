//! The child's steps into the tree, and the supervisor's care that nothing outlives the command. Nothing here allocates,
//! locks or panics, as in `enter`.

use std::ffi::CStr;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::event::{PollFd, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process, pidfd_send_signal};

use crate::enter::{open_directory, working_directory};
use crate::plan::{ChildDescriptors, Plan};
use crate::report::{At as _, Entered, Failure, Step};
use crate::sys::{self, Children, Forked};

/// Makes the tree the root.
pub(crate) fn enter(plan: &Plan, tree: &CStr, descriptors: &ChildDescriptors<'_>) -> Entered<()> {
    for group in descriptors.control_groups {
        rustix::io::write(group, b"0").at(Step::ControlGroup)?;
    }
    rustix::process::umask(Mode::empty());
    let root = open_directory(tree).at(Step::Root)?;
    let cwd = working_directory(plan, root.as_fd()).at(Step::WorkingDirectory)?;
    rustix::process::fchdir(&root).at(Step::Pivot)?;
    rustix::process::chroot(c".").at(Step::Pivot)?;
    rustix::process::fchdir(&cwd).at(Step::WorkingDirectory)?;
    if !sys::current_directory_is_reachable() {
        return Err(Failure { step: Step::WorkingDirectory, index: 0, errno: Errno::XDEV });
    }
    Ok(())
}

/// How long orphans that have ended may lie unreaped.
const REAPING_PAUSE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
/// How long is waited for those that were killed.
const KILLING_PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };

/// Waits for the command, or kills it when the engine (the first of `events`) is gone, and then kills whatever it has
/// left, until there is none; answers the command's status.
pub(crate) fn outlive(command: &Forked, events: &mut [PollFd<'_>; 2]) -> Option<i32> {
    let mut status = None;
    while status.is_none() {
        let _ = poll(events, Some(&REAPING_PAUSE));
        if !events[0].revents().is_empty() {
            let _ = pidfd_send_signal(&command.pidfd, Signal::KILL);
        }
        loop {
            match sys::reap() {
                Children::Ended { pid, status: ended } if pid == command.pid => status = Some(ended),
                Children::Ended { .. } => {}
                Children::Running => break,
                // Somebody else's doing; there is nothing left to wait for.
                Children::None => return status,
            }
        }
    }
    while kill_children() {
        let _ = poll(&mut [], Some(&KILLING_PAUSE));
    }
    status
}

/// Kills the children of this process, to which those of the killed come, and reaps; `false` when there are none.
fn kill_children() -> bool {
    // More come in the next round.
    let mut list = [0_u8; 4096];
    let length = read_children(&mut list).unwrap_or(0);
    // A number that is cut off would be another process's.
    let whole = list.get(..length).and_then(|list| list.iter().rposition(|&byte| byte == b' '));
    for number in list.get(..whole.unwrap_or(0)).unwrap_or_default().split(|&byte| byte == b' ') {
        let pid = std::str::from_utf8(number).ok().and_then(|text| text.parse().ok());
        if let Some(pid) = pid.and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    loop {
        match sys::reap() {
            Children::Ended { .. } => {}
            Children::Running => return true,
            Children::None => return false,
        }
    }
}

fn read_children(list: &mut [u8]) -> Result<usize, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file: OwnedFd = rustix::fs::openat(CWD, c"/proc/thread-self/children", flags, Mode::empty())?;
    rustix::io::read(&file, list)
}
