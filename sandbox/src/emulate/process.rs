//! A process of the sandbox as the engine sees it through its own procfs: memory, root, working directory, descriptors.

use std::ffi::{CStr, CString};
use std::fmt::Write as _;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, XattrFlags};
use rustix::io::Errno;

use super::OWNER_ATTRIBUTE;
use crate::sys::Call;

/// The engine's own procfs: the thread's root is a sandbox's most of the time.
#[derive(Debug)]
pub(crate) struct Host {
    proc: OwnedFd,
    /// The engine's own descriptors as files, the only way to the attributes of what is open by path only.
    descriptors: OwnedFd,
}

/// What procfs says of a thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    pub(crate) process: u32,
    pub(crate) parent: u32,
    /// In ticks since the machine's start.
    pub(crate) started: u64,
}

/// Bytes read of a file of procfs.
const PROC_LIMIT: u64 = 64 * 1024;
/// Bytes of an attribute's value: two numbers of ten digits.
const OWNER_BYTES: usize = 32;

impl Host {
    pub(crate) fn open() -> io::Result<Host> {
        let open =
            |path| rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        Ok(Host { proc: open(c"/proc")?, descriptors: open(c"/proc/self/fd")? })
    }

    fn read(&self, path: &str) -> Option<String> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.proc, path, flags, Mode::empty()).ok()?;
        let mut bytes = Vec::new();
        std::fs::File::from(file).take(PROC_LIMIT).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// `None` when there is no such thread any more.
    pub(crate) fn facts(&self, thread: u32) -> Option<Facts> {
        let stat = self.read(&format!("{thread}/stat"))?;
        // The name in parentheses may hold anything. After it: state, parent, and the start as the 22nd of all fields.
        let (_, fields) = stat.rsplit_once(')')?;
        let mut fields = fields.split_ascii_whitespace();
        let parent = fields.nth(1)?.parse().ok()?;
        let started = fields.nth(17)?.parse().ok()?;
        let process = self.status(thread, "Tgid:", 10)?;
        Some(Facts { process, parent, started })
    }

    fn status(&self, thread: u32, field: &str, radix: u32) -> Option<u32> {
        let status = self.read(&format!("{thread}/status"))?;
        let value = status.lines().find_map(|line| line.strip_prefix(field))?;
        u32::from_str_radix(value.trim(), radix).ok()
    }

    /// Children of all threads of the process that `thread` belongs to.
    pub(crate) fn children(&self, thread: u32) -> Vec<u32> {
        let mut found = Vec::new();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(tasks) = rustix::fs::openat(&self.proc, format!("{thread}/task"), flags, Mode::empty()) else {
            return found;
        };
        let Ok(entries) = rustix::fs::Dir::read_from(&tasks) else { return found };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy();
            if let Some(list) = self.read(&format!("{thread}/task/{name}/children")) {
                found.extend(list.split_ascii_whitespace().filter_map(|id| id.parse::<u32>().ok()));
            }
        }
        found
    }

    /// The owner noted beside a file.
    pub(crate) fn noted_owner(&self, file: BorrowedFd<'_>) -> Option<(u32, u32)> {
        let mut value = [0; OWNER_BYTES];
        let length = self
            .by_descriptor(file, |path| rustix::fs::getxattr(path, OWNER_ATTRIBUTE, &mut value[..]))
            .ok()?;
        let (uid, gid) = std::str::from_utf8(value.get(..length)?).ok()?.split_once(':')?;
        Some((uid.parse().ok()?, gid.parse().ok()?))
    }

    /// Notes an owner beside a file; links, pipes and devices cannot have one and lose it.
    pub(crate) fn note_owner(&self, file: BorrowedFd<'_>, uid: u32, gid: u32) -> Result<(), Errno> {
        let noted = self.by_descriptor(file, |path| {
            if (uid, gid) == (0, 0) {
                return rustix::fs::removexattr(path, OWNER_ATTRIBUTE);
            }
            let owner = format!("{uid}:{gid}");
            rustix::fs::setxattr(path, OWNER_ATTRIBUTE, owner.as_bytes(), XattrFlags::empty())
        });
        match noted {
            Err(Errno::NODATA | Errno::PERM | Errno::NOTSUP) => Ok(()),
            other => other,
        }
    }

    /// Acts on what is open by path only, through its name in procfs; changes the thread's working directory.
    fn by_descriptor<T>(
        &self,
        file: BorrowedFd<'_>,
        act: impl FnOnce(&CStr) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        rustix::process::fchdir(&self.descriptors)?;
        let name = CString::new(file.as_raw_fd().to_string()).map_err(|_| Errno::INVAL)?;
        act(&name)
    }
}

/// The descriptor that a path means to who uses it: `/proc/self` is somebody else's to the engine.
fn own_descriptor(path: &[u8]) -> Option<i32> {
    let name = match path {
        b"/dev/stdin" => b"0",
        b"/dev/stdout" => b"1",
        b"/dev/stderr" => b"2",
        _ => path.strip_prefix(b"/proc/self/fd/").or_else(|| path.strip_prefix(b"/dev/fd/"))?,
    };
    std::str::from_utf8(name).ok()?.parse().ok().filter(|number| *number >= 0)
}

