//! Resource limits: rlimits by Docker's names, and a control group of the sandbox's own where memory or tasks are
//! limited.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Limits, SandboxError};

/// A limit as setrlimit(2) takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rlimit {
    pub(crate) resource: u32,
    pub(crate) soft: u64,
    pub(crate) hard: u64,
}

/// Docker's names (`--ulimit`) and the kernel's numbers.
#[allow(clippy::unnecessary_cast, reason = "their type depends on the C library")]
const RESOURCES: &[(&str, u32)] = &[
    ("as", libc::RLIMIT_AS as u32),
    ("core", libc::RLIMIT_CORE as u32),
    ("cpu", libc::RLIMIT_CPU as u32),
    ("data", libc::RLIMIT_DATA as u32),
    ("fsize", libc::RLIMIT_FSIZE as u32),
    ("locks", libc::RLIMIT_LOCKS as u32),
    ("memlock", libc::RLIMIT_MEMLOCK as u32),
    ("msgqueue", libc::RLIMIT_MSGQUEUE as u32),
    ("nice", libc::RLIMIT_NICE as u32),
    ("nofile", libc::RLIMIT_NOFILE as u32),
    ("nproc", libc::RLIMIT_NPROC as u32),
    ("rss", libc::RLIMIT_RSS as u32),
    ("rtprio", libc::RLIMIT_RTPRIO as u32),
    ("rttime", libc::RLIMIT_RTTIME as u32),
    ("sigpending", libc::RLIMIT_SIGPENDING as u32),
    ("stack", libc::RLIMIT_STACK as u32),
];

/// Resolves the names of `limits`.
pub(crate) fn rlimits(limits: &Limits) -> Result<Vec<Rlimit>, SandboxError> {
    limits
        .ulimits
        .iter()
        .map(|(name, soft, hard)| {
            let known = RESOURCES.iter().find(|(known, _)| known == name);
            let (_, resource) = known.ok_or_else(|| SandboxError::Setup {
                step: format!("ulimit `{name}`"),
                source: io::Error::new(io::ErrorKind::InvalidInput, "there is no such limit"),
            })?;
            Ok(Rlimit { resource: *resource, soft: *soft, hard: *hard })
        })
        .collect()
}

/// The sandbox's control groups; removed on drop, when its processes are gone.
#[derive(Debug, Default)]
pub(crate) struct ControlGroup {
    directories: Vec<PathBuf>,
    /// `cgroup.procs` of each; the child writes itself in.
    pub(crate) joins: Vec<OwnedFd>,
    /// Says how many processes were killed for memory.
    oom_events: Option<PathBuf>,
}

impl ControlGroup {
    /// Makes what `limits` ask for; nothing where they ask for nothing. Where no hierarchy is writable, an error: a
    /// limit that does not hold is worse than none.
    pub(crate) fn create(limits: &Limits) -> io::Result<ControlGroup> {
        let mut group = ControlGroup::default();
        if limits.memory_bytes.is_none() && limits.pids.is_none() {
            return Ok(group);
        }
        let own = fs::read_to_string("/proc/self/cgroup")?;
        if let Some(v2) = writable_v2(&own, limits) {
            let directory = group.make(&v2)?;
            if let Some(bytes) = limits.memory_bytes {
                fs::write(directory.join("memory.max"), bytes.to_string())?;
                group.oom_events = Some(directory.join("memory.events"));
            }
            if let Some(pids) = limits.pids {
                fs::write(directory.join("pids.max"), pids.to_string())?;
            }
            return Ok(group);
        }
        if let Some(bytes) = limits.memory_bytes {
            let directory = group.make(&v1(&own, "memory")?)?;
            fs::write(directory.join("memory.limit_in_bytes"), bytes.to_string())?;
            // Best effort: without swap accounting the file does not exist.
            let _ = fs::write(directory.join("memory.memsw.limit_in_bytes"), bytes.to_string());
            group.oom_events = Some(directory.join("memory.oom_control"));
        }
        if let Some(pids) = limits.pids {
            let directory = group.make(&v1(&own, "pids")?)?;
            fs::write(directory.join("pids.max"), pids.to_string())?;
        }
        Ok(group)
    }

    fn make(&mut self, parent: &Path) -> io::Result<PathBuf> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("kiln-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let directory = parent.join(name);
        match fs::create_dir(&directory) {
            // Left by a killed engine that had this process id.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other?,
        }
        self.directories.push(directory.clone());
        self.joins.push(fs::OpenOptions::new().write(true).open(directory.join("cgroup.procs"))?.into());
        Ok(directory)
    }

    /// The most memory that all processes had at once; `None` without a group, or where the kernel does not say.
    pub(crate) fn peak_memory_bytes(&self) -> Option<u64> {
        const FILES: [&str; 2] = ["memory.peak", "memory.max_usage_in_bytes"];
        let paths = self.directories.iter().flat_map(|dir| FILES.map(|file| dir.join(file)));
        paths.filter_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok()).next()
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
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        for directory in &self.directories {
            let _ = fs::remove_dir(directory);
        }
    }
}

const MOUNT: &str = "/sys/fs/cgroup";

/// The engine's own cgroup2 directory, if the controllers that `limits` need can be used in children of it.
fn writable_v2(own: &str, limits: &Limits) -> Option<PathBuf> {
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    let mut directory = PathBuf::from(MOUNT).join(path.trim_start_matches('/'));
    // A group with processes cannot hand controllers to children ("no internal processes"), so the nearest ancestor
    // that does is used.
    loop {
        if let Ok(enabled) = fs::read_to_string(directory.join("cgroup.subtree_control")) {
            let has = |name: &str| enabled.split_whitespace().any(|controller| controller == name);
            if (limits.memory_bytes.is_none() || has("memory")) && (limits.pids.is_none() || has("pids")) {
                return Some(directory);
            }
        }
        if directory == Path::new(MOUNT) || !directory.pop() {
            return None;
        }
    }
}

/// The engine's own directory in a hierarchy of version 1.
fn v1(own: &str, controller: &str) -> io::Result<PathBuf> {
    let path = own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let controllers = fields.next()?;
        controllers.split(',').any(|name| name == controller).then(|| fields.next())?
    });
    let root = PathBuf::from(MOUNT).join(controller);
    let path = path.ok_or_else(|| io::Error::other(format!("there is no {controller} control group")))?;
    let directory = root.join(path.trim_start_matches('/'));
    // In a container the path is one of the host's and not visible.
    Ok(if directory.is_dir() { directory } else { root })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::unnecessary_cast, reason = "the type depends on the C library")]
    fn ulimits_have_dockers_names() {
        let limits = Limits { ulimits: vec![("nofile".into(), 10, 20)], ..Limits::default() };
        let expected = Rlimit { resource: libc::RLIMIT_NOFILE as u32, soft: 10, hard: 20 };
        assert_eq!(rlimits(&limits).unwrap(), [expected]);
        let limits = Limits { ulimits: vec![("files".into(), 10, 20)], ..Limits::default() };
        let error = rlimits(&limits).unwrap_err();
        assert_eq!(error.to_string(), "sandbox: ulimit `files`: there is no such limit");
    }
}
