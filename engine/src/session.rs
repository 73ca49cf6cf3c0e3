//! A running build: from the Dockerfile's text to images and outputs.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use kiln_cache::{LayerDraft, Store};
use kiln_image::registry::Registry;
use kiln_image::{Digest, ImageRef, InvalidReference, Platform, http};
use kiln_parser::{Device, Dockerfile, ParseErrors, Warning};
use kiln_remote::Access;
use kiln_sandbox::Binfmt;
use kiln_solver::event::{Event, Reporter};
use kiln_solver::graph::{Graph, VertexId};
use kiln_solver::plan::{self, Plan, PlanRequest};
use kiln_solver::solve::{
    self, Inputs, Journal, LogLimits, Networks, Output, Pulls, Secret, SolveError, Solver, Trees,
};

use crate::attest::{Attestations, Attestor, ProvenanceMode, Request};
use crate::awaited::Awaited;
use crate::bases::Bases;
use crate::build::{Build, BuildResult, SecretSource, SshSource};
use crate::caches::Caches;
use crate::differences::StepDifference;
use crate::history::Account;
use crate::lock::Pins;
use crate::output::ImageSet;
use crate::permission::Permission;
use crate::{DockerfileName, Error, assemble, check, context, differences, epoch, frontend, output, ssh};

/// A running build: what was asked for and what it works with.
pub(crate) struct Session<'a> {
    pub(crate) build: &'a Build,
    pub(crate) store: &'a Store,
    pub(crate) registry: &'a Registry,
    pub(crate) http: &'a http::Client,
    pub(crate) reporter: &'a Arc<Reporter>,
    pub(crate) cancel: &'a Arc<AtomicBool>,
    pub(crate) journal: &'a Arc<Journal>,
    /// It is only to be said what would happen: nothing is fetched but names of bases, nothing is kept.
    pub(crate) only_looks: bool,
}

