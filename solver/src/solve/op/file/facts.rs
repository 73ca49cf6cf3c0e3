//! What a copy is made of, file by file.

use std::path::PathBuf;
use std::sync::Arc;

use kiln_cache::{EntryKind, SourceTree};
use kiln_image::{ContentsDigest, Digest};

use super::place::{self, Data, LayerPlan};
use super::plan::Archives;
use super::{Digests, plan_materialized, select};
use crate::explain::{self, Facts, FileFact};
use crate::solve::op::Step;
use crate::solve::{Snapshot, SolveError};

/// What is at `path` in `tree`, file by file, for explanations.
pub(in crate::solve::op) fn facts_at(
    tree: &Arc<dyn SourceTree>,
    path: &str,
) -> Result<Vec<FileFact>, SolveError> {
    let mut plan = LayerPlan::new(None);
    plan_materialized(&mut plan, tree, path, None)?;
    let digests = Digests::of(&plan)?;
    Ok(file_facts(&plan, &digests.files))
}

/// What a process sees at a path of a tree.
pub(in crate::solve::op) struct Part {
    pub(in crate::solve::op) contents: ContentsDigest,
    pub(in crate::solve::op) files: Vec<FileFact>,
}

/// What is at `path` in `tree`, links followed; `None` if there is nothing.
pub(in crate::solve::op) fn part_at(
    tree: &Arc<dyn SourceTree>,
    path: &str,
) -> Result<Option<Part>, SolveError> {
    if tree.entry(&tree.resolve(&select::clean(path))?)?.is_none() {
        return Ok(None);
    }
    let mut plan = LayerPlan::new(None);
    plan_materialized(&mut plan, tree, path, None)?;
    let digests = Digests::of(&plan)?;
    Ok(Some(Part { contents: digests.contents, files: file_facts(&plan, &digests.files) }))
}

/// What the key is made of, for explanations; `digests` as the plan's nodes.
pub(super) fn facts(
    step: &Step<'_>,
    plan: &LayerPlan<'_>,
    digests: &[Option<Digest>],
    archives: &Archives,
    parent: &Snapshot,
) -> Facts {
    let mut files = file_facts(plan, digests);
    let mut has_archives = false;
    if let Archives::Named(named) = archives {
        has_archives = !named.is_empty();
        files.extend(named.iter().map(|archive| {
            let (uid, gid) = archive.meta.owner.unwrap_or_default();
            let source = archive.entry.path.to_string_lossy().into_owned();
            let dest = format!("/{}//{source}", archive.dest.display());
            FileFact(dest, source, 'a', 0, uid, gid, explain::short(&archive.digest))
        }));
    }
    let mut facts = Facts::of_files(&step.vertex.created_by, &step.vertex.platform, files);
    if has_archives {
        facts.set_root(parent);
    }
    facts
}

fn file_facts(plan: &LayerPlan<'_>, digests: &[Option<Digest>]) -> Vec<FileFact> {
    let of_node = |((path, node), digest): ((&PathBuf, &place::Node), &Option<Digest>)| {
        let entry = &node.entry;
        let source = match &node.data {
            Data::Source(file) => file.entry().path.to_string_lossy().into_owned(),
            Data::Inline(_) | Data::None => String::new(),
        };
        let (kind, mut rest) = match &entry.kind {
            EntryKind::File { .. } => ('f', digest.as_ref().map(explain::short).unwrap_or_default()),
            EntryKind::Dir => ('d', String::new()),
            EntryKind::Symlink(target) => ('l', target.to_string_lossy().into_owned()),
            EntryKind::Fifo => ('p', String::new()),
            EntryKind::CharDevice { major, minor } => ('c', format!("{major}:{minor}")),
            EntryKind::BlockDevice { major, minor } => ('b', format!("{major}:{minor}")),
        };
        if !entry.xattrs.is_empty() {
            rest.push_str(&explain::fingerprint(format!("{:?}", entry.xattrs).as_bytes()));
        }
        FileFact(
            place::shown(path).to_string_lossy().into_owned(),
            source,
            kind,
            entry.mode,
            entry.uid,
            entry.gid,
            rest,
        )
    };
    plan.nodes().zip(digests).map(of_node).collect()
}
