//! A planned layer to disk.
//!
//! The target is a directory that nobody else sees, and the plan has a directory above every entry, so paths can be
//! joined: no link is ever passed through. Files are written in parallel; directories get their times last.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_cache::{Entry, EntryKind, SourceTree, spread};
use kiln_image::layer::{Born, owner};
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

/// Writes everything into the existing, empty directory `root`; what `earlier` has it gives, and `progress` is told.
pub(super) fn write(
    plan: &LayerPlan<'_>,
    root: &Path,
    earlier: Option<&Earlier>,
    progress: Option<&Progress>,
) -> Result<(), CopyError> {
    let dir = at(root, sys::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()))?;
    let writer = Writer { progress, born: Born::below(dir.as_fd()), root: at(root, sys::fstat(&dir))? };
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
    Ok(())
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
            Data::Source { tree, entry } => self.copy_bytes(index, tree, entry, &mut file)?,
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
        let tree_error = |error| CopyError::Io { path: entry.path.clone(), source: io::Error::other(error) };
        let mut source = tree.open_entry(entry).map_err(tree_error)?;
        let copied = match entry.kind {
            EntryKind::File { size } if size <= READ_WHOLE_BYTES => {
                let copied = at(&entry.path, copy_small(&source, size, file))?;
                self.tell(index, copied);
                copied
            }
            _ => at(&entry.path, self.copy_in_pieces(index, &mut source, file))?,
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

    fn copy_in_pieces(&self, index: usize, source: &mut File, file: &mut File) -> io::Result<u64> {
        let mut copied = 0;
        loop {
            match io::copy(&mut Read::by_ref(source).take(PIECE_BYTES), file)? {
                0 => return Ok(copied),
                piece => copied += piece,
            }
            self.tell(index, copied);
        }
    }

    fn tell(&self, index: usize, bytes: u64) {
        if let Some(progress) = self.progress {
            progress.advance(index, bytes);
        }
    }
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
