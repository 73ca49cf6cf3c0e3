//! What takes how much of the disk, and for whom.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::io::{ErrorKind, Read as _};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use kiln_image::Digest;
use rusqlite::{Connection, params};

use super::db::{self, TxError};
use super::error::{At, StoreError};
use super::layers::LayerId;
use super::lease;
use super::locks::{FileLock, Kind, Mode};
use super::records::StepKey;
use super::{Store, attestations, blobs, mounts};

/// Something in the store that takes disk space of its own.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Usage {
    /// Its name on disk, mostly 64 hex digits.
    pub id: String,
    /// What it is.
    pub kind: UsageKind,
    /// Bytes of disk that it takes. What two layers share is counted for one of them.
    pub size_bytes: u64,
    /// When it was made, in seconds since the epoch.
    pub made_at: i64,
    /// When a build used it last, in seconds since the epoch; may be an hour late.
    pub used_at: i64,
    /// How often it was used, counted at most once an hour.
    pub uses: u64,
    /// The step that made it, the mount's id, the context's directory.
    pub description: String,
    /// Names (or ids, of those that have none) of the images that hold it.
    pub images: Vec<String>,
    /// Whether one of these has a name: then only a hard limit takes it away by itself.
    pub is_named: bool,
    /// How many steps' results it is part of.
    pub steps: u64,
    /// How long the costliest of these ran.
    pub cost: Duration,
    /// Whether a running build uses it.
    pub in_use: bool,
}

/// What takes the space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum UsageKind {
    /// A layer that a step made, or a record of one that made none.
    Step,
    /// A layer of an image that was pulled or loaded.
    Layer,
    /// A git checkout.
    Git,
    /// A blob: a config, a manifest, a compressed layer.
    Blob,
    /// A cache mount.
    CacheMount,
    /// What is known of a build context's files.
    Context,
    /// The database.
    Internal,
}

impl UsageKind {
    /// BuildKit's word for it where it has one (`UsageRecordType`).
    pub fn name(self) -> &'static str {
        match self {
            Self::Step | Self::Layer => "regular",
            Self::Git => "source.git.checkout",
            Self::Blob => "blob",
            Self::CacheMount => "exec.cachemount",
            Self::Context => "source.local",
            Self::Internal => "internal",
        }
    }
}

impl Usage {
    /// Whether an image holds it too, so that removing it from the cache frees nothing.
    pub fn is_shared(&self) -> bool {
        !self.images.is_empty()
    }

    /// Whether it changes while it is used.
    pub fn is_mutable(&self) -> bool {
        matches!(self.kind, UsageKind::CacheMount | UsageKind::Context | UsageKind::Internal)
    }

    /// Whether it may be removed.
    pub fn is_reclaimable(&self) -> bool {
        !self.in_use && self.kind != UsageKind::Internal
    }
}

impl Store {
    /// All that takes space, the longest unused first. Cache mounts that were used since they were last measured are
    /// measured.
    ///
    /// # Errors
    /// I/O.
    pub fn usage(&self) -> Result<Vec<Usage>, StoreError> {
        self.measure_mounts(None)?;
        let mut inventory =
            self.db().read(|connection| Ok(Inventory::read(self, connection)))?.map_err(plain)?;
        let gate = lease::close_gate(self.root())?;
        inventory.mark_in_use(self, &lease::leased(self.root(), &gate)?)?;
        drop(gate);
        let mut all: Vec<_> = inventory.items.into_iter().map(|item| item.usage).collect();
        all.sort_by(|a, b| (a.used_at, &a.id).cmp(&(b.used_at, &b.id)));
        Ok(all)
    }

    /// Bytes that the whole store takes, as far as known: what is being made is not counted, nor what cache mounts grew
    /// by since they were measured.
    ///
    /// # Errors
    /// I/O.
    pub fn total_bytes(&self) -> Result<u64, StoreError> {
        let rows = self.db().read(total_of_rows)?;
        Ok(rows + self.total_of_files()?)
    }

    /// The part of [`Store::total_bytes`] that is not in the database.
    pub(super) fn total_of_files(&self) -> Result<u64, StoreError> {
        let contexts = self.context_files()?.iter().map(|file| file.size_bytes).sum::<u64>();
        Ok(contexts + self.database_bytes())
    }

