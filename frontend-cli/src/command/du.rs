//! `kiln du`: what takes the store's space, in the shape of `docker buildx du`.

use std::fmt::Write as _;

use kiln::storage::{Storage, Usage};

use super::filter::Filters;
use crate::args::DuArgs;
use crate::printable::printable;
use crate::report::Failure;
use crate::table::table;
use crate::{human, template};

pub(super) fn run(args: &DuArgs, storage: &Storage) -> Result<u8, Failure> {
    let filters = Filters::parse(&args.filters)?;
    let now = jiff::Timestamp::now().as_second();
    let usage = storage.usage()?.into_iter().filter(|usage| filters.keep(usage, now));
    super::print(&show(args, &usage.collect::<Vec<_>>(), now)?)?;
    Ok(0)
}

fn show(args: &DuArgs, usage: &[Usage], now: i64) -> Result<String, Failure> {
    if let Some(format) = &args.format {
        let lines = usage.iter().map(|usage| template::render(format, &object(usage, now)));
        return Ok(lines.collect::<Result<String, _>>()?);
    }
    let mut text = if args.verbose { verbose(usage, now) } else { rows(usage, now) };
    let sum = |select: &dyn Fn(&Usage) -> bool| {
        human::size(usage.iter().filter(|usage| select(usage)).map(|usage| usage.size_bytes).sum())
    };
    let total = sum(&|_| true);
    if usage.iter().any(Usage::is_shared) {
        let _ = writeln!(text, "Shared:\t\t{}", sum(&Usage::is_shared));
        let _ = writeln!(text, "Private:\t{}", sum(&|usage| !usage.is_shared()));
    }
    let reclaimable = sum(&|usage| usage.is_reclaimable() && !usage.is_shared());
    let _ = writeln!(text, "Reclaimable:\t{reclaimable}\nTotal:\t\t{total}");
    Ok(text)
}

/// A line each.
pub(super) fn rows(usage: &[Usage], now: i64) -> String {
    let rows: Vec<Vec<String>> = usage
        .iter()
        .map(|usage| {
            let mutable = if usage.is_mutable() { "*" } else { "" };
            let shared = if usage.is_shared() { "*" } else { "" };
            vec![
                format!("{}{mutable}", short(&usage.id)),
                usage.is_reclaimable().to_string(),
                format!("{}{shared}", human::size(usage.size_bytes)),
                ago(usage.used_at, now),
                one_line(&usage.description),
            ]
        })
        .collect();
    table(&["ID", "RECLAIMABLE", "SIZE", "LAST ACCESSED", "DESCRIPTION"], &rows)
}

/// A paragraph each.
pub(super) fn verbose(usage: &[Usage], now: i64) -> String {
    let mut text = String::new();
    for usage in usage {
        let mut line = |name: &str, value: &str| {
            let _ = writeln!(text, "{:<14}{}", format!("{name}:"), printable(value));
        };
        line("ID", &usage.id);
        line("Created at", &date(usage.made_at));
        line("Mutable", &usage.is_mutable().to_string());
        line("Reclaimable", &usage.is_reclaimable().to_string());
        line("Shared", &usage.is_shared().to_string());
        line("In use", &usage.in_use.to_string());
        line("Size", &human::size(usage.size_bytes));
        line("Description", &usage.description);
        line("Usage count", &usage.uses.to_string());
        line("Last used", &ago(usage.used_at, now));
        line("Type", usage.kind.name());
        if usage.steps > 0 {
            line("Steps", &usage.steps.to_string());
            line("Took", &format!("{:.1}s", usage.cost.as_secs_f64()));
        }
        if !usage.images.is_empty() {
            line("Images", &usage.images.join(", "));
        }
        text.push('\n');
    }
    text
}

fn object(usage: &Usage, now: i64) -> serde_json::Value {
    serde_json::json!({
        "ID": usage.id,
        "Type": usage.kind.name(),
        "Description": usage.description,
        "Size": usage.size_bytes,
        "CreatedAt": date(usage.made_at),
        "LastUsedAt": date(usage.used_at),
        "LastAccessed": ago(usage.used_at, now),
        "UsageCount": usage.uses,
        "Mutable": usage.is_mutable(),
        "Reclaimable": usage.is_reclaimable(),
        "Shared": usage.is_shared(),
        "InUse": usage.in_use,
        "Steps": usage.steps,
        "DurationSeconds": usage.cost.as_secs_f64(),
        "Images": usage.images,
    })
}

fn date(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map(|time| time.to_string()).unwrap_or_default()
}

fn ago(seconds: i64, now: i64) -> String {
    match seconds {
        0 => "N/A".to_owned(),
        seconds => format!("{} ago", human::duration(now - seconds)),
    }
}

/// The first digits of an id; names that are none stay.
fn short(id: &str) -> &str {
    let is_hex = id.len() >= 64 && id.bytes().take(64).all(|byte| byte.is_ascii_hexdigit());
    if is_hex { &id[..25] } else { id }
}

fn one_line(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}

/// Characters of a description in a table.
const LONGEST: usize = 60;
