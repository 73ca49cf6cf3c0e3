//! What each instruction does to its stage; a file for each family.

mod arg;
mod copy;
mod env;
mod metadata;
mod mounts;
mod ports;
pub(super) mod remote;
mod run;
mod signal;
mod workdir;

use kiln_parser::{Instruction, InstructionKind, Span, Spanned};

pub(super) use mounts::named_secrets;

use super::PlanError;
use super::expansion::{expand, with_recorder};
use super::names::Author;
use super::near::nearest;
use super::planner::Planner;
use super::state::StageState;
use crate::graph::CacheUse;

/// Takes one instruction.
pub(super) fn dispatch(
    planner: &mut Planner<'_>,
    state: &mut StageState,
    instruction: &Instruction,
    author: Author,
) -> Result<(), PlanError> {
    let step = &mut Step { planner, state, instruction, author };
    match &instruction.kind {
        InstructionKind::Add(add) => copy::add(step, add),
        InstructionKind::Arg(pairs) => arg::arg(step, pairs),
        InstructionKind::Cmd(command) => metadata::cmd(step, command),
        InstructionKind::Copy(copy) => copy::copy(step, copy),
        InstructionKind::Entrypoint(command) => metadata::entrypoint(step, command),
        InstructionKind::Env(pairs) => env::env(step, pairs),
        InstructionKind::Expose(ports) => ports::expose(step, ports),
        InstructionKind::Healthcheck(check) => metadata::healthcheck(step, check),
        InstructionKind::Label(pairs) => env::label(step, pairs),
        InstructionKind::Maintainer(name) => metadata::maintainer(step, name),
        InstructionKind::Onbuild(onbuild) => metadata::onbuild(step, onbuild),
        InstructionKind::Run(run) => run::run(step, run),
        InstructionKind::Shell(shell) => metadata::shell(step, shell),
        InstructionKind::Stopsignal(signal) => signal::stopsignal(step, signal),
        InstructionKind::User(user) => metadata::user(step, user),
        InstructionKind::Volume(volumes) => metadata::volume(step, volumes),
        InstructionKind::Workdir(path) => workdir::workdir(step, path),
    }
}

/// An instruction at its turn.
struct Step<'s, 'a> {
    planner: &'s mut Planner<'a>,
    state: &'s mut StageState,
    instruction: &'s Instruction,
    author: Author,
}

impl Step<'_, '_> {
    /// Where the instruction stands.
    fn span(&self) -> Span {
        self.instruction.span
    }

    /// The keyword with its letter case, as BuildKit's findings have it.
    fn keyword(&self) -> &str {
        self.instruction.original.split_ascii_whitespace().next().unwrap_or_default()
    }

    /// Whether a record may be the instruction's result.
    fn cache_use(&self) -> Result<CacheUse, PlanError> {
        self.state.cache.of(self.instruction)
    }

    /// The nearer place `part` if it is on the instruction's first line: reports name that line, as BuildKit's do.
    fn place(&self, part: Span) -> Span {
        let whole = self.span();
        let inside = part.line == whole.line && part.start >= whole.start && part.end <= whole.end;
        // A trigger's parts have places in its own text.
        if inside && self.author == Author::Dockerfile { part } else { whole }
    }

    /// Expands a word with the variables in effect; tells of those that are not set.
    fn expand(&mut self, word: &Spanned<String>) -> Result<String, PlanError> {
        self.expand_text(&word.value, self.place(word.span))
    }

    fn expand_text(&mut self, word: &str, span: Span) -> Result<String, PlanError> {
        let escape = self.escape();
        let expansion = expand(word, &self.state.environment, escape, span)?;
        self.warn_undefined(&expansion.missing);
        Ok(expansion.value)
    }

    /// Expands what is given, if it is.
    fn expand_option(&mut self, word: Option<&Spanned<String>>) -> Result<Option<String>, PlanError> {
        word.map(|word| self.expand(word)).transpose()
    }

    /// Expands a word that may become several (EXPOSE).
    fn expand_to_words(&mut self, word: &Spanned<String>) -> Result<Vec<String>, PlanError> {
        let escape = self.escape();
        let (words, _, _) =
            with_recorder(&word.value, &self.state.environment, self.place(word.span), |variables| {
                kiln_parser::expand::expand_to_words(&word.value, variables, escape)
            })?;
        Ok(words)
    }

    /// Expands the body of a heredoc; quotes stay.
    fn expand_body(&mut self, body: &str) -> Result<String, PlanError> {
        let (value, _, missing) = with_recorder(body, &self.state.environment, self.span(), |variables| {
            // Whatever `# escape=` says (FEATURES LX33).
            kiln_parser::expand::expand_heredoc(body, variables, '\\')
        })?;
        self.warn_undefined(&missing);
        Ok(value)
    }

    /// The escape character: a base image's trigger was written in another file and has the default one.
    fn escape(&self) -> char {
        match self.author {
            Author::BaseImage => '\\',
            _ => self.planner.dockerfile.directives.escape,
        }
    }

    fn warn_undefined(&mut self, missing: &[String]) {
        for name in missing {
            let declared = self.state.args.contains(name);
            if !declared && !super::arguments::NEVER_IN_ENVIRONMENT.contains(&name.as_str()) {
                let closest = nearest(name, self.state.environment.names());
                self.planner.warnings.undefined_var(name, closest, self.instruction.span);
            }
        }
    }
}
