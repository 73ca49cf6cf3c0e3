//! Images to registries: what `kiln push` and the outputs that push have in common.

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kiln_cache::{BlobWriter, ImageRecord, LayerId, Store, StoreError};
use kiln_image::oci::Descriptor;
use kiln_image::registry::{BlobStream, Push, PushBlob, Pushed, Registry, RegistryError};
use kiln_image::{Digest, ImageRef};
use kiln_solver::event::{Event, Reporter, StepId};

use crate::Error;

/// An image, or several with an index, ready to go.
#[derive(Debug, Default)]
pub(crate) struct Shipment {
    /// Layers and configs.
    pub(crate) blobs: Vec<Blob>,
    /// Manifests before the index that names them: what the names stand for comes last.
    pub(crate) manifests: Vec<(Descriptor, Vec<u8>)>,
}

impl Shipment {
    /// Adds a blob, once.
    pub(crate) fn add(&mut self, blob: Blob) {
        if self.blobs.iter().all(|known| known.descriptor.digest != blob.descriptor.digest) {
            self.blobs.push(blob);
        }
    }
}

/// A blob and where its bytes are.
#[derive(Clone, Debug)]
pub(crate) struct Blob {
    pub(crate) descriptor: Descriptor,
    pub(crate) source: Source,
    /// Images that have it too: a registry can take it from these by itself.
    pub(crate) lenders: Vec<ImageRef>,
}

/// The images of the store that registries have: what they are made of can be had there.
#[derive(Debug)]
pub(crate) struct Lenders(Vec<ImageRecord>);

impl Lenders {
    pub(crate) fn of(mut images: Vec<ImageRecord>) -> Self {
        images.retain(|image| image.remote_digest.is_some() && image.name.is_some());
        Self(images)
    }

    /// Those that hold the layer.
    pub(crate) fn of_layer(&self, id: LayerId) -> Vec<ImageRef> {
        self.which(|image| image.layers.contains(&id))
    }

    /// Those with the config.
    pub(crate) fn of_config(&self, config: &Digest) -> Vec<ImageRef> {
        self.which(|image| image.config == *config)
    }

    /// Those with the manifest.
    pub(crate) fn of_manifest(&self, manifest: &Digest) -> Vec<ImageRef> {
        self.which(|image| image.manifest == Some(*manifest))
    }

    fn which(&self, is_one: impl Fn(&ImageRecord) -> bool) -> Vec<ImageRef> {
        self.0.iter().filter(|image| is_one(image)).filter_map(|image| image.name.clone()).collect()
    }
}

/// Where a blob's bytes are.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// Here.
    Bytes(Arc<[u8]>),
    /// In the store.
    Store,
    /// In the repository of this image. They pass through and are not kept.
    Registry(ImageRef),
}

/// Whether what is pushed gets its name's tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tagging {
    /// It does.
    Tagged,
    /// It is known by its digest alone (`push-by-digest`).
    ByDigest,
}

/// Whether a registry may be reached without a proof of who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// As configured for it.
    AsConfigured,
    /// It may (`registry.insecure=true`).
    Insecure,
}

/// Pushes.
pub(crate) struct Shipper<'a> {
    pub(crate) store: &'a Store,
    pub(crate) registry: &'a Registry,
    pub(crate) reporter: &'a Arc<Reporter>,
    pub(crate) step: StepId,
    pub(crate) transport: Transport,
    pub(crate) tagging: Tagging,
    pub(crate) cancel: &'a Arc<AtomicBool>,
}

