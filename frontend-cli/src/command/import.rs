//! `kiln import`.

use std::fs::File;
use std::io::IsTerminal as _;
use std::path::Path;

use kiln::images::{Images, Import};

use crate::args::ImportArgs;
use crate::report::Failure;

pub(super) fn run(args: &ImportArgs, images: &Images) -> Result<u8, Failure> {
    let name = args.name.as_deref().map(str::parse).transpose();
    let epoch =
        match super::env("SOURCE_DATE_EPOCH").filter(|epoch| !epoch.is_empty()) {
            None => None,
            Some(epoch) => Some(epoch.parse().map_err(|_| {
                Failure::usage(format!("SOURCE_DATE_EPOCH is no number of seconds: {epoch}"))
            })?),
        };
    let from = if args.file == Path::new("-") { "-".to_owned() } else { args.file.display().to_string() };
    let import = Import {
        name: name.map_err(|error: kiln::InvalidReference| Failure::usage(error.to_string()))?,
        changes: args.changes.clone(),
        message: args.message.clone().unwrap_or_else(|| format!("Imported from {from}")),
        platform: args.platform.clone(),
        created: epoch,
    };
    let image = if from == "-" {
        let mut input = std::io::stdin();
        if input.is_terminal() {
            return Err(Failure::usage("a terminal is no tar").with_hint("redirect standard input"));
        }
        images.import(&mut input, &import)?
    } else {
        let mut file = File::open(&args.file).map_err(|error| {
            let failure = Failure::file(&args.file, &error);
            match from.contains("://") {
                true => {
                    failure.with_hint(format!("an address is not fetched: `curl -L {from} | kiln import -`"))
                }
                false => failure,
            }
        })?;
        images.import(&mut file, &import)?
    };
    super::print(&format!("{}\n", image.config))?;
    Ok(0)
}
