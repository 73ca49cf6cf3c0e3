//! Words of ARG, ENV and LABEL: split at white space outside quotes, quotes and escapes kept for the expansion.

use crate::lexer::Text;

/// Splits `text` into words; `escape` is the file's escape character.
pub(crate) fn split<'a>(text: &Text<'a>, escape: char) -> Vec<Text<'a>> {
    let source = text.as_str();
    let mut words = Vec::new();
    let mut start = None;
    let mut quote = None;
    let mut chars = source.char_indices().peekable();
    while let Some((at, ch)) = chars.next() {
        if quote.is_none() && ch.is_whitespace() {
            if let Some(start) = start.take() {
                words.push(text.slice(start..at));
            }
            continue;
        }
        if ch == escape && quote != Some('\'') {
            // An escape at the very end escapes nothing and is dropped, as BuildKit does.
            if chars.next().is_none() {
                let start = start.take().unwrap_or(at);
                if start < at {
                    words.push(text.slice(start..at));
                }
                return words;
            }
            start.get_or_insert(at);
            continue;
        }
        start.get_or_insert(at);
        match quote {
            Some(open) if open == ch => quote = None,
            None if matches!(ch, '"' | '\'') => quote = Some(ch),
            _ => {}
        }
    }
    if let Some(start) = start {
        words.push(text.slice(start..source.len()));
    }
    words
}
