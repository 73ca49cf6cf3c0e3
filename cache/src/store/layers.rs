//! Unpacked layers: directories that overlayfs takes as they are.

use std::fmt;
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::AtomicBool;

use kiln_image::layer::{OverlayXattrs, Unpacked};
use kiln_image::{ContentsDigest, DiffId, Digest};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::Store;
use super::db::{self, Db, TxError};
use super::draft::{BECOMES, LayerDraft};
use super::error::{At, StoreError};
use super::locks::{FileLock, Kind, Mode};
use super::sweep;
use crate::contents::LayerContents;
use crate::listing::{LayerListing, Room};
use crate::space::{Space, measure};

/// The name of one unpacked layer directory, unique to it. A pulled layer's is made of its DiffId (so it is known
/// before anything is downloaded), a built layer's is random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LayerId([u8; 32]);

impl From<DiffId> for LayerId {
    fn from(diff_id: DiffId) -> Self {
        Self(*diff_id.0.as_bytes())
    }
}

impl LayerId {
    /// The name of a layer of another machine's: unlike a pulled one's it says what its contents are called, too.
    pub fn imported(diff_id: DiffId, contents: ContentsDigest) -> Self {
        let mut text = b"kiln imported layer".to_vec();
        text.extend(diff_id.0.as_bytes());
        text.extend(contents.0.as_bytes());
        Self(*Digest::of(&text).as_bytes())
    }

    /// The raw bytes, as the database keeps them.
    pub(super) const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    pub(super) const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

/// The text is no layer id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a layer id (64 lower-case hex digits)")]
pub struct InvalidLayerId(pub String);

impl FromStr for LayerId {
    type Err = InvalidLayerId;
    fn from_str(text: &str) -> Result<Self, InvalidLayerId> {
        Digest::from_hex(text).map(|digest| Self(*digest.as_bytes())).map_err(|error| InvalidLayerId(error.0))
    }
}

/// 64 hex digits, as on disk.
impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Digest::from_bytes(self.0).hex())
    }
}

/// A layer as results name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Layer {
    /// Which directory.
    pub id: LayerId,
    /// What is in it.
    pub contents: ContentsDigest,
}

/// Where a layer's contents digest comes from; stored as the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// Taken from the whole tree, and can be taken again.
    Digested = 0,
    /// A step's own knowledge of what it made.
    Given = 1,
    /// Its DiffId.
    Pulled = 2,
}

/// What the database says of a layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct LayerRow {
    pub(super) contents: ContentsDigest,
    pub(super) origin: Origin,
    pub(super) settled: bool,
    pub(super) diff_id: Option<DiffId>,
    pub(super) size_bytes: Option<u64>,
    used_at: i64,
    made_at: i64,
}

/// What is known of a layer beside its contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerFacts {
    /// If it was computed already, see [`Store::diff_id`].
    pub diff_id: Option<DiffId>,
    /// When it was made or unpacked, in seconds since the epoch. A result that is found again keeps its time, so that a
    /// build of nothing new gives the image that was there.
    pub made_at: i64,
    /// Bytes of file data, where known.
    pub size_bytes: Option<u64>,
}

impl Store {
    /// The directory of a layer, in overlayfs' format.
    pub fn layer_path(&self, id: LayerId) -> PathBuf {
        path_of(self.root(), id)
    }

    /// Whether the layer is there (unpacked and complete).
    ///
    /// # Errors
    /// I/O.
    pub fn has_layer(&self, id: LayerId) -> Result<bool, StoreError> {
        Ok(self.layer(id)?.is_some())
    }

    /// The layer, if it is there.
    ///
    /// # Errors
    /// I/O.
    pub fn layer(&self, id: LayerId) -> Result<Option<Layer>, StoreError> {
        let Some(row) = row(self.db(), id)? else { return Ok(None) };
        if !self.inner.lease.hold_if(&[*id.as_bytes()], || self.layer_path(id).is_dir())? {
            return Ok(None);
        }
        self.inner.uses.layer(id, row.used_at);
        Ok(Some(Layer { id, contents: row.contents }))
    }

    /// Bytes of file data in the layer, where known.
    ///
    /// # Errors
    /// I/O.
    pub fn layer_size(&self, id: LayerId) -> Result<Option<u64>, StoreError> {
        Ok(row(self.db(), id)?.and_then(|row| row.size_bytes))
    }

