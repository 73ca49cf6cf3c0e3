//! A planned layer to disk.
//!
//! The target is a directory that nobody else sees, and the plan has a directory above every entry, so paths can be
//! joined: no link is ever passed through. Files are written in parallel; directories get their times last.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use kiln_cache::{BytesHasher, Entry, EntryKind, SourceTree, TreeError, spread};
use kiln_image::Digest;
use kiln_image::layer::{Born, Feed, next_data, owner};
use rayon::prelude::*;
use rustix::fs::{self as sys, AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags};

use super::CopyError;
use super::earlier::Earlier;
use super::follow::Progress;
use super::place::{Data, LayerPlan, Node};

/// Below so many files threads cost more than they bring.
const PARALLEL_FROM: usize = 16;

/// Files up to this size are read whole: the kernel's way of copying pays for larger ones only.
pub(super) const READ_WHOLE_BYTES: u64 = 128 * 1024;

/// Files are copied in pieces of so many bytes, after each of which whoever follows is told.
const PIECE_BYTES: u64 = 8 << 20;

/// What came of writing.
pub(super) struct Written {
    /// Bytes of files that are zeros without being written.
    pub(super) holes: u64,
    /// What was hashed on the way, by the nodes' numbers.
    pub(super) digests: HashMap<usize, Digest>,
}

/// Writes everything into the existing, empty directory `root`; what `earlier` has it gives, and `progress` is told.
pub(super) fn write(
    plan: &LayerPlan<'_>,
    root: &Path,
    earlier: Option<&Earlier>,
    progress: Option<&Progress>,
) -> Result<Written, CopyError> {
    let dir = at(root, sys::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()))?;
    let writer = Writer {
        progress,
        born: Born::below(dir.as_fd()),
        root: at(root, sys::fstat(&dir))?,
        holes: AtomicU64::default(),
        digests: Mutex::default(),
    };
    let (mut files, mut known) = (Vec::new(), Vec::new());
    let mut links: Vec<(PathBuf, PathBuf)> = Vec::new();
    let mut first_of_group: HashMap<usize, PathBuf> = HashMap::new();
    let mut dirs = Vec::new();
    for (index, (path, node)) in plan.nodes().enumerate() {
        // `join` of an empty path would add a slash.
        let target = if path.as_os_str().is_empty() { root.to_owned() } else { root.join(path) };
        if node.entry.kind == EntryKind::Dir {
            if !path.as_os_str().is_empty() {
                at(&target, sys::mkdirat(CWD, &target, Mode::RWXU))?;
            }
            let mtime_ns =
                earlier.map_or(node.entry.mtime_ns, |earlier| earlier.mtime_ns(index, &node.entry));
            dirs.push((target, Entry { mtime_ns, ..node.entry.clone() }));
            continue;
        }
        if let Some(group) = node.link_group() {
            if let Some(first) = first_of_group.get(&group) {
                links.push((first.clone(), target));
                continue;
            }
            first_of_group.insert(group, target.clone());
        }
        let is_known = earlier.is_some_and(|earlier| earlier.has(index));
        if is_known { &mut known } else { &mut files }.push(New { index, path, target, node });
    }
    if let Some(earlier) = earlier {
        files.extend(link_known(earlier, known));
    }
    spread(
        files.len() >= PARALLEL_FROM && !progress.is_some_and(Progress::is_in_order),
        || files.iter().try_for_each(|new| writer.write_node(new)),
        || files.par_iter().try_for_each(|new| writer.write_node(new)),
    )?;
    for (first, link) in links {
        at(&link, sys::linkat(CWD, &first, CWD, &link, AtFlags::empty()))?;
    }
    for (target, entry) in dirs.iter().rev() {
        set_metadata(target, entry)?;
    }
    let digests = writer.digests.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(Written { holes: writer.holes.into_inner(), digests })
}

