//! The plan of a whole file: which stages, in which order, and what they hand on.

use std::collections::HashSet;

use kiln_image::local::LocalName;
use kiln_image::{ImageRef, Platform};
use kiln_parser::{Dockerfile, Instruction, InstructionKind, Span, Warning};

use super::arguments::{GlobalArgs, SCAN_STAGE, declared, proxies, target_platform};
use super::bases::{Bases, Found, Root};
use super::dispatch::{self, named_secrets};
use super::history::{Histories, MAX_HISTORY_BYTES, Made};
use super::names::{Author, StepNames};
use super::outline::{Facts, Notes};
use super::stages::{Origin, StageIndex, StageNumbers, Stages, check_default_args};
use super::state::StageState;
use super::vertices::Vertices;
use super::warnings::Warnings;
use super::{Outline, Plan, PlanError, PlanRequest, ResolveBase, Unneeded};

/// Everything that instructions of all stages share.
pub(super) struct Planner<'a> {
    pub(super) dockerfile: &'a Dockerfile,
    pub(super) request: &'a PlanRequest,
    pub(super) args: GlobalArgs,
    pub(super) proxies: Vec<(String, String)>,
    pub(super) stages: Stages<'a>,
    pub(super) bases: Bases<'a>,
    pub(super) vertices: Vertices,
    pub(super) histories: Histories,
    pub(super) warnings: &'a mut Warnings,
    /// What an outline tells.
    pub(super) notes: Notes,
    /// The names of the ARGs in the file and in the triggers of its bases.
    pub(super) declared: HashSet<String>,
    /// Stages that an SBOM looks into.
    pub(super) scanned: Vec<StageIndex>,
    /// Secrets and agents that the Dockerfile itself mounts.
    pub(super) named_secrets: HashSet<(&'static str, String)>,
    /// By stage, once it is planned.
    pub(super) roots: Vec<Option<Root>>,
}

/// A stage that is needed, with what its base brings.
struct Needed {
    found: Option<Found>,
    triggers: Vec<(Instruction, Author)>,
}

/// See [`super::plan`].
pub(super) fn plan(
    dockerfile: &Dockerfile,
    request: &PlanRequest,
    resolve: &mut ResolveBase<'_>,
) -> Result<Plan, PlanError> {
    let mut warnings = Warnings::beside(&dockerfile.warnings);
    let mut resolve = |reference: &ImageRef, platform: &Platform| resolve(reference, platform);
    let planner = Planner::new(dockerfile, request, &mut resolve, &mut warnings)?;
    let target = planner.stages.target(request.target.as_deref())?;
    let wanted = planner.wanted(target);
    let mut plan = planner.plan(target, wanted)?;
    plan.warnings = warnings.into_vec();
    Ok(plan)
}

/// See [`super::all_stages`].
pub(super) fn all_stages(
    dockerfile: &Dockerfile,
    request: &PlanRequest,
    resolve: &mut ResolveBase<'_>,
) -> Result<Plan, PlanError> {
    let mut warnings = Warnings::default();
    let mut resolve = |reference: &ImageRef, platform: &Platform| resolve(reference, platform);
    let planner = Planner::new(dockerfile, request, &mut resolve, &mut warnings)?;
    let target = planner.stages.target(None)?;
    let wanted = planner.stages.all().collect();
    planner.plan(target, wanted)
}

/// See [`super::check`].
pub(super) fn check(
    dockerfile: &Dockerfile,
    request: &PlanRequest,
    resolve: &mut ResolveBase<'_>,
) -> (Vec<Warning>, Option<PlanError>) {
    let mut warnings = Warnings::beside(&dockerfile.warnings);
    let mut resolve = |reference: &ImageRef, platform: &Platform| resolve(reference, platform);
    let result = Planner::new(dockerfile, request, &mut resolve, &mut warnings).and_then(|planner| {
        let target = planner.stages.target(request.target.as_deref())?;
        let wanted = match request.target {
            Some(_) => vec![target],
            None => planner.stages.all().collect(),
        };
        planner.plan(target, wanted)
    });
    (warnings.into_vec(), result.err())
}

/// See [`super::outline`].
pub(super) fn outline(
    dockerfile: &Dockerfile,
    request: &PlanRequest,
    resolve: &mut ResolveBase<'_>,
) -> Result<Outline, PlanError> {
    let mut warnings = Warnings::default();
    let mut resolve = |reference: &ImageRef, platform: &Platform| resolve(reference, platform);
    let mut planner = Planner::new(dockerfile, request, &mut resolve, &mut warnings)?;
    let target = planner.stages.target(request.target.as_deref())?;
    planner.plan_stages(target, vec![target])?;
    let needed: Vec<_> = (0..planner.roots.len())
        .map(StageIndex)
        .filter(|index| *index == target || planner.roots[index.0].is_some())
        .collect();
    let notes = std::mem::take(&mut planner.notes);
    Ok(notes.into_outline(&needed, target, &Facts::of(&planner)))
}

