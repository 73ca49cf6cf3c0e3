//! The registry client (distribution-spec): resolve names, read manifests and blobs, everything verified as it streams.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::oci::{Descriptor, ImageConfig, Manifest};
use crate::{Digest, ImageRef, Platform};

/// Mirrors, insecure registries and credentials: `registries.conf`, `auth.json`, `~/.docker/config.json`.
#[derive(Clone, Debug, Default)]
pub struct RegistryConfig {}

impl RegistryConfig {
    /// Reads `CONTAINERS_REGISTRIES_CONF` (else `$XDG_CONFIG_HOME/containers/registries.conf`, else
    /// `/etc/containers/registries.conf`) and docker's credentials (`DOCKER_CONFIG`). `env` looks variables up.
    ///
    /// # Errors
    /// A file that exists and cannot be read or parsed.
    pub fn load(env: &dyn Fn(&str) -> Option<String>) -> Result<Self, RegistryError> {
        let _ = env("CONTAINERS_REGISTRIES_CONF");
        todo!()
    }
}

/// What went wrong between here and a registry.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// No such repository or tag.
    #[error("{image}: not found")]
    NotFound {
        /// What was asked for.
        image: String,
    },
}

/// A client with pooled connections; cheap to clone, shared by threads.
#[derive(Clone, Debug)]
pub struct Registry {
    _config: Arc<RegistryConfig>,
}

/// An image as a registry (or layout) describes it, before any layer is read.
#[derive(Clone, Debug)]
pub struct RemoteImage {
    /// The name that was asked for.
    pub reference: ImageRef,
    /// Digest of what the name points at: of the index where there is one, else of the manifest.
    pub digest: Digest,
    /// Digest of the manifest for the platform.
    pub manifest_digest: Digest,
    /// As served.
    pub manifest_bytes: Vec<u8>,
    /// Parsed.
    pub manifest: Manifest,
    /// As served.
    pub config_bytes: Vec<u8>,
    /// Parsed.
    pub config: ImageConfig,
}

impl Registry {
    /// A client.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(config: RegistryConfig) -> Result<Self, RegistryError> {
        Ok(Self { _config: Arc::new(config) })
    }

    /// Looks `image` up and reads its manifest and config for `platform`; no layers.
    ///
    /// # Errors
    /// See [`RegistryError`]; [`RegistryError::NotFound`] when no such name exists.
    pub fn resolve(
        &self,
        image: &ImageRef,
        platform: &Platform,
        cancel: &AtomicBool,
    ) -> Result<RemoteImage, RegistryError> {
        let _ = (image, platform, cancel);
        todo!()
    }

    /// Opens a blob. The reader verifies size and digest: it gives an error instead of end of file when they differ.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub fn blob(
        &self,
        image: &ImageRef,
        blob: &Descriptor,
        cancel: &Arc<AtomicBool>,
    ) -> Result<Box<dyn Read + Send>, RegistryError> {
        let _ = (image, blob, cancel);
        todo!()
    }
}
