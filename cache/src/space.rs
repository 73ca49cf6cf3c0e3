//! How much of a disk a tree takes.

use std::collections::HashSet;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use kiln_image::layer::{BLOCK_BYTES, Unpacked};

use crate::LayerId;

/// What a name and an inode take: between ext4's 256 and XFS' 512, and some for the directory.
const INODE_BYTES: u64 = 512;

/// What a layer takes, as its maker knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Bytes of disk, with those shared.
    pub bytes: u64,
    /// Bytes of these that are files of an earlier layer under a second name (hard links).
    pub shared_bytes: u64,
    /// The earlier layer.
    pub shared_with: Option<LayerId>,
}

impl Space {
    /// What a file of `size_bytes` takes.
    pub fn of_file(size_bytes: u64) -> u64 {
        size_bytes.div_ceil(BLOCK_BYTES) * BLOCK_BYTES + INODE_BYTES
    }

    /// What a file of so many blocks of 512 bytes (`st_blocks`) takes: of a sparse one, less than its size.
    pub fn of_blocks(blocks: u64) -> u64 {
        blocks.saturating_mul(512).saturating_add(INODE_BYTES)
    }

    /// What a layer takes that was just unpacked: nobody looks at all of its files again for that.
    pub fn of_unpacked(unpacked: &Unpacked) -> u64 {
        let Unpacked { entries, directories, blocks, .. } = *unpacked;
        blocks * BLOCK_BYTES
            + directories * Self::of_dir()
            + entries.saturating_sub(directories) * Self::of_other()
    }

    /// What an empty directory takes.
    pub fn of_dir() -> u64 {
        BLOCK_BYTES
    }

    /// What a link, a pipe or a device takes.
    pub fn of_other() -> u64 {
        INODE_BYTES
    }
}

/// What the tree at `path` takes: the blocks of all that is in it, a file of several names once. What vanishes meanwhile
/// counts for nothing; links are not followed.
///
/// # Errors
/// A directory cannot be read.
pub(crate) fn measure(path: &Path) -> io::Result<u64> {
    let mut total = 0;
    let mut seen = HashSet::new();
    let mut dirs = vec![path.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        let entries = match std::fs::read_dir(&dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let found = match entry.metadata() {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                found => found?,
            };
            if found.nlink() == 1 || found.is_dir() || seen.insert((found.dev(), found.ino())) {
                total += Space::of_blocks(found.blocks());
            }
            if found.is_dir() {
                dirs.push(entry.path());
            }
        }
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use kiln_image::layer::{self, OverlayXattrs};

    use super::*;

    #[test]
    fn a_file_of_two_names_is_counted_once() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str| std::fs::write(dir.path().join(name), vec![1; 40_000]).unwrap();
        write("a");
        let one = measure(dir.path()).unwrap();
        assert!(one >= 40_000);
        std::fs::hard_link(dir.path().join("a"), dir.path().join("b")).unwrap();
        assert_eq!(measure(dir.path()).unwrap(), one);
        write("c");
        assert_eq!(measure(dir.path()).unwrap(), 2 * one);
    }

    #[test]
    fn what_is_unpacked_takes_about_what_its_unpacking_says() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for number in 0..50_usize {
            let dir = from.path().join(format!("{}", number % 7));
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join(number.to_string()), vec![b'x'; number * number * 20]).unwrap();
        }
        // Nearly all of it is a hole.
        let holes = std::fs::File::create(from.path().join("holes")).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&holes, b"end", 64 << 20).unwrap();
        let mut tar = Vec::new();
        let xattrs = OverlayXattrs::User;
        layer::pack(std::fs::File::open(from.path()).unwrap().as_fd(), xattrs, &mut tar).unwrap();
        let target = std::fs::File::open(to.path()).unwrap();
        let unpacked = layer::unpack(&mut tar.as_slice(), target.as_fd(), xattrs).unwrap();
        // A file system may put small files elsewhere, and gives out the last blocks when it writes them.
        rustix::fs::syncfs(&target).unwrap();
        let (said, found) = (Space::of_unpacked(&unpacked), measure(to.path()).unwrap());
        assert!(said.abs_diff(found) < found / 5, "{said} {found}");
    }
}
