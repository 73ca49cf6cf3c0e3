//! The DiffId of a layer that is listed: its entries are known before its files are in place.

use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use tar::EntryType;

use super::tar_writer::{TarEntry, write_tar_of};
use super::{At as _, LayerError, Packed, WHITEOUT_PREFIX, shown};

/// One entry of a layer. There are no extended attributes: what has some is to be [packed](super::pack).
#[derive(Clone, Debug)]
pub struct ListedEntry {
    /// From the layer's root, which itself is not listed.
    pub path: PathBuf,
    /// What it is.
    pub kind: ListedKind,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since the epoch.
    pub mtime: i64,
}

/// What an entry is.
#[derive(Clone, Debug)]
pub enum ListedKind {
    /// A directory.
    Dir,
    /// A file of so many bytes.
    File(u64),
    /// A symbolic link and what it says.
    Symlink(PathBuf),
    /// A further name of a file that was listed before.
    HardLink(PathBuf),
}

/// The files of a list, which may still be written while they are read.
pub trait ListedFiles {
    /// The file of the entry with this number, as soon as it is there. Asked for files that have bytes only.
    ///
    /// # Errors
    /// It will never be there.
    fn open(&mut self, number: usize, entry: &ListedEntry) -> io::Result<File>;

    /// How many of its bytes are in place, as soon as they are more than `read`.
    ///
    /// # Errors
    /// They will never be.
    fn in_place(&mut self, number: usize, read: u64) -> io::Result<u64>;
}

/// The DiffId and size of the tar that [`pack`](super::pack) would write of these entries, which come in its order: sorted
/// by their paths' components.
///
/// # Errors
/// Those of `files` and of reading; a name that is reserved for whiteouts.
pub fn digest_listed(
    entries: impl IntoIterator<Item = ListedEntry>,
    files: &mut dyn ListedFiles,
) -> Result<Packed, LayerError> {
    write_tar_of(&mut io::sink(), |tar| {
        for (number, entry) in entries.into_iter().enumerate() {
            let path = entry.path.clone().into_os_string().into_vec();
            let name = entry.path.file_name().unwrap_or_default();
            if name.as_encoded_bytes().starts_with(WHITEOUT_PREFIX) {
                return Err(LayerError::ReservedName(shown(&path)));
            }
            let mut record = TarEntry {
                mode: entry.mode,
                uid: entry.uid,
                gid: entry.gid,
                mtime: entry.mtime,
                ..TarEntry::new(path)
            };
            match &entry.kind {
                ListedKind::Dir => {
                    record.kind = EntryType::Directory;
                    record.path.push(b'/');
                }
                ListedKind::File(size) => record.size = *size,
                ListedKind::Symlink(target) => {
                    record.kind = EntryType::Symlink;
                    // The kernel's, whoever made it.
                    record.mode = 0o777;
                    record.link = target.clone().into_os_string().into_vec();
                }
                ListedKind::HardLink(first) => {
                    record.kind = EntryType::Link;
                    record.link = first.clone().into_os_string().into_vec();
                }
            }
            let size = record.size;
            tar.entry(record)?;
            if size > 0 {
                let path = entry.path.as_os_str().as_encoded_bytes();
                let file = files.open(number, &entry).at(path)?;
                tar.contents(&file, size, path, &mut |read| files.in_place(number, read))?;
            }
        }
        Ok(())
    })
}
