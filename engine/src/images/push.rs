//! `kiln push`: an image of the store to its name's registry.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use kiln_cache::{ImageRecord, LayerId, Store};
use kiln_image::layer::{self, Compression};
use kiln_image::oci::{Descriptor, ImageConfig, Manifest, PlatformSpec, media_type};
use kiln_image::registry::{Push, Pushed, Registry};
use kiln_image::{DiffId, Digest, ImageRef, Platform};
use kiln_solver::event::{EventSink, Reporter};

use super::pull::told;
use super::{Images, attested, layers, read_blob};
use crate::assemble::to_json;
use crate::push::{self, Blob, Lenders, SentBlob, Shipment, Shipper, Source, Tagging, Transport};
use crate::{Error, ErrorKind};

/// What was pushed under a name.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PushedImage {
    /// The name.
    pub name: ImageRef,
    /// What it now stands for: a manifest, or an index of several.
    pub digest: Digest,
    /// Bytes of that.
    pub size_bytes: u64,
    /// The layers, bottom first, and what became of each.
    pub layers: Vec<(DiffId, Pushed)>,
}

/// Pushes what `name` stands for: of several platforms the one asked for, else an index of all.
pub(super) fn push(
    images: &Images,
    name: &ImageRef,
    platform: Option<&Platform>,
    registry: &Registry,
    events: Arc<EventSink>,
    cancel: &Arc<AtomicBool>,
) -> Result<PushedImage, Error> {
    let all = images.list()?;
    let mut chosen: Vec<&ImageRecord> =
        all.iter().filter(|image| image.name.as_ref() == Some(name)).collect();
    if let Some(platform) = platform {
        chosen.retain(|image| image.platform == *platform);
    }
    if chosen.is_empty() {
        let what = platform.map(|platform| format!(" for {platform}")).unwrap_or_default();
        return Err(Error::new(
            ErrorKind::User,
            format!("an image does not exist locally with the tag: {}{what}", name.familiar()),
        )
        .hinted("`kiln images` lists those that there are, `kiln tag` names one for a registry"));
    }
    let reporter = Arc::new(Reporter::new(events));
    let step = reporter.step(format!("pushing {name}"), Vec::new());
    told(&reporter, step, || {
        let ahead = push::target(registry, name, Transport::AsConfigured, cancel)?;
        let lenders = Lenders::of(all.clone());
        let loader = Loader { store: &images.store, lenders: &lenders, ahead: &ahead };
        let mut shipment = Shipment::default();
        let mut diff_ids = Vec::new();
        for image in &chosen {
            diff_ids.extend(loader.add(image, &images.config(image)?, &mut shipment)?);
        }
        let entries = add_attested(&images.store, &mut shipment, &chosen)?;
        if entries.len() > 1 {
            let index = match attested::as_it_came(&images.store, &chosen, &entries)? {
                Some(index) => index,
                None => attested::index(entries)?,
            };
            shipment.manifests.push(index);
        }
        let (store, transport, tagging) = (&images.store, Transport::AsConfigured, Tagging::Tagged);
        let shipper = Shipper { store, registry, reporter: &reporter, step, transport, tagging, cancel };
        let pushed = shipper.ship(&shipment, std::slice::from_ref(name))?;
        let became: BTreeMap<Digest, Pushed> =
            shipment.blobs.iter().map(|blob| blob.descriptor.digest).zip(pushed).collect();
        let layers =
            diff_ids.into_iter().filter_map(|(diff_id, blob)| Some((diff_id, became.get(&blob)?.clone())));
        let layers = layers.collect();
        // There is one: something was chosen.
        let top = shipment.manifests.pop().map(|(descriptor, _)| descriptor);
        let top = top.ok_or_else(|| Error::new(ErrorKind::Environment, "internal: nothing was pushed"))?;
        for image in chosen {
            images.store.put_image(&ImageRecord { remote_digest: Some(top.digest), ..image.clone() })?;
        }
        Ok(PushedImage { name: name.clone(), digest: top.digest, size_bytes: top.size, layers })
    })
}

/// Adds what is attested of the images of a shipment; returns the entries of their index, images first.
fn add_attested(
    store: &Store,
    shipment: &mut Shipment,
    images: &[&ImageRecord],
) -> Result<Vec<Descriptor>, Error> {
    let of_platform = |((manifest, _), image): (&(Descriptor, Vec<u8>), &&ImageRecord)| Descriptor {
        platform: Some(PlatformSpec::from(&image.platform)),
        ..manifest.clone()
    };
    let mut entries: Vec<_> = shipment.manifests.iter().zip(images).map(of_platform).collect();
    for index in 0..entries.len() {
        let Some(attached) = attested::of(store, &entries[index].digest)? else { continue };
        for (descriptor, bytes) in attached.blobs {
            shipment.add(Blob { descriptor, source: Source::Bytes(bytes.into()), lenders: Vec::new() });
        }
        entries.push(attached.manifest.clone());
        shipment.manifests.push((attached.manifest, attached.manifest_bytes));
    }
    Ok(entries)
}

/// Makes images of the store ready to go.
struct Loader<'a> {
    store: &'a Store,
    lenders: &'a Lenders,
    /// Where new blobs are sent while they are made.
    ahead: &'a Push,
}

