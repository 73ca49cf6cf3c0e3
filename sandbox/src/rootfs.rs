//! Mounting inside the child: overlays, targets within the root, stubs for them.
//!
//! All of this runs after the fork, so nothing here allocates. Paths of the image are only ever resolved with the new
//! root as `/`, and what was resolved is mounted upon by descriptor.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, StatxFlags, Timestamps, Uid};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use crate::report::{At, Entered, Report, Step};

/// An overlay to be mounted; host paths, bottom layer first.
#[derive(Debug)]
pub(crate) struct Overlay {
    pub(crate) layers: Vec<CString>,
    /// Upper and work directories; without them it is read-only.
    pub(crate) upper: Option<(CString, CString)>,
    /// The whole as mount(2) takes it, for kernels before 6.5 that cannot append layers.
    pub(crate) options: CString,
    /// A directory that those kernels may mount it on, in the child's own mount namespace.
    pub(crate) options_target: CString,
    /// How layers are given.
    pub(crate) api: LayerApi,
    /// Whether overlayfs keeps its marks in `user.*` attributes, as it must in a user namespace.
    pub(crate) marks: Marks,
}

/// How the kernel is told of layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LayerApi {
    /// One by one (Linux 6.5), else as a list.
    Append,
    /// As one list in a page of options.
    #[cfg_attr(
        not(test),
        allow(dead_code, reason = "old kernels come here through Append; tests come directly")
    )]
    List,
}

/// Where overlayfs keeps its marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Marks {
    /// `trusted.overlay.*`
    Trusted,
    /// `user.overlay.*`, the option `userxattr`.
    User,
}

impl Marks {
    /// What overlayfs takes from this process: only an administrator in the machine's first user namespace has
    /// `trusted.*`; root of a container without that right has `user.*`.
    pub(crate) fn of_this_process() -> Marks {
        let administers = || {
            rustix::thread::capabilities(None)
                .is_ok_and(|own| own.effective.contains(rustix::thread::CapabilitySet::SYS_ADMIN))
        };
        if crate::userns::is_initial() && administers() { Marks::Trusted } else { Marks::User }
    }

    /// The attribute of an opaque directory.
    pub(crate) fn opaque(self) -> &'static str {
        match self {
            Marks::Trusted => "trusted.overlay.opaque",
            Marks::User => "user.overlay.opaque",
        }
    }
}

impl Overlay {
    /// Mounts it detached.
    pub(crate) fn mount(&self, attributes: MountAttrFlags) -> Entered<OwnedFd> {
        let mount = match (self.layers.as_slice(), &self.upper) {
            // overlayfs wants at least one lower layer, and two where there is no upper.
            ([], Some((upper, _))) => clone_mount(CWD, upper).at(Step::Root)?,
            ([layer], None) => clone_mount(CWD, layer).at_index(Step::Layer, 0)?,
            _ if self.api == LayerApi::List => return self.mount_list(attributes),
            _ => match self.mount_appending(attributes) {
                Err(failure) if failure.step == Step::Layer && failure.errno == Errno::INVAL => {
                    return self.mount_list(attributes);
                }
                other => return other,
            },
        };
        crate::sys::set_mount_attributes(mount.as_fd(), attributes.bits().into(), 0, false).at(Step::Root)?;
        Ok(mount)
    }

    fn mount_appending(&self, attributes: MountAttrFlags) -> Entered<OwnedFd> {
        let context = fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC).at(Step::Root)?;
        // The first one is the topmost. By descriptor, since a value may have 255 bytes only and no escapes.
        for (index, layer) in self.layers.iter().enumerate().rev() {
            set_directory(context.as_fd(), c"lowerdir+", layer).at_index(Step::Layer, index)?;
        }
        if let Some((upper, work)) = &self.upper {
            set_directory(context.as_fd(), c"upperdir", upper).at(Step::Root)?;
            set_directory(context.as_fd(), c"workdir", work).at(Step::Root)?;
            // Without it the last unmount would sync the whole file system below.
            fsconfig_set_flag(context.as_fd(), c"volatile").at(Step::Root)?;
        }
        // Whatever the host's defaults are: the upper directory becomes a layer, so it may only hold whiteouts and
        // opaque marks, and a layer's own xattrs must not lead the lookup elsewhere.
        for (option, value) in OVERLAY_OPTIONS {
            fsconfig_set_string(context.as_fd(), option, value).at(Step::Root)?;
        }
        if self.marks == Marks::User {
            fsconfig_set_flag(context.as_fd(), c"userxattr").at(Step::Root)?;
        }
        fsconfig_create(context.as_fd()).at(Step::Root)?;
        fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes).at(Step::Root)
    }

    fn mount_list(&self, attributes: MountAttrFlags) -> Entered<OwnedFd> {
        rustix::mount::mount(
            c"overlay",
            &self.options_target,
            c"overlay",
            rustix::mount::MountFlags::empty(),
            self.options.as_c_str(),
        )
        .at(Step::Root)?;
        let mount = clone_mount(CWD, &self.options_target).at(Step::Root)?;
        crate::sys::set_mount_attributes(mount.as_fd(), attributes.bits().into(), 0, false).at(Step::Root)?;
        Ok(mount)
    }
}

