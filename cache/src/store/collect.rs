//! Removing what is not worth its space.
//!
//! Everything in the store can be made again, at a price. What goes first is what frees much, was unused for long, and is
//! cheap to make ([`worth`]). Images hold what they are made of: those with names against everything but a hard limit,
//! those without only against the user's own pruning (every rebuild under the same name leaves one behind). What running
//! builds use always stays (see `lease`).
//!
//! All happens in one write transaction. Files are moved into a draft in `work/`, whose drop removes them: after a kill in
//! between the next sweep moves back what still has a row.

use std::collections::HashSet;
use std::fs::DirEntry;
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use kiln_image::Digest;
use rusqlite::{Connection, params};

use super::db::{self, TxError};
use super::draft::LayerDraft;
use super::error::{At, StoreError};
use super::layers::{self, LayerId};
use super::lease;
use super::live_log;
use super::locks::{FileLock, Kind, Mode};
use super::removed::{self, RemovedBy};
use super::usage::{COPY_SUFFIX, Inventory, Item, Usage, UsageKind, What};
use super::{Store, blobs, mounts, sweep};

/// What to remove.
pub struct Prune<'a> {
    /// What may go at all.
    pub select: &'a dyn Fn(&Usage) -> bool,
    /// What images hold.
    pub images: ImageRule,
    /// Nothing more goes once this is reached; `Keep::Nothing` removes all that may go.
    pub keep: Keep,
    /// Who wants it so, for explanations.
    pub by: RemovedBy,
    /// Says what would go, and removes nothing.
    pub is_dry_run: bool,
}

/// How much to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Nothing of what may go.
    Nothing,
    /// So many bytes of what no image (that counts, by the [`ImageRule`]) holds.
    Cache(u64),
    /// So many bytes of the whole store.
    Store(u64),
    /// What is left when so many bytes were freed.
    Free(u64),
}

/// What images hold against pruning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageRule {
    /// What they are made of.
    Hold,
    /// The layers, but not the steps' results that these are: the next build runs the steps anew.
    HoldLayers,
    /// Only those with names do; one without goes with the first of its parts.
    NamedHold,
    /// Nothing if nothing else helps: the longest unused goes first, and those with names last.
    Yield,
}

/// What was removed.
#[derive(Clone, Debug, Default)]
pub struct Pruned {
    /// What went.
    pub items: Vec<Usage>,
    /// Names (or ids) of images that went.
    pub images: Vec<String>,
    /// Bytes of disk, as far as known.
    pub size_bytes: u64,
}

impl Store {
    /// Removes what `prune` says, the least worth first. Builds go on beside it; what they use stays. The space is free
    /// when this returns.
    ///
    /// # Errors
    /// I/O.
    pub fn prune(&self, prune: &Prune<'_>) -> Result<Pruned, StoreError> {
        let _alone = FileLock::take_now(&self.lock_path("collect"), Mode::Exclusive, Kind::Kept)?;
        if !prune.is_dry_run {
            self.measure_mounts(None)?;
        }
        let pruned = match self.remove_chosen(prune) {
            // Of a full disk not even this could be written down. What was moved away is gone by now, which leaves room for it.
            Err(StoreError::DiskFull { .. }) => self.remove_chosen(prune)?,
            other => other?,
        };
        if !prune.is_dry_run {
            self.remove_stale_files()?;
            self.db().shrink()?;
        }
        Ok(pruned)
    }

