//! A running build: from the Dockerfile's text to images and outputs.

use std::collections::{BTreeMap, HashMap};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use kiln_cache::Store;
use kiln_image::registry::Registry;
use kiln_image::{ImageRef, InvalidPlatform, InvalidReference, Platform, http};
use kiln_parser::Warning;
use kiln_solver::event::{Event, Reporter};
use kiln_solver::plan::{self, PlanRequest};
use kiln_solver::solve::{Inputs, LogLimits, Networks, Output, Pulls, Sandbox, Secret, Solver};

use crate::bases::Bases;
use crate::build::{Build, BuildResult, SecretSource, SshSource};
use crate::output::ImageSet;
use crate::{Error, assemble, check, context, epoch, frontend, output, ssh};

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
    pub(crate) fn run(&self) -> Result<BuildResult, Error> {
        let tags = self.tags()?;
        output::check(&self.build.outputs, &tags)?;
        let prepared = context::prepare(self)?;
        let (name, text) = (prepared.dockerfile_name.clone(), prepared.dockerfile.clone());
        self.build_prepared(prepared, &tags).map_err(|error| error.in_dockerfile(&name, &text))
    }

    fn build_prepared(&self, prepared: context::Prepared, tags: &[ImageRef]) -> Result<BuildResult, Error> {
        frontend::check(self.build, &prepared.dockerfile)?;
        let dockerfile = kiln_parser::parse(&prepared.dockerfile)?;
        let checks = self.checks(&dockerfile)?;
        let mut request = self.plan_request(&prepared)?;
        let epoch = epoch::resolve(self, &dockerfile, &prepared.origins, &mut request)?;
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
            allow_secret_in_layer: self.build.allow_secret_in_layer,
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
            config_digest: exported.config.unwrap_or(images[0].config_digest),
            manifest_digest: exported.manifest.as_ref().map(|manifest| manifest.digest),
            manifest: exported.manifest,
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
            settings: self.build.settings.clone(),
            networks: Networks::default(),
            log_limits: log_limits(),
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
            emulated: Vec::new(),
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
}

/// How much of a step's output is shown: BuildKit's defaults, or what its variables say (`-1` is no limit).
fn log_limits() -> LogLimits {
    let given = |name: &str, default: Option<u64>| match std::env::var(name).map(|text| text.parse::<i64>()) {
        Ok(Ok(bytes)) => u64::try_from(bytes).ok(),
        _ => default,
    };
    let LogLimits { bytes, bytes_per_second } = LogLimits::default();
    LogLimits {
        bytes: given("BUILDKIT_STEP_LOG_MAX_SIZE", bytes),
        bytes_per_second: given("BUILDKIT_STEP_LOG_MAX_SPEED", bytes_per_second),
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
