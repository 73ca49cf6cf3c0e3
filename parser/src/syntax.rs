//! Which frontend a file asks for (FEATURES LX14), looked for before the file is read as a Dockerfile.
//!
//! The directive may stand in a file that is no Dockerfile at all: as `# syntax=`, as `// syntax=` for languages with such
//! comments, or as the key of a JSON document. A first line `#!…` is passed over.

use crate::lexer::{directive, is_directive_name};
use crate::{Span, Spanned};

/// Returns the value of the `syntax` directive: an image's name, and after white space words for it.
///
/// ```
/// let found = kiln_parser::syntax(b"// syntax=docker/dockerfile:1\n").unwrap();
/// assert_eq!(found.value, "docker/dockerfile:1");
/// ```
pub fn syntax(text: &[u8]) -> Option<Spanned<String>> {
    let start = if text.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
    let first_line = text.iter().position(|byte| *byte == b'\n').map_or(text.len(), |at| at + 1);
    let (start, line) = match text.get(start..)?.starts_with(b"#!") {
        true => (first_line, 2),
        false => (start, 1),
    };
    ["#", "//"].iter().find_map(|marker| in_comments(text, start, line, marker)).or_else(|| {
        let document: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(text.get(start..)?).ok()?;
        let value = document.get("syntax")?.as_str()?.to_owned();
        let end = start + text.get(start..)?.trim_ascii_end().len();
        let end_line = line + text.get(start..end)?.iter().filter(|byte| **byte == b'\n').count() as u32;
        Some(Spanned { value, span: Span { start, end, line, end_line } })
    })
}

/// Looks through the known directives at the top; the first other line ends the search.
fn in_comments(text: &[u8], start: usize, first: u32, marker: &str) -> Option<Spanned<String>> {
    let mut at = start;
    for (line, whole) in (first..).zip(text.get(start..)?.split_inclusive(|byte| *byte == b'\n')) {
        let content = whole.trim_ascii_end();
        let (name, value) = directive(std::str::from_utf8(content).ok()?, marker)?;
        if name.eq_ignore_ascii_case("syntax") {
            let span = Span { start: at, end: at + content.len(), line, end_line: line };
            return Some(Spanned { value: value.to_owned(), span });
        }
        if !is_directive_name(name) {
            return None;
        }
        at += whole.len();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::syntax;

    fn found(text: &str) -> Option<String> {
        let found = syntax(text.as_bytes())?;
        assert!(text[found.span.range()].to_lowercase().contains("syntax"));
        Some(found.value)
    }

    #[test]
    fn it_is_found_in_all_three_forms() {
        assert_eq!(found("# syntax=a/b:1 --flag x\r\nFROM x\n").as_deref(), Some("a/b:1 --flag x"));
        assert_eq!(found("\u{feff}#escape=`\n#  SynTax = a/b\n").as_deref(), Some("a/b"));
        assert_eq!(found("// check=skip=all\n//syntax=a/b\ntarget {}\n").as_deref(), Some("a/b"));
        assert_eq!(found("{\n  \"syntax\": \"a/b\", \"x\": [1]\n}\n").as_deref(), Some("a/b"));
        assert_eq!(found("#!/usr/bin/env x\n# syntax=a/b\n").as_deref(), Some("a/b"));
        assert_eq!(found("#!/usr/bin/env x\n{\"syntax\": \"a/b\"}").as_deref(), Some("a/b"));
    }

    #[test]
    fn it_is_not_found_below_anything_else() {
        for text in [
            "FROM x\n# syntax=a\n",
            "\n# syntax=a\n",
            "# comment\n# syntax=a\n",
            "# key=b\n# syntax=a\n",
            "# check=skip=all\n// syntax=a\n",
            "{\"syntax\": 1}",
            "# syntax=\n",
            "#!x\n#!y\n# syntax=a\n",
        ] {
            assert_eq!(found(text), None, "{text}");
        }
    }
}