/// A file to be.
struct New<'a> {
    /// Among the plan's nodes.
    index: usize,
    /// In the layer.
    path: &'a Path,
    target: PathBuf,
    node: &'a Node,
}

/// Gives files of the earlier layer a further name each, directory by directory. Returns those that have to be written after
/// all, be it that one has as many names as it can have.
fn link_known<'a>(earlier: &Earlier, known: Vec<New<'a>>) -> Vec<New<'a>> {
    let dirs: Vec<&[New<'_>]> = known.chunk_by(|a, b| a.path.parent() == b.path.parent()).collect();
    let link = |files: &[New<'_>]| -> Option<Vec<bool>> {
        let first = files.first()?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let above = first.path.parent().filter(|above| !above.as_os_str().is_empty());
        let from = sys::openat(earlier.dir(), above.unwrap_or(Path::new(".")), flags, Mode::empty()).ok()?;
        let to = sys::open(first.target.parent()?, flags, Mode::empty()).ok()?;
        let linked = files.iter().map(|file| {
            let Some(name) = file.path.file_name() else { return false };
            sys::linkat(&from, name, &to, name, AtFlags::empty()).is_ok()
        });
        Some(linked.collect())
    };
    let link_all = |files: &&[New<'_>]| link(files).unwrap_or_else(|| vec![false; files.len()]);
    let linked: Vec<Vec<bool>> = spread(
        known.len() >= PARALLEL_FROM,
        || dirs.iter().map(link_all).collect(),
        || dirs.par_iter().map(link_all).collect(),
    );
    let linked = linked.into_iter().flatten();
    known.into_iter().zip(linked).filter(|(_, is_linked)| !is_linked).map(|(file, _)| file).collect()
}

struct Writer<'a> {
    progress: Option<&'a Progress>,
    born: Born,
    /// The root directory, of whose group those below are until all is written.
    root: sys::Stat,
    /// Bytes that are zeros without being written.
    holes: AtomicU64,
    /// Of what was hashed on the way.
    digests: Mutex<HashMap<usize, Digest>>,
}

