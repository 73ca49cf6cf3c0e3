//! What an image says of itself, in docker's form.

use kiln_cache::{ImageRecord, Store};
use kiln_image::oci::ImageConfig;
use serde_json::{Value, json};

use crate::{Error, ErrorKind};

/// One instruction of an image's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryEntry {
    /// RFC 3339.
    pub created: Option<String>,
    /// The instruction.
    pub created_by: String,
    /// Who says so.
    pub comment: String,
    /// Bytes of file data in the layer it made; 0 where it made none, or where that is not known.
    pub size_bytes: u64,
}

/// The object that `docker inspect` prints; `names` are all the entries of the same image. The config is given as it is
/// stored, unknown fields too.
pub(super) fn inspect(image: &ImageRecord, names: &[ImageRecord], config: &[u8]) -> Result<String, Error> {
    let config: Value = serde_json::from_slice(config)
        .map_err(|error| Error::new(ErrorKind::Environment, format!("image {}: {error}", image.config)))?;
    let field = |name: &str| config.get(name).cloned().unwrap_or_else(|| json!(""));
    let tags: Vec<String> = names
        .iter()
        .filter_map(|entry| entry.name.as_ref())
        .filter(|name| name.tag().is_some())
        .map(|name| name.familiar())
        .collect();
    let mut digests: Vec<String> = names
        .iter()
        .filter_map(|entry| {
            Some(format!("{}@{}", entry.name.as_ref()?.familiar_name(), entry.remote_digest?))
        })
        .collect();
    digests.dedup();
    let tagged = jiff::Timestamp::from_second(i64::try_from(image.tagged_at).unwrap_or_default());
    let mut object = json!({
        "Id": image.config,
        "RepoTags": tags,
        "RepoDigests": digests,
        "Parent": "",
        "Comment": last_comment(&config),
        "Created": field("created"),
        "Author": field("author"),
        "Config": config.get("config").cloned().unwrap_or_else(|| json!({})),
        "Architecture": field("architecture"),
        "Os": field("os"),
        "Size": image.size_bytes,
        "RootFS": {
            "Type": "layers",
            "Layers": config.pointer("/rootfs/diff_ids").cloned().unwrap_or_else(|| json!([])),
        },
        "Metadata": { "LastTagTime": tagged.map(|time| time.to_string()).unwrap_or_default() },
    });
    if let (Some(variant), Some(object)) = (config.get("variant"), object.as_object_mut()) {
        object.insert("Variant".to_owned(), variant.clone());
    }
    Ok(object.to_string())
}

fn last_comment(config: &Value) -> Value {
    let last = config.get("history").and_then(Value::as_array).and_then(|history| history.last());
    last.and_then(|entry| entry.get("comment")).cloned().unwrap_or_else(|| json!(""))
}

/// The history with the sizes of layers.
pub(super) fn history(
    store: &Store,
    image: &ImageRecord,
    config: &ImageConfig,
) -> Result<Vec<HistoryEntry>, Error> {
    let mut layers = image.layers.iter();
    let mut entries = Vec::with_capacity(config.history.len());
    for entry in &config.history {
        let size_bytes = match layers.as_slice().first() {
            Some(layer) if !entry.empty_layer => {
                layers.next();
                store.layer_size(*layer)?.unwrap_or(0)
            }
            _ => 0,
        };
        entries.push(HistoryEntry {
            created: entry.created.clone(),
            created_by: entry.created_by.clone(),
            comment: entry.comment.clone(),
            size_bytes,
        });
    }
    Ok(entries)
}
