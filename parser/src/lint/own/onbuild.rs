//! Triggers that can never run.

use crate::lint::Findings;
use crate::{Dockerfile, InstructionKind, parse_trigger};

/// OnbuildMistake.
pub(in crate::lint) fn mistake(file: &Dockerfile, found: &mut Findings) {
    for instruction in file.stages.iter().flat_map(|stage| &stage.instructions) {
        let InstructionKind::Onbuild(onbuild) = &instruction.kind else { continue };
        if onbuild.instruction.is_none()
            && let Err(mistake) = parse_trigger(&onbuild.trigger)
        {
            let message = format!("Every build on this image fails with its trigger: {mistake}");
            found.add(message, instruction.span);
        }
    }
}
