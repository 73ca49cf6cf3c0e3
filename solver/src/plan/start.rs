//! What a stage is before its first instruction: its root, its platform, and what it takes over of its base's config.

use kiln_image::Platform;
use kiln_image::oci::ImageConfig;

use super::arguments::target_platform;
use super::bases::{DEFAULT_PATH, Found, Root};
use super::cache::StageCache;
use super::environment::{ConfigEnv, DeclaredArgs, Environment};
use super::names::{Author, StepNames};
use super::paths;
use super::planner::Planner;
use super::stages::StageIndex;
use super::state::{LastGiven, StageState};
use crate::graph::{CacheUse, Op, Vertex, VertexId};

impl Planner<'_> {
    /// A stage on an image, a named context or nothing.
    pub(super) fn start(&mut self, index: StageIndex, found: &Found, mut names: StepNames) -> StageState {
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
    pub(super) fn inherit(&mut self, index: StageIndex, parent: StageState, names: StepNames) -> StageState {
        let cache = self.stage_cache(index);
        let root = self.snapshot(&parent);
        StageState { index, root, names, cache, last: LastGiven::default(), ..parent }
    }

    /// A stage's root file system, be it that of a tree which takes its place.
    pub(super) fn snapshot(&mut self, state: &StageState) -> VertexId {
        let span = self.stages.get(state.index).stage.span;
        match self.roots[state.index.0] {
            Some(root @ Root::Tree(tree)) if tree == state.root => {
                root.to_snapshot(&state.platform, span, &mut self.vertices)
            }
            _ => state.root,
        }
    }

    /// Puts what the base's config says into effect.
    pub(super) fn prepare(&self, state: &mut StageState) {
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
    pub(super) fn wait_for_stage(&mut self, state: &mut StageState) {
        let Some(after) = self.stages.get(state.index).after else { return };
        let name = self.stages.get(after).display_name.clone();
        let roots: Vec<_> = self.roots[after.0].into_iter().map(Root::vertex).collect();
        self.wait(state, &name, &roots);
    }

    /// Lets what comes next in a stage start only when `others` are done.
    pub(super) fn wait(&mut self, state: &mut StageState, after: &str, others: &[VertexId]) {
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
}
