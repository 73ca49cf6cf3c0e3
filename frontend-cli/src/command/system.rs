//! `kiln system df` and `kiln system prune` (FEATURES IM16, IM17).

use std::collections::HashSet;
use std::path::Path;

use kiln::images::Images;
use kiln::storage::{ImageRule, Keep, Prune, RemovedBy, Storage, Usage};

use super::{du, image_prune};
use crate::args::{SystemDfArgs, SystemPruneArgs};
use crate::report::Failure;
use crate::table::table;
use crate::{human, template};

pub(super) fn df(args: &SystemDfArgs, storage: &Storage, images: &Images) -> Result<u8, Failure> {
    let usage = storage.usage()?;
    if args.verbose {
        super::print(&du::verbose(&usage, jiff::Timestamp::now().as_second()))?;
        return Ok(0);
    }
    let ids: HashSet<_> = images.list()?.into_iter().map(|image| image.config).collect();
    let bytes = |select: &dyn Fn(&Usage) -> bool| {
        usage.iter().filter(|usage| select(usage)).map(|usage| usage.size_bytes).sum::<u64>()
    };
    let cache = || usage.iter().filter(|usage| !usage.is_shared());
    // No container is ever left to hold an image, and there are no volumes.
    let lines = [
        Line::new("Images", ids.len(), 0, bytes(&Usage::is_shared), bytes(&Usage::is_shared)),
        Line::new("Containers", 0, 0, 0, 0),
        Line::new("Local Volumes", 0, 0, 0, 0),
        Line::new(
            "Build Cache",
            cache().count(),
            cache().filter(|usage| usage.in_use).count(),
            bytes(&|usage| !usage.is_shared()),
            bytes(&|usage| !usage.is_shared() && usage.is_reclaimable()),
        ),
    ];
    let text = match &args.format {
        Some(format) => {
            lines.iter().map(|line| template::render(format, &line.object())).collect::<Result<_, _>>()?
        }
        None => {
            let rows: Vec<_> = lines.iter().map(Line::cells).collect();
            table(&["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"], &rows)
        }
    };
    super::print(&text)?;
    Ok(0)
}

pub(super) fn prune(args: &SystemPruneArgs, root: Option<&Path>) -> Result<u8, Failure> {
    let kind = if args.all { "all images" } else { "all images without a name" };
    let question =
        format!("WARNING! This will remove:\n  - {kind}\n  - the build cache that no image uses\n");
    if !args.force && !super::confirm(&question)? {
        return Ok(0);
    }
    // Apart, so that nothing is in use that the listing of images looked at.
    let removed = image_prune::remove(&super::open(root)?, args.all, &args.filters)?;
    if !removed.is_empty() {
        super::print(&format!("Deleted Images:\n{}\n\n", removed.join("\n")))?;
    }
    let pruned = super::storage(root)?.prune(&Prune {
        select: &|_| true,
        images: ImageRule::Hold,
        keep: Keep::Nothing,
        by: RemovedBy::Prune,
        is_dry_run: false,
    })?;
    super::print(&format!("Total reclaimed space: {}\n", human::size(pruned.size_bytes)))?;
    Ok(0)
}

struct Line {
    kind: &'static str,
    total: usize,
    active: usize,
    size: u64,
    reclaimable: u64,
}

impl Line {
    fn new(kind: &'static str, total: usize, active: usize, size: u64, reclaimable: u64) -> Self {
        Self { kind, total, active, size, reclaimable }
    }

    fn reclaimable(&self) -> String {
        match (self.reclaimable * 100).checked_div(self.size) {
            Some(percent) => format!("{} ({percent}%)", human::size(self.reclaimable)),
            None => human::size(self.reclaimable),
        }
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.kind.to_owned(),
            self.total.to_string(),
            self.active.to_string(),
            human::size(self.size),
            self.reclaimable(),
        ]
    }

    fn object(&self) -> serde_json::Value {
        serde_json::json!({
            "Type": self.kind,
            "TotalCount": self.total.to_string(),
            "Active": self.active.to_string(),
            "Size": human::size(self.size),
            "Reclaimable": self.reclaimable(),
        })
    }
}
