//! What is attested of images of the store: it goes where they go.

use std::collections::BTreeMap;
use std::io::Read as _;

use kiln_cache::Store;
use kiln_image::Digest;
use kiln_image::archive::Archive;
use kiln_image::oci::{Descriptor, Document, Index, MAX_MANIFEST_BYTES, Manifest, media_type};
use kiln_image::registry::RemoteImage;

use crate::assemble::to_json;
use crate::attest::{Attached, MAX_STATEMENT_BYTES, attested_image, listed};
use crate::error::layout_error;
use crate::{Error, ErrorKind};

/// What is attested of the image with this manifest, if the store has all of it.
pub(super) fn of(store: &Store, image: &Digest) -> Result<Option<Attached>, Error> {
    let Some(digest) = store.attestations(image)? else { return Ok(None) };
    let Some(manifest_bytes) = read(store, &digest, MAX_MANIFEST_BYTES)? else { return Ok(None) };
    let Ok(manifest) = serde_json::from_slice::<Manifest>(&manifest_bytes) else { return Ok(None) };
    let mut blobs = Vec::new();
    for descriptor in std::iter::once(manifest.config).chain(manifest.layers) {
        let Some(bytes) = read(store, &descriptor.digest, MAX_STATEMENT_BYTES)? else { return Ok(None) };
        blobs.push((descriptor, bytes));
    }
    Ok(Some(Attached { manifest: listed(&manifest_bytes, image), manifest_bytes, blobs }))
}

/// Keeps what an archive attests of an image that came with an index of it.
pub(super) fn load(
    store: &Store,
    archive: &Archive,
    entry: &Descriptor,
    image: &RemoteImage,
) -> Result<(), Error> {
    if !media_type::is_index(&entry.media_type) {
        return Ok(());
    }
    let bytes = bytes_of(archive, entry, MAX_MANIFEST_BYTES)?;
    let Ok(Document::Index(index)) = Document::parse(&bytes, Some(&entry.media_type)) else { return Ok(()) };
    let attests = |entry: &&Descriptor| attested_image(entry) == Some(image.manifest_digest);
    let Some(attestation) = index.manifests.iter().find(attests) else { return Ok(()) };
    let bytes = bytes_of(archive, attestation, MAX_MANIFEST_BYTES)?;
    let Ok(Document::Manifest(manifest)) = Document::parse(&bytes, Some(&attestation.media_type)) else {
        return Ok(());
    };
    for blob in std::iter::once(&manifest.config).chain(&manifest.layers) {
        store.put_blob(&bytes_of(archive, blob, MAX_STATEMENT_BYTES)?)?;
    }
    store.attest(&image.manifest_digest, store.put_blob(&bytes)?)?;
    Ok(())
}

/// An index of images and what is attested of them.
pub(super) fn index(manifests: Vec<Descriptor>) -> Result<(Descriptor, Vec<u8>), Error> {
    let bytes = to_json(&Index {
        schema_version: 2,
        media_type: Some(media_type::OCI_INDEX.to_owned()),
        manifests,
        annotations: BTreeMap::new(),
    })?;
    let descriptor = Descriptor {
        media_type: media_type::OCI_INDEX.to_owned(),
        digest: Digest::of(&bytes),
        size: bytes.len() as u64,
        annotations: BTreeMap::new(),
        platform: None,
    };
    Ok((descriptor, bytes))
}

/// `None` where it is not there, or larger.
fn read(store: &Store, digest: &Digest, limit_bytes: u64) -> Result<Option<Vec<u8>>, Error> {
    let Some(file) = store.open_blob(digest)? else { return Ok(None) };
    let mut bytes = Vec::new();
    let read = file.take(limit_bytes + 1).read_to_end(&mut bytes);
    read.map_err(|error| Error::io(&store.blob_path(digest), error))?;
    Ok((bytes.len() as u64 <= limit_bytes).then_some(bytes))
}

fn bytes_of(archive: &Archive, blob: &Descriptor, limit_bytes: u64) -> Result<Vec<u8>, Error> {
    let wrong =
        |why: String| Error::new(ErrorKind::User, format!("blob {} of the archive: {why}", blob.digest));
    if blob.size > limit_bytes {
        return Err(wrong(format!("an attestation is larger than {limit_bytes} bytes")));
    }
    let mut bytes = Vec::new();
    let read = archive.blob(blob).map_err(layout_error)?.read_to_end(&mut bytes);
    read.map_err(|error| wrong(error.to_string()))?;
    Ok(bytes)
}
