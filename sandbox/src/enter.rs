//! The child's steps, in order: from a copy of the engine's thread to the command inside the sandbox.
//!
//! Nothing here allocates, locks or panics: the host program has other threads, whose locks stay held in the copy.
//! What fails is reported as a [`Failure`], and worded by the parent.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags as Attr, MountPropagationFlags, mount_change};
use rustix::process::Signal;
use rustix::termios::Winsize;
use rustix::thread::{CapabilitySet, CapabilitySets, LinkNameSpaceType};

use crate::masks::{MASKED_IN_PROC, hide, make_read_only};
use crate::plan::{ChildDescriptors, ChildStdio, Plan, PlannedMount, PlannedNetwork, PlannedSource};
use crate::report::{At, Entered, Failure, Step};
use crate::rootfs::{
    Maker, StubReport, TargetKind, attach, clone_mount, clone_tree, errno_of, mount_id, new_mount,
    open_in_root, set_attributes, target_kind,
};
use crate::socket::send_descriptor;
use crate::sys::{self, PointerList};
use crate::{Security, capabilities};

/// What exec takes, made before the fork.
#[derive(Debug)]
pub(crate) struct Execution<'a> {
    pub(crate) argv: PointerList<'a>,
    pub(crate) env: PointerList<'a>,
}

/// Enters the sandbox; answers its terminal, if it has one.
pub(crate) fn enter(plan: &Plan, descriptors: &ChildDescriptors<'_>) -> Entered<Option<OwnedFd>> {
    // Before the cgroup namespace, whose root this becomes.
    for group in descriptors.control_groups {
        rustix::io::write(group, b"0").at(Step::ControlGroup)?;
    }
    unshare_control_groups().at(Step::Namespaces)?;
    rustix::system::sethostname(plan.hostname.to_bytes()).at(Step::Hostname)?;
    match (plan.network, &descriptors.network) {
        (PlannedNetwork::None, _) => loopback_up().at(Step::Network)?,
        (PlannedNetwork::Joined, Some(network)) => {
            // Before /sys is mounted, which shows the devices of the network it is mounted in.
            rustix::thread::move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
                .at(Step::Network)?;
        }
        _ => {}
    }

    // Umask zero, so that modes below are as written; the command gets its own.
    rustix::process::umask(Mode::empty());
    // Nothing mounted below may travel to the host.
    mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .at(Step::PrivateMounts)?;
    let upper = open_directory(&plan.upper).at(Step::Root)?;
    let root = plan.root.mount(root_attributes(plan.security))?;
    // pivot_root wants a mount point; this one is at hand, and nobody else sees what covers it.
    attach(root.as_fd(), CWD, &plan.upper).at(Step::Root)?;
    let root_mount = mount_id(root.as_fd()).at(Step::Root)?;
    let files = private_files(plan).at(Step::PrivateFiles)?;

    let stubs = StubReport { pipe: descriptors.report.as_fd(), root_mount, upper: upper.as_fd() };
    let maker = Maker { root: root.as_fd(), stubs: Some(stubs), uid: 0, gid: 0 };
    // The kernel's file systems before the user's mounts, so that those may lie in /dev; none may lie in /proc.
    let proc = mount_proc(&maker).at(Step::Proc)?;
    let sys = mount_sys(&maker, plan.security).at(Step::Sys)?;
    let dev = make_dev(&maker, files.as_fd(), plan).at(Step::Dev)?;
    for (index, mount) in plan.mounts.iter().enumerate() {
        let source = open_source(plan, mount, &maker, files.as_fd(), descriptors)
            .at_index(Step::MountSource, index)?;
        let step = if index < plan.own_mounts { Step::EtcFiles } else { Step::MountTarget };
        mount_on_target(&maker, source.as_fd(), &mount.target).at_index(step, index)?;
    }
    // After the user's mounts, so that none of them can uncover or redirect anything.
    if plan.security == Security::Sandbox {
        let null = || device_mount(files.as_fd(), &NULL, plan);
        let in_sys = plan.masked_in_sys.iter().map(CString::as_c_str);
        hide(proc.as_fd(), MASKED_IN_PROC.iter().copied(), files.as_fd(), null).at(Step::Mask)?;
        hide(sys.as_fd(), in_sys, files.as_fd(), null).at(Step::Mask)?;
        make_read_only(proc.as_fd()).at(Step::Mask)?;
    }

    let cwd = working_directory(plan, root.as_fd()).at(Step::WorkingDirectory)?;
    pivot(root.as_fd()).at(Step::Pivot)?;
    rustix::process::fchdir(&cwd).at(Step::WorkingDirectory)?;
    if !sys::current_directory_is_reachable() {
        return Err(Failure { step: Step::WorkingDirectory, index: 0, errno: Errno::XDEV });
    }
    // After the pivot: a terminal's name is looked up by programs in /dev/pts.
    let terminal = match descriptors.stdio {
        ChildStdio::Terminal(size) => Some(make_terminal(dev.as_fd(), size, descriptors).at(Step::Terminal)?),
        ChildStdio::Given { .. } => None,
    };
    drop((upper, root, files, proc, sys, dev, cwd));
    Ok(terminal)
}

