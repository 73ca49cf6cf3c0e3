//! Dockerfiles that the C preprocessor reads first: those whose names end in `.in`, as buildah has it (FEATURES LX36).
//!
//! `#include` reads any file of the user's. So only a file that the user names on the own disk is read so, nothing that came
//! with a fetched context, and what it includes has to be beside it, in the context, in the system's folders or in one that
//! the user's flags name.

use std::ffi::OsString;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
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
    let folders: Vec<&Path> = folder
        .into_iter()
        .chain(root)
        .map(|place| if place.as_os_str().is_empty() { Path::new(".") } else { place })
        .collect();
    let variable = std::env::var(FLAGS_VARIABLE).unwrap_or_default();
    let flags: Vec<&str> =
        variable.split_whitespace().chain(build.preprocessor_flags.iter().map(String::as_str)).collect();
    let mut rule = tempfile::NamedTempFile::new().map_err(|error| Error::io(&std::env::temp_dir(), error))?;
    let mut command = Command::new("cpp");
    // Without line markers, which the Dockerfile's comments would start with; white space stays as it is.
    command.args(["-E", "-P", "-traditional", "-undef"]);
    for folder in &folders {
        command.arg("-iquote").arg(folder);
    }
    command.args(&flags).arg("-MD").arg("-MF").arg(rule.path()).arg("-");
    let text = run(command, found)?;
    let allowed: Vec<PathBuf> = folders
        .iter()
        .map(|folder| folder.to_path_buf())
        .chain(SYSTEM_FOLDERS.iter().map(PathBuf::from))
        .chain(named_by(&flags))
        .filter_map(|folder| folder.canonicalize().ok())
        .collect();
    // Before anything of them is read into what errors quote.
    let mut files = Vec::new();
    rule.read_to_end(&mut files).map_err(|error| Error::io(rule.path(), error))?;
    for included in dependencies(&files) {
        // With links followed.
        let real = included.canonicalize().unwrap_or_default();
        if !allowed.iter().any(|folder| real.starts_with(folder)) {
            let place = included.display();
            let message =
                format!("{} includes {place}, which is neither beside it nor in the context", found.name);
            return Err(Error::user(message).hinted("name its folder: --cpp-flag=-I/the/folder"));
        }
    }
    Ok(text)
}

/// Runs the preprocessor on the Dockerfile.
fn run(mut command: Command, found: &Found) -> Result<Vec<u8>, Error> {
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
            read_limited(&mut output.take(TEXT_LIMIT + 1), &mut text, Path::new(&found.name.to_string()))
        })
    });
    let ended = running.wait().map_err(|error| Error::io(Path::new("cpp"), error))?;
    read?;
    if !ended.success() {
        let told = String::from_utf8_lossy(&told);
        // It is not known yet what is included: lines of that must not be quoted.
        let told: Vec<&str> = told.lines().filter(|line| line.starts_with("<stdin>:")).collect();
        let reason =
            if told.is_empty() { "the mistake is in what it includes".to_owned() } else { told.join("\n") };
        return Err(Error::user(format!("cpp cannot read {}: {reason}", found.name)));
    }
    Ok(text)
}

/// The files of a rule for make, as `cpp -M` writes it.
fn dependencies(rule: &[u8]) -> Vec<PathBuf> {
    let start = rule.windows(2).position(|pair| pair == b": ").map_or(rule.len(), |colon| colon + 2);
    let (mut files, mut name) = (Vec::new(), Vec::new());
    let mut bytes = rule[start..].iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match (byte, bytes.peek()) {
            (b'\\', Some(b' ' | b'#')) | (b'$', Some(b'$')) => {
                name.extend(bytes.next());
            }
            (b'\\', Some(b'\n')) | (b' ' | b'\n', _) => files.push(std::mem::take(&mut name)),
            _ => name.push(byte),
        }
    }
    files.push(name);
    files.retain(|name| !name.is_empty());
    files.into_iter().map(|name| PathBuf::from(OsString::from_vec(name))).collect()
}

/// The folders and files that the user's own flags name.
fn named_by(flags: &[&str]) -> Vec<PathBuf> {
    let mut flags = flags.iter();
    let mut named = Vec::new();
    while let Some(flag) = flags.next() {
        let place = PLACE_FLAGS.iter().find_map(|name| flag.strip_prefix(name));
        if let Some(place) =
            place.and_then(|place| if place.is_empty() { flags.next().copied() } else { Some(place) })
        {
            named.push(PathBuf::from(place));
        }
    }
    named
}

/// What the compiler brings, which everybody may read.
const SYSTEM_FOLDERS: [&str; 2] = ["/usr/include", "/usr/lib/gcc"];

/// Flags with a folder or a file, cpp(1).
const PLACE_FLAGS: [&str; 6] = ["-iquote", "-isystem", "-idirafter", "-include", "-imacros", "-I"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_for_make_gives_the_files_as_they_are_named() {
        let rule = b"-: /usr/include/stdc-predef.h inc\\ dir/a\\ b$$\\#c \\\n /x/l\n";
        let files = ["/usr/include/stdc-predef.h", "inc dir/a b$#c", "/x/l"].map(PathBuf::from);
        assert_eq!(dependencies(rule), files);
        assert_eq!(dependencies(b"-:\n"), Vec::<PathBuf>::new());
        let flags = ["-DX", "-I/a", "-I", "/b", "-iquote", "/c", "-include/d", "-I"];
        assert_eq!(named_by(&flags), ["/a", "/b", "/c", "/d"].map(PathBuf::from));
    }
}