    /// Whether a layer has exactly so many bytes of file data; if none has, no record can be of files with as many.
    ///
    /// # Errors
    /// I/O.
    pub fn has_layer_of_size(&self, size_bytes: u64) -> Result<bool, StoreError> {
        // What SQLite cannot count no layer has.
        let Ok(size) = i64::try_from(size_bytes) else { return Ok(false) };
        self.db().read(|connection| {
            connection
                .prepare_cached("SELECT EXISTS(SELECT 1 FROM layers WHERE size_bytes = ?1)")?
                .query_row([size], |row| row.get(0))
        })
    }

    /// What is known of layers, in their order; `None` for one that the store does not know.
    ///
    /// # Errors
    /// I/O.
    pub fn layer_facts(&self, ids: &[LayerId]) -> Result<Vec<Option<LayerFacts>>, StoreError> {
        let rows = self.db().read_together(|connection| {
            ids.iter().map(|&id| read_row(connection, id)).collect::<Result<Vec<_>, _>>()
        })?;
        let facts = |row: LayerRow| LayerFacts {
            diff_id: row.diff_id,
            made_at: row.made_at,
            size_bytes: row.size_bytes,
        };
        Ok(rows.into_iter().map(|row| row.map(facts)).collect())
    }

    /// Unpacks a pulled layer once, however many threads and processes want it: `unpack` fills the draft and returns
    /// what it streamed; if its DiffId is not `diff_id` the layer is refused.
    ///
    /// # Errors
    /// The DiffId differs; whatever `unpack` says; I/O.
    pub fn add_pulled_layer<E: From<StoreError>>(
        &self,
        diff_id: DiffId,
        cancel: &AtomicBool,
        unpack: impl FnOnce(&LayerDraft) -> Result<Unpacked, E>,
    ) -> Result<Layer, E> {
        let layer = Layer { id: LayerId::from(diff_id), contents: diff_id.into() };
        self.add_once(layer, diff_id, Origin::Pulled, None, cancel, unpack)
    }

    /// As [`Store::add_pulled_layer`], for a layer that another store made: it keeps what its contents are called
    /// there, and when it was made.
    ///
    /// # Errors
    /// As [`Store::add_pulled_layer`].
    pub fn add_imported_layer<E: From<StoreError>>(
        &self,
        diff_id: DiffId,
        contents: ContentsDigest,
        made_at: i64,
        cancel: &AtomicBool,
        unpack: impl FnOnce(&LayerDraft) -> Result<Unpacked, E>,
    ) -> Result<Layer, E> {
        let layer = Layer { id: LayerId::imported(diff_id, contents), contents };
        self.add_once(layer, diff_id, Origin::Given, Some(made_at), cancel, unpack)
    }

    fn add_once<E: From<StoreError>>(
        &self,
        layer: Layer,
        diff_id: DiffId,
        origin: Origin,
        made_at: Option<i64>,
        cancel: &AtomicBool,
        unpack: impl FnOnce(&LayerDraft) -> Result<Unpacked, E>,
    ) -> Result<Layer, E> {
        let id = layer.id;
        if let Some(layer) = self.layer(id)? {
            return Ok(layer);
        }
        let path = self.lock_path(&pull_lock(id));
        let _alone = FileLock::take(&path, Mode::Exclusive, Kind::Transient, &mut |_| {}, cancel)?;
        if let Some(layer) = self.layer(id)? {
            return Ok(layer);
        }
        let draft = self.draft_layer()?;
        let unpacked = unpack(&draft)?;
        if unpacked.diff_id != diff_id {
            return Err(StoreError::OtherLayer { expected: diff_id, actual: unpacked.diff_id }.into());
        }
        let size_bytes = unpacked.size_bytes;
        let space = Space { bytes: Space::of_unpacked(&unpacked), ..Space::default() };
        let made =
            New { layer, origin, size_bytes: Some(size_bytes), diff_id: Some(diff_id), made_at, space };
        self.keep(&draft, &made, |_| Ok(()))?;
        Ok(layer)
    }

    /// Keeps a layer that no record names (an imported one, `kiln run`'s…). Otherwise as [`Claim::commit`](super::Claim::commit).
    ///
    /// # Errors
    /// I/O.
    pub fn commit_layer(&self, draft: LayerDraft) -> Result<Layer, StoreError> {
        let (made, _) = New::from_draft(&draft, None, None, None, false)?;
        self.keep(&draft, &made, |_| Ok(()))?;
        Ok(made.layer)
    }

    /// The DiffId of a layer: remembered, or computed by packing it into SHA-256 now. Call from a worker thread as soon
    /// as the layer is there. Whoever asks while it is computed waits for that.
    ///
    /// # Errors
    /// I/O.
    pub fn diff_id(&self, id: LayerId) -> Result<DiffId, StoreError> {
        self.diff_id_by(id, packed_diff_id)
    }

