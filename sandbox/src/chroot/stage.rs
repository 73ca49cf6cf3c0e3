//! What is a mount elsewhere, put into the tree for the time of the command.
//!
//! What was there is moved aside and comes back afterwards. What stands there meanwhile is known by its inode, so that it
//! is taken out wherever a step has moved it, and is no part of the layer. Nobody can see to it that nothing is written:
//! a read-only mount is a copy whose changes are lost.

use std::ffi::{CStr, CString, OsStr};
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path as FilePath, PathBuf};
use std::sync::atomic::AtomicBool;

use rustix::event::{Timespec, poll};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, RenameFlags, Uid};
use rustix::io::Errno;

use super::copy::{How, by_descriptor, copy_entry, fill, open_directory, remove, times};
use super::listing::{Identity, Listing, Path, identity_at, time_of_change};
use super::tree::{DIRECTORY, Tree};
use crate::enter::{DEVICES, plain_directory};
use crate::plan::{inner_path, sub_path};
use crate::report::Report;
use crate::rootfs::{DescriptorPath, Maker, StubReport, TargetKind, mount_id, open_in_root};
use crate::socket::Relay;
use crate::{Mount, MountKind, SandboxError};

/// The tree with its mounts.
pub(super) struct Stage<'t> {
    tree: &'t Tree,
    /// For what is moved out of the tree.
    aside: PathBuf,
    /// In the order in which they were put there.
    mounted: Vec<Mounted>,
    /// Parents that had to be made, in their order.
    stubs: Vec<Stub>,
    /// Of sockets; they end with this.
    relays: Vec<Relay>,
}

struct Mounted {
    at: Path,
    identity: Identity,
    /// What was there before, in `aside`.
    original: Option<PathBuf>,
    /// A directory whose place it takes afterwards.
    returns_to: Option<PathBuf>,
}

struct Stub {
    at: Path,
    identity: Identity,
}

/// Where something is put.
struct Place {
    parent: OwnedFd,
    at: Path,
    name: CString,
    original: Option<PathBuf>,
}

