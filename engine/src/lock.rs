//! The source lock: what each source of a Dockerfile was when `kiln lock` looked, in a file beside it.
//!
//! An image's name, a URL and a branch may mean something else tomorrow. A locked build takes what they meant then, and
//! fails, naming the source, where the Dockerfile asks for something that the lock does not have or where what comes is
//! not what it says. `docs/lock.md` shows the format.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Mutex;

use kiln_image::{Digest, ImageRef, Platform};
use kiln_parser::Dockerfile;
use kiln_solver::git_url::{is_commit, redacted};
use kiln_solver::graph::{GitSource, Graph, Op, Source, Vertex};
use kiln_solver::plan::{self, PlanRequest};
use kiln_solver::solve::{Inputs, Output};

use crate::bases::Bases;
use crate::build::Build;
use crate::context::{self, Prepared};
use crate::session::{Session, sockets};
use crate::whole_file::write_whole;
use crate::{Error, ErrorKind};

/// The first line that is no comment; another version is not read.
const VERSION: &str = "kiln-lock 1";

/// A lock may be so long.
const LIMIT_BYTES: u64 = 4 << 20;

const COMMENT: &str = "\
# What the sources of the Dockerfile beside this file were. `kiln lock` writes it, `kiln build --locked` keeps to it.
";

/// A source of a Dockerfile that may change under its name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LockedSource {
    /// A base image by its whole name.
    Image(String),
    /// A file by its address, without a password in it.
    Http(String),
    /// A repository's address, without a password in it, and the branch or tag behind `#` where one is named.
    Git(String),
}

/// What the sources of a Dockerfile were.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lock {
    /// By source: an image's or file's digest, a commit.
    sources: BTreeMap<LockedSource, String>,
}

/// What [`Build::lock`] found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LockReport {
    /// The file.
    pub path: PathBuf,
    /// What it says now.
    pub lock: Lock,
    /// What it said before; `None` where it was not there.
    pub before: Option<Lock>,
}

impl std::fmt::Display for LockedSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Image(name) => write!(f, "image {name}"),
            Self::Http(url) => write!(f, "http {url}"),
            Self::Git(address) => write!(f, "git {address}"),
        }
    }
}

impl std::fmt::Display for Lock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{COMMENT}{VERSION}")?;
        self.sources.iter().try_for_each(|(source, value)| writeln!(f, "{source} {value}"))
    }
}

impl FromStr for Lock {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut lines =
            (1..).zip(text.lines()).filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        match lines.next() {
            Some((_, VERSION)) => {}
            _ => return Err(format!("it does not begin with `{VERSION}`")),
        }
        let mut lock = Self::default();
        for (number, line) in lines {
            let wrong = || format!("line {number} is no source: {line}");
            let (kind, rest) = line.split_once(' ').ok_or_else(wrong)?;
            let (name, value) = rest.rsplit_once(' ').ok_or_else(wrong)?;
            let (source, is_value) = match kind {
                "image" => (LockedSource::Image(name.to_owned()), value.parse::<Digest>().is_ok()),
                "http" => (LockedSource::Http(name.to_owned()), value.parse::<Digest>().is_ok()),
                "git" => (LockedSource::Git(name.to_owned()), is_commit(value)),
                _ => return Err(wrong()),
            };
            if !is_value || lock.sources.insert(source, value.to_owned()).is_some() {
                return Err(wrong());
            }
        }
        Ok(lock)
    }
}

impl LockedSource {
    fn image(image: &ImageRef) -> Self {
        Self::Image(image.to_string())
    }

    fn http(url: &str) -> Self {
        Self::Http(redacted(url))
    }

    fn git(source: &GitSource) -> Self {
        let remote = redacted(&source.remote);
        match source.reference.as_str() {
            "" => Self::Git(remote),
            reference => Self::Git(format!("{remote}#{reference}")),
        }
    }
}

impl Lock {
    /// The sources, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = (&LockedSource, &str)> {
        self.sources.iter().map(|(source, value)| (source, value.as_str()))
    }

    /// What a source was.
    pub fn get(&self, source: &LockedSource) -> Option<&str> {
        self.sources.get(source).map(String::as_str)
    }

    fn read(path: &Path) -> Result<Option<Self>, Error> {
        let Some(text) = context::read_text_of_user(path, LIMIT_BYTES)? else { return Ok(None) };
        let text = String::from_utf8_lossy(&text);
        let lock = text.parse().map_err(|problem| Error::user(format!("{}: {problem}", path.display())))?;
        Ok(Some(lock))
    }

    fn wanted(&self, source: &LockedSource) -> Result<&str, Error> {
        self.get(source).ok_or_else(|| {
            Error::user(format!("the lock does not have this source: {source}"))
                .hinted("take it in with `kiln lock`, and look at what changes in the lock")
        })
    }
}

