//! The plan of a whole file: which stages, in which order, and what they hand on.

use std::collections::HashSet;

use kiln_image::local::LocalName;
use kiln_image::oci::{History, ImageConfig};
use kiln_image::{ImageRef, Platform};
use kiln_parser::{Dockerfile, Instruction, InstructionKind, Mount, MountKind, Span, Warning, boolean};

use super::arguments::{GlobalArgs, SCAN_CONTEXT, SCAN_STAGE, proxies, target_platform};
use super::bases::{Bases, DEFAULT_PATH, Found, Root, build_context, squashed};
use super::cache::StageCache;
use super::dispatch;
use super::environment::{ConfigEnv, DeclaredArgs, Environment};
use super::history::{Histories, MAX_HISTORY_BYTES, Made};
use super::names::{Author, StepNames};
use super::outline::{Facts, Notes};
use super::stages::{Origin, StageIndex, StageNumbers, Stages, check_default_args, froms};
use super::state::{LastGiven, StageState};
use super::vertices::Vertices;
use super::warnings::Warnings;
use crate::graph::{CacheUse, Op, Vertex, VertexId};

use super::{
    AwaitedStage, NamedContext, Outline, Plan, PlanError, PlanRequest, ResolveBase, Scan, Unneeded, paths,
};

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
    scanned: Vec<StageIndex>,
    /// Secrets and agents that the Dockerfile itself mounts.
    pub(super) named_secrets: HashSet<(&'static str, String)>,
    /// By stage, once it is planned.
    roots: Vec<Option<Root>>,
}

/// A stage that is needed, with what its base brings.
struct Needed {
    found: Option<Found>,
    triggers: Vec<(Instruction, Author)>,
}

