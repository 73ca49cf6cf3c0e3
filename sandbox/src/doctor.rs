//! What this machine has of all that a sandbox needs, found out by trying.

use std::os::fd::AsFd as _;
use std::path::Path;
use std::{fs, io};

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags as Attr;
use rustix::thread::CapabilitySet;

use crate::control_group::{ControlGroup, Holder};
use crate::rootfs::{Marks, attach, clone_tree, new_mount, open_in_root};
use crate::spec::WHOLE_PROC;
use crate::sys;
use crate::userns::{self, Privileges, UserNamespaceError};
use crate::{Resources, network, plan};

/// How it stands with one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is there.
    Works,
    /// Builds work without it, but not all of them or not in every way.
    Limited,
    /// No step can run.
    Missing,
}

/// One thing that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub subject: &'static str,
    /// How it stands.
    pub state: State,
    /// What was found.
    pub detail: String,
    /// The line that brings what is missing.
    pub remedy: Option<String>,
}

impl Finding {
    fn new(subject: &'static str, state: State, detail: impl Into<String>) -> Finding {
        Finding { subject, state, detail: detail.into(), remedy: None }
    }

    fn remedy(mut self, line: impl Into<String>) -> Finding {
        self.remedy = Some(line.into());
        self
    }
}

/// Tries everything that a build needs, in an own folder inside `folder`, which has to be on the store's file system.
/// `entered` is what [`crate::enter_user_namespace`] said.
pub fn examine(entered: &Result<Privileges, UserNamespaceError>, folder: &Path) -> Vec<Finding> {
    let mut findings = rights(entered);
    if entered.is_ok() {
        findings.push(mounts());
        findings.push(overlay(folder));
        findings.push(proc());
        findings.push(sys());
    }
    findings.push(chroot(entered, folder));
    findings.push(limits());
    findings.push(filter());
    findings.push(network());
    findings
}

fn rights(entered: &Result<Privileges, UserNamespaceError>) -> Vec<Finding> {
    const NAMESPACE: &str = "user namespace";
    const IDS: &str = "user and group ids";
    match entered {
        Ok(Privileges::Root) => vec![Finding::new(NAMESPACE, State::Works, "not needed: kiln runs as root")],
        Ok(Privileges::Ranges { users, groups }) => {
            let state = if (*users).min(*groups) < USUAL_IDS { State::Limited } else { State::Works };
            let mut ids = Finding::new(IDS, state, format!("{users} users and {groups} groups beside yours"));
            if state == State::Limited {
                ids.detail += "; images usually need 65535";
                ids =
                    ids.remedy("sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER");
            }
            vec![Finding::new(NAMESPACE, State::Works, "entered"), ids]
        }
        Ok(Privileges::SingleId { why }) => vec![
            Finding::new(NAMESPACE, State::Works, "entered"),
            Finding::new(
                IDS,
                State::Limited,
                format!("only your own ({why}); owners are kept beside the files, which is slower"),
            )
            .remedy(why.hint()),
        ],
        Err(error) => {
            vec![Finding::new(NAMESPACE, State::Missing, error.to_string()).remedy(error.hint())]
        }
    }
}

/// Ids beyond root's that images count on.
const USUAL_IDS: u32 = 65535;

