//! The commands on images: pull, push, list, inspect, history, tag, remove, save, load, import, export, diff.

mod archive;
mod attested;
mod compare;
mod import;
mod inspect;
mod layers;
mod pull;
mod push;

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{SystemTime, UNIX_EPOCH};

use kiln_cache::{ImageRecord, Store};
use kiln_image::oci::{self, ImageConfig};
use kiln_image::registry::Registry;
use kiln_image::{Digest, ImageRef, Platform};
use kiln_solver::event::EventSink;

pub use compare::ImageDifference;
pub use import::Import;
pub use inspect::HistoryEntry;
pub(crate) use layers::{add as add_layer, ensure};
pub use push::PushedImage;

use crate::storage::{ImageRule, Keep, Limits, Prune, RemovedBy, UsageKind};
use crate::whole_file::write_whole_with;
use crate::{Error, ErrorKind, default_root};

/// The images of one store.
#[derive(Debug)]
pub struct Images {
    store: Store,
}

impl Images {
    /// Opens the store at `root` (default as the design says).
    ///
    /// # Errors
    /// The store cannot be opened.
    pub fn open(root: Option<&Path>) -> Result<Self, Error> {
        let root = match root {
            Some(root) => root.to_owned(),
            None => default_root(),
        };
        let store = Store::open(&root)?;
        let limits = Limits::load(&|name| std::env::var(name).ok())?;
        if limits.max_size.is_some() {
            store.set_max_bytes(limits.max_bytes(&store.disk()?));
        }
        Ok(Self { store })
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Pulls `name` and unpacks its layers.
    ///
    /// # Errors
    /// Registry, store.
    pub fn pull(
        &self,
        name: &str,
        platform: Option<&Platform>,
        registry: &Registry,
        events: Arc<EventSink>,
        cancel: &Arc<AtomicBool>,
    ) -> Result<ImageRecord, Error> {
        let host = Platform::host();
        pull::pull(&self.store, &parse(name)?, platform.unwrap_or(&host), registry, events, cancel)
    }

    /// Pushes what `name` stands for to its registry: of several platforms the one asked for, else an index of all.
    ///
    /// # Errors
    /// There is none; registry, store.
    pub fn push(
        &self,
        name: &ImageRef,
        platform: Option<&Platform>,
        registry: &Registry,
        events: Arc<EventSink>,
        cancel: &Arc<AtomicBool>,
    ) -> Result<PushedImage, Error> {
        push::push(self, name, platform, registry, events, cancel)
    }

    /// All images, newest first.
    ///
    /// # Errors
    /// Store.
    pub fn list(&self) -> Result<Vec<ImageRecord>, Error> {
        self.store.images().map_err(Error::from)
    }

    /// Finds an image by name, id or a prefix of its id. Of a name that stands for several platforms the host's counts
    /// first.
    ///
    /// # Errors
    /// There is none, or several.
    pub fn find(&self, name: &str) -> Result<ImageRecord, Error> {
        match self.look_up(name)? {
            Found::One(image) => Ok(*image),
            Found::None => Err(Error::new(ErrorKind::User, format!("no such image: {name}"))
                .hinted("`kiln images` lists those that there are, `kiln pull` downloads one")),
            Found::Several => Err(Error::new(
                ErrorKind::User,
                format!("the id {name} is ambiguous: several images begin so"),
            )
            .hinted("give more digits of it")),
        }
    }

    /// Whether there is such an image; an ambiguous id is none.
    ///
    /// # Errors
    /// Store.
    pub fn has(&self, name: &str) -> Result<bool, Error> {
        Ok(matches!(self.look_up(name)?, Found::One(_)))
    }

    /// Its config.
    ///
    /// # Errors
    /// Store.
    pub fn config(&self, image: &ImageRecord) -> Result<ImageConfig, Error> {
        let bytes = read_blob(&self.store, &image.config)?;
        oci::parse_config(&bytes)
            .map_err(|error| Error::new(ErrorKind::Environment, format!("image {}: {error}", image.config)))
    }

    /// What `docker inspect` prints for it: one JSON object.
    ///
    /// # Errors
    /// Store.
    pub fn inspect(&self, name: &str) -> Result<String, Error> {
        let image = self.find(name)?;
        let names: Vec<_> = self.list()?.into_iter().filter(|other| other.config == image.config).collect();
        inspect::inspect(&image, &names, &read_blob(&self.store, &image.config)?)
    }

    /// How an image was made: an entry for each instruction, oldest first.
    ///
    /// # Errors
    /// Store.
    pub fn history(&self, image: &ImageRecord) -> Result<Vec<HistoryEntry>, Error> {
        inspect::history(&self.store, image, &self.config(image)?)
    }

    /// Gives an image another name.
    ///
    /// # Errors
    /// There is none; the name is none.
    pub fn tag(&self, name: &str, new: &str) -> Result<ImageRef, Error> {
        let target = parse(new)?;
        if target.digest().is_some() {
            return Err(Error::new(ErrorKind::User, format!("{new}: a digest cannot be given as a name"))
                .hinted("give a tag, `name:tag`"));
        }
        let image = self.find(name)?;
        let same_repository = image.name.as_ref().is_some_and(|name| {
            (name.registry(), name.repository()) == (target.registry(), target.repository())
        });
        let tagged = ImageRecord {
            name: Some(target.clone()),
            remote_digest: image.remote_digest.filter(|_| same_repository),
            tagged_at: now(),
            ..image
        };
        self.store.put_image(&tagged)?;
        Ok(target)
    }

    /// Takes a name (or id) away. Returns what was removed as docker words it (`Untagged: …`, `Deleted: …`). An id with
    /// several names goes only by `force`. Layers and blobs stay until they are collected: builds may use them again.
    ///
    /// # Errors
    /// There is none.
    pub fn remove(&self, name: &str, force: bool) -> Result<Vec<String>, Error> {
        let image = self.find(name)?;
        let all: Vec<_> = self.list()?.into_iter().filter(|other| other.config == image.config).collect();
        let by_name = is_name_of(name, &image);
        if !by_name && !force && all.iter().filter(|other| other.name.is_some()).count() > 1 {
            return Err(Error::new(
                ErrorKind::User,
                format!("conflict: image {name} has several names and its id was given"),
            )
            .hinted("remove it by a name, or all of them with `-f`"));
        }
        let (removed, kept): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|entry| !by_name || entry.name == image.name);
        // What a name's repository calls it, by its digest.
        let canonical = |entry: &ImageRecord| {
            entry
                .name
                .as_ref()
                .zip(entry.remote_digest)
                .map(|(name, digest)| name.without_tag().with_digest(digest))
        };
        let mut said = Vec::new();
        for entry in removed {
            self.store.remove_image(entry.name.as_ref(), &entry.config)?;
            said.extend(entry.name.as_ref().map(|name| format!("Untagged: {}", name.familiar())));
            if let Some(canonical_name) = canonical(&entry)
                && kept.iter().all(|other| canonical(other).as_ref() != Some(&canonical_name))
            {
                said.push(format!("Untagged: {}", canonical_name.familiar()));
            }
        }
        if kept.is_empty() {
            said.push(format!("Deleted: {}", image.config));
        }
        Ok(said)
    }

