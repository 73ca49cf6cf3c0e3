//! The stages of a file, before any base is resolved: names, bases, who needs whom (FEATURES FR).

use std::collections::{BTreeMap, HashMap, HashSet};

use kiln_image::local::LocalName;
use kiln_image::{ImageRef, Platform};
use kiln_parser::{Dockerfile, Instruction, InstructionKind, Mount, Span, Stage};

use super::arguments::{GlobalArgs, target_platform};
use super::expansion::expand;
use super::near::nearest;
use super::warnings::Warnings;
use super::{NamedContext, PlanError, PlanRequest};

/// A stage's number in the file, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct StageIndex(pub(super) usize);

/// The base that is nothing.
pub(super) const SCRATCH: &str = "scratch";
/// Names of stages that mean something else elsewhere.
const RESERVED_NAMES: [&str; 2] = ["context", SCRATCH];

/// All stages of a file.
#[derive(Debug)]
pub(super) struct Stages<'a> {
    pub(super) list: Vec<StagePlan<'a>>,
    /// Definitions of each name in order; a name may be given again.
    by_name: HashMap<String, Vec<StageIndex>>,
    contexts: &'a BTreeMap<String, NamedContext>,
    /// What every RUN mounts.
    mounts: &'a [Mount],
    /// What images that are only copied from are resolved for.
    platform: &'a Platform,
}

/// A stage and what its FROM line comes to.
#[derive(Debug)]
pub(super) struct StagePlan<'a> {
    pub(super) stage: &'a Stage,
    pub(super) base: Origin,
    /// `--platform`, expanded.
    pub(super) platform: Option<Platform>,
    /// The global arguments that its FROM line used.
    pub(super) used_args: Vec<String>,
    /// Its name, or `stage-N`.
    pub(super) display_name: String,
    /// A named context takes the stage's place (FEATURES FR17).
    pub(super) replaced: Option<Origin>,
    /// The stage that it waits for (FEATURES FR23).
    pub(super) after: Option<StageIndex>,
    /// That one, and the stages that its own instructions copy or mount from.
    dependencies: Vec<(StageIndex, Span)>,
}

/// Where a root file system or a tree comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// Nothing.
    Scratch,
    /// Another stage.
    Stage(StageIndex),
    /// An image, and its name as written.
    Image { reference: ImageRef, written: String },
    /// A named context: its key in the request.
    Context(String),
}

impl<'a> Stages<'a> {
    /// Reads all FROM lines, those of unneeded stages too: a mistake in one is always told.
    pub(super) fn new(
        dockerfile: &'a Dockerfile,
        request: &'a PlanRequest,
        args: &GlobalArgs,
        warnings: &mut Warnings,
    ) -> Result<Self, PlanError> {
        let mut stages = Self {
            list: Vec::new(),
            by_name: HashMap::new(),
            contexts: &request.contexts,
            mounts: &request.mounts,
            platform: target_platform(request),
        };
        let mut after = Vec::new();
        for (number, stage) in dockerfile.stages.iter().enumerate() {
            let mut used_args = Vec::new();
            let escape = dockerfile.directives.escape;
            let base = expand_base(stage, escape, args, warnings, &mut used_args)?;
            let platform = expand_platform(stage, escape, args, warnings, &mut used_args)?;
            after.push(expand_after(stage, escape, args, warnings, &mut used_args)?);
            let wanted = platform.as_ref().unwrap_or(target_platform(request));
            let replaced = stage.name.as_ref().and_then(|name| stages.context_named(&name.value, wanted));
            let base = stages.find(&base, StageIndex(number), wanted, stage.span)?;
            let display_name = match &stage.name {
                Some(name) => name.value.clone(),
                None => format!("stage-{number}"),
            };
            stages.list.push(StagePlan {
                stage,
                base,
                platform,
                used_args,
                display_name,
                replaced,
                after: None,
                dependencies: Vec::new(),
            });
            if let Some(name) = &stage.name {
                let same = stages.by_name.entry(name.value.to_lowercase()).or_default();
                same.push(StageIndex(number));
            }
        }
        for (number, after) in after.into_iter().enumerate() {
            let index = StageIndex(number);
            let stage = stages.list[number].stage;
            let mut dependencies = Vec::new();
            if stages.list[number].replaced.is_none() {
                if let Some(after) = after {
                    let after = stages.find_after(after, index, stage.span)?;
                    stages.list[number].after = Some(after);
                    dependencies.push((after, stage.span));
                }
                for instruction in &stage.instructions {
                    stages.dependencies_of(instruction, index, &mut dependencies)?;
                }
            }
            stages.list[number].dependencies = dependencies;
        }
        stages.refuse_cycles()?;
        Ok(stages)
    }

