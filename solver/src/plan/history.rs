//! The texts of history entries, as BuildKit words them (they are Go's `%v` and `%q`), and the list of them.

use std::fmt::Write as _;

use kiln_image::oci::{Healthcheck, History};

/// What a Dockerfile's entries carry as `comment`.
const COMMENT: &str = "buildkit.dockerfile.v0";

/// At most so many bytes of text in all entries. Every variable that is used ends up in one of them, so this also
/// bounds what `ENV A=$A$A` or `EXPOSE 0-65535`, written often enough, can make of a small file.
pub(super) const MAX_HISTORY_BYTES: usize = 16 << 20;

/// All stages' histories. A stage that starts from another shares its entries, so that a long chain of stages costs
/// no more than its instructions.
#[derive(Debug, Default)]
pub(super) struct Histories {
    nodes: Vec<Node>,
    text_bytes: usize,
}

#[derive(Debug)]
struct Node {
    before: HistoryId,
    entry: History,
}

/// The last entry of a history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct HistoryId(Option<usize>);

/// [`MAX_HISTORY_BYTES`] are exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLong;

/// Whether an instruction made a layer, and by what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Made {
    /// Nothing.
    Nothing,
    /// A directory (WORKDIR); its text has no suffix.
    Directory,
    /// A layer by RUN, COPY, ADD.
    Layer,
}

impl Histories {
    pub(super) fn of_base(&mut self, entries: Vec<History>) -> HistoryId {
        entries.into_iter().fold(HistoryId::default(), |last, entry| self.push(last, entry))
    }

    /// Adds what an instruction did.
    ///
    /// # Errors
    /// The limit, where it is met.
    pub(super) fn record(
        &mut self,
        last: HistoryId,
        mut text: String,
        made: Made,
    ) -> Result<HistoryId, TooLong> {
        self.text_bytes = self.text_bytes.saturating_add(text.len());
        if self.text_bytes > MAX_HISTORY_BYTES {
            return Err(TooLong);
        }
        if made == Made::Layer {
            text.push_str(" # buildkit");
        }
        let entry = History {
            created_by: text,
            comment: COMMENT.into(),
            empty_layer: made == Made::Nothing,
            ..History::default()
        };
        Ok(self.push(last, entry))
    }

    fn push(&mut self, before: HistoryId, entry: History) -> HistoryId {
        self.nodes.push(Node { before, entry });
        HistoryId(Some(self.nodes.len() - 1))
    }

    /// The entries up to `last`, oldest first.
    pub(super) fn entries(&self, last: HistoryId) -> Vec<History> {
        let mut entries = Vec::new();
        let mut next = last;
        while let Some(node) = next.0.and_then(|place| self.nodes.get(place)) {
            entries.push(node.entry.clone());
            next = node.before;
        }
        entries.reverse();
        entries
    }
}

/// `[a b]`, Go's `%v` of strings.
pub(super) fn bracketed<S: AsRef<str>>(words: &[S]) -> String {
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    format!("[{}]", words.join(" "))
}

/// `["a" "b"]`, Go's `%q` of strings.
pub(super) fn quoted<S: AsRef<str>>(words: &[S]) -> String {
    let words: Vec<String> = words.iter().map(|word| quote(word.as_ref())).collect();
    format!("[{}]", words.join(" "))
}

fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            c if (c as u32) < 0x20 || c == '\x7f' => _ = write!(out, "\\x{:02x}", c as u32),
            // Go escapes what it cannot print; of that, only controls and odd spaces occur in practice.
            c if c.is_control() || (c.is_whitespace() && c != ' ') || c == '\u{feff}' => {
                _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// `{Test:[CMD-SHELL true] Interval:1s …}`, Go's `%+v` of docker's struct.
pub(super) fn healthcheck(check: &Healthcheck) -> String {
    format!(
        "{{Test:{} Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
        bracketed(&check.test),
        duration(check.interval),
        duration(check.timeout),
        duration(check.start_period),
        duration(check.start_interval),
        check.retries
    )
}

/// Nanoseconds as Go's `time.Duration` prints them: `1h2m3s`, `1.5s`, `500ms`.
fn duration(nanoseconds: u64) -> String {
    const SECOND: u64 = 1_000_000_000;
    let fraction = |value: u64, unit: u64| {
        let rest = value % unit;
        if rest == 0 {
            return (value / unit).to_string();
        }
        let digits = unit.ilog10() as usize;
        let text = format!("{}.{rest:0digits$}", value / unit);
        text.trim_end_matches('0').to_owned()
    };
    match nanoseconds {
        0 => "0s".into(),
        1..1_000 => format!("{nanoseconds}ns"),
        1_000..1_000_000 => format!("{}µs", fraction(nanoseconds, 1_000)),
        1_000_000..SECOND => format!("{}ms", fraction(nanoseconds, 1_000_000)),
        _ => {
            let minutes = nanoseconds / (60 * SECOND);
            let seconds = fraction(nanoseconds % (60 * SECOND), SECOND);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{seconds}s"),
                (0, minutes) => format!("{minutes}m{seconds}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_go_writes_them() {
        let texts: Vec<String> =
            [0, 1, 1_500, 500_000_000, 1_000_000_000, 1_500_000_000, 300_000_000_000, 3_723_000_000_000]
                .into_iter()
                .map(duration)
                .collect();
        assert_eq!(texts, ["0s", "1ns", "1.5µs", "500ms", "1s", "1.5s", "5m0s", "1h2m3s"]);
    }

    #[test]
    fn quoted_words_escape_what_go_escapes() {
        assert_eq!(quoted(&["a\"b", "c\\d", "grüß\n\x01"]), r#"["a\"b" "c\\d" "grüß\n\x01"]"#);
        assert_eq!(quoted::<&str>(&[]), "[]");
    }

    #[test]
    fn a_history_branches_without_copying() {
        let mut histories = Histories::default();
        let base = histories.record(HistoryId::default(), "ENV A=1".into(), Made::Nothing).unwrap();
        let left = histories.record(base, "RUN left".into(), Made::Layer).unwrap();
        let right = histories.record(base, "WORKDIR /r".into(), Made::Directory).unwrap();
        let texts = |id| {
            let texts: Vec<_> =
                histories.entries(id).into_iter().map(|e| (e.created_by, e.empty_layer)).collect();
            texts
        };
        assert_eq!(texts(left), [("ENV A=1".into(), true), ("RUN left # buildkit".into(), false)]);
        assert_eq!(texts(right), [("ENV A=1".into(), true), ("WORKDIR /r".into(), false)]);
    }
}