impl Loader<'_> {
    /// Adds an image; returns its layers and their blobs, bottom first.
    fn add(
        &self,
        image: &ImageRecord,
        config: &ImageConfig,
        shipment: &mut Shipment,
    ) -> Result<Vec<(DiffId, Digest)>, Error> {
        let config_bytes = read_blob(self.store, &image.config)?;
        let mut blobs = Vec::new();
        let (manifest, bytes) = match self.as_it_came(image, &mut blobs)? {
            Some(whole) => whole,
            None => {
                blobs.clear();
                for (id, diff_id) in image.layers.iter().zip(&config.rootfs.diff_ids) {
                    blobs.push(self.layer(*id, *diff_id)?);
                }
                let bytes = to_json(&Manifest {
                    schema_version: 2,
                    media_type: Some(media_type::OCI_MANIFEST.to_owned()),
                    config: Descriptor::new(media_type::OCI_CONFIG, image.config, config_bytes.len() as u64),
                    layers: blobs.iter().map(|blob| blob.descriptor.clone()).collect(),
                    annotations: BTreeMap::new(),
                })?;
                (Descriptor::of(media_type::OCI_MANIFEST, &bytes), bytes)
            }
        };
        let digests = blobs.iter().map(|blob| blob.descriptor.digest);
        let layers = config.rootfs.diff_ids.iter().copied().zip(digests).collect();
        blobs.into_iter().for_each(|blob| shipment.add(blob));
        shipment.add(Blob {
            descriptor: Descriptor::of(media_type::OCI_CONFIG, &config_bytes),
            source: Source::Bytes(config_bytes.into()),
            lenders: self.lenders.of_config(&image.config),
        });
        shipment.manifests.push((manifest, bytes));
        Ok(layers)
    }

    /// The manifest that the image was pulled or built with, if all that it names can be had: so it keeps its digest.
    fn as_it_came(
        &self,
        image: &ImageRecord,
        blobs: &mut Vec<Blob>,
    ) -> Result<Option<(Descriptor, Vec<u8>)>, Error> {
        let Some(digest) = image.manifest.filter(|digest| self.store.has_blob(digest)) else {
            return Ok(None);
        };
        let bytes = read_blob(self.store, &digest)?;
        let Ok(manifest) = serde_json::from_slice::<Manifest>(&bytes) else { return Ok(None) };
        if manifest.config.digest != image.config || manifest.layers.len() != image.layers.len() {
            return Ok(None);
        }
        let origin = self.lenders.of_manifest(&digest).into_iter().next();
        for (descriptor, id) in manifest.layers.iter().zip(&image.layers) {
            let lenders = self.lenders.of_layer(*id);
            let source = match (self.store.has_blob(&descriptor.digest), &origin) {
                (true, _) => Source::Store,
                (false, Some(origin)) => Source::Registry(origin.clone()),
                (false, None) => return Ok(None),
            };
            blobs.push(Blob { descriptor: descriptor.clone(), source, lenders });
        }
        let kind = manifest.media_type.unwrap_or_else(|| media_type::OCI_MANIFEST.to_owned());
        Ok(Some((Descriptor::of(kind, &bytes), bytes)))
    }

    /// The layer's compressed blob; made, and sent meanwhile, where there is none.
    fn layer(&self, id: LayerId, diff_id: DiffId) -> Result<Blob, Error> {
        let lenders = self.lenders.of_layer(id);
        if let Some((compression @ (Compression::Gzip | Compression::Zstd), digest)) =
            self.store.blob_of(diff_id)?
        {
            let path = self.store.blob_path(&digest);
            let size = std::fs::metadata(&path).map_err(|error| Error::io(&path, error))?.len();
            let descriptor = Descriptor::new(media_type::oci_layer(compression), digest, size);
            return Ok(Blob { descriptor, source: Source::Store, lenders });
        }
        let gone = || {
            Error::new(ErrorKind::Environment, format!("layer {diff_id} is not in the store"))
                .hinted("pull or build the image again")
        };
        let out = SentBlob::new(self.store.blob_writer()?, Some(self.ahead));
        let mut writer = layer::compress(out, Compression::Gzip, None)?;
        let at = |error| Error::io(self.store.root(), error);
        if let Some(mut tar) = self.store.open_blob(&diff_id.0)? {
            std::io::copy(&mut tar, &mut writer).map_err(at)?;
        } else {
            if !self.store.has_layer(id)? {
                return Err(gone());
            }
            let path = self.store.layer_path(id);
            let tree = File::open(&path).map_err(|error| Error::io(&path, error))?;
            // A pulled layer is another program's tar, which only its own bytes reproduce.
            if layer::pack(tree.as_fd(), layers::xattrs(), &mut writer)?.diff_id != diff_id {
                return Err(gone());
            }
        }
        let (digest, size) = writer.finish().map_err(at)?.finish()?;
        self.store.remember_compressed(diff_id, "gzip", digest)?;
        Ok(Blob {
            descriptor: Descriptor::new(media_type::OCI_LAYER_GZIP, digest, size),
            source: Source::Store,
            lenders,
        })
    }
}