/// Options of every overlay and their values.
pub(crate) const OVERLAY_OPTIONS: [(&CStr, &CStr); 3] =
    [(c"index", c"off"), (c"metacopy", c"off"), (c"redirect_dir", c"nofollow")];

fn set_directory(context: BorrowedFd<'_>, option: &CStr, path: &CStr) -> Result<(), Errno> {
    let directory =
        rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut buffer = DescriptorPath::new();
    fsconfig_set_string(context, option, buffer.of(directory.as_fd()))
}

/// `/proc/self/fd/N`, written without allocating.
pub(crate) struct DescriptorPath([u8; 32]);

impl DescriptorPath {
    pub(crate) fn new() -> DescriptorPath {
        DescriptorPath([0; 32])
    }

    pub(crate) fn of(&mut self, fd: BorrowedFd<'_>) -> &CStr {
        const PREFIX: &[u8] = b"/proc/self/fd/";
        self.0 = [0; 32];
        self.0[..PREFIX.len()].copy_from_slice(PREFIX);
        let mut digits = [0_u8; 10];
        let mut count = 0;
        let mut number = fd.as_raw_fd().unsigned_abs();
        loop {
            digits[count] = b'0' + (number % 10) as u8;
            count += 1;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        for (index, &digit) in digits[..count].iter().rev().enumerate() {
            self.0[PREFIX.len() + index] = digit;
        }
        CStr::from_bytes_until_nul(&self.0).unwrap_or(c"")
    }
}

/// A detached copy of the mount at `path`, without what is mounted below.
pub(crate) fn clone_mount(directory: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd, Errno> {
    let empty = if path.is_empty() { OpenTreeFlags::AT_EMPTY_PATH } else { OpenTreeFlags::empty() };
    open_tree(directory, path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | empty)
}

/// A detached copy of the mount at `path` with all that is mounted below: the kernel does not let a user namespace look
/// under what its parent has covered.
pub(crate) fn clone_tree(directory: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd, Errno> {
    let empty = if path.is_empty() { OpenTreeFlags::AT_EMPTY_PATH } else { OpenTreeFlags::empty() };
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(directory, path, clone | OpenTreeFlags::AT_RECURSIVE | empty)
}

/// Mounts a new file system detached.
pub(crate) fn new_mount(
    kind: &CStr,
    options: &[(&CStr, &CStr)],
    attributes: MountAttrFlags,
) -> Result<OwnedFd, Errno> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for &(name, value) in options {
        fsconfig_set_string(context.as_fd(), name, value)?;
    }
    fsconfig_create(context.as_fd())?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Puts a detached mount on `path` in `directory`; an empty path is the directory (or file) itself.
pub(crate) fn attach(mount: BorrowedFd<'_>, directory: BorrowedFd<'_>, path: &CStr) -> Result<(), Errno> {
    let mut flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    if path.is_empty() {
        flags |= MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    }
    move_mount(mount, c"", directory, path, flags)
}

/// Adds attributes to a mount that nobody sees yet.
pub(crate) fn set_attributes(mount: BorrowedFd<'_>, attributes: MountAttrFlags) -> Result<(), Errno> {
    crate::sys::set_mount_attributes(mount, attributes.bits().into(), 0, false)
        .map_err(|error| errno_of(&error))
}

/// The kernel's number of an error.
pub(crate) fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO))
}

