//! Images in the store of podman, buildah and their kin (containers/storage), by its drivers `overlay` and `vfs`:
//!
//! ```text
//! overlay-images/images.json               id, names, top layer
//! overlay-images/<id>/                     manifest, and config as `=<base64 of its digest>`
//! overlay-layers/layers.json               id, parent, digest and size of the layer's archive
//! overlay-layers/<id>.tar-split.gz         what the archive has beside the files' contents
//! overlay/<id>/diff, vfs/dir/<id>          the files
//! ```
//!
//! Nothing is locked or written. The store may change meanwhile; what is read is compared with its digest, so that it is
//! the image that was found or an error. Archives that the store pulled in compressed are not kept as they were: the image
//! has a manifest of its own here, of plain layers, as one in a docker archive has.

mod places;
mod tar_split;

use std::collections::{BTreeMap, HashMap};
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::DeserializeOwned;

pub use places::{Env, Whose};

use crate::layout::{At as _, BlobStore, LayoutError, open_regular, resolve_bytes};
use crate::oci::{
    Descriptor, MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES, Manifest, escape, media_type, parse_config,
};
use crate::registry::RemoteImage;
use crate::verify::Verified;
use crate::{DiffId, Digest, ImageRef, Platform};
use tar_split::TarSplit;

/// Largest table of images or layers that is read.
const MAX_TABLE_BYTES: u64 = 256 << 20;
/// Most layers that an image has (overlayfs takes 500).
const MAX_LAYERS: usize = 1000;
/// So many names are told where one is not there.
const MAX_SHOWN_NAMES: usize = 20;
/// Shorter beginnings of ids are names.
const MIN_ID_DIGITS: usize = 12;
const DRIVERS: [&str; 2] = ["overlay", "vfs"];

/// What a name says of an image in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// `[driver@root]`, if the name has it.
    pub(super) store: Option<(Option<String>, PathBuf)>,
    /// A name, an id or its beginning.
    pub(super) image: String,
}

/// An image of a store's.
#[derive(Debug)]
pub struct StorageImage {
    root: PathBuf,
    manifest: Digest,
    documents: HashMap<Digest, Vec<u8>>,
    layers: HashMap<Digest, StoredLayer>,
}

#[derive(Debug)]
struct StoredLayer {
    size: u64,
    record: PathBuf,
    files: PathBuf,
}

