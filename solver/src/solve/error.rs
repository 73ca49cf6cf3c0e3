//! Why a build failed while it ran.

use std::path::PathBuf;
use std::time::Duration;

use kiln_cache::{StoreError, TreeError};
use kiln_image::Digest;
use kiln_image::http::HttpError;
use kiln_image::layer::LayerError;
use kiln_image::layout::LayoutError;
use kiln_image::registry::RegistryError;
use kiln_parser::Span;
use kiln_sandbox::{DeviceError, IdentityError, NetworkError, SandboxError};

use super::CopyError;

/// Why a build failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SolveError {
    /// The user gave up.
    #[error("canceled")]
    Canceled,
    /// Only what is here was to be looked at, and that is not enough.
    #[error("what is needed to tell is not here")]
    NotForeseen,
    /// The store.
    #[error(transparent)]
    Store(StoreError),
    /// A RUN step exited with an error.
    #[error("process {command:?} did not complete successfully: exit code: {code}")]
    StepFailed {
        /// The step's name.
        step: String,
        /// The command.
        command: String,
        /// Its exit status (128 + signal).
        code: i32,
        /// The end of its output.
        log_tail: Vec<u8>,
        /// What ran out while it ran, if something did.
        shortage: Option<Shortage>,
        /// The instruction.
        span: Option<Span>,
    },
    /// A step can have no network of its own.
    #[error("the step cannot have a network of its own: {0}")]
    Network(#[source] NetworkError),
    /// A layer of an image in a file of the host cannot be read.
    #[error("layer {blob}: {source}")]
    LocalImage {
        /// Its blob.
        blob: Digest,
        /// Why.
        source: LayoutError,
    },
    /// A device that a step wants cannot be had.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A network of its own is required for a step that shares the one that is there.
    #[error("the step cannot have a network of its own: steps by chroot have the container's")]
    SharedNetwork,
    /// A volume that may be written to, where nothing can be mounted.
    #[error("{} cannot be mounted for writing in a step by chroot; `ro` and `O` (writes are lost) can", path.display())]
    WritableVolume {
        /// On the host.
        path: PathBuf,
    },
    /// A cache mount that is one mount's at a time, twice in a step.
    #[error("the cache mount `{id}` cannot be mounted twice in a step by chroot")]
    CacheTwice {
        /// Its id.
        id: String,
    },
    /// A step could not be done.
    #[error("{source}")]
    Step {
        /// The step's name.
        step: String,
        /// The instruction.
        span: Option<Span>,
        /// Why.
        source: Box<SolveError>,
    },
    /// COPY, ADD or WORKDIR.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// A layer that a remote cache named cannot be had from it: the build can do without.
    #[error("layer {blob} of the imported cache is unusable: {reason}")]
    RemoteLayer {
        /// Its blob.
        blob: Digest,
        /// Why.
        reason: String,
    },
    /// A tree cannot be read.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A layer or archive cannot be read.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// A registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A web server.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// A program of another machine, for which there is no emulator.
    #[error("{command}: this is a program for {architecture}, which this machine cannot run")]
    ForeignProgram {
        /// The command.
        command: String,
        /// The machine, as OCI names it.
        architecture: String,
    },
    /// A process could not be started.
    #[error(transparent)]
    Sandbox(SandboxError),
    /// The program of a command, given by its path, is not in the image.
    #[error("{program}: no such file or directory in the image")]
    NoSuchProgram {
        /// Its path.
        program: String,
    },
    /// USER names nobody.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The engine gave no such input.
    #[error("{what} `{name}` is not there")]
    MissingInput {
        /// Context, image.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// `--mount=type=secret,required=true` and no such secret was given.
    #[error("secret {id}: not found")]
    MissingSecret {
        /// Its id.
        id: String,
    },
    /// A step has left a secret in a file of its layer.
    #[error("the secret `{id}` is in the layer: {} has it", path.display())]
    SecretInLayer {
        /// Its id.
        id: String,
        /// The file, from the image's root.
        path: PathBuf,
    },
    /// `--mount=type=ssh,required=true` and no such agent was given.
    #[error("no ssh agent `{id}` was given to the build")]
    MissingSsh {
        /// Its id.
        id: String,
    },
    /// The layer is neither in the store nor known to be had from anywhere.
    #[error("layer {0} is gone from the store and is of no image that can be pulled")]
    LayerGone(String),
    /// Config and manifest of an image do not agree.
    #[error("{image}: the config names {diff_ids} layers, the manifest {layers}")]
    LayerCount {
        /// The image.
        image: String,
        /// In the config.
        diff_ids: usize,
        /// In the manifest.
        layers: usize,
    },
    /// A download is not what `--checksum` says.
    #[error("digest mismatch for {url}: expected {expected}, got {actual}")]
    Checksum {
        /// What was downloaded.
        url: String,
        /// `--checksum`.
        expected: Digest,
        /// What it is.
        actual: Digest,
    },
    /// git failed.
    #[error("git {command}: {message}")]
    Git {
        /// `fetch`, `checkout`.
        command: String,
        /// The end of what it said.
        message: String,
    },
    /// The host has no git.
    #[error("git is needed for {remote} and is not on the PATH")]
    NoGit {
        /// What was to be fetched.
        remote: String,
    },
    /// No branch or tag of that name.
    #[error("{remote} has no branch or tag `{reference}`")]
    GitReference {
        /// The repository.
        remote: String,
        /// The name.
        reference: String,
    },
    /// A commit is not what `--checksum` says.
    #[error("{remote}: expected checksum to match {expected}, got {actual}")]
    GitChecksum {
        /// The repository.
        remote: String,
        /// `--checksum`.
        expected: String,
        /// The commit that was found.
        actual: String,
    },
    /// The directory after `#reference:` cannot be had.
    #[error("{remote}: `{directory}` {problem}")]
    GitDirectory {
        /// The repository.
        remote: String,
        /// The directory.
        directory: String,
        /// Why not.
        problem: &'static str,
    },
    /// Reading or writing.
    #[error("{path}: {source}")]
    Io {
        /// What was touched.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// `Diff` of trees of which one is not made from the other.
    #[error("the upper tree of a diff is not made from the lower one")]
    UnrelatedDiff,
    /// A thread of the solver ended without a result: a bug of kiln's.
    #[error("internal: step {0} ended without a result")]
    LostStep(String),
}

impl From<StoreError> for SolveError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Canceled => Self::Canceled,
            error => Self::Store(error),
        }
    }
}

