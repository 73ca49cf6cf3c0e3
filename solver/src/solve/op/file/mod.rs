//! COPY, ADD of local files, WORKDIR, inline files: layers made without running anything.
//!
//! An operation is first planned in memory: which entry goes where, with which mode and owner, looking only at those
//! places of the parent that matter. The plan is the new layer entry for entry, so its digest *is* the step's key: two
//! parents that answer alike, or two instructions that write the same, share the layer. Only on a miss are the files
//! written, straight into what becomes the layer.
//!
//! `select` chooses source entries, `place` says where they go, `write` writes, `earlier` spares
//! writing what the same copy wrote before, `follow` hashes what is being written, `resume` begins that behind what is
//! known, `memory` is how the two remember, `owner` and `chmod` read flags.

pub(crate) mod chmod;
mod definition;
mod earlier;
mod error;
mod facts;
mod follow;
mod memory;
mod owner;
mod place;
mod resume;
mod select;
mod write;

use std::collections::HashMap;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kiln_cache::{
    Entry, EntryKind, Layer, LayerDraft, LayerTree, Lookup, SelectionDigest, SourceTree, Space, StepKey,
    bytes_digest,
};
use kiln_image::ContentsDigest;
use kiln_image::layer::{self, ExtractOptions};
use kiln_sandbox::Usage;

pub(super) use definition::is_at_hand;
pub use error::CopyError;
pub(super) use facts::{Part, facts_at, part_at};
pub(super) use select::clean;

use self::earlier::Earlier;
use self::follow::Follower;
use self::owner::Users;
use self::place::{Data, LayerPlan, Meta};
use self::resume::{Listed, Resume};
use self::select::Selected;
use super::{Made, Step};
use crate::graph::{CopyOptions, File, FileAction, InputIndex, ModeChange, Op, Source};
use crate::solve::key::KeyHasher;
use crate::solve::{Output, Snapshot, SolveError, layers};

/// Mode of directories made on the way to a destination.
const CREATED_DIR_MODE: u32 = 0o755;

/// Mode of an inline file.
const INLINE_FILE_MODE: u32 = 0o644;

