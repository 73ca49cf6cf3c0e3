//! `kiln rmi`: a name that is none does not keep the others.

use kiln::images::Images;

use crate::args::RmiArgs;
use crate::report::{Failure, Paint, show};

pub(super) fn run(args: &RmiArgs, images: &Images) -> Result<u8, Failure> {
    let mut status = 0;
    for name in &args.names {
        match images.remove(name, args.force) {
            Ok(lines) => {
                for line in lines {
                    super::print(&format!("{line}\n"))?;
                }
            }
            Err(error) => {
                show(&error.into(), Paint::for_stderr());
                status = 1;
            }
        }
    }
    Ok(status)
}
