//! `config.json` of a bundle (OCI runtime specification, `config.md` and `config-linux.md`).

use std::ffi::{CStr, OsStr, OsString};
use std::io;
use std::path::Path;

use rustix::fs::FileType;
use serde_json::{Value, json};

use super::source_name;
use crate::control_group::{self, ControlGroup};
use crate::enter::DEVICES;
use crate::masks::{MASKED_IN_PROC, READ_ONLY_IN_PROC};
use crate::plan::{DEFAULT_SHM_BYTES, Plan, PlannedSource, setup};
use crate::{Network, SandboxError, Security, Spec, limits, seccomp, userns};

/// The version whose fields are used; what is newer (`idmap`, `ioPriority` …) is not needed.
const VERSION: &str = "1.0.2";

/// Writes down `spec`, whose mounts and ids are those of `plan`, for a bundle at `bundle`.
pub(super) fn bundle(
    spec: &Spec,
    plan: &Plan,
    group: &ControlGroup,
    bundle: &Path,
) -> Result<Vec<u8>, SandboxError> {
    let config = json!({
        "ociVersion": VERSION,
        "root": { "path": text("the upper directory", spec.rootfs.upper.as_os_str())?, "readonly": false },
        "hostname": spec.hostname,
        "process": process(spec, plan)?,
        "mounts": mounts(spec, plan, bundle)?,
        "linux": linux(spec, plan, group),
        // crun's; others set the groups that are listed.
        "annotations": if spec.identity.keeps_groups { json!({ "run.oci.keep_original_groups": "1" }) } else { json!({}) },
    });
    Ok(config.to_string().into_bytes())
}

fn process(spec: &Spec, plan: &Plan) -> Result<Value, SandboxError> {
    let argv = spec.argv.iter().map(|word| text("the command", word)).collect::<Result<Vec<_>, _>>()?;
    let env: Vec<&OsStr> = plan.env.iter().map(|entry| os(entry)).collect();
    let env = env.into_iter().map(|entry| text("the environment", entry)).collect::<Result<Vec<_>, _>>()?;
    let names: Vec<String> = plan.capabilities.iter_names().map(|(name, _)| format!("CAP_{name}")).collect();
    // A user other than root has none, as exec would have it anyway; none are ever inheritable or ambient.
    let own = if plan.uid == 0 || spec.security == Security::Insecure { names.clone() } else { Vec::new() };
    let rlimits: Vec<Value> = limits::rlimits(&spec.limits)?
        .iter()
        .zip(&spec.limits.ulimits)
        .map(|(limit, (name, ..))| {
            json!({ "type": format!("RLIMIT_{}", name.to_ascii_uppercase()), "soft": limit.soft, "hard": limit.hard })
        })
        .collect();
    Ok(json!({
        "terminal": false,
        "user": {
            "uid": plan.uid,
            "gid": plan.gid,
            "umask": 0o022,
            "additionalGids": spec.identity.groups,
        },
        "args": argv,
        "env": env,
        "cwd": absolute("the working directory", &plan.cwd)?,
        "capabilities": { "bounding": names, "effective": own, "permitted": own },
        "rlimits": rlimits,
        "noNewPrivileges": spec.options.no_new_privileges,
    }))
}

fn mounts(spec: &Spec, plan: &Plan, bundle: &Path) -> Result<Value, SandboxError> {
    let access = match spec.security {
        Security::Sandbox => "ro",
        Security::Insecure => "rw",
    };
    let shm = format!("size={}", spec.limits.shm_bytes.unwrap_or(DEFAULT_SHM_BYTES));
    let mut pts = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
    if plan.rights.terminal_group {
        pts.push("gid=5");
    }
    // Without devices, but for the nodes mounted below: what a step makes there does not work.
    let mut dev = vec!["nosuid", "noexec", "strictatime", "mode=755", "size=65536k"];
    if spec.security == Security::Sandbox {
        dev.push("nodev");
    }
    let mut mounts = vec![
        kernels("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        kernels("/dev", "tmpfs", &dev),
        kernels("/dev/pts", "devpts", &pts),
        kernels("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", &shm]),
        kernels("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
    ];
    // The kernel shows the devices of a network only to who owns it; the host's view has the same to tell.
    let is_owned = userns::is_initial() || !matches!(spec.network, Network::Host);
    if is_owned {
        mounts.push(kernels("/sys", "sysfs", &["nosuid", "noexec", "nodev", access]));
    } else {
        let options = ["rbind", "nosuid", "noexec", "nodev", access];
        mounts.push(json!({ "destination": "/sys", "type": "bind", "source": "/sys", "options": options }));
    }
    if userns::is_initial() {
        mounts.push(kernels("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", access]));
    }
    for device in DEVICES {
        let source = match plan.rights.device_nodes {
            true => bundle.join(os(device.name)),
            false => os(device.host).into(),
        };
        mounts.push(json!({
            "destination": format!("/dev/{}", device.name.to_string_lossy()),
            "type": "bind",
            "source": text("a device", source.as_os_str())?,
            "options": ["bind", "nosuid", "noexec"],
        }));
    }
    for (index, mount) in plan.mounts.iter().enumerate() {
        let source = bundle.join(source_name(index));
        let mut options = vec!["rbind", "nosuid"];
        if !matches!(mount.source, PlannedSource::Device(_)) {
            options.push("nodev");
        }
        if mount.no_exec || matches!(mount.source, PlannedSource::File(_)) {
            options.push("noexec");
        }
        let read_only = match &mount.source {
            PlannedSource::File(_) => true,
            PlannedSource::Bind { read_only, .. }
            | PlannedSource::Layers { read_only, .. }
            | PlannedSource::Tmpfs { read_only, .. } => *read_only,
            PlannedSource::Device(_) | PlannedSource::Socket { .. } => false,
        };
        options.push(if read_only { "ro" } else { "rw" });
        mounts.push(json!({
            "destination": absolute("a mount's target", &mount.target)?,
            "type": "bind",
            "source": text("a mount's source", source.as_os_str())?,
            "options": options,
        }));
    }
    Ok(Value::Array(mounts))
}

