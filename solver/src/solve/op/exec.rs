//! RUN: a process on the input's root file system, whose changes are the new layer.
//!
//! Its key has of each bind mount what is at the mounted path, be it in a context or in a stage: a stage that changed
//! elsewhere, or was made another way, changes nothing. A stage is looked into only where it is new: the store knows
//! which key a step came to whose stages have the same layers.

use std::ffi::OsString;
use std::fs::Permissions;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use kiln_cache::{CacheMount, Claim, Entry, LayerDraft, LayerTree, SourceTree};
use kiln_image::Platform;
use kiln_sandbox::{
    Binfmt, Capabilities, DeviceNode, Exit, ExitStatus, HostDevice, HostEntry, Identity, Io, Limits, Mount,
    MountKind, Network, Rootfs, SandboxError, Security, Spec, insecure_devices, resolve_group, resolve_user,
};
use rustix::fs::{AtFlags, CWD, Mode};
use rustix::io::Errno;

use super::cache_mounts::{CachePlace, Caches};
use super::executor::Confinement;
use super::file::Part;
use super::log::{Clip, Log};
use super::secrets::{Leak, Masked, Shown};
use super::{Made, Step, file, volumes};
use crate::event::{Event, LogStream};
use crate::explain::Facts;
use crate::graph::{
    Exec, ExecMount, ExecMountKind, ExtraGroups, InputIndex, NetworkMode, Volume, VolumeAccess,
};
use crate::solve::key::{MountContents, exec_key};
use crate::solve::{Isolation, Output, Shortage, Snapshot, SolveError, Solver, layers};

/// `/etc/passwd` and `/etc/group` of a hostile image are read up to this size (THREATS A14, C10).
const ACCOUNT_FILE_LIMIT: u64 = 4 << 20;

/// Where scripts are.
const SCRIPTS: &str = "/dev/pipes";

/// Mode of a script.
const SCRIPT_MODE: u32 = 0o755;

/// Mode of a tmpfs mount, as `/tmp` has it.
const TMPFS_MODE: u32 = 0o1777;

/// Runs an exec vertex.
pub(super) fn run(step: &Step<'_>, exec: &Exec) -> Result<Output, SolveError> {
    let root = step.snapshot(InputIndex(0))?;
    let mut contents = contents_of_mounts(step, exec)?;
    let mut parts = Vec::new();
    let mut key = exec_key(exec, &step.vertex.platform, &root, &contents);
    let mut definition = None;
    if mounts_of_inputs(exec).any(|mount| mount.stage_part(step).is_some()) {
        definition = Some(key);
        key = match step.solver.store.defined(&key)? {
            Some(known) => known,
            None => {
                if !file::is_at_hand(step, &Snapshot::default())?
                    && let Some(output) = step.import(&key, &root)
                {
                    return Ok(output);
                }
                parts = look_at_parts(step, exec)?;
                for (contents, part) in contents.iter_mut().zip(&parts) {
                    if let Some(part) = part {
                        *contents = MountContents::Selection(part.contents);
                    }
                }
                let found = exec_key(exec, &step.vertex.platform, &root, &contents);
                if step.forecast.is_none() {
                    step.solver.store.define(&key, &found)?;
                }
                found
            }
        };
    }
    let facts = || facts(step, exec, &root, &parts);
    step.find_or_make(key, definition, &root, &facts, |claim| {
        match make(step, exec, &root, claim) {
            // It ran until it asked for the network. Those who come now get the host's, if that is allowed.
            Err(SolveError::Network(error)) => {
                let solver = step.solver;
                solver.networks.without::<()>(error, solver.settings.isolation, &solver.reporter)?;
                make(step, exec, &root, claim)
            }
            made => made,
        }
    })
}

/// A mount that shows an input, or begins as one.
struct InputMount<'a> {
    target: &'a str,
    input: InputIndex,
    source: &'a str,
}

/// In the order of `exec.mounts`.
fn mounts_of_inputs(exec: &Exec) -> impl Iterator<Item = InputMount<'_>> {
    exec.mounts.iter().filter_map(|mount| match &mount.kind {
        ExecMountKind::Bind { input, source, .. }
        | ExecMountKind::Cache { seed: Some(input), source, .. } => {
            Some(InputMount { target: &mount.target, input: *input, source })
        }
        _ => None,
    })
}

