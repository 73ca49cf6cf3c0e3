//! Trees with copies of layers' files, and what is kept of them from one step to the next.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{Mode, OFlags};

use super::copy::{How, fill};
use crate::Rootfs;

/// Trees that [`Chroot`](crate::Chroot) has made in a folder, for steps to come: one that has what a step's root begins
/// with is taken and completed, so that ten steps in a row copy their base once.
#[derive(Debug)]
pub struct Trees {
    folder: PathBuf,
    made: AtomicU64,
    /// The one used last at the end.
    kept: Mutex<Vec<Tree>>,
}

/// So many trees are kept that no step uses; each is as large as its root.
const KEPT_AT_MOST: usize = 3;

impl Trees {
    /// None yet; those that are made lie in `folder`, on the file system of the layers' upper directories, and belong to
    /// whoever removes it.
    pub fn new(folder: impl Into<PathBuf>) -> Trees {
        Trees { folder: folder.into(), made: AtomicU64::new(0), kept: Mutex::default() }
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Tree>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the tree that has most of `layers` and nothing else.
    fn take(&self, layers: &[Pin]) -> Option<Tree> {
        let mut kept = self.kept();
        let has = |tree: &Tree| tree.layers.len() <= layers.len() && layers.starts_with(&tree.layers);
        let fits = kept.iter().enumerate().filter(|(_, tree)| has(tree));
        let (best, _) = fits.max_by_key(|(_, tree)| tree.layers.len())?;
        Some(kept.remove(best))
    }
}

/// One tree; removed on drop.
#[derive(Debug)]
pub(super) struct Tree {
    path: PathBuf,
    root: OwnedFd,
    /// What it has, bottom first.
    layers: Vec<Pin>,
}

/// A layer's directory by its inode, which is nobody else's as long as it is open here; its name changes.
#[derive(Debug)]
struct Pin {
    inode: (u64, u64),
    _directory: OwnedFd,
}

impl PartialEq for Pin {
    fn eq(&self, other: &Pin) -> bool {
        self.inode == other.inode
    }
}

impl Pin {
    fn of(path: &Path) -> io::Result<Pin> {
        let directory = open(path)?;
        let found = rustix::fs::fstat(&directory)?;
        Ok(Pin { inode: (found.st_dev, found.st_ino), _directory: directory })
    }
}

/// The tree of a step's layers: a kept one, completed, or a new one.
pub(super) fn take(rootfs: &Rootfs, cancel: &AtomicBool) -> io::Result<Tree> {
    let layers = rootfs.layers.iter().map(|layer| Pin::of(layer)).collect::<io::Result<Vec<_>>>()?;
    let kept = rootfs.trees.as_ref().and_then(|trees| trees.take(&layers));
    let mut tree = match kept {
        Some(tree) => tree,
        None => Tree::make(rootfs)?,
    };
    let missing = rootfs.layers.iter().zip(layers).skip(tree.layers.len());
    for (path, layer) in missing {
        fill(open(path)?.as_fd(), tree.root.as_fd(), How::Layer, cancel)?;
        tree.layers.push(layer);
    }
    Ok(tree)
}

impl Tree {
    fn make(rootfs: &Rootfs) -> io::Result<Tree> {
        let path = match &rootfs.trees {
            Some(trees) => trees.folder.join(format!("tree-{}", trees.made.fetch_add(1, Ordering::Relaxed))),
            None => rootfs.work.join("tree"),
        };
        fs::create_dir(&path)?;
        Ok(Tree { root: open(&path)?, path, layers: Vec::new() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Keeps it for a step whose root has the upper directory on top.
    pub(super) fn keep(mut self, rootfs: &Rootfs) -> io::Result<()> {
        let Some(trees) = &rootfs.trees else { return Ok(()) };
        self.layers.push(Pin::of(&rootfs.upper)?);
        let mut kept = trees.kept();
        kept.push(self);
        let oldest = (kept.len() > KEPT_AT_MOST).then(|| kept.remove(0));
        // Removing takes its time.
        drop(kept);
        drop(oldest);
        Ok(())
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        // What cannot be removed goes with the folder.
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, DIRECTORY, Mode::empty())?)
}

/// Flags of every open directory here.
pub(super) const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
