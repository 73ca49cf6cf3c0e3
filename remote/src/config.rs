//! The cache config: BuildKit's format, with kiln's records beside BuildKit's.
//!
//! ```text
//! { "layers":  [ { "blob": D, "parent": -1, "annotations": { "mediaType", "diffID": D, "size", "createdAt" } } ],
//!   "records": [ { "digest": D, "layers": [ { "layer": 0, "createdAt" } ] } ],
//!   "kiln":    { "version": 1,
//!                "records": [ { "key": D, "definition": D, "name", "milliseconds",
//!                               "layers": [ { "layer": 0, "contents": D } ] } ] } }
//! ```
//! For BuildKit each of kiln's steps is a record without inputs under a digest that no operation of its has. `layer` is
//! an index into `layers`; of a step's several layers each is the parent of the next.

use std::collections::HashMap;
use std::time::Duration;

use kiln_cache::StepKey;
use kiln_image::oci::{Descriptor, media_type};
use kiln_image::{ContentsDigest, DiffId, Digest};
use kiln_solver::solve::{RemoteLayer, RemoteRecord};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::CacheError;

/// The media type of the config's blob.
pub(crate) const CONFIG_MEDIA_TYPE: &str = "application/vnd.buildkit.cacheconfig.v0";
/// Largest cache config that is read. BuildKit itself reads 1 MiB of one in a registry, which is some 1,000 steps.
pub const MAX_CONFIG_BYTES: u64 = 16 << 20;
/// Most layers, and most records, of a cache.
const MAX_ENTRIES: usize = 100_000;
/// Largest blob that is fetched.
const MAX_BLOB_BYTES: u64 = 256 << 30;
/// Longest name of a step that is taken over.
const MAX_NAME_CHARS: usize = 1000;
/// Raised when kiln's own records change; another version's are passed over.
pub(crate) const VERSION: u32 = 1;

/// A cache config that was read.
#[derive(Clone, Debug, Default)]
pub struct CacheConfig {
    /// kiln's records.
    pub records: Vec<RemoteRecord>,
    /// How many records it has that are another builder's.
    pub foreign_records: usize,
}

#[derive(Serialize, Deserialize, Default)]
struct Document {
    #[serde(default)]
    layers: Vec<LayerEntry>,
    #[serde(default)]
    records: Vec<RecordEntry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kiln: Option<Own>,
}

#[derive(Deserialize)]
struct ReadDocument {
    #[serde(default, deserialize_with = "null_as_empty")]
    layers: Vec<LayerEntry>,
    // BuildKit's keys are not kiln's: only how many there are matters.
    #[serde(default, deserialize_with = "null_as_empty")]
    records: Vec<IgnoredAny>,
    #[serde(default)]
    kiln: Option<serde_json::Value>,
}

#[derive(Clone, Serialize, Deserialize)]
struct LayerEntry {
    blob: Digest,
    #[serde(default)]
    parent: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    annotations: Option<LayerAnnotations>,
}

#[derive(Clone, Serialize, Deserialize)]
struct LayerAnnotations {
    #[serde(default, rename = "mediaType")]
    media_type: String,
    #[serde(default, rename = "diffID")]
    diff_id: Option<DiffId>,
    #[serde(default)]
    size: i64,
    #[serde(default, rename = "createdAt")]
    created_at: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct RecordEntry {
    #[serde(default)]
    layers: Vec<ResultEntry>,
    digest: Digest,
}

#[derive(Serialize, Deserialize)]
struct ResultEntry {
    layer: usize,
    #[serde(rename = "createdAt")]
    created_at: String,
}

/// kiln's own records, as they stand in a cache config or an image config.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Own {
    pub(crate) version: u32,
    pub(crate) records: Vec<OwnRecord>,
}

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct OwnRecord {
    pub(crate) key: Digest,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) definition: Option<Digest>,
    #[serde(default)]
    pub(crate) name: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) milliseconds: u64,
    pub(crate) layers: Vec<OwnLayer>,
}

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct OwnLayer {
    pub(crate) layer: usize,
    pub(crate) contents: Digest,
    /// In image configs, which have no other place for it. Seconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) made_at: Option<i64>,
}

impl CacheConfig {
    /// Writes the config of a cache with these records; the same records give the same bytes.
    ///
    /// # Errors
    /// None that data can cause.
    pub fn write(records: &[RemoteRecord]) -> Result<Vec<u8>, CacheError> {
        let mut sorted: Vec<&RemoteRecord> = records.iter().collect();
        sorted.sort_by_key(|record| record.key);
        sorted.dedup_by_key(|record| record.key);
        let mut document = Document::default();
        let mut own = Own { version: VERSION, records: Vec::with_capacity(sorted.len()) };
        let mut known: HashMap<(Digest, i64), usize> = HashMap::new();
        for record in sorted {
            let mut parent = -1;
            let mut entry = own_record(record);
            for (layer, own_layer) in record.layers.iter().zip(&mut entry.layers) {
                let index = *known.entry((layer.descriptor.digest, parent)).or_insert_with(|| {
                    document.layers.push(layer_entry(layer, parent));
                    document.layers.len() - 1
                });
                own_layer.layer = index;
                parent = i64::try_from(index).unwrap_or(i64::MAX);
            }
            let result = record
                .layers
                .last()
                .zip(entry.layers.last())
                .map(|(layer, own)| ResultEntry { layer: own.layer, created_at: timestamp(layer.made_at) });
            document.records.push(RecordEntry { layers: result.into_iter().collect(), digest: record.key.0 });
            own.records.push(entry);
        }
        document.kiln = Some(own);
        Ok(serde_json::to_vec(&document)?)
    }

