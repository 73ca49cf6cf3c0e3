//! Text of others (logs, names, error messages of registries) made harmless for a terminal.
//!
//! A step prints what it likes: cursor moves that hide lines, window titles, clipboard writes, text that runs
//! backwards. None of it may act on the reader's terminal or on the CI that shows the log.

use std::borrow::Cow;

/// Shows control characters and bidirectional overrides as `\u{…}`; tabs stay.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_hostile) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for char in text.chars() {
        if is_hostile(char) {
            shown.extend(char.escape_default());
        } else {
            shown.push(char);
        }
    }
    Cow::Owned(shown)
}

/// A line of a step's output as it would have been read: colours are dropped, of a line that overwrites itself by
/// carriage returns the last text counts, everything else that is no text is shown escaped.
pub(crate) fn log_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let plain = without_colours(&text);
    let last = plain.trim_end_matches('\r').rsplit('\r').next().unwrap_or_default();
    printable(last).into_owned()
}

/// Cuts out `ESC [ … m`.
fn without_colours(text: &str) -> Cow<'_, str> {
    if !text.contains('\x1b') {
        return Cow::Borrowed(text);
    }
    let mut rest = text;
    let mut kept = String::with_capacity(text.len());
    while let Some(start) = rest.find("\x1b[") {
        let (before, sequence) = rest.split_at(start);
        kept.push_str(before);
        let end =
            sequence[2..].find(|c: char| !c.is_ascii_digit() && c != ';' && c != ':').map(|end| end + 2);
        match end {
            Some(end) if sequence.as_bytes().get(end) == Some(&b'm') => rest = &sequence[end + 1..],
            _ => {
                kept.push_str("\x1b[");
                rest = &sequence[2..];
            }
        }
    }
    kept.push_str(rest);
    Cow::Owned(kept)
}

fn is_hostile(char: char) -> bool {
    (char.is_control() && char != '\t')
        || matches!(char, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{061c}')
        || matches!(char, '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clipboard_write_is_shown_and_not_done() {
        assert_eq!(printable("\x1b]52;c;eA==\x07"), "\\u{1b}]52;c;eA==\\u{7}");
        assert_eq!(printable("a\tb"), "a\tb");
        assert_eq!(printable("\u{202e}txt.exe"), "\\u{202e}txt.exe");
    }

    #[test]
    fn a_log_line_loses_colours_and_what_it_overwrote() {
        assert_eq!(log_line(b"\x1b[1;31mred\x1b[0m"), "red");
        assert_eq!(log_line(b"10%\r50%\r100%\r"), "100%");
        assert_eq!(log_line(b"\x1b[2K\x1b[1Ahidden"), "\\u{1b}[2K\\u{1b}[1Ahidden");
        assert_eq!(log_line(b"\xff"), "\u{fffd}");
    }

    /// The rules of the fuzz target `terminal`, on what it found worth keeping.
    #[test]
    fn outputs_of_the_corpus_have_nothing_that_a_terminal_obeys() {
        let harmless =
            |text: &str| assert!(!text.chars().any(|char| char.is_control() && char != '\t'), "{text:?}");
        let size = |count| std::num::NonZero::new(count).unwrap();
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/terminal");
        let mut count = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            bytes.split(|byte| *byte == b'\n').for_each(|line| harmless(&log_line(line)));
            let mut terminal = vt100::Parser::new(size(6), size(80), 0);
            terminal.process(&bytes);
            terminal.screen().rows(0, 80).for_each(|row| harmless(&printable(&row)));
            count += 1;
        }
        assert!(count > 50, "{count}");
    }
}
