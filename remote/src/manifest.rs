//! The manifest of a cache in a registry or layout: an image manifest, or in the older form an index, of its blobs.

use std::collections::{BTreeMap, HashSet};

use kiln_image::oci::{Descriptor, Document, Index, Manifest, media_type};

use crate::config::{CONFIG_MEDIA_TYPE, Contents};
use crate::{CacheConfig, CacheError, CacheSpec, InvalidSpec};

/// Docker's list of manifests, for `oci-mediatypes=false`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// An OCI image manifest: registries keep its blobs, as they do an image's.
    ImageManifest,
    /// An OCI index.
    OciIndex,
    /// The same under docker's name.
    DockerList,
}

impl Form {
    pub(crate) fn of(spec: &CacheSpec) -> Result<Self, InvalidSpec> {
        let oci = spec.flag("oci-mediatypes", true)?;
        match (spec.flag("image-manifest", oci)?, oci) {
            (true, true) => Ok(Self::ImageManifest),
            (true, false) => Err(InvalidSpec::new("image-manifest=true needs oci-mediatypes=true")),
            (false, true) => Ok(Self::OciIndex),
            (false, false) => Ok(Self::DockerList),
        }
    }
}

/// A cache as blobs.
pub(crate) struct Written {
    pub(crate) config: (Descriptor, Vec<u8>),
    pub(crate) manifest: (Descriptor, Vec<u8>),
}

/// Writes config and manifest.
pub(crate) fn write(contents: &Contents, form: Form) -> Result<Written, CacheError> {
    let config_bytes = CacheConfig::write(contents)?;
    let config = Descriptor::of(CONFIG_MEDIA_TYPE, &config_bytes);
    let mut seen = HashSet::new();
    let layers = contents.records.iter().flat_map(|record| &record.layers);
    let layers = layers.map(|layer| blob(layer, form));
    let mounts = contents.mounts.iter().map(|mount| mount.descriptor.clone());
    let mut blobs: Vec<Descriptor> = layers.chain(mounts).filter(|blob| seen.insert(blob.digest)).collect();
    blobs.sort_by_key(|blob| blob.digest);
    let (kind, bytes) = match form {
        Form::ImageManifest => {
            let manifest = Manifest {
                schema_version: 2,
                media_type: Some(media_type::OCI_MANIFEST.to_owned()),
                config: config.clone(),
                layers: blobs,
                annotations: BTreeMap::new(),
            };
            (media_type::OCI_MANIFEST, serde_json::to_vec(&manifest)?)
        }
        Form::OciIndex | Form::DockerList => {
            let kind = if form == Form::OciIndex { media_type::OCI_INDEX } else { media_type::DOCKER_INDEX };
            blobs.push(config.clone());
            let index = Index {
                schema_version: 2,
                media_type: Some(kind.to_owned()),
                manifests: blobs,
                annotations: BTreeMap::new(),
            };
            (kind, serde_json::to_vec(&index)?)
        }
    };
    Ok(Written { manifest: (Descriptor::of(kind, &bytes), bytes), config: (config, config_bytes) })
}

/// What a manifest or index is.
pub(crate) enum Kind {
    /// A cache, whose config this is.
    Cache(Descriptor),
    /// An image, which may have an inline cache.
    Image(Manifest),
    /// Images.
    Images(Vec<Descriptor>),
}

/// Tells caches from images.
pub(crate) fn kind(bytes: &[u8], announced: Option<&str>) -> Result<Kind, CacheError> {
    match Document::parse(bytes, announced)? {
        Document::Manifest(manifest) if manifest.config.media_type == CONFIG_MEDIA_TYPE => {
            Ok(Kind::Cache(manifest.config))
        }
        Document::Manifest(manifest) => Ok(Kind::Image(manifest)),
        Document::Index(index) => {
            let config = index.manifests.iter().find(|entry| entry.media_type == CONFIG_MEDIA_TYPE);
            Ok(config
                .map_or_else(|| Kind::Images(index.manifests.clone()), |config| Kind::Cache(config.clone())))
        }
    }
}

/// The notes are BuildKit's: without the first it cannot use a layer.
fn blob(layer: &kiln_solver::solve::RemoteLayer, form: Form) -> Descriptor {
    let annotations = [
        ("containerd.io/uncompressed".to_owned(), layer.diff_id.to_string()),
        ("buildkit/createdat".to_owned(), crate::config::timestamp(layer.made_at)),
    ];
    let media_type = match (form, layer.descriptor.media_type.as_str()) {
        (Form::DockerList, media_type::OCI_LAYER_GZIP) => media_type::DOCKER_LAYER_GZIP.to_owned(),
        (_, same) => same.to_owned(),
    };
    Descriptor { media_type, annotations: annotations.into(), ..layer.descriptor.clone() }
}
