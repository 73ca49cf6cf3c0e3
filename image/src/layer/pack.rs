//! Tree to tar: the canonical form of a layer, the same bytes for the same tree always.
//!
//! Entries are sorted by their paths' components, each directory before what is in it; an opaque mark comes first in its
//! directory. Headers are ustar, with PAX records only for what does not fit. The names of users and groups, which depend
//! on the host, are left empty, times are cut to seconds (as Docker and BuildKit have them in layers), and of several
//! hard links the first path in order is the file.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use tar::EntryType;

use super::tar_writer::{TarEntry, TarWriter, write_tar_of};
use super::{
    At as _, LayerError, OPAQUE_VALUE, OverlayXattrs, Packed, WHITEOUT_OPAQUE, WHITEOUT_PREFIX,
    is_portable_xattr, shown, unnoted,
};

/// How a tree is packed.
#[derive(Clone, Copy, Debug, Default)]
pub struct PackOptions {
    /// Which times are written.
    pub times: Times,
}

/// The times of a tar's entries, in seconds since the epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Times {
    /// As they are.
    #[default]
    Kept,
    /// Later ones as this one (`SOURCE_DATE_EPOCH` with `rewrite-timestamp`).
    AtMost(i64),
    /// All as this one.
    Exactly(i64),
}

impl Times {
    /// What is written for an entry of time `mtime`.
    pub fn of(self, mtime: i64) -> i64 {
        match self {
            Self::Kept => mtime,
            Self::AtMost(latest) => mtime.min(latest),
            Self::Exactly(time) => time,
        }
    }
}

/// Writes the tree as an uncompressed canonical tar: sorted, the same bytes for the same tree always.
///
/// # Errors
/// I/O on either side.
pub fn pack(tree: BorrowedFd<'_>, xattrs: OverlayXattrs, out: &mut dyn Write) -> Result<Packed, LayerError> {
    pack_with(tree, xattrs, PackOptions::default(), out)
}

/// As [`pack`], with options.
///
/// # Errors
/// As [`pack`].
pub fn pack_with(
    tree: BorrowedFd<'_>,
    xattrs: OverlayXattrs,
    options: PackOptions,
    out: &mut dyn Write,
) -> Result<Packed, LayerError> {
    write_tar_of(out, |out| {
        Packer { tree, xattrs, options, out, parent: None, first_links: HashMap::new() }.pack_tree()
    })
}

struct Packer<'a, 'w> {
    tree: BorrowedFd<'a>,
    xattrs: OverlayXattrs,
    options: PackOptions,
    out: &'a mut TarWriter<'w>,
    /// The directory that something was opened in last: entries come directory by directory.
    parent: Option<(Vec<u8>, OwnedFd)>,
    /// Device and inode of files with several links → the path they were written at.
    first_links: HashMap<(u64, u64), Vec<u8>>,
}

impl Packer<'_, '_> {
    /// Goes through the tree with a list of what is still to do, last first, so that depth costs neither stack nor
    /// descriptors.
    fn pack_tree(&mut self) -> Result<(), LayerError> {
        let mut pending = self.pack_dir_entries(b"")?;
        while let Some(next) = pending.pop() {
            match next {
                Pending::Entry(path, stat) => {
                    if self.pack_entry(&path, &stat)? == FileType::Directory {
                        pending.extend(self.pack_dir_entries(&path)?);
                    }
                }
                Pending::Opaque(dir) => self.pack_marker(&dir, WHITEOUT_OPAQUE)?,
            }
        }
        Ok(())
    }

