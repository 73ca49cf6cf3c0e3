//! The control group of a sandbox whose processes may together not use everything; none is made without such a limit.
//!
//! Hierarchies of version 2 (one for all controllers), of version 1 (one each) and both at once are taken as they are
//! found: a controller that version 2 offers here is used there.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::enter::DEVICES;
use crate::{DeviceKind, Mount, MountKind, Resources, Security, Swap, userns};

/// The groups of one sandbox; removed on drop, when its processes are gone.
#[derive(Debug, Default)]
pub(crate) struct ControlGroup {
    directories: Vec<PathBuf>,
    /// `cgroup.procs` of each; the child writes itself in.
    pub(crate) joins: Vec<OwnedFd>,
    /// Says how many processes were killed for memory.
    oom_events: Option<PathBuf>,
    /// In which a runtime makes its own, a path from the root of version 2.
    above_runtimes: Option<PathBuf>,
}

/// Who puts the processes into the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    /// The sandbox's own child, which joins it.
    Sandbox,
    /// An OCI runtime, which is shown version 2 alone: there it makes a group of its own, in kiln's if that has the limits;
    /// those of version 1 are joined before it starts.
    Runtime(Security),
}

/// The runtime's group in kiln's.
const RUNTIMES_OWN: &str = "step";

impl ControlGroup {
    /// Makes what `resources` ask for; nothing where they ask for nothing. Where no hierarchy is writable, an error: a
    /// limit that does not hold is worse than none.
    pub(crate) fn create(
        resources: &Resources,
        holder: Holder,
        mounts: &[Mount],
    ) -> io::Result<ControlGroup> {
        let mut group = ControlGroup::default();
        let name = group_name();
        // Runtimes make one in any case; an ordinary user's may go without.
        if let Holder::Runtime(security) = holder
            && userns::is_initial()
        {
            group.above_runtimes = Some(PathBuf::from(&name));
            if security == Security::Sandbox && !is_version_2_only() {
                group.restrict_devices(&name, mounts)?;
            }
        }
        if *resources == Resources::default() {
            return Ok(group);
        }
        let settings = Setting::all(resources);
        let mut controllers: Vec<&'static str> = settings.iter().map(|setting| setting.controller).collect();
        controllers.dedup();
        let parent = resources.parent.as_deref().map(parent_path).transpose()?;
        let own = fs::read_to_string("/proc/self/cgroup")?;
        if let Some(directory) = version_2(&own, &controllers, parent.as_deref()) {
            let directory = group.make(&directory, &name)?;
            if holder != Holder::Sandbox {
                // A group with processes could hand no controllers to the one that the runtime makes in it.
                group.joins.clear();
                group.above_runtimes = directory.strip_prefix(version_2_root()).map(Path::to_owned).ok();
            }
            if controllers.contains(&"memory") {
                group.oom_events = Some(directory.join("memory.events"));
            }
            for setting in &settings {
                setting.write(&directory, setting.version_2)?;
            }
            return Ok(group);
        }
        if controllers.is_empty() {
            controllers.push("pids");
        }
        for controller in controllers {
            let directory = group.make(&version_1(&own, controller, parent.as_deref())?, &name)?;
            match controller {
                "memory" => group.oom_events = Some(directory.join("memory.oom_control")),
                // Nothing may enter a group that has no processors or no memory nodes.
                "cpuset" => inherit(&directory, &["cpuset.cpus", "cpuset.mems"])?,
                _ => {}
            }
            for setting in settings.iter().filter(|setting| setting.controller == controller) {
                setting.write(&directory, setting.version_1)?;
            }
        }
        Ok(group)
    }

