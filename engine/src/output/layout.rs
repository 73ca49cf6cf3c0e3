//! OCI layouts and docker archives, as tars or directories (image-spec, `image-layout.md`; FEATURES IF13, IF14).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use kiln_image::oci::{Descriptor, Index, PlatformSpec, media_type};
use kiln_image::{Digest, ImageRef};
use serde::Serialize;

use super::blobs::Packed;
use super::write_to;
use crate::Error;
use crate::assemble::to_json;
use crate::build::Session;

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

/// Writes the image.
pub(super) fn write(
    session: &Session<'_>,
    image: &Packed,
    names: &[ImageRef],
    kind: Kind,
    dest: Option<&Path>,
    tar: bool,
) -> Result<(), Error> {
    if tar {
        return write_to(dest, |out| {
            let mut tar = Tar(tar::Builder::new(out));
            write_entries(session, image, names, kind, &mut tar)?;
            tar.0.finish().map_err(|error| Error::io(dest.unwrap_or(Path::new("standard output")), error))
        });
    }
    let dest = dest.ok_or_else(|| Error::user("an output that is a directory needs dest="))?;
    write_entries(session, image, names, kind, &mut Directory(dest))
}

fn write_entries(
    session: &Session<'_>,
    image: &Packed,
    names: &[ImageRef],
    kind: Kind,
    out: &mut dyn Sink,
) -> Result<(), Error> {
    out.directory("blobs")?;
    out.directory("blobs/sha256")?;
    let mut written = std::collections::BTreeSet::new();
    for layer in &image.layers {
        if !written.insert(layer.digest) {
            continue;
        }
        let missing = || Error::user(format!("blob {} is gone from the store", layer.digest));
        let mut file = session.store.open_blob(&layer.digest)?.ok_or_else(missing)?;
        out.file(&blob_path(&layer.digest), layer.size, &mut file)?;
    }
    for (descriptor, bytes) in
        [(&image.config, &image.config_bytes), (&image.manifest, &image.manifest_bytes)]
    {
        out.file(&blob_path(&descriptor.digest), descriptor.size, &mut bytes.as_slice())?;
    }
    let index = to_json(&index(image, names))?;
    out.file("index.json", index.len() as u64, &mut index.as_slice())?;
    if kind == Kind::Docker {
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
fn index(image: &Packed, names: &[ImageRef]) -> Index {
    let describe = |annotations: BTreeMap<String, String>| {
        let platform = Some(PlatformSpec::from(&image.platform));
        Descriptor { annotations, platform, ..image.manifest.clone() }
    };
    let created = image.created.clone().map(|time| ("org.opencontainers.image.created".to_owned(), time));
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