impl InputMount<'_> {
    /// The stage, if it shows a part of one. All of a stage is known by its layers well enough.
    fn stage_part<'s>(&self, step: &'s Step<'_>) -> Option<&'s Snapshot> {
        match step.inputs.get(self.input.0) {
            Some(Output::Snapshot(snapshot)) if !file::clean(self.source).as_os_str().is_empty() => {
                Some(snapshot)
            }
            _ => None,
        }
    }
}

/// What is at the paths of stages that are mounted, in the order of [`mounts_of_inputs`]; `None` for other mounts, and
/// where there is nothing (which is said when it is mounted).
fn look_at_parts(step: &Step<'_>, exec: &Exec) -> Result<Vec<Option<Part>>, SolveError> {
    let look = |mount: InputMount<'_>| {
        let Some(stage) = mount.stage_part(step) else { return Ok(None) };
        let tree: Arc<dyn SourceTree> = Arc::new(layers::tree(step.solver, stage)?);
        file::part_at(&tree, mount.source)
    };
    mounts_of_inputs(exec).map(look).collect()
}

/// What the key is made of, for explanations. `parts` are those that were looked at, if any.
fn facts(step: &Step<'_>, exec: &Exec, root: &Snapshot, parts: &[Option<Part>]) -> Facts {
    let mut facts = Facts::of_exec(exec, &step.vertex.platform, root);
    let looked;
    let parts = if parts.is_empty() {
        looked = look_at_parts(step, exec).unwrap_or_default();
        &looked
    } else {
        parts
    };
    for (index, mount) in mounts_of_inputs(exec).enumerate() {
        match (step.inputs.get(mount.input.0), parts.get(index)) {
            (_, Some(Some(part))) => facts.add_mounted_files(mount.target, part.files.clone()),
            (Some(Output::Snapshot(snapshot)), _) => facts.add_mounted_root(mount.target, snapshot),
            (Some(Output::Tree(tree)), _) => {
                facts.add_mounted_files(mount.target, file::facts_at(tree, mount.source).unwrap_or_default());
            }
            (None, _) => {}
        }
    }
    facts
}

/// What is mounted: of a context the part that is mounted, of a stage its layers.
fn contents_of_mounts(step: &Step<'_>, exec: &Exec) -> Result<Vec<MountContents>, SolveError> {
    mounts_of_inputs(exec)
        .map(|mount| match step.inputs.get(mount.input.0) {
            Some(Output::Snapshot(snapshot)) => Ok(MountContents::Snapshot(snapshot.clone())),
            Some(Output::Tree(tree)) => Ok(MountContents::Selection(file::contents_at(tree, mount.source)?)),
            None => Err(SolveError::MissingInput { what: "input", name: mount.input.0.to_string() }),
        })
        .collect()
}