    fn database_bytes(&self) -> u64 {
        let path = self.db().path();
        let size = |path: &Path| std::fs::metadata(path).map_or(0, |found| found.len());
        // The log is folded into the database and emptied.
        size(path) + size(&db::companions(path)[0])
    }

    /// The files in `contexts/`.
    pub(super) fn context_files(&self) -> Result<Vec<ContextFile>, StoreError> {
        let dir = self.root().join("contexts");
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&dir).at(&dir)? {
            let entry = entry.at(&dir)?;
            let (Ok(found), Ok(name)) = (entry.metadata(), entry.file_name().into_string()) else { continue };
            let seconds = found.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            let used_at = seconds.map_or(0, |time| time.as_secs().cast_signed());
            files.push(ContextFile { name, size_bytes: found.len(), used_at });
        }
        Ok(files)
    }

    /// Measures the cache mounts that were used since that was last done: all, or of those only that were measured
    /// longer than `min_age_seconds` ago.
    pub(super) fn measure_mounts(&self, min_age_seconds: Option<i64>) -> Result<(), StoreError> {
        let before = db::now() - min_age_seconds.unwrap_or(0);
        let stale: Vec<String> = self.db().read(|connection| {
            connection
                .prepare_cached("SELECT name FROM mounts WHERE used_at >= measured_at AND measured_at <= ?1")?
                .query_map(params![before], |row| row.get(0))?
                .collect()
        })?;
        for name in stale {
            let now = db::now();
            let path = mounts::path_of(self.root(), &name);
            let size = crate::space::measure(&path).unwrap_or_default();
            self.db().write(|tx| {
                Ok(tx
                    .prepare_cached("UPDATE mounts SET size_bytes = ?2, measured_at = ?3 WHERE name = ?1")?
                    .execute(params![name, size.cast_signed(), now])?)
            })?;
        }
        Ok(())
    }
}

/// A file in `contexts/`.
pub(super) struct ContextFile {
    pub(super) name: String,
    pub(super) size_bytes: u64,
    pub(super) used_at: i64,
}

/// The bytes that the database knows of.
pub(super) fn total_of_rows(connection: &Connection) -> rusqlite::Result<u64> {
    let sum: i64 = connection
        .prepare_cached(
            "SELECT (SELECT coalesce(sum(disk_bytes - shared_bytes), 0) FROM layers)
                  + (SELECT coalesce(sum(size_bytes), 0) FROM blobs)
                  + (SELECT coalesce(sum(size_bytes), 0) FROM mounts)",
        )?
        .query_row([], |row| row.get(0))?;
    Ok(sum.max(0).cast_unsigned())
}

/// All items and images at one moment.
pub(super) struct Inventory {
    pub(super) items: Vec<Item>,
    pub(super) images: Vec<Image>,
}

/// A [`Usage`] and what collecting must know of it.
pub(super) struct Item {
    pub(super) usage: Usage,
    pub(super) what: What,
    /// Images that hold it, by index.
    pub(super) holders: Vec<usize>,
    /// Layers that share files with it, by index, and how many bytes.
    pub(super) sharers: Vec<(usize, u64)>,
}

/// What an item is in the database.
pub(super) enum What {
    Layer {
        id: LayerId,
        disk_bytes: u64,
        shared_bytes: u64,
        shared_with: Option<LayerId>,
        records: Vec<StepKey>,
    },
    Record(StepKey),
    Blob(Digest),
    Mount(String),
    Context(String),
    Database,
}

/// An image as a holder of items.
pub(super) struct Image {
    pub(super) seq: i64,
    pub(super) name: Option<String>,
    pub(super) config: Digest,
    pub(super) used_at: i64,
    pub(super) items: Vec<usize>,
    /// The last of its layers tells whether somebody uses it: lower ones may be others' too.
    pub(super) top: Option<LayerId>,
    pub(super) in_use: bool,
}

impl Inventory {
    pub(super) fn read(store: &Store, connection: &Connection) -> Result<Self, TxError> {
        let mut inventory = Self { items: Vec::new(), images: Vec::new() };
        let layers = inventory.read_layers(connection)?;
        inventory.read_empty_records(connection)?;
        let blobs = inventory.read_blobs(connection)?;
        inventory.read_mounts(connection)?;
        for file in store.context_files()? {
            inventory.push_context(store.root(), file);
        }
        inventory.push(
            usage("db.sqlite", UsageKind::Internal, store.database_bytes(), "records, layers, images, logs"),
            What::Database,
        );
        inventory.read_images(store, connection, &layers, &blobs)?;
        Ok(inventory)
    }

