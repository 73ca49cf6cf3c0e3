//! Why something failed, drawn for the reader, and the status the program ends with.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};

use kiln::{DockerfileName, ErrorKind, Finding, Span};

use crate::cancel::INTERRUPTED;
use crate::printable::{log_line, printable};

/// A failed command.
#[derive(Debug)]
pub(crate) struct Failure {
    cause: Cause,
    /// Name of the step whose failure is shown, as progress showed it.
    step: Option<String>,
    status: Option<u8>,
}

#[derive(Debug)]
enum Cause {
    /// Found out by the command line itself.
    Own { message: String, hint: Option<String> },
    /// Said by the engine.
    Engine(Box<kiln::Error>),
}

impl Failure {
    /// The words of the command line are wrong.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { cause: Cause::Own { message: message.into(), hint: None }, step: None, status: None }
    }

    /// A file could not be read or written.
    pub(crate) fn file(path: &std::path::Path, error: &std::io::Error) -> Self {
        Self::usage(format!("{}: {error}", path.display()))
    }

    /// Adds what the user can do.
    pub(crate) fn with_hint(mut self, text: impl Into<String>) -> Self {
        if let Cause::Own { hint, .. } = &mut self.cause {
            *hint = Some(text.into());
        }
        self
    }

    /// Sets the exit status.
    pub(crate) fn with_status(mut self, status: u8) -> Self {
        self.status = Some(status);
        self
    }

    /// Sets the exit status where none is set yet, also of a command that was interrupted.
    pub(crate) fn with_default_status(mut self, status: u8) -> Self {
        // Exit statuses of a command that could not be run are the engine's to tell apart.
        if let Cause::Engine(error) = &self.cause
            && self.status.is_none()
        {
            self.status = exec_status(error);
        }
        self.status.get_or_insert(status);
        self
    }

    /// Adds the name of the step that failed.
    pub(crate) fn with_step(mut self, step: Option<String>) -> Self {
        self.step = step;
        self
    }

    /// The exit status: 130 when the user stopped it, else 1 unless the command has statuses of its own.
    pub(crate) fn status(&self) -> u8 {
        match &self.cause {
            Cause::Engine(error) if error.kind == ErrorKind::Canceled => INTERRUPTED,
            _ => self.status.unwrap_or(1),
        }
    }
}

/// Docker's statuses for a command that is not there (127) or cannot be executed (126).
fn exec_status(error: &kiln::Error) -> Option<u8> {
    match kiln::run::command_failure(error)? {
        kiln::run::CommandFailure::NotFound => Some(127),
        kiln::run::CommandFailure::NotExecutable => Some(126),
    }
}

impl From<kiln::Error> for Failure {
    fn from(error: kiln::Error) -> Self {
        Self { cause: Cause::Engine(Box::new(error)), step: None, status: None }
    }
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Self::usage(message)
    }
}

/// Writes the report to standard error.
pub(crate) fn show(failure: &Failure, paint: Paint) {
    // Nobody is left to be told when standard error is gone.
    let _ = std::io::stderr().write_all(draw(failure, paint).as_bytes());
}

