//! Go's `filepath.Match`, as COPY and ADD sources use it, over bytes of slash-separated paths.

/// A compiled pattern of one path, matched component by component.
#[derive(Clone, Debug)]
pub struct Pattern {
    source: String,
}

/// The pattern cannot be parsed (`filepath.ErrBadPattern`).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pattern `{0}`")]
pub struct BadPattern(pub String);

impl Pattern {
    /// Compiles `source`.
    ///
    /// # Errors
    /// [`BadPattern`] as Go reports it.
    pub fn new(source: &str) -> Result<Self, BadPattern> {
        Ok(Self { source: source.into() })
    }

    /// Whether the whole of `name` (which may hold several components) matches.
    pub fn matches(&self, name: &str) -> bool {
        let _ = (&self.source, name);
        todo!()
    }

    /// Whether `text` has any of the characters that make it a pattern (`*?[`).
    pub fn is_wildcard(text: &str) -> bool {
        text.contains(['*', '?', '['])
    }
}
