//! A [`Spec`] made ready for the child: every string NUL-terminated, every list allocated.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, FileType, accessat};
use rustix::termios::Winsize;
use rustix::thread::{CapabilitySet, Gid};

use crate::control_group::ControlGroup;
use crate::emulate::{self, Credentials};
use crate::limits::{self, Rlimit};
use crate::masks::MASKED_IN_SYS;
use crate::oci::PlannedRuntime;
use crate::rootfs::{LayerApi, Marks, OVERLAY_OPTIONS, Overlay};
use crate::seccomp::Sockets;
use crate::spec::{MOUNTING_ON, MOUNTING_PROC};
use crate::sys::{Instruction, StartStrings};
use crate::{
    DeviceKind, DeviceNode, Dns, Identity, Mount, MountKind, Network, OciRuntime, Rootfs, SandboxError,
    Security, Spec, etc_files, seccomp, userns,
};

/// What a `PATH` is when the environment has none; Docker's default.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Docker's size of `/dev/shm`.
pub(crate) const DEFAULT_SHM_BYTES: u64 = 64 * 1024 * 1024;

/// Everything the child needs.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) root: Overlay,
    pub(crate) upper: CString,
    /// A host directory that the child covers with its private tmpfs, in its own mount namespace.
    pub(crate) covered: CString,
    /// Files of the private tmpfs.
    pub(crate) files: Vec<PrivateFile>,
    /// Mounts in order; the generated files of `/etc` come first.
    pub(crate) mounts: Vec<PlannedMount>,
    /// How many of `mounts` are kiln's own.
    pub(crate) own_mounts: usize,
    /// The host's sockets behind the mounted ones, in the order of the mounts.
    pub(crate) sockets: Vec<PathBuf>,
    pub(crate) hostname: CString,
    pub(crate) network: PlannedNetwork,
    pub(crate) security: Security,
    pub(crate) shm_size: CString,
    pub(crate) cwd: CString,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// `None`: those that it has.
    pub(crate) groups: Option<Vec<Gid>>,
    pub(crate) rlimits: Vec<Rlimit>,
    pub(crate) filter: Option<Cow<'static, [Instruction]>>,
    /// The filter hands calls over that want the network.
    pub(crate) on_demand: bool,
    /// Set-id programs give nothing.
    pub(crate) no_new_privileges: bool,
    /// What root inside may do at most.
    pub(crate) capabilities: CapabilitySet,
    /// Whether that is less than all that the engine may do.
    pub(crate) is_confined: bool,
    /// Hidden paths below `/sys`.
    pub(crate) masked_in_sys: &'static [CString],
    /// Files to try, in the order of `PATH`.
    pub(crate) candidates: Vec<CString>,
    pub(crate) argv: Vec<CString>,
    pub(crate) env: Vec<CString>,
    /// Where the engine's own arguments and environment lie.
    pub(crate) start_strings: Option<StartStrings>,
    /// Device and inode of the engine's own program, which must not be executed inside.
    pub(crate) own_program: (u64, u64),
    /// What the user namespace allows.
    pub(crate) rights: Rights,
    /// An emulator's line for the table of formats of a user namespace of the command's own.
    pub(crate) emulator: Option<Vec<u8>>,
    /// Who the command believes to be where there is one id only; the ids above are that one then.
    pub(crate) emulated: Option<Emulated>,
    /// The program that makes the sandbox in kiln's place.
    pub(crate) runtime: Option<PlannedRuntime>,
    /// The tree that the command runs in where no namespace can be made.
    pub(crate) tree: Option<CString>,
}

/// Owners and users that the engine answers for.
#[derive(Debug)]
pub(crate) struct Emulated {
    pub(crate) first: Credentials,
    pub(crate) filter: &'static [Instruction],
}

/// How the child comes to its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PlannedNetwork {
    /// A new one with nothing but loopback.
    None,
    /// It stays in the host's.
    Host,
    /// It joins the one of its descriptors.
    Joined,
}

impl PlannedNetwork {
    fn of(network: &Network) -> PlannedNetwork {
        match network {
            Network::None => PlannedNetwork::None,
            Network::Host => PlannedNetwork::Host,
            Network::Isolated(_) => PlannedNetwork::Joined,
        }
    }
}

