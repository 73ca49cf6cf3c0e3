//! `kiln run`: a container on the same sandbox.

use std::ffi::OsString;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use kiln_cache::{LayerDraft, LayerTree, SourceTree as _, squash_layers};
use kiln_image::oci::ContainerConfig;
use kiln_image::registry::{Registry, RegistryConfig};
use kiln_image::{Digest, Platform};
use kiln_sandbox::{
    Binfmt, Capabilities, Dns, ExitStatus, HostAccess, HostAddress, HostEntry, Identity, Io, IsolatedNetwork,
    Limits, Mount, MountKind, Network, NetworkError, Resources, Rootfs, SandboxError, Security,
    SecurityOptions, Spec, Terminal, resolve_user,
};
use kiln_solver::event::EventSink;

use crate::images::{self, Images};
use crate::{Error, ErrorKind};

/// What to run.
#[derive(Debug, Default)]
pub struct RunRequest {
    /// The store's directory.
    pub root: Option<PathBuf>,
    /// Name or id; pulled when missing.
    pub image: String,
    /// Arguments in place of CMD.
    pub command: Vec<String>,
    /// `--entrypoint`.
    pub entrypoint: Option<String>,
    /// `-e`: `NAME=value`.
    pub env: Vec<String>,
    /// `-v`: host path, path inside, read-only.
    pub volumes: Vec<(PathBuf, String, bool)>,
    /// `-w`.
    pub workdir: Option<String>,
    /// `-u`.
    pub user: Option<String>,
    /// `--network`.
    pub network: RunNetwork,
    /// `--add-host`.
    pub extra_hosts: Vec<HostEntry>,
    /// `--dns` and the like.
    pub dns: Dns,
    /// What its processes may use together.
    pub resources: Resources,
    /// `-h`.
    pub hostname: Option<String>,
    /// `-t`.
    pub terminal: bool,
    /// `-i`: the process's stdin; `None` is `/dev/null`.
    pub stdin: Option<OwnedFd>,
}

/// What a container reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RunNetwork {
    /// The host's network.
    #[default]
    Host,
    /// Loopback only.
    None,
    /// A network of its own.
    Isolated,
}

impl RunRequest {
    fn network(&self) -> Result<Network, Error> {
        let failed = |cause: NetworkError| {
            let hint = cause.hint().map(str::to_owned);
            Error { hint, ..because(ErrorKind::Environment, cause) }
        };
        Ok(match self.network {
            RunNetwork::Host => Network::Host,
            RunNetwork::None => Network::None,
            RunNetwork::Isolated => {
                let wants_host = self.extra_hosts.iter().any(|entry| entry.address == HostAddress::Gateway);
                let access = if wants_host { HostAccess::Address } else { HostAccess::None };
                Network::Isolated(Arc::new(IsolatedNetwork::new(access).map_err(failed)?))
            }
        })
    }
}

/// overlayfs mounts 500 (`OVL_MAX_STACK`), the slower the more there are; the images of other builders have 128 at most.
const MOST_MOUNTED_LAYERS: usize = 300;

/// Runs it with this process's stdout and stderr (or a terminal on them) and returns its exit status as docker has it
/// (128 + signal). Changes to the root file system are dropped at the end.
///
/// # Errors
/// 125 for the engine, 126 and 127 for a command that cannot be run, see [`command_failure`].
pub fn run(request: RunRequest, events: Arc<EventSink>, cancel: Arc<AtomicBool>) -> Result<i32, Error> {
    let images = Images::open(request.root.as_deref())?;
    let image = match images.has(&request.image)? {
        true => images.find(&request.image)?,
        false => {
            let registry = Registry::new(RegistryConfig::load(&|name| std::env::var(name).ok())?)?;
            images.pull(&request.image, None, &registry, events, &cancel)?
        }
    };
    let config = images.config(&image)?;
    let store = images.store();
    images::ensure(store, &image, &config, &cancel)?;
    let mut layers: Vec<PathBuf> = image.layers.iter().map(|layer| store.layer_path(*layer)).collect();
    let tree = LayerTree::open(&layers).map_err(environment)?;
    let squashed;
    if layers.len() > MOST_MOUNTED_LAYERS {
        squashed = store.scratch_dir().map_err(environment)?;
        squash_layers(&layers, &squashed.fs()).map_err(environment)?;
        layers = vec![squashed.fs()];
    }
    // Dropped at the end, and with it whatever was changed.
    let draft = store.draft_layer().map_err(environment)?;
    give_root(&draft, &tree)?;
    let user = request.user.as_deref().unwrap_or(&config.config.user);
    let identity = identity(&tree, user)?;
    let hostname = request.hostname.clone().unwrap_or_else(random_name);
    // Docker's containers have it; the user may mount another one.
    let contents = format!("{hostname}\n").into_bytes();
    let kind = MountKind::File { contents, mode: 0o644, uid: 0, gid: 0 };
    let mut mounts = vec![Mount { target: "/etc/hostname".into(), kind, no_exec: false }];
    mounts.extend(request.volumes.iter().map(volume));
    let spec = Spec {
        rootfs: Rootfs { layers, stubs: None, upper: draft.fs(), work: draft.work(), trees: None },
        argv: argv(&request, &config.config)?.into_iter().map(OsString::from).collect(),
        env: environment_of(&request, &config.config, &identity, &hostname),
        cwd: workdir(request.workdir.as_deref().unwrap_or(&config.config.working_dir)),
        identity,
        hostname,
        mounts,
        network: request.network()?,
        extra_hosts: request.extra_hosts.clone(),
        dns: request.dns.clone(),
        security: Security::Sandbox,
        capabilities: Capabilities::default(),
        options: SecurityOptions::default(),
        binfmt: Binfmt::of(&image.platform.architecture, &Platform::host().architecture),
        limits: Limits { resources: request.resources.clone(), ..Limits::default() },
        io: io(request.terminal, request.stdin)?,
    };
    // The process writes to this one's streams itself.
    let exit = kiln_sandbox::run(&spec, &mut |_, _| {}, &cancel).map_err(sandbox_error)?;
    Ok(match exit.status {
        ExitStatus::Code(code) => code,
        ExitStatus::Signal(signal) => 128 + signal,
    })
}

