//! The commands in a RUN, as far as rules need to know them: no shell, only its words.

use crate::{Command, Dockerfile, Instruction, InstructionKind, MountKind, Run, Stage};

/// A simple command: its words without quotes, assignments before it left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Simple {
    pub(super) words: Vec<String>,
    /// Whether its output goes into the next command.
    pub(super) is_piped: bool,
}

impl Simple {
    /// The program's name, without its directory.
    pub(super) fn program(&self) -> &str {
        let word = self.words.first().map_or("", String::as_str);
        word.rsplit('/').next().unwrap_or(word)
    }

    /// Whether it runs one of `programs` with the subcommand `verb`; options may stand between.
    pub(super) fn is(&self, programs: &[&str], verb: &str) -> bool {
        programs.contains(&self.program()) && self.arguments().next().is_some_and(|word| word == verb)
    }

    /// Its words that are no options.
    pub(super) fn arguments(&self) -> impl Iterator<Item = &str> {
        self.words.iter().skip(1).map(String::as_str).filter(|word| !word.starts_with('-'))
    }

    pub(super) fn has(&self, word: &str) -> bool {
        self.words.iter().any(|own| own == word)
    }

    /// Whether it has the one-letter option, alone or among others (`-qy`).
    pub(super) fn has_letter(&self, letter: char) -> bool {
        let is_short = |word: &&String| word.starts_with('-') && !word.starts_with("--");
        self.words.iter().filter(is_short).any(|word| word.contains(letter))
    }
}

/// A RUN and what it runs.
pub(super) struct RunStep<'a> {
    pub(super) instruction: &'a Instruction,
    pub(super) run: &'a Run,
    pub(super) commands: Vec<Simple>,
}

impl RunStep<'_> {
    /// Whether a cache mount covers `path`, or lies below it.
    pub(super) fn caches(&self, path: &str) -> bool {
        self.run.mounts.iter().any(|mount| {
            let target = mount.target.as_deref().unwrap_or_default();
            let kept_out = matches!(mount.kind, MountKind::Cache { .. } | MountKind::Tmpfs { .. });
            kept_out && (target.starts_with(path) || path.starts_with(target))
        })
    }
}

/// The stages with their RUN instructions.
pub(super) fn runs(file: &Dockerfile) -> impl Iterator<Item = (&Stage, RunStep<'_>)> {
    file.stages
        .iter()
        .flat_map(|stage| stage.instructions.iter().filter_map(move |one| Some((stage, run_step(one)?))))
}

/// The instruction as a RUN, if it is one.
pub(super) fn run_step(instruction: &Instruction) -> Option<RunStep<'_>> {
    let InstructionKind::Run(run) = &instruction.kind else { return None };
    let commands = match &run.command {
        Command::Exec(words) => vec![Simple { words: words.clone(), is_piped: false }],
        Command::Shell(_) => commands(&run.shell_text().unwrap_or_default()),
    };
    Some(RunStep { instruction, run, commands })
}

/// Splits shell text at `&&`, `||`, `;`, `|`, `&`, line ends and brackets.
pub(super) fn commands(text: &str) -> Vec<Simple> {
    let mut splitter = Splitter::default();
    let mut chars = text.chars().peekable();
    let mut quote = None;
    while let Some(ch) = chars.next() {
        match (quote, ch) {
            (Some('\''), ch) if ch != '\'' => splitter.push(ch),
            (_, '\\') => match chars.next() {
                Some('\n') | None => {}
                Some(next) => splitter.push(next),
            },
            (Some(open), ch) if open == ch => quote = None,
            (Some(_), ch) => splitter.push(ch),
            (None, '\'' | '"') => {
                quote = Some(ch);
                splitter.in_word = true;
            }
            (None, '#') if !splitter.in_word => while chars.next_if(|&next| next != '\n').is_some() {},
            (None, '|') => {
                let is_or = chars.next_if_eq(&'|').is_some();
                splitter.end_command(!is_or);
            }
            (None, '&') if splitter.word.ends_with('>') => splitter.push(ch),
            (None, ';' | '\n' | '&' | '(' | ')') => splitter.end_command(false),
            (None, ch) if ch.is_whitespace() => splitter.end_word(),
            (None, ch) => splitter.push(ch),
        }
    }
    splitter.end_command(false);
    splitter.done
}

/// Words that stand before a command.
const BEFORE_A_COMMAND: [&str; 11] =
    ["if", "then", "else", "elif", "do", "while", "until", "!", "{", "exec", "time"];

#[derive(Default)]
struct Splitter {
    done: Vec<Simple>,
    current: Simple,
    word: String,
    in_word: bool,
}

impl Splitter {
    fn push(&mut self, ch: char) {
        self.word.push(ch);
        self.in_word = true;
    }

    fn end_word(&mut self) {
        if !std::mem::take(&mut self.in_word) {
            return;
        }
        let word = std::mem::take(&mut self.word);
        let is_first = self.current.words.is_empty();
        if !(is_first && (is_assignment(&word) || BEFORE_A_COMMAND.contains(&word.as_str()))) {
            self.current.words.push(word);
        }
    }

    fn end_command(&mut self, is_piped: bool) {
        self.end_word();
        let command = Simple { is_piped, ..std::mem::take(&mut self.current) };
        if !command.words.is_empty() {
            self.done.push(command);
        }
    }
}

/// `NAME=value`.
pub(super) fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        !name.is_empty()
            && !name.starts_with(|ch: char| ch.is_ascii_digit())
            && name.chars().all(|ch| ch.is_ascii_alphanumeric() || ch == '_')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        commands(text)
            .iter()
            .map(|one| format!("{}{}", one.words.join("·"), if one.is_piped { " |" } else { "" }))
            .collect()
    }

    #[test]
    fn a_line_falls_apart_into_commands() {
        assert_eq!(
            words("set -e; A=1 B=2 make all && x 'a b' \"c && d\" || y"),
            ["set·-e", "make·all", "x·a b·c && d", "y"]
        );
        assert_eq!(
            words("curl x 2>&1 | tar -x &\nif a; then b; fi # c; d"),
            ["curl·x·2>&1 |", "tar·-x", "a", "b", "fi"]
        );
        assert_eq!(words("(cd /x && y)\\\n z\\ w ''"), ["cd·/x", "y", "z w·"]);
        assert!(words("  ; # nothing").is_empty());
    }

    #[test]
    fn options_may_stand_before_the_subcommand() {
        let command = &commands("/usr/bin/apt-get -qy install --no-install-recommends x")[0];
        assert!(command.is(&["apt-get"], "install"));
        assert!(command.has_letter('y'));
        assert!(!command.has_letter('r'));
    }
}
