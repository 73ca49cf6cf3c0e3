//! From instructions to operations. Pure: the Dockerfile, the arguments and the bases' configs in, a graph out.
//!
//! The way, which `planner` goes: global arguments, then all FROM lines (`stages`), then the stages that the target needs,
//! with their bases and the `triggers` that these bring; each stage's `start`, then its instructions in order
//! (`dispatch`); at last the image's config (`result`). A stage's state holds what the next instruction starts from: its
//! root's vertex, the config, the variables.
//!
//! Everything is linear in the number of instructions, and nothing recurses along stages: a file may have 100,000.

mod arguments;
mod bases;
mod cache;
mod dispatch;
mod environment;
mod epoch;
mod error;
mod expansion;
mod history;
mod join;
mod names;
mod near;
mod needed;
mod outline;
pub(crate) mod paths;
mod planner;
mod result;
mod stages;
mod start;
mod state;
mod triggers;
mod vertices;
mod warnings;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use kiln_image::oci::{ContainerConfig, History, ImageConfig, RootFs};
use kiln_image::{DiffId, Digest, ImageRef, Platform};
use kiln_parser::ignore::IgnoreRules;
use kiln_parser::{Device, Dockerfile, Mount, Warning};
use kiln_sandbox::{Capabilities, HostAddress, HostDevice, SecurityOptions};

pub use cache::{lifetime, lifetime_text};
pub use epoch::{EpochSource, source_date_epoch};
pub use error::PlanError;
pub use join::join;
pub use outline::{Outline, OutlineArg, OutlineMount};

use crate::graph::{ExtraGroups, Graph, NetworkMode, VertexId, Volume};

/// A step's name takes in no more values of variables once it is this long.
const MAX_NAME_BYTES: usize = 4096;

/// What a build is asked for, beside the Dockerfile.
#[derive(Clone, Debug)]
pub struct PlanRequest {
    /// `--build-arg`.
    pub build_args: BTreeMap<String, String>,
    /// `--target`.
    pub target: Option<String>,
    /// `--skip-unused-stages`.
    pub unneeded_stages: Unneeded,
    /// `--platform`; `None` where not asked for.
    pub platform: Option<Platform>,
    /// The machine's own.
    pub build_platform: Platform,
    /// Whether it can run another one by emulation.
    pub emulates: fn(&Platform) -> bool,
    /// `--label`.
    pub labels: Vec<(String, String)>,
    /// `--env`: variables of every stage from its start.
    pub env: Vec<(String, String)>,
    /// What the image goes without.
    pub trim: Trim,
    /// `--squash`: one layer, with what is in the base.
    pub squash: bool,
    /// `--no-cache`.
    pub no_cache: bool,
    /// `--no-cache-filter`.
    pub no_cache_stages: Vec<String>,
    /// `--cache-ttl`: how old a result of RUN may be.
    pub cache_ttl: Option<Duration>,
    /// `--network`.
    pub network: NetworkMode,
    /// `--cap-add` and `--cap-drop`.
    pub capabilities: Capabilities,
    /// `--security-opt`.
    pub security_options: SecurityOptions,
    /// `--volume`.
    pub volumes: Vec<Volume>,
    /// `--mount`: as if every RUN had it first.
    pub mounts: Vec<Mount>,
    /// `--device`: as if every RUN had it.
    pub devices: Vec<Device>,
    /// `--device` by path.
    pub host_devices: Vec<HostDevice>,
    /// `--group-add`.
    pub groups: ExtraGroups,
    /// `--add-host`.
    pub extra_hosts: Vec<(String, HostAddress)>,
    /// `--shm-size`.
    pub shm_bytes: Option<u64>,
    /// `--ulimit`.
    pub ulimits: Vec<(String, u64, u64)>,
    /// Entitlements: `network.host`, `security.insecure`.
    pub allow: Vec<String>,
    /// Named contexts by normalised name.
    pub contexts: BTreeMap<String, NamedContext>,
    /// The ignore file of the build context, to tell of a COPY that asks for what it hides.
    pub ignore: IgnoreRules,
}

/// What becomes of stages that the target does not need (FEATURES FR14).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unneeded {
    /// They are not built.
    Skipped,
    /// They are built all the same: what fails there fails the build.
    Built,
}

/// What is left out of the target's config (FEATURES CL51).
#[derive(Clone, Debug, Default)]
pub struct Trim {
    /// `--unsetenv`: variables of the finished image.
    pub env: Vec<String>,
    /// `--unsetlabel`: labels of the finished image, whoever set them.
    pub labels: Vec<String>,
    /// `--inherit-labels=false`: the labels of bases and of parent stages.
    pub inherited_labels: bool,
}

impl PlanRequest {
    /// A request on `build_platform` with nothing asked for.
    pub fn new(build_platform: Platform) -> Self {
        Self {
            build_args: BTreeMap::new(),
            target: None,
            unneeded_stages: Unneeded::Skipped,
            platform: None,
            build_platform,
            emulates: |_| false,
            labels: Vec::new(),
            env: Vec::new(),
            trim: Trim::default(),
            squash: false,
            no_cache: false,
            no_cache_stages: Vec::new(),
            cache_ttl: None,
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
            contexts: BTreeMap::new(),
            ignore: IgnoreRules::default(),
        }
    }
}

/// What `--build-context name=…` stands for.
#[derive(Clone, Debug)]
pub enum NamedContext {
    /// A local tree: a [`crate::graph::Source::Context`] of that name.
    Tree,
    /// An image.
    Image(ImageRef),
    /// The image of a file or directory on the host, resolved by the engine under this made-up reference.
    Layout(ImageRef),
}