    fn push(&mut self, usage: Usage, what: What) -> usize {
        self.items.push(Item { usage, what, holders: Vec::new(), sharers: Vec::new() });
        self.items.len() - 1
    }

    fn read_layers(&mut self, connection: &Connection) -> Result<HashMap<[u8; 32], usize>, TxError> {
        let mut by_id = HashMap::new();
        let mut statement = connection.prepare_cached(
            "SELECT id, disk_bytes, shared_bytes, shared_with, made_at, used_at, uses, origin FROM layers ORDER BY seq",
        )?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let id: [u8; 32] = row.get(0)?;
            let bytes = |column| row.get::<_, i64>(column).map(|bytes| bytes.max(0).cast_unsigned());
            let (disk_bytes, shared_bytes) = (bytes(1)?, bytes(2)?);
            let shared_with = row.get::<_, Option<[u8; 32]>>(3)?.map(LayerId::from_bytes);
            let kind = if row.get::<_, i64>(7)? == 2 { UsageKind::Layer } else { UsageKind::Step };
            let id = LayerId::from_bytes(id);
            let described = Usage {
                made_at: row.get(4)?,
                used_at: row.get(5)?,
                uses: bytes(6)?,
                ..usage(&id.to_string(), kind, disk_bytes.saturating_sub(shared_bytes), "")
            };
            let what = What::Layer { id, disk_bytes, shared_bytes, shared_with, records: Vec::new() };
            by_id.insert(*id.as_bytes(), self.push(described, what));
        }
        for index in 0..self.items.len() {
            if let What::Layer { shared_with: Some(with), shared_bytes, .. } = &self.items[index].what
                && let Some(&other) = by_id.get(with.as_bytes())
            {
                let shared = *shared_bytes;
                self.items[other].sharers.push((index, shared));
            }
        }
        let mut statement = connection.prepare_cached(
            "SELECT rl.layer, r.key, r.name, r.duration_ns, r.used_at FROM record_layers rl JOIN records r ON r.key = rl.key",
        )?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let Some(&index) = by_id.get(&row.get::<_, [u8; 32]>(0)?) else { continue };
            let item = &mut self.items[index];
            if let What::Layer { records, .. } = &mut item.what {
                records.push(StepKey(Digest::from_bytes(row.get(1)?)));
            }
            item.usage.steps += 1;
            item.usage.used_at = item.usage.used_at.max(row.get(4)?);
            let cost = Duration::from_nanos(row.get::<_, i64>(3)?.max(0).cast_unsigned());
            if cost >= item.usage.cost {
                item.usage.cost = cost;
                item.usage.description = row.get(2)?;
                if item.usage.description.starts_with(GIT_SOURCE) {
                    item.usage.kind = UsageKind::Git;
                }
            }
        }
        Ok(by_id)
    }

    /// Steps that changed nothing.
    fn read_empty_records(&mut self, connection: &Connection) -> Result<(), TxError> {
        let mut statement = connection.prepare_cached(
            "SELECT key, name, duration_ns, made_at, used_at, uses FROM records
             WHERE key NOT IN (SELECT key FROM record_layers)",
        )?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let key = Digest::from_bytes(row.get(0)?);
            let described = Usage {
                made_at: row.get(3)?,
                used_at: row.get(4)?,
                uses: row.get::<_, i64>(5)?.max(0).cast_unsigned(),
                steps: 1,
                cost: Duration::from_nanos(row.get::<_, i64>(2)?.max(0).cast_unsigned()),
                ..usage(&key.hex(), UsageKind::Step, 0, &row.get::<_, String>(1)?)
            };
            self.push(described, What::Record(StepKey(key)));
        }
        Ok(())
    }

    fn read_blobs(&mut self, connection: &Connection) -> Result<HashMap<Digest, usize>, TxError> {
        let mut by_digest = HashMap::new();
        let mut statement = connection.prepare_cached(
            "SELECT b.digest, b.size_bytes, b.used_at, (SELECT max(how) FROM compressed c WHERE c.blob = b.digest
                 AND c.how <> ?1)
             FROM blobs b",
        )?;
        let mut rows = statement.query([attestations::HOW])?;
        while let Some(row) = rows.next()? {
            let digest = Digest::from_bytes(row.get(0)?);
            let used_at = row.get(2)?;
            let description =
                row.get::<_, Option<String>>(3)?.map_or_else(String::new, |how| format!("layer as {how}"));
            let size_bytes = row.get::<_, i64>(1)?.max(0).cast_unsigned();
            let described = Usage {
                made_at: used_at,
                used_at,
                ..usage(&digest.hex(), UsageKind::Blob, size_bytes, &description)
            };
            by_digest.insert(digest, self.push(described, What::Blob(digest)));
        }
        Ok(by_digest)
    }

    fn read_mounts(&mut self, connection: &Connection) -> Result<(), TxError> {
        let mut statement =
            connection.prepare_cached("SELECT name, id, made_at, used_at, uses, size_bytes FROM mounts")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let name: String = row.get(0)?;
            let described = Usage {
                made_at: row.get(2)?,
                used_at: row.get(3)?,
                uses: row.get::<_, i64>(4)?.max(0).cast_unsigned(),
                ..usage(
                    &name,
                    UsageKind::CacheMount,
                    row.get::<_, i64>(5)?.max(0).cast_unsigned(),
                    &format!("cache mount {}", row.get::<_, String>(1)?),
                )
            };
            self.push(described, What::Mount(name));
        }
        Ok(())
    }

    fn push_context(&mut self, root: &Path, file: ContextFile) {
        let path = root.join("contexts").join(&file.name);
        let description = match file.name.ends_with(COPY_SUFFIX) {
            true => "files of the last layer of a copy".to_owned(),
            false => match crate::tree::index_context(&path) {
                Some(context) => format!("context {}", context.display()),
                None => "context".to_owned(),
            },
        };
        let described = Usage {
            made_at: file.used_at,
            used_at: file.used_at,
            ..usage(&file.name, UsageKind::Context, file.size_bytes, &description)
        };
        self.push(described, What::Context(file.name));
    }

    fn read_images(
        &mut self,
        store: &Store,
        connection: &Connection,
        layers: &HashMap<[u8; 32], usize>,
        blobs: &HashMap<Digest, usize>,
    ) -> Result<(), TxError> {
        let mut statement = connection
            .prepare_cached("SELECT seq, name, config, manifest, remote_digest, tagged_at FROM images")?;
        let mut of_image =
            connection.prepare_cached("SELECT layer FROM image_layers WHERE image = ?1 ORDER BY position")?;
        let mut parts: HashMap<Digest, Vec<Digest>> = HashMap::new();
        let attested = attestations::all(connection)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let seq: i64 = row.get(0)?;
            let config = Digest::from_bytes(row.get(2)?);
            let name: Option<String> = row.get(1)?;
            let mut used_at: i64 = row.get(5)?;
            let mut held: HashSet<usize> = HashSet::new();
            let mut top = None;
            let ids = of_image
                .query_map(params![seq], |row| row.get::<_, [u8; 32]>(0))?
                .collect::<rusqlite::Result<Vec<_>>>()?;
            for id in ids {
                held.extend(layers.get(&id));
                top = Some(LayerId::from_bytes(id));
            }
            if let Some(index) = top.and_then(|top| layers.get(top.as_bytes())) {
                used_at = used_at.max(self.items[*index].usage.used_at);
            }
            let manifest = digest(row.get(3)?);
            let attestations = manifest.and_then(|manifest| attested.get(&manifest)).copied();
            let documents = [Some(config), manifest, digest(row.get(4)?), attestations];
            for document in documents.into_iter().flatten() {
                if let Entry::Vacant(unknown) = parts.entry(document) {
                    let mut found = HashSet::new();
                    store.add_with_parts(document, MAX_DEPTH, &mut found)?;
                    unknown.insert(found.into_iter().collect());
                }
                held.extend(parts.get(&document).into_iter().flatten().filter_map(|part| blobs.get(part)));
            }
            let image = self.images.len();
            let shown = match &name {
                Some(name) => name.clone(),
                None => config.hex()[..12].to_owned(),
            };
            for &index in &held {
                let item = &mut self.items[index];
                item.holders.push(image);
                item.usage.is_named |= name.is_some();
                if !item.usage.images.contains(&shown) {
                    item.usage.images.push(shown.clone());
                }
                if item.usage.kind == UsageKind::Blob && item.usage.description.is_empty() {
                    item.usage.description = format!("config or manifest of {shown}");
                }
                if item.usage.kind == UsageKind::Layer && item.usage.description.is_empty() {
                    item.usage.description = format!("layer of {shown}");
                }
            }
            let items = held.into_iter().collect();
            self.images.push(Image { seq, name, config, used_at, items, top, in_use: false });
        }
        Ok(())
    }

    /// Notes what running builds use.
    pub(super) fn mark_in_use(
        &mut self,
        store: &Store,
        leased: &HashSet<lease::Id>,
    ) -> Result<(), StoreError> {
        for item in &mut self.items {
            item.usage.in_use = match &item.what {
                What::Layer { id, .. } => leased.contains(id.as_bytes()),
                What::Blob(digest) => leased.contains(digest.as_bytes()),
                What::Mount(name) => {
                    let lock = store.lock_path(&mounts::lock_name(name));
                    lock.exists() && FileLock::try_take(&lock, Mode::Exclusive, Kind::Kept)?.is_none()
                }
                What::Record(_) | What::Context(_) | What::Database => false,
            };
        }
        for image in &mut self.images {
            image.in_use = leased.contains(image.config.as_bytes())
                || image.top.is_some_and(|top| leased.contains(top.as_bytes()));
        }
        Ok(())
    }
}