fn unshare_control_groups() -> Result<(), Errno> {
    sys::unshare_control_groups().map_err(|error| errno_of(&error))
}

pub(crate) fn loopback_up() -> Result<(), Errno> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    sys::bring_loopback_up(socket.as_fd()).map_err(|error| errno_of(&error))
}

pub(crate) fn open_directory(path: &CStr) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Device nodes of an image must not work: without a device controller a step could otherwise open the host's disks
/// by a node it makes itself (Docker's set of capabilities has CAP_MKNOD).
pub(crate) fn root_attributes(security: Security) -> Attr {
    match security {
        Security::Sandbox => Attr::MOUNT_ATTR_NODEV,
        Security::Insecure => Attr::empty(),
    }
}

pub(crate) const NOTHING_SPECIAL: Attr =
    Attr::MOUNT_ATTR_NOSUID.union(Attr::MOUNT_ATTR_NODEV).union(Attr::MOUNT_ATTR_NOEXEC);

/// The tmpfs for files, sockets and device nodes that are then mounted one by one; covers a directory of the host in
/// this mount namespace, since only attached mounts can be cloned.
pub(crate) fn private_files(plan: &Plan) -> Result<OwnedFd, Errno> {
    let files = new_mount(c"tmpfs", &[(c"mode", c"700")], Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NOEXEC)?;
    attach(files.as_fd(), CWD, &plan.covered)?;
    for file in &plan.files {
        let opened = rustix::fs::openat(
            &files,
            &file.name,
            OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC,
            Mode::from_raw_mode(0o600),
        )?;
        let mut rest = file.contents.as_slice();
        while !rest.is_empty() {
            let written = rustix::io::write(&opened, rest)?;
            rest = rest.get(written..).unwrap_or_default();
        }
        rustix::fs::fchown(&opened, Some(Uid::from_raw(file.uid)), Some(Gid::from_raw(file.gid)))?;
        rustix::fs::fchmod(&opened, Mode::from_raw_mode(file.mode))?;
    }
    for device in DEVICES.iter().filter(|_| plan.rights.device_nodes) {
        let id = rustix::fs::makedev(device.major, device.minor);
        let kind = FileType::CharacterDevice;
        rustix::fs::mknodat(&files, device.name, kind, Mode::from_raw_mode(0o666), id)?;
    }
    for mount in plan.mounts.iter().filter(|_| plan.rights.device_nodes) {
        if let PlannedSource::Device(node) = &mount.source {
            let id = rustix::fs::makedev(node.major, node.minor);
            rustix::fs::mknodat(&files, &node.name, node.kind, Mode::from_raw_mode(node.mode), id)?;
            let (uid, gid) = (Uid::from_raw(node.uid), Gid::from_raw(node.gid));
            rustix::fs::chownat(&files, &node.name, Some(uid), Some(gid), AtFlags::empty())?;
        }
    }
    Ok(files)
}