impl From<SandboxError> for SolveError {
    fn from(error: SandboxError) -> Self {
        match error {
            SandboxError::Canceled => Self::Canceled,
            SandboxError::Network(error) => Self::Network(error),
            SandboxError::CommandNotFound(program) if program.contains('/') => {
                Self::NoSuchProgram { program }
            }
            error => Self::Sandbox(error),
        }
    }
}

/// What to do about [`Shortage::Disk`].
pub(super) const FULL_DISK: &str =
    "the file system of kiln's store is full: free some space, or choose another store with `--root`";

/// What a step lacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// A process of it was killed for memory.
    Memory {
        /// The step's limit in bytes, if it had one.
        limit: Option<u64>,
    },
    /// It ran for longer than steps may.
    Time(Duration),
    /// The file system that this store is on has no space or no inodes left.
    Disk,
}

impl SolveError {
    /// Where in the Dockerfile the cause stands.
    pub fn span(&self) -> Option<Span> {
        match self {
            Self::StepFailed { span, .. } | Self::Step { span, .. } => *span,
            _ => None,
        }
    }

    /// The word at [`SolveError::span`] that is meant, where it is one.
    pub fn word(&self) -> Option<&str> {
        match self.root() {
            Self::Copy(error) => error.word(),
            _ => None,
        }
    }

    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::StepFailed { shortage: Some(Shortage::Memory { limit: None }), .. } => {
                Some("a process of the step was killed because memory ran out".into())
            }
            Self::StepFailed { shortage: Some(Shortage::Memory { limit: Some(bytes) }), .. } => {
                Some(format!(
                    "a process of the step was killed because the step's {} of memory ran out: raise --memory",
                    mebibytes(*bytes)
                ))
            }
            Self::StepFailed { shortage: Some(Shortage::Time(limit)), .. } => {
                Some(format!("the step was killed after the {limit:?} of --step-timeout"))
            }
            Self::Network(error) => error.hint().map(str::to_owned),
            Self::StepFailed { shortage: Some(Shortage::Disk), .. } => Some(FULL_DISK.into()),
            Self::StepFailed { code: 127, .. } => {
                Some("exit code 127 says that a command was not found in the image".into())
            }
            Self::Step { source, .. } => source.hint(),
            Self::Copy(error) => error.hint(),
            Self::Http(error) => error.hint(),
            Self::Store(error) => error.hint(),
            Self::NoSuchProgram { program } if program == "/bin/sh" => Some(
                "the image has no shell: write the command as a JSON array, or copy a shell into the image"
                    .into(),
            ),
            Self::Sandbox(error) => error.hint(),
            Self::ForeignProgram { architecture, .. } => Some(kiln_sandbox::missing_hint(architecture)),
            Self::MissingSecret { id } => Some(format!("give it with `--secret id={id},src=FILE`")),
            Self::SecretInLayer { .. } => Some(
                "everybody with the image could read it; if that is meant, give --allow-secret-in-layer"
                    .into(),
            ),
            Self::NoGit { .. } => {
                Some("install git, or fetch the repository first and give the directory".into())
            }
            Self::GitReference { .. } => {
                Some("check the name behind `#`; a commit needs its whole hash".into())
            }
            Self::Git { message, .. } => git_hint(message).map(str::to_owned),
            Self::MissingSsh { id } => Some(format!("give it with `--ssh {id}`")),
            _ => None,
        }
    }

    /// The error behind the step it happened in.
    pub fn root(&self) -> &Self {
        match self {
            Self::Step { source, .. } => source.root(),
            error => error,
        }
    }

    /// Whether this is only the echo of a cancelation.
    /// Whether only a remote cache is to blame, so that solving once more, without what it lacks, may succeed.
    pub fn is_remote_layer(&self) -> bool {
        matches!(self.root(), Self::RemoteLayer { .. })
    }

    pub(super) fn is_canceled(&self) -> bool {
        matches!(self.root(), Self::Canceled)
    }

    /// Whether the store's file system had no room left, as far as can be told.
    pub(super) fn is_disk_full(&self) -> bool {
        match self.root() {
            Self::StepFailed { shortage, .. } => *shortage == Some(Shortage::Disk),
            Self::Store(StoreError::DiskFull { .. }) => true,
            error => {
                let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
                while let Some(current) = cause {
                    if let Some(io) = current.downcast_ref::<std::io::Error>() {
                        return is_full(io.kind());
                    }
                    if let Some(errno) = current.downcast_ref::<rustix::io::Errno>() {
                        return is_full(errno.kind());
                    }
                    cause = current.source();
                }
                false
            }
        }
    }

    /// Says which step it happened in, once.
    pub(super) fn in_step(self, step: &str, span: Option<Span>) -> Self {
        match self {
            Self::Canceled | Self::NotForeseen | Self::StepFailed { .. } | Self::Step { .. } => self,
            error => Self::Step { step: step.to_owned(), span, source: Box::new(error) },
        }
    }
}

/// A size as `--memory` takes it.
fn mebibytes(bytes: u64) -> String {
    match bytes {
        bytes if bytes % (1 << 20) == 0 => format!("{} MiB", bytes >> 20),
        bytes => format!("{bytes} bytes"),
    }
}

fn is_full(kind: std::io::ErrorKind) -> bool {
    matches!(kind, std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}

/// What git's words mean for who calls kiln.
fn git_hint(message: &str) -> Option<&'static str> {
    let says = |text: &str| message.contains(text);
    if says("could not read Username") || says("Authentication failed") || says("HTTP Basic: Access denied") {
        Some("for a private repository give a token: `--secret id=GIT_AUTH_TOKEN,env=NAME`")
    } else if says("Host key verification failed") {
        Some("add the server's key to your known_hosts: `ssh-keyscan HOST >> ~/.ssh/known_hosts`")
    } else if says("Permission denied (publickey") {
        Some("give the build an agent that holds your key: `--ssh default`")
    } else if says("transport '") && says("not allowed") {
        Some("only https, http, git and ssh are spoken, by submodules too")
    } else {
        None
    }
}
