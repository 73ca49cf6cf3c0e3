//! Base images: names to digests and configs. The store is asked first, then the registry; no layers are pulled.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use kiln_cache::{ImageRecord, LayerId, StoreError};
use kiln_image::oci::{ImageConfig, Manifest, parse_config};
use kiln_image::registry::{RegistryError, RemoteImage};
use kiln_image::{Digest, ImageRef, Platform};
use kiln_solver::plan::{BaseError, BaseImage};
use kiln_solver::solve::ImageOrigin;

use crate::Error;
use crate::context::LocalImage;
use crate::lock::Pins;
use crate::session::Session;

/// Manifests and configs in the store are read up to this size.
const DOCUMENT_LIMIT: u64 = 8 << 20;
/// Most are shorter: they are read at once.
const USUAL_DOCUMENT_BYTES: usize = 16 << 10;

/// What an image's name stood for.
#[derive(Clone, Debug)]
pub(crate) struct ResolvedBase {
    pub(crate) image: ImageRef,
    pub(crate) platform: Platform,
    /// Of the platform's manifest.
    pub(crate) manifest: Digest,
    /// Of what the name pointed at.
    pub(crate) digest: Digest,
}

type Resolved = Result<(BaseImage, ImageOrigin), Arc<Error>>;

/// The base images of one build, each looked up once.
pub(crate) struct Bases<'a> {
    session: &'a Session<'a>,
    local_images: HashMap<ImageRef, LocalImage>,
    /// What the images were, for a build that keeps to that.
    pins: Option<&'a Pins>,
    known: Mutex<HashMap<(ImageRef, Platform), Resolved>>,
}

impl<'a> Bases<'a> {
    pub(crate) fn new(
        session: &'a Session<'a>,
        local_images: HashMap<ImageRef, LocalImage>,
        pins: Option<&'a Pins>,
    ) -> Self {
        Self { session, local_images, pins, known: Mutex::default() }
    }

    /// Looks all of `names` up at once; errors are told when the plan asks.
    pub(crate) fn resolve_all(&self, names: &[(ImageRef, Platform)]) {
        if names.len() < 2 {
            return;
        }
        std::thread::scope(|scope| {
            for (image, platform) in names {
                scope.spawn(move || self.look_up(image, platform).map(drop));
            }
        });
    }

    /// What the planner wants to know.
    pub(crate) fn resolve(&self, image: &ImageRef, platform: &Platform) -> Result<BaseImage, BaseError> {
        match self.look_up(image, platform) {
            Ok((base, _)) => Ok(base),
            Err(error) => Err(Box::new(Unresolved(error))),
        }
    }

    /// The same; `None` where the registry cannot be reached.
    pub(crate) fn resolve_if_in_reach(
        &self,
        image: &ImageRef,
        platform: &Platform,
    ) -> Result<Option<BaseImage>, BaseError> {
        match self.look_up(image, platform) {
            Ok((base, _)) => Ok(Some(base)),
            Err(error) => {
                let cause = error.source.as_ref().and_then(|cause| cause.downcast_ref());
                match cause {
                    Some(RegistryError::Unreachable { .. } | RegistryError::TooManyRequests { .. }) => {
                        Ok(None)
                    }
                    _ => Err(Box::new(Unresolved(error))),
                }
            }
        }
    }

    /// The platforms that an image is there for. Of an image that was built or loaded here those that the store has.
    pub(crate) fn platforms(&self, image: &ImageRef) -> Result<Vec<Platform>, Error> {
        let host = Platform::host();
        if self.local_images.contains_key(image) {
            let (base, _) = self.find(image, &host)?;
            return Ok(vec![base.config.platform()]);
        }
        let build = self.session.build;
        let mut stored = self.session.store.images()?;
        stored.retain(|record| record.name.as_ref() == Some(image));
        let is_own = !build.pull && stored.iter().any(|record| record.remote_digest.is_none());
        if is_own || build.offline {
            return Ok(stored.into_iter().map(|record| record.platform).collect());
        }
        let pinned = self.pins.map(|pins| pins.image(image)).transpose()?.flatten();
        let image = pinned.map_or_else(|| image.clone(), |digest| image.with_digest(digest));
        Ok(self.session.registry.platforms(&image, self.session.cancel)?)
    }

