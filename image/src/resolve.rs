//! From a digest to an image for one platform, wherever the documents are: registry, layout or archive.

use crate::oci::{
    Descriptor, Document, DocumentError, ImageConfig, Index, Manifest, media_type, parse_config,
};
use crate::{Digest, Platform};

/// How deep indexes may be nested; BuildKit's and containerd's are one deep.
const MAX_INDEX_DEPTH: usize = 4;
/// Index entries without a platform whose configs are read to find one.
const MAX_UNMARKED_ENTRIES: usize = 8;

/// Where documents come from. What is returned was verified against the descriptor's digest and size.
pub(crate) trait Documents {
    type Error: From<DocumentError>;

    /// A manifest or index, and the media type it is announced under.
    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, Self::Error>;

    /// An image config.
    fn config(&self, descriptor: &Descriptor) -> Result<Vec<u8>, Self::Error>;
}

/// A manifest for the platform and its config.
#[derive(Debug)]
pub(crate) struct Resolved {
    pub(crate) manifest_digest: Digest,
    pub(crate) manifest_bytes: Vec<u8>,
    pub(crate) manifest: Manifest,
    pub(crate) config_bytes: Vec<u8>,
    pub(crate) config: ImageConfig,
}

/// Follows `bytes`, a verified manifest or index, to the image for `platform`.
///
/// A manifest that is no part of an index is taken whatever its platform is: the user named it.
pub(crate) fn resolve<D: Documents>(
    documents: &D,
    bytes: Vec<u8>,
    announced: Option<&str>,
    platform: &Platform,
) -> Result<Resolved, D::Error> {
    match Document::parse(&bytes, announced)? {
        Document::Manifest(manifest) => with_config(documents, bytes, manifest),
        Document::Index(index) => match choose(documents, &index, platform, 1)? {
            Some(resolved) => Ok(resolved),
            None => {
                let (wanted, available) = (Box::new(platform.clone()), index.platforms());
                Err(DocumentError::NoMatchingPlatform { wanted, available }.into())
            }
        },
    }
}

fn choose<D: Documents>(
    documents: &D,
    index: &Index,
    platform: &Platform,
    depth: usize,
) -> Result<Option<Resolved>, D::Error> {
    if depth > MAX_INDEX_DEPTH {
        return Err(DocumentError::TooDeep { limit: MAX_INDEX_DEPTH }.into());
    }
    let mut unmarked = 0;
    for entry in index.candidates(platform) {
        let kind = entry.media_type.as_str();
        if !media_type::is_manifest(kind) && !media_type::is_index(kind) {
            continue;
        }
        if entry.platform.is_none() {
            unmarked += 1;
            if unmarked > MAX_UNMARKED_ENTRIES {
                break;
            }
        }
        let bytes = documents.document(entry)?;
        match Document::parse(&bytes, Some(kind))? {
            Document::Index(inner) => {
                if let Some(resolved) = choose(documents, &inner, platform, depth + 1)? {
                    return Ok(Some(resolved));
                }
            }
            Document::Manifest(manifest) => {
                if entry.platform.is_none() && manifest.check_image().is_err() {
                    continue;
                }
                let resolved = with_config(documents, bytes, manifest)?;
                if entry.platform.is_some() || platform.matches(&resolved.config.platform()) {
                    return Ok(Some(resolved));
                }
            }
        }
    }
    Ok(None)
}

fn with_config<D: Documents>(
    documents: &D,
    bytes: Vec<u8>,
    manifest: Manifest,
) -> Result<Resolved, D::Error> {
    manifest.check_image()?;
    let config_bytes = documents.config(&manifest.config)?;
    let config = parse_config(&config_bytes)?;
    if manifest.layers.len() != config.rootfs.diff_ids.len() {
        let (layers, diff_ids) = (manifest.layers.len(), config.rootfs.diff_ids.len());
        return Err(DocumentError::LayerCount { layers, diff_ids }.into());
    }
    Ok(Resolved {
        manifest_digest: Digest::of(&bytes),
        manifest_bytes: bytes,
        manifest,
        config_bytes,
        config,
    })
}
