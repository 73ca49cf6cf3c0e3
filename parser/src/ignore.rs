//! `.dockerignore` files (FEATURES CX12–CX18; moby/patternmatcher's rules): Go patterns with `**`, `!` exceptions,
//! the last match wins, a match of a directory covers everything below it.

/// The compiled rules of one ignore file, or of `--exclude` flags.
#[derive(Clone, Debug, Default)]
pub struct IgnoreRules {
    // Filled by the implementation.
    _rules: Vec<String>,
}

/// A line of an ignore file that is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}: `{line}`")]
pub struct BadRule {
    /// Line number from 1.
    pub number: u32,
    /// The line.
    pub line: String,
    /// What is wrong.
    pub message: String,
}

/// What to do with a path of the context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Part of the context.
    Keep,
    /// Not part of it, but an exception may match something below: a directory must be descended into.
    Skip,
    /// Not part of it, nor is anything below.
    Prune,
}

impl IgnoreRules {
    /// Parses a `.dockerignore` file.
    ///
    /// # Errors
    /// The first bad line.
    pub fn parse(text: &[u8]) -> Result<Self, BadRule> {
        let _ = text;
        todo!()
    }

    /// Compiles bare patterns (`--exclude`).
    ///
    /// # Errors
    /// The first bad pattern.
    pub fn from_patterns<S: AsRef<str>>(patterns: &[S]) -> Result<Self, BadRule> {
        let _ = patterns.len();
        todo!()
    }

    /// Judges `path` (slash-separated, relative, clean).
    pub fn verdict(&self, path: &str) -> Verdict {
        let _ = path;
        todo!()
    }

    /// Whether there are no rules at all.
    pub fn is_empty(&self) -> bool {
        self._rules.is_empty()
    }
}
