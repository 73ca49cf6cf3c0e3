//! Images in OCI layouts on the host (`--build-context name=oci-layout://…`).

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_image::oci::{Descriptor, Index, Manifest, PlatformSpec, parse_config};
use kiln_image::registry::RemoteImage;
use kiln_image::{Digest, ImageRef, Platform};
use kiln_solver::plan::BaseImage;
use kiln_solver::solve::ImageOrigin;

use crate::Error;

/// A document of an OCI layout may be so long.
const DOCUMENT_LIMIT: u64 = 8 << 20;

/// How deep indexes of a layout may be nested.
const INDEX_DEPTH: usize = 4;

/// An image in an OCI layout: a directory and which of its images.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    dir: PathBuf,
    which: Which,
}

#[derive(Clone, Debug)]
enum Which {
    Tag(String),
    Digest(String),
}

impl Layout {
    /// `path[:tag]` or `path@digest`.
    pub(super) fn parse(text: &str) -> Self {
        if let Some((dir, digest)) = text.split_once('@') {
            return Self { dir: dir.into(), which: Which::Digest(digest.to_owned()) };
        }
        match text.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) {
            Some((dir, tag)) => Self { dir: dir.into(), which: Which::Tag(tag.to_owned()) },
            None => Self { dir: text.into(), which: Which::Tag("latest".into()) },
        }
    }

    /// Reads the manifest and config for `platform`.
    pub(crate) fn resolve(
        &self,
        reference: &ImageRef,
        platform: &Platform,
    ) -> Result<(BaseImage, ImageOrigin), Error> {
        let path = self.dir.join("index.json");
        let index: Index = parse(&path, &read_document(&path)?)?;
        let entry = self.entry(&index)?;
        let (descriptor, manifest_bytes) = self.manifest(entry, platform, INDEX_DEPTH)?;
        let manifest: Manifest = parse(&self.dir, &manifest_bytes)?;
        let config_bytes = self.blob(&manifest.config)?;
        let config = parse_config(&config_bytes).map_err(|error| Error::user(error.to_string()))?;
        let base = BaseImage { digest: entry.digest, manifest: descriptor.digest, config: config.clone() };
        let image = RemoteImage {
            reference: reference.clone(),
            digest: entry.digest,
            index_bytes: None,
            manifest_digest: descriptor.digest,
            manifest_bytes,
            manifest,
            config_bytes,
            config,
        };
        Ok((base, ImageOrigin::Layout { path: self.dir.clone(), image: Arc::new(image) }))
    }

    fn entry<'a>(&self, index: &'a Index) -> Result<&'a Descriptor, Error> {
        const NAME: &str = "org.opencontainers.image.ref.name";
        let found = match &self.which {
            Which::Digest(digest) => index.manifests.iter().find(|entry| entry.digest.to_string() == *digest),
            Which::Tag(tag) => {
                let named = |entry: &&Descriptor| {
                    entry
                        .annotations
                        .get(NAME)
                        .is_some_and(|name| name == tag || name.ends_with(&format!(":{tag}")))
                };
                // A layout of one image needs no name.
                index.manifests.iter().find(named).or(match index.manifests.as_slice() {
                    [only] => Some(only),
                    _ => None,
                })
            }
        };
        found.ok_or_else(|| {
            let which = match &self.which {
                Which::Tag(which) | Which::Digest(which) => which,
            };
            Error::user(format!("{}: the layout has no image `{which}`", self.dir.display()))
        })
    }

    fn manifest(
        &self,
        entry: &Descriptor,
        platform: &Platform,
        depth: usize,
    ) -> Result<(Descriptor, Vec<u8>), Error> {
        let bytes = self.blob(entry)?;
        if !entry.media_type.contains("index") && !entry.media_type.contains("manifest.list") {
            return Ok((entry.clone(), bytes));
        }
        let index: Index = parse(&self.dir, &bytes)?;
        let wanted = PlatformSpec::from(platform);
        let found = index.manifests.iter().find(|entry| {
            entry.platform.as_ref().is_some_and(|platform| {
                platform.os == wanted.os
                    && platform.architecture == wanted.architecture
                    && (platform.variant == wanted.variant || wanted.variant.is_empty())
            })
        });
        match found {
            Some(found) if depth > 0 => self.manifest(found, platform, depth - 1),
            _ => Err(Error::user(format!("{}: the layout has no image for {platform}", self.dir.display()))),
        }
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
        let path = self.dir.join("blobs/sha256").join(descriptor.digest.hex());
        let bytes = read_document(&path)?;
        if Digest::of(&bytes) != descriptor.digest {
            return Err(Error::user(format!("{}: the bytes are not those of its name", path.display())));
        }
        Ok(bytes)
    }
}

fn read_document(path: &Path) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| Error::io(path, error))?;
    file.take(DOCUMENT_LIMIT).read_to_end(&mut bytes).map_err(|error| Error::io(path, error))?;
    Ok(bytes)
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|error| Error::user(format!("{}: {error}", path.display())))
}