    /// Removes the layers and blobs that no image, no step's result and no build needs. Returns the bytes that this freed.
    ///
    /// # Errors
    /// Store.
    pub fn prune_unreferenced(&self) -> Result<u64, Error> {
        let pruned = self.store.prune(&Prune {
            select: &|usage| usage.steps == 0 && matches!(usage.kind, UsageKind::Layer | UsageKind::Blob),
            images: ImageRule::Hold,
            keep: Keep::Nothing,
            by: RemovedBy::Prune,
            is_dry_run: false,
        })?;
        Ok(pruned.size_bytes)
    }

    /// Writes images as one archive that `docker load` and `skopeo` read (docker archive and OCI layout at once).
    ///
    /// # Errors
    /// There is none; I/O.
    pub fn save(&self, names: &[String], out: &mut dyn Write) -> Result<(), Error> {
        let mut images = Vec::new();
        for name in names {
            let image = self.find(name)?;
            // An image that was given by its id is saved without a name, as docker does.
            let kept = ImageRecord { name: image.name.clone().filter(|_| is_name_of(name, &image)), ..image };
            images.push((kept.clone(), self.config(&kept)?));
        }
        archive::save(&self.store, &images, out)
    }

    /// The same to a file, which is replaced when the archive is whole.
    ///
    /// # Errors
    /// As [`Images::save`].
    pub fn save_to(&self, names: &[String], dest: &Path) -> Result<(), Error> {
        write_whole_with(dest, |out| self.save(names, out))
    }

