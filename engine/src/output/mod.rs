//! What is done with an image that was built: one file for each way.

pub(crate) mod blobs;
mod content;
mod directory;
mod layout;
mod options;
mod store;
mod tree;

use std::io::Write;
use std::path::Path;

use kiln_image::oci::Descriptor;
use kiln_image::{Digest, ImageRef, InvalidReference};
use kiln_solver::event::{Event, StepId};
use kiln_solver::solve::Solver;

pub(crate) use options::flag;
pub use options::{Annotation, AnnotationTarget, ImageOptions, LayerCompression, MediaTypes, TreeOptions};

use crate::assemble::Assembled;
use crate::attest::{Attestations, Attestor};
use crate::build::{DockerTarget, OutputSpec};
use crate::destination::{check_directory, check_file};
use crate::push::{self, Lenders, Shipper, Tagging, Transport};
use crate::session::Session;
use crate::whole_file::write_to;
use crate::{Error, daemon};
use content::Content;
pub(crate) use tree::{Tree, write_tar};

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
    /// The manifest, or index, where one was made.
    pub(crate) manifest: Option<Descriptor>,
    /// The image id of what was written, where that is not the one that was built.
    pub(crate) config: Option<Digest>,
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
    attestor: &Attestor<'_>,
) -> Result<Exported, Error> {
    let default = [OutputSpec::Image { options: ImageOptions::default() }];
    let outputs = match session.build.outputs.as_slice() {
        [] => &default,
        outputs => outputs,
    };
    let mut exported = Exported::default();
    for output in outputs {
        let Some(name) = step_name(output) else { continue };
        let step = session.reporter.step(name, Vec::new());
        session.reporter.started(step);
        let mut exporter = Exporter { session, solver, images, set, tags, attestor, step, exported };
        let made = exporter.export(output);
        exported = exporter.exported;
        match made {
            Ok(()) => session.reporter.done(step),
            Err(error) => {
                session.reporter.failed(step, error.to_string());
                return Err(error);
            }
        }
    }
    Ok(exported)
}

/// Refuses, before anything is built, what would only turn out after it.
pub(crate) fn check(outputs: &[OutputSpec], tags: &[ImageRef], asked: &Attestations) -> Result<(), Error> {
    let has_dockers_types = |output: &OutputSpec| match output {
        OutputSpec::Image { options }
        | OutputSpec::Oci { options, .. }
        | OutputSpec::Docker { options, .. } => options.media_types().0 == MediaTypes::Docker,
        _ => false,
    };
    if !asked.is_empty() && outputs.iter().any(has_dockers_types) {
        return Err(Error::user("cannot export attestations with \"oci-mediatypes=false\"")
            .hinted("leave out oci-mediatypes, or --attest, --provenance and --sbom"));
    }
    let goes_nowhere = |output: &OutputSpec| match output {
        OutputSpec::Image { options } => options.push && options.names.is_empty(),
        _ => false,
    };
    if tags.is_empty() && outputs.iter().any(goes_nowhere) {
        return Err(no_target());
    }
    outputs.iter().try_for_each(check_destination)
}

/// What will be pushed to, each repository once.
pub(crate) fn repositories(
    outputs: &[OutputSpec],
    tags: &[ImageRef],
) -> Result<Vec<(ImageRef, Transport)>, Error> {
    let mut targets: Vec<(ImageRef, Transport)> = Vec::new();
    let pushing = outputs.iter().filter_map(|output| match output {
        OutputSpec::Image { options } if options.push => Some(options),
        _ => None,
    });
    for options in pushing {
        for name in given_names(tags, options)? {
            let is_known = targets.iter().any(|(known, _)| known.name() == name.name());
            if !is_known {
                targets.push((name, transport(options)));
            }
        }
    }
    Ok(targets)
}

fn check_destination(output: &OutputSpec) -> Result<(), Error> {
    match output {
        OutputSpec::Oci { dest: Some(dest), tar: false, .. }
        | OutputSpec::Docker { to: DockerTarget::Directory(dest), .. }
        | OutputSpec::Local { dest, .. } => check_directory(dest),
        OutputSpec::Oci { dest: Some(dest), .. }
        | OutputSpec::Docker { to: DockerTarget::File(dest), .. }
        | OutputSpec::Tar { dest: Some(dest), .. } => check_file(dest),
        _ => Ok(()),
    }
}

