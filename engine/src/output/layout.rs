//! OCI layouts and docker archives, as tars or directories (image-spec, `image-layout.md`; FEATURES IF13, IF14).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use kiln_image::oci::{Descriptor, Index, PlatformSpec, media_type};
use kiln_image::{Digest, ImageRef};
use kiln_solver::solve::Solver;
use serde::Serialize;

use super::blobs::{self, Packed};
use super::{ImageSet, write_to};
use crate::Error;
use crate::assemble::{Assembled, to_json};
use crate::session::Session;

/// Which readers it is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// OCI tools.
    Oci,
    /// `docker load` as well: a `manifest.json` beside the layout.
    Docker,
}

/// docker's `manifest.json`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Vec<String>,
    layers: Vec<String>,
}

/// What a layout holds.
pub(super) struct Content {
    images: Vec<Packed>,
    /// What its names stand for: the sole image's manifest, or an index of the images.
    pub(super) top: Descriptor,
    /// The index's own bytes.
    index: Option<Vec<u8>>,
}

impl Content {
    /// Makes the blobs.
    pub(super) fn pack(
        solver: &Solver<'_>,
        images: &[Assembled],
        set: ImageSet,
        attrs: &[(String, String)],
    ) -> Result<Self, Error> {
        let images: Vec<Packed> =
            images.iter().map(|image| blobs::pack(solver, image, attrs)).collect::<Result<_, _>>()?;
        let described = |image: &Packed| Descriptor {
            platform: Some(PlatformSpec::from(&image.platform)),
            ..image.manifest.clone()
        };
        if let ([image], ImageSet::Single) = (images.as_slice(), set) {
            return Ok(Self { top: described(image), index: None, images });
        }
        let index = to_json(&Index {
            schema_version: 2,
            media_type: Some(media_type::OCI_INDEX.to_owned()),
            manifests: images.iter().map(described).collect(),
            annotations: BTreeMap::new(),
        })?;
        Ok(Self { top: blobs::describe(media_type::OCI_INDEX, &index), index: Some(index), images })
    }
}

/// Writes the images.
pub(super) fn write(
    session: &Session<'_>,
    content: &Content,
    names: &[ImageRef],
    kind: Kind,
    dest: Option<&Path>,
    tar: bool,
) -> Result<(), Error> {
    if tar {
        return write_to(dest, |out| {
            let mut tar = Tar(tar::Builder::new(out));
            write_entries(session, content, names, kind, &mut tar)?;
            tar.0.finish().map_err(|error| Error::io(dest.unwrap_or(Path::new("standard output")), error))
        });
    }
    let dest = dest.ok_or_else(|| Error::user("an output that is a directory needs dest="))?;
    write_entries(session, content, names, kind, &mut Directory(dest))
}

fn write_entries(
    session: &Session<'_>,
    content: &Content,
    names: &[ImageRef],
    kind: Kind,
    out: &mut dyn Sink,
) -> Result<(), Error> {
    out.directory("blobs")?;
    out.directory("blobs/sha256")?;
    let mut written = std::collections::BTreeSet::new();
    for layer in content.images.iter().flat_map(|image| &image.layers) {
        if !written.insert(layer.digest) {
            continue;
        }
        let missing = || Error::user(format!("blob {} is gone from the store", layer.digest));
        let mut file = session.store.open_blob(&layer.digest)?.ok_or_else(missing)?;
        out.file(&blob_path(&layer.digest), layer.size, &mut file)?;
    }
    let documents = content
        .images
        .iter()
        .flat_map(|image| [(&image.config, &image.config_bytes), (&image.manifest, &image.manifest_bytes)]);
    for (descriptor, bytes) in documents.chain(content.index.iter().map(|bytes| (&content.top, bytes))) {
        // Images of two platforms may be alike to the last byte.
        if written.insert(descriptor.digest) {
            out.file(&blob_path(&descriptor.digest), descriptor.size, &mut bytes.as_slice())?;
        }
    }
    let index = to_json(&index(content, names))?;
    out.file("index.json", index.len() as u64, &mut index.as_slice())?;
    if let (Kind::Docker, [image]) = (kind, content.images.as_slice()) {
        let docker = to_json(&[DockerImage {
            config: blob_path(&image.config.digest),
            repo_tags: names.iter().map(ImageRef::familiar).collect(),
            layers: image.layers.iter().map(|layer| blob_path(&layer.digest)).collect(),
        }])?;
        out.file("manifest.json", docker.len() as u64, &mut docker.as_slice())?;
    }
    let version = br#"{"imageLayoutVersion":"1.0.0"}"#;
    out.file("oci-layout", version.len() as u64, &mut version.as_slice())
}

/// One entry for each name, or one without.
fn index(content: &Content, names: &[ImageRef]) -> Index {
    let describe = |annotations: BTreeMap<String, String>| Descriptor { annotations, ..content.top.clone() };
    let created = content.images.first().and_then(|image| image.created.clone());
    let created = created.map(|time| ("org.opencontainers.image.created".to_owned(), time));
    let manifests = if names.is_empty() {
        vec![describe(created.into_iter().collect())]
    } else {
        names
            .iter()
            .map(|name| {
                let tag = name.tag().unwrap_or("latest").to_owned();
                let named = [
                    ("io.containerd.image.name".to_owned(), name.to_string()),
                    ("org.opencontainers.image.ref.name".to_owned(), tag),
                ];
                describe(named.into_iter().chain(created.clone()).collect())
            })
            .collect()
    };
    Index {
        schema_version: 2,
        media_type: Some(media_type::OCI_INDEX.to_owned()),
        manifests,
        annotations: BTreeMap::new(),
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Where entries go.
trait Sink {
    fn directory(&mut self, path: &str) -> Result<(), Error>;
    fn file(&mut self, path: &str, size: u64, bytes: &mut dyn Read) -> Result<(), Error>;
}

/// A tar without anything of this machine in it.
struct Tar<'a>(tar::Builder<&'a mut dyn Write>);

impl Tar<'_> {
    fn append(
        &mut self,
        path: &str,
        kind: tar::EntryType,
        mode: u32,
        size: u64,
        bytes: &mut dyn Read,
    ) -> Result<(), Error> {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        self.0.append_data(&mut header, path, bytes).map_err(|error| Error::io(Path::new(path), error))
    }
}

impl Sink for Tar<'_> {
    fn directory(&mut self, path: &str) -> Result<(), Error> {
        self.append(&format!("{path}/"), tar::EntryType::Directory, 0o755, 0, &mut std::io::empty())
    }
    fn file(&mut self, path: &str, size: u64, bytes: &mut dyn Read) -> Result<(), Error> {
        self.append(path, tar::EntryType::Regular, 0o644, size, bytes)
    }
}

struct Directory<'a>(&'a Path);

impl Sink for Directory<'_> {
    fn directory(&mut self, path: &str) -> Result<(), Error> {
        let path = self.0.join(path);
        std::fs::create_dir_all(&path).map_err(|error| Error::io(&path, error))
    }
    fn file(&mut self, path: &str, _size: u64, bytes: &mut dyn Read) -> Result<(), Error> {
        let path = self.0.join(path);
        let at = |error| Error::io(&path, error);
        let mut file = File::create(&path).map_err(at)?;
        std::io::copy(bytes, &mut file).map_err(at)?;
        Ok(())
    }
}
