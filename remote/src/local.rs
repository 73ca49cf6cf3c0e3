//! `type=local`: an OCI layout directory.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::path::PathBuf;

use kiln_image::Digest;
use kiln_image::layout::{self, BlobInput, Layout, LayoutError, REF_NAME_ANNOTATION};
use kiln_image::oci::{Descriptor, Index, MAX_MANIFEST_BYTES, media_type};
use rustix::fs::{FlockOperation, flock};

use crate::config::Contents;
use crate::manifest::{self, Form, Kind, Written};
use crate::place::{Found, NewBlob};
use crate::{CacheConfig, CacheError, CacheSpec, InvalidSpec, MAX_CONFIG_BYTES, Place};

pub(crate) const KEYS: [&str; 7] =
    ["src", "dest", "tag", "digest", "image-manifest", "oci-mediatypes", "reset"];
/// Who writes the table of contents holds this lock, as BuildKit's client does.
const LOCK_FILE: &str = "index.json.lock";
const DEFAULT_TAG: &str = "latest";

/// A directory.
#[derive(Debug)]
pub(crate) struct Local {
    path: PathBuf,
    tag: String,
    /// Which cache to read, whatever the tag says.
    digest: Option<Digest>,
    form: Form,
    /// Blobs that the new cache does not name go.
    reset: bool,
}

impl Local {
    pub(crate) fn source(spec: &CacheSpec) -> Result<Self, InvalidSpec> {
        Self::new(spec, "src")
    }

    pub(crate) fn destination(spec: &CacheSpec) -> Result<Self, InvalidSpec> {
        Self::new(spec, "dest")
    }

    fn new(spec: &CacheSpec, path: &str) -> Result<Self, InvalidSpec> {
        let digest = match spec.get("digest") {
            None => None,
            Some(text) => Some(
                text.parse().map_err(|_| InvalidSpec::new(format!("digest={text} is no sha256 digest")))?,
            ),
        };
        Ok(Self {
            path: PathBuf::from(spec.required(path)?),
            tag: spec.get("tag").unwrap_or(DEFAULT_TAG).to_owned(),
            digest,
            form: Form::of(spec)?,
            reset: spec.flag("reset", false)?,
        })
    }

    /// Opens the directory if it is one.
    fn layout(&self) -> Result<Layout, CacheError> {
        if let Err(error) = std::fs::metadata(&self.path) {
            return Err(CacheError::io(&self.path, error));
        }
        Ok(Layout::open(&self.path)?)
    }

    fn read(&self, layout: &Layout, blob: &Descriptor, limit: u64) -> Result<Vec<u8>, CacheError> {
        if blob.size > limit {
            return Err(CacheError::TooLarge { what: "cache config", limit });
        }
        let mut bytes = Vec::new();
        let mut reader = layout.blob(blob)?;
        reader.read_to_end(&mut bytes).map_err(|error| CacheError::io(&self.path, error))?;
        Ok(bytes)
    }

    /// The manifest: by digest, or what the table of contents has under the tag.
    fn manifest(&self, layout: &Layout) -> Result<Vec<u8>, CacheError> {
        if let Some(digest) = self.digest {
            let path = self.path.join("blobs/sha256").join(digest.hex());
            let size = std::fs::metadata(&path).map_err(|error| CacheError::io(&path, error))?.len();
            // Of the manifest nothing but its digest is known.
            return self.read(layout, &Descriptor::new("", digest, size), MAX_MANIFEST_BYTES);
        }
        let entries = &layout.index().manifests;
        let is_ours = |entry: &&Descriptor| entry.annotations.get(REF_NAME_ANNOTATION) == Some(&self.tag);
        let entry = entries.iter().rev().find(is_ours).ok_or_else(|| {
            let absent = std::io::Error::new(
                std::io::ErrorKind::NotFound,
                format!("there is no cache with the tag `{}`", self.tag),
            );
            CacheError::io(&self.path, absent)
        })?;
        self.read(layout, entry, MAX_MANIFEST_BYTES)
    }

