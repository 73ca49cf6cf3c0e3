//! What a build reads: the Dockerfile, the ignore file, the context and the named contexts.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use kiln_cache::{ContextTree, LayerDraft, PathFilter, SourceTree, Verdict};
use kiln_image::layer::{self, ExtractOptions};
use kiln_image::oci::{Descriptor, Index, Manifest, PlatformSpec, parse_config};
use kiln_image::registry::RemoteImage;
use kiln_image::{Digest, ImageRef, Platform};
use kiln_parser::ignore::{self, IgnoreMemory, IgnoreRules};
use kiln_solver::graph::{Graph, Op, Source, Vertex};
use kiln_solver::plan::{BaseImage, NamedContext};
use kiln_solver::solve::{CopyError, ImageOrigin, Inputs, Output, SolveError};

use crate::build::{ContextSource, DockerfileSource, Session};
use crate::{Error, ErrorKind};

/// A Dockerfile or ignore file may be so long.
const TEXT_LIMIT: u64 = 16 << 20;

/// A document of an OCI layout may be so long.
const DOCUMENT_LIMIT: u64 = 8 << 20;

/// How deep indexes of a layout may be nested.
const INDEX_DEPTH: usize = 4;

/// All that is known before the Dockerfile is parsed.
pub(crate) struct Prepared {
    /// As people know it.
    pub(crate) dockerfile_name: String,
    pub(crate) dockerfile: Vec<u8>,
    /// Trees by name.
    pub(crate) contexts: HashMap<String, Arc<dyn SourceTree>>,
    /// Named contexts, for the plan.
    pub(crate) named: BTreeMap<String, NamedContext>,
    /// Images of layouts by their made-up names.
    pub(crate) layouts: HashMap<ImageRef, Layout>,
    /// The context without its ignore file, to explain what that hides.
    pub(crate) hidden: Option<Arc<Hidden>>,
    /// Scratch space the contexts live in.
    _scratch: Vec<LayerDraft>,
}

/// What an ignore file may hide.
pub(crate) struct Hidden {
    root: PathBuf,
    ignore_file: String,
}

/// Reads it all.
pub(crate) fn prepare(session: &Session<'_>) -> Result<Prepared, Error> {
    let step = session.reporter.step("[internal] load build definition", Vec::new());
    session.reporter.started(step);
    let prepared = Preparation { session, scratch: Vec::new() }.run();
    match &prepared {
        Ok(_) => session.reporter.done(step),
        Err(error) => session.reporter.failed(step, error.to_string()),
    }
    prepared
}

