//! The keys of `--output` (FEATURES EX1–EX7, EX11, EX12), read once.

use kiln_image::Platform;
use kiln_image::layer::Compression;
use kiln_image::oci::media_type;

use crate::Error;
use crate::attest::Place;

/// How an image is written: what the types image, oci and docker have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageOptions {
    /// Names beside the build's own tags.
    pub names: Vec<String>,
    /// Also `name@digest` for each name.
    pub name_canonical: bool,
    /// A repository: the image is also called `prefix@digest`.
    pub dangling_name_prefix: Option<String>,
    /// That only where it has no other name.
    pub dangling_name_empty_only: bool,
    /// How new layers are compressed.
    pub compression: LayerCompression,
    /// gzip's and eStargz' 0–9, zstd's 0–22; the usual one if `None`.
    pub compression_level: Option<i32>,
    /// Compress layers of the base anew that are compressed in another way.
    pub force_compression: bool,
    /// OCI's media types and not docker's.
    pub media_types: MediaTypes,
    /// Later times in new layers become `SOURCE_DATE_EPOCH`.
    pub rewrite_timestamp: bool,
    /// In place of the build's `SOURCE_DATE_EPOCH`, in seconds.
    pub source_date_epoch: Option<i64>,
    /// Notes on manifests, indexes and their descriptors.
    pub annotations: Vec<Annotation>,
    /// Not into the store.
    pub no_store: bool,
    /// To a registry.
    pub push: bool,
    /// To a registry, without tags.
    pub push_by_digest: bool,
    /// That registry has no TLS.
    pub registry_insecure: bool,
    /// Attestations without the form of an artifact.
    pub attestations_as_images: bool,
    /// Without attestations that are to be inline only (`attestation-inline=false`).
    pub no_inline_attestations: bool,
    /// Something was asked for that a manifest must say.
    pub(crate) wants_manifest: bool,
}

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LayerCompression {
    /// A plain tar.
    Uncompressed,
    /// gzip.
    #[default]
    Gzip,
    /// gzip with a table of contents.
    Estargz,
    /// zstd.
    Zstd,
}

impl LayerCompression {
    /// As `compression=` and the store call it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Uncompressed => "uncompressed",
            Self::Gzip => "gzip",
            Self::Estargz => "estargz",
            Self::Zstd => "zstd",
        }
    }

    fn parse(text: &str) -> Result<Self, Error> {
        [Self::Uncompressed, Self::Gzip, Self::Estargz, Self::Zstd]
            .into_iter()
            .find(|compression| compression.word() == text)
            .ok_or_else(|| {
                Error::user(format!("unknown compression `{text}`"))
                    .hinted("there are gzip, zstd, estargz and uncompressed")
            })
    }

    fn highest_level(self) -> i32 {
        match self {
            Self::Zstd => 22,
            _ => 9,
        }
    }
}

impl From<Compression> for LayerCompression {
    fn from(compression: Compression) -> Self {
        match compression {
            Compression::None => Self::Uncompressed,
            Compression::Gzip => Self::Gzip,
            Compression::Zstd => Self::Zstd,
        }
    }
}

/// Whose media types a manifest has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MediaTypes {
    /// OCI's.
    #[default]
    Oci,
    /// Docker's.
    Docker,
}

impl MediaTypes {
    pub(crate) fn index(self) -> &'static str {
        match self {
            Self::Oci => media_type::OCI_INDEX,
            Self::Docker => media_type::DOCKER_INDEX,
        }
    }

    pub(crate) fn manifest(self) -> &'static str {
        match self {
            Self::Oci => media_type::OCI_MANIFEST,
            Self::Docker => media_type::DOCKER_MANIFEST,
        }
    }

    pub(crate) fn config(self) -> &'static str {
        match self {
            Self::Oci => media_type::OCI_CONFIG,
            Self::Docker => media_type::DOCKER_CONFIG,
        }
    }

    pub(crate) fn layer(self, compression: LayerCompression) -> &'static str {
        match (self, compression) {
            (Self::Oci, LayerCompression::Uncompressed) => media_type::OCI_LAYER,
            (Self::Oci, LayerCompression::Gzip | LayerCompression::Estargz) => media_type::OCI_LAYER_GZIP,
            (Self::Oci, LayerCompression::Zstd) => media_type::OCI_LAYER_ZSTD,
            (Self::Docker, LayerCompression::Uncompressed) => media_type::DOCKER_LAYER,
            (Self::Docker, LayerCompression::Gzip | LayerCompression::Estargz) => {
                media_type::DOCKER_LAYER_GZIP
            }
            (Self::Docker, LayerCompression::Zstd) => media_type::DOCKER_LAYER_ZSTD,
        }
    }
}