impl Writer<'_> {
    fn write_node(&self, New { index, target, node, .. }: &New<'_>) -> Result<(), CopyError> {
        match node.entry.kind {
            EntryKind::File { .. } => self.write_file(*index, target, node),
            _ => write_other(target, node),
        }
    }

    fn write_file(&self, index: usize, target: &Path, node: &Node) -> Result<(), CopyError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = at(target, sys::openat(CWD, target, flags, self.born.mode(node.entry.mode)))?;
        let mut file = File::from(file);
        match &node.data {
            Data::None => {}
            Data::Inline(bytes) => {
                at(target, file.write_all(bytes))?;
                self.tell(index, bytes.len() as u64);
            }
            Data::Source(source) => self.copy_bytes(index, &source.tree, source.entry(), &mut file)?,
        }
        let entry = &node.entry;
        if !self.born.has_owner(&self.root, entry.uid, entry.gid) {
            at(target, owner::give(&file, entry.uid, entry.gid))?;
        }
        // After the owner: chown takes the set-id bits away.
        if !self.born.has_mode(entry.mode) {
            at(target, sys::fchmod(&file, Mode::from_raw_mode(entry.mode)))?;
        }
        for (name, value) in &entry.xattrs {
            if let Err(error) = sys::fsetxattr(file.as_fd(), name, value, XattrFlags::empty()) {
                tracing::debug!(?target, ?name, %error, "attribute not kept");
            }
        }
        at(target, sys::futimens(&file, &times(entry)))
    }

    /// Copies large files by copy_file_range(2), which shares the blocks where the file system can.
    fn copy_bytes(
        &self,
        index: usize,
        tree: &Arc<dyn SourceTree>,
        entry: &Entry,
        file: &mut File,
    ) -> Result<(), CopyError> {
        let mut source = tree.open_entry(entry).map_err(|error| tree_error(entry, error))?;
        let copied = match entry.kind {
            EntryKind::File { size } if size <= READ_WHOLE_BYTES => {
                let copied = at(&entry.path, copy_small(&source, size, file))?;
                self.tell(index, copied);
                copied
            }
            EntryKind::File { size } => {
                let mut feed = self.progress.and_then(|progress| progress.feed(index));
                match feed.as_mut().and_then(|feed| feed.as_mut()) {
                    Some(feed) => {
                        let (copied, digest) = copied_and_digest(tree, entry, &source, || {
                            self.copy_fed(size, &source, file, feed)
                        })?;
                        self.digests.lock().unwrap_or_else(PoisonError::into_inner).insert(index, digest);
                        copied
                    }
                    None => at(&entry.path, self.copy_in_pieces(index, size, &mut source, file))?,
                }
            }
            _ => 0,
        };
        // The key was made of the bytes as they were then.
        let now = at(&entry.path, source.metadata())?;
        let mtime_ns = i128::from(now.mtime()) * 1_000_000_000 + i128::from(now.mtime_nsec());
        let is_same = entry.kind == (EntryKind::File { size: copied }) && now.size() == copied;
        if !is_same || mtime_ns != entry.mtime_ns {
            return Err(CopyError::Changed(entry.path.clone()));
        }
        Ok(())
    }

    /// Copies what is to be `size` bytes, holes as holes; returns how many there were.
    fn copy_in_pieces(&self, index: usize, size: u64, source: &mut File, file: &mut File) -> io::Result<u64> {
        let (mut copied, mut data) = (0, 0..0);
        while copied < size {
            if data.end <= copied {
                data = next_data(&*source, copied..size)?;
            }
            if copied < data.start {
                self.holes.fetch_add(data.start - copied, Ordering::Relaxed);
                copied = data.start;
                file.set_len(copied)?;
                file.seek(SeekFrom::Start(copied))?;
            } else {
                let wanted = PIECE_BYTES.min(data.end - copied);
                match io::copy(&mut Read::by_ref(source).take(wanted), file)? {
                    0 => break,
                    piece => copied += piece,
                }
            }
            self.tell(index, copied);
        }
        Ok(copied)
    }

    /// As `copy_in_pieces`, with the digest: reads every byte once, for that, for the copy and for `feed`.
    fn copy_fed(
        &self,
        size: u64,
        mut source: &File,
        file: &mut File,
        feed: &mut Feed,
    ) -> io::Result<(u64, Digest)> {
        // Where the file system can, the blocks are shared.
        let is_shared = sys::ioctl_ficlone(&*file, source).is_ok();
        let mut hasher = BytesHasher::default();
        let (mut copied, mut data) = (0, 0..0);
        while copied < size {
            if data.end <= copied {
                data = next_data(source, copied..size)?;
            }
            let mut bytes = feed.buffer();
            let room = bytes.capacity() as u64;
            if copied < data.start {
                let zeros = room.min(data.start - copied);
                bytes.resize(usize::try_from(zeros).unwrap_or_default(), 0);
                copied += zeros;
                self.holes.fetch_add(zeros, Ordering::Relaxed);
                if !is_shared {
                    file.set_len(copied)?;
                    file.seek(SeekFrom::Start(copied))?;
                }
            } else {
                Read::by_ref(&mut source).take(room.min(data.end - copied)).read_to_end(&mut bytes)?;
                if bytes.is_empty() {
                    break;
                }
                copied += bytes.len() as u64;
                if !is_shared {
                    file.write_all(&bytes)?;
                }
            }
            hasher.update(&bytes);
            feed.send(bytes);
        }
        Ok((copied, hasher.finish()))
    }

    fn tell(&self, index: usize, bytes: u64) {
        if let Some(progress) = self.progress {
            progress.advance(index, bytes);
        }
    }
}