impl Store {
    /// Follows manifests and indexes, read as plain JSON: whatever is named there by digest is kept.
    fn add_with_parts(
        &self,
        digest: Digest,
        depth: u32,
        needed: &mut HashSet<Digest>,
    ) -> Result<(), StoreError> {
        if !needed.insert(digest) || depth == 0 {
            return Ok(());
        }
        let path = blobs::path_of(self.root(), &digest);
        let file = match std::fs::File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            file => file.at(&path)?,
        };
        if file.metadata().at(&path)?.len() > MAX_MANIFEST_BYTES {
            return Ok(()); // A layer's.
        }
        for part in parts_of(file).at(&path)? {
            self.add_with_parts(part, depth - 1, needed)?;
        }
        Ok(())
    }
}

/// The digests that a manifest or index names; nothing for other bytes.
fn parts_of(file: std::fs::File) -> std::io::Result<Vec<Digest>> {
    let mut bytes = Vec::new();
    file.take(MAX_MANIFEST_BYTES).read_to_end(&mut bytes)?;
    if bytes.first() != Some(&b'{') {
        return Ok(Vec::new());
    }
    let Ok(document) = serde_json::from_slice::<serde_json::Value>(&bytes) else { return Ok(Vec::new()) };
    let lists = ["layers", "manifests"].into_iter().filter_map(|key| document.get(key)?.as_array()).flatten();
    Ok(lists
        .chain(document.get("config"))
        .filter_map(|descriptor| descriptor.get("digest")?.as_str()?.parse().ok())
        .collect())
}

fn usage(id: &str, kind: UsageKind, size_bytes: u64, description: &str) -> Usage {
    Usage {
        id: id.to_owned(),
        kind,
        size_bytes,
        made_at: 0,
        used_at: 0,
        uses: 0,
        description: description.to_owned(),
        images: Vec::new(),
        is_named: false,
        steps: 0,
        cost: Duration::ZERO,
        in_use: false,
    }
}

fn digest(bytes: Option<[u8; 32]>) -> Option<Digest> {
    bytes.map(Digest::from_bytes)
}

fn plain(error: TxError) -> StoreError {
    match error {
        TxError::Store(error) => error,
        TxError::Sql(error) => StoreError::Database { path: "db.sqlite".into(), reason: error.to_string() },
    }
}

/// What names of checkouts begin with.
const GIT_SOURCE: &str = "git ";
/// Ending of the files that say what a copy's last layer was made of.
pub(super) const COPY_SUFFIX: &str = ".copy";
/// As large as a manifest may be (distribution-spec, "Pushing Manifests").
const MAX_MANIFEST_BYTES: u64 = 4 << 20;
/// Index, manifest, config.
const MAX_DEPTH: u32 = 4;
