//! `--cache-from` and `--cache-to`: what a build has to do with caches that other machines share.
//!
//! A cache that cannot be read is a warning; a layer of it that turns out unusable when a step needs it makes the build
//! solve once more without that layer, which finds in the store what was done so far. A cache that cannot be written is
//! a warning as well, unless `ignore-error=false` says that somebody relies on it.

use std::collections::HashSet;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use kiln_cache::Layer;
use kiln_image::oci::Descriptor;
use kiln_image::{DiffId, Digest};
use kiln_remote::{
    CacheError, Contents, Destination, ExportSettings, Imports, Inline, InvalidSpec, Mode, NewBlob, OnError,
    Place,
};
use kiln_solver::event::Event;
use kiln_solver::solve::{Remote, RemoteCache, RemoteLayer, RemoteRecord, Solved, Solver};

use crate::assemble::Assembled;
use crate::cache_mounts;
use crate::output::blobs;
use crate::session::{Session, env};
use crate::{Error, ErrorKind};

/// After so many attempts that a broken cache spoilt, the build does without.
const MAX_ATTEMPTS: usize = 3;

/// The caches of one build.
pub(crate) struct Caches {
    imports: Option<Arc<Imports>>,
    exports: Vec<Export>,
    /// Whether images get an inline cache.
    inline: bool,
}

/// One `--cache-to` but an inline one.
pub(crate) struct Export {
    pub(crate) place: Box<dyn Place>,
    pub(crate) settings: ExportSettings,
}

impl Caches {
    /// Understands the flags. Nothing is read or connected.
    pub(crate) fn open(session: &Session<'_>) -> Result<Self, Error> {
        let build = session.build;
        // buildx takes this argument, which is older than `--cache-to`, for `type=inline` (FEATURES AS18).
        let argument = build.arg_value("BUILDKIT_INLINE_CACHE");
        let inline = argument.and_then(kiln_parser::boolean) == Some(true);
        let mut caches = Self { imports: None, exports: Vec::new(), inline };
        if build.cache_from.is_empty() && build.cache_to.is_empty() {
            return Ok(caches);
        }
        let access = session.access();
        let mut sources = Vec::new();
        for spec in &build.cache_from {
            sources.extend(spec.source(&access, &env).map_err(|error| invalid("--cache-from", error))?);
        }
        for spec in &build.cache_to {
            let invalid = |error| invalid("--cache-to", error);
            let settings = spec.export_settings().map_err(invalid)?;
            match spec.destination(&access, &env).map_err(invalid)? {
                Destination::Place(place) => caches.exports.push(Export { place, settings }),
                Destination::Image => caches.inline = true,
                Destination::Nowhere => {}
            }
        }
        if !sources.is_empty() {
            let reporter = Arc::clone(session.reporter);
            let warn = Box::new(move |message| {
                reporter.send(Event::Warning { rule: None, message, span: None });
            });
            caches.imports = Some(Arc::new(Imports::new(sources, Arc::clone(session.reporter), warn)));
        }
        Ok(caches)
    }

    /// What the solver has to know.
    pub(crate) fn remote(&self) -> Remote {
        let cache = self.imports.clone().map(|imports| imports as Arc<dyn RemoteCache>);
        Remote::new(cache, self.inline || !self.exports.is_empty())
    }

    /// Does `work`, and does it again when what spoilt it was a cache.
    pub(crate) fn retry<T>(
        &self,
        solver: &Solver<'_>,
        work: impl Fn() -> Result<T, Error>,
    ) -> Result<T, Error> {
        let Some(imports) = &self.imports else { return work() };
        for attempt in 1.. {
            let forgotten = imports.forgotten();
            match work() {
                Err(_) if imports.forgotten() > forgotten && !solver.cancel.load(Ordering::Relaxed) => {
                    if attempt >= MAX_ATTEMPTS {
                        imports.give_up();
                    }
                }
                done => return done,
            }
        }
        work()
    }

