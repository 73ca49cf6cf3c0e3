//! Places in the Dockerfile's text.

use std::ops::Range;

/// A stretch of the original text: byte offsets, and the lines they lie on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Span {
    /// Offset of the first byte.
    pub start: usize,
    /// Offset after the last byte.
    pub end: usize,
    /// Line of the first byte, counted from 1.
    pub line: u32,
    /// Line of the last byte, counted from 1.
    pub end_line: u32,
}

impl Span {
    /// The byte range, to slice the text with.
    pub fn range(self) -> Range<usize> {
        self.start..self.end
    }

    /// The first place in it where `word` stands, in the file's `text`; all of it where it stands nowhere. A word that
    /// begins with `$` is a variable, with braces or without.
    #[must_use]
    pub fn narrowed(self, text: &str, word: &str) -> Self {
        let Some(own) = text.get(self.range()).filter(|_| !word.is_empty()) else { return self };
        let found = match word.strip_prefix('$') {
            Some(name) => variable_in(own, name),
            // Between blanks, quotes or brackets first: `a` of `COPY --from=a a b` is no flag's value.
            None => word_in(own, word, |ch| ch.is_whitespace() || "\"'[],".contains(ch))
                .or_else(|| word_in(own, word, |ch| !ch.is_alphanumeric() && ch != '_')),
        };
        let Some(range) = found else { return self };
        let line = self.line + lines_in(&own[..range.start]);
        Self {
            start: self.start + range.start,
            end: self.start + range.end,
            line,
            end_line: line + lines_in(&own[range]),
        }
    }
}

fn lines_in(text: &str) -> u32 {
    text.bytes().filter(|byte| *byte == b'\n').count().try_into().unwrap_or(u32::MAX)
}

/// Where `word` stands with nothing before or behind it that `is_edge` denies.
fn word_in(text: &str, word: &str, is_edge: impl Fn(char) -> bool) -> Option<Range<usize>> {
    text.match_indices(word).map(|(at, _)| at..at + word.len()).find(|range| {
        text[..range.start].chars().next_back().is_none_or(&is_edge)
            && text[range.end..].chars().next().is_none_or(&is_edge)
    })
}

fn variable_in(text: &str, name: &str) -> Option<Range<usize>> {
    let is_name = |ch: char| ch.is_ascii_alphanumeric() || ch == '_';
    text.match_indices('$').find_map(|(at, _)| {
        let rest = &text[at + 1..];
        let inner = rest.strip_prefix('{').unwrap_or(rest);
        let behind = inner.strip_prefix(name)?;
        if behind.starts_with(is_name) {
            return None;
        }
        let braces = rest.len() - inner.len();
        let closing = usize::from(braces > 0 && behind.starts_with('}'));
        Some(at..at + 1 + braces + name.len() + closing)
    })
}

/// A value and where it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spanned<T> {
    /// What was written.
    pub value: T,
    /// Where.
    pub span: Span,
}

impl<T> std::ops::Deref for Spanned<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn narrowed<'a>(text: &'a str, word: &str) -> (&'a str, u32) {
        let lines = text.lines().count() as u32;
        let span = Span { start: 0, end: text.len(), line: 3, end_line: 2 + lines }.narrowed(text, word);
        (&text[span.range()], span.line)
    }

    #[test]
    fn a_word_is_found_whole_and_free_of_flags_where_it_can_be() {
        let text = "COPY --from=a ab \\\n  \"a\" /x/a";
        assert_eq!(narrowed(text, "a"), ("a", 4));
        let span = Span { start: 0, end: text.len(), line: 3, end_line: 4 };
        assert_eq!(span.narrowed(text, "a").start, text.find("\"a").unwrap() + 1);
        assert_eq!(narrowed("FROM --platform=linux/amd64 x", "linux/amd64"), ("linux/amd64", 3));
        assert_eq!(narrowed("EXPOSE 80", "8"), ("EXPOSE 80", 3));
        assert_eq!(narrowed("EXPOSE 80", ""), ("EXPOSE 80", 3));
    }

    #[test]
    fn a_variable_is_found_in_both_its_forms() {
        assert_eq!(narrowed("ENV a=$fool${foo}$foo", "$foo"), ("${foo}", 3));
        assert_eq!(narrowed("ENV a=b \\\n c=$foo", "$foo"), ("$foo", 4));
        assert_eq!(narrowed("ENV a=${foo:-x}", "$foo"), ("${foo", 3));
    }
}
