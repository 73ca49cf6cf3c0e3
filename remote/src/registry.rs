//! `type=registry`: a repository that has a cache of its own, or images with inline caches.

use std::io::Read;

use kiln_image::ImageRef;
use kiln_image::oci::{
    Descriptor, MAX_CONFIG_BYTES as MAX_IMAGE_CONFIG_BYTES, MAX_MANIFEST_BYTES, media_type,
};
use kiln_solver::solve::RemoteRecord;

use crate::manifest::{self, Form, Kind};
use crate::place::{Access, Found};
use crate::{CacheConfig, CacheError, CacheSpec, InvalidSpec, MAX_CONFIG_BYTES, Place, inline};

/// Most images of an index that are looked into for inline caches.
const MAX_IMAGES: usize = 64;

/// A repository.
#[derive(Debug)]
pub(crate) struct InRegistry {
    image: ImageRef,
    form: Form,
    access: Access,
}

impl InRegistry {
    pub(crate) fn new(spec: &CacheSpec, access: &Access) -> Result<Self, InvalidSpec> {
        let reference = spec.required("ref")?;
        let image = reference
            .parse()
            .map_err(|error: kiln_image::InvalidReference| InvalidSpec::new(error.to_string()))?;
        Ok(Self { image, form: Form::of(spec)?, access: access.clone() })
    }

    fn read(&self, blob: &Descriptor, what: &'static str, limit: u64) -> Result<Vec<u8>, CacheError> {
        if blob.size > limit {
            return Err(CacheError::TooLarge { what, limit });
        }
        let mut bytes = Vec::new();
        let mut reader = self.access.registry.blob(&self.image, blob, &self.access.cancel)?;
        reader
            .read_to_end(&mut bytes)
            .map_err(|error| CacheError::io(std::path::Path::new(&self.image.familiar()), error))?;
        Ok(bytes)
    }

    /// The inline caches of one image or of several.
    fn inline(&self, kind: Kind, config: &mut CacheConfig) -> Result<(), CacheError> {
        match kind {
            Kind::Cache(_) => {}
            Kind::Image(manifest) if media_type::is_config(&manifest.config.media_type) => {
                let bytes = self.read(&manifest.config, "image config", MAX_IMAGE_CONFIG_BYTES)?;
                let (records, foreign) = inline::read(&bytes, &manifest)?;
                config.records.extend(records);
                config.foreign_records += foreign;
            }
            // Something else than an image: an attestation, a signature.
            Kind::Image(_) => {}
            Kind::Images(entries) => {
                let manifests = entries.iter().filter(|entry| media_type::is_manifest(&entry.media_type));
                for entry in manifests.take(MAX_IMAGES) {
                    let image = self.image.without_tag().with_digest(entry.digest);
                    let (bytes, announced) = self.access.registry.document(&image, &self.access.cancel)?;
                    let kind = manifest::kind(&bytes, announced.as_deref())?;
                    if matches!(kind, Kind::Image(_)) {
                        self.inline(kind, config)?;
                    }
                }
            }
        }
        Ok(())
    }
}

impl Place for InRegistry {
    fn name(&self) -> String {
        self.image.familiar()
    }

    fn load(&self) -> Result<Found, CacheError> {
        let (bytes, announced) = self.access.registry.document(&self.image, &self.access.cancel)?;
        debug_assert!(bytes.len() as u64 <= MAX_MANIFEST_BYTES, "the client limits documents");
        let mut config = CacheConfig::default();
        match manifest::kind(&bytes, announced.as_deref())? {
            Kind::Cache(descriptor) => {
                config = CacheConfig::parse(&self.read(&descriptor, "cache config", MAX_CONFIG_BYTES)?)?;
            }
            kind => self.inline(kind, &mut config)?,
        }
        Ok(Found { config })
    }

    fn open(&self, blob: &Descriptor) -> Result<Box<dyn Read + Send>, CacheError> {
        Ok(self.access.registry.blob(&self.image, blob, &self.access.cancel)?)
    }

    fn repository(&self) -> Option<ImageRef> {
        Some(self.image.clone())
    }

    fn has(&self, _blob: &Descriptor) -> Result<bool, CacheError> {
        Err(CacheError::Invalid("pushing is not there yet".into()))
    }

    fn put(&self, _blob: &Descriptor, _reader: &mut (dyn Read + Send)) -> Result<(), CacheError> {
        Err(CacheError::Invalid("pushing is not there yet".into()))
    }

    fn publish(&self, _records: &[RemoteRecord]) -> Result<(), CacheError> {
        let _ = manifest::write(&[], self.form)?;
        Err(CacheError::Invalid("pushing is not there yet".into()))
    }
}