/// A file system of the kernel's.
fn kernels(destination: &str, kind: &str, options: &[&str]) -> Value {
    json!({ "destination": destination, "type": kind, "source": kind, "options": options })
}

fn linux(spec: &Spec, plan: &Plan, group: &ControlGroup) -> Value {
    let mut namespaces = vec!["pid", "ipc", "uts", "mount", "cgroup"];
    // Any other network is the one that the runtime is started in.
    if matches!(spec.network, Network::None) {
        namespaces.push("network");
    }
    let namespaces: Vec<Value> = namespaces.into_iter().map(|kind| json!({ "type": kind })).collect();
    let mut linux = json!({ "namespaces": namespaces });
    if let Some(path) = group.runtimes_path() {
        linux["cgroupsPath"] = json!(path);
    }
    if spec.security == Security::Sandbox {
        // In version 1 kiln's own group has the rule, and in a user namespace the kernel lets no node work.
        if userns::is_initial() && control_group::is_version_2_only() {
            linux["resources"] = json!({ "devices": devices(plan) });
        }
        let in_proc = |paths: &[&CStr]| -> Vec<String> {
            paths.iter().map(|path| format!("/proc/{}", path.to_string_lossy())).collect()
        };
        let mut masked = in_proc(MASKED_IN_PROC);
        masked.extend(plan.masked_in_sys.iter().map(|path| format!("/sys/{}", path.to_string_lossy())));
        linux["maskedPaths"] = json!(masked);
        linux["readonlyPaths"] = json!(in_proc(READ_ONLY_IN_PROC));
        if !spec.options.unfiltered {
            linux["seccomp"] = seccomp::as_oci(plan.capabilities);
        }
    }
    linux
}

/// Every node may be made and none opened but those of every sandbox and those of this one; runtimes add their terminals.
fn devices(plan: &Plan) -> Value {
    let mut rules = vec![
        json!({ "allow": false, "access": "rwm" }),
        json!({ "allow": true, "type": "c", "access": "m" }),
        json!({ "allow": true, "type": "b", "access": "m" }),
    ];
    rules.extend(DEVICES.iter().map(|device| {
        json!({ "allow": true, "type": "c", "major": device.major, "minor": device.minor, "access": "rwm" })
    }));
    rules.extend(plan.mounts.iter().filter_map(|mount| {
        let PlannedSource::Device(node) = &mount.source else { return None };
        let kind = if node.kind == FileType::BlockDevice { "b" } else { "c" };
        let (major, minor) = (node.major, node.minor);
        Some(json!({ "allow": true, "type": kind, "major": major, "minor": minor, "access": "rwm" }))
    }));
    Value::Array(rules)
}

fn absolute(what: &str, path: &CStr) -> Result<String, SandboxError> {
    let inner = text(what, os(path))?;
    Ok(if inner == "." { "/".to_owned() } else { format!("/{inner}") })
}

fn os(text: &CStr) -> &OsStr {
    use std::os::unix::ffi::OsStrExt as _;
    OsStr::from_bytes(text.to_bytes())
}

/// JSON has Unicode only.
fn text(what: &str, value: &OsStr) -> Result<String, SandboxError> {
    OsString::from(value).into_string().map_err(|_| {
        setup(what, io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8, which an OCI runtime needs"))
    })
}