impl<'t> Stage<'t> {
    /// Puts `/proc`, `/sys` and `/dev` into the tree: the first two empty, since nothing can be mounted.
    pub(super) fn new(tree: &'t Tree, work: &FilePath) -> io::Result<Stage<'t>> {
        let aside = work.join("aside");
        fs::create_dir(&aside)?;
        let mut stage = Stage { tree, aside, mounted: Vec::new(), stubs: Vec::new(), relays: Vec::new() };
        for name in [c"proc", c"sys"] {
            let place = stage.place_of_kernels(name)?;
            stage.put(place, None, |parent, name| make_directory(parent, name, 0o555))?;
        }
        let place = stage.place_of_kernels(c"dev")?;
        stage.put(place, None, make_devices)?;
        Ok(stage)
    }

    /// Puts a mount into the tree.
    pub(super) fn mount(&mut self, mount: &Mount) -> io::Result<()> {
        let target = inner_path("a mount's target", &mount.target).map_err(cause)?;
        if mount.no_exec {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "a step by chroot has no mount to set noexec on",
            ));
        }
        match &mount.kind {
            MountKind::Bind { source, subpath, read_only } => {
                let base = rustix::fs::open(source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
                let source_at = match subpath.as_os_str().is_empty() {
                    true => real_path(base.as_fd())?,
                    false => {
                        let subpath = sub_path(subpath).map_err(cause)?;
                        real_path(open_in_root(base.as_fd(), &subpath, OFlags::PATH)?.as_fd())?
                    }
                };
                let is_directory = fs::symlink_metadata(&source_at)?.is_dir();
                if is_directory
                    && !read_only
                    && self.mounted.iter().any(|one| one.returns_to.as_ref() == Some(&source_at))
                {
                    return Err(io::Error::other(
                        "the same directory cannot be mounted twice without mounts",
                    ));
                }
                let returns_to = (is_directory && !read_only).then(|| source_at.clone());
                let how = if returns_to.is_some() { How::Link } else { How::Copy };
                let place = self.place(&target, kind_of(is_directory))?;
                self.put(place, returns_to, |parent, name| bring(&source_at, parent, name, how))
            }
            MountKind::Layers { layers, subpath, scratch: _ } => {
                let whole = self.aside.join(format!("layers-{}", self.mounted.len()));
                fs::create_dir(&whole)?;
                let root = rustix::fs::open(&whole, DIRECTORY, Mode::empty())?;
                for layer in layers {
                    let layer = rustix::fs::open(layer, DIRECTORY, Mode::empty())?;
                    fill(layer.as_fd(), root.as_fd(), How::Layer, &AtomicBool::new(false))?;
                }
                let subpath = sub_path(subpath).map_err(cause)?;
                let source_at = match subpath.is_empty() {
                    true => whole,
                    false => real_path(open_in_root(root.as_fd(), &subpath, OFlags::PATH)?.as_fd())?,
                };
                let place = self.place(&target, kind_of(fs::symlink_metadata(&source_at)?.is_dir()))?;
                self.put(place, None, |parent, name| Ok(rustix::fs::renameat(CWD, &source_at, parent, name)?))
            }
            MountKind::Tmpfs { size: _, mode, uid, gid, read_only: _ } => {
                let place = self.place(&target, TargetKind::Directory)?;
                let mode = match &place.original {
                    Some(covered) => fs::symlink_metadata(covered)?.permissions().mode() & 0o7777,
                    None => *mode,
                };
                self.put(place, None, |parent, name| {
                    make_directory(parent, name, mode)?;
                    give(parent, name, mode, *uid, *gid)
                })
            }
            MountKind::File { contents, mode, uid, gid } => {
                let place = self.place(&target, TargetKind::File)?;
                self.put(place, None, |parent, name| {
                    let flags =
                        OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let file = rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR)?;
                    io::Write::write_all(&mut fs::File::from(file), contents)?;
                    give(parent, name, *mode, *uid, *gid)
                })
            }
            // A container that may not mount may open few devices but the usual ones.
            MountKind::Device(_) => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "a step by chroot gets no device of the host's",
            )),
            MountKind::Socket { source, mode, uid, gid } => {
                let place = self.place(&target, TargetKind::File)?;
                let mut made = None;
                self.put(place, None, |parent, name| {
                    made = Some(UnixListener::bind(by_descriptor(parent, name))?);
                    give(parent, name, *mode, *uid, *gid)
                })?;
                if let Some(listener) = made {
                    self.relays.push(Relay::start(listener.into(), source.clone())?);
                }
                Ok(())
            }
        }
    }

    /// What stands for mounts.
    pub(super) fn identities(&self) -> Vec<Identity> {
        self.mounted.iter().map(|mounted| mounted.identity).collect()
    }

    /// Waits until a change has another time than all that are listed: the kernel's clock for files ticks slowly.
    pub(super) fn wait_for_a_later_time(&self, listing: &Listing) -> io::Result<()> {
        let probe = fs::File::create(self.aside.join("probe"))?;
        for _ in 0..TICKS {
            rustix::fs::fchmod(&probe, Mode::RUSR)?;
            if time_of_change(probe.as_fd())? > listing.last_change() {
                break;
            }
            let _ = poll(&mut [], Some(&TICK));
        }
        Ok(())
    }

    /// Takes everything out again; answers what is left of `after`. What had to be made for mounts and was left alone is in
    /// neither listing then.
    pub(super) fn take_down(mut self, before: &mut Listing, mut after: Listing) -> io::Result<Listing> {
        self.relays.clear();
        let tree = self.tree.root();
        if self.bring_back(&after)? {
            after.mounts = Listing::of(tree, &self.identities())?.mounts;
        }
        for (index, mounted) in self.mounted.iter().enumerate().rev() {
            let mut returns_to = mounted.returns_to.as_ref();
            let found = after.mounts.remove(&mounted.identity).unwrap_or_default();
            for place in found.iter().chain([&mounted.at]) {
                // One that the step has removed with its parent, or that was found and taken out already.
                let Ok(parent) = directory_of(tree, place) else { continue };
                let name = CString::new(place.name())?;
                if identity_at(parent.as_fd(), &name).ok() != Some(mounted.identity) {
                    continue;
                }
                keeping_times(parent.as_fd(), || match returns_to.take() {
                    Some(directory) => {
                        let returned = self.aside.join(format!("returned-{index}"));
                        rustix::fs::renameat(&parent, &name, CWD, &returned)?;
                        rustix::fs::renameat_with(CWD, &returned, CWD, directory, RenameFlags::EXCHANGE)?;
                        Ok(fs::remove_dir_all(&returned)?)
                    }
                    None => remove(parent.as_fd(), &name),
                })?;
            }
            let Some(original) = &mounted.original else { continue };
            let Ok(parent) = directory_of(tree, &mounted.at) else { continue };
            let name = CString::new(mounted.at.name())?;
            keeping_times(parent.as_fd(), || {
                // A mount point cannot be replaced, so whatever the step has put there is lost.
                remove(parent.as_fd(), &name)?;
                Ok(rustix::fs::renameat(CWD, original, &parent, &name)?)
            })?;
            after.entries.retain(|path, _| !path.starts_with(&mounted.at));
        }
        for stub in self.stubs.iter().rev() {
            before.entries.remove(&stub.at);
            let Ok(parent) = directory_of(tree, &stub.at) else { continue };
            let name = CString::new(stub.at.name())?;
            if identity_at(parent.as_fd(), &name).ok() != Some(stub.identity) {
                continue;
            }
            let removed = keeping_times(parent.as_fd(), || {
                Ok(rustix::fs::unlinkat(&parent, &name, AtFlags::REMOVEDIR)?)
            });
            match removed {
                Ok(()) => drop(after.entries.remove(&stub.at)),
                // The step has put something into it, so it stays.
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
                Err(error) => return Err(error),
            }
        }
        Ok(after)
    }

    /// Moves back what the step has moved elsewhere: what lies in it is looked for where it was put. Answers whether there
    /// was any.
    fn bring_back(&self, after: &Listing) -> io::Result<bool> {
        let tree = self.tree.root();
        let mut any = false;
        for mounted in &self.mounted {
            let found = after.mounts.get(&mounted.identity).and_then(|places| places.first());
            let Some(place) = found.filter(|place| **place != mounted.at) else { continue };
            let (Ok(from), Ok(to)) = (directory_of(tree, place), directory_of(tree, &mounted.at)) else {
                continue;
            };
            let (old, new) = (CString::new(place.name())?, CString::new(mounted.at.name())?);
            if identity_at(to.as_fd(), &new).ok() == Some(mounted.identity) {
                continue;
            }
            keeping_times(to.as_fd(), || {
                remove(to.as_fd(), &new)?;
                keeping_times(from.as_fd(), || Ok(rustix::fs::renameat(&from, &old, &to, &new)?))
            })?;
            any = true;
        }
        Ok(any)
    }

    /// The place of a directory of the kernel's, which must not be a link of the image's.
    fn place_of_kernels(&mut self, name: &CStr) -> io::Result<Place> {
        self.open(|maker| plain_directory(maker, name))
    }

    fn place(&mut self, target: &CStr, kind: TargetKind) -> io::Result<Place> {
        self.open(|maker| maker.open(target, kind))
    }

    /// Finds a place within the tree, makes what is missing of the way to it, and clears it.
    fn open(&mut self, open: impl FnOnce(&Maker<'_>) -> Result<OwnedFd, Errno>) -> io::Result<Place> {
        let (reader, writer) = io::pipe()?;
        let root = self.tree.root();
        let stubs = StubReport { pipe: writer.as_fd(), root_mount: mount_id(root)?, upper: root };
        let opened = open(&Maker { root, stubs: Some(stubs), uid: 0, gid: 0 })?;
        drop(writer);
        let mut reports = Vec::new();
        io::Read::read_to_end(&mut &reader, &mut reports)?;
        let mut made: Vec<Path> = Report::parse_all(&reports)
            .iter()
            .filter_map(|report| match report {
                Report::Stub { path, .. } => Some(Path::of(path)),
                _ => None,
            })
            .collect();
        let whole = real_path(opened.as_fd())?;
        let inner = whole.strip_prefix(real_path(root)?).map_err(|_| Errno::XDEV)?;
        let at = Path::of(inner.as_os_str().as_bytes());
        let parent = directory_of(root, &at)?;
        let name = CString::new(at.name())?;
        let original = self.aside.join(format!("original-{}", self.mounted.len()));
        let is_new = made.pop_if(|last| *last == at).is_some();
        keeping_times(parent.as_fd(), || match is_new {
            true => remove(parent.as_fd(), &name),
            false => Ok(rustix::fs::renameat(&parent, &name, CWD, &original)?),
        })?;
        for at in made {
            let identity = identity_at(directory_of(root, &at)?.as_fd(), &CString::new(at.name())?)?;
            self.stubs.push(Stub { at, identity });
        }
        Ok(Place { parent, at, name, original: (!is_new).then_some(original) })
    }

    fn put(
        &mut self,
        place: Place,
        returns_to: Option<PathBuf>,
        make: impl FnOnce(BorrowedFd<'_>, &CStr) -> io::Result<()>,
    ) -> io::Result<()> {
        let Place { parent, at, name, original } = place;
        keeping_times(parent.as_fd(), || make(parent.as_fd(), &name))?;
        let identity = identity_at(parent.as_fd(), &name)?;
        self.mounted.push(Mounted { at, identity, original, returns_to });
        Ok(())
    }
}

/// Ticks that are waited for at most: a clock that was set back must not hold a step up.
const TICKS: u32 = 100;
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };

