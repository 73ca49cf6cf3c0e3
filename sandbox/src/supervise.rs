//! The process between the engine and the command: it starts what becomes the command, the first process of a process
//! namespace, and stays outside of that, where nothing inside can see or signal it.
//!
//! Nothing here allocates, locks or panics: it is a copy of one thread of the host program. The command-to-be shares that copy's
//! memory until it is the command.

use std::convert::Infallible;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::chroot;
use crate::enter::{CommandFailure, Execution, become_command, enter};
use crate::oci::{become_runtime, report_log};
use crate::plan::{ChildDescriptors, ChildStdio, Plan, PlannedNetwork};
use crate::report::{At, Entered, Failure, Report, Step};
use crate::socket::send_descriptor;
use crate::sys::{self, Forked, StartStrings};

/// Namespaces that every sandbox has of its own and its supervisor shares; that of processes is the command's alone.
/// That of control groups comes after joining one, since its root is where the process is when it is made.
pub(crate) fn namespaces(plan: &Plan) -> i32 {
    if plan.tree.is_some() {
        return 0;
    }
    // A runtime makes the others itself; this one is for what is mounted for it.
    if plan.runtime.is_some() {
        return libc::CLONE_NEWNS;
    }
    let standard = libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    match plan.network {
        PlannedNetwork::None => standard | libc::CLONE_NEWNET,
        PlannedNetwork::Host | PlannedNetwork::Joined => standard,
    }
}

/// The whole life of the sandbox's supervisor. It also holds the mounts, so that the command's end is known before the kernel takes them apart, which costs several
/// grace periods of RCU.
pub(crate) fn supervise(plan: &Plan, descriptors: &ChildDescriptors<'_>, execution: &Execution<'_>) -> i32 {
    match start(plan, descriptors, execution) {
        Ok(command) => watch(plan, &command, descriptors),
        Err(failure) => {
            report_failure(failure, descriptors);
            1
        }
    }
}

/// Starts what becomes the command.
fn start(plan: &Plan, descriptors: &ChildDescriptors<'_>, execution: &Execution<'_>) -> Entered<Forked> {
    // First, so that no descriptor, environment or memory of the engine can be reached from inside, whatever follows.
    keep_only(descriptors).at(Step::Descriptors)?;
    leave_the_engine(plan.start_strings).at(Step::Descriptors)?;
    let supervisor = pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).at(Step::Descriptors)?;
    let mut namespace = libc::CLONE_NEWPID;
    if plan.tree.is_some() {
        namespace = 0;
        sys::adopt_orphans().at(Step::Descriptors)?;
    }
    sys::fork_for_exec(namespace, || {
        let failure = match first_process(plan, descriptors, execution, &supervisor) {
            Err(failure) => failure,
            Ok(never) => match never {},
        };
        match failure {
            CommandFailure::Setup(failure) => report_failure(failure, descriptors),
            CommandFailure::NotExecuted { errno, found } => {
                let errno = errno.raw_os_error();
                Report::NotExecuted { errno, found }.send(descriptors.report.as_fd());
            }
        }
        127
    })
    .at(Step::Fork)
}

/// From the copy of the supervisor to the command.
fn first_process(
    plan: &Plan,
    descriptors: &ChildDescriptors<'_>,
    execution: &Execution<'_>,
    supervisor: &OwnedFd,
) -> Result<Infallible, CommandFailure> {
    die_with(supervisor).at(Step::Descriptors)?;
    // Before every other descriptor: the engine kills by it.
    let own = pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).at(Step::Descriptors)?;
    send_descriptor(descriptors.control.as_fd(), own.as_fd()).at(Step::Descriptors)?;
    drop(own);
    if let Some(runtime) = &plan.runtime {
        return become_runtime(plan, runtime, descriptors, execution);
    }
    if let Some(tree) = &plan.tree {
        chroot::enter(plan, tree, descriptors)?;
        return become_command(plan, descriptors, execution, None);
    }
    let terminal = enter(plan, descriptors)?;
    become_command(plan, descriptors, execution, terminal.as_ref())
}