/// One driver's part of a store.
struct Store {
    root: PathBuf,
    driver: &'static str,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ImageEntry {
    id: String,
    #[serde(default)]
    digest: Option<String>,
    #[serde(default)]
    names: Option<Vec<String>>,
    #[serde(default)]
    layer: Option<String>,
    #[serde(default)]
    big_data_names: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct LayerEntry {
    id: String,
    #[serde(default)]
    parent: Option<String>,
    #[serde(default)]
    diff_size: Option<i64>,
}

impl Wanted {
    /// Reads what follows `containers-storage:`; `None` if that names nothing.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (store, image) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((store, image)) => {
                let (driver, places) = match store.split_once('@') {
                    Some((driver, places)) => (Some(driver.to_owned()), places),
                    None => (None, store),
                };
                // Behind `+` is where containers run, behind `:` are options.
                let root = places.split(['+', ':']).next().unwrap_or_default();
                (Some((driver.filter(|driver| !driver.is_empty()), PathBuf::from(root))), image)
            }
            None => (None, text),
        };
        let image = image.strip_prefix('@').unwrap_or(image);
        (!image.is_empty()).then(|| Self { store, image: image.to_owned() })
    }

    pub(super) fn open(&self, whose: Whose, env: &Env<'_>) -> Result<StorageImage, LayoutError> {
        let (driver, roots) = match &self.store {
            Some((driver, root)) => (driver.as_deref(), vec![root.clone()]),
            None => (None, places::roots(whose, env)?),
        };
        let mut stores = Vec::new();
        for root in &roots {
            for known in DRIVERS.into_iter().filter(|known| driver.is_none_or(|driver| driver == *known)) {
                let store = Store { root: root.clone(), driver: known };
                if store.images_file().exists() {
                    stores.push(store);
                }
            }
        }
        if stores.is_empty() {
            let root = roots.into_iter().next().unwrap_or_default();
            let reason = format!("no store of images by {}", DRIVERS.join(" or "));
            return Err(LayoutError::NotAnImage { path: root, reason });
        }
        let mut available = Vec::new();
        for store in &stores {
            let images: Vec<ImageEntry> = table(&store.images_file())?;
            if let Some(image) = self.select(&images)? {
                return store.image(image, &stores);
            }
            available.extend(images.into_iter().flat_map(|image| image.names.unwrap_or_default()));
        }
        available.truncate(MAX_SHOWN_NAMES);
        let available = available.iter().map(|name| escape(name)).collect();
        Err(LayoutError::NotFound { wanted: escape(&self.image), available })
    }

    fn select<'a>(&self, images: &'a [ImageEntry]) -> Result<Option<&'a ImageEntry>, LayoutError> {
        let called = |wanted: &ImageRef| images.iter().find(|image| image.is_called(wanted));
        if let Ok(wanted) = self.image.parse::<ImageRef>() {
            // A name without a registry is one that was built here, first of all.
            let own = wanted.short_name().and_then(|_| format!("localhost/{}", self.image).parse().ok());
            if let Some(image) = own.as_ref().and_then(called).or_else(|| called(&wanted)) {
                return Ok(Some(image));
            }
        }
        let id = self.image.strip_prefix("sha256:").unwrap_or(&self.image);
        if id.len() < MIN_ID_DIGITS || !is_id(id) {
            return Ok(None);
        }
        let mut found = images.iter().filter(|image| image.id.starts_with(id));
        match (found.next(), found.next()) {
            (Some(first), Some(second)) => {
                Err(LayoutError::Several { available: [first, second].map(|image| escape(&image.id)).into() })
            }
            (found, _) => Ok(found),
        }
    }
}

impl ImageEntry {
    fn is_called(&self, wanted: &ImageRef) -> bool {
        let names = self.names.iter().flatten().filter_map(|name| name.parse::<ImageRef>().ok());
        match wanted.digest() {
            None => names.into_iter().any(|name| name == *wanted),
            Some(digest) => {
                let digest = digest.to_string();
                let manifest = format!("manifest-{digest}");
                let is_it = self.digest.as_ref() == Some(&digest)
                    || self.big_data_names.iter().flatten().any(|name| *name == manifest);
                is_it && names.into_iter().any(|name| name.name() == wanted.name())
            }
        }
    }
}

impl Store {
    fn part(&self, of: &str) -> PathBuf {
        self.root.join(format!("{}-{of}", self.driver))
    }

    fn images_file(&self) -> PathBuf {
        self.part("images").join("images.json")
    }

    fn files(&self, layer: &str) -> PathBuf {
        match self.driver {
            "vfs" => self.root.join("vfs/dir").join(layer),
            driver => self.root.join(driver).join(layer).join("diff"),
        }
    }

