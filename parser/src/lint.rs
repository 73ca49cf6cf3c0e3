//! BuildKit's lint rules that need nothing but the text.
//!
//! Here are the rules about form. Those that need variables' values, the context or a base image's config are the
//! planner's; a WORKDIR with a variable at its start and the SHELL of a base image are taken to be in order here.
//! Triggers of ONBUILD are not judged: they are another build's text.

use std::collections::HashMap;

use crate::instruction::{From, Request};
use crate::lexer::Logical;
use crate::{Command, InstructionKind, Span, Stage, Warning, instruction, words};

/// Collects the findings while the file is read.
#[derive(Debug, Default)]
pub(crate) struct Linter {
    warnings: Vec<Warning>,
    keywords: Vec<(String, Span)>,
    names: HashMap<String, StageState>,
    current: StageState,
    current_name: Option<String>,
}

/// What later instructions of a stage, and stages based on it, need to know.
#[derive(Clone, Debug, Default)]
struct StageState {
    has_shell: bool,
    has_workdir: bool,
    cmd: Option<Span>,
    entrypoint: Option<Span>,
    healthcheck: Option<Span>,
}

impl Linter {
    /// Looks at any instruction's line.
    pub(crate) fn line(&mut self, line: &Logical, request: &Request<'_>) {
        let word = request.whole.split_word().0;
        self.keywords.push((word.as_str().to_owned(), line.span));
        if line.has_empty_continuation {
            let last = request.whole.span();
            let end = Span { start: last.end, line: last.end_line, ..last };
            self.warn("NoEmptyContinuation", "Empty continuation line".to_owned(), end);
        }
        if matches!(request.keyword, "ENV" | "LABEL")
            && words::split(&request.args, request.escape).first().is_some_and(instruction::is_legacy_pair)
        {
            let keyword = request.keyword;
            let message = format!(
                "\"{keyword} key=value\" should be used instead of legacy \"{keyword} key value\" format"
            );
            self.warn("LegacyKeyValueFormat", message, line.span);
        }
    }

    /// Looks at a FROM and begins its stage; `above` are the stages before it.
    pub(crate) fn from(&mut self, from: &From, line: &Logical, above: &[Stage]) {
        let span = line.span;
        if let Some(name) = self.current_name.take() {
            self.names.insert(name, std::mem::take(&mut self.current));
        }
        let base = self.names.get(&from.base.value.to_lowercase());
        self.current = StageState {
            has_shell: base.is_some_and(|base| base.has_shell),
            has_workdir: base.is_some_and(|base| base.has_workdir),
            ..StageState::default()
        };
        let text = line.text();
        let keyword = text.split_word().0.as_str();
        if let Some(written) = &from.written_as
            && (*written == written.to_lowercase()) != (keyword == keyword.to_lowercase())
        {
            self.warn(
                "FromAsCasing",
                format!("'{written}' and '{keyword}' keywords' casing do not match"),
                span,
            );
        }
        let (Some(name), Some(written)) = (&from.name, &from.written_name) else { return };
        self.current_name = Some(name.value.clone());
        if *written != name.value {
            self.warn("StageNameCasing", format!("Stage name '{written}' should be lowercase"), span);
        }
        if matches!(name.value.as_str(), "scratch" | "context") {
            let message =
                format!("Stage name should not use the same name as reserved stage \"{}\"", name.value);
            self.warn("ReservedStageName", message, span);
        }
        // The last stage of the name above is the one in `names`, or the one just closed.
        if !above.is_empty() && self.names.contains_key(&name.value) {
            let message = format!("Duplicate stage name \"{}\", stage names should be unique", name.value);
            self.warn("DuplicateStageName", message, span);
        }
    }

    /// Looks at an instruction of the current stage.
    pub(crate) fn instruction(&mut self, kind: &InstructionKind, span: Span) {
        match kind {
            InstructionKind::Maintainer(_) => {
                let message = "Maintainer instruction is deprecated in favor of using label";
                self.warn("MaintainerDeprecated", message.to_owned(), span);
            }
            InstructionKind::Shell(_) => self.current.has_shell = true,
            InstructionKind::Cmd(command) => {
                let before = self.current.cmd.replace(span);
                self.once("CMD", before);
                self.json("CMD", command, span);
            }
            InstructionKind::Entrypoint(command) => {
                let before = self.current.entrypoint.replace(span);
                self.once("ENTRYPOINT", before);
                self.json("ENTRYPOINT", command, span);
            }
            InstructionKind::Healthcheck(_) => {
                let before = self.current.healthcheck.replace(span);
                self.once("HEALTHCHECK", before);
            }
            InstructionKind::Workdir(path) => {
                let path = path.value.trim_start_matches(['"', '\'']);
                if !self.current.has_workdir && !path.starts_with(['/', '$', '\\']) {
                    let path = path.trim_end_matches(['"', '\'']);
                    let message = format!(
                        "Relative workdir \"{path}\" can have unexpected results if the base image changes"
                    );
                    self.warn("WorkdirRelativePath", message, span);
                }
                self.current.has_workdir = true;
            }
            _ => {}
        }
    }

    /// Returns the findings in the order of the file.
    pub(crate) fn finish(mut self) -> Vec<Warning> {
        self.casing();
        self.warnings.sort_by_key(|warning| (warning.span.line, warning.rule));
        self.warnings
    }

    fn casing(&mut self) {
        let is_lower = |word: &str| !word.contains(|ch: char| ch.is_ascii_uppercase());
        let is_upper = |word: &str| !word.contains(|ch: char| ch.is_ascii_lowercase());
        let lower = self.keywords.iter().filter(|(word, _)| is_lower(word)).count();
        let upper = self.keywords.iter().filter(|(word, _)| is_upper(word)).count();
        let (majority, fits): (_, fn(&str) -> bool) =
            if lower > upper { ("lowercase", is_lower) } else { ("uppercase", is_upper) };
        for (word, span) in std::mem::take(&mut self.keywords) {
            if !fits(&word) {
                let message =
                    format!("Command '{word}' should match the case of the command majority ({majority})");
                self.warn("ConsistentInstructionCasing", message, span);
            }
        }
    }

    fn once(&mut self, keyword: &str, before: Option<Span>) {
        let Some(before) = before else { return };
        let message = format!(
            "Multiple {keyword} instructions should not be used in the same stage because only the last one will be used"
        );
        self.warn("MultipleInstructionsDisallowed", message, before);
    }

    fn json(&mut self, keyword: &str, command: &Command, span: Span) {
        if matches!(command, Command::Shell(_)) && !self.current.has_shell {
            let message = format!(
                "JSON arguments recommended for {keyword} to prevent unintended behavior related to OS signals"
            );
            self.warn("JSONArgsRecommended", message, span);
        }
    }

    fn warn(&mut self, rule: &'static str, message: String, span: Span) {
        self.warnings.push(Warning { rule, message, span });
    }
}
