//! `kiln prune`: the build cache (docker's `builder prune`, FEATURES IM15, GC2).

use kiln::storage::{Disk, ImageRule, Keep, Limits, Prune, RemovedBy, Storage, UsageKind};

use super::du;
use super::filter::Filters;
use crate::args::PruneArgs;
use crate::human;
use crate::report::Failure;

pub(super) fn run(args: &PruneArgs, storage: &Storage) -> Result<u8, Failure> {
    let mut filters = Filters::parse(&args.filters)?;
    if let Some(age) = &args.older_than {
        filters.add_age(age)?;
    }
    let question = match args.all {
        true => "WARNING! This will remove all build cache.",
        false => "WARNING! This will remove the build cache that no image uses.",
    };
    if !args.force && !args.dry_run && !super::confirm(question)? {
        return Ok(0);
    }
    let now = jiff::Timestamp::now().as_second();
    let images = if args.all { ImageRule::HoldLayers } else { ImageRule::Hold };
    let keep = keep(args, storage)?;
    let pruned = storage.prune(&Prune {
        select: &|usage| filters.keep(usage, now),
        images,
        keep,
        by: RemovedBy::Prune,
        is_dry_run: args.dry_run,
    })?;
    let mut text = match (pruned.items.is_empty(), args.verbose) {
        (true, _) => String::new(),
        (false, true) => du::verbose(&pruned.items, now),
        (false, false) => du::rows(&pruned.items, now),
    };
    text += &format!("Total:\t{}\n", human::size(pruned.size_bytes));
    super::print(&text)?;
    Ok(0)
}

/// What the three knobs leave; without any, nothing.
fn keep(args: &PruneArgs, storage: &Storage) -> Result<Keep, Failure> {
    if args.reserved_space.is_none() && args.max_used_space.is_none() && args.min_free_space.is_none() {
        return Ok(Keep::Nothing);
    }
    let disk: Disk = storage.store().disk().map_err(kiln::Error::from)?;
    if args.max_used_space.is_none() && args.min_free_space.is_none() {
        // The older flag, alone, is what is left.
        return Ok(args.reserved_space.map_or(Keep::Nothing, |size| Keep::Cache(size.of(&disk))));
    }
    let none = kiln::storage::Size::Bytes(0);
    let all = kiln::storage::Size::Bytes(u64::MAX);
    let mut limits = Limits::default();
    limits.reserved = args.reserved_space.or(Some(none));
    limits.max_used = args.max_used_space.or(Some(all));
    limits.min_free = args.min_free_space.or(Some(none));
    let usage = storage.usage()?;
    let cache = usage.iter().filter(|usage| !usage.is_shared() && usage.kind != UsageKind::Internal);
    let used: u64 = cache.map(|usage| usage.size_bytes).sum();
    Ok(Keep::Cache(limits.keep_bytes(used, &disk).unwrap_or(used)))
}
