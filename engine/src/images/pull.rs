//! `kiln pull`: name to manifest, layers unpacked while they come.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use kiln_cache::{ImageRecord, LayerId, Store};
use kiln_image::registry::{Registry, RegistryError, RemoteImage};
use kiln_image::{Digest, ImageRef, Platform};
use kiln_solver::event::{Event, EventSink, Reporter, StepId};

use super::{attested, layers, now};
use crate::{Error, ErrorKind};

pub(super) fn pull(
    store: &Store,
    name: &ImageRef,
    platform: &Platform,
    registry: &Registry,
    events: Arc<EventSink>,
    cancel: &Arc<AtomicBool>,
) -> Result<ImageRecord, Error> {
    let reporter = Reporter::new(events);
    let step = reporter.step(format!("[internal] load metadata for {name}"), Vec::new());
    let image = told(&reporter, step, || registry.resolve(name, platform, cancel).map_err(registry_error))?;
    let step = reporter.step(format!("[1/1] PULL {name}@{}", image.digest), vec![step]);
    told(&reporter, step, || {
        pull_layers(store, registry, &image, &reporter, step, cancel)?;
        match attested::pull(store, registry, &image, cancel) {
            Err(error) if error.kind != ErrorKind::Canceled => {
                // The image itself is whole.
                let message = format!("what is attested of {name} is not pulled: {error}");
                reporter.send(Event::Warning { rule: None, message, span: None });
            }
            done => done?,
        }
        record(store, Some(&image.reference), &image, Some(image.digest))
    })
}

/// Tells the step's start and end.
pub(super) fn told<T>(
    reporter: &Reporter,
    step: StepId,
    work: impl FnOnce() -> Result<T, Error>,
) -> Result<T, Error> {
    reporter.started(step);
    let result = work();
    match &result {
        Ok(_) => reporter.done(step),
        Err(error) if error.kind == ErrorKind::Canceled => reporter.canceled(step),
        Err(error) => reporter.failed(step, error.message.clone()),
    }
    result
}

fn pull_layers(
    store: &Store,
    registry: &Registry,
    image: &RemoteImage,
    reporter: &Reporter,
    step: StepId,
    cancel: &Arc<AtomicBool>,
) -> Result<(), Error> {
    let diff_ids = &image.config.rootfs.diff_ids;
    let blobs = &image.manifest.layers;
    if diff_ids.len() != blobs.len() {
        let counts = format!("{} layers in the manifest, {} in the config", blobs.len(), diff_ids.len());
        return Err(Error::new(ErrorKind::Environment, format!("{}: {counts}", image.reference)));
    }
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(None);
    let work = || {
        while let Some((blob, diff_id)) = {
            let index = next.fetch_add(1, Ordering::Relaxed);
            blobs.get(index).zip(diff_ids.get(index))
        } {
            let part = blob.digest.to_string();
            let tell = |current| {
                reporter.send(Event::Progress {
                    id: step,
                    part: part.clone(),
                    current,
                    total: Some(blob.size),
                });
            };
            let mut last = 0;
            let mut every_so_often = |done: u64| {
                if done - last >= TELL_BYTES {
                    last = done;
                    tell(done);
                }
            };
            let open = || registry.blob(&image.reference, blob, cancel).map_err(registry_error);
            let pulled = layers::fetch(store, blob, *diff_id, cancel, open, &mut every_so_often);
            match pulled {
                Ok(()) => tell(blob.size),
                Err(error) => {
                    // The others need not go on.
                    next.store(blobs.len(), Ordering::Relaxed);
                    failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    return;
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..blobs.len().min(PULLS_AT_ONCE) {
            scope.spawn(work);
        }
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Notes an image whose layers are there, under `name` or without one.
pub(super) fn record(
    store: &Store,
    name: Option<&ImageRef>,
    image: &RemoteImage,
    remote_digest: Option<Digest>,
) -> Result<ImageRecord, Error> {
    let put = |bytes: &[u8]| store.put_blob(bytes).map_err(Error::from);
    let config = put(&image.config_bytes)?;
    let manifest = put(&image.manifest_bytes)?;
    image.index_bytes.as_deref().map(put).transpose()?;
    let layers: Vec<_> = image.config.rootfs.diff_ids.iter().copied().map(LayerId::from).collect();
    let mut size_bytes = 0;
    for layer in &layers {
        size_bytes += store.layer_size(*layer)?.unwrap_or(0);
    }
    let record = ImageRecord {
        name: name.cloned(),
        platform: image.config.platform(),
        config,
        manifest: Some(manifest),
        remote_digest,
        layers,
        tagged_at: now(),
        size_bytes,
    };
    store.put_image(&record)?;
    Ok(record)
}

/// A look-up that the user stopped is no failure of the registry's.
fn registry_error(error: RegistryError) -> Error {
    let is_canceled = matches!(error, RegistryError::Canceled);
    let error = Error::from(error);
    let kind = if is_canceled { ErrorKind::Canceled } else { error.kind };
    Error { kind, ..error }
}

/// So many layers come at once, as docker does (3) and one more: unpacking is slower than most networks.
const PULLS_AT_ONCE: usize = 4;
/// Progress is told after so many bytes.
const TELL_BYTES: u64 = 1 << 20;