    fn remove_chosen(&self, prune: &Prune<'_>) -> Result<Pruned, StoreError> {
        // Emptied when this returns.
        let trash = LayerDraft::new(self.root())?;
        let removed = self.db().write(|tx| {
            let mut inventory = Inventory::read(self, tx)?;
            let gate = lease::close_gate(self.root())?;
            let leased = lease::leased(self.root(), &gate)?;
            inventory.mark_in_use(self, &leased)?;
            let chosen = choose(&inventory, prune, db::now());
            let mut pruned = Pruned { size_bytes: chosen.freed_bytes, ..Pruned::default() };
            if !prune.is_dry_run {
                for &index in &chosen.images {
                    delete_image(tx, inventory.images[index].seq)?;
                }
                for &index in &chosen.items {
                    self.remove(tx, &inventory.items[index], prune, &trash)?;
                }
                self.remove_unknown(tx, &leased, &trash)?;
            }
            drop(gate);
            pruned.images = chosen.images.iter().map(|&index| shown(&inventory, index)).collect();
            let mut items: Vec<_> = inventory.items.into_iter().map(|item| Some(item.usage)).collect();
            pruned.items = chosen.items.iter().filter_map(|&index| items[index].take()).collect();
            Ok(pruned)
        });
        match &removed {
            // What is made again must not meet a settled row of before after a power cut.
            Ok(pruned) if !prune.is_dry_run && !pruned.items.is_empty() => self.db().sync()?,
            // What a full disk needs is that they go.
            Ok(_) | Err(StoreError::DiskFull { .. }) => {}
            Err(_) => sweep::give_back(self.root(), self.db(), &trash)?,
        }
        removed
    }

    fn remove(
        &self,
        tx: &Connection,
        item: &Item,
        prune: &Prune<'_>,
        trash: &LayerDraft,
    ) -> Result<(), TxError> {
        let by = prune.by;
        match &item.what {
            What::Layer { id, records, disk_bytes, shared_bytes, shared_with } => {
                for key in records {
                    removed::drop_record(tx, key.0.as_bytes(), by)?;
                }
                if prune.images == ImageRule::HoldLayers && !item.holders.is_empty() {
                    return Ok(());
                }
                layers::discard(self.root(), *id, trash)?;
                // What shared files with it shares fewer, if any, with what it shared files with: at least so many.
                let surplus = disk_bytes.saturating_sub(*shared_bytes);
                tx.prepare_cached(
                    "UPDATE layers SET shared_with = ?2, shared_bytes = max(0, shared_bytes - ?3) WHERE shared_with = ?1",
                )?
                .execute(params![
                    id.as_bytes(),
                    shared_with.map(|id| *id.as_bytes()),
                    // Without a further layer nothing is shared.
                    if shared_with.is_some() { surplus.cast_signed() } else { i64::MAX },
                ])?;
                tx.prepare_cached("DELETE FROM layers WHERE id = ?1")?.execute(params![id.as_bytes()])?;
            }
            What::Record(key) => removed::drop_record(tx, key.0.as_bytes(), by)?,
            What::Blob(digest) => self.remove_blob(tx, digest, trash)?,
            What::Mount(name) => self.remove_mount(tx, name, trash)?,
            What::Context(name) => {
                let path = self.root().join("contexts").join(name);
                discard(&path, &trash.path().join(format!("context-{name}")))?;
            }
            What::Database => {}
        }
        Ok(())
    }

    /// Unless somebody uses it. Whoever takes it from now on makes it anew.
    pub(super) fn remove_mount(
        &self,
        tx: &Connection,
        name: &str,
        trash: &LayerDraft,
    ) -> Result<(), TxError> {
        let lock = self.lock_path(&mounts::lock_name(name));
        let Some(_unused) = FileLock::try_take(&lock, Mode::Exclusive, Kind::Kept)? else { return Ok(()) };
        discard(&mounts::path_of(self.root(), name), &trash.path().join(format!("{}-{name}", sweep::MOUNT)))?;
        tx.prepare_cached("DELETE FROM mounts WHERE name = ?1")?.execute(params![name])?;
        Ok(())
    }

    pub(super) fn remove_blob(
        &self,
        tx: &Connection,
        digest: &Digest,
        trash: &LayerDraft,
    ) -> Result<(), TxError> {
        let path = blobs::path_of(self.root(), digest);
        discard(&path, &trash.path().join(format!("{}-{}", sweep::BLOB, digest.hex())))?;
        tx.prepare_cached("DELETE FROM blobs WHERE digest = ?1")?.execute(params![digest.as_bytes()])?;
        tx.prepare_cached("DELETE FROM compressed WHERE blob = ?1")?.execute(params![digest.as_bytes()])?;
        Ok(())
    }

