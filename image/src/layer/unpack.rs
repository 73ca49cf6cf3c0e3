//! Tar to tree: layers, where names may mean deletion, and ADD's archives, where they never do.

use std::collections::BTreeSet;
use std::io::Read;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::PathBuf;

use rustix::fs::FileType;

use super::digest_stream::read_hashed;
use super::tar_reader::{Segment, TarEntry, TarKind, TarReader};
use super::tree_writer::{CleanPath, Existing, Metadata, TreeWriter};
use super::{
    At as _, BLOCK_BYTES, LayerError, OverlayXattrs, Unpacked, WHITEOUT_META_PREFIX, WHITEOUT_OPAQUE,
    WHITEOUT_PREFIX, decompress, shown,
};
use crate::DiffId;

/// Unpacks a layer (compressed as its first bytes say) into the empty directory `target`.
///
/// The whole stream is read and hashed, also what follows the tar's end. An opaque mark on the layer's root is kept, but
/// overlayfs does not look at it: whoever stacks layers leaves out what lies below such a layer.
///
/// # Errors
/// Any entry that would leave `target`, exceed a limit, or cannot be made; I/O.
pub fn unpack(
    blob: &mut dyn Read,
    target: BorrowedFd<'_>,
    xattrs: OverlayXattrs,
) -> Result<Unpacked, LayerError> {
    let (unpacked, digest) = read_hashed(decompress(blob)?, MAX_LAYER_BYTES, |stream| {
        unpack_tar(TarReader::new(stream), target, xattrs, Names::Layer, None)
    })?;
    let Extracted { size_bytes, entries, directories, blocks, implied: _ } = unpacked;
    Ok(Unpacked { diff_id: DiffId(digest), size_bytes, entries, directories, blocks })
}

/// How an archive is taken out.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExtractOptions {
    /// Owner and group of everything instead of those in the archive (`ADD --chown`).
    pub owner: Option<(u32, u32)>,
}

/// What an archive held.
#[derive(Clone, Debug)]
pub struct Extracted {
    /// Bytes of file data.
    pub size_bytes: u64,
    /// Entries.
    pub entries: u64,
    /// Those that are directories.
    pub directories: u64,
    /// Blocks of [`BLOCK_BYTES`] that the data of files fills.
    pub blocks: u64,
    /// Directories that have no entry and are there for what is in them.
    pub implied: BTreeSet<PathBuf>,
}

/// Takes an archive of ADD's (see [`super::is_archive`]) out into the directory `target`: as [`unpack`], but names mean
/// nothing beyond themselves, and `target` may hold files already, which entries of the same name replace.
///
/// # Errors
/// As [`unpack`].
pub fn extract_archive(
    archive: &mut dyn Read,
    target: BorrowedFd<'_>,
    options: ExtractOptions,
) -> Result<Extracted, LayerError> {
    let stream = std::io::BufReader::with_capacity(128 * 1024, decompress(archive)?.take(MAX_LAYER_BYTES));
    // Without whiteouts no overlayfs attribute is ever set.
    unpack_tar(TarReader::new(stream), target, OverlayXattrs::User, Names::Plain, options.owner)
}

/// What `.wh.` in names means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    /// Deletion.
    Layer,
    /// Nothing.
    Plain,
}

fn unpack_tar<R: std::io::BufRead>(
    mut tar: TarReader<R>,
    target: BorrowedFd<'_>,
    xattrs: OverlayXattrs,
    names: Names,
    owner: Option<(u32, u32)>,
) -> Result<Extracted, LayerError> {
    let mut writer = TreeWriter::new(target, xattrs);
    let mut total =
        Extracted { size_bytes: 0, entries: 0, directories: 0, blocks: 0, implied: BTreeSet::new() };
    let mut with_holes = 0_u64;
    while let Some(entry) = tar.next_entry()? {
        let path = CleanPath::new(&entry.path)?;
        if let TarKind::File { size, .. } = entry.kind {
            with_holes = with_holes.saturating_add(size);
            if with_holes > MAX_LAYER_BYTES {
                let entry = shown(path.as_bytes());
                return Err(LayerError::TooLarge { entry, what: "bytes in files", limit: MAX_LAYER_BYTES });
            }
        }
        if names == Names::Layer {
            match layer_name(&path)? {
                LayerName::Plain => {}
                LayerName::Foreign => continue,
                LayerName::Opaque(dir) => {
                    writer.set_opaque(&dir)?;
                    continue;
                }
                LayerName::Whiteout(hidden) => {
                    white_out(&mut writer, &hidden)?;
                    continue;
                }
            }
        }
        total.directories += u64::from(matches!(entry.kind, TarKind::Dir));
        let written = write_entry(&mut tar, &mut writer, &path, entry, owner, names)?;
        total.size_bytes += written.size_bytes;
        total.blocks += written.data_bytes.div_ceil(BLOCK_BYTES);
    }
    total.entries = tar.drain()?;
    total.implied = writer.finish()?;
    Ok(total)
}

