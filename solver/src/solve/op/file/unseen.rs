//! Large files of which the store cannot have a copy.
//!
//! The key of a copy is made of its files' bytes, which are therefore read before anything is written; and then the tar's
//! SHA-256, one thread's work, takes longer than all the rest. Where no layer has as many bytes as the plan, no record can
//! have its key either: such files are written at once, and every byte is read once, for the copy, the key and the tar.

use std::collections::HashSet;

use kiln_cache::{Claim, Lookup};
use kiln_image::layer::MAX_LAYER_BYTES;

use super::CopyError;
use super::earlier;
use super::place::{Data, LayerPlan, Node, SourceFile};
use super::plan::Archives;
use super::write::READ_WHOLE_BYTES;
use crate::solve::SolveError;
use crate::solve::key::KeyHasher;
use crate::solve::op::Step;

/// Fewer bytes are hashed soon enough.
const WORTH_BYTES: u64 = 64 << 20;

/// The right to write the plan before its key is known, if that is worth it. Others that would copy files of such names
/// and sizes wait, and find then that there is a layer with as many bytes.
pub(super) fn claim(
    step: &Step<'_>,
    plan: &LayerPlan<'_>,
    archives: &Archives,
) -> Result<Option<Claim>, SolveError> {
    let solver = step.solver;
    let is_local = step.forecast.is_none() && solver.rehearsal.is_none() && !solver.remote.is_used();
    let has_archives = !matches!(archives, Archives::Named(named) if named.is_empty());
    // What is remembered for the next copy are digests.
    if !is_local || has_archives || earlier::is_worth(plan) {
        return Ok(None);
    }
    let unread = unread(plan).filter_map(|file| file.entry().kind.file_bytes());
    let size_bytes = plan.size_bytes();
    let is_large = (WORTH_BYTES..=MAX_LAYER_BYTES).contains(&size_bytes);
    if !is_large || unread.fold(0, u64::saturating_add) < WORTH_BYTES {
        return Ok(None);
    }
    if solver.store.has_layer_of_size(size_bytes)? {
        return Ok(None);
    }
    let mut key = KeyHasher::new("copy without a key");
    for (path, node) in plan.nodes() {
        if let Some(size) = node.entry.kind.file_bytes() {
            key.bytes(path.as_os_str().as_encoded_bytes()).number(size);
        }
    }
    match step.claim(&key.finish())? {
        Lookup::Missing(claim) if !solver.store.has_layer_of_size(size_bytes)? => Ok(Some(claim)),
        _ => Ok(None),
    }
}

/// The nodes that are hashed while they are written.
pub(super) fn fed(plan: &LayerPlan<'_>) -> HashSet<usize> {
    let is_fed = |node: &Node| {
        let is_unread = matches!(&node.data, Data::Source(file) if file.entry().digest.is_none());
        let is_large = node.entry.kind.file_bytes().is_some_and(|bytes| bytes > READ_WHOLE_BYTES);
        // Of files with several names only one is written.
        is_unread && is_large && node.link_group().is_none()
    };
    plan.nodes().enumerate().filter(|(_, (_, node))| is_fed(node)).map(|(number, _)| number).collect()
}

/// Checks that what was hashed after it was written is still what was written.
///
/// # Errors
/// A file changed; I/O.
pub(super) fn check(plan: &LayerPlan<'_>) -> Result<(), SolveError> {
    for file in unread(plan) {
        let then = file.entry();
        let now = file.tree.entry(&then.path)?;
        if now.is_none_or(|now| (&now.kind, now.mtime_ns) != (&then.kind, then.mtime_ns)) {
            return Err(CopyError::Changed(then.path.clone()).into());
        }
    }
    Ok(())
}

/// The files of which nobody knows the digest yet.
fn unread<'a>(plan: &'a LayerPlan<'_>) -> impl Iterator<Item = &'a SourceFile> {
    plan.nodes().filter_map(|(_, node)| match &node.data {
        Data::Source(file) if file.entry().digest.is_none() => Some(file),
        _ => None,
    })
}