    /// Reads the image's documents and finds its layers; those of an additional store may be among them.
    fn image(&self, image: &ImageEntry, stores: &[Self]) -> Result<StorageImage, LayoutError> {
        #[derive(Deserialize)]
        struct Named {
            config: Option<Descriptor>,
        }
        let wrong = |reason: String| LayoutError::NotAnImage { path: self.root.clone(), reason };
        if !is_id(&image.id) {
            return Err(wrong(format!("`{}` is no image's id", escape(&image.id))));
        }
        let folder = self.part("images").join(&image.id);
        let manifest = read(&folder.join("manifest"), "the manifest", MAX_MANIFEST_BYTES)?;
        let manifest: Named = serde_json::from_slice(&manifest)
            .map_err(|error| wrong(format!("the manifest of {} is malformed: {error}", image.id)))?;
        let Some(Descriptor { digest, .. }) = manifest.config else {
            return Err(wrong(format!("{} is a list of images: name one of them", image.id)));
        };
        let file = format!("={}", STANDARD.encode(digest.to_string()));
        let config_bytes = read(&folder.join(file), "the image config", MAX_CONFIG_BYTES)?;
        let config = parse_config(&config_bytes)?;
        let diff_ids = &config.rootfs.diff_ids;
        let chain = chain(image.layer.as_deref(), stores)?;
        if chain.len() != diff_ids.len() {
            let (layers, diff_ids) = (chain.len(), diff_ids.len());
            return Err(crate::oci::DocumentError::LayerCount { layers, diff_ids }.into());
        }
        let layer = |(DiffId(digest), layer): (&DiffId, &StoredLayer)| {
            Descriptor::new(media_type::OCI_LAYER, *digest, layer.size)
        };
        let made = Manifest {
            schema_version: 2,
            media_type: Some(media_type::OCI_MANIFEST.to_owned()),
            config: Descriptor::new(media_type::OCI_CONFIG, digest, config_bytes.len() as u64),
            layers: diff_ids.iter().zip(&chain).map(layer).collect(),
            annotations: BTreeMap::new(),
        };
        let bytes = serde_json::to_vec(&made).map_err(|error| wrong(error.to_string()))?;
        let manifest = Digest::of(&bytes);
        Ok(StorageImage {
            root: self.root.clone(),
            manifest,
            documents: HashMap::from([(manifest, bytes), (digest, config_bytes)]),
            layers: diff_ids.iter().map(|DiffId(digest)| *digest).zip(chain).collect(),
        })
    }
}

/// The layers from the bottom to `top`.
fn chain(top: Option<&str>, stores: &[Store]) -> Result<Vec<StoredLayer>, LayoutError> {
    let mut known = HashMap::new();
    for store in stores {
        let path = store.part("layers").join("layers.json");
        if path.exists() {
            for layer in table::<Vec<LayerEntry>>(&path)? {
                known.entry(layer.id.clone()).or_insert((store, layer));
            }
        }
    }
    let mut layers = Vec::new();
    let mut next = top.filter(|id| !id.is_empty()).map(str::to_owned);
    while let Some(id) = next {
        let wrong = |root: &Path, reason| LayoutError::NotAnImage { path: root.to_owned(), reason };
        let shown = escape(&id);
        let Some((store, layer)) = known.get(&id).filter(|_| is_id(&id)) else {
            let root = stores.first().map_or(Path::new(""), |store| &store.root);
            return Err(wrong(root, format!("there is no layer {shown}")));
        };
        if layers.len() == MAX_LAYERS {
            return Err(LayoutError::TooLarge { what: "the number of layers", limit: MAX_LAYERS as u64 });
        }
        let record = store.part("layers").join(format!("{id}.tar-split.gz"));
        let size = layer.diff_size.and_then(|size| u64::try_from(size).ok()).filter(|_| record.exists());
        let Some(size) = size else {
            let reason =
                format!("layer {shown} was not kept as an archive: save the image with `podman save`");
            return Err(wrong(&store.root, reason));
        };
        layers.push(StoredLayer { size, record, files: store.files(&id) });
        next = layer.parent.clone().filter(|id| !id.is_empty());
    }
    layers.reverse();
    Ok(layers)
}

fn table<T: DeserializeOwned>(path: &Path) -> Result<T, LayoutError> {
    let bytes = read(path, "a table of the store", MAX_TABLE_BYTES)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| LayoutError::NotAnImage { path: path.to_owned(), reason: error.to_string() })
}

fn read(path: &Path, what: &'static str, limit: u64) -> Result<Vec<u8>, LayoutError> {
    let mut bytes = Vec::new();
    open_regular(path)?.take(limit + 1).read_to_end(&mut bytes).at(path)?;
    if bytes.len() as u64 > limit { Err(LayoutError::TooLarge { what, limit }) } else { Ok(bytes) }
}

/// Whether this can be a name in the store's directories.
fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