/// A base image, resolved.
#[derive(Clone, Debug)]
pub struct BaseImage {
    /// Digest of what the name points at (shown as `name@digest`).
    pub digest: Digest,
    /// Digest of the platform's manifest.
    pub manifest: Digest,
    /// Its config.
    pub config: ImageConfig,
}

impl BaseImage {
    /// An image that is nowhere, to plan with where no registry should be asked: one layer, one entry of history, and
    /// `PATH=/bin`. Its digests are those of `name`.
    pub fn stand_in(name: &str, platform: &Platform) -> Self {
        let digest = Digest::of(name.as_bytes());
        let config = ImageConfig {
            os: platform.os.clone(),
            architecture: platform.architecture.clone(),
            variant: platform.variant.clone(),
            config: ContainerConfig { env: Some(vec!["PATH=/bin".into()]), ..ContainerConfig::default() },
            rootfs: RootFs { diff_ids: vec![DiffId(digest)], ..RootFs::default() },
            history: vec![History { created_by: "base".into(), ..History::default() }],
            ..ImageConfig::default()
        };
        Self { digest, manifest: digest, config }
    }
}

/// Finds base images: by registry, store or layout. Called for each name and platform once.
pub type ResolveBase<'a> = dyn FnMut(&ImageRef, &Platform) -> Result<BaseImage, BaseError> + 'a;

/// A base that cannot be had. Carries the cause for the report.
pub type BaseError = Box<dyn std::error::Error + Send + Sync>;

/// What to do, and what the image says.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Only what the target needs.
    pub graph: Graph,
    /// The target's result.
    pub result: VertexId,
    /// Config without `rootfs`; `history` holds the base's entries and then one for each instruction.
    pub config: ImageConfig,
    /// Number of leading history entries that are the base's.
    pub base_history: usize,
    /// The platform of the target.
    pub platform: Platform,
    /// What an SBOM looks into beside the image (FEATURES AS22).
    pub scans: Vec<Scan>,
    /// What should be changed.
    pub warnings: Vec<Warning>,
    /// `--build-arg`s that no ARG takes, here or in a trigger of a base, each with a name that may have been meant.
    pub unused_args: Vec<(String, Option<String>)>,
}

/// Something that an SBOM looks into beside the image.
#[derive(Clone, Debug)]
pub struct Scan {
    /// The stage's name, or `context`.
    pub name: String,
    /// What it is.
    pub vertex: VertexId,
}

impl Plan {
    /// What a build must have solved: the result, then the scans in their order.
    pub fn targets(&self) -> impl Iterator<Item = VertexId> {
        std::iter::once(self.result).chain(self.scans.iter().map(|scan| scan.vertex))
    }
}

/// The base images that the target will ask for first, so that they can be resolved in parallel beforehand. ONBUILD
/// triggers may ask for more.
///
/// # Errors
/// As [`plan`].
pub fn base_names(
    dockerfile: &Dockerfile,
    request: &PlanRequest,
) -> Result<Vec<(ImageRef, Platform)>, PlanError> {
    needed::base_names(dockerfile, request)
}

/// A stage that writes what a later one starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AwaitedStage(stages::StageIndex);

/// The stages that have to be complete before the bases of others are looked up, in the order in which they can be built:
/// those that `FROM --after` names in front of an image's place on the host (FEATURES FR23).
///
/// # Errors
/// As [`plan`].
pub fn awaited_stages(
    dockerfile: &Dockerfile,
    request: &PlanRequest,
) -> Result<Vec<AwaitedStage>, PlanError> {
    needed::awaited_stages(dockerfile, request)
}

/// Plans a stage as if it were the target.
///
/// # Errors
/// See [`PlanError`].
pub fn plan_awaited(
    dockerfile: &Dockerfile,
    request: &PlanRequest,
    stage: AwaitedStage,
    resolve: &mut ResolveBase<'_>,
) -> Result<Plan, PlanError> {
    planner::plan_awaited(dockerfile, request, stage.0, resolve)
}

/// The images that FROM lines, copies and mounts name by their place on the host ([`kiln_image::local::LocalName`]), each
/// once. The engine gives them as contexts of these names, where it allows them; a mistake in the file is told by [`plan`].
pub fn local_names(dockerfile: &Dockerfile, request: &PlanRequest) -> Vec<String> {
    stages::local_names(dockerfile, request)
}

/// Plans the build.
///
/// # Errors
/// See [`PlanError`].
pub fn plan(
    dockerfile: &Dockerfile,
    request: &PlanRequest,
    resolve: &mut ResolveBase<'_>,
) -> Result<Plan, PlanError> {
    planner::plan(dockerfile, request, resolve)
}

/// Plans all stages, whether the target needs them or not: the graph has everything that the file ever asks for.
///
/// # Errors
/// See [`PlanError`].
pub fn all_stages(
    dockerfile: &Dockerfile,
    request: &PlanRequest,
    resolve: &mut ResolveBase<'_>,
) -> Result<Plan, PlanError> {
    planner::all_stages(dockerfile, request, resolve)
}

/// What planning says about a file, for `--check`: without a target all stages are looked at. Warnings come with an
/// error too.
pub fn check(
    dockerfile: &Dockerfile,
    request: &PlanRequest,
    resolve: &mut ResolveBase<'_>,
) -> (Vec<Warning>, Option<PlanError>) {
    planner::check(dockerfile, request, resolve)
}

/// What the target can be told: its arguments, secrets, agents and caches.
///
/// # Errors
/// As [`plan`].
pub fn outline(
    dockerfile: &Dockerfile,
    request: &PlanRequest,
    resolve: &mut ResolveBase<'_>,
) -> Result<Outline, PlanError> {
    planner::outline(dockerfile, request, resolve)
}
