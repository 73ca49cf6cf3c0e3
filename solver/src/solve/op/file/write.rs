//! A planned layer to disk.
//!
//! The target is a directory that nobody else sees, and the plan has a directory above every entry, so paths can be
//! joined: no link is ever passed through. Files are written in parallel; directories get their times last.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use kiln_cache::{Entry, EntryKind, SourceTree};
use kiln_image::layer::owner;
use rayon::prelude::*;
use rustix::fs::{self as sys, AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags};

use super::CopyError;
use super::place::{Data, LayerPlan, Node};

/// Below so many files threads cost more than they bring.
const PARALLEL_FROM: usize = 16;

/// Writes everything into the existing directory `root`.
pub(super) fn write(plan: &LayerPlan<'_>, root: &Path) -> Result<(), CopyError> {
    let mut files = Vec::new();
    let mut links: Vec<(PathBuf, PathBuf)> = Vec::new();
    let mut first_of_group: HashMap<usize, PathBuf> = HashMap::new();
    let mut dirs = Vec::new();
    for (path, node) in plan.nodes() {
        // `join` of an empty path would add a slash.
        let target = if path.as_os_str().is_empty() { root.to_owned() } else { root.join(path) };
        if node.entry.kind == EntryKind::Dir {
            if !path.as_os_str().is_empty() {
                at(&target, sys::mkdirat(CWD, &target, Mode::RWXU))?;
            }
            dirs.push((target, node));
            continue;
        }
        if let Some(group) = node.link_group() {
            if let Some(first) = first_of_group.get(&group) {
                links.push((first.clone(), target));
                continue;
            }
            first_of_group.insert(group, target.clone());
        }
        files.push((target, node));
    }
    if files.len() < PARALLEL_FROM {
        files.iter().try_for_each(|(target, node)| write_node(target, node))?;
    } else {
        in_pool(|| files.par_iter().try_for_each(|(target, node)| write_node(target, node)))?;
    }
    for (first, link) in links {
        at(&link, sys::linkat(CWD, &first, CWD, &link, AtFlags::empty()))?;
    }
    for (target, node) in dirs.iter().rev() {
        set_metadata(target, &node.entry)?;
    }
    Ok(())
}

/// Runs in kiln's own threads: the global pool belongs to whoever embeds kiln.
fn in_pool<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    static POOL: OnceLock<Option<rayon::ThreadPool>> = OnceLock::new();
    let pool = POOL.get_or_init(|| {
        rayon::ThreadPoolBuilder::new().thread_name(|index| format!("kiln-copy-{index}")).build().ok()
    });
    match pool {
        Some(pool) => pool.install(work),
        None => work(),
    }
}

fn write_node(target: &Path, node: &Node) -> Result<(), CopyError> {
    let entry = &node.entry;
    match &entry.kind {
        EntryKind::File { .. } => return write_file(target, node),
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
        // Directories are made before.
        EntryKind::Dir => {}
    }
    set_metadata(target, entry)
}

fn write_file(target: &Path, node: &Node) -> Result<(), CopyError> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = at(target, sys::openat(CWD, target, flags, Mode::RUSR | Mode::WUSR))?;
    let mut file = File::from(file);
    match &node.data {
        Data::None => {}
        Data::Inline(bytes) => at(target, file.write_all(bytes))?,
        Data::Source { tree, entry } => copy_bytes(tree, entry, &mut file)?,
    }
    let entry = &node.entry;
    at(target, owner::give(&file, entry.uid, entry.gid))?;
    // After the owner: chown takes the set-id bits away.
    at(target, sys::fchmod(&file, Mode::from_raw_mode(entry.mode)))?;
    for (name, value) in &entry.xattrs {
        if let Err(error) = sys::fsetxattr(file.as_fd(), name, value, XattrFlags::empty()) {
            tracing::debug!(?target, ?name, %error, "attribute not kept");
        }
    }
    at(target, sys::futimens(&file, &times(entry)))
}

/// Copies by copy_file_range(2), which shares the blocks where the file system can.
fn copy_bytes(tree: &Arc<dyn SourceTree>, entry: &Entry, file: &mut File) -> Result<(), CopyError> {
    let tree_error = |error| CopyError::Io { path: entry.path.clone(), source: io::Error::other(error) };
    let mut source = tree.open(&entry.path).map_err(tree_error)?;
    let copied = at(&entry.path, io::copy(&mut source, file))?;
    // The key was made of the bytes as they were then.
    let now = at(&entry.path, source.metadata())?;
    let mtime_ns = i128::from(now.mtime()) * 1_000_000_000 + i128::from(now.mtime_nsec());
    if entry.kind != (EntryKind::File { size: copied }) || mtime_ns != entry.mtime_ns {
        return Err(CopyError::Changed(entry.path.clone()));
    }
    Ok(())
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