/// Adds to "not found" that an ignore file hides the path.
pub(crate) fn explain_missing(error: &mut Error, hidden: Option<&Hidden>) {
    let Some(hidden) = hidden else { return };
    let mut cause = error.source.as_deref().map(|cause| cause as &(dyn std::error::Error + 'static));
    while let Some(current) = cause {
        let copy = match current.downcast_ref::<SolveError>().map(SolveError::root) {
            Some(SolveError::Copy(copy)) => Some(copy),
            _ => None,
        };
        if let Some(CopyError::NotFound { path, .. }) = copy
            && let Ok(below) = path.strip_prefix("/")
            && hidden.root.join(below).symlink_metadata().is_ok()
        {
            error.hint =
                Some(format!("`{}` is there, but {} leaves it out", below.display(), hidden.ignore_file));
            return;
        }
        cause = current.source();
    }
}

struct Preparation<'a> {
    session: &'a Session<'a>,
    scratch: Vec<LayerDraft>,
}

/// A directory's tree, and what its ignore file hides.
type Directory = (Arc<dyn SourceTree>, Option<Arc<Hidden>>);

/// The main context.
enum Main {
    Directory(PathBuf),
    /// Whole, no ignore file (FEATURES CX19), with a path to read the Dockerfile from.
    Extracted(PathBuf),
    Tree(Arc<dyn SourceTree>),
    /// Standard input was a Dockerfile.
    Dockerfile(Vec<u8>),
    Empty,
}

impl Preparation<'_> {
    fn run(mut self) -> Result<Prepared, Error> {
        let main = self.main_context()?;
        let (name, beside, dockerfile) = self.dockerfile(&main)?;
        let mut contexts: HashMap<String, Arc<dyn SourceTree>> = HashMap::new();
        let mut hidden = None;
        let tree = match main {
            Main::Directory(root) => {
                let (tree, seen) = self.directory(&root, beside.as_deref())?;
                hidden = seen;
                tree
            }
            Main::Extracted(root) => Arc::new(ContextTree::open(&root, None, None)?),
            Main::Tree(tree) => tree,
            Main::Empty | Main::Dockerfile(_) => self.empty()?,
        };
        contexts.insert("context".into(), tree);
        let mut named = BTreeMap::new();
        let mut layouts = HashMap::new();
        for (name, value) in &self.session.build.contexts {
            let key = normalised(name);
            let context = self.named(&key, value, &mut contexts, &mut layouts)?;
            named.insert(key, context);
        }
        Ok(Prepared {
            dockerfile_name: name,
            dockerfile,
            contexts,
            named,
            layouts,
            hidden,
            _scratch: self.scratch,
        })
    }

    fn main_context(&mut self) -> Result<Main, Error> {
        match &self.session.build.context {
            ContextSource::Empty => Ok(Main::Empty),
            ContextSource::Directory(path) => match std::fs::metadata(path) {
                Ok(metadata) if metadata.is_dir() => {
                    let root = path.canonicalize().map_err(|error| Error::io(path, error))?;
                    Ok(Main::Directory(root))
                }
                Ok(_) => Err(Error::user(format!(
                    "unable to prepare context: path \"{}\" is no directory",
                    path.display()
                ))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::user(format!(
                    "unable to prepare context: path \"{}\" not found",
                    path.display()
                ))),
                Err(error) => Err(Error::io(path, error)),
            },
            ContextSource::Stream(stream) => {
                let mut stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
                self.archive_or_text(&mut *stream, Path::new("standard input"))
            }
            ContextSource::Url(url) if is_git(url) => Ok(Main::Tree(self.git(url)?)),
            ContextSource::Url(url) => {
                let mut download = self.session.http.fetch_url(url, self.session.cancel)?;
                self.archive_or_text(&mut download.reader, Path::new(url))
            }
        }
    }

    /// An archive is the context; anything else is a Dockerfile (FEATURES CX2, CX3, CX6).
    fn archive_or_text(&mut self, stream: &mut dyn Read, name: &Path) -> Result<Main, Error> {
        let mut head = Vec::new();
        let read = Read::take(&mut *stream, layer::ARCHIVE_HEAD_BYTES as u64).read_to_end(&mut head);
        read.map_err(|error| Error::io(name, error))?;
        if !layer::is_archive(&head) {
            read_limited(&mut Read::take(&mut *stream, TEXT_LIMIT), &mut head, name)?;
            return Ok(Main::Dockerfile(head));
        }
        let files = self.session.store.scratch_dir()?;
        let root = files.fs();
        let target = File::open(&root).map_err(|error| Error::io(&root, error))?;
        let mut whole = Cursor::new(head).chain(stream);
        layer::extract_archive(&mut whole, target.as_fd(), ExtractOptions::default())?;
        self.scratch.push(files);
        Ok(Main::Extracted(root))
    }

    /// The Dockerfile's name, where it is on the host, and its text.
    fn dockerfile(&self, main: &Main) -> Result<(String, Option<PathBuf>, Vec<u8>), Error> {
        let source = &self.session.build.dockerfile;
        if let Main::Dockerfile(text) = main {
            return match source {
                DockerfileSource::Default => Ok(("Dockerfile".into(), None, text.clone())),
                _ => Err(Error::user(
                    "ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles",
                )),
            };
        }
        let within = match main {
            Main::Directory(root) | Main::Extracted(root) => Some(root.as_path()),
            _ => None,
        };
        match source {
            DockerfileSource::Text(text) => Ok(("Dockerfile".into(), None, text.clone())),
            DockerfileSource::Path(path) => {
                let in_tree = !matches!(main, Main::Directory(_)) && path.is_relative();
                if let (Main::Tree(tree), true) = (main, in_tree) {
                    return from_tree(tree, &path.to_string_lossy());
                }
                let mut candidates = Vec::new();
                match (in_tree, within) {
                    (true, Some(root)) => candidates.push(beneath(root, path)?),
                    _ => {
                        candidates.push(path.clone());
                        candidates.extend(within.filter(|_| path.is_relative()).map(|root| root.join(path)));
                    }
                }
                first_readable(&candidates, path)
            }
            DockerfileSource::Default => match (main, within) {
                (Main::Tree(tree), _) => {
                    from_tree(tree, "Dockerfile").or_else(|_| from_tree(tree, "dockerfile"))
                }
                (_, Some(root)) => {
                    let candidates: Vec<_> = ["Dockerfile", "dockerfile"]
                        .iter()
                        .filter_map(|name| beneath(root, Path::new(name)).ok())
                        .collect();
                    first_readable(&candidates, Path::new("Dockerfile"))
                }
                _ => Err(Error::user("there is neither a Dockerfile nor a context to find one in")),
            },
        }
    }

    /// A directory of the host's with its ignore file: the Dockerfile's own comes first (FEATURES CX13).
    fn directory(&self, root: &Path, dockerfile: Option<&Path>) -> Result<Directory, Error> {
        let mut candidates = Vec::new();
        if let Some(dockerfile) = dockerfile {
            let mut own = dockerfile.as_os_str().to_owned();
            own.push(".dockerignore");
            candidates.push(PathBuf::from(own));
        }
        candidates.push(root.join(".dockerignore"));
        let mut filter: Option<Box<dyn PathFilter>> = None;
        let mut hidden = None;
        for path in candidates {
            let Some(text) = read_text(&path)? else { continue };
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let rules = IgnoreRules::parse(&text).map_err(|error| {
                Error::user(format!("{name}:{}: {error}", error.number))
                    .hinted("mend the line or take it out")
            })?;
            if !rules.is_empty() {
                filter = Some(Box::new(Rules(IgnoreMemory::new(rules))));
                hidden = Some(Arc::new(Hidden { root: root.to_owned(), ignore_file: name }));
            }
            break;
        }
        let index = self.session.store.context_index_path(root);
        let tree = ContextTree::open(root, filter, Some(&index))?;
        Ok((Arc::new(tree), hidden))
    }

    fn empty(&mut self) -> Result<Arc<dyn SourceTree>, Error> {
        let files = self.session.store.scratch_dir()?;
        let tree = ContextTree::open(&files.fs(), None, None)?;
        self.scratch.push(files);
        Ok(Arc::new(tree))
    }

    fn named(
        &mut self,
        name: &str,
        value: &str,
        contexts: &mut HashMap<String, Arc<dyn SourceTree>>,
        layouts: &mut HashMap<ImageRef, Layout>,
    ) -> Result<NamedContext, Error> {
        if let Some(image) = value.strip_prefix("docker-image://") {
            let image = image.parse().map_err(|error: kiln_image::InvalidReference| {
                Error::user(format!("build context {name}: {error}"))
            })?;
            return Ok(NamedContext::Image(image));
        }
        if let Some(layout) = value.strip_prefix("oci-layout://") {
            let layout = Layout::parse(layout);
            // No registry has this name: `.invalid` is reserved (RFC 2606).
            let made_up = format!("layout.invalid/context-{}:latest", layouts.len());
            let made_up: ImageRef = made_up.parse().map_err(|error: kiln_image::InvalidReference| {
                Error::new(ErrorKind::Environment, error.to_string())
            })?;
            layouts.insert(made_up.clone(), layout);
            return Ok(NamedContext::Layout(made_up));
        }
        let tree = if is_git(value) {
            self.git(value)?
        } else if value.starts_with("http://") || value.starts_with("https://") {
            self.download(value)?
        } else {
            let path = Path::new(value.strip_prefix("local:").unwrap_or(value));
            let root = path
                .canonicalize()
                .map_err(|error| Error::user(format!("build context {name}: {}: {error}", path.display())))?;
            self.directory(&root, None)?.0
        };
        contexts.insert(name.to_owned(), tree);
        Ok(NamedContext::Tree)
    }

    /// An archive's contents, or one file called `context` (FEATURES CX11).
    fn download(&mut self, url: &str) -> Result<Arc<dyn SourceTree>, Error> {
        let mut download = self.session.http.fetch_url(url, self.session.cancel)?;
        let root = match self.archive_or_text(&mut download.reader, Path::new(url))? {
            Main::Extracted(root) => root,
            Main::Dockerfile(bytes) => {
                let files = self.session.store.scratch_dir()?;
                let path = files.fs().join("context");
                std::fs::write(&path, bytes).map_err(|error| Error::io(&path, error))?;
                let root = files.fs();
                self.scratch.push(files);
                root
            }
            _ => return self.empty(),
        };
        Ok(Arc::new(ContextTree::open(&root, None, None)?))
    }

    /// A git tree, by the solver's own operation. `url#reference:directory` (FEATURES CX5).
    fn git(&self, url: &str) -> Result<Arc<dyn SourceTree>, Error> {
        let (remote, fragment) = url.split_once('#').unwrap_or((url, ""));
        let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
        let remote =
            if remote.starts_with("github.com/") { format!("https://{remote}") } else { remote.to_owned() };
        let keep = self.session.build.args.iter().any(|(name, value)| {
            name == "BUILDKIT_CONTEXT_KEEP_GIT_DIR" && matches!(value.as_str(), "1" | "true")
        });
        let mut graph = Graph::new();
        let vertex = graph.add_node(Vertex {
            op: Op::Source(Source::Git {
                remote: remote.clone(),
                reference: reference.to_owned(),
                subdir: subdir.to_owned(),
                keep_git_dir: keep,
                checksum: None,
            }),
            name: format!("[internal] load git source {remote}"),
            span: None,
            created_by: String::new(),
            ignore_cache: false,
            platform: Platform::host(),
        });
        match self.session.solver(Inputs::default()).solve(&graph, vertex)? {
            Output::Tree(tree) => Ok(tree),
            Output::Snapshot(_) => Err(Error::user(format!("{remote} is no tree"))),
        }
    }
}

