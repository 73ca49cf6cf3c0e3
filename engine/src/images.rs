//! The commands on images: pull, list, inspect, history, tag, remove, save, load.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use kiln_cache::{ImageRecord, Store};
use kiln_image::oci::ImageConfig;
use kiln_image::{ImageRef, Platform};
use kiln_solver::event::EventSink;

use crate::Error;

/// The images of one store.
pub struct Images {
    store: Store,
}

impl Images {
    /// Opens the store at `root` (default as the design says).
    ///
    /// # Errors
    /// The store cannot be opened.
    pub fn open(root: Option<&Path>) -> Result<Self, Error> {
        let _ = root;
        todo!()
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
        events: Arc<EventSink>,
        cancel: &Arc<AtomicBool>,
    ) -> Result<ImageRecord, Error> {
        let _ = (name, platform, events, cancel);
        todo!()
    }
    /// All images, newest first.
    ///
    /// # Errors
    /// Store.
    pub fn list(&self) -> Result<Vec<ImageRecord>, Error> {
        todo!()
    }
    /// Finds an image by name, id or a prefix of its id.
    ///
    /// # Errors
    /// There is none, or several.
    pub fn find(&self, name: &str) -> Result<ImageRecord, Error> {
        let _ = name;
        todo!()
    }
    /// Its config.
    ///
    /// # Errors
    /// Store.
    pub fn config(&self, image: &ImageRecord) -> Result<ImageConfig, Error> {
        let _ = image;
        todo!()
    }
    /// What `docker inspect` prints for it: one JSON object.
    ///
    /// # Errors
    /// Store.
    pub fn inspect(&self, name: &str) -> Result<String, Error> {
        let _ = name;
        todo!()
    }
    /// Whether `find` would find it.
    pub fn has(&self, name: &str) -> Result<bool, Error> {
        todo!()
    }
    /// history
    pub fn history(&self, image: &ImageRecord) -> Result<Vec<HistoryEntry>, Error> {
        todo!()
    }
    /// Gives an image another name.
    ///
    /// # Errors
    /// There is none; the name is none.
    pub fn tag(&self, name: &str, new: &str) -> Result<ImageRef, Error> {
        let _ = (name, new);
        todo!()
    }
    /// Takes a name (or id) away. Returns what was removed as docker words it (`Untagged: …`, `Deleted: …`).
    ///
    /// # Errors
    /// There is none.
    pub fn remove(&self, name: &str, force: bool) -> Result<Vec<String>, Error> {
        let _ = (name, force);
        todo!()
    }
    /// Writes images as one archive that `docker load` and `skopeo` read (docker archive and OCI layout at once).
    ///
    /// # Errors
    /// There is none; I/O.
    pub fn save(&self, names: &[String], out: &mut dyn Write) -> Result<(), Error> {
        let _ = (names, out.flush());
        todo!()
    }
    /// Reads a docker archive or an OCI layout tar (compressed or not). Returns the names, or ids, loaded.
    ///
    /// # Errors
    /// It is none of these; a digest differs; I/O.
    pub fn load(&self, archive: &mut (dyn Read + Send)) -> Result<Vec<String>, Error> {
        let _ = archive;
        todo!()
    }
}

#[derive(Clone, Debug)]
pub struct HistoryEntry { pub created: Option<String>, pub created_by: String, pub comment: String, pub size_bytes: u64 }
