//! One image in a directory, as `skopeo copy … dir:` writes it: the manifest as `manifest.json`, every blob a file that
//! is named by its digest's hex, manifests of an index with `.manifest.json` behind that.

use std::io::Read;
use std::path::{Path, PathBuf};

use crate::layout::{At as _, BlobStore, LayoutError, open_regular, read_limited, resolve_bytes};
use crate::oci::{Descriptor, MAX_MANIFEST_BYTES};
use crate::registry::RemoteImage;
use crate::verify::Verified;
use crate::{Digest, ImageRef, Platform};

const MANIFEST_FILE: &str = "manifest.json";

/// A directory with one image.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    manifest: Vec<u8>,
}

impl Directory {
    /// Reads the manifest.
    ///
    /// # Errors
    /// When there is none; I/O.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, LayoutError> {
        let path = path.into();
        let file = path.join(MANIFEST_FILE);
        if path.is_dir() && !file.exists() {
            return Err(LayoutError::NotAnImage {
                path,
                reason: format!("not the directory of an image: no `{MANIFEST_FILE}` file"),
            });
        }
        Ok(Self { manifest: read_limited(&file, MAX_MANIFEST_BYTES)?, path })
    }

    /// Reads the image's manifest and config for `platform`; `reference` is only what it is called.
    ///
    /// # Errors
    /// See [`LayoutError`].
    pub fn resolve(&self, reference: &ImageRef, platform: &Platform) -> Result<RemoteImage, LayoutError> {
        let digest = Digest::of(&self.manifest);
        resolve_bytes(self, digest, self.manifest.clone(), None, reference, platform)
    }

    /// Opens a blob; the reader gives an error instead of the end of file when it is not what the descriptor says.
    ///
    /// # Errors
    /// [`LayoutError::MissingBlob`]; I/O.
    pub fn blob(&self, blob: &Descriptor) -> Result<Box<dyn Read + Send>, LayoutError> {
        let (reader, _) = self.raw_blob(&blob.digest)?;
        Ok(Box::new(Verified::new(reader, blob.digest, blob.size)))
    }
}

impl BlobStore for Directory {
    fn raw_blob(&self, digest: &Digest) -> Result<(Box<dyn Read + Send>, u64), LayoutError> {
        let hex = digest.hex();
        for name in [hex.to_string(), format!("{hex}.{MANIFEST_FILE}")] {
            match open_regular(&self.path.join(name)) {
                Err(LayoutError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
                opened => {
                    let file = opened?;
                    let size = file.metadata().at(&self.path)?.len();
                    return Ok((Box::new(file), size));
                }
            }
        }
        Err(LayoutError::MissingBlob { digest: *digest })
    }

    fn path(&self) -> &Path {
        &self.path
    }
}
