//! Cache mounts of a step: which directories they are, and how they are held.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_cache::{CacheMount, CacheMountRequest, MountSharing, SourceTree};
use kiln_image::Digest;
use kiln_parser::CacheSharing;
use kiln_sandbox::Identity;

use super::executor::Confinement;
use super::{Step, file};
use crate::event::Event;
use crate::graph::{ExecMount, ExecMountKind, InputIndex};
use crate::solve::{Output, SolveError, layers};

/// What a cache mount shows.
#[derive(Clone)]
pub(super) struct CachePlace {
    /// The cache.
    pub(super) directory: PathBuf,
    /// In it; empty is all of it.
    pub(super) subpath: PathBuf,
}

/// The directories of a step's cache mounts.
pub(super) struct Caches {
    /// In the order of the step's mounts; `None` for those of another kind.
    pub(super) places: Vec<Option<CachePlace>>,
    /// They are the step's for as long as these live.
    pub(super) held: Vec<CacheMount>,
}

impl Caches {
    /// Takes those that `mounts` ask for; `user` runs the step.
    ///
    /// What is mounted twice is taken once, as strictly as one of the mounts says, and all are taken in the order of their
    /// ids: no step waits for itself, and no two wait for each other.
    pub(super) fn take(step: &Step<'_>, mounts: &[ExecMount], user: &Identity) -> Result<Caches, SolveError> {
        let mut wanted: BTreeMap<String, Wanted<'_>> = BTreeMap::new();
        for (index, mount) in mounts.iter().enumerate() {
            let ExecMountKind::Cache { id, seed, source, sharing, mode, uid, gid, .. } = &mount.kind else {
                continue;
            };
            let (uid, gid) = if mount.of_user { (user.uid, user.gid) } else { (*uid, *gid) };
            let id = match seed {
                Some(input) => format!("{id}:{}", seed_digest(step, *input, source)?),
                // A cache of its own, as with the same `uid` and `gid`.
                None if mount.of_user => format!("{id}:{mode:o}:{uid}:{gid}"),
                None => id.clone(),
            };
            let first = || Wanted {
                at: Vec::new(),
                seed: seed.map(|input| (input, source.as_str())),
                sharing: *sharing,
                owner: (*mode, uid, gid),
            };
            let wanted = wanted.entry(id).or_insert_with(first);
            wanted.at.push((index, source));
            if strictness(*sharing) > strictness(wanted.sharing) {
                wanted.sharing = *sharing;
            }
        }
        let mut caches = Caches { places: vec![None; mounts.len()], held: Vec::new() };
        let is_alone = step.solver.executor.confinement() == Confinement::Root;
        for (id, wanted) in wanted {
            if is_alone && wanted.at.len() > 1 {
                return Err(SolveError::CacheTwice { id });
            }
            let cache = wanted.take(step, id, is_alone)?;
            let of_seed = wanted.file(step)?;
            for (index, source) in wanted.at {
                let subpath = if wanted.seed.is_some() { of_seed.clone() } else { file::clean(source) };
                caches.places[index] = Some(CachePlace { directory: cache.path().to_owned(), subpath });
            }
            caches.held.push(cache);
        }
        Ok(caches)
    }
}

/// One directory, as the mounts of one id want it.
struct Wanted<'a> {
    /// Numbers of those mounts, and their sources.
    at: Vec<(usize, &'a str)>,
    /// What it begins with, and where in that.
    seed: Option<(InputIndex, &'a str)>,
    sharing: CacheSharing,
    /// Mode, user and group of a new one: what the first of them says.
    owner: (u32, u32, u32),
}

impl Wanted<'_> {
    /// Waits for the directory, and makes it if there is none.
    fn take(&self, step: &Step<'_>, id: String, is_alone: bool) -> Result<CacheMount, SolveError> {
        let (mode, uid, gid) = self.owner;
        let sharing = match self.sharing {
            CacheSharing::Shared if is_alone => MountSharing::Locked,
            CacheSharing::Shared => MountSharing::Shared,
            CacheSharing::Private => MountSharing::Private,
            CacheSharing::Locked => MountSharing::Locked,
        };
        let request = CacheMountRequest { id, sharing, mode, uid, gid };
        let mut on_wait = |pid| {
            if let Some(id) = step.id {
                step.solver.reporter.send(Event::Waiting { id, pid });
            }
        };
        let fill = |target: &Path| {
            if step.solver.restore_mount(&request.id, target) {
                return Ok(());
            }
            let Some((input, source)) = self.seed else { return Ok(()) };
            file::copy_out(&seed_tree(step, input)?, source, target, None, &|_| true)
        };
        step.solver.store.cache_mount(&request, fill, &mut on_wait, &step.solver.cancel)
    }

    /// Where in the cache its seed is, if that is a file; empty for a directory, which is the cache itself.
    fn file(&self, step: &Step<'_>) -> Result<PathBuf, SolveError> {
        match self.seed {
            Some((_, "/")) | None => Ok(PathBuf::new()),
            Some((input, source)) => file::place_in_copy(&seed_tree(step, input)?, source),
        }
    }
}

fn seed_tree(step: &Step<'_>, input: InputIndex) -> Result<Arc<dyn SourceTree>, SolveError> {
    match step.inputs.get(input.0) {
        Some(Output::Snapshot(snapshot)) => Ok(Arc::new(layers::tree(step.solver, snapshot)?)),
        Some(Output::Tree(tree)) => Ok(Arc::clone(tree)),
        None => Err(SolveError::MissingInput { what: "input", name: input.0.to_string() }),
    }
}

/// Who is locked out by a mount, in numbers that can be compared.
fn strictness(sharing: CacheSharing) -> u8 {
    match sharing {
        CacheSharing::Shared => 0,
        CacheSharing::Private => 1,
        CacheSharing::Locked => 2,
    }
}

/// What a cache mount starts with. BuildKit keeps a cache of its own for each seed, so a changed one is seen.
fn seed_digest(step: &Step<'_>, input: InputIndex, source: &str) -> Result<Digest, SolveError> {
    let mut text = format!("{source}\n");
    match step.inputs.get(input.0) {
        Some(Output::Snapshot(snapshot)) => {
            for layer in snapshot.layers() {
                text.push_str(&format!("{}\n", layer.contents.0));
            }
        }
        Some(Output::Tree(tree)) => text.push_str(&file::contents_at(tree, source)?.0.to_string()),
        None => return Err(SolveError::MissingInput { what: "input", name: input.0.to_string() }),
    }
    Ok(Digest::of(text.as_bytes()))
}
