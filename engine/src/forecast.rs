//! What a build would do: `kiln build --dry-run`.

use std::collections::HashMap;
use std::time::Duration;

use kiln_solver::event::StepId;
use kiln_solver::explain::Cause;
use kiln_solver::graph::Vertex;
use kiln_solver::solve::{Foreseen, StepNote, Verdict};

use crate::build::Build;
use crate::history::{self, History, PastBuild, PastStep, past_step};
use crate::session::{Session, joined};
use crate::{Error, context, explain};

/// What a build would do.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ForecastReport {
    /// The Dockerfile's steps.
    pub steps: Vec<ForecastStep>,
    /// How long the steps that run took the last time, those side by side not added up.
    pub expected: Duration,
}

/// What a step would do.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ForecastStep {
    /// `[stage 2/5] RUN make`.
    pub name: String,
    /// Its line in the Dockerfile.
    pub line: Option<u32>,
    /// What it would do.
    pub verdict: Verdict,
    /// How long it took the last time it ran.
    pub duration: Option<Duration>,
    /// Of a step that would run, why; what says most first.
    pub causes: Vec<Cause>,
}

impl Build {
    /// Says what [`Build::run`] would do. Nothing runs, and nothing is downloaded but manifests and configs of base
    /// images, and a context that is not here.
    ///
    /// # Errors
    /// As a build's, up to its first step; a COPY of what is not there.
    pub fn foresee(mut self) -> Result<ForecastReport, Error> {
        self.only_looks = true;
        self.with_session(|session| session.foresee())
    }
}

impl Session<'_> {
    fn foresee(&self) -> Result<ForecastReport, Error> {
        let prepared = context::prepare(self)?;
        let (name, dockerfile) = (prepared.dockerfile_name.clone(), prepared.dockerfile.clone());
        self.foresee_prepared(prepared, &dockerfile).map_err(|error| error.in_dockerfile(&name, &dockerfile))
    }

    fn foresee_prepared(
        &self,
        prepared: context::Prepared,
        dockerfile: &[u8],
    ) -> Result<ForecastReport, Error> {
        let planned = self.planned(prepared)?;
        let solver = self.solver(planned.inputs);
        let (graph, results) = joined(&planned.plans);
        let builds = History::of(self.store).builds()?;
        let mut this = PastBuild::default();
        this.context = history::context_name(self.build);
        this.dockerfile = history::dockerfile_name(self.build);
        let earlier = |vertex: &Vertex| {
            let step = past_step(StepNote::new(StepId(0), vertex, Vec::new()), dockerfile);
            explain::earlier_steps(&this, &step, &builds).first()?.1.key()
        };
        let foreseen = solver.foresee(&graph, &results, &earlier)?;
        this.steps = foreseen.iter().map(|step| past_step(step.note.clone(), dockerfile)).collect();
        let mut steps = Vec::new();
        for (foreseen, past) in foreseen.iter().zip(&this.steps) {
            // Contexts and the like are no steps of the Dockerfile.
            if past.line.is_none() || past.name.starts_with("[internal]") {
                continue;
            }
            steps.push(ForecastStep {
                name: past.name.clone(),
                line: past.line,
                verdict: foreseen.verdict,
                duration: foreseen.duration,
                causes: self.causes(foreseen, past, &this, &builds)?,
            });
        }
        Ok(ForecastReport { steps, expected: longest(&foreseen) })
    }

    fn causes(
        &self,
        foreseen: &Foreseen,
        past: &PastStep,
        this: &PastBuild,
        builds: &[PastBuild],
    ) -> Result<Vec<Cause>, Error> {
        if foreseen.verdict != Verdict::Run || !past.has_result {
            return Ok(Vec::new());
        }
        if foreseen.facts.is_none()
            && past.no_cache.is_none()
            && let Some(above) = running_above(past, this)
        {
            return Ok(vec![Cause::StepAboveRuns { name: above.name.clone() }]);
        }
        let facts = foreseen.facts.as_ref();
        Ok(explain::explain_step(self.store, this, past, facts, builds)?.causes)
    }
}

/// The nearest step that this one starts from and that has to run.
fn running_above<'b>(step: &PastStep, build: &'b PastBuild) -> Option<&'b PastStep> {
    let inputs = || step.inputs.iter().filter_map(|number| build.step(*number));
    let runs = |step: &&PastStep| step.has_result && step.outcome == history::PastOutcome::Ran;
    inputs().find(runs).or_else(|| {
        inputs().filter(|input| input.number < step.number).find_map(|input| running_above(input, build))
    })
}

/// The time of the chain of steps that takes longest.
fn longest(steps: &[Foreseen]) -> Duration {
    let mut ends: HashMap<StepId, Duration> = HashMap::new();
    for step in steps {
        let start = step.note.inputs.iter().filter_map(|input| ends.get(input)).max().copied();
        let runs = matches!(step.verdict, Verdict::Run);
        let own = step.duration.filter(|_| runs).unwrap_or_default();
        ends.insert(step.note.id, start.unwrap_or_default() + own);
    }
    ends.into_values().max().unwrap_or_default()
}
