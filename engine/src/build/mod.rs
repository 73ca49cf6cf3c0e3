//! What a build can be asked for, and what it gives. `session` is the way from the one to the other.

mod setters;

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kiln_cache::Store;
use kiln_image::oci::Descriptor;
use kiln_image::registry::{Registry, RegistryConfig};
use kiln_image::{Digest, ImageRef, Platform, http};
use kiln_parser::Mount;
use kiln_remote::CacheSpec;
use kiln_sandbox::{Capabilities, HostAddress, HostDevice, SecurityOptions};
use kiln_solver::event::{EventSink, Reporter};
use kiln_solver::graph::{ExtraGroups, NetworkMode, Volume};
use kiln_solver::plan::{Trim, Unneeded};
use kiln_solver::solve::{ExecSettings, Executor, Sandbox};

use crate::attest::{Attestations, ProvenanceMode};
use crate::differences::StepDifference;
use crate::output::{Annotation, ImageOptions, TreeOptions};
use crate::session::Session;
use crate::storage::{self, Limits};
use crate::{Error, ErrorKind, timeout, volumes};

/// Where the context comes from.
#[derive(Clone)]
#[non_exhaustive]
pub enum ContextSource {
    /// A directory.
    Directory(PathBuf),
    /// A tar stream, compressed or not, or (when it is no archive) a Dockerfile with an empty context.
    Stream(Arc<std::sync::Mutex<dyn std::io::Read + Send>>),
    /// Nothing.
    Empty,
    /// An address: of a git repository, of a file by HTTP(S), of an object (`s3://`, `gs://`, Azure's blobs), or of an archive
    /// or directory of the host's in kaniko's words (`tar://`, `dir://`).
    Url(String),
}

impl std::fmt::Debug for ContextSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory(path) => f.debug_tuple("Directory").field(path).finish(),
            Self::Stream(_) => f.write_str("Stream"),
            Self::Empty => f.write_str("Empty"),
            Self::Url(url) => f.debug_tuple("Url").field(url).finish(),
        }
    }
}

/// Where the Dockerfile comes from.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum DockerfileSource {
    /// `Dockerfile` (or `dockerfile`) in the context.
    Default,
    /// A path on the host, relative to the current directory; for a streamed context, in the context.
    Path(PathBuf),
    /// The text itself (`-f -`).
    Text(Vec<u8>),
    /// An http or https address to download it from.
    Url(String),
}

/// A secret.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum SecretSource {
    /// Read from a file.
    File(PathBuf),
    /// Read from a variable of the engine's environment.
    Env(String),
    /// Given.
    Value(Vec<u8>),
}

/// Where ssh keys are.
#[derive(Clone, Debug)]
pub(crate) enum SshSource {
    /// In the agent behind this socket.
    Agent(PathBuf),
    /// In files.
    Keys(Vec<PathBuf>),
}

/// `--output`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum OutputSpec {
    /// Into the store, under the tags and these names.
    Image {
        /// Names and how it is written.
        options: ImageOptions,
    },
    /// An OCI layout as tar or directory.
    Oci {
        /// File or directory; `None` is standard output.
        dest: Option<PathBuf>,
        /// A tar and not a directory.
        tar: bool,
        /// Names and how it is written.
        options: ImageOptions,
    },
    /// A docker archive (`docker load`), or into a running docker or podman.
    Docker {
        /// Where to.
        to: DockerTarget,
        /// Names and how it is written.
        options: ImageOptions,
    },
    /// The root file system as a directory.
    Local {
        /// The directory.
        dest: PathBuf,
        /// How it is written.
        options: TreeOptions,
    },
    /// The root file system as one tar.
    Tar {
        /// File; `None` is standard output.
        dest: Option<PathBuf>,
        /// How it is written.
        options: TreeOptions,
    },
    /// Nothing but the cache.
    CacheOnly,
}

/// Where `type=docker` goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DockerTarget {
    /// An archive.
    File(PathBuf),
    /// A directory of the archive's files (`tar=false`).
    Directory(PathBuf),
    /// An archive on standard output.
    Stdout,
    /// A running docker or podman, and kiln's own store.
    Engine {
        /// One of docker's contexts; the usual daemon if `None`.
        context: Option<String>,
    },
}