/// The entry of the history that has the layer of `--squash`.
const SQUASHED: &str = "squash all layers into one";

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
    fn parent(&self, index: StageIndex) -> Option<StageIndex> {
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

    /// What the base wants done right after FROM (FEATURES FR26). It is told as if it stood in the FROM line.
    fn triggers(
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

    /// Whether an SBOM is to look into the stage, or into its context: a global ARG says so, or one of the stage's.
    fn is_scanned(&self, state: &StageState, what: &str) -> bool {
        let name = &self.stages.get(state.index).display_name;
        let value = state.args.value(what).or_else(|| self.args.get(what));
        value.is_some_and(|value| {
            boolean(value).unwrap_or_else(|| value.split(',').any(|stage| stage == name))
        })
    }

    /// What an SBOM looks into beside the target.
    fn scans(&mut self, target: &StageState) -> Vec<Scan> {
        let mut scans = Vec::new();
        if self.is_scanned(target, SCAN_CONTEXT) {
            let vertex = build_context(target_platform(self.request), &mut self.vertices);
            scans.push(Scan { name: "context".into(), vertex });
        }
        for index in self.scanned.iter().filter(|index| **index != target.index) {
            let name = self.stages.get(*index).display_name.clone();
            scans.extend(self.roots[index.0].map(|root| Scan { name, vertex: root.vertex() }));
        }
        scans
    }

    /// A stage on an image, a named context or nothing.
    fn start(&mut self, index: StageIndex, found: &Found, mut names: StepNames) -> StageState {
        let plan = self.stages.get(index);
        let (span, replaced) = (plan.stage.span, plan.replaced.is_some());
        let target = target_platform(self.request);
        let mut platform = match found {
            Found::Scratch => target.clone(),
            _ => plan.platform.clone().unwrap_or_else(|| target.clone()),
        };
        let mut image = found.config(&platform);
        if plan.platform.is_none()
            && self.request.platform.is_none()
            && let Found::Image { context: None, .. } = found
            && let Some(adopted) = self.adopted(&image)
        {
            platform = adopted;
        }
        if let Found::Image { context: None, .. } = found
            && found.is_step()
            && (image.os != platform.os || image.architecture != platform.architecture)
        {
            let actual = Platform {
                os: image.os.clone(),
                architecture: image.architecture.clone(),
                variant: image.variant.clone(),
            };
            self.warnings.base_image_platform(&plan.stage.base.value, &platform, &actual, span);
        }
        if replaced && !image.os.is_empty() && !image.architecture.is_empty() {
            platform = Platform {
                os: image.os.clone(),
                architecture: image.architecture.clone(),
                variant: image.variant.clone(),
            };
        }
        let name = match found {
            Found::Image { context: None, .. } if found.is_step() => {
                names.next(&format!("FROM {}", found.full_name()), Author::Dockerfile)
            }
            _ => {
                if !replaced && found.is_step() {
                    names.skip();
                }
                found.internal_name()
            }
        };
        let root = found.root(name, span, &platform, &mut self.vertices);
        self.roots[index.0] = Some(root);
        let history = std::mem::take(&mut image.history);
        StageState {
            index,
            // What takes a stage's place may only be copied from, and then needs no root of its own.
            root: if replaced {
                root.vertex()
            } else {
                root.to_snapshot(&platform, span, &mut self.vertices)
            },
            platform,
            config_env: ConfigEnv::new(image.config.env.take().unwrap_or_default()),
            base_history: history.len(),
            history: self.histories.of_base(history),
            image,
            environment: Environment::default(),
            args: DeclaredArgs::default(),
            workdir_given: false,
            names,
            cache: self.stage_cache(index),
            last: LastGiven::default(),
        }
    }

    /// The platform of a base for another machine, where that can be run and none was asked for (FEATURES FR12).
    fn adopted(&self, image: &ImageConfig) -> Option<Platform> {
        let target = target_platform(self.request);
        let is_other = image.os != target.os || image.architecture != target.architecture;
        let own = Platform {
            os: image.os.clone(),
            architecture: image.architecture.clone(),
            variant: image.variant.clone(),
        };
        (is_other && (self.request.emulates)(&own)).then_some(own)
    }

    /// A stage on another stage (FEATURES FR7). ONBUILD is not handed on.
    fn inherit(&mut self, index: StageIndex, parent: StageState, names: StepNames) -> StageState {
        let cache = self.stage_cache(index);
        let root = self.snapshot(&parent);
        StageState { index, root, names, cache, last: LastGiven::default(), ..parent }
    }

    /// A stage's root file system, be it that of a tree which takes its place.
    fn snapshot(&mut self, state: &StageState) -> VertexId {
        let span = self.stages.get(state.index).stage.span;
        match self.roots[state.index.0] {
            Some(root @ Root::Tree(tree)) if tree == state.root => {
                root.to_snapshot(&state.platform, span, &mut self.vertices)
            }
            _ => state.root,
        }
    }

    /// Puts what the base's config says into effect.
    fn prepare(&self, state: &mut StageState) {
        state.image.config.on_build = None;
        if self.request.trim.inherited_labels {
            state.image.config.labels = None;
        }
        if !state.config_env.contains("PATH") && state.platform.os != "windows" {
            state.config_env.set("PATH", DEFAULT_PATH);
        }
        for (name, value) in &self.request.env {
            state.config_env.set(name, value);
        }
        let environment = &mut state.environment;
        for (name, value) in state.config_env.iter() {
            // An ARG of the parent stage that stands over an ENV ends with that stage. What is unchanged keeps its
            // place, so that equal steps of parent and child stay equal.
            if environment.get(name) != Some(value) {
                environment.set(name, value);
            }
        }
        let directory = &mut state.image.config.working_dir;
        if !directory.is_empty() {
            *directory = paths::workdir("/", directory);
        }
    }

    /// Lets the stage start only when the one that `--after` names is complete (FEATURES FR23).
    fn wait_for_stage(&mut self, state: &mut StageState) {
        let Some(after) = self.stages.get(state.index).after else { return };
        let name = self.stages.get(after).display_name.clone();
        let roots: Vec<_> = self.roots[after.0].into_iter().map(Root::vertex).collect();
        self.wait(state, &name, &roots);
    }

    /// Lets what comes next in a stage start only when `others` are done.
    fn wait(&mut self, state: &mut StageState, after: &str, others: &[VertexId]) {
        if others.is_empty() {
            return;
        }
        let plan = self.stages.get(state.index);
        let vertex = Vertex {
            op: Op::After,
            name: format!("[internal] {} after {after}", plan.display_name),
            span: Some(plan.stage.span),
            created_by: String::new(),
            cache: CacheUse::Any,
            platform: state.platform.clone(),
        };
        let inputs: Vec<_> = std::iter::once(state.root).chain(others.iter().copied()).collect();
        state.root = self.vertices.add(vertex, &inputs);
    }

    fn stage_cache(&self, index: StageIndex) -> StageCache {
        let name = self.stages.get(index).stage.name.as_ref();
        let is_named = name.is_some_and(|name| {
            self.request.no_cache_stages.iter().any(|stage| stage.eq_ignore_ascii_case(&name.value))
        });
        StageCache::new(self.request, is_named)
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

    fn finish(mut self, state: StageState) -> Plan {
        let mut root = self.snapshot(&state);
        let scans = self.scans(&state);
        let span = self.stages.get(state.index).stage.span;
        let StageState { mut image, config_env, history, base_history, platform, .. } = state;
        let trim = &self.request.trim;
        let is_kept = |pair: &String| {
            trim.env.iter().all(|name| pair.strip_prefix(name).is_none_or(|rest| !rest.starts_with('=')))
        };
        let env: Vec<String> = config_env.into_pairs().into_iter().filter(is_kept).collect();
        image.config.env = (!env.is_empty()).then_some(env);
        image.history = self.histories.entries(history);
        if self.request.squash {
            root = squashed(root, span, &platform, &mut self.vertices);
            image.history.iter_mut().for_each(|entry| entry.empty_layer = true);
            image.history.push(History { created_by: SQUASHED.into(), ..History::default() });
        }
        image.rootfs = Default::default();
        image.created = None;
        if !self.request.labels.is_empty() {
            let labels = image.config.labels.get_or_insert_default();
            labels.extend(self.request.labels.iter().cloned());
        }
        if let Some(labels) = &mut image.config.labels {
            labels.retain(|key, _| !trim.labels.contains(key));
        }
        if let Some(target) = &self.request.platform {
            let same = image.os == target.os && image.architecture == target.architecture;
            if !target.variant.is_empty() || !same {
                image.variant.clone_from(&target.variant);
            }
            image.os.clone_from(&target.os);
            image.architecture.clone_from(&target.architecture);
        }
        let unused_args = self.args.unused(&self.request.build_args, &self.declared);
        let platform = match (&self.request.platform, image.os.is_empty() || image.architecture.is_empty()) {
            (Some(target), _) => target.clone(),
            (None, true) => platform,
            (None, false) => Platform {
                os: image.os.clone(),
                architecture: image.architecture.clone(),
                variant: image.variant.clone(),
            },
        };
        Plan {
            graph: self.vertices.into_graph(),
            result: root,
            config: image,
            base_history,
            platform,
            scans,
            warnings: Vec::new(),
            unused_args,
        }
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

/// A trigger as an image's config keeps it.
fn trigger_of_image(text: &str, span: Span) -> Result<(Instruction, Author), PlanError> {
    match kiln_parser::parse_trigger(text) {
        Ok(trigger) => Ok((Instruction { span, ..trigger }, Author::BaseImage)),
        Err(cause) => Err(PlanError::InvalidTrigger { trigger: text.to_owned(), cause, span }),
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

/// The names of the stages' ARGs, those of unneeded stages too.
fn declared(dockerfile: &Dockerfile) -> HashSet<String> {
    let instructions = dockerfile.stages.iter().flat_map(|stage| &stage.instructions);
    let pairs = instructions.flat_map(|instruction| match &instruction.kind {
        InstructionKind::Arg(pairs) => pairs.as_slice(),
        _ => &[],
    });
    pairs.map(|pair| pair.name.value.clone()).collect()
}

/// The ids of secrets and agents in the file's own RUN instructions, and in what every RUN mounts.
fn named_secrets(dockerfile: &Dockerfile, mounts: &[Mount]) -> HashSet<(&'static str, String)> {
    let instructions = dockerfile.stages.iter().flat_map(|stage| &stage.instructions);
    let runs = instructions.filter_map(|instruction| match &instruction.kind {
        InstructionKind::Run(run) => Some(run),
        InstructionKind::Onbuild(onbuild) => match onbuild.instruction.as_ref().map(|one| &one.kind) {
            Some(InstructionKind::Run(run)) => Some(run),
            _ => None,
        },
        _ => None,
    });
    let mut named = HashSet::new();
    for mount in mounts.iter().chain(runs.flat_map(|run| &run.mounts).map(|mount| &mount.value)) {
        match &mount.kind {
            MountKind::Secret { id, .. } => {
                let id = id.clone().filter(|id| !id.is_empty());
                let id = id.or_else(|| mount.target.as_deref().map(|t| paths::base_name(t).to_owned()));
                named.extend(id.map(|id| ("secret", id)));
            }
            MountKind::Ssh { id, .. } => {
                let id = id.clone().filter(|id| !id.is_empty());
                named.insert(("ssh agent", id.unwrap_or_else(|| "default".into())));
            }
            _ => {}
        }
    }
    named
}