pub(crate) struct Device {
    pub(crate) name: &'static CStr,
    pub(crate) host: &'static CStr,
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

const NULL: Device = Device { name: c"null", host: c"/dev/null", major: 1, minor: 3 };

/// Devices of every sandbox; the numbers are the kernel's (admin-guide/devices.txt).
pub(crate) const DEVICES: &[Device] = &[
    NULL,
    Device { name: c"zero", host: c"/dev/zero", major: 1, minor: 5 },
    Device { name: c"full", host: c"/dev/full", major: 1, minor: 7 },
    Device { name: c"random", host: c"/dev/random", major: 1, minor: 8 },
    Device { name: c"urandom", host: c"/dev/urandom", major: 1, minor: 9 },
    Device { name: c"tty", host: c"/dev/tty", major: 5, minor: 0 },
];

/// Opens or makes a directory of the root that must not be a link: an image's `/proc -> elsewhere` would make later
/// steps act on files it chose.
pub(crate) fn plain_directory(maker: &Maker<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    match open_in_root(maker.root, name, flags) {
        Err(Errno::NOENT) => maker.open(name, TargetKind::Directory),
        other => other,
    }
}

pub(crate) fn mount_proc(maker: &Maker<'_>) -> Result<OwnedFd, Errno> {
    let target = plain_directory(maker, c"proc")?;
    let proc = new_mount(c"proc", &[], NOTHING_SPECIAL)?;
    attach(proc.as_fd(), target.as_fd(), c"")?;
    Ok(proc)
}

fn mount_sys(maker: &Maker<'_>, security: Security) -> Result<OwnedFd, Errno> {
    let target = plain_directory(maker, c"sys")?;
    let access = match security {
        Security::Sandbox => NOTHING_SPECIAL | Attr::MOUNT_ATTR_RDONLY,
        Security::Insecure => NOTHING_SPECIAL,
    };
    let sys = match new_mount(c"sysfs", &[], access) {
        // The kernel shows the devices of a network only to who owns it; the host's view has the same to tell.
        Err(Errno::PERM) => {
            let sys = clone_tree(CWD, c"/sys")?;
            let access = access.bits().into();
            sys::set_mount_attributes(sys.as_fd(), access, 0, true).map_err(|error| errno_of(&error))?;
            sys
        }
        other => other?,
    };
    attach(sys.as_fd(), target.as_fd(), c"")?;
    // Best effort: not every kernel has cgroup2, and nothing that a build does depends on it.
    if let Ok(groups) = new_mount(c"cgroup2", &[], access) {
        let _ = attach(groups.as_fd(), sys.as_fd(), c"fs/cgroup");
    }
    Ok(sys)
}

pub(crate) const DEV_LINKS: &[(&CStr, &CStr)] = &[
    (c"/proc/self/fd", c"fd"),
    (c"/proc/self/fd/0", c"stdin"),
    (c"/proc/self/fd/1", c"stdout"),
    (c"/proc/self/fd/2", c"stderr"),
    (c"/proc/kcore", c"core"),
    (c"pts/ptmx", c"ptmx"),
];

fn make_dev(maker: &Maker<'_>, files: BorrowedFd<'_>, plan: &Plan) -> Result<OwnedFd, Errno> {
    let target = plain_directory(maker, c"dev")?;
    let access = match plan.security {
        Security::Sandbox => Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NODEV | Attr::MOUNT_ATTR_NOEXEC,
        Security::Insecure => Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NOEXEC,
    };
    let dev = new_mount(c"tmpfs", &[(c"mode", c"755"), (c"size", c"65536k")], access)?;
    attach(dev.as_fd(), target.as_fd(), c"")?;
    for device in DEVICES {
        new_file(dev.as_fd(), device.name)?;
        // Bound one by one, so that /dev itself can be without devices: what a step makes there does not work.
        let node = device_mount(files, device, plan)?;
        attach(node.as_fd(), dev.as_fd(), device.name)?;
    }
    for (to, link) in DEV_LINKS {
        rustix::fs::symlinkat(*to, &dev, *link)?;
    }
    let pts = [(c"mode", c"620"), (c"ptmxmode", c"666"), (c"gid", c"5")];
    let pts = if plan.rights.terminal_group { &pts[..] } else { &pts[..2] };
    let shm = [(c"mode", c"1777"), (c"size", plan.shm_size.as_c_str())];
    let devices = Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NOEXEC;
    attach_new(dev.as_fd(), c"pts", new_mount(c"devpts", pts, devices)?.as_fd())?;
    attach_new(dev.as_fd(), c"shm", new_mount(c"tmpfs", &shm, NOTHING_SPECIAL)?.as_fd())?;
    match new_mount(c"mqueue", &[], NOTHING_SPECIAL) {
        Ok(queues) => attach_new(dev.as_fd(), c"mqueue", queues.as_fd())?,
        // A kernel may be built without POSIX message queues.
        Err(Errno::NODEV) => {}
        Err(errno) => return Err(errno),
    }
    Ok(dev)
}

/// The mount of one device node: kiln's own, or the host's where none can be made.
fn device_mount(files: BorrowedFd<'_>, device: &Device, plan: &Plan) -> Result<OwnedFd, Errno> {
    if plan.rights.device_nodes {
        return clone_mount(files, device.name);
    }
    host_node(device.host, FileType::CharacterDevice, device.major, device.minor)
}

/// The mount of a node of the host's, which must be the device that is meant.
fn host_node(host: &CStr, kind: FileType, major: u32, minor: u32) -> Result<OwnedFd, Errno> {
    let node = clone_mount(CWD, host)?;
    let found = rustix::fs::fstat(&node)?;
    let is_kind = FileType::from_raw_mode(found.st_mode) == kind;
    if !is_kind || found.st_rdev != rustix::fs::makedev(major, minor) {
        return Err(Errno::NODEV);
    }
    Ok(node)
}

/// Mounts on a new directory.
fn attach_new(parent: BorrowedFd<'_>, name: &CStr, mount: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
    attach(mount, parent, name)
}

fn new_file(directory: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(0o666)).map(drop)
}

