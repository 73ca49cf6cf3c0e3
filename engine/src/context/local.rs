//! Images of the host's: `FROM oci-archive:…`, `FROM containers-storage:…` and `--build-context name=oci-layout://…`.
//!
//! The plan knows them by made-up names. A path is relative to the working directory, as buildah has it.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use kiln_cache::Store;
use kiln_image::archive::Archive;
use kiln_image::layout::{LayoutError, Selector};
use kiln_image::local::{Host, LocalImages, LocalName, Whose};
use kiln_image::{ImageRef, InvalidReference, Platform};
use kiln_parser::Dockerfile;
use kiln_solver::plan::{self, BaseImage, NamedContext, PlanRequest};
use kiln_solver::solve::ImageOrigin;

use super::Prepared;
use crate::build::is_machines_root;
use crate::error::layout_error;
use crate::session::env;
use crate::{Error, ErrorKind, daemon};

/// An image in a file or directory, which is opened when it is first asked for.
#[derive(Debug)]
pub(crate) struct LocalImage {
    /// As the user wrote it.
    written: String,
    name: LocalName,
    /// What is taken where nothing is called as `name` wants it.
    or_else: Option<Selector>,
    opened: Mutex<Option<Arc<LocalImages>>>,
}

impl LocalImage {
    /// One by its transport, or the mistake in it.
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        let name = LocalName::parse(text).map_err(|error| {
            let told = Error::user(format!("{text}: {error}"));
            match error.hint() {
                Some(hint) => told.hinted(hint),
                None => told,
            }
        })?;
        Ok(Self { written: text.to_owned(), name, or_else: None, opened: Mutex::default() })
    }

    /// BuildKit's `path[:tag]` or `path@digest`; a layout of one image needs no name.
    pub(super) fn parse_layout(text: &str) -> Result<Self, Error> {
        let tagged = text.rsplit_once(':').filter(|(_, tag)| !tag.contains('/'));
        let (dir, selector, or_else) = match (text.split_once('@'), tagged) {
            (Some((dir, digest)), _) => {
                let digest = digest.parse().map_err(|error| Error::user(format!("{text}: {error}")))?;
                (dir, Selector::Digest(digest), None)
            }
            (None, Some((dir, tag))) => (dir, Selector::Name(tag.to_owned()), None),
            (None, None) => (text, Selector::Name("latest".into()), Some(Selector::Only)),
        };
        let name = LocalName::in_layout(dir, selector);
        Ok(Self { written: text.to_owned(), name, or_else, opened: Mutex::default() })
    }

    /// As the user wrote it.
    pub(crate) fn written(&self) -> &str {
        &self.written
    }

    /// Reads the manifest and config for `platform`.
    pub(crate) fn resolve(
        &self,
        store: &Store,
        reference: &ImageRef,
        platform: &Platform,
        cancel: &AtomicBool,
    ) -> Result<(BaseImage, ImageOrigin), Error> {
        let images = self.open(store, cancel)?;
        let mut found = images.resolve(self.name.selector(), reference, platform);
        if let (Err(LayoutError::NotFound { .. }), Some(other)) = (&found, &self.or_else) {
            found = images.resolve(other, reference, platform);
        }
        let image = found.map_err(|error| self.error(error))?;
        let base =
            BaseImage { digest: image.digest, manifest: image.manifest_digest, config: image.config.clone() };
        Ok((base, ImageOrigin::Local { images, image: Arc::new(image) }))
    }

    fn open(&self, store: &Store, cancel: &AtomicBool) -> Result<Arc<LocalImages>, Error> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(images) = opened.as_ref() {
            return Ok(Arc::clone(images));
        }
        // A compressed archive is written out to a file without a name, which needs no directory any more.
        let files = store.scratch_dir()?;
        let spool = files.fs();
        let images = match self.name.in_daemon() {
            Some(image) => {
                let told = |error: Error| {
                    let message = format!("{}: {}", self.written, error.message);
                    Error { message, ..error }
                };
                let daemon = daemon::find(None, daemon::Purpose::Save).map_err(told)?.ok_or_else(|| {
                    told(Error::user("no docker or podman is running"))
                        .hinted("start it, or say in DOCKER_HOST where it is")
                })?;
                let coming = daemon.save(image).map_err(told)?;
                Archive::from_reader(&self.written, coming, &spool, cancel).map(LocalImages::Archive)
            }
            None => {
                let whose = if is_machines_root() { Whose::Root } else { Whose::User };
                self.name.open(&spool, &Host { whose, env: &env }, cancel)
            }
        };
        let images = Arc::new(images.map_err(|error| self.error(error))?);
        Ok(Arc::clone(opened.insert(images)))
    }

    /// The path is the user's, so what is wrong there is too.
    fn error(&self, error: LayoutError) -> Error {
        let canceled = matches!(error, LayoutError::Canceled);
        let mut error = layout_error(error);
        if !canceled {
            error.kind = ErrorKind::User;
            error.message = format!("{}: {}", self.written, error.message);
        }
        error
    }
}

/// A name for the plan's use that no registry has: `.invalid` is reserved (RFC 2606).
pub(super) fn made_up(number: usize) -> Result<ImageRef, Error> {
    let name = format!("local.invalid/image-{number}:latest");
    name.parse().map_err(|error: InvalidReference| Error::new(ErrorKind::Environment, error.to_string()))
}

/// Takes in the images that the Dockerfile names by their place on the host: only one on the user's own disk may. One
/// that came from elsewhere could otherwise build on what its author has guessed to be there.
pub(crate) fn take_in(
    prepared: &mut Prepared,
    dockerfile: &Dockerfile,
    request: &mut PlanRequest,
) -> Result<(), Error> {
    if prepared.dockerfile_path.is_none() {
        return Ok(());
    }
    for name in plan::local_names(dockerfile, request) {
        // A context that the user gave that name comes before.
        if request.contexts.contains_key(&name) {
            continue;
        }
        // What is no such name is told by the plan, which knows where it stands.
        let Ok(image) = LocalImage::parse(&name) else { continue };
        let made_up = made_up(prepared.local_images.len())?;
        let context = NamedContext::Layout(made_up.clone());
        prepared.named.insert(name.clone(), context.clone());
        request.contexts.insert(name, context);
        prepared.local_images.insert(made_up, image);
    }
    Ok(())
}