/// Runs a file operation.
pub(super) fn run(step: &Step<'_>, file: &File) -> Result<Output, SolveError> {
    let parent = step.snapshot(InputIndex(0))?;
    let definition = if step.solver.remote.is_used() { definition::key(step, file, &parent)? } else { None };
    if let Some(key) = &definition
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
    let digests = Digests::of(&plan)?;
    let key = key_of(&digests, &planner.archives, &parent);
    let facts = || facts::facts(step, &plan, &digests, &planner.archives, &parent);
    let archives = match &planner.archives {
        Archives::Named(named) if !named.is_empty() => named,
        _ => {
            return step.find_or_make(key, definition, &parent, &facts, |_| {
                make(step, &plan, Some((&digests, format!("{:?}", file.actions))))
            });
        }
    };
    // What is in the archives decides what they replace, so the plan is made again with them; on which parents it comes
    // to the same is remembered.
    let extract = || -> Result<_, SolveError> {
        let unpacked = unpack(step, archives)?;
        let trees = unpacked.iter().map(|archive| Arc::clone(&archive.tree)).collect();
        let mut planner =
            Planner { view: view.as_ref(), sources: &sources, archives: Archives::Unpacked(trees) };
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

/// A layer that holds `path` of `tree` at its root, found or made: what a bind mount of a context shows.
/// Returns the layer and the path inside.
pub(super) fn materialize(
    step: &Step<'_>,
    tree: &Arc<dyn SourceTree>,
    path: &str,
) -> Result<(Layer, PathBuf), SolveError> {
    let mut plan = LayerPlan::new(None);
    let inside = plan_materialized(&mut plan, tree, path, None)?;
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

/// Copies `path` of `tree` into the existing, empty directory `target` of the host's; all of it is `owner`'s (user and
/// group), if one is given.
///
/// # Errors
/// Reading, writing.
pub fn copy_out(
    tree: &Arc<dyn SourceTree>,
    path: &str,
    target: &Path,
    owner: Option<(u32, u32)>,
) -> Result<(), SolveError> {
    let mut plan = LayerPlan::new(None);
    plan_materialized(&mut plan, tree, path, owner)?;
    write::write(&plan, target, None, None)?;
    Ok(())
}

fn plan_materialized(
    plan: &mut LayerPlan<'_>,
    tree: &Arc<dyn SourceTree>,
    path: &str,
    owner: Option<(u32, u32)>,
) -> Result<PathBuf, SolveError> {
    let meta = Meta { owner, ..Meta::default() };
    let resolved = tree.resolve(&select::clean(path))?;
    let Some(entry) = tree.entry(&resolved)? else {
        return Err(CopyError::not_found(tree, path).into());
    };
    if entry.kind == EntryKind::Dir {
        plan.root_from(&entry, owner);
        plan.copy_children(tree, &entry, Path::new(""), &meta, &|_| true)?;
        return Ok(PathBuf::new());
    }
    let name = resolved.file_name().map(PathBuf::from).unwrap_or_default();
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
        Follower::start(plan, digests, earlier.as_ref(), &draft.fs(), resume)
    } else {
        None
    };
    let progress = follower.as_ref().map(Follower::progress);
    let holes = write::write(plan, &draft.fs(), earlier.as_deref(), progress)?;
    if let Some((digests, memory)) = &memory {
        earlier::remember(memory, draft.id(), plan, digests);
    }
    let contents = digests.map(|digests| digests.contents);
    Ok(Made {
        draft,
        contents,
        size_bytes: Some(plan.size_bytes()),
        space: Some(space_of(plan, earlier.as_deref(), holes)),
        log: Vec::new(),
        usage: Usage::default(),
        diff_id: follower.and_then(Follower::written),
    })
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
        key.number(named.len() as u64);
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

/// The trees an operation copies from, by input.
struct Sources {
    trees: HashMap<InputIndex, Arc<dyn SourceTree>>,
    /// Inputs that hold one downloaded file, whatever its name.
    downloads: HashMap<InputIndex, ()>,
}

impl Sources {
    fn of(step: &Step<'_>, file: &File) -> Result<Self, SolveError> {
        let mut sources = Self { trees: HashMap::new(), downloads: HashMap::new() };
        for action in &file.actions {
            let FileAction::Copy { input, .. } = action else { continue };
            if sources.trees.contains_key(input) {
                continue;
            }
            let tree: Arc<dyn SourceTree> = match step.inputs.get(input.0) {
                Some(Output::Tree(tree)) => Arc::clone(tree),
                Some(Output::Snapshot(snapshot)) => Arc::new(layers::tree(step.solver, snapshot)?),
                None => {
                    return Err(SolveError::MissingInput { what: "input", name: input.0.to_string() });
                }
            };
            sources.trees.insert(*input, tree);
            if let Some(Op::Source(Source::Http { .. })) = step.input_ops.get(input.0) {
                sources.downloads.insert(*input, ());
            }
        }
        Ok(sources)
    }
}

/// An archive that ADD extracts.
struct NamedArchive {
    tree: Arc<dyn SourceTree>,
    entry: Entry,
    digest: kiln_image::Digest,
    dest: PathBuf,
    meta: Meta,
}

/// What is known of the archives while planning.
enum Archives {
    /// What they are called: enough for the key. Filled by the planner.
    Named(Vec<NamedArchive>),
    /// What is in them, in the order in which they come up.
    Unpacked(std::collections::VecDeque<Arc<dyn SourceTree>>),
}

struct UnpackedArchive {
    tree: Arc<dyn SourceTree>,
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
            layer::extract_archive(&mut reader, target.as_fd(), options)?;
            let tree: Arc<dyn SourceTree> = Arc::new(LayerTree::open(&[fs])?);
            Ok(UnpackedArchive { tree, _files: files })
        })
        .collect()
}

/// Turns actions into a plan.
struct Planner<'a> {
    view: Option<&'a LayerTree>,
    sources: &'a Sources,
    archives: Archives,
}

impl<'a> Planner<'a> {
    fn plan(&mut self, file: &File) -> Result<LayerPlan<'a>, SolveError> {
        let mut plan = LayerPlan::new(self.view.map(|tree| tree as &dyn SourceTree));
        let mut users = Users::new(self.view);
        for action in &file.actions {
            match action {
                FileAction::MakeDir { path, mode, owner } => {
                    let owner = owner.as_ref().map(|owner| users.resolve(owner)).transpose()?;
                    let path = plan.resolve(&select::clean(path))?;
                    plan.make_dirs(&path, *mode, owner)?;
                }
                FileAction::MakeFile { name, dest, contents, options } => {
                    let meta = Meta::of(options, &mut users)?;
                    let dest = Self::file_dest(&mut plan, dest, Path::new(name), &meta)?;
                    plan.put_inline(&dest, contents.as_bytes(), INLINE_FILE_MODE, &meta)?;
                }
                FileAction::Copy { input, source, dest, wildcard, options } => {
                    let meta = Meta::of(options, &mut users)?;
                    plan.next_group_scope();
                    self.copy(&mut plan, *input, source, dest, *wildcard, options, &meta)?;
                }
            }
        }
        plan.finish()?;
        Ok(plan)
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one action")]
    fn copy(
        &mut self,
        plan: &mut LayerPlan<'a>,
        input: InputIndex,
        source: &str,
        dest: &str,
        wildcard: bool,
        options: &CopyOptions,
        meta: &Meta,
    ) -> Result<(), SolveError> {
        let Some(tree) = self.sources.trees.get(&input) else {
            return Err(SolveError::MissingInput { what: "input", name: input.0.to_string() });
        };
        let excludes = select::Excludes::new(&options.exclude)?;
        if options.parents {
            let dest = Self::dir_dest(plan, dest, meta)?;
            for group in select::with_parents(tree, source, wildcard)? {
                plan.copy_with_parents(tree, &group, &dest, meta, &|path| excludes.keep(path))?;
            }
            return Ok(());
        }
        let selected = if self.sources.downloads.contains_key(&input) {
            select::only_file(tree)?
        } else {
            select::select(tree, source, wildcard)?
        };
        for Selected { name, entry } in selected {
            let name = options.rename.clone().unwrap_or(name);
            if options.unpack
                && matches!(entry.kind, EntryKind::File { .. })
                && let Some(digest) = archive_digest(tree, &entry)?
            {
                // `--chmod` is for copied files: neither members nor the directory they go to have it.
                let dest = Self::dir_dest(plan, dest, &Meta { mode: None, ..meta.clone() })?;
                self.add_archive(plan, tree, entry, digest, dest, meta)?;
            } else if entry.kind == EntryKind::Dir {
                let dest = Self::dir_dest(plan, dest, meta)?;
                plan.copy_children(tree, &entry, &dest, meta, &|path| excludes.keep(path))?;
            } else {
                let dest = Self::file_dest(plan, dest, &name, meta)?;
                plan.put_entry(tree, &entry, &dest, meta)?;
            }
        }
        Ok(())
    }

