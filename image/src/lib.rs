//! Images as the OCI describes them, and the ways in and out.
//!
//! Here: names and digests, OCI types, registries (reading and pushing), OCI layouts and docker archives, layer tars in
//! (unpack) and out (pack).
//! Not here: where images are kept (`kiln-cache`), how they are made (`kiln-solver`, `kiln`).
//!
//! Start at [`registry::Registry::resolve`], [`registry::Registry::push_to`], [`layout::Layout`],
//! [`archive::Archive`], [`local::LocalName`],
//! [`layer::unpack`], [`layer::pack`].

pub mod archive;
mod digest;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod http;
pub mod layer;
pub mod layout;
pub mod local;
pub mod oci;
mod platform;
mod reference;
pub mod registry;
mod resolve;
mod verify;

pub use digest::{ContentsDigest, DiffId, Digest, InvalidDigest};
pub use platform::{InvalidPlatform, Platform};
pub use reference::{ImageRef, InvalidReference};
pub use verify::{Mismatch, Verified};
