//! What a build took in: what its provenance tells. Addresses are without passwords, secrets without values.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::path::Path;
use std::time::SystemTime;

use kiln_image::{Digest, ImageRef, Platform};
use kiln_solver::git_url::redacted;
use kiln_solver::graph::{ExecMountKind, GitSource, NetworkMode, Op, Source};
use kiln_solver::plan::{NamedContext, Plan, PlanRequest};
use kiln_solver::solve::Download;

use super::checkout::Checkout;
use super::purl;
use crate::bases::ResolvedBase;
use crate::build::ContextSource;
use crate::context::{Origin, Prepared};
use crate::output::flag;
use crate::session::Session;
use crate::{Error, ErrorKind};

/// What is noted of a build before its first step.
#[derive(Debug, Default)]
pub(crate) struct Request {
    pub(super) started: Option<SystemTime>,
    /// The request's arguments by BuildKit's names, such as `build-arg:NAME`.
    pub(super) arguments: BTreeMap<String, String>,
    pub(super) dockerfile: Vec<u8>,
    /// Without the directories before it.
    pub(super) dockerfile_name: String,
    /// The repository that a context on this machine is of.
    pub(super) checkout: Option<Checkout>,
    /// Of a context that was fetched.
    context: Option<Origin>,
    /// The contexts that were fetched.
    origins: HashMap<String, Origin>,
    /// The contexts that are images of layouts, by the names that were made up for these.
    layouts: HashMap<ImageRef, String>,
    pub(crate) bases: Vec<ResolvedBase>,
}

impl Request {
    pub(crate) fn of(
        session: &Session<'_>,
        prepared: &Prepared,
        plan: &PlanRequest,
        with_checkout: bool,
    ) -> Result<Self, Error> {
        let build = session.build;
        let mut arguments = BTreeMap::new();
        for (name, value) in &plan.build_args {
            arguments.insert(format!("build-arg:{name}"), redacted(value));
        }
        for (name, value) in &plan.labels {
            arguments.insert(format!("label:{name}"), redacted(value));
        }
        let mut add = |name: &str, value: Option<String>| {
            arguments.extend(value.map(|value| (name.to_owned(), value)));
        };
        add("target", plan.target.clone());
        let stages = plan.no_cache_stages.join(",");
        add("no-cache", (plan.no_cache || !stages.is_empty()).then_some(stages));
        add(
            "force-network-mode",
            match plan.network {
                NetworkMode::Default => None,
                NetworkMode::Host => Some("host".to_owned()),
                NetworkMode::None => Some("none".to_owned()),
            },
        );
        add("shm-size", plan.shm_bytes.map(|bytes| bytes.to_string()));
        let layouts = prepared.named.iter().filter_map(|(name, context)| match context {
            NamedContext::Layout(image) => Some((image.clone(), name.clone())),
            _ => None,
        });
        let name = prepared.dockerfile_name.to_string();
        let name = Path::new(&name).file_name();
        Ok(Self {
            started: Some(SystemTime::now()),
            arguments,
            dockerfile: prepared.dockerfile.clone(),
            dockerfile_name: name
                .map_or_else(|| "Dockerfile".into(), |name| name.to_string_lossy().into_owned()),
            checkout: match &build.context {
                ContextSource::Directory(path) if with_checkout && wants_checkout()? => Checkout::of(path),
                _ => None,
            },
            context: match &build.context {
                ContextSource::Url(_) => prepared.origins.get(MAIN).cloned(),
                _ => None,
            },
            origins: prepared.origins.clone(),
            layouts: layouts.collect(),
            bases: Vec::new(),
        })
    }

    /// What an image's name stood for. `manifest` is the image's own.
    fn base(&self, image: &ImageRef, manifest: &Digest) -> Option<&ResolvedBase> {
        self.bases.iter().find(|base| base.manifest == *manifest && base.image == *image)
    }

    /// An image as BuildKit's sources name it.
    pub(super) fn identifier(&self, image: &ImageRef, manifest: &Digest) -> String {
        let digest = self.base(image, manifest).map_or(manifest, |base| &base.digest);
        match self.layouts.get(image) {
            Some(context) => format!("oci-layout://{context}@{digest}"),
            None => format!("docker-image://{}", image.with_digest(*digest)),
        }
    }

