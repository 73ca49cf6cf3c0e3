//! Where stages start: images, named contexts, nothing.

use std::collections::HashMap;

use kiln_image::local::LocalName;
use kiln_image::oci::{ContainerConfig, ImageConfig};
use kiln_image::{ImageRef, Platform};
use kiln_parser::Span;

use super::stages::Origin;
use super::vertices::Vertices;
use super::{BaseImage, NamedContext, PlanError, PlanRequest, ResolveBase};
use crate::graph::{CacheUse, CopyOptions, File, FileAction, InputIndex, Op, Source, Vertex, VertexId};

/// docker's PATH for images without one.
pub(super) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Resolves images, each name and platform once.
pub(super) struct Bases<'a> {
    request: &'a PlanRequest,
    resolve: &'a mut ResolveBase<'a>,
    images: HashMap<(ImageRef, Platform), BaseImage>,
}

/// What can be copied from, mounted, or (a root file system) started from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Root {
    /// A root file system.
    Snapshot(VertexId),
    /// A tree that is none: a named context.
    Tree(VertexId),
}

impl Root {
    /// Its vertex, to copy from.
    pub(super) fn vertex(self) -> VertexId {
        match self {
            Self::Snapshot(vertex) | Self::Tree(vertex) => vertex,
        }
    }

    /// Its vertex, to run on: a tree is copied onto an empty root first.
    pub(super) fn to_snapshot(self, platform: &Platform, span: Span, vertices: &mut Vertices) -> VertexId {
        match self {
            Self::Snapshot(vertex) => vertex,
            Self::Tree(tree) => {
                let options = CopyOptions::default();
                copied(tree, options, "[internal] copy named context", span, platform, vertices)
            }
        }
    }
}

/// The vertex of all that `tree` shows, in one layer on nothing.
fn copied(
    tree: VertexId,
    options: CopyOptions,
    name: &str,
    span: Span,
    platform: &Platform,
    vertices: &mut Vertices,
) -> VertexId {
    let (source, dest) = ("/".into(), "/".into());
    let copy = FileAction::Copy { input: InputIndex(1), source, dest, wildcard: false, options };
    let vertex = Vertex {
        op: Op::File(File { actions: vec![copy] }),
        name: name.into(),
        span: Some(span),
        created_by: String::new(),
        cache: CacheUse::Any,
        platform: platform.clone(),
    };
    let scratch = scratch(platform, vertices);
    vertices.add(vertex, &[scratch, tree])
}

/// The vertex of a root file system whose layers are one.
pub(super) fn squashed(root: VertexId, span: Span, platform: &Platform, vertices: &mut Vertices) -> VertexId {
    let options = CopyOptions { as_root: true, ..CopyOptions::default() };
    copied(root, options, "[internal] squash", span, platform, vertices)
}

/// The vertex of nothing.
pub(super) fn scratch(platform: &Platform, vertices: &mut Vertices) -> VertexId {
    source(Source::Scratch, "[internal] scratch".into(), None, platform, vertices)
}

/// The vertex of the build context.
pub(super) fn build_context(platform: &Platform, vertices: &mut Vertices) -> VertexId {
    let context = Source::Context { name: "context".into() };
    source(context, "[internal] load build context".into(), None, platform, vertices)
}

/// Adds a source.
pub(super) fn source(
    source: Source,
    name: String,
    span: Option<Span>,
    platform: &Platform,
    vertices: &mut Vertices,
) -> VertexId {
    let vertex = Vertex {
        op: Op::Source(source),
        name,
        span,
        created_by: String::new(),
        cache: CacheUse::Any,
        platform: platform.clone(),
    };
    vertices.add(vertex, &[])
}

/// The config of `FROM scratch`.
pub(super) fn empty_image(platform: &Platform) -> ImageConfig {
    ImageConfig {
        os: platform.os.clone(),
        architecture: platform.architecture.clone(),
        variant: platform.variant.clone(),
        config: ContainerConfig {
            working_dir: "/".into(),
            env: Some(vec![format!("PATH={DEFAULT_PATH}")]),
            ..ContainerConfig::default()
        },
        ..ImageConfig::default()
    }
}

/// A base that is found, before anything of it is in the graph.
#[derive(Clone, Debug)]
pub(super) enum Found {
    /// Nothing.
    Scratch,
    /// A named context that is a tree.
    Tree {
        /// Its name.
        name: String,
    },
    /// An image; one of a named context has that name. `shown` is what people call it.
    Image { reference: ImageRef, image: Box<BaseImage>, context: Option<String>, shown: String },
}

