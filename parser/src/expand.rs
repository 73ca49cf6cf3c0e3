//! Word expansion: `$name`, `${name}` and its forms (Dockerfile reference, "Environment replacement"; FEATURES VX).
//!
//! A word is read once from left to right. Quotes and escapes are removed on the way, what a variable's value holds is
//! not looked at again: a quote inside a value is a character like any other.

use std::collections::HashSet;
use std::iter::Peekable;
use std::str::Chars;

use crate::glob::Glob;

/// Deepest nesting of `${a:-${b:-…}}`: each level is a call on the stack.
const MAX_DEPTH: u32 = 64;

/// Longest result of one expansion: `ENV a=$a$a` doubles with every line.
const MAX_RESULT_BYTES: usize = 16 << 20;

/// What an expansion reads: the variables in effect.
pub trait Variables {
    /// The value of `name`, or `None` when it is not set.
    fn get(&self, name: &str) -> Option<&str>;
}

/// Why a word cannot be expanded. The caller knows the instruction's span.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExpandError {
    /// `${x:?message}` and `x` is unset or empty.
    #[error("{name}: {message}")]
    Required {
        /// The variable.
        name: String,
        /// The author's message or BuildKit's default one.
        message: String,
    },
    /// A quote is opened and never closed.
    #[error("failed to process {word:?}: unexpected end of statement while looking for matching {}", quote_name(*.quote))]
    UnclosedQuote {
        /// The word as written.
        word: String,
        /// `'` or `"`.
        quote: char,
    },
    /// `${` without `}`.
    #[error("failed to process {word:?}: syntax error: missing '}}'")]
    UnclosedBrace {
        /// The word as written.
        word: String,
    },
    /// `${name/pattern}` without the second `/`.
    #[error("failed to process {word:?}: syntax error: missing '/' in ${{}}")]
    MissingReplacement {
        /// The word as written.
        word: String,
    },
    /// `${}`, `${:x}`, `${{x}`.
    #[error("failed to process {word:?}: syntax error: bad substitution")]
    BadSubstitution {
        /// The word as written.
        word: String,
    },
    /// What follows the name in `${…}` is none of the known forms.
    #[error("failed to process {word:?}: unsupported modifier ({modifier}) in substitution")]
    UnsupportedModifier {
        /// The word as written.
        word: String,
        /// Such as `:=`.
        modifier: String,
    },
    /// A backslash before a character that needs none in the pattern of `#`, `%` or `/`.
    #[error("failed to process {word:?}: invalid pattern ({pattern}) in substitution")]
    InvalidPattern {
        /// The word as written.
        word: String,
        /// The pattern.
        pattern: String,
    },
    /// More than a build could use, or more work than a build should do.
    #[error("the expansion of a word is too deep or too long: {limit}")]
    TooLarge {
        /// Which limit was met.
        limit: &'static str,
    },
}

fn quote_name(quote: char) -> &'static str {
    if quote == '\'' { "single-quote" } else { "double-quote" }
}

/// An expanded word, with the names it asked for that were not set (for the UndefinedVar warning).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expanded {
    /// The word's value, quotes removed.
    pub value: String,
    /// Names that were looked up and not found, in order, each once. A default does not matter: BuildKit warns about
    /// `${x:-y}` as well.
    pub unset: Vec<String>,
}

/// Expands one word: variables replaced, quotes and escapes removed. `escape` is the file's escape character.
///
/// ```
/// use kiln_parser::expand::{Variables, expand};
///
/// struct Version;
/// impl Variables for Version {
///     fn get(&self, name: &str) -> Option<&str> {
///         (name == "VERSION").then_some("1.2.3")
///     }
/// }
/// let expanded = expand("app-${VERSION%.*}-${ARCH:-any}", &Version, '\\')?;
/// assert_eq!(expanded.value, "app-1.2-any");
/// assert_eq!(expanded.unset, ["ARCH"]);
/// # Ok::<(), kiln_parser::expand::ExpandError>(())
/// ```
///
/// # Errors
/// See [`ExpandError`].
pub fn expand(word: &str, variables: &dyn Variables, escape: char) -> Result<Expanded, ExpandError> {
    let (words, unset) = Lexing::with_escape(escape).run(word, variables)?;
    Ok(Expanded { value: words.whole, unset })
}

