//! An image's layers as compressed blobs, and the manifest that names them.
//!
//! A base image's layers keep the blobs they were pulled as; new layers are packed and compressed once, and the store
//! remembers the result.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use kiln_cache::Layer;
use kiln_image::layer::{self, Compression, OverlayXattrs, PackOptions};
use kiln_image::oci::{Descriptor, Manifest, media_type};
use kiln_image::{DiffId, Digest};
use kiln_solver::solve::Solver;

use crate::assemble::{Assembled, to_json};
use crate::{Error, ErrorKind};

/// So many layers are compressed at once.
const WORKERS: usize = 8;

/// An image as blobs of the store.
pub(super) struct Packed {
    pub(super) manifest: Descriptor,
    pub(super) manifest_bytes: Vec<u8>,
    pub(super) config: Descriptor,
    pub(super) config_bytes: Vec<u8>,
    /// Bottom first, all in the store.
    pub(super) layers: Vec<Descriptor>,
    pub(super) created: Option<String>,
    pub(super) platform: kiln_image::Platform,
}

/// How layers are written.
#[derive(Clone, Copy)]
struct Settings {
    compression: Compression,
    level: Option<i32>,
    force: bool,
    rewrite_mtime_to: Option<i64>,
}

/// One layer's blob, or why there is none.
type PackedLayer = Result<(DiffId, Descriptor), Error>;

/// Makes the blobs.
pub(super) fn pack(
    solver: &Solver<'_>,
    image: &Assembled,
    attrs: &[(String, String)],
) -> Result<Packed, Error> {
    let settings = Settings::of(image, attrs)?;
    let count = image.snapshot.layers.len();
    let slots: Vec<Mutex<Option<PackedLayer>>> = (0..count).map(|_| Mutex::new(None)).collect();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let workers = std::thread::available_parallelism().map_or(2, usize::from).min(WORKERS).min(count);
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let (Some(layer), Some(slot)) = (image.snapshot.layers.get(index), slots.get(index))
                    else {
                        return;
                    };
                    let made = blob_of(solver, layer, image.diff_ids[index], settings);
                    if made.is_err() {
                        next.store(count, Ordering::Relaxed);
                    }
                    *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(made);
                }
            });
        }
    });
    let mut made = Vec::with_capacity(count);
    let mut skipped = false;
    for slot in slots {
        match slot.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(result) => made.push(result?),
            None => skipped = true,
        }
    }
    if skipped {
        return Err(Error::new(ErrorKind::Environment, "internal: a layer was not packed"));
    }
    let (diff_ids, layers): (Vec<_>, Vec<_>) = made.into_iter().unzip();
    let config_bytes = if diff_ids == image.diff_ids {
        image.config_bytes.clone()
    } else {
        let mut config = image.config.clone();
        config.rootfs.diff_ids = diff_ids;
        to_json(&config)?
    };
    let config = describe(media_type::OCI_CONFIG, &config_bytes);
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(media_type::OCI_MANIFEST.to_owned()),
        config: config.clone(),
        layers: layers.clone(),
        annotations: std::collections::BTreeMap::new(),
    };
    let manifest_bytes = to_json(&manifest)?;
    Ok(Packed {
        manifest: describe(media_type::OCI_MANIFEST, &manifest_bytes),
        manifest_bytes,
        config,
        config_bytes,
        layers,
        created: image.config.created.clone(),
        platform: image.platform.clone(),
    })
}

impl Settings {
    fn of(image: &Assembled, attrs: &[(String, String)]) -> Result<Self, Error> {
        let get = |wanted: &str| {
            attrs.iter().rev().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
        };
        let flag = |wanted: &str| matches!(get(wanted), Some("" | "1" | "true"));
        let compression = match get("compression") {
            None | Some("gzip") => Compression::Gzip,
            Some("zstd") => Compression::Zstd,
            Some("uncompressed") => Compression::None,
            Some(other) => {
                return Err(Error::user(format!("unknown compression `{other}`"))
                    .hinted("gzip, zstd or uncompressed"));
            }
        };
        let level = get("compression-level")
            .map(|level| {
                level.parse().map_err(|_| Error::user(format!("compression level `{level}` is no number")))
            })
            .transpose()?;
        // Without an epoch there is nothing to rewrite to (FEATURES RP3).
        let rewrite = flag("rewrite-timestamp");
        Ok(Self {
            compression,
            level,
            force: flag("force-compression"),
            rewrite_mtime_to: image.epoch.filter(|_| rewrite),
        })
    }

    fn word(self) -> &'static str {
        match self.compression {
            Compression::None => "uncompressed",
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        }
    }

    fn media_type(self) -> &'static str {
        match self.compression {
            Compression::None => media_type::OCI_LAYER,
            Compression::Gzip => media_type::OCI_LAYER_GZIP,
            Compression::Zstd => media_type::OCI_LAYER_ZSTD,
        }
    }
}