    /// What is in directory `path`, in reverse order.
    fn pack_dir_entries(&mut self, path: &[u8]) -> Result<Vec<Pending>, LayerError> {
        let dir = self.open(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&dir).at(path)? {
            let entry = entry.at(path)?;
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                names.push(name.to_vec());
            }
        }
        names.sort_unstable_by(|a, b| b.cmp(a));
        let mut pending = Vec::with_capacity(names.len() + 1);
        for name in names {
            let child = join(path, &name);
            if name.starts_with(WHITEOUT_PREFIX) {
                return Err(LayerError::ReservedName(shown(&child)));
            }
            let stat = rustix::fs::statat(&dir, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW).at(&child)?;
            pending.push(Pending::Entry(child, stat));
        }
        let mut value = [0; OPAQUE_VALUE.len()];
        if let Ok(length) = rustix::fs::fgetxattr(&dir, self.xattrs.opaque(), &mut value)
            && value[..length] == *OPAQUE_VALUE
        {
            pending.push(Pending::Opaque(path.to_vec()));
        }
        Ok(pending)
    }

    fn pack_entry(&mut self, path: &[u8], stat: &Stat) -> Result<FileType, LayerError> {
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::CharacterDevice && stat.st_rdev == 0 {
            let (parent, name) = split(path);
            self.pack_marker(parent, &[WHITEOUT_PREFIX, name].concat())?;
            return Ok(kind);
        }
        let mut record = TarEntry {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: self.options.times.of(stat.st_mtime),
            ..TarEntry::new(path.to_vec())
        };
        if kind != FileType::Directory && stat.st_nlink > 1 {
            let inode = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.first_links.get(&inode) {
                record.kind = EntryType::Link;
                record.link = first.clone();
                self.out.entry(record)?;
                return Ok(kind);
            }
            self.first_links.insert(inode, path.to_vec());
        }
        match kind {
            FileType::RegularFile => {
                let (parent, name) = self.parent_of(path)?;
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let open = |more| rustix::fs::openat(parent, name, flags | more, Mode::empty());
                let file = File::from(unnoted(open).at(path)?);
                record.size = u64::try_from(stat.st_size).unwrap_or_default();
                record.take_xattrs(portable_xattrs(&file).at(path)?);
                self.out.file(record, &file)?;
            }
            FileType::Directory => {
                let dir = self.open(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
                record.kind = EntryType::Directory;
                record.path.push(b'/');
                record.take_xattrs(portable_xattrs(&dir).at(path)?);
                self.out.entry(record)?;
            }
            FileType::Symlink => {
                let (parent, name) = self.parent_of(path)?;
                record.kind = EntryType::Symlink;
                record.link = rustix::fs::readlinkat(parent, name, Vec::new()).at(path)?.into_bytes();
                self.out.entry(record)?;
            }
            FileType::Fifo => {
                record.kind = EntryType::Fifo;
                self.out.entry(record)?;
            }
            FileType::CharacterDevice | FileType::BlockDevice => {
                record.kind =
                    if kind == FileType::CharacterDevice { EntryType::Char } else { EntryType::Block };
                record.device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
                self.out.entry(record)?;
            }
            // A socket means nothing without the process behind it; tar has no type for it.
            _ => tracing::debug!(path = shown(path), "socket left out of the layer"),
        }
        Ok(kind)
    }

    /// A whiteout or opaque mark: an empty file whose name says it all. When something was deleted, and by whom, would
    /// make the same deletion a different layer.
    fn pack_marker(&mut self, dir: &[u8], name: &[u8]) -> Result<(), LayerError> {
        self.out.entry(TarEntry::new(join(dir, name)))
    }

    /// The directory that `path` is in, and its name there.
    fn parent_of<'p>(&mut self, path: &'p [u8]) -> Result<(BorrowedFd<'_>, &'p [u8]), LayerError> {
        let (parent, name) = split(path);
        let (known, fd) = match self.parent.take().filter(|(known, _)| known == parent) {
            Some(known) => known,
            None => (parent.to_vec(), self.open(parent, OFlags::PATH | OFlags::DIRECTORY)?),
        };
        Ok((self.parent.insert((known, fd)).1.as_fd(), name))
    }

    /// Opens what is at `path` itself; no link leads anywhere.
    fn open(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, LayerError> {
        let name = if path.is_empty() { OsStr::new(".") } else { OsStr::from_bytes(path) };
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(self.tree, name, flags, Mode::empty(), resolve).at(path)
    }
}

enum Pending {
    Entry(Vec<u8>, Stat),
    Opaque(Vec<u8>),
}

/// The attributes that layers carry, sorted by name.
fn portable_xattrs(fd: &impl std::os::fd::AsFd) -> rustix::io::Result<Vec<(OsString, Vec<u8>)>> {
    let mut names = vec![0_u8; 1024];
    let length = loop {
        match rustix::fs::flistxattr(fd, names.as_mut_slice()) {
            Ok(length) => break length,
            Err(Errno::NOTSUP) => return Ok(Vec::new()),
            Err(Errno::RANGE) if names.len() < MAX_XATTR_BYTES => names.resize(MAX_XATTR_BYTES, 0),
            Err(error) => return Err(error),
        }
    };
    let mut xattrs = Vec::new();
    for name in names[..length].split(|&b| b == 0).filter(|name| is_portable_xattr(name)) {
        let mut value = vec![0; MAX_XATTR_BYTES];
        let length = rustix::fs::fgetxattr(fd, name, value.as_mut_slice())?;
        value.truncate(length);
        value.shrink_to_fit();
        xattrs.push((OsString::from_vec(name.to_vec()), value));
    }
    xattrs.sort();
    Ok(xattrs)
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// The kernel's own limits for a list of names and for a value (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const MAX_XATTR_BYTES: usize = 64 * 1024;
