//! `kiln pull`.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kiln::images::Images;
use kiln::{ImageRecord, ImageRef, Platform, Registry};

use crate::args::TransferArgs;
use crate::progress::{Mode, Progress};
use crate::report::Failure;

pub(super) fn run(args: &TransferArgs, root: Option<&Path>) -> Result<u8, Failure> {
    let Transfer { mode, platform, name, cancel, images, registry } = Transfer::of(args, root)?;
    // Where several registries may have it, the first that does says what it is called.
    let name = match registry.names(&name).map_err(kiln::Error::from)?.as_slice() {
        [one] => one.clone(),
        _ => name,
    };
    for name in names(args, &name, &registry, &cancel)? {
        if !args.quiet {
            let tag =
                name.digest().map_or_else(|| name.tag().unwrap_or("latest").to_owned(), ToString::to_string);
            super::print(&format!("{tag}: Pulling from {}\n", name.repository()))?;
        }
        let before = digest_of(&images, &name)?;
        let image = pull(&images, &name.to_string(), platform.as_ref(), &registry, mode, &cancel)?;
        if !args.quiet {
            let digest = image.remote_digest.or(image.manifest).unwrap_or(image.config);
            let status = match before == Some(digest) {
                true => "Image is up to date",
                false => "Downloaded newer image",
            };
            super::print(&format!("Digest: {digest}\nStatus: {status} for {}\n", name.familiar()))?;
        }
        if !args.all_tags {
            let name = image.name.as_ref().unwrap_or(&name);
            super::print(&format!("{name}\n"))?;
        }
    }
    if args.all_tags {
        super::print(&format!("{}\n", name.name()))?;
    }
    Ok(0)
}

/// What pulling and pushing begin with.
pub(super) struct Transfer {
    pub(super) mode: Mode,
    pub(super) platform: Option<Platform>,
    pub(super) name: ImageRef,
    /// Raised by an interrupt.
    pub(super) cancel: Arc<AtomicBool>,
    pub(super) images: Images,
    pub(super) registry: Registry,
}

impl Transfer {
    pub(super) fn of(args: &TransferArgs, root: Option<&Path>) -> Result<Self, Failure> {
        let mode = match Mode::choose(&args.progress, super::env("BUILDKIT_PROGRESS").as_deref())? {
            _ if args.quiet => Mode::Quiet,
            mode => mode,
        };
        let platform =
            args.platform.as_deref().map(str::parse::<Platform>).transpose().map_err(|e| e.to_string())?;
        let name =
            args.name.parse().map_err(|error: kiln::InvalidReference| Failure::usage(error.to_string()))?;
        let cancel = Arc::new(AtomicBool::new(false));
        let raised = Arc::clone(&cancel);
        crate::cancel::on_signal(move || raised.store(true, Ordering::Relaxed));
        let images = super::open(root)?;
        let registry = Registry::new(args.registry.config()?).map_err(kiln::Error::from)?;
        Ok(Self { mode, platform, name, cancel, images, registry })
    }
}

/// Pulls under a display.
pub(super) fn pull(
    images: &Images,
    name: &str,
    platform: Option<&Platform>,
    registry: &Registry,
    mode: Mode,
    cancel: &Arc<AtomicBool>,
) -> Result<ImageRecord, Failure> {
    let progress = Progress::start(mode, &super::env)?;
    let pulled = images.pull(name, platform, registry, Arc::new(progress.sink()), cancel);
    progress.finish();
    Ok(pulled?)
}

/// The name given, or with `-a` one for each tag that its repository has.
fn names(
    args: &TransferArgs,
    name: &ImageRef,
    registry: &Registry,
    cancel: &AtomicBool,
) -> Result<Vec<ImageRef>, Failure> {
    if !args.all_tags {
        return Ok(vec![name.clone()]);
    }
    refuse_tag(&args.name)?;
    let tags = registry.tags(name, cancel).map_err(kiln::Error::from)?;
    let named = tags.iter().map(|tag| name.with_tag(tag));
    named.collect::<Result<_, _>>().map_err(|error| Failure::usage(error.to_string()))
}

/// `-a` is for a repository.
pub(super) fn refuse_tag(name: &str) -> Result<(), Failure> {
    let last = name.rsplit('/').next().unwrap_or(name);
    match last.contains([':', '@']) {
        true => Err(Failure::usage("tag can't be used with --all-tags/-a")),
        false => Ok(()),
    }
}

/// What the name stood for in its registry when it was pulled last.
fn digest_of(images: &Images, name: &ImageRef) -> Result<Option<kiln::Digest>, Failure> {
    let name = name.to_string();
    Ok(if images.has(&name)? { images.find(&name)?.remote_digest } else { None })
}