/// A layer's blob for a cache, in the store.
pub(crate) fn layer_blob(
    solver: &Solver<'_>,
    layer: &Layer,
    diff_id: DiffId,
    compression: kiln_remote::Compression,
) -> Result<Descriptor, Error> {
    let kiln_remote::Compression { algorithm, level, force } = compression;
    let settings = Settings { compression: algorithm, level, force, rewrite_mtime_to: None };
    Ok(blob_of(solver, layer, diff_id, settings)?.1)
}

/// A layer's blob, in the store.
fn blob_of(
    solver: &Solver<'_>,
    layer: &Layer,
    diff_id: DiffId,
    settings: Settings,
) -> Result<(DiffId, Descriptor), Error> {
    // A base image's layers stay as they are, their times too.
    let is_pulled = DiffId(layer.contents.0) == diff_id;
    if is_pulled && !settings.force {
        for (how, media_type) in [("gzip", media_type::OCI_LAYER_GZIP), ("zstd", media_type::OCI_LAYER_ZSTD)]
        {
            if let Some(descriptor) = remembered(solver, diff_id, how, media_type)? {
                return Ok((diff_id, descriptor));
            }
        }
        if let Some(descriptor) = download(solver, layer, diff_id)? {
            return Ok((diff_id, descriptor));
        }
    }
    let rewrite = settings.rewrite_mtime_to.filter(|_| !is_pulled);
    // A level of one's own is not what others asked for.
    let shared = rewrite.is_none() && settings.level.is_none();
    let is_absent = || Ok::<_, Error>(!solver.store.has_layer(layer.id)?);
    if rewrite.is_none()
        && !settings.force
        && solver.pulls.descriptor(layer).is_some()
        && is_absent()?
        && let Some(descriptor) = download(solver, layer, diff_id)?
    {
        return Ok((diff_id, descriptor));
    }
    if shared && let Some(descriptor) = remembered(solver, diff_id, settings.word(), settings.media_type())? {
        return Ok((diff_id, descriptor));
    }
    solver.ensure_layers(&kiln_solver::solve::Snapshot { layers: vec![*layer] })?;
    let path = solver.store.layer_path(layer.id);
    let tree = File::open(&path).map_err(|error| Error::io(&path, error))?;
    let mut writer = layer::compress(solver.store.blob_writer()?, settings.compression, settings.level)?;
    let options = PackOptions { rewrite_mtime_to: rewrite };
    let packed = layer::pack_with(tree.as_fd(), OverlayXattrs::of_this_process(), options, &mut writer)?;
    let writer = writer.finish().map_err(|error| Error::io(solver.store.root(), error))?;
    let (digest, size) = writer.finish(None)?;
    if shared {
        solver.store.remember_compressed(packed.diff_id, settings.word(), digest)?;
    }
    let descriptor = Descriptor {
        media_type: settings.media_type().to_owned(),
        digest,
        size,
        annotations: std::collections::BTreeMap::new(),
        platform: None,
    };
    Ok((packed.diff_id, descriptor))
}

fn remembered(
    solver: &Solver<'_>,
    diff_id: DiffId,
    how: &str,
    media_type: &str,
) -> Result<Option<Descriptor>, Error> {
    let Some(digest) = solver.store.compressed(diff_id, how)? else { return Ok(None) };
    let Some(file) = solver.store.open_blob(&digest)? else { return Ok(None) };
    let size = file.metadata().map_err(|error| Error::io(solver.store.root(), error))?.len();
    Ok(Some(Descriptor {
        media_type: media_type.to_owned(),
        digest,
        size,
        annotations: std::collections::BTreeMap::new(),
        platform: None,
    }))
}

/// A layer of a base image or of a remote cache that no step needed: its blob is fetched without being unpacked.
fn download(solver: &Solver<'_>, layer: &Layer, diff_id: DiffId) -> Result<Option<Descriptor>, Error> {
    let Some((descriptor, _)) = solver.pulls.descriptor(layer) else { return Ok(None) };
    let (how, media_type) = if descriptor.media_type.ends_with("gzip") {
        ("gzip", media_type::OCI_LAYER_GZIP)
    } else if descriptor.media_type.ends_with("zstd") {
        ("zstd", media_type::OCI_LAYER_ZSTD)
    } else {
        return Ok(None);
    };
    if !solver.store.has_blob(&descriptor.digest) {
        let Some(mut blob) = solver.open_layer_blob(layer)? else { return Ok(None) };
        let mut writer = solver.store.blob_writer()?;
        std::io::copy(&mut blob.reader, &mut writer)
            .map_err(|error| Error::io(solver.store.root(), error))?;
        writer.finish(Some(descriptor.digest))?;
    }
    solver.store.remember_compressed(diff_id, how, descriptor.digest)?;
    Ok(Some(Descriptor { media_type: media_type.to_owned(), platform: None, ..descriptor }))
}

pub(super) fn describe(media_type: &str, bytes: &[u8]) -> Descriptor {
    Descriptor {
        media_type: media_type.to_owned(),
        digest: Digest::of(bytes),
        size: bytes.len() as u64,
        annotations: std::collections::BTreeMap::new(),
        platform: None,
    }
}
