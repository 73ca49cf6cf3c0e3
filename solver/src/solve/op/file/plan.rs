//! From the actions of an operation to the layer that they make.

use std::collections::{HashMap, VecDeque};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_cache::{Entry, EntryKind, LayerTree, SourceTree};
use kiln_image::{Digest, layer};

use super::owner::Users;
use super::place::{self, LayerPlan, Meta, Unpacked};
use super::select::{self, Selected};
use super::{CREATED_DIR_MODE, CopyError, INLINE_FILE_MODE};
use crate::graph::{CopyOptions, File, FileAction, InputIndex, ModeChange, Op, Source};
use crate::solve::op::Step;
use crate::solve::{Output, SolveError, layers};

/// The trees an operation copies from, by input.
pub(super) struct Sources {
    pub(super) trees: HashMap<InputIndex, Arc<dyn SourceTree>>,
    /// Inputs that hold one downloaded file, whatever its name.
    pub(super) downloads: HashMap<InputIndex, ()>,
}

impl Sources {
    pub(super) fn of(step: &Step<'_>, file: &File) -> Result<Self, SolveError> {
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
pub(super) struct NamedArchive {
    pub(super) tree: Arc<dyn SourceTree>,
    pub(super) entry: Entry,
    pub(super) digest: Digest,
    pub(super) dest: PathBuf,
    pub(super) meta: Meta,
}

/// What is known of the archives while planning.
pub(super) enum Archives {
    /// What they are called: enough for the key. Filled by the planner.
    Named(Vec<NamedArchive>),
    /// What is in them, in the order in which they come up.
    Unpacked(VecDeque<Arc<Unpacked>>),
}

/// Turns actions into a plan.
pub(super) struct Planner<'a> {
    pub(super) view: Option<&'a LayerTree>,
    pub(super) sources: &'a Sources,
    pub(super) archives: Archives,
}

impl<'a> Planner<'a> {
    pub(super) fn plan(&mut self, file: &File) -> Result<LayerPlan<'a>, SolveError> {
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
                    plan.date_parent_now(&dest);
                }
                FileAction::Copy { input, source, dest, wildcard, options } => {
                    let meta = Meta::of(options, &mut users)?;
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
            plan.next_source();
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
            plan.next_source();
            let name = options.rename.clone().unwrap_or(name);
            if options.unpack
                && matches!(entry.kind, EntryKind::File { .. })
                && let Some(digest) = archive_digest(tree, &entry)?
            {
                // `--chmod` is for copied files: neither members nor the directory they go to have it.
                let dest = Self::dir_dest(plan, dest, &Meta { mode: None, ..meta.clone() })?;
                self.add_archive(plan, tree, entry, digest, dest, meta)?;
            } else if entry.kind == EntryKind::Dir {
                // A git tree, the only directory without wildcards, goes as a directory itself to a place that is not
                // there, `--chmod` and all. Of every other directory the contents go.
                let resolved = plan.resolve(&select::clean(dest))?;
                let is_copied = !wildcard && !says_dir(dest) && !plan.is_dir(&resolved)?;
                if options.as_root {
                    plan.root_from(&entry, meta.owner);
                }
                let dest = Self::dir_dest(plan, dest, meta)?;
                if is_copied {
                    plan.put_dir_now(&entry, &dest, meta)?;
                }
                plan.copy_children(tree, &entry, &dest, meta, &|path| excludes.keep(path))?;
                plan.date_dir(&dest, &entry)?;
            } else {
                let dest = Self::file_dest(plan, dest, &name, meta)?;
                plan.put_entry(tree, &entry, &dest, meta)?;
                plan.date_parent_now(&dest);
            }
        }
        Ok(())
    }

    fn add_archive(
        &mut self,
        plan: &mut LayerPlan<'a>,
        tree: &Arc<dyn SourceTree>,
        entry: Entry,
        digest: Digest,
        dest: PathBuf,
        meta: &Meta,
    ) -> Result<(), SolveError> {
        match &mut self.archives {
            Archives::Named(named) => {
                named.push(NamedArchive { tree: Arc::clone(tree), entry, digest, dest, meta: meta.clone() })
            }
            Archives::Unpacked(archives) => {
                // The order is that of the first planning, on the same inputs.
                if let Some(archive) = archives.pop_front() {
                    plan.lay_over(&archive, &dest, meta.owner)?;
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
        let mut resolved = plan.resolve(&select::clean(dest))?;
        if says_dir(dest) {
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

/// Whether a destination is a directory by its name.
fn says_dir(dest: &str) -> bool {
    dest.ends_with('/') || dest.ends_with("/.") || dest == "."
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
fn archive_digest(tree: &Arc<dyn SourceTree>, entry: &Entry) -> Result<Option<Digest>, SolveError> {
    let mut head = Vec::new();
    let mut file = tree.open(&entry.path)?.take(layer::ARCHIVE_HEAD_BYTES as u64);
    file.read_to_end(&mut head).map_err(|source| SolveError::Io { path: entry.path.clone(), source })?;
    if !layer::is_archive(&head) {
        return Ok(None);
    }
    Ok(Some(tree.digest(entry)?))
}
