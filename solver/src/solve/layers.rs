//! The files of layers, when they are really needed.
//!
//! A base image enters a build as the names of its layers: their DiffIds are contents digests and layer ids at once. Only
//! an operation that must read files asks for them here, so that a build whose steps are all known pulls nothing.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use kiln_cache::{
    Layer, LayerDir, LayerDraft, LayerFacts, LayerId, LayerTree, Store, StoreError, squash_layers,
};
use kiln_image::layer::Unpacked;
use kiln_image::local::LocalImages;
use kiln_image::oci::Descriptor;
use kiln_image::{ContentsDigest, DiffId, ImageRef, Verified};

use super::diff_ids::DiffIdWorker;
use super::remote::{RemoteCache, RemoteRecord};
use super::snapshot::Node;
use super::{ImageOrigin, Snapshot, SolveError, Solver};
use crate::event::{Event, Reporter, StepId};

/// So many layers are pulled and unpacked at once: more wait for the same network and processors.
const PULLS_AT_ONCE: usize = 4;

/// So many layers are squashed into one where a process runs on three times as many. The images of other builders have
/// no more than 128 layers and are mounted as they are; overlayfs mounts 500 (`OVL_MAX_STACK`).
const SQUASHED: usize = 100;

/// Progress of a download is told after so many bytes.
const PROGRESS_BYTES: u64 = 1 << 20;

/// Layers of base images that can be fetched, and what is known to be there; and DiffIds being computed.
#[derive(Debug, Default)]
pub struct Pulls {
    state: Mutex<PullState>,
    pub(super) diff_id_workers: Mutex<HashMap<LayerId, DiffIdWorker>>,
    /// What was looked into.
    dirs: Mutex<HashMap<LayerId, Arc<LayerDir>>>,
}

#[derive(Debug, Default)]
struct PullState {
    /// How to get a layer that may not be there.
    sources: HashMap<LayerId, PullSource>,
    /// What was seen in the store by this build.
    present: HashSet<LayerId>,
    /// Steps of images of which nothing was needed yet.
    unstarted: Vec<StepId>,
    /// Layers that a step still pulls.
    running: HashMap<StepId, usize>,
}

#[derive(Clone, Debug)]
struct PullSource {
    diff_id: DiffId,
    /// What the layer's contents are called.
    contents: ContentsDigest,
    descriptor: Descriptor,
    from: PullFrom,
    step: Option<StepId>,
}

#[derive(Clone, Debug)]
enum PullFrom {
    Registry(ImageRef),
    Local(Arc<LocalImages>),
    /// A remote cache; the repository if it is in one.
    Cache {
        registry: Option<ImageRef>,
        made_at: i64,
    },
}

impl Pulls {
    /// Remembers where an image's layers can be had and names them. Nothing is read.
    pub(super) fn add_image(
        &self,
        origin: &ImageOrigin,
        step: Option<StepId>,
    ) -> Result<Snapshot, SolveError> {
        let (image, from) = match origin {
            ImageOrigin::Store { layers } => {
                self.note_present(layers);
                return Ok(Snapshot::of(layers.iter().copied()));
            }
            ImageOrigin::Registry(image) => (image, PullFrom::Registry(image.reference.clone())),
            ImageOrigin::Local { images, image } => (image, PullFrom::Local(Arc::clone(images))),
        };
        let diff_ids = &image.config.rootfs.diff_ids;
        if diff_ids.len() != image.manifest.layers.len() {
            return Err(SolveError::LayerCount {
                image: image.manifest_digest.to_string(),
                diff_ids: diff_ids.len(),
                layers: image.manifest.layers.len(),
            });
        }
        let mut state = self.lock();
        let mut layers = Vec::with_capacity(diff_ids.len());
        for (&diff_id, descriptor) in diff_ids.iter().zip(&image.manifest.layers) {
            let id = LayerId::from(diff_id);
            layers.push(Layer { id, contents: ContentsDigest::from(diff_id) });
            state.sources.entry(id).or_insert_with(|| PullSource {
                diff_id,
                contents: diff_id.into(),
                descriptor: descriptor.clone(),
                from: from.clone(),
                step,
            });
        }
        state.unstarted.extend(step);
        Ok(Snapshot::of(layers))
    }

