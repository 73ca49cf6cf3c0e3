//! All that a sandbox is made of, decided before anything is started.

use std::ffi::OsString;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::{Binfmt, Capabilities, Identity, IsolatedNetwork, NetworkError, Trees};

/// What to run, where, as whom.
#[derive(Debug)]
pub struct Spec {
    /// The root file system.
    pub rootfs: Rootfs,
    /// The command; `argv[0]` is looked up in `PATH` of `env` inside the root.
    pub argv: Vec<OsString>,
    /// `NAME=value`; all there is, but that `HOME` is added from the identity where it is missing.
    pub env: Vec<OsString>,
    /// Working directory inside, made if absent (0755, owned by the user).
    pub cwd: PathBuf,
    /// User and groups.
    pub identity: Identity,
    /// Host name inside.
    pub hostname: String,
    /// Mounts beyond the standard ones, in order.
    pub mounts: Vec<Mount>,
    /// Network.
    pub network: Network,
    /// Further lines of `/etc/hosts`.
    pub extra_hosts: Vec<HostEntry>,
    /// How names are resolved.
    pub dns: Dns,
    /// Privileges.
    pub security: Security,
    /// What root holds in [`Security::Sandbox`].
    pub capabilities: Capabilities,
    /// What [`Security::Sandbox`] is without, or has besides.
    pub options: SecurityOptions,
    /// How programs of another machine are executed.
    pub binfmt: Binfmt,
    /// Limits.
    pub limits: Limits,
    /// Standard streams.
    pub io: Io,
}

/// The root: layers of overlayfs.
#[derive(Debug)]
pub struct Rootfs {
    /// Layer directories, bottom first; may be empty (scratch).
    pub layers: Vec<PathBuf>,
    /// A directory with an empty `etc/hosts` and `etc/resolv.conf` to lie below all layers: where those have none, no mount
    /// stubs need be made above, for each of which `etc` is copied up, and removed again.
    pub stubs: Option<PathBuf>,
    /// Where changes go. Mount stubs that kiln made are removed from it afterwards.
    pub upper: PathBuf,
    /// overlayfs' work directory, empty, on the same file system as `upper`. Not to be used twice: a volatile mount
    /// leaves a mark in it that the next one refuses.
    pub work: PathBuf,
    /// Where [`Chroot`](crate::Chroot) keeps whole trees from one step to the next; without it each step makes its own.
    pub trees: Option<Arc<Trees>>,
}

/// A mount inside.
#[derive(Debug)]
pub struct Mount {
    /// Absolute path inside, resolved within the root; missing parts are made and removed afterwards.
    pub target: PathBuf,
    /// What is mounted.
    pub kind: MountKind,
    /// No program in it can be started.
    pub no_exec: bool,
}

/// What is mounted.
#[derive(Debug)]
pub enum MountKind {
    /// A directory or file of the host's, by path (from the engine itself, never from the Dockerfile), and a path
    /// inside it that is resolved within it.
    Bind {
        /// On the host.
        source: PathBuf,
        /// Below `source`; resolved with that as root. Empty: itself.
        subpath: PathBuf,
        /// Read-only.
        read_only: bool,
    },
    /// A path of a tree made of layers. Writes, where allowed, go to `scratch` and are lost.
    Layers {
        /// Bottom first.
        layers: Vec<PathBuf>,
        /// In the tree; resolved within it.
        subpath: PathBuf,
        /// Upper and work directories for a writable mount.
        scratch: Option<(PathBuf, PathBuf)>,
    },
    /// An empty tmpfs.
    Tmpfs {
        /// Bytes.
        size: Option<u64>,
        /// Mode of its root, unless it covers a directory, whose mode it then has.
        mode: u32,
        /// Owner of its root.
        uid: u32,
        /// Group of its root.
        gid: u32,
        /// Read-only.
        read_only: bool,
    },
    /// A file with these bytes, on a tmpfs that no other process sees (secrets).
    File {
        /// Contents.
        contents: Vec<u8>,
        /// Mode.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// A device node that works.
    Device(DeviceNode),
    /// A Unix socket of the host's (ssh agent) shown with this mode and owner.
    Socket {
        /// On the host.
        source: PathBuf,
        /// Mode.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
}

/// A device node. Without root's rights the host's own is shown instead, as it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceNode {
    /// The host's.
    pub host: PathBuf,
    /// Which table `major` is of.
    pub kind: DeviceKind,
    /// The driver.
    pub major: u32,
    /// Which of its devices.
    pub minor: u32,
    /// Mode.
    pub mode: u32,
    /// Owner; `None` is the user of the sandbox.
    pub uid: Option<u32>,
    /// Group; `None` is that of the user.
    pub gid: Option<u32>,
}

/// The kind of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// A character device.
    Character,
    /// A block device.
    Block,
}