/// A build to be run. Nothing is checked before [`Build::run`].
#[must_use]
pub struct Build {
    pub(crate) id: String,
    pub(crate) only_looks: bool,
    pub(crate) context: ContextSource,
    pub(crate) dockerfile: DockerfileSource,
    pub(crate) more_dockerfiles: Vec<PathBuf>,
    pub(crate) preprocessor_flags: Vec<String>,
    pub(crate) ignore_file: Option<PathBuf>,
    pub(crate) context_sub_path: Option<PathBuf>,
    pub(crate) locked: bool,
    pub(crate) root: Option<PathBuf>,
    pub(crate) args: Vec<(String, String)>,
    pub(crate) target: Option<String>,
    pub(crate) unneeded_stages: Unneeded,
    pub(crate) first_base: Option<String>,
    pub(crate) tags: Vec<String>,
    pub(crate) labels: Vec<(String, String)>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) trim: Trim,
    pub(crate) omit_history: bool,
    pub(crate) squash: bool,
    pub(crate) platforms: Vec<String>,
    pub(crate) all_platforms: bool,
    pub(crate) no_cache: bool,
    pub(crate) no_cache_stages: Vec<String>,
    pub(crate) cache_ttl: Option<Duration>,
    pub(crate) pull: bool,
    pub(crate) offline: bool,
    pub(crate) network: NetworkMode,
    pub(crate) capabilities: Capabilities,
    pub(crate) security_options: SecurityOptions,
    pub(crate) volumes: Vec<Volume>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) devices: Vec<String>,
    pub(crate) host_devices: Vec<HostDevice>,
    pub(crate) groups: ExtraGroups,
    pub(crate) extra_hosts: Vec<(String, HostAddress)>,
    pub(crate) shm_bytes: Option<u64>,
    pub(crate) ulimits: Vec<(String, u64, u64)>,
    pub(crate) allow: Vec<String>,
    /// Where the host's devices are described, if not in the usual places.
    pub(crate) device_spec_dirs: Vec<PathBuf>,
    pub(crate) settings: ExecSettings,
    pub(crate) executor: Arc<dyn Executor>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) max_parallelism: usize,
    pub(crate) contexts: Vec<(String, String)>,
    pub(crate) secrets: Vec<(String, SecretSource)>,
    pub(crate) allow_secret_in_layer: bool,
    pub(crate) ssh: Vec<(String, SshSource)>,
    pub(crate) outputs: Vec<OutputSpec>,
    pub(crate) cache_from: Vec<CacheSpec>,
    pub(crate) cache_to: Vec<CacheSpec>,
    pub(crate) annotations: Vec<Annotation>,
    pub(crate) unset_annotations: Vec<String>,
    pub(crate) attestations: Attestations,
    pub(crate) told_provenance: Option<ProvenanceMode>,
    pub(crate) rewrite_timestamp: bool,
    pub(crate) verify_reproducible: bool,
    pub(crate) registry: Option<RegistryConfig>,
    pub(crate) lint: Vec<String>,
    limits: Option<Limits>,
    pub(crate) events: Arc<EventSink>,
    pub(crate) cancel: Arc<AtomicBool>,
}

/// Stops a build from another thread.
#[derive(Clone, Debug)]
pub struct CancelHandle(Arc<AtomicBool>);

impl CancelHandle {
    /// Stops it: running steps are killed, nothing half-made stays.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What a build made.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BuildResult {
    /// What the history knows the build by.
    pub id: String,
    /// The image id; of several images the first platform's.
    pub config_digest: Digest,
    /// Digest of the manifest, where one was made; of several images that of their index.
    pub manifest_digest: Option<Digest>,
    /// That manifest or index, as others name it.
    pub manifest: Option<Descriptor>,
    /// The names it has in the store.
    pub names: Vec<ImageRef>,
    /// Steps that made something else the second time; `None` where that was not asked for.
    pub differences: Option<Vec<StepDifference>>,
    /// Its platform, the first one of several.
    pub platform: Platform,
    /// How the image was made for each platform (SLSA provenance 0.2), if [`Build::tell_provenance`] asked for that.
    pub provenance: Vec<(Platform, serde_json::Value)>,
    /// The Dockerfile's path, as messages name it.
    pub dockerfile_name: String,
    /// The Dockerfile.
    pub dockerfile: Vec<u8>,
    /// Steps that were found.
    pub steps_cached: usize,
    /// Steps that ran.
    pub steps_run: usize,
}

impl Build {
    /// A build of the directory `context`.
    pub fn from_context(context: impl AsRef<Path>) -> Self {
        Self::new(ContextSource::Directory(context.as_ref().to_owned()))
    }