/// What a sandbox can do where the engine is not the machine's root.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rights {
    /// Device nodes can be made; else the host's are shown.
    pub(crate) device_nodes: bool,
    /// Processes may choose their groups.
    pub(crate) set_groups: bool,
    /// Docker's group of terminals exists.
    pub(crate) terminal_group: bool,
    /// There is no other id than 0.
    pub(crate) single_id: bool,
}

impl Rights {
    fn of_this_process() -> Rights {
        if userns::is_initial() {
            return Rights { device_nodes: true, set_groups: true, terminal_group: true, single_id: false };
        }
        Rights {
            device_nodes: false,
            set_groups: userns::may_set_groups(),
            terminal_group: userns::is_mapped("gid_map", TERMINAL_GROUP),
            single_id: userns::has_single_id(),
        }
    }
}

/// Docker's group of `/dev/pts`, `tty` of Debian.
const TERMINAL_GROUP: u32 = 5;

/// A file on the tmpfs that only this sandbox sees.
#[derive(Debug)]
pub(crate) struct PrivateFile {
    pub(crate) name: CString,
    pub(crate) contents: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// A mount with its target relative to the root.
#[derive(Debug)]
pub(crate) struct PlannedMount {
    pub(crate) target: CString,
    pub(crate) source: PlannedSource,
    /// No program in it can be started.
    pub(crate) no_exec: bool,
}

/// What is mounted.
#[derive(Debug)]
pub(crate) enum PlannedSource {
    /// A private file, by its place in the list.
    File(usize),
    Bind {
        source: CString,
        subpath: CString,
        read_only: bool,
    },
    Layers {
        overlay: Overlay,
        subpath: CString,
        read_only: bool,
    },
    Tmpfs {
        size: Option<CString>,
        mode: CString,
        uid: CString,
        gid: CString,
        read_only: bool,
    },
    /// A node in the private tmpfs, or the host's where none can be made.
    Device(PlannedNode),
    /// A listening socket is made in the private tmpfs and handed to the parent.
    Socket {
        name: CString,
        mode: u32,
        uid: u32,
        gid: u32,
    },
}

/// A device node.
#[derive(Debug)]
pub(crate) struct PlannedNode {
    /// In the private tmpfs.
    pub(crate) name: CString,
    pub(crate) host: CString,
    pub(crate) kind: FileType,
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl PlannedNode {
    fn new(
        node: &DeviceNode,
        index: usize,
        who: &Identity,
        rights: Rights,
    ) -> Result<PlannedNode, SandboxError> {
        if !rights.device_nodes {
            let access = Access::READ_OK | Access::WRITE_OK;
            // Not opened: that alone can start something in a device.
            accessat(CWD, &node.host, access, AtFlags::EACCESS).map_err(|errno| {
                setup(&format!("opening the device {} of the host", node.host.display()), errno.into())
            })?;
        }
        Ok(PlannedNode {
            name: c_string("a device", format!("device{index}"))?,
            host: path("a device", &node.host)?,
            kind: match node.kind {
                DeviceKind::Character => FileType::CharacterDevice,
                DeviceKind::Block => FileType::BlockDevice,
            },
            major: node.major,
            minor: node.minor,
            mode: node.mode,
            uid: node.uid.unwrap_or(who.uid),
            gid: node.gid.unwrap_or(who.gid),
        })
    }
}

impl Plan {
    /// Prepares `spec`, to be run in `group` by `runtime`, or by kiln itself.
    pub(crate) fn new(
        spec: &Spec,
        runtime: Option<&OciRuntime>,
        group: &ControlGroup,
    ) -> Result<Plan, SandboxError> {
        let argv = c_strings("the command", &spec.argv)?;
        let command = spec.argv.first().filter(|command| !command.is_empty());
        let Some(command) = command else {
            return Err(SandboxError::CommandNotFound(String::new()));
        };
        let mut env = c_strings("the environment", &spec.env)?;
        if !spec.env.iter().any(|entry| entry.as_bytes().starts_with(b"HOME=")) {
            env.push(c_string("HOME", [b"HOME=", spec.identity.home.as_bytes()].concat())?);
        }
        let mut files = Vec::new();
        let mut mounts = Vec::new();
        let hosts = (!spec.dns.image_hosts)
            .then(|| ("etc/hosts", etc_files::hosts(&spec.hostname, &spec.extra_hosts, &spec.network)));
        let resolv_conf = ("etc/resolv.conf", etc_files::resolv_conf(&spec.network, &spec.dns));
        for (target, contents) in hosts.into_iter().chain([resolv_conf]) {
            let source = add_file(&mut files, contents, 0o644, 0, 0)?;
            mounts.push(PlannedMount { target: c_string("/etc", target)?, source, no_exec: false });
        }
        if let Some((emulator, inside)) = spec.binfmt.shown() {
            let source = PlannedSource::Bind {
                source: path("the emulator", emulator)?,
                subpath: CString::default(),
                read_only: true,
            };
            let target = inner_path("the emulator", &inside)?;
            mounts.push(PlannedMount { target, source, no_exec: false });
        }
        let rights = Rights::of_this_process();
        let own_mounts = mounts.len();
        let mut sockets = Vec::new();
        for mount in &spec.mounts {
            if let MountKind::Socket { source, .. } = &mount.kind {
                sockets.push(source.clone());
            }
            mounts.push(PlannedMount::new(mount, mounts.len(), &mut files, &spec.identity, rights)?);
        }
        let program =
            std::fs::metadata("/proc/self/exe").map_err(|source| setup("the engine's program", source))?;
        let root = &spec.rootfs;
        let who = &spec.identity;
        let emulated = rights.single_id.then(|| Emulated {
            first: Credentials::new(who.uid, who.gid, who.groups.clone()),
            filter: &emulate::FILTER,
        });
        if emulated.is_some() && !spec.capabilities.dropped().is_empty() {
            let why = "where there is one id only, owners are emulated for whoever is root, and no capability can be \
                       taken from him; `kiln doctor` says how to get more ids";
            return Err(setup("dropping capabilities", io::Error::new(io::ErrorKind::Unsupported, why)));
        }
        let is_filtered = spec.security == Security::Sandbox && !spec.options.unfiltered;
        // Whoever has no filter, or one with a listener already, gets a network that is there.
        let on_demand = matches!(&spec.network, Network::Isolated(network) if !network.is_connected())
            && runtime.is_none()
            && is_filtered
            && emulated.is_none()
            && crate::on_demand::is_possible();
        let (uid, gid, groups) =
            if rights.single_id { (0, 0, &[][..]) } else { (who.uid, who.gid, who.groups.as_slice()) };
        if rights.single_id {
            files.iter_mut().for_each(|file| (file.uid, file.gid) = (0, 0));
            for mount in &mut mounts {
                if let PlannedSource::Socket { uid, gid, .. } = &mut mount.source {
                    (*uid, *gid) = (0, 0);
                }
            }
        }
        let capabilities = match spec.security {
            Security::Sandbox => spec.capabilities.of_a_step()?,
            Security::Insecure => spec.capabilities.of_an_insecure_step()?,
        };
        let mut plan = Plan {
            root: overlay(&with_stubs(root, &spec.dns), Some((&root.upper, &root.work)))?,
            upper: path("the upper directory", &root.upper)?,
            covered: path("the work directory", &root.work)?,
            files,
            mounts,
            own_mounts,
            sockets,
            hostname: c_string("the host name", spec.hostname.as_bytes())?,
            network: PlannedNetwork::of(&spec.network),
            security: spec.security,
            shm_size: c_string("/dev/shm", spec.limits.shm_bytes.unwrap_or(DEFAULT_SHM_BYTES).to_string())?,
            cwd: inner_path("the working directory", &spec.cwd)?,
            uid,
            gid,
            groups: (rights.set_groups && !who.keeps_groups)
                .then(|| groups.iter().map(|&gid| Gid::from_raw(gid)).collect()),
            rlimits: limits::rlimits(&spec.limits)?,
            filter: is_filtered.then(|| {
                let sockets = if on_demand { Sockets::HandedOver } else { Sockets::Allowed };
                seccomp::filter(sockets, capabilities)
            }),
            no_new_privileges: spec.options.no_new_privileges,
            on_demand,
            masked_in_sys: &MASKED_IN_SYS,
            candidates: candidates(command, &spec.env)?,
            argv,
            env,
            start_strings: StartStrings::of_this_process(),
            own_program: (program.dev(), program.ino()),
            rights,
            emulated,
            emulator: spec.binfmt.rule(),
            is_confined: spec.security == Security::Sandbox || spec.capabilities.withholds(),
            capabilities,
            runtime: None,
            tree: None,
        };
        if let Some(runtime) = runtime {
            plan.runtime = Some(PlannedRuntime::new(runtime, spec, &mut plan, group)?);
        }
        Ok(plan)
    }

