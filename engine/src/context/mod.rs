//! What a build reads: the Dockerfile, the ignore file, the context and the named contexts.
//!
//! `main_context` gets hold of the context, `dockerfile` finds the Dockerfile in it or beside it, `ignore` says what a
//! directory does not show, `named` takes the named contexts in. What is fetched is so by the solver (`remote`); `git` reads
//! addresses of repositories.

mod dockerfile;
mod git;
mod ignore;
mod local;
mod main_context;
mod named;
mod preprocess;
mod remote;
mod text;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use kiln_cache::{ContextTree, LayerDraft, SourceTree};
use kiln_image::ImageRef;
use kiln_parser::ignore::IgnoreRules;
use kiln_solver::graph::GitSource;
use kiln_solver::plan::NamedContext;

pub(crate) use dockerfile::DEFAULT_DOCKERFILES;
pub(crate) use ignore::{Hidden, explain_missing};
pub(crate) use local::{LocalImage, take_in};
pub(crate) use named::normalised;
pub(crate) use remote::git as git_tree;
pub(crate) use text::read_text_of_user;

use crate::session::Session;
use crate::{DockerfileName, Error};
use main_context::Main;

/// All that is known before the Dockerfile is parsed.
pub(crate) struct Prepared {
    /// As people know it.
    pub(crate) dockerfile_name: DockerfileName,
    pub(crate) dockerfile: Vec<u8>,
    /// Where it is on the host, if it is.
    pub(crate) dockerfile_path: Option<PathBuf>,
    /// Trees by name.
    pub(crate) contexts: HashMap<String, Arc<dyn SourceTree>>,
    /// Named contexts, for the plan.
    pub(crate) named: BTreeMap<String, NamedContext>,
    /// Images in files of the host by their made-up names.
    pub(crate) local_images: HashMap<ImageRef, LocalImage>,
    /// Where the contexts that were fetched came from.
    pub(crate) origins: HashMap<String, Origin>,
    /// The context without its ignore file, to explain what that hides.
    pub(crate) hidden: Option<Arc<Hidden>>,
    /// Scratch space the contexts live in.
    pub(crate) scratch: Vec<LayerDraft>,
}

/// Where a context was fetched from.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    /// A repository.
    Git(GitSource),
    /// A web server, or a store of objects.
    Url(remote::Address),
}

impl Prepared {
    /// What hides parts of the main context.
    pub(crate) fn ignore_rules(&self) -> IgnoreRules {
        match self.hidden.as_deref() {
            Some(Hidden::Ignored { rules, .. }) => rules.clone(),
            Some(Hidden::NoContext) | None => IgnoreRules::default(),
        }
    }
}

/// Reads it all.
pub(crate) fn prepare(session: &Session<'_>) -> Result<Prepared, Error> {
    let step = session.reporter.step("[internal] load build definition", Vec::new());
    session.reporter.started(step);
    let prepared = Preparation { session, scratch: Vec::new(), origins: HashMap::new() }.run();
    match &prepared {
        Ok(_) => session.reporter.done(step),
        Err(error) => session.reporter.failed(step, error.to_string()),
    }
    prepared
}

struct Preparation<'a> {
    session: &'a Session<'a>,
    scratch: Vec<LayerDraft>,
    origins: HashMap<String, Origin>,
}

/// The name of the build context among the contexts.
const MAIN: &str = "context";

impl Preparation<'_> {
    fn run(mut self) -> Result<Prepared, Error> {
        let main = main_context::open(&mut self)?;
        let found = dockerfile::find(&self, &main)?;
        let is_own = !matches!(main, Main::Extracted(_));
        let mut contexts: HashMap<String, Arc<dyn SourceTree>> = HashMap::new();
        let mut hidden = None;
        let tree = match main {
            Main::Directory(root) => {
                let own = match (&self.session.build.ignore_file, found.path.as_deref()) {
                    (Some(path), _) => ignore::Own::Given(path),
                    (None, Some(dockerfile)) => ignore::Own::Beside(dockerfile),
                    (None, None) => ignore::Own::None,
                };
                let (tree, seen) = ignore::directory(self.session, &root, own)?;
                hidden = seen;
                tree
            }
            Main::Extracted(root) => Arc::new(ContextTree::open(&root, None, None)?),
            Main::Tree(tree) | Main::DockerfileUrl { tree, .. } => tree,
            Main::Dockerfile(_) => {
                hidden = Some(Arc::new(Hidden::NoContext));
                self.empty()?
            }
            Main::Empty => self.empty()?,
        };
        contexts.insert(MAIN.into(), tree);
        let mut named = BTreeMap::new();
        let mut local_images = HashMap::new();
        for (name, value) in &self.session.build.contexts {
            let key = normalised(name);
            let context = named::open(&mut self, &key, value, &mut contexts, &mut local_images)?;
            named.insert(key, context);
        }
        Ok(Prepared {
            dockerfile_path: found.path.filter(|_| is_own),
            dockerfile_name: found.name,
            dockerfile: found.text,
            contexts,
            named,
            local_images,
            hidden,
            origins: self.origins,
            scratch: self.scratch,
        })
    }

    /// A context with nothing in it.
    fn empty(&mut self) -> Result<Arc<dyn SourceTree>, Error> {
        let files = self.session.store.scratch_dir()?;
        let tree = ContextTree::open(&files.fs(), None, None)?;
        self.scratch.push(files);
        Ok(Arc::new(tree))
    }
}
