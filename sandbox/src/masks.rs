//! Paths of `/proc` and `/sys` that tell of the host, or change it, without being namespaced: hidden or read-only, as
//! Docker has them (moby, `daemon/pkg/oci/defaults.go`).

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::LazyLock;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags as Attr;

use crate::rootfs::{TargetKind, attach, clone_mount, open_in_root, set_attributes, target_kind};

/// Hidden below `/proc`.
pub(crate) const MASKED_IN_PROC: &[&CStr] = &[
    c"acpi",
    c"asound",
    c"interrupts",
    c"kcore",
    c"keys",
    c"latency_stats",
    c"sched_debug",
    c"scsi",
    c"timer_list",
    c"timer_stats",
];

/// Read-only below `/proc`.
pub(crate) const READ_ONLY_IN_PROC: &[&CStr] = &[c"bus", c"fs", c"irq", c"sys", c"sysrq-trigger"];

/// Hidden below `/sys`: the firmware's tables, the power meter, and of every processor what tells how hot it was (by
/// which a process learns what its neighbours do). Not for a forked child, which may not allocate: made before.
pub(crate) static MASKED_IN_SYS: LazyLock<Vec<CString>> = LazyLock::new(|| {
    let mut masked = vec![c"firmware".to_owned(), c"devices/virtual/powercap".to_owned()];
    let possible = std::fs::read_to_string("/sys/devices/system/cpu/possible").unwrap_or_default();
    masked.extend(throttle_counters(&possible, Path::new("/sys")));
    masked
});

/// The counters that are there of the processors in `possible`, the kernel's list (`0-3,6`).
fn throttle_counters(possible: &str, sys: &Path) -> Vec<CString> {
    let ranges = possible.trim().split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse::<u16>().ok()?..=last.parse::<u16>().ok()?)
    });
    let paths = ranges.flatten().map(|cpu| format!("devices/system/cpu/cpu{cpu}/thermal_throttle"));
    paths.filter(|path| sys.join(path).exists()).filter_map(|path| CString::new(path).ok()).collect()
}

/// A directory of the private tmpfs that covers hidden ones.
const EMPTY: &CStr = c"empty";

/// Hides `paths` below `base`: a directory by an empty one made in `files`, anything else by the mount that `null`
/// makes. In the child.
pub(crate) fn hide<'a>(
    base: BorrowedFd<'_>,
    paths: impl Iterator<Item = &'a CStr>,
    files: BorrowedFd<'_>,
    null: impl Fn() -> Result<OwnedFd, Errno>,
) -> Result<(), Errno> {
    for path in paths {
        let Some(target) = existing(base, path)? else { continue };
        let cover = match target_kind(target.as_fd())? {
            TargetKind::Directory => {
                match rustix::fs::mkdirat(files, EMPTY, Mode::from_raw_mode(0o555)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(errno),
                }
                let cover = clone_mount(files, EMPTY)?;
                set_attributes(cover.as_fd(), READ_ONLY)?;
                cover
            }
            TargetKind::File => null()?,
        };
        attach(cover.as_fd(), target.as_fd(), c"")?;
    }
    Ok(())
}

/// Makes [`READ_ONLY_IN_PROC`] so. In the child.
pub(crate) fn make_read_only(proc: BorrowedFd<'_>) -> Result<(), Errno> {
    for path in READ_ONLY_IN_PROC {
        let Some(target) = existing(proc, path)? else { continue };
        let cover = clone_mount(target.as_fd(), c"")?;
        set_attributes(cover.as_fd(), READ_ONLY)?;
        attach(cover.as_fd(), target.as_fd(), c"")?;
    }
    Ok(())
}

/// Not every kernel has every one of them.
fn existing(base: BorrowedFd<'_>, path: &CStr) -> Result<Option<OwnedFd>, Errno> {
    match open_in_root(base, path, OFlags::PATH | OFlags::NOFOLLOW) {
        Err(Errno::NOENT) => Ok(None),
        other => other.map(Some),
    }
}

const READ_ONLY: Attr = Attr::MOUNT_ATTR_NOSUID
    .union(Attr::MOUNT_ATTR_NODEV)
    .union(Attr::MOUNT_ATTR_NOEXEC)
    .union(Attr::MOUNT_ATTR_RDONLY);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_processors_counters_are_hidden_where_there_are_any() {
        let sys = tempfile::tempdir().unwrap();
        let counters = |cpu: u32| sys.path().join(format!("devices/system/cpu/cpu{cpu}/thermal_throttle"));
        for cpu in [0, 1, 6] {
            std::fs::create_dir_all(counters(cpu)).unwrap();
        }
        let paths = throttle_counters("0-2,6\n", sys.path());
        let cpus: Vec<_> =
            paths.iter().map(|path| path.to_str().unwrap().split('/').nth(3).unwrap()).collect();
        assert_eq!(cpus, ["cpu0", "cpu1", "cpu6"]);
        assert_eq!(throttle_counters("", sys.path()), [c""; 0]);
    }
}
