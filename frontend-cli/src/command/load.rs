//! `kiln load`.

use std::fs::File;
use std::io::IsTerminal as _;
use std::path::Path;

use kiln::Digest;

use crate::args::LoadArgs;
use crate::report::Failure;

pub(super) fn run(args: &LoadArgs, root: Option<&Path>) -> Result<u8, Failure> {
    let loaded = match &args.input {
        Some(path) => {
            let mut file = File::open(path).map_err(|error| Failure::file(path, &error))?;
            super::open(root)?.load(&mut file)?
        }
        None if std::io::stdin().is_terminal() => {
            return Err(Failure::usage("a terminal is no archive")
                .with_hint("use `-i FILE` or redirect standard input"));
        }
        None => super::open(root)?.load(&mut std::io::stdin())?,
    };
    for name in loaded {
        let what = if name.parse::<Digest>().is_ok() { "Loaded image ID" } else { "Loaded image" };
        super::print(&format!("{what}: {name}\n"))?;
    }
    Ok(0)
}
