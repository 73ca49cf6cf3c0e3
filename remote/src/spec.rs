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

/// What all types understand.
const EXPORT_KEYS: [&str; 8] = [
    "mode",
    "compression",
    "compression-level",
    "force-compression",
    "ignore-error",
    "upload_parallelism",
    "cache-mounts",
    "cache-mounts-max",
];
/// So many layers are written to a cache at once, as with BuildKit.
const UPLOADS_AT_ONCE: usize = 4;
/// More connections at once help nobody.
const MAX_UPLOADS_AT_ONCE: usize = 64;
/// The cache mounts of an export are together no larger, unless the user says so. Bytes before compression.
const CACHE_MOUNTS_MAX: u64 = 1 << 30;

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
    /// What becomes of an export that fails.
    pub on_error: OnError,
    /// So many layers are written at once.
    pub uploads_at_once: usize,
    /// Which cache mounts go along.
    pub cache_mounts: CacheMounts,
    /// Larger ones, in bytes together and before compression, stay here.
    pub cache_mounts_max: u64,
}

/// What becomes of an export that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// The user hears of it.
    Warn,
    /// The build fails.
    Fail,
}

/// Cache mounts (`RUN --mount=type=cache`) whose contents go into a cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheMounts {
    /// Those with these ids, as Dockerfiles give them.
    Named(Vec<String>),
    /// All that the store has.
    All,
}

impl CacheMounts {
    /// Whether none is wanted.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Named(ids) if ids.is_empty())
    }

    /// Whether a mount that the store knows as `id` is meant. The store's ids are `<namespace>/<id>`, with `:…` behind
    /// where the mount has a shape or a seed.
    pub fn contain(&self, id: &str) -> bool {
        let Self::Named(wanted) = self else { return true };
        let Some((_, id)) = id.split_once('/') else { return false };
        wanted.iter().any(|wanted| {
            id.strip_prefix(wanted.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
        })
    }
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

    /// A field's value, if it is there and not empty.
    pub(crate) fn value(&self, key: &str) -> Option<&str> {
        self.get(key).filter(|value| !value.is_empty())
    }

    /// Refuses fields that are neither in `keys` nor in [`EXPORT_KEYS`]. Both flags take all of a type's keys, so that
    /// one text can serve for both.
    pub(crate) fn know(&self, keys: &[&[&str]]) -> Result<(), InvalidSpec> {
        let known: Vec<&str> = keys.iter().copied().flatten().chain(&EXPORT_KEYS).copied().collect();
        match self.attrs.iter().find(|(key, _)| !known.contains(&key.as_str())) {
            None => Ok(()),
            Some((key, _)) => {
                let message = format!("the cache type=`{}` has no key `{}`", self.kind, key.escape_debug());
                Err(InvalidSpec::new(message).hinted(known.join(", ")))
            }
        }
    }

    /// A field that must be there and not be empty.
    pub(crate) fn required(&self, key: &str) -> Result<&str, InvalidSpec> {
        self.value(key)
            .ok_or_else(|| InvalidSpec::new(format!("the cache type=`{}` needs {key}=", self.kind)))
    }

    /// A field that is true or false.
    pub(crate) fn flag(&self, key: &str, default: bool) -> Result<bool, InvalidSpec> {
        match self.get(key) {
            None => Ok(default),
            Some("") => Ok(true),
            Some(value) => kiln_parser::boolean(value)
                .ok_or_else(|| InvalidSpec::new(format!("{key}={value} is neither true nor false"))),
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
            // A cache saves time; to do without one is no reason to stop, unless the user says that it is.
            on_error: if self.flag("ignore-error", true)? { OnError::Warn } else { OnError::Fail },
            uploads_at_once: self.uploads_at_once()?,
            cache_mounts: self.cache_mounts(),
            cache_mounts_max: match self.value("cache-mounts-max") {
                None => CACHE_MOUNTS_MAX,
                Some(text) => size(text).ok_or_else(|| {
                    InvalidSpec::new(format!("cache-mounts-max={text} is no size"))
                        .hinted("500MB, for example")
                })?,
            },
        })
    }
}

impl CacheSpec {
    fn uploads_at_once(&self) -> Result<usize, InvalidSpec> {
        let Some(text) = self.value("upload_parallelism") else { return Ok(UPLOADS_AT_ONCE) };
        let number = text.parse().ok().filter(|number| (1..=MAX_UPLOADS_AT_ONCE).contains(number));
        number.ok_or_else(|| {
            InvalidSpec::new(format!("upload_parallelism={text} is none of 1 to {MAX_UPLOADS_AT_ONCE}"))
        })
    }

    /// Ids with `,` (the field is quoted then) or `;` between them; `*` is all.
    fn cache_mounts(&self) -> CacheMounts {
        let ids = self.get("cache-mounts").unwrap_or_default().split([',', ';']).map(str::trim);
        let ids: Vec<String> = ids.filter(|id| !id.is_empty()).map(str::to_owned).collect();
        if ids == ["*"] { CacheMounts::All } else { CacheMounts::Named(ids) }
    }
}

/// Bytes: a number, with `KB`, `MB` or `GB` behind it as docker counts them (by 1024), or `K`, `M`, `G`.
pub(crate) fn size(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let number = text.trim_end_matches('b');
    let (number, shift) = match number.as_bytes().last()? {
        b'k' => (number.strip_suffix('k')?, 10),
        b'm' => (number.strip_suffix('m')?, 20),
        b'g' => (number.strip_suffix('g')?, 30),
        b't' => (number.strip_suffix('t')?, 40),
        _ => (number, 0),
    };
    number.trim().parse::<u64>().ok()?.checked_mul(1 << shift)
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
    fn an_export_that_fails_is_a_warning_unless_the_user_says_otherwise() {
        let settings = |spec: CacheSpec| spec.export_settings().unwrap();
        assert_eq!(settings(CacheSpec::new("s3")).on_error, OnError::Warn);
        assert_eq!(settings(CacheSpec::new("s3").with("ignore-error", "false")).on_error, OnError::Fail);
    }

    #[test]
    fn cache_mounts_are_meant_by_the_ids_in_dockerfiles() {
        let spec =
            CacheSpec::new("s3").with("cache-mounts", "/root/.cache; apt").with("cache-mounts-max", "2MB");
        let settings = spec.export_settings().unwrap();
        assert_eq!(settings.cache_mounts_max, 2 << 20);
        for (id, is_meant) in [
            ("/apt", true),
            ("ns/apt", true),
            ("/apt:755:0:0", true),
            ("/apt2", false),
            ("//root/.cache", true),
        ] {
            assert_eq!(settings.cache_mounts.contain(id), is_meant, "{id}");
        }
        assert_eq!(CacheSpec::new("s3").with("cache-mounts", "*").cache_mounts(), CacheMounts::All);
        assert!(CacheSpec::new("s3").cache_mounts().is_empty());
        for text in ["", "b", "1.5G", "99999999999999999G", "-1"] {
            assert_eq!(size(text), None, "{text}");
        }
    }

    #[test]
    fn a_secret_is_in_no_debug_text() {
        let spec = CacheSpec::new("s3").with("secret_access_key", "CANARY");
        assert!(!format!("{spec:?}").contains("CANARY"));
    }
}
