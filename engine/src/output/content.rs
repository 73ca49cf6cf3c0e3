//! Images as documents and blobs: manifests, and an index of several. What layouts, archives and registries are made of.

use std::collections::BTreeMap;

use kiln_image::oci::{Descriptor, Index, Manifest, PlatformSpec};
use kiln_image::{Digest, ImageRef};
use kiln_solver::event::Event;
use kiln_solver::solve::Solver;

use super::ImageSet;
use super::blobs::{self, PackedLayer, Purpose};
use super::options::{AnnotationTarget, ImageOptions};
use crate::Error;
use crate::assemble::{Assembled, to_json};
use crate::attest::{Attached, Attestor, Form, Subject};
use crate::push::{Blob, Lenders, Shipment, Source};

/// One image: its documents, and layers that are blobs of the store.
#[derive(Clone, Debug)]
pub(super) struct Packed {
    pub(super) manifest: Descriptor,
    pub(super) manifest_bytes: Vec<u8>,
    pub(super) config: Descriptor,
    pub(super) config_bytes: Vec<u8>,
    /// Bottom first.
    pub(super) layers: Vec<PackedLayer>,
    pub(super) created: Option<String>,
    pub(super) platform: kiln_image::Platform,
    /// What is attested of it.
    pub(super) attached: Option<Attached>,
}

/// Who attests, and of images of which names.
pub(super) struct Attests<'a> {
    pub(super) attestor: &'a Attestor<'a>,
    pub(super) names: &'a [ImageRef],
}

/// Images under one name.
#[derive(Clone, Debug)]
pub(super) struct Content {
    pub(super) images: Vec<Packed>,
    /// What its names stand for: the sole image's manifest, or an index of the images.
    pub(super) top: Descriptor,
    /// The index' own bytes.
    pub(super) index: Option<Vec<u8>>,
}

impl Content {
    /// Makes the blobs and the documents.
    pub(super) fn pack(
        solver: &Solver<'_>,
        images: &[Assembled],
        set: ImageSet,
        options: &ImageOptions,
        purpose: Purpose<'_>,
        attests: &Attests<'_>,
    ) -> Result<Self, Error> {
        options.check()?;
        // What is attested of an image stands beside it in an index.
        let is_attested = attests.attestor.is_asked(options.place());
        let set = if is_attested { ImageSet::Index } else { set };
        let notes = Notes { options, set };
        notes.check(images)?;
        let (media_types, because) = options.media_types();
        if let Some(what) = because {
            let message = format!("{what} exists in OCI's media types only, which are used");
            solver.reporter.send(Event::Warning { rule: None, message, span: None });
        }
        if options.rewrite_timestamp && images.iter().any(|image| image.epoch.is_none()) {
            let message = "rewrite-timestamp does nothing without SOURCE_DATE_EPOCH".to_owned();
            solver.reporter.send(Event::Warning { rule: None, message, span: None });
        }
        let mut packed = Vec::with_capacity(images.len());
        for (index, image) in images.iter().enumerate() {
            let mut one = pack_one(solver, image, &notes, purpose)?;
            if is_attested {
                one.attached = Some(attests.attach(index, image, &one, options)?);
            }
            packed.push(one);
        }
        let images = packed;
        let described = |image: &Packed| Descriptor {
            platform: Some(PlatformSpec::from(&image.platform)),
            annotations: notes.of(AnnotationTarget::ManifestDescriptor, Some(&image.platform)),
            ..image.manifest.clone()
        };
        if let ([image], ImageSet::Single) = (images.as_slice(), set) {
            return Ok(Self { top: described(image), index: None, images });
        }
        let index = to_json(&Index {
            schema_version: 2,
            media_type: Some(media_types.index().to_owned()),
            manifests: images.iter().map(described).chain(attached(&images).cloned()).collect(),
            annotations: notes.of(AnnotationTarget::Index, None),
        })?;
        let annotations = notes.of(AnnotationTarget::IndexDescriptor, None);
        let top = Descriptor { annotations, ..Descriptor::of(media_types.index(), &index) };
        Ok(Self { top, index: Some(index), images })
    }

    /// All of it for a registry.
    pub(super) fn shipment(&self, solver: &Solver<'_>, lenders: &Lenders) -> Shipment {
        let mut shipment = Shipment::default();
        for image in &self.images {
            shipment.add(Blob {
                descriptor: image.config.clone(),
                source: Source::Bytes(image.config_bytes.as_slice().into()),
                lenders: lenders.of_config(&image.config.digest),
            });
            for layer in &image.layers {
                let origin = solver.pulls.descriptor(&layer.made_of);
                let base = origin.filter(|(known, _)| known.digest == layer.descriptor.digest);
                let base = base.and_then(|(_, image)| image);
                shipment.add(Blob {
                    descriptor: layer.descriptor.clone(),
                    source: layer.source.clone(),
                    lenders: base.into_iter().chain(lenders.of_layer(layer.made_of.id)).collect(),
                });
            }
            shipment.manifests.push((image.manifest.clone(), image.manifest_bytes.clone()));
            if let Some(attached) = &image.attached {
                for (descriptor, bytes) in &attached.blobs {
                    let source = Source::Bytes(bytes.as_slice().into());
                    shipment.add(Blob { descriptor: descriptor.clone(), source, lenders: Vec::new() });
                }
                shipment.manifests.push((attached.manifest.clone(), attached.manifest_bytes.clone()));
            }
        }
        shipment.manifests.extend(self.index.clone().map(|index| (self.top.clone(), index)));
        shipment
    }