/// Expands `text` and splits it into words at unquoted white space (EXPOSE).
///
/// The white space of an unquoted variable's value splits as well.
///
/// # Errors
/// See [`ExpandError`].
pub fn expand_to_words(
    text: &str,
    variables: &dyn Variables,
    escape: char,
) -> Result<Vec<String>, ExpandError> {
    Lexing::with_escape(escape).words(text, variables)
}

/// Expands the variables in the body of an unquoted COPY/ADD heredoc; quotes stay (FEATURES LX33).
///
/// BuildKit escapes with `\` in bodies, whatever the file's escape character is.
///
/// # Errors
/// See [`ExpandError`].
pub fn expand_heredoc(body: &str, variables: &dyn Variables, escape: char) -> Result<String, ExpandError> {
    let lexing = Lexing { quotes: false, ..Lexing::with_escape(escape) };
    Ok(lexing.run(body, variables)?.0.whole)
}

/// Nothing is set.
pub(crate) struct NoVariables;

impl Variables for NoVariables {
    fn get(&self, _: &str) -> Option<&str> {
        None
    }
}

/// How words are read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lexing {
    /// The escape character.
    pub(crate) escape: char,
    /// Quotes quote; otherwise they are characters like any other.
    pub(crate) quotes: bool,
    /// Quotes stay in the result.
    pub(crate) raw_quotes: bool,
    /// Escape characters stay in the result.
    pub(crate) raw_escapes: bool,
    /// `$name` stays as it is where `name` is not set.
    pub(crate) keep_unset: bool,
}

impl Lexing {
    pub(crate) fn with_escape(escape: char) -> Self {
        Self { escape, quotes: true, raw_quotes: false, raw_escapes: false, keep_unset: false }
    }

    pub(crate) fn words(self, text: &str, variables: &dyn Variables) -> Result<Vec<String>, ExpandError> {
        Ok(self.run(text, variables)?.0.finish())
    }

    fn run(self, word: &str, variables: &dyn Variables) -> Result<(Words, Vec<String>), ExpandError> {
        let mut reader = Reader {
            lexing: self,
            word,
            chars: word.chars().peekable(),
            variables,
            unset: Vec::new(),
            seen: HashSet::new(),
            depth: 0,
            written: 0,
        };
        let words = reader.until(None, self.raw_escapes)?;
        Ok((words, reader.unset))
    }
}

/// A result as a whole and as the words it falls into.
#[derive(Debug, Default)]
struct Words {
    whole: String,
    done: Vec<String>,
    word: String,
}

impl Words {
    /// Adds a character that ends a word if it is white space.
    fn push(&mut self, ch: char) {
        self.whole.push(ch);
        if !ch.is_whitespace() {
            self.word.push(ch);
        } else if !self.word.is_empty() {
            self.done.push(std::mem::take(&mut self.word));
        }
    }

    fn push_raw(&mut self, text: &str) {
        self.whole.push_str(text);
        self.word.push_str(text);
    }

    fn finish(mut self) -> Vec<String> {
        if !self.word.is_empty() {
            self.done.push(self.word);
        }
        self.done
    }
}

struct Reader<'a> {
    lexing: Lexing,
    word: &'a str,
    chars: Peekable<Chars<'a>>,
    variables: &'a dyn Variables,
    unset: Vec<String>,
    seen: HashSet<String>,
    depth: u32,
    written: usize,
}

impl Reader<'_> {
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

/// A letter as Go's `unicode.IsLetter` has it: no numeral such as `Ⅷ`.
fn is_letter(ch: char) -> bool {
    ch.is_alphabetic() && !ch.is_numeric()
}

/// A decimal digit of any script (Unicode's category Nd), and not `²` or `½`.
fn is_digit(ch: char) -> bool {
    if ch.is_ascii() {
        return ch.is_ascii_digit();
    }
    let code = u32::from(ch);
    let before = ZEROS.partition_point(|zero| *zero <= code);
    before.checked_sub(1).and_then(|index| ZEROS.get(index)).is_some_and(|zero| code - zero < 10)
}

