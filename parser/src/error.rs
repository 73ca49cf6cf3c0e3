//! What can be wrong with a Dockerfile, as data.

use crate::Span;

/// A mistake in the text. Variants are named by what is wrong for the author of the Dockerfile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// The first word of a line is no instruction.
    #[error("unknown instruction: {word}")]
    UnknownInstruction {
        /// The word as written.
        word: String,
        /// Where it stands.
        span: Span,
        /// The instruction with the nearest name, if one is near.
        closest: Option<&'static str>,
    },
}

impl ParseError {
    /// Where in the Dockerfile the cause stands.
    pub fn span(&self) -> Span {
        match self {
            Self::UnknownInstruction { span, .. } => *span,
        }
    }

    /// What the author can do, in one sentence.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownInstruction { closest, .. } => closest.map(|word| format!("did you mean `{word}`?")),
        }
    }
}

/// All the mistakes of one text, in its order; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.first().map(ToString::to_string).unwrap_or_default())]
pub struct ParseErrors(pub Vec<ParseError>);

/// Something that works but should not be written so (BuildKit's lint rules by name).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Rule name in Pascal case, as BuildKit has it, such as `NoEmptyContinuation`.
    pub rule: &'static str,
    /// What is wrong here.
    pub message: String,
    /// Where.
    pub span: Span,
}
