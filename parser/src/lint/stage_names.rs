//! Names of stages that are taken or mean something else.

use std::collections::HashSet;

use super::Findings;
use crate::{Dockerfile, Stage};

/// Names that FROM and `--from` do not look for among the stages.
const RESERVED: [&str; 2] = ["context", "scratch"];

/// DuplicateStageName.
pub(super) fn duplicate(file: &Dockerfile, found: &mut Findings) {
    let mut known = HashSet::new();
    for stage in &file.stages {
        let Some(name) = &stage.name else { continue };
        if !known.insert(name.value.as_str()) {
            let message = format!("Duplicate stage name \"{}\", stage names should be unique", name.value);
            found.add_word(message, stage.span, as_written(stage));
        }
    }
}

/// ReservedStageName.
pub(super) fn reserved(file: &Dockerfile, found: &mut Findings) {
    for stage in &file.stages {
        if let Some(name) = stage.name.as_ref().filter(|name| RESERVED.contains(&name.value.as_str())) {
            let message =
                format!("Stage name should not use the same name as reserved stage \"{}\"", name.value);
            found.add_word(message, stage.span, as_written(stage));
        }
    }
}

/// The name with its capital letters: the last word of the FROM line.
fn as_written(stage: &Stage) -> &str {
    stage.original.split_ascii_whitespace().next_back().unwrap_or_default()
}
