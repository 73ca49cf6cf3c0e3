//! Getting layers and blobs to the disk, out of everybody's way.
//!
//! A step's commit syncs nothing. A background thread, one a store and started by the first claim, waits for a quiet
//! moment, calls syncfs(2) once for all that was written, and marks what was there *before* the call as settled. After a
//! power cut, [`recover`](super::recover) trusts what is settled and looks at the rest.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::params;

use super::Store;
use super::db::{Db, Opened};
use super::error::{At, StoreError};
use super::locks::{FileLock, Kind, Mode};
use super::mounts;

/// So long without a commit, and nothing being written, is a quiet moment.
const QUIET: Duration = Duration::from_millis(200);
/// A build that never pauses is synced this often.
const AT_MOST: Duration = Duration::from_secs(5);

/// A process that ends waits so long for a log that is being folded in: a build of nothing new takes less time than the two
/// fsyncs, and the log would only ever grow.
const FOLDING_AT_MOST: Duration = Duration::from_millis(25);

/// Wakes the thread; the thread ends when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Settler {
    thread: Mutex<Option<Sender<Wake>>>,
    folding: Arc<Folding>,
    writing: Arc<AtomicUsize>,
}

/// Somebody who writes a layer or a blob: while there is one, no moment is quiet. What he wrote so far would be written out
/// with the rest, and he would wait for it.
#[derive(Debug)]
pub(super) struct Writing(Arc<AtomicUsize>);

impl Drop for Writing {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether the log is being folded in.
#[derive(Debug, Default)]
struct Folding {
    is_running: Mutex<bool>,
    ended: Condvar,
}

impl Folding {
    fn set(&self, is_running: bool) {
        *self.is_running.lock().unwrap_or_else(PoisonError::into_inner) = is_running;
        self.ended.notify_all();
    }
}

impl Drop for Settler {
    fn drop(&mut self) {
        let is_running = self.folding.is_running.lock().unwrap_or_else(PoisonError::into_inner);
        // Whatever comes of it, the log is whole.
        drop(self.folding.ended.wait_timeout_while(is_running, FOLDING_AT_MOST, |is_running| *is_running));
    }
}

/// When to act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wake {
    /// In the next quiet moment.
    Soon,
    /// The same, but the log now: it is long, and a process that finds everything done does not live until a quiet moment.
    Now,
}

impl Settler {
    /// Lets syncs wait while the returned guard lives, but not for ever.
    pub(super) fn writing(&self) -> Writing {
        self.writing.fetch_add(1, Ordering::Relaxed);
        Writing(Arc::clone(&self.writing))
    }

    pub(super) fn wake(&self, when: Wake, root: &Path, db: &Path) {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.as_ref().is_some_and(|sender| sender.send(when).is_ok()) {
            return;
        }
        let (sender, receiver) = channel();
        let (root, db, folding) = (root.to_path_buf(), db.to_path_buf(), Arc::clone(&self.folding));
        let writing = Arc::clone(&self.writing);
        if when == Wake::Now {
            folding.set(true);
        }
        let started = std::thread::Builder::new()
            .name("kiln-settle".into())
            .spawn(move || run(&root, &db, &folding, &writing, &receiver));
        // Without a thread nothing gets settled now: slower after a power cut, never wrong.
        if started.is_ok() && sender.send(when).is_ok() {
            *thread = Some(sender);
        } else {
            self.folding.set(false);
        }
    }
}

impl Store {
    /// Waits until everything committed so far is on the disk. No build needs to: it happens in the background; a
    /// process that wants to be sure before it ends may.
    ///
    /// # Errors
    /// I/O.
    pub fn settle(&self) -> Result<(), StoreError> {
        settle(self.root(), self.db())
    }
}

/// Whether there is something to do.
fn has_unsettled(db: &Db) -> Result<bool, StoreError> {
    db.read(|connection| {
        connection
            .prepare_cached(
                "SELECT EXISTS(SELECT 1 FROM layers WHERE settled = 0) OR EXISTS(SELECT 1 FROM blobs WHERE settled = 0)
                 OR EXISTS(SELECT 1 FROM mounts WHERE settled = 0)",
            )?
            .query_row([], |row| row.get(0))
    })
}

