//! The registry client (distribution-spec): resolve names, read manifests and blobs, everything verified as it streams;
//! push blobs and manifests.
//!
//! Invariants: what was asked for by digest is verified by kiln, whatever the server's headers say; a login goes to
//! the registry's own origin and to the token server that it names, nowhere else; every length has a limit.

mod auth;
mod blob;
mod client;
mod config;
mod credentials;
mod error;
mod login;
mod mirrors;
mod push;
mod registries_conf;
mod short_names;
mod upload;

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ureq::http::header;

#[cfg(any(test, fuzzing))]
pub(crate) use auth::challenges;
pub use config::{RegistryConfig, TokenServer, Verify};
pub use error::RegistryError;
pub use login::{Kept, Login, Server};
pub use push::{Push, PushBlob, Pushed};
pub use upload::BlobStream;

use blob::BlobReader;
use client::{Client, accept_manifests};
use mirrors::Endpoint;

use crate::oci::{Descriptor, ImageConfig, Index, MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES, Manifest};
use crate::resolve::{Documents, resolve};
use crate::{Digest, ImageRef, Platform, http};

/// So many tags are asked for at once.
const TAGS_AT_ONCE: usize = 1000;
/// So often.
const MAX_TAG_PAGES: u64 = 1000;

/// A client with pooled connections; cheap to clone, shared by threads.
#[derive(Clone, Debug)]
pub struct Registry {
    client: Arc<Client>,
}

/// An image as a registry (or layout) describes it, before any layer is read.
#[derive(Clone, Debug)]
pub struct RemoteImage {
    /// The name that was asked for; for one without a registry, what it stood for.
    pub reference: ImageRef,
    /// Digest of what the name points at: of the index where there is one, else of the manifest.
    pub digest: Digest,
    /// The index as served, where the name points at one and it was just read.
    pub index_bytes: Option<Vec<u8>>,
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

/// A manifest or index as served, not looked into.
#[derive(Clone, Debug)]
pub struct RawManifest {
    /// Of the bytes.
    pub digest: Digest,
    /// The server's `Content-Type`.
    pub media_type: Option<String>,
    /// As served.
    pub bytes: Vec<u8>,
}

impl Registry {
    /// A client. Nothing is read or connected before it is needed.
    ///
    /// # Errors
    /// None at present: TLS is set up with the first connection that needs it.
    pub fn new(config: RegistryConfig) -> Result<Self, RegistryError> {
        Ok(Self { client: Arc::new(Client::new(config)) })
    }

    /// The HTTP client beneath, with the same proxies and retries, for `ADD https://…`.
    pub fn http(&self) -> &http::Client {
        &self.client.http
    }

    /// Looks `image` up and reads its manifest and config for `platform`; no layers.
    ///
    /// Two requests for an image that is no index, three for one that is. Mirrors are asked first, in order; the error
    /// is that of the image's own registry.
    ///
    /// # Errors
    /// See [`RegistryError`]; [`RegistryError::NotFound`] when no such name exists.
    pub fn resolve(
        &self,
        image: &ImageRef,
        platform: &Platform,
        cancel: &AtomicBool,
    ) -> Result<RemoteImage, RegistryError> {
        let names = self.names(image)?;
        let last = names.len().saturating_sub(1);
        for name in &names[..last] {
            match self.resolve_named(name, platform, cancel) {
                Err(error) if error.is_worth_another_endpoint() => {
                    tracing::debug!(%name, %error, "going on to the next");
                }
                decided => return decided,
            }
        }
        self.resolve_named(names.last().unwrap_or(image), platform, cancel)
    }

    /// The platforms that `image` is there for; of a single image its own.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub fn platforms(&self, image: &ImageRef, cancel: &AtomicBool) -> Result<Vec<Platform>, RegistryError> {
        match self.resolve(image, &Platform::host(), cancel) {
            Ok(found) => {
                let index = found.index_bytes.and_then(|bytes| serde_json::from_slice::<Index>(&bytes).ok());
                Ok(index.map_or_else(|| vec![found.config.platform()], |index| index.platforms()))
            }
            Err(RegistryError::NoMatchingPlatform { available, .. }) => Ok(available),
            Err(error) => Err(error),
        }
    }

    /// What a name may stand for, in the order in which [`Self::resolve`] asks: what an alias of registries.conf says, or
    /// one name for each registry in which it has names without a registry looked for. All others are themselves.
    ///
    /// # Errors
    /// [`RegistryError::AmbiguousShortName`], [`RegistryError::InvalidConfig`].
    pub fn names(&self, image: &ImageRef) -> Result<Vec<ImageRef>, RegistryError> {
        self.client.config.registries.short_names()?.candidates(image)
    }

