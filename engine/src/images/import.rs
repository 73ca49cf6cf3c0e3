//! A file system as a tar, made an image (docker's `import`), and an image's file system as a tar.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use kiln_cache::{ImageRecord, LayerId, LayerTree, Store};
use kiln_image::layer::decompress;
use kiln_image::oci::{History, ImageConfig};
use kiln_image::{DiffId, ImageRef, Platform};
use kiln_parser::InstructionKind;
use kiln_solver::plan::{self, PlanRequest};

use super::{layers, now};
use crate::output::{Tree, write_tar};
use crate::whole_file::write_to;
use crate::{Error, ErrorKind};

/// What an imported file system becomes.
#[derive(Clone, Debug, Default)]
pub struct Import {
    /// The image's name.
    pub name: Option<ImageRef>,
    /// Instructions of a Dockerfile that say something of the image and make no files.
    pub changes: Vec<String>,
    /// What its history says.
    pub message: String,
    /// What it runs on; `None` is the host.
    pub platform: Option<Platform>,
    /// When it was made, in seconds since the epoch; `None` is now.
    pub created: Option<i64>,
}

impl super::Images {
    /// Makes an image of one layer from a tar, compressed or not.
    ///
    /// # Errors
    /// It is no tar; a change is no such instruction; I/O.
    pub fn import(&self, tar: &mut (dyn Read + Send), import: &Import) -> Result<ImageRecord, Error> {
        let platform = import.platform.clone().unwrap_or_else(Platform::host);
        let mut config = config_of(&import.changes, &platform)?;
        let diff_id = add_layer(&self.store, tar)?;
        let created = import.created.unwrap_or_else(|| i64::try_from(now()).unwrap_or(i64::MAX));
        let created = jiff::Timestamp::from_second(created)
            .map_err(|error| Error::user(format!("a time that is none: {error}")))?
            .to_string();
        config.created = Some(created.clone());
        config.rootfs.diff_ids = vec![diff_id];
        config.history =
            vec![History { created: Some(created), comment: import.message.clone(), ..History::default() }];
        let bytes = serde_json::to_vec(&config)
            .map_err(|error| Error::new(ErrorKind::Environment, error.to_string()))?;
        let layer = LayerId::from(diff_id);
        let record = ImageRecord {
            name: import.name.clone(),
            platform,
            config: self.store.put_blob(&bytes)?,
            manifest: None,
            remote_digest: None,
            layers: vec![layer],
            tagged_at: now(),
            size_bytes: self.store.layer_size(layer)?.unwrap_or(0),
        };
        self.store.put_image(&record)?;
        Ok(record)
    }

    /// Writes an image's file system as one tar, without its config; `None` is standard output.
    ///
    /// # Errors
    /// I/O. Nothing half-written stays.
    pub fn export(&self, image: &ImageRecord, dest: Option<&Path>) -> Result<(), Error> {
        let tree = Tree::whole(Arc::new(self.tree(image)?));
        write_to(dest, |out| write_tar(out, &[tree]))
    }

    /// An image's files, its layers unpacked if they are not yet.
    pub(super) fn tree(&self, image: &ImageRecord) -> Result<LayerTree, Error> {
        layers::ensure(&self.store, image, &self.config(image)?, &Arc::new(AtomicBool::new(false)))?;
        let paths: Vec<PathBuf> = image.layers.iter().map(|layer| self.store.layer_path(*layer)).collect();
        Ok(LayerTree::open(&paths)?)
    }
}

/// Keeps the tar as a blob, so that the image can be saved and pushed byte by byte as it came, and unpacks it.
fn add_layer(store: &Store, tar: &mut (dyn Read + Send)) -> Result<DiffId, Error> {
    let mut blob = store.blob_writer()?;
    let mut plain = decompress(tar)?;
    std::io::copy(&mut plain, &mut blob)
        .map_err(|error| Error::user(format!("cannot read the tar: {error}")))?;
    let (digest, _) = blob.finish(None)?;
    let diff_id = DiffId(digest);
    let gone = || Error::new(ErrorKind::Environment, format!("{digest} is not in the store"));
    let mut file = store.open_blob(&digest)?.ok_or_else(gone)?;
    layers::add(store, diff_id, &Arc::new(AtomicBool::new(false)), &mut file)?;
    store.remember_compressed(diff_id, "none", digest)?;
    Ok(diff_id)
}

/// The config that the changes make of an empty image's.
fn config_of(changes: &[String], platform: &Platform) -> Result<ImageConfig, Error> {
    let text = std::iter::once("FROM scratch").chain(changes.iter().map(String::as_str)).collect::<Vec<_>>();
    let dockerfile = kiln_parser::parse(text.join("\n").as_bytes())
        .map_err(|error| Error::user(format!("a change is no instruction: {error}")))?;
    let makes_files = |kind: &InstructionKind| {
        use kiln_parser::InstructionKind::{Add, Arg, Copy, Run};
        matches!(kind, Add(_) | Arg(_) | Copy(_) | Run(_))
    };
    let mut instructions = dockerfile.stages.iter().flat_map(|stage| &stage.instructions);
    if dockerfile.stages.len() > 1 || instructions.any(|instruction| makes_files(&instruction.kind)) {
        return Err(Error::user("a change may only say something of the image").hinted(CHANGES));
    }
    let request = PlanRequest {
        platform: Some(platform.clone()),
        emulates: |_| true,
        ..PlanRequest::new(Platform::host())
    };
    let planned =
        plan::plan(
            &dockerfile,
            &request,
            &mut |name, _| Err(format!("a change may not bring {name}").into()),
        );
    planned.map(|plan| plan.config).map_err(|error| Error::user(format!("a change is wrong: {error}")))
}

const CHANGES: &str = "CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, SHELL, STOPSIGNAL, USER, VOLUME and \
                       WORKDIR do so";
