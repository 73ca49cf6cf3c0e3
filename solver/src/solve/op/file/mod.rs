//! COPY, ADD of local files, WORKDIR, inline files: layers made without running anything.
//!
//! An operation is first planned in memory: which entry goes where, with which mode and owner, looking only at those
//! places of the parent that matter. The plan is the new layer entry for entry, so its digest *is* the step's key: two
//! parents that answer alike, or two instructions that write the same, share the layer. Only on a miss are the files
//! written, straight into what becomes the layer.
//!
//! `plan` goes through the actions, `select` chooses source entries, `place` says where they go, `write` writes, `earlier` spares
//! writing what the same copy wrote before, `follow` hashes what is being written, `resume` begins that behind what is
//! known, `memory` is how the two remember, `unseen` writes before the key is known, `owner` and `chmod` read flags.

pub(crate) mod chmod;
mod definition;
mod earlier;
mod error;
mod facts;
mod follow;
mod memory;
mod owner;
mod place;
mod plan;
mod resume;
mod select;
mod unseen;
mod write;

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kiln_cache::{
    Claim, Entry, EntryKind, Layer, LayerDraft, LayerTree, Lookup, SelectionDigest, SourceTree, Space,
    StepKey, bytes_digest,
};
use kiln_image::layer::{self, ExtractOptions};
use kiln_image::{ContentsDigest, Digest};
use kiln_sandbox::Usage;

pub(super) use definition::is_at_hand;
pub use error::CopyError;
pub(super) use facts::{Part, facts_at, part_at};
pub(super) use select::clean;

use self::earlier::Earlier;
use self::follow::Follower;
use self::place::{Data, LayerPlan, Meta, Unpacked};
use self::plan::{Archives, NamedArchive, Planner, Sources};
use self::resume::{Listed, Resume};
use super::{Made, Step};
use crate::graph::{File, InputIndex};
use crate::solve::key::KeyHasher;
use crate::solve::{Output, Snapshot, SolveError, layers};

/// Mode of directories made on the way to a destination.
const CREATED_DIR_MODE: u32 = 0o755;

/// Mode of an inline file.
const INLINE_FILE_MODE: u32 = 0o644;

/// Runs a file operation.
pub(super) fn run(step: &Step<'_>, file: &File) -> Result<Output, SolveError> {
    let parent = step.snapshot(InputIndex(0))?;
    let is_of_images = definition::is_of_images(step, file);
    let definition = match is_of_images || step.solver.remote.is_used() {
        true => definition::key(step, file, &parent)?,
        false => None,
    };
    // What it came to before. Of a context all files must be looked at for that anyway.
    let remembered = definition.filter(|_| is_of_images && step.forecast.is_none());
    if let Some(remembered) = &remembered
        && let Some(key) = step.solver.store.defined(remembered)?
        && let Some(output) = step.found(&key, definition, &parent)?
    {
        return Ok(output);
    }
    if step.solver.remote.is_used()
        && let Some(key) = &definition
        && !definition::is_at_hand(step, &parent)?
        && let Some(output) = step.import(key, &parent)
    {
        return Ok(output);
    }
    let view = if parent.is_empty() { None } else { Some(layers::tree(step.solver, &parent)?) };
    let sources = Sources::of(step, file)?;
    let mut planner =
        Planner { view: view.as_ref(), sources: &sources, archives: Archives::Named(Vec::new()) };
    let plan = planner.plan(file)?;
    if let Some(claim) = unseen::claim(step, &plan, &planner.archives)? {
        return make_unseen(step, claim, &plan, &planner.archives, &parent, remembered.as_ref());
    }
    let digests = Digests::of(&plan)?;
    let key = key_of(&digests, &planner.archives, &parent);
    let facts = || facts::facts(step, &plan, &digests.files, &planner.archives, &parent);
    let archives = match &planner.archives {
        Archives::Named(named) if !named.is_empty() => named,
        _ => {
            if let Some(remembered) = &remembered {
                step.solver.store.define(remembered, &key)?;
            }
            return step.find_or_make(key, definition, &parent, &facts, |_| {
                make(step, &plan, Some((&digests, format!("{:?}", file.actions))))
            });
        }
    };
    // What is in the archives decides what they replace, so the plan is made again with them; on which parents it comes
    // to the same is remembered.
    let extract = || -> Result<_, SolveError> {
        let unpacked = unpack(step, archives)?;
        let archives = unpacked.iter().map(|archive| Arc::clone(&archive.contents)).collect();
        let mut planner =
            Planner { view: view.as_ref(), sources: &sources, archives: Archives::Unpacked(archives) };
        let plan = planner.plan(file)?;
        let digests = Digests::of(&plan)?;
        Ok((unpacked, plan, digests))
    };
    let (key, extracted) = match step.solver.store.defined(&key)? {
        Some(known) => (known, None),
        // Nothing is written then.
        None if step.forecast.is_some() => (key, None),
        None => {
            let extracted = extract()?;
            let found = key_of(&extracted.2, &Archives::Named(Vec::new()), &Snapshot::default());
            step.solver.store.define(&key, &found)?;
            (found, Some(extracted))
        }
    };
    step.find_or_make(key, definition, &parent, &facts, |_| {
        let (_unpacked, plan, digests) = match extracted {
            Some(extracted) => extracted,
            None => extract()?,
        };
        let made = make(step, &plan, None)?;
        Ok(Made { contents: Some(digests.contents), ..made })
    })
}

