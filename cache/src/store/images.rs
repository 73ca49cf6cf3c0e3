//! Image names and what they point at.

use kiln_image::{Digest, ImageRef, Platform};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::Store;
use super::db::TxError;
use super::error::StoreError;
use super::layers::LayerId;

/// An image the store knows. Manifest, config and any layer blobs are blobs; layers are unpacked or can be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRecord {
    /// The name; `None` for an image whose name was taken by another.
    pub name: Option<ImageRef>,
    /// What it runs on.
    pub platform: Platform,
    /// The image id: the config's digest.
    pub config: Digest,
    /// The manifest's digest, where the manifest is stored (pulled or exported images).
    pub manifest: Option<Digest>,
    /// What the name pointed at in the registry it was pulled from (index or manifest).
    pub remote_digest: Option<Digest>,
    /// Layers bottom first, as many as the config has DiffIds.
    pub layers: Vec<LayerId>,
    /// Seconds since the epoch when the name was set.
    pub tagged_at: u64,
    /// Bytes of file data in the layers, as far as known.
    pub size_bytes: u64,
}

impl Store {
    /// Points `name` at an image (replacing what it pointed at). The image that loses its last name so stays as an
    /// unnamed one. Names are separate for each platform. Nothing is written, the time neither, if it points there already.
    ///
    /// # Errors
    /// I/O.
    pub fn put_image(&self, image: &ImageRecord) -> Result<(), StoreError> {
        let name = image.name.as_ref().map(ToString::to_string);
        if self.db().read_together(|connection| is_known(connection, name.as_deref(), image))? {
            return Ok(());
        }
        self.db().write(|tx| {
            if let Some(name) = &name {
                take_name(tx, name, image)?;
                delete(tx, "name IS NULL AND config = ?1", &[&image.config.as_bytes()])?;
            } else {
                // An image that has a name is no unnamed one; an unnamed one there is once.
                delete(tx, "name IS NULL AND config = ?1", &[&image.config.as_bytes()])?;
                if has_config(tx, &image.config)? {
                    return Ok(());
                }
            }
            insert(tx, name.as_deref(), image)
        })?;
        self.wake_settler();
        Ok(())
    }

    /// What `name` points at for `platform`.
    ///
    /// # Errors
    /// I/O.
    pub fn image(&self, name: &ImageRef, platform: &Platform) -> Result<Option<ImageRecord>, StoreError> {
        let Platform { os, architecture, variant } = platform;
        self.db().read(|connection| {
            let found = connection
                .prepare_cached(&format!(
                    "SELECT {COLUMNS} FROM images
                     WHERE name = ?1 AND os = ?2 AND architecture = ?3 AND variant = ?4"
                ))?
                .query_row(params![name.to_string(), os, architecture, variant], read)
                .optional()?;
            found.map(|found| with_layers(connection, found)).transpose()
        })
    }

    /// All image names and unnamed images, newest first.
    ///
    /// # Errors
    /// I/O.
    pub fn images(&self) -> Result<Vec<ImageRecord>, StoreError> {
        self.db().read(|connection| {
            let found = connection
                .prepare_cached(&format!("SELECT {COLUMNS} FROM images ORDER BY tagged_at DESC, seq DESC"))?
                .query_map([], read)?
                .collect::<rusqlite::Result<Vec<_>>>()?;
            found.into_iter().map(|found| with_layers(connection, found)).collect()
        })
    }

    /// Takes a name away (`None`: the unnamed entry of `config`). Returns whether it was there.
    ///
    /// # Errors
    /// I/O.
    pub fn remove_image(&self, name: Option<&ImageRef>, config: &Digest) -> Result<bool, StoreError> {
        let name = name.map(ToString::to_string);
        self.db()
            .write(|tx| delete(tx, "name IS ?1 AND config = ?2", &[&name, &config.as_bytes()]))
            .map(|removed| removed > 0)
    }
}

/// Whether writing `image` would change nothing but its time.
fn is_known(connection: &Connection, name: Option<&str>, image: &ImageRecord) -> rusqlite::Result<bool> {
    let Platform { os, architecture, variant } = &image.platform;
    let found = connection
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM images
             WHERE name IS ?1 AND os = ?2 AND architecture = ?3 AND variant = ?4 AND config = ?5"
        ))?
        .query_row(params![name, os, architecture, variant, image.config.as_bytes()], read)
        .optional()?;
    let Some(found) = found else { return Ok(false) };
    let found = with_layers(connection, found)?;
    Ok(ImageRecord { tagged_at: image.tagged_at, ..found } == *image)
}