    /// Lets the processes make every device node and open none but those that each sandbox has and those that are mounted.
    /// kiln's own sandbox needs no such rule, since it keeps nodes from working by `nodev`, which runtimes lift. In version 2
    /// the runtime loads it.
    fn restrict_devices(&mut self, name: &str, mounts: &[Mount]) -> io::Result<()> {
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let directory = self.make(&version_1(&own, "devices", None)?, name)?;
        let write = |file: &str, rule: &str| {
            let path = directory.join(file);
            fs::write(&path, rule).map_err(|error| at(&path, error))
        };
        write("devices.deny", "a")?;
        for rule in ["c *:* m", "b *:* m", "c 136:* rwm", "c 5:2 rwm"] {
            write("devices.allow", rule)?;
        }
        for device in DEVICES {
            write("devices.allow", &format!("c {}:{} rwm", device.major, device.minor))?;
        }
        mounts.iter().try_for_each(|mount| {
            let MountKind::Device(node) = &mount.kind else { return Ok(()) };
            let kind = match node.kind {
                DeviceKind::Character => 'c',
                DeviceKind::Block => 'b',
            };
            write("devices.allow", &format!("{kind} {}:{} rwm", node.major, node.minor))
        })
    }

    fn make(&mut self, parent: &Path, name: &str) -> io::Result<PathBuf> {
        let directory = parent.join(name);
        match fs::create_dir(&directory) {
            // Left by a killed engine that had this process id.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other.map_err(|error| at(&directory, error))?,
        }
        self.directories.push(directory.clone());
        let join = fs::OpenOptions::new().write(true).open(directory.join("cgroup.procs"));
        self.joins.push(join.map_err(|error| at(&directory, error))?.into());
        Ok(directory)
    }

    /// Where an OCI runtime makes its group, from the hierarchy's root; `None` where it is to choose.
    pub(crate) fn runtimes_path(&self) -> Option<String> {
        let above = self.above_runtimes.as_ref()?;
        Some(format!("/{}", above.join(RUNTIMES_OWN).display()))
    }

    /// Whether a process was killed for memory.
    pub(crate) fn oom_killed(&self) -> bool {
        let text = self.oom_events.as_ref().and_then(|path| fs::read_to_string(path).ok());
        text.is_some_and(|text| {
            text.lines().any(|line| {
                line.strip_prefix("oom_kill ").is_some_and(|count| count.trim().parse() != Ok(0_u64))
            })
        })
    }

    /// The most memory that all processes had at once; `None` without a group, or where the kernel does not say.
    pub(crate) fn peak_memory_bytes(&self) -> Option<u64> {
        const FILES: [&str; 2] = ["memory.peak", "memory.max_usage_in_bytes"];
        let paths = self.directories.iter().flat_map(|dir| FILES.map(|file| dir.join(file)));
        paths.filter_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok()).next()
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        // What a runtime leaves, above all one that was killed.
        if let Some(above) = &self.above_runtimes {
            let above = version_2_root().join(above);
            let _ = fs::remove_dir(above.join(RUNTIMES_OWN));
            let _ = fs::remove_dir(above);
        }
        for directory in &self.directories {
            let _ = fs::remove_dir(directory);
        }
    }
}

/// A name that no other sandbox has.
fn group_name() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("kiln-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Whether version 2 has all controllers here.
pub(crate) fn is_version_2_only() -> bool {
    Path::new(MOUNT).join("cgroup.controllers").exists()
}

/// Where version 2 is mounted: alone, or beside version 1 as systemd's hybrid mode has it.
fn version_2_root() -> PathBuf {
    let root = PathBuf::from(MOUNT);
    if is_version_2_only() { root } else { root.join("unified") }
}

/// A file of a controller and what is written to it (cgroup-v1/, cgroup-v2.rst of the kernel).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Setting {
    controller: &'static str,
    /// Names of the file, empty where there is none, and the values.
    version_1: &'static str,
    version_2: &'static str,
    values: [String; 2],
    /// A kernel may lack the file: without swap accounting.
    optional: bool,
}

