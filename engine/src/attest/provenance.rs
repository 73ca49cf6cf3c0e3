//! How an image was made, as SLSA has it and with BuildKit's fields (BuildKit, "SLSA definitions").

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kiln_image::Platform;
use kiln_solver::git_url::masked;
use kiln_solver::plan::Plan;
use serde_json::{Map, Value, json};

use super::capture::{Capture, Material, Request};
use super::options::{Provenance, ProvenanceMode, SlsaVersion};
use super::steps::Steps;

/// The predicate's type in an attestation.
pub(super) fn predicate_type(version: SlsaVersion) -> &'static str {
    match version {
        SlsaVersion::V02 => "https://slsa.dev/provenance/v0.2",
        SlsaVersion::V1 => "https://slsa.dev/provenance/v1",
    }
}

/// One image's making.
pub(super) struct Making<'a> {
    pub(super) request: &'a Request,
    pub(super) capture: &'a Capture,
    pub(super) plan: &'a Plan,
    /// RFC 3339.
    pub(super) started: Option<String>,
    /// RFC 3339.
    pub(super) finished: Option<String>,
    /// As the history has it; `None` where the same build is to say the same.
    pub(super) id: Option<&'a str>,
}

impl Making<'_> {
    /// Writes the predicate.
    pub(super) fn predicate(&self, asked: &Provenance) -> Value {
        let request = self.request(asked.mode);
        let steps = match asked.mode {
            ProvenanceMode::Min => None,
            ProvenanceMode::Max => Some(Steps::of(&self.plan.graph, self.plan.result, self.request)),
        };
        let config = steps.as_ref().map(|steps| json!({"llbDefinition": steps.definition}));
        let metadata = self.metadata(steps);
        let is_request_complete = asked.mode == ProvenanceMode::Max || !self.has_private_arguments();
        match asked.version {
            SlsaVersion::V1 => self.v1(asked, request, config, metadata, is_request_complete),
            SlsaVersion::V02 => self.v02(asked, request, config, metadata, is_request_complete),
        }
    }

    fn v1(
        &self,
        asked: &Provenance,
        request: Value,
        config: Option<Value>,
        metadata: Value,
        whole: bool,
    ) -> Value {
        let mut internal = Map::new();
        internal.extend(config.map(|config| ("buildConfig".to_owned(), config)));
        internal.insert("builderPlatform".to_owned(), Platform::host().to_string().into());
        let mut run = Map::new();
        let mut add =
            |key: &str, value: Option<Value>| run.extend(value.map(|value| (key.to_owned(), value)));
        add("invocationID", self.id.map(Value::from));
        add("startedOn", self.started.clone().map(Value::from));
        add("finishedOn", self.finished.clone().map(Value::from));
        add("buildkit_metadata", Some(metadata));
        add("buildkit_hermetic", self.is_hermetic().then_some(true.into()));
        add(
            "buildkit_completeness",
            Some(json!({"request": whole, "resolvedDependencies": self.capture.is_complete()})),
        );
        add("buildkit_reproducible", asked.reproducible.then_some(true.into()));
        json!({
            "buildDefinition": {
                "buildType": "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md",
                "externalParameters": {"configSource": self.config_source("path"), "request": request},
                "internalParameters": internal,
                "resolvedDependencies": self.materials(),
            },
            "runDetails": {
                "builder": {"id": asked.builder_id, "version": {"kiln": env!("CARGO_PKG_VERSION")}},
                "metadata": run,
            },
        })
    }

    fn v02(
        &self,
        asked: &Provenance,
        request: Value,
        config: Option<Value>,
        metadata: Value,
        whole: bool,
    ) -> Value {
        let mut run = Map::new();
        let mut add =
            |key: &str, value: Option<Value>| run.extend(value.map(|value| (key.to_owned(), value)));
        add("buildInvocationID", self.id.map(Value::from));
        add("buildStartedOn", self.started.clone().map(Value::from));
        add("buildFinishedOn", self.finished.clone().map(Value::from));
        let materials = self.capture.is_complete();
        add("completeness", Some(json!({"parameters": whole, "environment": true, "materials": materials})));
        add("reproducible", Some(asked.reproducible.into()));
        add("https://mobyproject.org/buildkit@v1#metadata", Some(metadata));
        add("https://mobyproject.org/buildkit@v1#hermetic", self.is_hermetic().then_some(true.into()));
        let mut predicate = json!({
            "builder": {"id": asked.builder_id},
            "buildType": "https://mobyproject.org/buildkit@v1",
            "materials": self.materials(),
            "invocation": {
                "configSource": self.config_source("entryPoint"),
                "parameters": request,
                "environment": {"platform": Platform::host().to_string()},
            },
            "metadata": run,
        });
        if let Some(config) = config {
            predicate["buildConfig"] = config;
        }
        predicate
    }

    fn request(&self, mode: ProvenanceMode) -> Value {
        let arguments: BTreeMap<_, _> = self
            .request
            .arguments
            .iter()
            .filter(|(name, _)| mode == ProvenanceMode::Max || !is_private(name))
            .collect();
        let mut request = Map::new();
        let mut add = |key: &str, value: Value| _ = request.insert(key.to_owned(), value);
        add("frontend", "dockerfile.v0".into());
        if !arguments.is_empty() {
            add("args", json!(arguments));
        }
        let Capture { secrets, ssh, locals, .. } = self.capture;
        for (key, ids) in [("secrets", secrets), ("ssh", ssh)] {
            if mode == ProvenanceMode::Max && !ids.is_empty() {
                add(key, ids.iter().map(|(id, required)| shown(id, *required)).collect());
            }
        }
        if !locals.is_empty() {
            add("locals", locals.iter().map(|name| json!({"name": name})).collect());
        }
        request.into()
    }

    fn has_private_arguments(&self) -> bool {
        self.request.arguments.keys().any(|name| is_private(name))
    }

    /// Nothing that is not named could come in.
    fn is_hermetic(&self) -> bool {
        self.capture.is_complete() && !self.capture.has_network
    }

    fn config_source(&self, path_key: &str) -> Value {
        let mut source = match &self.capture.config_source {
            Some(material) => self::material(material),
            None => json!({}),
        };
        source[path_key] = self.request.dockerfile_name.as_str().into();
        source
    }

    fn materials(&self) -> Vec<Value> {
        self.capture.materials.iter().map(material).collect()
    }

    fn metadata(&self, steps: Option<Steps>) -> Value {
        let mut metadata = json!({});
        if let Some(checkout) = &self.request.checkout {
            metadata["vcs"] = json!({"revision": checkout.revision});
            if let Some(source) = &checkout.source {
                metadata["vcs"]["source"] = source.as_str().into();
            }
        }
        let Some(steps) = steps else { return metadata };
        // A password in an address is none of the text's readers' business; lines stay where they are.
        let text = masked(&String::from_utf8_lossy(&self.request.dockerfile));
        let file = json!({
            "filename": self.request.dockerfile_name,
            "language": "Dockerfile",
            "data": STANDARD.encode(text),
        });
        metadata["source"] = json!({"locations": steps.locations, "infos": [file]});
        metadata
    }
}

/// What `mode=min` leaves out.
fn is_private(argument: &str) -> bool {
    argument.starts_with("build-arg:") || argument.starts_with("label:")
}

fn shown(id: &str, required: bool) -> Value {
    if required { json!({"id": id}) } else { json!({"id": id, "optional": true}) }
}

fn material(material: &Material) -> Value {
    let (algorithm, value) = &material.digest;
    json!({"uri": material.uri, "digest": {*algorithm: value}})
}
