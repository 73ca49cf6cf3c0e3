//! From instructions to operations. Pure: the Dockerfile, the arguments and the bases' configs in, a graph out.

use std::collections::BTreeMap;
use std::net::IpAddr;

use kiln_image::oci::ImageConfig;
use kiln_image::{Digest, ImageRef, Platform};
use kiln_parser::{Dockerfile, Span, Warning};

use crate::graph::{Graph, NetworkMode, VertexId};

/// What a build is asked for, beside the Dockerfile.
#[derive(Clone, Debug)]
pub struct PlanRequest {
    /// `--build-arg`.
    pub build_args: BTreeMap<String, String>,
    /// `--target`.
    pub target: Option<String>,
    /// `--platform`; `None` where not asked for.
    pub platform: Option<Platform>,
    /// The machine's own.
    pub build_platform: Platform,
    /// `--label`.
    pub labels: Vec<(String, String)>,
    /// `--no-cache`.
    pub no_cache: bool,
    /// `--no-cache-filter`.
    pub no_cache_stages: Vec<String>,
    /// `--network`.
    pub network: NetworkMode,
    /// `--add-host`.
    pub extra_hosts: Vec<(String, IpAddr)>,
    /// `--shm-size`.
    pub shm_bytes: Option<u64>,
    /// `--ulimit`.
    pub ulimits: Vec<(String, u64, u64)>,
    /// Entitlements: `network.host`, `security.insecure`.
    pub allow: Vec<String>,
    /// Named contexts by normalised name.
    pub contexts: BTreeMap<String, NamedContext>,
}

/// What `--build-context name=…` stands for.
#[derive(Clone, Debug)]
pub enum NamedContext {
    /// A local tree: a [`crate::graph::Source::Context`] of that name.
    Tree,
    /// An image.
    Image(ImageRef),
    /// The image of an OCI layout, resolved by the engine under this made-up reference.
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
    /// What should be changed.
    pub warnings: Vec<Warning>,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// `--target` names no stage.
    #[error("target stage `{target}` could not be found")]
    UnknownTarget {
        /// What was asked for.
        target: String,
        /// A stage with a near name.
        closest: Option<String>,
    },
    /// Stages need each other.
    #[error("circular dependency detected on stage: {stage}")]
    CircularStages {
        /// One of them.
        stage: String,
        /// Where.
        span: Span,
    },
}

impl PlanError {
    /// Where in the Dockerfile the cause stands.
    pub fn span(&self) -> Option<Span> {
        match self {
            Self::UnknownTarget { .. } => None,
            Self::CircularStages { span, .. } => Some(*span),
        }
    }

    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        None
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
    let _ = (dockerfile, request);
    todo!()
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
    let _ = (dockerfile, request, resolve);
    todo!()
}
