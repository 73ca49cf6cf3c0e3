//! An ordinary user's way to what root has: a user namespace, entered once by the whole process.
//!
//! Afterwards one code path serves both: the user is id 0, the subordinate ids of `/etc/subuid` and `/etc/subgid` are 1
//! and up, files can be given to them, and overlayfs and the sandbox's namespaces are made with the rights of this
//! namespace. The host sees the user and the user's own ranges, and nobody else, whatever happens inside.
//!
//! The kernel lets only a process with one thread enter, so a program calls [`enter_user_namespace`] first in `main`.

use std::ffi::CString;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::sys::{self, Forked, PointerList};

/// What the process may do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Privileges {
    /// It is root; nothing was changed.
    Root,
    /// It is in a user namespace with the user as id 0 and the user's subordinate ids as 1 and up.
    Ranges {
        /// User ids beyond 0.
        users: u32,
        /// Group ids beyond 0.
        groups: u32,
    },
    /// It is in a user namespace in which 0 is the only id: nothing can be given to another user.
    SingleId {
        /// Why there are no more, and what to do about it.
        why: SingleIdReason,
    },
}

/// Why only one id could be mapped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SingleIdReason {
    /// No line of these files gives the user ids.
    #[error("{file} has no range for user {user}")]
    NoRange {
        /// `/etc/subuid` or `/etc/subgid`.
        file: &'static str,
        /// Name or number.
        user: String,
    },
    /// The program that maps them is not installed.
    #[error("{program} is not installed")]
    NoHelper {
        /// `newuidmap` or `newgidmap`.
        program: &'static str,
    },
    /// It refused.
    #[error("{program} failed: {message}")]
    HelperFailed {
        /// `newuidmap` or `newgidmap`.
        program: &'static str,
        /// What it said.
        message: String,
    },
}

impl SingleIdReason {
    /// The line that mends it.
    pub fn hint(&self) -> String {
        match self {
            Self::NoRange { user, .. } => {
                format!("sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}")
            }
            Self::NoHelper { .. } => {
                "sudo apt-get install uidmap (or your system's package with newuidmap)".into()
            }
            Self::HelperFailed { program, .. } => {
                let capability = if *program == "newuidmap" { "cap_setuid" } else { "cap_setgid" };
                format!(
                    "see that kiln is not started with no_new_privs and that {program} is setuid root or, inside a container, \
                     has its capability instead (chmod u-s /usr/bin/{program} && setcap {capability}=ep /usr/bin/{program})"
                )
            }
        }
    }
}

