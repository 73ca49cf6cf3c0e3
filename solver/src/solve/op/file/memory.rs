//! Files beside a context's index in which a copy remembers what it made: each is about one layer, in records of one kind.
//!
//! On disk:
//! ```text
//! magic 8 bytes · layer id 64 hex digits · records, as the magic says · SHA-256 of all that, 32 bytes
//! ```
//! Whatever is wrong with a file, it is as if there were none.

use std::ops::Range;
use std::path::{Path, PathBuf};

use kiln_cache::LayerId;
use kiln_image::Digest;

const HEADER_BYTES: usize = 8 + 64;
const SUM_BYTES: usize = 32;

/// Which records follow.
pub(super) type Magic = [u8; 8];

/// A file that was read.
pub(super) struct Memory {
    /// What it is about.
    pub(super) layer: LayerId,
    bytes: Vec<u8>,
    records: Range<usize>,
}

impl Memory {
    /// Reads the file at `path`, if it is one with such records.
    pub(super) fn read(path: &Path, magic: Magic) -> Option<Self> {
        let bytes = std::fs::read(path).ok()?;
        let records = HEADER_BYTES..bytes.len().checked_sub(SUM_BYTES)?;
        let (body, sum) = bytes.split_at(records.end);
        if body.get(..8)? != magic || Digest::of(body).as_bytes()[..] != *sum {
            return None;
        }
        let layer = std::str::from_utf8(body.get(8..HEADER_BYTES)?).ok()?.parse().ok()?;
        Some(Self { layer, bytes, records })
    }

    /// All records, one behind the other.
    pub(super) fn records(&self) -> &[u8] {
        &self.bytes[self.records.clone()]
    }
}

/// A file in the making.
pub(super) struct NewMemory {
    layer: LayerId,
    bytes: Vec<u8>,
}

impl NewMemory {
    /// About `layer`, with some `capacity` bytes of records.
    pub(super) fn new(magic: Magic, layer: LayerId, capacity: usize) -> Self {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + capacity + SUM_BYTES);
        bytes.extend(magic);
        bytes.extend(layer.to_string().as_bytes());
        Self { layer, bytes }
    }

    /// Adds a part of a record.
    pub(super) fn add(&mut self, bytes: impl AsRef<[u8]>) {
        self.bytes.extend_from_slice(bytes.as_ref());
    }

    /// Puts it at `path`, all or nothing. That it cannot be written costs time only.
    pub(super) fn keep(mut self, path: &Path) {
        let sum = Digest::of(&self.bytes);
        self.add(sum.as_bytes());
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(format!(".{}.tmp", self.layer));
        let temporary = PathBuf::from(temporary);
        let written =
            std::fs::write(&temporary, &self.bytes).and_then(|()| std::fs::rename(&temporary, path));
        if let Err(error) = written {
            drop(std::fs::remove_file(&temporary));
            tracing::debug!(%error, "what a copy made is not remembered");
        }
    }
}

#[cfg(test)]
mod tests {
    use kiln_image::DiffId;

    use super::*;

    #[test]
    fn what_was_kept_comes_back_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memory");
        let layer = LayerId::from(DiffId(Digest::of(b"a layer")));
        let mut memory = NewMemory::new(*b"kilntest", layer, 9);
        memory.add("four");
        memory.add(b"more");
        memory.keep(&path);
        let read = Memory::read(&path, *b"kilntest").unwrap();
        assert_eq!((read.layer, read.records()), (layer, b"fourmore".as_slice()));
        assert!(Memory::read(&path, *b"kilnothr").is_none());
        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(Memory::read(&path, *b"kilntest").is_none(), "{length}");
        }
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            assert!(Memory::read(&path, *b"kilntest").is_none(), "{at}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