    /// Remembers where the layers of a remote cache's record can be had and names them. Nothing is read.
    pub(super) fn add_record(&self, record: &RemoteRecord) -> Vec<Layer> {
        let mut state = self.lock();
        let mut layers = Vec::with_capacity(record.layers.len());
        for remote in &record.layers {
            let layer = remote.layer();
            layers.push(layer);
            state.sources.entry(layer.id).or_insert_with(|| PullSource {
                diff_id: remote.diff_id,
                contents: remote.contents,
                descriptor: remote.descriptor.clone(),
                from: PullFrom::Cache { registry: remote.registry.clone(), made_at: remote.made_at },
                step: None,
            });
        }
        layers
    }

    /// Images of which no file was needed are as good as found.
    pub(super) fn report_unneeded(&self, reporter: &Reporter) {
        for step in std::mem::take(&mut self.lock().unstarted) {
            reporter.cached(step);
        }
    }

    /// The layers are in the store: nobody need ask it again.
    pub(super) fn note_present(&self, layers: &[Layer]) {
        self.lock().present.extend(layers.iter().map(|layer| layer.id));
    }

    /// What the store knows of layers, or a remote cache of those that are still there only.
    ///
    /// # Errors
    /// I/O.
    pub fn facts(&self, store: &Store, layers: &[Layer]) -> Result<Vec<Option<LayerFacts>>, StoreError> {
        let ids: Vec<_> = layers.iter().map(|layer| layer.id).collect();
        let mut facts = store.layer_facts(&ids)?;
        let state = self.lock();
        for (facts, id) in facts.iter_mut().zip(&ids).filter(|(facts, _)| facts.is_none()) {
            if let Some(PullSource { diff_id, from: PullFrom::Cache { made_at, .. }, .. }) =
                state.sources.get(id)
            {
                *facts = Some(LayerFacts { diff_id: Some(*diff_id), made_at: *made_at, size_bytes: None });
            }
        }
        Ok(facts)
    }

    /// The compressed blob's descriptor and where it can be had, for a layer of a base image.
    pub fn descriptor(&self, layer: &Layer) -> Option<(Descriptor, Option<ImageRef>)> {
        let state = self.lock();
        let source = state.sources.get(&layer.id)?;
        let image = match &source.from {
            PullFrom::Registry(image) => Some(image.clone()),
            PullFrom::Local(_) => None,
            PullFrom::Cache { registry, .. } => registry.clone(),
        };
        Some((source.descriptor.clone(), image))
    }

    /// The steps of images that bring layers of `snapshot` which are not there, with the compressed size of these.
    pub(super) fn not_here(
        &self,
        store: &Store,
        snapshot: &Snapshot,
    ) -> Result<Vec<(StepId, u64)>, StoreError> {
        let mut sizes: Vec<(StepId, u64)> = Vec::new();
        for layer in snapshot.layers() {
            let source =
                self.lock().sources.get(&layer.id).map(|source| (source.step, source.descriptor.size));
            let Some((Some(step), size_bytes)) = source else { continue };
            if !store.has_layer(layer.id)? {
                match sizes.iter_mut().find(|(known, _)| *known == step) {
                    Some((_, sum)) => *sum += size_bytes,
                    None => sizes.push((step, size_bytes)),
                }
            }
        }
        Ok(sizes)
    }