/// Writes what the store cannot have, and makes the key of what was read on the way, to which `definition` comes.
fn make_unseen(
    step: &Step<'_>,
    claim: Claim,
    plan: &LayerPlan<'_>,
    archives: &Archives,
    parent: &Snapshot,
    definition: Option<&StepKey>,
) -> Result<Output, SolveError> {
    let digests = OnceCell::new();
    let facts = || {
        // None where it failed before.
        let known = digests.get().map_or(&[][..], |digests: &Digests| &digests.files);
        facts::facts(step, plan, known, archives, parent)
    };
    step.make_unkeyed(claim, parent, &facts, |_| {
        let (made, hashed) = write_layer(step, plan, None, unseen::fed(plan))?;
        let read = Digests::with(plan, &hashed)?;
        unseen::check(plan)?;
        let key = key_of(&read, archives, parent);
        if let Some(definition) = definition {
            step.solver.store.define(definition, &key)?;
        }
        let made = Made { contents: Some(read.contents), key: Some(key), ..made };
        // Nobody else sets it.
        drop(digests.set(read));
        Ok(made)
    })
}

/// A layer that holds `path` of `tree` at its root, found or made: what a bind mount of a context shows. All of it is
/// `owner`'s (user and group), if one is given. Returns the layer and the path inside.
pub(super) fn materialize(
    step: &Step<'_>,
    tree: &Arc<dyn SourceTree>,
    path: &str,
    owner: Option<(u32, u32)>,
) -> Result<(Layer, PathBuf), SolveError> {
    let mut plan = LayerPlan::new(None);
    let inside = plan_materialized(&mut plan, tree, path, owner)?;
    plan.finish()?;
    let digests = Digests::of(&plan)?;
    let key = key_of(&digests, &Archives::Named(Vec::new()), &Snapshot::default());
    let mut on_wait = |_: kiln_cache::Wait<'_>| {};
    let record = match step.solver.store.find_or_claim(&key, &mut on_wait, &step.solver.cancel)? {
        Lookup::Found(record) => record,
        Lookup::Missing(claim) => {
            let made = make(step, &plan, Some((&digests, format!("bind {path}"))))?;
            step.commit(claim, made, Duration::ZERO, Vec::new())?
        }
    };
    let layer = record.layers.first().copied();
    Ok((layer.ok_or_else(|| SolveError::LayerGone(path.to_owned()))?, inside))
}

/// The digest of `path` in `tree`, as keys of bind mounts have it.
pub(super) fn contents_at(tree: &Arc<dyn SourceTree>, path: &str) -> Result<ContentsDigest, SolveError> {
    let mut plan = LayerPlan::new(None);
    plan_materialized(&mut plan, tree, path, None)?;
    Ok(Digests::of(&plan)?.contents)
}

/// Copies `path` of `tree`, and of what is below it what `keep` says of its path from there, into the existing, empty
/// directory `target` of the host's; all of it is `owner`'s (user and group), if one is given.
///
/// # Errors
/// Reading, writing.
pub fn copy_out(
    tree: &Arc<dyn SourceTree>,
    path: &str,
    target: &Path,
    owner: Option<(u32, u32)>,
    keep: &dyn Fn(&Path) -> bool,
) -> Result<(), SolveError> {
    let mut plan = LayerPlan::new(None);
    plan_part(&mut plan, tree, path, owner, keep)?;
    write::write(&plan, target, None, None)?;
    Ok(())
}

/// Where [`copy_out`] puts what is at `path`: nowhere in particular for a directory, which becomes the target itself.
///
/// # Errors
/// As of [`copy_out`].
pub(super) fn place_in_copy(tree: &Arc<dyn SourceTree>, path: &str) -> Result<PathBuf, SolveError> {
    Ok(found_at(tree, path)?.1)
}

