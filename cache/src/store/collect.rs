//! Removing what nothing needs.
//!
//! A layer is needed by records and images; a blob by images (config, manifest, and what these name) and by the memo of a
//! needed layer's compression. Whatever a build has just found or made may be in no record yet, so what was used within
//! [`SPARED_SECONDS`] stays, unless nobody can be using any.
//!
//! Everything happens in one write transaction: a build that finds a layer notes its use first (see
//! `layers::USE_GRAIN_SECONDS`), and either this sees the note or the build sees the layer gone.

use std::collections::HashSet;
use std::fs::{DirEntry, File};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use kiln_image::{DiffId, Digest};
use rusqlite::{Connection, params};

use super::db::{self, TxError};
use super::draft::LayerDraft;
use super::error::{At, StoreError};
use super::layers::{self, LayerId, USE_GRAIN_SECONDS};
use super::locks::{FileLock, Kind, Mode};
use super::{Store, blobs, sweep};

/// A day: longer than any one build holds what it found.
const SPARED_SECONDS: i64 = 24 * 3600 + USE_GRAIN_SECONDS;
/// As large as a manifest may be (distribution-spec, "Pushing Manifests").
const MAX_MANIFEST_BYTES: u64 = 4 << 20;
/// Index, manifest, config.
const MAX_DEPTH: u32 = 4;

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Freed {
    /// Unpacked layers.
    pub layers: u64,
    /// Blobs.
    pub blobs: u64,
    /// Bytes of both, as far as known.
    pub size_bytes: u64,
}

impl Store {
    /// Removes layers and blobs that no image, record or build needs. Disk space is given back in the background.
    ///
    /// Safe while others build: as long as any other handle on the store is open, or this one has found or made
    /// anything, what was used within a day stays. So open the store anew to remove all that can go.
    ///
    /// # Errors
    /// I/O.
    pub fn remove_unreferenced(&self) -> Result<Freed, StoreError> {
        let _alone = FileLock::take_now(&self.lock_path("collect"), Mode::Exclusive, Kind::Kept)?;
        let use_path = self.lock_path("use");
        let is_alone = Arc::strong_count(&self.inner) == 1 && self.inner.in_use.try_exclusive(&use_path)?;
        let result = self.remove_unused(is_alone);
        if is_alone {
            self.inner.in_use.shared_again(&use_path)?;
        }
        result
    }

    fn remove_unused(&self, is_alone: bool) -> Result<Freed, StoreError> {
        let trash = LayerDraft::new(self.root())?;
        let freed = self.db().write(|tx| {
            // Asked with the connection in hand: another thread of this process either noted its use before it looked
            // for something, or looks after this transaction.
            let spares = !is_alone || self.inner.has_given.load(Ordering::SeqCst);
            let spared_seconds = if spares { SPARED_SECONDS } else { 0 };
            let mut freed = Freed::default();
            self.remove_layers(tx, spared_seconds, &trash, &mut freed)?;
            self.remove_blobs(tx, spared_seconds, &trash, &mut freed)?;
            Ok(freed)
        })?;
        self.remove_stale_locks()?;
        sweep::remove_in_background(vec![trash]);
        Ok(freed)
    }

