//! `kiln run`.

use std::io::{BufRead as _, BufReader, IsTerminal as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kiln::run::{RunNetwork, RunRequest};
use kiln::{ImageRef, Registry};

use super::pull::pull;
use crate::args::registry::RegistryArgs;
use crate::args::{RunArgs, pair};
use crate::progress::Mode;
use crate::report::Failure;

pub(super) fn run(args: RunArgs, root: Option<&Path>) -> Result<u8, Failure> {
    start(args, root).map_err(|failure| failure.with_default_status(ENGINE_FAILED))
}

fn start(args: RunArgs, root: Option<&Path>) -> Result<u8, Failure> {
    let mut request = request(args, root)?;
    let cancel = Arc::new(AtomicBool::new(false));
    let raised = Arc::clone(&cancel);
    crate::cancel::on_signal(move || raised.store(true, Ordering::Relaxed));
    // Pulled here and not on the way, so that the display has left the screen before the process writes to it.
    let images = super::open(root)?;
    if !images.has(&request.image)? {
        let mode = Mode::choose("auto", super::env("BUILDKIT_PROGRESS").as_deref())?;
        let registry = Registry::new(RegistryArgs::default().config()?).map_err(kiln::Error::from)?;
        // A name without a registry is kept as what it stood for.
        let names = match request.image.parse::<ImageRef>() {
            Ok(name) => registry.names(&name).map_err(kiln::Error::from)?,
            Err(_) => Vec::new(),
        };
        for name in names.iter().map(ToString::to_string) {
            if images.has(&name)? {
                request.image = name;
                break;
            }
        }
        if !images.has(&request.image)? {
            let pulled = pull(&images, &request.image, None, &registry, mode, &cancel)?;
            request.image = pulled.name.map_or(request.image, |name| name.to_string());
        }
    }
    let status = kiln::run::run(request, Arc::new(|_| {}), cancel)?;
    // A process's status has eight bits.
    Ok(u8::try_from(status & 0xff).unwrap_or(ENGINE_FAILED))
}

fn request(args: RunArgs, root: Option<&Path>) -> Result<RunRequest, Failure> {
    let mut words = args.image_and_command.into_iter();
    let image = words.next().unwrap_or_default();
    if args.tty && args.interactive && !std::io::stdin().is_terminal() {
        return Err(Failure::usage("the input device is not a TTY")
            .with_hint("leave `-t` away where standard input is no terminal"));
    }
    let mut env = Vec::new();
    for path in &args.env_file {
        env.extend(env_file(path)?);
    }
    for text in &args.env {
        env.extend(
            pair::variable("--env", text, &super::env)?.map(|(name, value)| format!("{name}={value}")),
        );
    }
    let network = match args.network.as_str() {
        "none" => RunNetwork::None,
        "host" | "default" => RunNetwork::Host,
        "isolated" => RunNetwork::Isolated,
        other => {
            return Err(Failure::usage(format!(
                "--network {other}: there are `host`, `isolated` and `none`"
            )));
        }
    };
    let stdin = match args.interactive {
        true => Some(
            std::io::stdin()
                .as_fd()
                .try_clone_to_owned()
                .map_err(|error| Failure::file(Path::new("standard input"), &error))?,
        ),
        false => None,
    };
    Ok(RunRequest {
        root: root.map(Path::to_owned),
        image,
        command: words.collect(),
        entrypoint: args.entrypoint,
        env,
        volumes: args.volumes.iter().map(|text| volume(text)).collect::<Result<_, _>>()?,
        workdir: args.workdir,
        user: args.user,
        network,
        hostname: args.hostname,
        terminal: args.tty,
        stdin,
        ..RunRequest::default()
    })
}

/// `NAME=VALUE` lines; `#` begins a comment, `NAME` alone takes its value from the environment. Quotes mean nothing.
fn env_file(path: &Path) -> Result<Vec<String>, Failure> {
    let at = |error: std::io::Error| Failure::file(path, &error);
    let file = std::fs::File::open(path).map_err(at)?;
    let mut lines = Vec::new();
    for line in BufReader::new(file).lines() {
        let line = line.map_err(at)?;
        let line = line.trim_start_matches('\u{feff}').trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let name = line.split('=').next().unwrap_or_default();
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(Failure::usage(format!("{}: `{name}` is no name of a variable", path.display())));
        }
        lines.extend(
            pair::variable("--env-file", line, &super::env)?.map(|(name, value)| format!("{name}={value}")),
        );
    }
    Ok(lines)
}

/// `HOST:PATH[:ro|rw]`. The directory is made when it is missing, as docker does.
fn volume(text: &str) -> Result<(PathBuf, String, bool), Failure> {
    let invalid = |why: &str| Failure::usage(format!("--volume {text}: {why}"));
    let parts: Vec<&str> = text.split(':').collect();
    let (host, inside, options) = match parts.as_slice() {
        [host, inside] => (*host, *inside, ""),
        [host, inside, options] => (*host, *inside, *options),
        _ => return Err(invalid("expected HOST:PATH[:ro]; anonymous volumes are not there yet")),
    };
    if !host.starts_with(['/', '.']) {
        return Err(invalid("named volumes are not there yet; a path starts with `/` or `./`"));
    }
    if !inside.starts_with('/') {
        return Err(invalid("the path inside is not absolute"));
    }
    let mut read_only = false;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => read_only = true,
            // Labels for SELinux and the rest change nothing here.
            "rw" | "z" | "Z" | "nocopy" | "cached" | "delegated" | "consistent" => {}
            _ => return Err(invalid(&format!("there is no option `{option}`"))),
        }
    }
    let path = std::path::absolute(host).map_err(|error| Failure::file(Path::new(host), &error))?;
    if !path.exists() {
        std::fs::create_dir_all(&path).map_err(|error| Failure::file(&path, &error))?;
    }
    Ok((path, inside.to_owned(), read_only))
}

/// Docker's status for what is not the process's fault.
const ENGINE_FAILED: u8 = 125;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_a_path_of_the_host() {
        let dir = tempfile::tempdir().unwrap();
        let host = dir.path().join("new");
        let (path, inside, read_only) = volume(&format!("{}:/in:ro", host.display())).unwrap();
        assert_eq!((path.as_path(), inside.as_str(), read_only), (host.as_path(), "/in", true));
        assert!(host.is_dir());
        for text in ["name:/in", "/a", "/a:in", "/:/in:odd"] {
            assert!(volume(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_env_file_has_a_variable_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("env");
        std::fs::write(&path, "# no\n\nA=\"1\"\n  B=x y \nKILN_SURELY_UNSET\n").unwrap();
        assert_eq!(env_file(&path).unwrap(), ["A=\"1\"", "B=x y "]);
        std::fs::write(&path, "A B=1\n").unwrap();
        assert!(env_file(&path).is_err());
    }
}
