//! Here-documents: finding `<<WORD` in a line, and what becomes of the body (FEATURES LX26–LX33).

use nom::bytes::complete::{tag, take_while};
use nom::character::complete::{char, digit0};
use nom::combinator::{opt, rest};
use nom::{IResult, Parser};

use crate::expand::{Lexing, NoVariables};
use crate::{Heredoc, Span};

/// What a heredoc's opening word says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Delimiter {
    /// The terminator, quotes removed.
    pub(crate) name: String,
    /// The file descriptor before `<<`.
    pub(crate) fd: u32,
    /// Whether no part of the word is quoted.
    pub(crate) expand: bool,
    /// `<<-`.
    pub(crate) chomp: bool,
}

/// Finds the heredocs that a whole instruction line opens.
///
/// A line that the word lexer cannot read opens none: BuildKit leaves such text to the shell.
pub(crate) fn in_line(line: &str) -> Vec<Delimiter> {
    if !line.contains("<<") {
        return Vec::new();
    }
    let raw = Lexing { raw_quotes: true, raw_escapes: true, keep_unset: true, ..Lexing::with_escape('\\') };
    let words = raw.words(line, &NoVariables).unwrap_or_default();
    words.iter().filter_map(|word| in_word(word)).collect()
}

/// Reads one word as a heredoc's opening.
pub(crate) fn in_word(word: &str) -> Option<Delimiter> {
    let (_, (fd, chomp, name)) = opening(word).ok()?;
    if name.is_empty() || name.contains('<') {
        return None;
    }
    let plain = Lexing { keep_unset: true, ..Lexing::with_escape('\\') };
    let raw = Lexing { raw_quotes: true, ..plain };
    let mut words = plain.words(name, &NoVariables).ok()?;
    let mut raw_words = raw.words(name, &NoVariables).ok()?;
    if words.len() != 1 || raw_words.len() != 1 {
        return None;
    }
    let (name, raw_name) = (words.pop()?, raw_words.pop()?);
    // Only quotes count: BuildKit expands the body of `<<\EOF`, which a shell would not.
    let expand = quotes(&name) == quotes(&raw_name);
    Some(Delimiter { name, fd: fd.parse().unwrap_or(0), expand, chomp })
}

fn quotes(word: &str) -> usize {
    word.matches(['\'', '"']).count()
}

fn opening(word: &str) -> IResult<&str, (&str, bool, &str)> {
    let (left, (fd, _, chomp, _, name)) =
        (digit0, tag("<<"), opt(char('-')), take_while(char::is_whitespace), rest).parse(word)?;
    Ok((left, (fd, chomp.is_some(), name)))
}

/// Makes the heredoc from its body as written.
pub(crate) fn with_body(delimiter: Delimiter, raw: &str, span: Span) -> Heredoc {
    let body = if delimiter.chomp { without_leading_tabs(raw) } else { raw.to_owned() };
    Heredoc {
        name: delimiter.name,
        fd: delimiter.fd,
        expand: delimiter.expand,
        chomp: delimiter.chomp,
        body,
        raw: raw.to_owned(),
        span,
    }
}

fn without_leading_tabs(body: &str) -> String {
    body.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delimiter(name: &str, fd: u32, expand: bool, chomp: bool) -> Delimiter {
        Delimiter { name: name.into(), fd, expand, chomp }
    }

    #[test]
    fn any_quote_in_the_delimiter_turns_expansion_off() {
        assert_eq!(in_word("<<EOF"), Some(delimiter("EOF", 0, true, false)));
        assert_eq!(in_word("<<'EOF'"), Some(delimiter("EOF", 0, false, false)));
        assert_eq!(in_word("<<E\"O\"F"), Some(delimiter("EOF", 0, false, false)));
        assert_eq!(in_word("3<<-EOF"), Some(delimiter("EOF", 3, true, true)));
        assert_eq!(in_word("<<-'a b'"), Some(delimiter("a b", 0, false, true)));
    }

    #[test]
    fn an_escape_in_the_delimiter_does_not_turn_expansion_off() {
        assert_eq!(in_word("<<\\EOF"), Some(delimiter("EOF", 0, true, false)));
        assert_eq!(in_word("<<E\\\"F"), Some(delimiter("E\"F", 0, true, false)));
    }

    #[test]
    fn a_here_string_or_a_shift_is_no_heredoc() {
        assert_eq!(in_word("<<<EOF"), None);
        assert_eq!(in_word("<<"), None);
        assert_eq!(in_word("a<<EOF"), None);
        assert_eq!(in_line("RUN echo $((1<<2))"), []);
        assert_eq!(in_line("RUN echo \"<<EOF\""), []);
    }

    #[test]
    fn white_space_may_stand_before_the_delimiter_but_not_behind_a_dash() {
        assert_eq!(in_line("RUN cat << EOF"), [delimiter("EOF", 0, true, false)]);
        assert_eq!(in_line("RUN cat 2<<  \t'E' x"), [delimiter("E", 2, false, false)]);
        assert_eq!(in_line("RUN cat <<- EOF"), []);
    }

    #[test]
    fn variables_of_the_shell_do_not_hide_a_heredoc() {
        assert_eq!(in_line("RUN echo ${x:=y} ${z:0:3} ${a-$b} <<EOF"), [delimiter("EOF", 0, true, false)]);
        // The builder's lexer gives up on these.
        assert_eq!(in_line("RUN echo ${x^^} <<EOF"), []);
        assert_eq!(in_line("RUN echo it's <<EOF"), []);
    }

    #[test]
    fn a_line_may_open_several() {
        let names: Vec<_> = in_line("COPY <<one <<\"two\" /x/").into_iter().map(|found| found.name).collect();
        assert_eq!(names, ["one", "two"]);
    }
}
