//! `kiln push`.

use std::path::Path;
use std::sync::Arc;

use kiln::images::{Images, PushedImage};
use kiln::{ImageRef, Pushed};

use super::pull::Transfer;
use crate::args::TransferArgs;
use crate::progress::Progress;
use crate::report::Failure;

pub(super) fn run(args: &TransferArgs, root: Option<&Path>) -> Result<u8, Failure> {
    let Transfer { mode, platform, name, cancel, images, registry } = Transfer::of(args, root)?;
    if !args.quiet {
        super::print(&format!("The push refers to repository [{}]\n", name.name()))?;
    }
    for name in names(args, &name, &images)? {
        let progress = Progress::start(mode, &super::env)?;
        let pushed = images.push(&name, platform.as_ref(), &registry, Arc::new(progress.sink()), &cancel);
        progress.finish();
        super::print(&show(&pushed?, args.quiet))?;
    }
    Ok(0)
}

/// The name given, or with `-a` all of its repository.
fn names(args: &TransferArgs, name: &ImageRef, images: &Images) -> Result<Vec<ImageRef>, Failure> {
    if !args.all_tags {
        return Ok(vec![name.clone()]);
    }
    super::pull::refuse_tag(&args.name)?;
    let mut names: Vec<_> = images.list()?.into_iter().filter_map(|image| image.name).collect();
    names.retain(|other| other.name() == name.name() && other.tag().is_some());
    names.sort_by(|a, b| a.tag().cmp(&b.tag()));
    names.dedup();
    if names.is_empty() {
        return Err(Failure::usage(format!(
            "an image does not exist locally with the tag: {}",
            name.familiar_name()
        )));
    }
    Ok(names)
}

/// As docker words it.
fn show(pushed: &PushedImage, quiet: bool) -> String {
    if quiet {
        return format!("{}\n", pushed.name);
    }
    let mut text = String::new();
    for (layer, became) in &pushed.layers {
        let word = match became {
            Pushed::Exists => "Layer already exists".to_owned(),
            Pushed::Mounted { from } => format!("Mounted from {from}"),
            _ => "Pushed".to_owned(),
        };
        text.push_str(&format!("{}: {word}\n", super::short_id(&layer.0)));
    }
    let tag = pushed.name.tag().unwrap_or_default();
    text.push_str(&format!("{tag}: digest: {} size: {}\n", pushed.digest, pushed.size_bytes));
    text
}
