//! `kiln save` and `kiln load`: archives that are OCI layout and docker archive at once, as docker writes them since 25.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use kiln_cache::{ImageRecord, LayerDraft, LayerId, Store};
use kiln_image::archive::Archive;
use kiln_image::layer::{self, pack};
use kiln_image::layout::{
    BlobInput, CONTAINERD_NAME_ANNOTATION, DockerImage, LayoutError, REF_NAME_ANNOTATION, Selector, write_tar,
};
use kiln_image::oci::{Descriptor, ImageConfig, Index, Manifest, PlatformSpec, media_type};
use kiln_image::{DiffId, Digest, ImageRef, Platform};

use super::attested;
use super::layers;
use super::pull::record;
use super::read_blob;
use crate::assemble::to_json;
use crate::attest::Attached;
use crate::error::layout_error;
use crate::{Error, ErrorKind};

/// Writes `images` to `out`. Layers go as they were pulled, compressed or not; those made here as plain tars.
pub(super) fn save(
    store: &Store,
    images: &[(ImageRecord, ImageConfig)],
    out: &mut dyn Write,
) -> Result<(), Error> {
    // Tars of layers lie here until they are written: a tar's header needs their size first.
    let scratch = store.scratch_dir()?;
    let mut blobs = Blobs { store, scratch: &scratch, listed: BTreeMap::new(), order: Vec::new() };
    let mut index = Index {
        schema_version: 2,
        media_type: Some(media_type::OCI_INDEX.into()),
        manifests: Vec::new(),
        annotations: BTreeMap::new(),
    };
    let mut docker: Vec<(Digest, DockerImage)> = Vec::new();
    for (image, config) in images {
        let (mut entry, layers) = blobs.add_image(image, config)?;
        if let Some(attached) = attested::of(store, &entry.digest)? {
            entry = blobs.add_attested(entry, attached)?;
        }
        let tag = image.name.as_ref().and_then(|name| Some((name, name.tag()?)));
        if let Some((name, tag)) = tag {
            entry.annotations.insert(CONTAINERD_NAME_ANNOTATION.into(), name.to_string());
            entry.annotations.insert(REF_NAME_ANNOTATION.into(), tag.into());
        }
        let familiar = tag.map(|(name, _)| name.familiar());
        match docker.iter_mut().find(|(config, _)| *config == image.config) {
            Some((_, known)) => known.repo_tags.get_or_insert_default().extend(familiar),
            None => {
                let known = DockerImage::new(&image.config, &layers, familiar.into_iter().collect());
                docker.push((image.config, known));
            }
        }
        index.manifests.push(entry);
    }
    let docker: Vec<DockerImage> = docker.into_iter().map(|(_, image)| image).collect();
    write_tar(out, &to_json(&index)?, &docker, blobs.into_inputs()).map_err(layout_error)
}

/// The blobs of an archive, each once.
struct Blobs<'a> {
    store: &'a Store,
    scratch: &'a LayerDraft,
    listed: BTreeMap<Digest, Blob>,
    order: Vec<Digest>,
}

enum Blob {
    Bytes(Vec<u8>),
    /// Of the store.
    Kept(File, u64),
    /// Made for this archive.
    Made(File, u64),
}

