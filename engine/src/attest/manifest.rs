//! Attestations as OCI stores them: a manifest beside the image's, whose layers are statements (BuildKit,
//! "Image attestation storage"; in-toto, "Statement").

use std::collections::BTreeMap;

use kiln_image::Digest;
use kiln_image::oci::{Descriptor, PlatformSpec, media_type};
use serde::Serialize;
use serde_json::{Value, json};

use super::{MAX_STATEMENT_BYTES, Predicate};
use crate::Error;
use crate::assemble::to_json;

/// How a manifest of attestations looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// An artifact whose subject is the image.
    Artifact,
    /// An image that no machine runs, for registries that know nothing else.
    Image,
}

/// What is attested of one image, ready to be stored.
#[derive(Clone, Debug)]
pub(crate) struct Attached {
    /// As the index names it.
    pub(crate) manifest: Descriptor,
    pub(crate) manifest_bytes: Vec<u8>,
    /// The config first.
    pub(crate) blobs: Vec<(Descriptor, Vec<u8>)>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    schema_version: u32,
    media_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    artifact_type: Option<&'a str>,
    config: Value,
    layers: Vec<&'a Descriptor>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<Descriptor>,
}

/// Makes the manifest of what is attested of `image`, which is called `names` there.
pub(super) fn attach(
    image: &Descriptor,
    names: &[String],
    predicates: Vec<Predicate>,
    form: Form,
) -> Result<Attached, Error> {
    let digest = BTreeMap::from([("sha256", image.digest.hex())]);
    // An image without a name needs a subject too.
    let unnamed = ["_".to_owned()];
    let names = if names.is_empty() { &unnamed } else { names };
    let subjects: Vec<Value> = names.iter().map(|name| json!({"name": name, "digest": digest})).collect();
    let mut statements = Vec::with_capacity(predicates.len());
    for predicate in predicates {
        let bytes = to_json(&statement(&predicate, &subjects))?;
        if bytes.len() as u64 > MAX_STATEMENT_BYTES {
            let what = predicate.kind;
            return Err(Error::user(format!(
                "the attestation {what} is larger than {MAX_STATEMENT_BYTES} bytes"
            )));
        }
        let mut descriptor = Descriptor::of(STATEMENT_TYPE, &bytes);
        descriptor.annotations.insert(PREDICATE_ANNOTATION.to_owned(), predicate.kind.to_owned());
        statements.push((descriptor, bytes));
    }
    let (config, config_bytes) = config(&statements, form)?;
    let mut config_json = serde_json::to_value(&config).unwrap_or_default();
    if form == Form::Artifact {
        config_json["data"] = "e30=".into();
    }
    let manifest_bytes = to_json(&Document {
        schema_version: 2,
        media_type: media_type::OCI_MANIFEST,
        artifact_type: (form == Form::Artifact).then_some(ARTIFACT_TYPE),
        config: config_json,
        layers: statements.iter().map(|(descriptor, _)| descriptor).collect(),
        subject: (form == Form::Artifact).then(|| plain(image)),
    })?;
    let mut blobs = vec![(config, config_bytes)];
    blobs.extend(statements);
    Ok(Attached { manifest: listed(&manifest_bytes, &image.digest), manifest_bytes, blobs })
}

/// The entry of an index for the manifest of what is attested of `image`.
pub(crate) fn listed(manifest: &[u8], image: &Digest) -> Descriptor {
    let unknown = || "unknown".to_owned();
    Descriptor {
        annotations: BTreeMap::from([
            (REFERENCE_DIGEST_ANNOTATION.to_owned(), image.to_string()),
            (REFERENCE_TYPE_ANNOTATION.to_owned(), REFERENCE_TYPE.to_owned()),
        ]),
        platform: Some(PlatformSpec { architecture: unknown(), os: unknown(), variant: String::new() }),
        ..Descriptor::of(media_type::OCI_MANIFEST, manifest)
    }
}

/// The image that an entry of an index attests something of; `None` for other entries.
pub(crate) fn attested_image(entry: &Descriptor) -> Option<Digest> {
    let annotation = |key: &str| entry.annotations.get(key).map(String::as_str);
    if annotation(REFERENCE_TYPE_ANNOTATION) != Some(REFERENCE_TYPE) {
        return None;
    }
    annotation(REFERENCE_DIGEST_ANNOTATION)?.parse().ok()
}

/// A predicate with what it is about.
pub(super) fn statement(predicate: &Predicate, subjects: &[Value]) -> Value {
    json!({
        "_type": "https://in-toto.io/Statement/v1",
        "predicateType": predicate.kind,
        "subject": subjects,
        "predicate": predicate.body,
    })
}

fn config(statements: &[(Descriptor, Vec<u8>)], form: Form) -> Result<(Descriptor, Vec<u8>), Error> {
    if form == Form::Artifact {
        return Ok((Descriptor::of(EMPTY_TYPE, b"{}"), b"{}".to_vec()));
    }
    let diff_ids: Vec<_> = statements.iter().map(|(descriptor, _)| descriptor.digest).collect();
    let bytes = to_json(&json!({
        "architecture": "unknown",
        "os": "unknown",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }))?;
    Ok((Descriptor::of(media_type::OCI_CONFIG, &bytes), bytes))
}

fn plain(descriptor: &Descriptor) -> Descriptor {
    Descriptor { annotations: BTreeMap::new(), platform: None, ..descriptor.clone() }
}

const ARTIFACT_TYPE: &str = "application/vnd.docker.attestation.manifest.v1+json";
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
const STATEMENT_TYPE: &str = "application/vnd.in-toto+json";
const PREDICATE_ANNOTATION: &str = "in-toto.io/predicate-type";
const REFERENCE_TYPE_ANNOTATION: &str = "vnd.docker.reference.type";
const REFERENCE_DIGEST_ANNOTATION: &str = "vnd.docker.reference.digest";
const REFERENCE_TYPE: &str = "attestation-manifest";

#[cfg(test)]
mod tests {
    use super::*;

    fn attached(form: Form) -> (Descriptor, Attached, Value) {
        let image = Descriptor::of(media_type::OCI_MANIFEST, b"image");
        let predicate = Predicate { kind: "https://x/y", file_name: "y.json".into(), body: json!({"a": 1}) };
        let made = attach(&image, &[], vec![predicate], form).unwrap();
        let manifest = serde_json::from_slice(&made.manifest_bytes).unwrap();
        (image, made, manifest)
    }

    #[test]
    fn an_artifact_has_the_image_as_its_subject() {
        let (image, made, manifest) = attached(Form::Artifact);
        assert_eq!(manifest["subject"]["digest"], image.digest.to_string());
        assert_eq!(manifest["artifactType"], ARTIFACT_TYPE);
        assert_eq!(manifest["config"]["digest"], Digest::of(b"{}").to_string());
        assert_eq!(manifest["layers"][0]["annotations"][PREDICATE_ANNOTATION], "https://x/y");
        assert_eq!(attested_image(&made.manifest), Some(image.digest));
        let statement: Value = serde_json::from_slice(&made.blobs[1].1).unwrap();
        assert_eq!(statement["subject"][0]["digest"]["sha256"], image.digest.hex());
    }

    #[test]
    fn the_older_form_is_an_image_of_its_statements() {
        let (_, made, manifest) = attached(Form::Image);
        assert!(manifest.get("subject").is_none() && manifest.get("artifactType").is_none());
        let config: Value = serde_json::from_slice(&made.blobs[0].1).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
    }
}
