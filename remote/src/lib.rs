//! Build caches that several machines share: `--cache-from`, `--cache-to`.
//!
//! Here: what a cache says (`config`), how the flags name one (`spec`), and the places where caches are: directories,
//! registries, images, object stores; and one object of such a store by its address, for contexts. Not here: which steps are
//! looked up, and when a layer is fetched (`kiln-solver`); what becomes of a build's layers (`kiln`).
//!
//! A cache is BuildKit's cache config: layers by their blobs, and records by digests. kiln's steps have other keys, and
//! its records say more; they are in a member of their own, `kiln`, which BuildKit passes over as kiln passes over
//! BuildKit's records.
//!
//! Everything read here is another's word: digests are verified, sizes and counts limited, and what is wrong with a
//! cache is a warning to the build that imports it, never its end.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

mod config;
mod error;
mod gha;
mod import;
mod inline;
mod local;
mod manifest;
mod objects;
mod place;
mod registry;
mod spec;

pub use config::{CacheConfig, Contents, MAX_CONFIG_BYTES};
pub use error::CacheError;
pub use import::{Imports, Warn};
pub use inline::Inline;
pub use objects::StoredObject;
pub use place::{Access, Destination, Env, Found, NewBlob, Place};
pub use spec::{CacheMounts, CacheSpec, Compression, ExportSettings, InvalidSpec, Mode, OnError};