/// Writes a warning and what can be done to standard error.
pub(crate) fn warn(message: &str, hint: &str) {
    let paint = Paint::for_stderr();
    let mut text = headline("warning", message, paint);
    push_hint(&mut text, Some(hint), paint);
    // Nobody is left to be told when standard error is gone.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// The report's text.
pub(crate) fn draw(failure: &Failure, paint: Paint) -> String {
    match &failure.cause {
        Cause::Own { message, hint } => {
            let mut text = headline("error", message, paint);
            push_hint(&mut text, hint.as_deref(), paint);
            text
        }
        Cause::Engine(error) => draw_engine(error, failure.step.as_deref(), paint),
    }
}

/// What a lint rule found, with its line.
pub(crate) fn draw_finding(finding: &Finding, name: &DockerfileName, source: &str, paint: Paint) -> String {
    let word = paint.warning("warning");
    let mut text = format!("{word}: {}: {}\n", finding.rule.name, printable(&finding.message));
    let marked = marked(source, finding.span, None, finding.word.as_deref());
    excerpt(&mut text, name, source, finding.span, marked, None, paint);
    if let Some(url) = finding.rule.url() {
        let _ = writeln!(text, "{}: {url}", paint.dim("see"));
    }
    text
}

fn draw_engine(error: &kiln::Error, step: Option<&str>, paint: Paint) -> String {
    let mut text = log_tail(&error.log_tail, step);
    text += &headline("error", &error.message, paint);
    for (index, label) in error.labels.iter().enumerate() {
        let repeats = error.message.contains(&label.message);
        if index > 0 {
            text.push('\n');
            text += &headline("also", &label.message, paint);
        }
        if let Some((name, source)) = &error.dockerfile {
            let note = (index == 0 && !repeats).then_some(label.message.as_str());
            let marked = marked(source, label.span, label.part, label.word.as_deref());
            excerpt(&mut text, name, source, label.span, marked, note, paint);
        }
        let repeated_hint = label.hint == error.hint;
        push_hint(&mut text, label.hint.as_deref().filter(|_| !repeated_hint), paint);
    }
    // A cause that the message already quotes says nothing new.
    let mut said = error.message.clone();
    let mut cause = std::error::Error::source(error);
    for _ in 0..MOST_CAUSES {
        let Some(next) = cause else { break };
        let words = next.to_string();
        if !said.contains(&words) {
            let _ = writeln!(text, "{}: {}", paint.dim("cause"), printable(&words));
            said = words;
        }
        cause = next.source();
    }
    push_hint(&mut text, error.hint.as_deref(), paint);
    text
}

/// `error: message`; further lines of the message are kept as lines.
fn headline(word: &str, message: &str, paint: Paint) -> String {
    let lines: Vec<_> = message.lines().map(printable).collect();
    format!("{}: {}\n", paint.error(word), lines.join("\n"))
}

fn push_hint(text: &mut String, hint: Option<&str>, paint: Paint) {
    if let Some(hint) = hint {
        let _ = writeln!(text, "{}: {}", paint.hint("hint"), printable(hint));
    }
}

/// The end of what the failed step printed, as BuildKit frames it. No line begins with the step's own words: a CI that
/// shows them would obey some (`::set-env`).
fn log_tail(bytes: &[u8], step: Option<&str>) -> String {
    if bytes.is_empty() {
        return String::new();
    }
    let lines: Vec<&[u8]> = bytes.strip_suffix(b"\n").unwrap_or(bytes).split(|&byte| byte == b'\n').collect();
    let skipped = lines.len().saturating_sub(MOST_TAIL_LINES);
    let mut text = "------\n".to_owned();
    if let Some(step) = step {
        let _ = writeln!(text, " > {}:", printable(step));
    }
    for line in &lines[skipped..] {
        let _ = writeln!(text, "| {}", log_line(line));
    }
    text + "------\n"
}

/// What is underlined of `span`: the part that is meant, or the word, or all of its first line.
fn marked(source: &str, span: Span, part: Option<Span>, word: Option<&str>) -> Span {
    match (part, word) {
        (Some(part), _) => part,
        (None, Some(word)) => {
            let (start, end) = (floor(source, span.start), floor(source, span.end));
            Span { start, end: end.max(start), ..span }.narrowed(source, word)
        }
        (None, None) => span,
    }
}

/// The lines of the Dockerfile that `span` covers, with `marked` underlined in them.
fn excerpt(
    text: &mut String,
    name: &DockerfileName,
    source: &str,
    span: Span,
    marked: Span,
    note: Option<&str>,
    paint: Paint,
) {
    let start = floor(source, span.start);
    let line_start = source[..start].rfind('\n').map_or(0, |end| end + 1);
    let last = span.end_line.max(span.line);
    let shown = last.min(span.line.saturating_add(MOST_SOURCE_LINES - 1));
    let marked = if (span.line..=shown).contains(&marked.line) { marked } else { span };
    let marked_start = floor(source, marked.start);
    let marked_line = source[..marked_start].rfind('\n').map_or(0, |end| end + 1);
    // Whoever looks a place up by its line means the instruction's first.
    let column_start = if marked.line == span.line { marked_start } else { start };
    let column = source[line_start..column_start].chars().count() + 1;
    let (_, name, line) = name.place(span.line);
    // Of several files that are read as one, each counts its own lines.
    let before = span.line - line;
    let gutter = (shown - before).to_string().len();
    let margin = " ".repeat(gutter);
    let _ = writeln!(text, "{margin}{} {}:{line}:{column}", paint.place("-->"), printable(name));
    for (number, line) in (span.line..=shown).zip(source[line_start..].lines()) {
        let _ = writeln!(
            text,
            "{} {}",
            paint.place(&format!("{:>gutter$} |", number - before)),
            cut(&printable(&line.replace('\t', " ")))
        );
        if number == marked.line {
            let end = floor(source, marked.end).max(marked_start);
            let rest = source[marked_start..end].lines().next().unwrap_or_default();
            // What stands before the caret is as wide as it was printed.
            let before = printable(&source[marked_line..marked_start].replace('\t', " ")).chars().count();
            let before = before.min(MOST_SOURCE_CHARS);
            let carets = printable(rest.trim_end()).chars().count();
            let carets = carets.min(MOST_SOURCE_CHARS - before).max(1);
            let note = note.map(|note| format!(" {}", printable(note))).unwrap_or_default();
            let _ = writeln!(
                text,
                "{} {}{}",
                paint.place(&format!("{margin} |")),
                " ".repeat(before),
                paint.error(&format!("{}{note}", "^".repeat(carets)))
            );
        }
    }
    if shown < last {
        let _ = writeln!(text, "{}", paint.place(&format!("{margin} …")));
    }
}

/// A line that fits on a few lines of a screen.
fn cut(line: &str) -> String {
    match line.char_indices().nth(MOST_SOURCE_CHARS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

/// The nearest character boundary at or below `offset`: spans come from elsewhere.
fn floor(text: &str, offset: usize) -> usize {
    (0..=offset.min(text.len())).rev().find(|&index| text.is_char_boundary(index)).unwrap_or(0)
}

const MOST_CAUSES: usize = 8;
const MOST_TAIL_LINES: usize = 40;
const MOST_SOURCE_LINES: u32 = 10;
const MOST_SOURCE_CHARS: usize = 500;

/// Colours, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Paint {
    /// Plain text.
    Plain,
    /// SGR sequences.
    Colour,
}

impl Paint {
    /// Colours when standard error is a terminal and `NO_COLOR` is unset or empty.
    pub(crate) fn for_stderr() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if std::io::stderr().is_terminal() && !refused { Self::Colour } else { Self::Plain }
    }

    /// Likewise for standard output.
    pub(crate) fn for_stdout() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if std::io::stdout().is_terminal() && !refused { Self::Colour } else { Self::Plain }
    }

    /// `text` in the SGR parameters `code`.
    pub(crate) fn sgr(self, code: &str, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Colour => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }

    fn error(self, text: &str) -> String {
        self.sgr("1;31", text)
    }
    fn warning(self, text: &str) -> String {
        self.sgr("1;33", text)
    }
    fn place(self, text: &str) -> String {
        self.sgr("34", text)
    }
    fn hint(self, text: &str) -> String {
        self.sgr("1;36", text)
    }
    fn dim(self, text: &str) -> String {
        self.sgr("2", text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln::{Error, ErrorLabel};

    fn span(text: &str, part: &str) -> Span {
        let start = text.find(part).unwrap();
        let line = |offset: usize| text[..offset].matches('\n').count() as u32 + 1;
        Span { start, end: start + part.len(), line: line(start), end_line: line(start + part.len()) }
    }

    fn error(message: &str) -> Error {
        Error {
            kind: ErrorKind::User,
            message: message.into(),
            hint: None,
            dockerfile: None,
            labels: Vec::new(),
            log_tail: Vec::new(),
            source: None,
        }
    }

    fn at(text: &str, part: &str, message: &str, hint: Option<&str>) -> Error {
        let label = ErrorLabel {
            span: span(text, part),
            part: None,
            word: None,
            message: message.into(),
            hint: hint.map(Into::into),
        };
        Error {
            dockerfile: Some(("Dockerfile.dev".into(), text.into())),
            labels: vec![label],
            ..error(message)
        }
    }

    #[test]
    fn a_mistake_is_shown_with_its_line_a_caret_and_a_hint() {
        let text = format!("{}COPY --chwon=1000 . /app\n", "FROM a\n".repeat(11));
        let error = at(&text, "--chwon", "COPY has no flag `--chwon`", Some("did you mean `--chown`?"));
        insta::assert_snapshot!(draw(&error.into(), Paint::Plain), @r"
        error: COPY has no flag `--chwon`
          --> Dockerfile.dev:12:6
        12 | COPY --chwon=1000 . /app
           |      ^^^^^^^
        hint: did you mean `--chown`?
        ");
    }

    #[test]
    fn a_failed_step_shows_the_end_of_its_log() {
        let text = "FROM a\nRUN make \\\n  all\n";
        let mut error = at(text, "RUN make \\\n  all", "exit code: 2", None);
        error.kind = ErrorKind::Step;
        error.log_tail = b"cc x.c\n\x1b[31mx.c:1: no\x1b[0m\n".to_vec();
        let failure = Failure::from(error).with_step(Some("[2/2] RUN make all".into()));
        assert_eq!(failure.status(), 1);
        insta::assert_snapshot!(draw(&failure, Paint::Plain), @r"
        ------
         > [2/2] RUN make all:
        | cc x.c
        | x.c:1: no
        ------
        error: exit code: 2
         --> Dockerfile.dev:2:1
        2 | RUN make \
          | ^^^^^^^^^^
        3 |   all
        ");
    }

    #[test]
    fn several_mistakes_are_one_report() {
        let text = "FRO a\nCOPPY b c\n";
        let mut error = at(text, "FRO", "unknown instruction: FRO", Some("did you mean `FROM`?"));
        error.labels.push(ErrorLabel {
            word: None,
            part: None,
            span: span(text, "COPPY"),
            message: "unknown instruction: COPPY".into(),
            hint: Some("did you mean `COPY`?".into()),
        });
        insta::assert_snapshot!(draw(&error.into(), Paint::Plain), @r"
        error: unknown instruction: FRO
         --> Dockerfile.dev:1:1
        1 | FRO a
          | ^^^
        hint: did you mean `FROM`?

        also: unknown instruction: COPPY
         --> Dockerfile.dev:2:1
        2 | COPPY b c
          | ^^^^^
        hint: did you mean `COPY`?
        ");
    }

    #[test]
    fn hostile_words_of_a_registry_are_escaped_and_causes_named_once() {
        let mut error = error("registry said: \x1b]0;x\x07");
        error.source = Some("registry said: \x1b]0;x\x07".into());
        error.hint = Some("ask its keeper".into());
        insta::assert_snapshot!(draw(&error.into(), Paint::Plain), @r"
        error: registry said: \u{1b}]0;x\u{7}
        hint: ask its keeper
        ");
    }

    #[test]
    fn of_a_line_as_long_as_a_file_the_beginning_is_shown() {
        let text = format!("FROM a\nWORKDIR /{}\n", "a/".repeat(100_000));
        let shown = draw(&at(&text, text.lines().nth(1).unwrap(), "too long", None).into(), Paint::Plain);
        assert!(shown.len() < 1200, "{} bytes", shown.len());
        assert!(shown.contains("a/a…\n") && shown.contains(&"^".repeat(500)), "{shown}");
        let end = format!("RUN {} here\n", "x".repeat(100_000));
        let shown = draw(&at(&end, "here", "wrong", None).into(), Paint::Plain);
        assert!(shown.len() < 1200, "{} bytes", shown.len());
    }

    #[test]
    fn a_span_outside_the_text_does_no_harm() {
        let mut wrong = at("FROM é\n", "é", "no", None);
        wrong.labels[0].span = Span { start: 6, end: 900, line: 1, end_line: 40 };
        assert!(draw(&wrong.into(), Paint::Plain).contains("1 | FROM"));
    }

    #[test]
    fn a_canceled_build_ends_with_130() {
        let canceled = Error { kind: ErrorKind::Canceled, ..error("canceled") };
        assert_eq!(Failure::from(canceled).status(), 130);
    }
}
