//! `kiln save`.

use std::io::IsTerminal as _;
use std::path::Path;

use kiln::write_whole_with;

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
    write_whole_with(path, |out| images.save(&args.names, out))?;
    Ok(0)
}
