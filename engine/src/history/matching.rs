//! Which step of an earlier build is the same instruction.

use super::{PastBuild, PastStep};

/// How much alike two steps are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Match {
    /// At the same place of the same stage, but written otherwise.
    Place,
    /// Written alike in the same stage.
    Text,
}

/// The step of `build` that stands for `step`: in the same stage the one that is written alike (of several, the one
/// nearest to the same place), else one of the same kind at the same place.
pub(crate) fn matching<'b>(build: &'b PastBuild, step: &PastStep) -> Option<(&'b PastStep, Match)> {
    let (stage, place) = position(&step.name)?;
    let of_stage = || {
        build.steps.iter().filter_map(|known| {
            let (other, at) = position(&known.name)?;
            (other == stage && known.has_result == step.has_result).then_some((known, at))
        })
    };
    let alike = of_stage().filter(|(known, _)| known.text == step.text && !step.text.is_empty());
    if let Some((known, _)) = alike.min_by_key(|(_, at)| at.abs_diff(place)) {
        return Some((known, Match::Text));
    }
    let same_place =
        of_stage().find(|(known, at)| *at == place && keyword(&known.name) == keyword(&step.name));
    same_place.map(|(known, _)| (known, Match::Place))
}

/// Stage (with platform) and number in it, of `[stage 2/5] RUN make`.
fn position(name: &str) -> Option<(&str, u32)> {
    let (head, _) = name.strip_prefix('[')?.split_once("] ")?;
    let (stage, place) = head.rsplit_once(' ').unwrap_or(("", head));
    let (number, _) = place.split_once('/')?;
    Some((stage, number.parse().ok()?))
}

fn keyword(name: &str) -> Option<String> {
    let (_, instruction) = name.split_once("] ")?;
    Some(instruction.split_whitespace().next()?.to_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(name: &str, text: &str) -> PastStep {
        PastStep { name: name.into(), text: text.into(), has_result: true, ..PastStep::default() }
    }

    #[test]
    fn the_same_text_in_the_same_stage_goes_before_the_same_place() {
        let build = PastBuild {
            steps: vec![
                step("[a 2/4] RUN x", "x"),
                step("[a 3/4] RUN y", "y"),
                step("[a 4/4] RUN x", "x"),
                step("[b 2/2] RUN z", "z"),
            ],
            ..PastBuild::default()
        };
        let found = |name: &str, text: &str| {
            matching(&build, &step(name, text)).map(|(step, how)| (step.name.as_str(), how))
        };
        assert_eq!(found("[a 5/5] RUN x", "x"), Some(("[a 4/4] RUN x", Match::Text)));
        assert_eq!(found("[a 2/5] RUN y", "y"), Some(("[a 3/4] RUN y", Match::Text)));
        assert_eq!(found("[a 3/4] RUN w", "w"), Some(("[a 3/4] RUN y", Match::Place)));
        assert_eq!(found("[a 3/4] COPY w /", "w"), None);
        assert_eq!(found("[b 3/3] RUN x", "x"), None);
        assert_eq!(found("[internal] load build context", ""), None);
    }
}
