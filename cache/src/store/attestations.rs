//! What is attested of an image: a manifest of its own, kept with the image's.

use std::collections::HashMap;

use kiln_image::{DiffId, Digest};

use super::Store;
use super::error::StoreError;

/// What the memo of blobs that were made of others calls it.
pub(super) const HOW: &str = "attestations";

impl Store {
    /// Remembers that `attestations` is the manifest of what is attested of the image with `manifest`. Both are blobs of
    /// the store; it and all that it names stay as long as the image does.
    ///
    /// # Errors
    /// I/O.
    pub fn attest(&self, manifest: &Digest, attestations: Digest) -> Result<(), StoreError> {
        self.remember_compressed(DiffId(*manifest), HOW, attestations)
    }

    /// The manifest of what is attested of the image with `manifest`, if there is one.
    ///
    /// # Errors
    /// I/O.
    pub fn attestations(&self, manifest: &Digest) -> Result<Option<Digest>, StoreError> {
        self.compressed(DiffId(*manifest), HOW)
    }
}

/// By the image's manifest.
pub(super) fn all(connection: &rusqlite::Connection) -> rusqlite::Result<HashMap<Digest, Digest>> {
    connection
        .prepare_cached("SELECT diff_id, blob FROM compressed WHERE how = ?1")?
        .query_map([HOW], |row| Ok((Digest::from_bytes(row.get(0)?), Digest::from_bytes(row.get(1)?))))?
        .collect()
}