/// Opens `path` with `root` as `/`; links lead nowhere else, procfs' magic ones nowhere at all.
pub(crate) fn open_in_root(root: BorrowedFd<'_>, path: &CStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    // `..` during somebody else's rename gives EAGAIN.
    for _ in 0..RENAME_RETRIES {
        match rustix::fs::openat2(
            root,
            path,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        ) {
            Err(Errno::AGAIN) => {}
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

const RENAME_RETRIES: u32 = 128;

/// What a mount point has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TargetKind {
    Directory,
    File,
}

/// Makes what is missing of a path within the root.
#[derive(Debug)]
pub(crate) struct Maker<'a> {
    pub(crate) root: BorrowedFd<'a>,
    /// Mount id of the root, if stubs are to be reported: only those within it end up in the upper directory.
    pub(crate) stubs: Option<StubReport<'a>>,
    /// Owner of what is made.
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Where stubs are reported to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StubReport<'a> {
    pub(crate) pipe: BorrowedFd<'a>,
    pub(crate) root_mount: u64,
    /// The upper directory itself.
    pub(crate) upper: BorrowedFd<'a>,
}

/// A path with room for link targets.
type PathBuffer = [u8; libc::PATH_MAX as usize];

/// Dangling links followed for one path.
const LINK_LIMIT: u32 = 10;

impl Maker<'_> {
    /// Opens `path`, making it (and its parents, 0755) where it is missing.
    pub(crate) fn open(&self, path: &CStr, kind: TargetKind) -> Result<OwnedFd, Errno> {
        match open_in_root(self.root, path, OFlags::PATH) {
            Err(Errno::NOENT) => {}
            other => return other,
        }
        let mut buffer: PathBuffer = [0; libc::PATH_MAX as usize];
        let bytes = path.to_bytes();
        if bytes.len() >= buffer.len() {
            return Err(Errno::NAMETOOLONG);
        }
        buffer[..bytes.len()].copy_from_slice(bytes);
        self.make(&mut buffer, bytes.len(), kind, LINK_LIMIT)
    }

    /// Goes along the path in `buffer[..length]`, opening each prefix from the root anew.
    fn make(
        &self,
        buffer: &mut PathBuffer,
        length: usize,
        kind: TargetKind,
        links_left: u32,
    ) -> Result<OwnedFd, Errno> {
        let mut current = open_in_root(self.root, c".", OFlags::PATH)?;
        let mut start = 0;
        while start < length {
            if buffer[start] == b'/' {
                start += 1;
                continue;
            }
            let end = (start..length).find(|&at| buffer[at] == b'/').unwrap_or(length);
            let last = buffer[end..length].iter().all(|&byte| byte == b'/');
            let kept = buffer[end];
            buffer[end] = 0;
            let opened = match open_in_root(self.root, c_str(&buffer[..=end])?, OFlags::PATH) {
                Err(Errno::NOENT) => {
                    let name = c_str(&buffer[start..=end])?;
                    let kind = if last { kind } else { TargetKind::Directory };
                    match self.make_entry(current.as_fd(), name, kind) {
                        Err(Errno::EXIST) => None,
                        other => Some(other?),
                    }
                }
                other => Some(other?),
            };
            let Some(opened) = opened else {
                // It is there and yet leads nowhere: a dangling link, whose target is made in its stead, as the
                // image would see it.
                if links_left == 0 {
                    return Err(Errno::LOOP);
                }
                let mut target: PathBuffer = [0; libc::PATH_MAX as usize];
                let name = c_str(&buffer[start..=end])?;
                let target_length = link_target(current.as_fd(), name, &buffer[..start], &mut target)?;
                buffer[end] = kept;
                let target_kind = if last { kind } else { TargetKind::Directory };
                let opened = self.make(&mut target, target_length, target_kind, links_left - 1)?;
                if last {
                    return Ok(opened);
                }
                current = opened;
                start = end;
                continue;
            };
            buffer[end] = kept;
            current = opened;
            start = end;
        }
        Ok(current)
    }

    fn make_entry(&self, parent: BorrowedFd<'_>, name: &CStr, kind: TargetKind) -> Result<OwnedFd, Errno> {
        let before = rustix::fs::fstat(parent)?;
        match kind {
            TargetKind::Directory => rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))?,
            TargetKind::File => drop(rustix::fs::openat(
                parent,
                name,
                OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC,
                Mode::from_raw_mode(0o644),
            )?),
        }
        let made = rustix::fs::openat(
            parent,
            name,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        if (self.uid, self.gid) != (0, 0) {
            rustix::fs::chownat(
                made.as_fd(),
                c"",
                Some(Uid::from_raw(self.uid)),
                Some(Gid::from_raw(self.gid)),
                AtFlags::EMPTY_PATH,
            )?;
        }
        if let Some(report) = &self.stubs {
            // A stub must leave no trace: the layer would otherwise hold a parent with a new time.
            let times = Timestamps {
                last_access: timespec(before.st_atime, before.st_atime_nsec as i64),
                last_modification: timespec(before.st_mtime, before.st_mtime_nsec as i64),
            };
            rustix::fs::utimensat(parent, c".", &times, AtFlags::empty())?;
            report.send(made.as_fd(), kind)?;
        }
        Ok(made)
    }
}

fn timespec(seconds: i64, nanoseconds: i64) -> rustix::fs::Timespec {
    rustix::fs::Timespec { tv_sec: seconds, tv_nsec: nanoseconds }
}

