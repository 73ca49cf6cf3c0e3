//! What brings things in: images, contexts, downloads, git.

mod http;

use std::sync::Arc;

use kiln_image::Digest;

use super::{Step, git};
use crate::graph::Source;
use crate::solve::{ImageOrigin, Output, Snapshot, SolveError};

/// Runs a source vertex.
pub(super) fn run(step: &Step<'_>, source: &Source) -> Result<Output, SolveError> {
    match source {
        Source::Scratch => Ok(Output::Snapshot(Snapshot::default())),
        Source::Image { reference, manifest } => image(step, &reference.to_string(), manifest),
        Source::Context { name } => context(step, name),
        Source::Http { url, checksum } => http::fetch(step, url, checksum.as_ref()),
        Source::Git(source) => git::fetch(step, source),
    }
}

/// The names of the layers; nothing is pulled.
fn image(step: &Step<'_>, name: &str, manifest: &Digest) -> Result<Output, SolveError> {
    let Some(origin) = step.solver.inputs.images.get(manifest) else {
        return Err(SolveError::MissingInput { what: "image", name: name.to_owned() });
    };
    if matches!(origin, ImageOrigin::Store { .. })
        && let Some(id) = step.id
    {
        step.solver.reporter.cached(id);
    }
    Ok(Output::Snapshot(step.solver.pulls.add_image(origin, step.id)?))
}

fn context(step: &Step<'_>, name: &str) -> Result<Output, SolveError> {
    let Some(tree) = step.solver.inputs.contexts.get(name) else {
        return Err(SolveError::MissingInput { what: "build context", name: name.to_owned() });
    };
    step.report_instant();
    Ok(Output::Tree(Arc::clone(tree)))
}

/// Does what takes time: in a slot, and with people told.
pub(super) fn timed<T>(
    step: &Step<'_>,
    work: impl FnOnce() -> Result<T, SolveError>,
) -> Result<T, SolveError> {
    let _slot = step.slots.take();
    if let Some(id) = step.id {
        step.solver.reporter.started(id);
    }
    let output = work()?;
    if let Some(id) = step.id {
        step.solver.reporter.done(id);
    }
    Ok(output)
}