    fn resolve_named(
        &self,
        image: &ImageRef,
        platform: &Platform,
        cancel: &AtomicBool,
    ) -> Result<RemoteImage, RegistryError> {
        self.at_endpoints(image, |endpoint| self.resolve_at(endpoint, image, platform, cancel))
    }

    /// Opens a blob. The reader verifies size and digest: it gives an error instead of end of file when they differ
    /// ([`RegistryError::from_read`] has it), and goes on after a broken connection.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub fn blob(
        &self,
        image: &ImageRef,
        blob: &Descriptor,
        cancel: &Arc<AtomicBool>,
    ) -> Result<Box<dyn Read + Send>, RegistryError> {
        self.at_endpoints(image, |endpoint| {
            let (client, cancel) = (Arc::clone(&self.client), Arc::clone(cancel));
            let reader = BlobReader::open(client, endpoint.clone(), image.clone(), blob.clone(), cancel)?;
            Ok(Box::new(reader) as Box<dyn Read + Send>)
        })
    }

    /// The repository of `target`, to push to. Mirrors are not asked: they are for reading.
    ///
    /// # Errors
    /// [`RegistryError::Blocked`], [`RegistryError::InvalidConfig`].
    pub fn push_to(&self, target: &ImageRef, cancel: &Arc<AtomicBool>) -> Result<Push, RegistryError> {
        let mut endpoints = self.client.config.registries.mirrors()?.endpoints(target)?;
        // The image's own place is always there, and the last.
        let endpoint = endpoints.pop().ok_or_else(|| RegistryError::NotFound { image: target.familiar() })?;
        let (client, cancel) = (Arc::clone(&self.client), Arc::clone(cancel));
        Ok(Push { client, endpoint, image: target.clone(), cancel })
    }

    /// Reads what `image` points at, whatever it is (an index, an artifact), verified where a digest is given.
    ///
    /// # Errors
    /// See [`RegistryError`]; [`RegistryError::NotFound`] when no such name exists.
    pub fn manifest(&self, image: &ImageRef, cancel: &AtomicBool) -> Result<RawManifest, RegistryError> {
        self.at_endpoints(image, |endpoint| {
            let documents = RegistryDocuments { client: &self.client, endpoint, image, cancel };
            let (bytes, media_type) = documents.named()?;
            Ok(RawManifest { digest: Digest::of(&bytes), media_type, bytes })
        })
    }

    /// The tags of the repository of `image`, as the registry sorts them.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub fn tags(&self, image: &ImageRef, cancel: &AtomicBool) -> Result<Vec<String>, RegistryError> {
        #[derive(serde::Deserialize)]
        struct Page {
            // Go's registries say `null` for none.
            tags: Option<Vec<String>>,
        }
        self.at_endpoints(image, |endpoint| {
            let what = format!("the tags of {}", image.familiar_name());
            let mut tags = Vec::new();
            let mut page = format!("tags/list?n={TAGS_AT_ONCE}");
            for _ in 0..MAX_TAG_PAGES {
                let mut answer = self.client.get(endpoint, image, &page, &[], cancel)?;
                let bytes = answer.body.read_to_limit(MAX_MANIFEST_BYTES, cancel);
                let bytes = bytes
                    .map_err(|source| RegistryError::Unreachable { host: endpoint.host.clone(), source })?;
                if bytes.len() as u64 > MAX_MANIFEST_BYTES {
                    return Err(RegistryError::TooLarge { what, limit: MAX_MANIFEST_BYTES });
                }
                let listed: Page = serde_json::from_slice(&bytes).map_err(|error| {
                    let source = std::io::Error::new(std::io::ErrorKind::InvalidData, error);
                    RegistryError::Unreachable { host: endpoint.host.clone(), source }
                })?;
                tags.extend(listed.tags.unwrap_or_default());
                // `</v2/name/tags/list?last=x&n=y>; rel="next"`: of the address only what asks for the rest counts.
                let next = http::text(&answer.headers, &header::LINK)
                    .and_then(|link| link.strip_prefix('<')?.split_once('>')?.0.split_once('?'))
                    .map(|(_, query)| format!("tags/list?{query}"));
                match next {
                    Some(next) if next != page => page = next,
                    _ => return Ok(tags),
                }
            }
            Err(RegistryError::TooLarge { what, limit: MAX_TAG_PAGES * MAX_MANIFEST_BYTES })
        })
    }

    fn at_endpoints<T>(
        &self,
        image: &ImageRef,
        ask: impl Fn(&Endpoint) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let endpoints = self.client.config.registries.mirrors()?.endpoints(image)?;
        let last = endpoints.len() - 1;
        for endpoint in &endpoints[..last] {
            match ask(endpoint) {
                Err(error) if error.is_worth_another_endpoint() => {
                    tracing::debug!(mirror = endpoint.host, %error, "going on to the next");
                }
                decided => return decided,
            }
        }
        ask(&endpoints[last])
    }

    fn resolve_at(
        &self,
        endpoint: &Endpoint,
        image: &ImageRef,
        platform: &Platform,
        cancel: &AtomicBool,
    ) -> Result<RemoteImage, RegistryError> {
        let documents = RegistryDocuments { client: &self.client, endpoint, image, cancel };
        let (bytes, announced) = documents.named()?;
        let digest = Digest::of(&bytes);
        let named = bytes.clone();
        let found =
            resolve(&documents, bytes, announced.as_deref(), platform).map_err(|error| match error {
                // The name was not known where the document was read.
                RegistryError::Document { source, .. } => RegistryError::document(&image.familiar(), source),
                RegistryError::NoMatchingPlatform { wanted, available, .. } => {
                    RegistryError::NoMatchingPlatform { image: image.familiar(), wanted, available }
                }
                other => other,
            })?;
        Ok(RemoteImage {
            reference: image.clone(),
            digest,
            index_bytes: (found.manifest_digest != digest).then_some(named),
            manifest_digest: found.manifest_digest,
            manifest_bytes: found.manifest_bytes,
            manifest: found.manifest,
            config_bytes: found.config_bytes,
            config: found.config,
        })
    }
}

