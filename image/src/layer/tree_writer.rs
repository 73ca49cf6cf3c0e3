//! Makes files beneath one directory for whoever wrote an archive: the only code here that changes a file system.
//!
//! The rules (THREATS B1, B2): the directory's descriptor is all that is ever opened from; a parent is resolved by
//! `openat2` with that descriptor as `/`, so that links which came with the archive mean what they mean inside the image;
//! the last component is never followed; owner, mode, attributes and times are set by descriptor.

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, Timestamps, XattrFlags};
use rustix::io::Errno;

use super::tar_reader::Mtime;
use super::{
    At as _, Born, LayerError, MAX_PATH_BYTES, OPAQUE_VALUE, OverlayXattrs, is_overlay_xattr, owner, shown,
};

/// Who owns a new file, what may be done with it, and since when it is so.
pub(super) struct Metadata<'a> {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Mtime,
    pub(super) xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

/// A path of an archive, cleaned: no empty, `.` or `..` component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CleanPath(Vec<u8>);

impl CleanPath {
    /// Leading slashes and `.` mean nothing in an archive; `..` is refused, since what it means depends on what is there.
    pub(super) fn new(raw: &[u8]) -> Result<Self, LayerError> {
        let mut clean = Vec::with_capacity(raw.len());
        for component in raw.split(|&b| b == b'/') {
            match component {
                b"" | b"." => {}
                b".." => {
                    return Err(LayerError::Escape { entry: shown(raw), problem: "`..` in a name" });
                }
                name => {
                    if !clean.is_empty() {
                        clean.push(b'/');
                    }
                    clean.extend_from_slice(name);
                }
            }
        }
        Ok(Self(clean))
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The parent and the name; `None` for the root.
    pub(super) fn split(&self) -> Option<(&[u8], &[u8])> {
        match self.0.iter().rposition(|&b| b == b'/') {
            Some(slash) => Some((&self.0[..slash], &self.0[slash + 1..])),
            None if self.0.is_empty() => None,
            None => Some((b"", &self.0)),
        }
    }

    pub(super) fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|&b| b == b'/').filter(|name| !name.is_empty())
    }
}

/// What is at a name already.
pub(super) enum Existing {
    Nothing,
    Dir,
    Whiteout,
    Other,
}

/// A directory that something was made in.
struct Parent {
    path: Vec<u8>,
    fd: OwnedFd,
    /// If it was asked for.
    stat: Option<Stat>,
}

/// A file that is being written.
pub(super) struct NewFile {
    pub(super) file: File,
    has_owner: bool,
    has_mode: bool,
}

/// Writes into one tree.
pub(super) struct TreeWriter<'a> {
    root: BorrowedFd<'a>,
    xattrs: OverlayXattrs,
    /// The last parent, since entries come directory by directory.
    parent: Option<Parent>,
    born: Born,
    /// Times of directories, set at the end: what is made in a directory changes them.
    dir_times: Vec<(CleanPath, Mtime)>,
    /// Directories made for what is in them, which no entry has named so far.
    implied: BTreeSet<PathBuf>,
    deferred_bytes: usize,
}

impl<'a> TreeWriter<'a> {
    pub(super) fn new(root: BorrowedFd<'a>, xattrs: OverlayXattrs) -> Self {
        Self {
            root,
            xattrs,
            parent: None,
            born: Born::below(root),
            dir_times: Vec::new(),
            implied: BTreeSet::new(),
            deferred_bytes: 0,
        }
    }