/// What a layer's entry is by its name (image-spec, `layer.md`, Whiteouts).
enum LayerName {
    Plain,
    /// AUFS' own bookkeeping, which other builders skip as well.
    Foreign,
    Opaque(CleanPath),
    Whiteout(CleanPath),
}

fn layer_name(path: &CleanPath) -> Result<LayerName, LayerError> {
    let refused = |problem| LayerError::Escape { entry: shown(path.as_bytes()), problem };
    let Some((parent, name)) = path.split() else { return Ok(LayerName::Plain) };
    match parent.split(|&b| b == b'/').find(|above| above.starts_with(WHITEOUT_PREFIX)) {
        Some(above) if above.starts_with(WHITEOUT_META_PREFIX) => return Ok(LayerName::Foreign),
        Some(_) => return Err(refused("a file below a whiteout")),
        None => {}
    }
    let Some(hidden) = name.strip_prefix(WHITEOUT_PREFIX) else { return Ok(LayerName::Plain) };
    if name == WHITEOUT_OPAQUE {
        return Ok(LayerName::Opaque(CleanPath::new(parent)?));
    }
    if name.starts_with(WHITEOUT_META_PREFIX) {
        return Ok(LayerName::Foreign);
    }
    if matches!(hidden, b"" | b"." | b"..") {
        return Err(refused("a whiteout of no file's name"));
    }
    Ok(LayerName::Whiteout(CleanPath::new(&[parent, b"/", hidden].concat())?))
}

/// A whiteout deletes what lower layers have, never what this layer has, in whatever order the two come: a file here hides
/// the lower one anyway, a directory has to be told not to be merged.
fn white_out(writer: &mut TreeWriter<'_>, hidden: &CleanPath) -> Result<(), LayerError> {
    match writer.existing(hidden)? {
        Existing::Nothing => writer.whiteout(hidden),
        Existing::Dir => writer.set_opaque(hidden),
        Existing::Whiteout | Existing::Other => Ok(()),
    }
}

/// Bytes of a file.
#[derive(Clone, Copy, Default)]
struct Written {
    /// In the archive.
    size_bytes: u64,
    /// Without those that became holes.
    data_bytes: u64,
}

