//! The cache config: BuildKit's format, with kiln's records beside BuildKit's.
//!
//! ```text
//! { "layers":  [ { "blob": D, "parent": -1, "annotations": { "mediaType", "diffID": D, "size", "createdAt" } } ],
//!   "records": [ { "digest": D, "layers": [ { "layer": 0, "createdAt" } ] } ],
//!   "kiln":    { "version": 1,
//!                "records": [ { "key": D, "definition": D, "name", "milliseconds",
//!                               "layers": [ { "layer": 0, "contents": D } ] } ],
//!                "mounts":  [ { "id", "blob": D, "size", "mediaType", "bytes" } ] } }
//! ```
//! For BuildKit each of kiln's steps is a record without inputs under a digest that no operation of its has. `layer` is
//! an index into `layers`; of a step's several layers each is the parent of the next.

use std::collections::HashMap;
use std::time::Duration;

use kiln_cache::StepKey;
use kiln_image::oci::{Descriptor, media_type};
use kiln_image::{ContentsDigest, DiffId, Digest};
use kiln_solver::solve::{RemoteLayer, RemoteMount, RemoteRecord};
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

/// What a cache is to say.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// Steps.
    pub records: Vec<RemoteRecord>,
    /// Contents of cache mounts.
    pub mounts: Vec<RemoteMount>,
}

/// A cache config that was read.
#[derive(Clone, Debug, Default)]
pub struct CacheConfig {
    /// kiln's records.
    pub records: Vec<RemoteRecord>,
    /// Contents of cache mounts.
    pub mounts: Vec<RemoteMount>,
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
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) mounts: Vec<OwnMount>,
}

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct OwnMount {
    id: String,
    blob: Digest,
    size: u64,
    #[serde(rename = "mediaType")]
    media_type: String,
    /// Before compression.
    bytes: u64,
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
    /// Seconds since the epoch. In image configs, which have no other place for it, and where two steps came to one layer at
    /// different times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) made_at: Option<i64>,
}

impl CacheConfig {
    /// Writes the config of a cache with these contents; the same contents give the same bytes.
    ///
    /// # Errors
    /// None that data can cause.
    pub fn write(contents: &Contents) -> Result<Vec<u8>, CacheError> {
        let mut sorted: Vec<&RemoteRecord> = contents.records.iter().collect();
        sorted.sort_by_key(|record| record.key);
        sorted.dedup_by_key(|record| record.key);
        let mut document = Document::default();
        let mut mounts: Vec<OwnMount> = contents.mounts.iter().map(own_mount).collect();
        mounts.sort_by(|a, b| a.id.cmp(&b.id));
        let mut own = Own { version: VERSION, records: Vec::with_capacity(sorted.len()), mounts };
        let mut known: HashMap<(Digest, i64), (usize, i64)> = HashMap::new();
        for record in sorted {
            let mut parent = -1;
            let mut entry = own_record(record);
            for (layer, own_layer) in record.layers.iter().zip(&mut entry.layers) {
                let (index, made_at) = *known.entry((layer.descriptor.digest, parent)).or_insert_with(|| {
                    document.layers.push(layer_entry(layer, parent));
                    (document.layers.len() - 1, layer.made_at)
                });
                own_layer.layer = index;
                own_layer.made_at = (made_at != layer.made_at).then_some(layer.made_at);
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
            return Ok(Self { foreign_records: document.records.len(), ..Self::default() });
        };
        if document.layers.len().max(own.records.len()).max(own.mounts.len()) > MAX_ENTRIES {
            return Err(CacheError::TooLarge { what: "number of entries", limit: MAX_ENTRIES as u64 });
        }
        let foreign_records = document.records.len().saturating_sub(own.records.len());
        let layers: Vec<_> = document.layers.into_iter().map(known_layer).collect();
        let mounts = own.mounts.iter().cloned().filter_map(known_mount).collect();
        let records = records_of(own, &|index, _| layers.get(index).cloned().flatten())?;
        Ok(Self { records, mounts, foreign_records })
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
            let made_at = entry.made_at.unwrap_or(known.made_at);
            layers.push(RemoteLayer { contents: ContentsDigest(entry.contents), made_at, ..known });
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
        descriptor: Descriptor::new(annotations.media_type, entry.blob, size),
        made_at: made_at.as_second(),
        registry: None,
    })
}

fn own_mount(mount: &RemoteMount) -> OwnMount {
    OwnMount {
        id: mount.id.clone(),
        blob: mount.descriptor.digest,
        size: mount.descriptor.size,
        media_type: mount.descriptor.media_type.clone(),
        bytes: mount.size_bytes,
    }
}

