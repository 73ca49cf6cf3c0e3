//! Word expansion: `$name`, `${name}` and its forms (Dockerfile reference, "Environment replacement"; FEATURES VX).

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
}

/// An expanded word, with the names it asked for that were not set (for the UndefinedVar warning).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expanded {
    /// The word's value, quotes removed.
    pub value: String,
    /// Names that were looked up, without a default, and not found.
    pub unset: Vec<String>,
}

/// Expands one word: variables replaced, quotes and escapes removed. `escape` is the file's escape character.
///
/// # Errors
/// See [`ExpandError`].
pub fn expand(word: &str, variables: &dyn Variables, escape: char) -> Result<Expanded, ExpandError> {
    let _ = (word, variables, escape);
    todo!()
}

/// Expands `text` and splits it into words at unquoted white space (EXPOSE).
///
/// # Errors
/// See [`ExpandError`].
pub fn expand_to_words(
    text: &str,
    variables: &dyn Variables,
    escape: char,
) -> Result<Vec<String>, ExpandError> {
    let _ = (text, variables, escape);
    todo!()
}

/// Expands the variables in the body of an unquoted COPY/ADD heredoc; quotes stay (FEATURES LX33).
///
/// # Errors
/// See [`ExpandError`].
pub fn expand_heredoc(body: &str, variables: &dyn Variables, escape: char) -> Result<String, ExpandError> {
    let _ = (body, variables, escape);
    todo!()
}
