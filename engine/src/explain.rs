//! Why steps ran: each is compared with the nearest earlier one of the same instruction.
//!
//! Earlier builds of the same context and Dockerfile are looked at first, newest first; where none of them had the
//! instruction, those of others are (a checkout elsewhere, another name of the file). Of several earlier results the one
//! with the fewest differences is the nearest: after a look at another branch, what changed is what changed since this one.

use std::collections::HashSet;

use kiln_cache::{RemovedBy, Store};
use kiln_solver::explain::{Cause, Difference, Facts, differences};
use kiln_solver::plan::lifetime_text;
use serde::Serialize;

use crate::Error;
use crate::history::{Match, PastBuild, PastOutcome, PastStep, matching};

/// So many earlier results are compared.
const MAX_COMPARED: usize = 8;

/// Why a step ran.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Explanation {
    /// The step's number in the build.
    pub number: u32,
    /// `[stage 2/5] RUN make`.
    pub name: String,
    /// Its line in the Dockerfile.
    pub line: Option<u32>,
    /// The build that it is compared with.
    pub compared_with: Option<String>,
    /// Why, what says most first; never empty.
    pub causes: Vec<Cause>,
}

/// Explains each step of `build` that ran or failed. `builds` are all that are known, newest first.
pub(crate) fn explain(
    store: &Store,
    build: &PastBuild,
    builds: &[PastBuild],
) -> Result<Vec<Explanation>, Error> {
    let at = builds.iter().position(|known| known.id == build.id);
    let earlier = at.and_then(|at| builds.get(at + 1..)).unwrap_or_default();
    let mut explanations = Vec::new();
    for step in build.steps.iter().filter(|step| step.has_result) {
        if matches!(step.outcome, PastOutcome::Ran | PastOutcome::Failed(_)) {
            let facts = facts_of(store, step)?;
            explanations.push(explain_step(store, build, step, facts.as_ref(), earlier)?);
        }
    }
    Ok(explanations)
}

/// Explains one step of `build`, which may be one that has not run yet.
pub(crate) fn explain_step(
    store: &Store,
    build: &PastBuild,
    step: &PastStep,
    facts: Option<&Facts>,
    earlier: &[PastBuild],
) -> Result<Explanation, Error> {
    let explain = Explain { store, build, step };
    let candidates = explain.candidates(earlier);
    let (causes, compared_with) = explain.causes(&candidates, facts)?;
    Ok(Explanation {
        number: step.number,
        name: step.name.clone(),
        line: step.line,
        compared_with: compared_with.map(|build| build.id.clone()),
        causes,
    })
}

/// The earlier builds that stand nearest to `build`, and in each the step of the same instruction.
pub(crate) fn earlier_steps<'b>(
    build: &PastBuild,
    step: &PastStep,
    earlier: &'b [PastBuild],
) -> Vec<(&'b PastBuild, &'b PastStep)> {
    let is_same = |known: &&PastBuild| known.context == build.context && known.dockerfile == build.dockerfile;
    let found = |builds: &mut dyn Iterator<Item = &'b PastBuild>, least: Match| {
        let mut keys = HashSet::new();
        builds
            .filter_map(|known| Some((known, matching(known, step)?)))
            // What stood at the same place and still stands somewhere is another instruction: this one was put before it.
            .filter(|(_, (other, how))| {
                *how == Match::Text
                    || *how >= least && !matches!(matching(build, other), Some((_, Match::Text)))
            })
            .filter(|(_, (other, _))| other.key.is_some())
            .map(|(known, (other, _))| (known, other))
            .filter(|(_, other)| {
                keys.insert((other.key.clone(), matches!(other.outcome, PastOutcome::Failed(_))))
            })
            .take(MAX_COMPARED)
            .collect::<Vec<_>>()
    };
    let same = |least| found(&mut earlier.iter().filter(is_same), least);
    let tries: [&dyn Fn() -> Vec<(&'b PastBuild, &'b PastStep)>; 3] =
        [&|| same(Match::Text), &|| same(Match::Place), &|| found(&mut earlier.iter(), Match::Text)];
    tries.iter().map(|find| find()).find(|found| !found.is_empty()).unwrap_or_default()
}

struct Explain<'a> {
    store: &'a Store,
    build: &'a PastBuild,
    step: &'a PastStep,
}

type Candidate<'b> = (&'b PastBuild, &'b PastStep);