    /// As [`Store::diff_id`], of a layer that was listed when it was committed.
    ///
    /// # Errors
    /// As [`Store::diff_id`].
    pub fn diff_id_of_listed(&self, id: LayerId, listing: LayerListing) -> Result<DiffId, StoreError> {
        self.diff_id_by(id, |path| listing.diff_id(path))
    }

    fn diff_id_by(
        &self,
        id: LayerId,
        compute: impl FnOnce(&Path) -> Result<DiffId, StoreError>,
    ) -> Result<DiffId, StoreError> {
        let remembered = || match row(self.db(), id)? {
            Some(row) => Ok(row.diff_id),
            None => Err(StoreError::NoSuchLayer { id }),
        };
        if let Some(diff_id) = remembered()? {
            return Ok(diff_id);
        }
        let lock = self.lock_path(&format!("diff-{id}"));
        let _alone = FileLock::take_now(&lock, Mode::Exclusive, Kind::Transient)?;
        if let Some(diff_id) = remembered()? {
            return Ok(diff_id);
        }
        let diff_id = compute(&self.layer_path(id))?;
        self.remember_diff_id(id, diff_id)?;
        Ok(diff_id)
    }

    /// Notes a layer's DiffId, for those who computed it from the layer's own files.
    ///
    /// # Errors
    /// I/O.
    pub fn remember_diff_id(&self, id: LayerId, diff_id: DiffId) -> Result<(), StoreError> {
        self.db().write(|tx| {
            tx.prepare_cached("UPDATE layers SET diff_id = ?2 WHERE id = ?1")?
                .execute(params![id.as_bytes(), diff_id.0.as_bytes()])?;
            Ok(())
        })
    }

    /// Makes `draft` the layer `made` says, and runs `also` in the same transaction: both are visible, or neither.
    pub(super) fn keep(
        &self,
        draft: &LayerDraft,
        made: &New,
        also: impl Fn(&Connection) -> Result<(), TxError>,
    ) -> Result<(), StoreError> {
        // Before anybody can see it, garbage collection included.
        self.inner.lease.hold_new(*made.layer.id.as_bytes())?;
        let (fs, path) = (draft.fs(), self.layer_path(made.layer.id));
        if made.layer.id != draft.id() {
            // So that a sweep knows where to look if this process is killed after the rename.
            let becomes = draft.path().join(BECOMES);
            std::fs::write(&becomes, made.layer.id.to_string()).at(&becomes)?;
        }
        let recorded = self.write_within_limit(made.space.bytes - made.space.shared_bytes, |tx| {
            // Within the transaction: garbage collection, which is one too, never sees a layer without its row.
            discard(self.root(), made.layer.id, draft)?;
            std::fs::rename(&fs, &path).at(&path)?;
            insert(tx, made)?;
            also(tx)
        });
        if let Err(error) = recorded {
            // The draft's drop removes it.
            let _ = std::fs::rename(&path, &fs);
            return Err(error);
        }
        self.wake_settler();
        Ok(())
    }
}

/// A layer about to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct New {
    pub(super) layer: Layer,
    origin: Origin,
    size_bytes: Option<u64>,
    pub(super) diff_id: Option<DiffId>,
    /// `None`: now.
    made_at: Option<i64>,
    space: Space,
}

impl New {
    /// What `draft` becomes; reads the whole tree if nobody knows its contents. `size_bytes` is for who knows both. A small
    /// layer that `wants_diff_id` gets it here, as a thread and a transaction for that alone would cost more; a larger one is
    /// listed for it.
    pub(super) fn from_draft(
        draft: &LayerDraft,
        contents: Option<ContentsDigest>,
        size_bytes: Option<u64>,
        space: Option<Space>,
        wants_diff_id: bool,
    ) -> Result<(Self, Option<LayerListing>), StoreError> {
        let fs = draft.fs();
        let (mut diff_id, mut listing) = (None, None);
        let (contents, origin, size_bytes, space) = match contents {
            Some(contents) => {
                let space = match space {
                    Some(space) => space,
                    None => Space { bytes: measure(&fs).at(&fs)?, ..Space::default() },
                };
                (contents, Origin::Given, size_bytes, space)
            }
            None => {
                let room = if wants_diff_id { Room::default() } else { Room::none() };
                let mut read = LayerContents::read(&fs, &room)?;
                if let Some(below) = draft.below() {
                    read.drop_unchanged(&fs, below)?;
                }
                let found = read.digest();
                if wants_diff_id {
                    let listed = LayerListing::new(read);
                    if found.entries <= SMALL_ENTRIES && found.size_bytes <= SMALL_BYTES {
                        diff_id = Some(listed.diff_id(&fs)?);
                    } else {
                        listing = Some(listed);
                    }
                }
                let space = Space { bytes: found.disk_bytes, ..Space::default() };
                (found.contents, Origin::Digested, Some(found.size_bytes), space)
            }
        };
        let layer = Layer { id: draft.id(), contents };
        Ok((Self { layer, origin, size_bytes, diff_id, made_at: None, space }, listing))
    }
}

