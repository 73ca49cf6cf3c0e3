//! `kiln history`: newest first.

use kiln::images::{HistoryEntry, Images};

use crate::args::HistoryArgs;
use crate::report::Failure;
use crate::{human, template};

pub(super) fn run(args: &HistoryArgs, images: &Images) -> Result<u8, Failure> {
    let image = images.find(&args.name)?;
    let id = if args.no_trunc { image.config.to_string() } else { super::short_id(&image.config) };
    let entries = images.history(&image)?;
    super::print(&show(args, &id, &entries, jiff::Timestamp::now())?)?;
    Ok(0)
}

fn show(
    args: &HistoryArgs,
    id: &str,
    entries: &[HistoryEntry],
    now: jiff::Timestamp,
) -> Result<String, Failure> {
    let objects: Vec<serde_json::Value> = entries
        .iter()
        .rev()
        .enumerate()
        .map(|(index, entry)| {
            let created_by = entry.created_by.replace('\t', " ");
            let created_at = entry.created.clone().unwrap_or_default();
            let created_since = human::ago(entry.created.as_deref(), now);
            serde_json::json!({
                "Comment": entry.comment,
                "CreatedAt": created_at,
                "CreatedBy": if args.no_trunc { created_by } else { human::ellipsis(&created_by, LONGEST) },
                "CreatedSince": if args.human { created_since } else { created_at.clone() },
                "ID": if index == 0 { id } else { MISSING },
                "Size": match args.human {
                    true => human::size(entry.size_bytes),
                    false => entry.size_bytes.to_string(),
                },
            })
        })
        .collect();
    let head = serde_json::json!({
        "Comment": "COMMENT",
        "CreatedAt": "CREATED AT",
        "CreatedBy": "CREATED BY",
        "CreatedSince": "CREATED",
        "ID": "IMAGE",
        "Size": "SIZE",
    });
    let format = match args.format.as_str() {
        _ if args.quiet => "{{.ID}}",
        "table" => r"table {{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}",
        format => format,
    };
    Ok(template::render_all(format, &objects, &head)?)
}

/// What docker shows for the id of a step that is no image of its own.
const MISSING: &str = "<missing>";
const LONGEST: usize = 45;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_entry_stands_on_top_with_the_images_id() {
        let entry = |created_by: &str, size_bytes| HistoryEntry {
            created: Some("2026-01-01T00:00:00Z".into()),
            created_by: created_by.into(),
            comment: "buildkit.dockerfile.v0".into(),
            size_bytes,
        };
        let entries = [entry("ADD rootfs.tar / # buildkit", 4_000_000), entry(&"x".repeat(60), 0)];
        let args = HistoryArgs {
            no_trunc: false,
            quiet: false,
            human: true,
            format: "table".into(),
            name: String::new(),
        };
        let now = "2026-01-22T00:00:00Z".parse().unwrap();
        insta::assert_snapshot!(show(&args, "0123456789ab", &entries, now).unwrap(), @r"
        IMAGE          CREATED       CREATED BY                                      SIZE      COMMENT
        0123456789ab   3 weeks ago   xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…   0B        buildkit.dockerfile.v0
        <missing>      3 weeks ago   ADD rootfs.tar / # buildkit                     4MB       buildkit.dockerfile.v0
        ");
    }
}
