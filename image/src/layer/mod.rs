//! Layer tars in and out (image-spec, `layer.md`), to and from trees in overlayfs' own format.
//!
//! On disk a layer is a directory that overlayfs takes as a lower directory as it is: a whiteout is a character device
//! 0:0 and an opaque directory carries an `overlay.opaque` attribute (overlayfs.rst, "whiteouts and opaque directories").
//!
//! Everything that comes out of a tar is hostile. `tar_reader` reads headers and refuses what two readers would read
//! differently; `tree_writer` is the only code that touches the file system, always beneath one directory descriptor and
//! never through a link in the last component; `unpack` and `pack` hold the meaning of entries.

mod born;
mod compression;
mod digest_stream;
mod estargz;
mod gzip;
mod holes;
mod in_order;
mod incompressible;
mod listed;
pub mod owner;
mod pack;
mod tar_reader;
mod tar_writer;
#[cfg(test)]
mod tests;
mod tree_writer;
mod unpack;

pub use born::Born;
pub(crate) use compression::is_compressed;
pub use compression::{
    ARCHIVE_HEAD_BYTES, Compressor, SNIFF_BYTES, ZSTD_WINDOW_LOG_MAX, compress, compression_of, decompress,
    is_archive,
};
pub(crate) use digest_stream::copy_hashed;
pub use digest_stream::{Fed, Feed, read_ahead};
pub use estargz::{Stargz, StargzWriter, TOC_DIGEST_ANNOTATION, UNCOMPRESSED_SIZE_ANNOTATION};
pub use gzip::GzipWriter;
pub use holes::next_data;
pub use listed::{
    HASH_STATE_BYTES, ListedEntry, ListedFiles, ListedKind, MARK_BYTES, TarPrefix, digest_listed,
};
pub use pack::{PackOptions, Times, pack, pack_with};
pub use tar_reader::{MAX_ENTRIES, MAX_EXTENSION_BYTES, MAX_FILE_BYTES, MAX_PATH_BYTES, MAX_SPARSE_SEGMENTS};
pub use tar_writer::{TarEntry, TarWriter, write_tar_of};
pub use tree_writer::MAX_DEFERRED_BYTES;
pub(crate) use tree_writer::open_in_root;
pub use unpack::{ExtractOptions, Extracted, MAX_LAYER_BYTES, extract_archive, unpack};

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::DiffId;

/// Whether this process is in the machine's first user namespace.
pub fn is_in_first_namespace() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    /// Inode of that namespace (`PROC_USER_INIT_INO` of the kernel's proc_ns.h).
    const INITIAL: u64 = 0xEFFF_FFFD;
    std::fs::metadata("/proc/self/ns/user").map_or(true, |found| found.ino() == INITIAL)
}

/// Opens a layer's file for reading by `open`, which is given a flag more: its access time is not to be noted, which for
/// thousands of files costs as much as reading them. The kernel allows that to owners (open(2), `O_NOATIME`).
///
/// # Errors
/// Those of `open`.
pub fn unnoted<T>(open: impl Fn(OFlags) -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    match open(OFlags::NOATIME) {
        Err(Errno::PERM) => open(OFlags::empty()),
        result => result,
    }
}

/// How overlayfs' own attributes are spelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverlayXattrs {
    /// `trusted.overlay.*`: root.
    Trusted,
    /// `user.overlay.*`: mounts with `userxattr` in a user namespace.
    User,
}

impl OverlayXattrs {
    /// What overlayfs reads where this process mounts it: only an administrator in the machine's first user namespace has
    /// `trusted.*` attributes, and root of a container mostly is none.
    pub fn of_this_process() -> Self {
        let administers = || {
            rustix::thread::capabilities(None)
                .is_ok_and(|own| own.effective.contains(rustix::thread::CapabilitySet::SYS_ADMIN))
        };
        if is_in_first_namespace() && administers() { Self::Trusted } else { Self::User }
    }

    /// The attribute that marks an opaque directory; its value is [`OPAQUE_VALUE`].
    pub const fn opaque(self) -> &'static str {
        match self {
            Self::Trusted => "trusted.overlay.opaque",
            Self::User => "user.overlay.opaque",
        }
    }
}