impl<'a> Bases<'a> {
    pub(super) fn new(request: &'a PlanRequest, resolve: &'a mut ResolveBase<'a>) -> Self {
        Self { request, resolve, images: HashMap::new() }
    }

    /// Finds what `origin` (no stage) is for `platform`.
    pub(super) fn find(
        &mut self,
        origin: &Origin,
        platform: &Platform,
        closest: impl FnOnce(&str) -> Option<String>,
        span: Span,
    ) -> Result<Found, PlanError> {
        let request = self.request;
        let (reference, written, context, shown) = match origin {
            Origin::Scratch | Origin::Stage(_) => return Ok(Found::Scratch),
            Origin::Image { reference, written } => (reference, written, None, reference.to_string()),
            Origin::Context(name) => match request.contexts.get(name) {
                None | Some(NamedContext::Tree) => return Ok(Found::Tree { name: name.clone() }),
                Some(NamedContext::Image(reference)) => {
                    (reference, name, Some(name.clone()), reference.to_string())
                }
                Some(NamedContext::Layout(reference)) => {
                    // What the Dockerfile itself names so is a base like another.
                    let context = Some(name.clone()).filter(|name| !LocalName::is_local(name));
                    (reference, name, context, name.clone())
                }
            },
        };
        let key = (reference.clone(), platform.clone());
        let image = match self.images.get(&key) {
            Some(image) => image.clone(),
            None => {
                let image = (self.resolve)(reference, platform).map_err(|cause| PlanError::Base {
                    name: written.clone(),
                    cause,
                    closest: closest(written),
                    is_after: false,
                    span,
                })?;
                self.images.insert(key, image.clone());
                image
            }
        };
        Ok(Found::Image { reference: reference.clone(), image: Box::new(image), context, shown })
    }
}

impl Found {
    /// What people call it: `docker.io/library/busybox:latest@sha256:…`.
    pub(super) fn full_name(&self) -> String {
        match self {
            Self::Scratch => "scratch".into(),
            Self::Tree { name } => name.clone(),
            Self::Image { reference, shown, .. } if reference.digest().is_some() => shown.clone(),
            Self::Image { shown, image, .. } => format!("{shown}@{}", image.digest),
        }
    }

    /// Whether its vertex is a step that people see counted.
    pub(super) fn is_step(&self) -> bool {
        matches!(self, Self::Image { image, .. } if !has_no_layers(&image.config))
    }

    /// Its vertex.
    pub(super) fn root(
        &self,
        name: String,
        span: Span,
        platform: &Platform,
        vertices: &mut Vertices,
    ) -> Root {
        match self {
            Self::Scratch => Root::Snapshot(scratch(platform, vertices)),
            Self::Tree { name: context } => {
                let tree = Source::Context { name: context.clone() };
                Root::Tree(source(tree, name, Some(span), platform, vertices))
            }
            Self::Image { image, .. } if has_no_layers(&image.config) => {
                Root::Snapshot(scratch(platform, vertices))
            }
            Self::Image { reference, image, .. } => {
                let image = Source::Image { reference: reference.clone(), manifest: image.manifest };
                Root::Snapshot(source(image, name, Some(span), platform, vertices))
            }
        }
    }

    /// The name of its vertex where it is not a step of a stage.
    pub(super) fn internal_name(&self) -> String {
        match self {
            Self::Scratch => "[internal] scratch".into(),
            Self::Tree { name } => format!("[context {name}] load from client"),
            Self::Image { context: Some(context), .. } => format!("[context {context}] {}", self.full_name()),
            Self::Image { .. } => format!("FROM {}", self.full_name()),
        }
    }

    /// Its config: that of an image as it is, else an empty one.
    pub(super) fn config(&self, platform: &Platform) -> ImageConfig {
        match self {
            Self::Scratch | Self::Tree { .. } => empty_image(platform),
            Self::Image { image, .. } => ImageConfig { created: None, ..image.config.clone() },
        }
    }
}

/// An image without layers is nothing with a config (FEATURES FR6). Old manifests cannot say how many layers there
/// are, but their history can.
fn has_no_layers(config: &ImageConfig) -> bool {
    config.rootfs.diff_ids.is_empty() && config.history.iter().all(|entry| entry.empty_layer)
}