/// See [`super::plan_awaited`].
pub(super) fn plan_awaited(
    dockerfile: &Dockerfile,
    request: &PlanRequest,
    stage: StageIndex,
    resolve: &mut ResolveBase<'_>,
) -> Result<Plan, PlanError> {
    let mut warnings = Warnings::default();
    let mut resolve = |reference: &ImageRef, platform: &Platform| resolve(reference, platform);
    let mut planner = Planner::new(dockerfile, request, &mut resolve, &mut warnings)?;
    let state = planner.plan_stages(stage, vec![stage])?;
    Ok(planner.finish(state))
}

impl<'a> Planner<'a> {
    fn new(
        dockerfile: &'a Dockerfile,
        request: &'a PlanRequest,
        resolve: &'a mut ResolveBase<'a>,
        warnings: &'a mut Warnings,
    ) -> Result<Self, PlanError> {
        check_default_args(dockerfile, request, warnings);
        let args = GlobalArgs::new(dockerfile, request)?;
        let stages = Stages::new(dockerfile, request, &args, warnings)?;
        Ok(Self {
            dockerfile,
            request,
            args,
            proxies: proxies(&request.build_args),
            roots: vec![None; stages.list.len()],
            stages,
            bases: Bases::new(request, resolve),
            vertices: Vertices::default(),
            histories: Histories::default(),
            warnings,
            notes: Notes::default(),
            declared: declared(dockerfile),
            scanned: Vec::new(),
            named_secrets: named_secrets(dockerfile, &request.mounts),
        })
    }

    /// The stages that are built for `target`, and those that are built whoever needs them.
    fn wanted(&self, target: StageIndex) -> Vec<StageIndex> {
        match self.request.unneeded_stages {
            Unneeded::Skipped => vec![target],
            Unneeded::Built => std::iter::once(target).chain(self.stages.all()).collect(),
        }
    }

    /// Plans the stages that `wanted` need, in the order of the file; `target` gives the image.
    fn plan(mut self, target: StageIndex, wanted: Vec<StageIndex>) -> Result<Plan, PlanError> {
        let mut state = self.plan_stages(target, wanted)?;
        if self.request.unneeded_stages == Unneeded::Built {
            let others = self.stages.all().filter(|index| *index != target);
            let others: Vec<_> = others.filter_map(|index| self.roots[index.0].map(Root::vertex)).collect();
            self.wait(&mut state, "all stages", &others);
        }
        Ok(self.finish(state))
    }

    /// Returns the target's state at its end.
    fn plan_stages(&mut self, target: StageIndex, wanted: Vec<StageIndex>) -> Result<StageState, PlanError> {
        let mut needed = self.find_needed(wanted)?;
        // A parent's state moves to its last child; before that it is cloned.
        let mut children = vec![0_usize; needed.len()];
        for (number, stage) in needed.iter().enumerate() {
            if let (Some(_), Some(parent)) = (stage, self.parent(StageIndex(number))) {
                children[parent.0] += 1;
            }
        }
        let mut states: Vec<Option<StageState>> = vec![None; needed.len()];
        for (number, stage) in needed.iter_mut().enumerate() {
            let Some(stage) = stage.take() else { continue };
            let index = StageIndex(number);
            let inherited = self.parent(index).and_then(|parent| {
                children[parent.0] -= 1;
                if children[parent.0] == 0 && parent != target {
                    states[parent.0].take()
                } else {
                    states[parent.0].clone()
                }
            });
            let state = self.plan_stage(index, stage, inherited)?;
            if children[number] > 0 || index == target {
                states[number] = Some(state);
            }
        }
        Ok(states[target.0].take().expect("the target is among the stages that it needs"))
    }

    /// The stage that this one starts from.
    pub(super) fn parent(&self, index: StageIndex) -> Option<StageIndex> {
        let plan = self.stages.get(index);
        match (&plan.replaced, &plan.base) {
            (None, Origin::Stage(parent)) => Some(*parent),
            _ => None,
        }
    }

