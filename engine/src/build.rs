//! One build: what it is asked for, and the way from there to an image.

use std::collections::{BTreeMap, HashMap};
use std::io::Read as _;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use kiln_cache::Store;
use kiln_image::registry::{Registry, RegistryConfig};
use kiln_image::{Digest, ImageRef, InvalidPlatform, InvalidReference, Platform, http};
use kiln_parser::Warning;
use kiln_solver::event::{Event, EventSink, Reporter};
use kiln_solver::graph::NetworkMode;
use kiln_solver::plan::{self, NamedContext, PlanRequest};
use kiln_solver::solve::{Inputs, Output, Pulls, Sandbox, Secret, Solver};

use crate::assemble::{self, Created};
use crate::bases::Bases;
use crate::{Error, context, output};

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
    pub(crate) platform: Option<String>,
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
    pub(crate) ssh: Vec<(String, PathBuf)>,
    pub(crate) outputs: Vec<OutputSpec>,
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
    /// The image id.
    pub config_digest: Digest,
    /// Digest of the manifest, where one was made.
    pub manifest_digest: Option<Digest>,
    /// The names it has in the store.
    pub names: Vec<ImageRef>,
    /// Its platform.
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
            platform: None,
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

    /// The platform to build for, such as `linux/amd64`.
    pub fn platform(mut self, platform: impl Into<String>) -> Self {
        self.platform = Some(platform.into());
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
        self.ssh.push((id.into(), socket.as_ref().to_owned()));
        self
    }

    /// An output; without any the image goes into the store.
    pub fn output(mut self, output: OutputSpec) -> Self {
        self.outputs.push(output);
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
        let reporter = Arc::new(Reporter::new(Arc::clone(&self.events)));
        let root = self.root.clone().unwrap_or_else(default_root);
        let store = Store::open(&root)?;
        let env = |name: &str| std::env::var(name).ok();
        let registry = Registry::new(RegistryConfig::load(&env)?)?;
        let http = http::Client::from_env(&env, http::Retry::default());
        let session = Session {
            build: &self,
            store: &store,
            registry: &registry,
            http: &http,
            reporter: &reporter,
            cancel: &self.cancel,
        };
        session.run()
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
        let dockerfile = kiln_parser::parse(&prepared.dockerfile)?;
        for warning in &dockerfile.warnings {
            self.warn(warning);
        }
        let request = self.plan_request(prepared.named)?;
        let bases = Bases::new(self, prepared.layouts);
        bases.resolve_all(&plan::base_names(&dockerfile, &request)?);
        let mut resolve = |image: &ImageRef, platform: &Platform| bases.resolve(image, platform);
        let plan = plan::plan(&dockerfile, &request, &mut resolve)?;
        for warning in &plan.warnings {
            self.warn(warning);
        }
        let inputs = Inputs {
            contexts: prepared.contexts,
            images: bases.into_origins(),
            secrets: self.secrets()?,
            ssh: self.build.ssh.iter().cloned().collect(),
        };
        let solver = self.solver(inputs);
        let output = solver.solve(&plan.graph, plan.result).map_err(|error| {
            let mut result = Error::from(error);
            context::explain_missing(&mut result, prepared.hidden.as_deref());
            result
        })?;
        let Output::Snapshot(snapshot) = output else {
            return Err(Error::user("the target is no image"));
        };
        let created = self.created(&request)?;
        let image = assemble::assemble(&solver, &plan, &snapshot, created)?;
        let exported = output::export(self, &solver, &image, tags)?;
        let (steps_cached, steps_run) = self.reporter.counts();
        Ok(BuildResult {
            config_digest: image.config_digest,
            manifest_digest: exported.manifest,
            names: exported.names,
            platform: plan.platform,
            steps_cached,
            steps_run,
        })
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

    fn plan_request(&self, contexts: BTreeMap<String, NamedContext>) -> Result<PlanRequest, Error> {
        let build = self.build;
        let platform = build
            .platform
            .as_ref()
            .map(|platform| platform.parse().map_err(|error: InvalidPlatform| Error::user(error.to_string())))
            .transpose()?;
        Ok(PlanRequest {
            build_args: build.args.iter().cloned().collect(),
            target: build.target.clone(),
            platform,
            build_platform: Platform::host(),
            labels: build.labels.clone(),
            no_cache: build.no_cache,
            no_cache_stages: build.no_cache_stages.clone(),
            network: build.network,
            extra_hosts: build.extra_hosts.clone(),
            shm_bytes: build.shm_bytes,
            ulimits: build.ulimits.clone(),
            allow: build.allow.clone(),
            contexts,
        })
    }

    fn secrets(&self) -> Result<HashMap<String, Secret>, Error> {
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

    /// When the image says it was made: `SOURCE_DATE_EPOCH` of the arguments or the environment, else now.
    fn created(&self, request: &PlanRequest) -> Result<Created, Error> {
        let from_env = || std::env::var("SOURCE_DATE_EPOCH").ok();
        let given = request.build_args.get("SOURCE_DATE_EPOCH").cloned().or_else(from_env);
        match given.filter(|epoch| !epoch.is_empty()) {
            None => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                Ok(Created::now(now))
            }
            Some(epoch) => {
                epoch.parse().ok().and_then(Created::epoch).ok_or_else(|| {
                    Error::user(format!("SOURCE_DATE_EPOCH `{epoch}` is no number of seconds"))
                })
            }
        }
    }
}

/// The largest secret, as BuildKit has it.
const SECRET_LIMIT: u64 = 500 * 1024;