/// Makes the detached mount of a source.
pub(crate) fn open_source(
    plan: &Plan,
    mount: &PlannedMount,
    maker: &Maker<'_>,
    files: BorrowedFd<'_>,
    descriptors: &ChildDescriptors<'_>,
) -> Result<OwnedFd, Errno> {
    let source = detached(plan, mount, maker, files, descriptors)?;
    if mount.no_exec {
        set_attributes(source.as_fd(), Attr::MOUNT_ATTR_NOEXEC)?;
    }
    Ok(source)
}

fn detached(
    plan: &Plan,
    mount: &PlannedMount,
    maker: &Maker<'_>,
    files: BorrowedFd<'_>,
    descriptors: &ChildDescriptors<'_>,
) -> Result<OwnedFd, Errno> {
    let plain = Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NODEV;
    match &mount.source {
        PlannedSource::File(index) => {
            let name = plan.files.get(*index).map_or(c"", |file| &file.name);
            let mount = clone_mount(files, name)?;
            set_attributes(mount.as_fd(), NOTHING_SPECIAL | Attr::MOUNT_ATTR_RDONLY)?;
            Ok(mount)
        }
        PlannedSource::Bind { source, subpath, read_only } => {
            let inner = if subpath.is_empty() {
                rustix::fs::open(source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?
            } else {
                let base = open_directory(source)?;
                open_in_root(base.as_fd(), subpath, OFlags::PATH)?
            };
            let mount = match clone_mount(inner.as_fd(), c"") {
                // What the host mounted below hides something, and stays where the host's root wants that.
                Err(Errno::INVAL) if !plan.rights.device_nodes => clone_tree(inner.as_fd(), c"")?,
                other => other?,
            };
            let access = if *read_only { Attr::MOUNT_ATTR_RDONLY } else { Attr::empty() };
            set_attributes(mount.as_fd(), plain | access)?;
            Ok(mount)
        }
        PlannedSource::Layers { overlay, subpath, read_only } => {
            let access = if *read_only { Attr::MOUNT_ATTR_RDONLY } else { Attr::empty() };
            let tree = overlay.mount(plain | access).map_err(|failure| failure.errno)?;
            if subpath.is_empty() {
                return Ok(tree);
            }
            // A part of it can only be cloned once it is attached; the private tmpfs is a place nobody sees.
            let place = c"tree";
            match rustix::fs::mkdirat(files, place, Mode::from_raw_mode(0o700)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
            attach(tree.as_fd(), files, place)?;
            let inner = open_in_root(tree.as_fd(), subpath, OFlags::PATH)?;
            let mount = clone_mount(inner.as_fd(), c"")?;
            set_attributes(mount.as_fd(), plain | access)?;
            Ok(mount)
        }
        PlannedSource::Tmpfs { size, mode, uid, gid, read_only } => {
            let access = plain | if *read_only { Attr::MOUNT_ATTR_RDONLY } else { Attr::empty() };
            let mut digits = [0; MODE_DIGITS];
            // As runtimes have it: what the image has there decides.
            let mode = match open_in_root(maker.root, &mount.target, OFlags::PATH) {
                Ok(covered) => octal(rustix::fs::fstat(covered)?.st_mode & 0o7777, &mut digits),
                Err(_) => mode,
            };
            let (mode, uid, gid) = ((c"mode", mode), (c"uid", uid.as_c_str()), (c"gid", gid.as_c_str()));
            match size {
                Some(size) => new_mount(c"tmpfs", &[mode, uid, gid, (c"size", size)], access),
                None => new_mount(c"tmpfs", &[mode, uid, gid], access),
            }
        }
        PlannedSource::Device(node) if plan.rights.device_nodes => clone_mount(files, &node.name),
        PlannedSource::Device(node) => host_node(&node.host, node.kind, node.major, node.minor),
        PlannedSource::Socket { name, mode, uid, gid } => {
            let listener = crate::socket::listen_in(files, name, *mode, *uid, *gid)?;
            crate::socket::send_descriptor(descriptors.control.as_fd(), listener.as_fd())?;
            clone_mount(files, name)
        }
    }
}

/// Digits of a mode, and the NUL behind them.
const MODE_DIGITS: usize = 5;

/// A mode as mount options have it, written without allocating.
fn octal(mode: u32, digits: &mut [u8; MODE_DIGITS]) -> &CStr {
    for (index, digit) in digits[..MODE_DIGITS - 1].iter_mut().rev().enumerate() {
        *digit = b'0' + (mode >> (3 * index) & 7) as u8;
    }
    CStr::from_bytes_until_nul(digits).unwrap_or(c"")
}

/// Mounts on a path inside, which is resolved once, to a descriptor.
fn mount_on_target(maker: &Maker<'_>, source: BorrowedFd<'_>, target: &CStr) -> Result<(), Errno> {
    let target = open_target(maker, target, target_kind(source)?)?;
    match attach(source, target.as_fd(), c"") {
        // The kernel says no more than that when a directory is to hide a file, or a file a directory.
        Err(Errno::INVAL) => match (target_kind(source)?, target_kind(target.as_fd())?) {
            (TargetKind::Directory, TargetKind::File) => Err(Errno::NOTDIR),
            (TargetKind::File, TargetKind::Directory) => Err(Errno::ISDIR),
            _ => Err(Errno::INVAL),
        },
        attached => attached,
    }
}

/// Opens a mount's target, making it where it is missing.
pub(crate) fn open_target(maker: &Maker<'_>, target: &CStr, kind: TargetKind) -> Result<OwnedFd, Errno> {
    let target = maker.open(target, kind)?;
    // Whatever links led there: what the runtime reads from procfs later must come from the kernel.
    if rustix::fs::fstatfs(&target)?.f_type == rustix::fs::PROC_SUPER_MAGIC {
        return Err(Errno::PERM);
    }
    Ok(target)
}

/// Opens the working directory, making it for the user where it is missing (it stays in the layer, as WORKDIR's does).
pub(crate) fn working_directory(plan: &Plan, root: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let maker = Maker { root, stubs: None, uid: plan.uid, gid: plan.gid };
    let directory = maker.open(&plan.cwd, TargetKind::Directory)?;
    match target_kind(directory.as_fd())? {
        TargetKind::Directory => Ok(directory),
        TargetKind::File => Err(Errno::NOTDIR),
    }
}

/// Makes `root` the root; the old one and all of the host's mounts are gone from this namespace afterwards.
fn pivot(root: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::process::fchdir(root)?;
    // Stacks the old root upon the new one, so that no directory is needed for it.
    rustix::process::pivot_root(c".", c".")?;
    sys::umount_here().map_err(|error| errno_of(&error))?;
    rustix::process::chdir(c"/")
}

/// Makes a terminal, hands its master to the parent and shows its other end as `/dev/console`.
fn make_terminal(
    dev: BorrowedFd<'_>,
    size: Option<Winsize>,
    descriptors: &ChildDescriptors<'_>,
) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = rustix::fs::openat(dev, c"pts/ptmx", flags, Mode::empty())?;
    rustix::pty::unlockpt(&master)?;
    if let Some(size) = size {
        rustix::termios::tcsetwinsize(&master, size)?;
    }
    use rustix::pty::OpenptFlags;
    // By the master, not by a name that could be another file.
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
    new_file(dev, c"console")?;
    let console = clone_mount(slave.as_fd(), c"")?;
    attach(console.as_fd(), dev, c"console")?;
    crate::socket::send_descriptor(descriptors.control.as_fd(), master.as_fd())?;
    Ok(slave)
}

pub(crate) enum CommandFailure {
    Setup(Failure),
    NotExecuted { errno: Errno, found: bool },
}

impl From<Failure> for CommandFailure {
    fn from(failure: Failure) -> CommandFailure {
        CommandFailure::Setup(failure)
    }
}

/// Turns the forked process into the command; returns only when that fails.
pub(crate) fn become_command(
    plan: &Plan,
    descriptors: &ChildDescriptors<'_>,
    execution: &Execution<'_>,
    terminal: Option<&OwnedFd>,
) -> Result<Infallible, CommandFailure> {
    rustix::process::setsid().at(Step::Descriptors)?;
    arrange_streams(descriptors, terminal, plan.uid)?;
    // All others are close-on-exec; the report pipe must live until then.
    match sys::new_session_keyring() {
        // Refused inside another container; the filter then keeps the keys out of reach.
        Err(error) if !matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
            return Err(error).at(Step::Keyring)?;
        }
        _ => {}
    }
    for limit in &plan.rlimits {
        sys::set_raw_rlimit(limit.resource, limit.soft, limit.hard).at(Step::Limits)?;
    }
    rustix::process::umask(Mode::from_raw_mode(0o022));

    // After what only the old namespace's root may do, and before that right goes.
    if let (Some(rule), Some(namespace)) = (&plan.emulator, &descriptors.user_namespace) {
        register_emulator(rule, namespace.as_fd()).at(Step::Emulator)?;
    }
    // In this order: dropping from the bounding set needs CAP_SETPCAP, groups CAP_SETGID, and a filter CAP_SYS_ADMIN
    // (no_new_privs would do instead, but would break the image's setuid programs).
    if plan.is_confined {
        drop_bounding(plan.capabilities).at(Step::Capabilities)?;
    }
    if let Some(groups) = &plan.groups {
        rustix::thread::set_thread_groups(groups).at(Step::User)?;
    }
    let (uid, gid) = (Uid::from_raw(plan.uid), Gid::from_raw(plan.gid));
    rustix::thread::set_thread_res_gid(gid, gid, gid).at(Step::User)?;
    match &plan.filter {
        Some(filter) if plan.on_demand => {
            let listener = sys::load_listened_filter(filter).at(Step::Seccomp)?;
            send_descriptor(descriptors.control.as_fd(), listener.as_fd()).at(Step::Seccomp)?;
        }
        Some(filter) => match sys::load_filter(filter) {
            // The container that a tree without namespaces is for has a filter of its own, and gives no right to a second.
            Err(error) if plan.tree.is_some() && error.raw_os_error() == Some(libc::EACCES) => {}
            other => other.at(Step::Seccomp)?,
        },
        None => {}
    }
    rustix::thread::set_thread_res_uid(uid, uid, uid).at(Step::User)?;
    // After the last call about users, which would be answered, and before the right to load it is gone.
    if let Some(emulated) = &plan.emulated {
        let listener = sys::load_listened_filter(emulated.filter).at(Step::Owners)?;
        send_descriptor(descriptors.control.as_fd(), listener.as_fd()).at(Step::Owners)?;
    }
    // Taking another user's rights clears it.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).at(Step::User)?;
    if plan.is_confined {
        // A user other than root has none, root exactly the set; none are ever inheritable or ambient.
        let held = if plan.uid == 0 { plan.capabilities } else { CapabilitySet::empty() };
        let sets = CapabilitySets { effective: held, permitted: held, inheritable: CapabilitySet::empty() };
        rustix::thread::set_capabilities(None, sets).at(Step::Capabilities)?;
    }
    // Last of all: it would keep what is above from working.
    if plan.no_new_privileges {
        rustix::thread::set_no_new_privs(true).at(Step::Capabilities)?;
    }
    sys::reset_signals();
    execute(plan, execution)
}

