//! Opening: the root and its rules, the database, recovery, the sweep.

use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use kiln_image::layer::{self, OverlayXattrs};
use rustix::fs::Access;

use super::db::{self, Db, Opened};
use super::draft::LayerDraft;
use super::error::{At, StoreError};
use super::lease::Lease;
use super::locks::{FileLock, Kind, Mode};
use super::recover::{needs_recovery, recover};
use super::settle::{Settler, Wake};
use super::uses::Uses;
use super::{Inner, Store, sweep};

/// The last one's presence says that all are there.
const DIRECTORIES: [&str; 7] = ["blobs", "blobs/sha256", "layers", "mounts", "contexts", "work", "locks"];

/// So long is waited for processes of an older kiln.
const UPDATE_PATIENCE: Duration = Duration::from_secs(30);
const UPDATE_PAUSE: Duration = Duration::from_millis(20);

/// `statfs` types of file systems on which SQLite's shared memory and flock do not hold between machines.
const NETWORK_FILE_SYSTEMS: [(u32, &str); 8] = [
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB"),
    (0x00c3_6400, "Ceph"),
    (0x5346_414f, "AFS"),
    (0x7375_7245, "Coda"),
    (0x0102_1997, "9P"),
];

pub(super) fn open(root: &Path) -> Result<Store, StoreError> {
    let root = prepare_root(root)?;
    let use_path = root.join("locks/use");
    let db_path = root.join("db.sqlite");
    let mut in_use = FileLock::take_now(&use_path, Mode::Shared, Kind::Kept)?;
    let mut is_new = false;
    let (db, recovers) = match ready(&db_path) {
        Ok(Some(ready)) => ready,
        Ok(None) | Err(StoreError::Corrupt { .. }) => {
            // A rebuild or a change of format needs the store alone; whoever waits for that must not itself be in the way.
            drop(in_use);
            is_new = true;
            format_or_rebuild(&root, &db_path)?;
            in_use = FileLock::take_now(&use_path, Mode::Shared, Kind::Kept)?;
            ready(&db_path)?.ok_or_else(|| StoreError::Corrupt {
                path: db_path.clone(),
                reason: "the database vanished while it was opened".into(),
            })?
        }
        Err(error) => return Err(error),
    };
    if recovers {
        let _alone = FileLock::take_now(&root.join("locks/open"), Mode::Exclusive, Kind::Kept)?;
        recover(&root, &db)?;
    }
    sweep::sweep(&root, &db)?;
    let (settler, lease) = (Settler::default(), Lease::new(&root));
    // What others left unsettled is settled by the first claim: a process that finds everything done is over too soon.
    // All of a new database is in its log: whoever makes one has something to write, which goes there too.
    if !is_new && db.has_large_log() {
        settler.wake(Wake::Now, &root, &db_path);
    }
    Ok(Store {
        inner: Arc::new(Inner {
            root,
            db,
            _in_use: in_use,
            lease,
            uses: Uses::default(),
            has_news: AtomicBool::new(false),
            max_bytes: AtomicU64::new(u64::MAX),
            settler,
            stubs: OnceLock::new(),
        }),
    })
}

/// The database if it has its schema, and whether the machine was started anew since it was last opened.
fn ready(path: &Path) -> Result<Option<(Db, bool)>, StoreError> {
    match Db::open(path)? {
        Opened::Ready(db, boot_id) => Ok(Some((db, needs_recovery(boot_id.as_deref())))),
        Opened::Unformatted | Opened::Older => Ok(None),
    }
}

/// Brings an older database up to date once nobody uses it: a process of an older kiln would find it damaged.
fn update(root: &Path, path: &Path) -> Result<(), StoreError> {
    let start = Instant::now();
    loop {
        if let Some(_alone) = FileLock::try_take(&root.join("locks/use"), Mode::Exclusive, Kind::Kept)? {
            return Db::format(path).map(drop);
        }
        if start.elapsed() > UPDATE_PATIENCE {
            return Err(StoreError::Database {
                path: path.into(),
                reason: "it is of an older format, and a process of an older kiln uses it; try again later"
                    .into(),
            });
        }
        std::thread::sleep(UPDATE_PAUSE);
    }
}

fn format_or_rebuild(root: &Path, path: &Path) -> Result<(), StoreError> {
    let _opening = FileLock::take_now(&root.join("locks/open"), Mode::Exclusive, Kind::Kept)?;
    let damage = match ready(path) {
        // Another process was faster.
        Ok(Some(_)) => return Ok(()),
        Ok(None) if matches!(Db::open(path)?, Opened::Older) => return update(root, path),
        Ok(None) => match Db::format(path) {
            Ok(_) => return Ok(()),
            Err(StoreError::Corrupt { reason, .. }) => reason,
            Err(error) => return Err(error),
        },
        Err(StoreError::Corrupt { reason, .. }) => reason,
        Err(error) => return Err(error),
    };
    let Some(_alone) = FileLock::try_take(&root.join("locks/use"), Mode::Exclusive, Kind::Kept)? else {
        return Err(StoreError::Corrupt { path: path.into(), reason: damage });
    };
    tracing::debug!(path = %path.display(), damage, "rebuilding the store's database");
    rebuild(root, path)
}