/// Makes the entry, replacing what is there.
fn write_entry<R: std::io::BufRead>(
    tar: &mut TarReader<R>,
    writer: &mut TreeWriter<'_>,
    path: &CleanPath,
    entry: TarEntry,
    owner: Option<(u32, u32)>,
    names: Names,
) -> Result<Written, LayerError> {
    let (uid, gid) = owner.unwrap_or((entry.uid, entry.gid));
    let metadata = Metadata { mode: entry.mode, uid, gid, mtime: entry.mtime, xattrs: &entry.xattrs };
    if let TarKind::HardLink(target) = &entry.kind {
        let target = CleanPath::new(target)?;
        if names == Names::Layer && target.components().any(|name| name.starts_with(WHITEOUT_PREFIX)) {
            return Err(LayerError::Escape {
                entry: shown(path.as_bytes()),
                problem: "a hard link to a whiteout",
            });
        }
        writer.hard_link(path, &target)?;
        return Ok(Written::default());
    }
    if let TarKind::File { size, segments } = &entry.kind {
        let new = loop {
            // Mostly nothing is there.
            match writer.create_file(path, &metadata)? {
                Some(new) => break new,
                None => writer.remove(path)?,
            }
        };
        let data_bytes = write_file(tar, path, &new.file, *size, segments)?;
        writer.finish_file(path, &new, &metadata)?;
        let size_bytes = segments.iter().map(|segment| segment.length).sum();
        return Ok(Written { size_bytes, data_bytes });
    }
    let existing = writer.existing(path)?;
    match (&existing, &entry.kind) {
        (Existing::Nothing, _) | (Existing::Dir, TarKind::Dir) => {}
        _ => writer.remove(path)?,
    }
    match &entry.kind {
        TarKind::Dir => {
            writer.dir(path, &metadata)?;
            if matches!(existing, Existing::Whiteout) {
                writer.set_opaque(path)?;
            }
        }
        TarKind::Symlink(target) => {
            if target.is_empty() {
                return Err(LayerError::Malformed {
                    entry: shown(path.as_bytes()),
                    problem: "a link to nothing",
                });
            }
            writer.symlink(path, target, &metadata)?;
        }
        TarKind::Fifo => writer.node(path, FileType::Fifo, (0, 0), &metadata)?,
        TarKind::CharDevice { major: 0, minor: 0 } => {
            return Err(LayerError::Escape {
                entry: shown(path.as_bytes()),
                problem: "a character device 0:0, which overlayfs takes for a whiteout",
            });
        }
        &TarKind::CharDevice { major, minor } => {
            let made = writer.node(path, FileType::CharacterDevice, (major, minor), &metadata);
            device_or_nothing(made, path, names)?;
        }
        &TarKind::BlockDevice { major, minor } => {
            let made = writer.node(path, FileType::BlockDevice, (major, minor), &metadata);
            device_or_nothing(made, path, names)?;
        }
        // Made above.
        TarKind::File { .. } | TarKind::HardLink(_) => {}
    }
    Ok(Written::default())
}

/// Only the machine's root makes device nodes. To a layer unpacked by somebody else they are missing: none would work in a
/// step anyway, and the layer's own bytes, which are what is shipped, still have them. What ADD takes out becomes a new
/// layer, which would differ from root's, so that is an error.
fn device_or_nothing(made: Result<(), LayerError>, path: &CleanPath, names: Names) -> Result<(), LayerError> {
    match made {
        Err(LayerError::Io { source, .. }) if source.raw_os_error() == Some(EPERM) => match names {
            Names::Layer => {
                tracing::debug!(entry = shown(path.as_bytes()), "device node left out of the unpacked layer");
                Ok(())
            }
            Names::Plain => Err(LayerError::Device(shown(path.as_bytes()))),
        },
        other => other,
    }
}

const EPERM: i32 = rustix::io::Errno::PERM.raw_os_error();

/// Returns how many bytes were written.
fn write_file<R: std::io::BufRead>(
    tar: &mut TarReader<R>,
    path: &CleanPath,
    file: &std::fs::File,
    size: u64,
    segments: &[Segment],
) -> Result<u64, LayerError> {
    let (mut end, mut data_bytes) = (0, 0);
    for segment in segments {
        let mut offset = segment.offset;
        tar.copy_data(path.as_bytes(), segment.length, |piece| {
            // Zeros become a hole: gigabytes of them are kilobytes of a compressed layer.
            if piece.len() < HOLE_FROM_BYTES || piece.iter().any(|&byte| byte != 0) {
                std::os::unix::fs::FileExt::write_all_at(file, piece, offset)?;
                end = offset + piece.len() as u64;
                data_bytes += piece.len() as u64;
            }
            offset += piece.len() as u64;
            Ok(())
        })?;
    }
    if end < size {
        rustix::fs::ftruncate(file.as_fd(), size).at(path.as_bytes())?;
    }
    Ok(data_bytes)
}

/// Fewer zeros are written: a hole has whole blocks.
const HOLE_FROM_BYTES: usize = 32 * 1024;

/// The most bytes of one layer or archive, uncompressed, and of its files with the holes of sparse ones.
pub const MAX_LAYER_BYTES: u64 = 1 << 40;