    /// All that was found so far, in the order of names and platforms.
    pub(crate) fn resolved(&self) -> Vec<ResolvedBase> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found: Vec<_> = known
            .iter()
            .filter_map(|((image, platform), resolved)| {
                let (base, _) = resolved.as_ref().ok()?;
                let (image, platform) = (image.clone(), platform.clone());
                Some(ResolvedBase { image, platform, manifest: base.manifest, digest: base.digest })
            })
            .collect();
        found.sort_by_key(|base| (base.image.to_string(), base.platform.clone()));
        found
    }

    /// What the solver wants to know.
    pub(crate) fn origins(&self) -> HashMap<Digest, ImageOrigin> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.values().flatten().map(|(base, origin)| (base.manifest, origin.clone())).collect()
    }

    fn look_up(&self, image: &ImageRef, platform: &Platform) -> Resolved {
        let key = (image.clone(), platform.clone());
        let lock = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lock().get(&key) {
            return known.clone();
        }
        let reporter = self.session.reporter;
        let step = match self.local_images.get(image) {
            Some(local) => format!("[internal] load metadata for {}", local.written()),
            None => format!("[internal] load metadata for {image}"),
        };
        let step = reporter.step(step, Vec::new());
        reporter.started(step);
        let resolved = self.find(image, platform).map_err(Arc::new);
        match &resolved {
            Ok(_) => reporter.done(step),
            Err(error) => reporter.failed(step, error.to_string()),
        }
        lock().insert(key, resolved.clone());
        resolved
    }

    fn find(&self, image: &ImageRef, platform: &Platform) -> Result<(BaseImage, ImageOrigin), Error> {
        if let Some(local) = self.local_images.get(image) {
            return local.resolve(self.session.store, image, platform, self.session.cancel);
        }
        if let Some(digest) = self.pins.map(|pins| pins.image(image)).transpose()?.flatten() {
            return self.pinned(image, platform, digest);
        }
        self.find_current(image, platform)
    }

    /// What an image was. The store's own of that name is taken if it is that one still.
    fn pinned(
        &self,
        image: &ImageRef,
        platform: &Platform,
        digest: Digest,
    ) -> Result<(BaseImage, ImageOrigin), Error> {
        if let Some(found) = self.stored_as(image, platform)?
            && found.0.digest == digest
        {
            return Ok(found);
        }
        self.find_current(&image.with_digest(digest), platform).map_err(|mut error| {
            error.message = format!("{image} was {digest} when it was locked: {}", error.message);
            error
        })
    }

    fn find_current(&self, image: &ImageRef, platform: &Platform) -> Result<(BaseImage, ImageOrigin), Error> {
        let build = self.session.build;
        if !build.pull {
            // An image of the store has a name as it is, and one that was pulled the one that its name stood for.
            if let Some(found) = self.stored_as(image, platform)? {
                return Ok(found);
            }
            let names = self.session.registry.names(image).unwrap_or_default();
            for name in names.iter().filter(|name| *name != image) {
                if let Some(found) = self.stored_as(name, platform)? {
                    return Ok(found);
                }
            }
        }
        if build.offline {
            return Err(Error::user(format!("{image} is not in the store, and the build is offline")));
        }
        let remote = self.session.registry.resolve(image, platform, self.session.cancel)?;
        if !self.session.only_looks {
            self.remember(&remote.reference, platform, &remote)?;
        }
        let base = BaseImage {
            digest: remote.digest,
            manifest: remote.manifest_digest,
            config: remote.config.clone(),
        };
        Ok((base, ImageOrigin::Registry(Arc::new(remote))))
    }

    fn stored_as(
        &self,
        name: &ImageRef,
        platform: &Platform,
    ) -> Result<Option<(BaseImage, ImageOrigin)>, Error> {
        match self.session.store.image(name, platform)? {
            Some(record) => self.stored(name, &record),
            None => Ok(None),
        }
    }

    /// An image the store knows: built here, loaded, or looked up earlier.
    fn stored(
        &self,
        image: &ImageRef,
        record: &ImageRecord,
    ) -> Result<Option<(BaseImage, ImageOrigin)>, Error> {
        let Some(config_bytes) = self.document(&record.config)? else { return Ok(None) };
        let config: ImageConfig =
            parse_config(&config_bytes).map_err(|error| Error::user(error.to_string()))?;
        let mut layers = Vec::with_capacity(record.layers.len());
        for id in &record.layers {
            layers.extend(self.session.store.layer(*id)?);
        }
        if layers.len() == record.layers.len() {
            let digest = record.remote_digest.or(record.manifest).unwrap_or(record.config);
            let manifest = record.manifest.unwrap_or(record.config);
            return Ok(Some((BaseImage { digest, manifest, config }, ImageOrigin::Store { layers })));
        }
        // Its files are not here (any more), but it is known where they came from.
        let Some(manifest_digest) = record.manifest else { return Ok(None) };
        let Some(manifest_bytes) = self.document(&manifest_digest)? else { return Ok(None) };
        let Ok(manifest) = serde_json::from_slice::<Manifest>(&manifest_bytes) else { return Ok(None) };
        let remote = RemoteImage {
            reference: image.clone(),
            digest: record.remote_digest.unwrap_or(manifest_digest),
            index_bytes: None,
            manifest_digest,
            manifest_bytes,
            manifest,
            config_bytes,
            config,
        };
        let base =
            BaseImage { digest: remote.digest, manifest: manifest_digest, config: remote.config.clone() };
        Ok(Some((base, ImageOrigin::Registry(Arc::new(remote)))))
    }

    /// The first look at a name counts for later builds.
    fn remember(
        &self,
        image: &ImageRef,
        platform: &Platform,
        remote: &RemoteImage,
    ) -> Result<(), StoreError> {
        let store = self.session.store;
        let config = store.put_blob(&remote.config_bytes)?;
        store.put_blob(&remote.manifest_bytes)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        store.put_image(&ImageRecord {
            name: Some(image.clone()),
            platform: platform.clone(),
            config,
            manifest: Some(remote.manifest_digest),
            remote_digest: Some(remote.digest),
            layers: remote.config.rootfs.diff_ids.iter().map(|diff_id| LayerId::from(*diff_id)).collect(),
            tagged_at: now.as_secs(),
            size_bytes: remote.manifest.layers.iter().map(|layer| layer.size).sum(),
        })
    }

    fn document(&self, digest: &Digest) -> Result<Option<Vec<u8>>, Error> {
        use std::io::Read as _;
        let Some(file) = self.session.store.open_blob(digest)? else { return Ok(None) };
        let mut bytes = Vec::with_capacity(USUAL_DOCUMENT_BYTES);
        let read = file.take(DOCUMENT_LIMIT).read_to_end(&mut bytes);
        read.map_err(|error| Error::io(self.session.store.root(), error))?;
        Ok(Some(bytes))
    }
}

/// Carries an error of the engine's through the planner, which knows where in the Dockerfile it belongs.
#[derive(Clone, Debug)]
pub(crate) struct Unresolved(pub(crate) Arc<Error>);

impl std::fmt::Display for Unresolved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Unresolved {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}