/// Why a command could not be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandFailure {
    /// It is not in the image (docker's exit status 127).
    NotFound,
    /// It is there but cannot be executed (docker's exit status 126).
    NotExecutable,
}

/// Whether an error of [`run`] is the command's fault and not the engine's.
pub fn command_failure(error: &Error) -> Option<CommandFailure> {
    match error.source.as_deref()?.downcast_ref::<SandboxError>()? {
        SandboxError::CommandNotFound(_) => Some(CommandFailure::NotFound),
        SandboxError::NotExecutable { .. } => Some(CommandFailure::NotExecutable),
        _ => None,
    }
}

/// Docker's rule: entrypoint, then the arguments or else CMD; an entrypoint of the user's own drops the image's CMD.
fn argv(request: &RunRequest, config: &ContainerConfig) -> Result<Vec<String>, Error> {
    let mut argv = match &request.entrypoint {
        Some(entrypoint) if entrypoint.is_empty() => Vec::new(),
        Some(entrypoint) => vec![entrypoint.clone()],
        None => config.entrypoint.clone().unwrap_or_default(),
    };
    if !request.command.is_empty() {
        argv.extend(request.command.iter().cloned());
    } else if request.entrypoint.is_none() {
        argv.extend(config.cmd.iter().flatten().cloned());
    }
    if argv.is_empty() {
        return Err(Error::user("no command specified: the image has neither ENTRYPOINT nor CMD")
            .hinted("give one after the image's name"));
    }
    Ok(argv)
}

/// The image's variables over docker's, the user's over those, each name once.
fn environment_of(
    request: &RunRequest,
    config: &ContainerConfig,
    identity: &Identity,
    hostname: &str,
) -> Vec<OsString> {
    let mut env: Vec<(String, String)> = Vec::new();
    let mut set = |name: &str, value: &str| match env.iter_mut().find(|(known, _)| known == name) {
        Some((_, old)) => value.clone_into(old),
        None => env.push((name.to_owned(), value.to_owned())),
    };
    set("PATH", DEFAULT_PATH);
    set("HOSTNAME", hostname);
    if request.terminal {
        set("TERM", "xterm");
    }
    set("HOME", &identity.home);
    // An entry without `=` would mean "take it from the host" to some runtimes; here it is nothing (THREATS A17).
    for (name, value) in
        config.env.iter().flatten().chain(&request.env).filter_map(|variable| variable.split_once('='))
    {
        set(name, value);
    }
    env.into_iter().map(|(name, value)| format!("{name}={value}").into()).collect()
}

fn workdir(path: &str) -> PathBuf {
    Path::new("/").join(path)
}

fn volume((host, inside, read_only): &(PathBuf, String, bool)) -> Mount {
    Mount {
        target: workdir(inside),
        kind: MountKind::Bind { source: host.clone(), subpath: PathBuf::new(), read_only: *read_only },
        no_exec: false,
    }
}

fn io(terminal: bool, stdin: Option<OwnedFd>) -> Result<Io, Error> {
    let stdout = std::io::stdout().as_fd().try_clone_to_owned().map_err(environment)?;
    if terminal {
        return Ok(Io::Terminal(Terminal { input: stdin, output: stdout }));
    }
    let stderr = std::io::stderr().as_fd().try_clone_to_owned().map_err(environment)?;
    Ok(Io::Inherit { stdin, stdout, stderr })
}

