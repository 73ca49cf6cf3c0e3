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
use tar::{EntryType, Header};

use super::digest_stream::{HashingWriter, with_hasher};
use super::{
    At as _, LayerError, OPAQUE_VALUE, OverlayXattrs, Packed, WHITEOUT_OPAQUE, WHITEOUT_PREFIX,
    is_portable_xattr, owner, shown,
};
use crate::DiffId;

/// How a tree is packed.
#[derive(Clone, Copy, Debug, Default)]
pub struct PackOptions {
    /// Later times are written as this one, in seconds since the epoch (`SOURCE_DATE_EPOCH`, `rewrite-timestamp`).
    pub rewrite_mtime_to: Option<i64>,
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
    let (size_bytes, digest) = with_hasher(|queue| {
        let out = HashingWriter::new(out, queue);
        let mut packer = Packer { tree, xattrs, options, out, parent: None, first_links: HashMap::new() };
        packer.pack_tree()?;
        packer.out.write_all(&[0; 2 * BLOCK]).at(b"tar")?;
        packer.out.finish().at(b"tar")
    })?;
    Ok(Packed { diff_id: DiffId(digest), size_bytes })
}

struct Packer<'a> {
    tree: BorrowedFd<'a>,
    xattrs: OverlayXattrs,
    options: PackOptions,
    out: HashingWriter<'a>,
    /// The directory that something was opened in last: entries come directory by directory.
    parent: Option<(Vec<u8>, OwnedFd)>,
    /// Device and inode of files with several links → the path they were written at.
    first_links: HashMap<(u64, u64), Vec<u8>>,
}