    /// kiln's own mounts once more, for those who mount nothing.
    pub(crate) fn generated(&self) -> Vec<Mount> {
        let os = |text: &CString| PathBuf::from(OsStr::from_bytes(text.as_bytes()));
        let kind = |source: &PlannedSource| match source {
            PlannedSource::File(index) => self.files.get(*index).map(|file| MountKind::File {
                contents: file.contents.clone(),
                mode: file.mode,
                uid: file.uid,
                gid: file.gid,
            }),
            PlannedSource::Bind { source, subpath, .. } => {
                Some(MountKind::Bind { source: os(source), subpath: os(subpath), read_only: true })
            }
            _ => None,
        };
        let own = self.mounts.iter().take(self.own_mounts);
        own.filter_map(|mount| {
            let target = Path::new("/").join(os(&mount.target));
            Some(Mount { target, kind: kind(&mount.source)?, no_exec: mount.no_exec })
        })
        .collect()
    }

    /// Words a step's place in its list for an error.
    pub(crate) fn describe(&self, step: crate::report::Step, index: usize) -> String {
        use crate::report::Step;
        let mount = |what: &str| {
            let target = self.mounts.get(index).map(|mount| mount.target.to_string_lossy().into_owned());
            format!("{what} /{}", target.unwrap_or_default())
        };
        match step {
            Step::Descriptors => "arranging descriptors".into(),
            Step::ControlGroup => "joining the control group".into(),
            Step::Namespaces => "entering namespaces".into(),
            Step::UserNamespace => "entering the user namespace".into(),
            Step::Hostname => "setting the host name".into(),
            Step::Network => "joining the network".into(),
            Step::PrivateMounts => "making mounts private".into(),
            Step::Layer => {
                let layer = self.root.layers.get(index).map(|layer| layer.to_string_lossy().into_owned());
                format!("mounting layer {}", layer.unwrap_or_default())
            }
            Step::Root => "mounting the root file system".into(),
            Step::PrivateFiles => "making private files".into(),
            Step::Proc => MOUNTING_PROC.into(),
            Step::Sys => "mounting /sys".into(),
            Step::Dev => "making /dev".into(),
            Step::EtcFiles => mount("mounting"),
            Step::MountSource => mount("opening the source of the mount"),
            Step::MountTarget => mount(MOUNTING_ON),
            Step::Mask => "masking paths of /proc and /sys".into(),
            Step::Pivot => "changing the root".into(),
            Step::WorkingDirectory => {
                format!("entering the working directory /{}", self.cwd.to_string_lossy())
            }
            Step::Terminal => "making the terminal".into(),
            Step::Fork => "starting the process".into(),
            Step::Keyring => "making a session keyring".into(),
            Step::Limits => "setting resource limits".into(),
            Step::Emulator => "registering the emulator (Linux 6.7 or later)".into(),
            Step::Capabilities => "dropping capabilities".into(),
            Step::User => format!("becoming user {}:{}", self.uid, self.gid),
            Step::Seccomp => "loading the system-call filter".into(),
            Step::Runtime => {
                let name = self.runtime.as_ref().map(|runtime| runtime.name.as_str());
                format!("starting {}", name.unwrap_or_default())
            }
            Step::Owners => "handing calls about owners to kiln (another such filter may be in force)".into(),
        }
    }
}

/// Descriptors that the child keeps; everything else of the host program is closed in it at once.
#[derive(Debug)]
pub(crate) struct ChildDescriptors<'a> {
    /// `/dev/null`, read-write.
    pub(crate) null: OwnedFd,
    /// Reports go here.
    pub(crate) report: OwnedFd,
    /// Descriptors are handed to the parent here.
    pub(crate) control: OwnedFd,
    /// The engine's process.
    pub(crate) engine: OwnedFd,
    pub(crate) stdio: ChildStdio,
    pub(crate) control_groups: &'a [OwnedFd],
    /// The command's own, where an emulator is registered for it.
    pub(crate) user_namespace: Option<OwnedFd>,
    /// The network namespace to join.
    pub(crate) network: Option<OwnedFd>,
}

/// The command's standard streams.
#[derive(Debug)]
pub(crate) enum ChildStdio {
    /// These; stdin is `/dev/null` where there is none.
    Given { stdin: Option<OwnedFd>, stdout: OwnedFd, stderr: OwnedFd },
    /// A terminal made inside, of that size from the start: the command may ask before the engine has its other end.
    Terminal(Option<Winsize>),
}

impl PlannedMount {
    fn new(
        mount: &Mount,
        index: usize,
        files: &mut Vec<PrivateFile>,
        who: &Identity,
        rights: Rights,
    ) -> Result<PlannedMount, SandboxError> {
        let what = "a mount's target";
        let target = inner_path(what, &mount.target)?;
        if target.as_bytes() == b"." {
            return Err(invalid(what, "it is the root itself"));
        }
        // Where there is one id, it owns everything.
        let owner_id = |id: u32| if rights.single_id { 0 } else { id };
        let source = match &mount.kind {
            MountKind::Bind { source, subpath, read_only } => PlannedSource::Bind {
                source: path("a mount's source", source)?,
                subpath: sub_path(subpath)?,
                read_only: *read_only,
            },
            MountKind::Layers { layers, subpath, scratch } => PlannedSource::Layers {
                overlay: overlay(layers, scratch.as_ref().map(|(upper, work)| (upper, work)))?,
                subpath: sub_path(subpath)?,
                read_only: scratch.is_none(),
            },
            MountKind::Tmpfs { size, mode, uid, gid, read_only } => PlannedSource::Tmpfs {
                read_only: *read_only,
                uid: c_string("a tmpfs", owner_id(*uid).to_string())?,
                gid: c_string("a tmpfs", owner_id(*gid).to_string())?,
                size: size.map(|size| c_string("a tmpfs", size.to_string())).transpose()?,
                mode: c_string("a tmpfs", format!("{mode:o}"))?,
            },
            MountKind::File { contents, mode, uid, gid } => {
                add_file(files, contents.clone(), *mode, *uid, *gid)?
            }
            MountKind::Device(node) => PlannedSource::Device(PlannedNode::new(node, index, who, rights)?),
            MountKind::Socket { source: _, mode, uid, gid } => PlannedSource::Socket {
                name: c_string("a socket", format!("socket{index}"))?,
                mode: *mode,
                uid: *uid,
                gid: *gid,
            },
        };
        Ok(PlannedMount { target, source, no_exec: mount.no_exec })
    }
}

fn add_file(
    files: &mut Vec<PrivateFile>,
    contents: Vec<u8>,
    mode: u32,
    uid: u32,
    gid: u32,
) -> Result<PlannedSource, SandboxError> {
    let name = c_string("a private file", files.len().to_string())?;
    files.push(PrivateFile { name, contents, mode, uid, gid });
    Ok(PlannedSource::File(files.len() - 1))
}

/// The layers, above the stubs if all of these are mounted upon.
fn with_stubs(root: &Rootfs, dns: &Dns) -> Vec<PathBuf> {
    let stubs = root.stubs.as_ref().filter(|_| !dns.image_hosts && !root.layers.is_empty());
    stubs.into_iter().chain(&root.layers).cloned().collect()
}

/// Two equal copies share a layer, and one tree may have both; overlayfs takes no directory twice. The topmost alone is the
/// same tree: whatever the lower one shows or hides, the upper one does too.
fn topmost_of_each(layers: &[PathBuf]) -> Vec<&PathBuf> {
    let mut seen = HashSet::new();
    let mut topmost: Vec<_> = layers.iter().rev().filter(|layer| seen.insert(layer.as_path())).collect();
    topmost.reverse();
    topmost
}

pub(crate) fn overlay(
    layers: &[PathBuf],
    upper: Option<(&PathBuf, &PathBuf)>,
) -> Result<Overlay, SandboxError> {
    // Lists separate by `:`, options by `,`; a backslash keeps them.
    let escaped = |path: &Path| {
        let mut text = Vec::new();
        for &byte in path.as_os_str().as_bytes() {
            if matches!(byte, b':' | b',' | b'\\') {
                text.push(b'\\');
            }
            text.push(byte);
        }
        text
    };
    let layers = topmost_of_each(layers);
    let mut options = b"lowerdir=".to_vec();
    for (index, layer) in layers.iter().rev().enumerate() {
        if index > 0 {
            options.push(b':');
        }
        options.extend(escaped(layer));
    }
    if let Some((upper, work)) = upper {
        options.extend([b",upperdir=".as_slice(), &escaped(upper), b",workdir=", &escaped(work)].concat());
        options.extend(b",volatile");
    }
    for (name, value) in OVERLAY_OPTIONS {
        options.extend([b",", name.to_bytes(), b"=", value.to_bytes()].concat());
    }
    let marks = Marks::of_this_process();
    if marks == Marks::User {
        options.extend(b",userxattr");
    }
    let target = upper.map(|(upper, _)| upper).or(layers.last().copied());
    let target = target.ok_or_else(|| invalid("a mount", "it has no layers"))?;
    Ok(Overlay {
        layers: layers.iter().map(|layer| path("a layer", layer)).collect::<Result<_, _>>()?,
        upper: upper
            .map(|(upper, work)| Ok((path("an upper directory", upper)?, path("a work directory", work)?)))
            .transpose()?,
        options: c_string("overlay options", options)?,
        options_target: path("an overlay", target)?,
        api: LayerApi::Append,
        marks,
    })
}

/// The files that `command` may mean, in order.
fn candidates(command: &OsStr, env: &[std::ffi::OsString]) -> Result<Vec<CString>, SandboxError> {
    let command = command.as_bytes();
    if command.contains(&b'/') {
        return Ok(vec![c_string("the command", command)?]);
    }
    let set = env.iter().find_map(|entry| entry.as_bytes().strip_prefix(b"PATH="));
    set.unwrap_or(DEFAULT_PATH)
        .split(|&byte| byte == b':')
        // An empty entry means the working directory, as in execvp(3).
        .map(|directory| if directory.is_empty() { b".".as_slice() } else { directory })
        .map(|directory| c_string("PATH", [directory, b"/", command].concat()))
        .collect()
}

/// An absolute path inside as one relative to the root, cleaned of `.` and `..`.
pub(crate) fn inner_path(what: &str, path: &Path) -> Result<CString, SandboxError> {
    if !path.is_absolute() {
        return Err(invalid(what, "it is not an absolute path"));
    }
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            _ => {}
        }
    }
    if clean.as_os_str().is_empty() {
        clean.push(".");
    }
    c_string(what, clean.as_os_str().as_bytes())
}

