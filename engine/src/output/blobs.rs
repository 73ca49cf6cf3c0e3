//! An image's layers as compressed blobs of the store.
//!
//! A base image's layers keep the blobs they were pulled as; new layers are packed and compressed once, and the store
//! remembers the result.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use kiln_cache::{Layer, LayerId};
use kiln_image::layer::{
    self, Compression, OverlayXattrs, PackOptions, StargzWriter, TOC_DIGEST_ANNOTATION, Times,
    UNCOMPRESSED_SIZE_ANNOTATION,
};
use kiln_image::oci::{Descriptor, media_type};
use kiln_image::registry::Push;
use kiln_image::{DiffId, Digest};
use kiln_solver::solve::Solver;
use serde::{Deserialize, Serialize};

use super::options::{ImageOptions, LayerCompression, MediaTypes};
use crate::assemble::{Assembled, to_json};
use crate::push::{SentBlob, Source};
use crate::{Error, ErrorKind};

/// So many layers are compressed at once; each uses all processors.
const WORKERS: usize = 8;

/// A layer that is a blob of the store.
#[derive(Clone, Debug)]
pub(super) struct PackedLayer {
    /// Of the blob, uncompressed: not that of the layer in the store where times were rewritten.
    pub(super) diff_id: DiffId,
    pub(super) descriptor: Descriptor,
    /// The layer in the store that it was made of.
    pub(super) made_of: Layer,
    /// Where its bytes are.
    pub(super) source: Source,
    /// Whether they were made, and hashed, just now.
    pub(super) is_new: bool,
}

/// What blobs are made for.
#[derive(Clone, Copy)]
pub(super) enum Purpose<'a> {
    /// They are read from the store.
    Store,
    /// They go to a registry. Layers of bases need not come here for that, and new ones may go while they are made.
    Push(&'a Push),
}

/// How layers are written.
#[derive(Clone, Copy)]
struct Settings {
    compression: LayerCompression,
    level: Option<i32>,
    force: bool,
    times: Times,
    media_types: MediaTypes,
}

/// Makes the blobs of the image's layers, bottom first.
pub(super) fn pack(
    solver: &Solver<'_>,
    image: &Assembled,
    options: &ImageOptions,
    purpose: Purpose<'_>,
) -> Result<Vec<PackedLayer>, Error> {
    // Without an epoch there is nothing to rewrite to (FEATURES RP3).
    let times = match image.epoch.filter(|_| options.rewrite_timestamp) {
        Some(seconds) => Times::AtMost(seconds),
        None => Times::Kept,
    };
    let settings = Settings {
        compression: options.compression,
        level: options.compression_level,
        force: options.force_compression,
        times,
        media_types: options.media_types().0,
    };
    let count = image.layers.len();
    let slots: Vec<Mutex<Option<Result<PackedLayer, Error>>>> =
        (0..count).map(|_| Mutex::new(None)).collect();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let workers = std::thread::available_parallelism().map_or(2, usize::from).min(WORKERS).min(count);
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let (Some(layer), Some(slot)) = (image.layers.get(index), slots.get(index)) else {
                        return;
                    };
                    let diff_id = image.diff_ids[index];
                    let packer = Packer { solver, layer, diff_id, settings, purpose };
                    let packed = packer.pack();
                    if packed.is_err() {
                        next.store(count, Ordering::Relaxed);
                    }
                    *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(packed);
                }
            });
        }
    });
    let mut packed = Vec::with_capacity(count);
    let mut skipped = false;
    for slot in slots {
        match slot.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(result) => packed.push(result?),
            None => skipped = true,
        }
    }
    if skipped {
        return Err(Error::new(ErrorKind::Environment, "internal: a layer was not packed"));
    }
    Ok(packed)
}

/// Makes one layer's blob.
struct Packer<'a> {
    solver: &'a Solver<'a>,
    layer: &'a Layer,
    diff_id: DiffId,
    settings: Settings,
    purpose: Purpose<'a>,
}

/// A blob and what it holds; kept in the store as JSON where that does not follow from what it was made of.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Made {
    diff_id: DiffId,
    digest: Digest,
    size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

/// A layer's blob for a cache, in the store.
pub(crate) fn layer_blob(
    solver: &Solver<'_>,
    layer: &Layer,
    diff_id: DiffId,
    compression: kiln_remote::Compression,
) -> Result<Descriptor, Error> {
    let settings = Settings {
        compression: compression.algorithm.into(),
        level: compression.level,
        force: compression.force,
        times: Times::Kept,
        media_types: MediaTypes::Oci,
    };
    Ok(Packer { solver, layer, diff_id, settings, purpose: Purpose::Store }.pack()?.descriptor)
}