/// A lock that a build keeps to.
#[derive(Debug)]
pub(crate) struct Pins {
    lock: Lock,
}

impl Pins {
    /// The lock beside the Dockerfile of a build that asks for it.
    pub(crate) fn of(build: &Build, prepared: &Prepared) -> Result<Option<Self>, Error> {
        if !build.locked {
            return Ok(None);
        }
        let path = path_of(prepared)?;
        let lock = Lock::read(&path)?.ok_or_else(|| {
            Error::user(format!("there is no lock {}", path.display())).hinted("make it with `kiln lock`")
        })?;
        Ok(Some(Self { lock }))
    }

    /// The digest that an image had; `None` where its name says it.
    pub(crate) fn image(&self, image: &ImageRef) -> Result<Option<Digest>, Error> {
        if image.digest().is_some() {
            return Ok(None);
        }
        let digest = self.lock.wanted(&LockedSource::image(image))?;
        digest.parse().map(Some).map_err(|_| Error::user(format!("the lock has no digest of {image}")))
    }

    /// Makes the sources of a graph ask for what they were.
    pub(crate) fn apply(&self, graph: &mut Graph) -> Result<(), Error> {
        for vertex in graph.node_weights_mut() {
            match &mut vertex.op {
                Op::Source(Source::Http { url, checksum: checksum @ None }) => {
                    let digest = self.lock.wanted(&LockedSource::http(url))?;
                    *checksum = digest.parse().ok();
                }
                Op::Source(Source::Git(source)) if !is_commit(&source.reference) => {
                    source.checksum = Some(self.lock.wanted(&LockedSource::git(source))?.to_owned());
                    source.fetch_by_commit = true;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Build {
    /// Keeps to the lock beside the Dockerfile: fails where that does not have a source, and where a source is not what
    /// it says.
    pub fn locked(mut self, yes: bool) -> Self {
        self.locked = yes;
        self
    }

    /// Looks every source of the Dockerfile up, those of all stages and of all platforms asked for, and writes the lock
    /// beside it.
    ///
    /// # Errors
    /// As a build's before its first step; a source that cannot be had.
    pub fn lock(self) -> Result<LockReport, Error> {
        let report = self.look_up_sources()?;
        let path = &report.path;
        write_whole(path, report.lock.to_string().as_bytes())?;
        Ok(report)
    }

    /// As [`Build::lock`], but writes nothing.
    ///
    /// # Errors
    /// As [`Build::lock`].
    pub fn look_up_sources(self) -> Result<LockReport, Error> {
        self.with_session(|session| session.look_up_sources())
    }
}

impl Session<'_> {
    fn look_up_sources(&self) -> Result<LockReport, Error> {
        let prepared = context::prepare(self)?;
        let path = path_of(&prepared)?;
        let before = Lock::read(&path)?;
        let (name, text) = (prepared.dockerfile_name.clone(), prepared.dockerfile.clone());
        let lock = self.sources_of(prepared).map_err(|error| error.in_dockerfile(&name, &text))?;
        Ok(LockReport { path, lock, before })
    }

    fn sources_of(&self, mut prepared: Prepared) -> Result<Lock, Error> {
        let dockerfile = self.read(&prepared.dockerfile)?;
        let mut request = self.plan_request(&mut prepared, &dockerfile)?;
        let mut lock = Lock::default();
        let local: Vec<ImageRef> = prepared.local_images.keys().cloned().collect();
        let bases = Bases::new(self, prepared.local_images, None);
        let mut remote = Remote { session: self, seen: HashMap::new() };
        for platform in self.platforms(&dockerfile, &mut request, &bases)? {
            request.platform = platform;
            let (images, graph) = self.planned_sources(&dockerfile, &request, &bases)?;
            for (image, digest) in images {
                if image.digest().is_none() && !local.contains(&image) {
                    lock.sources.insert(LockedSource::image(&image), digest.to_string());
                }
            }
            for vertex in graph.node_weights() {
                if let Op::Source(source) = &vertex.op
                    && let Some((source, value)) = remote.look_up(source)?
                {
                    lock.sources.insert(source, value);
                }
            }
        }
        Ok(lock)
    }

    fn planned_sources(
        &self,
        dockerfile: &Dockerfile,
        request: &PlanRequest,
        bases: &Bases<'_>,
    ) -> Result<(Vec<(ImageRef, Digest)>, Graph), Error> {
        let images = Mutex::new(Vec::new());
        let mut resolve = |image: &ImageRef, platform: &Platform| {
            let base = bases.resolve(image, platform)?;
            if let Ok(mut images) = images.lock() {
                images.push((image.clone(), base.digest));
            }
            Ok(base)
        };
        let graph = plan::all_stages(dockerfile, request, &mut resolve)?.graph;
        let images = images.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        Ok((images, graph))
    }
}

/// Asks servers what a source is, each once.
struct Remote<'a> {
    session: &'a Session<'a>,
    seen: HashMap<LockedSource, String>,
}

impl Remote<'_> {
    fn look_up(&mut self, source: &Source) -> Result<Option<(LockedSource, String)>, Error> {
        let name = match source {
            Source::Http { url, checksum: None } => LockedSource::http(url),
            Source::Git(git) if !is_commit(&git.reference) => LockedSource::git(git),
            _ => return Ok(None),
        };
        if let Some(value) = self.seen.get(&name) {
            return Ok(Some((name, value.clone())));
        }
        let value = match source {
            Source::Git(git) => {
                let agents = self.session.agents()?;
                let inputs =
                    Inputs { secrets: self.session.secrets()?, ssh: sockets(&agents), ..Inputs::default() };
                self.session.solver(inputs).git_object(git)?
            }
            _ => self.file_digest(source)?.to_string(),
        };
        self.seen.insert(name.clone(), value.clone());
        Ok(Some((name, value)))
    }

    fn file_digest(&self, source: &Source) -> Result<Digest, Error> {
        let mut graph = Graph::new();
        let vertex = graph.add_node(Vertex {
            op: Op::Source(source.clone()),
            name: format!("[internal] look up {}", self.shown(source)),
            span: None,
            created_by: String::new(),
            cache: kiln_solver::graph::CacheUse::Any,
            platform: Platform::host(),
        });
        let inputs = Inputs { secrets: self.session.secrets()?, ..Inputs::default() };
        let lost = || Error::new(ErrorKind::Environment, "a download is not there".to_owned());
        let Output::Tree(tree) = self.session.solver(inputs).solve(&graph, vertex)? else {
            return Err(lost());
        };
        let files = tree.read_dir(Path::new(""))?;
        let file = files.first().ok_or_else(lost)?;
        Digest::of_reader(&mut tree.open(&file.path)?).map_err(|error| Error::io(&file.path, error))
    }

    fn shown(&self, source: &Source) -> String {
        match source {
            Source::Http { url, .. } => redacted(url),
            _ => String::new(),
        }
    }
}

/// Where the lock of a Dockerfile is.
fn path_of(prepared: &Prepared) -> Result<PathBuf, Error> {
    let Some(path) = &prepared.dockerfile_path else {
        return Err(Error::user("a lock is beside the Dockerfile, and this one is not on disk"));
    };
    let mut path = path.clone().into_os_string();
    path.push(".lock");
    Ok(path.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_read_as_it_was_written() {
        let digest = Digest::of(b"x").to_string();
        let commit = "0123456789abcdef0123456789abcdef01234567".to_owned();
        let sources = BTreeMap::from([
            (LockedSource::Git("https://h/r.git#main".into()), commit),
            (LockedSource::Http("https://h/f.tar".into()), digest.clone()),
            (LockedSource::Image("docker.io/library/debian:12".into()), digest),
        ]);
        let lock = Lock { sources };
        let text = lock.to_string();
        assert_eq!(text.parse::<Lock>(), Ok(lock));
        let order: Vec<_> = text.lines().skip(2).filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(order, ["image", "http", "git"]);
    }

    #[test]
    fn a_lock_that_is_none_says_where() {
        let read = |text: &str| text.parse::<Lock>().unwrap_err();
        assert_eq!(read(""), "it does not begin with `kiln-lock 1`");
        assert_eq!(read("# x\nkiln-lock 2\n"), "it does not begin with `kiln-lock 1`");
        assert_eq!(read("kiln-lock 1\nimage a sha256:1\n"), "line 2 is no source: image a sha256:1");
        assert_eq!(read("kiln-lock 1\n\nnpm a b\n"), "line 3 is no source: npm a b");
    }
}
