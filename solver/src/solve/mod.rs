//! Runs a graph: takes each vertex when its inputs are ready, makes its key, finds its record or makes its result.
//!
//! `schedule` says what runs when, `key` what a step is called, `op` what it does, `layers` when a base image's files
//! are really fetched.

mod diff_ids;
mod error;
mod forecast;
mod journal;
mod key;
mod layers;
mod network;
mod op;
mod remote;
mod room;
mod schedule;
mod snapshot;
mod trees;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use kiln_cache::{Layer, SourceTree, Store};
use kiln_image::http::Signer;
use kiln_image::local::LocalImages;
use kiln_image::registry::{Registry, RemoteImage};
use kiln_image::{Digest, http};
use kiln_sandbox::{Devices, Dns, Resources};

pub use error::{Shortage, SolveError};
pub use forecast::{Forecast, Foreseen, Verdict};
pub use journal::{Download, Journal, Outcome, StepNote};
pub(crate) use key::VERSION as KEY_VERSION;
pub use network::{Isolation, Networks};
pub use op::executor::{Confinement, Executor, Sandbox};
pub use op::file::{CopyError, copy_out};
pub use op::log::LogLimits;
pub use remote::{Remote, RemoteCache, RemoteLayer, RemoteMount, RemoteRecord, Solved};
pub use trees::Trees;

use crate::event::Reporter;
use crate::graph::{GitSource, Graph, VertexId};

/// Where the layers of a resolved image can be had.
#[derive(Clone, Debug)]
pub enum ImageOrigin {
    /// A registry.
    Registry(Arc<RemoteImage>),
    /// The store has (or can make) all layers.
    Store {
        /// Bottom first.
        layers: Vec<Layer>,
    },
    /// A file or directory on the host.
    Local {
        /// The images there.
        images: Arc<LocalImages>,
        /// The one of them that is meant.
        image: Arc<RemoteImage>,
    },
}

/// Everything outside the graph that its operations may ask for.
#[derive(Debug, Default)]
pub struct Inputs {
    /// Contexts by name; the main one is `context`.
    pub contexts: HashMap<String, Arc<dyn SourceTree>>,
    /// Images by their manifest's digest.
    pub images: HashMap<Digest, ImageOrigin>,
    /// Secrets by id.
    pub secrets: HashMap<String, Secret>,
    /// Who proves to web servers who asks, by the address that is asked for.
    pub signers: HashMap<String, Arc<dyn Signer>>,
    /// A step's layer may hold a secret that the step was shown.
    pub allow_secret_in_layer: bool,
    /// ssh agent sockets by id.
    pub ssh: HashMap<String, PathBuf>,
    /// The host's devices, where steps want some.
    pub devices: Devices,
}

/// A secret's value; `Debug` does not show it.
#[derive(Clone)]
pub struct Secret(pub Vec<u8>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// What a vertex made.
#[derive(Clone, Debug)]
pub enum Output {
    /// A root file system. Layers of a base image may not be unpacked yet, see [`Solver::ensure_layers`].
    Snapshot(Snapshot),
    /// Something to copy from that is no root file system: a context, a download.
    Tree(Arc<dyn SourceTree>),
}

/// How processes are run, as far as that is no part of what they are: none of it is in a step's key.
#[derive(Clone, Debug, Default)]
pub struct ExecSettings {
    /// What becomes of steps where no network of their own can be had.
    pub isolation: Isolation,
    /// How they resolve names.
    pub dns: Dns,
    /// What each of them may use.
    pub resources: Resources,
    /// How long each of them may run.
    pub step_timeout: Option<Duration>,
}

/// Runs graphs on one store.
pub struct Solver<'a> {
    /// The store.
    pub store: &'a Store,
    /// The registry client.
    pub registry: &'a Registry,
    /// The web client.
    pub http: &'a http::Client,
    /// Runs processes.
    pub executor: &'a dyn Executor,
    /// Contexts, images, secrets.
    pub inputs: Inputs,
    /// Who is told.
    pub reporter: Arc<Reporter>,
    /// Up when the user gives up; raised here too, to stop what runs beside a failed step.
    pub cancel: Arc<AtomicBool>,
    /// At most so many steps at once; 0: as many as are ready.
    pub max_parallelism: usize,
    /// How processes are run.
    pub settings: ExecSettings,
    /// Networks of steps.
    pub networks: Networks,
    /// Trees of steps that run without namespaces.
    pub trees: Trees,
    /// How much of a step's output is shown.
    pub log_limits: LogLimits,
    /// Makes all steps anew under keys that nobody asks for again: every step's, mixed with this. What is recorded stays.
    pub rehearsal: Option<Digest>,
    /// Layers of base images that are unpacked when first needed.
    pub pulls: layers::Pulls,
    /// Caches beyond the store.
    pub remote: Remote,
    /// What became of each step.
    pub journal: Arc<Journal>,
    /// Nothing is fetched: what would have to be is [`SolveError::NotForeseen`].
    pub only_looks: bool,
}

impl Solver<'_> {
    /// Makes `target`'s output and nothing that it does not need.
    ///
    /// # Errors
    /// The first failure; what ran beside it is stopped.
    pub fn solve(&self, graph: &Graph, target: VertexId) -> Result<Output, SolveError> {
        let output = self.solve_all(graph, &[target])?.pop();
        output.ok_or_else(|| SolveError::LostStep(graph[target].name.clone()))
    }

    /// Makes the outputs of all `targets`, in their order.
    ///
    /// # Errors
    /// As [`Solver::solve`].
    pub fn solve_all(&self, graph: &Graph, targets: &[VertexId]) -> Result<Vec<Output>, SolveError> {
        schedule::solve(self, graph, targets)
    }

    /// Finds what a git source means now: the hash of a commit or of an annotated tag. Nothing is fetched.
    ///
    /// # Errors
    /// git's own, and [`SolveError::GitReference`] where there is no such branch or tag.
    pub fn git_object(&self, source: &GitSource) -> Result<String, SolveError> {
        op::git_object(self, source)
    }

    /// Sees to it that all files of `layers` are there: pulls and unpacks, in parallel, what no step has needed yet.
    ///
    /// # Errors
    /// Registry, layer, store.
    pub fn ensure_layers(&self, layers: &[Layer]) -> Result<(), SolveError> {
        let result = layers::ensure(self, layers);
        match result {
            Err(error) if error.is_disk_full() && room::make(self) => layers::ensure(self, layers),
            result => result,
        }
    }

    /// Opens the blob of a layer that came with a base image or from a remote cache, without unpacking it; `None` for
    /// a layer of another origin. The reader verifies it.
    ///
    /// # Errors
    /// It cannot be had.
    pub fn open_layer_blob(&self, layer: &Layer) -> Result<Option<LayerBlob>, SolveError> {
        layers::open_blob(self, layer)
    }
}

/// Whether `text` is a mode as chmod(1) writes it, `u=rwX,go-w`.
pub(crate) fn is_symbolic_mode(text: &str) -> bool {
    op::file::chmod::apply(text, 0, false).is_some()
}

pub use layers::{LayerBlob, Pulls};
pub use schedule::{inputs_of, needed};
pub use snapshot::Snapshot;
