//! OCI image layouts (image-spec, `image-layout.md`): directories, and as tar what `docker load` and others read.
//!
//! Names inside of a layout are data: they choose what the user asked for and never name anything by themselves.

mod error;
mod write;

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

pub use error::LayoutError;
pub use write::{BlobInput, DockerImage, write_blob, write_directory, write_tar};

pub(crate) use error::At;
pub(crate) use write::DOCKER_MANIFEST_FILE;

use crate::oci::{Descriptor, Document, Index, MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES, escape, media_type};
use crate::registry::RemoteImage;
use crate::resolve::{Documents, resolve};
use crate::verify::Verified;
use crate::{Digest, ImageRef, Platform};

/// Marks a layout; its text tells the version.
pub(crate) const MARKER_FILE: &str = "oci-layout";
/// The layout's table of contents.
pub(crate) const INDEX_FILE: &str = "index.json";
/// The image's tag, or whole name.
pub const REF_NAME_ANNOTATION: &str = "org.opencontainers.image.ref.name";
/// The image's whole name, as containerd and BuildKit write it.
pub const CONTAINERD_NAME_ANNOTATION: &str = "io.containerd.image.name";

/// Which image of a layout or archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// The only one.
    Only,
    /// By the tag or whole name that annotations give it.
    Name(String),
    /// By digest of the manifest or index, whether `index.json` names it or not.
    Digest(Digest),
    /// By its place, from 0; an image with several names counts once.
    Number(usize),
}

/// A layout directory.
#[derive(Clone, Debug)]
pub struct Layout {
    path: PathBuf,
    index: Index,
}

impl Layout {
    /// Reads the table of contents.
    ///
    /// # Errors
    /// When `path` is no layout.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, LayoutError> {
        let path = path.into();
        let marker = path.join(MARKER_FILE);
        if !marker.exists() {
            return Err(LayoutError::NotAnImage {
                path,
                reason: "not an OCI image layout: no `oci-layout` file".into(),
            });
        }
        check_marker(&path, &read_limited(&marker, MAX_MANIFEST_BYTES)?)?;
        let bytes = read_limited(&path.join(INDEX_FILE), MAX_MANIFEST_BYTES)?;
        Ok(Self { index: parse_index(&bytes)?, path })
    }

    /// The table of contents.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Finds an image and reads its manifest and config for `platform`; `reference` is only what it is called.
    ///
    /// # Errors
    /// See [`LayoutError`].
    pub fn resolve(
        &self,
        selector: &Selector,
        reference: &ImageRef,
        platform: &Platform,
    ) -> Result<RemoteImage, LayoutError> {
        resolve_selected(self, &self.index, selector, reference, platform)
    }

    /// Opens a blob; the reader gives an error instead of the end of file when it is not what the descriptor says.
    ///
    /// # Errors
    /// [`LayoutError::MissingBlob`]; I/O.
    pub fn blob(&self, blob: &Descriptor) -> Result<Box<dyn Read + Send>, LayoutError> {
        let file = self.open_blob(&blob.digest)?;
        Ok(Box::new(Verified::new(file, blob.digest, blob.size)))
    }

    fn open_blob(&self, digest: &Digest) -> Result<File, LayoutError> {
        let path = self.path.join(blob_path(digest));
        match open_regular(&path) {
            Err(LayoutError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                Err(LayoutError::MissingBlob { digest: *digest })
            }
            opened => opened,
        }
    }
}

/// What layouts and archives have in common.
pub(crate) trait BlobStore {
    /// The blob's unverified bytes and their number.
    fn raw_blob(&self, digest: &Digest) -> Result<(Box<dyn Read + Send>, u64), LayoutError>;
    /// For messages.
    fn path(&self) -> &Path;
}

impl BlobStore for Layout {
    fn raw_blob(&self, digest: &Digest) -> Result<(Box<dyn Read + Send>, u64), LayoutError> {
        let file = self.open_blob(digest)?;
        let size = file.metadata().at(&self.path)?.len();
        Ok((Box::new(file), size))
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

struct StoreDocuments<'a, S>(&'a S);

impl<S: BlobStore> StoreDocuments<'_, S> {
    fn read(
        &self,
        digest: &Digest,
        size: Option<u64>,
        what: &'static str,
        limit: u64,
    ) -> Result<Vec<u8>, LayoutError> {
        let (reader, actual) = self.0.raw_blob(digest)?;
        let size = size.unwrap_or(actual);
        if size > limit {
            return Err(LayoutError::TooLarge { what, limit });
        }
        let mut bytes = Vec::new();
        Verified::new(reader, *digest, size).read_to_end(&mut bytes).at(self.0.path())?;
        Ok(bytes)
    }
}

impl<S: BlobStore> Documents for StoreDocuments<'_, S> {
    type Error = LayoutError;

    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, LayoutError> {
        self.read(&descriptor.digest, Some(descriptor.size), "the manifest", MAX_MANIFEST_BYTES)
    }

    fn config(&self, descriptor: &Descriptor) -> Result<Vec<u8>, LayoutError> {
        self.read(&descriptor.digest, Some(descriptor.size), "the image config", MAX_CONFIG_BYTES)
    }
}

