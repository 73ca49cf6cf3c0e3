//! Into the store, under names.

use std::time::{SystemTime, UNIX_EPOCH};

use kiln_cache::ImageRecord;
use kiln_image::ImageRef;
use kiln_solver::solve::Solver;

use crate::Error;
use crate::assemble::Assembled;

/// Stores the config and points every name at the image.
pub(super) fn export(solver: &Solver<'_>, image: &Assembled, names: &[ImageRef]) -> Result<(), Error> {
    // An image in the store can be run and built upon without its registry.
    solver.ensure_layers(&image.snapshot)?;
    let store = solver.store;
    store.put_blob(&image.config_bytes)?;
    let layers: Vec<_> = image.snapshot.layers.iter().map(|layer| layer.id).collect();
    let facts = store.layer_facts(&layers)?;
    let size_bytes = facts.iter().flatten().filter_map(|facts| facts.size_bytes).sum();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let unnamed = [None];
    let named: Vec<_> = names.iter().cloned().map(Some).collect();
    for name in if named.is_empty() { unnamed.as_slice() } else { named.as_slice() } {
        store.put_image(&ImageRecord {
            name: name.clone(),
            platform: image.platform.clone(),
            config: image.config_digest,
            manifest: None,
            remote_digest: None,
            layers: layers.clone(),
            tagged_at: now.as_secs(),
            size_bytes,
        })?;
    }
    Ok(())
}