    /// A build of any kind of context.
    pub fn new(context: ContextSource) -> Self {
        Self {
            id: random_id(),
            only_looks: false,
            context,
            dockerfile: DockerfileSource::Default,
            more_dockerfiles: Vec::new(),
            preprocessor_flags: Vec::new(),
            ignore_file: None,
            context_sub_path: None,
            locked: false,
            root: None,
            args: Vec::new(),
            target: None,
            unneeded_stages: Unneeded::Skipped,
            first_base: None,
            tags: Vec::new(),
            labels: Vec::new(),
            env: Vec::new(),
            trim: Trim::default(),
            omit_history: false,
            squash: false,
            platforms: Vec::new(),
            all_platforms: false,
            no_cache: false,
            no_cache_stages: Vec::new(),
            cache_ttl: None,
            pull: false,
            offline: false,
            network: NetworkMode::Default,
            capabilities: Capabilities::default(),
            security_options: SecurityOptions::default(),
            volumes: Vec::new(),
            mounts: Vec::new(),
            devices: Vec::new(),
            host_devices: Vec::new(),
            groups: ExtraGroups::default(),
            extra_hosts: Vec::new(),
            shm_bytes: None,
            ulimits: Vec::new(),
            allow: Vec::new(),
            device_spec_dirs: Vec::new(),
            settings: ExecSettings::default(),
            executor: Arc::new(Sandbox),
            timeout: None,
            max_parallelism: 0,
            contexts: Vec::new(),
            secrets: Vec::new(),
            allow_secret_in_layer: false,
            ssh: Vec::new(),
            outputs: Vec::new(),
            cache_from: Vec::new(),
            cache_to: Vec::new(),
            annotations: Vec::new(),
            unset_annotations: Vec::new(),
            attestations: Attestations::default(),
            told_provenance: None,
            rewrite_timestamp: false,
            verify_reproducible: false,
            registry: None,
            lint: Vec::new(),
            limits: None,
            events: Arc::new(|_| {}),
            cancel: Arc::new(AtomicBool::new(false)),
        }
    }

    /// What the build argument `name` was set to; `None` where it is empty too.
    pub(crate) fn arg_value(&self, name: &str) -> Option<&str> {
        let (_, value) = self.args.iter().rev().find(|(given, _)| given == name)?;
        Some(value.as_str()).filter(|value| !value.is_empty())
    }

    /// The name under which [`crate::history`] will have it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// A handle that stops this build.
    pub fn cancel_handle(&self) -> CancelHandle {
        CancelHandle(Arc::clone(&self.cancel))
    }

    /// Builds.
    ///
    /// # Errors
    /// See [`Error`]; nothing half-made stays.
    pub fn run(self) -> Result<BuildResult, Error> {
        match self.timeout {
            None => self.run_and_tidy(),
            Some(limit) => timeout::within(limit, &self.cancel, || self.run_and_tidy()),
        }
    }

    /// Builds, and keeps the store within its limits.
    fn run_and_tidy(&self) -> Result<BuildResult, Error> {
        let limits = match &self.limits {
            Some(limits) => limits.clone(),
            None => Limits::load(&|name| std::env::var(name).ok())?,
        };
        self.with_session(|session| {
            if limits.max_size.is_some() {
                session.store.set_max_bytes(limits.max_bytes(&session.store.disk()?));
            }
            let built = session.run();
            match storage::after_build(session.store, &limits) {
                Err(error) if built.is_ok() && error.kind == ErrorKind::User => Err(error),
                Err(error) => {
                    tracing::debug!(%error, "the store is not tidied up");
                    built
                }
                Ok(_) => built,
            }
        })
    }

    /// Opens what a build works with, and does `work`.
    pub(crate) fn with_session<T>(
        &self,
        work: impl FnOnce(&Session<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        volumes::check(&self.volumes)?;
        let only_looks = self.only_looks;
        let reporter = Arc::new(Reporter::new(Arc::clone(&self.events)));
        let root = self.root.clone().unwrap_or_else(default_root);
        let store = Store::open(&root)?;
        let env = |name: &str| std::env::var(name).ok();
        let config = match &self.registry {
            Some(config) => config.clone(),
            None => RegistryConfig::load(&env)?,
        };
        let registry = Registry::new(config)?;
        let http = http::Client::from_env(&env, http::Retry::default());
        work(&Session {
            build: self,
            store: &store,
            registry: &registry,
            http: &http,
            reporter: &reporter,
            cancel: &self.cancel,
            journal: &Arc::default(),
            only_looks,
        })
    }
}

/// Twelve hex digits that no other build has.
fn random_id() -> String {
    let mut bytes = [0; 6];
    // Before the kernel has gathered randomness there is the clock.
    if rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).is_err() {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        bytes.copy_from_slice(&now.as_nanos().to_le_bytes()[..6]);
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether who builds is root. Root of a user namespace that kiln entered is an ordinary user still.
pub(crate) fn is_machines_root() -> bool {
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    is_root && kiln_sandbox::user_namespace().is_none()
}

/// The store's directory where none is given: `KILN_ROOT`, else the system's for root and the user's own for others.
pub fn default_root() -> PathBuf {
    if let Some(root) = std::env::var_os("KILN_ROOT").filter(|root| !root.is_empty()) {
        return root.into();
    }
    if is_machines_root() {
        return "/var/lib/kiln".into();
    }
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("XDG_DATA_HOME")
        .or_else(|| variable("HOME").map(|home| home.join(".local/share")))
        .unwrap_or_else(|| "/var/tmp".into())
        .join("kiln")
}
