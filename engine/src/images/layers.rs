//! The layers of an image: unpacked where they must be read, as blobs where they must be shipped.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use kiln_cache::{BlobWriter, ImageRecord, LayerDraft, Store, StoreError};
use kiln_image::layer::{self, OverlayXattrs};
use kiln_image::oci::{Descriptor, ImageConfig};
use kiln_image::{DiffId, Digest};

use crate::{Error, ErrorKind};

/// How compressions are called in the store's memo.
pub(super) const COMPRESSIONS: [&str; 3] = ["gzip", "zstd", "none"];

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
        let Some(blob) = blob_of(store, *diff_id)? else {
            return Err(Error::new(ErrorKind::Environment, format!("layer {diff_id} is not in the store"))
                .hinted("pull the image again"));
        };
        let Some(file) = store.open_blob(&blob)? else { continue };
        add(store, *diff_id, cancel, &mut { file })?;
    }
    Ok(())
}

/// The blob, compressed or not, that holds a layer's tar, if the store has one.
pub(super) fn blob_of(store: &Store, diff_id: DiffId) -> Result<Option<Digest>, Error> {
    for how in COMPRESSIONS {
        if let Some(blob) = store.compressed(diff_id, how)? {
            return Ok(Some(blob));
        }
    }
    Ok(store.has_blob(&diff_id.0).then_some(diff_id.0))
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

/// Reads and unpacks a layer in one pass. Its bytes are kept as they came: outputs take them so, and a tar of another
/// program's is reproduced by nothing else.
pub(super) fn fetch(
    store: &Store,
    descriptor: &Descriptor,
    diff_id: DiffId,
    cancel: &Arc<AtomicBool>,
    open: impl FnOnce() -> Result<Box<dyn Read + Send>, Error>,
    told: &mut (dyn FnMut(u64) + Send),
) -> Result<(), Error> {
    if let Some(file) = store.open_blob(&descriptor.digest)? {
        add(store, diff_id, cancel, &mut { file })?;
        return remember(store, diff_id, descriptor);
    }
    let mut copy = Some(store.verified_blob_writer(descriptor.digest)?);
    let added = store.add_pulled_layer(diff_id, cancel, |draft| {
        let inner = open().map_err(Explained)?;
        let mut reader = Copying { inner, copy: copy.as_mut(), done: 0, told };
        // Receiving, verifying and keeping cost as much as inflating and writing files: beside these.
        let target = File::open(draft.fs()).map_err(|error| Explained(Error::io(&draft.fs(), error)))?;
        let unpacked = layer::read_ahead(&mut reader, |blob| layer::unpack(blob, target.as_fd(), xattrs()))
            .map_err(|error| Explained(Error::from(error)))?;
        // The reader verifies the blob's digest at its end.
        io::copy(&mut reader, &mut io::sink()).map_err(|error| Explained(Error::io(&draft.fs(), error)))?;
        if let Some(copy) = copy.take() {
            copy.finish(Some(descriptor.digest))?;
        }
        Ok::<_, Explained>(unpacked)
    });
    added.map_err(|Explained(error)| error)?;
    // Where the layer was there (or another process just made it) its blob may be gone, and is not asked for.
    match store.has_blob(&descriptor.digest) {
        true => remember(store, diff_id, descriptor),
        false => Ok(()),
    }
}

fn remember(store: &Store, diff_id: DiffId, descriptor: &Descriptor) -> Result<(), Error> {
    let how = match descriptor.media_type.as_str() {
        kind if kind.ends_with("gzip") => "gzip",
        kind if kind.ends_with("zstd") => "zstd",
        _ => "none",
    };
    store.remember_compressed(diff_id, how, descriptor.digest).map_err(Error::from)
}

/// Whose attributes overlayfs reads.
pub(super) fn xattrs() -> OverlayXattrs {
    OverlayXattrs::of_this_process()
}

/// Reads a blob, keeps what was read and tells how much it was.
struct Copying<'a> {
    inner: Box<dyn Read + Send>,
    copy: Option<&'a mut BlobWriter>,
    done: u64,
    told: &'a mut (dyn FnMut(u64) + Send),
}

impl Read for Copying<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        if let Some(copy) = &mut self.copy {
            copy.write_all(&buffer[..read])?;
        }
        self.done += read as u64;
        (self.told)(self.done);
        Ok(read)
    }
}

/// For [`Store::add_pulled_layer`], whose own failures and its closure's share a type.
struct Explained(Error);

impl From<StoreError> for Explained {
    fn from(error: StoreError) -> Self {
        Self(error.into())
    }
}