impl StorageImage {
    /// The image's manifest and config for `platform`; `reference` is only what it is called.
    ///
    /// # Errors
    /// See [`LayoutError`].
    pub fn resolve(&self, reference: &ImageRef, platform: &Platform) -> Result<RemoteImage, LayoutError> {
        let bytes = self.documents.get(&self.manifest).cloned().unwrap_or_default();
        resolve_bytes(self, self.manifest, bytes, None, reference, platform)
    }

    /// Opens a blob; the reader gives an error instead of the end of file when it is not what the descriptor says.
    ///
    /// # Errors
    /// [`LayoutError::MissingBlob`]; I/O.
    pub fn blob(&self, blob: &Descriptor) -> Result<Box<dyn Read + Send>, LayoutError> {
        let (reader, _) = self.raw_blob(&blob.digest)?;
        Ok(Box::new(Verified::new(reader, blob.digest, blob.size)))
    }
}

impl BlobStore for StorageImage {
    fn raw_blob(&self, digest: &Digest) -> Result<(Box<dyn Read + Send>, u64), LayoutError> {
        if let Some(bytes) = self.documents.get(digest) {
            return Ok((Box::new(Cursor::new(bytes.clone())), bytes.len() as u64));
        }
        let layer = self.layers.get(digest).ok_or(LayoutError::MissingBlob { digest: *digest })?;
        Ok((Box::new(TarSplit::open(&layer.record, &layer.files)?), layer.size))
    }

    fn path(&self) -> &Path {
        &self.root
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: &str, names: &[&str]) -> ImageEntry {
        ImageEntry {
            id: id.repeat(16),
            digest: Some(Digest::of(id.as_bytes()).to_string()),
            names: Some(names.iter().map(|name| (*name).to_owned()).collect()),
            layer: None,
            big_data_names: None,
        }
    }

    #[test]
    fn a_name_is_of_this_machine_first_and_an_id_may_be_cut() {
        let images = [
            entry("abcd", &["docker.io/library/app:latest"]),
            entry("ef01", &["localhost/app:latest", "quay.io/o/app:2"]),
            entry("ef02", &["docker.io/library/debian:12"]),
        ];
        let found = |text: &str| {
            let wanted = Wanted::parse(text).unwrap();
            wanted.select(&images).unwrap().map(|image| image.id[..4].to_owned())
        };
        assert_eq!(found("app").as_deref(), Some("ef01"));
        assert_eq!(found("docker.io/library/app").as_deref(), Some("abcd"));
        assert_eq!(found("debian:12").as_deref(), Some("ef02"));
        assert_eq!(found("quay.io/o/app:2").as_deref(), Some("ef01"));
        assert_eq!(found("quay.io/o/app"), None);
        assert_eq!(found(&format!("quay.io/o/app@{}", Digest::of(b"ef01"))).as_deref(), Some("ef01"));
        assert_eq!(found(&format!("quay.io/o/app@{}", Digest::of(b"abcd"))), None);
        assert_eq!(found("@abcdabcdabcd").as_deref(), Some("abcd"));
        assert_eq!(found("abcd"), None);
        assert_eq!(found("abcdabcdabce"), None);
    }

    #[test]
    fn a_store_may_be_named() {
        let parsed = |text: &str| {
            let wanted = Wanted::parse(text).unwrap();
            let (driver, root) = wanted.store.unwrap();
            (driver.unwrap_or_default(), root.display().to_string(), wanted.image)
        };
        let expected = |driver: &str| (driver.to_owned(), "/s".to_owned(), "app:1".to_owned());
        assert_eq!(parsed("[vfs@/s]app:1"), expected("vfs"));
        assert_eq!(parsed("[/s+/run:overlay.mountopt=nodev]app:1"), expected(""));
        assert_eq!(Wanted::parse("[vfs@/s]"), None);
        assert_eq!(Wanted::parse(""), None);
    }

    #[test]
    fn an_id_is_no_path() {
        assert!(is_id("0a") && !is_id("") && !is_id("../x") && !is_id(&"a".repeat(65)));
    }
}
