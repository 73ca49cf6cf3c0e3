//! A store, a context and a reader of OCI archives.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use kiln_fixtures::Bases;

use kiln::{Build, BuildResult, DockerfileSource, Error, Event, OutputSpec};

/// A store and a context of one test.
pub(crate) struct Bench {
    dir: tempfile::TempDir,
    events: Arc<Mutex<Vec<Event>>>,
    /// Where the base images are, for tests that need them.
    registry: Option<String>,
}

impl Bench {
    /// Empty ones.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("context")).unwrap();
        Self { dir, events: Arc::default(), registry: None }
    }

    /// One on which `FROM` a base and RUN work; `None`, with a word why, where the bases cannot be made.
    pub(crate) fn with_base() -> Option<Self> {
        if fs::metadata("/proc/self").unwrap().uid() != 0 {
            eprintln!("skipped: RUN needs root");
            return None;
        }
        let bases = Bases::get_or_skip("builds from a base image")?;
        Some(Self { registry: Some(bases.registry()), ..Self::new() })
    }

    pub(crate) fn context(&self) -> PathBuf {
        self.dir.path().join("context")
    }

    pub(crate) fn write(&self, path: &str, text: &str) -> &Self {
        let path = self.context().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    /// A build of this Dockerfile (`BASE` stands for the registry) in this store.
    pub(crate) fn build(&self, dockerfile: &str) -> Build {
        let events = Arc::clone(&self.events);
        Build::from_context(self.context())
            .dockerfile(DockerfileSource::Text(
                dockerfile.replace("BASE", self.registry.as_deref().unwrap_or("BASE")).into(),
            ))
            .root(self.dir.path().join("store"))
            .on_event(move |event| events.lock().unwrap().push(event))
    }

    /// Builds into an OCI archive and reads it.
    pub(crate) fn image(&self, dockerfile: &str) -> Result<(BuildResult, Image), Error> {
        self.image_of(self.build(dockerfile))
    }

    pub(crate) fn image_of(&self, build: Build) -> Result<(BuildResult, Image), Error> {
        let dest = self.dir.path().join("out.tar");
        let result = build
            .output(OutputSpec::Oci { dest: Some(dest.clone()), tar: true, options: Default::default() })
            .run()?;
        Ok((result, Image::read(&dest)))
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        std::mem::take(&mut *self.events.lock().unwrap())
    }

    /// What steps printed.
    pub(crate) fn log(&self) -> String {
        let bytes = self.events().into_iter().flat_map(|event| match event {
            Event::Log { bytes, .. } => bytes,
            _ => Vec::new(),
        });
        String::from_utf8(bytes.collect()).unwrap()
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }
}

/// An entry of an image: what `ls -l` would say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) line: String,
    pub(crate) bytes: Vec<u8>,
    /// Seconds since the epoch.
    pub(crate) modified: u64,
}

/// An image out of an OCI archive.
pub(crate) struct Image {
    pub(crate) config: kiln::oci::ImageConfig,
    pub(crate) config_digest: kiln::Digest,
    /// Paths of each layer with what they are, bottom first.
    pub(crate) layers: Vec<BTreeMap<String, File>>,
}

impl Image {
    pub(crate) fn read(path: &Path) -> Self {
        let mut blobs = BTreeMap::new();
        let mut archive = tar::Archive::new(fs::File::open(path).unwrap());
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().to_string_lossy().into_owned();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            blobs.insert(name, bytes);
        }
        let blob = |digest: &kiln::Digest| {
            let bytes = &blobs[&format!("blobs/sha256/{}", digest.hex())];
            assert_eq!(kiln::Digest::of(bytes), *digest);
            bytes.clone()
        };
        let index: kiln::oci::Index = serde_json::from_slice(&blobs["index.json"]).unwrap();
        let manifest: kiln::oci::Manifest =
            serde_json::from_slice(&blob(&index.manifests[0].digest)).unwrap();
        let config: kiln::oci::ImageConfig = serde_json::from_slice(&blob(&manifest.config.digest)).unwrap();
        let layers = manifest.layers.iter().zip(&config.rootfs.diff_ids).map(|(layer, diff_id)| {
            let compressed = blob(&layer.digest);
            let mut plain = Vec::new();
            kiln_image::layer::decompress(compressed.as_slice()).unwrap().read_to_end(&mut plain).unwrap();
            assert_eq!(kiln::Digest::of(&plain), diff_id.0);
            files(&plain)
        });
        Self { layers: layers.collect(), config, config_digest: manifest.config.digest }
    }

    /// The files of the topmost layer, one a line.
    pub(crate) fn top(&self) -> String {
        listing(self.layers.last().unwrap())
    }

    /// What ended up at `path`, seen from the top.
    pub(crate) fn text(&self, path: &str) -> String {
        let file = self.layers.iter().rev().find_map(|layer| layer.get(path)).unwrap();
        String::from_utf8(file.bytes.clone()).unwrap()
    }
}

pub(crate) fn listing(layer: &BTreeMap<String, File>) -> String {
    layer.iter().map(|(path, file)| format!("{} {path}\n", file.line)).collect()
}

fn files(tar: &[u8]) -> BTreeMap<String, File> {
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(tar).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_string_lossy().trim_end_matches('/').to_owned();
        let header = entry.header();
        let kind = match header.entry_type() {
            tar::EntryType::Directory => 'd',
            tar::EntryType::Symlink => 'l',
            tar::EntryType::Link => 'h',
            tar::EntryType::Fifo => 'p',
            _ => '-',
        };
        let link = entry.link_name().unwrap().map(|link| format!(" -> {}", link.display()));
        let line = format!(
            "{kind}{:04o} {}:{}{}",
            header.mode().unwrap() & 0o7777,
            header.uid().unwrap(),
            header.gid().unwrap(),
            link.unwrap_or_default()
        );
        let modified = header.mtime().unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        files.insert(path, File { line, bytes, modified });
    }
    files
}
