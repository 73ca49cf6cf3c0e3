//! Looking whether the store is as it says.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::AsFd as _;

use kiln_image::layer::OverlayXattrs;
use kiln_image::{ContentsDigest, Digest};
use rusqlite::Connection;

use super::error::{At, StoreError};
use super::layers::{self, LayerId, LayerRow, Origin};
use super::records::StepKey;
use super::{Store, blobs};

/// How closely [`Store::check`] looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckDepth {
    /// Every blob's digest, every reference, every layer's presence.
    Blobs,
    /// The digests of layers' trees too.
    Trees,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// SQLite finds its file damaged.
    Database(String),
    /// The bytes under this digest have another one.
    DamagedBlob {
        /// The name.
        expected: Digest,
        /// The truth.
        actual: Digest,
    },
    /// The database knows the blob, the disk does not.
    MissingBlob(Digest),
    /// The database knows the layer, the disk does not.
    MissingLayer(LayerId),
    /// The disk has the layer, the database does not.
    UnknownLayer(LayerId),
    /// A layer's tree is not what was recorded.
    ChangedLayer {
        /// Which.
        id: LayerId,
        /// What it was.
        expected: ContentsDigest,
        /// What it is.
        actual: ContentsDigest,
    },
    /// A record names a layer that is not known.
    RecordWithoutLayer {
        /// The record.
        key: StepKey,
        /// The layer.
        layer: LayerId,
    },
    /// An image's config or manifest is not there.
    ImageWithoutBlob {
        /// The image.
        config: Digest,
        /// What is missing.
        blob: Digest,
    },
    /// An image's layer is neither unpacked nor to be had by its manifest.
    ImageWithoutLayer {
        /// The image.
        config: Digest,
        /// What is missing.
        layer: LayerId,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Database(words) => write!(f, "database: {words}"),
            Self::DamagedBlob { expected, actual } => write!(f, "blob {expected} contains {actual}"),
            Self::MissingBlob(digest) => write!(f, "blob {digest} is missing"),
            Self::MissingLayer(id) => write!(f, "layer {id} is missing"),
            Self::UnknownLayer(id) => write!(f, "layer {id} is in no list"),
            Self::ChangedLayer { id, expected, actual } => {
                write!(f, "layer {id} contains {} instead of {}", actual.0, expected.0)
            }
            Self::RecordWithoutLayer { key, layer } => {
                write!(f, "step {} needs layer {layer}, which is not known", key.0)
            }
            Self::ImageWithoutBlob { config, blob } => {
                write!(f, "image {config} needs blob {blob}, which is missing")
            }
            Self::ImageWithoutLayer { config, layer } => {
                write!(f, "image {config} needs layer {layer}, which is missing")
            }
        }
    }
}

impl Store {
    /// Compares what the database says with what is on the disk. Reads all blobs; with [`CheckDepth::Trees`] all layers
    /// too. What other processes commit meanwhile may be reported as unknown.
    ///
    /// # Errors
    /// I/O.
    pub fn check(&self, depth: CheckDepth) -> Result<Vec<Problem>, StoreError> {
        let mut problems = self.db().read(check_database)?;
        self.check_layers(depth, &mut problems)?;
        self.check_blobs(&mut problems)?;
        problems.extend(self.db().read(check_records)?);
        self.check_images(&mut problems)?;
        Ok(problems)
    }

    fn check_layers(&self, depth: CheckDepth, problems: &mut Vec<Problem>) -> Result<(), StoreError> {
        let known = layers::rows(self.db())?;
        for (id, row) in &known {
            let path = self.layer_path(*id);
            if !path.is_dir() {
                problems.push(Problem::MissingLayer(*id));
            } else if depth == CheckDepth::Trees {
                problems.extend(self.check_tree(*id, row)?);
            }
        }
        let dir = self.root().join("layers");
        for entry in std::fs::read_dir(&dir).at(&dir)? {
            let name = entry.at(&dir)?.file_name();
            let Some(id) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
            // Asked anew: it may have been committed since the list was read.
            if layers::row(self.db(), id)?.is_none() {
                problems.push(Problem::UnknownLayer(id));
            }
        }
        Ok(())
    }