    fn lock(&self) -> MutexGuard<'_, PullState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Solver::ensure_layers`].
pub(super) fn ensure(solver: &Solver<'_>, layers: &[Layer]) -> Result<(), SolveError> {
    let missing = missing(solver, layers)?;
    if missing.is_empty() {
        return Ok(());
    }
    if solver.only_looks {
        return Err(SolveError::NotForeseen);
    }
    let next = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    thread::scope(|scope| {
        for _ in 0..missing.len().min(PULLS_AT_ONCE) {
            scope.spawn(|| {
                while let Some(source) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(error) = pull(solver, source) {
                        // The others need not go on.
                        next.store(missing.len(), Ordering::Relaxed);
                        failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                        return;
                    }
                }
            });
        }
    });
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// The merged view of a snapshot's layers, all of them there.
pub(super) fn tree(solver: &Solver<'_>, snapshot: &Snapshot) -> Result<LayerTree, SolveError> {
    ensure_snapshot(solver, snapshot)?;
    let mut tree = None;
    let mut on_it = Vec::new();
    for node in snapshot.top_down() {
        tree = node.tree.get().cloned();
        if tree.is_some() {
            break;
        }
        on_it.push(node);
    }
    let mut tree = tree.unwrap_or_else(|| LayerTree::of(Vec::new()));
    let mut dirs = solver.pulls.dirs.lock().unwrap_or_else(PoisonError::into_inner);
    for node in on_it.into_iter().rev() {
        let new = || Arc::new(LayerDir::new(&solver.store.layer_path(node.layer.id)));
        tree = tree.with(dirs.entry(node.layer.id).or_insert_with(new));
        tree = node.tree.get_or_init(|| tree).clone();
    }
    Ok(tree)
}

/// As [`ensure`], for those of a snapshot's layers that were not seen yet.
pub(super) fn ensure_snapshot(solver: &Solver<'_>, snapshot: &Snapshot) -> Result<(), SolveError> {
    let unseen: Vec<_> = snapshot.top_down().take_while(|node| !node.is_here()).collect();
    let layers: Vec<_> = unseen.iter().rev().map(|node| node.layer).collect();
    ensure(solver, &layers)?;
    unseen.iter().for_each(|node| node.note_here());
    Ok(())
}

/// Whether all files of `snapshot` are there.
pub(super) fn are_here(solver: &Solver<'_>, snapshot: &Snapshot) -> Result<bool, SolveError> {
    let unseen: Vec<_> = snapshot.top_down().take_while(|node| !node.is_here()).collect();
    for node in &unseen {
        let id = node.layer.id;
        let is_known = solver.pulls.lock().present.contains(&id);
        if !is_known && !solver.store.has_layer(id)? {
            return Ok(false);
        }
    }
    unseen.iter().for_each(|node| node.note_here());
    Ok(true)
}

/// The directories of a snapshot's layers, bottom first, see [`topmost`].
pub(super) fn paths(solver: &Solver<'_>, snapshot: &Snapshot) -> Vec<PathBuf> {
    topmost(solver, snapshot.top_down())
}

/// The directories of layers, bottom first: of those with the same contents the topmost is enough, since whatever a lower one
/// shows or hides it does too. Steps that change nothing make many of them.
fn topmost<'a>(solver: &Solver<'_>, top_down: impl Iterator<Item = &'a Node>) -> Vec<PathBuf> {
    let mut seen = HashSet::new();
    let topmost = top_down.filter(|node| seen.insert(node.layer.contents.0));
    let mut paths: Vec<_> = topmost.map(|node| solver.store.layer_path(node.layer.id)).collect();
    paths.reverse();
    paths
}

/// The directories to mount a snapshot's layers from, bottom first: where there are more than overlayfs takes, those of
/// groups that were squashed. They are there as long as the snapshot.
pub(super) fn mountable(solver: &Solver<'_>, snapshot: &Snapshot) -> Result<Vec<PathBuf>, SolveError> {
    let mut nodes: Vec<_> = snapshot.top_down().collect();
    nodes.reverse();
    // The same groups for all that stand on them.
    let groups = if nodes.len() < 3 * SQUASHED { 0 } else { nodes.len() / SQUASHED - 1 };
    let (squashed, single) = nodes.split_at(groups * SQUASHED);
    let mut paths = Vec::with_capacity(groups + single.len());
    for group in squashed.chunks(SQUASHED) {
        let Some(top) = group.last() else { continue };
        let mut made = top.squashed.lock().unwrap_or_else(PoisonError::into_inner);
        let draft = match made.take() {
            Some(draft) => draft,
            None => {
                let draft = solver.store.scratch_dir()?;
                let layers: Vec<_> =
                    group.iter().map(|node| solver.store.layer_path(node.layer.id)).collect();
                squash_layers(&layers, &draft.fs())?;
                draft
            }
        };
        paths.push(made.insert(draft).fs());
    }
    paths.extend(topmost(solver, single.iter().rev().copied()));
    Ok(paths)
}

fn missing(solver: &Solver<'_>, layers: &[Layer]) -> Result<Vec<PullSource>, SolveError> {
    let mut missing = Vec::new();
    let mut state = solver.pulls.lock();
    for layer in layers {
        if state.present.contains(&layer.id) {
            continue;
        }
        if solver.store.has_layer(layer.id)? {
            state.present.insert(layer.id);
            continue;
        }
        let Some(source) = state.sources.get(&layer.id).cloned() else {
            return Err(SolveError::LayerGone(layer.contents.0.to_string()));
        };
        if let Some(step) = source.step {
            if let Some(index) = state.unstarted.iter().position(|unstarted| *unstarted == step) {
                state.unstarted.swap_remove(index);
                solver.reporter.started(step);
            }
            *state.running.entry(step).or_default() += 1;
        }
        missing.push(source);
    }
    Ok(missing)
}

