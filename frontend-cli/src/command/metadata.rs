//! `--metadata-file`: what came of a build, under buildx's keys (FEATURES CL14, PG18).

use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kiln::{Build, BuildResult, Event, ProvenanceMode, RULES, Span};
use serde_json::{Map, Value, json};

/// What the file is to tell beside the image's digests.
pub(super) struct Metadata {
    provenance: Option<ProvenanceMode>,
    /// Those that came up, where they are wanted.
    warnings: Option<Arc<Mutex<Vec<Warning>>>>,
}

struct Warning {
    rule: Option<&'static str>,
    message: String,
    span: Option<Span>,
}

impl Metadata {
    /// As buildx's variables want it: a short provenance, and no warnings, where they say nothing.
    pub(super) fn wanted(env: impl Fn(&str) -> Option<String>) -> Self {
        let provenance = env("BUILDX_METADATA_PROVENANCE").unwrap_or_default();
        let warnings = env("BUILDX_METADATA_WARNINGS").unwrap_or_default();
        Self {
            provenance: match provenance.as_str() {
                "max" => Some(ProvenanceMode::Max),
                "disabled" => None,
                other => (kiln::boolean(other) != Some(false)).then_some(ProvenanceMode::Min),
            },
            warnings: (kiln::boolean(&warnings) == Some(true)).then(Arc::default),
        }
    }

    /// Has `build` tell what is wanted; its events go to `sink`.
    pub(super) fn asked_of(&self, build: Build, sink: impl Fn(Event) + Send + Sync + 'static) -> Build {
        let build = match self.provenance {
            Some(mode) => build.tell_provenance(mode),
            None => build,
        };
        let Some(warnings) = self.warnings.clone() else { return build.on_event(sink) };
        build.on_event(move |event| {
            if let Event::Warning { rule, message, span } = &event {
                let warning = Warning { rule: *rule, message: message.clone(), span: *span };
                warnings.lock().unwrap_or_else(PoisonError::into_inner).push(warning);
            }
            sink(event);
        })
    }

    /// The file's text. Without a manifest the image's digest is its id, as docker's own store has it.
    pub(super) fn text(&self, built: &BuildResult) -> String {
        let mut keys = Map::new();
        let mut add = |key: &str, value: Value| _ = keys.insert(key.to_owned(), value);
        match built.provenance.as_slice() {
            [] => {}
            [(_, made)] => add("buildx.build.provenance", made.clone()),
            several => {
                for (platform, made) in several {
                    add(&format!("buildx.build.provenance/{platform}"), made.clone());
                }
            }
        }
        // buildx names builder and node, of which there is none, and the build.
        add("buildx.build.ref", format!("kiln/kiln/{}", built.id).into());
        if let Some(warnings) = &self.warnings {
            let warnings = warnings.lock().unwrap_or_else(PoisonError::into_inner);
            if !warnings.is_empty() {
                add("buildx.build.warnings", warnings.iter().map(|warning| warning.told(built)).collect());
            }
        }
        let config = built.config_digest.to_string();
        add("containerimage.config.digest", config.clone().into());
        if let Some(manifest) =
            built.manifest.as_ref().and_then(|manifest| serde_json::to_value(manifest).ok())
        {
            add("containerimage.descriptor", manifest);
        }
        let digest = built.manifest_digest.map_or(config, |digest| digest.to_string());
        add("containerimage.digest", digest.into());
        if !built.names.is_empty() {
            let names: Vec<String> = built.names.iter().map(ToString::to_string).collect();
            add("image.name", names.join(",").into());
        }
        format!("{:#}\n", Value::Object(keys))
    }
}

impl Warning {
    /// As BuildKit's client writes a warning, texts in base64.
    fn told(&self, built: &BuildResult) -> Value {
        let rule = RULES.iter().find(|rule| Some(rule.name) == self.rule);
        let mut short = match rule {
            Some(rule) => format!("{}: {}", rule.name, self.message),
            None => self.message.clone(),
        };
        if let Some(span) = self.span {
            short += &format!(" (line {})", span.line);
        }
        let mut told = json!({"level": 1, "short": STANDARD.encode(short)});
        if let Some(rule) = rule {
            told["detail"] = json!([STANDARD.encode(rule.description)]);
            if let Some(url) = rule.url() {
                told["url"] = url.into();
            }
        }
        if let Some(span) = self.span {
            told["sourceInfo"] = json!({
                "filename": built.dockerfile_name,
                "data": STANDARD.encode(&built.dockerfile),
                "language": "Dockerfile",
            });
            let lines = span.line..=span.end_line.max(span.line);
            told["range"] =
                lines.map(|line| json!({"start": {"line": line}, "end": {"line": line}})).collect();
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_read_as_buildx_reads_them() {
        let provenance =
            |value: &str| Metadata::wanted(|name| name.ends_with("ANCE").then(|| value.into())).provenance;
        for value in ["", "min", "true", "yes"] {
            assert_eq!(provenance(value), Some(ProvenanceMode::Min), "{value}");
        }
        assert_eq!(provenance("max"), Some(ProvenanceMode::Max));
        for value in ["disabled", "false", "0"] {
            assert_eq!(provenance(value), None, "{value}");
        }
        let warnings = |value: &str| {
            Metadata::wanted(|name| name.ends_with("INGS").then(|| value.into())).warnings.is_some()
        };
        assert!(warnings("1") && warnings("true") && !warnings("") && !warnings("0"));
    }
}
