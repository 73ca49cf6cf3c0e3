//! Blobs: bytes under their digest.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use kiln_image::{DiffId, Digest};
use rusqlite::{Connection, OptionalExtension, params};
use sha2::{Digest as _, Sha256};

use super::Store;
use super::db::{Db, TxError, now};
use super::draft::{random_name, take_over};
use super::error::{At, StoreError};
use super::settle::Writing;

const READ_BYTES: usize = 256 << 10;

/// Writes one blob.
#[derive(Debug)]
pub struct BlobWriter {
    store: Store,
    file: File,
    /// In `work/`; `None` once it is in place.
    path: Option<PathBuf>,
    hashing: Hashing,
    size_bytes: u64,
    _writing: Writing,
}

/// Who knows a blob's digest.
#[derive(Debug)]
enum Hashing {
    Here(Sha256),
    /// The one whom the bytes come from.
    Source(Digest),
}

impl Store {
    /// Whether blob `digest` is in the store.
    pub fn has_blob(&self, digest: &Digest) -> bool {
        self.blob_path(digest).is_file()
    }

    /// Where blob `digest` is, if it is there.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        path_of(self.root(), digest)
    }

    /// Opens a blob.
    ///
    /// # Errors
    /// I/O.
    pub fn open_blob(&self, digest: &Digest) -> Result<Option<File>, StoreError> {
        let path = self.blob_path(digest);
        match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            result => result.at(&path).map(Some),
        }
    }

    /// Stores bytes as a blob.
    ///
    /// # Errors
    /// I/O.
    pub fn put_blob(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::of(bytes);
        if let Some(used_at) = used_at(self.db(), &digest)?
            && self.inner.lease.hold_if(&[*digest.as_bytes()], || self.has_blob(&digest))?
        {
            self.inner.uses.blob(&digest, used_at);
            return Ok(digest);
        }
        let mut writer = self.blob_writer()?;
        writer.write_all(bytes).at(&self.blob_path(&digest))?;
        writer.finish(Some(digest))?;
        Ok(digest)
    }

    /// A writer of a new blob; nothing is visible before [`BlobWriter::finish`].
    ///
    /// # Errors
    /// I/O.
    pub fn blob_writer(&self) -> Result<BlobWriter, StoreError> {
        self.writer(Hashing::Here(Sha256::new()))
    }

    /// A writer of blob `digest` for bytes that are verified where they come from: they are not hashed once more. Whoever
    /// did not see them verified to their end must not [finish](BlobWriter::finish).
    ///
    /// # Errors
    /// I/O.
    pub fn verified_blob_writer(&self, digest: Digest) -> Result<BlobWriter, StoreError> {
        self.writer(Hashing::Source(digest))
    }

    fn writer(&self, hashing: Hashing) -> Result<BlobWriter, StoreError> {
        loop {
            let (_, path) = random_name(self.root())?;
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).at(&path)?;
            if let Some(file) = take_over(file, &path)? {
                return Ok(BlobWriter {
                    store: self.clone(),
                    file,
                    path: Some(path),
                    hashing,
                    size_bytes: 0,
                    _writing: self.inner.settler.writing(),
                });
            }
            // A sweep came between the two calls and took it for a leftover.
        }
    }

    /// Remembers that compressing `diff_id` with `how` (such as `gzip`) gave `blob`, so that it is done once.
    ///
    /// # Errors
    /// I/O.
    pub fn remember_compressed(&self, diff_id: DiffId, how: &str, blob: Digest) -> Result<(), StoreError> {
        self.db().write(|tx| {
            tx.prepare_cached("INSERT OR REPLACE INTO compressed(diff_id, how, blob) VALUES(?1, ?2, ?3)")?
                .execute(params![diff_id.0.as_bytes(), how, blob.as_bytes()])?;
            Ok(())
        })
    }

    /// The blob remembered for it, if it is still there.
    ///
    /// # Errors
    /// I/O.
    pub fn compressed(&self, diff_id: DiffId, how: &str) -> Result<Option<Digest>, StoreError> {
        let blob: Option<[u8; 32]> = self.db().read(|connection| {
            connection
                .prepare_cached("SELECT blob FROM compressed WHERE diff_id = ?1 AND how = ?2")?
                .query_row(params![diff_id.0.as_bytes(), how], |row| row.get(0))
                .optional()
        })?;
        let Some(digest) = blob.map(Digest::from_bytes) else { return Ok(None) };
        let is_there = self.inner.lease.hold_if(&[*digest.as_bytes()], || self.has_blob(&digest))?;
        if is_there && let Some(used_at) = used_at(self.db(), &digest)? {
            self.inner.uses.blob(&digest, used_at);
        }
        Ok(Some(digest).filter(|_| is_there))
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.file.write(bytes)?;
        if let Hashing::Here(hash) = &mut self.hashing {
            hash.update(&bytes[..written]);
        }
        self.size_bytes += written as u64;
        Ok(written)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl BlobWriter {
    /// Makes it visible under its digest; returns that and the size in bytes.
    ///
    /// # Errors
    /// I/O; `expected` given and different.
    pub fn finish(mut self, expected: Option<Digest>) -> Result<(Digest, u64), StoreError> {
        let actual = match &mut self.hashing {
            Hashing::Here(hash) => Digest::from_bytes(std::mem::take(hash).finalize().into()),
            Hashing::Source(digest) => *digest,
        };
        if let Some(expected) = expected.filter(|expected| *expected != actual) {
            return Err(StoreError::DigestMismatch { expected, actual });
        }
        // Before anybody can see it, garbage collection included.
        self.store.inner.lease.hold_new(*actual.as_bytes())?;
        let place = self.store.blob_path(&actual);
        let path = std::cell::RefCell::new(&mut self.path);
        self.store.write_within_limit(self.size_bytes, |tx| {
            // Within the transaction: garbage collection, which is one too, cannot take the blob before it has its row.
            if !place.is_file()
                && let Some(from) = path.borrow_mut().take()
            {
                std::fs::rename(&from, &place).at(&place)?;
            }
            insert(tx, &actual, self.size_bytes)
        })?;
        self.store.wake_settler();
        Ok((actual, self.size_bytes))
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
    }
}

pub(super) fn dir(root: &Path) -> PathBuf {
    root.join("blobs/sha256")
}

pub(super) fn path_of(root: &Path, digest: &Digest) -> PathBuf {
    dir(root).join(digest.hex())
}

pub(super) fn insert(connection: &Connection, digest: &Digest, size_bytes: u64) -> Result<(), TxError> {
    connection
        .prepare_cached("INSERT OR IGNORE INTO blobs(digest, size_bytes, used_at) VALUES(?1, ?2, ?3)")?
        .execute(params![digest.as_bytes(), size_bytes.cast_signed(), now()])?;
    Ok(())
}

/// When a blob that is known was used last.
fn used_at(db: &Db, digest: &Digest) -> Result<Option<i64>, StoreError> {
    db.read(|connection| {
        connection
            .prepare_cached("SELECT used_at FROM blobs WHERE digest = ?1")?
            .query_row(params![digest.as_bytes()], |row| row.get(0))
            .optional()
    })
}

/// Hashes a file to its end; returns the size too.
pub(super) fn digest_of_file(file: &mut File) -> std::io::Result<(Digest, u64)> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut size_bytes = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok((Digest::from_bytes(hash.finalize().into()), size_bytes)),
            Ok(read) => {
                hash.update(&buffer[..read]);
                size_bytes += read as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