impl Setting {
    /// In an order in which the kernel takes them, those of one controller together.
    fn all(resources: &Resources) -> Vec<Setting> {
        let mut settings = Vec::new();
        let mut set = |controller, version_1, version_2, values: [String; 2], optional| {
            settings.push(Setting { controller, version_1, version_2, values, optional });
        };
        let same = |value: String| [value.clone(), value];
        if let Some(bytes) = resources.memory_bytes {
            set("memory", "memory.limit_in_bytes", "memory.max", same(bytes.to_string()), false);
            // Version 1 counts memory and swap together, version 2 swap alone.
            let (both, swap) = match resources.memory_swap {
                None => (bytes.to_string(), "0".to_owned()),
                Some(Swap::Unlimited) => ("-1".to_owned(), "max".to_owned()),
                Some(Swap::Bytes(both)) => (both.to_string(), both.saturating_sub(bytes).to_string()),
            };
            set("memory", "memory.memsw.limit_in_bytes", "memory.swap.max", [both, swap], true);
        }
        if let Some(pids) = resources.pids {
            set("pids", "pids.max", "pids.max", same(pids.to_string()), false);
        }
        if let Some(shares) = resources.cpu_shares {
            set("cpu", "cpu.shares", "cpu.weight", [shares.to_string(), weight(shares).to_string()], false);
        }
        if resources.cpu_quota_micros.is_some() || resources.cpu_period_micros.is_some() {
            let period = resources.cpu_period_micros.unwrap_or(USUAL_PERIOD_MICROS);
            let quota = resources.cpu_quota_micros.map(|quota| quota.to_string());
            let in_one = format!("{} {period}", quota.as_deref().unwrap_or("max"));
            set("cpu", "cpu.cfs_period_us", "", [period.to_string(), String::new()], false);
            let alone = quota.unwrap_or_else(|| "-1".to_owned());
            set("cpu", "cpu.cfs_quota_us", "cpu.max", [alone, in_one], false);
        }
        if let Some(cpus) = &resources.cpuset_cpus {
            set("cpuset", "cpuset.cpus", "cpuset.cpus", same(cpus.clone()), false);
        }
        if let Some(mems) = &resources.cpuset_mems {
            set("cpuset", "cpuset.mems", "cpuset.mems", same(mems.clone()), false);
        }
        settings
    }

    /// Writes it to `file`, one of its two.
    fn write(&self, directory: &Path, file: &str) -> io::Result<()> {
        if file.is_empty() {
            return Ok(());
        }
        let value = &self.values[usize::from(file == self.version_2 && self.version_1 != self.version_2)];
        let path = directory.join(file);
        match fs::write(&path, value) {
            Err(_) if self.optional => Ok(()),
            Err(error) => {
                Err(io::Error::new(error.kind(), format!("{value} for {}: {error}", path.display())))
            }
            Ok(()) => Ok(()),
        }
    }
}

/// The kernel's length of a period.
const USUAL_PERIOD_MICROS: u64 = 100_000;

/// The weight (1 to 10000) of version 2 for shares (2 to 262144) of version 1, as OCI runtimes convert them.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

const MOUNT: &str = "/sys/fs/cgroup";

/// The cgroup2 directory in which a group with these controllers can be made: `parent`, or the nearest to the engine's own.
fn version_2(own: &str, controllers: &[&str], parent: Option<&Path>) -> Option<PathBuf> {
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    let has_all = |directory: &Path| {
        let enabled = fs::read_to_string(directory.join("cgroup.subtree_control")).ok()?;
        let has = |name: &&str| enabled.split_whitespace().any(|controller| controller == *name);
        Some(controllers.iter().all(has))
    };
    if let Some(parent) = parent {
        let directory = Path::new(MOUNT).join(parent);
        // Of version 1 here, or version 2 without these controllers.
        if !is_version_2_only() {
            return None;
        }
        let _ = fs::create_dir_all(&directory);
        let wanted: Vec<String> = controllers.iter().map(|name| format!("+{name}")).collect();
        if has_all(&directory) == Some(false) {
            let _ = fs::write(directory.join("cgroup.subtree_control"), wanted.join(" "));
        }
        return Some(directory);
    }
    if controllers.is_empty() {
        return None;
    }
    let mut directory = PathBuf::from(MOUNT).join(path.trim_start_matches('/'));
    // A group with processes cannot hand controllers to children ("no internal processes"), so the nearest ancestor
    // that does is used: for an ordinary user's session that is the part of the tree which systemd has delegated.
    loop {
        if has_all(&directory) == Some(true) {
            return Some(directory);
        }
        if directory == Path::new(MOUNT) || !directory.pop() {
            return None;
        }
    }
}

