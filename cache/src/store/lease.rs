//! What running builds use, so that garbage collection beside them leaves it alone.
//!
//! A handle on the store writes the ids of all that it finds or makes into a file of its own, `locks/lease-<random>`, on
//! which it holds a lock as long as it lives. Collecting reads the files that are locked and removes those that are not:
//! their writers are dead.
//!
//! Between "it is there" and "it is mine" nothing may be taken away: whoever leases holds `locks/gate` shared for these
//! two steps, whoever collects holds it alone from reading the leases to the last removal. Things that are just being made
//! need no gate, only to be leased before they are visible: both collecting and making happen in write transactions of the
//! database.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{FlockOperation, OFlags, flock};

use super::draft;
use super::error::{At, StoreError};
use super::locks::{FileLock, Kind, Mode};

const GATE: &str = "gate";
const PREFIX: &str = "lease-";

/// A layer's id, a blob's digest.
pub(super) type Id = [u8; 32];

/// What one handle uses.
#[derive(Debug)]
pub(super) struct Lease {
    locks: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    held: HashSet<Id>,
    files: Option<Files>,
}

#[derive(Debug)]
struct Files {
    gate: File,
    /// Of this handle's own file, which goes with it.
    own: FileLock,
    /// Whole ids in that.
    written_bytes: u64,
}

impl Files {
    fn write(&mut self, ids: &[Id], locks: &Path) -> Result<(), StoreError> {
        let bytes = ids.concat();
        self.own.file().write_all_at(&bytes, self.written_bytes).at(locks)?;
        self.written_bytes += bytes.len() as u64;
        Ok(())
    }
}

/// Nobody leases while this lives.
#[derive(Debug)]
pub(super) struct ClosedGate {
    _lock: FileLock,
}

impl Lease {
    pub(super) fn new(root: &Path) -> Self {
        Self { locks: root.join("locks"), state: Mutex::default() }
    }

    /// Leases `ids`, then looks whether they are there: what `is_there` finds stays as long as this lives.
    pub(super) fn hold_if(&self, ids: &[Id], is_there: impl FnOnce() -> bool) -> Result<bool, StoreError> {
        let mut state = self.lock();
        let new: Vec<Id> = ids.iter().filter(|id| !state.held.contains(*id)).copied().collect();
        if new.is_empty() {
            return Ok(is_there());
        }
        let files = state.files(&self.locks)?;
        let gate = self.locks.join(GATE);
        while let Err(error) = flock(&files.gate, FlockOperation::LockShared) {
            if error != rustix::io::Errno::INTR {
                return Err(error).at(&gate);
            }
        }
        let written = files.write(&new, &self.locks);
        let found = written.is_ok() && is_there();
        flock(&files.gate, FlockOperation::Unlock).at(&gate)?;
        written?;
        state.held.extend(new);
        Ok(found)
    }

    /// Leases what is about to be made.
    pub(super) fn hold_new(&self, id: Id) -> Result<(), StoreError> {
        let mut state = self.lock();
        if !state.held.contains(&id) {
            state.files(&self.locks)?.write(&[id], &self.locks)?;
            state.held.insert(id);
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn files(&mut self, locks: &Path) -> Result<&mut Files, StoreError> {
        if self.files.is_none() {
            let random: [u8; 16] = draft::random(locks)?;
            let name = random.iter().fold(PREFIX.to_owned(), |name, byte| format!("{name}{byte:02x}"));
            let own = FileLock::take_now(&locks.join(name), Mode::Exclusive, Kind::Lease)?;
            self.files = Some(Files { gate: open_gate(locks)?, own, written_bytes: 0 });
        }
        self.files.as_mut().ok_or(StoreError::Canceled)
    }
}

/// Waits until nobody is between two steps, and lets nobody begin them.
pub(super) fn close_gate(root: &Path) -> Result<ClosedGate, StoreError> {
    let path = root.join("locks").join(GATE);
    Ok(ClosedGate { _lock: FileLock::take_now(&path, Mode::Exclusive, Kind::Kept)? })
}

/// What is leased by anyone, this process included.
pub(super) fn leased(root: &Path, _gate: &ClosedGate) -> Result<HashSet<Id>, StoreError> {
    let locks = root.join("locks");
    let mut all = HashSet::new();
    for entry in std::fs::read_dir(&locks).at(&locks)? {
        let entry = entry.at(&locks)?;
        if !entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX)) {
            continue;
        }
        let path = entry.path();
        // Dropping the lock of a dead writer unlinks the file.
        if FileLock::try_take(&path, Mode::Exclusive, Kind::Lease)?.is_some() {
            continue;
        }
        let mut bytes = Vec::new();
        let read = File::open(&path).and_then(|mut file| file.read_to_end(&mut bytes));
        match read {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            read => _ = read.at(&path)?,
        }
        // A writer that is not at the gate may be in the middle of an id: of something that is not visible yet.
        all.extend(bytes.as_chunks::<32>().0);
    }
    Ok(all)
}

fn open_gate(locks: &Path) -> Result<File, StoreError> {
    let path = locks.join(GATE);
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(&path)
        .at(&path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("locks")).unwrap();
        dir
    }

    fn all(root: &Path) -> HashSet<Id> {
        leased(root, &close_gate(root).unwrap()).unwrap()
    }

    #[test]
    fn what_is_leased_is_seen_until_the_lease_ends() {
        let dir = root();
        let (one, two) = (Lease::new(dir.path()), Lease::new(dir.path()));
        one.hold_new([1; 32]).unwrap();
        assert!(one.hold_if(&[[1; 32], [2; 32]], || true).unwrap());
        assert!(!two.hold_if(&[[3; 32]], || false).unwrap());
        assert_eq!(all(dir.path()), HashSet::from([[1; 32], [2; 32], [3; 32]]));
        drop(one);
        assert_eq!(all(dir.path()), HashSet::from([[3; 32]]));
        drop(two);
        assert!(all(dir.path()).is_empty());
        assert_eq!(std::fs::read_dir(dir.path().join("locks")).unwrap().count(), 1, "only the gate stays");
    }

    #[test]
    fn a_dead_writers_lease_is_removed() {
        let dir = root();
        let path = dir.path().join("locks").join("lease-dead");
        std::fs::write(&path, [7; 32]).unwrap();
        assert!(all(dir.path()).is_empty());
        assert!(!path.exists());
    }

    #[test]
    fn nobody_looks_while_the_gate_is_closed() {
        let dir = root();
        let lease = Lease::new(dir.path());
        let gate = close_gate(dir.path()).unwrap();
        let looked = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                lease.hold_if(&[[1; 32]], || {
                    looked.store(true, std::sync::atomic::Ordering::SeqCst);
                    true
                })
            });
            // It has opened its files by the time that its own one is there, and then waits.
            while std::fs::read_dir(dir.path().join("locks")).unwrap().count() < 2 {
                std::thread::yield_now();
            }
            assert!(!looked.load(std::sync::atomic::Ordering::SeqCst));
            drop(gate);
            assert!(waiting.join().unwrap().unwrap());
        });
    }
}
