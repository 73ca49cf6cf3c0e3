//! Reading documents from outside: one meaning only, or none.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{Descriptor, ImageConfig, Index, Manifest, media_type};
use crate::Platform;

/// Longest manifest or index that is read (distribution-spec names 4 MiB as what registries should take).
pub const MAX_MANIFEST_BYTES: u64 = 4 << 20;
/// Longest image config that is read.
pub const MAX_CONFIG_BYTES: u64 = 8 << 20;
/// Most layers that an image may have; docker itself stops at 127.
const MAX_LAYERS: usize = 1000;

/// What a manifest's digest or a tag may name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// Images for several platforms.
    Index(Index),
}

/// Why a document is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// Not the JSON that the specification describes.
    #[error("not a valid {what}: {source}")]
    Invalid {
        /// Which kind of document.
        what: &'static str,
        /// Where and why.
        source: serde_json::Error,
    },
    /// Two readers could take it for different things.
    #[error("the document is both a manifest and an index")]
    Ambiguous,
    /// `mediaType`, `Content-Type` or the descriptor say different things, or not what the document is.
    #[error("the document is announced as `{announced}` but is `{found}`")]
    MediaTypeMismatch {
        /// By the header or the descriptor.
        announced: String,
        /// By the document.
        found: String,
    },
    /// Docker's format of before 2016, or no image at all.
    #[error("`{media_type}` is not supported")]
    Unsupported {
        /// What it is.
        media_type: String,
    },
    /// `Env` has an entry that is no `NAME=value`; some builders read such entries as "take it from the host".
    #[error("the image config has an environment entry without `=`: `{entry}`")]
    InvalidEnv {
        /// Escaped and shortened.
        entry: String,
    },
    /// As many layers as DiffIDs there must be.
    #[error("the manifest has {layers} layers and the config {diff_ids} DiffIDs")]
    LayerCount {
        /// In the manifest.
        layers: usize,
        /// In the config.
        diff_ids: usize,
    },
    /// Longer than anyone's.
    #[error("{what} is larger than {limit}")]
    TooLarge {
        /// What.
        what: &'static str,
        /// Bytes or entries.
        limit: u64,
    },
    /// Indexes within indexes without end.
    #[error("indexes are nested more than {limit} deep")]
    TooDeep {
        /// How deep is read.
        limit: usize,
    },
    /// The index has nothing that runs on the platform.
    #[error("no image for platform {wanted}; there are: {}", list(.available))]
    NoMatchingPlatform {
        /// What was asked for.
        wanted: Box<Platform>,
        /// What there is.
        available: Vec<Platform>,
    },
}

pub(crate) fn list(platforms: &[Platform]) -> String {
    if platforms.is_empty() {
        return "none".to_owned();
    }
    platforms.iter().map(Platform::to_string).collect::<Vec<_>>().join(", ")
}

/// The fields that decide what a document is. Being a struct, it also refuses keys that occur twice.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: u32,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<IgnoredAny>,
    #[serde(default)]
    config: Option<IgnoredAny>,
    #[serde(default)]
    layers: Option<IgnoredAny>,
    #[serde(default, rename = "fsLayers")]
    fs_layers: Option<IgnoredAny>,
}

impl Document {
    /// Reads a manifest or index. `announced` is the `Content-Type` or the descriptor's media type; what is no media
    /// type of a manifest or index there (`application/json`, nothing) says nothing.
    ///
    /// # Errors
    /// When it is neither, both, or not what it was announced as (CVE-2021-41190).
    pub fn parse(bytes: &[u8], announced: Option<&str>) -> Result<Self, DocumentError> {
        check_length("the manifest", bytes, MAX_MANIFEST_BYTES)?;
        let shape: Shape = json("manifest", bytes)?;
        let announced = announced.map(|text| text.split(';').next().unwrap_or_default().trim());
        if shape.schema_version == 1 || shape.fs_layers.is_some() {
            return Err(DocumentError::Unsupported { media_type: media_type::DOCKER_SCHEMA1[0].into() });
        }
        let is_index = match (shape.manifests.is_some(), shape.config.is_some() || shape.layers.is_some()) {
            (true, true) => return Err(DocumentError::Ambiguous),
            (false, true) => false,
            (true, false) => true,
            // An empty index may leave out its list.
            (false, false) => shape.media_type.as_deref().or(announced).is_some_and(media_type::is_index),
        };
        let own = shape.media_type.as_deref().filter(|own| !own.is_empty());
        if let Some(own) = own
            && own != if is_index { index_type(own) } else { manifest_type(own) }
        {
            let found = if is_index { media_type::OCI_INDEX } else { media_type::OCI_MANIFEST };
            return Err(mismatch(own, found));
        }
        if let Some(announced) = announced
            && (media_type::is_index(announced) || media_type::is_manifest(announced))
        {
            let found =
                own.unwrap_or(if is_index { media_type::OCI_INDEX } else { media_type::OCI_MANIFEST });
            let differs =
                if own.is_some() { announced != found } else { media_type::is_index(announced) != is_index };
            if differs {
                return Err(mismatch(announced, found));
            }
        }
        if is_index {
            Ok(Self::Index(json("index", bytes)?))
        } else {
            let manifest: Manifest = json("manifest", bytes)?;
            if manifest.layers.len() > MAX_LAYERS {
                return Err(DocumentError::TooLarge {
                    what: "the manifest's list of layers",
                    limit: MAX_LAYERS as u64,
                });
            }
            Ok(Self::Manifest(manifest))
        }
    }
}

