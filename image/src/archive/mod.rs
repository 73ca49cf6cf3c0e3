//! Image archives: what `docker save`, `skopeo copy … docker-archive:` and `oci-archive:` write, read in place.
//!
//! Nothing is unpacked: a layer is a range of the file. No name of an archive's is ever used as a path on disk. An
//! archive in gzip, zstd, bzip2 or xz is first written out to an unnamed file. Writing is [`crate::layout::write_tar`].

mod scan;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use scan::{Contents, Extent, scan};

use crate::layer::{self, Compression, LayerError};
use crate::layout::{
    At as _, BlobStore, CONTAINERD_NAME_ANNOTATION, DOCKER_MANIFEST_FILE, DockerImage, INDEX_FILE,
    LayoutError, MARKER_FILE, Selector, blob_path, check_marker, names, open_regular, parse_index,
    resolve_selected,
};
use crate::oci::{
    Descriptor, Index, MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES, Manifest, PlatformSpec, media_type, parse_config,
};
use crate::registry::RemoteImage;
use crate::verify::Verified;
use crate::{Digest, ImageRef, Platform};

/// Largest archive that is decompressed or read from a pipe.
const MAX_SPOOL_BYTES: u64 = 256 << 30;
/// Most images that a docker archive may hold.
const MAX_IMAGES: usize = 1000;

/// An archive with one or more images.
#[derive(Debug)]
pub struct Archive {
    path: PathBuf,
    file: Arc<File>,
    /// Blobs by digest. What they contain is verified when they are read.
    blobs: HashMap<Digest, Extent>,
    /// Documents that a docker archive lacks, made from what it has.
    made: HashMap<Digest, Vec<u8>>,
    contents: Contents,
    index: Index,
}

impl Archive {
    /// Opens an archive file. `spool` is a directory with room for it, should it be compressed.
    ///
    /// # Errors
    /// When it is no archive of images; I/O.
    pub fn open(path: &Path, spool: &Path, cancel: &AtomicBool) -> Result<Self, LayoutError> {
        let file = open_regular(path)?;
        let mut head = [0; layer::SNIFF_BYTES];
        let read = file.read_at(&mut head, 0).at(path)?;
        if layer::is_compressed(&head[..read]) {
            return Self::read(path, Box::new(file), spool, cancel);
        }
        Self::from_file(path, file)
    }

    /// Reads an archive from a pipe into an unnamed file in `spool`; `name` is for messages.
    ///
    /// # Errors
    /// When it is no archive of images, or larger than 256 GiB; I/O.
    pub fn from_reader(
        name: &str,
        reader: Box<dyn Read + '_>,
        spool: &Path,
        cancel: &AtomicBool,
    ) -> Result<Self, LayoutError> {
        Self::read(Path::new(name), reader, spool, cancel)
    }

    fn read(
        path: &Path,
        reader: Box<dyn Read + '_>,
        spool: &Path,
        cancel: &AtomicBool,
    ) -> Result<Self, LayoutError> {
        let plain = layer::decompress(reader).map_err(|error| match error {
            LayerError::Io { source, .. } => LayoutError::Io { path: path.to_owned(), source },
            error => LayoutError::Io { path: path.to_owned(), source: io::Error::other(error) },
        })?;
        let mut file = tempfile::tempfile_in(spool).at(spool)?;
        copy(plain, &mut file, path, cancel)?;
        file.seek(SeekFrom::Start(0)).at(path)?;
        Self::from_file(path, file)
    }

