//! `kiln save`.

use std::io::IsTerminal as _;
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
    super::open(root)?.save_to(&args.names, path)?;
    Ok(0)
}
