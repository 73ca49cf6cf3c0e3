//! `kiln diff`: what two images differ in, file by file, and by which step.

use kiln::images::{ImageDifference, Images};

use crate::args::DiffArgs;
use crate::report::Failure;
use crate::{human, template};

pub(super) fn run(args: &DiffArgs, images: &Images) -> Result<u8, Failure> {
    let differences = images.differences(&images.find(&args.old)?, &images.find(&args.new)?)?;
    super::print(&show(args, &differences)?)?;
    Ok(0)
}

fn show(args: &DiffArgs, differences: &[ImageDifference]) -> Result<String, Failure> {
    let is_table = args.format == "table";
    let size = |bytes: Option<u64>| match bytes {
        Some(bytes) => human::size(bytes),
        None if is_table => "-".to_owned(),
        None => String::new(),
    };
    let objects: Vec<serde_json::Value> = differences
        .iter()
        .map(|difference| {
            let file = &difference.file;
            let words: Vec<_> = file.changes.iter().map(|change| change.word()).collect();
            // What an image's names and instructions hold is not the terminal's business.
            let path = file.path.to_string_lossy();
            let step = difference.step.replace(['\t', '\n'], " ");
            serde_json::json!({
                "Change": words.join("+"),
                "Path": format!("/{}", path.escape_debug()),
                "OldSize": size(file.old_bytes),
                "NewSize": size(file.new_bytes),
                "Step": if args.no_trunc || !is_table { step } else { human::ellipsis(&step, LONGEST_STEP) },
            })
        })
        .collect();
    let head = serde_json::json!({
        "Change": "CHANGE", "Path": "PATH", "OldSize": "OLD", "NewSize": "NEW", "Step": "STEP",
    });
    let format = match args.format.as_str() {
        "table" => r"table {{.Change}}\t{{.OldSize}}\t{{.NewSize}}\t{{.Path}}\t{{.Step}}",
        format => format,
    };
    Ok(template::render_all(format, &objects, &head)?)
}

const LONGEST_STEP: usize = 60;
