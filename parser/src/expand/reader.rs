//! Reading a word from left to right: quotes, escapes, and the forms of `$` one by one.

use std::collections::HashSet;
use std::iter::Peekable;
use std::str::Chars;

use super::letters::{is_digit, is_letter};
use super::{ExpandError, Lexing, Variables, Words};
use crate::glob::Glob;

/// Deepest nesting of `${a:-${b:-…}}`: each level is a call on the stack.
const MAX_DEPTH: u32 = 64;

/// Longest result of one expansion: `ENV a=$a$a` doubles with every line.
const MAX_RESULT_BYTES: usize = 16 << 20;

const TOO_MUCH_WORK: ExpandError = ExpandError::TooLarge { limit: "a pattern that takes too long to match" };

/// One walk over a word.
pub(super) struct Reader<'a> {
    lexing: Lexing,
    word: &'a str,
    chars: Peekable<Chars<'a>>,
    variables: &'a dyn Variables,
    unset: Vec<String>,
    seen: HashSet<String>,
    depth: u32,
    written: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(lexing: Lexing, word: &'a str, variables: &'a dyn Variables) -> Self {
        Self {
            lexing,
            word,
            chars: word.chars().peekable(),
            variables,
            unset: Vec::new(),
            seen: HashSet::new(),
            depth: 0,
            written: 0,
        }
    }

    /// Reads the whole word; returns it, and the names that are not set.
    pub(super) fn read(mut self) -> Result<(Words, Vec<String>), ExpandError> {
        let words = self.until(None, self.lexing.raw_escapes)?;
        Ok((words, self.unset))
    }

    /// Reads up to `stop`, which is taken, or to the end of the word.
    fn until(&mut self, stop: Option<char>, raw_escapes: bool) -> Result<Words, ExpandError> {
        let mut words = Words::default();
        while let Some(ch) = self.chars.peek().copied() {
            if stop == Some(ch) {
                self.chars.next();
                return Ok(words);
            }
            match ch {
                '$' => {
                    let value = self.dollar()?;
                    self.count(value.len())?;
                    value.chars().for_each(|ch| words.push(ch));
                }
                '<' => words.push_raw(&self.less_than()),
                '\'' if self.lexing.quotes => words.push_raw(&self.single_quoted()?),
                '"' if self.lexing.quotes => words.push_raw(&self.double_quoted(raw_escapes)?),
                _ => {
                    self.chars.next();
                    if ch != self.lexing.escape {
                        words.push(ch);
                        continue;
                    }
                    let mut bytes = [0; 4];
                    if raw_escapes {
                        words.push_raw(ch.encode_utf8(&mut bytes));
                    }
                    if let Some(escaped) = self.chars.next() {
                        words.push_raw(escaped.encode_utf8(&mut bytes));
                    }
                }
            }
        }
        match stop {
            None => Ok(words),
            Some('/') => Err(ExpandError::MissingReplacement { word: self.word.to_owned() }),
            Some(_) => Err(ExpandError::UnclosedBrace { word: self.word.to_owned() }),
        }
    }

    /// Reads `<`, or `<<` with the white space behind it: what is a heredoc's delimiter belongs to one word with it.
    fn less_than(&mut self) -> String {
        let mut text = String::new();
        text.extend(self.chars.next());
        if let Some(second) = self.chars.next_if_eq(&'<') {
            text.push(second);
            while let Some(blank) = self.chars.next_if(|ch| matches!(ch, '\t' | '\r' | ' ')) {
                text.push(blank);
            }
        }
        text
    }

    fn single_quoted(&mut self) -> Result<String, ExpandError> {
        let mut text = String::new();
        self.quote_mark(&mut text);
        loop {
            match self.chars.peek() {
                None => return Err(self.unclosed('\'')),
                Some('\'') => {
                    self.quote_mark(&mut text);
                    return Ok(text);
                }
                Some(_) => text.extend(self.chars.next()),
            }
        }
    }

    fn double_quoted(&mut self, raw_escapes: bool) -> Result<String, ExpandError> {
        let mut text = String::new();
        self.quote_mark(&mut text);
        loop {
            match self.chars.peek().copied() {
                None => return Err(self.unclosed('"')),
                Some('"') => {
                    self.quote_mark(&mut text);
                    return Ok(text);
                }
                Some('$') => {
                    let value = self.dollar()?;
                    self.count(value.len())?;
                    text.push_str(&value);
                }
                Some(ch) => {
                    self.chars.next();
                    if ch != self.lexing.escape {
                        text.push(ch);
                        continue;
                    }
                    if raw_escapes {
                        text.push(ch);
                    }
                    // Only these are escaped inside double quotes; elsewhere the escape character is itself.
                    match self.chars.next_if(|next| matches!(next, '"' | '$') || *next == ch) {
                        Some(escaped) => text.push(escaped),
                        None if self.chars.peek().is_some() => text.push(ch),
                        None => {}
                    }
                }
            }
        }
    }

    /// Takes a quotation mark, which only [`Lexing::raw_quotes`] keeps.
    fn quote_mark(&mut self, text: &mut String) {
        let mark = self.chars.next();
        if self.lexing.raw_quotes {
            text.extend(mark);
        }
    }

    /// Reads what begins with `$`.
    fn dollar(&mut self) -> Result<String, ExpandError> {
        self.chars.next();
        if self.chars.next_if_eq(&'{').is_none() {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            return Ok(match self.look_up(&name) {
                Some(value) => value,
                None if self.lexing.keep_unset => format!("${name}"),
                None => String::new(),
            });
        }
        match self.chars.peek() {
            None => return Err(ExpandError::UnclosedBrace { word: self.word.to_owned() }),
            Some('{' | '}' | ':') => {
                return Err(ExpandError::BadSubstitution { word: self.word.to_owned() });
            }
            Some(_) => {}
        }
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(ExpandError::TooLarge { limit: "more than 64 nested substitutions" });
        }
        let value = self.braced()?;
        self.depth -= 1;
        Ok(value)
    }

    /// Reads the rest of `${`.
    fn braced(&mut self) -> Result<String, ExpandError> {
        let name = self.name();
        let Some(first) = self.chars.next() else {
            return Err(ExpandError::UnclosedBrace { word: self.word.to_owned() });
        };
        let (colon, operator) = match first {
            ':' => (true, self.chars.next()),
            _ => (false, Some(first)),
        };
        match operator {
            Some('}') if !colon => Ok(match self.look_up(&name) {
                Some(value) => value,
                None if self.lexing.keep_unset => format!("${{{name}}}"),
                None => String::new(),
            }),
            Some(operator @ ('-' | '+' | '?')) => self.conditional(&name, colon, operator),
            Some(operator @ ('#' | '%')) if !colon => self.trimmed(&name, operator),
            Some('/') if !colon => self.replaced(&name),
            None => Err(ExpandError::UnclosedBrace { word: self.word.to_owned() }),
            Some(other) => self.unsupported(&name, colon, other),
        }
    }

    /// A form that only a shell knows. It may stand where nothing is expanded (`RUN echo ${x:=y} <<EOF`).
    fn unsupported(&mut self, name: &str, colon: bool, operator: char) -> Result<String, ExpandError> {
        let modifier = if colon { format!(":{operator}") } else { operator.to_string() };
        if colon && !matches!(operator, '#' | '%') {
            let word = self.until(Some('}'), false)?.whole;
            if self.lexing.keep_unset && self.look_up(name).is_none() {
                return Ok(format!("${{{name}{modifier}{word}}}"));
            }
        }
        Err(ExpandError::UnsupportedModifier { word: self.word.to_owned(), modifier })
    }

    fn conditional(&mut self, name: &str, colon: bool, operator: char) -> Result<String, ExpandError> {
        let word = self.until(Some('}'), false)?.whole;
        let value = self.look_up(name);
        if value.is_none() && self.lexing.keep_unset {
            let colon = if colon { ":" } else { "" };
            return Ok(format!("${{{name}{colon}{operator}{word}}}"));
        }
        let unset = value.is_none();
        let given = value.filter(|value| !(colon && value.is_empty()));
        match (operator, given) {
            ('-', given) => Ok(given.unwrap_or(word)),
            ('+', Some(_)) => Ok(word),
            ('+', None) => Ok(String::new()),
            (_, Some(given)) => Ok(given),
            (_, None) => {
                let message = match (word.is_empty(), unset) {
                    (false, _) => word,
                    (true, true) => "is not allowed to be unset".to_owned(),
                    (true, false) => "is not allowed to be empty".to_owned(),
                };
                Err(ExpandError::Required { name: name.to_owned(), message })
            }
        }
    }

    /// `${name#pattern}` and its three sisters.
    fn trimmed(&mut self, name: &str, operator: char) -> Result<String, ExpandError> {
        let text = self.until(Some('}'), true)?.whole;
        let value = match self.look_up(name) {
            None if self.lexing.keep_unset => return Ok(format!("${{{name}{operator}{text}}}")),
            value => value.unwrap_or_default(),
        };
        let (longest, pattern) = match text.strip_prefix(operator) {
            Some(pattern) => (true, pattern),
            None => (false, text.as_str()),
        };
        let glob = self.glob(pattern)?;
        let rest = if operator == '#' {
            glob.without_prefix(&value, longest)
        } else {
            glob.without_suffix(&value, longest)
        };
        rest.ok_or(TOO_MUCH_WORK)
    }

    /// `${name/pattern/replacement}` and `${name//pattern/replacement}`.
    fn replaced(&mut self, name: &str) -> Result<String, ExpandError> {
        let all = self.chars.next_if_eq(&'/').is_some();
        let pattern = self.until(Some('/'), true)?.whole;
        let replacement = self.until(Some('}'), true)?.whole;
        let value = match self.look_up(name) {
            None if self.lexing.keep_unset => return Ok(format!("${{{name}/{pattern}/{replacement}}}")),
            value => value.unwrap_or_default(),
        };
        let limit = MAX_RESULT_BYTES - self.written.min(MAX_RESULT_BYTES);
        self.glob(&pattern)?.replace(&value, &replacement, all, limit).ok_or(TOO_MUCH_WORK)
    }

    fn glob(&self, pattern: &str) -> Result<Glob, ExpandError> {
        Glob::new(pattern).ok_or_else(|| ExpandError::InvalidPattern {
            word: self.word.to_owned(),
            pattern: pattern.to_owned(),
        })
    }

    /// Reads a name: letters, digits and `_`; only digits if it begins with one; or one special character.
    fn name(&mut self) -> String {
        let mut name = String::new();
        match self.chars.peek() {
            Some(ch) if is_digit(*ch) => {
                while let Some(digit) = self.chars.next_if(|ch| is_digit(*ch)) {
                    name.push(digit);
                }
            }
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => name.extend(self.chars.next()),
            _ => {
                while let Some(ch) = self.chars.next_if(|ch| is_letter(*ch) || is_digit(*ch) || *ch == '_') {
                    name.push(ch);
                }
            }
        }
        name
    }

    fn look_up(&mut self, name: &str) -> Option<String> {
        let value = self.variables.get(name);
        if value.is_none() && self.seen.insert(name.to_owned()) {
            self.unset.push(name.to_owned());
        }
        value.map(str::to_owned)
    }

    fn count(&mut self, bytes: usize) -> Result<(), ExpandError> {
        self.written = self.written.saturating_add(bytes);
        if self.written > MAX_RESULT_BYTES {
            return Err(ExpandError::TooLarge { limit: "more than 16 MiB" });
        }
        Ok(())
    }

    fn unclosed(&self, quote: char) -> ExpandError {
        ExpandError::UnclosedQuote { word: self.word.to_owned(), quote }
    }
}