    fn from_file(path: &Path, file: File) -> Result<Self, LayoutError> {
        let contents = scan(&file, path)?;
        let mut archive = Self {
            path: path.to_owned(),
            file: Arc::new(file),
            blobs: HashMap::new(),
            made: HashMap::new(),
            contents,
            index: Index {
                schema_version: 2,
                media_type: None,
                manifests: Vec::new(),
                annotations: BTreeMap::new(),
            },
        };
        // Archives of current dockers are both; as a layout they say more.
        if let (Some(marker), Some(index)) =
            (archive.contents.file(MARKER_FILE), archive.contents.file(INDEX_FILE))
        {
            check_marker(path, &archive.bytes(marker, "`oci-layout`", MAX_MANIFEST_BYTES)?)?;
            archive.index = parse_index(&archive.bytes(index, "the archive's index", MAX_MANIFEST_BYTES)?)?;
        } else if let Some(manifest) = archive.contents.file(DOCKER_MANIFEST_FILE) {
            let bytes = archive.bytes(manifest, "`manifest.json`", MAX_MANIFEST_BYTES)?;
            archive.read_docker(&bytes)?;
        } else {
            return Err(archive.wrong("it has neither `index.json` nor `manifest.json`".into()));
        }
        Ok(archive)
    }

    /// The images, with the names that the archive gives them in their annotations.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The names that the archive gives its images: data, to be shown and asked for, not to be set unasked.
    pub fn names(&self) -> Vec<String> {
        names(&self.index)
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
    /// [`LayoutError::MissingBlob`].
    pub fn blob(&self, blob: &Descriptor) -> Result<Box<dyn Read + Send>, LayoutError> {
        let (reader, _) = self.raw_blob(&blob.digest)?;
        Ok(Box::new(Verified::new(reader, blob.digest, blob.size)))
    }

    /// Makes manifests for docker's table of contents, which names files and no digests.
    fn read_docker(&mut self, bytes: &[u8]) -> Result<(), LayoutError> {
        let images: Vec<DockerImage> = serde_json::from_slice(bytes)
            .map_err(|error| self.wrong(format!("`manifest.json` is malformed: {error}")))?;
        if images.len() > MAX_IMAGES {
            return Err(LayoutError::TooLarge {
                what: "the archive's number of images",
                limit: MAX_IMAGES as u64,
            });
        }
        // Images of one archive share layers; hashing a compressed one twice would take as long again.
        let mut known = HashMap::new();
        for image in images {
            self.read_docker_image(image, &mut known)?;
        }
        Ok(())
    }

    fn read_docker_image(
        &mut self,
        image: DockerImage,
        known: &mut HashMap<u64, Descriptor>,
    ) -> Result<(), LayoutError> {
        let config_extent = self.named(&image.config)?;
        let config_bytes = self.bytes(config_extent, "the image config", MAX_CONFIG_BYTES)?;
        let config = parse_config(&config_bytes)?;
        let config_descriptor = Descriptor::of(media_type::OCI_CONFIG, &config_bytes);
        self.blobs.insert(config_descriptor.digest, config_extent);
        let files = image.layers.unwrap_or_default();
        if files.len() != config.rootfs.diff_ids.len() {
            let (layers, diff_ids) = (files.len(), config.rootfs.diff_ids.len());
            return Err(crate::oci::DocumentError::LayerCount { layers, diff_ids }.into());
        }
        let mut layers = Vec::new();
        for (file, diff_id) in files.iter().zip(&config.rootfs.diff_ids) {
            let extent = self.named(file)?;
            let layer = match known.get(&extent.offset) {
                // A plain tar's digest is its DiffID, so that two claims about one file must agree.
                Some(layer) if layer.media_type != media_type::OCI_LAYER || layer.digest == diff_id.0 => {
                    layer.clone()
                }
                _ => self.describe_layer(extent, diff_id.0)?,
            };
            self.blobs.insert(layer.digest, extent);
            known.insert(extent.offset, layer.clone());
            layers.push(layer);
        }
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(media_type::OCI_MANIFEST.to_owned()),
            config: config_descriptor,
            layers,
            annotations: BTreeMap::new(),
        };
        let bytes = serde_json::to_vec(&manifest).map_err(|error| self.wrong(error.to_string()))?;
        let mut entry = Descriptor::of(media_type::OCI_MANIFEST, &bytes);
        entry.platform = Some(PlatformSpec::from(&config.platform()));
        self.made.insert(entry.digest, bytes);
        let tags = image.repo_tags.unwrap_or_default();
        for tag in &tags {
            let annotations = BTreeMap::from([(CONTAINERD_NAME_ANNOTATION.to_owned(), tag.clone())]);
            self.index.manifests.push(Descriptor { annotations, ..entry.clone() });
        }
        if tags.is_empty() {
            self.index.manifests.push(entry);
        }
        Ok(())
    }

