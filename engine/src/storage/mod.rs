//! What the store takes, and keeping it within bounds: the commands on it, and the policy that builds follow.

mod automatic;
mod limits;

use std::path::Path;

use kiln_cache::Store;
pub use kiln_cache::{
    CheckDepth, Disk, ImageRule, Keep, Problem, Prune, Pruned, RemovedBy, Repair, Usage, UsageKind,
};

pub(crate) use automatic::after_build;
pub use limits::{InvalidSize, Limits, Size, parse_bytes, parse_duration};

use crate::{Error, default_root};

/// A store, and the limits that its users set.
#[derive(Debug)]
pub struct Storage {
    store: Store,
    limits: Limits,
}

impl Storage {
    /// Opens the store at `root` (default as for builds), with the limits of the configuration.
    ///
    /// # Errors
    /// The store cannot be opened; the configuration cannot be read.
    pub fn open(root: Option<&Path>) -> Result<Self, Error> {
        let root = root.map_or_else(default_root, Path::to_path_buf);
        let limits = Limits::load(&|name| std::env::var(name).ok())?;
        Ok(Self { store: Store::open(&root)?, limits })
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The limits.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// All that takes space, the longest unused first.
    ///
    /// # Errors
    /// Store.
    pub fn usage(&self) -> Result<Vec<Usage>, Error> {
        Ok(self.store.usage()?)
    }

    /// Removes what `prune` says.
    ///
    /// # Errors
    /// Store.
    pub fn prune(&self, prune: &Prune<'_>) -> Result<Pruned, Error> {
        Ok(self.store.prune(prune)?)
    }

    /// Looks whether the store is as it says; with `repair`, drops what is not.
    ///
    /// # Errors
    /// Store.
    pub fn check(&self, depth: CheckDepth, repair: bool) -> Result<Repair, Error> {
        if repair {
            return Ok(self.store.repair(depth)?);
        }
        let found = self.store.check(depth)?;
        Ok(Repair { left: found.clone(), found })
    }
}
