//! Builder flags: the `--name=value` words before an instruction's arguments (FEATURES LX22).

use crate::lexer::Text;
use crate::suggest::closest;
use crate::{ParseError, Span, Spanned};

/// What a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takes {
    /// A value, once.
    One,
    /// A value each time.
    Many,
    /// Nothing, `true` or `false`.
    Bool,
}

/// The flags that an instruction knows, names without dashes.
pub(crate) type Known = &'static [(&'static str, Takes)];

/// The flags of one instruction, checked against those it knows.
#[derive(Debug)]
pub(crate) struct Flags {
    found: Vec<Flag>,
}

#[derive(Debug)]
pub(crate) struct Flag {
    /// As written, quotes removed.
    pub(crate) word: String,
    pub(crate) span: Span,
}

impl Flag {
    fn parts(&self) -> (&str, Option<&str>) {
        let body = self.word.strip_prefix("--").unwrap_or(&self.word);
        match body.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (body, None),
        }
    }
}

impl Flags {
    /// Checks `found` for unknown names, repetitions and missing or wrong values.
    pub(crate) fn check(
        instruction: &'static str,
        found: Vec<Flag>,
        known: Known,
    ) -> Result<Self, ParseError> {
        let mut seen: Vec<&'static str> = Vec::new();
        for flag in &found {
            let (name, value) = flag.parts();
            let Some(&(name, takes)) = known.iter().find(|(candidate, _)| *candidate == name) else {
                return Err(ParseError::UnknownFlag {
                    instruction,
                    closest: closest(name, known.iter().map(|(candidate, _)| *candidate)),
                    flag: name.to_owned(),
                    span: flag.span,
                });
            };
            if takes != Takes::Many && seen.contains(&name) {
                return Err(ParseError::RepeatedFlag { flag: name, span: flag.span });
            }
            seen.push(name);
            match (takes, value.map(str::to_ascii_lowercase).as_deref()) {
                (Takes::Bool, None | Some("true" | "false")) | (Takes::One | Takes::Many, Some(_)) => {}
                (Takes::Bool, Some(_)) => {
                    return Err(ParseError::FlagNotBoolean {
                        flag: name,
                        value: value.unwrap_or_default().to_owned(),
                        span: flag.span,
                    });
                }
                (_, None) => return Err(ParseError::FlagWithoutValue { flag: name, span: flag.span }),
            }
        }
        Ok(Self { found })
    }

    /// Returns the value of a [`Takes::One`] flag. An empty value counts as none.
    pub(crate) fn one(&self, name: &str) -> Option<Spanned<String>> {
        self.many(name).into_iter().next()
    }

    /// Returns the values of a [`Takes::Many`] flag in order, without empty ones.
    pub(crate) fn many(&self, name: &str) -> Vec<Spanned<String>> {
        self.values(name).filter(|flag| !flag.value.is_empty()).collect()
    }

    /// Returns the values of a flag in order, empty ones too.
    pub(crate) fn values(&self, name: &str) -> impl Iterator<Item = Spanned<String>> {
        self.found.iter().filter_map(move |flag| match flag.parts() {
            (found, Some(value)) if found == name => {
                Some(Spanned { value: value.to_owned(), span: flag.span })
            }
            _ => None,
        })
    }

    /// Returns what a [`Takes::Bool`] flag says, or `None` where it is absent.
    pub(crate) fn switch(&self, name: &str) -> Option<bool> {
        let flag = self.found.iter().find(|flag| flag.parts().0 == name)?;
        Some(!flag.parts().1.is_some_and(|value| value.eq_ignore_ascii_case("false")))
    }

    /// Returns the flags as written.
    pub(crate) fn written(&self) -> Vec<String> {
        self.found.iter().map(|flag| flag.word.clone()).collect()
    }
}

/// Takes the flags off the front of an instruction's text: the flags, and the arguments.
pub(crate) fn split<'a>(text: &Text<'a>, escape: char) -> (Vec<Flag>, Text<'a>) {
    let mut flags = Vec::new();
    let mut rest = text.trim();
    while rest.as_str().starts_with("--") {
        let (word, length) = word(rest.as_str(), escape);
        let span = rest.slice(0..length).span();
        rest = rest.from(length).trim();
        if word == "--" {
            break;
        }
        flags.push(Flag { word, span });
    }
    (flags, rest)
}

/// Reads one word with quotes and escapes removed, and says how many bytes it took.
fn word(text: &str, escape: char) -> (String, usize) {
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, ch)) = chars.next() {
        match quote {
            None if ch.is_whitespace() => return (word, at),
            None if matches!(ch, '"' | '\'') => quote = Some(ch),
            Some(open) if open == ch => quote = None,
            _ if ch == escape => word.extend(chars.next().map(|(_, escaped)| escaped)),
            _ => word.push(ch),
        }
    }
    (word, text.len())
}
