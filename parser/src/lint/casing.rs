//! Letter case of stage names, `AS` and instructions.

use super::Findings;
use crate::{Dockerfile, Span, Stage};

/// StageNameCasing.
pub(super) fn stage_name(file: &Dockerfile, found: &mut Findings) {
    for (stage, written) in named(file) {
        if written.name != written.name.to_lowercase() {
            let message = format!("Stage name '{}' should be lowercase", written.name);
            found.add_word(message, stage.span, written.name);
        }
    }
}

/// FromAsCasing. A FROM in mixed case is told by ConsistentInstructionCasing and not here too.
pub(super) fn from_as(file: &Dockerfile, found: &mut Findings) {
    for (stage, Written { from, keyword, .. }) in named(file) {
        let differs = (is_lower(from) && !is_lower(keyword)) || (is_upper(from) && !is_upper(keyword));
        if differs {
            let message = format!("'{keyword}' and '{from}' keywords' casing do not match");
            found.add_word(message, stage.span, keyword);
        }
    }
}

/// ConsistentInstructionCasing. The ARGs above the first FROM do not count; upper case wins a tie.
pub(super) fn instructions(file: &Dockerfile, found: &mut Findings) {
    let count = |fits: fn(&str) -> bool| keywords(file).filter(|(word, _)| fits(word)).count();
    let (majority, fits): (_, fn(&str) -> bool) =
        if count(is_lower) > count(is_upper) { ("lowercase", is_lower) } else { ("uppercase", is_upper) };
    for (word, span) in keywords(file).filter(|(word, _)| !fits(word)) {
        let message = format!("Command '{word}' should match the case of the command majority ({majority})");
        found.add_word(message, span, word);
    }
}

/// The words of a FROM line with a name.
struct Written<'a> {
    from: &'a str,
    keyword: &'a str,
    name: &'a str,
}

fn named(file: &Dockerfile) -> impl Iterator<Item = (&Stage, Written<'_>)> {
    file.stages.iter().filter(|stage| stage.name.is_some()).filter_map(|stage| {
        let mut words = stage.original.split_ascii_whitespace();
        let from = words.next()?;
        let name = words.next_back()?;
        Some((stage, Written { from, keyword: words.next_back()?, name }))
    })
}

fn keywords(file: &Dockerfile) -> impl Iterator<Item = (&str, Span)> {
    file.stages.iter().flat_map(|stage| {
        let below = stage.instructions.iter().map(|instruction| (&instruction.original, instruction.span));
        std::iter::once((&stage.original, stage.span))
            .chain(below)
            .map(|(text, span)| (text.split_ascii_whitespace().next().unwrap_or_default(), span))
    })
}

fn is_lower(word: &str) -> bool {
    !word.contains(|ch: char| ch.is_ascii_uppercase())
}

fn is_upper(word: &str) -> bool {
    !word.contains(|ch: char| ch.is_ascii_lowercase())
}
