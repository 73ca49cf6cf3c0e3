//! Layers that come as blobs: unpacked while they come, and kept as they came.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::AsFd as _;

use kiln_image::layer::{self, Compression, OverlayXattrs, Unpacked};
use kiln_image::oci::{Descriptor, media_type};
use kiln_image::{DiffId, Digest};

use super::error::At as _;
use super::{BlobWriter, LayerDraft, Store, StoreError};

impl Store {
    /// Unpacks the layer `diff_id` into `draft` from its blob, in one pass, for [`Store::add_pulled_layer`]. Its bytes are
    /// kept as they come: outputs take them so, and a tar of another program's is reproduced by nothing else. A blob that
    /// is there is not asked for.
    ///
    /// `open` gives the blob's bytes, which it has to verify up to their end ([`kiln_image::Verified`]); `told` hears how many
    /// were read so far.
    ///
    /// # Errors
    /// What comes is no layer; whatever `open` says; I/O.
    pub fn unpack_blob<E: From<StoreError>>(
        &self,
        draft: &LayerDraft,
        diff_id: DiffId,
        blob: &Descriptor,
        open: impl FnOnce() -> Result<Box<dyn Read + Send>, E>,
        told: &mut (dyn FnMut(u64) + Send),
    ) -> Result<Unpacked, E> {
        let (inner, copy): (Box<dyn Read + Send>, _) = match self.open_blob(&blob.digest)? {
            Some(file) => (Box::new(file), None),
            None => (open()?, Some(self.verified_blob_writer(blob.digest)?)),
        };
        let reader = Copying { inner, copy, done: 0, told };
        Ok(self.unpack_and_keep(draft, diff_id, blob, reader)?)
    }

    fn unpack_and_keep(
        &self,
        draft: &LayerDraft,
        diff_id: DiffId,
        blob: &Descriptor,
        mut reader: Copying<'_>,
    ) -> Result<Unpacked, StoreError> {
        let fs = draft.fs();
        let target = File::open(&fs).at(&fs)?;
        // Receiving, verifying and keeping cost as much as inflating and writing files: beside these.
        let unpacked = layer::read_ahead(&mut reader, |blob| {
            layer::unpack(blob, target.as_fd(), OverlayXattrs::of_this_process())
        })?;
        // The reader verifies the blob's digest at its end.
        io::copy(&mut reader, &mut io::sink()).at(&fs)?;
        // Another layer is refused by who asked for this one.
        if unpacked.diff_id != diff_id {
            return Ok(unpacked);
        }
        if let Some(copy) = reader.copy.take() {
            copy.finish(Some(blob.digest))?;
        }
        self.remember_pulled(diff_id, blob)?;
        Ok(unpacked)
    }

    /// Remembers `blob`, by its media type, as what `diff_id` came as.
    ///
    /// # Errors
    /// I/O.
    pub fn remember_pulled(&self, diff_id: DiffId, blob: &Descriptor) -> Result<(), StoreError> {
        let compression = media_type::compression_of_layer(&blob.media_type);
        self.remember_compressed(diff_id, how(compression), blob.digest)
    }

    /// The blob that holds a layer's tar, and how it is compressed, if there is one.
    ///
    /// # Errors
    /// I/O.
    pub fn blob_of(&self, diff_id: DiffId) -> Result<Option<(Compression, Digest)>, StoreError> {
        for compression in [Compression::Gzip, Compression::Zstd, Compression::None] {
            if let Some(blob) = self.compressed(diff_id, how(compression))? {
                return Ok(Some((compression, blob)));
            }
        }
        Ok(self.has_blob(&diff_id.0).then_some((Compression::None, diff_id.0)))
    }
}

/// How the memo of [`Store::remember_compressed`] calls a layer's own blob.
fn how(compression: Compression) -> &'static str {
    match compression {
        Compression::None => "none",
        Compression::Gzip => "gzip",
        Compression::Zstd => "zstd",
    }
}

/// Reads a blob, keeps what was read and tells how much it was.
struct Copying<'a> {
    inner: Box<dyn Read + Send>,
    copy: Option<BlobWriter>,
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