    /// Directories and blobs without a row: a commit has its own within its transaction, so these are of killed processes.
    pub(super) fn remove_unknown(
        &self,
        tx: &Connection,
        leased: &HashSet<lease::Id>,
        trash: &LayerDraft,
    ) -> Result<(), TxError> {
        let known: HashSet<[u8; 32]> = tx
            .prepare_cached("SELECT id FROM layers UNION ALL SELECT digest FROM blobs")?
            .query_map([], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        let is_unknown = |id: &[u8; 32]| !known.contains(id) && !leased.contains(id);
        for entry in entries(&self.root().join("layers"))? {
            if let Some(id) = name_of::<LayerId>(&entry).filter(|id| is_unknown(id.as_bytes())) {
                layers::discard(self.root(), id, trash)?;
            }
        }
        for entry in entries(&self.root().join("mounts"))? {
            let Ok(name) = entry.file_name().into_string() else { continue };
            let is_known = tx
                .prepare_cached("SELECT EXISTS(SELECT 1 FROM mounts WHERE name = ?1)")?
                .query_row(params![name], |row| row.get::<_, bool>(0))?;
            if !is_known {
                self.remove_mount(tx, &name, trash)?;
            }
        }
        for entry in entries(&blobs::dir(self.root()))? {
            let digest = entry.file_name().to_str().and_then(|name| Digest::from_hex(name).ok());
            if let Some(digest) = digest.filter(|digest| is_unknown(digest.as_bytes())) {
                self.remove_blob(tx, &digest, trash)?;
            }
        }
        Ok(())
    }

    /// Files that nobody will ever ask for again: locks of killed holders, notes on layers and contexts that are gone.
    fn remove_stale_files(&self) -> Result<(), StoreError> {
        for entry in entries(&self.root().join("locks"))? {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let is_transient =
                name.starts_with("layer-") || name.starts_with("diff-") || Digest::from_hex(name).is_ok();
            if is_transient {
                drop(FileLock::try_take(&entry.path(), Mode::Exclusive, Kind::Transient)?);
            } else if let Some(key) = name.strip_suffix(live_log::SUFFIX) {
                let lock = self.lock_path(key);
                if let Some(_unused) = FileLock::try_take(&lock, Mode::Exclusive, Kind::Transient)? {
                    let _ = std::fs::remove_file(entry.path());
                }
            }
        }
        for file in self.context_files()? {
            let path = self.root().join("contexts").join(&file.name);
            let is_stale = if file.name.ends_with(".tmp") {
                // Its writer renames it within the second, or is dead.
                db::now() - file.used_at > TEMPORARY_SECONDS
            } else if file.name.ends_with(COPY_SUFFIX) {
                match copied_layer(&path) {
                    Some(layer) => layers::row(self.db(), layer)?.is_none(),
                    None => true,
                }
            } else {
                crate::tree::index_context(&path).is_none_or(|context| !context.is_dir())
            };
            if is_stale {
                // Best effort: it only takes space.
                let _ = std::fs::remove_file(&path);
            }
        }
        Ok(())
    }
}

/// What goes, by index.
#[derive(Debug, Default, PartialEq)]
struct Chosen {
    items: Vec<usize>,
    images: Vec<usize>,
    freed_bytes: u64,
}

/// Chooses what goes. Pure.
fn choose(inventory: &Inventory, prune: &Prune<'_>, now: i64) -> Chosen {
    let mut choice = Choice::new(inventory, prune);
    let mut order: Vec<usize> =
        (0..inventory.items.len()).filter(|&index| (prune.select)(&inventory.items[index].usage)).collect();
    let worths: Vec<f64> = inventory.items.iter().map(|item| worth(&item.usage, now)).collect();
    // Of equals, what was made last goes first: what was made from it is of no use without it.
    order.sort_by(|&a, &b| worths[a].total_cmp(&worths[b]).then(b.cmp(&a)));
    choice.take(&order);
    if prune.images == ImageRule::Yield {
        let mut images: Vec<usize> = (0..inventory.images.len()).collect();
        images.sort_by_key(|&index| {
            let image = &inventory.images[index];
            (image.name.is_some(), image.used_at, image.seq)
        });
        for index in images {
            if !choice.wants_more() {
                break;
            }
            if !inventory.images[index].in_use && choice.release(index) {
                choice.take(&order);
            }
        }
    }
    choice.chosen
}

struct Choice<'a> {
    inventory: &'a Inventory,
    prune: &'a Prune<'a>,
    /// How many images that count hold an item.
    holders: Vec<usize>,
    is_gone: Vec<bool>,
    image_is_gone: Vec<bool>,
    /// Bytes that count towards `prune.keep`.
    left_bytes: u64,
    /// Bytes that an item has alone since what shared them with it went.
    inherited: Vec<u64>,
    chosen: Chosen,
}

