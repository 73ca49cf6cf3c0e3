//! Go's `filepath.Match`, as COPY and ADD sources use it, over slash-separated paths.
//!
//! `*` is any run of characters but `/`, `?` one character but `/`, `[a-c]` one of a class (`[^…]` none of it), `\x` is
//! `x` itself. The whole name must match.

use std::str::Chars;

/// A compiled pattern of one path, matched component by component.
#[derive(Clone, Debug)]
pub struct Pattern {
    tokens: Vec<Token>,
}

/// The pattern cannot be parsed (`filepath.ErrBadPattern`).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pattern `{0}`")]
pub struct BadPattern(pub String);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Exactly(char),
    /// `?`.
    One,
    /// `*`.
    Many,
    /// `[…]`.
    Class(Class),
}

/// The characters between `[` and `]`; `/` may be among them, as in Go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Class {
    negated: bool,
    ranges: Vec<(char, char)>,
}

impl Class {
    pub(crate) fn holds(&self, ch: char) -> bool {
        self.ranges.iter().any(|(low, high)| (*low..=*high).contains(&ch)) != self.negated
    }

    /// Whether a range runs backwards: `filepath.Match` takes it for an empty one, a regular expression does not.
    pub(crate) fn has_reversed_range(&self) -> bool {
        self.ranges.iter().any(|(low, high)| low > high)
    }
}

impl Pattern {
    /// Compiles `source`.
    ///
    /// The whole pattern is checked at once, where Go finds a mistake only when the match gets to it.
    ///
    /// # Errors
    /// [`BadPattern`] as Go reports it.
    pub fn new(source: &str) -> Result<Self, BadPattern> {
        let bad = || BadPattern(source.to_owned());
        let mut tokens = Vec::new();
        let mut chars = source.chars();
        while let Some(ch) = chars.next() {
            tokens.push(match ch {
                '*' => Token::Many,
                '?' => Token::One,
                '[' => Token::Class(class(&mut chars).ok_or_else(bad)?),
                '\\' => Token::Exactly(chars.next().ok_or_else(bad)?),
                other => Token::Exactly(other),
            });
        }
        tokens.dedup_by(|next, before| *next == Token::Many && *before == Token::Many);
        Ok(Self { tokens })
    }

    /// Whether the whole of `name` (which may hold several components) matches.
    ///
    /// Takes at most `name` times pattern steps: on a mismatch only the last `*` needs to be tried again.
    pub fn matches(&self, name: &str) -> bool {
        let mut rest = name.chars();
        let mut index = 0;
        // The token after the last `*`, and the name from where that `*` may still grow.
        let mut retry: Option<(usize, Chars<'_>)> = None;
        loop {
            let mut ahead = rest.clone();
            let step = match (self.tokens.get(index), ahead.next()) {
                (None, None) => return true,
                (Some(Token::Many), _) => {
                    index += 1;
                    retry = Some((index, rest.clone()));
                    continue;
                }
                (Some(token), Some(ch)) => token.matches(ch),
                (Some(_), None) => return false,
                (None, Some(_)) => false,
            };
            if step {
                index += 1;
                rest = ahead;
                continue;
            }
            // A `*` never takes a `/`, and Go does not try an earlier one again.
            let Some((after, from)) = retry.as_mut() else { return false };
            if from.next().is_none_or(|ch| ch == '/') {
                return false;
            }
            index = *after;
            rest = from.clone();
        }
    }

    /// Whether `text` has any of the characters that make it a pattern (`*?[`).
    pub fn is_wildcard(text: &str) -> bool {
        text.contains(['*', '?', '['])
    }
}

impl Token {
    fn matches(&self, ch: char) -> bool {
        match self {
            Self::Exactly(wanted) => *wanted == ch,
            Self::One => ch != '/',
            Self::Many => false,
            Self::Class(class) => class.holds(ch),
        }
    }
}

/// Reads a class up to its `]`. It holds at least one range; `]` and `-` need a backslash.
pub(crate) fn class(chars: &mut Chars<'_>) -> Option<Class> {
    let negated = chars.as_str().starts_with('^');
    if negated {
        chars.next();
    }
    let mut ranges = Vec::new();
    while ranges.is_empty() || !chars.as_str().starts_with(']') {
        let low = class_char(chars)?;
        let high = if chars.as_str().starts_with('-') {
            chars.next();
            class_char(chars)?
        } else {
            low
        };
        ranges.push((low, high));
    }
    chars.next();
    Some(Class { negated, ranges })
}

fn class_char(chars: &mut Chars<'_>) -> Option<char> {
    match chars.next()? {
        '-' | ']' => None,
        '\\' => chars.next(),
        other => Some(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(pattern: &str, name: &str) -> bool {
        Pattern::new(pattern).unwrap().matches(name)
    }

    #[test]
    fn a_star_stops_at_a_slash() {
        assert!(matches("*", "abc"));
        assert!(matches("a*/b", "abc/b"));
        assert!(!matches("a*", "ab/c"));
        assert!(!matches("a*/b", "a/c/b"));
        assert!(matches("a*b*c*d*e*/f", "axbxcxdxe/f"));
        assert!(matches("a*b*c*d*e*/f", "axbxcxdxexxx/f"));
        assert!(!matches("a*b*c*d*e*/f", "axbxcxdxe/xxx/f"));
        assert!(!matches("a*b*c*d*e*/f", "axbxcxdxexxx/fff"));
        assert!(matches("a*b?c*x", "abxbbxdbxebxczzx"));
        assert!(!matches("a*b?c*x", "abxbbxdbxebxczzy"));
    }

    #[test]
    fn classes_have_ranges_and_can_be_negated() {
        assert!(matches("ab[c]", "abc"));
        assert!(matches("ab[b-d]", "abc"));
        assert!(!matches("ab[e-g]", "abc"));
        assert!(!matches("ab[^b-d]", "abc"));
        assert!(matches("[\\-x]", "-"));
        assert!(matches("a[^a]b", "a☺b"));
        assert!(matches("a\\*b", "a*b"));
        assert!(!matches("a\\*b", "axb"));
    }

    #[test]
    fn what_go_calls_a_bad_pattern_is_one() {
        for pattern in ["[]a]", "[-]", "[x-]", "[-x]", "[a-b-c]", "[", "[^", "[^bc", "a[", "\\"] {
            assert!(Pattern::new(pattern).is_err(), "{pattern}");
        }
    }

    /// The definition, tried in every way.
    fn slow(tokens: &[Token], name: &[char]) -> bool {
        match (tokens.split_first(), name.split_first()) {
            (None, None) => true,
            (Some((Token::Many, more)), None) => slow(more, name),
            (Some((Token::Many, more)), Some((ch, rest))) => {
                slow(more, name) || (*ch != '/' && slow(tokens, rest))
            }
            (Some((token, more)), Some((ch, rest))) => token.matches(*ch) && slow(more, rest),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn the_matcher_agrees_with_the_definition(pattern in "[ab*?/]{0,8}", name in "[ab/]{0,10}") {
            let pattern = Pattern::new(&pattern).unwrap();
            let chars: Vec<char> = name.chars().collect();
            prop_assert_eq!(pattern.matches(&name), slow(&pattern.tokens, &chars));
        }
    }
}