/// Gives the process its three streams, and those to `uid`.
pub(crate) fn arrange_streams(
    descriptors: &ChildDescriptors<'_>,
    terminal: Option<&OwnedFd>,
    uid: u32,
) -> Entered<()> {
    let streams = match (&descriptors.stdio, terminal) {
        (ChildStdio::Given { stdin, stdout, stderr }, _) => {
            [stdin.as_ref().unwrap_or(&descriptors.null), stdout, stderr]
        }
        (ChildStdio::Terminal(_), Some(terminal)) => {
            rustix::process::ioctl_tiocsctty(terminal).at(Step::Terminal)?;
            let owner = Some(Uid::from_raw(uid));
            rustix::fs::fchown(terminal, owner, None).at(Step::Terminal)?;
            [terminal; 3]
        }
        (ChildStdio::Terminal(_), None) => [&descriptors.null; 3],
    };
    for stream in streams {
        give_pipe(stream.as_fd(), uid).at(Step::Descriptors)?;
    }
    rustix::stdio::dup2_stdin(streams[0]).at(Step::Descriptors)?;
    rustix::stdio::dup2_stdout(streams[1]).at(Step::Descriptors)?;
    rustix::stdio::dup2_stderr(streams[2]).at(Step::Descriptors)
}

/// Enters a user namespace with the same ids and registers an emulator in its table of formats, which only the kernel
/// reads from then on.
fn register_emulator(rule: &[u8], namespace: BorrowedFd<'_>) -> Result<(), Errno> {
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
    move_into_link_name_space(namespace, Some(LinkNameSpaceType::User))?;
    // Mounts belong to the namespace that they were made in.
    sys::unshare_mounts().map_err(|error| errno_of(&error))?;
    let table = new_mount(c"binfmt_misc", &[], NOTHING_SPECIAL)?;
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let register = rustix::fs::openat(&table, c"register", flags, Mode::empty())?;
    rustix::io::write(&register, rule)?;
    drop(register);
    set_attributes(table.as_fd(), NOTHING_SPECIAL | Attr::MOUNT_ATTR_RDONLY)?;
    // Its entries live as long as it is mounted somewhere.
    attach(table.as_fd(), CWD, c"/proc/sys/fs/binfmt_misc")
}