/// What the sandbox reaches.
#[derive(Clone, Debug)]
pub enum Network {
    /// Loopback only.
    None,
    /// The host's network.
    Host,
    /// A network of its own, with a way to the outside and none to the host's loopback.
    Isolated(Arc<IsolatedNetwork>),
}

/// What `/etc/resolv.conf` says in place of the host's words (an empty list takes the host's), and whether there is an
/// `/etc/hosts`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    /// Servers.
    pub servers: Vec<IpAddr>,
    /// Domains that short names are looked up in; `.` alone stands for none.
    pub search: Vec<String>,
    /// Options of resolv.conf(5).
    pub options: Vec<String>,
    /// `/etc/hosts` is the image's own, or there is none.
    pub image_hosts: bool,
}

/// Privileges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// Docker's defaults.
    Sandbox,
    /// All capabilities, no seccomp, nothing masked (needs the user's permission, checked by the caller).
    Insecure,
}

/// What is changed of [`Security::Sandbox`] (docker's and podman's `--security-opt`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SecurityOptions {
    /// System calls are not filtered.
    pub unfiltered: bool,
    /// No program gives further rights to who executes it, set-id ones neither (prctl(2), `PR_SET_NO_NEW_PRIVS`).
    pub no_new_privileges: bool,
}

/// A line of `/etc/hosts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostEntry {
    /// Name.
    pub name: String,
    /// Address.
    pub address: HostAddress,
}

/// The address of a name in `/etc/hosts`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HostAddress {
    /// This.
    Ip(IpAddr),
    /// The one that the host is reached by (docker's `host-gateway`).
    Gateway,
}

impl From<IpAddr> for HostAddress {
    fn from(address: IpAddr) -> HostAddress {
        HostAddress::Ip(address)
    }
}

/// Limits of the whole sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Size of `/dev/shm` in bytes; `None` is 64 MiB.
    pub shm_bytes: Option<u64>,
    /// `--ulimit`: name as docker has it (`nofile`), soft, hard.
    pub ulimits: Vec<(String, u64, u64)>,
    /// What its processes may use together.
    pub resources: Resources,
    /// How long it may run.
    pub time: Option<Duration>,
}

/// What the processes of a sandbox may use together; a control group sees to it. `None` is no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
    /// Memory and swap together in bytes; without it there is no swap beyond the memory.
    pub memory_swap: Option<Swap>,
    /// Number of tasks.
    pub pids: Option<u64>,
    /// Weight against others when processors are short; 1024 is usual.
    pub cpu_shares: Option<u64>,
    /// Length in microseconds of the periods that `cpu_quota_micros` is for; the kernel's own is 100 ms.
    pub cpu_period_micros: Option<u64>,
    /// Processor time in microseconds within a period.
    pub cpu_quota_micros: Option<u64>,
    /// The processors that may be used (`0-2,7`).
    pub cpuset_cpus: Option<String>,
    /// The memory nodes that may be used.
    pub cpuset_mems: Option<String>,
    /// The control group in which that of the sandbox is made: a path from the hierarchy's root, or a slice of systemd's.
    pub parent: Option<String>,
}

/// A limit of memory and swap together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swap {
    /// As much as there is.
    Unlimited,
    /// Bytes.
    Bytes(u64),
}

/// Standard streams.
#[derive(Debug)]
pub enum Io {
    /// stdin is `/dev/null`, stdout and stderr are captured (RUN).
    Captured,
    /// The process gets these descriptors (`kiln run`).
    Inherit {
        /// stdin; `None` is `/dev/null`.
        stdin: Option<OwnedFd>,
        /// stdout.
        stdout: OwnedFd,
        /// stderr.
        stderr: OwnedFd,
    },
    /// A new terminal inside; the engine copies between it and the user's (`kiln run -t`).
    Terminal(Terminal),
}