/// Why the user namespace cannot be entered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UserNamespaceError {
    /// A switch of the kernel's forbids it to ordinary users.
    #[error("this system forbids user namespaces to ordinary users ({switch} is {value})")]
    Switch {
        /// The setting, as sysctl(8) names it.
        switch: &'static str,
        /// What it is set to.
        value: String,
        /// What it has to be.
        wanted: &'static str,
    },
    /// The kernel refuses without one of its switches being the reason: inside a container, by a filter of system calls.
    #[error("user namespaces are refused here: {0}")]
    Refused(#[source] io::Error),
    /// The process has several threads already.
    #[error("a user namespace must be entered before the program starts its first thread")]
    Threads,
    /// The ids could not be mapped.
    #[error("cannot map ids into the user namespace: {0}")]
    Map(#[source] io::Error),
    /// Preparing it failed.
    #[error("cannot prepare the user namespace: {0}")]
    Prepare(#[source] io::Error),
}

impl UserNamespaceError {
    /// The exact line that allows it, or what else can be done.
    pub fn hint(&self) -> String {
        match self {
            Self::Switch { switch, wanted, .. } => format!("sudo sysctl -w {switch}={wanted}"),
            Self::Refused(_) => {
                "inside a container, allow it there (docker: --security-opt seccomp=unconfined --security-opt \
                 apparmor=unconfined; Kubernetes: securityContext.seccompProfile.type: Unconfined), or run kiln as root, \
                 there with --executor chroot"
                    .into()
            }
            Self::Threads => "call kiln::rootless::enter() first in main".into(),
            Self::Map(_) | Self::Prepare(_) => "`kiln doctor` says what is missing".into(),
        }
    }
}

static ENTERED: OnceLock<Privileges> = OnceLock::new();

/// Gives this process what it takes to build: nothing for root, for anybody else a user namespace.
///
/// To be called once, first in `main`, while there is only one thread; a second call answers what the first did. The ids
/// are mapped by `newuidmap` and `newgidmap` of the host. Afterwards the process sees itself as user 0, and files of users
/// outside of its ranges as those of the overflow user.
///
/// # Errors
/// See [`UserNamespaceError`]. The process is unchanged then, unless mapping itself failed.
pub fn enter_user_namespace() -> Result<Privileges, UserNamespaceError> {
    if let Some(entered) = ENTERED.get() {
        return Ok(entered.clone());
    }
    let user = rustix::process::geteuid();
    if user.is_root() {
        return Ok(Privileges::Root);
    }
    let entered = enter(user.as_raw(), rustix::process::getegid().as_raw())?;
    Ok(ENTERED.get_or_init(|| entered).clone())
}

/// What [`enter_user_namespace`] did, if it did anything.
pub fn user_namespace() -> Option<&'static Privileges> {
    ENTERED.get()
}

/// Whether the process is in the machine's first user namespace, whose root may do everything.
pub(crate) fn is_initial() -> bool {
    /// Inode of the first user namespace (`PROC_USER_INIT_INO` of the kernel's proc_ns.h).
    const INITIAL: u64 = 0xEFFF_FFFD;
    std::fs::metadata("/proc/self/ns/user").map_or(true, |found| found.ino() == INITIAL)
}

/// Whether `id` is among the mapped ones of `/proc/self/uid_map` or `gid_map`.
pub(crate) fn is_mapped(map: &str, id: u32) -> bool {
    let text = std::fs::read_to_string(Path::new("/proc/self").join(map)).unwrap_or_default();
    text.lines().any(|line| {
        let mut numbers = line.split_ascii_whitespace().map(str::parse::<u64>);
        let (Some(Ok(first)), Some(Ok(count))) = (numbers.next(), numbers.nth(1)) else { return false };
        (first..first.saturating_add(count)).contains(&id.into())
    })
}

/// Whether this user namespace has one id only.
pub(crate) fn has_single_id() -> bool {
    let text = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    text.lines().count() == 1 && text.split_ascii_whitespace().next_back() == Some("1")
}

/// Whether processes of this user namespace may choose their groups.
pub(crate) fn may_set_groups() -> bool {
    std::fs::read_to_string("/proc/self/setgroups").map_or(true, |text| text.trim() != "deny")
}

fn enter(user: u32, group: u32) -> Result<Privileges, UserNamespaceError> {
    let planned = plan(user, group);
    let helpers = match planned {
        Ok(maps) => {
            let started = maps.into_iter().map(|map| Helper::start(map).map_err(UserNamespaceError::Prepare));
            Ok(started.collect::<Result<Vec<_>, _>>()?)
        }
        Err(reason) => Err(reason),
    };
    if let Err(error) = sys::unshare_users() {
        helpers.into_iter().flatten().for_each(Helper::abandon);
        return Err(refusal(error));
    }
    let entered = match helpers {
        Ok(helpers) => finish(helpers, user, group)?,
        Err(why) => {
            map_single(user, group)?;
            Privileges::SingleId { why }
        }
    };
    // AppArmor lets the namespace be made and then takes every right in it away.
    if switch_is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1") {
        let probe = sys::fork(libc::CLONE_NEWNS, || 0);
        let worked = probe.and_then(|process| sys::wait_for(process.pid));
        worked.map_err(|_| apparmor())?;
    }
    Ok(entered)
}

fn finish(helpers: Vec<Helper>, user: u32, group: u32) -> Result<Privileges, UserNamespaceError> {
    let mut counts = Vec::new();
    let mut failed = None;
    for helper in helpers {
        let count = helper.count;
        match helper.finish().map_err(UserNamespaceError::Map)? {
            None => counts.push(count),
            Some(why) => failed = Some(why),
        }
    }
    match (counts.as_slice(), failed) {
        (&[users, groups], None) => Ok(Privileges::Ranges { users, groups }),
        (_, Some(why)) => {
            map_single(user, group)?;
            Ok(Privileges::SingleId { why })
        }
        _ => Err(UserNamespaceError::Map(io::Error::other("a helper program was not started"))),
    }
}

/// Maps the user itself only, which the kernel allows everybody.
fn map_single(user: u32, group: u32) -> Result<(), UserNamespaceError> {
    let write = |file: &str, text: String| match std::fs::write(Path::new("/proc/self").join(file), text) {
        // Mapped already, by a helper whose sibling failed.
        Err(_) if file != "setgroups" && is_mapped(file, 0) => Ok(()),
        Err(error) => Err(map_refusal(error)),
        Ok(()) => Ok(()),
    };
    write("uid_map", format!("0 {user} 1"))?;
    // A user must not get rid of a group that forbids it something; so says the kernel.
    write("setgroups", "deny".into())?;
    write("gid_map", format!("0 {group} 1"))
}