    /// Compares a layer's files with what is known of them: its contents digest where that was taken from them, else the
    /// digest of its tar, else the blob that it came in. Of a layer of which nothing is known there is nothing to compare.
    fn check_tree(&self, id: LayerId, row: &LayerRow) -> Result<Option<Problem>, StoreError> {
        let path = self.layer_path(id);
        let changed = |expected, actual| {
            Some(Problem::ChangedLayer { id, expected, actual }).filter(|_| expected != actual)
        };
        match (row.origin, row.diff_id) {
            (Origin::Digested, _) => Ok(changed(row.contents, crate::tree_digest(&path)?.contents)),
            (Origin::Given, Some(diff_id)) => {
                let tree = File::open(&path).at(&path)?;
                let xattrs = OverlayXattrs::of_this_process();
                let packed = kiln_image::layer::pack(tree.as_fd(), xattrs, &mut std::io::sink())?;
                Ok(changed(diff_id.into(), packed.diff_id.into()))
            }
            (Origin::Given | Origin::Pulled, None) => Ok(None),
            (Origin::Pulled, Some(diff_id)) => {
                let Some((_, blob)) = self.blob_of(diff_id)? else { return Ok(None) };
                let Some(mut tar) = self.open_blob(&blob)? else { return Ok(None) };
                let draft = self.draft_layer()?;
                let target = File::open(draft.fs()).at(&draft.fs())?;
                // A blob that is no such tar is reported as a blob.
                let xattrs = OverlayXattrs::of_this_process();
                let Ok(unpacked) = kiln_image::layer::unpack(&mut tar, target.as_fd(), xattrs) else {
                    return Ok(None);
                };
                if unpacked.diff_id != diff_id {
                    return Ok(None);
                }
                let expected = crate::tree_digest(&draft.fs())?.contents;
                Ok(changed(expected, crate::tree_digest(&path)?.contents))
            }
        }
    }

    fn check_blobs(&self, problems: &mut Vec<Problem>) -> Result<(), StoreError> {
        let known: Vec<[u8; 32]> = self.db().read(|connection| {
            connection.prepare_cached("SELECT digest FROM blobs")?.query_map([], |row| row.get(0))?.collect()
        })?;
        let missing = known.into_iter().map(Digest::from_bytes).filter(|digest| !self.has_blob(digest));
        problems.extend(missing.map(Problem::MissingBlob));
        let dir = blobs::dir(self.root());
        for entry in std::fs::read_dir(&dir).at(&dir)? {
            let entry = entry.at(&dir)?;
            let name = entry.file_name();
            let Some(expected) = name.to_str().and_then(|name| Digest::from_hex(name).ok()) else { continue };
            let path = entry.path();
            let mut file = match File::open(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                result => result.at(&path)?,
            };
            let (actual, _) = blobs::digest_of_file(&mut file).at(&path)?;
            if actual != expected {
                problems.push(Problem::DamagedBlob { expected, actual });
            }
        }
        Ok(())
    }

    fn check_images(&self, problems: &mut Vec<Problem>) -> Result<(), StoreError> {
        let layers: HashSet<LayerId> = layers::rows(self.db())?.into_iter().map(|(id, _)| id).collect();
        for image in self.images()? {
            let config = image.config;
            let missing =
                [Some(config), image.manifest].into_iter().flatten().filter(|blob| !self.has_blob(blob));
            problems.extend(missing.map(|blob| Problem::ImageWithoutBlob { config, blob }));
            if image.manifest.is_none() {
                let missing = image.layers.into_iter().filter(|layer| !layers.contains(layer));
                problems.extend(missing.map(|layer| Problem::ImageWithoutLayer { config, layer }));
            }
        }
        Ok(())
    }
}

fn check_database(connection: &Connection) -> rusqlite::Result<Vec<Problem>> {
    let words: Vec<String> = connection
        .prepare("PRAGMA quick_check")?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    Ok(words.into_iter().filter(|word| word != "ok").map(Problem::Database).collect())
}

fn check_records(connection: &Connection) -> rusqlite::Result<Vec<Problem>> {
    connection
        .prepare_cached("SELECT key, layer FROM record_layers WHERE layer NOT IN (SELECT id FROM layers)")?
        .query_map([], |row| {
            Ok(Problem::RecordWithoutLayer {
                key: StepKey(Digest::from_bytes(row.get(0)?)),
                layer: LayerId::from_bytes(row.get(1)?),
            })
        })?
        .collect()
}