fn make(step: &Step<'_>, exec: &Exec, root: &Snapshot, claim: &mut Claim) -> Result<Made, SolveError> {
    let solver = step.solver;
    let settings = &solver.settings;
    let has_namespaces = solver.executor.confinement() == Confinement::Namespaces;
    let mut lease = match exec.network {
        NetworkMode::Default if !has_namespaces && settings.isolation == Isolation::Required => {
            return Err(SolveError::SharedNetwork);
        }
        NetworkMode::Default if has_namespaces => {
            Some(solver.networks.lease(exec, settings.isolation, &solver.reporter)?)
        }
        NetworkMode::Default | NetworkMode::None | NetworkMode::Host => None,
    };
    let tree = layers::tree(solver, root)?;
    let mut draft = solver.store.draft_layer()?;
    draft.stands_on(tree.clone());
    give_root(&draft, tree.entry(Path::new(""))?)?;
    let mut identity = identity(&tree, exec)?;
    let mut prepared = Prepared::of(step, exec, &identity)?;
    let device_env = prepared.add_devices(step, exec, &mut identity)?;
    let network = match (&lease, exec.network) {
        (Some(lease), _) => lease.network(),
        (None, NetworkMode::None) => Network::None,
        (None, _) => Network::Host,
    };
    let spec = Spec {
        rootfs: Rootfs {
            layers: match has_namespaces {
                true => layers::mountable(solver, root)?,
                false => layers::paths(solver, root),
            },
            stubs: match has_namespaces {
                true => Some(solver.store.mount_stubs()?),
                false => None,
            },
            upper: draft.fs(),
            work: draft.work(),
            trees: match has_namespaces {
                true => None,
                false => Some(solver.trees.of(solver.store, &solver.reporter)?),
            },
        },
        argv: exec.argv.iter().map(OsString::from).collect(),
        env: environment(exec, &prepared.env, device_env, &identity),
        cwd: PathBuf::from(&exec.cwd),
        identity,
        hostname: exec.hostname.clone(),
        mounts: prepared.mounts,
        network,
        dns: settings.dns.clone(),
        extra_hosts: exec
            .extra_hosts
            .iter()
            .map(|(name, address)| HostEntry { name: name.clone(), address: *address })
            .collect(),
        capabilities: exec.capabilities,
        options: exec.security_options,
        security: if exec.insecure { Security::Insecure } else { Security::Sandbox },
        binfmt: Binfmt::of(&step.vertex.platform.architecture, &Platform::host().architecture),
        limits: Limits {
            shm_bytes: exec.shm_bytes,
            ulimits: exec.ulimits.clone(),
            resources: settings.resources.clone(),
            time: settings.step_timeout,
        },
        io: Io::Captured,
    };
    let mut log = Log::default();
    let (mut stdout, mut stderr) = (Clip::new(solver.log_limits), Clip::new(solver.log_limits));
    let mut tell = |stream, bytes: &[u8]| {
        log.push(bytes);
        claim.log(bytes);
        if let Some(id) = step.id {
            let clip = if stream == LogStream::Stdout { &mut stdout } else { &mut stderr };
            let bytes = clip.shown(bytes, Instant::now());
            if !bytes.is_empty() {
                let at = solver.reporter.elapsed();
                solver.reporter.send(Event::Log { id, stream, bytes, at });
            }
        }
    };
    let secrets = prepared.secrets;
    let mut masked = [Masked::new(&secrets), Masked::new(&secrets)];
    let mut output = |stream, bytes: &[u8]| match stream {
        kiln_sandbox::Output::Stdout => tell(LogStream::Stdout, &masked[0].push(bytes)),
        kiln_sandbox::Output::Stderr => tell(LogStream::Stderr, &masked[1].push(bytes)),
    };
    let ended = match (solver.executor.run(&spec, &mut output, &solver.cancel), &spec.binfmt) {
        (Err(SandboxError::NotExecutable { command, source }), Binfmt::Missing { architecture })
            if source.raw_os_error() == Some(Errno::NOEXEC.raw_os_error()) =>
        {
            return Err(SolveError::ForeignProgram { command, architecture: architecture.clone() });
        }
        (ended, _) => ended,
    };
    // What has further rights may have changed its network, and one that could not be connected is of no use.
    let has_more =
        exec.insecure || exec.security_options.unfiltered || exec.capabilities != Capabilities::default();
    let is_spoilt = has_more || matches!(ended, Err(SandboxError::Network(_)));
    if let Some(lease) = lease.take_if(|_| is_spoilt) {
        lease.discard();
    }
    let exit = ended?;
    for (stream, masked) in [LogStream::Stdout, LogStream::Stderr].into_iter().zip(&mut masked) {
        let rest = masked.end();
        if !rest.is_empty() {
            tell(stream, &rest);
        }
    }
    drop(spec);
    keep_kernel_directories(&draft, &tree)?;
    let code = match exit.status {
        ExitStatus::Code(code) => code,
        ExitStatus::Signal(signal) => 128 + signal,
    };
    if code != 0 {
        return Err(SolveError::StepFailed {
            step: step.vertex.name.clone(),
            command: exec.argv.join(" "),
            code,
            log_tail: log.tail.into(),
            shortage: shortage(solver, &exit),
            span: step.vertex.span,
        });
    }
    if !solver.inputs.allow_secret_in_layer {
        let root = draft.fs();
        let leak = secrets.search(&root).map_err(|source| SolveError::Io { path: root, source })?;
        if let Some(Leak { id, path }) = leak {
            return Err(SolveError::SecretInLayer { id, path });
        }
    }
    // Mounts are given back before others may see the result.
    drop(prepared.guards);
    Ok(Made {
        draft,
        contents: None,
        size_bytes: None,
        space: None,
        log: log.head,
        usage: exit.usage,
        diff_id: None,
        key: None,
    })
}

