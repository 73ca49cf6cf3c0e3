//! What people see of a step: `[build 2/5] RUN make` (FEATURES PG2, FR9, LX34).

use super::environment::Environment;

/// Numbers a stage's steps.
#[derive(Clone, Debug, Default)]
pub(super) struct StepNames {
    /// Empty where the file has one stage only.
    stage: String,
    done: usize,
    total: usize,
}

/// Who wrote the instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Author {
    /// The Dockerfile.
    Dockerfile,
    /// A base image's ONBUILD trigger.
    BaseImage,
    /// A parent stage's ONBUILD trigger.
    ParentStage,
}

impl StepNames {
    pub(super) fn new(stage: String, total: usize) -> Self {
        Self { stage, done: 0, total }
    }

    /// The name of the next step.
    pub(super) fn next(&mut self, text: &str, author: Author) -> String {
        self.done += 1;
        self.again(text, author)
    }

    /// Counts a step that has another name.
    pub(super) fn skip(&mut self) {
        self.done += 1;
    }

    /// A further vertex of the step that was named last.
    pub(super) fn again(&self, text: &str, author: Author) -> String {
        let Self { stage, done, total } = self;
        let space = if stage.is_empty() { "" } else { " " };
        let width = total.checked_ilog10().unwrap_or(0) as usize + 1;
        let onbuild = if author == Author::Dockerfile { "" } else { "ONBUILD " };
        format!("[{stage}{space}{done:>width$}/{total}] {onbuild}{text}")
    }
}

/// An instruction's text for people: keyword in upper case, variables that are set replaced, `masked` ones by stars.
/// Everything else stays as written, since it is not what is executed.
pub(super) fn instruction_text(original: &str, environment: &Environment, masked: &[&str]) -> String {
    let text = original.trim();
    let (keyword, rest) = text.split_at(text.find(char::is_whitespace).unwrap_or(text.len()));
    let mut out = keyword.to_ascii_uppercase();
    let mut rest = rest;
    let mut quote = None;
    while let Some(at) = rest.find(['$', '\'', '"', '\\']) {
        out.push_str(&rest[..at]);
        let special = &rest[at..];
        match special.as_bytes()[0] {
            b'\\' => {
                let end = special.char_indices().nth(2).map_or(special.len(), |(end, _)| end);
                out.push_str(&special[..end]);
                rest = &special[end..];
            }
            b'$' if quote != Some('\'') => rest = &special[replace(special, environment, masked, &mut out)..],
            other => {
                let mark = char::from(other);
                if quote == Some(mark) {
                    quote = None;
                } else if mark != '$' && quote.is_none() {
                    quote = Some(mark);
                }
                out.push(mark);
                rest = &special[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

/// Writes what `text`'s leading `$name` or `${name}` stands for and returns its length.
fn replace(text: &str, environment: &Environment, masked: &[&str], out: &mut String) -> usize {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let inner = &text[1..];
    let (name, length) = if let Some(inner) = inner.strip_prefix('{') {
        match inner.find('}') {
            Some(end) if end > 0 && inner[..end].chars().all(is_name) => (&inner[..end], end + 3),
            _ => ("", 1),
        }
    } else {
        let end = inner.find(|c| !is_name(c)).unwrap_or(inner.len());
        (&inner[..end], end + 1)
    };
    let value = if masked.contains(&name) { Some("****") } else { environment.get(name) };
    match value {
        Some(value) if out.len() < super::MAX_NAME_BYTES => out.push_str(value),
        _ => out.push_str(&text[..length]),
    }
    length
}

/// `first line...` of a script.
pub(super) fn summary(script: &str) -> String {
    let script = script.trim();
    match script.split_once('\n') {
        Some((first, _)) => format!("{}...", first.trim_end_matches('\r')),
        None => script.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_aligned_and_a_sole_stage_has_no_name() {
        let mut sole = StepNames::new(String::new(), 12);
        assert_eq!(sole.next("FROM x", Author::Dockerfile), "[ 1/12] FROM x");
        let mut stage = StepNames::new("build".into(), 5);
        assert_eq!(stage.next("FROM x", Author::Dockerfile), "[build 1/5] FROM x");
        assert_eq!(stage.next("RUN y", Author::BaseImage), "[build 2/5] ONBUILD RUN y");
    }

    #[test]
    fn set_variables_are_shown_with_their_values() {
        let mut environment = Environment::default();
        environment.set("V", "1.2");
        let text =
            instruction_text("run echo $V ${V}.3 '$V' \\$V $UNSET ${V:-x} $TOKEN", &environment, &["TOKEN"]);
        assert_eq!(text, "RUN echo 1.2 1.2.3 '$V' \\$V $UNSET ${V:-x} ****");
    }

    #[test]
    fn a_script_is_shown_by_its_first_line() {
        assert_eq!(summary("echo a\necho b\n"), "echo a...");
        assert_eq!(summary("echo a\n"), "echo a");
    }
}
