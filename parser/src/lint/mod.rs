//! Lint rules: what works but should not be written so.
//!
//! [`RULES`] is the one list. A rule that needs nothing but the text is a function of the [`Dockerfile`], in a file of
//! its own or its family's; one that needs variables' values, the context or a base image's config is found where the
//! planner meets it, and stands in the list for its words. BuildKit's rules have its names and its wording, so that
//! people and tools find them; kiln's own are in `own` and silent until a Dockerfile or a caller asks for them.
//!
//! Triggers of ONBUILD are not judged: they are another build's text.

mod casing;
mod command;
mod description;
mod maintainer;
mod own;
mod rules;
mod stage_names;

pub use description::description;
pub use rules::{Origin, RULES, Rule, Scope, rule};

use crate::{Dockerfile, Span, Warning};

/// A rule's look at a file.
pub(crate) type Find = fn(&Dockerfile, &mut Findings);

/// What is found, under the name of the rule that looks.
#[derive(Debug)]
pub(crate) struct Findings {
    rule: &'static str,
    list: Vec<Warning>,
}

impl Findings {
    fn add(&mut self, message: impl Into<String>, span: Span) {
        self.list.push(Warning {
            rule: self.rule,
            message: message.into(),
            span,
            word: None,
            judged_by: None,
        });
    }

    /// The same of one word in `span`.
    fn add_word(&mut self, message: impl Into<String>, span: Span, word: &str) {
        self.add(message, span);
        if let Some(warning) = self.list.last_mut() {
            warning.word = Some(word.to_owned());
        }
    }
}

/// How far a file could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// To its end.
    Whole,
    /// With a mistake that begins on this line: only what single instructions above it show can be judged.
    Until(u32),
}

/// Returns what BuildKit's rules find in the text, in the order of the file; `blank` are the ends of instructions with
/// blank lines among their continuations.
pub(crate) fn in_text(file: &Dockerfile, blank: &[Span], read: Read) -> Vec<Warning> {
    let mut found = Findings { rule: "NoEmptyContinuation", list: Vec::new() };
    for &span in blank {
        found.add("Empty continuation line", span);
    }
    for rule in RULES.iter().filter(|rule| rule.origin == Origin::BuildKit) {
        let Some(find) = rule.find.filter(|_| read == Read::Whole || rule.is_seen_while_reading()) else {
            continue;
        };
        found.rule = rule.name;
        let before = found.list.len();
        find(file, &mut found);
        if let Read::Until(line) = read {
            let mut number = 0;
            found.list.retain(|warning| {
                number += 1;
                number <= before || warning.span.line < line
            });
        }
    }
    sorted(found.list)
}

/// Returns what kiln's own rules find, whether or not they are wanted.
pub(crate) fn by_own_rules(file: &Dockerfile) -> Vec<Warning> {
    let mut found = Findings { rule: "", list: Vec::new() };
    for rule in RULES.iter().filter(|rule| rule.origin == Origin::Kiln) {
        if let Some(find) = rule.find {
            found.rule = rule.name;
            find(file, &mut found);
        }
    }
    found.list
}

/// Puts findings into the order of the file.
pub(crate) fn sorted(mut warnings: Vec<Warning>) -> Vec<Warning> {
    warnings.sort_by(|a, b| (a.span.line, a.rule, a.span.start).cmp(&(b.span.line, b.rule, b.span.start)));
    warnings
}