    /// Reads a cache config, whoever wrote it.
    ///
    /// # Errors
    /// It is no cache config, contradicts itself, or is larger than any.
    pub fn parse(bytes: &[u8]) -> Result<Self, CacheError> {
        if bytes.len() as u64 > MAX_CONFIG_BYTES {
            return Err(CacheError::TooLarge { what: "cache config", limit: MAX_CONFIG_BYTES });
        }
        let document: ReadDocument = serde_json::from_slice(bytes)?;
        let own = match document.kiln {
            Some(own) => read_own(own)?,
            None => None,
        };
        let Some(own) = own else {
            return Ok(Self { records: Vec::new(), foreign_records: document.records.len() });
        };
        if document.layers.len().max(own.records.len()) > MAX_ENTRIES {
            return Err(CacheError::TooLarge { what: "number of entries", limit: MAX_ENTRIES as u64 });
        }
        let foreign_records = document.records.len().saturating_sub(own.records.len());
        let layers: Vec<_> = document.layers.into_iter().map(known_layer).collect();
        let records = records_of(own, &|index, _| layers.get(index).cloned().flatten())?;
        Ok(Self { records, foreign_records })
    }
}

/// kiln's member, if this version understands it.
pub(crate) fn read_own(value: serde_json::Value) -> Result<Option<Own>, CacheError> {
    match value.get("version").and_then(serde_json::Value::as_u64) {
        Some(version) if version == u64::from(VERSION) => Ok(Some(serde_json::from_value(value)?)),
        _ => Ok(None),
    }
}

/// Resolves the indices of kiln's records: `layer` knows a layer but for its contents.
pub(crate) fn records_of(
    own: Own,
    layer: &dyn Fn(usize, &OwnLayer) -> Option<RemoteLayer>,
) -> Result<Vec<RemoteRecord>, CacheError> {
    let mut records = Vec::with_capacity(own.records.len());
    for record in own.records {
        let mut layers = Vec::with_capacity(record.layers.len());
        for entry in &record.layers {
            let known = layer(entry.layer, entry).ok_or_else(|| {
                CacheError::Invalid(format!("a record names layer {}, which is not described", entry.layer))
            })?;
            layers.push(RemoteLayer { contents: ContentsDigest(entry.contents), ..known });
        }
        records.push(RemoteRecord {
            key: StepKey(record.key),
            definition: record.definition.map(StepKey),
            layers,
            name: plain(&record.name),
            duration: Duration::from_millis(record.milliseconds),
        });
    }
    Ok(records)
}

pub(crate) fn own_record(record: &RemoteRecord) -> OwnRecord {
    OwnRecord {
        key: record.key.0,
        definition: record.definition.map(|key| key.0),
        name: plain(&record.name),
        milliseconds: u64::try_from(record.duration.as_millis()).unwrap_or(u64::MAX),
        layers: record
            .layers
            .iter()
            .map(|layer| OwnLayer { layer: 0, contents: layer.contents.0, made_at: None })
            .collect(),
    }
}

fn layer_entry(layer: &RemoteLayer, parent: i64) -> LayerEntry {
    LayerEntry {
        blob: layer.descriptor.digest,
        parent,
        annotations: Some(LayerAnnotations {
            media_type: layer.descriptor.media_type.clone(),
            diff_id: Some(layer.diff_id),
            size: i64::try_from(layer.descriptor.size).unwrap_or(i64::MAX),
            created_at: Some(timestamp(layer.made_at)),
        }),
    }
}

/// A layer that says all that kiln must know; another builder's may not.
fn known_layer(entry: LayerEntry) -> Option<RemoteLayer> {
    let annotations = entry.annotations?;
    let size = u64::try_from(annotations.size).ok().filter(|size| *size <= MAX_BLOB_BYTES)?;
    if !media_type::is_layer(&annotations.media_type) || media_type::is_foreign_layer(&annotations.media_type)
    {
        return None;
    }
    let made_at: jiff::Timestamp = annotations.created_at?.parse().ok()?;
    Some(RemoteLayer {
        // Said by the record.
        contents: ContentsDigest(entry.blob),
        diff_id: annotations.diff_id?,
        descriptor: Descriptor {
            media_type: annotations.media_type,
            digest: entry.blob,
            size,
            annotations: std::collections::BTreeMap::new(),
            platform: None,
        },
        made_at: made_at.as_second(),
        registry: None,
    })
}

/// RFC 3339, as Go reads it; a time that no calendar has is the epoch.
pub(crate) fn timestamp(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}

/// A name is shown to people: no control characters, no end of it in sight.
fn plain(name: &str) -> String {
    name.chars().filter(|char| !char.is_control()).take(MAX_NAME_CHARS).collect()
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Go writes `null` for an empty list.
fn null_as_empty<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