impl Packer<'_> {
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
        let mut record = Record {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: self.mtime(stat),
            ..Record::new(path.to_vec())
        };
        if kind != FileType::Directory && stat.st_nlink > 1 {
            let inode = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.first_links.get(&inode) {
                record.kind = EntryType::Link;
                record.link = first.clone();
                self.write_record(record)?;
                return Ok(kind);
            }
            self.first_links.insert(inode, path.to_vec());
        }
        match kind {
            FileType::RegularFile => {
                let (parent, name) = self.parent_of(path)?;
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = File::from(rustix::fs::openat(parent, name, flags, Mode::empty()).at(path)?);
                record.size = u64::try_from(stat.st_size).unwrap_or_default();
                record.take_xattrs(portable_xattrs(&file).at(path)?);
                let size = record.size;
                self.write_record(record)?;
                self.out.copy_exactly(&file, size).at(path)?;
                self.pad(size)?;
            }
            FileType::Directory => {
                let dir = self.open(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
                record.kind = EntryType::Directory;
                record.path.push(b'/');
                record.take_xattrs(portable_xattrs(&dir).at(path)?);
                self.write_record(record)?;
            }
            FileType::Symlink => {
                let (parent, name) = self.parent_of(path)?;
                record.kind = EntryType::Symlink;
                record.link = rustix::fs::readlinkat(parent, name, Vec::new()).at(path)?.into_bytes();
                self.write_record(record)?;
            }
            FileType::Fifo => {
                record.kind = EntryType::Fifo;
                self.write_record(record)?;
            }
            FileType::CharacterDevice | FileType::BlockDevice => {
                record.kind =
                    if kind == FileType::CharacterDevice { EntryType::Char } else { EntryType::Block };
                record.device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
                self.write_record(record)?;
            }
            // A socket means nothing without the process behind it; tar has no type for it.
            _ => tracing::debug!(path = shown(path), "socket left out of the layer"),
        }
        Ok(kind)
    }

    /// A whiteout or opaque mark: an empty file whose name says it all. When something was deleted, and by whom, would
    /// make the same deletion a different layer.
    fn pack_marker(&mut self, dir: &[u8], name: &[u8]) -> Result<(), LayerError> {
        self.write_record(Record::new(join(dir, name)))
    }

    fn mtime(&self, stat: &Stat) -> i64 {
        let latest = self.options.rewrite_mtime_to.unwrap_or(i64::MAX);
        stat.st_mtime.min(latest)
    }

    fn write_record(&mut self, record: Record) -> Result<(), LayerError> {
        let (header, pax) = record.encode();
        if !pax.is_empty() {
            let mut extension = Header::new_ustar();
            // The name that readers without PAX would see, and nobody else.
            set_field(&mut extension.as_old_mut().name, b"PaxHeaders.0/entry");
            extension.set_entry_type(EntryType::XHeader);
            extension.set_mode(0o644);
            (extension.as_old_mut().uid, extension.as_old_mut().gid) = (*b"0000000\0", *b"0000000\0");
            extension.set_mtime(0);
            extension.set_size(pax.len() as u64);
            extension.set_cksum();
            self.write(extension.as_bytes())?;
            self.write(&pax)?;
            self.pad(pax.len() as u64)?;
        }
        self.write(header.as_bytes())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), LayerError> {
        self.out.write_all(bytes).at(b"tar")
    }

    fn pad(&mut self, size: u64) -> Result<(), LayerError> {
        let padding = usize::try_from(size.wrapping_neg() % BLOCK as u64).unwrap_or_default();
        self.write(&[0; BLOCK][..padding])
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

/// One entry before it is encoded.
struct Record {
    path: Vec<u8>,
    kind: EntryType,
    link: Vec<u8>,
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: i64,
    size: u64,
    device: (u32, u32),
    xattrs: Vec<(OsString, Vec<u8>)>,
}

impl Record {
    fn take_xattrs(&mut self, mut xattrs: Vec<(OsString, Vec<u8>)>) {
        if let Some((uid, gid)) = owner::take_noted(&mut xattrs) {
            (self.uid, self.gid) = (uid, gid);
        }
        self.xattrs = xattrs;
    }

    /// An empty file without owner, rights and time.
    fn new(path: Vec<u8>) -> Self {
        Self {
            path,
            kind: EntryType::Regular,
            link: Vec::new(),
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: 0,
            size: 0,
            device: (0, 0),
            xattrs: Vec::new(),
        }
    }

    /// The header, and PAX records for what does not fit in it, sorted by key.
    fn encode(self) -> (Header, Vec<u8>) {
        let mut header = Header::new_ustar();
        let mut pax = Vec::new();
        header.set_entry_type(self.kind);
        header.set_mode(self.mode);
        let old = header.as_old_mut();
        let mut number = |field: &mut [u8], value: i64, key: &str| {
            if !set_octal(field, value) {
                set_octal(field, 0);
                pax.push((key.as_bytes().to_vec(), value.to_string().into_bytes()));
            }
        };
        number(&mut old.uid, i64::from(self.uid), "uid");
        number(&mut old.gid, i64::from(self.gid), "gid");
        number(&mut old.size, i64::try_from(self.size).unwrap_or(i64::MAX), "size");
        number(&mut old.mtime, self.mtime, "mtime");
        if !set_field(&mut old.linkname, &self.link) {
            pax.push((b"linkpath".to_vec(), self.link));
        }
        if !set_path(&mut header, &self.path) {
            pax.push((b"path".to_vec(), self.path));
        }
        if let Some(ustar) = header.as_ustar_mut() {
            // Every kernel's numbers fit: 12 and 20 bits.
            ustar.set_device_major(self.device.0);
            ustar.set_device_minor(self.device.1);
        }
        header.set_cksum();
        for (name, value) in self.xattrs {
            pax.push(([b"SCHILY.xattr.", name.as_bytes()].concat(), value));
        }
        pax.sort();
        (header, pax.iter().flat_map(|(key, value)| pax_record(key, value)).collect())
    }
}

/// The path in the header's name, or split at a slash over prefix and name; false if it fits neither way.
fn set_path(header: &mut Header, path: &[u8]) -> bool {
    const NAME: usize = 100;
    const PREFIX: usize = 155;
    let Some(ustar) = header.as_ustar_mut() else { return false };
    if set_field(&mut ustar.name, path) {
        return true;
    }
    // A trailing slash belongs to the name.
    let body = &path[..path.len().saturating_sub(1)];
    let slash = body.iter().enumerate().position(|(at, &b)| b == b'/' && path.len() - at - 1 <= NAME);
    match slash {
        Some(at) if at > 0 && at <= PREFIX => {
            set_field(&mut ustar.prefix, &path[..at]) && set_field(&mut ustar.name, &path[at + 1..])
        }
        _ => {
            // Something for readers that ignore PAX; all others take the record.
            ustar.name = [0; NAME];
            ustar.name.copy_from_slice(&path[..NAME]);
            false
        }
    }
}

fn set_field(field: &mut [u8], value: &[u8]) -> bool {
    if value.len() > field.len() {
        return false;
    }
    field.fill(0);
    field[..value.len()].copy_from_slice(value);
    true
}

/// Octal digits filling the field but for a NUL.
fn set_octal(field: &mut [u8], value: i64) -> bool {
    let width = field.len() - 1;
    let Ok(value) = u64::try_from(value) else { return false };
    let text = format!("{value:0width$o}\0");
    set_field(field, text.as_bytes())
}

/// The record's length counts its own digits.
fn pax_record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
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
const BLOCK: usize = 512;
