//! Writing layouts, as a directory and as a tar whose bytes depend on the contents only.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{At as _, INDEX_FILE, LayoutError, MARKER_FILE, blob_path};
use crate::layer::copy_hashed;
use crate::{Digest, Mismatch};

/// The text of `oci-layout` (image-spec, `image-layout.md`).
const MARKER: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
/// Docker's table of contents in an archive.
pub(crate) const DOCKER_MANIFEST_FILE: &str = "manifest.json";

/// A blob to write.
pub struct BlobInput<'a> {
    /// Verified while it is written, unless that `is_verified`.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// The contents.
    pub reader: Box<dyn Read + 'a>,
    /// Whether whoever gives it has just hashed the contents: they are not hashed a second time.
    pub is_verified: bool,
}

impl std::fmt::Debug for BlobInput<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobInput")
            .field("digest", &self.digest)
            .field("size", &self.size)
            .field("is_verified", &self.is_verified)
            .finish_non_exhaustive()
    }
}

impl BlobInput<'_> {
    /// Copies the contents; they are hashed on a thread beside. A [`Mismatch`] is found when all has been written.
    fn copy_to(self, out: &mut dyn Write) -> io::Result<()> {
        let Self { digest, size, reader, is_verified } = self;
        // One byte more than there may be tells as much as all of them.
        let reader = reader.take(size.saturating_add(1));
        let (copied, got) = if is_verified {
            let buffer = usize::try_from(size).unwrap_or(COPY_BYTES).min(COPY_BYTES);
            (io::copy(&mut BufReader::with_capacity(buffer, reader), out)?, digest)
        } else {
            copy_hashed(reader, out)?
        };
        if copied != size {
            return Err(io::Error::other(Mismatch::Size { digest, expected: size }));
        }
        if got != digest {
            return Err(io::Error::other(Mismatch::Digest { expected: digest, got }));
        }
        Ok(())
    }
}

/// One entry of docker's `manifest.json`: with it, a layout's tar is a docker archive as well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DockerImage {
    /// The config's path in the archive.
    pub config: String,
    /// Names, `busybox:latest`; docker takes no digests.
    #[serde(default)]
    pub repo_tags: Option<Vec<String>>,
    /// The layers' paths in the archive, bottom first.
    #[serde(default)]
    pub layers: Option<Vec<String>>,
}

impl DockerImage {
    /// An entry for blobs that the archive has as a layout has them.
    pub fn new(config: &Digest, layers: &[Digest], repo_tags: Vec<String>) -> Self {
        let layers = layers.iter().map(blob_path).collect();
        Self { config: blob_path(config), repo_tags: Some(repo_tags), layers: Some(layers) }
    }
}

/// Writes a layout to `path`, which may exist: blobs that are there stay, `index.json` is replaced, last of all. With
/// `docker` entries it has docker's `manifest.json` too.
///
/// # Errors
/// I/O on either side; a blob that is not what it says is [`LayoutError::Mismatch`], and nothing names it then.
pub fn write_directory<'a>(
    path: &Path,
    index: &[u8],
    docker: &[DockerImage],
    blobs: impl IntoIterator<Item = Result<BlobInput<'a>, LayoutError>>,
) -> Result<(), LayoutError> {
    for blob in blobs {
        write_blob(path, blob?)?;
    }
    let directory = path.join("blobs/sha256");
    std::fs::create_dir_all(&directory).at(&directory)?;
    if !docker.is_empty() {
        let text = serde_json::to_vec(docker).map_err(io::Error::other).at(path)?;
        replace(&path.join(DOCKER_MANIFEST_FILE), path, |file| file.write_all(&text))?;
    }
    replace(&path.join(MARKER_FILE), path, |file| file.write_all(MARKER))?;
    replace(&path.join(INDEX_FILE), path, |file| file.write_all(index))
}

/// Writes one blob into the layout at `path`, which may not be one yet; a blob that is there stays.
///
/// # Errors
/// As [`write_directory`].
pub fn write_blob(path: &Path, blob: BlobInput<'_>) -> Result<(), LayoutError> {
    let directory = path.join("blobs/sha256");
    std::fs::create_dir_all(&directory).at(&directory)?;
    let target = path.join(blob_path(&blob.digest));
    // A file of another size is what a killed program left.
    if target.metadata().is_ok_and(|found| found.is_file() && found.len() == blob.size) {
        return Ok(());
    }
    replace(&target, &directory, |file| blob.copy_to(file))
}