impl StubReport<'_> {
    fn send(&self, made: BorrowedFd<'_>, kind: TargetKind) -> Result<(), Errno> {
        if mount_id(made)? != self.root_mount {
            return Ok(());
        }
        // The path without links, as seen from where the root is attached; the upper directory has it as well.
        let mut path: PathBuffer = [0; libc::PATH_MAX as usize];
        let mut name = DescriptorPath::new();
        let mut length = link_text(CWD, name.of(made), &mut path)?;
        let mut root_path: PathBuffer = [0; libc::PATH_MAX as usize];
        let prefix = link_text(CWD, name.of(self.upper), &mut root_path)?;
        if length <= prefix || path[..prefix] != root_path[..prefix] || path[prefix] != b'/' {
            return Err(Errno::XDEV);
        }
        path.copy_within(prefix + 1..length, 0);
        length -= prefix + 1;
        path[length] = 0;
        let inner = rustix::fs::openat2(
            self.upper,
            c_str(&path[..=length])?,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        )?;
        let inode = rustix::fs::fstat(inner)?.st_ino;
        let directory = kind == TargetKind::Directory;
        Report::Stub { inode, directory, path: &path[..length] }.send(self.pipe);
        Ok(())
    }
}

/// The kernel's number of the mount that `fd` is on.
pub(crate) fn mount_id(fd: BorrowedFd<'_>) -> Result<u64, Errno> {
    Ok(rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?.stx_mnt_id)
}

/// Kind of an open file.
pub(crate) fn target_kind(fd: BorrowedFd<'_>) -> Result<TargetKind, Errno> {
    let mode = rustix::fs::fstat(fd)?.st_mode;
    let directory = FileType::from_raw_mode(mode) == FileType::Directory;
    Ok(if directory { TargetKind::Directory } else { TargetKind::File })
}

/// The path from the root that the dangling link `name` in `parent` leads to; `prefix` is the way to `parent`.
fn link_target(
    parent: BorrowedFd<'_>,
    name: &CStr,
    prefix: &[u8],
    buffer: &mut PathBuffer,
) -> Result<usize, Errno> {
    let mut text: PathBuffer = [0; libc::PATH_MAX as usize];
    let length = link_text(parent, name, &mut text)?;
    let prefix = if text[0] == b'/' { &[] } else { prefix };
    let total = prefix.len() + length;
    if total >= buffer.len() {
        return Err(Errno::NAMETOOLONG);
    }
    buffer[..prefix.len()].copy_from_slice(prefix);
    buffer[prefix.len()..total].copy_from_slice(&text[..length]);
    Ok(total)
}

fn link_text(directory: BorrowedFd<'_>, name: &CStr, buffer: &mut PathBuffer) -> Result<usize, Errno> {
    let length = rustix::fs::readlinkat_raw(directory, name, buffer.as_mut_slice())?;
    if length >= buffer.len() { Err(Errno::NAMETOOLONG) } else { Ok(length) }
}

fn c_str(bytes: &[u8]) -> Result<&CStr, Errno> {
    CStr::from_bytes_until_nul(bytes).map_err(|_| Errno::INVAL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{fork, wait_for};
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn kernels_that_cannot_append_layers_get_a_list() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root (overlayfs)");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| {
            let path = directory.path().join(name);
            std::fs::create_dir_all(&path).unwrap();
            CString::new(path.as_os_str().as_bytes()).unwrap()
        };
        let layers = vec![path("low, with: signs"), path("high")];
        std::fs::write(directory.path().join("low, with: signs/file"), "").unwrap();
        let text = |path: &CString| path.to_str().unwrap().replace(',', "\\,").replace(':', "\\:");
        let options = format!("lowerdir={}:{}", text(&layers[1]), text(&layers[0]));
        let overlay = Overlay {
            options_target: layers[1].clone(),
            layers,
            upper: None,
            options: CString::new(options).unwrap(),
            api: LayerApi::List,
            marks: Marks::Trusted,
        };
        let child = fork(libc::CLONE_NEWNS, || {
            let private =
                rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
            if rustix::mount::mount_change(c"/", private).is_err() {
                return 1;
            }
            let Ok(mount) = overlay.mount(MountAttrFlags::MOUNT_ATTR_NODEV) else { return 2 };
            i32::from(open_in_root(mount.as_fd(), c"file", OFlags::PATH).is_err()) * 3
        })
        .unwrap();
        assert_eq!(wait_for(child.pid).unwrap(), 0);
    }

    #[test]
    fn a_descriptors_path_is_written_in_full() {
        let file = std::fs::File::open("/").unwrap();
        let expected = format!("/proc/self/fd/{}", file.as_raw_fd());
        assert_eq!(DescriptorPath::new().of(file.as_fd()).to_str().unwrap(), expected);
    }
}
