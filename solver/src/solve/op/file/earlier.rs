//! The layer that the same COPY made the last time.
//!
//! After one edit among thousands of files all others are still there, in a layer that nothing ever writes to: they get a
//! further name in the new layer instead of a copy. What that layer was made of is remembered beside the context's index;
//! a file is taken only if its digest and all of its metadata are what is wanted now.
//!
//! A record of the file ([`super::memory`]), all numbers little-endian:
//! ```text
//! path length u32 · mode u32 · uid u32 · gid u32 · mtime i64 · digest 32 bytes · path
//! ```
//! Whatever is wrong with the file or the layer, nothing is taken from it.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use kiln_cache::{Entry, EntryKind, LayerId, Store};
use kiln_image::Digest;
use rustix::fs::{self as sys, AtFlags, FileType, Mode, OFlags};

use super::Digests;
use super::memory::{Magic, Memory, NewMemory};
use super::place::{Data, LayerPlan, Node};
use crate::solve::key::KeyHasher;

/// Below so many entries a layer is written sooner than remembered.
const WORTH_ENTRIES: usize = 256;

const MAGIC: Magic = *b"kilncpy1";
const FIXED_BYTES: usize = 4 + 3 * 4 + 8 + 32;

/// Whether the plan's layer is worth remembering.
pub(super) fn is_worth(plan: &LayerPlan<'_>) -> bool {
    plan.len() >= WORTH_ENTRIES
}

/// Where the layers of an operation are remembered, which `what` names beside the tree it copies from; `None` for what is too small, or comes from a tree that is another each time.
pub(super) fn memory_path(store: &Store, plan: &LayerPlan<'_>, what: &str) -> Option<PathBuf> {
    if !is_worth(plan) {
        return None;
    }
    let tree = plan.nodes().find_map(|(_, node)| match &node.data {
        Data::Source(file) => file.tree.identity(),
        _ => None,
    })?;
    let mut key = KeyHasher::new("earlier copy");
    key.digest(&tree).bytes(what.as_bytes());
    Some(store.copy_memory_path(&key.finish().0))
}

/// Files of an earlier layer that are as the plan wants them.
pub(super) struct Earlier {
    layer: LayerId,
    dir: OwnedFd,
    /// One flag for each of the plan's nodes.
    is_same: Vec<bool>,
    /// When directories were made that this copy makes too, by their number among the plan's nodes. They come before all
    /// else in the tar, which is then the same up to the first change.
    made_ns: HashMap<usize, i128>,
}

impl Earlier {
    /// Looks for an earlier layer and compares.
    pub(super) fn find(
        store: &Store,
        memory: &Path,
        plan: &LayerPlan<'_>,
        digests: &Digests,
    ) -> Option<Self> {
        let found = Memory::read(memory, MAGIC)?;
        let (layer, files) = (found.layer, parse(found.records())?);
        if !store.has_layer(layer).unwrap_or_default() {
            // Best effort: it is of no use to anyone.
            drop(std::fs::remove_file(memory));
            return None;
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = sys::open(store.layer_path(layer), flags, Mode::empty()).ok()?;
        let mut files = files.into_iter().peekable();
        let is_same = plan.nodes().zip(&digests.files).map(|((path, node), digest)| {
            let Some(wanted) = record(node, digest.as_ref()) else { return false };
            // Both are in one order.
            while files.next_if(|(known, _)| *known != path && *known < path).is_some() {}
            files.next_if(|(known, _)| *known == path).is_some_and(|(_, known)| known == wanted)
        });
        let is_same = is_same.collect();
        let made = plan.nodes().enumerate().filter(|(_, (_, node))| plan.is_made_now(&node.entry));
        let made_ns = made
            .filter_map(|(index, (path, node))| Some((index, time_of_dir(&dir, path, &node.entry)?)))
            .collect();
        Some(Self { layer, dir, is_same, made_ns })
    }

    /// Its directory.
    pub(super) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Which layer it is.
    pub(super) fn layer(&self) -> LayerId {
        self.layer
    }

    /// Whether the plan's entry of this number is there as it is wanted.
    pub(super) fn has(&self, index: usize) -> bool {
        self.is_same.get(index).copied().unwrap_or_default()
    }

    /// The time of the plan's entry of this number: that of the earlier copy, where this one has none of its own.
    pub(super) fn mtime_ns(&self, index: usize, entry: &Entry) -> i128 {
        self.made_ns.get(&index).copied().unwrap_or(entry.mtime_ns)
    }
}

/// The time of the directory `path` in a layer, if it is there as it is `wanted`.
fn time_of_dir(layer: &OwnedFd, path: &Path, wanted: &Entry) -> Option<i128> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let found = sys::statat(layer, path, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    let is_same = FileType::from_raw_mode(found.st_mode) == FileType::Directory
        && (found.st_mode & 0o7777, found.st_uid, found.st_gid) == (wanted.mode, wanted.uid, wanted.gid);
    is_same.then(|| i128::from(found.st_mtime) * 1_000_000_000 + i128::from(found.st_mtime_nsec))
}

/// Remembers what `layer` is about to be made of. That it cannot be written down costs time only.
pub(super) fn remember(memory: &Path, layer: LayerId, plan: &LayerPlan<'_>, digests: &Digests) {
    let mut files = NewMemory::new(MAGIC, layer, plan.len() * (FIXED_BYTES + 48));
    for ((path, node), digest) in plan.nodes().zip(&digests.files) {
        let Some(record) = record(node, digest.as_ref()) else { continue };
        let path = path.as_os_str().as_bytes();
        // Paths come from the kernel, which has none near 4 GiB.
        files.add(u32::try_from(path.len()).unwrap_or_default().to_le_bytes());
        files.add(record);
        files.add(path);
    }
    files.keep(memory);
}

/// What must be equal for a file to be taken; `None` for what is never taken.
fn record(node: &Node, digest: Option<&Digest>) -> Option<[u8; FIXED_BYTES - 4]> {
    let entry = &node.entry;
    let is_plain = matches!(entry.kind, EntryKind::File { .. })
        && matches!(node.data, Data::Source(_))
        // A name more of it would be one in this layer.
        && node.link_group().is_none()
        && entry.xattrs.is_empty();
    let mtime_ns = i64::try_from(entry.mtime_ns).ok().filter(|_| is_plain)?;
    let mut record = [0; FIXED_BYTES - 4];
    record[..4].copy_from_slice(&entry.mode.to_le_bytes());
    record[4..8].copy_from_slice(&entry.uid.to_le_bytes());
    record[8..12].copy_from_slice(&entry.gid.to_le_bytes());
    record[12..20].copy_from_slice(&mtime_ns.to_le_bytes());
    record[20..].copy_from_slice(digest?.as_bytes());
    Some(record)
}

/// Paths and records, in the order of the plan that was written.
type Records<'a> = Vec<(&'a Path, &'a [u8])>;

/// The files' records.
fn parse(mut rest: &[u8]) -> Option<Records<'_>> {
    let mut files = Vec::with_capacity(rest.len() / (FIXED_BYTES + 32));
    while !rest.is_empty() {
        let (fixed, behind) = rest.split_at_checked(FIXED_BYTES)?;
        let length = u32::from_le_bytes(fixed[..4].try_into().ok()?);
        let (path, behind) = behind.split_at_checked(usize::try_from(length).ok()?)?;
        files.push((Path::new(OsStr::from_bytes(path)), &fixed[4..]));
        rest = behind;
    }
    Some(files)
}
