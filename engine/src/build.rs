//! What a build can be asked for, and what it gives. `session` is the way from the one to the other.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kiln_cache::Store;
use kiln_image::oci::Descriptor;
use kiln_image::registry::{Registry, RegistryConfig};
use kiln_image::{Digest, ImageRef, Platform, http};
use kiln_remote::CacheSpec;
use kiln_sandbox::{Capabilities, Dns, HostAddress, Resources, SecurityOptions};
use kiln_solver::event::{Event, EventSink, Reporter};
use kiln_solver::graph::{NetworkMode, Volume};
use kiln_solver::plan::{Trim, Unneeded};
use kiln_solver::solve::{ExecSettings, Executor, Isolation, Sandbox};

use crate::attest::{Attestations, ProvenanceMode};
use crate::differences::StepDifference;
use crate::output::{Annotation, ImageOptions, TreeOptions};
use crate::session::Session;
use crate::storage::{self, Limits};
use crate::timeout;
use crate::{Error, ErrorKind};

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

    /// The Dockerfile's path.
    pub fn file(mut self, path: impl AsRef<Path>) -> Self {
        self.dockerfile = DockerfileSource::Path(path.as_ref().to_owned());
        self
    }

    /// Where the Dockerfile comes from.
    pub fn dockerfile(mut self, source: DockerfileSource) -> Self {
        self.dockerfile = source;
        self
    }

    /// A further Dockerfile, whose lines follow those before it.
    pub fn more_file(mut self, path: impl AsRef<Path>) -> Self {
        self.more_dockerfiles.push(path.as_ref().to_owned());
        self
    }

    /// An argument for `cpp`, which reads Dockerfiles whose names end in `.in` first.
    pub fn preprocessor_flag(mut self, flag: impl Into<String>) -> Self {
        self.preprocessor_flags.push(flag.into());
        self
    }

    /// The ignore file of a context that is a directory, in place of those that it has.
    pub fn ignore_file(mut self, path: impl AsRef<Path>) -> Self {
        self.ignore_file = Some(path.as_ref().to_owned());
        self
    }

    /// A directory of the context that is the context in its place; the Dockerfile is looked for there, too.
    pub fn context_sub_path(mut self, path: impl AsRef<Path>) -> Self {
        self.context_sub_path = Some(path.as_ref().to_owned());
        self
    }

    /// The store's directory (default: `KILN_ROOT`, else as the design says).
    pub fn root(mut self, root: impl AsRef<Path>) -> Self {
        self.root = Some(root.as_ref().to_owned());
        self
    }

    /// A build argument.
    pub fn arg(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.args.push((name.into(), value.into()));
        self
    }

    /// The stage to build.
    pub fn target(mut self, stage: impl Into<String>) -> Self {
        self.target = Some(stage.into());
        self
    }

    /// A name for the image; several may be given.
    pub fn tag(mut self, name: impl Into<String>) -> Self {
        self.tags.push(name.into());
        self
    }

    /// A label.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.push((key.into(), value.into()));
        self
    }

    /// A variable of every stage from its start, as if `ENV` stood behind `FROM`.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// A variable that the image goes without; steps see it.
    pub fn unset_env(mut self, name: impl Into<String>) -> Self {
        self.trim.env.push(name.into());
        self
    }

    /// A label that the image goes without, whoever set it.
    pub fn unset_label(mut self, key: impl Into<String>) -> Self {
        self.trim.labels.push(key.into());
        self
    }

    /// An annotation that manifests and indexes go without.
    pub fn unset_annotation(mut self, key: impl Into<String>) -> Self {
        self.unset_annotations.push(key.into());
        self
    }

    /// Whether a stage has the labels of its base, image or stage; it does unless this says otherwise.
    pub fn inherit_labels(mut self, yes: bool) -> Self {
        self.trim.inherited_labels = !yes;
        self
    }

    /// Leaves the history out of the image's config, that of the base too.
    pub fn omit_history(mut self, yes: bool) -> Self {
        self.omit_history = yes;
        self
    }

    /// What becomes of stages that the target does not need.
    pub fn unneeded_stages(mut self, unneeded: Unneeded) -> Self {
        self.unneeded_stages = unneeded;
        self
    }

    /// An image in place of the first stage's base.
    pub fn first_base(mut self, image: impl Into<String>) -> Self {
        self.first_base = Some(image.into());
        self
    }

    /// Builds for every platform that all bases are there for, in place of [`Build::platform`].
    pub fn all_platforms(mut self, yes: bool) -> Self {
        self.all_platforms = yes;
        self
    }

    /// A platform to build for, such as `linux/amd64`; of several, each gets an image, and outputs an index of them.
    pub fn platform(mut self, platform: impl Into<String>) -> Self {
        self.platforms.push(platform.into());
        self
    }

    /// Runs every step anew.
    pub fn no_cache(mut self, yes: bool) -> Self {
        self.no_cache = yes;
        self
    }

    /// Runs the steps of these stages anew.
    pub fn no_cache_stage(mut self, stage: impl Into<String>) -> Self {
        self.no_cache_stages.push(stage.into());
        self
    }

    /// Runs RUN steps anew whose results are not younger than this.
    pub fn cache_ttl(mut self, lifetime: Duration) -> Self {
        self.cache_ttl = Some(lifetime);
        self
    }

    /// Asks the registry for every base although the store knows the name.
    pub fn pull(mut self, yes: bool) -> Self {
        self.pull = yes;
        self
    }

    /// Never asks a registry.
    pub fn offline(mut self, yes: bool) -> Self {
        self.offline = yes;
        self
    }

    /// Network of RUN steps.
    pub fn network(mut self, network: NetworkMode) -> Self {
        self.network = network;
        self
    }

    /// What root holds in RUN steps, but for those with `--security=insecure`.
    pub fn capabilities(mut self, capabilities: Capabilities) -> Self {
        self.capabilities = capabilities;
        self
    }

    /// What RUN steps are without, or have besides, of what confines them.
    pub fn security_options(mut self, options: SecurityOptions) -> Self {
        self.security_options = options;
        self
    }

    /// A directory or file of the host's in every RUN step.
    pub fn volume(mut self, volume: Volume) -> Self {
        self.volumes.push(volume);
        self
    }

    /// A line for `/etc/hosts` of RUN steps.
    pub fn add_host(mut self, name: impl Into<String>, address: impl Into<HostAddress>) -> Self {
        self.extra_hosts.push((name.into(), address.into()));
        self
    }

    /// Size of `/dev/shm` in bytes.
    pub fn shm_size(mut self, bytes: u64) -> Self {
        self.shm_bytes = Some(bytes);
        self
    }

    /// A resource limit of RUN steps: name as docker has it, soft, hard.
    pub fn ulimit(mut self, name: impl Into<String>, soft: u64, hard: u64) -> Self {
        self.ulimits.push((name.into(), soft, hard));
        self
    }

    /// What becomes of RUN steps where no network of their own can be had.
    pub fn isolation(mut self, isolation: Isolation) -> Self {
        self.settings.isolation = isolation;
        self
    }

    /// How RUN steps resolve names.
    pub fn dns(mut self, dns: Dns) -> Self {
        self.settings.dns = dns;
        self
    }

    /// What the processes of each RUN step may use together; no part of the cache's keys.
    pub fn resources(mut self, resources: Resources) -> Self {
        self.settings.resources = resources;
        self
    }

    /// What runs the processes of RUN steps in place of the embedded sandbox: an [`OciRuntime`](crate::OciRuntime) of the
    /// host's, [`Chroot`](crate::Chroot) where no namespace can be made, or one's own. No part of the cache's keys: who ran a step does not show in what it made.
    pub fn executor(mut self, executor: impl Executor + 'static) -> Self {
        self.executor = Arc::new(executor);
        self
    }

    /// How long each RUN step may run.
    pub fn step_timeout(mut self, limit: Duration) -> Self {
        self.settings.step_timeout = Some(limit);
        self
    }

    /// At most so many steps run at once; 0 is as many as are ready.
    pub fn max_parallelism(mut self, steps: usize) -> Self {
        self.max_parallelism = steps;
        self
    }

    /// How long the build may take.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// A permission: `network.host`, `security.insecure`, `device` for all that `RUN --device` may ask for, or
    /// `device=vendor/class=name` for one.
    pub fn allow(mut self, entitlement: impl Into<String>) -> Self {
        self.allow.push(entitlement.into());
        self
    }

    /// A directory with specifications of devices (CDI) for `RUN --device`, in place of `/etc/cdi` and `/var/run/cdi`;
    /// what a later one says comes before.
    pub fn device_spec_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.device_spec_dirs.push(directory.into());
        self
    }

    /// A named context: a directory, `docker-image://…`, `oci-layout://…`, `oci-archive:…`, a URL.
    pub fn named_context(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.contexts.push((name.into(), value.into()));
        self
    }

    /// Lets a step keep a secret that it was shown in its layer; else the build fails and names the file.
    pub fn allow_secret_in_layer(mut self, allow: bool) -> Self {
        self.allow_secret_in_layer = allow;
        self
    }

    /// A secret for `RUN --mount=type=secret`.
    pub fn secret(mut self, id: impl Into<String>, source: SecretSource) -> Self {
        self.secrets.push((id.into(), source));
        self
    }

    /// An ssh agent's socket for `RUN --mount=type=ssh`.
    pub fn ssh(mut self, id: impl Into<String>, socket: impl AsRef<Path>) -> Self {
        self.ssh.push((id.into(), SshSource::Agent(socket.as_ref().to_owned())));
        self
    }

    /// Private keys for `RUN --mount=type=ssh`: an agent of the build's own has them.
    pub fn ssh_keys(mut self, id: impl Into<String>, keys: impl IntoIterator<Item = PathBuf>) -> Self {
        self.ssh.push((id.into(), SshSource::Keys(keys.into_iter().collect())));
        self
    }

    /// An output; without any the image goes into the store.
    pub fn output(mut self, output: OutputSpec) -> Self {
        self.outputs.push(output);
        self
    }

    /// A cache in which steps are looked up that the store does not know; several are asked in their order.
    pub fn cache_from(mut self, cache: CacheSpec) -> Self {
        self.cache_from.push(cache);
        self
    }

    /// A cache to which this build's steps are written.
    pub fn cache_to(mut self, cache: CacheSpec) -> Self {
        self.cache_to.push(cache);
        self
    }

    /// A note on the image's manifest or index, in every output that has one.
    pub fn annotation(mut self, annotation: Annotation) -> Self {
        self.annotations.push(annotation);
        self
    }

    /// What is said of the images in their outputs; an index is made then, even of one image.
    pub fn attestations(mut self, asked: Attestations) -> Self {
        self.attestations = asked;
        self
    }

    /// Tells in the result how the images were made, attested or not: with every build argument, and with steps and times
    /// where `mode` is [`ProvenanceMode::Max`].
    pub fn tell_provenance(mut self, mode: ProvenanceMode) -> Self {
        self.told_provenance = Some(mode);
        self
    }

    /// Writes later times in new layers as `SOURCE_DATE_EPOCH`, in every output that is an image.
    pub fn rewrite_timestamp(mut self, yes: bool) -> Self {
        self.rewrite_timestamp = yes;
        self
    }

    /// Runs all steps once more, beside the cache, and compares: see [`BuildResult::differences`].
    pub fn verify_reproducible(mut self, yes: bool) -> Self {
        self.verify_reproducible = yes;
        self
    }

    /// How registries are reached; as the environment and its files say unless it is given.
    pub fn registry(mut self, config: RegistryConfig) -> Self {
        self.registry = Some(config);
        self
    }

    /// Asks for an experimental lint rule by its name; `own` is all of kiln's own.
    pub fn lint(mut self, rule: impl Into<String>) -> Self {
        self.lint.push(rule.into());
        self
    }

    /// How much the store may take. Without, as configuration and environment say (see [`Limits::load`]).
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = Some(limits);
        self
    }

    /// Who is told what happens; called from several threads.
    pub fn on_event(mut self, sink: impl Fn(Event) + Send + Sync + 'static) -> Self {
        self.events = Arc::new(sink);
        self
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