pub(crate) fn resolve_selected<S: BlobStore>(
    store: &S,
    index: &Index,
    selector: &Selector,
    reference: &ImageRef,
    platform: &Platform,
) -> Result<RemoteImage, LayoutError> {
    let documents = StoreDocuments(store);
    let listed = select(index, selector)?;
    let (digest, bytes, announced) = match (selector, listed) {
        (_, Some(entry)) => (entry.digest, documents.document(entry)?, Some(entry.media_type.as_str())),
        (Selector::Digest(digest), None) => {
            (*digest, documents.read(digest, None, "the manifest", MAX_MANIFEST_BYTES)?, None)
        }
        (_, None) => return Err(not_found(index, selector)),
    };
    resolve_bytes(store, digest, bytes, announced, reference, platform)
}

/// Follows `bytes`, the verified manifest or index of `digest`, to the image for `platform`.
pub(crate) fn resolve_bytes<S: BlobStore>(
    store: &S,
    digest: Digest,
    bytes: Vec<u8>,
    announced: Option<&str>,
    reference: &ImageRef,
    platform: &Platform,
) -> Result<RemoteImage, LayoutError> {
    let found = resolve(&StoreDocuments(store), bytes, announced, platform)?;
    Ok(RemoteImage {
        reference: reference.clone(),
        digest,
        index_bytes: None,
        manifest_digest: found.manifest_digest,
        manifest_bytes: found.manifest_bytes,
        manifest: found.manifest,
        config_bytes: found.config_bytes,
        config: found.config,
    })
}

/// The entry that is meant; of several with one name the last written, as others read them.
fn select<'a>(index: &'a Index, selector: &Selector) -> Result<Option<&'a Descriptor>, LayoutError> {
    match selector {
        Selector::Digest(digest) => Ok(index.manifests.iter().find(|entry| entry.digest == *digest)),
        Selector::Name(name) => Ok(index.manifests.iter().rev().find(|entry| is_called(entry, name))),
        Selector::Number(number) => {
            let mut seen = HashSet::new();
            Ok(index.manifests.iter().filter(|entry| seen.insert(entry.digest)).nth(*number))
        }
        // An image with several names has several entries.
        Selector::Only => match index.manifests.split_first() {
            Some((first, others)) if others.iter().all(|other| other.digest == first.digest) => {
                Ok(Some(first))
            }
            Some(_) => Err(LayoutError::Several { available: names(index) }),
            None => Ok(None),
        },
    }
}

/// A wish for `1.2` or for `docker.io/library/app:1.2`, against a tag or a whole name.
fn is_called(entry: &Descriptor, wanted: &str) -> bool {
    let given = [REF_NAME_ANNOTATION, CONTAINERD_NAME_ANNOTATION].map(|key| entry.annotations.get(key));
    let full = |name: &str| name.parse::<ImageRef>().ok();
    given.into_iter().flatten().any(|name| {
        name == wanted
            || (name.contains('/') && full(name).is_some_and(|name| name.tag() == Some(wanted)))
            || (name.contains([':', '/']) && full(name).is_some_and(|name| full(wanted) == Some(name)))
    })
}

/// How the entries are called, or their digests.
pub(crate) fn names(index: &Index) -> Vec<String> {
    let name = |entry: &Descriptor| {
        let annotation = |key| entry.annotations.get(key).map(|name| escape(name));
        annotation(CONTAINERD_NAME_ANNOTATION)
            .or_else(|| annotation(REF_NAME_ANNOTATION))
            .unwrap_or_else(|| entry.digest.to_string())
    };
    index.manifests.iter().map(name).collect()
}

fn not_found(index: &Index, selector: &Selector) -> LayoutError {
    let wanted = match selector {
        Selector::Only => "any".to_owned(),
        Selector::Name(name) => escape(name),
        Selector::Digest(digest) => digest.to_string(),
        Selector::Number(number) => format!("@{number}"),
    };
    LayoutError::NotFound { wanted, available: names(index) }
}

pub(crate) fn parse_index(bytes: &[u8]) -> Result<Index, LayoutError> {
    match Document::parse(bytes, Some(media_type::OCI_INDEX))? {
        Document::Index(index) => Ok(index),
        // `parse` has compared the kind with what was announced.
        Document::Manifest(_) => Err(crate::oci::DocumentError::Ambiguous.into()),
    }
}

pub(crate) fn check_marker(path: &Path, bytes: &[u8]) -> Result<(), LayoutError> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Marker {
        image_layout_version: String,
    }
    let reason = match serde_json::from_slice::<Marker>(bytes) {
        Ok(marker) if marker.image_layout_version.starts_with("1.") => return Ok(()),
        Ok(marker) => format!("image layout version `{}` is not known", escape(&marker.image_layout_version)),
        Err(error) => format!("`oci-layout` is malformed: {error}"),
    };
    Err(LayoutError::NotAnImage { path: path.to_owned(), reason })
}

/// Where a blob stands below a layout's root.
pub(crate) fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

pub(crate) fn read_limited(path: &Path, limit: u64) -> Result<Vec<u8>, LayoutError> {
    let mut bytes = Vec::new();
    open_regular(path)?.take(limit + 1).read_to_end(&mut bytes).at(path)?;
    if bytes.len() as u64 > limit {
        return Err(LayoutError::TooLarge { what: "the layout's index", limit });
    }
    Ok(bytes)
}

/// Opens a file, and only a file: a FIFO in its place would block, a device never end. Links are followed, since some
/// tools make layouts of links and every byte is verified against a digest.
pub(crate) fn open_regular(path: &Path) -> Result<File, LayoutError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).at(path)?);
    if file.metadata().at(path)?.is_file() {
        Ok(file)
    } else {
        Err(LayoutError::NotAnImage { path: path.to_owned(), reason: "not a regular file".into() })
    }
}
