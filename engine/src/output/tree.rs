//! The root file system itself, as a directory or a tar.

use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_cache::{LayerTree, SourceTree};
use kiln_image::layer::{self, OverlayXattrs, PackOptions};
use kiln_solver::solve::{Solver, copy_out};

use super::{ImageSet, write_to};
use crate::Error;
use crate::assemble::Assembled;

/// Writes the merged tree into `dest`, over what is there; those of an index into a directory for each platform.
pub(super) fn export_dir(
    solver: &Solver<'_>,
    images: &[Assembled],
    set: ImageSet,
    dest: &Path,
) -> Result<(), Error> {
    for image in images {
        match set {
            ImageSet::Single => export_one(solver, image, dest)?,
            ImageSet::Index => export_one(solver, image, &dest.join(directory_of(image)))?,
        }
    }
    Ok(())
}

/// `linux_arm_v7`.
fn directory_of(image: &Assembled) -> String {
    image.platform.to_string().replace('/', "_")
}

fn export_one(solver: &Solver<'_>, image: &Assembled, dest: &Path) -> Result<(), Error> {
    fs::create_dir_all(dest).map_err(|error| Error::io(dest, error))?;
    let tree = merged(solver, image)?;
    let is_empty = fs::read_dir(dest).map_err(|error| Error::io(dest, error))?.next().is_none();
    if is_empty {
        copy_out(&tree, "", dest)?;
        return Ok(());
    }
    // Beside the files that are there, so that each can be replaced by one rename.
    let staging = Staging(dest.join(format!(".kiln-{}", std::process::id())));
    fs::create_dir(&staging.0).map_err(|error| Error::io(&staging.0, error))?;
    copy_out(&tree, "", &staging.0)?;
    merge(&staging.0, dest)
}

/// Writes the merged trees as one tar, as [`export_dir`] does.
pub(super) fn export_tar(
    solver: &Solver<'_>,
    images: &[Assembled],
    set: ImageSet,
    dest: Option<&Path>,
) -> Result<(), Error> {
    let scratch = solver.store.scratch_dir()?;
    let root = scratch.fs();
    for image in images {
        let tree = merged(solver, image)?;
        let within = match set {
            ImageSet::Single => root.clone(),
            ImageSet::Index => root.join(directory_of(image)),
        };
        fs::create_dir_all(&within).map_err(|error| Error::io(&within, error))?;
        copy_out(&tree, "", &within)?;
    }
    let files = File::open(&root).map_err(|error| Error::io(&root, error))?;
    let options = PackOptions { rewrite_mtime_to: images.first().and_then(|image| image.epoch) };
    write_to(dest, |out| {
        layer::pack_with(files.as_fd(), OverlayXattrs::of_this_process(), options, out)?;
        Ok(())
    })
}

fn merged(solver: &Solver<'_>, image: &Assembled) -> Result<Arc<dyn SourceTree>, Error> {
    solver.ensure_layers(&image.snapshot)?;
    let paths: Vec<PathBuf> =
        image.snapshot.layers.iter().map(|layer| solver.store.layer_path(layer.id)).collect();
    Ok(Arc::new(LayerTree::open(&paths)?))
}

/// Moves everything of `from` into `to`: directories are merged, anything else is replaced. No link is followed.
fn merge(from: &Path, to: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(from).map_err(|error| Error::io(from, error))? {
        let entry = entry.map_err(|error| Error::io(from, error))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let source_is_dir = entry.file_type().map_err(|error| Error::io(&source, error))?.is_dir();
        let target_is_dir = fs::symlink_metadata(&target).map(|metadata| metadata.is_dir());
        match (source_is_dir, target_is_dir) {
            (true, Ok(true)) => {
                merge(&source, &target)?;
                continue;
            }
            (true, Ok(false)) => fs::remove_file(&target).map_err(|error| Error::io(&target, error))?,
            (false, Ok(true)) => {
                return Err(Error::user(format!("{} is a directory and would be a file", target.display())));
            }
            _ => {}
        }
        fs::rename(&source, &target).map_err(|error| Error::io(&target, error))?;
    }
    Ok(())
}

/// Removed on drop.
struct Staging(PathBuf);

impl Drop for Staging {
    fn drop(&mut self) {
        // What cannot be removed is named like what it is.
        let _ = fs::remove_dir_all(&self.0);
    }
}