    /// An image by the digest of what its name stood for. One of a layout is in no registry.
    fn image(&self, image: &ImageRef, manifest: &Digest, platform: &Platform) -> Material {
        let base = self.base(image, manifest);
        let platform = base.map_or(platform, |base| &base.platform);
        let uri = match self.layouts.get(image) {
            Some(context) => purl::of_layout(context, platform),
            None => purl::of_image(image, platform),
        };
        Material { uri, digest: ("sha256", base.map_or(manifest, |base| &base.digest).hex()) }
    }
}

/// buildx' variable, without which repositories are told.
fn wants_checkout() -> Result<bool, Error> {
    const NAME: &str = "BUILDX_GIT_INFO";
    std::env::var(NAME).map_or(Ok(true), |value| flag(NAME, &value))
}

/// A thing that went into an image, by its address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Material {
    pub(super) uri: String,
    /// Algorithm and value in hex.
    pub(super) digest: (&'static str, String),
}

/// What went into one image.
#[derive(Clone, Debug, Default)]
pub(super) struct Capture {
    /// Images, then repositories, then files, each sorted.
    pub(super) materials: Vec<Material>,
    /// Where the Dockerfile came from, if that was fetched.
    pub(super) config_source: Option<Material>,
    /// Contexts of the machine's own.
    pub(super) locals: BTreeSet<String>,
    /// Ids, and whether a step fails without.
    pub(super) secrets: BTreeMap<String, bool>,
    pub(super) ssh: BTreeMap<String, bool>,
    /// A step could reach the network.
    pub(super) has_network: bool,
}

impl Capture {
    pub(super) fn of(request: &Request, plan: &Plan, downloads: &[Download]) -> Result<Self, Error> {
        let mut capture = Self::default();
        let fetched = Fetched(downloads);
        let (mut images, mut git, mut http) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        match &request.context {
            Some(origin) => {
                let material = fetched.origin(origin)?;
                capture.config_source = Some(material.clone());
                if matches!(origin, Origin::Git(_)) { &mut git } else { &mut http }.insert(material);
            }
            None => _ = capture.locals.insert("dockerfile".to_owned()),
        }
        for vertex in plan.graph.node_weights() {
            match &vertex.op {
                Op::Source(Source::Image { reference, manifest }) => {
                    images.insert(request.image(reference, manifest, &vertex.platform));
                }
                Op::Source(Source::Http { url, checksum }) => {
                    http.insert(fetched.file(url, checksum.as_ref())?);
                }
                Op::Source(Source::Git(source)) => _ = git.insert(fetched.git(source)?),
                Op::Source(Source::Context { name }) => match request.origins.get(name) {
                    Some(Origin::Git(source)) => _ = git.insert(fetched.git(source)?),
                    Some(Origin::Url(address)) => _ = http.insert(fetched.file(address.url(), None)?),
                    None => _ = capture.locals.insert(name.clone()),
                },
                Op::Exec(exec) => {
                    capture.has_network |= exec.network != NetworkMode::None;
                    for mount in &exec.mounts {
                        let (known, id, required) = match &mount.kind {
                            ExecMountKind::Secret { id, required, .. } => {
                                (&mut capture.secrets, id, required)
                            }
                            ExecMountKind::Ssh { id, required, .. } => (&mut capture.ssh, id, required),
                            _ => continue,
                        };
                        *known.entry(id.clone()).or_default() |= required;
                    }
                }
                _ => {}
            }
        }
        capture.materials = images.into_iter().chain(git).chain(http).collect();
        Ok(capture)
    }

    /// Whether everything that went in is known by a digest.
    pub(super) fn is_complete(&self) -> bool {
        self.locals.is_empty()
    }
}

/// What the build fetched by address.
struct Fetched<'a>(&'a [Download]);