impl Shipper<'_> {
    /// Pushes to all of `names`; says what became of the blobs at the first of them.
    pub(crate) fn ship(&self, shipment: &Shipment, names: &[ImageRef]) -> Result<Vec<Pushed>, Error> {
        let mut first = None;
        for (index, name) in names.iter().enumerate() {
            let push = target(self.registry, name, self.transport, self.cancel)?;
            let earlier = &names[..index];
            let is_same = |other: &&ImageRef| other.name() == name.name();
            if earlier.iter().find(is_same).is_none() {
                let near: Vec<_> =
                    earlier.iter().filter(|other| other.registry() == name.registry()).cloned().collect();
                let blobs: Vec<_> = shipment.blobs.iter().map(|blob| self.push_blob(blob, &near)).collect();
                let pushed = push.blobs(&blobs)?;
                first.get_or_insert(pushed);
            }
            let last = shipment.manifests.len().saturating_sub(1);
            for (number, (descriptor, bytes)) in shipment.manifests.iter().enumerate() {
                let tag = name.tag().filter(|_| number == last && self.tagging == Tagging::Tagged);
                let reference = tag.map_or_else(|| descriptor.digest.to_string(), str::to_owned);
                push.manifest(&reference, &descriptor.media_type, bytes)?;
            }
        }
        Ok(first.unwrap_or_default())
    }

    /// `near` are images of the same registry that were pushed just now.
    fn push_blob(&self, blob: &Blob, near: &[ImageRef]) -> PushBlob<'_> {
        // Only so many are asked: those that were pushed just now have it for certain.
        let (digest, size) = (blob.descriptor.digest, blob.descriptor.size);
        PushBlob {
            digest,
            size,
            mount_from: near.iter().chain(&blob.lenders).cloned().collect(),
            open: match blob.source.clone() {
                Source::Bytes(bytes) => {
                    Box::new(
                        move || Ok(Box::new(io::Cursor::new(Arc::clone(&bytes))) as Box<dyn Read + Send>),
                    )
                }
                Source::Store => {
                    let path = self.store.blob_path(&digest);
                    Box::new(move || Ok(Box::new(File::open(&path)?)))
                }
                Source::Registry(image) => {
                    let (registry, cancel) = (self.registry.clone(), Arc::clone(self.cancel));
                    let descriptor = blob.descriptor.clone();
                    Box::new(move || registry.blob(&image, &descriptor, &cancel).map_err(io::Error::other))
                }
            },
            told: self.teller(&digest, size),
        }
    }

    /// Tells the display, now and then.
    fn teller(&self, digest: &Digest, total: u64) -> Arc<dyn Fn(u64) + Send + Sync> {
        let (reporter, id, part) = (Arc::clone(self.reporter), self.step, format!("{digest} pushing"));
        let told = AtomicU64::new(0);
        Arc::new(move |sent| {
            let last = told.load(Ordering::Relaxed);
            if sent < last || sent - last >= TELL_BYTES || sent == total {
                told.store(sent, Ordering::Relaxed);
                let part = part.clone();
                reporter.send(Event::Progress { id, part, current: sent, total: Some(total) });
            }
        })
    }
}

/// The repository of `name`.
pub(crate) fn target(
    registry: &Registry,
    name: &ImageRef,
    transport: Transport,
    cancel: &Arc<AtomicBool>,
) -> Result<Push, RegistryError> {
    let push = registry.push_to(name, cancel)?;
    Ok(match transport {
        Transport::AsConfigured => push,
        Transport::Insecure => push.allow_insecure(),
    })
}

/// A blob of the store that is sent while it is written, once it is too large to be looked for first: a small one is
/// known by its digest in no time, and may be there already. Where sending fails only the head start is lost, and the
/// blob is pushed from the store like any other.
pub(crate) struct SentBlob<'a> {
    writer: BlobWriter,
    ahead: Ahead<'a>,
}

enum Ahead<'a> {
    /// Not sent.
    No,
    /// Perhaps, to there.
    Collecting(&'a Push, Vec<u8>),
    Sending(Box<BlobStream>),
}

impl<'a> SentBlob<'a> {
    /// A blob of the store, and, given a place for it, on its way there.
    pub(crate) fn new(writer: BlobWriter, push: Option<&'a Push>) -> Self {
        Self { writer, ahead: push.map_or(Ahead::No, |push| Ahead::Collecting(push, Vec::new())) }
    }

    /// Makes it visible in the store, and in the repository if it was sent.
    pub(crate) fn finish(self) -> Result<(Digest, u64), StoreError> {
        let (digest, size) = self.writer.finish(None)?;
        if let Ahead::Sending(stream) = self.ahead
            && let Err(error) = stream.finish(&digest)
        {
            tracing::debug!(%digest, %error, "sent for nothing");
        }
        Ok((digest, size))
    }

    fn send(&mut self, bytes: &[u8]) {
        match &mut self.ahead {
            Ahead::No => {}
            Ahead::Collecting(push, collected) => {
                collected.extend_from_slice(bytes);
                if collected.len() >= SENT_AHEAD_BYTES {
                    self.ahead =
                        match push.stream().map(|mut stream| stream.write_all(collected).map(|()| stream)) {
                            Ok(Ok(stream)) => Ahead::Sending(Box::new(stream)),
                            // What is wrong is told when the blob is pushed.
                            Ok(Err(_)) | Err(_) => Ahead::No,
                        };
                }
            }
            Ahead::Sending(stream) => {
                if stream.write_all(bytes).is_err() {
                    self.ahead = Ahead::No;
                }
            }
        }
    }
}

impl Write for SentBlob<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.writer.write(bytes)?;
        self.send(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// Smaller blobs are looked for before they are sent.
const SENT_AHEAD_BYTES: usize = 4 << 20;
/// Progress is told after so many bytes.
const TELL_BYTES: u64 = 1 << 20;
