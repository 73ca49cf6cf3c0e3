//! Into the store, under names.

use std::time::{SystemTime, UNIX_EPOCH};

use kiln_cache::{ImageRecord, LayerId};
use kiln_image::{Digest, ImageRef};
use kiln_solver::solve::Solver;

use super::content::Packed;
use crate::assemble::Assembled;
use crate::{Error, images};

/// Stores the config and points every name at the image. `packed` is the image as it is shipped, where that was made:
/// its manifest is kept, and its layers where they are others than the build's. `pushed` is what its names stand for in
/// their registries, where it was pushed.
pub(super) fn export(
    solver: &Solver<'_>,
    image: &Assembled,
    packed: Option<&Packed>,
    names: &[ImageRef],
    pushed: Option<Digest>,
) -> Result<(), Error> {
    // An image in the store can be run and built upon without its registry. Of one that was just pushed there, what
    // never came here need not come now.
    if pushed.is_none() {
        solver.ensure_layers(&image.layers)?;
    }
    let store = solver.store;
    let (config, manifest, layers) = match packed {
        Some(packed) => {
            let manifest = store.put_blob(&packed.manifest_bytes)?;
            if let Some(attached) = &packed.attached {
                for (_, bytes) in &attached.blobs {
                    store.put_blob(bytes)?;
                }
                store.attest(&manifest, store.put_blob(&attached.manifest_bytes)?)?;
            }
            (store.put_blob(&packed.config_bytes)?, Some(manifest), layers_of(solver, image, packed)?)
        }
        None => {
            let layers = image.layers.iter().map(|layer| layer.id).collect();
            (store.put_blob(&image.config_bytes)?, None, layers)
        }
    };
    let facts = store.layer_facts(&layers)?;
    let size_bytes = facts.iter().flatten().filter_map(|facts| facts.size_bytes).sum();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let unnamed = [None];
    let named: Vec<_> = names.iter().cloned().map(Some).collect();
    for name in if named.is_empty() { unnamed.as_slice() } else { named.as_slice() } {
        store.put_image(&ImageRecord {
            name: name.clone(),
            platform: image.platform.clone(),
            config,
            manifest,
            remote_digest: pushed,
            layers: layers.clone(),
            tagged_at: now.as_secs(),
            size_bytes,
        })?;
    }
    Ok(())
}

/// The layers that the packed image's config names, unpacked. Those with rewritten times are other layers.
fn layers_of(solver: &Solver<'_>, image: &Assembled, packed: &Packed) -> Result<Vec<LayerId>, Error> {
    let mut layers = Vec::with_capacity(packed.layers.len());
    for (layer, built) in packed.layers.iter().zip(&image.diff_ids) {
        if layer.diff_id == *built {
            layers.push(layer.made_of.id);
            continue;
        }
        let path = solver.store.blob_path(&layer.descriptor.digest);
        let mut blob = std::fs::File::open(&path).map_err(|error| Error::io(&path, error))?;
        images::add_layer(solver.store, layer.diff_id, &solver.cancel, &mut blob)?;
        layers.push(LayerId::from(layer.diff_id));
    }
    Ok(layers)
}
