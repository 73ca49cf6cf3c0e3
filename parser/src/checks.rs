//! Which lint rules a Dockerfile, or one of its instructions, wants to hear of (FEATURES LX17–LX19).

use crate::{Dockerfile, Warning};

/// What `# check=` says, or the build argument `BUILDKIT_DOCKERFILE_CHECK` in its place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checks {
    skip: Rules,
    experimental: Rules,
    is_error: bool,
}

/// A value of `# check=` that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to parse check options: invalid check option \"{option}\"")]
pub struct BadCheck {
    /// The option that is unknown or has a wrong value.
    pub option: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Rules {
    all: bool,
    names: Vec<String>,
}

impl Checks {
    /// Parses `skip=Rule,Rule;error=true;experimental=all`. Rule names are case-sensitive; unknown ones do nothing.
    ///
    /// # Errors
    /// [`BadCheck`] names the first wrong option.
    pub fn parse(text: &str) -> Result<Self, BadCheck> {
        let mut checks = Self::default();
        for option in text.split(';').filter(|option| !option.trim().is_empty()) {
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            let (key, value) = (key.trim(), value.trim());
            match (key, value) {
                ("skip", value) => checks.skip.add(value),
                ("experimental", value) => checks.experimental.add(value),
                ("error", "1" | "t" | "T" | "TRUE" | "true" | "True") => checks.is_error = true,
                ("error", "0" | "f" | "F" | "FALSE" | "false" | "False") => checks.is_error = false,
                _ => return Err(BadCheck { option: key.to_owned() }),
            }
        }
        Ok(checks)
    }

    /// Returns these checks with what the comment above an instruction adds: `# check=skip=Rule`.
    ///
    /// A comment that only looks like one is a comment.
    #[must_use]
    pub fn with_comment(&self, comment: &[String]) -> Self {
        let mut checks = self.clone();
        let lines = comment.iter().filter_map(|line| line.strip_prefix("check="));
        for more in lines.filter_map(|text| Self::parse(text).ok()) {
            checks.skip.all |= more.skip.all;
            checks.skip.names.extend(more.skip.names);
            checks.experimental.all |= more.experimental.all;
            checks.experimental.names.extend(more.experimental.names);
        }
        checks
    }

    /// Whether findings of `rule` are not wanted.
    pub fn skips(&self, rule: &str) -> bool {
        self.skip.hold(rule)
    }

    /// Whether `rule`, an experimental one, is wanted.
    pub fn wants_experimental(&self, rule: &str) -> bool {
        self.experimental.hold(rule)
    }

    /// Whether any finding fails the build.
    pub fn is_error(&self) -> bool {
        self.is_error
    }
}

impl Rules {
    fn add(&mut self, value: &str) {
        match value {
            "all" => self.all = true,
            names => self.names.extend(names.split(',').map(|name| name.trim().to_owned())),
        }
    }

    fn hold(&self, rule: &str) -> bool {
        self.all || self.names.iter().any(|name| name == rule)
    }
}

impl Dockerfile {
    /// Whether `warning` is wanted, going by `checks` and by the comment above the instruction it is about.
    pub fn wants(&self, warning: &Warning, checks: &Checks) -> bool {
        !checks.with_comment(self.comment_at(warning.span.line)).skips(warning.rule)
    }

    /// Returns the comment above the instruction that lies on `line`.
    fn comment_at(&self, line: u32) -> &[String] {
        let stages = self.stages.partition_point(|stage| stage.span.line <= line);
        let Some(stage) = stages.checked_sub(1).and_then(|index| self.stages.get(index)) else { return &[] };
        let below = stage.instructions.partition_point(|instruction| instruction.span.line <= line);
        let found = match below.checked_sub(1).and_then(|index| stage.instructions.get(index)) {
            Some(instruction) => (&instruction.comment, instruction.span),
            None => (&stage.comment, stage.span),
        };
        if found.1.end_line >= line { found.0 } else { &[] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(text: &str) -> Vec<&'static str> {
        let file = crate::parse(text.as_bytes()).unwrap();
        let checks = Checks::parse(file.directives.check.as_deref().map_or("", String::as_str)).unwrap();
        let wanted = file.warnings.iter().filter(|warning| file.wants(warning, &checks));
        wanted.map(|warning| warning.rule).collect()
    }

    #[test]
    fn the_directive_silences_rules_by_their_exact_names() {
        let text = "FROM scratch\nMAINTAINER me\nCMD a\n";
        assert_eq!(wanted(text), ["MaintainerDeprecated", "JSONArgsRecommended"]);
        assert_eq!(
            wanted(&format!("# check=skip=MaintainerDeprecated;error=true\n{text}")),
            ["JSONArgsRecommended"]
        );
        assert_eq!(
            wanted(&format!("# check=skip=maintainerdeprecated\n{text}")),
            ["MaintainerDeprecated", "JSONArgsRecommended"]
        );
        assert!(wanted(&format!("# check=skip=all\n{text}")).is_empty());
    }

    #[test]
    fn a_comment_silences_the_instruction_below_it_only() {
        let text = "FROM scratch\n# check=skip=JSONArgsRecommended\nCMD a\nENTRYPOINT b\n";
        assert_eq!(wanted(text), ["JSONArgsRecommended"]);
    }

    #[test]
    fn a_wrong_option_is_named() {
        let error = Checks::parse("foo=bar").unwrap_err();
        assert_eq!(error.to_string(), "failed to parse check options: invalid check option \"foo\"");
        assert!(Checks::parse("error=perhaps").is_err());
        assert!(Checks::parse("skip=A, B ; error=true").unwrap().is_error());
    }
}
