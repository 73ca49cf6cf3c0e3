//! How the flags name a cache: `ref`, `a,b`, `type=…,key=value` (FEATURES CA17, CA18).

use kiln_image::layer;

/// One cache, as `--cache-from` or `--cache-to` names it.
#[derive(Clone, PartialEq, Eq)]
pub struct CacheSpec {
    /// `registry`, `local`, `inline`, `s3`, …
    pub kind: String,
    /// The other fields in their order, keys in lower case.
    pub attrs: Vec<(String, String)>,
}

/// A cache that cannot be meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct InvalidSpec {
    /// What is wrong.
    pub message: String,
    /// What can be done.
    pub hint: Option<String>,
}

impl InvalidSpec {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    pub(crate) fn hinted(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// How much is exported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The steps whose layers are in the image.
    #[default]
    Min,
    /// All steps.
    Max,
}

/// How exported layers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compression {
    /// The algorithm.
    pub algorithm: layer::Compression,
    /// Its level; `None` is its own default.
    pub level: Option<i32>,
    /// Layers that have a blob of another kind are packed anew, too.
    pub force: bool,
}

/// What all kinds of `--cache-to` understand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportSettings {
    /// How much.
    pub mode: Mode,
    /// How layers are compressed.
    pub compression: Compression,
    /// A failed export is a warning only.
    pub ignore_error: bool,
}

/// The values of secrets are in fields: they are not shown (THREATS F1).
impl std::fmt::Debug for CacheSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let keys: Vec<&str> = self.attrs.iter().map(|(key, _)| key.as_str()).collect();
        f.debug_struct("CacheSpec").field("kind", &self.kind).field("attrs", &keys).finish()
    }
}

impl CacheSpec {
    /// A cache of a kind, without fields.
    pub fn new(kind: impl Into<String>) -> Self {
        Self { kind: kind.into(), attrs: Vec::new() }
    }

    /// Adds a field.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.attrs.push((key.into(), value.into()));
        self
    }

    /// Understands the comma-separated fields of one flag: registry references when no field has a `=`, else the one
    /// cache that `type` and the other fields describe.
    ///
    /// # Errors
    /// A field without `=` among others, or no `type`.
    pub fn from_fields(fields: &[String]) -> Result<Vec<Self>, InvalidSpec> {
        if fields.iter().all(|field| !field.contains('=')) {
            let references = fields.iter().filter(|field| !field.is_empty());
            return Ok(references.map(|reference| Self::new("registry").with("ref", reference)).collect());
        }
        let mut spec = Self::new("");
        for field in fields {
            let Some((key, value)) = field.split_once('=') else {
                return Err(InvalidSpec::new(format!("invalid field `{field}`: expected key=value")));
            };
            match key.to_lowercase().as_str() {
                "type" => value.clone_into(&mut spec.kind),
                key => spec.attrs.push((key.to_owned(), value.to_owned())),
            }
        }
        if spec.kind.is_empty() {
            return Err(InvalidSpec::new("type is required").hinted("type=registry,ref=NAME, for example"));
        }
        Ok(vec![spec])
    }

    /// A field's value; of several the last.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.attrs.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// A field that must be there and not be empty.
    pub(crate) fn required(&self, key: &str) -> Result<&str, InvalidSpec> {
        self.get(key)
            .filter(|value| !value.is_empty())
            .ok_or_else(|| InvalidSpec::new(format!("the cache type=`{}` needs {key}=", self.kind)))
    }

    /// A field that is true or false.
    pub(crate) fn flag(&self, key: &str, default: bool) -> Result<bool, InvalidSpec> {
        match self.get(key) {
            None => Ok(default),
            Some("1" | "t" | "T" | "true" | "TRUE" | "True" | "") => Ok(true),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
            Some(other) => Err(InvalidSpec::new(format!("{key}={other} is neither true nor false"))),
        }
    }

    /// What all kinds of export have in common.
    ///
    /// # Errors
    /// A value that there is not.
    pub fn export_settings(&self) -> Result<ExportSettings, InvalidSpec> {
        let mode = match self.get("mode") {
            None | Some("min" | "") => Mode::Min,
            Some("max") => Mode::Max,
            Some(other) => {
                return Err(
                    InvalidSpec::new(format!("there is no cache mode `{other}`")).hinted("min or max")
                );
            }
        };
        let algorithm = match self.get("compression") {
            None | Some("gzip") => layer::Compression::Gzip,
            Some("zstd") => layer::Compression::Zstd,
            Some("uncompressed") => layer::Compression::None,
            Some(other) => {
                return Err(InvalidSpec::new(format!("unknown compression `{other}`"))
                    .hinted("gzip, zstd or uncompressed"));
            }
        };
        let level = match self.get("compression-level") {
            None => None,
            Some(level) => Some(
                level
                    .parse()
                    .map_err(|_| InvalidSpec::new(format!("compression level `{level}` is no number")))?,
            ),
        };
        let force = self.flag("force-compression", false)?;
        Ok(ExportSettings {
            mode,
            compression: Compression { algorithm, level, force },
            ignore_error: self.flag("ignore-error", false)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Vec<String> {
        text.split(',').map(str::to_owned).collect()
    }

    #[test]
    fn words_without_an_equals_sign_are_registry_references() {
        let specs = CacheSpec::from_fields(&fields("a/b:c,d")).unwrap();
        assert_eq!(
            specs,
            [CacheSpec::new("registry").with("ref", "a/b:c"), CacheSpec::new("registry").with("ref", "d"),]
        );
    }

    #[test]
    fn a_described_cache_needs_its_type() {
        let specs = CacheSpec::from_fields(&fields("TYPE=local,Dest=x,mode=max")).unwrap();
        assert_eq!(specs, [CacheSpec::new("local").with("dest", "x").with("mode", "max")]);
        assert_eq!(specs[0].export_settings().unwrap().mode, Mode::Max);
        assert!(CacheSpec::from_fields(&fields("dest=x")).is_err());
        assert!(CacheSpec::from_fields(&fields("type=local,x")).is_err());
    }

    #[test]
    fn unknown_modes_and_compressions_are_refused() {
        for (key, value) in [("mode", "all"), ("compression", "xz"), ("compression-level", "much")] {
            assert!(CacheSpec::new("local").with(key, value).export_settings().is_err(), "{key}");
        }
    }

    #[test]
    fn a_secret_is_in_no_debug_text() {
        let spec = CacheSpec::new("s3").with("secret_access_key", "CANARY");
        assert!(!format!("{spec:?}").contains("CANARY"));
    }
}