    pub(super) fn get(&self, index: StageIndex) -> &StagePlan<'a> {
        &self.list[index.0]
    }

    pub(super) fn all(&self) -> impl Iterator<Item = StageIndex> + use<> {
        (0..self.list.len()).map(StageIndex)
    }

    /// The stage to build.
    pub(super) fn target(&self, target: Option<&str>) -> Result<StageIndex, PlanError> {
        let Some(target) = target.filter(|name| !name.is_empty()) else {
            return Ok(StageIndex(self.list.len().saturating_sub(1)));
        };
        let found = self.by_name.get(&target.to_lowercase()).and_then(|same| same.last());
        found.copied().ok_or_else(|| PlanError::UnknownTarget {
            target: target.to_owned(),
            closest: self.nearest_name(target),
        })
    }

    pub(super) fn nearest_name(&self, name: &str) -> Option<String> {
        let names = self.list.iter().filter_map(|plan| plan.stage.name.as_ref());
        nearest(&name.to_lowercase(), names.map(|name| name.value.as_str())).map(str::to_owned)
    }

    /// What the stage needs before its own instructions' images: its parent and the stages it copies from.
    pub(super) fn needs(&self, index: StageIndex) -> impl Iterator<Item = StageIndex> {
        let plan = self.get(index);
        let parent = match (&plan.replaced, &plan.base) {
            (None, Origin::Stage(parent)) => Some(*parent),
            _ => None,
        };
        parent.into_iter().chain(plan.dependencies.iter().map(|(stage, _)| *stage))
    }

    /// What `COPY --from=` or a mount's `from=` in stage `current` means: a stage's number (COPY only), a stage's
    /// name, `scratch`, a named context, an image.
    pub(super) fn find_from(
        &self,
        from: &str,
        numbers: StageNumbers,
        current: StageIndex,
        span: Span,
    ) -> Result<Origin, PlanError> {
        if from.contains('$') {
            let option = match numbers {
                StageNumbers::Allowed => "--from",
                StageNumbers::NotAllowed => "from",
            };
            return Err(PlanError::VariableInFrom { option, value: from.to_owned(), span });
        }
        if numbers == StageNumbers::Allowed && is_number(from) {
            let index = from.parse().ok().filter(|index| *index < self.list.len());
            return index.map(|index| Origin::Stage(StageIndex(index))).ok_or_else(|| {
                PlanError::InvalidStageIndex { index: from.to_owned(), stages: self.list.len(), span }
            });
        }
        if let Some(same) = self.by_name.get(&from.to_lowercase()) {
            // The last definition above; without one, a later stage, which is an error that the caller words.
            if let Some(stage) = last_above(same, current).or(same.last().copied()) {
                return Ok(Origin::Stage(stage));
            }
        }
        self.find_image(from, self.platform, span)
    }

    /// What FROM's `--after` means in stage `current`: a stage above, by name or number.
    fn find_after(&self, after: String, current: StageIndex, span: Span) -> Result<StageIndex, PlanError> {
        let found = if is_number(&after) {
            let index = after.parse().ok().filter(|index| *index < self.list.len());
            index.map(StageIndex).ok_or_else(|| PlanError::InvalidStageIndex {
                index: after.clone(),
                stages: self.list.len(),
                span,
            })?
        } else if let Some(same) = self.by_name.get(&after.to_lowercase()) {
            last_above(same, current).unwrap_or(same[0])
        } else {
            return Err(PlanError::UnknownAfter { closest: self.nearest_name(&after), stage: after, span });
        };
        if found >= current {
            let current = self.get(current).display_name.clone();
            return Err(PlanError::AfterLaterStage { after, current, span });
        }
        Ok(found)
    }

    /// What FROM in stage `current` means.
    fn find(
        &self,
        base: &str,
        current: StageIndex,
        platform: &Platform,
        span: Span,
    ) -> Result<Origin, PlanError> {
        let above = self.by_name.get(&base.to_lowercase()).and_then(|same| same.last());
        match above.filter(|stage| **stage < current) {
            Some(stage) => Ok(Origin::Stage(*stage)),
            None => self.find_image(base, platform, span),
        }
    }

    fn find_image(&self, name: &str, platform: &Platform, span: Span) -> Result<Origin, PlanError> {
        if name == SCRATCH {
            return Ok(Origin::Scratch);
        }
        if LocalName::is_local(name) {
            return self.context_key(name, platform).map_or_else(|| Err(no_local_image(name, span)), Ok);
        }
        let reference: ImageRef = name.parse().map_err(|cause| PlanError::InvalidBaseName {
            name: name.to_owned(),
            cause,
            closest: self.nearest_name(name),
            span,
        })?;
        match self.context_for(name, &reference, platform) {
            Some(context) => Ok(context),
            None => Ok(Origin::Image { reference, written: name.to_owned() }),
        }
    }

    fn context_named(&self, name: &str, platform: &Platform) -> Option<Origin> {
        if RESERVED_NAMES.contains(&name) {
            return None;
        }
        self.context_key(name, platform)
    }

    fn context_for(&self, name: &str, reference: &ImageRef, platform: &Platform) -> Option<Origin> {
        if self.contexts.is_empty() {
            return None;
        }
        let familiar = reference.familiar();
        let familiar = familiar.strip_suffix(":latest").unwrap_or(&familiar);
        self.context_named(name, platform).or_else(|| self.context_named(familiar, platform))
    }

    /// `name::os/arch` comes before `name` (FEATURES FR18).
    fn context_key(&self, name: &str, platform: &Platform) -> Option<Origin> {
        if self.contexts.is_empty() {
            return None;
        }
        [format!("{name}::{platform}"), name.to_owned()]
            .into_iter()
            .find(|key| self.contexts.contains_key(key))
            .map(Origin::Context)
    }

    /// Adds the stages that an instruction copies or mounts from.
    pub(super) fn dependencies_of(
        &self,
        instruction: &Instruction,
        current: StageIndex,
        dependencies: &mut Vec<(StageIndex, Span)>,
    ) -> Result<(), PlanError> {
        for (from, numbers) in froms(instruction, self.mounts) {
            if let Origin::Stage(stage) = self.find_from(from, numbers, current, instruction.span)? {
                dependencies.push((stage, instruction.span));
            }
        }
        Ok(())
    }

    /// Stages can only name later stages by mistake, but then they may go round in circles (FEATURES FR16).
    fn refuse_cycles(&self) -> Result<(), PlanError> {
        #[derive(Clone, Copy, PartialEq)]
        enum Mark {
            New,
            Open,
            Done,
        }
        let mut marks = vec![Mark::New; self.list.len()];
        for start in 0..self.list.len() {
            if marks[start] != Mark::New {
                continue;
            }
            marks[start] = Mark::Open;
            // An explicit stack: a file may have 100,000 stages in a row.
            let mut stack = vec![(start, 0)];
            while let Some((number, next)) = stack.last_mut() {
                match self.list[*number].dependencies.get(*next) {
                    None => {
                        marks[*number] = Mark::Done;
                        stack.pop();
                    }
                    Some((stage, span)) => {
                        *next += 1;
                        match marks[stage.0] {
                            Mark::Open => {
                                let (span, first) = (*span, *stage);
                                let stage = self.list[start].display_name.clone();
                                let round = self.round(&stack, first);
                                return Err(PlanError::CircularStages { stage, round, span });
                            }
                            Mark::New => {
                                marks[stage.0] = Mark::Open;
                                stack.push((stage.0, 0));
                            }
                            Mark::Done => {}
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Tells a circle of several stages: `stack` has the stages on the way to one that needs `first`, each with the
    /// number of dependencies that were looked at.
    fn round(&self, stack: &[(usize, usize)], first: StageIndex) -> Option<String> {
        let start = stack.iter().position(|(number, _)| *number == first.0)?;
        let circle = stack.get(start..).filter(|circle| circle.len() > 1)?;
        let needs = circle.iter().filter_map(|(number, next)| {
            let stage = &self.list[*number];
            let (needed, span) = stage.dependencies.get(next.checked_sub(1)?)?;
            let needed = &self.list[needed.0].display_name;
            Some(format!("{} needs {needed} on line {}", stage.display_name, span.line))
        });
        Some(needs.collect::<Vec<_>>().join(", "))
    }
}

/// Of the definitions of one name, the one that `current` sees.
fn last_above(same: &[StageIndex], current: StageIndex) -> Option<StageIndex> {
    same[..same.partition_point(|stage| *stage < current)].last().copied()
}

/// Whether a stage may be named by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StageNumbers {
    /// COPY.
    Allowed,
    /// Mounts.
    NotAllowed,
}

/// The values of `--from` and `from=` of an instruction; every RUN has `mounts` as well.
pub(super) fn froms<'a>(instruction: &'a Instruction, mounts: &'a [Mount]) -> Vec<(&'a str, StageNumbers)> {
    match &instruction.kind {
        InstructionKind::Copy(copy) => {
            copy.from.iter().map(|from| (from.value.as_str(), StageNumbers::Allowed)).collect()
        }
        InstructionKind::Run(run) => mounts
            .iter()
            .chain(run.mounts.iter().map(|mount| &mount.value))
            .filter_map(|mount| mount.from.as_deref())
            .filter(|from| !from.is_empty())
            .map(|from| (from, StageNumbers::NotAllowed))
            .collect(),
        _ => Vec::new(),
    }
}

/// Why the engine gave no image for a local name.
fn no_local_image(name: &str, span: Span) -> PlanError {
    match LocalName::parse(name) {
        Err(cause) => PlanError::InvalidLocalName { name: name.to_owned(), cause, span },
        Ok(_) => PlanError::LocalNameRefused { name: name.to_owned(), span },
    }
}

/// See [`super::local_names`].
pub(super) fn local_names(dockerfile: &Dockerfile, request: &PlanRequest) -> Vec<String> {
    let mut names = Vec::new();
    let mut add = |name: &str| {
        if LocalName::is_local(name) && !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    };
    let args = GlobalArgs::new(dockerfile, request);
    for stage in &dockerfile.stages {
        if let Ok(args) = &args
            && let Ok(base) = expand(&stage.base, args.values(), dockerfile.directives.escape, stage.span)
        {
            add(&base.value);
        }
        stage.instructions.iter().flat_map(|one| froms(one, &request.mounts)).for_each(|(from, _)| add(from));
    }
    names
}

fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

fn expand_base(
    stage: &Stage,
    escape: char,
    args: &GlobalArgs,
    warnings: &mut Warnings,
    used: &mut Vec<String>,
) -> Result<String, PlanError> {
    let mut base = expand(&stage.base, args.values(), escape, stage.span)?;
    used.append(&mut base.found);
    warn_undeclared(&base.missing, args, stage.span, warnings);
    if base.value.is_empty() {
        let unset = base.missing.into_iter().next();
        let closest = unset.as_deref().and_then(|name| nearest(name, args.names())).map(str::to_owned);
        return Err(PlanError::BlankBase {
            written: stage.base.value.clone(),
            unset,
            closest,
            span: stage.span,
        });
    }
    Ok(base.value)
}

fn expand_platform(
    stage: &Stage,
    escape: char,
    args: &GlobalArgs,
    warnings: &mut Warnings,
    used: &mut Vec<String>,
) -> Result<Option<Platform>, PlanError> {
    let Some(written) = stage.platform.as_ref().filter(|platform| !platform.value.is_empty()) else {
        return Ok(None);
    };
    let expanded = expand(written, args.values(), escape, stage.span)?;
    warn_undeclared(&expanded.missing, args, stage.span, warnings);
    used.extend(expanded.found.iter().cloned());
    let only_target = expanded.found == ["TARGETPLATFORM"] && expanded.missing.is_empty();
    if only_target && args.get("TARGETPLATFORM") == Some(&expanded.value) {
        warnings.redundant_target_platform(&written.value, stage.span);
    }
    if expanded.value.is_empty() {
        let closest = expanded.missing.iter().find_map(|name| nearest(name, args.names())).map(str::to_owned);
        return Err(PlanError::BlankPlatform { written: written.value.clone(), closest, span: stage.span });
    }
    let platform: Platform = expanded.value.parse().map_err(|_| PlanError::InvalidPlatform {
        written: written.value.clone(),
        value: expanded.value.clone(),
        span: stage.span,
    })?;
    if expanded.found.is_empty() && expanded.missing.is_empty() {
        let name = stage.name.as_ref().map_or("", |name| name.value.as_str());
        if !name.contains(&platform.os) && !name.contains(&platform.architecture) {
            warnings.constant_platform(&expanded.value, stage.span);
        }
    }
    Ok(Some(platform))
}

fn expand_after(
    stage: &Stage,
    escape: char,
    args: &GlobalArgs,
    warnings: &mut Warnings,
    used: &mut Vec<String>,
) -> Result<Option<String>, PlanError> {
    let Some(written) = &stage.after else { return Ok(None) };
    let expanded = expand(written, args.values(), escape, stage.span)?;
    warn_undeclared(&expanded.missing, args, stage.span, warnings);
    used.extend(expanded.found);
    Ok(Some(expanded.value))
}

fn warn_undeclared(missing: &[String], args: &GlobalArgs, span: Span, warnings: &mut Warnings) {
    for name in missing.iter().filter(|name| !args.is_known(name)) {
        warnings.undefined_arg_in_from(name, nearest(name, args.names()), span);
    }
}

/// Warns of bases that are no names unless a `--build-arg` is given.
pub(super) fn check_default_args(dockerfile: &Dockerfile, request: &PlanRequest, warnings: &mut Warnings) {
    // A mistake in the arguments themselves is told by the build's own look at them.
    let Ok(args) = GlobalArgs::defaults(dockerfile, request) else { return };
    let mut above = HashSet::new();
    for stage in &dockerfile.stages {
        let Ok(base) = expand(&stage.base, args.values(), dockerfile.directives.escape, stage.span) else {
            return;
        };
        let is_base = above.contains(&base.value.to_lowercase()) || LocalName::is_local(&base.value);
        if !is_base && base.value.parse::<ImageRef>().is_err() {
            warnings.invalid_default_arg_in_from(&stage.base.value, stage.span);
        }
        above.extend(stage.name.as_ref().map(|name| name.value.to_lowercase()));
    }
}