/// The thread that waits for an answer.
#[derive(Debug)]
pub(crate) struct Process<'a> {
    pub(crate) host: &'a Host,
    listener: BorrowedFd<'a>,
    call: &'a Call,
}

/// How a path is meant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Descriptor that it starts at.
    pub(crate) directory: i32,
    /// Address of the path; 0: the descriptor itself.
    pub(crate) path: u64,
    /// Whether a link at its end is followed.
    pub(crate) follow: bool,
    /// Whether an empty path means the descriptor itself.
    pub(crate) may_be_empty: bool,
}

impl<'a> Process<'a> {
    pub(crate) fn new(host: &'a Host, listener: BorrowedFd<'a>, call: &'a Call) -> Process<'a> {
        Process { host, listener, call }
    }

    fn open(&self, name: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let mut path = String::with_capacity(32);
        let _ = write!(path, "{}/{name}", self.call.thread);
        rustix::fs::openat(&self.host.proc, path, flags | OFlags::CLOEXEC, Mode::empty())
    }

    /// That what was opened by the thread's number was the thread's.
    fn verified<T>(&self, value: T) -> Result<T, Errno> {
        if crate::sys::still_waits(self.listener, self.call.id) { Ok(value) } else { Err(Errno::SRCH) }
    }

    /// Reads what is at `address`; shorter where its memory ends.
    pub(crate) fn read(&self, address: u64, bytes: &mut [u8]) -> Result<usize, Errno> {
        let memory = self.verified(self.open("mem", OFlags::RDONLY)?)?;
        rustix::io::pread(&memory, bytes, address).map_err(|_| Errno::FAULT)
    }

    /// Writes all of `bytes` to `address`.
    pub(crate) fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        let memory = self.verified(self.open("mem", OFlags::RDWR)?)?;
        match rustix::io::pwrite(&memory, bytes, address) {
            Ok(written) if written == bytes.len() => Ok(()),
            _ => Err(Errno::FAULT),
        }
    }

    /// A path at `address`.
    pub(crate) fn path(&self, address: u64) -> Result<CString, Errno> {
        let mut bytes = [0; libc::PATH_MAX as usize];
        let length = self.read(address, &mut bytes)?;
        match CStr::from_bytes_until_nul(bytes.get(..length).unwrap_or_default()) {
            Ok(path) => Ok(path.to_owned()),
            Err(_) if length == bytes.len() => Err(Errno::NAMETOOLONG),
            Err(_) => Err(Errno::FAULT),
        }
    }

    /// Opens by path only what a call means.
    pub(crate) fn file(&self, place: Place) -> Result<OwnedFd, Errno> {
        if place.path == 0 {
            return self.descriptor(place.directory);
        }
        let path = self.path(place.path)?;
        if path.is_empty() {
            return if place.may_be_empty { self.descriptor(place.directory) } else { Err(Errno::NOENT) };
        }
        if let Some(number) = own_descriptor(path.to_bytes()).filter(|_| place.follow) {
            return self.descriptor(number);
        }
        let flags = if place.follow { OFlags::PATH } else { OFlags::PATH | OFlags::NOFOLLOW };
        self.resolve(place.directory, &path, flags)
    }

    /// What one of its descriptors stands for.
    fn descriptor(&self, number: i32) -> Result<OwnedFd, Errno> {
        let found = match number {
            libc::AT_FDCWD => self.open("cwd", OFlags::PATH),
            number => self.open(&format!("fd/{number}"), OFlags::PATH),
        };
        self.verified(found.map_err(|errno| if errno == Errno::NOENT { Errno::BADF } else { errno })?)
    }

    /// Resolves a path as the process would: from its root and its directory, but through no magic link of procfs, which
    /// mean the one who follows them. `ELOOP` for those.
    pub(crate) fn resolve(&self, directory: i32, path: &CStr, flags: OFlags) -> Result<OwnedFd, Errno> {
        let root = self.verified(self.open("root", OFlags::PATH | OFlags::DIRECTORY)?)?;
        rustix::process::fchdir(&root)?;
        // Of this thread only.
        rustix::process::chroot(c".")?;
        if !path.to_bytes().starts_with(b"/") {
            rustix::process::fchdir(self.descriptor(directory)?)?;
        }
        rustix::fs::openat2(CWD, path, flags | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::NO_MAGICLINKS)
    }

    /// Its umask.
    pub(crate) fn umask(&self) -> u32 {
        self.host.status(self.call.thread, "Umask:", 8).unwrap_or(0o022)
    }

    /// Answers the call with a descriptor.
    pub(crate) fn give(&self, file: &OwnedFd, close_on_exec: bool) -> Result<(), Errno> {
        crate::sys::give_descriptor(self.listener, self.call.id, file.as_fd(), close_on_exec)
            .map_err(|error| Errno::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_own_descriptors_are_known() {
        assert_eq!(own_descriptor(b"/dev/stdout"), Some(1));
        assert_eq!(own_descriptor(b"/proc/self/fd/12"), Some(12));
        for other in [&b"/proc/self/fd/"[..], b"/proc/self/fd/-100", b"/proc/self/fd/1/x", b"/dev/fd/x", b"1"]
        {
            assert_eq!(own_descriptor(other), None);
        }
    }
}