impl Manifest {
    /// Refuses what is no container image: charts, signatures and whatever else registries keep.
    ///
    /// # Errors
    /// [`DocumentError::Unsupported`] with the config's media type.
    pub fn check_image(&self) -> Result<(), DocumentError> {
        if media_type::is_config(&self.config.media_type) {
            Ok(())
        } else {
            Err(DocumentError::Unsupported { media_type: escape(&self.config.media_type) })
        }
    }
}

impl Index {
    /// The entries for `wanted`, best first. Entries without a platform come last: only their configs can tell.
    pub fn candidates(&self, wanted: &Platform) -> Vec<&Descriptor> {
        let rank = |entry: &&Descriptor| match &entry.platform {
            Some(spec) => wanted.rank(&spec.to_platform()),
            None => Some(usize::MAX),
        };
        let mut entries: Vec<_> =
            self.manifests.iter().filter_map(|entry| rank(&entry).map(|rank| (rank, entry))).collect();
        // Stable, so that the first of two equal entries wins, as with containerd.
        entries.sort_by_key(|(rank, _)| *rank);
        entries.into_iter().map(|(_, entry)| entry).collect()
    }

    /// The platforms there are images for; attestations (`unknown/unknown`) are left out.
    pub fn platforms(&self) -> Vec<Platform> {
        let specs = self.manifests.iter().filter_map(|entry| entry.platform.as_ref());
        specs.map(super::PlatformSpec::to_platform).filter(|platform| platform.os != "unknown").collect()
    }
}

/// Reads an image config.
///
/// # Errors
/// When it is too long, no image config, or has an `Env` entry without `=`.
pub fn parse_config(bytes: &[u8]) -> Result<ImageConfig, DocumentError> {
    check_length("the image config", bytes, MAX_CONFIG_BYTES)?;
    let config: ImageConfig = json("image config", bytes)?;
    let valid = |entry: &&String| entry.find('=').is_some_and(|at| at > 0);
    match config.config.env.iter().flatten().find(|entry| !valid(entry)) {
        Some(entry) => Err(DocumentError::InvalidEnv { entry: escape(entry) }),
        None => Ok(config),
    }
}

fn check_length(what: &'static str, bytes: &[u8], limit: u64) -> Result<(), DocumentError> {
    if bytes.len() as u64 > limit { Err(DocumentError::TooLarge { what, limit }) } else { Ok(()) }
}

fn json<'a, T: Deserialize<'a>>(what: &'static str, bytes: &'a [u8]) -> Result<T, DocumentError> {
    serde_json::from_slice(bytes).map_err(|source| DocumentError::Invalid { what, source })
}

fn mismatch(announced: &str, found: &str) -> DocumentError {
    DocumentError::MediaTypeMismatch { announced: escape(announced), found: escape(found) }
}

fn index_type(given: &str) -> &str {
    if media_type::is_index(given) { given } else { media_type::OCI_INDEX }
}

fn manifest_type(given: &str) -> &str {
    if media_type::is_manifest(given) { given } else { media_type::OCI_MANIFEST }
}