    /// Adds the inline cache to an image that is to have one.
    pub(crate) fn complete(&self, solver: &Solver<'_>, mut image: Assembled) -> Result<Assembled, Error> {
        if !self.inline {
            return Ok(image);
        }
        let mut records = Vec::new();
        for solved in select(solver.remote.solved(), Mode::Min, std::slice::from_ref(&image)) {
            let mut layers = Vec::with_capacity(solved.layers.len());
            for layer in &solved.layers {
                // The image's manifest says by which blob.
                let nowhere = Descriptor::new("", layer.contents.0, 0);
                layers.push(remote_layer(solver, layer, nowhere)?);
            }
            records.push(remote_record(solved, layers));
        }
        if let Some(inline) = Inline::new(&records, &image.diff_ids).map_err(internal)? {
            image.config_bytes = inline.add_to(&image.config_bytes).map_err(internal)?;
            image.config_digest = Digest::of(&image.config_bytes);
        }
        Ok(image)
    }

    /// Writes the caches.
    pub(crate) fn export(
        &self,
        session: &Session<'_>,
        solver: &Solver<'_>,
        images: &[Assembled],
    ) -> Result<(), Error> {
        for export in &self.exports {
            let name = export.place.name();
            let step = session.reporter.step(format!("exporting cache to {name}"), Vec::new());
            session.reporter.started(step);
            match export.run(session, solver, images, self.imports.as_deref()) {
                Ok(()) => session.reporter.done(step),
                Err(error)
                    if error.kind != ErrorKind::Canceled && export.settings.on_error == OnError::Warn =>
                {
                    warn(session, format!("cache {name} is not written: {error}"));
                    session.reporter.done(step);
                }
                Err(error) => {
                    session.reporter.failed(step, error.to_string());
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

impl Export {
    fn run(
        &self,
        session: &Session<'_>,
        solver: &Solver<'_>,
        images: &[Assembled],
        imports: Option<&Imports>,
    ) -> Result<(), Error> {
        let steps = select(solver.remote.solved(), self.settings.mode, images);
        let mut seen = HashSet::new();
        let layers: Vec<Layer> = steps
            .iter()
            .flat_map(|step| step.layers.iter().copied())
            .filter(|layer| seen.insert(layer.id))
            .collect();
        let described = self.write_layers(solver, &layers)?;
        let mut records = Vec::with_capacity(steps.len());
        for step in steps {
            let layers = step.layers.iter().map(|layer| {
                let place = layers.iter().position(|known| known.id == layer.id);
                place.and_then(|place| described.get(place).cloned()).ok_or_else(|| {
                    Error::new(ErrorKind::Environment, "internal: a layer of the cache was not written")
                })
            });
            let layers = layers.collect::<Result<_, _>>()?;
            records.push(remote_record(step, layers));
        }
        let mounts = cache_mounts::export(self, session, solver, imports)?;
        self.place.publish(&Contents { records, mounts }).map_err(failed)
    }

    /// Sees to it that the place has the layers' blobs, several at once; describes them in their order.
    fn write_layers(&self, solver: &Solver<'_>, layers: &[Layer]) -> Result<Vec<RemoteLayer>, Error> {
        let next = AtomicUsize::new(0);
        let stop = AtomicBool::new(false);
        let done: Mutex<Vec<Option<Result<RemoteLayer, Error>>>> =
            Mutex::new(layers.iter().map(|_| None).collect());
        std::thread::scope(|scope| {
            for _ in 0..layers.len().min(self.settings.uploads_at_once) {
                scope.spawn(|| {
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let Some(layer) = layers.get(index) else { return };
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                        let written = self.write_layer(solver, layer);
                        stop.fetch_or(written.is_err(), Ordering::Relaxed);
                        done.lock().unwrap_or_else(PoisonError::into_inner)[index] = Some(written);
                    }
                });
            }
        });
        // What was not begun stands behind what failed.
        let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        let (failed, good): (Vec<_>, Vec<_>) = done.into_iter().flatten().partition(Result::is_err);
        match failed.into_iter().next() {
            Some(error) => error.map(|layer| vec![layer]),
            None => good.into_iter().collect(),
        }
    }

    fn write_layer(&self, solver: &Solver<'_>, layer: &Layer) -> Result<RemoteLayer, Error> {
        let compression = self.settings.compression;
        // A layer from another cache is moved as it is, if it is moved at all.
        let (blob, origin) = match solver.pulls.descriptor(layer) {
            Some(found) if !compression.force => found,
            _ => {
                let (diff_id, _) = facts(solver, layer)?;
                (blobs::layer_blob(solver, layer, diff_id, compression)?, None)
            }
        };
        let open = || -> io::Result<Box<dyn Read + Send>> {
            if let Some(file) = solver.store.open_blob(&blob.digest).map_err(io::Error::other)? {
                return Ok(Box::new(file));
            }
            match solver.open_layer_blob(layer).map_err(io::Error::other)? {
                Some(blob) => Ok(blob.reader),
                None => Err(io::Error::other(format!("blob {} is gone from the store", blob.digest))),
            }
        };
        let new = NewBlob { descriptor: &blob, mount_from: origin.into_iter().collect(), open: &open };
        self.place.put(&new).map_err(failed)?;
        remote_layer(solver, layer, blob)
    }
}

/// The steps that a cache gets.
fn select(solved: Vec<Solved>, mode: Mode, images: &[Assembled]) -> Vec<Solved> {
    if mode == Mode::Max {
        return solved;
    }
    let in_images: HashSet<_> = images.iter().flat_map(|image| &image.layers).map(|layer| layer.id).collect();
    let is_in = |step: &Solved| step.layers.iter().all(|layer| in_images.contains(&layer.id));
    solved.into_iter().filter(is_in).collect()
}

fn remote_layer(solver: &Solver<'_>, layer: &Layer, descriptor: Descriptor) -> Result<RemoteLayer, Error> {
    let (diff_id, made_at) = facts(solver, layer)?;
    Ok(RemoteLayer { contents: layer.contents, diff_id, made_at, descriptor, registry: None })
}

/// The layer's DiffId, and when it was made.
fn facts(solver: &Solver<'_>, layer: &Layer) -> Result<(DiffId, i64), Error> {
    let layers = std::slice::from_ref(layer);
    let facts = solver.pulls.facts(solver.store, layers)?;
    let made_at = facts.first().and_then(|facts| facts.as_ref()).map_or(0, |facts| facts.made_at);
    let diff_id = solver.pulls.diff_ids(solver.store, layers, &facts)?.first().copied();
    let gone = || Error::new(ErrorKind::Environment, "internal: a layer has no DiffId");
    Ok((diff_id.ok_or_else(gone)?, made_at))
}

fn remote_record(step: Solved, layers: Vec<RemoteLayer>) -> RemoteRecord {
    let Solved { key, definition, layers: _, name, duration } = step;
    RemoteRecord { key, definition, layers, name, duration }
}

fn invalid(flag: &str, error: InvalidSpec) -> Error {
    let InvalidSpec { message, hint } = error;
    let error = Error::user(format!("{flag}: {message}"));
    match hint {
        Some(hint) => error.hinted(hint),
        None => error,
    }
}

/// Tells the user what is wrong with a cache.
pub(crate) fn warn(session: &Session<'_>, message: String) {
    session.reporter.send(Event::Warning { rule: None, message, span: None });
}

pub(crate) fn failed(error: CacheError) -> Error {
    let kind =
        if matches!(error, CacheError::Canceled) { ErrorKind::Canceled } else { ErrorKind::Environment };
    Error::new(kind, error.to_string())
}

fn internal(error: CacheError) -> Error {
    Error::new(ErrorKind::Environment, format!("internal: {error}"))
}
