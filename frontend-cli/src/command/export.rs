//! `kiln export`.

use std::io::IsTerminal as _;

use kiln::images::Images;

use crate::args::ExportArgs;
use crate::report::Failure;

pub(super) fn run(args: &ExportArgs, images: &Images) -> Result<u8, Failure> {
    if args.output.is_none() && std::io::stdout().is_terminal() {
        return Err(Failure::usage("an archive is nothing for a terminal")
            .with_hint("use `-o FILE` or redirect standard output"));
    }
    images.export(&images.find(&args.name)?, args.output.as_deref())?;
    Ok(0)
}
