//! Blobs: a reader that gives only what the descriptor promised, and that survives broken connections.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use sha2::{Digest as _, Sha256};
use ureq::http::header;

use super::RegistryError;
use super::client::Client;
use super::mirrors::Endpoint;
use crate::http::{Body, Response, content_length, is_canceled, is_transient, text};
use crate::oci::Descriptor;
use crate::{Digest, ImageRef};

/// A blob that is verified while it is read.
///
/// It reads no byte more than the descriptor's size, and gives an error in place of the end of file when size or
/// digest differ. A connection that breaks is replaced, and reading goes on where it stopped.
pub(crate) struct BlobReader {
    client: Arc<Client>,
    endpoint: Endpoint,
    image: ImageRef,
    blob: Descriptor,
    cancel: Arc<AtomicBool>,
    body: Body,
    hash: Sha256,
    read: u64,
    /// Connections that broke since the last byte came.
    failures: u32,
    verified: bool,
}

impl BlobReader {
    pub(crate) fn open(
        client: Arc<Client>,
        endpoint: Endpoint,
        image: ImageRef,
        blob: Descriptor,
        cancel: Arc<AtomicBool>,
    ) -> Result<Self, RegistryError> {
        let response = client.get(&endpoint, &image, &format!("blobs/{}", blob.digest), &[], &cancel);
        let response = response.map_err(|error| name_blob(error, &image, &blob.digest))?;
        let got = content_length(&response.headers).filter(|got| *got != blob.size);
        if let Some(got) = got {
            return Err(RegistryError::SizeMismatch {
                what: what(&image, &blob.digest),
                expected: blob.size,
                got,
            });
        }
        let (body, hash) = (response.body, Sha256::new());
        Ok(Self { client, endpoint, image, blob, cancel, body, hash, read: 0, failures: 0, verified: false })
    }

    /// A new connection for the rest.
    fn reconnect(&mut self, cause: io::Error) -> Result<(), RegistryError> {
        self.failures += 1;
        let retry = self.client.retry();
        if self.failures >= retry.attempts {
            return Err(RegistryError::Unreachable { host: self.endpoint.host.clone(), source: cause });
        }
        tracing::debug!(blob = %self.blob.digest, read = self.read, %cause, "connection broke, going on");
        retry.wait(self.failures, None, &self.cancel)?;
        let path = format!("blobs/{}", self.blob.digest);
        let range = (header::RANGE, format!("bytes={}-", self.read));
        let headers = if self.read > 0 { vec![range] } else { Vec::new() };
        let response = self.client.get(&self.endpoint, &self.image, &path, &headers, &self.cancel);
        let response = response.map_err(|error| name_blob(error, &self.image, &self.blob.digest))?;
        self.body = self.rest_of(response)?;
        Ok(())
    }

    /// Brings an answer to where reading stopped, also from a server that ignores `Range`.
    fn rest_of(&self, mut response: Response) -> Result<Body, RegistryError> {
        let start = match response.status {
            206 => {
                let range = text(&response.headers, &header::CONTENT_RANGE)
                    .and_then(|range| range.strip_prefix("bytes "));
                range.and_then(|range| range.split('-').next()?.trim().parse::<u64>().ok()).unwrap_or(0)
            }
            _ => 0,
        };
        let unusable = |source| RegistryError::Unreachable { host: self.endpoint.host.clone(), source };
        if start > self.read {
            return Err(unusable(io::Error::new(
                io::ErrorKind::InvalidData,
                "it resumes at another place than asked for",
            )));
        }
        let mut skip = self.read - start;
        let mut buffer = vec![0; 64 << 10];
        while skip > 0 {
            let room = skip.min(buffer.len() as u64) as usize;
            match response.body.read(&mut buffer[..room], &self.cancel) {
                Ok(0) => return Err(unusable(io::ErrorKind::UnexpectedEof.into())),
                Ok(read) => skip -= read as u64,
                Err(error) if is_canceled(&error) => return Err(RegistryError::Canceled),
                Err(error) => return Err(unusable(error)),
            }
        }
        Ok(response.body)
    }

    /// All bytes are read: nothing more may come, and the digest must be right.
    fn finish(&mut self) -> Result<(), RegistryError> {
        let what = what(&self.image, &self.blob.digest);
        // Reading the body's end gives the connection back to the pool; that it breaks there harms nobody.
        match self.body.read(&mut [0], &self.cancel) {
            Ok(1..) => {
                let (expected, got) = (self.blob.size, self.blob.size + 1);
                return Err(RegistryError::SizeMismatch { what, expected, got });
            }
            Err(error) if is_canceled(&error) => return Err(RegistryError::Canceled),
            Ok(0) | Err(_) => {}
        }
        let got = Digest::from_bytes(self.hash.finalize_reset().into());
        if got != self.blob.digest {
            return Err(RegistryError::DigestMismatch { what, expected: self.blob.digest, got });
        }
        self.verified = true;
        Ok(())
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() || self.verified {
            return Ok(0);
        }
        loop {
            let left = self.blob.size - self.read;
            if left == 0 {
                self.finish().map_err(io::Error::other)?;
                return Ok(0);
            }
            let room = left.min(buffer.len() as u64) as usize;
            let cause = match self.body.read(&mut buffer[..room], &self.cancel) {
                Ok(0) => io::Error::new(io::ErrorKind::UnexpectedEof, "the body ends too early"),
                Ok(read) => {
                    self.hash.update(&buffer[..read]);
                    self.read += read as u64;
                    self.failures = 0;
                    return Ok(read);
                }
                Err(error) if is_canceled(&error) => return Err(io::Error::other(RegistryError::Canceled)),
                Err(error) if is_transient(&error) => error,
                Err(source) => {
                    let host = self.endpoint.host.clone();
                    return Err(io::Error::other(RegistryError::Unreachable { host, source }));
                }
            };
            self.reconnect(cause).map_err(io::Error::other)?;
        }
    }
}

fn name_blob(error: RegistryError, image: &ImageRef, digest: &Digest) -> RegistryError {
    match error {
        RegistryError::NotFound { .. } => RegistryError::NotFound { image: what(image, digest) },
        other => other,
    }
}

fn what(image: &ImageRef, digest: &Digest) -> String {
    format!("{} (blob {digest})", image.familiar_name())
}