    /// Reads a docker archive or an OCI layout tar (compressed or not). Returns the names, or ids, loaded.
    ///
    /// # Errors
    /// It is none of these; a digest differs; I/O.
    pub fn load(&self, archive: &mut (dyn Read + Send)) -> Result<Vec<String>, Error> {
        archive::load(&self.store, archive)
    }

    fn look_up(&self, name: &str) -> Result<Found, Error> {
        let images = self.list()?;
        if let Ok(id) = name.parse::<Digest>() {
            return Ok(images.into_iter().find(|image| image.config == id).map_or(Found::None, Found::one));
        }
        if let Ok(reference) = name.parse::<ImageRef>() {
            let host = Platform::host();
            let mut named: Vec<_> = images.iter().filter(|image| bears(image, &reference)).collect();
            named.sort_by_key(|image| host.rank(&image.platform).unwrap_or(usize::MAX));
            if let Some(image) = named.first() {
                return Ok(Found::one((*image).clone()));
            }
        }
        let prefix = name.strip_prefix("sha256:").unwrap_or(name);
        if prefix.is_empty() || !prefix.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Ok(Found::None);
        }
        let mut found = Found::None;
        for image in images.into_iter().filter(|image| image.config.hex().starts_with(prefix)) {
            match &found {
                Found::One(other) if other.config == image.config => {}
                Found::One(_) => return Ok(Found::Several),
                _ => found = Found::one(image),
            }
        }
        Ok(found)
    }
}

enum Found {
    None,
    One(Box<ImageRecord>),
    Several,
}

impl Found {
    fn one(image: ImageRecord) -> Self {
        Self::One(Box::new(image))
    }
}

/// Whether `image` is what `reference` names: by tag, or by the digest its repository served it under.
fn bears(image: &ImageRecord, reference: &ImageRef) -> bool {
    let Some(name) = &image.name else { return false };
    if (name.registry(), name.repository()) != (reference.registry(), reference.repository()) {
        return false;
    }
    match reference.digest() {
        Some(digest) => {
            [image.remote_digest, image.manifest, name.digest().copied()].contains(&Some(*digest))
        }
        None => name.tag() == reference.tag(),
    }
}

/// Whether a user who wrote `text` meant the image's name and not its id.
fn is_name_of(text: &str, image: &ImageRecord) -> bool {
    text.parse::<Digest>().is_err()
        && text.parse::<ImageRef>().is_ok_and(|reference| bears(image, &reference))
}

fn parse(name: &str) -> Result<ImageRef, Error> {
    name.parse().map_err(|error: kiln_image::InvalidReference| Error::new(ErrorKind::User, error.to_string()))
}

/// A manifest or config, whole.
fn read_blob(store: &Store, digest: &Digest) -> Result<Vec<u8>, Error> {
    let gone = || {
        Error::new(ErrorKind::Environment, format!("{digest} is not in the store"))
            .hinted("pull or build the image again")
    };
    let file = store.open_blob(digest)?.ok_or_else(gone)?;
    let mut bytes = Vec::new();
    file.take(MOST_DOCUMENT_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Error::new(ErrorKind::Environment, format!("{digest}: {error}")))?;
    if bytes.len() as u64 > MOST_DOCUMENT_BYTES {
        return Err(Error::new(
            ErrorKind::Environment,
            format!("{digest} is larger than any manifest or config"),
        ));
    }
    Ok(bytes)
}

/// Seconds since the epoch.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Manifests and configs are read up to this size (distribution-spec, "Pushing Manifests", and some room).
const MOST_DOCUMENT_BYTES: u64 = 8 << 20;

#[cfg(test)]
mod tests;
