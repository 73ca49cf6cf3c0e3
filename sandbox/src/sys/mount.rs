//! Mount calls.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::check;

/// Sets and clears attributes of the mount that `mount` (of its root) refers to, mount_setattr(2); `recursive` for all
/// mounts below as well.
pub(crate) fn set_mount_attributes(
    mount: BorrowedFd<'_>,
    set: u64,
    clear: u64,
    recursive: bool,
) -> io::Result<()> {
    let attributes = libc::mount_attr { attr_set: set, attr_clr: clear, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a static NUL-terminated string; `attributes` lives through the call, is only read by the
    // kernel, and the size passed is its own.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    })?;
    Ok(())
}

/// Detaches what is mounted on the current directory: the old root after `pivot_root(".", ".")`.
pub(crate) fn umount_here() -> io::Result<()> {
    rustix::mount::unmount(c".", rustix::mount::UnmountFlags::DETACH).map_err(Into::into)
}
