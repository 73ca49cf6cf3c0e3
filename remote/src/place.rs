//! Where a cache is: what every kind of place can do.

use std::fmt::Debug;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use kiln_image::ImageRef;
use kiln_image::oci::Descriptor;
use kiln_image::registry::Registry;
use kiln_solver::solve::RemoteRecord;

use crate::local::Local;
use crate::registry::InRegistry;
use crate::{CacheConfig, CacheError, CacheSpec, InvalidSpec};

/// What places work with.
#[derive(Clone, Debug)]
pub struct Access {
    /// The registry client.
    pub registry: Registry,
    /// Raised when the user gives up.
    pub cancel: Arc<AtomicBool>,
}

/// A blob to be written.
pub struct NewBlob<'a> {
    /// Which.
    pub descriptor: &'a Descriptor,
    /// Images whose repositories may have it: within a registry it need not be sent.
    pub mount_from: Vec<ImageRef>,
    /// Opens its bytes, verified; called again when a connection breaks.
    pub open: &'a (dyn Fn() -> io::Result<Box<dyn Read + Send>> + Send + Sync),
}

/// What a place has.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// What is recorded, of one cache or of several images' inline ones.
    pub config: CacheConfig,
}

/// A place with a cache. Nothing is opened or asked before a method needs it.
pub trait Place: Send + Sync + Debug {
    /// What people call it.
    fn name(&self) -> String;

    /// Reads what is recorded.
    ///
    /// # Errors
    /// [`CacheError::is_absent`] when there is no cache yet.
    fn load(&self) -> Result<Found, CacheError>;

    /// Opens a blob; the caller verifies it.
    ///
    /// # Errors
    /// It is not there, or cannot be read.
    fn open(&self, blob: &Descriptor) -> Result<Box<dyn Read + Send>, CacheError>;

    /// The repository, of a place in a registry.
    fn repository(&self) -> Option<ImageRef> {
        None
    }

    /// Sees to it that a blob is there, whole or not at all; one that is there already is not opened.
    ///
    /// # Errors
    /// It cannot be read or written.
    fn put(&self, blob: &NewBlob<'_>) -> Result<(), CacheError>;

    /// Makes these records, whose blobs are all there, what the cache says from now on.
    ///
    /// # Errors
    /// It cannot be written.
    fn publish(&self, records: &[RemoteRecord]) -> Result<(), CacheError>;
}

impl CacheSpec {
    /// The place that `--cache-from` names.
    ///
    /// # Errors
    /// A kind that there is not, or a field that is missing or wrong.
    pub fn source(&self, access: &Access) -> Result<Box<dyn Place>, InvalidSpec> {
        match self.kind.as_str() {
            "local" => Ok(Box::new(Local::source(self)?)),
            "registry" => Ok(Box::new(InRegistry::new(self, access)?)),
            "inline" => Err(InvalidSpec::new("an inline cache is imported from the image that has it")
                .hinted("type=registry,ref=IMAGE")),
            _ => Err(self.unknown_kind()),
        }
    }

    /// The place that `--cache-to` names; `None` for an inline cache, which goes into the image.
    ///
    /// # Errors
    /// As [`CacheSpec::source`].
    pub fn destination(&self, access: &Access) -> Result<Option<Box<dyn Place>>, InvalidSpec> {
        match self.kind.as_str() {
            "local" => Ok(Some(Box::new(Local::destination(self)?))),
            "registry" => Ok(Some(Box::new(InRegistry::new(self, access)?))),
            "inline" => match self.export_settings()?.mode {
                crate::Mode::Min => Ok(None),
                crate::Mode::Max => Err(InvalidSpec::new("an inline cache has mode=min only")),
            },
            _ => Err(self.unknown_kind()),
        }
    }

    fn unknown_kind(&self) -> InvalidSpec {
        InvalidSpec::new(format!("there is no cache type `{}`", self.kind)).hinted(KINDS.join(", "))
    }
}

/// The types that there are.
const KINDS: [&str; 3] = ["local", "registry", "inline"];