impl<'a> Choice<'a> {
    fn new(inventory: &'a Inventory, prune: &'a Prune<'a>) -> Self {
        let counts = |index: &usize| match prune.images {
            ImageRule::Hold | ImageRule::Yield => true,
            ImageRule::HoldLayers => false,
            ImageRule::NamedHold => inventory.images[*index].name.is_some(),
        };
        let holders: Vec<usize> = inventory
            .items
            .iter()
            .map(|item| item.holders.iter().filter(|index| counts(index)).count())
            .collect();
        let counted = |(item, holders): &(&Item, &usize)| match prune.keep {
            Keep::Nothing | Keep::Free(_) => false,
            Keep::Cache(_) => {
                let is_free =
                    **holders == 0 && (prune.images != ImageRule::HoldLayers || item.holders.is_empty());
                is_free && item.usage.kind != UsageKind::Internal
            }
            Keep::Store(_) => true,
        };
        let left_bytes =
            inventory.items.iter().zip(&holders).filter(counted).map(|(item, _)| item.usage.size_bytes).sum();
        Self {
            inventory,
            prune,
            holders,
            is_gone: vec![false; inventory.items.len()],
            image_is_gone: vec![false; inventory.images.len()],
            left_bytes,
            inherited: vec![0; inventory.items.len()],
            chosen: Chosen::default(),
        }
    }

    fn wants_more(&self) -> bool {
        match self.prune.keep {
            Keep::Nothing => true,
            Keep::Free(bytes) => self.chosen.freed_bytes < bytes,
            Keep::Cache(bytes) | Keep::Store(bytes) => self.left_bytes > bytes,
        }
    }

    /// Takes of `order` what may go until it is enough.
    fn take(&mut self, order: &[usize]) {
        for &index in order {
            if !self.wants_more() {
                return;
            }
            let item = &self.inventory.items[index];
            if self.is_gone[index] || !item.usage.is_reclaimable() || self.holders[index] > 0 {
                continue;
            }
            let is_held = !item.holders.is_empty();
            if self.prune.images == ImageRule::HoldLayers && is_held {
                // Only the steps' records go, which are next to nothing.
                if item.usage.steps > 0 {
                    self.is_gone[index] = true;
                    self.chosen.items.push(index);
                }
                continue;
            }
            self.is_gone[index] = true;
            self.chosen.items.push(index);
            // What shared files with it has them alone now.
            let sharers = item.sharers.iter().filter(|(other, _)| !self.is_gone[*other]);
            let mut freed = item.usage.size_bytes + self.inherited[index];
            if let Some(&(heir, bytes)) = sharers.max_by_key(|(_, bytes)| *bytes) {
                let bytes = bytes.min(freed);
                self.inherited[heir] += bytes;
                freed -= bytes;
            }
            self.left_bytes = self.left_bytes.saturating_sub(freed);
            self.chosen.freed_bytes += freed;
            for &image in &item.holders {
                if !std::mem::replace(&mut self.image_is_gone[image], true) {
                    self.chosen.images.push(image);
                }
            }
        }
    }