/// Moves the database aside and starts with an empty one. Blobs stay: their names say what they must contain, and the
/// recovery that follows looks whether they do.
fn rebuild(root: &Path, path: &Path) -> Result<(), StoreError> {
    // Layers first: should this be interrupted, the damaged database is still there to say that work is left.
    let trash = LayerDraft::new(root)?;
    let layers = root.join("layers");
    match std::fs::rename(&layers, trash.path().join("layers")) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        result => result.at(&layers)?,
    }
    make_dir(&layers)?;
    for companion in db::companions(path) {
        remove_if_there(&companion)?;
    }
    match std::fs::rename(path, db::aside(path)) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        result => result.at(path)?,
    }
    drop(Db::format(path)?);
    remove_if_there(&db::damage_mark(path))?;
    sweep::remove_in_background(vec![trash]);
    Ok(())
}

fn remove_if_there(path: &Path) -> Result<(), StoreError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result.at(path),
    }
}

fn prepare_root(root: &Path) -> Result<PathBuf, StoreError> {
    let user = rustix::process::geteuid().as_raw();
    match std::fs::symlink_metadata(root) {
        // In a directory that others can write to, a link may be somebody's trap.
        Ok(found) if found.uid() != user && !(found.is_symlink() && found.uid() == 0) => {
            return Err(StoreError::ForeignOwner { path: root.into(), owner: found.uid(), user });
        }
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {
            make_root(root)?;
        }
        Err(error) => return Err(denied(root, error)),
    }
    let root = root.canonicalize().map_err(|error| denied(root, error))?;
    let found = std::fs::metadata(&root).at(&root)?;
    if found.uid() != user {
        return Err(StoreError::ForeignOwner { path: root, owner: found.uid(), user });
    }
    if !found.is_dir() {
        return Err(StoreError::io(&root, ErrorKind::NotADirectory.into()));
    }
    refuse_network(&root)?;
    rustix::fs::access(&root, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK)
        .map_err(|error| denied(&root, error.into()))?;
    if found.mode() & 0o077 != 0 {
        std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o700)).at(&root)?;
    }
    let is_new = !root.join(DIRECTORIES[DIRECTORIES.len() - 1]).is_dir();
    check_marks(&root, is_new)?;
    if is_new {
        for name in DIRECTORIES {
            make_dir(&root.join(name))?;
        }
    }
    Ok(root)
}

/// In a root's store: layers' opaque directories are marked as root of a container without rights to mount does it, who can
/// neither read nor write the other spelling.
const MARKED_BY_CONTAINER: &str = "marked-in-container";

/// Refuses a store of root's whose marks this root does not see: what they hide would show.
fn check_marks(root: &Path, is_new: bool) -> Result<(), StoreError> {
    // An ordinary user's are all marked alike, wherever they are made.
    if !layer::is_in_first_namespace() || !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let path = root.join(MARKED_BY_CONTAINER);
    match (OverlayXattrs::of_this_process(), path.exists()) {
        (OverlayXattrs::Trusted, false) | (OverlayXattrs::User, true) => Ok(()),
        (OverlayXattrs::User, false) if is_new => std::fs::write(&path, "").at(&path),
        _ => Err(StoreError::OtherMarks { path: root.into() }),
    }
}

fn make_root(root: &Path) -> Result<(), StoreError> {
    if let Some(parent) = root.parent() {
        std::fs::create_dir_all(parent).map_err(|error| denied(parent, error))?;
    }
    make_dir(root).map_err(|error| match error {
        StoreError::Io { path, source } => denied(&path, source),
        other => other,
    })
}

/// Makes a directory of the store's own, if it is not there.
pub(super) fn make_dir(path: &Path) -> Result<(), StoreError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        result => result.at(path),
    }
}

fn denied(path: &Path, error: std::io::Error) -> StoreError {
    match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::NotADirectory => {
            StoreError::NotWritable { path: path.into() }
        }
        _ => StoreError::io(path, error),
    }
}

fn refuse_network(root: &Path) -> Result<(), StoreError> {
    let found = rustix::fs::statfs(root).at(root)?;
    match network_kind(found.f_type) {
        Some(kind) => Err(StoreError::NetworkFileSystem { path: root.into(), kind }),
        None => Ok(()),
    }
}

/// The kernel's magic numbers have 32 bits; `f_type` has the machine's word.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::unnecessary_cast)]
fn network_kind(f_type: rustix::fs::FsWord) -> Option<&'static str> {
    let magic = f_type as u32;
    NETWORK_FILE_SYSTEMS.iter().find(|(known, _)| *known == magic).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_of_a_container_and_root_of_the_machine_have_stores_of_their_own() {
        if OverlayXattrs::of_this_process() != OverlayXattrs::Trusted {
            eprintln!("skipped: needs root of the machine");
            return;
        }
        let root = tempfile::tempdir().unwrap();
        prepare_root(root.path()).unwrap();
        prepare_root(root.path()).unwrap();
        std::fs::write(root.path().join(MARKED_BY_CONTAINER), "").unwrap();
        let refused = prepare_root(root.path()).unwrap_err();
        assert!(matches!(refused, StoreError::OtherMarks { .. }), "{refused}");
        assert!(refused.hint().unwrap().contains("KILN_ROOT"));
    }

    #[test]
    fn network_file_systems_are_known_by_their_magic() {
        assert_eq!(network_kind(0x6969), Some("NFS"));
        assert_eq!(network_kind(0xff53_4d42), Some("CIFS"));
        assert_eq!(network_kind(0xef53), None);
    }
}