fn identity(tree: &LayerTree, user: &str) -> Result<Identity, Error> {
    let read = |path: &str| {
        tree.read_small(Path::new(path), MOST_ACCOUNT_BYTES)
            .map(Option::unwrap_or_default)
            .map_err(environment)
    };
    let (passwd, group) = (read("etc/passwd")?, read("etc/group")?);
    resolve_user(user, &passwd, &group).map_err(|cause| because(ErrorKind::User, cause))
}

/// The upper directory's own root decides how the merged root looks.
fn give_root(draft: &LayerDraft, tree: &LayerTree) -> Result<(), Error> {
    use rustix::fs::{AtFlags, CWD, Mode, chmodat};
    let root = tree.entry(Path::new("")).map_err(environment)?;
    let (mode, uid, gid) = root.map_or((0o755, 0, 0), |root| (root.mode, root.uid, root.gid));
    let path = draft.fs();
    kiln_image::layer::owner::give_at(CWD, &path, uid, gid)
        .and_then(|()| chmodat(CWD, &path, Mode::from_raw_mode(mode), AtFlags::empty()))
        .map_err(|cause| environment(std::io::Error::from(cause)))
}

/// Twelve hex digits, as docker makes host names of container ids. Nobody needs them to be secret.
fn random_name() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let seed = format!("{} {}", std::process::id(), now.as_nanos());
    Digest::of(seed.as_bytes()).hex()[..12].to_owned()
}

fn sandbox_error(cause: SandboxError) -> Error {
    let kind = match cause {
        SandboxError::Canceled => ErrorKind::Canceled,
        SandboxError::CommandNotFound(_) | SandboxError::NotExecutable { .. } => ErrorKind::User,
        _ => ErrorKind::Environment,
    };
    let hint = if let SandboxError::Network(error) = &cause { error.hint().map(str::to_owned) } else { None };
    Error { hint, ..because(kind, cause) }
}

fn environment(cause: impl std::error::Error + Send + Sync + 'static) -> Error {
    because(ErrorKind::Environment, cause)
}

fn because(kind: ErrorKind, cause: impl std::error::Error + Send + Sync + 'static) -> Error {
    let message = cause.to_string();
    Error { source: Some(Box::new(cause)), ..Error::new(kind, message) }
}

/// What docker gives a container of an image that sets none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// `/etc/passwd` and `/etc/group` of a hostile image are read up to this size.
const MOST_ACCOUNT_BYTES: u64 = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    fn config() -> ContainerConfig {
        ContainerConfig {
            entrypoint: Some(strings(&["/init"])),
            cmd: Some(strings(&["-d"])),
            env: Some(strings(&["PATH=/bin", "A=1", "AWS_SECRET", "HOME=/h"])),
            ..ContainerConfig::default()
        }
    }

    #[test]
    fn the_arguments_stand_in_for_cmd_and_an_entrypoint_drops_it() {
        let of = |entrypoint: Option<&str>, command: &[&str]| {
            let request = RunRequest {
                entrypoint: entrypoint.map(str::to_owned),
                command: strings(command),
                ..RunRequest::default()
            };
            argv(&request, &config()).ok()
        };
        assert_eq!(of(None, &[]), Some(strings(&["/init", "-d"])));
        assert_eq!(of(None, &["x"]), Some(strings(&["/init", "x"])));
        assert_eq!(of(Some("sh"), &[]), Some(strings(&["sh"])));
        assert_eq!(of(Some("sh"), &["-c", "x"]), Some(strings(&["sh", "-c", "x"])));
        assert_eq!(of(Some(""), &["x"]), Some(strings(&["x"])));
        assert_eq!(of(Some(""), &[]), None);
    }

    #[test]
    fn the_users_variables_win_and_names_alone_take_nothing_from_the_host() {
        let request = RunRequest { env: strings(&["A=2", "B=3"]), terminal: true, ..RunRequest::default() };
        let identity = Identity { home: "/root".into(), ..Identity::default() };
        let env = environment_of(&request, &config(), &identity, "box");
        assert_eq!(env, ["PATH=/bin", "HOSTNAME=box", "TERM=xterm", "HOME=/h", "A=2", "B=3"]);
    }

    #[test]
    fn a_missing_command_is_not_the_engines_fault() {
        let missing = sandbox_error(SandboxError::CommandNotFound("x".into()));
        assert_eq!(command_failure(&missing), Some(CommandFailure::NotFound));
        assert_eq!(missing.kind, ErrorKind::User);
        assert_eq!(command_failure(&environment(std::io::Error::other("x"))), None);
    }
}
