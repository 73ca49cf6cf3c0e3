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
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kiln_cache::{Entry, EntryKind, SourceTree, spread};
use kiln_image::layer::{next_data, owner};
use rayon::prelude::*;
use rustix::fs::{self as sys, AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags};

use super::CopyError;
use super::earlier::Earlier;
use super::follow::Progress;
use super::place::{Data, LayerPlan, Node};

/// Below so many files threads cost more than they bring.
const PARALLEL_FROM: usize = 16;

/// Files up to this size are read whole: the kernel's way of copying pays for larger ones only.
const READ_WHOLE_BYTES: u64 = 128 * 1024;

/// Files are copied in pieces of so many bytes, after each of which whoever follows is told.
const PIECE_BYTES: u64 = 8 << 20;

/// Writes everything into the existing, empty directory `root`; what `earlier` has it gives, and `progress` is told. Returns
/// how many bytes of the files are holes.
pub(super) fn write(
    plan: &LayerPlan<'_>,
    root: &Path,
    earlier: Option<&Earlier>,
    progress: Option<&Progress>,
) -> Result<u64, CopyError> {
    let writer = Writer { earlier, progress, born_as: born_as(root)?, holes: AtomicU64::default() };
    let mut files = Vec::new();
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
        let earlier = earlier.filter(|earlier| earlier.has(index)).map(|_| path.as_path());
        files.push(New { index, target, node, earlier });
    }
    spread(
        files.len() >= PARALLEL_FROM,
        || files.iter().try_for_each(|new| writer.write_node(new)),
        || files.par_iter().try_for_each(|new| writer.write_node(new)),
    )?;
    for (first, link) in links {
        at(&link, sys::linkat(CWD, &first, CWD, &link, AtFlags::empty()))?;
    }
    for (target, entry) in dirs.iter().rev() {
        set_metadata(target, entry)?;
    }
    Ok(writer.holes.into_inner())
}

/// A file to be.
struct New<'a> {
    /// Among the plan's nodes.
    index: usize,
    target: PathBuf,
    node: &'a Node,
    /// Its path in the earlier layer, if that has it.
    earlier: Option<&'a Path>,
}

struct Writer<'a> {
    earlier: Option<&'a Earlier>,
    progress: Option<&'a Progress>,
    /// The owner and group that new files have, where that is sure.
    born_as: Option<(u32, u32)>,
    /// Bytes that are zeros without being written.
    holes: AtomicU64,
}

impl Writer<'_> {
    fn write_node(&self, New { index, target, node, earlier: known }: &New<'_>) -> Result<(), CopyError> {
        if let (Some(earlier), Some(path)) = (self.earlier, known)
            && earlier.link(path, target)
        {
            self.tell(*index, u64::MAX);
            return Ok(());
        }
        match node.entry.kind {
            EntryKind::File { .. } => self.write_file(*index, target, node),
            _ => write_other(target, node),
        }
    }

    fn write_file(&self, index: usize, target: &Path, node: &Node) -> Result<(), CopyError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = at(target, sys::openat(CWD, target, flags, Mode::RUSR | Mode::WUSR))?;
        let mut file = File::from(file);
        match &node.data {
            Data::None => {}
            Data::Inline(bytes) => {
                at(target, file.write_all(bytes))?;
                self.tell(index, bytes.len() as u64);
            }
            Data::Source { tree, entry } => self.copy_bytes(index, tree, entry, &mut file)?,
        }
        let entry = &node.entry;
        if self.born_as != Some((entry.uid, entry.gid)) {
            at(target, owner::give(&file, entry.uid, entry.gid))?;
        }
        // After the owner: chown takes the set-id bits away.
        at(target, sys::fchmod(&file, Mode::from_raw_mode(entry.mode)))?;
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
        let tree_error = |error| CopyError::Io { path: entry.path.clone(), source: io::Error::other(error) };
        let mut source = tree.open_entry(entry).map_err(tree_error)?;
        let copied = match entry.kind {
            EntryKind::File { size } if size <= READ_WHOLE_BYTES => {
                let copied = at(&entry.path, copy_small(&source, size, file))?;
                self.tell(index, copied);
                copied
            }
            EntryKind::File { size } => at(&entry.path, self.copy_in_pieces(index, size, &mut source, file))?,
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

    fn tell(&self, index: usize, bytes: u64) {
        if let Some(progress) = self.progress {
            progress.advance(index, bytes);
        }
    }
}

/// The owner and group of files made below `root`: in a set-group-id directory (directories below inherit that) or on a
/// file system with mount options about it the group is another, so the file system itself is asked.
fn born_as(root: &Path) -> Result<Option<(u32, u32)>, CopyError> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let stat = at(root, sys::stat(root))?;
    let is_plain = (stat.st_uid, stat.st_gid) == (uid, gid) && stat.st_mode & Mode::SGID.as_raw_mode() == 0;
    Ok(is_plain.then_some((uid, gid)))
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
