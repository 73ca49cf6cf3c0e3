//! The store: what kiln remembers from one build to the next.
//!
//! Here: blobs, layers, step records, image names, cache mounts, locks; contents digests of trees; the file-hash index
//! of contexts; source trees to copy from.
//! Not here: what a step key is made of (`kiln-solver`), how a step runs (`kiln-sandbox`).
//!
//! Invariant: a [`Record`] names complete layers only; whatever is visible was renamed in whole.
//! Start at [`Store::find_or_claim`] and [`Claim::commit`].
#![forbid(unsafe_code)]

mod contents;
mod listing;
mod pool;
mod space;
mod store;
mod tree;
mod tree_digest;
mod unchanged;

pub use listing::LayerListing;
pub use pool::spread;
pub use space::Space;
pub use store::{
    BlobWriter, BuildRow, CacheMount, CacheMountRequest, CheckDepth, Claim, Committed, Cost, Details, Disk,
    ImageRecord, ImageRule, InvalidLayerId, Keep, Layer, LayerDraft, LayerFacts, LayerId, Lookup,
    MountSharing, NewRecord, Problem, Prune, Pruned, Record, Removed, RemovedBy, Repair, StepKey, Store,
    StoreError, Usage, UsageKind, Wait,
};
pub use tree::{
    BytesHasher, ContextTree, Entry, EntryKind, LayerDir, LayerTree, PathFilter, SourceTree, TreeError,
    Verdict, bytes_digest, squash_layers,
};
pub use tree_digest::{SelectionDigest, TreeDigest, selection_digest, tree_digest};