/// Does something in a directory that shall show no trace of it.
fn keeping_times(directory: BorrowedFd<'_>, act: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let before = rustix::fs::fstat(directory)?;
    act()?;
    Ok(rustix::fs::futimens(directory, &times(&before))?)
}

fn directory_of(tree: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    open_directory(tree, &path.parent().unwrap_or_default().bytes())
}

fn real_path(fd: BorrowedFd<'_>) -> io::Result<PathBuf> {
    let mut name = DescriptorPath::new();
    fs::read_link(OsStr::from_bytes(name.of(fd).to_bytes()))
}

fn kind_of(is_directory: bool) -> TargetKind {
    if is_directory { TargetKind::Directory } else { TargetKind::File }
}

/// Brings what is at `source` to a new entry.
fn bring(source: &FilePath, parent: BorrowedFd<'_>, name: &CStr, how: How) -> io::Result<()> {
    if !fs::symlink_metadata(source)?.is_dir() {
        let found = rustix::fs::lstat(source)?;
        let source_name = CString::new(source.as_os_str().as_bytes())?;
        return copy_entry(CWD, &source_name, parent, name, &found);
    }
    rustix::fs::mkdirat(parent, name, Mode::RWXU)?;
    let (from, to) =
        (rustix::fs::open(source, DIRECTORY, Mode::empty())?, open_directory(parent, name.to_bytes())?);
    fill(from.as_fd(), to.as_fd(), how, &AtomicBool::new(false))
}