/// A layer of no more entries and bytes is packed sooner than a thread is started for it.
const SMALL_ENTRIES: u64 = 32;
const SMALL_BYTES: u64 = 64 << 10;

/// The DiffId of the tree at `path`.
fn packed_diff_id(path: &Path) -> Result<DiffId, StoreError> {
    let tree = File::open(path).at(path)?;
    Ok(kiln_image::layer::pack(tree.as_fd(), overlay_xattrs(), &mut std::io::sink())?.diff_id)
}

/// How layers' opaque marks are spelled by and for this user.
fn overlay_xattrs() -> OverlayXattrs {
    OverlayXattrs::of_this_process()
}

pub(super) fn path_of(root: &Path, id: LayerId) -> PathBuf {
    root.join("layers").join(id.to_string())
}

/// The name of the lock under which a pulled layer is made.
pub(super) fn pull_lock(id: LayerId) -> String {
    format!("layer-{id}")
}

/// Moves what is at the layer's place, if anything, into `trash`.
pub(super) fn discard(root: &Path, id: LayerId, trash: &LayerDraft) -> Result<(), StoreError> {
    let path = path_of(root, id);
    match std::fs::rename(&path, trash.path().join(format!("{}-{id}", sweep::LAYER))) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result.at(&path),
    }
}

const COLUMNS: &str = "contents, origin, settled, diff_id, size_bytes, used_at, made_at";

pub(super) fn row(db: &Db, id: LayerId) -> Result<Option<LayerRow>, StoreError> {
    db.read(|connection| read_row(connection, id))
}

fn read_row(connection: &Connection, id: LayerId) -> rusqlite::Result<Option<LayerRow>> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM layers WHERE id = ?1"))?
        .query_row(params![id.as_bytes()], |row| LayerRow::read(row, 0))
        .optional()
}

/// All layers.
pub(super) fn rows(db: &Db) -> Result<Vec<(LayerId, LayerRow)>, StoreError> {
    db.read(|connection| {
        connection
            .prepare_cached(&format!("SELECT id, {COLUMNS} FROM layers ORDER BY seq"))?
            .query_map([], |row| Ok((LayerId(row.get(0)?), LayerRow::read(row, 1)?)))?
            .collect()
    })
}

impl LayerRow {
    fn read(row: &Row<'_>, from: usize) -> rusqlite::Result<Self> {
        let digest = |bytes: [u8; 32]| Digest::from_bytes(bytes);
        Ok(Self {
            contents: ContentsDigest(digest(row.get(from)?)),
            origin: match row.get(from + 1)? {
                0 => Origin::Digested,
                1 => Origin::Given,
                2 => Origin::Pulled,
                other => return Err(rusqlite::Error::IntegralValueOutOfRange(from + 1, other)),
            },
            settled: row.get(from + 2)?,
            diff_id: row.get::<_, Option<[u8; 32]>>(from + 3)?.map(|bytes| DiffId(digest(bytes))),
            size_bytes: row.get::<_, Option<i64>>(from + 4)?.map(i64::cast_unsigned),
            used_at: row.get(from + 5)?,
            made_at: row.get(from + 6)?,
        })
    }
}

fn insert(connection: &Connection, made: &New) -> Result<(), TxError> {
    // `OR REPLACE`: a pulled layer whose directory was lost is pulled again.
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO layers(id, contents, origin, size_bytes, diff_id, made_at, used_at, disk_bytes,
                 shared_bytes, shared_with)
             VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        )?
        .execute(params![
            made.layer.id.as_bytes(),
            made.layer.contents.0.as_bytes(),
            made.origin as i64,
            made.size_bytes.map(u64::cast_signed),
            made.diff_id.map(|diff_id| *diff_id.0.as_bytes()),
            made.made_at.unwrap_or_else(db::now),
            db::now(),
            made.space.bytes.cast_signed(),
            made.space.shared_bytes.cast_signed(),
            made.space.shared_with.map(|id| *id.as_bytes()),
        ])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_id_is_read_as_it_is_written() {
        let id = LayerId([0xab; 32]);
        assert_eq!(id.to_string(), "ab".repeat(32));
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("ab".parse::<LayerId>().is_err());
        assert!("AB".repeat(32).parse::<LayerId>().is_err());
        assert!("../../x".parse::<LayerId>().is_err());
    }
}