    /// A plain layer's digest is taken from the config, and verified when it is read; a compressed one must be hashed.
    fn describe_layer(&self, extent: Extent, diff_id: Digest) -> Result<Descriptor, LayoutError> {
        let mut head = [0; layer::SNIFF_BYTES];
        let head = &mut head[..extent.size.min(layer::SNIFF_BYTES as u64) as usize];
        self.file.read_exact_at(head, extent.offset).at(&self.path)?;
        let compression = layer::compression_of(head);
        let media_type = media_type::oci_layer(compression);
        if compression == Compression::None {
            return Ok(Descriptor::new(media_type, diff_id, extent.size));
        }
        use sha2::{Digest as _, Sha256};
        let mut hash = Sha256::new();
        let mut reader = self.extent_reader(extent);
        let mut buffer = vec![0; 128 << 10];
        loop {
            match reader.read(&mut buffer).at(&self.path)? {
                0 => break,
                read => hash.update(&buffer[..read]),
            }
        }
        Ok(Descriptor::new(media_type, Digest::from_bytes(hash.finalize().into()), extent.size))
    }

    fn named(&self, name: &str) -> Result<Extent, LayoutError> {
        self.contents
            .file(name)
            .ok_or_else(|| self.wrong(format!("`{}` is missing", crate::oci::escape(name))))
    }

    fn bytes(&self, extent: Extent, what: &'static str, limit: u64) -> Result<Vec<u8>, LayoutError> {
        if extent.size > limit {
            return Err(LayoutError::TooLarge { what, limit });
        }
        let mut bytes = vec![0; extent.size as usize];
        self.file.read_exact_at(&mut bytes, extent.offset).at(&self.path)?;
        Ok(bytes)
    }

    fn extent_reader(&self, extent: Extent) -> ExtentReader {
        ExtentReader { file: Arc::clone(&self.file), at: extent.offset, left: extent.size }
    }

    fn wrong(&self, reason: String) -> LayoutError {
        LayoutError::NotAnImage { path: self.path.clone(), reason }
    }
}

impl BlobStore for Archive {
    fn raw_blob(&self, digest: &Digest) -> Result<(Box<dyn Read + Send>, u64), LayoutError> {
        if let Some(bytes) = self.made.get(digest) {
            return Ok((Box::new(io::Cursor::new(bytes.clone())), bytes.len() as u64));
        }
        let extent = self.blobs.get(digest).copied().or_else(|| self.contents.file(&blob_path(digest)));
        let extent = extent.ok_or(LayoutError::MissingBlob { digest: *digest })?;
        Ok((Box::new(self.extent_reader(extent)), extent.size))
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

/// Reads a range by position, so that several readers share one descriptor.
struct ExtentReader {
    file: Arc<File>,
    at: u64,
    left: u64,
}

impl Read for ExtentReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = self.left.min(buffer.len() as u64) as usize;
        let read = self.file.read_at(&mut buffer[..room], self.at)?;
        self.at += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}

fn copy(mut from: impl Read, to: &mut File, path: &Path, cancel: &AtomicBool) -> Result<(), LayoutError> {
    let mut buffer = vec![0; 128 << 10];
    let mut copied = 0;
    loop {
        if cancel.load(Ordering::Relaxed) {
            return Err(LayoutError::Canceled);
        }
        let read = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).at(path),
        };
        copied += read as u64;
        if copied > MAX_SPOOL_BYTES {
            return Err(LayoutError::TooLarge { what: "the archive", limit: MAX_SPOOL_BYTES });
        }
        to.write_all(&buffer[..read]).at(path)?;
    }
}
