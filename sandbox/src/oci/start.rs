//! The child's steps to the runtime, and the supervisor's last one. Nothing here allocates, locks or panics, as in `enter`.

use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::process::Signal;
use rustix::thread::LinkNameSpaceType;

use super::PlannedRuntime;
use crate::enter::{
    CommandFailure, Execution, NOTHING_SPECIAL, arrange_streams, mount_proc, open_directory, open_source,
    open_target, plain_directory, private_files, root_attributes, working_directory,
};
use crate::plan::{ChildDescriptors, Plan};
use crate::report::{At, Entered, Report, Step};
use crate::rootfs::{Maker, StubReport, attach, errno_of, mount_id, new_mount, target_kind};
use crate::sys;

/// Prepares the bundle and turns the process into the runtime; returns only when that fails.
pub(crate) fn become_runtime(
    plan: &Plan,
    runtime: &PlannedRuntime,
    descriptors: &ChildDescriptors<'_>,
    execution: &Execution<'_>,
) -> Result<Infallible, CommandFailure> {
    prepare(plan, runtime, descriptors)?;
    rustix::process::setsid().at(Step::Descriptors)?;
    arrange_streams(descriptors, None, plan.uid)?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).at(Step::Descriptors)?;
    sys::reset_signals();
    let refused = sys::execve(&runtime.program, &execution.argv, &execution.env);
    Err(refused).at(Step::Runtime)?
}

fn prepare(plan: &Plan, runtime: &PlannedRuntime, descriptors: &ChildDescriptors<'_>) -> Entered<()> {
    for group in descriptors.control_groups {
        rustix::io::write(group, b"0").at(Step::ControlGroup)?;
    }
    if let Some(network) = &descriptors.network {
        rustix::thread::move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
            .at(Step::Network)?;
    }
    rustix::process::umask(Mode::empty());
    // Nothing mounted below may travel to the host.
    mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .at(Step::PrivateMounts)?;
    let upper = open_directory(&plan.upper).at(Step::Root)?;
    let root = plan.root.mount(root_attributes(plan.security))?;
    attach(root.as_fd(), CWD, &plan.upper).at(Step::Root)?;
    let root_mount = mount_id(root.as_fd()).at(Step::Root)?;
    let files = private_files(plan).at(Step::PrivateFiles)?;
    rustix::fs::mkdirat(&files, super::STATE, Mode::from_raw_mode(0o700)).at(Step::PrivateFiles)?;
    // The runtime asks procfs about itself, by the numbers of its own process namespace.
    let proc = new_mount(c"proc", &[], NOTHING_SPECIAL).at(Step::Proc)?;
    attach(proc.as_fd(), CWD, c"/proc").at(Step::Proc)?;
    if runtime.covers_control_groups {
        cover_control_groups().at(Step::ControlGroup)?;
    }

    let stubs = StubReport { pipe: descriptors.report.as_fd(), root_mount, upper: upper.as_fd() };
    let maker = Maker { root: root.as_fd(), stubs: Some(stubs), uid: 0, gid: 0 };
    plain_directory(&maker, c"sys").at(Step::Sys)?;
    plain_directory(&maker, c"dev").at(Step::Dev)?;
    // Only until all targets are found, none of which may lie in it.
    let inner_proc = mount_proc(&maker).at(Step::Proc)?;
    let of_runtime = runtime.sources.iter().zip(&runtime.makes_target);
    for (index, (mount, (name, makes_target))) in plan.mounts.iter().zip(of_runtime).enumerate() {
        let source = open_source(plan, mount, &maker, files.as_fd(), descriptors)
            .at_index(Step::MountSource, index)?;
        let kind = target_kind(source.as_fd()).at_index(Step::MountSource, index)?;
        let place = Maker { root: files.as_fd(), stubs: None, uid: 0, gid: 0 }
            .open(name, kind)
            .at_index(Step::MountSource, index)?;
        attach(source.as_fd(), place.as_fd(), c"").at_index(Step::MountSource, index)?;
        if *makes_target {
            open_target(&maker, &mount.target, kind).at_index(Step::MountTarget, index)?;
        }
    }
    rustix::process::fchdir(&inner_proc).at(Step::Proc)?;
    sys::umount_here().at(Step::Proc)?;
    if runtime.makes_cwd {
        working_directory(plan, root.as_fd()).at(Step::WorkingDirectory)?;
    }
    rustix::process::chdir(c"/").at(Step::WorkingDirectory)
}

/// Shows the runtime version 2 of control groups alone: some refuse two at once, and none shall move the command out of
/// the groups of version 1 whose limits it is under.
fn cover_control_groups() -> Result<(), Errno> {
    let mount = match new_mount(c"cgroup2", &[], NOTHING_SPECIAL) {
        // An ordinary user's namespace has its own view only.
        Err(Errno::PERM) => {
            sys::unshare_control_groups().map_err(|error| errno_of(&error))?;
            new_mount(c"cgroup2", &[], NOTHING_SPECIAL)?
        }
        other => other?,
    };
    attach(mount.as_fd(), CWD, c"/sys/fs/cgroup")
}

/// Bytes of a runtime's log that are read.
const LOG_LIMIT: usize = 16 * 1024;

/// Hands what the runtime has logged to the parent: the supervisor alone still sees the file.
pub(crate) fn report_log(runtime: &PlannedRuntime, pipe: BorrowedFd<'_>) {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(log) = rustix::fs::open(&runtime.log, flags, Mode::empty()) else { return };
    let mut buffer = [0_u8; LOG_LIMIT];
    let mut length = 0;
    while let Some(rest) = buffer.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match rustix::io::read(&log, rest) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
    Report::RuntimeLog { text: &buffer[..length] }.send(pipe);
}