    /// The documents, those that others name before those that name them.
    pub(super) fn documents(&self) -> impl Iterator<Item = (&Descriptor, &[u8])> {
        let of_images = self.images.iter().flat_map(|image| {
            let attached = image.attached.iter().flat_map(|attached| {
                let blobs = attached.blobs.iter().map(|(descriptor, bytes)| (descriptor, bytes.as_slice()));
                blobs.chain([(&attached.manifest, attached.manifest_bytes.as_slice())])
            });
            [(&image.config, image.config_bytes.as_slice()), (&image.manifest, &image.manifest_bytes)]
                .into_iter()
                .chain(attached)
        });
        of_images.chain(self.index.iter().map(|bytes| (&self.top, bytes.as_slice())))
    }

    /// The image id: the first platform's.
    pub(super) fn config_digest(&self) -> Option<Digest> {
        self.images.first().map(|image| image.config.digest)
    }
}

fn pack_one(
    solver: &Solver<'_>,
    image: &Assembled,
    notes: &Notes<'_>,
    purpose: Purpose<'_>,
) -> Result<Packed, Error> {
    let layers = blobs::pack(solver, image, notes.options, purpose)?;
    let diff_ids: Vec<_> = layers.iter().map(|layer| layer.diff_id).collect();
    let config_bytes = if diff_ids == image.diff_ids {
        image.config_bytes.clone()
    } else {
        let mut config = image.config.clone();
        config.rootfs.diff_ids = diff_ids;
        to_json(&config)?
    };
    let (media_types, _) = notes.options.media_types();
    let config = Descriptor::of(media_types.config(), &config_bytes);
    let manifest_bytes = to_json(&Manifest {
        schema_version: 2,
        media_type: Some(media_types.manifest().to_owned()),
        config: config.clone(),
        layers: layers.iter().map(|layer| layer.descriptor.clone()).collect(),
        annotations: notes.of(AnnotationTarget::Manifest, Some(&image.platform)),
    })?;
    Ok(Packed {
        manifest: Descriptor::of(media_types.manifest(), &manifest_bytes),
        manifest_bytes,
        config,
        config_bytes,
        layers,
        created: image.config.created.clone(),
        platform: image.platform.clone(),
        attached: None,
    })
}

impl Attests<'_> {
    fn attach(
        &self,
        index: usize,
        image: &Assembled,
        packed: &Packed,
        options: &ImageOptions,
    ) -> Result<Attached, Error> {
        let layers: Vec<Digest> = packed.layers.iter().map(|layer| layer.descriptor.digest).collect();
        let form = if options.attestations_as_images { Form::Image } else { Form::Artifact };
        let (manifest, place) = (&packed.manifest, options.place());
        let subject = Subject { manifest, layers: &layers, names: self.names, place, form };
        self.attestor.attach(index, image, &subject)
    }
}

/// The entries of an index that attest something of the images in it.
fn attached(images: &[Packed]) -> impl Iterator<Item = &Descriptor> {
    images.iter().filter_map(|image| Some(&image.attached.as_ref()?.manifest))
}

/// The annotations asked for.
struct Notes<'a> {
    options: &'a ImageOptions,
    set: ImageSet,
}

impl Notes<'_> {
    /// Of several with one key the last counts.
    fn of(
        &self,
        target: AnnotationTarget,
        platform: Option<&kiln_image::Platform>,
    ) -> BTreeMap<String, String> {
        let chosen = self.options.annotations.iter().filter(|annotation| {
            annotation.target == target && platform.is_none_or(|platform| annotation.is_for(platform))
        });
        chosen.map(|annotation| (annotation.key.clone(), annotation.value.clone())).collect()
    }

    /// Refuses what would go nowhere.
    fn check(&self, images: &[Assembled]) -> Result<(), Error> {
        for annotation in &self.options.annotations {
            let of_index =
                matches!(annotation.target, AnnotationTarget::Index | AnnotationTarget::IndexDescriptor);
            if of_index && self.set == ImageSet::Single {
                let word = annotation.target.word();
                return Err(Error::user(format!(
                    "{word} annotations not supported for single platform export"
                ))
                .hinted("build for several platforms, or set BUILDKIT_MULTI_PLATFORM=1"));
            }
            if let Some(platform) = &annotation.platform
                && !of_index
                && !images.iter().any(|image| annotation.is_for(&image.platform))
            {
                return Err(Error::user(format!(
                    "annotation {}: nothing is built for {platform}",
                    annotation.key
                )));
            }
        }
        Ok(())
    }
}
