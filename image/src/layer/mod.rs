//! Layer tars in and out (image-spec, `layer.md`), to and from trees in overlayfs' own format.
//!
//! On disk a layer is a directory that overlayfs takes as a lower directory as it is: a whiteout is a character device
//! 0:0 and an opaque directory carries an `overlay.opaque` attribute (overlayfs.rst, "whiteouts and opaque directories").

use std::io::{Read, Write};
use std::os::fd::BorrowedFd;

use crate::DiffId;

/// How overlayfs' own attributes are spelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverlayXattrs {
    /// `trusted.overlay.*`: root.
    Trusted,
    /// `user.overlay.*`: mounts with `userxattr` in a user namespace.
    User,
}

/// How layer bytes are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Plain tar.
    None,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
}

/// What was unpacked.
#[derive(Clone, Copy, Debug)]
pub struct Unpacked {
    /// Of the uncompressed bytes, all of them.
    pub diff_id: DiffId,
    /// Bytes of file data.
    pub size_bytes: u64,
    /// Entries.
    pub entries: u64,
}

/// What was packed.
#[derive(Clone, Copy, Debug)]
pub struct Packed {
    /// Of the uncompressed tar.
    pub diff_id: DiffId,
    /// Bytes of the uncompressed tar.
    pub size_bytes: u64,
}

/// Why a layer cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// Reading or writing.
    #[error("{path}: {source}")]
    Io {
        /// What was touched.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

/// Unpacks a layer (compressed as its first bytes say) into the empty directory `target`.
///
/// # Errors
/// Any entry that would leave `target`, exceed a limit, or cannot be made; I/O.
pub fn unpack(
    blob: &mut dyn Read,
    target: BorrowedFd<'_>,
    xattrs: OverlayXattrs,
) -> Result<Unpacked, LayerError> {
    let _ = (blob, target, xattrs);
    todo!()
}

/// Writes the tree as an uncompressed canonical tar: sorted, the same bytes for the same tree always.
///
/// # Errors
/// I/O on either side.
pub fn pack(tree: BorrowedFd<'_>, xattrs: OverlayXattrs, out: &mut dyn Write) -> Result<Packed, LayerError> {
    let _ = (tree, xattrs, out.flush());
    todo!()
}