/// Runs `child` in a process with namespaces of its own; its answer is an errno or 0.
fn attempt(namespaces: i32, child: impl FnOnce() -> Result<(), Errno>) -> io::Result<()> {
    let process = sys::fork(namespaces, || match child() {
        Ok(()) => 0,
        Err(errno) => errno.raw_os_error(),
    })?;
    // wait(2): the exit status is in the second byte; errnos fit.
    match sys::wait_for(process.pid)? >> 8 {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

fn private_mounts() -> Result<(), Errno> {
    use rustix::mount::MountPropagationFlags as Propagation;
    rustix::mount::mount_change(c"/", Propagation::PRIVATE | Propagation::REC)
}

fn mounts() -> Finding {
    const MOUNTS: &str = "mounts";
    let tried = attempt(libc::CLONE_NEWNS, || {
        private_mounts()?;
        let files = new_mount(c"tmpfs", &[], Attr::MOUNT_ATTR_NOSUID)?;
        attach(files.as_fd(), CWD, c"/")
    });
    match tried {
        Ok(()) => Finding::new(MOUNTS, State::Works, "a mount namespace of its own"),
        Err(error) => {
            Finding::new(MOUNTS, State::Missing, format!("cannot mount: {error}")).remedy(CONTAINER)
        }
    }
}

/// What steps without namespaces need; said where others cannot run, since those are better.
fn chroot(entered: &Result<Privileges, UserNamespaceError>, folder: &Path) -> Finding {
    const CHROOT: &str = "--executor chroot";
    if !matches!(entered, Ok(Privileges::Root)) {
        return Finding::new(
            CHROOT,
            State::Limited,
            "not available to an ordinary user, who makes no device nodes",
        )
        .remedy("kiln as the container's root");
    }
    let needed = [
        (CapabilitySet::SYS_CHROOT, "CAP_SYS_CHROOT"),
        (CapabilitySet::CHOWN, "CAP_CHOWN"),
        (CapabilitySet::DAC_OVERRIDE, "CAP_DAC_OVERRIDE"),
        (CapabilitySet::FOWNER, "CAP_FOWNER"),
        (CapabilitySet::SETUID, "CAP_SETUID"),
        (CapabilitySet::SETGID, "CAP_SETGID"),
        (CapabilitySet::SETPCAP, "CAP_SETPCAP"),
        (CapabilitySet::SETFCAP, "CAP_SETFCAP"),
        (CapabilitySet::MKNOD, "CAP_MKNOD"),
    ];
    let own = rustix::thread::capabilities(None).map_or(CapabilitySet::empty(), |own| own.effective);
    let lacking: Vec<&str> =
        needed.iter().filter(|(one, _)| !own.contains(*one)).map(|(_, name)| *name).collect();
    if !lacking.is_empty() {
        return Finding::new(
            CHROOT,
            State::Limited,
            format!("not available: {} missing", lacking.join(", ")),
        )
        .remedy("start the container as root with these capabilities; Docker's default set has them");
    }
    match try_files(folder) {
        Ok(()) => {
            Finding::new(CHROOT, State::Works, "available where namespaces are not; isolates steps less")
        }
        Err(error) => {
            let detail = format!("not available in {}: {error}", folder.display());
            Finding::new(CHROOT, State::Limited, detail)
                .remedy("KILN_ROOT on a volume that is mounted without nodev")
        }
    }
}

/// Makes what trees and layers without mounts need: devices that work, whiteouts, marks of opaque directories.
fn try_files(folder: &Path) -> io::Result<()> {
    let scratch = Scratch::new(folder)?;
    let (null, device) = (scratch.0.join("null"), rustix::fs::makedev(1, 3));
    rustix::fs::mknodat(CWD, &null, FileType::CharacterDevice, Mode::RUSR | Mode::WUSR, device)?;
    fs::File::open(&null)?;
    rustix::fs::mknodat(CWD, scratch.0.join("gone"), FileType::CharacterDevice, Mode::empty(), 0)?;
    let mark = Marks::of_this_process().opaque();
    Ok(rustix::fs::setxattr(&scratch.0, mark, b"y", rustix::fs::XattrFlags::empty())?)
}

/// What allows mounts inside a container.
const CONTAINER: &str = "inside a container, start it with --privileged, or with --security-opt seccomp=unconfined \
                         --security-opt apparmor=unconfined --cap-add SYS_ADMIN; else run kiln outside of one";

fn overlay(folder: &Path) -> Finding {
    const OVERLAY: &str = "overlayfs";
    let (state, detail) = match try_overlay(folder) {
        Ok(()) => (State::Works, "mounts, whiteouts and opaque directories".to_owned()),
        Err(error) => (State::Missing, format!("does not work in {}: {error}", folder.display())),
    };
    let finding = Finding::new(OVERLAY, state, detail);
    match (state, userns::is_initial()) {
        (State::Works, _) => finding,
        (_, true) => finding.remedy("sudo modprobe overlay, and KILN_ROOT on ext4, xfs or btrfs"),
        (_, false) => {
            finding.remedy("Linux 5.11 or later, sudo modprobe overlay, and KILN_ROOT on ext4, xfs or btrfs")
        }
    }
}

/// Mounts two layers whose upper hides a file and a directory of the lower, and looks that they are hidden.
fn try_overlay(folder: &Path) -> io::Result<()> {
    let scratch = Scratch::new(folder)?;
    let path = |name: &str| scratch.0.join(name);
    for name in ["low/hidden", "low/opaque/below", "high/opaque", "upper", "work"] {
        fs::create_dir_all(path(name))?;
    }
    let whiteout = path("high/hidden");
    rustix::fs::mknodat(CWD, &whiteout, FileType::CharacterDevice, Mode::empty(), 0)?;
    let mark = Marks::of_this_process().opaque();
    rustix::fs::setxattr(path("high/opaque"), mark, b"y", rustix::fs::XattrFlags::empty())?;
    let overlay = plan::overlay(&[path("low"), path("high")], Some((&path("upper"), &path("work"))))
        .map_err(|error| io::Error::other(error.to_string()))?;
    attempt(libc::CLONE_NEWNS, || {
        private_mounts()?;
        let root = overlay.mount(Attr::MOUNT_ATTR_NODEV).map_err(|failure| failure.errno)?;
        for name in [c"hidden", c"opaque/below"] {
            match open_in_root(root.as_fd(), name, OFlags::PATH) {
                Err(Errno::NOENT) => {}
                Ok(_) => return Err(Errno::EXIST),
                Err(errno) => return Err(errno),
            }
        }
        rustix::fs::mkdirat(&root, c"new", Mode::RWXU)
    })
}

struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new(folder: &Path) -> io::Result<Scratch> {
        let path = folder.join(format!(".doctor-{}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn proc() -> Finding {
    const PROC: &str = "/proc";
    let flags = Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NODEV | Attr::MOUNT_ATTR_NOEXEC;
    match attempt(libc::CLONE_NEWNS | libc::CLONE_NEWPID, || new_mount(c"proc", &[], flags).map(drop)) {
        Ok(()) => Finding::new(PROC, State::Works, "a process namespace of its own"),
        Err(error) => {
            Finding::new(PROC, State::Missing, format!("cannot be mounted: {error}")).remedy(WHOLE_PROC)
        }
    }
}

fn sys() -> Finding {
    const SYS: &str = "/sys";
    let flags = Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NODEV | Attr::MOUNT_ATTR_NOEXEC;
    let own = attempt(libc::CLONE_NEWNS, || new_mount(c"sysfs", &[], flags).map(drop));
    let host = attempt(libc::CLONE_NEWNS, || clone_tree(CWD, c"/sys").map(drop));
    match (own, host) {
        (Ok(()), _) => Finding::new(SYS, State::Works, "of its own"),
        (_, Ok(())) => Finding::new(SYS, State::Works, "the host's, read-only"),
        (_, Err(error)) => {
            Finding::new(SYS, State::Missing, format!("cannot be shown: {error}")).remedy(CONTAINER)
        }
    }
}

fn limits() -> Finding {
    const LIMITS: &str = "control groups";
    let wanted = Resources { memory_bytes: Some(1 << 30), pids: Some(1000), ..Resources::default() };
    match ControlGroup::create(&wanted, Holder::Sandbox, &[]) {
        Ok(_) => Finding::new(LIMITS, State::Works, "memory and process limits"),
        Err(error) => {
            let detail = format!("--memory and process limits are refused: {error}");
            Finding::new(LIMITS, State::Limited, detail)
                .remedy("systemd-run --user --scope -p Delegate=yes kiln …")
        }
    }
}

fn filter() -> Finding {
    const FILTER: &str = "seccomp";
    let actions = fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    if actions.split_ascii_whitespace().any(|action| action == "errno") {
        return Finding::new(FILTER, State::Works, "system-call filters");
    }
    Finding::new(FILTER, State::Missing, "this kernel has no system-call filters")
        .remedy("a kernel with CONFIG_SECCOMP_FILTER")
}

fn network() -> Finding {
    const NETWORK: &str = "network";
    if network::find_pasta().is_none() {
        return Finding::new(NETWORK, State::Limited, "RUN steps use the host's: `pasta` is not installed")
            .remedy("sudo apt-get install passt (or your system's package with pasta)");
    }
    let connected =
        network::IsolatedNetwork::new(network::HostAccess::None).and_then(|network| network.wait());
    match connected {
        Ok(()) => Finding::new(NETWORK, State::Works, "RUN steps have one of their own, by pasta"),
        Err(error) => {
            let finding = Finding::new(NETWORK, State::Limited, format!("RUN steps use the host's: {error}"));
            match error.hint() {
                Some(line) => finding.remedy(line),
                None => finding,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_runs_sandboxes_is_told_so() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root (mounts)");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let findings = examine(&Ok(Privileges::Root), folder.path());
        let missing: Vec<_> = findings.iter().filter(|found| found.state == State::Missing).collect();
        assert!(missing.is_empty(), "{missing:?}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn without_a_user_namespace_the_exact_line_is_given() {
        let refused = UserNamespaceError::Switch {
            switch: "kernel.apparmor_restrict_unprivileged_userns",
            value: "1".into(),
            wanted: "0",
        };
        let findings = examine(&Err(refused), Path::new("/nonexistent"));
        assert_eq!(findings[0].state, State::Missing);
        let line = "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0";
        assert_eq!(findings[0].remedy.as_deref(), Some(line));
    }
}
