//! File locks: who is at work on what, across threads and processes.
//!
//! A lock is flock(2) on a file in `locks/`. It belongs to an open file description, so two threads that each open the
//! file exclude one another as two processes do, and the kernel drops it when its holder dies however it dies.
//!
//! A transient lock file is unlinked by its holder before the lock is let go. Whoever locks a file must therefore look
//! whether it is still the one at that path: a lock on an unlinked file excludes nobody.
//!
//! Waiting is polling with short pauses, at most [`LONGEST_PAUSE`]: flock has no time-out, and a wait must see the
//! caller's cancel flag without signals in an embedder's process.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use super::error::{At, StoreError};

const SHORTEST_PAUSE: Duration = Duration::from_micros(500);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);
/// Digits of the largest process id.
const HOLDER_WIDTH: usize = 10;
const MAX_HOLDER_BYTES: u64 = 16;

/// A held lock; let go when dropped.
#[derive(Debug)]
pub(super) struct FileLock {
    file: File,
    /// Unlinked when the lock is let go.
    transient: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Shared,
    Exclusive,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The file goes with the lock. Exclusive locks only: with two holders neither could unlink it.
    Transient,
    /// As `Transient`, and what is in the file is its holder's business.
    Lease,
    /// The file stays.
    Kept,
}

impl FileLock {
    /// Takes the lock if nobody is in the way.
    pub(super) fn try_take(path: &Path, mode: Mode, kind: Kind) -> Result<Option<Self>, StoreError> {
        loop {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
                .open(path)
                .at(path)?;
            let operation = match mode {
                Mode::Shared => FlockOperation::NonBlockingLockShared,
                Mode::Exclusive => FlockOperation::NonBlockingLockExclusive,
            };
            match flock(&file, operation) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error).at(path),
            }
            if !is_at(&file, path)? {
                continue;
            }
            let lock = Self { file, transient: (kind != Kind::Kept).then(|| path.to_path_buf()) };
            if mode == Mode::Exclusive && kind != Kind::Lease {
                // For people and `on_wait` only; a disk too full for it must not stop the step.
                let _ = lock.write_holder();
            }
            return Ok(Some(lock));
        }
    }

    /// Takes the lock, waiting for whoever holds it. `on_wait` is called once, with the holder's process id where known.
    pub(super) fn take(
        path: &Path,
        mode: Mode,
        kind: Kind,
        on_wait: &mut dyn FnMut(Option<u32>),
        cancel: &AtomicBool,
    ) -> Result<Self, StoreError> {
        Self::take_watching(path, mode, kind, on_wait, &mut || {}, cancel)
    }

    /// As [`FileLock::take`]; `on_look` is called at each further look at the lock.
    pub(super) fn take_watching(
        path: &Path,
        mode: Mode,
        kind: Kind,
        on_wait: &mut dyn FnMut(Option<u32>),
        on_look: &mut dyn FnMut(),
        cancel: &AtomicBool,
    ) -> Result<Self, StoreError> {
        let mut pause = SHORTEST_PAUSE;
        let mut told = false;
        loop {
            if cancel.load(Ordering::Relaxed) {
                return Err(StoreError::Canceled);
            }
            if let Some(lock) = Self::try_take(path, mode, kind)? {
                return Ok(lock);
            }
            if !told {
                told = true;
                on_wait(holder(path));
            }
            on_look();
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// As [`FileLock::take`] for what is over soon: nobody is told and nobody can cancel.
    pub(super) fn take_now(path: &Path, mode: Mode, kind: Kind) -> Result<Self, StoreError> {
        Self::take(path, mode, kind, &mut |_| {}, &AtomicBool::new(false))
    }

    /// The locked file.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    fn write_holder(&self) -> std::io::Result<()> {
        // All as long, so that nothing is left of the one before: ext4 takes truncating for replacing a file's contents and has
        // the new ones on the disk before the file is closed.
        self.file.write_all_at(format!("{:HOLDER_WIDTH$}\n", std::process::id()).as_bytes(), 0)
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        if let Some(path) = &self.transient {
            // Before the lock goes with the descriptor: nobody else can have made another file here yet.
            let _ = std::fs::remove_file(path);
        }
        // Closing is not enough while a child that another thread is just starting still has a copy of the descriptor.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

/// The process id in a lock file.
fn holder(path: &Path) -> Option<u32> {
    let mut text = String::new();
    File::open(path).ok()?.take(MAX_HOLDER_BYTES).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Whether `file` is what is found at `path` now.
pub(super) fn is_at(file: &File, path: &Path) -> Result<bool, StoreError> {
    let ours = file.metadata().at(path)?;
    match std::fs::symlink_metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).at(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transient_lock_file_goes_with_its_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let lock = FileLock::try_take(&path, Mode::Exclusive, Kind::Transient).unwrap().unwrap();
        assert!(FileLock::try_take(&path, Mode::Exclusive, Kind::Transient).unwrap().is_none());
        assert_eq!(holder(&path), Some(std::process::id()));
        drop(lock);
        assert!(!path.exists());
    }

    #[test]
    fn of_an_earlier_holder_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        for earlier in ["7\n", "4294967295\n", "         7\n"] {
            std::fs::write(&path, earlier).unwrap();
            let _lock = FileLock::try_take(&path, Mode::Exclusive, Kind::Kept).unwrap().unwrap();
            assert_eq!(holder(&path), Some(std::process::id()), "{earlier:?}");
        }
    }

    #[test]
    fn many_threads_never_hold_a_transient_lock_together() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let (inside, total) = (AtomicBool::new(false), std::sync::atomic::AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let _lock = FileLock::take_now(&path, Mode::Exclusive, Kind::Transient).unwrap();
                        assert!(!inside.swap(true, Ordering::SeqCst));
                        total.fetch_add(1, Ordering::SeqCst);
                        inside.store(false, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 400);
    }

    #[test]
    fn a_wait_ends_when_it_is_canceled() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let _held = FileLock::try_take(&path, Mode::Exclusive, Kind::Transient).unwrap().unwrap();
        let cancel = AtomicBool::new(false);
        let mut told = Vec::new();
        let result = FileLock::take(
            &path,
            Mode::Exclusive,
            Kind::Transient,
            &mut |holder| {
                told.push(holder);
                cancel.store(true, Ordering::Relaxed);
            },
            &cancel,
        );
        assert!(matches!(result, Err(StoreError::Canceled)));
        assert_eq!(told, [Some(std::process::id())]);
    }
}
