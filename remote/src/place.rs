//! Where a cache is: what every kind of place can do.

use std::fmt::Debug;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use kiln_image::ImageRef;
use kiln_image::oci::Descriptor;
use kiln_image::registry::Registry;

use crate::config::Contents;
use crate::gha::Actions;
use crate::local::{self, Local};
use crate::objects::Objects;
use crate::registry::{self, InRegistry};
use crate::{CacheConfig, CacheError, CacheSpec, InvalidSpec};

/// What places work with.
#[derive(Clone, Debug)]
pub struct Access {
    /// The registry client.
    pub registry: Registry,
    /// Raised when the user gives up.
    pub cancel: Arc<AtomicBool>,
}

/// Looks a variable of the environment up.
pub type Env<'a> = dyn Fn(&str) -> Option<String> + 'a;

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

    /// Makes these contents, whose blobs are all there, what the cache says from now on.
    ///
    /// # Errors
    /// It cannot be written.
    fn publish(&self, contents: &Contents) -> Result<(), CacheError>;
}

/// What `--cache-to` names.
#[derive(Debug)]
pub enum Destination {
    /// A place.
    Place(Box<dyn Place>),
    /// The image itself.
    Image,
    /// Nothing on this machine: GitHub's cache outside of GitHub.
    Nowhere,
}

impl CacheSpec {
    /// The place that `--cache-from` names; `None` where there is none on this machine.
    ///
    /// # Errors
    /// A kind that there is not, or a field that is unknown, missing or wrong.
    pub fn source(&self, access: &Access, env: &Env<'_>) -> Result<Option<Box<dyn Place>>, InvalidSpec> {
        match self.kind.as_str() {
            "inline" => Err(InvalidSpec::new("an inline cache is imported from the image that has it")
                .hinted("type=registry,ref=IMAGE")),
            "local" => {
                self.know(&[&local::KEYS])?;
                Ok(Some(Box::new(Local::source(self)?)))
            }
            _ => self.place(access, env),
        }
    }

    /// The place that `--cache-to` names.
    ///
    /// # Errors
    /// As [`CacheSpec::source`].
    pub fn destination(&self, access: &Access, env: &Env<'_>) -> Result<Destination, InvalidSpec> {
        match self.kind.as_str() {
            "inline" => {
                self.know(&[])?;
                match self.export_settings()?.mode {
                    crate::Mode::Min => Ok(Destination::Image),
                    crate::Mode::Max => Err(InvalidSpec::new("an inline cache has mode=min only")),
                }
            }
            "local" => {
                self.know(&[&local::KEYS])?;
                Ok(Destination::Place(Box::new(Local::destination(self)?)))
            }
            _ => Ok(self.place(access, env)?.map_or(Destination::Nowhere, Destination::Place)),
        }
    }

    /// A place that is the same in both flags.
    fn place(&self, access: &Access, env: &Env<'_>) -> Result<Option<Box<dyn Place>>, InvalidSpec> {
        match self.kind.as_str() {
            "registry" => {
                self.know(&[&registry::KEYS])?;
                return Ok(Some(Box::new(InRegistry::new(self, access)?)));
            }
            "gha" => {
                return Ok(Actions::new(self, access, env)?.map(|place| Box::new(place) as Box<dyn Place>));
            }
            _ => {}
        }
        match Objects::new(self, access, env)? {
            Some(place) => Ok(Some(Box::new(place))),
            None => Err(InvalidSpec::new(format!("there is no cache type `{}`", self.kind.escape_debug()))
                .hinted(KINDS.join(", "))),
        }
    }
}

/// The types that there are.
const KINDS: [&str; 10] =
    ["registry", "inline", "local", "gha", "s3", "gcs", "azblob", "webdav", "http", "dir"];

#[cfg(test)]
impl Access {
    pub(crate) fn for_tests() -> Self {
        let config = kiln_image::registry::RegistryConfig::load(&|_| None).unwrap();
        Self { registry: Registry::new(config).unwrap(), cancel: Arc::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_that_a_hint_names_is_there() {
        for kind in KINDS {
            let error =
                CacheSpec::new(kind).with("no-such-key", "x").destination(&Access::for_tests(), &|_| None);
            let error = error.unwrap_err().to_string();
            assert_eq!(error, format!("the cache type=`{kind}` has no key `no-such-key`"));
        }
        let error = CacheSpec::new("s4").source(&Access::for_tests(), &|_| None).unwrap_err();
        assert_eq!(error.to_string(), "there is no cache type `s4`");
    }

    #[test]
    fn githubs_cache_outside_of_github_is_nothing() {
        let spec = CacheSpec::new("gha").with("mode", "max");
        assert!(spec.source(&Access::for_tests(), &|_| None).unwrap().is_none());
        let nowhere = spec.destination(&Access::for_tests(), &|_| None).unwrap();
        assert!(matches!(nowhere, Destination::Nowhere));
    }
}