impl Explain<'_> {
    fn candidates<'b>(&self, earlier: &'b [PastBuild]) -> Vec<Candidate<'b>> {
        earlier_steps(self.build, self.step, earlier)
    }

    fn causes<'b>(
        &self,
        candidates: &[Candidate<'b>],
        facts: Option<&Facts>,
    ) -> Result<(Vec<Cause>, Option<&'b PastBuild>), Error> {
        if let Some(by) = self.step.no_cache {
            return Ok((vec![Cause::NoCache { by }], None));
        }
        let same_key =
            candidates.iter().filter(|(_, other)| self.step.key.is_some() && other.key == self.step.key);
        let succeeded = same_key.clone().find(|(_, other)| !matches!(other.outcome, PastOutcome::Failed(_)));
        if let Some(&(before, _)) = succeeded {
            return Ok((vec![self.why_not_found(before)?], Some(before)));
        }
        if let Some(&(before, _)) = same_key.clone().next() {
            return Ok((vec![Cause::FailedBefore], Some(before)));
        }
        let Some(&(newest, _)) = candidates.first() else { return Ok((vec![Cause::First], None)) };
        let Some(facts) = facts else { return Ok((vec![Cause::Unknown], Some(newest))) };
        let mut nearest: Option<(usize, Vec<Difference>, Candidate<'b>)> = None;
        for &candidate in candidates {
            let Some(before) = facts_of(self.store, candidate.1)? else { continue };
            let found = differences(&before, facts);
            let weight = found.iter().map(weight).sum();
            if !found.is_empty() && nearest.as_ref().is_none_or(|(least, ..)| weight < *least) {
                nearest = Some((weight, found, candidate));
            }
        }
        let Some((_, found, (before, other))) = nearest else {
            return Ok((vec![Cause::Unknown], Some(newest)));
        };
        let causes = found.into_iter().map(|difference| match difference {
            Difference::Root { layer } => self.root_cause(layer, before, other),
            other => Cause::Changed(other),
        });
        Ok((causes.collect(), Some(before)))
    }

    /// The step was known under the very same key.
    fn why_not_found(&self, before: &PastBuild) -> Result<Cause, Error> {
        if let Some(key) = self.step.key()
            && let Some(removed) = self.store.removed(&key)?
            && removed.at.saturating_mul(1000).cast_unsigned() >= before.started_at / 1000 * 1000
        {
            let by = match removed.by {
                RemovedBy::GarbageCollection => "garbage collection",
                RemovedBy::Prune => "prune",
                _ => "a repair, since its files were lost or damaged,",
            };
            let at = jiff::Timestamp::from_second(removed.at).unwrap_or_default();
            let at = at.to_zoned(jiff::tz::TimeZone::UTC).strftime("%Y-%m-%d %H:%M UTC").to_string();
            return Ok(Cause::Removed { by: by.to_owned(), at });
        }
        Ok(match self.step.lifetime_seconds {
            Some(seconds) => {
                Cause::Expired { lifetime: lifetime_text(std::time::Duration::from_secs(seconds)) }
            }
            None => Cause::Lost,
        })
    }

    /// Which step above is to blame that layer number `layer` is another one.
    fn root_cause(&self, layer: usize, before: &PastBuild, other: &PastStep) -> Cause {
        let Some(above) = maker_of(self.build, self.step, layer) else {
            // The root has fewer layers than it had.
            return match maker_of(before, other, layer) {
                Some(gone) => Cause::StepAboveRemoved { name: gone.name.clone() },
                None => Cause::Unknown,
            };
        };
        if let Some((name, digest)) = &above.image {
            return match base_of(before, other) {
                Some((old_name, old)) if old_name == name && old != digest => {
                    Cause::BaseMoved { name: name.clone(), old: old.clone(), new: digest.clone() }
                }
                Some((old, _)) if old != name => Cause::BaseReplaced { old: old.clone(), new: name.clone() },
                _ => Cause::StepAbove { name: above.name.clone() },
            };
        }
        let name = above.name.clone();
        match matching(before, above) {
            Some((_, Match::Text)) => Cause::StepAbove { name },
            // Another instruction stands where this one stood: was it put before that one, or in its place?
            Some((replaced, Match::Place)) => match matching(self.build, replaced) {
                Some((_, Match::Text)) => Cause::StepAboveAdded { name },
                _ => Cause::StepAbove { name },
            },
            None => Cause::StepAboveAdded { name },
        }
    }
}

/// The step above `step` that made layer number `layer` of what it starts from.
fn maker_of<'b>(build: &'b PastBuild, step: &PastStep, layer: usize) -> Option<&'b PastStep> {
    let root = |step: &PastStep| build.step(*step.inputs.first()?);
    let mut at = root(step).filter(|root| root.layers > layer)?;
    // A build has as many steps as it has; the numbers of inputs are smaller than those of what needs them.
    while let Some(next) = root(at).filter(|next| next.layers > layer && next.number < at.number) {
        at = next;
    }
    Some(at)
}

/// The base image of the stage that `step` stands in: name and digest.
fn base_of<'b>(build: &'b PastBuild, step: &'b PastStep) -> Option<&'b (String, String)> {
    let mut at = step;
    while at.image.is_none() {
        at = build.step(*at.inputs.first()?).filter(|input| input.number < at.number)?;
    }
    at.image.as_ref()
}

fn facts_of(store: &Store, step: &PastStep) -> Result<Option<Facts>, Error> {
    if !step.facts.is_empty() {
        return Ok(Facts::decode(step.facts.as_bytes()));
    }
    let Some(key) = step.key() else { return Ok(None) };
    Ok(store.details(&key)?.and_then(|details| Facts::decode(&details.facts)))
}

/// How much a difference counts in the choice of what is nearest.
fn weight(difference: &Difference) -> usize {
    match difference {
        Difference::Files { others, .. } => 1 + others,
        _ => 1,
    }
}