/// A map that a helper program shall make.
#[derive(Debug)]
struct Map {
    program: &'static str,
    path: PathBuf,
    /// Own id outside, then ranges outside.
    own: u32,
    ranges: Vec<Range>,
}

/// Subordinate ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    start: u32,
    count: u32,
}

/// Ranges of one user that are used; the kernel takes 340 lines.
const RANGE_LIMIT: usize = 64;
/// Bytes read of `/etc/passwd` and the files of ranges.
const TABLE_LIMIT: u64 = 16 * 1024 * 1024;

fn plan(user: u32, group: u32) -> Result<Vec<Map>, SingleIdReason> {
    let name = user_name(user);
    let tables = [("newuidmap", "/etc/subuid", user), ("newgidmap", "/etc/subgid", group)];
    tables
        .into_iter()
        .map(|(program, file, own)| {
            let ranges = ranges(&read_table(file), user, name.as_deref());
            if ranges.is_empty() {
                let user = name.clone().unwrap_or_else(|| user.to_string());
                return Err(SingleIdReason::NoRange { file, user });
            }
            let path = find_program(program).ok_or(SingleIdReason::NoHelper { program })?;
            Ok(Map { program, path, own, ranges })
        })
        .collect()
}

fn read_table(path: &str) -> String {
    let mut bytes = Vec::new();
    let _ = std::fs::File::open(path).and_then(|file| file.take(TABLE_LIMIT).read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The user's login name: that of `/etc/passwd`, else what the session says, which the helper verifies.
fn user_name(user: u32) -> Option<String> {
    let by_table = read_table("/etc/passwd").lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(user)).then(|| name.to_owned())
    });
    by_table.or_else(|| std::env::var("USER").ok().filter(|name| !name.is_empty()))
}

/// The ranges of the user in the text of `/etc/subuid` (subuid(5)): `name:start:count`, the name also a number.
fn ranges(table: &str, user: u32, name: Option<&str>) -> Vec<Range> {
    let mut found: Vec<Range> = Vec::new();
    let mut free = u32::MAX - 1;
    for line in table.lines() {
        let mut fields = line.trim().split(':');
        let (Some(owner), Some(start), Some(count)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        if Some(owner) != name && owner.parse() != Ok(user) {
            continue;
        }
        let (Ok(start), Ok(count)) = (start.parse::<u32>(), count.parse::<u32>()) else { continue };
        let count = count.min(free).min(u32::MAX - start);
        let range = Range { start, count };
        if count == 0 || found.contains(&range) || found.len() == RANGE_LIMIT {
            continue;
        }
        free -= count;
        found.push(range);
    }
    found
}

/// Folders of system programs, for a `PATH` that lacks them.
const PROGRAM_FOLDERS: [&str; 5] = ["/usr/bin", "/bin", "/usr/sbin", "/usr/local/bin", "/run/wrappers/bin"];

/// A program of the host.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders
        .into_iter()
        .chain(PROGRAM_FOLDERS.into_iter().map(PathBuf::from))
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(name))
        .find(|path| {
            std::fs::metadata(path)
                .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
        })
}

/// A helper program that waits, outside of the namespace, until the namespace is there.
#[derive(Debug)]
struct Helper {
    program: &'static str,
    count: u32,
    process: Forked,
    go: OwnedFd,
    messages: OwnedFd,
}

impl Helper {
    fn start(map: Map) -> io::Result<Helper> {
        let mut words = vec![
            map.program.to_owned(),
            std::process::id().to_string(),
            "0".into(),
            map.own.to_string(),
            "1".into(),
        ];
        let mut next = 1_u32;
        for range in &map.ranges {
            words.extend([next.to_string(), range.start.to_string(), range.count.to_string()]);
            next += range.count;
        }
        let path = CString::new(map.path.as_os_str().as_bytes())?;
        let words = words.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>()?;
        let arguments = PointerList::new(words.iter().map(CString::as_c_str));
        let environment = PointerList::new(std::iter::empty());
        let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
        let (gate, go) = pipe()?;
        let (messages, child_messages) = pipe()?;
        let gate = crate::socket::above_stdio(gate)?;
        let child_messages = crate::socket::above_stdio(child_messages)?;
        let process = sys::fork(0, || {
            let arranged = rustix::stdio::dup2_stdin(&gate)
                .and_then(|()| rustix::stdio::dup2_stdout(&child_messages))
                .and_then(|()| rustix::stdio::dup2_stderr(&child_messages));
            // The other end of the gate among them, so that this ends when the engine does.
            if arranged.is_err() || sys::close_range(3, u32::MAX).is_err() {
                return 126;
            }
            if rustix::io::read(rustix::stdio::stdin(), &mut [0_u8; 1]) != Ok(1) {
                return 125;
            }
            sys::execve(&path, &arguments, &environment);
            127
        })?;
        Ok(Helper { program: map.program, count: next - 1, process, go, messages })
    }