/// The small documents of one repository at one endpoint.
struct RegistryDocuments<'a> {
    client: &'a Arc<Client>,
    endpoint: &'a Endpoint,
    image: &'a ImageRef,
    cancel: &'a AtomicBool,
}

impl RegistryDocuments<'_> {
    /// What the image's name points at, and its `Content-Type`.
    fn named(&self) -> Result<(Vec<u8>, Option<String>), RegistryError> {
        let (reference, expected) = match (self.image.digest(), self.image.tag()) {
            (Some(digest), _) => (digest.to_string(), Some(*digest)),
            (None, tag) => (tag.unwrap_or("latest").to_owned(), None),
        };
        self.fetch(&format!("manifests/{reference}"), expected, None, MAX_MANIFEST_BYTES)
    }

    fn fetch(
        &self,
        path: &str,
        expected: Option<Digest>,
        size: Option<u64>,
        limit: u64,
    ) -> Result<(Vec<u8>, Option<String>), RegistryError> {
        let what = format!("{} ({path})", self.image.familiar_name());
        if size.is_some_and(|size| size > limit) {
            return Err(RegistryError::TooLarge { what, limit });
        }
        let limit = size.unwrap_or(limit);
        let headers = if path.starts_with("manifests/") { vec![accept_manifests()] } else { Vec::new() };
        let mut attempt = 0;
        let (bytes, announced) = loop {
            attempt += 1;
            let mut response = self.client.get(self.endpoint, self.image, path, &headers, self.cancel)?;
            let announced = http::text(&response.headers, &header::CONTENT_TYPE).map(str::to_owned);
            match response.body.read_to_limit(limit, self.cancel) {
                Ok(bytes) => break (bytes, announced),
                Err(error) if http::is_canceled(&error) => return Err(RegistryError::Canceled),
                Err(error) if http::is_transient(&error) && attempt < self.client.retry().attempts => {
                    self.client.retry().wait(attempt, None, self.cancel)?;
                }
                Err(source) => {
                    return Err(RegistryError::Unreachable { host: self.endpoint.host.clone(), source });
                }
            }
        };
        let got = bytes.len() as u64;
        match size {
            Some(expected) if got != expected => {
                return Err(RegistryError::SizeMismatch { what, expected, got });
            }
            None if got > limit => return Err(RegistryError::TooLarge { what, limit }),
            _ => {}
        }
        match expected {
            Some(expected) if Digest::of(&bytes) != expected => {
                Err(RegistryError::DigestMismatch { what, expected, got: Digest::of(&bytes) })
            }
            _ => Ok((bytes, announced)),
        }
    }
}

impl Documents for RegistryDocuments<'_> {
    type Error = RegistryError;

    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, RegistryError> {
        let path = format!("manifests/{}", descriptor.digest);
        Ok(self.fetch(&path, Some(descriptor.digest), Some(descriptor.size), MAX_MANIFEST_BYTES)?.0)
    }

    fn config(&self, descriptor: &Descriptor) -> Result<Vec<u8>, RegistryError> {
        let path = format!("blobs/{}", descriptor.digest);
        Ok(self.fetch(&path, Some(descriptor.digest), Some(descriptor.size), MAX_CONFIG_BYTES)?.0)
    }
}
