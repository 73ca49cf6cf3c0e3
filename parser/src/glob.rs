//! The patterns of `${name#pattern}`, `%` and `/`: `*` and `?` only, neither matching a line feed; no classes.

use std::cell::Cell;

/// Most comparisons one pattern may cost: replacing with several `*` grows with the cube of the value.
const MAX_STEPS: u64 = 20_000_000;

#[derive(Debug)]
pub(crate) struct Glob {
    tokens: Vec<Token>,
    steps: Cell<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Exactly(char),
    One,
    Many,
}

/// Which of several matches at one place is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Length {
    Shortest,
    Longest,
}

impl Glob {
    /// Compiles `pattern`; `None` where a backslash stands before a character that needs none.
    pub(crate) fn new(pattern: &str) -> Option<Self> {
        let mut tokens = Vec::new();
        let mut chars = pattern.chars();
        while let Some(ch) = chars.next() {
            tokens.push(match ch {
                '*' => Token::Many,
                '?' => Token::One,
                // `}` and `/` are escaped for the sake of `${…}`, the others for the pattern's.
                '\\' => {
                    Token::Exactly(chars.next().filter(|next| matches!(next, '}' | '/' | '*' | '?' | '\\'))?)
                }
                other => Token::Exactly(other),
            });
        }
        tokens.dedup_by(|next, before| *next == Token::Many && *before == Token::Many);
        Some(Self { tokens, steps: Cell::new(0) })
    }

    /// Returns `value` without the prefix that matches, or `None` where that takes too long.
    pub(crate) fn without_prefix(&self, value: &str, longest: bool) -> Option<String> {
        let length = if longest { Length::Longest } else { Length::Shortest };
        let chars: Vec<char> = value.chars().collect();
        let end = self.end(&self.tokens, &chars, length)?.unwrap_or(0);
        Some(chars.iter().skip(end).collect())
    }

    /// Returns `value` without the suffix that matches, or `None` where that takes too long.
    pub(crate) fn without_suffix(&self, value: &str, longest: bool) -> Option<String> {
        let length = if longest { Length::Longest } else { Length::Shortest };
        let tokens: Vec<Token> = self.tokens.iter().rev().copied().collect();
        let chars: Vec<char> = value.chars().rev().collect();
        let end = self.end(&tokens, &chars, length)?.unwrap_or(0);
        Some(chars.iter().skip(end).rev().collect())
    }

    /// Replaces the first match, or all; `None` where that takes too long or gives more than `limit` bytes.
    ///
    /// Where all are replaced, BuildKit's `ReplaceAllString` reads `$` in the replacement: `$0` is the match, `$$` a `$`,
    /// any other name nothing.
    ///
    /// Of the matches at one place the longest is taken; an empty match right behind another match is none.
    pub(crate) fn replace(&self, value: &str, replacement: &str, all: bool, limit: usize) -> Option<String> {
        let chars: Vec<char> = value.chars().collect();
        let mut result = String::new();
        let (mut copied, mut from) = (0, 0);
        while from <= chars.len() {
            let Some((start, end)) = self.find(&chars, from)? else { break };
            result.extend(chars.get(copied..start)?);
            if end > copied || start == 0 {
                if all {
                    let matched: String = chars.get(start..end)?.iter().collect();
                    push_template(&mut result, replacement, &matched);
                } else {
                    result.push_str(replacement);
                }
                if result.len() > limit {
                    return None;
                }
            }
            copied = end;
            if !all {
                break;
            }
            from = end.max(from + 1);
        }
        result.extend(chars.get(copied..)?);
        Some(result)
    }

    fn find(&self, chars: &[char], from: usize) -> Option<Option<(usize, usize)>> {
        for start in from..=chars.len() {
            if let Some(length) = self.end(&self.tokens, chars.get(start..)?, Length::Longest)? {
                return Some(Some((start, start + length)));
            }
        }
        Some(None)
    }

