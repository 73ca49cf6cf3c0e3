//! Dockerfiles that the C preprocessor reads first: those whose names end in `.in`, as buildah has it (FEATURES LX36).
//!
//! `#include` reads any file of the user's, so only a file that the user names on the own disk is read so, and nothing
//! that came with a fetched context.

use std::io::{ErrorKind, Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use super::dockerfile::Found;
use super::main_context::Main;
use super::text::{TEXT_LIMIT, read_limited};
use crate::Error;
use crate::build::Build;

/// Further arguments, as buildah's users set them.
const FLAGS_VARIABLE: &str = "BUILDAH_CPPFLAGS";

/// The Dockerfile as it is, or as the preprocessor leaves it.
pub(super) fn found(build: &Build, main: &Main, found: Found) -> Result<Found, Error> {
    let is_template =
        found.path.as_deref().is_some_and(|path| path.extension().is_some_and(|end| end == "in"));
    let root = match main {
        Main::Directory(root) => Some(root.as_path()),
        Main::Empty => None,
        _ => return Ok(found),
    };
    if !is_template {
        return Ok(found);
    }
    let text = preprocess(build, root, &found)?;
    Ok(Found { text, ..found })
}

fn preprocess(build: &Build, root: Option<&Path>, found: &Found) -> Result<Vec<u8>, Error> {
    let folder = found.path.as_deref().and_then(Path::parent);
    let mut command = Command::new("cpp");
    // Without line markers, which the Dockerfile's comments would start with; white space stays as it is.
    command.args(["-E", "-P", "-traditional", "-undef"]);
    for place in folder.into_iter().chain(root) {
        command.arg("-iquote").arg(if place.as_os_str().is_empty() { Path::new(".") } else { place });
    }
    let variable = std::env::var(FLAGS_VARIABLE).unwrap_or_default();
    command.args(variable.split_whitespace()).args(&build.preprocessor_flags).arg("-");
    let running = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut running = running.map_err(|error| match error.kind() {
        ErrorKind::NotFound => Error::user(format!(
            "{} needs the C preprocessor, and there is no `cpp`",
            found.name
        ))
        .hinted(
            "install it (`apt-get install cpp`), or give the Dockerfile a name that does not end in `.in`",
        ),
        _ => Error::io(Path::new("cpp"), error),
    })?;
    let (input, output, errors) = (running.stdin.take(), running.stdout.take(), running.stderr.take());
    let mut text = Vec::new();
    let mut told = Vec::new();
    let read = std::thread::scope(|scope| {
        scope.spawn(|| input.map(|mut input| input.write_all(&found.text)));
        scope.spawn(|| errors.map(|errors| errors.take(TEXT_LIMIT).read_to_end(&mut told)));
        output.map_or(Ok(()), |output| {
            read_limited(&mut output.take(TEXT_LIMIT + 1), &mut text, Path::new(&found.name))
        })
    });
    let ended = running.wait().map_err(|error| Error::io(Path::new("cpp"), error))?;
    read?;
    if !ended.success() {
        let told = String::from_utf8_lossy(&told).trim().to_owned();
        return Err(Error::user(format!("cpp cannot read {}: {told}", found.name)));
    }
    Ok(text)
}