/// Writes beside the target and renames, so that readers see the old file or the whole new one.
fn replace(
    target: &Path,
    directory: &Path,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<(), LayoutError> {
    use std::os::unix::fs::PermissionsExt as _;
    /// As any file that a program makes for others to read.
    const MODE: u32 = 0o644;
    let mut file = tempfile::Builder::new()
        .prefix(".kiln-")
        .permissions(std::fs::Permissions::from_mode(MODE))
        .tempfile_in(directory)
        .at(directory)?;
    write(file.as_file_mut()).at(target)?;
    file.persist(target).map_err(|error| error.error).at(target)?;
    Ok(())
}

/// Writes a layout as tar. With `docker` entries it is a docker archive too: `docker load` and others read it.
///
/// Headers hold no time, owner or name of this machine; the order of the blobs is the caller's.
///
/// # Errors
/// I/O on either side; a blob that is not what it says is [`LayoutError::Mismatch`].
pub fn write_tar<'a>(
    out: &mut dyn Write,
    index: &[u8],
    docker: &[DockerImage],
    blobs: impl IntoIterator<Item = Result<BlobInput<'a>, LayoutError>>,
) -> Result<(), LayoutError> {
    let at = Path::new("archive");
    let mut tar = tar::Builder::new(out);
    for directory in ["blobs/", "blobs/sha256/"] {
        let mut header = header(directory, 0, at)?;
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(0o755);
        header.set_cksum();
        tar.append(&header, io::empty()).at(at)?;
    }
    let mut written = std::collections::HashSet::new();
    for blob in blobs {
        let blob = blob?;
        // Readers differ in which of two entries of one name they take.
        if written.insert(blob.digest) {
            let out = tar.get_mut();
            out.write_all(header(&blob_path(&blob.digest), blob.size, at)?.as_bytes()).at(at)?;
            let padding = blob.size.next_multiple_of(BLOCK_BYTES as u64) - blob.size;
            blob.copy_to(out).at(at)?;
            out.write_all(&[0; BLOCK_BYTES][..padding as usize]).at(at)?;
        }
    }
    tar.append(&header(INDEX_FILE, index.len() as u64, at)?, index).at(at)?;
    if !docker.is_empty() {
        let text = serde_json::to_vec(docker).map_err(io::Error::other).at(at)?;
        tar.append(&header(DOCKER_MANIFEST_FILE, text.len() as u64, at)?, text.as_slice()).at(at)?;
    }
    tar.append(&header(MARKER_FILE, MARKER.len() as u64, at)?, MARKER).at(at)?;
    tar.into_inner().at(at)?.flush().at(at)
}

/// What every file in a tar is padded to.
const BLOCK_BYTES: usize = 512;
/// Large enough for what a file system does for each write to be little.
const COPY_BYTES: usize = 1 << 20;

fn header(name: &str, size: u64, at: &Path) -> Result<tar::Header, LayoutError> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name).at(at)?;
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(0o644);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_cksum();
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(bytes: &[u8], digest: Digest, size: u64, out: &mut Vec<u8>) -> io::Result<()> {
        BlobInput { digest, size, reader: Box::new(bytes), is_verified: false }.copy_to(out)
    }

    #[test]
    fn a_copy_is_whole_or_an_error() {
        let large: Vec<u8> = (0..700_001_u32).map(|i| (i % 251) as u8).collect();
        for bytes in [&b""[..], b"abc", &large, &large[..256 * 1024]] {
            let (digest, size) = (Digest::of(bytes), bytes.len() as u64);
            let mut out = Vec::new();
            copy(bytes, digest, size, &mut out).unwrap();
            assert!(out == bytes);
            for (digest, size) in [(digest, size + 1), (digest, size / 2), (Digest::of(b"other"), size)] {
                if (digest, size) == (Digest::of(bytes), bytes.len() as u64) {
                    continue;
                }
                let error = copy(bytes, digest, size, &mut Vec::new()).unwrap_err();
                assert!(error.get_ref().unwrap().is::<Mismatch>(), "{size}");
            }
        }
    }
}
