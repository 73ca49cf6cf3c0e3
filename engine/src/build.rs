//! One build: what it is asked for, and the way from there to an image.

use std::collections::{BTreeMap, HashMap};
use std::io::Read as _;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::UNIX_EPOCH;

use kiln_cache::Store;
use kiln_image::registry::{Registry, RegistryConfig};
use kiln_image::{Digest, ImageRef, InvalidPlatform, InvalidReference, Platform, http};
use kiln_parser::{Dockerfile, Warning};
use kiln_solver::event::{Event, EventSink, Reporter};
use kiln_solver::git_url::GitUrl;
use kiln_solver::graph::NetworkMode;
use kiln_solver::plan::{self, EpochSource, PlanRequest};
use kiln_solver::solve::{Inputs, Output, Pulls, Sandbox, Secret, Solver};

use crate::assemble;
use crate::bases::Bases;
use crate::output::ImageSet;
use crate::{Error, check, context, frontend, output, ssh};

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
    /// A git or HTTP(S) URL.
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
        /// Further names.
        names: Vec<String>,
    },
    /// An OCI layout as tar or directory.
    Oci {
        /// File or directory; `None` is standard output.
        dest: Option<PathBuf>,
        /// A tar and not a directory.
        tar: bool,
        /// Further settings (`rewrite-timestamp`, `compression`, …), as given.
        attrs: Vec<(String, String)>,
    },
    /// A docker archive (`docker load`).
    Docker {
        /// File; `None` is standard output.
        dest: Option<PathBuf>,
        /// Further settings.
        attrs: Vec<(String, String)>,
    },
    /// The root file system as a directory.
    Local {
        /// The directory.
        dest: PathBuf,
    },
    /// The root file system as one tar.
    Tar {
        /// File; `None` is standard output.
        dest: Option<PathBuf>,
    },
    /// Nothing but the cache.
    CacheOnly,
}

