//! A key of a file operation that needs no file of the images it works on.
//!
//! The key of an operation is made of what it writes, for which its parent and the stages it copies from must be looked
//! into. In a build whose earlier steps were all found in a remote cache they are not here, and fetching them only to
//! find the next step in the same cache would be for nothing. So caches also know the step by what it *would* look at:
//! the instruction, the contents of its images as their names, and what is selected of contexts. Whoever hits by this key
//! hits by the other one, too; not the other way round.
//!
//! The store remembers to which key each came, so that a copy from a stage that was made before reads nothing of either.

use std::collections::HashMap;

use kiln_cache::StepKey;

use super::plan::{Archives, Planner, Sources};
use super::{Digests, Step, key_of};
use crate::graph::{File, FileAction, InputIndex, Op, Source};
use crate::solve::key::KeyHasher;
use crate::solve::{Output, Snapshot, SolveError, layers};

/// The key; `None` if what the operation selects cannot be told without its parent.
pub(super) fn key(step: &Step<'_>, file: &File, parent: &Snapshot) -> Result<Option<StepKey>, SolveError> {
    // To be raised whenever what a copy writes comes out another way.
    let mut key = KeyHasher::new("file by definition");
    // Derived `Debug` quotes its strings and names its fields: no two operations have the same.
    key.text(&format!("{file:?}")).snapshot(parent);
    let mut of_trees = File { actions: Vec::new() };
    let mut sources = Sources { trees: HashMap::new(), downloads: HashMap::new() };
    for action in &file.actions {
        let FileAction::Copy { input, options, .. } = action else { continue };
        key.number(input.0 as u64);
        match step.inputs.get(input.0) {
            Some(Output::Snapshot(snapshot)) => _ = key.number(0).snapshot(snapshot),
            Some(Output::Tree(tree)) => {
                key.number(1);
                sources.trees.insert(*input, std::sync::Arc::clone(tree));
                if let Some(Op::Source(Source::Http { .. })) = step.input_ops.get(input.0) {
                    sources.downloads.insert(*input, ());
                }
                // Names of users stand in the parent's files; the text above has them.
                let mut action = action.clone();
                let mut plain = options.clone();
                plain.owner = None;
                if let FileAction::Copy { options, .. } = &mut action {
                    *options = plain;
                }
                of_trees.actions.push(action);
            }
            None => {
                return Err(SolveError::MissingInput { what: "input", name: input.0.to_string() });
            }
        }
    }
    if !of_trees.actions.is_empty() {
        let mut planner = Planner { view: None, sources: &sources, archives: Archives::Named(Vec::new()) };
        // What is wrong with it is said where it is done.
        let Ok(plan) = planner.plan(&of_trees) else { return Ok(None) };
        key.digest(&key_of(&Digests::of(&plan)?, &planner.archives, parent).0);
    }
    Ok(Some(key.finish()))
}

/// Whether it copies, and from images only.
pub(super) fn is_of_images(step: &Step<'_>, file: &File) -> bool {
    let mut inputs = file.actions.iter().filter_map(|action| match action {
        FileAction::Copy { input, .. } => Some(matches!(step.inputs.get(input.0), Some(Output::Snapshot(_)))),
        _ => None,
    });
    inputs.next() == Some(true) && inputs.all(|is_image| is_image)
}

/// Whether all images that the operation would look into are unpacked here.
pub(in crate::solve::op) fn is_at_hand(step: &Step<'_>, parent: &Snapshot) -> Result<bool, SolveError> {
    let inputs = (1..step.inputs.len()).map(InputIndex).filter_map(|index| step.snapshot(index).ok());
    for snapshot in inputs.chain([parent.clone()]) {
        if !layers::are_here(step.solver, &snapshot)? {
            return Ok(false);
        }
    }
    Ok(true)
}
