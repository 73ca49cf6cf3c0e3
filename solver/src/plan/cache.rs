//! Whether a step's result may be one of an earlier build: flags, and comments right above an instruction.
//!
//! `# kiln: no-cache` runs the step anew each time. `# kiln: cache-ttl=24h` takes a result of RUN that is not older. What
//! is said in a comment and by a flag holds both: the shorter lifetime counts.

use std::time::Duration;

use kiln_parser::{Instruction, InstructionKind};

use super::{PlanError, PlanRequest};
use crate::explain::NoCacheBy;
use crate::graph::CacheUse;

/// What a comment of kiln's begins with.
const PREFIX: &str = "kiln:";

/// What holds for all steps of a stage.
#[derive(Clone, Copy, Debug)]
pub(super) struct StageCache {
    never: Option<NoCacheBy>,
    lifetime: Option<Duration>,
}

impl StageCache {
    /// `is_named`: `--no-cache-filter` names the stage.
    pub(super) fn new(request: &PlanRequest, is_named: bool) -> Self {
        let by_filter = is_named.then_some(NoCacheBy::Filter);
        let by_flag = request.no_cache.then_some(NoCacheBy::Flag);
        Self { never: by_flag.or(by_filter), lifetime: request.cache_ttl }
    }

    /// What holds for `instruction`.
    pub(super) fn of(&self, instruction: &Instruction) -> Result<CacheUse, PlanError> {
        // What a COPY gives depends on nothing but its key, so that an older result is as good as a new one.
        let is_run = matches!(instruction.kind, InstructionKind::Run(_));
        let mut never = self.never;
        let mut shortest = self.lifetime.filter(|_| is_run);
        for comment in &instruction.comment {
            let Some(text) = comment.trim().strip_prefix(PREFIX) else { continue };
            for word in text.split([' ', '\t', ',']).filter(|word| !word.is_empty()) {
                let invalid = |problem| PlanError::InvalidCacheComment {
                    text: text.trim().to_owned(),
                    problem,
                    span: instruction.span,
                };
                match word.split_once('=') {
                    None if word == "no-cache" => never = never.or(Some(NoCacheBy::Comment)),
                    Some(("cache-ttl", _)) if !is_run => return Err(invalid("a lifetime is for RUN")),
                    Some(("cache-ttl", value)) => {
                        let given = lifetime(value).ok_or_else(|| invalid("not a duration"))?;
                        shortest = Some(shortest.map_or(given, |shortest| shortest.min(given)));
                    }
                    _ => return Err(invalid("neither no-cache nor cache-ttl=DURATION")),
                }
            }
        }
        Ok(match (never, shortest) {
            (Some(by), _) => CacheUse::Never(by),
            (None, Some(lifetime)) => CacheUse::NewerThan(lifetime),
            (None, None) => CacheUse::Any,
        })
    }
}

/// `90s`, `24h`, `1h30m`, `7d`, `2w`, or `0`; `None` for anything else.
pub fn lifetime(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        let (_, seconds) = UNITS.iter().find(|(unit, _)| rest[digits..].starts_with(*unit))?;
        total = total.checked_add(Duration::from_secs(number.checked_mul(*seconds)?))?;
        rest = &rest[digits + 1..];
    }
    (!text.is_empty()).then_some(total)
}

/// As [`lifetime`] reads it, in the largest units.
pub fn lifetime_text(lifetime: Duration) -> String {
    let mut rest = lifetime.as_secs();
    let mut text = String::new();
    for (unit, seconds) in UNITS {
        if rest >= seconds {
            text.push_str(&format!("{}{unit}", rest / seconds));
            rest %= seconds;
        }
    }
    if text.is_empty() { "0".to_owned() } else { text }
}

const UNITS: [(&str, u64); 5] = [("w", 7 * 86400), ("d", 86400), ("h", 3600), ("m", 60), ("s", 1)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifetime_has_units() {
        let seconds = |text| lifetime(text).map(|lifetime| lifetime.as_secs());
        for (text, expected) in [("90s", 90), ("24h", 86400), ("1h30m", 5400), ("7d", 604_800), ("0", 0)] {
            assert_eq!(seconds(text), Some(expected), "{text}");
        }
        for text in ["", "24", "h", "1y", "-1h", "1h ", "99999999999999999999w", "9999999999999999999w", "1ä"]
        {
            assert_eq!(seconds(text), None, "{text}");
        }
        for text in ["1d", "1h30m", "2w3d", "0"] {
            assert_eq!(lifetime_text(lifetime(text).unwrap()), text);
        }
    }
}
