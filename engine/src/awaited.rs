//! Stages that write the bases of later ones (FEATURES FR23).
//!
//! Bases are looked up before anything runs. Where `FROM --after=STAGE` names an image's place on the host, that stage may
//! write it there, into a directory that `--volume` gives it: so it is built on its own first. A file without `--after`
//! goes past here.

use std::collections::HashSet;
use std::slice;
use std::time::{Duration, Instant};

use kiln_image::{ImageRef, Platform};
use kiln_parser::{Dockerfile, Span};
use kiln_solver::graph::{CacheUse, Graph};
use kiln_solver::plan::{self, PlanRequest};
use kiln_solver::solve::{Inputs, needed};

use crate::Error;
use crate::bases::Bases;
use crate::context::{self, Prepared};
use crate::lock::Pins;
use crate::session::{Session, sockets};

/// What such stages are built with.
pub(crate) struct Awaited<'a> {
    pub(crate) session: &'a Session<'a>,
    pub(crate) prepared: &'a Prepared,
    pub(crate) bases: &'a Bases<'a>,
    pub(crate) pins: Option<&'a Pins>,
}

/// What was built of them.
pub(crate) struct MadeBefore {
    began: Instant,
    /// Instructions.
    spans: HashSet<Span>,
}

impl Awaited<'_> {
    /// Builds what others wait for.
    ///
    /// # Errors
    /// As a build.
    pub(crate) fn make(
        &self,
        dockerfile: &Dockerfile,
        request: &mut PlanRequest,
        platforms: &[Option<Platform>],
    ) -> Result<MadeBefore, Error> {
        let mut made = MadeBefore { began: Instant::now(), spans: HashSet::new() };
        if self.session.only_looks || dockerfile.stages.iter().all(|stage| stage.after.is_none()) {
            return Ok(made);
        }
        let agents = self.session.agents()?;
        for platform in platforms {
            request.platform.clone_from(platform);
            for stage in plan::awaited_stages(dockerfile, request)? {
                let mut resolve = |image: &ImageRef, platform: &Platform| self.bases.resolve(image, platform);
                let mut plan = plan::plan_awaited(dockerfile, request, stage, &mut resolve)?;
                if let Some(pins) = self.pins {
                    pins.apply(&mut plan.graph)?;
                }
                made.spare(&mut plan.graph);
                let inputs = Inputs {
                    contexts: self.prepared.contexts.clone(),
                    images: self.bases.origins(),
                    secrets: self.session.secrets()?,
                    allow_secret_in_layer: self.session.build.allow_secret_in_layer,
                    ssh: sockets(&agents),
                    devices: self.session.find_devices(slice::from_mut(&mut plan))?,
                    ..Inputs::default()
                };
                // Without a remote cache: a step that came from there would have written nothing here.
                let solver = self.session.solver(inputs);
                solver.solve(&plan.graph, plan.result).map_err(|error| {
                    let mut error = Error::from(error);
                    context::explain_missing(&mut error, self.prepared.hidden.as_deref());
                    error
                })?;
                let steps = needed(&plan.graph, &[plan.result]);
                made.spans.extend(steps.into_iter().filter_map(|step| plan.graph[step].span));
            }
        }
        Ok(made)
    }
}

impl MadeBefore {
    /// Keeps what was built from running once more, also where no record is to be used.
    pub(crate) fn spare(&self, graph: &mut Graph) {
        if self.spans.is_empty() {
            return;
        }
        // Records count whole seconds.
        let lifetime = self.began.elapsed() + Duration::from_secs(2);
        for vertex in graph.node_weights_mut() {
            if vertex.cache != CacheUse::Any && vertex.span.is_some_and(|span| self.spans.contains(&span)) {
                vertex.cache = CacheUse::NewerThan(lifetime);
            }
        }
    }
}