    fn remove_layers(
        &self,
        tx: &Connection,
        spared_seconds: i64,
        trash: &LayerDraft,
        freed: &mut Freed,
    ) -> Result<(), TxError> {
        let unneeded: Vec<([u8; 32], Option<i64>)> = tx
            .prepare_cached(
                "SELECT id, size_bytes FROM layers WHERE used_at <= ?1
                 AND id NOT IN (SELECT layer FROM record_layers) AND id NOT IN (SELECT layer FROM image_layers)",
            )?
            .query_map(params![db::now() - spared_seconds], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<_>>()?;
        for (id, size_bytes) in unneeded {
            // The directory first: a kill here leaves a row without one, which everybody takes for a miss.
            layers::discard(self.root(), LayerId::from_bytes(id), trash)?;
            tx.prepare_cached("DELETE FROM layers WHERE id = ?1")?.execute(params![id])?;
            freed.layers += 1;
            freed.size_bytes += size_bytes.map_or(0, i64::cast_unsigned);
        }
        // Directories without a row: a commit has its own within its transaction, so these are of killed processes.
        let known: HashSet<[u8; 32]> = tx
            .prepare_cached("SELECT id FROM layers")?
            .query_map([], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        for entry in entries(&self.root().join("layers"))? {
            if let Some(id) = name_of::<LayerId>(&entry).filter(|id| !known.contains(id.as_bytes())) {
                layers::discard(self.root(), id, trash)?;
            }
        }
        Ok(())
    }

    fn remove_blobs(
        &self,
        tx: &Connection,
        spared_seconds: i64,
        trash: &LayerDraft,
        freed: &mut Freed,
    ) -> Result<(), TxError> {
        let needed = self.needed_blobs(tx)?;
        let spared = Duration::from_secs(spared_seconds.unsigned_abs());
        for entry in entries(&blobs::dir(self.root()))? {
            let Some(digest) = entry.file_name().to_str().and_then(|name| Digest::from_hex(name).ok()) else {
                continue;
            };
            let path = entry.path();
            let found = entry.metadata().at(&path)?;
            let age = found.modified().ok().and_then(|time| SystemTime::now().duration_since(time).ok());
            if needed.contains(&digest) || spared_seconds > 0 && age.is_none_or(|age| age < spared) {
                continue;
            }
            std::fs::rename(&path, trash.path().join(format!("blob-{}", digest.hex()))).at(&path)?;
            tx.prepare_cached("DELETE FROM blobs WHERE digest = ?1")?.execute(params![digest.as_bytes()])?;
            tx.prepare_cached("DELETE FROM compressed WHERE blob = ?1")?
                .execute(params![digest.as_bytes()])?;
            freed.blobs += 1;
            freed.size_bytes += found.len();
        }
        Ok(())
    }

    /// The blobs that images name, themselves or through their manifests, and the compressed forms of layers.
    fn needed_blobs(&self, tx: &Connection) -> Result<HashSet<Digest>, TxError> {
        let roots: Vec<[u8; 32]> = tx
            .prepare_cached(
                "SELECT config FROM images
                 UNION SELECT manifest FROM images WHERE manifest IS NOT NULL
                 UNION SELECT remote_digest FROM images WHERE remote_digest IS NOT NULL",
            )?
            .query_map([], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        let mut needed = HashSet::new();
        for root in roots {
            self.add_with_parts(Digest::from_bytes(root), MAX_DEPTH, &mut needed)?;
        }
        let layers: HashSet<DiffId> = tx
            .prepare_cached("SELECT diff_id FROM layers WHERE diff_id IS NOT NULL")?
            .query_map([], |row| Ok(DiffId(Digest::from_bytes(row.get(0)?))))?
            .collect::<rusqlite::Result<_>>()?;
        let mut memo = tx.prepare_cached("SELECT diff_id, blob FROM compressed")?;
        let mut rows = memo.query([])?;
        while let Some(row) = rows.next()? {
            if layers.contains(&DiffId(Digest::from_bytes(row.get(0)?))) {
                needed.insert(Digest::from_bytes(row.get(1)?));
            }
        }
        Ok(needed)
    }

    /// Follows manifests and indexes, read as plain JSON: whatever is named there by digest is kept.
    fn add_with_parts(
        &self,
        digest: Digest,
        depth: u32,
        needed: &mut HashSet<Digest>,
    ) -> Result<(), StoreError> {
        if !needed.insert(digest) || depth == 0 {
            return Ok(());
        }
        let Some(file) = self.open_blob(&digest)? else { return Ok(()) };
        let path = self.blob_path(&digest);
        if file.metadata().at(&path)?.len() > MAX_MANIFEST_BYTES {
            return Ok(()); // A layer's.
        }
        for part in parts_of(file).at(&path)? {
            self.add_with_parts(part, depth - 1, needed)?;
        }
        Ok(())
    }

    /// Lock files of killed holders.
    fn remove_stale_locks(&self) -> Result<(), StoreError> {
        for entry in entries(&self.root().join("locks"))? {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let is_transient =
                name.starts_with("layer-") || name.starts_with("diff-") || Digest::from_hex(name).is_ok();
            if is_transient {
                drop(FileLock::try_take(&entry.path(), Mode::Exclusive, Kind::Transient)?);
            }
        }
        Ok(())
    }
}

/// The digests that a manifest or index names; nothing for other bytes.
fn parts_of(file: File) -> std::io::Result<Vec<Digest>> {
    let mut bytes = Vec::new();
    file.take(MAX_MANIFEST_BYTES).read_to_end(&mut bytes)?;
    if bytes.first() != Some(&b'{') {
        return Ok(Vec::new());
    }
    let Ok(document) = serde_json::from_slice::<serde_json::Value>(&bytes) else { return Ok(Vec::new()) };
    let lists = ["layers", "manifests"].into_iter().filter_map(|key| document.get(key)?.as_array()).flatten();
    Ok(lists
        .chain(document.get("config"))
        .filter_map(|descriptor| descriptor.get("digest")?.as_str()?.parse().ok())
        .collect())
}

fn entries(dir: &Path) -> Result<Vec<DirEntry>, StoreError> {
    std::fs::read_dir(dir).at(dir)?.map(|entry| entry.at(dir)).collect()
}

fn name_of<T: std::str::FromStr>(entry: &DirEntry) -> Option<T> {
    entry.file_name().to_str()?.parse().ok()
}