/// Downloads and unpacks one layer, in one pass. The compressed bytes are kept: exports take them as they are.
fn pull(solver: &Solver<'_>, source: &PullSource) -> Result<(), SolveError> {
    let result = match source.from {
        PullFrom::Cache { made_at, .. } => solver
            .store
            .add_imported_layer(source.diff_id, source.contents, made_at, &solver.cancel, |draft| {
                fetch(solver, source, draft)
            })
            .map_err(|error| unusable(solver, &source.descriptor, error)),
        _ => solver
            .store
            .add_pulled_layer(source.diff_id, &solver.cancel, |draft| fetch(solver, source, draft)),
    };
    if let Err(error) = &result
        && let Some(step) = source.step
    {
        solver.reporter.failed(step, error.to_string());
    }
    let layer = result?;
    let mut state = solver.pulls.lock();
    state.present.insert(layer.id);
    if let Some(step) = source.step
        && let Some(running) = state.running.get_mut(&step)
    {
        *running -= 1;
        if *running == 0 {
            solver.reporter.done(step);
        }
    }
    Ok(())
}

/// What a layer of a remote cache that cannot be had means: the cache is wrong, and the build goes on without it.
fn unusable(solver: &Solver<'_>, blob: &Descriptor, error: SolveError) -> SolveError {
    if error.is_canceled() || error.is_disk_full() {
        return error;
    }
    if let Some(cache) = &solver.remote.cache {
        cache.forget(blob, &error.to_string());
    }
    SolveError::RemoteLayer { blob: blob.digest, reason: error.to_string() }
}

/// A layer's blob, being read.
pub struct LayerBlob {
    /// Which.
    pub descriptor: Descriptor,
    /// Its bytes, verified.
    pub reader: Box<dyn Read + Send>,
}

impl std::fmt::Debug for LayerBlob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LayerBlob").field(&self.descriptor).finish()
    }
}

/// Opens the blob of a layer that can be fetched and is not unpacked: verified while it is read.
pub(super) fn open_blob(solver: &Solver<'_>, layer: &Layer) -> Result<Option<LayerBlob>, SolveError> {
    let Some(source) = solver.pulls.lock().sources.get(&layer.id).cloned() else { return Ok(None) };
    let opened = open(solver, &source);
    let reader: Box<dyn Read + Send> = match source.from {
        PullFrom::Registry(_) | PullFrom::Local(_) => opened?,
        PullFrom::Cache { .. } => {
            let inner = opened.map_err(|error| unusable(solver, &source.descriptor, error))?;
            let cache = solver.remote.cache.clone();
            Box::new(Doubted { inner, cache, blob: source.descriptor.clone() })
        }
    };
    Ok(Some(LayerBlob { descriptor: source.descriptor, reader }))
}

/// Opens the blob where it comes from: verified while it is read.
fn open(solver: &Solver<'_>, source: &PullSource) -> Result<Box<dyn Read + Send>, SolveError> {
    let descriptor = &source.descriptor;
    Ok(match &source.from {
        PullFrom::Registry(image) => solver.registry.blob(image, descriptor, &solver.cancel)?,
        PullFrom::Local(images) => images
            .blob(descriptor)
            .map_err(|source| SolveError::LocalImage { blob: descriptor.digest, source })?,
        PullFrom::Cache { .. } => {
            let gone = || SolveError::LayerGone(descriptor.digest.to_string());
            let cache = solver.remote.cache.as_ref().ok_or_else(gone)?;
            let reader = cache.open(descriptor).map_err(|source| SolveError::Io {
                path: PathBuf::from(descriptor.digest.to_string()),
                source,
            })?;
            Box::new(Verified::new(reader, descriptor.digest, descriptor.size))
        }
    })
}

/// Unpacks a layer's blob and tells how far it is.
fn fetch(solver: &Solver<'_>, source: &PullSource, draft: &LayerDraft) -> Result<Unpacked, SolveError> {
    let blob = &source.descriptor;
    let mut told = 0;
    let mut tell = |done: u64| {
        let Some(id) = source.step else { return };
        if done - told >= PROGRESS_BYTES || (done == blob.size && told != done) {
            told = done;
            let part = format!("{} downloading", blob.digest);
            solver.reporter.send(Event::Progress { id, part, current: done, total: Some(blob.size) });
        }
    };
    solver.store.unpack_blob(draft, source.diff_id, blob, || open(solver, source), &mut tell)
}

/// Reads a blob of a remote cache and tells that cache when it cannot be read to its end.
struct Doubted<R> {
    inner: R,
    cache: Option<Arc<dyn RemoteCache>>,
    blob: Descriptor,
}

impl<R: Read> Read for Doubted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer);
        if let Err(error) = &read
            && error.kind() != io::ErrorKind::Interrupted
            && let Some(cache) = self.cache.take()
        {
            cache.forget(&self.blob, &error.to_string());
        }
        read
    }
}