    /// Lets an image go. Returns whether something is held by nobody now.
    fn release(&mut self, image: usize) -> bool {
        if std::mem::replace(&mut self.image_is_gone[image], true) {
            return false;
        }
        self.chosen.images.push(image);
        let mut is_free = false;
        for &index in &self.inventory.images[image].items {
            self.holders[index] = self.holders[index].saturating_sub(1);
            is_free |= self.holders[index] == 0;
        }
        is_free
    }
}

/// What keeping it saves, for each byte that it takes: the seconds to make it again, by how often that was spared, and the
/// less the longer nobody wanted it (the idea of GreedyDual-Size-Frequency).
fn worth(usage: &Usage, now: i64) -> f64 {
    let megabytes = usage.size_bytes as f64 / 1e6;
    let seconds = match usage.kind {
        UsageKind::Step | UsageKind::Internal => usage.cost.as_secs_f64(),
        // A download or a checkout; what the step took to start with is known for the latter.
        UsageKind::Layer | UsageKind::Blob | UsageKind::Git => usage.cost.as_secs_f64() + megabytes / 20.0,
        // Nobody knows what filled it.
        UsageKind::CacheMount => 10.0 + megabytes / 5.0,
        // Its files are read again.
        UsageKind::Context => megabytes,
    };
    let idle_hours = (now - usage.used_at).max(0) as f64 / 3600.0;
    (seconds + 0.05) * (usage.uses.max(1) as f64) / ((megabytes + 0.01) * (idle_hours + 1.0))
}

fn shown(inventory: &Inventory, index: usize) -> String {
    let image = &inventory.images[index];
    image.name.clone().unwrap_or_else(|| image.config.to_string())
}

/// Moves a file or directory into the trash, if it is there.
fn discard(path: &Path, trash: &Path) -> Result<(), StoreError> {
    match std::fs::rename(path, trash) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result.at(path),
    }
}

fn delete_image(tx: &Connection, seq: i64) -> Result<(), TxError> {
    tx.prepare_cached("DELETE FROM image_layers WHERE image = ?1")?.execute(params![seq])?;
    tx.prepare_cached("DELETE FROM images WHERE seq = ?1")?.execute(params![seq])?;
    Ok(())
}

/// The layer that a file in `contexts/` is about, see [`Store::copy_memory_path`].
fn copied_layer(path: &Path) -> Option<LayerId> {
    let mut text = [0; 64];
    let mut file = std::fs::File::open(path).ok()?;
    file.seek(SeekFrom::Start(8)).ok()?;
    file.read_exact(&mut text).ok()?;
    std::str::from_utf8(&text).ok()?.parse().ok()
}

fn entries(dir: &Path) -> Result<Vec<DirEntry>, StoreError> {
    std::fs::read_dir(dir).at(dir)?.map(|entry| entry.at(dir)).collect()
}

fn name_of<T: std::str::FromStr>(entry: &DirEntry) -> Option<T> {
    entry.file_name().to_str()?.parse().ok()
}

