//! Pushing (distribution-spec, "Push"): blobs several at once, each only if the repository lacks it and no other one of
//! the registry can lend it; the manifest last, which is the caller's to do.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use ureq::http::{HeaderName, Method, header};

use super::RegistryError;
use super::auth::Grant;
use super::client::{Call, Client};
use super::mirrors::{Endpoint, Trust};
use super::upload::{BlobStream, Session};
use crate::{Digest, ImageRef};

/// So many blobs are sent at once: docker sends 5, containerd has 4 connections for each host.
const PUSHES_AT_ONCE: usize = 4;
/// So many repositories are asked for a blob before it is sent.
const MAX_MOUNTS: usize = 3;

/// A repository that is pushed to; cheap to clone, shared by threads.
#[derive(Clone, Debug)]
pub struct Push {
    pub(super) client: Arc<Client>,
    pub(super) endpoint: Endpoint,
    pub(super) image: ImageRef,
    pub(super) cancel: Arc<AtomicBool>,
}

/// A blob to push.
pub struct PushBlob<'a> {
    /// Of its bytes.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// Images whose repositories may have it: where one is of the same registry, nothing is sent.
    pub mount_from: Vec<ImageRef>,
    /// Opens its bytes; called again when a connection breaks. Errors are given back as [`RegistryError::Source`].
    pub open: Box<dyn Fn() -> io::Result<Box<dyn Read + Send>> + Send + Sync + 'a>,
    /// Is told how many bytes were sent so far; begins again at 0 after a failure.
    pub told: Arc<dyn Fn(u64) + Send + Sync>,
}

impl std::fmt::Debug for PushBlob<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PushBlob")
            .field("digest", &self.digest)
            .field("size", &self.size)
            .field("mount_from", &self.mount_from)
            .finish_non_exhaustive()
    }
}

/// How a blob came into a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Pushed {
    /// It was there.
    Exists,
    /// The registry took it from another of its repositories.
    Mounted {
        /// The other one, without the registry's name.
        from: String,
    },
    /// It was sent.
    Uploaded,
}

impl Push {
    /// Accepts plain HTTP and unproven certificates (`registry.insecure=true`).
    #[must_use]
    pub fn allow_insecure(mut self) -> Self {
        self.endpoint.trust = Trust::Insecure;
        self
    }

    /// Asks whether the repository may be pushed to: begins an upload, and gives it up.
    ///
    /// # Errors
    /// See [`RegistryError`]; which of them are an answer says [`RegistryError::is_refusal`].
    pub fn ask(&self) -> Result<(), RegistryError> {
        let session = self.begin()?;
        self.give_up(&session);
        Ok(())
    }

    /// Whether the repository has the blob (`HEAD /v2/<name>/blobs/<digest>`).
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub fn has_blob(&self, digest: &Digest) -> Result<bool, RegistryError> {
        self.has(&format!("blobs/{digest}"), &[])
    }

