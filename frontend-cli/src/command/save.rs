//! `kiln save`.

use std::fs::File;
use std::io::{BufWriter, IsTerminal as _, Write as _};
use std::path::Path;

use crate::args::SaveArgs;
use crate::report::Failure;

pub(super) fn run(args: &SaveArgs, root: Option<&Path>) -> Result<u8, Failure> {
    let Some(path) = &args.output else {
        let out = std::io::stdout();
        if out.is_terminal() {
            return Err(Failure::usage("an archive is nothing for a terminal")
                .with_hint("use `-o FILE` or redirect standard output"));
        }
        super::open(root)?.save(&args.names, &mut out.lock())?;
        return Ok(0);
    };
    let images = super::open(root)?;
    // Names are checked before the file is touched.
    for name in &args.names {
        images.find(name)?;
    }
    let at = |error: std::io::Error| Failure::file(path, &error);
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path).map_err(at)?);
    images.save(&args.names, &mut out)?;
    out.flush().map_err(at)?;
    Ok(0)
}
