//! Object stores, web servers and shared directories: places that know objects by their paths and no more.
//!
//! ```text
//! <prefix><manifests_prefix><name>           the cache config
//! <prefix><blobs_prefix>sha256:<hex>         blobs
//! ```
//! as BuildKit lays them out in S3 and Azure. A service is a few requests over kiln's own HTTP client: a library of all
//! services would bring an asynchronous runtime and some two hundred crates.

mod aws;
mod azblob;
mod credentials;
mod dir;
mod google;
mod granted;
mod parts;
mod s3;
mod sign;
mod stored;
mod web;
mod webdav;

use std::fmt::Debug;
use std::io::{self, Read};

use kiln_image::Digest;
use kiln_image::oci::Descriptor;

use crate::config::Contents;
use crate::place::{Access, Env, Found, NewBlob};
use crate::{CacheConfig, CacheError, CacheSpec, InvalidSpec, MAX_CONFIG_BYTES, Place};

pub(crate) use credentials::Secret;
pub(crate) use s3::spec_duration;
pub use stored::StoredObject;
pub(crate) use web::encode_value;

/// Keys that all of these types understand.
const KEYS: [&str; 4] = ["name", "prefix", "blobs_prefix", "manifests_prefix"];
/// The cache that is meant without a name, as with BuildKit.
const DEFAULT_NAME: &str = "buildkit";

/// Something that has objects.
pub(crate) trait Store: Send + Sync + Debug {
    /// What people call it; nothing secret.
    fn name(&self) -> String;

    /// Opens an object; `None` if there is no such one.
    fn get(&self, path: &str) -> Result<Option<Box<dyn Read + Send>>, CacheError>;

    /// An object's size in bytes, if it is there. Objects that are there and about to expire are kept alive.
    fn size(&self, path: &str) -> Result<Option<u64>, CacheError>;

    /// Writes an object.
    fn put(&self, path: &str, object: &Object<'_>) -> Result<(), CacheError>;
}

/// What is to be written.
#[derive(Clone, Copy)]
pub(crate) struct Object<'a> {
    /// Of the bytes.
    pub(crate) digest: Digest,
    /// Bytes.
    pub(crate) size: u64,
    /// Opens the bytes; called again when a connection breaks.
    pub(crate) open: &'a (dyn Fn() -> io::Result<Box<dyn Read + Send>> + Send + Sync),
}

/// A cache in a store of objects.
#[derive(Debug)]
pub(crate) struct Objects {
    store: Box<dyn Store>,
    /// The first is read, all are written.
    names: Vec<String>,
    blobs: String,
    manifests: String,
}

impl Objects {
    /// `None` if the type is none of these.
    pub(crate) fn new(spec: &CacheSpec, access: &Access, env: &Env<'_>) -> Result<Option<Self>, InvalidSpec> {
        let (keys, store): (&[&str], fn(&_, &_, &Env<'_>) -> _) = match spec.kind.as_str() {
            "s3" => (&s3::KEYS, s3::open),
            "gcs" => (&s3::GCS_KEYS, s3::open_gcs),
            "azblob" => (&azblob::KEYS, azblob::open),
            "http" => (&webdav::KEYS, webdav::open_http),
            "webdav" => (&webdav::KEYS, webdav::open),
            "dir" => (&dir::KEYS, dir::open),
            _ => return Ok(None),
        };
        spec.know(&[keys, &KEYS])?;
        Self::with(spec, store(spec, access, env)?).map(Some)
    }

    fn with(spec: &CacheSpec, store: Box<dyn Store>) -> Result<Self, InvalidSpec> {
        let names = spec.get("name").unwrap_or(DEFAULT_NAME).split(';').map(str::trim);
        let names: Vec<String> = names.filter(|name| !name.is_empty()).map(str::to_owned).collect();
        if names.is_empty() {
            return Err(InvalidSpec::new("name= is empty"));
        }
        let prefix = spec.get("prefix").unwrap_or_default();
        let folder = |key: &str, default: &str| format!("{prefix}{}", spec.get(key).unwrap_or(default));
        let (blobs, manifests) = (folder("blobs_prefix", "blobs/"), folder("manifests_prefix", "manifests/"));
        for path in names.iter().chain([&blobs, &manifests]) {
            if path.starts_with('/') || path.split('/').any(|part| matches!(part, "." | "..")) {
                return Err(InvalidSpec::new(format!("`{path}` is no path within a cache")));
            }
        }
        Ok(Self { store, names, blobs, manifests })
    }

    fn blob_path(&self, digest: &Digest) -> String {
        format!("{}{digest}", self.blobs)
    }
}

impl Place for Objects {
    fn name(&self) -> String {
        self.store.name()
    }

