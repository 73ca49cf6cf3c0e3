//! Where the hashing of a layer's tar may begin again.
//!
//! An edit among thousands of files changes the tar from that file on. The DiffId's hash is remembered at many places of
//! the layer that the same COPY made the last time ([`super::earlier`]); the next one begins behind the last of them up to
//! where nothing has changed: neither an entry, nor, by their digests, the bytes of a file, all of which are that layer's
//! own files once more.
//!
//! A record of the file ([`super::memory`]), all numbers little-endian:
//! ```text
//! digest of the entries so far, 32 bytes · number of entries u64 · bytes of tar u64 · state of SHA-256
//! ```
//! Whatever is wrong with the file, hashing begins at the start.

use std::path::{Path, PathBuf};

use kiln_cache::{LayerId, Store};
use kiln_image::Digest;
use kiln_image::layer::{HASH_STATE_BYTES, ListedEntry, ListedKind, TarPrefix};

use super::earlier::Earlier;
use super::memory::{Magic, Memory, NewMemory};
use crate::solve::key::KeyHasher;

const MAGIC: Magic = *b"kilntar1";
const MARK_BYTES: usize = 32 + 8 + 8 + HASH_STATE_BYTES;

/// Where the states are kept of the layer that is remembered at `memory`.
pub(super) fn states_path(store: &Store, memory: &Path) -> PathBuf {
    let mut key = KeyHasher::new("tar of an earlier copy");
    key.bytes(memory.as_os_str().as_encoded_bytes());
    store.copy_memory_path(&key.finish().0)
}

/// A layer's entries as the tar has them, with the digests of files' bytes.
pub(super) struct Listed {
    pub(super) entries: Vec<ListedEntry>,
    /// Of each entry among the plan's nodes.
    pub(super) numbers: Vec<usize>,
    /// Of each entry; `None` where it is not known, or there are no bytes.
    pub(super) digests: Vec<Option<Digest>>,
}

/// What is known of a layer's tar, and where to remember what is found out.
pub(super) struct Resume {
    path: PathBuf,
    layer: LayerId,
    /// The parts that the tar begins with, shortest first.
    known: Vec<TarPrefix>,
}

impl Resume {
    /// Looks for what is known of the tar of `listed`, of which `earlier` has some files, and which becomes `layer`.
    pub(super) fn find(path: PathBuf, layer: LayerId, earlier: Option<&Earlier>, listed: &Listed) -> Resume {
        let known = earlier.and_then(|earlier| {
            let found = Memory::read(&path, MAGIC).filter(|found| found.layer == earlier.layer())?;
            Some(common(&parse(found.records())?, earlier, listed))
        });
        Resume { path, layer, known: known.unwrap_or_default() }
    }

    /// Behind what hashing may begin.
    pub(super) fn last(&self) -> Option<&TarPrefix> {
        self.known.last()
    }

    /// Remembers what is known now. That it cannot be written down costs time only.
    pub(super) fn remember(&self, listed: &Listed, later: &[TarPrefix]) {
        let mut marks = NewMemory::new(MAGIC, self.layer, (self.known.len() + later.len()) * MARK_BYTES);
        let mut rolling = Rolling::new();
        for prefix in self.known.iter().chain(later) {
            // Without digests of all files before it nobody could use it.
            let Some(digest) = rolling.up_to(listed, prefix.entries) else { break };
            marks.add(digest.as_bytes());
            marks.add((prefix.entries as u64).to_le_bytes());
            marks.add(prefix.bytes.to_le_bytes());
            marks.add(prefix.hash_state());
        }
        marks.keep(&self.path);
    }
}

/// Those of `marks` that `listed` begins with, with nothing but files of `earlier`.
fn common(marks: &[Mark], earlier: &Earlier, listed: &Listed) -> Vec<TarPrefix> {
    let is_same = |number: usize| match listed.entries[number].kind {
        ListedKind::File(_) => earlier.has(listed.numbers[number]),
        _ => true,
    };
    let same = (0..listed.entries.len()).take_while(|&number| is_same(number)).count();
    let mut rolling = Rolling::new();
    let within = marks.iter().take_while(|mark| mark.prefix.entries <= same);
    within
        .take_while(|mark| rolling.up_to(listed, mark.prefix.entries) == Some(mark.digest))
        .map(|mark| mark.prefix.clone())
        .collect()
}

/// The digest of a growing number of entries.
struct Rolling {
    hash: KeyHasher,
    entries: usize,
}

impl Rolling {
    fn new() -> Rolling {
        Rolling { hash: KeyHasher::new("tar prefix"), entries: 0 }
    }

    /// Of the first `entries`, which are no fewer than the last time; `None` if the bytes of one of them are not known.
    fn up_to(&mut self, listed: &Listed, entries: usize) -> Option<Digest> {
        let added = self.entries..entries;
        for (entry, digest) in listed.entries.get(added.clone())?.iter().zip(listed.digests.get(added)?) {
            let hash = &mut self.hash;
            hash.bytes(entry.path.as_os_str().as_encoded_bytes());
            hash.number(entry.mode.into()).number(entry.uid.into()).number(entry.gid.into());
            hash.number(entry.mtime.cast_unsigned());
            match &entry.kind {
                ListedKind::Dir => hash.text("dir"),
                ListedKind::File(size) => hash.text("file").number(*size).digest(digest.as_ref()?),
                ListedKind::Symlink(target) => {
                    hash.text("symlink").bytes(target.as_os_str().as_encoded_bytes())
                }
                ListedKind::HardLink(first) => hash.text("link").bytes(first.as_os_str().as_encoded_bytes()),
                // No plan that is followed has one.
                _ => return None,
            };
        }
        self.entries = entries;
        Some(self.hash.clone().finish().0)
    }
}

/// A remembered place.
struct Mark {
    /// Of the entries before it.
    digest: Digest,
    prefix: TarPrefix,
}

fn parse(records: &[u8]) -> Option<Vec<Mark>> {
    let mark = |bytes: &[u8]| {
        let (digest, rest) = bytes.split_first_chunk::<32>()?;
        let (entries, rest) = rest.split_first_chunk()?;
        let (tar, state) = rest.split_first_chunk()?;
        let entries = usize::try_from(u64::from_le_bytes(*entries)).ok()?;
        let prefix = TarPrefix::new(entries, u64::from_le_bytes(*tar), state.try_into().ok()?)?;
        Some(Mark { digest: Digest::from_bytes(*digest), prefix })
    };
    records.chunks(MARK_BYTES).map(mark).collect()
}
