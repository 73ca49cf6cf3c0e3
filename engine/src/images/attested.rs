//! What is attested of images of the store: it goes where they go.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use kiln_cache::{ImageRecord, Store};
use kiln_image::Digest;
use kiln_image::archive::Archive;
use kiln_image::oci::{Descriptor, Document, Index, MAX_MANIFEST_BYTES, Manifest, media_type};
use kiln_image::registry::{Registry, RemoteImage};

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
    if !media_type::is_index(&entry.media_type) || entry.size > MAX_MANIFEST_BYTES {
        return Ok(());
    }
    let read = |blob: &Descriptor, _: Part| bytes_of(archive, blob);
    let index = read(entry, Part::Manifest)?;
    keep(store, &index, &image.manifest_digest, &read)
}

/// Keeps what a registry attests of an image that was pulled from an index.
pub(super) fn pull(
    store: &Store,
    registry: &Registry,
    image: &RemoteImage,
    cancel: &Arc<AtomicBool>,
) -> Result<(), Error> {
    let Some(index) = &image.index_bytes else { return Ok(()) };
    let read = |blob: &Descriptor, part: Part| {
        let wrong = |why: String| Error::new(ErrorKind::Environment, format!("blob {}: {why}", blob.digest));
        if part == Part::Manifest {
            let name = image.reference.without_tag().with_digest(blob.digest);
            return Ok(registry.manifest(&name, cancel)?.bytes);
        }
        let mut bytes = Vec::new();
        let read = registry.blob(&image.reference, blob, cancel)?.read_to_end(&mut bytes);
        read.map_err(|error| wrong(error.to_string()))?;
        Ok(bytes)
    };
    keep(store, index, &image.manifest_digest, &read)
}

/// What is read of an attestation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Manifest,
    Blob,
}

/// Reads a document or blob, verified.
type Read<'a> = dyn Fn(&Descriptor, Part) -> Result<Vec<u8>, Error> + 'a;

fn keep(store: &Store, index: &[u8], image: &Digest, read: &Read<'_>) -> Result<(), Error> {
    let Ok(Document::Index(index)) = Document::parse(index, None) else { return Ok(()) };
    let attests = |entry: &&Descriptor| attested_image(entry) == Some(*image);
    let Some(attestation) = index.manifests.iter().find(attests) else { return Ok(()) };
    let limited = |blob: &Descriptor, part, limit_bytes: u64| match blob.size > limit_bytes {
        true => Err(Error::new(
            ErrorKind::User,
            format!("blob {}: an attestation is larger than {limit_bytes} bytes", blob.digest),
        )),
        false => read(blob, part),
    };
    let bytes = limited(attestation, Part::Manifest, MAX_MANIFEST_BYTES)?;
    let Ok(Document::Manifest(manifest)) = Document::parse(&bytes, Some(&attestation.media_type)) else {
        return Ok(());
    };
    let mut left = MAX_ATTESTED_BYTES;
    for blob in std::iter::once(&manifest.config).chain(&manifest.layers) {
        store.put_blob(&limited(blob, Part::Blob, MAX_STATEMENT_BYTES.min(left))?)?;
        left = left.saturating_sub(blob.size);
    }
    store.attest(image, store.put_blob(&bytes)?)?;
    Ok(())
}

/// The index that images came with, if it holds these entries and no others: so it keeps its digest.
pub(super) fn as_it_came(
    store: &Store,
    images: &[&ImageRecord],
    entries: &[Descriptor],
) -> Result<Option<(Descriptor, Vec<u8>)>, Error> {
    let Some(digest) = images.first().and_then(|image| image.remote_digest) else { return Ok(None) };
    if images.iter().any(|image| image.remote_digest != Some(digest)) {
        return Ok(None);
    }
    let Some(bytes) = read(store, &digest, MAX_MANIFEST_BYTES)? else { return Ok(None) };
    let Ok(Document::Index(index)) = Document::parse(&bytes, None) else { return Ok(None) };
    let digests = |entries: &[Descriptor]| entries.iter().map(|entry| entry.digest).collect::<BTreeSet<_>>();
    if digests(&index.manifests) != digests(entries) {
        return Ok(None);
    }
    let kind = index.media_type.unwrap_or_else(|| media_type::OCI_INDEX.to_owned());
    Ok(Some((Descriptor::of(kind, &bytes), bytes)))
}

/// An index of images and what is attested of them.
pub(super) fn index(manifests: Vec<Descriptor>) -> Result<(Descriptor, Vec<u8>), Error> {
    let bytes = to_json(&Index {
        schema_version: 2,
        media_type: Some(media_type::OCI_INDEX.to_owned()),
        manifests,
        annotations: BTreeMap::new(),
    })?;
    Ok((Descriptor::of(media_type::OCI_INDEX, &bytes), bytes))
}

/// `None` where it is not there, or larger.
fn read(store: &Store, digest: &Digest, limit_bytes: u64) -> Result<Option<Vec<u8>>, Error> {
    let Some(file) = store.open_blob(digest)? else { return Ok(None) };
    let mut bytes = Vec::new();
    let read = file.take(limit_bytes + 1).read_to_end(&mut bytes);
    read.map_err(|error| Error::io(&store.blob_path(digest), error))?;
    Ok((bytes.len() as u64 <= limit_bytes).then_some(bytes))
}

fn bytes_of(archive: &Archive, blob: &Descriptor) -> Result<Vec<u8>, Error> {
    let wrong =
        |why: String| Error::new(ErrorKind::User, format!("blob {} of the archive: {why}", blob.digest));
    let mut bytes = Vec::new();
    let read = archive.blob(blob).map_err(layout_error)?.read_to_end(&mut bytes);
    read.map_err(|error| wrong(error.to_string()))?;
    Ok(bytes)
}

/// Of one image together.
const MAX_ATTESTED_BYTES: u64 = 4 * MAX_STATEMENT_BYTES;
