//! Base images that move.

use std::collections::HashSet;

use crate::Dockerfile;
use crate::lint::Findings;

/// LatestBaseTag.
pub(in crate::lint) fn latest(file: &Dockerfile, found: &mut Findings) {
    let mut stages = HashSet::new();
    for stage in &file.stages {
        let base = stage.base.value.as_str();
        let is_image = base != "scratch" && !base.contains('$') && !stages.contains(&base.to_lowercase());
        stages.extend(stage.name.as_ref().map(|name| name.value.clone()));
        let last = base.rsplit('/').next().unwrap_or(base);
        let moves = !base.contains('@') && last.split_once(':').is_none_or(|(_, tag)| tag == "latest");
        if is_image && moves {
            let message = format!("Base image {base} is another one tomorrow: name a version, or a digest");
            found.add(message, stage.base.span);
        }
    }
}