/// Whether docker takes a URL for a git repository.
fn is_git(url: &str) -> bool {
    let path = url.split('#').next().unwrap_or(url);
    url.starts_with("git://")
        || url.starts_with("ssh://")
        || url.starts_with("git@")
        || url.starts_with("github.com/")
        || ((url.starts_with("http://") || url.starts_with("https://")) && path.ends_with(".git"))
}

/// `docker.io/library/alpine:latest` and `alpine` are one name.
fn normalised(name: &str) -> String {
    if name.contains("::") {
        return name.to_owned();
    }
    match name.parse::<ImageRef>() {
        Ok(image) => {
            let familiar = image.familiar();
            familiar.strip_suffix(":latest").unwrap_or(&familiar).to_owned()
        }
        Err(_) => name.to_lowercase(),
    }
}

fn first_readable(candidates: &[PathBuf], name: &Path) -> Result<(String, Option<PathBuf>, Vec<u8>), Error> {
    for path in candidates {
        if let Some(text) = read_text(path)? {
            return Ok((name.display().to_string(), Some(path.clone()), text));
        }
    }
    Err(Error::user(format!("failed to read dockerfile: open {}: no such file or directory", name.display())))
}

fn from_tree(tree: &Arc<dyn SourceTree>, name: &str) -> Result<(String, Option<PathBuf>, Vec<u8>), Error> {
    let path = tree.resolve(Path::new(name.trim_start_matches('/')))?;
    if tree.entry(&path)?.is_none() {
        let message = format!("failed to read dockerfile: open {name}: no such file or directory");
        return Err(Error::user(message));
    }
    let mut text = Vec::new();
    read_limited(&mut tree.open(&path)?.take(TEXT_LIMIT + 1), &mut text, &path)?;
    Ok((name.to_owned(), None, text))
}

