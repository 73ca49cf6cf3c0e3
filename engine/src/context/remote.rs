//! Contexts and Dockerfiles that are fetched, by the solver's own operations: cached, and with the build's secrets.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use kiln_cache::{ContextTree, Entry, SourceTree};
use kiln_image::Platform;
use kiln_image::http::Signer;
use kiln_remote::{InvalidSpec, StoredObject};
use kiln_solver::git_url::redacted;
use kiln_solver::graph::{CacheUse, GitSource, Graph, Op, Source, Vertex};
use kiln_solver::solve::{Inputs, Output, SolveError};

use super::Preparation;
use super::text::{TEXT_LIMIT, read_limited};
use crate::Error;
use crate::session::{Session, env, sockets};

/// The name of a download in a context of its own (FEATURES CX11).
const FILE_NAME: &str = "context";

/// Mode of a downloaded file (FEATURES CP24).
const FILE_MODE: u32 = 0o600;

/// Where a file can be downloaded from.
#[derive(Clone, Debug)]
pub(crate) struct Address {
    url: String,
    /// In a store of objects: who proves who asks.
    object: Option<StoredObject>,
}

impl Address {
    /// Whether this is an address of a web server or of an object in a store.
    pub(super) fn is_one(text: &str) -> bool {
        text.starts_with("http://") || text.starts_with("https://") || StoredObject::is_named(text)
    }

    /// Reads one, and finds credentials where it is of an object.
    pub(super) fn parse(session: &Session<'_>, text: &str) -> Result<Self, Error> {
        let object =
            StoredObject::parse(text, &session.access(), &env).map_err(|InvalidSpec { message, hint }| {
                Error { hint, ..Error::user(format!("{}: {message}", redacted(text))) }
            })?;
        let url = object.as_ref().map_or(text, StoredObject::url).to_owned();
        Ok(Self { url, object })
    }

    /// The address that is asked.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn signer(&self) -> Option<&dyn Signer> {
        self.object.as_ref().map(|object| object as _)
    }

    /// As people know it.
    pub(super) fn name(&self) -> String {
        redacted(self.object.as_ref().map_or(&self.url, StoredObject::name))
    }

    /// What a store's answer means.
    fn explained(&self, error: SolveError) -> Error {
        let told = match (error.root(), &self.object) {
            (SolveError::Http(error), Some(object)) => object.explain(error),
            _ => None,
        };
        let is_web = matches!(error.root(), SolveError::Http(_));
        let error = Error::from(error);
        match told {
            Some((message, hint)) => Error { message, hint: Some(hint), source: None, ..error },
            // A server's answer alone does not say what it was asked for.
            None if is_web => Error { message: format!("{}: {}", self.name(), error.message), ..error },
            None => error,
        }
    }
}

/// A git tree.
pub(crate) fn git(session: &Session<'_>, source: GitSource) -> Result<Arc<dyn SourceTree>, Error> {
    let name = format!("[internal] load git source {}", redacted(&source.remote));
    let agents = session.agents()?;
    let mut inputs = Inputs { secrets: session.secrets()?, ssh: sockets(&agents), ..Inputs::default() };
    if let Some(agent) = std::env::var_os("SSH_AUTH_SOCK").filter(|agent| !agent.is_empty()) {
        // Who names a context may use one's own agent for it; a Dockerfile may not.
        inputs.ssh.entry("default".to_owned()).or_insert_with(|| agent.into());
    }
    Ok(solve(session, inputs, Source::Git(source), name)?)
}

/// A downloaded file.
pub(super) struct Download {
    tree: Arc<dyn SourceTree>,
    entry: Entry,
}

impl Download {
    pub(super) fn open(&self) -> Result<File, Error> {
        Ok(self.tree.open(&self.entry.path)?)
    }
}

/// Downloads a file, or finds it unchanged in the store.
pub(super) fn download(session: &Session<'_>, address: &Address) -> Result<Download, Error> {
    let name = format!("[internal] load remote build context {}", address.name());
    let source = Source::Http { url: address.url.clone(), checksum: None };
    let signer = address.object.clone().map(|object| Arc::new(object) as Arc<dyn Signer>);
    let signers = signer.into_iter().map(|signer| (address.url.clone(), signer)).collect();
    let inputs = Inputs { secrets: session.secrets()?, signers, ..Inputs::default() };
    let tree = solve(session, inputs, source, name).map_err(|error| address.explained(error))?;
    match tree.read_dir(Path::new(""))?.as_slice() {
        [entry] => Ok(Download { entry: entry.clone(), tree }),
        _ => Err(Error::user(format!("{} is no file", address.name()))),
    }
}

/// A Dockerfile.
pub(super) fn text(session: &Session<'_>, url: &str) -> Result<Vec<u8>, Error> {
    let mut text = Vec::new();
    let file = download(session, &Address { url: url.to_owned(), object: None })?.open()?;
    read_limited(&mut io::Read::take(file, TEXT_LIMIT + 1), &mut text, Path::new(&redacted(url)))?;
    Ok(text)
}

/// A context of nothing but the file, called `context`.
pub(super) fn as_context_file(
    preparation: &mut Preparation<'_>,
    download: &Download,
) -> Result<Arc<dyn SourceTree>, Error> {
    use std::os::unix::fs::PermissionsExt as _;
    let files = preparation.session.store.scratch_dir()?;
    let path = files.fs().join(FILE_NAME);
    let at = |error| Error::io(&path, error);
    let mut file = File::create_new(&path).map_err(at)?;
    io::copy(&mut download.open()?, &mut file).map_err(at)?;
    file.set_permissions(std::fs::Permissions::from_mode(FILE_MODE)).map_err(at)?;
    let nanoseconds = u64::try_from(download.entry.mtime_ns).unwrap_or(0);
    file.set_modified(UNIX_EPOCH + Duration::from_nanos(nanoseconds)).map_err(at)?;
    let tree = ContextTree::open(&files.fs(), None, None)?;
    preparation.scratch.push(files);
    Ok(Arc::new(tree))
}

fn solve(
    session: &Session<'_>,
    inputs: Inputs,
    source: Source,
    name: String,
) -> Result<Arc<dyn SourceTree>, SolveError> {
    let mut graph = Graph::new();
    let vertex = graph.add_node(Vertex {
        op: Op::Source(source),
        name: name.clone(),
        span: None,
        created_by: String::new(),
        cache: CacheUse::Any,
        platform: Platform::host(),
    });
    match session.solver(inputs).solve(&graph, vertex)? {
        Output::Tree(tree) => Ok(tree),
        Output::Snapshot(_) => Err(SolveError::MissingInput { what: "tree", name }),
    }
}