/// The digit zero of each script beyond ASCII (Unicode 14, category Nd): its nine others follow it.
const ZEROS: [u32; 65] = [
    0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xde6, 0xe50, 0xed0,
    0xf20, 0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90, 0x1b50, 0x1bb0, 0x1c40, 0x1c50,
    0xa620, 0xa8d0, 0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10, 0x104a0, 0x10d30, 0x11066, 0x110f0,
    0x11136, 0x111d0, 0x112f0, 0x11450, 0x114d0, 0x11650, 0x116c0, 0x11730, 0x118e0, 0x11950, 0x11c50,
    0x11d50, 0x11da0, 0x16a60, 0x16ac0, 0x16b50, 0x1d7ce, 0x1d7d8, 0x1d7e2, 0x1d7ec, 0x1d7f6, 0x1e140,
    0x1e2f0, 0x1e950, 0x1fbf0,
];

const TOO_MUCH_WORK: ExpandError = ExpandError::TooLarge { limit: "a pattern that takes too long to match" };

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Set(&'static [(&'static str, &'static str)]);

    impl Variables for Set {
        fn get(&self, name: &str) -> Option<&str> {
            self.0.iter().find(|(key, _)| *key == name).map(|(_, value)| *value)
        }
    }

    const SET: Set = Set(&[
        ("a", "one"),
        ("empty", ""),
        ("s", "foobarbaz"),
        ("f", "a.tar.gz"),
        ("p", "/usr/local/bin/tool"),
        ("stars", "a*b*c?d"),
        ("two", "x y"),
    ]);

    fn value(word: &str) -> String {
        expand(word, &SET, '\\').unwrap().value
    }

    fn error(word: &str) -> String {
        expand(word, &SET, '\\').unwrap_err().to_string()
    }

    #[test]
    fn names_end_where_no_letter_digit_or_underscore_follows() {
        assert_eq!(value("$a ${a}_x $a_x"), "one one_x ");
        assert_eq!(value("$1a x${2}y $ 5$ $$ $@"), "a xy $ 5$  ");
    }

    #[test]
    fn names_may_have_letters_and_digits_of_any_script() {
        assert_eq!(value("$größe|$a²|$à|$٣a|$aⅧ|$a½"), "|one²||a|oneⅧ|one½");
    }

    #[test]
    fn defaults_and_alternatives_tell_empty_from_unset() {
        assert_eq!(value("${a:-d},${empty:-d},${no:-d},${no:-}"), "one,d,d,");
        assert_eq!(value("${a-d},${empty-d},${no-d}"), "one,,d");
        assert_eq!(value("x${a:+d}x${empty:+d}x${no:+d}x"), "xdxxx");
        assert_eq!(value("x${a+d}x${empty+d}x${no+d}x"), "xdxdxx");
        assert_eq!(value("${u1:-${u2:-${a}}} ${a:+<$a>}"), "one <one>");
    }

    #[test]
    fn a_required_variable_fails_with_the_authors_message() {
        assert_eq!(value("${a:?must be set}${a?also}${empty?}"), "oneone");
        assert_eq!(error("${DEST:?say-where}"), "DEST: say-where");
        assert_eq!(error("${DEST?}"), "DEST: is not allowed to be unset");
        assert_eq!(error("${empty:?}"), "empty: is not allowed to be empty");
    }

    #[test]
    fn prefixes_suffixes_and_replacements_use_stars_and_question_marks() {
        assert_eq!(value("${s#f*b} ${s##f*b} ${s#foo} ${s#?} ${s#*}"), "arbaz az barbaz oobarbaz foobarbaz");
        assert_eq!(value("${s%b*} ${f%.*} ${f%%.*} ${s%zzz}"), "foobar a.tar a foobarbaz");
        assert_eq!(value("${stars#a\\*} ${stars%\\?d}"), "b*c?d a*b*c");
        assert_eq!(
            value("${s//ba/'<$0>'} ${s/ba/'<$0>'} ${s//b/'$x$$'}"),
            "foo<ba>r<ba>z foo<$0>rbaz foo$ar$az"
        );
        assert_eq!(value("${no/*/x}${no//*/x}${empty/*/x}${no/a/x}${no#*}"), "xxx");
        assert_eq!(value("${s/b?r/-} ${s//o/} ${p//\\//-}"), "foo-baz fbarbaz -usr-local-bin-tool");
    }

    #[test]
    fn quotes_and_escapes_are_removed_and_values_are_not_read_again() {
        assert_eq!(value("'$a'\"$a\"m'x'\"$a\"'y'"), "$aonemxoney");
        assert_eq!(value("\\$a \\${a} \"\\$a\" '\\$a'"), "$a ${a} $a \\$a");
        assert_eq!(value("\"in\\\"ner\" \"C:\\dir\" four\\ words"), "in\"ner C:\\dir four words");
        assert_eq!(expand("C:\\d`$a", &SET, '`').unwrap().value, "C:\\d$a");
    }

    #[test]
    fn words_split_at_white_space_that_is_not_quoted() {
        let words = expand_to_words("$two \"$two\" ${no} a\\ b", &SET, '\\').unwrap();
        assert_eq!(words, ["x", "y", "x y", "a b"]);
    }

    #[test]
    fn a_heredocs_quotes_are_text() {
        let text = expand_heredoc("it's \"$a\" \\$literal ${no:-d}\\\\\n", &SET, '\\').unwrap();
        assert_eq!(text, "it's \"one\" $literal d\\\n");
    }

    #[test]
    fn names_that_are_not_set_are_reported_once_with_or_without_a_default() {
        let expanded = expand("$b ${c:-x} $b ${a}", &SET, '\\').unwrap();
        assert_eq!(expanded.unset, ["b", "c"]);
    }

    #[test]
    fn malformed_words_say_what_is_missing() {
        assert_eq!(error("${open"), "failed to process \"${open\": syntax error: missing '}'");
        assert_eq!(error("${a:-x"), "failed to process \"${a:-x\": syntax error: missing '}'");
        assert_eq!(error("${a/x}"), "failed to process \"${a/x}\": syntax error: missing '/' in ${}");
        assert_eq!(
            error("${a:=c}"),
            "failed to process \"${a:=c}\": unsupported modifier (:=) in substitution"
        );
        assert_eq!(error("${a^^}"), "failed to process \"${a^^}\": unsupported modifier (^) in substitution");
        assert_eq!(
            error("${a#x\\y}"),
            "failed to process \"${a#x\\\\y}\": invalid pattern (x\\y) in substitution"
        );
        assert_eq!(error("${}"), "failed to process \"${}\": syntax error: bad substitution");
        assert_eq!(
            error("\"open"),
            "failed to process \"\\\"open\": unexpected end of statement while looking for matching double-quote"
        );
        assert!(error("'open").ends_with("single-quote"));
    }

    #[test]
    fn depth_and_length_have_limits() {
        let deep = format!("{}{}", "${no:-".repeat(100_000), "}".repeat(100_000));
        assert!(matches!(expand(&deep, &SET, '\\'), Err(ExpandError::TooLarge { .. })));
        struct Big(String);
        impl Variables for Big {
            fn get(&self, _: &str) -> Option<&str> {
                Some(&self.0)
            }
        }
        let big = Big("x".repeat(1 << 20));
        assert!(matches!(expand(&"$x".repeat(17), &big, '\\'), Err(ExpandError::TooLarge { .. })));
    }

    proptest! {
        #[test]
        fn no_word_makes_it_panic(word in "[${}:?+/#%\\\\'\"`*a-c \n-]{0,40}", escape in "[\\\\`]") {
            let escape = escape.chars().next().unwrap();
            let _ = expand(&word, &SET, escape);
            let _ = expand_to_words(&word, &SET, escape);
            let _ = expand_heredoc(&word, &SET, escape);
        }

        #[test]
        fn a_word_without_special_characters_is_itself(word in "[a-zA-Z0-9_./:=@ +-]{0,40}") {
            prop_assert_eq!(expand(&word, &SET, '\\').unwrap().value, word);
        }
    }
}
