//! The contents of `RUN --mount=type=cache` in caches that other machines share (`cache-mounts=` of `--cache-to`).
//!
//! Each is a blob, a layer's tar, that a machine without such a mount begins with. One that cannot be read or is too
//! large is a warning: the steps of the cache do not depend on it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd as _;
use std::sync::atomic::Ordering;

use kiln_image::layer::{self, OverlayXattrs};
use kiln_image::oci::{Descriptor, media_type};
use kiln_remote::{Imports, NewBlob};
use kiln_solver::solve::{RemoteCache as _, RemoteMount, Solver};

use crate::caches::{Export, failed, warn};
use crate::session::Session;
use crate::{Error, ErrorKind};

/// Writes the wanted cache mounts' contents to a cache, and describes them. One that this machine has not but an imported
/// cache has goes along as it is: to find every step is no reason to lose it.
pub(crate) fn export(
    export: &Export,
    session: &Session<'_>,
    solver: &Solver<'_>,
    imports: Option<&Imports>,
) -> Result<Vec<RemoteMount>, Error> {
    let wanted = &export.settings.cache_mounts;
    let mut exported = Vec::new();
    if wanted.is_empty() {
        return Ok(exported);
    }
    let mut room = export.settings.cache_mounts_max;
    let ids = solver.store.cache_mount_ids()?;
    for id in ids.iter().filter(|id| wanted.contain(id)) {
        let packed = pack(export, solver, id, room);
        if solver.cancel.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Canceled, "canceled"));
        }
        match packed {
            Ok(Some(mount)) => {
                let open = || open_blob(solver, &mount.descriptor);
                put(export, &mount.descriptor, &open)?;
                room = room.saturating_sub(mount.size_bytes);
                exported.push(mount);
            }
            Ok(None) => warn(session, format!("cache mount {id} is in use and not exported")),
            Err(error) => warn(session, format!("cache mount {id} is not exported: {error}")),
        }
    }
    let Some(imports) = imports else { return Ok(exported) };
    for mount in imports.mounts() {
        if wanted.contain(&mount.id) && !ids.contains(&mount.id) && mount.size_bytes <= room {
            let open = || imports.open(&mount.descriptor);
            match put(export, &mount.descriptor, &open) {
                Err(error) if error.kind == ErrorKind::Canceled => return Err(error),
                Err(error) => warn(session, format!("cache mount {} is not exported: {error}", mount.id)),
                Ok(()) => {
                    room -= mount.size_bytes;
                    exported.push(mount);
                }
            }
        }
    }
    Ok(exported)
}

/// Makes a blob of a mount's contents; `None` if another build has it for itself.
fn pack(export: &Export, solver: &Solver<'_>, id: &str, room: u64) -> Result<Option<RemoteMount>, Error> {
    let Some(mount) = solver.store.find_cache_mount(id)? else { return Ok(None) };
    let tree = File::open(mount.path()).map_err(|error| Error::io(mount.path(), error))?;
    let compression = export.settings.compression;
    let writer = layer::compress(solver.store.blob_writer()?, compression.algorithm, compression.level)?;
    let mut writer = Capped { inner: writer, room, is_full: false };
    let packed = layer::pack(tree.as_fd(), OverlayXattrs::of_this_process(), &mut writer);
    if writer.is_full {
        let all = export.settings.cache_mounts_max;
        let message = format!("all together would be larger than cache-mounts-max={all}");
        return Err(Error::new(ErrorKind::Environment, message));
    }
    let packed = packed?;
    let writer = writer.inner.finish().map_err(|error| Error::io(solver.store.root(), error))?;
    let (digest, size) = writer.finish(None)?;
    let descriptor = Descriptor::new(media_type::oci_layer(compression.algorithm), digest, size);
    Ok(Some(RemoteMount { id: id.to_owned(), descriptor, size_bytes: packed.size_bytes }))
}

fn open_blob(solver: &Solver<'_>, blob: &Descriptor) -> io::Result<Box<dyn Read + Send>> {
    match solver.store.open_blob(&blob.digest).map_err(io::Error::other)? {
        Some(file) => Ok(Box::new(file)),
        None => Err(io::Error::other(format!("blob {} is gone from the store", blob.digest))),
    }
}

fn put(
    export: &Export,
    descriptor: &Descriptor,
    open: &(dyn Fn() -> io::Result<Box<dyn Read + Send>> + Send + Sync),
) -> Result<(), Error> {
    export.place.put(&NewBlob { descriptor, mount_from: Vec::new(), open }).map_err(failed)
}

/// Takes so many bytes and no more.
struct Capped<W> {
    inner: W,
    room: u64,
    is_full: bool,
}

impl<W: Write> Write for Capped<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len() as u64;
        if length > self.room {
            self.is_full = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let written = self.inner.write(bytes)?;
        self.room -= written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
