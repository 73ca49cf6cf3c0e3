//! Runs a graph: takes each vertex when its inputs are ready, makes its key, finds its record or makes its result.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use kiln_cache::{Layer, SourceTree, Store, StoreError};
use kiln_image::Digest;
use kiln_image::registry::{Registry, RemoteImage};
use kiln_parser::Span;

use crate::event::EventSink;
use crate::graph::{Graph, VertexId};

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
    /// An OCI layout directory on the host.
    Layout {
        /// The directory.
        path: PathBuf,
        /// The image in it.
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
    /// ssh agent sockets by id.
    pub ssh: HashMap<String, PathBuf>,
}

/// A secret's value; `Debug` does not show it.
#[derive(Clone)]
pub struct Secret(pub Vec<u8>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// A root file system: layers bottom first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The layers.
    pub layers: Vec<Layer>,
}

/// What a vertex made.
#[derive(Clone, Debug)]
pub enum Output {
    /// A root file system.
    Snapshot(Snapshot),
    /// Something to copy from that is no root file system: a context, a download.
    Tree(Arc<dyn SourceTree>),
}

/// Why a build failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SolveError {
    /// The user gave up.
    #[error("canceled")]
    Canceled,
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
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
        /// The instruction.
        span: Option<Span>,
    },
}

impl SolveError {
    /// Where in the Dockerfile the cause stands.
    pub fn span(&self) -> Option<Span> {
        match self {
            Self::StepFailed { span, .. } => *span,
            _ => None,
        }
    }

    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        None
    }
}

/// Runs graphs on one store.
pub struct Solver<'a> {
    /// The store.
    pub store: &'a Store,
    /// The registry client.
    pub registry: &'a Registry,
    /// Contexts, images, secrets.
    pub inputs: Inputs,
    /// Who is told.
    pub events: Arc<EventSink>,
    /// Up when the user gives up.
    pub cancel: Arc<AtomicBool>,
    /// At most so many steps at once; 0: as many as are ready.
    pub max_parallelism: usize,
}

impl Solver<'_> {
    /// Makes `target`'s output and nothing that it does not need.
    ///
    /// # Errors
    /// The first failure; what ran beside it is stopped.
    pub fn solve(&self, graph: &Graph, target: VertexId) -> Result<Output, SolveError> {
        let _ = (graph, target);
        todo!()
    }
}
