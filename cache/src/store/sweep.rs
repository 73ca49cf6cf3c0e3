//! Taking away what killed processes left in `work/`, and giving back what they were about to delete.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use kiln_image::Digest;
use rusqlite::params;
use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::blobs;
use super::db::Db;
use super::draft::{BECOMES, LayerDraft, take_over};
use super::error::{At, StoreError};
use super::layers::{self, LayerId};
use super::locks::{FileLock, Kind, Mode};
use super::mounts;

/// Finds leftovers and has them removed in the background. Costs one `readdir` when there is nothing in progress.
pub(super) fn sweep(root: &Path, db: &Db) -> Result<(), StoreError> {
    let work = root.join("work");
    let mut leftovers = Vec::new();
    for entry in std::fs::read_dir(&work).at(&work)? {
        let entry = entry.at(&work)?;
        let path = entry.path();
        let is_dir = match entry.file_type() {
            Ok(kind) => kind.is_dir(),
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error).at(&path),
        };
        if !is_dir {
            sweep_file(&path)?;
        } else if let Some(leftover) = LayerDraft::adopt(path)? {
            take_unrecorded_layers(root, db, &leftover)?;
            give_back(root, db, &leftover)?;
            leftovers.push(leftover);
        }
    }
    remove_in_background(leftovers);
    Ok(())
}

/// Drops `drafts` on a thread of its own. Whatever the end of the process leaves, the next sweep finds.
pub(super) fn remove_in_background(mut drafts: Vec<LayerDraft>) {
    // An empty one, such as trash that nothing was thrown into, is not worth a thread.
    drafts.retain(|draft| std::fs::remove_dir(draft.path()).is_err());
    if drafts.is_empty() {
        return;
    }
    // When no thread can be had the closure is dropped here and now, and the drafts with it.
    let _ = std::thread::Builder::new().name("kiln-sweep".into()).spawn(move || drop(drafts));
}

/// An unfinished blob.
fn sweep_file(path: &Path) -> Result<(), StoreError> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        result => result.at(path)?,
    };
    if let Some(_dead) = take_over(file, path)? {
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}

/// A kill between the rename of a layer and its record leaves a layer that the database does not know; it goes back into
/// the draft it came from.
fn take_unrecorded_layers(root: &Path, db: &Db, draft: &LayerDraft) -> Result<(), StoreError> {
    take_unrecorded(root, db, draft, draft.id())?;
    let Some(pulled) = becomes(draft) else { return Ok(()) };
    // Its name is no draft's own: another process may be making the same layer just now, and then deals with it.
    let lock = root.join("locks").join(layers::pull_lock(pulled));
    if let Some(_alone) = FileLock::try_take(&lock, Mode::Exclusive, Kind::Transient)? {
        take_unrecorded(root, db, draft, pulled)?;
    }
    Ok(())
}

fn take_unrecorded(root: &Path, db: &Db, draft: &LayerDraft, id: LayerId) -> Result<(), StoreError> {
    let path = layers::path_of(root, id);
    if path.exists() && layers::row(db, id)?.is_none() {
        std::fs::rename(&path, draft.path().join(format!("unrecorded-{id}"))).at(&path)?;
    }
    Ok(())
}

/// Garbage collection throws files away within the transaction that deletes their rows. Where that did not come to its end
/// (a kill, a full disk) the rows are still there: what they name goes back from the trash to its place.
pub(super) fn give_back(root: &Path, db: &Db, trash: &LayerDraft) -> Result<(), StoreError> {
    let dir = trash.path();
    for entry in std::fs::read_dir(dir).at(dir)? {
        let entry = entry.at(dir)?;
        let name = entry.file_name();
        let Some((kind, name)) = name.to_str().and_then(|name| name.split_once('-')) else { continue };
        let id = Digest::from_hex(name).ok();
        let (place, query) = match (kind, id) {
            (LAYER, Some(id)) => {
                (layers::path_of(root, LayerId::from_bytes(*id.as_bytes())), "layers WHERE id")
            }
            (BLOB, Some(id)) => (blobs::path_of(root, &id), "blobs WHERE digest"),
            (MOUNT, _) => (mounts::path_of(root, name), "mounts WHERE name"),
            _ => continue,
        };
        let has_row = db.read(|connection| {
            let mut rows = connection.prepare_cached(&format!("SELECT 1 FROM {query} = ?1"))?;
            if kind == MOUNT {
                rows.exists(params![name])
            } else {
                rows.exists(params![id.map(|id| *id.as_bytes())])
            }
        })?;
        if !has_row {
            continue;
        }
        match renameat_with(CWD, entry.path(), CWD, &place, RenameFlags::NOREPLACE) {
            // Somebody made it anew.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error).at(&place),
        }
    }
    Ok(())
}

/// How the trash names what was thrown into it: so, a dash, and its name.
pub(super) const LAYER: &str = "layer";
pub(super) const BLOB: &str = "blob";
pub(super) const MOUNT: &str = "mount";

fn becomes(draft: &LayerDraft) -> Option<LayerId> {
    let mut text = String::new();
    std::fs::File::open(draft.path().join(BECOMES)).ok()?.take(64).read_to_string(&mut text).ok()?;
    text.parse().ok()
}