/// What no kiln wrote is no mount.
fn known_mount(mount: OwnMount) -> Option<RemoteMount> {
    let is_known = mount.size <= MAX_BLOB_BYTES && media_type::is_layer(&mount.media_type);
    is_known.then(|| RemoteMount {
        id: mount.id,
        descriptor: Descriptor::new(mount.media_type, mount.blob, mount.size),
        size_bytes: mount.bytes,
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn record(number: u8, blobs: &[&[u8]]) -> RemoteRecord {
        let layer = |bytes: &&[u8]| RemoteLayer {
            contents: ContentsDigest(Digest::of(&[*bytes, b"contents"].concat())),
            diff_id: DiffId(Digest::of(&[*bytes, b"tar"].concat())),
            descriptor: Descriptor::of(media_type::OCI_LAYER_GZIP, bytes),
            made_at: 1_700_000_000,
            registry: None,
        };
        RemoteRecord {
            key: StepKey(Digest::of(&[number])),
            definition: number.is_multiple_of(2).then(|| StepKey(Digest::of(&[number, 1]))),
            layers: blobs.iter().map(layer).collect(),
            name: format!("RUN step {number}"),
            duration: Duration::from_millis(u64::from(number)),
        }
    }

    fn records() -> Vec<RemoteRecord> {
        vec![record(2, &[b"a"]), record(1, &[b"a", b"b"]), record(4, &[]), record(3, &[b"b"])]
    }

    fn contents(records: Vec<RemoteRecord>) -> Contents {
        let descriptor = record(0, &[b"mount"]).layers.remove(0).descriptor;
        let mount = RemoteMount { id: "/root/.cache".into(), descriptor, size_bytes: 10 };
        Contents { records, mounts: vec![mount] }
    }

    /// BuildKit's own rules for a cache config (`cache/remotecache/v1`, parsing): what breaks one fails its import.
    fn check_as_buildkit(bytes: &[u8], blobs: &[Digest]) {
        assert!(bytes.len() <= 1 << 20, "it reads no more");
        let config: Value = serde_json::from_slice(bytes).unwrap();
        let (layers, records) = (config["layers"].as_array().unwrap(), config["records"].as_array().unwrap());
        let digest = |value: &Value| value.as_str().unwrap().parse::<Digest>().unwrap();
        let time = |value: &Value| value.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        for (index, layer) in layers.iter().enumerate() {
            assert!(blobs.contains(&digest(&layer["blob"])), "a blob that the manifest does not name");
            let annotations = &layer["annotations"];
            assert!(annotations["size"].as_i64().unwrap() >= 0);
            digest(&annotations["diffID"]);
            time(&annotations["createdAt"]);
            // A chain of parents ends, and never comes back.
            let (mut at, mut seen) = (i64::try_from(index).unwrap(), Vec::new());
            while at != -1 {
                assert!(!seen.contains(&at), "a loop");
                seen.push(at);
                at = layers[usize::try_from(at).unwrap()]
                    .get("parent")
                    .map_or(0, |parent| parent.as_i64().unwrap());
            }
        }
        for record in records {
            digest(&record["digest"]);
            for result in record["layers"].as_array().unwrap() {
                assert!(usize::try_from(result["layer"].as_u64().unwrap()).unwrap() < layers.len());
                time(&result["createdAt"]);
            }
            // An input is a list of records by their index, never an empty one.
            for input in record.get("inputs").and_then(Value::as_array).into_iter().flatten() {
                assert!(!input.as_array().unwrap().is_empty());
                for link in input.as_array().unwrap() {
                    assert!(usize::try_from(link["link"].as_u64().unwrap()).unwrap() < records.len());
                }
            }
        }
    }

    #[test]
    fn a_layer_that_two_steps_came_to_has_the_time_of_each() {
        let first = record(1, &[b"base", b"app"]);
        let mut second = record(2, &[b"base", b"app"]);
        second.layers[1].made_at += 1;
        let records = vec![first, second];
        let bytes =
            CacheConfig::write(&Contents { records: records.clone(), ..Contents::default() }).unwrap();
        let times = |records: &[RemoteRecord]| {
            let mut times: Vec<_> = records
                .iter()
                .map(|record| {
                    (record.key, record.layers.iter().map(|layer| layer.made_at).collect::<Vec<_>>())
                })
                .collect();
            times.sort();
            times
        };
        assert_eq!(times(&CacheConfig::parse(&bytes).unwrap().records), times(&records));
    }

    #[test]
    fn what_is_written_is_read_again_and_is_a_cache_config_of_buildkits() {
        let bytes = CacheConfig::write(&contents(records())).unwrap();
        check_as_buildkit(&bytes, &[Digest::of(b"a"), Digest::of(b"b")]);
        let read = CacheConfig::parse(&bytes).unwrap();
        let mut sorted = records();
        sorted.sort_by_key(|record| record.key);
        assert_eq!(format!("{:?}", read.records), format!("{sorted:?}"));
        assert_eq!(read.foreign_records, 0);
        assert_eq!(format!("{:?}", read.mounts), format!("{:?}", contents(Vec::new()).mounts));
    }

    #[test]
    fn the_order_of_steps_is_not_in_the_bytes() {
        let mut other = records();
        other.reverse();
        assert_eq!(
            CacheConfig::write(&contents(records())).unwrap(),
            CacheConfig::write(&contents(other)).unwrap()
        );
    }

    #[test]
    fn another_builders_records_are_counted_and_no_more() {
        let text = r#"{"layers":[{"blob":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","parent":-1}],
            "records":[{"digest":"random:x","inputs":[[{"link":1,"selector":"s"}]]},{"digest":"sha256:0"}],"later":1}"#;
        let read = CacheConfig::parse(text.as_bytes()).unwrap();
        assert_eq!((read.records.len(), read.foreign_records), (0, 2));
        assert_eq!(CacheConfig::parse(br#"{"layers":null,"records":null}"#).unwrap().foreign_records, 0);
    }

    #[test]
    fn another_version_of_kilns_records_is_passed_over() {
        let bytes = CacheConfig::write(&contents(records())).unwrap();
        let text = String::from_utf8(bytes).unwrap().replace("\"version\":1", "\"version\":2");
        assert!(CacheConfig::parse(text.as_bytes()).unwrap().records.is_empty());
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let bytes = CacheConfig::write(&contents(records())).unwrap();
        let good: Value = serde_json::from_slice(&bytes).unwrap();
        type Change = fn(&mut Value);
        let changes: [(&str, Change); 7] = [
            ("an index of no layer", |config| config["kiln"]["records"][0]["layers"][0]["layer"] = 99.into()),
            ("no DiffId", |config| {
                _ = config["layers"][0]["annotations"].as_object_mut().unwrap().remove("diffID")
            }),
            ("a negative size", |config| config["layers"][0]["annotations"]["size"] = (-1).into()),
            ("a size beyond any", |config| config["layers"][0]["annotations"]["size"] = i64::MAX.into()),
            ("no layer", |config| config["layers"][0]["annotations"]["mediaType"] = "text/html".into()),
            ("a digest that is a path", |config| config["layers"][0]["blob"] = "sha256:../../x".into()),
            ("another algorithm", |config| {
                config["layers"][0]["blob"] = format!("sha512:{}", "0".repeat(128)).into();
            }),
        ];
        for (what, change) in changes {
            let mut config = good.clone();
            // The first record in the order of keys may have no layer; all share the first blob.
            let with_layers = config["kiln"]["records"].as_array().unwrap().iter();
            let index =
                with_layers.clone().position(|record| !record["layers"].as_array().unwrap().is_empty());
            config["kiln"]["records"].as_array_mut().unwrap().swap(0, index.unwrap());
            change(&mut config);
            assert!(CacheConfig::parse(config.to_string().as_bytes()).is_err(), "{what}");
        }
        assert!(CacheConfig::parse(&bytes[..bytes.len() / 2]).is_err(), "half a config");
        assert!(CacheConfig::parse(&vec![b' '; usize::try_from(MAX_CONFIG_BYTES).unwrap() + 1]).is_err());
    }

    /// What fuzzing begins with, by the rules of its target.
    #[test]
    fn configs_of_the_corpus_are_read_again_as_they_are_written_or_refused() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/cache_config");
        let mut read = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            let Ok(config) = CacheConfig::parse(&bytes) else { continue };
            let contents = Contents { records: config.records, mounts: config.mounts };
            let again = CacheConfig::parse(&CacheConfig::write(&contents).unwrap()).unwrap();
            assert!(again.records.len() <= contents.records.len());
            read += 1;
        }
        assert!(read >= 3);
    }

    #[test]
    fn a_name_brings_no_control_characters() {
        let mut evil = record(2, &[]);
        evil.name = "RUN \u{1b}]52;c;x\u{7}".into();
        let read = CacheConfig::parse(&CacheConfig::write(&contents(vec![evil])).unwrap()).unwrap();
        assert_eq!(read.records[0].name, "RUN ]52;c;x");
    }
}