/// Hostile text for a person's eyes: short, and without control characters.
pub(crate) fn escape(text: &str) -> String {
    const SHOWN_CHARS: usize = 300;
    let mut shown = String::new();
    for char in text.chars().take(SHOWN_CHARS) {
        // Quotes and backslashes do no harm, and an address with them is to be read as it is.
        if char.is_ascii_graphic() { shown.push(char) } else { shown.extend(char.escape_debug()) }
    }
    if text.chars().nth(SHOWN_CHARS).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn manifest(extra: &str) -> Vec<u8> {
        let config = format!(r#"{{"mediaType":"{}","digest":"{DIGEST}","size":2}}"#, media_type::OCI_CONFIG);
        format!(r#"{{"schemaVersion":2,"config":{config},"layers":[]{extra}}}"#).into_bytes()
    }

    #[test]
    fn a_document_that_is_manifest_and_index_is_refused() {
        let error = Document::parse(&manifest(r#","manifests":[]"#), None).unwrap_err();
        assert!(matches!(error, DocumentError::Ambiguous));
    }

    #[test]
    fn a_key_that_occurs_twice_is_refused() {
        assert!(Document::parse(&manifest(r#","layers":[]"#), None).is_err());
    }

    #[test]
    fn the_header_must_say_what_the_document_says() {
        let typed = manifest(&format!(r#","mediaType":"{}""#, media_type::OCI_MANIFEST));
        for wrong in [media_type::OCI_INDEX, media_type::DOCKER_MANIFEST] {
            let error = Document::parse(&typed, Some(wrong)).unwrap_err();
            assert!(matches!(error, DocumentError::MediaTypeMismatch { .. }), "{wrong}");
        }
        for right in [Some(media_type::OCI_MANIFEST), Some("application/json; charset=utf-8"), None] {
            assert!(matches!(Document::parse(&typed, right).unwrap(), Document::Manifest(_)), "{right:?}");
        }
        assert!(Document::parse(&manifest(""), Some(media_type::DOCKER_INDEX)).is_err());
        assert!(
            Document::parse(&manifest(&format!(r#","mediaType":"{}""#, media_type::OCI_INDEX)), None)
                .is_err()
        );
    }

    #[test]
    fn docker_schema_1_is_named_as_unsupported() {
        let error = Document::parse(br#"{"schemaVersion":1,"fsLayers":[]}"#, None).unwrap_err();
        insta::assert_snapshot!(error, @"`application/vnd.docker.distribution.manifest.v1+json` is not supported");
    }

    #[test]
    fn null_counts_as_absent_and_unknown_fields_are_passed_over() {
        let config = parse_config(
            br#"{"architecture":"amd64","os":"linux","author":null,"created":null,"history":null,"new":[1],
                "rootfs":{"type":"layers","diff_ids":null},
                "config":{"User":null,"Env":null,"Cmd":null,"Labels":null,"ExposedPorts":{"80/tcp":null},
                "Volumes":null,"WorkingDir":null,"Healthcheck":{"Test":null,"Interval":null},"ArgsEscaped":null,"Domainname":""}}"#,
        )
        .unwrap();
        assert_eq!(config.config.env, None);
        assert!(config.config.exposed_ports.unwrap().contains_key("80/tcp"));
        assert!(config.rootfs.diff_ids.is_empty());
    }

    #[test]
    fn an_empty_cmd_stays_an_empty_cmd() {
        let text =
            r#"{"architecture":"","os":"","config":{"Cmd":[]},"rootfs":{"type":"layers","diff_ids":[]}}"#;
        let config = parse_config(text.as_bytes()).unwrap();
        assert_eq!(serde_json::to_string(&config).unwrap(), text);
    }

    #[test]
    fn an_environment_entry_without_a_value_is_refused() {
        for entry in ["AWS_SECRET", "*", "", "=x"] {
            let text = format!(r#"{{"config":{{"Env":["A=b","{entry}"]}},"rootfs":{{"type":"layers"}}}}"#);
            assert!(
                matches!(parse_config(text.as_bytes()), Err(DocumentError::InvalidEnv { .. })),
                "{entry}"
            );
        }
    }

    #[test]
    fn a_config_over_the_limit_is_refused_before_it_is_parsed() {
        let error = parse_config(&vec![b' '; MAX_CONFIG_BYTES as usize + 1]).unwrap_err();
        insta::assert_snapshot!(error, @"the image config is larger than 8388608");
    }

    #[test]
    fn a_negative_size_or_another_algorithm_is_refused() {
        for (digest, size) in [(DIGEST, "-1"), ("sha512:00", "1"), ("sha256:../../x", "1")] {
            let layer = format!(r#"{{"mediaType":"x","digest":"{digest}","size":{size}}}"#);
            let text = String::from_utf8(manifest(""))
                .unwrap()
                .replace("\"layers\":[]", &format!("\"layers\":[{layer}]"));
            assert!(Document::parse(text.as_bytes(), None).is_err(), "{digest} {size}");
        }
    }

    #[test]
    fn candidates_are_ordered_by_how_well_they_serve() {
        let entry = |os: &str, architecture: &str| {
            format!(
                r#"{{"mediaType":"{}","digest":"{DIGEST}","size":1,"platform":{{"os":"{os}","architecture":"{architecture}"}}}}"#,
                media_type::OCI_MANIFEST
            )
        };
        let text = format!(
            r#"{{"schemaVersion":2,"manifests":[{},{},{}]}}"#,
            entry("unknown", "unknown"),
            entry("linux", "386"),
            entry("linux", "x86_64")
        );
        let Document::Index(index) = Document::parse(text.as_bytes(), None).unwrap() else {
            panic!("an index")
        };
        let wanted = "linux/amd64".parse().unwrap();
        let found: Vec<_> = index
            .candidates(&wanted)
            .iter()
            .map(|entry| entry.platform.as_ref().unwrap().architecture.clone())
            .collect();
        assert_eq!(found, ["x86_64", "386"]);
        assert_eq!(list(&index.platforms()), "linux/386, linux/amd64");
    }
}