/// One annotation (image-spec, `annotations.md`) and where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Annotation {
    /// On what.
    pub target: AnnotationTarget,
    /// Of this platform's image only.
    pub platform: Option<Platform>,
    /// The key.
    pub key: String,
    /// The value.
    pub value: String,
}

/// What bears an annotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnnotationTarget {
    /// The image's manifest.
    Manifest,
    /// The manifest's entry of the index.
    ManifestDescriptor,
    /// The index of several images.
    Index,
    /// The index' entry of a layout.
    IndexDescriptor,
}

impl AnnotationTarget {
    /// As flags and keys call it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::ManifestDescriptor => "manifest-descriptor",
            Self::Index => "index",
            Self::IndexDescriptor => "index-descriptor",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let all = [Self::Manifest, Self::ManifestDescriptor, Self::Index, Self::IndexDescriptor];
        all.into_iter().find(|target| target.word() == text)
    }
}

impl Annotation {
    /// Reads `[type[,type][\[os/arch\]]:]key=value` (FEATURES CL17): one annotation for each type.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(text: &str) -> Result<Vec<Self>, Error> {
        let (left, value) = text
            .split_once('=')
            .ok_or_else(|| Error::user(format!("invalid annotation `{text}`: expected key=value")))?;
        let (types, key) = left.rsplit_once(':').unwrap_or(("", left));
        if key.is_empty() {
            return Err(Error::user(format!("invalid annotation `{text}`: the key is empty")));
        }
        types
            .split(',')
            .map(|kind| {
                let (target, platform) = target(kind)?;
                Ok(Self { target, platform, key: key.to_owned(), value: value.to_owned() })
            })
            .collect()
    }

    /// Reads an exporter's key, `annotation[-type][\[os/arch\]].key`; `None` when it is another one.
    fn of_attribute(name: &str, value: &str) -> Result<Option<Self>, Error> {
        let Some(rest) = name.strip_prefix("annotation") else { return Ok(None) };
        // A platform's variant may hold no dot, a key may.
        let Some((kind, key)) = rest.split_once('.') else { return Ok(None) };
        let (target, platform) = target(kind.strip_prefix('-').unwrap_or(kind))?;
        Ok(Some(Self { target, platform, key: key.to_owned(), value: value.to_owned() }))
    }

    /// Whether it is meant for the image of `platform`.
    pub(crate) fn is_for(&self, platform: &Platform) -> bool {
        self.platform.as_ref().is_none_or(|wanted| wanted == platform)
    }
}

/// `manifest[linux/amd64]`; nothing is the manifest.
fn target(text: &str) -> Result<(AnnotationTarget, Option<Platform>), Error> {
    let (kind, platform) = match text.split_once('[').map(|(kind, rest)| (kind, rest.strip_suffix(']'))) {
        Some((kind, Some(platform))) => {
            let platform = platform
                .parse()
                .map_err(|error: kiln_image::InvalidPlatform| Error::user(error.to_string()))?;
            (kind, Some(platform))
        }
        _ => (text, None),
    };
    let target = match kind {
        "" => AnnotationTarget::Manifest,
        kind => AnnotationTarget::parse(kind).ok_or_else(|| {
            Error::user(format!("unknown annotation type `{kind}`"))
                .hinted("there are manifest, manifest-descriptor, index and index-descriptor")
        })?,
    };
    Ok((target, platform))
}