/// What was lacking when a step failed. The step's own words say it as well, if they are read to the end.
fn shortage(solver: &Solver<'_>, exit: &Exit) -> Option<Shortage> {
    if exit.oom_killed {
        return Some(Shortage::Memory { limit: solver.settings.resources.memory_bytes });
    }
    if exit.timed_out {
        return solver.settings.step_timeout.map(Shortage::Time);
    }
    let space = rustix::fs::statvfs(solver.store.root()).ok()?;
    let full = space.f_bavail * space.f_frsize < FULL_BYTES || (space.f_files > 0 && space.f_favail == 0);
    full.then_some(Shortage::Disk)
}

/// Below this many free bytes a disk counts as full: what failed for want of space has mostly removed its last piece.
const FULL_BYTES: u64 = 1 << 20;

/// The upper directory's own root decides how the merged root looks.
fn give_root(draft: &LayerDraft, parent: Option<Entry>) -> Result<(), SolveError> {
    let (mode, uid, gid) = parent.map_or((0o755, 0, 0), |root| (root.mode, root.uid, root.gid));
    give_directory(draft.fs(), mode, uid, gid)
}

/// Where the kernel's own file systems are in every step.
const KERNEL_DIRECTORIES: [&str; 3] = ["dev", "proc", "sys"];

/// An image that lacks the directories of the kernel's file systems has them from its first RUN on, as with other builders.
fn keep_kernel_directories(draft: &LayerDraft, tree: &LayerTree) -> Result<(), SolveError> {
    for name in KERNEL_DIRECTORIES {
        if tree.entry(Path::new(name))?.is_some() {
            continue;
        }
        let path = draft.fs().join(name);
        match rustix::fs::mkdirat(CWD, &path, Mode::RWXU) {
            Ok(()) => give_directory(path, 0o755, 0, 0)?,
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(SolveError::Io { path, source: errno.into() }),
        }
    }
    Ok(())
}

fn give_directory(path: PathBuf, mode: u32, uid: u32, gid: u32) -> Result<(), SolveError> {
    kiln_image::layer::owner::give_at(CWD, &path, uid, gid)
        .and_then(|()| rustix::fs::chmodat(CWD, &path, Mode::from_raw_mode(mode), AtFlags::empty()))
        .map_err(|source| SolveError::Io { path, source: source.into() })
}

fn identity(tree: &LayerTree, exec: &Exec) -> Result<Identity, SolveError> {
    let read = |path: &str| -> Result<Vec<u8>, SolveError> {
        Ok(tree.read_small(Path::new(path), ACCOUNT_FILE_LIMIT)?.unwrap_or_default())
    };
    let group = read("etc/group")?;
    let mut identity = resolve_user(&exec.user, &read("etc/passwd")?, &group)?;
    match &exec.groups {
        ExtraGroups::Named(names) => {
            for name in names {
                identity.groups.push(resolve_group(name, &group)?);
            }
        }
        ExtraGroups::Kept => identity.keeps_groups = true,
    }
    Ok(identity)
}

/// All variables of the process; the user's home is given as runtimes give it.
fn environment(
    exec: &Exec,
    from_mounts: &[OsString],
    from_devices: Vec<String>,
    identity: &Identity,
) -> Vec<OsString> {
    let mut env: Vec<OsString> = exec.env.iter().chain(&exec.unkeyed_env).map(OsString::from).collect();
    for variable in from_devices {
        let name = variable.split_inclusive('=').next().unwrap_or_default().as_bytes();
        env.retain(|other| !other.as_bytes().starts_with(name));
        env.push(variable.into());
    }
    env.extend(from_mounts.iter().cloned());
    // An empty one counts as none, to runtimes.
    if !exec.env.iter().any(|variable| variable.strip_prefix("HOME=").is_some_and(|home| !home.is_empty())) {
        env.retain(|variable| variable != "HOME=");
        env.push(format!("HOME={}", identity.home).into());
    }
    env
}

/// Mounts of a step, ready, and what must live as long as they do.
#[derive(Default)]
struct Prepared {
    mounts: Vec<Mount>,
    env: Vec<OsString>,
    guards: Vec<Guard>,
    secrets: Shown,
}

