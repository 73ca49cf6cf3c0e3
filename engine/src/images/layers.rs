//! The layers of an image: unpacked where they must be read, as blobs where they must be shipped.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use kiln_cache::{ImageRecord, LayerDraft, Store, StoreError};
use kiln_image::DiffId;
use kiln_image::layer::{self, OverlayXattrs};
use kiln_image::oci::{Descriptor, ImageConfig};

use crate::{Error, ErrorKind};

/// Unpacks the image's layers that are not, from blobs that were kept.
pub(crate) fn ensure(
    store: &Store,
    image: &ImageRecord,
    config: &ImageConfig,
    cancel: &Arc<AtomicBool>,
) -> Result<(), Error> {
    for (id, diff_id) in image.layers.iter().zip(&config.rootfs.diff_ids) {
        if store.has_layer(*id)? {
            continue;
        }
        let Some((_, blob)) = store.blob_of(*diff_id)? else {
            return Err(Error::new(ErrorKind::Environment, format!("layer {diff_id} is not in the store"))
                .hinted("pull the image again"));
        };
        let Some(file) = store.open_blob(&blob)? else { continue };
        add(store, *diff_id, cancel, &mut { file })?;
    }
    Ok(())
}

/// Unpacks one layer from its tar, compressed or not, unless it is there.
pub(crate) fn add(
    store: &Store,
    diff_id: DiffId,
    cancel: &Arc<AtomicBool>,
    tar: &mut (dyn Read + Send),
) -> Result<(), Error> {
    let added = store.add_pulled_layer(diff_id, cancel, |draft| unpack(draft, tar).map_err(Explained));
    added.map(drop).map_err(|Explained(error)| error)
}

fn unpack(draft: &LayerDraft, tar: &mut dyn Read) -> Result<layer::Unpacked, Error> {
    let target = File::open(draft.fs()).map_err(|error| Error::io(&draft.fs(), error))?;
    layer::unpack(tar, target.as_fd(), xattrs()).map_err(Error::from)
}

/// Unpacks a layer from its blob, which is kept, unless it is there.
pub(super) fn fetch(
    store: &Store,
    descriptor: &Descriptor,
    diff_id: DiffId,
    cancel: &Arc<AtomicBool>,
    open: impl FnOnce() -> Result<Box<dyn Read + Send>, Error>,
    told: &mut (dyn FnMut(u64) + Send),
) -> Result<(), Error> {
    let added = store.add_pulled_layer(diff_id, cancel, |draft| {
        store.unpack_blob(draft, diff_id, descriptor, || open().map_err(Explained), told)
    });
    added.map_err(|Explained(error)| error)?;
    // Where the layer was there (or another process just made it) its blob may be gone, and is not asked for.
    match store.has_blob(&descriptor.digest) {
        true => Ok(store.remember_pulled(diff_id, descriptor)?),
        false => Ok(()),
    }
}

/// Whose attributes overlayfs reads.
pub(super) fn xattrs() -> OverlayXattrs {
    OverlayXattrs::of_this_process()
}

/// For [`Store::add_pulled_layer`], whose own failures and its closure's share a type.
struct Explained(Error);

impl From<StoreError> for Explained {
    fn from(error: StoreError) -> Self {
        Self(error.into())
    }
}