fn make_directory(parent: BorrowedFd<'_>, name: &CStr, mode: u32) -> io::Result<()> {
    rustix::fs::mkdirat(parent, name, Mode::RWXU)?;
    // The process's umask has no say.
    Ok(rustix::fs::chmodat(parent, name, Mode::from_raw_mode(mode), AtFlags::empty())?)
}

fn give(parent: BorrowedFd<'_>, name: &CStr, mode: u32, uid: u32, gid: u32) -> io::Result<()> {
    let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    rustix::fs::chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(rustix::fs::chmodat(parent, name, Mode::from_raw_mode(mode), AtFlags::empty())?)
}

/// `/dev` with the nodes of every sandbox. Those that the container does not let work are an error: a regular file in the
/// place of `/dev/null` would give back what was written to it.
fn make_devices(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    make_directory(parent, name, 0o755)?;
    let dev = open_directory(parent, name.to_bytes())?;
    for device in DEVICES {
        let number = rustix::fs::makedev(device.major, device.minor);
        let made = rustix::fs::mknodat(&dev, device.name, FileType::CharacterDevice, Mode::RUSR, number);
        let made = made.map_err(|errno| no_devices("CAP_MKNOD is missing", errno));
        made.and_then(|()| give(dev.as_fd(), device.name, 0o666, 0, 0))?;
    }
    rustix::fs::openat(&dev, c"null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| no_devices("the store's file system is mounted with nodev", errno))?;
    for (to, link) in crate::enter::DEV_LINKS {
        rustix::fs::symlinkat(*to, &dev, *link)?;
    }
    for directory in [c"shm", c"mqueue"] {
        make_directory(dev.as_fd(), directory, 0o1777)?;
    }
    make_directory(dev.as_fd(), c"pts", 0o755)
}

fn no_devices(likely: &str, errno: Errno) -> io::Error {
    io::Error::new(
        errno.kind(),
        format!("no working /dev/null can be made, probably because {likely}: {errno}"),
    )
}

/// The cause of an error whose words are the caller's.
fn cause(error: SandboxError) -> io::Error {
    match error {
        SandboxError::Setup { source, .. } => source,
        other => io::Error::other(other.to_string()),
    }
}
