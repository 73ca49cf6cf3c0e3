//! `kiln tag`.

use kiln::images::Images;

use crate::args::TagArgs;
use crate::report::Failure;

pub(super) fn run(args: &TagArgs, images: &Images) -> Result<u8, Failure> {
    images.tag(&args.source, &args.target)?;
    Ok(0)
}
