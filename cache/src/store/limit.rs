//! Keeping within a limit, and making room on a full disk.

use std::sync::atomic::Ordering;

use rusqlite::Transaction;

use super::Store;
use super::collect::{ImageRule, Keep, Prune, Pruned};
use super::db::TxError;
use super::error::{At, StoreError};
use super::removed::RemovedBy;
use super::usage::total_of_rows;

/// Room is made for more than what is added, so that not each addition makes some.
const SLACK_DIVISOR: u64 = 20;
/// Others may fill the room that was made.
const MAX_ATTEMPTS: usize = 3;

/// The file system that a store is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Its size in bytes.
    pub total_bytes: u64,
    /// What this user may still write, in bytes. None when it has no inodes left.
    pub free_bytes: u64,
}

impl Store {
    /// The file system that the store is on. One system call.
    ///
    /// # Errors
    /// I/O.
    pub fn disk(&self) -> Result<Disk, StoreError> {
        let found = rustix::fs::statvfs(self.root()).at(self.root())?;
        // Some file systems have no fixed number of inodes and tell zero.
        let has_inodes = found.f_files == 0 || found.f_favail > 0;
        Ok(Disk {
            total_bytes: found.f_blocks.saturating_mul(found.f_frsize),
            free_bytes: if has_inodes { found.f_bavail.saturating_mul(found.f_frsize) } else { 0 },
        })
    }

    /// Removes the least worth of what no named image and no running build holds until so many bytes are free on the disk.
    ///
    /// # Errors
    /// I/O.
    pub fn make_room(&self, free_bytes: u64) -> Result<Pruned, StoreError> {
        let missing = free_bytes.saturating_sub(self.disk()?.free_bytes);
        if missing == 0 {
            return Ok(Pruned::default());
        }
        let prune = Prune {
            select: &|_| true,
            images: ImageRule::NamedHold,
            keep: Keep::Free(missing),
            by: RemovedBy::GarbageCollection,
            is_dry_run: false,
        };
        match self.prune(&prune) {
            Err(StoreError::DiskFull { .. }) => {
                // Even a removal needs a little, for the database's log. These are missed least.
                for file in self.context_files()? {
                    let _ = std::fs::remove_file(self.root().join("contexts").join(file.name));
                }
                self.prune(&prune)
            }
            result => result,
        }
    }

    /// Removes whatever is needed, images too, until the whole store takes at most [`Store::max_bytes`].
    ///
    /// # Errors
    /// [`StoreError::OverLimit`] when running builds use more; I/O.
    pub fn enforce_limit(&self) -> Result<Pruned, StoreError> {
        let Some(max_bytes) = self.max_bytes() else { return Ok(Pruned::default()) };
        self.measure_mounts(None)?;
        if self.total_bytes()? <= max_bytes {
            return Ok(Pruned::default());
        }
        let pruned = self.shrink_to(max_bytes - max_bytes / SLACK_DIVISOR)?;
        let total_bytes = self.total_bytes()?;
        match total_bytes <= max_bytes {
            true => Ok(pruned),
            false => Err(self.over_limit(total_bytes, max_bytes)),
        }
    }

    fn shrink_to(&self, bytes: u64) -> Result<Pruned, StoreError> {
        let keep = Keep::Store(bytes);
        self.prune(&Prune {
            select: &|_| true,
            images: ImageRule::Yield,
            keep,
            by: RemovedBy::GarbageCollection,
            is_dry_run: false,
        })
    }

    fn over_limit(&self, needed_bytes: u64, max_bytes: u64) -> StoreError {
        StoreError::OverLimit { root: self.root().to_path_buf(), needed_bytes, max_bytes }
    }

    /// A transaction that adds `bytes`. Where there is a limit, room is made first; `body` may then run again.
    pub(super) fn write_within_limit<T>(
        &self,
        bytes: u64,
        body: impl Fn(&Transaction<'_>) -> Result<T, TxError>,
    ) -> Result<T, StoreError> {
        self.inner.has_news.store(true, Ordering::Relaxed);
        let Some(max_bytes) = self.max_bytes() else { return self.db().write(|tx| body(tx)) };
        let mut attempt = 1;
        loop {
            let of_files = self.total_of_files()?;
            let result = self.db().write(|tx| {
                // No other process adds anything while this one writes.
                let total_bytes = total_of_rows(tx)? + of_files + bytes;
                if total_bytes > max_bytes {
                    return Err(self.over_limit(total_bytes, max_bytes).into());
                }
                body(tx)
            });
            match result {
                Err(StoreError::OverLimit { .. }) if attempt < MAX_ATTEMPTS && bytes <= max_bytes => {
                    // The second time as far as it goes: there may be more than the slack that cannot be had.
                    let slack = if attempt == 1 { max_bytes / SLACK_DIVISOR } else { 0 };
                    self.shrink_to(max_bytes.saturating_sub(bytes + slack))?;
                    attempt += 1;
                }
                result => return result,
            }
        }
    }
}