/// Makes the kernel kill this process when the supervisor goes; with it goes all of its namespace.
fn die_with(supervisor: &OwnedFd) -> Result<(), Errno> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // It may be gone already; its number cannot be asked for, since it is in another namespace.
    let mut events = [PollFd::new(supervisor, PollFlags::IN)];
    match poll(&mut events, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? {
        0 => Ok(()),
        _ => Err(Errno::SRCH),
    }
}

fn report_failure(failure: Failure, descriptors: &ChildDescriptors<'_>) {
    let Failure { step, index, errno } = failure;
    Report::Failed { step, index, errno: errno.raw_os_error() }.send(descriptors.report.as_fd());
}

/// Waits for the command, reports its end, and kills it when the engine is gone; with it the kernel kills everything in
/// the process namespace, and only then its end is seen.
fn watch(plan: &Plan, command: &Forked, descriptors: &ChildDescriptors<'_>) -> i32 {
    use rustix::event::{PollFd, PollFlags, poll};
    // By a descriptor of its process and not by PR_SET_PDEATHSIG, which fires when the starting *thread* ends.
    let mut events =
        [PollFd::new(&descriptors.engine, PollFlags::IN), PollFd::new(&command.pidfd, PollFlags::IN)];
    let status = if plan.tree.is_some() {
        // Without a process namespace the kernel does not see to it: nothing may write to the tree afterwards.
        chroot::outlive(command, &mut events)
    } else {
        while let Err(Errno::INTR) = poll(&mut events, None) {}
        let is_over = !events[1].revents().is_empty();
        if !is_over {
            let _ = pidfd_send_signal(&command.pidfd, Signal::KILL);
        }
        sys::wait_for(command.pid).ok()
    };
    let Some(status) = status else { return 1 };
    if let Some(runtime) = &plan.runtime {
        report_log(runtime, descriptors.report.as_fd());
    }
    Report::Ended { wait_status: status, usage: sys::children_usage() }.send(descriptors.report.as_fd());
    0
}

/// Forgets what this copy of the engine knows, and leaves its terminal.
pub(crate) fn leave_the_engine(start_strings: Option<StartStrings>) -> Result<(), Errno> {
    if let Some(strings) = start_strings {
        strings.wipe();
    }
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    // Signals to the engine's process group are not for the sandbox.
    rustix::process::setsid().map(drop)
}

/// Closes every descriptor but those of the plan; 0 to 2 become `/dev/null`.
fn keep_only(descriptors: &ChildDescriptors<'_>) -> Result<(), Errno> {
    let stdio = match &descriptors.stdio {
        ChildStdio::Given { stdin, stdout, stderr } => [stdin.as_ref(), Some(stdout), Some(stderr)],
        ChildStdio::Terminal(_) => [None; 3],
    };
    let kept = || {
        [&descriptors.null, &descriptors.report, &descriptors.control, &descriptors.engine]
            .into_iter()
            .chain(stdio.into_iter().flatten())
            .chain(descriptors.control_groups)
            .chain(&descriptors.network)
            .chain(&descriptors.user_namespace)
            .map(AsFd::as_fd)
    };
    close_all_but(&descriptors.null, kept)
}

/// Closes every descriptor but those that `kept` lists, which are above 2; 0 to 2 become `null`.
pub(crate) fn close_all_but<'a, I: Iterator<Item = BorrowedFd<'a>>>(
    null: &OwnedFd,
    kept: impl Fn() -> I,
) -> Result<(), Errno> {
    let numbers = || kept().map(|fd| fd.as_raw_fd() as u32);
    let mut next = 0;
    while let Some(lowest) = numbers().filter(|&fd| fd >= next).min() {
        if lowest > next {
            close(next, lowest - 1)?;
        }
        next = lowest + 1;
    }
    close(next, u32::MAX)?;
    // The lowest three must be taken, or a descriptor opened later would be overwritten by the command's streams.
    // The kept ones are above: the parent makes sure of it.
    rustix::stdio::dup2_stdin(null)?;
    rustix::stdio::dup2_stdout(null)?;
    rustix::stdio::dup2_stderr(null)
}

fn close(first: u32, last: u32) -> Result<(), Errno> {
    sys::close_range(first, last).map_err(|_| Errno::BADF)
}