/// `parent`, or the engine's own directory, in a hierarchy of version 1.
fn version_1(own: &str, controller: &str, parent: Option<&Path>) -> io::Result<PathBuf> {
    let root = PathBuf::from(MOUNT).join(controller);
    if let Some(parent) = parent {
        let mut directory = root;
        for name in parent.components() {
            directory.push(name);
            match fs::create_dir(&directory) {
                Ok(()) if controller == "cpuset" => inherit(&directory, &["cpuset.cpus", "cpuset.mems"])?,
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(at(&directory, error));
                }
                _ => {}
            }
        }
        return Ok(directory);
    }
    let path = own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let controllers = fields.next()?;
        controllers.split(',').any(|name| name == controller).then(|| fields.next())?
    });
    let path = path.ok_or_else(|| io::Error::other(format!("there is no {controller} control group")))?;
    let directory = root.join(path.trim_start_matches('/'));
    // In a container the path is one of the host's and not visible.
    Ok(if directory.is_dir() { directory } else { root })
}

/// Copies files of the group above that are still empty here.
fn inherit(directory: &Path, files: &[&str]) -> io::Result<()> {
    for file in files {
        let path = directory.join(file);
        if fs::read_to_string(&path).map_err(|error| at(&path, error))?.trim().is_empty() {
            let above = directory.parent().unwrap_or(directory).join(file);
            fs::write(&path, fs::read_to_string(&above).map_err(|error| at(&above, error))?)?;
        }
    }
    Ok(())
}

/// The path below a hierarchy's root that `--cgroup-parent` means: a path, or a slice, whose name says what is above it
/// (systemd.slice(5): `a-b.slice` lies in `a.slice`).
fn parent_path(text: &str) -> io::Result<PathBuf> {
    let slice = text.split(':').next().unwrap_or(text);
    let mut path = PathBuf::new();
    match slice.strip_suffix(".slice") {
        Some(name) if !name.contains('/') => {
            for (end, _) in name.match_indices('-') {
                path.push(format!("{}.slice", &name[..end]));
            }
            path.push(slice);
        }
        _ => {
            for component in Path::new(text).components() {
                match component {
                    Component::Normal(name) => path.push(name),
                    Component::ParentDir => {
                        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a path with `..`"));
                    }
                    _ => {}
                }
            }
        }
    }
    Ok(path)
}

fn at(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_become_the_files_of_both_versions() {
        let resources = Resources {
            memory_bytes: Some(100),
            memory_swap: Some(Swap::Bytes(150)),
            cpu_shares: Some(1024),
            cpu_quota_micros: Some(50_000),
            ..Resources::default()
        };
        let written: Vec<_> = Setting::all(&resources)
            .iter()
            .map(|set| format!("{}={} {}={}", set.version_1, set.values[0], set.version_2, set.values[1]))
            .collect();
        let expected = [
            "memory.limit_in_bytes=100 memory.max=100",
            "memory.memsw.limit_in_bytes=150 memory.swap.max=50",
            "cpu.shares=1024 cpu.weight=39",
            "cpu.cfs_period_us=100000 =",
            "cpu.cfs_quota_us=50000 cpu.max=50000 100000",
        ];
        assert_eq!(written, expected);
        assert_eq!([weight(2), weight(262_144), weight(0)], [1, 10_000, 1]);
    }

    #[test]
    fn a_parent_is_a_path_or_a_slice() {
        let path = |text| parent_path(text).unwrap();
        assert_eq!(path("/docker/builds/"), Path::new("docker/builds"));
        assert_eq!(path("a-b.slice"), Path::new("a.slice/a-b.slice"));
        assert_eq!(path("system.slice:kiln:x"), Path::new("system.slice"));
        assert!(parent_path("../..").is_err());
    }

    #[test]
    fn without_a_limit_no_group_is_made() {
        let group = ControlGroup::create(&Resources::default(), Holder::Sandbox, &[]).unwrap();
        assert!(group.joins.is_empty() && group.directories.is_empty());
    }
}