    /// What is at `path` now.
    pub(super) fn existing(&mut self, path: &CleanPath) -> Result<Existing, LayerError> {
        let Some((parent, name)) = path.split() else { return Ok(Existing::Dir) };
        let parent = self.parent(parent)?;
        Ok(match stat(parent, name).at(path.as_bytes())? {
            None => Existing::Nothing,
            Some(stat) => match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => Existing::Dir,
                FileType::CharacterDevice if stat.st_rdev == 0 => Existing::Whiteout,
                _ => Existing::Other,
            },
        })
    }

    /// Removes whatever is at `path`, with all below it.
    pub(super) fn remove(&mut self, path: &CleanPath) -> Result<(), LayerError> {
        let Some((parent, name)) = path.split() else { return Ok(()) };
        let parent = self.parent(parent)?;
        match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => remove_dir_all(parent, name).at(path.as_bytes()),
            Err(error) => Err(error).at(path.as_bytes()),
        }?;
        // It may have been, or have led to, the parent that is remembered.
        self.parent = None;
        Ok(())
    }

    /// Makes a regular file; the caller writes and then calls [`TreeWriter::finish_file`]. `None` if something is there.
    pub(super) fn create_file(
        &mut self,
        path: &CleanPath,
        metadata: &Metadata<'_>,
    ) -> Result<Option<NewFile>, LayerError> {
        let (born, (uid, gid)) = (self.born, (metadata.uid, metadata.gid));
        let (_, name) = self.parent_of(path)?;
        let Some(parent) = &mut self.parent else { return Ok(None) };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&parent.fd, name, flags, born.mode(metadata.mode)) {
            Err(Errno::EXIST) => return Ok(None),
            file => File::from(file.at(path.as_bytes())?),
        };
        let stat = match parent.stat {
            Some(stat) => stat,
            None => rustix::fs::fstat(&parent.fd).at(path.as_bytes())?,
        };
        parent.stat = Some(stat);
        let has_owner = born.has_owner(&stat, uid, gid);
        Ok(Some(NewFile { file, has_owner, has_mode: born.has_mode(metadata.mode) }))
    }

    /// Gives a written file what it was not born with of owner, mode, attributes and time, in this order: a change of owner
    /// takes set-user-id bits and capabilities away.
    pub(super) fn finish_file(
        &self,
        path: &CleanPath,
        new: &NewFile,
        metadata: &Metadata<'_>,
    ) -> Result<(), LayerError> {
        if !new.has_owner {
            owned(owner::give(&new.file, metadata.uid, metadata.gid), path, metadata)?;
        }
        if !new.has_mode {
            rustix::fs::fchmod(&new.file, Mode::from_raw_mode(metadata.mode)).at(path.as_bytes())?;
        }
        set_xattrs(path, new.file.as_fd(), metadata)?;
        rustix::fs::futimens(&new.file, &times(metadata.mtime)).at(path.as_bytes())
    }

    /// Makes the directory, or takes the one that is there. Its time is set by [`TreeWriter::finish`].
    pub(super) fn dir(&mut self, path: &CleanPath, metadata: &Metadata<'_>) -> Result<OwnedFd, LayerError> {
        let dir = match path.split() {
            None => rustix::io::fcntl_dupfd_cloexec(self.root, 0).at(b"/")?,
            Some((parent, name)) => {
                let parent = self.parent(parent)?;
                match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error).at(path.as_bytes()),
                }
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                rustix::fs::openat(parent, name, flags, Mode::empty()).at(path.as_bytes())?
            }
        };
        self.set_owner_mode_xattrs(path, dir.as_fd(), metadata)?;
        self.defer(path.0.len() + size_of::<(CleanPath, Mtime)>())?;
        self.dir_times.push((path.clone(), metadata.mtime));
        self.implied.remove(Path::new(OsStr::from_bytes(&path.0)));
        Ok(dir)
    }

    /// Counts what is kept until the end.
    fn defer(&mut self, bytes: usize) -> Result<(), LayerError> {
        self.deferred_bytes += bytes;
        if self.deferred_bytes > MAX_DEFERRED_BYTES {
            return Err(LayerError::TooLarge {
                entry: "archive".to_owned(),
                what: "bytes of directory names",
                limit: MAX_DEFERRED_BYTES as u64,
            });
        }
        Ok(())
    }

    /// Marks a directory opaque: nothing of lower layers shows in it.
    pub(super) fn set_opaque(&mut self, dir: &CleanPath) -> Result<(), LayerError> {
        let fd = match dir.split() {
            None => rustix::io::fcntl_dupfd_cloexec(self.root, 0).at(b"/")?,
            Some(_) => {
                let fd = self.parent(dir.as_bytes())?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                rustix::fs::openat(fd, ".", flags, Mode::empty()).at(dir.as_bytes())?
            }
        };
        rustix::fs::fsetxattr(&fd, self.xattrs.opaque(), OPAQUE_VALUE, XattrFlags::empty()).at(dir.as_bytes())
    }

    /// Makes a whiteout: the name does not exist, whatever lower layers have.
    pub(super) fn whiteout(&mut self, path: &CleanPath) -> Result<(), LayerError> {
        let (parent, name) = self.parent_of(path)?;
        rustix::fs::mknodat(parent, name, FileType::CharacterDevice, Mode::empty(), 0).at(path.as_bytes())
    }

    pub(super) fn symlink(
        &mut self,
        path: &CleanPath,
        target: &[u8],
        metadata: &Metadata<'_>,
    ) -> Result<(), LayerError> {
        let (parent, name) = self.parent_of(path)?;
        rustix::fs::symlinkat(target, parent, name).at(path.as_bytes())?;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        owned(owner::give_at(parent, OsStr::from_bytes(name), metadata.uid, metadata.gid), path, metadata)?;
        rustix::fs::utimensat(parent, name, &times(metadata.mtime), flags).at(path.as_bytes())
    }

    /// Makes a pipe or device.
    pub(super) fn node(
        &mut self,
        path: &CleanPath,
        kind: FileType,
        device: (u32, u32),
        metadata: &Metadata<'_>,
    ) -> Result<(), LayerError> {
        let (parent, name) = self.parent_of(path)?;
        let device = rustix::fs::makedev(device.0, device.1);
        rustix::fs::mknodat(parent, name, kind, Mode::RUSR | Mode::WUSR, device).at(path.as_bytes())?;
        // Opening it for real could block or act on hardware.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let node = rustix::fs::openat(parent, name, flags, Mode::empty()).at(path.as_bytes())?;
        let owner = owner::give_at(parent, OsStr::from_bytes(name), metadata.uid, metadata.gid);
        owned(owner, path, metadata)?;
        // fchmod(2) refuses such a descriptor, its name in /proc leads to the very inode.
        let by_descriptor = format!("/proc/self/fd/{}", node.as_raw_fd());
        rustix::fs::chmod(&by_descriptor, Mode::from_raw_mode(metadata.mode)).at(path.as_bytes())?;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(parent, name, &times(metadata.mtime), flags).at(path.as_bytes())
    }

    /// Links `path` to the file at `target`, replacing what is there. The target's links are followed within the tree but
    /// for the last component.
    pub(super) fn hard_link(&mut self, path: &CleanPath, target: &CleanPath) -> Result<(), LayerError> {
        let escape = |problem| LayerError::Escape { entry: shown(path.as_bytes()), problem };
        let (target_parent, target_name) =
            target.split().ok_or_else(|| escape("a hard link to the root directory"))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let from = open_in_root(self.root, target_parent, flags).at(target.as_bytes())?;
        let missing = || escape("a hard link to what is not in the layer");
        let source = stat(from.as_fd(), target_name).at(target.as_bytes())?.ok_or_else(missing)?;
        match FileType::from_raw_mode(source.st_mode) {
            FileType::Directory => return Err(escape("a hard link to a directory")),
            // A second name would hide a file that the archive never names as deleted.
            FileType::CharacterDevice if source.st_rdev == 0 => return Err(missing()),
            _ => {}
        }
        let (parent, name) = self.parent_of(path)?;
        if let Some(old) = stat(parent, name).at(path.as_bytes())? {
            if (old.st_dev, old.st_ino) == (source.st_dev, source.st_ino) {
                return Ok(());
            }
            self.remove(path)?;
        }
        let (parent, name) = self.parent_of(path)?;
        match rustix::fs::linkat(&from, target_name, parent, name, AtFlags::empty()) {
            Err(Errno::NOENT) => Err(missing()),
            result => result.at(path.as_bytes()),
        }
    }

    /// Sets the directories' times. Returns those that are there for what is in them only.
    pub(super) fn finish(self) -> Result<BTreeSet<PathBuf>, LayerError> {
        for (path, mtime) in &self.dir_times {
            let Some((parent, name)) = path.split() else {
                rustix::fs::futimens(self.root, &times(*mtime)).at(b"/")?;
                continue;
            };
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let set = open_in_root(self.root, parent, flags).and_then(|parent| {
                rustix::fs::utimensat(&parent, name, &times(*mtime), AtFlags::SYMLINK_NOFOLLOW)
            });
            match set {
                // A later entry took its place.
                Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(error) => return Err(error).at(path.as_bytes()),
            }
        }
        Ok(self.implied)
    }

    fn set_owner_mode_xattrs(
        &self,
        path: &CleanPath,
        fd: BorrowedFd<'_>,
        metadata: &Metadata<'_>,
    ) -> Result<(), LayerError> {
        owned(owner::give(fd, metadata.uid, metadata.gid), path, metadata)?;
        rustix::fs::fchmod(fd, Mode::from_raw_mode(metadata.mode)).at(path.as_bytes())?;
        set_xattrs(path, fd, metadata)
    }

    fn parent_of<'p>(&mut self, path: &'p CleanPath) -> Result<(BorrowedFd<'_>, &'p [u8]), LayerError> {
        let (parent, name) = path.split().ok_or_else(|| LayerError::Escape {
            entry: "/".to_owned(),
            problem: "an entry that would replace the root directory",
        })?;
        Ok((self.parent(parent)?, name))
    }

    /// The directory `path`, made (0755, owned by root) with all above it where it is missing.
    fn parent(&mut self, path: &[u8]) -> Result<BorrowedFd<'_>, LayerError> {
        let known = match self.parent.take().filter(|known| known.path == path) {
            Some(known) => known,
            None => Parent { path: path.to_vec(), fd: self.open_or_make_parent(path)?, stat: None },
        };
        Ok(self.parent.insert(known).fd.as_fd())
    }

    fn open_or_make_parent(&mut self, path: &[u8]) -> Result<OwnedFd, LayerError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match open_in_root(self.root, path, flags) {
            Err(Errno::NOENT) => {}
            result => return result.at(path),
        }
        let ends = (1..=path.len()).filter(|&end| end == path.len() || path[end] == b'/');
        let mut current = open_in_root(self.root, b"", flags).at(b"/")?;
        let mut start = 0;
        for end in ends {
            let name = &path[start..end];
            start = end + 1;
            match open_in_root(self.root, &path[..end], flags) {
                Ok(dir) => current = dir,
                Err(Errno::NOENT) => {
                    // A link that leads nowhere is `EEXIST` here: nothing is made where it points.
                    rustix::fs::mkdirat(&current, name, Mode::RWXU).at(path)?;
                    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    current = rustix::fs::openat(&current, name, flags, Mode::empty()).at(path)?;
                    rustix::fs::fchmod(&current, Mode::from_raw_mode(0o755)).at(path)?;
                    self.defer(end + size_of::<PathBuf>())?;
                    self.implied.insert(OsStr::from_bytes(&path[..end]).into());
                }
                Err(error) => return Err(error).at(path),
            }
        }
        Ok(current)
    }
}