/// A build to be run. Nothing is checked before [`Build::run`].
#[must_use]
pub struct Build {
    pub(crate) context: ContextSource,
    pub(crate) dockerfile: DockerfileSource,
    pub(crate) root: Option<PathBuf>,
    pub(crate) args: Vec<(String, String)>,
    pub(crate) target: Option<String>,
    pub(crate) tags: Vec<String>,
    pub(crate) labels: Vec<(String, String)>,
    pub(crate) platforms: Vec<String>,
    pub(crate) no_cache: bool,
    pub(crate) no_cache_stages: Vec<String>,
    pub(crate) pull: bool,
    pub(crate) offline: bool,
    pub(crate) network: NetworkMode,
    pub(crate) extra_hosts: Vec<(String, IpAddr)>,
    pub(crate) shm_bytes: Option<u64>,
    pub(crate) ulimits: Vec<(String, u64, u64)>,
    pub(crate) allow: Vec<String>,
    pub(crate) contexts: Vec<(String, String)>,
    pub(crate) secrets: Vec<(String, SecretSource)>,
    pub(crate) ssh: Vec<(String, SshSource)>,
    pub(crate) outputs: Vec<OutputSpec>,
    pub(crate) lint: Vec<String>,
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
    /// The image id; of several images the first platform's.
    pub config_digest: Digest,
    /// Digest of the manifest, where one was made; of several images that of their index.
    pub manifest_digest: Option<Digest>,
    /// The names it has in the store.
    pub names: Vec<ImageRef>,
    /// Its platform, the first one of several.
    pub platform: Platform,
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
            context,
            dockerfile: DockerfileSource::Default,
            root: None,
            args: Vec::new(),
            target: None,
            tags: Vec::new(),
            labels: Vec::new(),
            platforms: Vec::new(),
            no_cache: false,
            no_cache_stages: Vec::new(),
            pull: false,
            offline: false,
            network: NetworkMode::Default,
            extra_hosts: Vec::new(),
            shm_bytes: None,
            ulimits: Vec::new(),
            allow: Vec::new(),
            contexts: Vec::new(),
            secrets: Vec::new(),
            ssh: Vec::new(),
            outputs: Vec::new(),
            lint: Vec::new(),
            events: Arc::new(|_| {}),
            cancel: Arc::new(AtomicBool::new(false)),
        }
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

    /// A line for `/etc/hosts` of RUN steps.
    pub fn add_host(mut self, name: impl Into<String>, address: IpAddr) -> Self {
        self.extra_hosts.push((name.into(), address));
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

    /// A permission: `network.host`, `security.insecure`.
    pub fn allow(mut self, entitlement: impl Into<String>) -> Self {
        self.allow.push(entitlement.into());
        self
    }

    /// A named context: a directory, `docker-image://…`, `oci-layout://…`, a URL.
    pub fn named_context(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.contexts.push((name.into(), value.into()));
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

    /// Asks for an experimental lint rule by its name; `own` is all of kiln's own.
    pub fn lint(mut self, rule: impl Into<String>) -> Self {
        self.lint.push(rule.into());
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
        self.with_session(|session| session.run())
    }

    /// Opens what a build works with, and does `work`.
    pub(crate) fn with_session<T>(
        &self,
        work: impl FnOnce(&Session<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let reporter = Arc::new(Reporter::new(Arc::clone(&self.events)));
        let root = self.root.clone().unwrap_or_else(default_root);
        let store = Store::open(&root)?;
        let env = |name: &str| std::env::var(name).ok();
        let registry = Registry::new(RegistryConfig::load(&env)?)?;
        let http = http::Client::from_env(&env, http::Retry::default());
        work(&Session {
            build: self,
            store: &store,
            registry: &registry,
            http: &http,
            reporter: &reporter,
            cancel: &self.cancel,
        })
    }
}

/// The store's directory where none is given: `KILN_ROOT`, else the system's for root and the user's own for others.
pub fn default_root() -> PathBuf {
    if let Some(root) = std::env::var_os("KILN_ROOT").filter(|root| !root.is_empty()) {
        return root.into();
    }
    // Root of a user namespace that kiln entered is an ordinary user still.
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    if is_root && kiln_sandbox::user_namespace().is_none() {
        return "/var/lib/kiln".into();
    }
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("XDG_DATA_HOME")
        .or_else(|| variable("HOME").map(|home| home.join(".local/share")))
        .unwrap_or_else(|| "/var/tmp".into())
        .join("kiln")
}

/// A running build: what was asked for and what it works with.
pub(crate) struct Session<'a> {
    pub(crate) build: &'a Build,
    pub(crate) store: &'a Store,
    pub(crate) registry: &'a Registry,
    pub(crate) http: &'a http::Client,
    pub(crate) reporter: &'a Arc<Reporter>,
    pub(crate) cancel: &'a Arc<AtomicBool>,
}

impl Session<'_> {
    fn run(&self) -> Result<BuildResult, Error> {
        let tags = self.tags()?;
        let prepared = context::prepare(self)?;
        let (name, text) = (prepared.dockerfile_name.clone(), prepared.dockerfile.clone());
        self.build_prepared(prepared, &tags).map_err(|error| error.in_dockerfile(&name, &text))
    }

    fn build_prepared(&self, prepared: context::Prepared, tags: &[ImageRef]) -> Result<BuildResult, Error> {
        frontend::check(self.build, &prepared.dockerfile)?;
        let dockerfile = kiln_parser::parse(&prepared.dockerfile)?;
        let checks = self.checks(&dockerfile)?;
        let mut request = self.plan_request(&prepared)?;
        let epoch = self.epoch(&dockerfile, &mut request)?;
        let platforms = self.platforms()?;
        let set = self.image_set(&platforms)?;
        let bases = Bases::new(self, prepared.layouts);
        let mut names = Vec::new();
        for platform in &platforms {
            request.platform.clone_from(platform);
            names.extend(plan::base_names(&dockerfile, &request)?);
        }
        bases.resolve_all(&names);
        let mut plans = Vec::with_capacity(platforms.len());
        let mut planned = Ok(());
        for platform in &platforms {
            request.platform.clone_from(platform);
            let mut resolve = |image: &ImageRef, platform: &Platform| bases.resolve(image, platform);
            match plan::plan(&dockerfile, &request, &mut resolve) {
                Ok(plan) => plans.push(plan),
                Err(error) => {
                    planned = Err(error);
                    break;
                }
            }
        }
        // What is wrong is wrong for all platforms, or nearly so.
        let of_plan = plans.first().map_or(&[][..], |plan| plan.warnings.as_slice());
        let found = dockerfile.findings(&checks, of_plan);
        for warning in &found {
            self.warn(warning);
        }
        planned?;
        check::refuse(&checks, &found)?;
        let agents = self.agents()?;
        let inputs = Inputs {
            contexts: prepared.contexts,
            images: bases.into_origins(),
            secrets: self.secrets()?,
            ssh: sockets(&agents),
        };
        let solver = self.solver(inputs);
        let outputs = match plans.as_slice() {
            [plan] => solver.solve_all(&plan.graph, &[plan.result]),
            plans => {
                let (graph, results) = plan::join(plans);
                solver.solve_all(&graph, &results)
            }
        };
        let outputs = outputs.map_err(|error| {
            let mut result = Error::from(error);
            context::explain_missing(&mut result, prepared.hidden.as_deref());
            result
        })?;
        let mut images = Vec::with_capacity(plans.len());
        for (plan, output) in plans.iter().zip(&outputs) {
            let Output::Snapshot(snapshot) = output else {
                return Err(Error::user("the target is no image"));
            };
            images.push(assemble::assemble(&solver, plan, snapshot, epoch)?);
        }
        let exported = output::export(self, &solver, &images, set, tags)?;
        let (steps_cached, steps_run) = self.reporter.counts();
        Ok(BuildResult {
            config_digest: images[0].config_digest,
            manifest_digest: exported.manifest,
            names: exported.names,
            platform: images[0].platform.clone(),
            steps_cached,
            steps_run,
        })
    }

    /// What to build for, each once; one `None` where nothing is asked for.
    fn platforms(&self) -> Result<Vec<Option<Platform>>, Error> {
        let mut platforms = Vec::new();
        for name in &self.build.platforms {
            let platform: Platform =
                name.parse().map_err(|error: InvalidPlatform| Error::user(error.to_string()))?;
            if !platforms.contains(&Some(platform.clone())) {
                platforms.push(Some(platform));
            }
        }
        if platforms.is_empty() {
            platforms.push(None);
        }
        Ok(platforms)
    }

    /// Whether an index is made (FEATURES AS19).
    fn image_set(&self, platforms: &[Option<Platform>]) -> Result<ImageSet, Error> {
        const NAME: &str = "BUILDKIT_MULTI_PLATFORM";
        let given = self.build.args.iter().rev().find(|(name, _)| name == NAME);
        match (given.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty()), platforms) {
            (None, [_]) => Ok(ImageSet::Single),
            (None, _) => Ok(ImageSet::Index),
            (Some("1" | "t" | "T" | "true" | "TRUE" | "True"), _) => Ok(ImageSet::Index),
            (Some("0" | "f" | "F" | "false" | "FALSE" | "False"), [_]) => Ok(ImageSet::Single),
            (Some("0" | "f" | "F" | "false" | "FALSE" | "False"), _) => {
                Err(Error::user("conflicting options: returning multiple target platforms is not allowed")
                    .hinted("leave out --build-arg BUILDKIT_MULTI_PLATFORM"))
            }
            (Some(value), _) => Err(Error::user(format!("invalid boolean value for {NAME}: {value:?}"))),
        }
    }

    /// A solver of this build.
    pub(crate) fn solver(&self, inputs: Inputs) -> Solver<'_> {
        Solver {
            store: self.store,
            registry: self.registry,
            http: self.http,
            executor: &Sandbox,
            inputs,
            reporter: Arc::clone(self.reporter),
            cancel: Arc::clone(self.cancel),
            max_parallelism: 0,
            pulls: Pulls::default(),
        }
    }

    fn warn(&self, warning: &Warning) {
        self.reporter.send(Event::Warning {
            rule: Some(warning.rule),
            message: warning.message.clone(),
            span: Some(warning.span),
        });
    }

    fn tags(&self) -> Result<Vec<ImageRef>, Error> {
        let tags = self.build.tags.iter();
        tags.map(|tag| tag.parse().map_err(|error: InvalidReference| Error::user(error.to_string())))
            .collect()
    }

    pub(crate) fn plan_request(&self, prepared: &context::Prepared) -> Result<PlanRequest, Error> {
        let build = self.build;
        let mut build_args: BTreeMap<String, String> = build.args.iter().cloned().collect();
        // As buildx has it: this variable of the environment is an argument that need not be given.
        if let Some(epoch) = std::env::var("SOURCE_DATE_EPOCH").ok().filter(|epoch| !epoch.is_empty()) {
            build_args.entry("SOURCE_DATE_EPOCH".to_owned()).or_insert(epoch);
        }
        Ok(PlanRequest {
            build_args,
            target: build.target.clone(),
            platform: None,
            build_platform: Platform::host(),
            labels: build.labels.clone(),
            no_cache: build.no_cache,
            no_cache_stages: build.no_cache_stages.clone(),
            network: build.network,
            extra_hosts: build.extra_hosts.clone(),
            shm_bytes: build.shm_bytes,
            ulimits: build.ulimits.clone(),
            allow: build.allow.clone(),
            contexts: prepared.named.clone(),
            ignore: prepared.ignore_rules(),
        })
    }

    /// The secrets' values.
    pub(crate) fn secrets(&self) -> Result<HashMap<String, Secret>, Error> {
        let mut secrets = HashMap::new();
        for (id, source) in &self.build.secrets {
            let value = match source {
                SecretSource::Value(value) => value.clone(),
                SecretSource::File(path) => {
                    let mut value = Vec::new();
                    let file = std::fs::File::open(path).map_err(|error| Error::io(path, error))?;
                    let read = file.take(SECRET_LIMIT + 1).read_to_end(&mut value);
                    read.map_err(|error| Error::io(path, error))?;
                    value
                }
                SecretSource::Env(name) => match std::env::var_os(name) {
                    Some(value) => value.into_encoded_bytes(),
                    // As BuildKit has it: a secret that is not there, which only a step that requires it minds.
                    None => continue,
                },
            };
            if value.len() as u64 > SECRET_LIMIT {
                return Err(Error::user(format!("secret {id} is larger than {SECRET_LIMIT} bytes")));
            }
            secrets.insert(id.clone(), Secret(value));
        }
        Ok(secrets)
    }

    /// The ssh agents by id; those of keys end when they are dropped.
    pub(crate) fn agents(&self) -> Result<Vec<(String, Agent)>, Error> {
        let sources = self.build.ssh.iter();
        sources
            .map(|(id, source)| {
                let agent = match source {
                    SshSource::Agent(socket) => Agent::Running(socket.clone()),
                    SshSource::Keys(keys) => Agent::Own(ssh::Agent::start(keys)?),
                };
                Ok((id.clone(), agent))
            })
            .collect()
    }

    /// What `SOURCE_DATE_EPOCH` says the image's time is, in seconds. The argument becomes the number that it stands for.
    fn epoch(&self, dockerfile: &Dockerfile, request: &mut PlanRequest) -> Result<Option<i64>, Error> {
        const NAME: &str = "SOURCE_DATE_EPOCH";
        let seconds = match plan::source_date_epoch(dockerfile, request)? {
            None => None,
            Some(EpochSource::Seconds(seconds)) => Some(seconds),
            Some(EpochSource::Url { url, .. }) => {
                if GitUrl::parse(&url).is_ok_and(|git| git.is_some()) {
                    return Err(Error::user(format!(
                        "{NAME}: the time of {url} is not known before it is fetched"
                    ))
                    .hinted("give the commit's time as a number of seconds"));
                }
                let download = self.http.fetch_url(&url, self.cancel)?;
                let modified = download.last_modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
                modified.and_then(|time| i64::try_from(time.as_secs()).ok())
            }
            // A directory has no time of its own; its files have.
            Some(_) => None,
        };
        match seconds {
            Some(seconds) if assemble::timestamp(seconds).is_none() => {
                return Err(Error::user(format!("invalid {NAME}: {seconds} is beyond any calendar")));
            }
            Some(seconds) => _ = request.build_args.insert(NAME.to_owned(), seconds.to_string()),
            None => _ = request.build_args.remove(NAME),
        }
        Ok(seconds)
    }
}

/// An ssh agent.
pub(crate) enum Agent {
    /// The user's.
    Running(PathBuf),
    /// Of this build.
    Own(ssh::Agent),
}

impl Agent {
    pub(crate) fn socket(&self) -> &Path {
        match self {
            Self::Running(socket) => socket,
            Self::Own(agent) => &agent.socket,
        }
    }
}

/// Where the agents listen, by id.
pub(crate) fn sockets(agents: &[(String, Agent)]) -> HashMap<String, PathBuf> {
    agents.iter().map(|(id, agent)| (id.clone(), agent.socket().to_owned())).collect()
}

/// The largest secret, as BuildKit has it.
const SECRET_LIMIT: u64 = 500 * 1024;