    fn load(&self) -> Result<Found, CacheError> {
        let path = format!("{}{}", self.manifests, self.names.first().map_or(DEFAULT_NAME, String::as_str));
        let object = self.store.get(&path)?.ok_or(CacheError::Absent)?;
        Ok(Found { config: CacheConfig::parse(&read_config(object)?)? })
    }

    fn open(&self, blob: &Descriptor) -> Result<Box<dyn Read + Send>, CacheError> {
        self.store.get(&self.blob_path(&blob.digest))?.ok_or(CacheError::MissingBlob(blob.digest))
    }

    fn put(&self, blob: &NewBlob<'_>) -> Result<(), CacheError> {
        let Descriptor { digest, size, .. } = *blob.descriptor;
        let path = self.blob_path(&digest);
        if self.store.size(&path)? == Some(size) {
            return Ok(());
        }
        self.store.put(&path, &Object { digest, size, open: blob.open })
    }

    fn publish(&self, contents: &Contents) -> Result<(), CacheError> {
        let config = CacheConfig::write(contents)?;
        let open = || Ok(Box::new(io::Cursor::new(config.clone())) as Box<dyn Read + Send>);
        let object = Object { digest: Digest::of(&config), size: config.len() as u64, open: &open };
        for name in &self.names {
            self.store.put(&format!("{}{name}", self.manifests), &object)?;
        }
        Ok(())
    }
}

/// A whole cache config.
pub(crate) fn read_config(reader: impl Read) -> Result<Vec<u8>, CacheError> {
    let mut bytes = Vec::new();
    let read = reader.take(MAX_CONFIG_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(CacheError::Interrupted)?;
    match bytes.len() as u64 > MAX_CONFIG_BYTES {
        true => Err(CacheError::TooLarge { what: "cache config", limit: MAX_CONFIG_BYTES }),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(fields: &str) -> Result<Option<Objects>, InvalidSpec> {
        let fields: Vec<String> = fields.split(',').map(str::to_owned).collect();
        let spec = CacheSpec::from_fields(&fields).unwrap().remove(0);
        Objects::new(&spec, &Access::for_tests(), &|_| None)
    }

    #[test]
    fn a_path_that_leaves_the_cache_is_refused() {
        for fields in ["prefix=../x/", "name=..", "name=/etc", "blobs_prefix=a/../../", "name=;"] {
            assert!(open(&format!("type=dir,path=/tmp/x,{fields}")).is_err(), "{fields}");
        }
        let objects = open("type=dir,path=/tmp/x,prefix=team/,name=a;b").unwrap().unwrap();
        assert_eq!(objects.names, ["a", "b"]);
        assert_eq!((objects.blobs.as_str(), objects.manifests.as_str()), ("team/blobs/", "team/manifests/"));
    }

    #[test]
    fn an_unknown_key_is_named_with_those_there_are() {
        let error = open("type=dir,paht=/tmp/x").unwrap_err();
        insta::assert_snapshot!(error.to_string(), @"the cache type=`dir` has no key `paht`");
        insta::assert_snapshot!(error.hint.unwrap(), @"path, name, prefix, blobs_prefix, manifests_prefix, mode, compression, compression-level, force-compression, ignore-error, upload_parallelism, cache-mounts, cache-mounts-max");
    }
}