/// Makes a pipe the user's: `/dev/stdout` opens it by its inode, whose owner is the engine's user.
pub(crate) fn give_pipe(stream: BorrowedFd<'_>, uid: u32) -> Result<(), Errno> {
    let mode = rustix::fs::fstat(stream)?.st_mode;
    if rustix::fs::FileType::from_raw_mode(mode) == rustix::fs::FileType::Fifo {
        match rustix::fs::fchown(stream, Some(Uid::from_raw(uid)), None) {
            // In a user namespace: a pipe of somebody else's stays theirs, and an id that is not mapped fails below.
            Err(Errno::PERM | Errno::INVAL) => {}
            other => other?,
        }
    }
    Ok(())
}

fn drop_bounding(kept: CapabilitySet) -> Result<(), Errno> {
    for bit in 0..=capabilities::HIGHEST {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        if kept.contains(capability) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // Beyond the last one that this kernel has.
            Err(Errno::INVAL) => break,
            other => other?,
        }
    }
    Ok(())
}

/// Tries the candidates as execvp(3) does.
fn execute(plan: &Plan, execution: &Execution<'_>) -> Result<Infallible, CommandFailure> {
    let mut refused = None;
    let mut found = false;
    for candidate in &plan.candidates {
        if runs_own_program(candidate, plan.own_program) {
            refused = Some(Errno::ACCESS);
            found = true;
            continue;
        }
        let errno = errno_of(&sys::execve(candidate, &execution.argv, &execution.env));
        match errno {
            Errno::NOENT | Errno::NOTDIR => {
                // The file is there, so it is its interpreter that is not.
                found |= rustix::fs::stat(candidate).is_ok();
            }
            Errno::ACCESS => refused = Some(errno),
            _ => return Err(CommandFailure::NotExecuted { errno, found: true }),
        }
    }
    Err(CommandFailure::NotExecuted { errno: refused.unwrap_or(Errno::NOENT), found })
}