fn no_target() -> Error {
    Error::user("tag is needed when pushing to registry").hinted("name the image with `-t registry/name:tag`")
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

/// The outputs of one build.
struct Exporter<'a> {
    session: &'a Session<'a>,
    solver: &'a Solver<'a>,
    images: &'a [Assembled],
    set: ImageSet,
    tags: &'a [ImageRef],
    attestor: &'a Attestor<'a>,
    /// Of the output that is being made.
    step: StepId,
    exported: Exported,
}

impl Exporter<'_> {
    fn export(&mut self, output: &OutputSpec) -> Result<(), Error> {
        match output {
            OutputSpec::Image { options } => self.image(options),
            OutputSpec::Oci { dest, tar, options } => self.oci(dest.as_deref(), *tar, options),
            OutputSpec::Docker { to, options } => self.docker(to, options),
            OutputSpec::Local { dest, options } => {
                let source = self.tree_source(options);
                directory::export_dir(self.session, &source, dest)
            }
            OutputSpec::Tar { dest, options } => {
                tree::export_tar(&self.tree_source(options), dest.as_deref())
            }
            OutputSpec::CacheOnly => Ok(()),
        }
    }

    fn image(&mut self, options: &ImageOptions) -> Result<(), Error> {
        let options = self.with_annotations(options);
        if options.push {
            return self.push(&options);
        }
        if !options.wants_manifest() && !self.attestor.is_asked(options.place()) {
            let images = self.dated(&options)?;
            let names = self.names(&options, None)?;
            if !options.no_store {
                for image in images.iter() {
                    store::export(self.solver, image, None, &names, None)?;
                }
                self.exported.names.extend(names);
            }
            return Ok(());
        }
        let (images, content) = self.pack(&options, blobs::Purpose::Store)?;
        let names = self.names(&options, Some(&content.top.digest))?;
        self.keep(&options, &images, &content, names, None)?;
        self.note(&content);
        Ok(())
    }

    /// The images, and as what they are shipped.
    fn pack(
        &self,
        options: &ImageOptions,
        purpose: blobs::Purpose<'_>,
    ) -> Result<(Vec<Assembled>, Content), Error> {
        let images = self.dated(options)?;
        let names = self.names(options, None)?;
        let attests = content::Attests { attestor: self.attestor, names: &names };
        let content = Content::pack(self.solver, &images, self.set, options, purpose, &attests)?;
        Ok((images, content))
    }

    /// Into the store, as it was shipped.
    fn keep(
        &mut self,
        options: &ImageOptions,
        images: &[Assembled],
        content: &Content,
        names: Vec<ImageRef>,
        pushed: Option<Digest>,
    ) -> Result<(), Error> {
        if options.no_store {
            return Ok(());
        }
        for (image, packed) in images.iter().zip(&content.images) {
            store::export(self.solver, image, Some(packed), &names, pushed)?;
        }
        // BuildKit tells names without the canonical ones.
        let told = ImageOptions { name_canonical: false, ..options.clone() };
        self.exported.names.extend(self.names(&told, Some(&content.top.digest))?);
        Ok(())
    }

    fn tree_source<'s>(&'s self, options: &'s TreeOptions) -> tree::Origin<'s> {
        let Self { solver, images, set, attestor, .. } = *self;
        tree::Origin { solver, images, set, attestor, options }
    }

    /// Compresses and sends at once. What of the bases the registry has, or can have from elsewhere, never comes here.
    fn push(&mut self, options: &ImageOptions) -> Result<(), Error> {
        let Session { registry, reporter, cancel, .. } = *self.session;
        let targets = self.names(options, None)?;
        let first = targets.first().ok_or_else(no_target)?;
        let transport = transport(options);
        let tagging = if options.push_by_digest { Tagging::ByDigest } else { Tagging::Tagged };
        let push = push::target(registry, first, transport, cancel)?;
        let (images, content) = self.pack(options, blobs::Purpose::Push(&push))?;
        let (store, step) = (self.session.store, self.step);
        let shipper = Shipper { store, registry, reporter, step, transport, tagging, cancel };
        let lenders = Lenders::of(store.images()?);
        shipper.ship(&content.shipment(self.solver, &lenders), &targets)?;
        let names = self.names(options, Some(&content.top.digest))?;
        self.keep(options, &images, &content, names, Some(content.top.digest))?;
        self.note(&content);
        Ok(())
    }

    fn oci(&mut self, dest: Option<&Path>, tar: bool, options: &ImageOptions) -> Result<(), Error> {
        let options = self.with_annotations(options);
        let (_, content) = self.pack(&options, blobs::Purpose::Store)?;
        let names = self.names(&options, Some(&content.top.digest))?;
        let store = self.session.store;
        if tar {
            write_to(dest, |out| layout::write_archive(store, &content, &names, layout::Kind::Oci, out))?;
        } else {
            let dest = dest.ok_or_else(|| Error::user("an output that is a directory needs dest="))?;
            layout::write_folder(store, &content, &names, layout::Kind::Oci, dest)?;
        }
        self.note(&content);
        Ok(())
    }

    fn docker(&mut self, to: &DockerTarget, options: &ImageOptions) -> Result<(), Error> {
        if self.set == ImageSet::Index {
            return Err(Error::user("docker exporter does not support exporting manifest lists")
                .hinted("use the output type=oci"));
        }
        let daemon = match to {
            DockerTarget::Engine { context } => {
                let daemon = daemon::find(context.as_deref(), daemon::Purpose::Load)?;
                // kiln's own commands know the image as well.
                self.image(&ImageOptions { names: options.names.clone(), ..ImageOptions::default() })?;
                if daemon.is_none() {
                    self.session.reporter.send(Event::Warning {
                        rule: None,
                        message: "no docker or podman is running: the image is in kiln's own store only"
                            .into(),
                        span: None,
                    });
                    return Ok(());
                }
                daemon
            }
            _ => None,
        };
        let options = self.with_annotations(options);
        let (_, content) = self.pack(&options, blobs::Purpose::Store)?;
        let names = self.names(&options, Some(&content.top.digest))?;
        let (store, kind) = (self.session.store, layout::Kind::Docker);
        let write = |out: &mut dyn Write| layout::write_archive(store, &content, &names, kind, out);
        match (to, daemon) {
            (DockerTarget::File(dest), _) => write_to(Some(dest), write)?,
            (DockerTarget::Stdout, _) => write_to(None, write)?,
            (DockerTarget::Directory(dest), _) => layout::write_folder(store, &content, &names, kind, dest)?,
            (DockerTarget::Engine { .. }, Some(daemon)) => daemon.load(write)?,
            (DockerTarget::Engine { .. }, None) => {}
        }
        self.note(&content);
        Ok(())
    }

    /// The build's own annotations hold for all its images.
    fn with_annotations(&self, options: &ImageOptions) -> ImageOptions {
        let mut options = options.clone();
        let build = self.session.build;
        options.annotations.splice(0..0, build.annotations.iter().cloned());
        options.annotations.retain(|annotation| !build.unset_annotations.contains(&annotation.key));
        options.rewrite_timestamp |= build.rewrite_timestamp;
        options
    }

    /// The images with the times that an output has of its own.
    fn dated(&self, options: &ImageOptions) -> Result<Vec<Assembled>, Error> {
        let images = self.images.iter();
        match options.source_date_epoch {
            None => Ok(images.cloned().collect()),
            Some(seconds) => images.map(|image| image.at(seconds)).collect(),
        }
    }

    /// The names an image gets: the tags, `name=`, and those that its digest makes.
    fn names(&self, options: &ImageOptions, digest: Option<&Digest>) -> Result<Vec<ImageRef>, Error> {
        let mut names = given_names(self.tags, options)?;
        let Some(digest) = digest else { return Ok(names) };
        if options.name_canonical {
            for name in names.clone() {
                let canonical = name.without_tag().with_digest(*digest);
                if !names.contains(&canonical) {
                    names.push(canonical);
                }
            }
        }
        if let Some(prefix) = &options.dangling_name_prefix
            && (names.is_empty() || !options.dangling_name_empty_only)
        {
            names.push(parse(prefix)?.without_tag().with_digest(*digest));
        }
        Ok(names)
    }

    fn note(&mut self, content: &Content) {
        self.exported.manifest = Some(content.top.clone());
        self.exported.config = content.config_digest();
    }
}

/// The tags and `name=`.
fn given_names(tags: &[ImageRef], options: &ImageOptions) -> Result<Vec<ImageRef>, Error> {
    let mut names = tags.to_vec();
    for name in &options.names {
        let name = parse(name)?;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

fn parse(name: &str) -> Result<ImageRef, Error> {
    name.parse().map_err(|error: InvalidReference| Error::user(error.to_string()))
}

fn transport(options: &ImageOptions) -> Transport {
    if options.registry_insecure { Transport::Insecure } else { Transport::AsConfigured }
}