impl ImageOptions {
    /// Takes in one key; `false` when it is none of an image's.
    ///
    /// # Errors
    /// The value is none of the key's.
    pub fn set(&mut self, key: &str, value: &str) -> Result<bool, Error> {
        let flag = || flag(key, value);
        match key {
            "name" => self.names.extend(value.split(',').filter(|name| !name.is_empty()).map(str::to_owned)),
            "name-canonical" => self.name_canonical = flag()?,
            "dangling-name-prefix" => {
                self.dangling_name_prefix = Some(value.to_owned()).filter(|prefix| !prefix.is_empty());
            }
            // BuildKit's spelling, and the word's.
            "danging-name-empty-only" | "dangling-name-empty-only" => self.dangling_name_empty_only = flag()?,
            "compression" => self.compression = LayerCompression::parse(value)?,
            "compression-level" => {
                let level = value
                    .parse()
                    .map_err(|_| Error::user(format!("compression level `{value}` is no number")))?;
                self.compression_level = Some(level);
            }
            "force-compression" => self.force_compression = flag()?,
            "oci-mediatypes" => {
                self.media_types = if flag()? { MediaTypes::Oci } else { MediaTypes::Docker };
            }
            "rewrite-timestamp" => self.rewrite_timestamp = flag()?,
            "source-date-epoch" => {
                let seconds =
                    value.parse().ok().filter(|seconds| crate::assemble::timestamp(*seconds).is_some());
                let invalid = || Error::user(format!("source-date-epoch `{value}` is no time in seconds"));
                self.source_date_epoch = Some(seconds.ok_or_else(invalid)?);
            }
            "store" => self.no_store = !flag()?,
            "push" => self.push = flag()?,
            "push-by-digest" => self.push_by_digest = flag()?,
            "registry.insecure" => self.registry_insecure = flag()?,
            "oci-artifact" => self.attestations_as_images = !flag()?,
            "attestation-inline" => self.no_inline_attestations = !flag()?,
            // An image of the store is always unpacked. Foreign layers are Windows'.
            "unpack" | "prefer-nondist-layers" => _ = flag()?,
            _ => match Annotation::of_attribute(key, value)? {
                Some(annotation) => self.annotations.push(annotation),
                None => return Ok(false),
            },
        }
        self.wants_manifest |= !matches!(key, "name" | "store" | "unpack" | "push" | "push-by-digest");
        Ok(true)
    }

    /// What follows of several keys together.
    ///
    /// # Errors
    /// The compression has no such level.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let highest = self.compression.highest_level();
        match self.compression_level {
            Some(level) if !(0..=highest).contains(&level) => {
                let word = self.compression.word();
                Err(Error::user(format!("{word} has no level {level}"))
                    .hinted(format!("it has 0 to {highest}")))
            }
            _ => Ok(()),
        }
    }

    /// Which attestations its images may have.
    pub(crate) fn place(&self) -> Place {
        if self.no_inline_attestations { Place::Separate } else { Place::Inline }
    }

    /// Whether an image of the store needs a manifest, and with it compressed layers.
    pub(crate) fn wants_manifest(&self) -> bool {
        self.wants_manifest
            || self.rewrite_timestamp
            || self.push
            || self.push_by_digest
            || !self.annotations.is_empty()
    }

    /// The media types; docker has none for what only OCI knows. The word says what that is.
    pub(crate) fn media_types(&self) -> (MediaTypes, Option<&'static str>) {
        match self.media_types {
            MediaTypes::Docker if self.compression == LayerCompression::Zstd => {
                (MediaTypes::Oci, Some("zstd"))
            }
            MediaTypes::Docker if self.compression == LayerCompression::Estargz => {
                (MediaTypes::Oci, Some("estargz"))
            }
            MediaTypes::Docker if !self.annotations.is_empty() => (MediaTypes::Oci, Some("annotations")),
            types => (types, None),
        }
    }
}

/// How a file tree is written: the types local and tar.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TreeOptions {
    /// A directory for each platform; as several platforms have it if `None`.
    pub platform_split: Option<bool>,
    /// Remove what is in the directory and not in the result (`mode=delete`).
    pub delete: bool,
    /// What the names of attestations begin with.
    pub attestation_prefix: String,
}

