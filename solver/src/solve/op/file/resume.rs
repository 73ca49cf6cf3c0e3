//! Where the hashing of a layer's tar may begin again.
//!
//! An edit among thousands of files changes the tar from that file on. The DiffId's hash is remembered at many places of
//! the layer that the same COPY made the last time ([`super::earlier`]); the next one begins behind the last of them up to
//! where nothing has changed: neither an entry, nor, by their digests, the bytes of a file, all of which are that layer's
//! own files once more.
//!
//! On disk, all numbers little-endian:
//! ```text
//! magic 8 bytes · layer id 64 hex digits
//! times: digest of the entries so far, 32 bytes · number of entries u64 · bytes of tar u64 · state of SHA-256
//! SHA-256 of all that, 32 bytes
//! ```
//! Whatever is wrong with the file, hashing begins at the start.

use std::path::{Path, PathBuf};

use kiln_cache::{LayerId, Store};
use kiln_image::Digest;
use kiln_image::layer::{HASH_STATE_BYTES, ListedEntry, ListedKind, TarPrefix};

use super::earlier::{Earlier, keep};
use crate::solve::key::KeyHasher;

const MAGIC: [u8; 8] = *b"kilntar1";
const HEADER_BYTES: usize = 8 + 64;
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
            let bytes = std::fs::read(&path).ok()?;
            let (of, marks) = parse(&bytes)?;
            (of == earlier.layer()).then(|| common(&marks, earlier, listed))
        });
        Resume { path, layer, known: known.unwrap_or_default() }
    }

    /// Behind what hashing may begin.
    pub(super) fn last(&self) -> Option<&TarPrefix> {
        self.known.last()
    }

    /// Remembers what is known now. That it cannot be written down costs time only.
    pub(super) fn remember(&self, listed: &Listed, later: &[TarPrefix]) {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + (self.known.len() + later.len()) * MARK_BYTES + 32);
        bytes.extend(MAGIC);
        bytes.extend(self.layer.to_string().as_bytes());
        let mut rolling = Rolling::new();
        for prefix in self.known.iter().chain(later) {
            // Without digests of all files before it nobody could use it.
            let Some(digest) = rolling.up_to(listed, prefix.entries) else { break };
            bytes.extend(digest.as_bytes());
            bytes.extend((prefix.entries as u64).to_le_bytes());
            bytes.extend(prefix.bytes.to_le_bytes());
            bytes.extend(prefix.hash_state());
        }
        let sum = Digest::of(&bytes);
        bytes.extend(sum.as_bytes());
        keep(&self.path, self.layer, &bytes);
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

fn parse(bytes: &[u8]) -> Option<(LayerId, Vec<Mark>)> {
    let body = bytes.len().checked_sub(32).filter(|&body| body >= HEADER_BYTES)?;
    let (body, sum) = bytes.split_at(body);
    if body[..8] != MAGIC || Digest::of(body).as_bytes()[..] != *sum {
        return None;
    }
    let layer = std::str::from_utf8(&body[8..HEADER_BYTES]).ok()?.parse().ok()?;
    let mark = |bytes: &[u8]| {
        let (digest, rest) = bytes.split_first_chunk::<32>()?;
        let (entries, rest) = rest.split_first_chunk()?;
        let (tar, state) = rest.split_first_chunk()?;
        let entries = usize::try_from(u64::from_le_bytes(*entries)).ok()?;
        let prefix = TarPrefix::new(entries, u64::from_le_bytes(*tar), state.try_into().ok()?)?;
        Some(Mark { digest: Digest::from_bytes(*digest), prefix })
    };
    let marks = body[HEADER_BYTES..].chunks(MARK_BYTES).map(mark).collect::<Option<Vec<Mark>>>()?;
    Some((layer, marks))
}
