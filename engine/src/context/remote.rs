//! Contexts and Dockerfiles that are fetched, by the solver's own operations: cached, and with the build's secrets.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use kiln_cache::{ContextTree, Entry, SourceTree};
use kiln_image::Platform;
use kiln_solver::git_url::redacted;
use kiln_solver::graph::{CacheUse, GitSource, Graph, Op, Source, Vertex};
use kiln_solver::solve::{Inputs, Output};

use super::Preparation;
use super::text::{TEXT_LIMIT, read_limited};
use crate::Error;
use crate::session::{Session, sockets};

/// The name of a download in a context of its own (FEATURES CX11).
const FILE_NAME: &str = "context";

/// Mode of a downloaded file (FEATURES CP24).
const FILE_MODE: u32 = 0o600;

/// Whether this is an address of a web server.
pub(super) fn is_http(url: &str) -> bool {
    url.starts_with("http://") || url.starts_with("https://")
}

/// A git tree.
pub(crate) fn git(session: &Session<'_>, source: GitSource) -> Result<Arc<dyn SourceTree>, Error> {
    let name = format!("[internal] load git source {}", redacted(&source.remote));
    fetch(session, Source::Git(source), name)
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
pub(super) fn download(session: &Session<'_>, url: &str) -> Result<Download, Error> {
    let name = format!("[internal] load remote build context {}", redacted(url));
    let tree = fetch(session, Source::Http { url: url.to_owned(), checksum: None }, name)?;
    match tree.read_dir(Path::new(""))?.as_slice() {
        [entry] => Ok(Download { entry: entry.clone(), tree }),
        _ => Err(Error::user(format!("{} is no file", redacted(url)))),
    }
}

/// A Dockerfile.
pub(super) fn text(session: &Session<'_>, url: &str) -> Result<Vec<u8>, Error> {
    let mut text = Vec::new();
    let file = download(session, url)?.open()?;
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

fn fetch(session: &Session<'_>, source: Source, name: String) -> Result<Arc<dyn SourceTree>, Error> {
    let agents = session.agents()?;
    let mut inputs = Inputs { secrets: session.secrets()?, ssh: sockets(&agents), ..Inputs::default() };
    if let Some(agent) = std::env::var_os("SSH_AUTH_SOCK").filter(|agent| !agent.is_empty()) {
        // Who names a context may use one's own agent for it; a Dockerfile may not.
        inputs.ssh.entry("default".to_owned()).or_insert_with(|| agent.into());
    }
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
        Output::Snapshot(_) => Err(Error::user(format!("{name}: no tree"))),
    }
}
