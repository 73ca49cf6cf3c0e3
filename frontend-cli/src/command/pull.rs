//! `kiln pull`.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kiln::images::Images;
use kiln::{ImageRecord, Platform};

use crate::args::PullArgs;
use crate::progress::{Mode, Progress};
use crate::report::Failure;

pub(super) fn run(args: &PullArgs, root: Option<&Path>) -> Result<u8, Failure> {
    let mode = match Mode::choose(&args.progress, super::env("BUILDKIT_PROGRESS").as_deref())? {
        _ if args.quiet => Mode::Quiet,
        mode => mode,
    };
    let platform =
        args.platform.as_deref().map(str::parse::<Platform>).transpose().map_err(|e| e.to_string())?;
    let cancel = Arc::new(AtomicBool::new(false));
    let raised = Arc::clone(&cancel);
    crate::cancel::on_signal(move || raised.store(true, Ordering::Relaxed));
    let images = super::open(root)?;
    let image = pull(&images, &args.name, platform.as_ref(), mode, &cancel)?;
    let name = image.name.as_ref().map_or_else(|| args.name.clone(), ToString::to_string);
    if args.quiet {
        super::print(&format!("{name}\n"))?;
    } else {
        let digest = image.remote_digest.or(image.manifest).unwrap_or(image.config);
        super::print(&format!("Digest: {digest}\n{name}\n"))?;
    }
    Ok(0)
}

/// Pulls under a display.
pub(super) fn pull(
    images: &Images,
    name: &str,
    platform: Option<&Platform>,
    mode: Mode,
    cancel: &Arc<AtomicBool>,
) -> Result<ImageRecord, Failure> {
    let progress = Progress::start(mode, &super::env)?;
    let pulled = images.pull(name, platform, Arc::new(progress.sink()), cancel);
    progress.finish();
    Ok(pulled?)
}