/// A temporary file in `contexts/` is older only if its writer was killed.
const TEMPORARY_SECONDS: i64 = 600;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: i64 = 1_000_000_000;

    fn item(megabytes: u64, cost_seconds: u64, idle_hours: i64) -> Item {
        let usage = Usage {
            id: String::new(),
            kind: UsageKind::Step,
            size_bytes: megabytes * 1_000_000,
            made_at: 0,
            used_at: NOW - idle_hours * 3600,
            uses: 1,
            description: String::new(),
            images: Vec::new(),
            is_named: false,
            steps: 1,
            cost: Duration::from_secs(cost_seconds),
            in_use: false,
        };
        Item { usage, what: What::Database, holders: Vec::new(), sharers: Vec::new() }
    }

    fn image(name: Option<&str>, used_at: i64, items: &[usize]) -> super::super::usage::Image {
        super::super::usage::Image {
            seq: used_at,
            name: name.map(str::to_owned),
            config: Digest::of(b""),
            used_at,
            items: items.to_vec(),
            top: None,
            in_use: false,
        }
    }

    fn inventory(items: Vec<Item>, images: Vec<super::super::usage::Image>) -> Inventory {
        let mut inventory = Inventory { items, images };
        for (index, image) in inventory.images.iter().enumerate() {
            for &held in &image.items {
                inventory.items[held].holders.push(index);
            }
        }
        inventory
    }

    fn chosen(inventory: &Inventory, images: ImageRule, keep: Keep) -> (Vec<usize>, Vec<usize>) {
        let prune = Prune { select: &|_| true, images, keep, by: RemovedBy::Prune, is_dry_run: false };
        let chosen = choose(inventory, &prune, NOW);
        (chosen.items, chosen.images)
    }

    #[test]
    fn what_is_cheap_large_and_long_unused_goes_first() {
        // As large: costly, cheap, cheap and idle; and a costly one that nobody wanted for a month.
        let all = inventory(
            vec![item(100, 600, 1), item(100, 1, 1), item(100, 1, 48), item(100, 600, 24 * 365)],
            vec![],
        );
        assert_eq!(chosen(&all, ImageRule::Hold, Keep::Cache(0)).0, [2, 3, 1, 0]);
        assert_eq!(chosen(&all, ImageRule::Hold, Keep::Cache(250_000_000)).0, [2, 3]);
        assert_eq!(chosen(&all, ImageRule::Hold, Keep::Cache(400_000_000)).0, [] as [usize; 0]);
    }

    #[test]
    fn images_hold_by_the_rule() {
        let items = (0..4).map(|_| item(100, 1, 1)).collect();
        let all = inventory(items, vec![image(Some("a"), 1, &[0, 1]), image(None, 2, &[1, 2])]);
        assert_eq!(chosen(&all, ImageRule::Hold, Keep::Nothing), (vec![3], vec![]));
        assert_eq!(chosen(&all, ImageRule::NamedHold, Keep::Nothing), (vec![3, 2], vec![1]));
        assert_eq!(chosen(&all, ImageRule::HoldLayers, Keep::Nothing), (vec![3, 2, 1, 0], vec![]));
    }

    #[test]
    fn a_hard_limit_takes_images_without_names_first_and_then_the_longest_unused() {
        let items = (0..4).map(|_| item(100, 1, 1)).collect();
        let images = vec![image(Some("new"), 9, &[0]), image(None, 8, &[1]), image(Some("old"), 1, &[2])];
        let all = inventory(items, images);
        let of = |megabytes: u64| chosen(&all, ImageRule::Yield, Keep::Store(megabytes * 1_000_000));
        assert_eq!(of(300), (vec![3], vec![]));
        assert_eq!(of(200), (vec![3, 1], vec![1]));
        assert_eq!(of(100), (vec![3, 1, 2], vec![1, 2]));
        assert_eq!(of(0), (vec![3, 1, 2, 0], vec![1, 2, 0]));
    }

    #[test]
    fn what_a_build_uses_stays_under_every_limit() {
        let mut items: Vec<_> = (0..2).map(|_| item(100, 1, 1)).collect();
        items[0].usage.in_use = true;
        let mut all = inventory(items, vec![image(Some("a"), 1, &[1])]);
        all.images[0].in_use = true;
        assert_eq!(chosen(&all, ImageRule::Yield, Keep::Store(0)), (vec![], vec![]));
    }

    #[test]
    fn what_another_layer_shares_is_not_freed_with_the_first() {
        let mut items = vec![item(100, 1, 48), item(1, 1, 1)];
        items[0].sharers.push((1, 99_000_000));
        let all = inventory(items, vec![]);
        let prune = Prune {
            select: &|_| true,
            images: ImageRule::Hold,
            keep: Keep::Cache(50_000_000),
            by: RemovedBy::Prune,
            is_dry_run: true,
        };
        let chosen = choose(&all, &prune, NOW);
        assert_eq!((chosen.items, chosen.freed_bytes), (vec![0, 1], 101_000_000));
    }
}
