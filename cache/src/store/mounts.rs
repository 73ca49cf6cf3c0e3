//! Cache mounts (`RUN --mount=type=cache`): directories that outlive steps.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use kiln_image::Digest;
use kiln_image::layer::owner;
use rusqlite::{OptionalExtension, params};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::Store;
use super::db;
use super::draft::LayerDraft;
use super::error::{At, StoreError};
use super::locks::{FileLock, Kind, Mode};

/// Siblings of one private mount; more steps than that at once do not exist.
const MAX_SIBLINGS: u32 = 4096;

/// Who may use a cache mount at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountSharing {
    /// Everybody.
    Shared,
    /// A directory of its own if this one is in use.
    Private,
    /// One after another.
    Locked,
}

/// What a step wants of a cache mount.
#[derive(Clone, Debug)]
pub struct CacheMountRequest {
    /// Namespace and id as the Dockerfile gives them; hashed before they become a name on disk.
    pub id: String,
    /// Sharing.
    pub sharing: MountSharing,
    /// Mode of a new directory.
    pub mode: u32,
    /// Owner of a new directory.
    pub uid: u32,
    /// Group of a new directory.
    pub gid: u32,
}

/// A cache mount in use.
#[derive(Debug)]
pub struct CacheMount {
    path: PathBuf,
    _lock: FileLock,
}

impl CacheMount {
    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Store {
    /// The directory of a cache mount, held as `sharing` says until the guard is dropped; waits for a locked one.
    ///
    /// A new one is filled by `seed` before anybody sees it: whoever is killed in the middle leaves none.
    ///
    /// Sharing is among those that ask for the same id: a `Shared` user waits while a `Locked` or the first `Private`
    /// one is in, and the other way round.
    ///
    /// # Errors
    /// [`StoreError::Canceled`]; I/O.
    pub fn cache_mount<E: From<StoreError>>(
        &self,
        request: &CacheMountRequest,
        seed: impl FnOnce(&Path) -> Result<(), E>,
        on_wait: &mut dyn FnMut(Option<u32>),
        cancel: &AtomicBool,
    ) -> Result<CacheMount, E> {
        let name = Digest::of(request.id.as_bytes()).hex();
        match request.sharing {
            MountSharing::Shared => {
                let lock = self.lock_mount(&name, Mode::Shared, on_wait, cancel)?;
                self.mount(&name, request, seed, lock)
            }
            MountSharing::Locked => {
                let lock = self.lock_mount(&name, Mode::Exclusive, on_wait, cancel)?;
                self.mount(&name, request, seed, lock)
            }
            MountSharing::Private => {
                for sibling in 0..MAX_SIBLINGS {
                    let name = if sibling == 0 { name.clone() } else { format!("{name}.{sibling}") };
                    let path = self.mount_lock(&name);
                    if let Some(lock) = FileLock::try_take(&path, Mode::Exclusive, Kind::Kept)? {
                        return self.mount(&name, request, seed, lock);
                    }
                }
                let lock = self.lock_mount(&name, Mode::Exclusive, on_wait, cancel)?;
                self.mount(&name, request, seed, lock)
            }
        }
    }

    /// The ids of the cache mounts that there are, sorted.
    ///
    /// # Errors
    /// The database.
    pub fn cache_mount_ids(&self) -> Result<Vec<String>, StoreError> {
        self.db().read(|connection| {
            connection
                .prepare_cached("SELECT DISTINCT id FROM mounts ORDER BY id")?
                .query_map([], |row| row.get(0))?
                .collect()
        })
    }

    /// A cache mount to read from, of private siblings the first; `None` if there is none, or somebody has it alone.
    /// Those who share it may write meanwhile.
    ///
    /// # Errors
    /// I/O.
    pub fn find_cache_mount(&self, id: &str) -> Result<Option<CacheMount>, StoreError> {
        let name = Digest::of(id.as_bytes()).hex();
        let path = path_of(self.root(), &name);
        let lock = FileLock::try_take(&self.mount_lock(&name), Mode::Shared, Kind::Kept)?;
        Ok(lock.filter(|_| path.is_dir()).map(|lock| CacheMount { path, _lock: lock }))
    }

    fn mount_lock(&self, name: &str) -> PathBuf {
        self.lock_path(&lock_name(name))
    }

    fn lock_mount(
        &self,
        name: &str,
        mode: Mode,
        on_wait: &mut dyn FnMut(Option<u32>),
        cancel: &AtomicBool,
    ) -> Result<FileLock, StoreError> {
        FileLock::take(&self.mount_lock(name), mode, Kind::Kept, on_wait, cancel)
    }

    fn mount<E: From<StoreError>>(
        &self,
        name: &str,
        request: &CacheMountRequest,
        seed: impl FnOnce(&Path) -> Result<(), E>,
        lock: FileLock,
    ) -> Result<CacheMount, E> {
        let path = path_of(self.root(), name);
        if !path.is_dir() {
            self.make_mount(&path, request, seed)?;
        }
        self.inner.has_news.store(true, std::sync::atomic::Ordering::Relaxed);
        let was_settled = self.db().write(|tx| {
            let was_settled = tx
                .prepare_cached("SELECT settled FROM mounts WHERE name = ?1")?
                .query_row(params![name], |row| row.get::<_, bool>(0))
                .optional()?;
            // What is written to it from now on may be anything after a power cut, until the next sync (see `settle`).
            tx.prepare_cached(
                "INSERT INTO mounts(name, id, made_at, used_at) VALUES(?1, ?2, ?3, ?3)
                 ON CONFLICT(name) DO UPDATE SET used_at = ?3, uses = uses + 1, settled = 0",
            )?
            .execute(params![name, request.id, db::now()])?;
            Ok(was_settled)
        })?;
        if was_settled == Some(true) {
            // Else a power cut could leave what is written now, and that it was settled before.
            self.db().sync()?;
        }
        Ok(CacheMount { path, _lock: lock })
    }

    /// Makes the directory with owner, mode and contents at once, unless another shared user is faster.
    fn make_mount<E: From<StoreError>>(
        &self,
        path: &Path,
        request: &CacheMountRequest,
        seed: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<(), E> {
        let draft = LayerDraft::new(self.root())?;
        let fs = draft.fs();
        super::open::make_dir(&fs)?;
        let us = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        if (request.uid, request.gid) != us {
            owner::give_at(CWD, &fs, request.uid, request.gid).at(&fs)?;
        }
        // After chown, which takes the set-id bits away.
        std::fs::set_permissions(&fs, Permissions::from_mode(request.mode & 0o7777)).at(&fs)?;
        seed(&fs)?;
        match renameat_with(CWD, &fs, CWD, path, RenameFlags::NOREPLACE) {
            Err(rustix::io::Errno::EXIST) => Ok(()),
            result => Ok(result.at(path)?),
        }
    }
}

pub(super) fn path_of(root: &Path, name: &str) -> PathBuf {
    root.join("mounts").join(name)
}

/// Who holds this uses the mount.
pub(super) fn lock_name(name: &str) -> String {
    format!("mount-{name}")
}
