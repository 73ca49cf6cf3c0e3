//! What builds remove by themselves: after a build, before the disk fills, and when it is full.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kiln_cache::{ImageRule, Keep, Prune, Pruned, RemovedBy, Store, Usage, UsageKind};

use super::Limits;
use crate::Error;

/// Checkouts and cache mounts that were unused for so long go when they are many (BuildKit's first rule).
const SOURCE_KEEP: Duration = Duration::from_secs(48 * 3600);
/// So many bytes of them are many.
const MANY_SOURCES: u64 = 512_000_000;

/// Keeps the store within `limits`. What a build without news costs is one system call.
pub(crate) fn after_build(store: &Store, limits: &Limits) -> Result<Pruned, Error> {
    store.note_uses()?;
    let has_news = store.has_news();
    let mut pruned = match store.max_bytes() {
        Some(_) if has_news => store.enforce_limit()?,
        _ => Pruned::default(),
    };
    let disk = store.disk()?;
    if !limits.enabled || !has_news && disk.free_bytes >= limits.min_free_bytes(&disk) {
        return Ok(pruned);
    }
    // All that the cache can be at most, without looking closer.
    let total_bytes = store.total_bytes()?;
    if total_bytes <= limits.reserved_bytes(&disk) {
        return Ok(pruned);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().cast_signed();
    let is_idle =
        |usage: &Usage, age: Duration| now - usage.used_at > i64::try_from(age.as_secs()).unwrap_or(i64::MAX);
    let is_source =
        |usage: &Usage| matches!(usage.kind, UsageKind::CacheMount | UsageKind::Git | UsageKind::Context);
    let is_worth_a_look = limits.keep_bytes(total_bytes, &disk).is_some() || is_due(store);
    if !is_worth_a_look {
        return Ok(pruned);
    }
    let usage = store.usage()?;
    let free = || usage.iter().filter(|usage| !usage.is_named && usage.kind != UsageKind::Internal);
    let used_bytes: u64 = free().map(|usage| usage.size_bytes).sum();
    let source_bytes: u64 = free().filter(|usage| is_source(usage)).map(|usage| usage.size_bytes).sum();
    let mut run = |select: &dyn Fn(&Usage) -> bool, keep_bytes| -> Result<(), Error> {
        let keep = Keep::Cache(keep_bytes);
        let more = store.prune(&Prune {
            select,
            images: ImageRule::NamedHold,
            keep,
            by: RemovedBy::GarbageCollection,
            is_dry_run: false,
        })?;
        pruned.items.extend(more.items);
        pruned.images.extend(more.images);
        pruned.size_bytes += more.size_bytes;
        Ok(())
    };
    let reserved = limits.reserved_bytes(&disk);
    if source_bytes > MANY_SOURCES {
        run(&|usage| is_source(usage) && is_idle(usage, SOURCE_KEEP), reserved)?;
    }
    if usage.iter().any(|usage| is_idle(usage, limits.keep_duration)) {
        run(&|usage| is_idle(usage, limits.keep_duration), reserved)?;
    }
    if let Some(keep_bytes) = limits.keep_bytes(used_bytes, &store.disk()?) {
        run(&|_| true, keep_bytes)?;
    }
    Ok(pruned)
}

/// Whether what is old was not looked for since yesterday.
fn is_due(store: &Store) -> bool {
    let mark = store.root().join("locks/collected");
    let age = std::fs::metadata(&mark)
        .and_then(|found| found.modified())
        .map(|time| time.elapsed().unwrap_or_default());
    if age.is_ok_and(|age| age < Duration::from_secs(24 * 3600)) {
        return false;
    }
    // Without the mark it is looked for once more, that is all.
    let _ = std::fs::write(&mark, b"");
    true
}