impl Packer<'_> {
    fn pack(&self) -> Result<PackedLayer, Error> {
        let is_pulled = LayerId::from(self.diff_id) == self.layer.id;
        // A remote cache's layer is one of this build's own, but it need not be made: it has its blob.
        let is_imported =
            self.settings.times == Times::Kept && self.solver.pulls.descriptor(self.layer).is_some();
        if !is_pulled && !is_imported {
            let how = self.how();
            return self.make(&how, |out| self.pack_tree(out));
        }
        // A base image's layers stay as they are, their times too.
        let (compression, blob) = match self.pulled_blob()? {
            Some(found) => found,
            None => {
                if let Some(layer) = self.elsewhere() {
                    return Ok(layer);
                }
                self.fetch()?;
                let gone = || {
                    Error::new(ErrorKind::Environment, format!("layer {} is not in the store", self.diff_id))
                        .hinted("pull the base image again")
                };
                self.pulled_blob()?.ok_or_else(gone)?
            }
        };
        if self.is_as_wanted(compression) {
            return Ok(self.packed(compression, self.whole(blob)?));
        }
        // Not what others get who do not force it.
        let how = format!("forced-{}", self.how());
        self.make(&how, |out| self.decompress(&blob, out))
    }

    /// The blob of the tar that `body` writes, and returns the DiffId of: remembered, or made.
    fn make(
        &self,
        how: &str,
        body: impl FnOnce(&mut dyn Write) -> Result<DiffId, Error>,
    ) -> Result<PackedLayer, Error> {
        let remembered = self.remembered(how)?;
        let is_new = remembered.is_none();
        let made = match remembered {
            Some(made) => made,
            None => self.compress(how, body)?,
        };
        Ok(PackedLayer { is_new, ..self.packed(self.settings.compression, made) })
    }

    /// Whether a base image's layer that is compressed so may stay as it is.
    fn is_as_wanted(&self, compression: LayerCompression) -> bool {
        let is_the_same =
            compression == self.settings.compression && compression != LayerCompression::Estargz;
        !self.settings.force || is_the_same
    }

    /// A base image's layer that is in a registry and need not come here to go to another one.
    fn elsewhere(&self) -> Option<PackedLayer> {
        let Purpose::Push(_) = self.purpose else { return None };
        let (descriptor, image) = self.solver.pulls.descriptor(self.layer)?;
        let compression = media_type::compression_of_layer(&descriptor.media_type).into();
        if !self.is_as_wanted(compression) {
            return None;
        }
        let Descriptor { digest, size, .. } = descriptor;
        let made = Made { diff_id: self.diff_id, digest, size, annotations: BTreeMap::new() };
        Some(PackedLayer { source: Source::Registry(image?), ..self.packed(compression, made) })
    }

    /// A new blob of the store.
    fn writer(&self) -> Result<SentBlob<'_>, Error> {
        let ahead = match self.purpose {
            Purpose::Store => None,
            Purpose::Push(push) => Some(push),
        };
        Ok(SentBlob::new(self.solver.store.blob_writer()?, ahead))
    }

    fn packed(&self, compression: LayerCompression, made: Made) -> PackedLayer {
        let descriptor = Descriptor {
            media_type: self.settings.media_types.layer(compression).to_owned(),
            digest: made.digest,
            size: made.size,
            annotations: made.annotations,
            platform: None,
        };
        let (diff_id, made_of) = (made.diff_id, *self.layer);
        PackedLayer { diff_id, descriptor, made_of, source: Source::Store, is_new: false }
    }

    /// What the store calls a blob that is made so.
    fn how(&self) -> String {
        let mut how = self.settings.compression.word().to_owned();
        if let Some(level) = self.settings.level {
            how.push_str(&format!("-{level}"));
        }
        match self.settings.times {
            Times::Kept => {}
            Times::AtMost(seconds) => how.push_str(&format!("<={seconds}")),
            Times::Exactly(seconds) => how.push_str(&format!("={seconds}")),
        }
        how
    }

    /// Whether the blob's own DiffId is another than the layer's, or there is more to be known of it.
    fn has_facts(&self) -> bool {
        self.settings.compression == LayerCompression::Estargz || self.settings.times != Times::Kept
    }

    fn remembered(&self, how: &str) -> Result<Option<Made>, Error> {
        let store = self.solver.store;
        let Some(digest) = store.compressed(self.diff_id, how)? else { return Ok(None) };
        if !self.has_facts() {
            return self.whole(digest).map(Some);
        }
        let Some(facts) = store.compressed(self.diff_id, &facts_of(how))? else { return Ok(None) };
        let Some(file) = store.open_blob(&facts)? else { return Ok(None) };
        // What an older kiln noted otherwise is made anew.
        let made: Option<Made> = serde_json::from_reader(file.take(MOST_FACTS_BYTES)).ok();
        Ok(made.filter(|made| made.digest == digest))
    }

    /// A blob of the layer's own tar.
    fn whole(&self, digest: Digest) -> Result<Made, Error> {
        let path = self.solver.store.blob_path(&digest);
        let size = std::fs::metadata(&path).map_err(|error| Error::io(&path, error))?.len();
        Ok(Made { diff_id: self.diff_id, digest, size, annotations: BTreeMap::new() })
    }

    /// Compresses the tar that `body` writes, and returns the DiffId of, into the store.
    fn compress(
        &self,
        how: &str,
        body: impl FnOnce(&mut dyn Write) -> Result<DiffId, Error>,
    ) -> Result<Made, Error> {
        let store = self.solver.store;
        let at = |error| Error::io(store.root(), error);
        let compression = match self.settings.compression {
            LayerCompression::Uncompressed => Compression::None,
            LayerCompression::Gzip => Compression::Gzip,
            LayerCompression::Zstd => Compression::Zstd,
            LayerCompression::Estargz => {
                let mut writer = StargzWriter::new(self.writer()?, self.settings.level)?;
                body(&mut writer)?;
                let (writer, known) = writer.finish().map_err(at)?;
                let (digest, size) = writer.finish()?;
                let annotations = BTreeMap::from([
                    (TOC_DIGEST_ANNOTATION.to_owned(), known.toc_digest.to_string()),
                    (UNCOMPRESSED_SIZE_ANNOTATION.to_owned(), known.uncompressed_bytes.to_string()),
                ]);
                return self.remember(how, Made { diff_id: known.diff_id, digest, size, annotations });
            }
        };
        let mut writer = layer::compress(self.writer()?, compression, self.settings.level)?;
        let diff_id = body(&mut writer)?;
        let (digest, size) = writer.finish().map_err(at)?.finish()?;
        self.remember(how, Made { diff_id, digest, size, annotations: BTreeMap::new() })
    }

    fn remember(&self, how: &str, made: Made) -> Result<Made, Error> {
        let store = self.solver.store;
        store.remember_compressed(self.diff_id, how, made.digest)?;
        if self.has_facts() {
            let facts = store.put_blob(&to_json(&made)?)?;
            store.remember_compressed(self.diff_id, &facts_of(how), facts)?;
        }
        Ok(made)
    }

    fn pack_tree(&self, out: &mut dyn Write) -> Result<DiffId, Error> {
        self.solver.ensure_layers(std::slice::from_ref(self.layer))?;
        let path = self.solver.store.layer_path(self.layer.id);
        let tree = File::open(&path).map_err(|error| Error::io(&path, error))?;
        let options = PackOptions { times: self.settings.times };
        let packed = layer::pack_with(tree.as_fd(), OverlayXattrs::of_this_process(), options, out)?.diff_id;
        // An image must not be made of a layer that is no more what its step made.
        if self.settings.times == Times::Kept && packed != self.diff_id {
            let message = format!("layer {} has changed in the store: its files make {packed}", self.diff_id);
            return Err(Error::new(ErrorKind::Environment, message)
                .hinted("`kiln doctor --repair` removes what is damaged; then build again"));
        }
        Ok(packed)
    }

    fn decompress(&self, blob: &Digest, out: &mut dyn Write) -> Result<DiffId, Error> {
        let path = self.solver.store.blob_path(blob);
        let file = File::open(&path).map_err(|error| Error::io(&path, error))?;
        let mut tar = layer::decompress(file)?;
        std::io::copy(&mut tar, out).map_err(|error| Error::io(&path, error))?;
        Ok(self.diff_id)
    }

    /// The blob that a base image's layer came as, if the store has it.
    fn pulled_blob(&self) -> Result<Option<(LayerCompression, Digest)>, Error> {
        let store = self.solver.store;
        let blob = match self.solver.pulls.descriptor(self.layer) {
            Some((descriptor, _)) if store.has_blob(&descriptor.digest) => {
                Some((media_type::compression_of_layer(&descriptor.media_type), descriptor.digest))
            }
            _ => store.blob_of(self.diff_id)?,
        };
        Ok(blob.map(|(compression, digest)| (compression.into(), digest)))
    }

    /// Gets a layer that no step needed: its blob alone, without unpacking it.
    fn fetch(&self) -> Result<(), Error> {
        let solver = self.solver;
        let Some(mut blob) = solver.open_layer_blob(self.layer)? else {
            return Ok(solver.ensure_layers(std::slice::from_ref(self.layer))?);
        };
        let descriptor = blob.descriptor;
        let mut writer = solver.store.blob_writer()?;
        std::io::copy(&mut blob.reader, &mut writer)
            .map_err(|error| Error::io(solver.store.root(), error))?;
        writer.finish(Some(descriptor.digest))?;
        Ok(solver.store.remember_pulled(self.diff_id, &descriptor)?)
    }
}

/// Where the store has what is known of a blob.
fn facts_of(how: &str) -> String {
    format!("{how}.json")
}

/// Two digests, a number and two annotations.
const MOST_FACTS_BYTES: u64 = 16 << 10;