    fn write_blob(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<(), CacheError> {
        let reader = Box::new(bytes);
        let blob = BlobInput { digest: descriptor.digest, size: descriptor.size, reader, is_verified: false };
        Ok(layout::write_blob(&self.path, blob)?)
    }

    /// The table of contents with the new cache in its place.
    fn index_with(&self, entry: Descriptor) -> Result<Index, CacheError> {
        let mut manifests = match Layout::open(&self.path) {
            Ok(layout) if !self.reset => layout.index().manifests.clone(),
            // A table of contents that no one can read is no reason to keep it.
            Ok(_) | Err(_) => Vec::new(),
        };
        manifests.retain(|entry| entry.annotations.get(REF_NAME_ANNOTATION) != Some(&self.tag));
        manifests.push(entry);
        Ok(Index {
            schema_version: 2,
            media_type: Some(media_type::OCI_INDEX.to_owned()),
            manifests,
            annotations: std::collections::BTreeMap::new(),
        })
    }

    /// Removes blobs that the cache does not name.
    fn remove_others(&self, written: &Written, contents: &Contents) -> Result<(), CacheError> {
        let layers = contents.records.iter().flat_map(|record| &record.layers);
        let kept: std::collections::HashSet<String> = layers
            .map(|layer| layer.descriptor.digest)
            .chain(contents.mounts.iter().map(|mount| mount.descriptor.digest))
            .chain([written.config.0.digest, written.manifest.0.digest])
            .map(|digest| digest.hex())
            .collect();
        let directory = self.path.join("blobs/sha256");
        let at = |error| CacheError::io(&directory, error);
        for entry in std::fs::read_dir(&directory).map_err(at)? {
            let entry = entry.map_err(at)?;
            // Only what has a blob's name is this program's to remove.
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| Digest::from_hex(name).is_ok()) else { continue };
            if !kept.contains(name) {
                std::fs::remove_file(entry.path()).map_err(at)?;
            }
        }
        Ok(())
    }

    fn lock(&self) -> Result<File, CacheError> {
        let path = self.path.join(LOCK_FILE);
        let at = |error| CacheError::io(&path, error);
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(at)?;
        flock(&file, FlockOperation::LockExclusive).map_err(|error| at(error.into()))?;
        Ok(file)
    }
}

impl Place for Local {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn load(&self) -> Result<Found, CacheError> {
        let layout = self.layout()?;
        let manifest = self.manifest(&layout)?;
        match manifest::kind(&manifest, None)? {
            Kind::Cache(config) => {
                Ok(Found { config: CacheConfig::parse(&self.read(&layout, &config, MAX_CONFIG_BYTES)?)? })
            }
            Kind::Image(_) | Kind::Images(_) => {
                Err(CacheError::Invalid("the directory has an image and no cache".into()))
            }
        }
    }

    fn open(&self, blob: &Descriptor) -> Result<Box<dyn Read + Send>, CacheError> {
        match self.layout()?.blob(blob) {
            Err(LayoutError::MissingBlob { digest }) => Err(CacheError::MissingBlob(digest)),
            opened => Ok(opened?),
        }
    }

    fn put(&self, blob: &NewBlob<'_>) -> Result<(), CacheError> {
        let Descriptor { digest, size, .. } = *blob.descriptor;
        let path = self.path.join("blobs/sha256").join(digest.hex());
        if std::fs::metadata(&path).is_ok_and(|found| found.is_file() && found.len() == size) {
            return Ok(());
        }
        let reader = (blob.open)().map_err(|error| CacheError::io(&path, error))?;
        Ok(layout::write_blob(&self.path, BlobInput { digest, size, reader, is_verified: false })?)
    }

    fn publish(&self, contents: &Contents) -> Result<(), CacheError> {
        let written = manifest::write(contents, self.form)?;
        std::fs::create_dir_all(&self.path).map_err(|error| CacheError::io(&self.path, error))?;
        for (descriptor, bytes) in [&written.config, &written.manifest] {
            self.write_blob(descriptor, bytes)?;
        }
        let mut entry = written.manifest.0.clone();
        entry.annotations.insert(REF_NAME_ANNOTATION.to_owned(), self.tag.clone());
        let _alone = self.lock()?;
        let index = serde_json::to_vec(&self.index_with(entry)?)?;
        layout::write_directory(&self.path, &index, &[], [])?;
        if self.reset {
            self.remove_others(&written, contents)?;
        }
        Ok(())
    }
}