    /// The stages that `wanted` need, with their bases. Triggers of a base may need further stages.
    fn find_needed(&mut self, wanted: Vec<StageIndex>) -> Result<Vec<Option<Needed>>, PlanError> {
        let mut needed: Vec<Option<Needed>> = Vec::new();
        needed.resize_with(self.stages.list.len(), || None);
        let mut waiting = wanted;
        waiting.reverse();
        while let Some(index) = waiting.pop() {
            if needed[index.0].is_some() {
                continue;
            }
            let found = self.find_base(index)?;
            let triggers = self.triggers(index, found.as_ref())?;
            let mut dependencies = Vec::new();
            for (trigger, _) in &triggers {
                self.stages.dependencies_of(trigger, index, &mut dependencies)?;
            }
            waiting.extend(self.stages.needs(index));
            waiting.extend(dependencies.into_iter().map(|(stage, _)| stage));
            needed[index.0] = Some(Needed { found, triggers });
        }
        Ok(needed)
    }

    /// The base of a stage that does not start from another stage.
    fn find_base(&mut self, index: StageIndex) -> Result<Option<Found>, PlanError> {
        let plan = self.stages.get(index);
        let origin = plan.replaced.as_ref().unwrap_or(&plan.base);
        if matches!(origin, Origin::Stage(_)) {
            return Ok(None);
        }
        let platform = plan.platform.as_ref().unwrap_or(target_platform(self.request));
        let stages = &self.stages;
        let found = self.bases.find(origin, platform, |name| stages.nearest_name(name), plan.stage.span);
        found.map(Some).map_err(|error| match error {
            PlanError::Base { name, cause, closest, span, .. } => {
                let is_after = plan.after.is_some() && LocalName::is_local(&name);
                PlanError::Base { name, cause, closest, is_after, span }
            }
            error => error,
        })
    }

    fn plan_stage(
        &mut self,
        index: StageIndex,
        needed: Needed,
        inherited: Option<StageState>,
    ) -> Result<StageState, PlanError> {
        let plan = self.stages.get(index);
        let stage = plan.stage;
        let replaced = plan.replaced.is_some();
        let Needed { found, triggers } = needed;
        let instructions = || triggers.iter().map(|(trigger, _)| trigger).chain(&stage.instructions);
        let first = usize::from(!replaced && found.as_ref().is_some_and(Found::is_step));
        let total = first + instructions().filter(|instruction| is_step(instruction)).count();
        let sole = self.stages.list.len() == 1;
        let names = StepNames::new(if sole { String::new() } else { plan.display_name.clone() }, total);
        let mut state = match (inherited, found) {
            (Some(parent), _) => self.inherit(index, parent, names),
            (None, found) => self.start(index, &found.unwrap_or(Found::Scratch), names),
        };
        if replaced {
            return Ok(state);
        }
        self.prepare(&mut state);
        self.wait_for_stage(&mut state);
        for (trigger, author) in &triggers {
            dispatch::dispatch(self, &mut state, trigger, *author)?;
        }
        for instruction in &stage.instructions {
            dispatch::dispatch(self, &mut state, instruction, Author::Dockerfile)?;
        }
        self.roots[index.0] = Some(Root::Snapshot(state.root));
        if self.is_scanned(&state, SCAN_STAGE) {
            self.scanned.push(index);
        }
        Ok(state)
    }

    /// What another stage, a named context or an image is, to copy or mount from. `None` for a stage that comes later.
    pub(super) fn root_of(
        &mut self,
        from: &str,
        numbers: StageNumbers,
        current: StageIndex,
        span: Span,
    ) -> Result<Option<Root>, PlanError> {
        let origin = self.stages.find_from(from, numbers, current, span)?;
        if let Origin::Stage(stage) = origin {
            return Ok(self.roots[stage.0].filter(|_| stage < current));
        }
        let platform = target_platform(self.request);
        let stages = &self.stages;
        let found = self.bases.find(&origin, platform, |name| stages.nearest_name(name), span)?;
        Ok(Some(found.root(found.internal_name(), span, platform, &mut self.vertices)))
    }

    /// Keeps what an instruction did.
    pub(super) fn record(
        &mut self,
        state: &mut StageState,
        text: String,
        made: Made,
        span: Span,
    ) -> Result<(), PlanError> {
        let limit_bytes = MAX_HISTORY_BYTES;
        state.history = self
            .histories
            .record(state.history, text, made)
            .map_err(|_| PlanError::HistoryTooLong { limit_bytes, span })?;
        Ok(())
    }
}

/// Whether the instruction is counted in `[2/5]`.
fn is_step(instruction: &Instruction) -> bool {
    matches!(
        instruction.kind,
        InstructionKind::Run(_)
            | InstructionKind::Copy(_)
            | InstructionKind::Add(_)
            | InstructionKind::Workdir(_)
    )
}