/// A path in an untrusted tree; links in it must not lead out.
fn beneath(root: &Path, path: &Path) -> Result<PathBuf, Error> {
    let tree = ContextTree::open(root, None, None)?;
    Ok(root.join(tree.resolve(path)?))
}

/// A regular file's text; `None` when there is no such file.
fn read_text(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => {
            return Err(Error::user(format!("{} is a directory", path.display())));
        }
        Ok(_) => {}
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(Error::io(path, error)),
    }
    let mut text = Vec::new();
    let file = File::open(path).map_err(|error| Error::io(path, error))?;
    read_limited(&mut file.take(TEXT_LIMIT + 1), &mut text, path)?;
    Ok(Some(text))
}

fn read_limited(reader: &mut dyn Read, text: &mut Vec<u8>, path: &Path) -> Result<(), Error> {
    reader.read_to_end(text).map_err(|error| Error::io(path, error))?;
    if text.len() as u64 > TEXT_LIMIT {
        return Err(Error::user(format!("{} is longer than {TEXT_LIMIT} bytes", path.display())));
    }
    Ok(())
}

/// An ignore file's rules as a tree wants them.
#[derive(Debug)]
struct Rules(IgnoreMemory);

impl PathFilter for Rules {
    fn verdict(&self, path: &str) -> Verdict {
        match self.0.verdict(path) {
            ignore::Verdict::Keep => Verdict::Keep,
            ignore::Verdict::Skip => Verdict::Skip,
            ignore::Verdict::Prune => Verdict::Prune,
        }
    }
}

/// An image in an OCI layout: a directory and which of its images.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    dir: PathBuf,
    which: Which,
}

#[derive(Clone, Debug)]
enum Which {
    Tag(String),
    Digest(String),
}

