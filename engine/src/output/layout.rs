//! OCI layouts and docker archives, as tars or directories (image-spec, `image-layout.md`; FEATURES IF13, IF14).

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use kiln_cache::Store;
use kiln_image::ImageRef;
use kiln_image::layout::{
    BlobInput, CONTAINERD_NAME_ANNOTATION, DockerImage, LayoutError, REF_NAME_ANNOTATION, write_directory,
    write_tar,
};
use kiln_image::oci::{Descriptor, Index, media_type};

use super::content::Content;
use crate::Error;
use crate::assemble::to_json;
use crate::error::layout_error;

/// Which readers it is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// OCI tools.
    Oci,
    /// `docker load` as well: a `manifest.json` beside the layout.
    Docker,
}

/// Writes the images as a tar.
pub(super) fn write_archive(
    store: &Store,
    content: &Content,
    names: &[ImageRef],
    kind: Kind,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let index = to_json(&index(content, names))?;
    write_tar(out, &index, &docker_images(content, names, kind), inputs(store, content)).map_err(layout_error)
}

/// Writes the images as a directory, which may hold others.
pub(super) fn write_folder(
    store: &Store,
    content: &Content,
    names: &[ImageRef],
    kind: Kind,
    dest: &Path,
) -> Result<(), Error> {
    let index = to_json(&index(content, names))?;
    write_directory(dest, &index, &docker_images(content, names, kind), inputs(store, content))
        .map_err(layout_error)
}

fn docker_images(content: &Content, names: &[ImageRef], kind: Kind) -> Vec<DockerImage> {
    if kind == Kind::Oci {
        return Vec::new();
    }
    let images = content.images.iter().map(|image| {
        let layers: Vec<_> = image.layers.iter().map(|layer| layer.descriptor.digest).collect();
        DockerImage::new(&image.config.digest, &layers, names.iter().map(ImageRef::familiar).collect())
    });
    images.collect()
}

/// Layers first, as they are what takes long.
fn inputs<'a>(
    store: &'a Store,
    content: &'a Content,
) -> impl Iterator<Item = Result<BlobInput<'a>, LayoutError>> {
    let layers = content.images.iter().flat_map(|image| &image.layers).map(|layer| {
        let (digest, size) = (layer.descriptor.digest, layer.descriptor.size);
        let failed = |error: kiln_cache::StoreError| LayoutError::Io {
            path: store.blob_path(&digest),
            source: std::io::Error::other(error),
        };
        match store.open_blob(&digest).map_err(failed)? {
            Some(file) => Ok(BlobInput { digest, size, reader: Box::new(file), is_verified: layer.is_new }),
            None => Err(LayoutError::MissingBlob { digest }),
        }
    });
    let documents = content.documents().map(|(descriptor, bytes)| {
        let Descriptor { digest, size, .. } = *descriptor;
        Ok(BlobInput { digest, size, reader: Box::new(bytes), is_verified: false })
    });
    layers.chain(documents)
}

/// One entry for each name, or one without.
fn index(content: &Content, names: &[ImageRef]) -> Index {
    let created = content.images.first().and_then(|image| image.created.clone());
    let describe = |named: Vec<(&str, String)>| {
        let created = created.clone().map(|time| ("org.opencontainers.image.created", time));
        let mut annotations: BTreeMap<String, String> =
            named.into_iter().chain(created).map(|(key, value)| (key.to_owned(), value)).collect();
        // What the user asks for counts.
        annotations.extend(content.top.annotations.clone());
        Descriptor { annotations, ..content.top.clone() }
    };
    let manifests = if names.is_empty() {
        vec![describe(Vec::new())]
    } else {
        let named = names.iter().map(|name| {
            let tag = name.tag().unwrap_or("latest").to_owned();
            describe(vec![(CONTAINERD_NAME_ANNOTATION, name.to_string()), (REF_NAME_ANNOTATION, tag)])
        });
        named.collect()
    };
    Index {
        schema_version: 2,
        media_type: Some(media_type::OCI_INDEX.to_owned()),
        manifests,
        annotations: BTreeMap::new(),
    }
}