impl Fetched<'_> {
    fn origin(&self, origin: &Origin) -> Result<Material, Error> {
        match origin {
            Origin::Git(source) => self.git(source),
            Origin::Url(address) => self.file(address.url(), None),
        }
    }

    fn git(&self, source: &GitSource) -> Result<Material, Error> {
        let wanted = redacted(&source.remote);
        let object = self.0.iter().find_map(|download| match download {
            Download::Git { remote, reference, object }
                if *remote == wanted && *reference == source.reference =>
            {
                Some(object.clone())
            }
            _ => None,
        });
        let object = object.ok_or_else(|| lost(&wanted))?;
        let uri = match source.reference.as_str() {
            "" => wanted,
            reference => format!("{wanted}#{reference}"),
        };
        let algorithm = if object.len() == 64 { "sha256" } else { "sha1" };
        Ok(Material { uri, digest: (algorithm, object) })
    }

    fn file(&self, url: &str, checksum: Option<&Digest>) -> Result<Material, Error> {
        let uri = redacted(url);
        let digest = match checksum {
            Some(checksum) => *checksum,
            None => {
                let path = self.0.iter().find_map(|download| match download {
                    Download::File { url, path } if *url == uri => Some(path),
                    _ => None,
                });
                let path = path.ok_or_else(|| lost(&uri))?;
                let hashed = File::open(path).and_then(|mut file| Digest::of_reader(&mut file));
                hashed.map_err(|error| Error::io(path, error))?
            }
        };
        Ok(Material { uri, digest: ("sha256", digest.hex()) })
    }
}

fn lost(address: &str) -> Error {
    Error::new(ErrorKind::Environment, format!("internal: it is not known what {address} was"))
}

/// The name of the build context among the contexts.
const MAIN: &str = "context";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_known_by_its_commit_and_without_its_password() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let remote = "https://me:CANARY@host/r.git";
        let fetched = [Download::Git {
            remote: redacted(remote),
            reference: "main".to_owned(),
            object: commit.to_owned(),
        }];
        let source = GitSource { remote: remote.into(), reference: "main".into(), ..GitSource::default() };
        let material = Fetched(&fetched).git(&source).unwrap();
        assert_eq!(material.uri, "https://xxxxx:xxxxx@host/r.git#main");
        assert_eq!(material.digest, ("sha1", commit.to_owned()));
        assert!(Fetched(&[]).git(&source).is_err());
    }

    #[test]
    fn an_image_is_known_by_what_its_name_stood_for() {
        let (image, made_up): (ImageRef, ImageRef) =
            ("debian:12".parse().unwrap(), "layout.invalid/context-0:latest".parse().unwrap());
        let (manifest, digest) = (Digest::of(b"manifest"), Digest::of(b"index"));
        let platform = Platform::host();
        let base = |image: &ImageRef| ResolvedBase {
            image: image.clone(),
            platform: platform.clone(),
            manifest,
            digest,
        };
        let request = Request {
            layouts: HashMap::from([(made_up.clone(), "base".to_owned())]),
            bases: vec![base(&image), base(&made_up)],
            ..Request::default()
        };
        let shown = |image: &ImageRef| {
            let material = request.image(image, &manifest, &platform);
            assert_eq!(material.digest, ("sha256", digest.hex()));
            let uri = material.uri.split('?').next().unwrap_or_default().to_owned();
            (uri, request.identifier(image, &manifest))
        };
        let of_registry = format!("docker-image://docker.io/library/debian:12@{digest}");
        assert_eq!(shown(&image), ("pkg:docker/debian@12".to_owned(), of_registry));
        assert_eq!(shown(&made_up), ("pkg:oci/base".to_owned(), format!("oci-layout://base@{digest}")));
    }

    #[test]
    fn a_download_is_known_by_its_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "bytes").unwrap();
        let url = "https://CANARY@host/f";
        let fetched = [Download::File { url: redacted(url), path }];
        let material = Fetched(&fetched).file(url, None).unwrap();
        assert_eq!(material.uri, "https://xxxxx@host/f");
        assert_eq!(material.digest.1, Digest::of(b"bytes").hex());
        let other = Digest::of(b"other");
        assert_eq!(Fetched(&[]).file(url, Some(&other)).unwrap().digest.1, other.hex());
    }
}
