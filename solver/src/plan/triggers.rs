//! ONBUILD: what a base, or a stage that is one, wants done in the stages that start from it (FEATURES FR26).

use kiln_parser::{Instruction, InstructionKind, Span};

use super::PlanError;
use super::bases::Found;
use super::names::Author;
use super::planner::Planner;
use super::stages::StageIndex;

impl Planner<'_> {
    /// What the base wants done right after FROM (FEATURES FR26). It is told as if it stood in the FROM line.
    pub(super) fn triggers(
        &self,
        index: StageIndex,
        found: Option<&Found>,
    ) -> Result<Vec<(Instruction, Author)>, PlanError> {
        let plan = self.stages.get(index);
        let span = plan.stage.span;
        if plan.replaced.is_some() {
            return Ok(Vec::new());
        }
        if let Some(parent) = self.parent(index).map(|parent| self.stages.get(parent)) {
            if parent.replaced.is_some() {
                return Ok(Vec::new());
            }
            let triggers =
                parent.stage.instructions.iter().filter_map(|instruction| match &instruction.kind {
                    InstructionKind::Onbuild(onbuild) => Some(onbuild),
                    _ => None,
                });
            return triggers
                .map(|onbuild| match &onbuild.instruction {
                    Some(trigger) => Ok((Instruction { span, ..(**trigger).clone() }, Author::ParentStage)),
                    None => trigger_of_image(&onbuild.trigger, span),
                })
                .collect();
        }
        let Some(Found::Image { image, .. }) = found else { return Ok(Vec::new()) };
        let texts = image.config.config.on_build.iter().flatten();
        texts.map(|text| trigger_of_image(text, span)).collect()
    }
}

/// A trigger as an image's config keeps it.
fn trigger_of_image(text: &str, span: Span) -> Result<(Instruction, Author), PlanError> {
    match kiln_parser::parse_trigger(text) {
        Ok(trigger) => Ok((Instruction { span, ..trigger }, Author::BaseImage)),
        Err(cause) => Err(PlanError::InvalidTrigger { trigger: text.to_owned(), cause, span }),
    }
}
