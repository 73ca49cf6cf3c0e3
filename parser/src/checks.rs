//! Which lint rules a Dockerfile, or one of its instructions, wants to hear of (FEATURES LX17–LX19).

use std::borrow::Cow;

use crate::boolean;
use crate::lint::{self, Origin, Rule, Scope};
use crate::suggest;
use crate::{Dockerfile, ParseError, Warning};

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

impl BadCheck {
    /// What the user can do.
    pub fn hint(&self) -> &'static str {
        if self.option.starts_with("error=") {
            "write error=true or error=false"
        } else {
            "the options are skip, error and experimental"
        }
    }
}

/// A name that no rule has, where one was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no lint rule `{name}`")]
pub struct UnknownRule {
    /// The name as given.
    pub name: String,
    /// The rule with the nearest name, if one is near.
    pub closest: Option<&'static str>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Rules {
    all: bool,
    names: Vec<String>,
}

/// The word that stands for all of kiln's own rules. BuildKit takes it for a rule that it does not have; `all` means
/// BuildKit's rules only, so that a file is judged alike by both.
const OWN_RULES: &str = "kiln";

/// So many options there are; BuildKit cuts the text into no more parts.
const MAX_OPTIONS: usize = 3;

impl Checks {
    /// Parses `skip=Rule,Rule;error=true;experimental=all`. Rule names are case-sensitive; unknown ones do nothing.
    /// Of two lists for one option the later counts, as in BuildKit, unless one of them is `all`.
    ///
    /// # Errors
    /// [`BadCheck`] names the first wrong option.
    pub fn parse(text: &str) -> Result<Self, BadCheck> {
        let mut checks = Self::default();
        let text = text.trim();
        if text.is_empty() {
            return Ok(checks);
        }
        for option in text.splitn(MAX_OPTIONS, ';') {
            let Some((key, value)) = option.split_once('=') else {
                return Err(BadCheck { option: option.to_owned() });
            };
            let (key, value) = (key.trim(), value.trim());
            match (key, value) {
                ("skip", value) => checks.skip.set(value),
                ("experimental", value) => checks.experimental.set(value),
                ("error", value) => {
                    checks.is_error =
                        boolean(value).ok_or_else(|| BadCheck { option: option.trim().to_owned() })?;
                }
                _ => return Err(BadCheck { option: key.to_owned() }),
            }
        }
        Ok(checks)
    }

    /// Returns the options at the top of `file`.
    ///
    /// # Errors
    /// [`ParseError::InvalidCheck`]. It is no mistake of the file's where a build argument takes the directive's place.
    pub fn of(file: &Dockerfile) -> Result<Self, ParseError> {
        let Some(check) = &file.directives.check else { return Ok(Self::default()) };
        // BuildKit takes the value up to a space.
        let value = check.value.split(' ').next().unwrap_or_default();
        Self::parse(value).map_err(|problem| ParseError::InvalidCheck { problem, span: check.span })
    }

    /// Asks for an experimental rule beside what the file asks for; `own` and `kiln` are all of kiln's own.
    ///
    /// # Errors
    /// [`UnknownRule`], with the nearest name.
    pub fn enable(&mut self, name: &str) -> Result<(), UnknownRule> {
        match name {
            "own" | OWN_RULES => self.experimental.add(OWN_RULES),
            "all" => {
                self.experimental.add("all");
                self.experimental.add(OWN_RULES);
            }
            name if lint::rule(name).is_some() => self.experimental.add(name),
            name => {
                let names = lint::RULES.iter().map(|rule| rule.name);
                let closest = suggest::closest(name, names);
                return Err(UnknownRule { name: name.to_owned(), closest });
            }
        }
        Ok(())
    }

    /// Returns these checks with what the comment above an instruction adds: `# check=skip=Rule`.
    ///
    /// Only the first such line counts, up to a space. A comment that only looks like one is a comment.
    #[must_use]
    pub fn with_comment(&self, comment: &[String]) -> Cow<'_, Self> {
        let Some(more) =
            comment.iter().find_map(|line| options(line)).and_then(|text| Self::parse(text).ok())
        else {
            return Cow::Borrowed(self);
        };
        let mut checks = self.clone();
        checks.skip.extend(&more.skip);
        checks.experimental.extend(&more.experimental);
        Cow::Owned(checks)
    }

    /// Whether findings of `rule` are wanted.
    ///
    /// `skip=` does not reach BuildKit's experimental rules, which somebody asked for; it does reach kiln's own.
    pub fn wants(&self, rule: &Rule) -> bool {
        match (rule.origin, rule.is_experimental) {
            (Origin::BuildKit, false) => !self.skip.hold(rule.name),
            (Origin::BuildKit, true) => self.experimental.hold(rule.name),
            (Origin::Kiln, _) => {
                let asked = self.experimental.names.iter().any(|name| name == OWN_RULES || name == rule.name);
                asked && !self.skip.hold(rule.name)
            }
        }
    }

    /// Whether any finding fails the build.
    pub fn is_error(&self) -> bool {
        self.is_error
    }

    /// Whether an experimental rule may be wanted at all.
    fn names_experimental(&self) -> bool {
        !self.experimental.names.is_empty()
    }
}