/// The user's end of a terminal.
#[derive(Debug)]
pub struct Terminal {
    /// Read and put into raw mode when it is a terminal; `None`: no input.
    pub input: Option<OwnedFd>,
    /// Written to.
    pub output: OwnedFd,
}

/// Which stream captured output came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Status of the command.
    pub status: ExitStatus,
    /// What it used.
    pub usage: Usage,
    /// A process of it was killed for memory.
    pub oom_killed: bool,
    /// It was killed at the end of its time.
    pub timed_out: bool,
}

/// Status of the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// It exited.
    Code(i32),
    /// It was killed by this signal.
    Signal(i32),
}

/// What it used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time, user and system.
    pub cpu: Duration,
    /// Peak memory in bytes: of its control group where it has one, else of the largest process.
    pub peak_memory_bytes: u64,
    /// Bytes read from disk.
    pub read_bytes: u64,
    /// Bytes written to disk, or on their way to it.
    pub written_bytes: u64,
}

impl SandboxError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            // ENOEXEC: what the kernel says of a program that is none, or none of this machine's.
            Self::NotExecutable { source, .. } if source.raw_os_error() == Some(libc::ENOEXEC) => Some(
                "programs for another machine run where `--platform` says which, by qemu-user-static or a handler of \
                 binfmt_misc; a script needs a first line with `#!`"
                    .into(),
            ),
            Self::NoNamespaces(_) => Some(
                "inside of a container, `--executor chroot` (or KILN_EXECUTOR=chroot) runs steps without namespaces, \
                 which isolates them less; `kiln doctor` says what is missing for more"
                    .into(),
            ),
            Self::Setup { step, source } if step == MOUNTING_PROC && source.raw_os_error() == Some(libc::EPERM) => {
                Some(WHOLE_PROC.into())
            }
            Self::Setup { step, source } if step.starts_with(MOUNTING_ON) => match source.raw_os_error()? {
                libc::EISDIR => Some("the target is a directory of the image, and a file hides files only".into()),
                libc::ENOTDIR => Some("the target is a file of the image, and a directory hides directories only".into()),
                _ if step.starts_with("mounting on /proc") => Some("nothing can be mounted in /proc".into()),
                _ => None,
            },
            _ => None,
        }
    }
}

/// The step of a [`SandboxError::Setup`] that a container's masked `/proc` keeps from working.
pub(crate) const MOUNTING_PROC: &str = "mounting /proc";

/// How the step of a [`SandboxError::Setup`] begins that puts a mount of the caller's on its target.
pub(crate) const MOUNTING_ON: &str = "mounting on";

/// What to do about it: the kernel mounts no second `/proc` that shows more than the first (user_namespaces(7)).
pub(crate) const WHOLE_PROC: &str =
    "inside a container, let its /proc be whole (docker, podman: --security-opt systempaths=unconfined)";

/// Why nothing could be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// The command is not in the image (docker's exit status 127).
    #[error("{}: command not found in the image", if .0.is_empty() { "\"\"" } else { .0.as_str() })]
    CommandNotFound(String),
    /// It is there but cannot be executed (docker's exit status 126).
    #[error("{command}: cannot be executed: {source}")]
    NotExecutable {
        /// The command.
        command: String,
        /// Why.
        source: std::io::Error,
    },
    /// Namespaces are refused: inside of a container, mostly.
    #[error("no namespace can be made for the step: {0}")]
    NoNamespaces(#[source] std::io::Error),
    /// There is no such OCI runtime.
    #[error("there is no OCI runtime at {}: {source}", program.display())]
    NoRuntime {
        /// Its path, as it was given.
        program: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The step's own network could not be connected.
    #[error(transparent)]
    Network(NetworkError),
    /// The cancel flag went up.
    #[error("canceled")]
    Canceled,
    /// A step of the set-up failed.
    #[error("sandbox: {step}: {source}")]
    Setup {
        /// What was being done.
        step: String,
        /// Why it failed.
        source: std::io::Error,
    },
}