    /// Lets it go without having done anything.
    fn abandon(self) {
        drop(self.go);
        let _ = sys::wait_for(self.process.pid);
    }

    /// Lets it map, and answers why it could not.
    fn finish(self) -> io::Result<Option<SingleIdReason>> {
        rustix::io::write(&self.go, b"g")?;
        let mut said = Vec::new();
        let messages = std::fs::File::from(self.messages);
        let _ = messages.take(MESSAGE_LIMIT).read_to_end(&mut said);
        let status = sys::wait_for(self.process.pid)?;
        if status == 0 {
            return Ok(None);
        }
        let mut message = String::from_utf8_lossy(&said).trim().escape_debug().to_string();
        if message.is_empty() {
            message = format!("status {status}");
        }
        Ok(Some(SingleIdReason::HelperFailed { program: self.program, message }))
    }
}

/// Bytes of a helper's words that are kept.
const MESSAGE_LIMIT: u64 = 2000;

fn switch_is(path: &str, value: &str) -> bool {
    std::fs::read_to_string(path).is_ok_and(|text| text.trim() == value)
}

fn apparmor() -> UserNamespaceError {
    UserNamespaceError::Switch {
        switch: "kernel.apparmor_restrict_unprivileged_userns",
        value: "1".into(),
        wanted: "0",
    }
}

/// Names the switch behind the kernel's refusal.
fn refusal(error: io::Error) -> UserNamespaceError {
    let switched_off = |path: &str| switch_is(path, "0");
    match error.raw_os_error() {
        // unshare(2): a new user namespace in a process with threads.
        Some(libc::EINVAL) if has_threads() => UserNamespaceError::Threads,
        _ if switched_off("/proc/sys/kernel/unprivileged_userns_clone") => UserNamespaceError::Switch {
            switch: "kernel.unprivileged_userns_clone",
            value: "0".into(),
            wanted: "1",
        },
        _ if switched_off("/proc/sys/user/max_user_namespaces") => UserNamespaceError::Switch {
            switch: "user.max_user_namespaces",
            value: "0".into(),
            wanted: "15000",
        },
        _ => map_refusal(error),
    }
}

fn map_refusal(error: io::Error) -> UserNamespaceError {
    if switch_is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1") {
        return apparmor();
    }
    match error.raw_os_error() {
        Some(libc::EPERM | libc::ENOSPC | libc::ENOSYS | libc::EUSERS | libc::EACCES) => {
            UserNamespaceError::Refused(error)
        }
        _ => UserNamespaceError::Map(error),
    }
}

fn has_threads() -> bool {
    std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() > 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_by_name_and_by_number() {
        let table =
            "other:1:5\nme:100000:65536\nmalformed\nme:x:y\n1000:300000:10\nme:0:0\nme:100000:65536\n";
        let expected = [Range { start: 100_000, count: 65536 }, Range { start: 300_000, count: 10 }];
        assert_eq!(ranges(table, 1000, Some("me")), expected);
        assert_eq!(ranges(table, 1000, None), expected[1..]);
        assert_eq!(ranges(table, 7, Some("you")), []);
    }

    #[test]
    fn ranges_never_exceed_the_ids_there_are() {
        let found = ranges("me:4000000000:4294967295\nme:1:4294967295", 1000, Some("me"));
        let total: u64 = found.iter().map(|range| u64::from(range.count)).sum();
        assert!(total < u64::from(u32::MAX), "{found:?}");
        assert!(found.iter().all(|range| range.start.checked_add(range.count).is_some()));
    }

    #[test]
    fn every_refusal_says_what_to_type() {
        let switch = UserNamespaceError::Switch {
            switch: "user.max_user_namespaces",
            value: "0".into(),
            wanted: "15000",
        };
        assert_eq!(switch.hint(), "sudo sysctl -w user.max_user_namespaces=15000");
        let why = SingleIdReason::NoRange { file: "/etc/subuid", user: "me".into() };
        assert_eq!(why.to_string(), "/etc/subuid has no range for user me");
        assert!(why.hint().ends_with(" me"));
    }

    #[test]
    fn a_program_with_threads_is_told_so() {
        let waiting = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| waiting.wait());
            let error = refusal(io::Error::from_raw_os_error(libc::EINVAL));
            waiting.wait();
            assert!(matches!(error, UserNamespaceError::Threads), "{error}");
        });
    }
}