impl Rules {
    /// Replaces the names by those of `value`.
    fn set(&mut self, value: &str) {
        if value != "all" {
            self.names.clear();
        }
        self.add(value);
    }

    fn add(&mut self, value: &str) {
        match value {
            "all" => self.all = true,
            names => {
                for name in names.split(',').map(str::trim) {
                    // Names that no rule has do nothing; a file may hold a million of them.
                    let is_known = name == OWN_RULES || lint::rule(name).is_some();
                    if is_known && !self.names.iter().any(|known| known == name) {
                        self.names.push(name.to_owned());
                    }
                }
            }
        }
    }

    fn extend(&mut self, more: &Self) {
        self.all |= more.all;
        self.names.extend(more.names.iter().cloned());
    }

    fn hold(&self, rule: &str) -> bool {
        self.all || self.names.iter().any(|name| name == rule)
    }
}

/// The options in a comment's line: `check=…`, written as a directive is.
fn options(line: &str) -> Option<&str> {
    let (key, value) = line.split_once('=')?;
    let value = value.trim_start();
    key.trim().eq_ignore_ascii_case("check").then(|| value.split(' ').next().unwrap_or_default())
}

impl Dockerfile {
    /// Returns what `checks` want of all that was found, in the order of the file: what the text alone shows, kiln's own
    /// rules included, and what the planner adds in `planned`.
    pub fn findings(&self, checks: &Checks, planned: &[Warning]) -> Vec<Warning> {
        let mut found = self.warnings.clone();
        found.extend_from_slice(planned);
        if checks.names_experimental() || self.has_check_comment() {
            found.extend(lint::by_own_rules(self));
        }
        let mut found = lint::sorted(found);
        // One instruction may have a long comment and many findings: its comment is read once.
        let mut last: (&[String], Cow<'_, Checks>) = (&[], Cow::Borrowed(checks));
        found.retain(|warning| {
            let Some(rule) = lint::rule(warning.rule) else { return true };
            if rule.scope == Scope::File {
                return checks.wants(rule);
            }
            let comment = self.comment_at(warning.judged_by.unwrap_or(warning.span).line);
            if !std::ptr::eq(comment, last.0) {
                last = (comment, checks.with_comment(comment));
            }
            last.1.wants(rule)
        });
        found
    }

    fn has_check_comment(&self) -> bool {
        let below = self.stages.iter().flat_map(|stage| {
            let instructions = stage.instructions.iter().map(|instruction| &instruction.comment);
            std::iter::once(&stage.comment).chain(instructions)
        });
        below.flatten().any(|line| options(line).is_some())
    }

    /// Returns the comment above the instruction that lies on `line`.
    fn comment_at(&self, line: u32) -> &[String] {
        let stages = self.stages.partition_point(|stage| stage.span.line <= line);
        let found = match stages.checked_sub(1).and_then(|index| self.stages.get(index)) {
            Some(stage) => {
                let below = stage.instructions.partition_point(|instruction| instruction.span.line <= line);
                match below.checked_sub(1).and_then(|index| stage.instructions.get(index)) {
                    Some(instruction) => Some((&instruction.comment, instruction.span)),
                    None => Some((&stage.comment, stage.span)),
                }
            }
            None => {
                let mut above = self.global_args.iter().zip(&self.global_comments);
                above.rfind(|(args, _)| args.span.line <= line).map(|(args, comment)| (comment, args.span))
            }
        };
        found.filter(|(_, span)| span.end_line >= line).map_or(&[], |(comment, _)| comment.as_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(text: &str) -> Vec<&'static str> {
        let file = crate::parse(text.as_bytes()).unwrap();
        file.findings(&Checks::of(&file).unwrap(), &[]).into_iter().map(|warning| warning.rule).collect()
    }

    #[test]
    fn options_that_there_are_not_are_the_directives_mistake() {
        let file = crate::parse(b"# check=foo=bar\nFROM scratch\n").unwrap();
        let error = Checks::of(&file).unwrap_err();
        assert_eq!(error.span().line, 1);
        assert!(error.to_string().ends_with("invalid check option \"foo\""));
        assert!(error.hint().is_some());
    }

    #[test]
    fn the_directive_silences_rules_by_their_exact_names() {
        let text = "FROM scratch AS A\nMAINTAINER me\n";
        assert_eq!(wanted(text), ["StageNameCasing", "MaintainerDeprecated"]);
        assert_eq!(
            wanted(&format!("# check=skip=MaintainerDeprecated;error=true\n{text}")),
            ["StageNameCasing"]
        );
        assert_eq!(wanted(&format!("# check=skip=maintainerdeprecated\n{text}")).len(), 2);
        assert!(wanted(&format!("# check=skip=all\n{text}")).is_empty());
    }

    #[test]
    fn a_comment_silences_the_instruction_below_it_only() {
        let text = "FROM scratch\n# Check = skip=MaintainerDeprecated why\nMAINTAINER a\nMAINTAINER b\n";
        assert_eq!(wanted(text), ["MaintainerDeprecated"]);
    }

    #[test]
    fn what_is_judged_over_the_whole_file_is_silenced_at_its_top_only() {
        let rule = "ConsistentInstructionCasing";
        let text = format!("FROM scratch\n# check=skip={rule}\nlabel a=1\n");
        assert_eq!(wanted(&text), [rule]);
        assert!(wanted(&format!("# check=skip={rule}\n{text}")).is_empty());
    }

    #[test]
    fn experimental_rules_are_asked_for() {
        let text = "# no\nARG A=1\nFROM scratch AS b\n# no\nARG C=1\n";
        let rule = "InvalidDefinitionDescription";
        assert!(wanted(text).is_empty());
        assert_eq!(wanted(&format!("# check=experimental=all;skip=all\n{text}")), [rule, rule]);
        assert_eq!(wanted(&format!("# check=experimental={rule}\n{text}")), [rule, rule]);
        // The first comment ends the directives.
        assert_eq!(wanted(&format!("# licence\n# check=experimental={rule}\n{text}")), [rule]);
    }

    #[test]
    fn own_rules_are_asked_for_by_name_or_all_together_but_not_by_all() {
        let text = "FROM scratch\nRUN sudo x\n";
        assert!(wanted(&format!("# check=experimental=all\n{text}")).is_empty());
        assert_eq!(wanted(&format!("# check=experimental=kiln\n{text}")), ["SudoInRun"]);
        assert_eq!(wanted(&format!("# check=experimental=SudoInRun\n{text}")), ["SudoInRun"]);
        assert!(wanted(&format!("# check=experimental=kiln;skip=SudoInRun\n{text}")).is_empty());
        let comment = text.replace("RUN", "# check=skip=SudoInRun\nRUN");
        assert!(wanted(&format!("# check=experimental=kiln\n{comment}")).is_empty());
        let comment = text.replace("RUN", "# check=experimental=SudoInRun\nRUN");
        assert_eq!(wanted(&comment), ["SudoInRun"]);
    }

    #[test]
    fn a_caller_asks_for_rules_that_exist() {
        let mut checks = Checks::default();
        checks.enable("own").unwrap();
        assert!(checks.wants(lint::rule("SudoInRun").unwrap()));
        let error = checks.enable("SudoInRnu").unwrap_err();
        assert_eq!(error.closest, Some("SudoInRun"));
    }

    #[test]
    fn of_two_lists_the_later_counts() {
        let text = "FROM scratch AS A\nMAINTAINER me\n";
        let lists = "skip=StageNameCasing;skip=MaintainerDeprecated";
        assert_eq!(wanted(&format!("# check={lists}\n{text}")), ["StageNameCasing"]);
        assert!(wanted(&format!("# check=skip=all;skip=MaintainerDeprecated\n{text}")).is_empty());
    }

    #[test]
    fn the_directive_ends_at_a_space() {
        for (value, option) in [("skip=all; error=true", ""), ("skip = all", "skip"), ("skip", "skip")] {
            let file = crate::parse(format!("# check={value}\nFROM scratch\n").as_bytes()).unwrap();
            let error = Checks::of(&file).unwrap_err();
            assert!(error.to_string().ends_with(&format!("invalid check option \"{option}\"")), "{error}");
        }
        assert!(Checks::parse(" skip = all; error = true ").unwrap().is_error());
    }

    #[test]
    fn a_wrong_option_is_named() {
        let error = Checks::parse("foo=bar").unwrap_err();
        assert_eq!(error.to_string(), "failed to parse check options: invalid check option \"foo\"");
        let error = Checks::parse("error=perhaps").unwrap_err();
        assert_eq!(
            (error.option.as_str(), error.hint()),
            ("error=perhaps", "write error=true or error=false")
        );
        assert!(Checks::parse("skip=A, B ; error=true").unwrap().is_error());
    }
}
