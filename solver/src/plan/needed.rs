//! What is to be known before the planner starts: whose bases it will ask for, and what has to be built for them.

use std::collections::HashSet;

use kiln_image::local::LocalName;
use kiln_image::{ImageRef, Platform};
use kiln_parser::Dockerfile;

use super::arguments::{GlobalArgs, target_platform};
use super::stages::{Origin, StageIndex, Stages, froms};
use super::warnings::Warnings;
use super::{AwaitedStage, NamedContext, PlanError, PlanRequest, Unneeded};

/// See [`super::base_names`].
pub(super) fn base_names(
    dockerfile: &Dockerfile,
    request: &PlanRequest,
) -> Result<Vec<(ImageRef, Platform)>, PlanError> {
    let args = GlobalArgs::new(dockerfile, request)?;
    let stages = Stages::new(dockerfile, request, &args, &mut Warnings::default())?;
    let mut names = Vec::new();
    let mut known = HashSet::new();
    let mut add = |origin: &Origin, platform: &Platform| {
        let reference = match origin {
            Origin::Image { reference, .. } => reference,
            Origin::Context(name) => match request.contexts.get(name) {
                Some(NamedContext::Image(reference) | NamedContext::Layout(reference)) => reference,
                _ => return,
            },
            Origin::Scratch | Origin::Stage(_) => return,
        };
        let name = (reference.clone(), platform.clone());
        if known.insert(name.clone()) {
            names.push(name);
        }
    };
    for index in needed_stages(&stages, request)? {
        let plan = stages.get(index);
        let target = target_platform(request);
        let base = plan.replaced.as_ref().unwrap_or(&plan.base);
        add(base, plan.platform.as_ref().unwrap_or(target));
        if plan.replaced.is_none() {
            for instruction in &plan.stage.instructions {
                for (from, numbers) in froms(instruction, &request.mounts) {
                    add(&stages.find_from(from, numbers, index, instruction.span)?, target);
                }
            }
        }
    }
    Ok(names)
}

/// See [`super::awaited_stages`].
pub(super) fn awaited_stages(
    dockerfile: &Dockerfile,
    request: &PlanRequest,
) -> Result<Vec<AwaitedStage>, PlanError> {
    let args = GlobalArgs::new(dockerfile, request)?;
    let stages = Stages::new(dockerfile, request, &args, &mut Warnings::default())?;
    let mut waiting = needed_stages(&stages, request)?;
    waiting.sort_unstable();
    let mut awaited = Vec::new();
    for index in waiting {
        let plan = stages.get(index);
        let is_on_the_host = matches!(&plan.base, Origin::Context(name) if LocalName::is_local(name));
        let Some(after) = plan.after.filter(|_| is_on_the_host) else { continue };
        if !awaited.contains(&AwaitedStage(after)) {
            awaited.push(AwaitedStage(after));
        }
    }
    Ok(awaited)
}

/// The stages that are to be built, in no order; triggers of bases may need more.
fn needed_stages(stages: &Stages<'_>, request: &PlanRequest) -> Result<Vec<StageIndex>, PlanError> {
    let mut is_needed = vec![false; stages.list.len()];
    let mut waiting = vec![stages.target(request.target.as_deref())?];
    if request.unneeded_stages == Unneeded::Built {
        waiting.extend(stages.all());
    }
    let mut needed = Vec::new();
    while let Some(index) = waiting.pop() {
        if !std::mem::replace(&mut is_needed[index.0], true) {
            needed.push(index);
            waiting.extend(stages.needs(index));
        }
    }
    Ok(needed)
}