/// Opens `path` with `root` as `/` for every link in it.
pub(crate) fn open_in_root(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let path = if path.is_empty() { OsStr::new(".") } else { OsStr::from_bytes(path) };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    // EAGAIN: a rename somewhere in the system raced with the resolution; the kernel asks for another try.
    for _ in 0..RESOLVE_TRIES {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => {}
            result => return result,
        }
    }
    Err(Errno::AGAIN)
}

fn stat(parent: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<Option<Stat>> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes a directory and all below it, without a descriptor or stack frame for each level.
fn remove_dir_all(parent: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let mut found = vec![b".".to_vec()];
    let mut next = 0;
    while next < found.len() {
        let path = found[next].clone();
        next += 1;
        let dir = rustix::fs::openat2(&top, path.as_slice(), flags, Mode::empty(), resolve)?;
        for entry in rustix::fs::Dir::read_from(&dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            match rustix::fs::unlinkat(&dir, name, AtFlags::empty()) {
                Ok(()) => {}
                Err(Errno::ISDIR | Errno::PERM) => found.push([&path, &b"/"[..], name.to_bytes()].concat()),
                Err(error) => return Err(error),
            }
        }
    }
    for path in found.iter().skip(1).rev() {
        rustix::fs::unlinkat(&top, path.as_slice(), AtFlags::REMOVEDIR)?;
    }
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}

fn set_xattrs(path: &CleanPath, fd: BorrowedFd<'_>, metadata: &Metadata<'_>) -> Result<(), LayerError> {
    for (name, value) in metadata.xattrs {
        if is_overlay_xattr(name) {
            tracing::debug!(entry = shown(path.as_bytes()), "overlayfs attribute dropped");
            continue;
        }
        let Ok(c_name) = CString::new(name.as_slice()) else { continue };
        match rustix::fs::fsetxattr(fd, &c_name, value, XattrFlags::empty()) {
            Ok(()) => {}
            // As Docker does: what the file system or the kernel does not take is left out, but for what decides
            // on a program's rights.
            Err(Errno::NOTSUP) => {}
            Err(Errno::PERM) if name != b"security.capability" => {}
            Err(error) => return Err(error).at(path.as_bytes()),
        }
    }
    Ok(())
}

fn owned(given: Result<(), Errno>, path: &CleanPath, metadata: &Metadata<'_>) -> Result<(), LayerError> {
    match given {
        Err(Errno::INVAL) => {
            let entry = shown(path.as_bytes());
            Err(LayerError::Owner { entry, uid: metadata.uid, gid: metadata.gid })
        }
        other => other.at(path.as_bytes()),
    }
}

fn times(mtime: Mtime) -> Timestamps {
    let time = rustix::fs::Timespec { tv_sec: mtime.seconds, tv_nsec: i64::from(mtime.nanoseconds) };
    Timestamps { last_access: time, last_modification: time }
}

/// The most memory for directories whose times are still to be set: names of a million of them.
pub const MAX_DEFERRED_BYTES: usize = 64 << 20;

const RESOLVE_TRIES: usize = 128;
const _: () = assert!(MAX_PATH_BYTES < 4096, "paths are given to the kernel in one piece");
