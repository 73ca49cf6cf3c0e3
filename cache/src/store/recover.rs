//! After the machine stopped: what was not settled is looked at or dropped.
//!
//! The database says under which boot id (`/proc/sys/kernel/random/boot_id`) the store was last opened. When it is
//! another one now, every row that is still unsettled is from before the stop, and its files may be anything.

use std::fs::{DirEntry, File};
use std::io::{ErrorKind, Read as _};
use std::path::Path;

use kiln_image::Digest;
use rusqlite::{OptionalExtension, params};

use super::blobs::{self, digest_of_file};
use super::db::{self, Db, TxError};
use super::draft::LayerDraft;
use super::error::{At, StoreError};
use super::layers::{self, Origin};
use super::repair::drop_incomplete;
use super::sweep;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Whether this is another run of the machine than that in which the store was last recovered.
pub(super) fn needs_recovery(last: Option<&str>) -> bool {
    last != Some(&boot_id())
}

/// Verifies or drops what is unsettled. The caller holds the opening lock.
pub(super) fn recover(root: &Path, db: &Db) -> Result<(), StoreError> {
    let last = db.read(db::boot_id)?;
    if !needs_recovery(last.as_deref()) {
        return Ok(()); // Another process did it while this one waited for the lock.
    }
    let trash = LayerDraft::new(root)?;
    recover_layers(root, db, &trash)?;
    recover_blobs(root, db)?;
    recover_mounts(root, db, &trash)?;
    db.write(|tx| {
        drop_incomplete(tx)?;
        tx.execute("INSERT OR REPLACE INTO meta(name, value) VALUES('boot_id', ?1)", params![boot_id()])?;
        Ok(())
    })?;
    sweep::remove_in_background(vec![trash]);
    Ok(())
}

fn recover_layers(root: &Path, db: &Db, trash: &LayerDraft) -> Result<(), StoreError> {
    for (id, row) in layers::rows(db)? {
        let path = layers::path_of(root, id);
        let keeps = path.is_dir()
            && (row.settled
                // Only a digest that was taken from the whole tree can be compared with one.
                || row.origin == Origin::Digested
                    && crate::tree_digest(&path).is_ok_and(|found| found.contents == row.contents));
        if keeps {
            continue;
        }
        tracing::debug!(layer = %id, "dropping a layer that an unclean stop left unsettled");
        layers::discard(root, id, trash)?;
        db.write(|tx| Ok(tx.execute("DELETE FROM layers WHERE id = ?1", params![id.as_bytes()])?))?;
    }
    let dir = root.join("layers");
    for entry in std::fs::read_dir(&dir).at(&dir)? {
        let name = entry.at(&dir)?.file_name();
        let Some(id) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        if layers::row(db, id)?.is_none() {
            layers::discard(root, id, trash)?;
        }
    }
    db.write(|tx| Ok(tx.execute("UPDATE layers SET settled = 1 WHERE settled = 0", [])?))?;
    Ok(())
}

/// Of a mount's files nobody knows what they should be: what was written to since the last sync goes.
fn recover_mounts(root: &Path, db: &Db, trash: &LayerDraft) -> Result<(), StoreError> {
    let dir = root.join("mounts");
    for entry in std::fs::read_dir(&dir).at(&dir)? {
        let entry = entry.at(&dir)?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let settled: Option<bool> = db.read(|connection| {
            connection
                .prepare_cached("SELECT settled FROM mounts WHERE name = ?1")?
                .query_row(params![name], |row| row.get(0))
                .optional()
        })?;
        if settled != Some(true) {
            let path = entry.path();
            std::fs::rename(&path, trash.path().join(format!("mount-{name}"))).at(&path)?;
        }
    }
    db.write(|tx| Ok(tx.execute("DELETE FROM mounts WHERE settled = 0", []).map(drop)?))
}

fn recover_blobs(root: &Path, db: &Db) -> Result<(), StoreError> {
    let dir = blobs::dir(root);
    for entry in std::fs::read_dir(&dir).at(&dir)? {
        recover_blob(db, &entry.at(&dir)?)?;
    }
    let known: Vec<[u8; 32]> = db.read(|connection| {
        connection.prepare("SELECT digest FROM blobs")?.query_map([], |row| row.get(0))?.collect()
    })?;
    for digest in known.into_iter().map(Digest::from_bytes) {
        if !blobs::path_of(root, &digest).is_file() {
            db.write(
                |tx| Ok(tx.execute("DELETE FROM blobs WHERE digest = ?1", params![digest.as_bytes()])?),
            )?;
        }
    }
    Ok(())
}

fn recover_blob(db: &Db, entry: &DirEntry) -> Result<(), StoreError> {
    let path = entry.path();
    let Some(digest) = entry.file_name().to_str().and_then(|name| Digest::from_hex(name).ok()) else {
        return Ok(());
    };
    let settled: Option<bool> = db.read(|connection| {
        connection
            .prepare_cached("SELECT settled FROM blobs WHERE digest = ?1")?
            .query_row(params![digest.as_bytes()], |row| row.get(0))
            .optional()
    })?;
    if settled == Some(true) {
        return Ok(());
    }
    let mut file = match File::open(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        result => result.at(&path)?,
    };
    let (found, size_bytes) = digest_of_file(&mut file).at(&path)?;
    if found != digest {
        tracing::debug!(%digest, "dropping a blob that an unclean stop left damaged");
        return std::fs::remove_file(&path).at(&path);
    }
    db.write(|tx| {
        blobs::insert(tx, &digest, size_bytes)?;
        tx.prepare_cached("UPDATE blobs SET settled = 1 WHERE digest = ?1")?
            .execute(params![digest.as_bytes()])?;
        Ok::<(), TxError>(())
    })
}

/// The machine's; where there is none, every opening counts as the same run.
fn boot_id() -> String {
    let mut text = [0; 64];
    let read = File::open(BOOT_ID).and_then(|mut file| file.read(&mut text));
    let text = read.map(|length| String::from_utf8_lossy(&text[..length]));
    text.map_or_else(|_| "unknown".into(), |text| text.trim().to_owned())
}