impl Blobs<'_> {
    /// Lists an image's blobs; returns its entry of the index and its layers' digests.
    fn add_image(
        &mut self,
        image: &ImageRecord,
        config: &ImageConfig,
    ) -> Result<(Descriptor, Vec<Digest>), Error> {
        let mut layers = Vec::new();
        for (id, diff_id) in image.layers.iter().zip(&config.rootfs.diff_ids) {
            layers.push(self.add_layer(*id, *diff_id)?);
        }
        let config_bytes = read_blob(self.store, &image.config)?;
        let config_descriptor =
            Descriptor::new(media_type::OCI_CONFIG, image.config, config_bytes.len() as u64);
        self.list(image.config, Blob::Bytes(config_bytes));
        let digests: Vec<Digest> = layers.iter().map(|layer| layer.digest).collect();
        let (kind, bytes) = match self.stored_manifest(image, &digests)? {
            Some(stored) => stored,
            None => {
                let manifest = Manifest {
                    schema_version: 2,
                    media_type: Some(media_type::OCI_MANIFEST.into()),
                    config: config_descriptor,
                    layers,
                    annotations: BTreeMap::new(),
                };
                (media_type::OCI_MANIFEST.to_owned(), to_json(&manifest)?)
            }
        };
        let mut entry = Descriptor::of(kind, &bytes);
        entry.platform = Some(PlatformSpec::from(&image.platform));
        self.list(entry.digest, Blob::Bytes(bytes));
        Ok((entry, digests))
    }

    /// Lists what is attested of an image; returns the entry of both.
    fn add_attested(&mut self, image: Descriptor, attached: Attached) -> Result<Descriptor, Error> {
        for (descriptor, bytes) in attached.blobs {
            self.list(descriptor.digest, Blob::Bytes(bytes));
        }
        self.list(attached.manifest.digest, Blob::Bytes(attached.manifest_bytes));
        // Whoever loads the entry knows by this for which machine the image is.
        let platform = image.platform.clone();
        let (entry, bytes) = attested::index(vec![image, attached.manifest])?;
        self.list(entry.digest, Blob::Bytes(bytes));
        Ok(Descriptor { platform, ..entry })
    }

    /// The manifest that the image came with, if the archive's layers are those it names: so it keeps its digest.
    fn stored_manifest(
        &self,
        image: &ImageRecord,
        layers: &[Digest],
    ) -> Result<Option<(String, Vec<u8>)>, Error> {
        let Some(digest) = image.manifest.filter(|digest| self.store.has_blob(digest)) else {
            return Ok(None);
        };
        let bytes = read_blob(self.store, &digest)?;
        let Ok(manifest) = serde_json::from_slice::<Manifest>(&bytes) else { return Ok(None) };
        let fits = manifest.config.digest == image.config
            && manifest.layers.iter().map(|layer| layer.digest).eq(layers.iter().copied());
        Ok(fits.then(|| (manifest.media_type.unwrap_or_else(|| media_type::OCI_MANIFEST.into()), bytes)))
    }

    fn add_layer(&mut self, id: LayerId, diff_id: DiffId) -> Result<Descriptor, Error> {
        if let Some((_, digest)) = self.store.blob_of(diff_id)?
            && let Some(mut file) = self.store.open_blob(&digest)?
        {
            let size =
                file.metadata().map_err(|error| Error::io(&self.store.blob_path(&digest), error))?.len();
            let kind =
                layer_type(&mut file).map_err(|error| Error::io(&self.store.blob_path(&digest), error))?;
            let file = self.store.open_blob(&digest)?.unwrap_or(file);
            self.list(digest, Blob::Kept(file, size));
            return Ok(Descriptor::new(kind, digest, size));
        }
        if let Some(Blob::Kept(_, size) | Blob::Made(_, size)) = self.listed.get(&diff_id.0) {
            return Ok(Descriptor::new(media_type::OCI_LAYER, diff_id.0, *size));
        }
        let path = self.scratch.fs().join(diff_id.0.hex());
        let at = |error| Error::io(&path, error);
        let tree = self.store.layer_path(id);
        let tree = File::open(&tree).map_err(|error| Error::io(&tree, error))?;
        let mut tar = BufWriter::with_capacity(WRITE_BYTES, File::create_new(&path).map_err(at)?);
        let packed = pack(tree.as_fd(), layers::xattrs(), &mut tar)?;
        tar.flush().map_err(at)?;
        if packed.diff_id != diff_id {
            // A pulled layer is another program's tar, which only its own bytes reproduce.
            return Err(Error::new(
                ErrorKind::Environment,
                format!("the tar of layer {diff_id} is not in the store"),
            )
            .hinted("pull the image again"));
        }
        let file = File::open(&path).map_err(at)?;
        let size = file.metadata().map_err(at)?.len();
        self.list(diff_id.0, Blob::Made(file, size));
        Ok(Descriptor::new(media_type::OCI_LAYER, diff_id.0, size))
    }

    fn list(&mut self, digest: Digest, blob: Blob) {
        if self.listed.insert(digest, blob).is_none() {
            self.order.push(digest);
        }
    }

    fn into_inputs(self) -> impl Iterator<Item = Result<BlobInput<'static>, LayoutError>> {
        let mut listed = self.listed;
        self.order.into_iter().filter_map(move |digest| {
            let input = |size, reader, is_verified| BlobInput { digest, size, reader, is_verified };
            Some(Ok(match listed.remove(&digest)? {
                Blob::Bytes(bytes) => input(bytes.len() as u64, Box::new(std::io::Cursor::new(bytes)), false),
                Blob::Kept(file, size) => input(size, Box::new(file), false),
                Blob::Made(file, size) => input(size, Box::new(file), true),
            }))
        })
    }
}

/// Reads an archive; every layer is unpacked and its bytes kept.
pub(super) fn load(store: &Store, reader: &mut (dyn Read + Send)) -> Result<Vec<String>, Error> {
    let cancel = Arc::new(AtomicBool::new(false));
    let scratch = store.scratch_dir()?;
    let archive =
        Archive::from_reader("archive", Box::new(reader), &scratch.fs(), &cancel).map_err(layout_error)?;
    let mut loaded = Vec::new();
    for entry in &archive.index().manifests {
        let name = name_of(entry);
        let platform = match &entry.platform {
            Some(spec) => spec.to_platform(),
            None => Platform::host(),
        };
        let called = name
            .clone()
            .map_or_else(|| "unnamed".parse(), Ok)
            .map_err(|error: kiln_image::InvalidReference| Error::new(ErrorKind::User, error.to_string()))?;
        let image =
            archive.resolve(&Selector::Digest(entry.digest), &called, &platform).map_err(layout_error)?;
        for (blob, diff_id) in image.manifest.layers.iter().zip(&image.config.rootfs.diff_ids) {
            let open = || archive.blob(blob).map_err(layout_error);
            layers::fetch(store, blob, *diff_id, &cancel, open, &mut |_| {})?;
        }
        attested::load(store, &archive, entry, &image)?;
        let record = record(store, name.as_ref(), &image, None)?;
        loaded.push(name.map_or_else(|| record.config.to_string(), |name| name.familiar()));
    }
    Ok(loaded)
}

/// How an entry is called: by a whole name, not by a tag alone, which names nothing.
fn name_of(entry: &Descriptor) -> Option<ImageRef> {
    let annotation = |key: &str| entry.annotations.get(key).map(String::as_str);
    annotation(CONTAINERD_NAME_ANNOTATION)
        .or_else(|| annotation(REF_NAME_ANNOTATION).filter(|name| name.contains([':', '/'])))
        .and_then(|name| name.parse().ok())
}

/// The media type by the first bytes.
fn layer_type(file: &mut File) -> std::io::Result<&'static str> {
    let mut head = Vec::new();
    file.take(layer::SNIFF_BYTES as u64).read_to_end(&mut head)?;
    Ok(media_type::oci_layer(layer::compression_of(&head)))
}

const WRITE_BYTES: usize = 1 << 20;