    /// Finds where a match that begins at the start of `chars` ends. The outer `None` means too much work.
    fn end(&self, tokens: &[Token], chars: &[char], length: Length) -> Option<Option<usize>> {
        // `live` holds how many tokens may be used up so far: all ways are followed at once, none is tried again.
        let mut live = vec![false; tokens.len() + 1];
        if let Some(first) = live.first_mut() {
            *first = true;
        }
        let mut found = None;
        for at in 0..=chars.len() {
            // A `*` may be nothing at all.
            for (index, token) in tokens.iter().enumerate() {
                if *token == Token::Many && live.get(index) == Some(&true) {
                    set(&mut live, index + 1);
                }
            }
            if live.last() == Some(&true) {
                found = Some(at);
                if length == Length::Shortest {
                    break;
                }
            }
            self.spend(live.len())?;
            let Some(ch) = chars.get(at) else { break };
            let mut next = vec![false; live.len()];
            let mut any = false;
            for (index, token) in
                tokens.iter().enumerate().filter(|(index, _)| live.get(*index) == Some(&true))
            {
                let (matches, stays) = match token {
                    Token::Exactly(wanted) => (wanted == ch, false),
                    Token::One => (*ch != '\n', false),
                    Token::Many => (*ch != '\n', true),
                };
                if matches {
                    set(&mut next, if stays { index } else { index + 1 });
                    any = true;
                }
            }
            if !any {
                break;
            }
            live = next;
        }
        Some(found)
    }

    fn spend(&self, steps: usize) -> Option<()> {
        self.steps.set(self.steps.get() + steps as u64);
        (self.steps.get() <= MAX_STEPS).then_some(())
    }
}

/// Appends `template`; it has no groups but the whole match (Go's `Regexp.Expand`).
fn push_template(result: &mut String, template: &str, matched: &str) {
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('$') {
        result.push_str(before);
        rest = after;
        if let Some(more) = after.strip_prefix('$') {
            result.push('$');
            rest = more;
            continue;
        }
        let inner = after.strip_prefix('{');
        let text = inner.unwrap_or(after);
        let length = text.find(|ch: char| !ch.is_alphanumeric() && ch != '_').unwrap_or(text.len());
        let (name, more) = text.split_at(length);
        let more = if inner.is_some() { more.strip_prefix('}') } else { Some(more) };
        match more {
            Some(more) if !name.is_empty() => {
                if name == "0" {
                    result.push_str(matched);
                }
                rest = more;
            }
            _ => result.push('$'),
        }
    }
    result.push_str(rest);
}

fn set(states: &mut [bool], index: usize) {
    if let Some(state) = states.get_mut(index) {
        *state = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replace(value: &str, pattern: &str, with: &str, all: bool) -> String {
        Glob::new(pattern).unwrap().replace(value, with, all, 1 << 20).unwrap()
    }

    #[test]
    fn shortest_and_longest_prefixes_and_suffixes_differ() {
        let glob = Glob::new("*/").unwrap();
        assert_eq!(glob.without_prefix("/usr/local/bin", false).unwrap(), "usr/local/bin");
        assert_eq!(glob.without_prefix("/usr/local/bin", true).unwrap(), "bin");
        let glob = Glob::new(".*").unwrap();
        assert_eq!(glob.without_suffix("a.tar.gz", false).unwrap(), "a.tar");
        assert_eq!(glob.without_suffix("a.tar.gz", true).unwrap(), "a");
    }

    #[test]
    fn a_replacement_takes_the_longest_match() {
        assert_eq!(replace("foobarbaz", "o*b", "_", false), "f_az");
        assert_eq!(replace("foobarbaz", "?", "x", true), "xxxxxxxxx");
        assert_eq!(replace("foobarbaz", "*", "x", true), "x");
        assert_eq!(replace("abc", "", "-", true), "-a-b-c-");
    }

    #[test]
    fn a_pattern_that_takes_too_long_is_given_up() {
        let value = "a".repeat(20_000);
        let glob = Glob::new("*a*a*b").unwrap();
        assert_eq!(glob.replace(&value, "", true, usize::MAX), None);
    }

    #[test]
    fn a_useless_escape_is_no_pattern() {
        assert!(Glob::new("a\\b").is_none());
        assert!(Glob::new("\\").is_none());
        assert!(Glob::new("\\*\\?\\\\\\}\\/").is_some());
    }
}
