//! The system calls that rustix has no safe form of; all `unsafe` of kiln's own is here.
//!
//! Rules for the child (everything that runs inside the closures of [`process::fork`] and [`process::fork_for_exec`]): no
//! allocation, no lock, no panic.

mod mount;
mod notify;
mod process;
mod seccomp;

pub(crate) use mount::{set_mount_attributes, umount_here};
pub(crate) use notify::{
    Answer, Call, StatBytes, answer, give_descriptor, load_listened_filter, receive, still_waits,
    unshare_folders, wake_at_once,
};
pub(crate) use process::{
    Children, Forked, PointerList, RawUsage, SignalsBlocked, StartStrings, adopt_orphans, bring_loopback_up,
    children_usage, close_range, current_directory_is_reachable, execve, fork, fork_for_exec,
    new_session_keyring, reap, reset_signals, set_raw_rlimit, unshare_control_groups, unshare_mounts,
    unshare_network, unshare_users, wait_for,
};
pub(crate) use seccomp::{Instruction, load_filter};

use std::io;

/// Turns libc's `-1` into the error.
fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