/// Kept for its drop.
enum Guard {
    Scratch(#[expect(dead_code, reason = "removed on drop")] LayerDraft),
    Cache(#[expect(dead_code, reason = "released on drop")] CacheMount),
}

impl Prepared {
    fn of(step: &Step<'_>, exec: &Exec, user: &Identity) -> Result<Self, SolveError> {
        let mut prepared = Self::default();
        // Before the Dockerfile's own, which may cover them.
        if exec.insecure {
            prepared.mounts.extend(insecure_devices());
        }
        let Caches { places, held } = Caches::take(step, &exec.mounts, user)?;
        prepared.guards.extend(held.into_iter().map(Guard::Cache));
        for volume in &exec.volumes {
            prepared.add_volume(step, volume, user)?;
        }
        for device in &exec.host_devices {
            prepared.add_host_device(device)?;
        }
        for (mount, cache) in exec.mounts.iter().zip(places) {
            prepared.add(step, mount, cache, user)?;
        }
        prepared.add_scripts(step, &exec.scripts)?;
        Ok(prepared)
    }

    /// Scripts are a read-only directory (FEATURES LX31).
    fn add_scripts(&mut self, step: &Step<'_>, scripts: &[(String, String)]) -> Result<(), SolveError> {
        if scripts.is_empty() {
            return Ok(());
        }
        let files = step.solver.store.scratch_dir()?;
        for (name, body) in scripts {
            // The name comes from the Dockerfile: only its last component may decide where something is written.
            let Some(name) = Path::new(name).file_name() else { continue };
            let path = files.fs().join(name);
            std::fs::write(&path, body)
                .and_then(|()| std::fs::set_permissions(&path, Permissions::from_mode(SCRIPT_MODE)))
                .map_err(|source| SolveError::Io { path, source })?;
        }
        let kind = MountKind::Bind { source: files.fs(), subpath: PathBuf::new(), read_only: true };
        self.mounts.push(Mount { target: SCRIPTS.into(), kind, no_exec: false });
        self.guards.push(Guard::Scratch(files));
        Ok(())
    }

    /// A directory or file of the host's, which only who called kiln has named.
    fn add_volume(&mut self, step: &Step<'_>, volume: &Volume, user: &Identity) -> Result<(), SolveError> {
        let source = volume.source.clone();
        if volume.of_user {
            volumes::give_all(&source, user.uid, user.gid)?;
        }
        let has_namespaces = step.solver.executor.confinement() == Confinement::Namespaces;
        let kind = match volume.access {
            // Without mounts the host's files would be moved into the step's tree.
            VolumeAccess::Writable if !has_namespaces => {
                return Err(SolveError::WritableVolume { path: source });
            }
            VolumeAccess::ReadOnly | VolumeAccess::Writable => MountKind::Bind {
                source,
                subpath: PathBuf::new(),
                read_only: volume.access == VolumeAccess::ReadOnly,
            },
            VolumeAccess::Overlay => {
                let draft = step.solver.store.scratch_dir()?;
                let scratch = Some((draft.fs(), draft.work()));
                self.guards.push(Guard::Scratch(draft));
                MountKind::Layers { layers: vec![source], subpath: PathBuf::new(), scratch }
            }
        };
        self.mounts.push(Mount { target: PathBuf::from(&volume.target), kind, no_exec: volume.no_exec });
        Ok(())
    }

    /// A device node of the host's, which only who called kiln has named.
    fn add_host_device(&mut self, device: &HostDevice) -> Result<(), SolveError> {
        let node = DeviceNode::of_host(&device.host)
            .map_err(|source| SolveError::Io { path: device.host.clone(), source })?;
        self.mounts.push(Mount {
            target: device.target.clone(),
            kind: MountKind::Device(node),
            no_exec: false,
        });
        Ok(())
    }

    /// What devices of the host's bring; returns their variables.
    fn add_devices(
        &mut self,
        step: &Step<'_>,
        exec: &Exec,
        identity: &mut Identity,
    ) -> Result<Vec<String>, SolveError> {
        let names: Vec<String> = exec.devices.iter().flat_map(|device| device.found.clone()).collect();
        let edits = step.solver.inputs.devices.edits(&names)?;
        self.mounts.extend(edits.mounts);
        identity.groups.extend(edits.groups);
        Ok(edits.env)
    }

    /// `cache` is the place of a cache mount.
    fn add(
        &mut self,
        step: &Step<'_>,
        mount: &ExecMount,
        cache: Option<CachePlace>,
        user: &Identity,
    ) -> Result<(), SolveError> {
        let kind = match &mount.kind {
            ExecMountKind::Bind { input, source, writable } => {
                let owner = mount.of_user.then_some((user.uid, user.gid));
                let (layers, subpath) = self.bind(step, *input, source, owner)?;
                let scratch = if *writable {
                    let draft = step.solver.store.scratch_dir()?;
                    let paths = (draft.fs(), draft.work());
                    self.guards.push(Guard::Scratch(draft));
                    Some(paths)
                } else {
                    None
                };
                MountKind::Layers { layers, subpath, scratch }
            }
            ExecMountKind::Cache { read_only, .. } => {
                let missing = || SolveError::MissingInput { what: "cache mount", name: mount.target.clone() };
                let CachePlace { directory: source, subpath } = cache.ok_or_else(missing)?;
                MountKind::Bind { source, subpath, read_only: *read_only }
            }
            ExecMountKind::Tmpfs { size, read_only } => {
                let (uid, gid) = if mount.of_user { (user.uid, user.gid) } else { (0, 0) };
                MountKind::Tmpfs { size: *size, mode: TMPFS_MODE, uid, gid, read_only: *read_only }
            }
            ExecMountKind::Secret { id, env, required, mode, uid, gid } => {
                let Some(secret) = step.solver.inputs.secrets.get(id) else {
                    if *required {
                        return Err(SolveError::MissingSecret { id: id.clone() });
                    }
                    // As in BuildKit: no file, and a variable with nothing in it.
                    self.env.extend(env.as_ref().map(|name| format!("{name}=").into()));
                    return Ok(());
                };
                self.secrets.add(id, &secret.0);
                if let Some(name) = env {
                    use std::os::unix::ffi::OsStringExt as _;
                    let mut variable = name.clone().into_bytes();
                    variable.push(b'=');
                    variable.extend_from_slice(&secret.0);
                    self.env.push(OsString::from_vec(variable));
                }
                if mount.target.is_empty() {
                    return Ok(());
                }
                MountKind::File { contents: secret.0.clone(), mode: *mode, uid: *uid, gid: *gid }
            }
            ExecMountKind::Ssh { id, required, mode, uid, gid } => {
                let Some(socket) = step.solver.inputs.ssh.get(id) else {
                    if *required {
                        return Err(SolveError::MissingSsh { id: id.clone() });
                    }
                    return Ok(());
                };
                MountKind::Socket { source: socket.clone(), mode: *mode, uid: *uid, gid: *gid }
            }
        };
        self.mounts.push(Mount { target: PathBuf::from(&mount.target), kind, no_exec: mount.no_exec });
        Ok(())
    }

    /// The layers to show, and the path in them. What shall all have one owner is a layer of its own.
    fn bind(
        &mut self,
        step: &Step<'_>,
        input: InputIndex,
        source: &str,
        owner: Option<(u32, u32)>,
    ) -> Result<(Vec<PathBuf>, PathBuf), SolveError> {
        let whole: Arc<dyn SourceTree>;
        match step.inputs.get(input.0) {
            Some(Output::Snapshot(snapshot)) if owner.is_some() => {
                whole = Arc::new(layers::tree(step.solver, snapshot)?);
                let (layer, subpath) = file::materialize(step, &whole, source, owner)?;
                Ok((vec![step.solver.store.layer_path(layer.id)], subpath))
            }
            Some(Output::Snapshot(snapshot)) => {
                step.solver.ensure_layers(&snapshot.layers())?;
                let mut layers = layers::mountable(step.solver, snapshot)?;
                if layers.is_empty() {
                    let nothing = step.solver.store.scratch_dir()?;
                    layers.push(nothing.fs());
                    self.guards.push(Guard::Scratch(nothing));
                }
                Ok((layers, file::clean(source)))
            }
            // The process must see the filtered tree, and must not reach the user's own files: it sees a layer.
            Some(Output::Tree(tree)) => {
                let (layer, subpath) = file::materialize(step, tree, source, owner)?;
                Ok((vec![step.solver.store.layer_path(layer.id)], subpath))
            }
            None => Err(SolveError::MissingInput { what: "input", name: input.0.to_string() }),
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn owners_that_the_sandbox_notes_are_those_that_layers_are_packed_by() {
        assert_eq!(kiln_sandbox::OWNER_ATTRIBUTE, kiln_image::layer::owner::NOTE);
    }
}
