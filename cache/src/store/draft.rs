//! Directories in progress.
//!
//! `work/<64 hex digits>/` with `fs/` and `work/`. Its maker holds flock(2) on the directory itself, so a kill at any
//! instruction leaves one that nobody holds, and the next [`sweep`](super::sweep) takes it away. A step never sees this
//! directory (only what is mounted from `fs/`), so it cannot meddle with the lock.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use kiln_image::Digest;
use rustix::fs::{FlockOperation, OFlags, flock};

use super::Store;
use super::error::{At, StoreError};
use super::layers::LayerId;
use super::locks::is_at;
use super::settle::Writing;
use crate::LayerTree;
use crate::unchanged::Below;

/// In a draft: the id of the layer it is about to become, where that is not the draft's own.
pub(super) const BECOMES: &str = "becomes";

/// A directory in progress.
#[derive(Debug)]
pub struct LayerDraft {
    path: PathBuf,
    /// The id if this becomes a built layer; also the directory's name.
    id: LayerId,
    _lock: File,
    _writing: Option<Writing>,
    below: Option<Below>,
}

impl Store {
    /// A new empty directory that may become a layer: `fs()` is its upper directory, `work()` overlayfs' work
    /// directory on the same file system. Removed on drop, swept after a kill.
    ///
    /// # Errors
    /// I/O.
    pub fn draft_layer(&self) -> Result<LayerDraft, StoreError> {
        let draft = LayerDraft::make(self.root(), Some(self.inner.settler.writing()))?;
        // overlayfs gives the merged root the upper directory's mode; the umask must not decide about a container's `/`.
        make_with_mode(&draft.fs(), 0o755)?;
        make_with_mode(&draft.work(), 0o700)?;
        Ok(draft)
    }

    /// A new file or directory path in the store's work folder for `what` (a context read from stdin), removed on drop
    /// of the returned guard and swept after a kill.
    ///
    /// # Errors
    /// I/O.
    pub fn scratch_dir(&self) -> Result<LayerDraft, StoreError> {
        self.draft_layer()
    }
}

impl LayerDraft {
    /// The tree that becomes the layer.
    pub fn fs(&self) -> PathBuf {
        self.path.join("fs")
    }
    /// The layer it becomes if it becomes one.
    pub fn id(&self) -> LayerId {
        self.id
    }
    /// overlayfs' work directory.
    pub fn work(&self) -> PathBuf {
        self.path.join("work")
    }

    /// Says what a step that starts now writes on: what it leaves as it was there does not become part of the layer.
    pub fn stands_on(&mut self, tree: LayerTree) {
        self.below = Some(Below::now(tree));
    }

    pub(super) fn below(&self) -> Option<&Below> {
        self.below.as_ref()
    }

    /// A draft with nothing in it yet.
    pub(super) fn new(root: &Path) -> Result<Self, StoreError> {
        Self::make(root, None)
    }

    fn make(root: &Path, writing: Option<Writing>) -> Result<Self, StoreError> {
        loop {
            let (id, path) = random_name(root)?;
            DirBuilder::new().mode(0o700).create(&path).at(&path)?;
            if let Some(lock) = Self::lock(&path)? {
                return Ok(Self { path, id, _lock: lock, _writing: writing, below: None });
            }
            // A sweep came between the two calls and took it for a leftover.
        }
    }

    /// Takes over a directory whose maker is dead; `None` if it is alive or another sweep was faster.
    pub(super) fn adopt(path: PathBuf) -> Result<Option<Self>, StoreError> {
        let Some(id) = path.file_name().and_then(|name| name.to_str()?.parse().ok()) else { return Ok(None) };
        Ok(Self::lock(&path)?.map(|lock| Self { path, id, _lock: lock, _writing: None, below: None }))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn lock(path: &Path) -> Result<Option<File>, StoreError> {
        let flags = (OFlags::DIRECTORY | OFlags::NOFOLLOW).bits().cast_signed();
        let dir = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            result => result.at(path)?,
        };
        take_over(dir, path)
    }
}

impl Drop for LayerDraft {
    fn drop(&mut self) {
        // The lock is still held, so no sweep is at it as well. What cannot be removed stays for a later sweep.
        if remove_rest(&self.path).is_ok() {
            return;
        }
        if let Err(error) = remove_tree(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "a draft could not be removed");
        }
    }
}

/// Locks what was opened at `path`; `None` if somebody holds it or it is no longer there.
pub(super) fn take_over(file: File, path: &Path) -> Result<Option<File>, StoreError> {
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(is_at(&file, path)?.then_some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error).at(path),
    }
}

/// Bytes that nobody can guess, for a name in `folder`.
pub(super) fn random<const N: usize>(folder: &Path) -> Result<[u8; N], StoreError> {
    let mut bytes = [0; N];
    // The kernel gives up to 256 bytes at once.
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).at(folder)?;
    Ok(bytes)
}

/// A name in `work/` that nobody can guess.
pub(super) fn random_name(root: &Path) -> Result<(LayerId, PathBuf), StoreError> {
    let work = root.join("work");
    let bytes = random(&work)?;
    let id = LayerId::from(kiln_image::DiffId(Digest::from_bytes(bytes)));
    Ok((id, work.join(id.to_string())))
}

pub(super) fn make_with_mode(path: &Path, mode: u32) -> Result<(), StoreError> {
    DirBuilder::new().mode(mode).create(path).at(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(mode)).at(path)
}

/// Removes a draft that has become a layer: what overlayfs left in its work directory (overlayfs.rst, "Volatile mount") is
/// known and need not be looked for.
fn remove_rest(path: &Path) -> std::io::Result<()> {
    let mark = path.join("work/work/incompat/volatile/dirty");
    let dirs = mark.ancestors().skip(1).take_while(|dir| dir.starts_with(path));
    for removed in std::iter::once(std::fs::remove_file(&mark)).chain(dirs.map(std::fs::remove_dir)) {
        match removed {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            result => result?,
        }
    }
    Ok(())
}

/// Removes a directory and all in it. Nothing runs in it any more; links are not followed.
pub(super) fn remove_tree(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        // A step may leave directories without permissions; overlayfs leaves its work directory with none.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            open_up(path)?;
            std::fs::remove_dir_all(path)
        }
        result => result,
    }
}

fn open_up(path: &Path) -> std::io::Result<()> {
    std::fs::set_permissions(path, Permissions::from_mode(0o700))?;
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}
