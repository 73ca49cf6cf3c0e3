//! How much of a disk a tree takes.

use std::collections::HashSet;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::LayerId;

/// Most file systems give out space in pieces of this size.
const BLOCK_BYTES: u64 = 4096;
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
}