/// What `copy` says of the bytes of `source`, whose digest the tree remembers.
fn copied_and_digest(
    tree: &Arc<dyn SourceTree>,
    entry: &Entry,
    source: &File,
    mut copy: impl FnMut() -> io::Result<(u64, Digest)>,
) -> Result<(u64, Digest), CopyError> {
    let mut copied = 0;
    let mut read = || {
        let (length, digest) = copy()?;
        copied = length;
        Ok(digest)
    };
    let digest = tree.digest_by(entry, source, &mut read).map_err(|error| tree_error(entry, error))?;
    Ok((copied, digest))
}

fn tree_error(entry: &Entry, error: TreeError) -> CopyError {
    let source = match error {
        TreeError::Io { source, .. } => source,
        error => io::Error::other(error),
    };
    CopyError::Io { path: entry.path.clone(), source }
}

fn write_other(target: &Path, node: &Node) -> Result<(), CopyError> {
    let entry = &node.entry;
    match &entry.kind {
        EntryKind::Symlink(link) => at(target, sys::symlinkat(link, CWD, target))?,
        EntryKind::Fifo => at(target, sys::mknodat(CWD, target, FileType::Fifo, Mode::RUSR, 0))?,
        EntryKind::CharDevice { major, minor } => {
            let device = sys::makedev(*major, *minor);
            at(target, sys::mknodat(CWD, target, FileType::CharacterDevice, Mode::RUSR, device))?;
        }
        EntryKind::BlockDevice { major, minor } => {
            let device = sys::makedev(*major, *minor);
            at(target, sys::mknodat(CWD, target, FileType::BlockDevice, Mode::RUSR, device))?;
        }
        // Directories are made before, files elsewhere.
        EntryKind::Dir | EntryKind::File { .. } => {}
    }
    set_metadata(target, entry)
}

/// Copies what is to be `size` bytes; returns how many there were, or one more if there are more.
fn copy_small(mut source: &File, size: u64, file: &mut File) -> io::Result<u64> {
    thread_local! {
        static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    BUFFER.with_borrow_mut(|buffer| {
        let wanted = usize::try_from(size).unwrap_or_default();
        buffer.resize(buffer.len().max(wanted + 1), 0);
        let mut read = 0;
        while read <= wanted {
            match source.read(&mut buffer[read..=wanted]) {
                Ok(0) => break,
                // What is behind is seen by the size the file has then.
                Ok(length) if read + length == wanted => {
                    read = wanted;
                    break;
                }
                Ok(length) => read += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        file.write_all(&buffer[..read])?;
        Ok(read as u64)
    })
}

fn set_metadata(target: &Path, entry: &Entry) -> Result<(), CopyError> {
    at(target, owner::give_at(CWD, target, entry.uid, entry.gid))?;
    if !matches!(entry.kind, EntryKind::Symlink(_)) {
        at(target, sys::chmodat(CWD, target, Mode::from_raw_mode(entry.mode), AtFlags::empty()))?;
    }
    for (name, value) in &entry.xattrs {
        if let Err(error) = sys::lsetxattr(target, name, value, XattrFlags::empty()) {
            tracing::debug!(?target, ?name, %error, "attribute not kept");
        }
    }
    at(target, sys::utimensat(CWD, target, &times(entry), AtFlags::SYMLINK_NOFOLLOW))
}

fn times(entry: &Entry) -> Timestamps {
    let time = Timespec {
        tv_sec: i64::try_from(entry.mtime_ns.div_euclid(1_000_000_000)).unwrap_or(0),
        // Below 10⁹, whatever the width.
        tv_nsec: entry.mtime_ns.rem_euclid(1_000_000_000) as _,
    };
    Timestamps { last_access: time, last_modification: time }
}

fn at<T, E: Into<io::Error>>(path: &Path, result: Result<T, E>) -> Result<T, CopyError> {
    result.map_err(|source| CopyError::Io { path: path.to_owned(), source: source.into() })
}