pub(crate) fn sub_path(subpath: &Path) -> Result<CString, SandboxError> {
    if subpath.as_os_str().is_empty() {
        return Ok(CString::default());
    }
    inner_path("a mount's source", &Path::new("/").join(subpath))
}

fn path(what: &str, path: &Path) -> Result<CString, SandboxError> {
    c_string(what, path.as_os_str().as_bytes())
}

fn c_strings(what: &str, strings: &[std::ffi::OsString]) -> Result<Vec<CString>, SandboxError> {
    strings.iter().map(|string| c_string(what, string.as_bytes())).collect()
}

pub(crate) fn c_string(what: &str, bytes: impl Into<Vec<u8>>) -> Result<CString, SandboxError> {
    CString::new(bytes).map_err(|_| invalid(what, "it contains a NUL byte"))
}

fn invalid(what: &str, why: &'static str) -> SandboxError {
    setup(what, io::Error::new(io::ErrorKind::InvalidInput, why))
}

pub(crate) fn setup(step: &str, source: io::Error) -> SandboxError {
    SandboxError::Setup { step: step.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_inside_is_cleaned_and_stays_inside() {
        let clean = |text: &str| inner_path("x", Path::new(text)).unwrap().into_string().unwrap();
        assert_eq!(clean("/a/../../b/./c/"), "b/c");
        assert_eq!(clean("/.."), ".");
        assert!(inner_path("x", Path::new("a")).is_err());
    }

    #[test]
    fn a_command_without_a_slash_is_looked_up_in_path() {
        let found = candidates(OsStr::new("sh"), &["PATH=/a::/b".into()]).unwrap();
        assert_eq!(found, [c"/a/sh".to_owned(), c"./sh".to_owned(), c"/b/sh".to_owned()]);
        assert_eq!(candidates(OsStr::new("./x"), &[]).unwrap(), [c"./x".to_owned()]);
    }
}