impl TreeOptions {
    /// Takes in one key; `false` when it is none of a tree's.
    ///
    /// # Errors
    /// The value is none of the key's.
    pub fn set(&mut self, key: &str, value: &str) -> Result<bool, Error> {
        match (key, value) {
            ("platform-split", _) => self.platform_split = Some(flag(key, value)?),
            ("mode", "copy") => self.delete = false,
            ("mode", "delete") => self.delete = true,
            ("mode", _) => {
                return Err(
                    Error::user(format!("unknown mode `{value}`")).hinted("there are copy and delete")
                );
            }
            ("attestation-prefix", _) if value.contains('/') => {
                return Err(Error::user(format!("{key}: `{value}` leads to another directory")));
            }
            ("attestation-prefix", _) => self.attestation_prefix = value.to_owned(),
            ("source-date-epoch", _) => {}
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// The value of a key that is true or false; a bare one is true.
pub(crate) fn flag(key: &str, value: &str) -> Result<bool, Error> {
    let known = if value.is_empty() { Some(true) } else { kiln_parser::boolean(value) };
    known.ok_or_else(|| Error::user(format!("{key}: `{value}` is neither true nor false")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(keys: &[(&str, &str)]) -> Result<ImageOptions, Error> {
        let mut options = ImageOptions::default();
        for (key, value) in keys {
            assert!(options.set(key, value)?, "{key}");
        }
        options.check().map(|()| options)
    }

    #[test]
    fn a_bare_key_is_true_and_an_unknown_one_is_told() {
        assert!(options(&[("force-compression", "")]).unwrap().force_compression);
        assert!(!ImageOptions::default().set("compresion", "gzip").unwrap());
        assert!(options(&[("name-canonical", "maybe")]).is_err());
    }

    #[test]
    fn a_compression_has_its_own_levels() {
        assert!(options(&[("compression", "zstd"), ("compression-level", "22")]).is_ok());
        assert!(options(&[("compression-level", "0")]).is_ok());
        let error = options(&[("compression-level", "10")]).unwrap_err();
        assert_eq!(
            (error.message.as_str(), error.hint.as_deref()),
            ("gzip has no level 10", Some("it has 0 to 9"))
        );
    }

    #[test]
    fn what_docker_has_no_types_for_is_of_ocis() {
        let docker = ("oci-mediatypes", "false");
        assert_eq!(options(&[docker]).unwrap().media_types(), (MediaTypes::Docker, None));
        let zstd = options(&[docker, ("compression", "zstd")]).unwrap();
        assert_eq!(zstd.media_types(), (MediaTypes::Oci, Some("zstd")));
    }

    #[test]
    fn an_image_by_name_alone_needs_no_manifest() {
        assert!(!options(&[("name", "a,b"), ("unpack", "true")]).unwrap().wants_manifest());
        assert!(options(&[("compression", "gzip")]).unwrap().wants_manifest());
    }

    #[test]
    fn annotations_have_types_and_platforms() {
        let read = |text| {
            Annotation::parse(text).map(|found| {
                let word = |one: &Annotation| {
                    let platform = one.platform.as_ref().map(ToString::to_string).unwrap_or_default();
                    format!("{} [{platform}] {}={}", one.target.word(), one.key, one.value)
                };
                found.iter().map(word).collect::<Vec<_>>()
            })
        };
        assert_eq!(read("a.b=c=d").unwrap(), ["manifest [] a.b=c=d"]);
        assert_eq!(
            read("index,manifest-descriptor[linux/amd64]:k=v").unwrap(),
            ["index [] k=v", "manifest-descriptor [linux/amd64] k=v"]
        );
        for text in ["a", "=b", "image:a=b", "manifest[x/y/z/w]:a=b"] {
            assert!(read(text).is_err(), "{text}");
        }
        let of_key = options(&[("annotation-index-descriptor[linux/arm64].a.b", "c")]).unwrap().annotations;
        assert_eq!((of_key[0].target, of_key[0].key.as_str()), (AnnotationTarget::IndexDescriptor, "a.b"));
        assert_eq!(
            options(&[("annotation.a", "c")]).unwrap().annotations[0].target,
            AnnotationTarget::Manifest
        );
    }
}