    /// Whether the repository has the manifest.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub fn has_manifest(&self, digest: &Digest) -> Result<bool, RegistryError> {
        self.has(&format!("manifests/{digest}"), &[super::client::accept_manifests()])
    }

    fn has(&self, what: &str, headers: &[(HeaderName, String)]) -> Result<bool, RegistryError> {
        match self.call(Method::HEAD, what, headers, &[], Grant::Push) {
            Ok(_) => Ok(true),
            Err(RegistryError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes one blob be there.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub fn blob(&self, blob: &PushBlob<'_>) -> Result<Pushed, RegistryError> {
        if self.has_blob(&blob.digest)? {
            return Ok(Pushed::Exists);
        }
        let mut session = None;
        let mut sources: Vec<String> = Vec::new();
        for repository in blob.mount_from.iter().filter_map(|image| self.near(image)) {
            if !sources.contains(&repository) {
                sources.push(repository);
            }
        }
        sources.truncate(MAX_MOUNTS);
        for from in sources {
            match self.mount(&blob.digest, from)? {
                Mount::Done(from) => return Ok(Pushed::Mounted { from }),
                // A refused mount begins an upload.
                Mount::Refused(begun) => session = begun.or(session),
            }
        }
        let session = match session {
            Some(session) => *session,
            None => self.begin()?,
        };
        self.upload(blob, session)?;
        Ok(Pushed::Uploaded)
    }

    /// Makes all of `blobs` be there, several at once; answers in their order. The first failure stops the others.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub fn blobs(&self, blobs: &[PushBlob<'_>]) -> Result<Vec<Pushed>, RegistryError> {
        let next = AtomicUsize::new(0);
        let failure = Mutex::new(None);
        let done: Vec<Mutex<Option<Pushed>>> = blobs.iter().map(|_| Mutex::new(None)).collect();
        let work = || {
            while let Some((blob, place)) = {
                let index = next.fetch_add(1, Ordering::Relaxed);
                blobs.get(index).zip(done.get(index))
            } {
                match self.blob(blob) {
                    Ok(pushed) => *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(pushed),
                    Err(error) => {
                        next.store(blobs.len(), Ordering::Relaxed);
                        failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                        return;
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..blobs.len().min(PUSHES_AT_ONCE) {
                scope.spawn(work);
            }
            work();
        });
        if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        let pushed = done.into_iter().map(|place| place.into_inner().unwrap_or_else(PoisonError::into_inner));
        pushed.collect::<Option<Vec<_>>>().ok_or(RegistryError::Canceled)
    }

    /// Begins a blob whose digest is known only at its end: it is sent while it is made. What breaks is not tried
    /// again, since what was sent is not kept: push it as a [`PushBlob`] then.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub fn stream(&self) -> Result<BlobStream, RegistryError> {
        BlobStream::begin(self)
    }

    /// Puts a manifest or index under `reference`, a tag or a digest; all that it names must be there.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub fn manifest(&self, reference: &str, media_type: &str, bytes: &[u8]) -> Result<Digest, RegistryError> {
        let headers = [(header::CONTENT_TYPE, media_type.to_owned())];
        self.call(Method::PUT, &format!("manifests/{reference}"), &headers, bytes, Grant::Push)?;
        Ok(Digest::of(bytes))
    }

    /// The repository of `image`, if it is another one of the same registry.
    fn near(&self, image: &ImageRef) -> Option<String> {
        let source = self.client.config.registries.mirrors().ok()?.endpoints(image).ok()?.pop()?;
        let is_near = source.host == self.endpoint.host && source.repository != self.endpoint.repository;
        is_near.then_some(source.repository)
    }

    /// Asks the registry to take the blob from another one of its repositories.
    fn mount(&self, digest: &Digest, from: String) -> Result<Mount, RegistryError> {
        let what = format!("blobs/uploads/?mount={digest}&from={}", crate::http::encode_query(&from));
        match self.call(Method::POST, &what, &[], &[], Grant::Mount { from: from.clone() }) {
            Ok(answer) if answer.status == 201 => Ok(Mount::Done(from)),
            Ok(answer) => Session::of(&answer).map(|begun| Mount::Refused(Some(Box::new(begun)))),
            Err(RegistryError::Canceled) => Err(RegistryError::Canceled),
            // What cannot be read there may still be written here.
            Err(error) => {
                tracing::debug!(%digest, from, %error, "not mounted");
                Ok(Mount::Refused(None))
            }
        }
    }

    /// Begins an upload.
    pub(super) fn begin(&self) -> Result<Session, RegistryError> {
        Session::of(&self.call(Method::POST, "blobs/uploads/", &[], &[], Grant::Push)?)
    }

    fn call(
        &self,
        method: Method,
        what: &str,
        headers: &[(HeaderName, String)],
        body: &[u8],
        grant: Grant,
    ) -> Result<crate::http::Response, RegistryError> {
        let call = Call { method, what, headers, body: body.into(), grant };
        self.client.call(&self.endpoint, &self.image, &call, &self.cancel)
    }
}

enum Mount {
    /// From this repository.
    Done(String),
    /// With an upload begun in its place, where the registry did so.
    Refused(Option<Box<Session>>),
}