impl Layout {
    /// `path[:tag]` or `path@digest`.
    fn parse(text: &str) -> Self {
        if let Some((dir, digest)) = text.split_once('@') {
            return Self { dir: dir.into(), which: Which::Digest(digest.to_owned()) };
        }
        match text.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) {
            Some((dir, tag)) => Self { dir: dir.into(), which: Which::Tag(tag.to_owned()) },
            None => Self { dir: text.into(), which: Which::Tag("latest".into()) },
        }
    }

    /// Reads the manifest and config for `platform`.
    pub(crate) fn resolve(
        &self,
        reference: &ImageRef,
        platform: &Platform,
    ) -> Result<(BaseImage, ImageOrigin), Error> {
        let path = self.dir.join("index.json");
        let index: Index = parse(&path, &read_document(&path)?)?;
        let entry = self.entry(&index)?;
        let (descriptor, manifest_bytes) = self.manifest(entry, platform, INDEX_DEPTH)?;
        let manifest: Manifest = parse(&self.dir, &manifest_bytes)?;
        let config_bytes = self.blob(&manifest.config)?;
        let config = parse_config(&config_bytes).map_err(|error| Error::user(error.to_string()))?;
        let base = BaseImage { digest: entry.digest, manifest: descriptor.digest, config: config.clone() };
        let image = RemoteImage {
            reference: reference.clone(),
            digest: entry.digest,
            manifest_digest: descriptor.digest,
            manifest_bytes,
            manifest,
            config_bytes,
            config,
        };
        Ok((base, ImageOrigin::Layout { path: self.dir.clone(), image: Arc::new(image) }))
    }

    fn entry<'a>(&self, index: &'a Index) -> Result<&'a Descriptor, Error> {
        const NAME: &str = "org.opencontainers.image.ref.name";
        let found = match &self.which {
            Which::Digest(digest) => index.manifests.iter().find(|entry| entry.digest.to_string() == *digest),
            Which::Tag(tag) => {
                let named = |entry: &&Descriptor| {
                    entry
                        .annotations
                        .get(NAME)
                        .is_some_and(|name| name == tag || name.ends_with(&format!(":{tag}")))
                };
                // A layout of one image needs no name.
                index.manifests.iter().find(named).or(match index.manifests.as_slice() {
                    [only] => Some(only),
                    _ => None,
                })
            }
        };
        found.ok_or_else(|| {
            let which = match &self.which {
                Which::Tag(which) | Which::Digest(which) => which,
            };
            Error::user(format!("{}: the layout has no image `{which}`", self.dir.display()))
        })
    }

    fn manifest(
        &self,
        entry: &Descriptor,
        platform: &Platform,
        depth: usize,
    ) -> Result<(Descriptor, Vec<u8>), Error> {
        let bytes = self.blob(entry)?;
        if !entry.media_type.contains("index") && !entry.media_type.contains("manifest.list") {
            return Ok((entry.clone(), bytes));
        }
        let index: Index = parse(&self.dir, &bytes)?;
        let wanted = PlatformSpec::from(platform);
        let found = index.manifests.iter().find(|entry| {
            entry.platform.as_ref().is_some_and(|platform| {
                platform.os == wanted.os
                    && platform.architecture == wanted.architecture
                    && (platform.variant == wanted.variant || wanted.variant.is_empty())
            })
        });
        match found {
            Some(found) if depth > 0 => self.manifest(found, platform, depth - 1),
            _ => Err(Error::user(format!("{}: the layout has no image for {platform}", self.dir.display()))),
        }
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
        let path = self.dir.join("blobs/sha256").join(descriptor.digest.hex());
        let bytes = read_document(&path)?;
        if Digest::of(&bytes) != descriptor.digest {
            return Err(Error::user(format!("{}: the bytes are not those of its name", path.display())));
        }
        Ok(bytes)
    }
}

fn read_document(path: &Path) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| Error::io(path, error))?;
    file.take(DOCUMENT_LIMIT).read_to_end(&mut bytes).map_err(|error| Error::io(path, error))?;
    Ok(bytes)
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|error| Error::user(format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_one_image_are_one_context() {
        for name in ["alpine", "alpine:latest", "docker.io/library/alpine", "Alpine"] {
            assert_eq!(normalised(name), "alpine", "{name}");
        }
        assert_eq!(normalised("alpine:3"), "alpine:3");
    }

    #[test]
    fn git_urls_are_told_from_downloads() {
        assert!(is_git("https://h/r.git#main:dir"));
        assert!(is_git("git@github.com:o/r"));
        assert!(!is_git("https://h/r.tar.gz"));
        assert!(!is_git("https://h/r.tar.gz#x.git"));
    }
}