/// Makes room for `image` under `name`.
fn take_name(connection: &Connection, name: &str, image: &ImageRecord) -> Result<(), TxError> {
    let Platform { os, architecture, variant } = &image.platform;
    let old: Option<(i64, [u8; 32])> = connection
        .prepare_cached(
            "SELECT seq, config FROM images
             WHERE name = ?1 AND os = ?2 AND architecture = ?3 AND variant = ?4",
        )?
        .query_row(params![name, os, architecture, variant], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((seq, config)) = old else { return Ok(()) };
    let config = Digest::from_bytes(config);
    connection.prepare_cached("UPDATE images SET name = NULL WHERE seq = ?1")?.execute(params![seq])?;
    let has_other: bool = connection
        .prepare_cached("SELECT EXISTS(SELECT 1 FROM images WHERE config = ?1 AND seq <> ?2)")?
        .query_row(params![config.as_bytes(), seq], |row| row.get(0))?;
    if config == image.config || has_other {
        delete(connection, "seq = ?1", &[&seq])?;
    }
    Ok(())
}

/// Deletes the images that `condition` (ours, never a user's text) selects, with their layer lists.
fn delete(
    connection: &Connection,
    condition: &str,
    values: &[&dyn rusqlite::ToSql],
) -> Result<usize, TxError> {
    connection
        .prepare_cached(&format!(
            "DELETE FROM image_layers WHERE image IN (SELECT seq FROM images WHERE {condition})"
        ))?
        .execute(values)?;
    Ok(connection.prepare_cached(&format!("DELETE FROM images WHERE {condition}"))?.execute(values)?)
}

fn has_config(connection: &Connection, config: &Digest) -> Result<bool, TxError> {
    Ok(connection
        .prepare_cached("SELECT EXISTS(SELECT 1 FROM images WHERE config = ?1)")?
        .query_row(params![config.as_bytes()], |row| row.get(0))?)
}

fn insert(connection: &Connection, name: Option<&str>, image: &ImageRecord) -> Result<(), TxError> {
    let Platform { os, architecture, variant } = &image.platform;
    connection
        .prepare_cached(
            "INSERT INTO images(name, os, architecture, variant, config, manifest, remote_digest, tagged_at, size_bytes)
             VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?
        .execute(params![
            name,
            os,
            architecture,
            variant,
            image.config.as_bytes(),
            image.manifest.map(|digest| *digest.as_bytes()),
            image.remote_digest.map(|digest| *digest.as_bytes()),
            image.tagged_at.cast_signed(),
            image.size_bytes.cast_signed(),
        ])?;
    let seq = connection.last_insert_rowid();
    for (position, layer) in (0_i64..).zip(&image.layers) {
        connection
            .prepare_cached("INSERT INTO image_layers(image, position, layer) VALUES(?1, ?2, ?3)")?
            .execute(params![seq, position, layer.as_bytes()])?;
    }
    Ok(())
}

const COLUMNS: &str =
    "seq, name, os, architecture, variant, config, manifest, remote_digest, tagged_at, size_bytes";

fn read(row: &Row<'_>) -> rusqlite::Result<(i64, ImageRecord)> {
    let digest =
        |index| Ok::<_, rusqlite::Error>(row.get::<_, Option<[u8; 32]>>(index)?.map(Digest::from_bytes));
    let name: Option<String> = row.get(1)?;
    Ok((
        row.get(0)?,
        ImageRecord {
            // A name that a later kiln's grammar refuses must not count as damage to the database.
            name: name.and_then(|name| name.parse().ok()),
            platform: Platform { os: row.get(2)?, architecture: row.get(3)?, variant: row.get(4)? },
            config: Digest::from_bytes(row.get(5)?),
            manifest: digest(6)?,
            remote_digest: digest(7)?,
            layers: Vec::new(),
            tagged_at: row.get::<_, i64>(8)?.cast_unsigned(),
            size_bytes: row.get::<_, i64>(9)?.cast_unsigned(),
        },
    ))
}

fn with_layers(connection: &Connection, found: (i64, ImageRecord)) -> rusqlite::Result<ImageRecord> {
    let (seq, mut image) = found;
    image.layers = connection
        .prepare_cached("SELECT layer FROM image_layers WHERE image = ?1 ORDER BY position")?
        .query_map(params![seq], |row| row.get(0).map(LayerId::from_bytes))?
        .collect::<rusqlite::Result<_>>()?;
    Ok(image)
}
