//! MAINTAINER.

use super::Findings;
use crate::{Dockerfile, InstructionKind};

/// MaintainerDeprecated.
pub(super) fn deprecated(file: &Dockerfile, found: &mut Findings) {
    for instruction in file.stages.iter().flat_map(|stage| &stage.instructions) {
        if matches!(instruction.kind, InstructionKind::Maintainer(_)) {
            let keyword = instruction.original.split_ascii_whitespace().next().unwrap_or_default();
            let message = "Maintainer instruction is deprecated in favor of using label";
            found.add_word(message, instruction.span, keyword);
        }
    }
}
