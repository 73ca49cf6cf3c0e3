//! What a plan says once its stages are planned: the image's config, and what an SBOM looks into.

use kiln_image::Platform;
use kiln_image::oci::History;
use kiln_parser::boolean;

use super::arguments::{SCAN_CONTEXT, target_platform};
use super::bases::{build_context, squashed};
use super::planner::Planner;
use super::state::StageState;
use super::{Plan, Scan};

/// The entry of the history that has the layer of `--squash`.
const SQUASHED: &str = "squash all layers into one";

impl Planner<'_> {
    /// The plan whose image is what the target came to.
    pub(super) fn finish(mut self, state: StageState) -> Plan {
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

    /// Whether an SBOM is to look into the stage, or into its context: a global ARG says so, or one of the stage's.
    pub(super) fn is_scanned(&self, state: &StageState, what: &str) -> bool {
        let name = &self.stages.get(state.index).display_name;
        let value = state.args.value(what).or_else(|| self.args.get(what));
        value.is_some_and(|value| {
            boolean(value).unwrap_or_else(|| value.split(',').any(|stage| stage == name))
        })
    }
}