fn run(root: &Path, db: &Path, folding: &Folding, writing: &AtomicUsize, wakes: &Receiver<Wake>) {
    while let Ok(wake) = wakes.recv() {
        if wake == Wake::Now {
            let folded = with_database(db, Db::checkpoint);
            folding.set(false);
            if let Err(error) = folded {
                tracing::debug!(%error, "the log stays as long as it is");
            }
        }
        let latest = Instant::now() + AT_MOST;
        let mut next = Ok(wake);
        while next.is_ok() && Instant::now() < latest {
            next = wakes.recv_timeout(QUIET);
            if next == Err(RecvTimeoutError::Timeout) && writing.load(Ordering::Relaxed) > 0 {
                next = Ok(Wake::Soon);
            }
        }
        let is_last = next == Err(RecvTimeoutError::Disconnected);
        if is_last {
            // Most likely the process is ending: nothing can stop a syncfs that has begun, and its end would wait for it.
            std::thread::sleep(QUIET);
        }
        if let Err(error) = with_database(db, |db| settle(root, db)) {
            tracing::debug!(%error, "layers stay unsettled");
        }
        if is_last {
            return;
        }
    }
}

/// By a connection of its own: a checkpoint's fsync must not hold the one that builds use.
fn with_database(path: &Path, act: impl FnOnce(&Db) -> Result<(), StoreError>) -> Result<(), StoreError> {
    match Db::open(path)? {
        Opened::Ready(db, _) => act(&db),
        Opened::Unformatted | Opened::Older => Ok(()),
    }
}

fn settle(root: &Path, db: &Db) -> Result<(), StoreError> {
    if !has_unsettled(db)? {
        return Ok(());
    }
    let newest = |sql| db.read(|connection| connection.prepare_cached(sql)?.query_row([], |row| row.get(0)));
    let layers: Option<i64> = newest("SELECT max(seq) FROM layers WHERE settled = 0")?;
    let blobs: Option<i64> = newest("SELECT max(seq) FROM blobs WHERE settled = 0")?;
    // Whoever takes one of these from now on counts as a further use.
    let mounts = idle_mounts(root, db)?;
    let dir = File::open(root).at(root)?;
    rustix::fs::syncfs(&dir).at(root)?;
    db.write(|tx| {
        tx.prepare_cached("UPDATE layers SET settled = 1 WHERE settled = 0 AND seq <= ?1")?
            .execute(params![layers.unwrap_or(0)])?;
        tx.prepare_cached("UPDATE blobs SET settled = 1 WHERE settled = 0 AND seq <= ?1")?
            .execute(params![blobs.unwrap_or(0)])?;
        for (name, uses) in &mounts {
            tx.prepare_cached("UPDATE mounts SET settled = 1 WHERE name = ?1 AND uses = ?2")?
                .execute(params![name, uses])?;
        }
        Ok(())
    })?;
    if db.has_large_log() {
        db.checkpoint()?;
    }
    Ok(())
}

/// Unsettled cache mounts that are not in use, and how often each was.
fn idle_mounts(root: &Path, db: &Db) -> Result<Vec<(String, i64)>, StoreError> {
    let mounts: Vec<(String, i64)> = db.read(|connection| {
        connection
            .prepare_cached("SELECT name, uses FROM mounts WHERE settled = 0")?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect()
    })?;
    let mut idle = Vec::new();
    for (name, uses) in mounts {
        let lock = root.join("locks").join(mounts::lock_name(&name));
        if FileLock::try_take(&lock, Mode::Exclusive, Kind::Kept)?.is_some() {
            idle.push((name, uses));
        }
    }
    Ok(idle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn unsettled_blob(root: &Path) -> Store {
        let store = Store::open(root).unwrap();
        store.put_blob(b"something").unwrap();
        assert!(has_unsettled(store.db()).unwrap());
        store
    }

    #[test]
    fn no_moment_is_quiet_while_a_blob_is_written() {
        let root = tempfile::tempdir().unwrap();
        let store = unsettled_blob(root.path());
        let mut writer = store.blob_writer().unwrap();
        writer.write_all(b"half").unwrap();
        let start = Instant::now();
        store.wake_settler();
        std::thread::sleep(3 * QUIET);
        let has_unsettled_now = has_unsettled(store.db()).unwrap();
        // On a machine that stood still the sync was due.
        assert!(has_unsettled_now || start.elapsed() >= AT_MOST);
        drop(writer);
        while has_unsettled(store.db()).unwrap() {
            std::thread::sleep(QUIET);
        }
    }

    #[test]
    fn a_long_log_is_folded_in_at_once_and_the_rest_settled_in_a_quiet_moment() {
        let root = tempfile::tempdir().unwrap();
        let store = unsettled_blob(root.path());
        store.inner.settler.wake(Wake::Now, store.root(), store.db().path());
        while has_unsettled(store.db()).unwrap() {
            std::thread::sleep(QUIET);
        }
        assert!(!store.db().has_large_log());
    }
}
