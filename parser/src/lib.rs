//! Dockerfile text to typed instructions with source spans.
//!
//! Here: the lexer (directives, continuations, heredocs), one parser a family of instructions, word expansion
//! (`${VAR}`), the patterns of `.dockerignore` and `COPY`, and what can be said about mistakes.
//! Not here: any I/O or clock; what a build does with an instruction (`kiln-solver`).
//!
//! The text is read in two steps, each in one pass: the lexer joins physical lines into logical ones that remember where
//! each of their bytes came from, and `instruction` reads a logical line by its keyword. A word is not expanded here: what
//! it means depends on the build's arguments, and the planner asks for it.
//!
//! Start at [`parse`]; [`Dockerfile`] is what it returns and [`expand::expand`] is how a word gets its value.
#![forbid(unsafe_code)]

mod ast;
mod boolean;
mod checks;
mod dockerfile;
mod error;
pub mod expand;
mod flags;
mod glob;
mod heredoc;
pub mod ignore;
mod instruction;
mod lexer;
pub mod lint;
pub mod pattern;
mod span;
mod suggest;
mod syntax;
mod words;

pub use ast::*;
pub use boolean::boolean;
pub use checks::{BadCheck, Checks, UnknownRule};
pub use error::{DeviceProblem, MountProblem, ParseError, ParseErrors, Warning};
pub use span::{Span, Spanned};
pub use syntax::syntax;

/// Parses a whole Dockerfile.
///
/// Goes on after a mistake where it can, so that several are reported at once; gives up after twenty. Takes time in
/// proportion to the text.
///
/// ```
/// let text = "FROM debian:stable AS build\nCOPY --chown=1000 src \\\n  /src/\n";
/// let file = kiln_parser::parse(text.as_bytes())?;
/// let kiln_parser::InstructionKind::Copy(copy) = &file.stages[0].instructions[0].kind else { unreachable!() };
/// assert_eq!(copy.dest.value, "/src/");
/// assert_eq!(copy.dest.span.line, 3);
/// # Ok::<(), kiln_parser::ParseErrors>(())
/// ```
///
/// # Errors
/// Every mistake found, in the order of the file; never empty.
pub fn parse(text: &[u8]) -> Result<Dockerfile, ParseErrors> {
    match dockerfile::parse_partly(text) {
        (file, None) => Ok(file),
        (_, Some(errors)) => Err(errors),
    }
}

/// Parses as [`parse`], and hands out what could be read although there are mistakes, with what was noticed before the
/// first of them: a report tells both. The file may then have no stages.
pub fn parse_partly(text: &[u8]) -> (Dockerfile, Option<ParseErrors>) {
    dockerfile::parse_partly(text)
}

/// Parses the text of an `ONBUILD` trigger (or any single instruction) as the instruction it stands for.
///
/// # Errors
/// As [`parse`]; `FROM`, `ONBUILD` and `MAINTAINER` are refused (Dockerfile reference, ONBUILD).
pub fn parse_trigger(text: &str) -> Result<Instruction, ParseErrors> {
    dockerfile::parse_trigger(text)
}