/// Levels of `#!` that the kernel follows.
const INTERPRETER_LEVELS: u32 = 5;
/// Bytes of a `#!` line that the kernel reads.
const INTERPRETER_LINE: usize = 256;

/// Whether executing `path` would execute the engine's own program: until exec, `/proc/self/exe` is that, and a process
/// inside could open it for writing (an image's `/bin/sh -> /proc/self/exe`, or a script with it as interpreter).
fn runs_own_program(path: &CStr, own: (u64, u64)) -> bool {
    let mut line = [0_u8; INTERPRETER_LINE];
    let mut name = [0_u8; libc::PATH_MAX as usize];
    let Some(slot) = name.get_mut(..path.to_bytes().len()) else { return false };
    slot.copy_from_slice(path.to_bytes());
    for _ in 0..INTERPRETER_LEVELS {
        let Ok(current) = CStr::from_bytes_until_nul(&name) else { return false };
        let Ok(found) = rustix::fs::stat(current) else { return false };
        if (found.st_dev, found.st_ino) == own {
            return true;
        }
        if rustix::fs::FileType::from_raw_mode(found.st_mode) != rustix::fs::FileType::RegularFile {
            return false;
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Ok(file) = rustix::fs::open(current, flags, Mode::empty()) else { return false };
        let Ok(length) = rustix::io::read(&file, &mut line) else { return false };
        let Some(rest) = line.get(..length).and_then(|line| line.strip_prefix(b"#!")) else { return false };
        let end = rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len());
        let interpreter = rest[..end].trim_ascii();
        let end =
            interpreter.iter().position(|byte| matches!(byte, b' ' | b'\t')).unwrap_or(interpreter.len());
        name = [0; libc::PATH_MAX as usize];
        name[..end].copy_from_slice(&interpreter[..end]);
    }
    false
}