/// What is at `path`, behind all links, and its name where it is no directory.
fn found_at(tree: &Arc<dyn SourceTree>, path: &str) -> Result<(Entry, PathBuf), SolveError> {
    let resolved = tree.resolve(&select::clean(path))?;
    let Some(entry) = tree.entry(&resolved)? else {
        return Err(CopyError::not_found(tree, path).into());
    };
    let name = match entry.kind {
        EntryKind::Dir => PathBuf::new(),
        _ => resolved.file_name().map(PathBuf::from).unwrap_or_default(),
    };
    Ok((entry, name))
}

fn plan_materialized(
    plan: &mut LayerPlan<'_>,
    tree: &Arc<dyn SourceTree>,
    path: &str,
    owner: Option<(u32, u32)>,
) -> Result<PathBuf, SolveError> {
    plan_part(plan, tree, path, owner, &|_| true)
}

/// As [`plan_materialized`], without what `keep` does not want of what is below.
fn plan_part(
    plan: &mut LayerPlan<'_>,
    tree: &Arc<dyn SourceTree>,
    path: &str,
    owner: Option<(u32, u32)>,
    keep: &dyn Fn(&Path) -> bool,
) -> Result<PathBuf, SolveError> {
    let meta = Meta { owner, ..Meta::default() };
    let (entry, name) = found_at(tree, path)?;
    if entry.kind == EntryKind::Dir {
        plan.root_from(&entry, owner);
        plan.copy_children(tree, &entry, Path::new(""), &meta, keep)?;
        return Ok(PathBuf::new());
    }
    plan.put_entry(tree, &entry, &name, &meta)?;
    Ok(name)
}

/// Writes the plan's files into a new layer. With their digests, words that are the same when this is done again after an
/// edit.
fn make(
    step: &Step<'_>,
    plan: &LayerPlan<'_>,
    known: Option<(&Digests, String)>,
) -> Result<Made, SolveError> {
    Ok(write_layer(step, plan, known, HashSet::new())?.0)
}

/// As `make`; where the tar is hashed, the nodes `fed` are hashed on the way too, and their digests are returned.
fn write_layer(
    step: &Step<'_>,
    plan: &LayerPlan<'_>,
    known: Option<(&Digests, String)>,
    fed: HashSet<usize>,
) -> Result<(Made, HashMap<usize, Digest>), SolveError> {
    let store = step.solver.store;
    let draft = store.draft_layer()?;
    let digests = known.as_ref().map(|(digests, _)| *digests);
    let memory = known.and_then(|(digests, what)| Some((digests, earlier::memory_path(store, plan, &what)?)));
    let earlier = memory
        .as_ref()
        .and_then(|(digests, memory)| Earlier::find(store, memory, plan, digests))
        .map(Arc::new);
    let resume = |listed: &Listed| {
        let path = resume::states_path(store, &memory.as_ref()?.1);
        Some(Resume::find(path, draft.id(), earlier.as_deref(), listed))
    };
    let follower = if step.is_in_result {
        Follower::start(plan, digests, earlier.as_ref(), &draft.fs(), fed, resume)
    } else {
        None
    };
    let progress = follower.as_ref().map(Follower::progress);
    let written = write::write(plan, &draft.fs(), earlier.as_deref(), progress)?;
    if let Some((digests, memory)) = &memory {
        earlier::remember(memory, draft.id(), plan, digests);
    }
    let contents = digests.map(|digests| digests.contents);
    let made = Made {
        draft,
        contents,
        size_bytes: Some(plan.size_bytes()),
        space: Some(space_of(plan, earlier.as_deref(), written.holes)),
        log: Vec::new(),
        usage: Usage::default(),
        diff_id: follower.and_then(Follower::written),
        key: None,
    };
    Ok((made, written.digests))
}

/// What the plan's layer takes on disk, `holes` bytes of it as holes.
fn space_of(plan: &LayerPlan<'_>, earlier: Option<&Earlier>, holes: u64) -> Space {
    let mut space = Space { shared_with: earlier.map(Earlier::layer), ..Space::default() };
    let mut groups = std::collections::HashSet::new();
    for (index, (_, node)) in plan.nodes().enumerate() {
        if node.link_group().is_some_and(|group| !groups.insert(group)) {
            continue;
        }
        let bytes = match &node.entry.kind {
            EntryKind::File { size, .. } => Space::of_file(*size),
            EntryKind::Dir => Space::of_dir(),
            _ => Space::of_other(),
        };
        space.bytes += bytes;
        if earlier.is_some_and(|earlier| earlier.has(index)) {
            space.shared_bytes += bytes;
        }
    }
    space.bytes = space.bytes.saturating_sub(holes);
    space
}

