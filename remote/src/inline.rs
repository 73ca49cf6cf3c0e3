//! Inline caches: records in an image's own config.
//!
//! BuildKit reads `moby.buildkit.cache.v0`, base64 of its records with layers numbered as the image has them. kiln's own
//! records stand beside it; nothing in either depends on when or where the image was built, but on its layers, so that the
//! image stays reproducible.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kiln_image::oci::{Manifest, media_type, parse_config};
use kiln_image::{ContentsDigest, Digest};
use kiln_solver::solve::{RemoteLayer, RemoteRecord};
use serde_json::{Value, json};

use crate::CacheError;
use crate::config::{self, Own};

/// BuildKit's member of an image config.
const BUILDKIT: &str = "moby.buildkit.cache.v0";
/// kiln's.
const OWN: &str = "kiln.cache.v1";

/// An inline cache about to be part of an image.
#[derive(Clone, Debug)]
pub struct Inline {
    buildkit: String,
    own: Value,
}

impl Inline {
    /// The records all of whose layers are in an image, which has `layers` by their DiffIds; `None` if there are none.
    ///
    /// # Errors
    /// None that data can cause.
    pub fn new(records: &[RemoteRecord], layers: &[kiln_image::DiffId]) -> Result<Option<Self>, CacheError> {
        let mut buildkit = Vec::new();
        let mut own = Own { version: config::VERSION, records: Vec::new(), mounts: Vec::new() };
        let mut sorted: Vec<&RemoteRecord> = records.iter().collect();
        sorted.sort_by_key(|record| record.key);
        for record in sorted {
            let places: Option<Vec<usize>> = record
                .layers
                .iter()
                .map(|layer| layers.iter().rposition(|diff_id| *diff_id == layer.diff_id))
                .collect();
            let Some(places) = places else { continue };
            let mut entry = config::own_record(record);
            // How long it took is another thing each time.
            entry.milliseconds = 0;
            for ((own, layer), place) in entry.layers.iter_mut().zip(&record.layers).zip(&places) {
                own.layer = *place;
                own.made_at = Some(layer.made_at);
            }
            own.records.push(entry);
            if let Some(last) = record.layers.last() {
                let created = config::timestamp(last.made_at);
                buildkit.push(json!({
                    "chains": [{ "layers": places, "createdAt": created }],
                    "digest": record.key.0,
                }));
            }
        }
        if own.records.is_empty() {
            return Ok(None);
        }
        Ok(Some(Self {
            buildkit: STANDARD.encode(serde_json::to_vec(&buildkit)?),
            own: serde_json::to_value(&own)?,
        }))
    }

    /// The image config with the cache in it.
    ///
    /// # Errors
    /// `config` is no JSON object.
    pub fn add_to(&self, config: &[u8]) -> Result<Vec<u8>, CacheError> {
        let mut document: serde_json::Map<String, Value> = serde_json::from_slice(config)?;
        document.insert(BUILDKIT.to_owned(), Value::String(self.buildkit.clone()));
        document.insert(OWN.to_owned(), self.own.clone());
        Ok(serde_json::to_vec(&document)?)
    }
}

/// The records in an image's config; the number is of those that only BuildKit understands.
pub(crate) fn read(
    config_bytes: &[u8],
    manifest: &Manifest,
) -> Result<(Vec<RemoteRecord>, usize), CacheError> {
    let diff_ids = parse_config(config_bytes)?.rootfs.diff_ids;
    if diff_ids.len() != manifest.layers.len() {
        return Err(CacheError::Invalid("the image's manifest and config have different layers".into()));
    }
    let mut document: serde_json::Map<String, Value> = serde_json::from_slice(config_bytes)?;
    let own = match document.remove(OWN) {
        Some(own) => config::read_own(own)?,
        None => None,
    };
    let Some(own) = own else {
        return Ok((Vec::new(), usize::from(document.contains_key(BUILDKIT))));
    };
    let layer = |index: usize, entry: &config::OwnLayer| {
        let (descriptor, diff_id) = manifest.layers.get(index).zip(diff_ids.get(index))?;
        if !media_type::is_layer(&descriptor.media_type)
            || media_type::is_foreign_layer(&descriptor.media_type)
        {
            return None;
        }
        Some(RemoteLayer {
            contents: ContentsDigest(Digest::of(b"")),
            diff_id: *diff_id,
            descriptor: descriptor.clone(),
            made_at: entry.made_at?,
            registry: None,
        })
    };
    Ok((config::records_of(own, &layer)?, 0))
}
