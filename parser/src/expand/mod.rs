//! Word expansion: `$name`, `${name}` and its forms (Dockerfile reference, "Environment replacement"; FEATURES VX).
//!
//! A word is read once from left to right. Quotes and escapes are removed on the way, what a variable's value holds is
//! not looked at again: a quote inside a value is a character like any other.

mod letters;
mod reader;
#[cfg(test)]
mod tests;

use reader::Reader;

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
        Reader::new(self, word, variables).read()
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