fn key_of(digests: &Digests, archives: &Archives, parent: &Snapshot) -> StepKey {
    let mut key = KeyHasher::new("file");
    key.contents(&digests.contents);
    if let Archives::Named(named) = archives
        && !named.is_empty()
    {
        // Raised whenever an archive is laid over a destination in another way.
        key.text("laid over, 2").number(named.len() as u64);
        for archive in named {
            key.digest(&archive.digest).bytes(archive.dest.as_os_str().as_encoded_bytes());
            key.flag(archive.meta.owner.is_some());
            let (uid, gid) = archive.meta.owner.unwrap_or_default();
            key.number(u64::from(uid)).number(u64::from(gid));
        }
        // What an archive replaces is anywhere in the parent.
        key.snapshot(parent);
    }
    key.finish()
}

/// An archive's files.
struct UnpackedArchive {
    contents: Arc<Unpacked>,
    /// Removes the files on drop.
    _files: LayerDraft,
}

fn unpack(step: &Step<'_>, archives: &[NamedArchive]) -> Result<Vec<UnpackedArchive>, SolveError> {
    archives
        .iter()
        .map(|archive| {
            let files = step.solver.store.scratch_dir()?;
            let fs = files.fs();
            let target =
                std::fs::File::open(&fs).map_err(|source| SolveError::Io { path: fs.clone(), source })?;
            let mut reader = archive.tree.open(&archive.entry.path)?;
            let options = ExtractOptions { owner: archive.meta.owner };
            let implied = layer::extract_archive(&mut reader, target.as_fd(), options)?.implied;
            let contents = Unpacked { tree: Arc::new(LayerTree::open(&[fs])?), implied };
            Ok(UnpackedArchive { contents: Arc::new(contents), _files: files })
        })
        .collect()
}

/// The digests of all that a plan writes.
struct Digests {
    contents: ContentsDigest,
    /// In the plan's order, of files' bytes.
    files: Vec<Option<Digest>>,
}

impl Digests {
    fn of(plan: &LayerPlan<'_>) -> Result<Self, SolveError> {
        Self::with(plan, &HashMap::new())
    }

    /// Those that are `known`, by the nodes' numbers, are not looked for.
    fn with(plan: &LayerPlan<'_>, known: &HashMap<usize, Digest>) -> Result<Self, SolveError> {
        let (size_bytes, limit) = (plan.size_bytes(), layer::MAX_LAYER_BYTES);
        if size_bytes > limit {
            return Err(CopyError::TooLarge { size_bytes, limit }.into());
        }
        let mut files = Vec::with_capacity(plan.len());
        // Files by tree, so that each tree can hash its own in parallel and use its index.
        type FromTree = (Arc<dyn SourceTree>, Vec<usize>, Vec<Entry>);
        let mut by_tree: HashMap<*const (), FromTree> = HashMap::new();
        for (index, (_, node)) in plan.nodes().enumerate() {
            files.push(match &node.data {
                Data::None => None,
                Data::Inline(bytes) => Some(bytes_digest(bytes)),
                Data::Source(_) if known.contains_key(&index) => known.get(&index).copied(),
                Data::Source(source) if source.entry().digest.is_some() => source.entry().digest,
                Data::Source(source) => {
                    let slot = by_tree
                        .entry(Arc::as_ptr(&source.tree).cast())
                        .or_insert_with(|| (Arc::clone(&source.tree), Vec::new(), Vec::new()));
                    slot.1.push(index);
                    slot.2.push(source.entry().clone());
                    None
                }
            });
        }
        let groups: Vec<_> = by_tree.into_values().collect();
        let hashed: Vec<_> = groups.iter().map(|(tree, _, entries)| tree.digests(entries)).collect();
        for ((_, indices, _), hashed) in groups.iter().zip(hashed) {
            for (&index, digest) in indices.iter().zip(hashed?) {
                files[index] = digest;
            }
        }
        let mut contents = SelectionDigest::new();
        for ((path, node), digest) in plan.nodes().zip(&files) {
            // Inodes' numbers are not contents; which files are one file is. A file with names elsewhere is like any.
            contents.add(path, &node.entry, node.link_group(), digest.as_ref());
        }
        Ok(Self { contents: contents.finish(), files })
    }
}