    fn add_archive(
        &mut self,
        plan: &mut LayerPlan<'a>,
        tree: &Arc<dyn SourceTree>,
        entry: Entry,
        digest: kiln_image::Digest,
        dest: PathBuf,
        meta: &Meta,
    ) -> Result<(), SolveError> {
        match &mut self.archives {
            Archives::Named(named) => {
                named.push(NamedArchive { tree: Arc::clone(tree), entry, digest, dest, meta: meta.clone() })
            }
            Archives::Unpacked(trees) => {
                // The order is that of the first planning, on the same inputs.
                if let Some(tree) = trees.pop_front() {
                    plan.lay_over(&tree, &dest, meta.owner)?;
                }
            }
        }
        Ok(())
    }

    /// Where a directory's contents go: `dest` with links followed, made if absent.
    fn dir_dest(plan: &mut LayerPlan<'_>, dest: &str, meta: &Meta) -> Result<PathBuf, SolveError> {
        let resolved = plan.resolve(&select::clean(dest))?;
        if plan.is_other_than_dir(&resolved)? {
            return Err(CopyError::NotADirectory { dest: place::shown(&resolved) }.into());
        }
        plan.make_dirs(&resolved, meta.created_dir_mode(), meta.owner)?;
        Ok(resolved)
    }

    /// Where a file goes: into `dest` if that is (or says it is) a directory, else there; parents are made.
    fn file_dest(
        plan: &mut LayerPlan<'_>,
        dest: &str,
        name: &Path,
        meta: &Meta,
    ) -> Result<PathBuf, SolveError> {
        let says_dir = dest.ends_with('/') || dest.ends_with("/.") || dest == ".";
        let mut resolved = plan.resolve(&select::clean(dest))?;
        if says_dir {
            resolved = Self::dir_dest(plan, dest, meta)?;
        }
        if plan.is_dir(&resolved)? {
            // The last component is not followed: a link of that name is replaced.
            resolved = resolved.join(name);
        }
        let parent = resolved.parent().map(Path::to_owned).unwrap_or_default();
        plan.make_dirs(&parent, meta.created_dir_mode(), meta.owner)?;
        Ok(resolved)
    }
}

impl Meta {
    fn of(options: &CopyOptions, users: &mut Users<'_>) -> Result<Self, SolveError> {
        let owner = options.owner.as_ref().map(|owner| users.resolve(owner)).transpose()?;
        Ok(Self { owner, mode: options.mode.clone() })
    }

    /// An octal `--chmod` is also the mode of directories made on the way (FEATURES CP8), but for the bits above the
    /// permissions: BuildKit makes them by mkdir.
    fn created_dir_mode(&self) -> u32 {
        match self.mode {
            Some(ModeChange::Octal(mode)) => mode & 0o777,
            _ => CREATED_DIR_MODE,
        }
    }
}

/// The digest of a file that is an archive by its first bytes.
fn archive_digest(
    tree: &Arc<dyn SourceTree>,
    entry: &Entry,
) -> Result<Option<kiln_image::Digest>, SolveError> {
    let mut head = Vec::new();
    let mut file = tree.open(&entry.path)?.take(layer::ARCHIVE_HEAD_BYTES as u64);
    file.read_to_end(&mut head).map_err(|source| SolveError::Io { path: entry.path.clone(), source })?;
    if !layer::is_archive(&head) {
        return Ok(None);
    }
    Ok(Some(tree.digest(entry)?))
}

/// The digests of all that a plan writes.
struct Digests {
    contents: ContentsDigest,
    /// In the plan's order, of files' bytes.
    files: Vec<Option<kiln_image::Digest>>,
}

impl Digests {
    fn of(plan: &LayerPlan<'_>) -> Result<Self, SolveError> {
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