impl Session<'_> {
    pub(crate) fn run(&self) -> Result<BuildResult, Error> {
        let mut account = Account::open();
        let result = self.build(&mut account);
        account.close(self, &result);
        result
    }

    fn build(&self, account: &mut Account) -> Result<BuildResult, Error> {
        let tags = self.tags()?;
        let asked = self.build.attestations.with_arguments(&self.build.args)?;
        output::check(&self.build.outputs, &tags, &asked)?;
        for key in asked.sbom.iter().flat_map(|sbom| &sbom.ignored) {
            let message =
                format!("the key {key} of the SBOM is ignored: kiln reads the package databases itself");
            self.reporter.send(Event::Warning { rule: None, message, span: None });
        }
        let permission = Permission::ask(self, output::repositories(&self.build.outputs, &tags)?);
        let prepared = context::prepare(self)?;
        let name = prepared.dockerfile_name.clone();
        account.dockerfile.clone_from(&prepared.dockerfile);
        self.build_prepared(prepared, &tags, &asked, permission, &account.dockerfile)
            .map_err(|error| error.in_dockerfile(&name, &account.dockerfile))
    }

    fn build_prepared(
        &self,
        prepared: context::Prepared,
        tags: &[ImageRef],
        asked: &Attestations,
        permission: Permission,
        dockerfile: &[u8],
    ) -> Result<BuildResult, Error> {
        let caches = Caches::open(self)?;
        let dockerfile_name = prepared.dockerfile_name.to_string();
        let planned = self.planned_for(prepared, asked)?;
        let set = self.image_set(&planned.plans)?;
        permission.wait()?;
        let mut solver = self.solver(planned.inputs);
        solver.remote = caches.remote();
        let (graph, results) = joined(&planned.plans);
        let (solved, differences) = if self.build.verify_reproducible {
            let (outputs, differences) = self.solve_twice(&mut solver, &graph, &results)?;
            (Some(outputs), Some(differences))
        } else {
            (None, None)
        };
        let work = Work {
            plans: &planned.plans,
            graph: &graph,
            results: &results,
            solved,
            set,
            tags,
            epoch: planned.epoch,
            hidden: planned.hidden.as_deref(),
            asked,
            request: planned.request.as_ref(),
        };
        let Made { images, exported, provenance } =
            caches.retry(&solver, || self.solve_and_export(&solver, &caches, &work))?;
        solver.keep_imports()?;
        caches.export(self, &solver, &images)?;
        let (steps_cached, steps_run) = self.reporter.counts();
        Ok(BuildResult {
            id: self.build.id.clone(),
            config_digest: exported.config.unwrap_or(images[0].config_digest),
            manifest_digest: exported.manifest.as_ref().map(|manifest| manifest.digest),
            manifest: exported.manifest,
            names: exported.names,
            platform: images[0].platform.clone(),
            provenance,
            dockerfile_name,
            dockerfile: dockerfile.to_owned(),
            steps_cached,
            steps_run,
            differences,
        })
    }

    /// Says what is to be done; bases are looked up, and nothing is made yet.
    pub(crate) fn planned(&self, prepared: context::Prepared) -> Result<Planned, Error> {
        self.planned_for(prepared, &Attestations::default())
    }

    /// As [`Session::planned`]; notes what the attestations asked for need to know.
    fn planned_for(&self, mut prepared: context::Prepared, asked: &Attestations) -> Result<Planned, Error> {
        frontend::check(self.build, &prepared.dockerfile)?;
        let dockerfile = self.read(&prepared.dockerfile)?;
        let checks = self.checks(&dockerfile)?;
        let mut request = self.plan_request(&mut prepared, &dockerfile)?;
        let pins = Pins::of(self.build, &prepared)?;
        let epoch = epoch::resolve(self, &dockerfile, &prepared.origins, &mut request)?;
        let told = self.build.told_provenance;
        let mut attested = if asked.provenance.is_some() || told.is_some() {
            // The repository is in what `min` does not tell.
            let with_checkout = asked.provenance.is_some() || told == Some(ProvenanceMode::Max);
            Some(Request::of(self, &prepared, &request, with_checkout)?)
        } else {
            None
        };
        let bases = Bases::new(self, std::mem::take(&mut prepared.local_images), pins.as_ref());
        let platforms = self.platforms(&dockerfile, &mut request, &bases)?;
        let awaited = Awaited { session: self, prepared: &prepared, bases: &bases, pins: pins.as_ref() };
        let made = awaited.make(&dockerfile, &mut request, &platforms)?;
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
                Ok(mut plan) => {
                    if asked.sbom.is_none() {
                        plan.scans.clear();
                    }
                    if let Some(pins) = &pins {
                        pins.apply(&mut plan.graph)?;
                    }
                    made.spare(&mut plan.graph);
                    plans.push(plan);
                }
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
            self.warn(warning, &prepared.dockerfile_name);
        }
        self.warn_unused_args(plans.first());
        planned?;
        check::refuse(&checks, &found)?;
        if let Some(attested) = &mut attested {
            attested.bases = bases.resolved();
        }
        let devices = self.find_devices(&mut plans)?;
        let agents = self.agents()?;
        let inputs = Inputs {
            contexts: prepared.contexts,
            images: bases.origins(),
            secrets: self.secrets()?,
            allow_secret_in_layer: self.build.allow_secret_in_layer,
            ssh: sockets(&agents),
            devices,
            ..Inputs::default()
        };
        Ok(Planned {
            plans,
            inputs,
            epoch,
            hidden: prepared.hidden,
            request: attested,
            _guards: (agents, prepared.scratch),
        })
    }

    /// Reads the Dockerfile, with another first base where one is asked for (FEATURES FR25).
    pub(crate) fn read(&self, text: &[u8]) -> Result<Dockerfile, ParseErrors> {
        let mut dockerfile = kiln_parser::parse(text)?;
        self.rebase(&mut dockerfile);
        Ok(dockerfile)
    }

    pub(crate) fn rebase(&self, dockerfile: &mut Dockerfile) {
        if let (Some(base), Some(first)) = (&self.build.first_base, dockerfile.stages.first_mut()) {
            first.base.value.clone_from(base);
        }
    }

    /// Solves, and then once more beside all records; returns how the steps' results differ.
    fn solve_twice(
        &self,
        solver: &mut Solver<'_>,
        graph: &Graph,
        results: &[VertexId],
    ) -> Result<(Vec<Output>, Vec<StepDifference>), Error> {
        let steps = solve::needed(graph, results);
        let first = solver.solve_all(graph, &steps)?;
        let mut again = graph.clone();
        for vertex in again.node_weights_mut() {
            vertex.name = format!("{} (again)", vertex.name);
        }
        let salt = format!("{} {:?}", std::process::id(), std::time::SystemTime::now());
        solver.rehearsal = Some(Digest::of(salt.as_bytes()));
        let second = solver.solve_all(&again, &steps);
        solver.rehearsal = None;
        let differences = differences::of_steps(self.store, graph, &steps, &first, &second?)?;
        let outputs = results
            .iter()
            .filter_map(|result| steps.iter().position(|step| step == result).map(|at| first[at].clone()));
        Ok((outputs.collect(), differences))
    }

    /// Solves the plans and makes the outputs of what they give.
    fn solve_and_export(&self, solver: &Solver<'_>, caches: &Caches, work: &Work<'_>) -> Result<Made, Error> {
        let outputs = match &work.solved {
            Some(outputs) => outputs.clone(),
            None => solver.solve_all(work.graph, work.results).map_err(|error: SolveError| {
                let mut result = Error::from(error);
                context::explain_missing(&mut result, work.hidden);
                result
            })?,
        };
        let mut images = Vec::with_capacity(work.plans.len());
        let mut scanned = Vec::with_capacity(work.plans.len());
        let mut outputs = outputs.into_iter();
        for plan in work.plans {
            let Some(Output::Snapshot(snapshot)) = outputs.next() else {
                return Err(Error::user("the target is no image"));
            };
            let scans = plan.scans.iter().map(|scan| scan.name.clone());
            scanned.push(scans.zip(outputs.by_ref()).collect());
            let mut image = assemble::assemble(solver, plan, &snapshot, work.epoch)?;
            if self.build.omit_history {
                image = image.without_history()?;
            }
            images.push(caches.complete(solver, image)?);
        }
        let attestor = Attestor::new(solver, work.asked, self.build.id(), work.request, work.plans, scanned);
        let exported = output::export(self, solver, &images, work.set, work.tags, &attestor)?;
        let provenance = match self.build.told_provenance {
            Some(mode) => attestor.tell(&images, mode)?,
            None => Vec::new(),
        };
        Ok(Made { images, exported, provenance })
    }

    /// Whether an index is made (FEATURES AS19).
    fn image_set(&self, plans: &[Plan]) -> Result<ImageSet, Error> {
        const NAME: &str = "BUILDKIT_MULTI_PLATFORM";
        let wanted = self.build.arg_value(NAME).map(|value| {
            kiln_parser::boolean(value)
                .ok_or_else(|| Error::user(format!("invalid boolean value for {NAME}: {value:?}")))
        });
        match (wanted.transpose()?, plans) {
            (None | Some(false), [_]) => Ok(ImageSet::Single),
            (None | Some(true), _) => Ok(ImageSet::Index),
            (Some(false), _) => {
                Err(Error::user("conflicting options: returning multiple target platforms is not allowed")
                    .hinted("leave out --build-arg BUILDKIT_MULTI_PLATFORM"))
            }
        }
    }

    /// A solver of this build.
    pub(crate) fn solver(&self, inputs: Inputs) -> Solver<'_> {
        Solver {
            store: self.store,
            registry: self.registry,
            http: self.http,
            executor: self.build.executor.as_ref(),
            inputs,
            reporter: Arc::clone(self.reporter),
            cancel: Arc::clone(self.cancel),
            max_parallelism: self.build.max_parallelism,
            settings: self.build.settings.clone(),
            networks: Networks::default(),
            trees: Trees::default(),
            log_limits: log_limits(),
            pulls: Pulls::default(),
            remote: kiln_solver::solve::Remote::default(),
            journal: Arc::clone(self.journal),
            only_looks: self.only_looks,
            rehearsal: None,
        }
    }

    /// What stores of objects are asked with.
    pub(crate) fn access(&self) -> Access {
        Access { registry: self.registry.clone(), cancel: Arc::clone(self.cancel) }
    }

    fn warn(&self, warning: &Warning, dockerfile: &DockerfileName) {
        let mut message = warning.message.clone();
        if dockerfile.is_joined() {
            // A line of the whole is one of no file.
            let (_, name, line) = dockerfile.place(warning.span.line);
            message += &format!(" ({name}:{line})");
        }
        let span = (!dockerfile.is_joined()).then_some(warning.span);
        self.reporter.send(Event::Warning { rule: Some(warning.rule), message, span });
    }

    /// Tells of build arguments that change nothing: most are misspelt (FEATURES AS8).
    fn warn_unused_args(&self, plan: Option<&Plan>) {
        for (name, closest) in plan.iter().flat_map(|plan| &plan.unused_args) {
            let hint = closest.as_ref().map(|name| format!(" (did you mean {name}?)")).unwrap_or_default();
            let message = format!("the build argument {name} is not used: no ARG has that name{hint}");
            self.reporter.send(Event::Warning { rule: None, message, span: None });
        }
    }

    fn tags(&self) -> Result<Vec<ImageRef>, Error> {
        let tags = self.build.tags.iter();
        tags.map(|tag| tag.parse().map_err(|error: InvalidReference| Error::user(error.to_string())))
            .collect()
    }

    pub(crate) fn plan_request(
        &self,
        prepared: &mut context::Prepared,
        dockerfile: &Dockerfile,
    ) -> Result<PlanRequest, Error> {
        let build = self.build;
        let mut build_args: BTreeMap<String, String> = build.args.iter().cloned().collect();
        // As buildx has it: this variable of the environment is an argument that need not be given.
        if let Some(epoch) = std::env::var("SOURCE_DATE_EPOCH").ok().filter(|epoch| !epoch.is_empty()) {
            build_args.entry("SOURCE_DATE_EPOCH".to_owned()).or_insert(epoch);
        }
        let mut request = PlanRequest {
            build_args,
            target: build.target.clone(),
            unneeded_stages: build.unneeded_stages,
            platform: None,
            build_platform: Platform::host(),
            emulates,
            labels: build.labels.clone(),
            env: build.env.clone(),
            trim: build.trim.clone(),
            squash: build.squash,
            no_cache: build.no_cache,
            no_cache_stages: build.no_cache_stages.clone(),
            cache_ttl: build.cache_ttl,
            network: build.network,
            capabilities: build.capabilities,
            security_options: build.security_options,
            volumes: build.volumes.clone(),
            mounts: build.mounts.clone(),
            devices: build.devices.iter().map(|name| Device { name: name.clone(), required: true }).collect(),
            host_devices: build.host_devices.clone(),
            groups: build.groups.clone(),
            extra_hosts: build.extra_hosts.clone(),
            shm_bytes: build.shm_bytes,
            ulimits: build.ulimits.clone(),
            allow: build.allow.clone(),
            contexts: prepared.named.clone(),
            ignore: prepared.ignore_rules(),
        };
        context::take_in(prepared, dockerfile, &mut request)?;
        Ok(request)
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

/// How much of a step's output is shown: BuildKit's defaults, or what its variables say. `-1` is no limit; of the size it is
/// none of the speed either.
fn log_limits() -> LogLimits {
    let given = |name: &str, default: Option<u64>| match std::env::var(name).map(|text| text.parse::<i64>()) {
        Ok(Ok(bytes)) => u64::try_from(bytes).ok(),
        _ => default,
    };
    let LogLimits { bytes, bytes_per_second } = LogLimits::default();
    let bytes = given("BUILDKIT_STEP_LOG_MAX_SIZE", bytes);
    let bytes_per_second = given("BUILDKIT_STEP_LOG_MAX_SPEED", bytes_per_second);
    LogLimits { bytes, bytes_per_second: bytes_per_second.filter(|_| bytes.is_some()) }
}

/// What is solved, and what becomes of it.
struct Work<'a> {
    plans: &'a [Plan],
    graph: &'a Graph,
    results: &'a [VertexId],
    /// The results' outputs, where they are there already.
    solved: Option<Vec<Output>>,
    set: ImageSet,
    tags: &'a [ImageRef],
    epoch: Option<i64>,
    /// What the ignore file hides, for explanations.
    hidden: Option<&'a context::Hidden>,
    /// What is to be attested.
    asked: &'a Attestations,
    request: Option<&'a Request>,
}

