//! `type=registry`: a repository that has a cache of its own, or images with inline caches.

use std::io::{Cursor, Read};
use std::sync::Arc;

use kiln_image::ImageRef;
use kiln_image::oci::{Descriptor, MAX_CONFIG_BYTES as MAX_IMAGE_CONFIG_BYTES, media_type};
use kiln_image::registry::{Push, PushBlob};

use crate::config::Contents;
use crate::manifest::{self, Form, Kind};
use crate::place::{Access, Found, NewBlob};
use crate::{CacheConfig, CacheError, CacheSpec, InvalidSpec, MAX_CONFIG_BYTES, Place, inline};

pub(crate) const KEYS: [&str; 4] = ["ref", "image-manifest", "oci-mediatypes", "registry.insecure"];
/// Most images of an index that are looked into for inline caches.
const MAX_IMAGES: usize = 64;

/// A repository.
#[derive(Debug)]
pub(crate) struct InRegistry {
    image: ImageRef,
    form: Form,
    /// Plain HTTP will do for writing; for reading the registries' configuration says so.
    insecure: bool,
    access: Access,
}

impl InRegistry {
    pub(crate) fn new(spec: &CacheSpec, access: &Access) -> Result<Self, InvalidSpec> {
        let reference = spec.required("ref")?;
        let image = reference
            .parse()
            .map_err(|error: kiln_image::InvalidReference| InvalidSpec::new(error.to_string()))?;
        let insecure = spec.flag("registry.insecure", false)?;
        Ok(Self { image, form: Form::of(spec)?, insecure, access: access.clone() })
    }

    fn push(&self) -> Result<Push, CacheError> {
        let push = self.access.registry.push_to(&self.image, &self.access.cancel)?;
        Ok(if self.insecure { push.allow_insecure() } else { push })
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
                    let raw = self.access.registry.manifest(&image, &self.access.cancel)?;
                    let kind = manifest::kind(&raw.bytes, raw.media_type.as_deref())?;
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
        let raw = self.access.registry.manifest(&self.image, &self.access.cancel)?;
        let mut config = CacheConfig::default();
        match manifest::kind(&raw.bytes, raw.media_type.as_deref())? {
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

    fn put(&self, blob: &NewBlob<'_>) -> Result<(), CacheError> {
        let open = || (blob.open)();
        self.push()?.blob(&PushBlob {
            digest: blob.descriptor.digest,
            size: blob.descriptor.size,
            mount_from: blob.mount_from.clone(),
            open: Box::new(open),
            told: Arc::new(|_| {}),
        })?;
        Ok(())
    }

    fn publish(&self, contents: &Contents) -> Result<(), CacheError> {
        let written = manifest::write(contents, self.form)?;
        let push = self.push()?;
        let (config, bytes) = &written.config;
        push.blob(&PushBlob {
            digest: config.digest,
            size: config.size,
            mount_from: Vec::new(),
            open: Box::new(|| Ok(Box::new(Cursor::new(bytes.clone())))),
            told: Arc::new(|_| {}),
        })?;
        let (manifest, bytes) = &written.manifest;
        push.manifest(self.image.tag().unwrap_or("latest"), &manifest.media_type, bytes)?;
        Ok(())
    }
}
