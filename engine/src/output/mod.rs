//! What is done with an image that was built: one file for each way.

pub(crate) mod blobs;
mod layout;
mod store;
mod tree;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use kiln_image::{Digest, ImageRef};
use kiln_solver::solve::Solver;

use crate::Error;
use crate::assemble::Assembled;
use crate::build::OutputSpec;
use crate::session::Session;

/// Whether images are told apart by platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ImageSet {
    /// There is one image.
    Single,
    /// There are several, or an index is wanted for the one.
    Index,
}

/// What was exported.
#[derive(Default)]
pub(crate) struct Exported {
    /// Digest of the manifest, where one was made.
    pub(crate) manifest: Option<Digest>,
    /// Names in the store.
    pub(crate) names: Vec<ImageRef>,
}

/// Makes all outputs that were asked for; without any, the image goes into the store.
pub(crate) fn export(
    session: &Session<'_>,
    solver: &Solver<'_>,
    images: &[Assembled],
    set: ImageSet,
    tags: &[ImageRef],
) -> Result<Exported, Error> {
    let default = [OutputSpec::Image { names: Vec::new() }];
    let outputs = match session.build.outputs.as_slice() {
        [] => &default,
        outputs => outputs,
    };
    let mut exported = Exported::default();
    for output in outputs {
        let Some(name) = step_name(output) else { continue };
        let step = session.reporter.step(name, Vec::new());
        session.reporter.started(step);
        match export_one(session, solver, (images, set), tags, output, &mut exported) {
            Ok(()) => session.reporter.done(step),
            Err(error) => {
                session.reporter.failed(step, error.to_string());
                return Err(error);
            }
        }
    }
    Ok(exported)
}

fn step_name(output: &OutputSpec) -> Option<&'static str> {
    match output {
        OutputSpec::Image { .. } => Some("exporting to image"),
        OutputSpec::Oci { .. } => Some("exporting to oci image format"),
        OutputSpec::Docker { .. } => Some("exporting to docker image format"),
        OutputSpec::Local { .. } => Some("exporting to client directory"),
        OutputSpec::Tar { .. } => Some("exporting to client tarball"),
        OutputSpec::CacheOnly => None,
    }
}

fn export_one(
    session: &Session<'_>,
    solver: &Solver<'_>,
    (images, set): (&[Assembled], ImageSet),
    tags: &[ImageRef],
    output: &OutputSpec,
    exported: &mut Exported,
) -> Result<(), Error> {
    match output {
        OutputSpec::Image { names } => {
            let mut all = tags.to_vec();
            for name in names {
                let name = name
                    .parse()
                    .map_err(|error: kiln_image::InvalidReference| Error::user(error.to_string()))?;
                if !all.contains(&name) {
                    all.push(name);
                }
            }
            for image in images {
                store::export(solver, image, &all)?;
            }
            exported.names.extend(all);
        }
        OutputSpec::Oci { dest, tar, attrs } => {
            let content = layout::Content::pack(solver, images, set, attrs)?;
            let names = names_of(tags, attrs)?;
            layout::write(session, &content, &names, layout::Kind::Oci, dest.as_deref(), *tar)?;
            exported.manifest = Some(content.top.digest);
        }
        OutputSpec::Docker { dest, attrs } => {
            let tar = !attrs.iter().any(|(name, value)| name == "tar" && value == "false");
            if set == ImageSet::Index {
                return Err(Error::user("docker exporter does not support exporting manifest lists")
                    .hinted("use the output type=oci"));
            }
            let content = layout::Content::pack(solver, images, set, attrs)?;
            let names = names_of(tags, attrs)?;
            layout::write(session, &content, &names, layout::Kind::Docker, dest.as_deref(), tar)?;
            exported.manifest = Some(content.top.digest);
        }
        OutputSpec::Local { dest } => tree::export_dir(solver, images, set, dest)?,
        OutputSpec::Tar { dest } => tree::export_tar(solver, images, set, dest.as_deref())?,
        OutputSpec::CacheOnly => {}
    }
    Ok(())
}

/// The names an archive carries: the tags and `name=` (several with commas).
fn names_of(tags: &[ImageRef], attrs: &[(String, String)]) -> Result<Vec<ImageRef>, Error> {
    let mut names = tags.to_vec();
    for (_, value) in attrs.iter().filter(|(name, _)| name == "name") {
        for name in value.split(',').filter(|name| !name.is_empty()) {
            let name =
                name.parse().map_err(|error: kiln_image::InvalidReference| Error::user(error.to_string()))?;
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    Ok(names)
}

/// Writes a file beside its place and renames it there, or to standard output: no half archive is left behind.
fn write_to(
    dest: Option<&Path>,
    write: impl FnOnce(&mut dyn Write) -> Result<(), Error>,
) -> Result<(), Error> {
    let Some(dest) = dest else {
        let mut stdout = BufWriter::with_capacity(1 << 20, std::io::stdout().lock());
        write(&mut stdout)?;
        return stdout.flush().map_err(|error| Error::io(Path::new("standard output"), error));
    };
    let at = |error| Error::io(dest, error);
    // A pipe or device is written as it is.
    if std::fs::metadata(dest).is_ok_and(|metadata| !metadata.is_file()) {
        let mut file = BufWriter::new(File::create(dest).map_err(at)?);
        write(&mut file)?;
        return file.flush().map_err(at);
    }
    let name = dest.file_name().ok_or_else(|| Error::user(format!("{} is no file name", dest.display())))?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".kiln-{}", std::process::id()));
    let partial = Partial(dest.with_file_name(hidden));
    let file = File::create(&partial.0).map_err(|error| Error::io(&partial.0, error))?;
    let mut file = BufWriter::with_capacity(1 << 20, file);
    write(&mut file)?;
    file.flush().map_err(at)?;
    std::fs::rename(&partial.0, dest).map_err(at)
}

/// Removed on drop, unless it was renamed away.
struct Partial(std::path::PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        // It is gone when all went well.
        let _ = std::fs::remove_file(&self.0);
    }
}