/// What came of it.
struct Made {
    images: Vec<assemble::Assembled>,
    exported: output::Exported,
    /// What is told of how the images were made.
    provenance: Vec<(Platform, serde_json::Value)>,
}

/// A build before its first step.
pub(crate) struct Planned {
    /// One for each platform.
    pub(crate) plans: Vec<Plan>,
    pub(crate) inputs: Inputs,
    epoch: Option<i64>,
    /// What the ignore file hides.
    hidden: Option<Arc<context::Hidden>>,
    /// What a provenance says of it, if that is asked for.
    request: Option<Request>,
    /// Agents, and where contexts that were fetched are: they live as long as the build.
    _guards: (Vec<(String, Agent)>, Vec<LayerDraft>),
}

/// One graph of all that is to be built, and the results in it.
pub(crate) fn joined(plans: &[Plan]) -> (Cow<'_, Graph>, Vec<VertexId>) {
    match plans {
        [plan] => (Cow::Borrowed(&plan.graph), plan.targets().collect()),
        plans => {
            let (graph, targets) = plan::join(plans);
            (Cow::Owned(graph), targets)
        }
    }
}

/// Whether this machine runs another one's programs.
fn emulates(platform: &Platform) -> bool {
    let host = Platform::host();
    let binfmt = Binfmt::of(&platform.architecture, &host.architecture);
    platform.os == host.os && !matches!(binfmt, Binfmt::Missing { .. })
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

/// A variable of the environment.
pub(crate) fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Where the agents listen, by id.
pub(crate) fn sockets(agents: &[(String, Agent)]) -> HashMap<String, PathBuf> {
    agents.iter().map(|(id, agent)| (id.clone(), agent.socket().to_owned())).collect()
}

/// The largest secret, as BuildKit has it.
const SECRET_LIMIT: u64 = 500 * 1024;