/// The value of an opaque directory's attribute (overlayfs.rst, "whiteouts and opaque directories").
pub const OPAQUE_VALUE: &[u8] = b"y";

/// Whether a layer carries the extended attribute `name`: file capabilities and the users' own, as Docker and BuildKit
/// do. Labels and ACLs belong to the host that wrote them, overlayfs' own marks to the mount.
pub fn is_portable_xattr(name: &[u8]) -> bool {
    name == b"security.capability" || (name.starts_with(b"user.") && !is_overlay_xattr(name))
}

/// Whether overlayfs would obey the attribute (THREATS B6).
fn is_overlay_xattr(name: &[u8]) -> bool {
    name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.")
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
    /// Those that are directories.
    pub directories: u64,
    /// Blocks of [`BLOCK_BYTES`] that the data of files fills.
    pub blocks: u64,
}

/// Most file systems give out space in pieces of this size.
pub const BLOCK_BYTES: u64 = 4096;

/// What was packed.
#[derive(Clone, Copy, Debug)]
pub struct Packed {
    /// Of the uncompressed tar.
    pub diff_id: DiffId,
    /// Bytes of the uncompressed tar.
    pub size_bytes: u64,
}

/// Why a layer cannot be read or written. Names out of archives are escaped already.
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
    /// The archive is damaged, or two readers would read it differently.
    #[error("{entry}: {problem}")]
    Malformed {
        /// The entry, or `archive`.
        entry: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The entry would land, or links to a place, outside of the layer.
    #[error("{entry}: {problem}")]
    Escape {
        /// The entry.
        entry: String,
        /// What it tried.
        problem: &'static str,
    },
    /// More than kiln takes from an archive.
    #[error("{entry}: more than {limit} {what}")]
    TooLarge {
        /// The entry, or `archive`.
        entry: String,
        /// What there is too much of, with its unit.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// An owner that this user namespace does not have.
    #[error("{entry}: its owner {uid}:{gid} is not among the ids of this user namespace")]
    Owner {
        /// The entry.
        entry: String,
        /// Its user.
        uid: u32,
        /// Its group.
        gid: u32,
    },
    /// A device node, which only root can make.
    #[error("{0}: a device node, which only root can make")]
    Device(String),
    /// A file whose name means a whiteout in every layer (image-spec, `layer.md`, Whiteouts), so that no layer can hold it.
    #[error("{0}: a layer cannot hold a file whose name starts with `.wh.`")]
    ReservedName(String),
}

impl LayerError {
    /// What the user can do; `None` where there is nothing to say.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::ReservedName(_) => Some("remove or rename the file in the step that makes it".to_owned()),
            Self::Owner { .. } => Some(
                "give your user a larger range: sudo usermod --add-subuids 100000-165535 --add-subgids \
                 100000-165535 $USER"
                    .to_owned(),
            ),
            Self::Device(_) => Some("leave the device out of the archive, or build as root".to_owned()),
            _ => None,
        }
    }
}

/// The prefix of a whiteout's name in a tar.
const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// The prefix of AUFS' own files, which mean nothing to others.
const WHITEOUT_META_PREFIX: &[u8] = b".wh..wh.";
/// The entry that marks its directory opaque.
const WHITEOUT_OPAQUE: &[u8] = b".wh..wh..opq";

/// A name out of an archive, safe to print (THREATS E7).
fn shown(path: &[u8]) -> String {
    const SHOWN_CHARS: usize = 300;
    let text = String::from_utf8_lossy(path);
    let mut shown: String = text.chars().take(SHOWN_CHARS).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN_CHARS).is_some() {
        shown.push('…');
    }
    shown
}

/// Adds the path to an I/O error.
trait At<T> {
    /// Names what was touched.
    fn at(self, path: &[u8]) -> Result<T, LayerError>;
}

impl<T, E: Into<std::io::Error>> At<T> for Result<T, E> {
    fn at(self, path: &[u8]) -> Result<T, LayerError> {
        self.map_err(|source| LayerError::Io { path: shown(path), source: source.into() })
    }
}
