//! Bytes to logical lines: directives, comments, continuations and heredoc bodies.
//!
//! A [`Logical`] line is one instruction's text with its continuations joined. Spans must point into the file as it was
//! written, so a logical line remembers for each joined piece where it came from.

use nom::bytes::complete::{tag, take_while};
use nom::character::complete::{char, satisfy};
use nom::combinator::{recognize, rest};
use nom::sequence::{pair, preceded, terminated};
use nom::{IResult, Parser};
use std::ops::Range;

use crate::heredoc::{self, Delimiter};
use crate::{Directives, Heredoc, ParseError, Span, Spanned};

/// Longest physical line, without its line feed; BuildKit's scanner has the same limit.
pub(crate) const MAX_LINE_BYTES: usize = 65_535;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// White space between an instruction's words. A line feed is none: it ends the line before.
pub(crate) fn is_blank(ch: char) -> bool {
    matches!(ch, ' ' | '\t' | '\x0b' | '\x0c' | '\r')
}

/// One instruction's text, heredoc bodies apart.
#[derive(Debug, Default)]
pub(crate) struct Logical {
    text: String,
    pieces: Vec<Piece>,
    /// The comments above, without `#`.
    pub(crate) comment: Vec<String>,
    /// Whether a blank line stood in a continuation.
    pub(crate) has_empty_continuation: bool,
    /// From the first word to the end of the last line, heredoc terminators included.
    pub(crate) span: Span,
}

/// A stretch of one physical line inside a logical one.
#[derive(Clone, Copy, Debug)]
struct Piece {
    /// Where it begins in the logical text.
    at: usize,
    /// Where it begins in the file.
    source: usize,
    /// Its line, from 1.
    line: u32,
}

impl Logical {
    /// Returns the joined text, trimmed on both sides.
    pub(crate) fn text(&self) -> Text<'_> {
        Text { line: self, range: 0..self.text.len() }.trim()
    }

    /// Returns where `range` of the joined text was written.
    fn span_of(&self, range: Range<usize>) -> Span {
        let (start, line) = self.place(range.start);
        if range.is_empty() {
            return Span { start, end: start, line, end_line: line };
        }
        // The last character and not the place after it: that one may lie on the next line.
        let (last, end_line) = self.place(range.end - 1);
        Span { start, end: last + 1, line, end_line }
    }

    fn place(&self, offset: usize) -> (usize, u32) {
        let after = self.pieces.partition_point(|piece| piece.at <= offset);
        match after.checked_sub(1).and_then(|index| self.pieces.get(index)) {
            Some(piece) => (piece.source + (offset - piece.at), piece.line),
            None => (self.span.start, self.span.line),
        }
    }

    fn push(&mut self, content: &[u8], source: usize, line: u32) -> Result<(), ParseError> {
        let text = std::str::from_utf8(content).map_err(|error| ParseError::NotUtf8 {
            span: Span {
                start: source + error.valid_up_to(),
                end: source + error.valid_up_to() + 1,
                line,
                end_line: line,
            },
        })?;
        self.pieces.push(Piece { at: self.text.len(), source, line });
        self.text.push_str(text);
        Ok(())
    }

    fn extend_to(&mut self, line: Line<'_>) {
        self.span.end = line.start + line.content.len();
        self.span.end_line = line.number;
    }
}

/// A part of a logical line that knows where it was written.
#[derive(Clone, Debug)]
pub(crate) struct Text<'a> {
    line: &'a Logical,
    range: Range<usize>,
}

impl<'a> Text<'a> {
    pub(crate) fn as_str(&self) -> &'a str {
        self.line.text.get(self.range.clone()).unwrap_or_default()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    pub(crate) fn span(&self) -> Span {
        self.line.span_of(self.range.clone())
    }

    /// Returns the part `range`, counted in bytes from this part's start.
    pub(crate) fn slice(&self, range: Range<usize>) -> Self {
        Self { line: self.line, range: self.range.start + range.start..self.range.start + range.end }
    }

    /// Returns the part from `start` to the end.
    pub(crate) fn from(&self, start: usize) -> Self {
        self.slice(start..self.range.len())
    }

    pub(crate) fn trim(&self) -> Self {
        let text = self.as_str();
        let start = text.len() - text.trim_start().len();
        self.slice(start..start.max(text.trim_end().len()))
    }

    /// Takes in the blanks that follow to the end of the instruction's line.
    pub(crate) fn untrimmed_end(&self) -> Self {
        Self { line: self.line, range: self.range.start..self.line.text.len() }
    }

    /// Cuts at the first white space: the first word, and what follows the white space.
    pub(crate) fn split_word(&self) -> (Self, Self) {
        let text = self.as_str();
        let word = text.find(is_blank).unwrap_or(text.len());
        let tail = text.get(word..).unwrap_or_default();
        let next = text.len() - tail.trim_start_matches(is_blank).len();
        (self.slice(0..word), self.from(next))
    }

    /// Returns the words between white space; quotes mean nothing here.
    pub(crate) fn words(&self) -> Vec<Self> {
        let mut words = Vec::new();
        let mut rest = self.trim();
        while !rest.is_empty() {
            let (word, tail) = rest.split_word();
            words.push(word);
            rest = tail;
        }
        words
    }

    pub(crate) fn spanned(&self) -> Spanned<String> {
        Spanned { value: self.as_str().to_owned(), span: self.span() }
    }
}

/// A physical line.
#[derive(Clone, Copy, Debug)]
struct Line<'a> {
    /// Without `\r\n`.
    content: &'a [u8],
    /// Offset of its first byte in the file.
    start: usize,
    /// From 1.
    number: u32,
}

impl Line<'_> {
    fn trimmed(&self) -> (&[u8], usize) {
        let trimmed = trim_start(self.content);
        (trimmed, self.start + self.content.len() - trimmed.len())
    }

    fn span(&self) -> Span {
        Span {
            start: self.start,
            end: self.start + self.content.len(),
            line: self.number,
            end_line: self.number,
        }
    }
}

/// Yields the logical lines of a file.
#[derive(Debug)]
pub(crate) struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
    number: u32,
    comment: Vec<String>,
    directives: Directives,
    first_directives: Vec<(DirectiveName, Span)>,
    directives_done: bool,
    /// Whether the first line is `#!…`.
    is_script: bool,
}

impl<'a> Lexer<'a> {
    pub(crate) fn new(text: &'a [u8]) -> Self {
        let at = if text.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
        Self {
            text,
            at,
            number: 0,
            comment: Vec::new(),
            directives: Directives { syntax: None, escape: '\\', check: None },
            first_directives: Vec::new(),
            directives_done: false,
            is_script: false,
        }
    }

    pub(crate) fn escape(&self) -> char {
        self.directives.escape
    }

    pub(crate) fn into_directives(self) -> Directives {
        self.directives
    }

    /// Returns the place after the last line read, for what is wrong with the file as a whole.
    pub(crate) fn end(&self) -> Span {
        let line = self.number.max(1);
        Span { start: self.at, end: self.at, line, end_line: line }
    }

    /// Returns the next instruction's line, or `None` at the end of the file.
    pub(crate) fn next_logical(&mut self) -> Result<Option<Logical>, ParseError> {
        while let Some(line) = self.next_line()? {
            let (trimmed, start) = line.trimmed();
            if self.directive(trimmed, line.span())? {
                self.comment.clear();
                continue;
            }
            if trimmed.first() == Some(&b'#') {
                self.remember_comment(line.content);
                continue;
            }
            if trimmed.is_empty() {
                continue;
            }
            let logical = self.logical(line, trimmed.len(), start)?;
            if logical.text().is_empty() {
                // An escape character alone, and then the end of the file.
                let (word, span) = (String::new(), logical.span);
                return Err(ParseError::UnknownInstruction { word, span, closest: None });
            }
            return Ok(Some(logical));
        }
        Ok(None)
    }

    /// Reads one heredoc's body; `opener` is the instruction whose line names it.
    pub(crate) fn heredoc(
        &mut self,
        delimiter: Delimiter,
        opener: &mut Logical,
    ) -> Result<Heredoc, ParseError> {
        let start = self.at;
        let first = self.number + 1;
        while let Some(line) = self.next_line()? {
            let possible = if delimiter.chomp { trim_tabs(line.content) } else { line.content };
            opener.extend_to(line);
            if possible == delimiter.name.as_bytes() {
                let span =
                    Span { start, end: line.start, line: first, end_line: line.number.max(first + 1) - 1 };
                let bytes = self.text.get(start..line.start).unwrap_or_default();
                let raw = std::str::from_utf8(bytes).map_err(|_| ParseError::NotUtf8 { span })?;
                return Ok(heredoc::with_body(delimiter, raw, span));
            }
        }
        Err(ParseError::UnterminatedHeredoc { delimiter: delimiter.name, span: opener.span })
    }

    fn logical(&mut self, first: Line<'a>, length: usize, start: usize) -> Result<Logical, ParseError> {
        let mut logical = Logical { comment: std::mem::take(&mut self.comment), ..Logical::default() };
        logical.span = Span { start, line: first.number, ..first.span() };
        let trimmed = first.content.get(first.content.len() - length..).unwrap_or_default();
        let (content, mut continues) = self.cut_continuation(trimmed);
        let mut wrong = logical.push(content, start, first.number).err();
        while continues {
            let Some(line) = self.next_line()? else { break };
            let inner = trim_start(line.content);
            logical.extend_to(line);
            if inner.first() == Some(&b'#') {
                continue;
            }
            if inner.is_empty() {
                logical.has_empty_continuation = true;
                continue;
            }
            let (content, more) = self.cut_continuation(line.content);
            // The whole instruction is read even if it is wrong, or its rest would be taken for instructions.
            wrong = wrong.or(logical.push(content, line.start, line.number).err());
            continues = more;
        }
        wrong.map_or(Ok(logical), Err)
    }

    fn next_line(&mut self) -> Result<Option<Line<'a>>, ParseError> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(None);
        }
        let length = rest.iter().position(|&byte| byte == b'\n').map_or(rest.len(), |at| at + 1);
        let whole = rest.get(..length).unwrap_or_default();
        let line = Line { content: trim_newline(whole), start: self.at, number: self.number + 1 };
        self.at += length;
        self.number += 1;
        if whole.strip_suffix(b"\n").unwrap_or(whole).len() > MAX_LINE_BYTES {
            return Err(ParseError::LineTooLong { limit: MAX_LINE_BYTES, span: line.span() });
        }
        Ok(Some(line))
    }

    /// Cuts a continuation off: the escape character, not itself escaped, then only spaces and tabs.
    fn cut_continuation<'b>(&self, content: &'b [u8]) -> (&'b [u8], bool) {
        let escape = self.directives.escape as u8;
        let end = content.iter().rposition(|byte| !matches!(byte, b' ' | b'\t'));
        if let Some(end) = end
            && content.get(end) == Some(&escape)
            && end.checked_sub(1).and_then(|before| content.get(before)) != Some(&escape)
        {
            return (content.get(..end).unwrap_or_default(), true);
        }
        (content, false)
    }

    fn has_directive(&self, name: DirectiveName) -> bool {
        self.first_directives.iter().any(|(seen, _)| *seen == name)
    }

    /// BuildKit takes the first byte away, whatever it is: a comment that is indented keeps its `#`, and describes and
    /// switches nothing.
    fn remember_comment(&mut self, line: &[u8]) {
        let comment = String::from_utf8_lossy(line.get(1..).unwrap_or_default());
        match comment.trim() {
            // A bare `#` separates a licence header from the description below it.
            "" => self.comment.clear(),
            text => self.comment.push(text.to_owned()),
        }
    }

    /// Takes the line as a parser directive if it is one. The first line that is none ends the search.
    fn directive(&mut self, line: &[u8], span: Span) -> Result<bool, ParseError> {
        if self.directives_done {
            return Ok(false);
        }
        let found = std::str::from_utf8(line).ok().and_then(|line| directive(line, "#"));
        let Some((name, value)) = found.and_then(|(name, value)| Some((DirectiveName::of(name)?, value)))
        else {
            // `#!` opens a script; the syntax may stand below it.
            self.is_script = self.number == 1 && line.starts_with(b"#!");
            self.directives_done = !self.is_script;
            return Ok(false);
        };
        // Below `#!` BuildKit looks for `syntax` and `check` only, and says nothing about repetitions.
        if self.is_script && (name == DirectiveName::Escape || self.has_directive(name)) {
            return Ok(true);
        }
        if let Some((_, first)) = self.first_directives.iter().find(|(seen, _)| *seen == name) {
            let span = Span { end: span.end, end_line: span.end_line, ..*first };
            return Err(ParseError::RepeatedDirective { name: name.as_str(), span });
        }
        self.first_directives.push((name, span));
        let value = Spanned { value: value.to_owned(), span };
        match name {
            DirectiveName::Syntax => self.directives.syntax = Some(value),
            DirectiveName::Check => self.directives.check = Some(value),
            DirectiveName::Escape => match value.value.as_str() {
                "\\" => self.directives.escape = '\\',
                "`" => self.directives.escape = '`',
                _ => return Err(ParseError::InvalidEscape { value: value.value, span }),
            },
        }
        Ok(true)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DirectiveName {
    Syntax,
    Escape,
    Check,
}

impl DirectiveName {
    fn of(name: &str) -> Option<Self> {
        [Self::Syntax, Self::Escape, Self::Check]
            .into_iter()
            .find(|known| known.as_str().eq_ignore_ascii_case(name))
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Syntax => "syntax",
            Self::Escape => "escape",
            Self::Check => "check",
        }
    }
}

/// Reads `# name = value`, with another `marker` for another language; the value is not empty.
pub(crate) fn directive<'a>(line: &'a str, marker: &str) -> Option<(&'a str, &'a str)> {
    fn parts<'a>(line: &'a str, marker: &str) -> IResult<&'a str, (&'a str, &'a str)> {
        let blank = || take_while(char::is_whitespace);
        let name = recognize(pair(
            satisfy(|ch| ch.is_ascii_alphabetic()),
            take_while(|ch: char| ch.is_ascii_alphanumeric()),
        ));
        let key = preceded(pair(tag(marker), blank()), terminated(name, (blank(), char('='), blank())));
        pair(key, rest).parse(line)
    }
    let (_, (name, value)) = parts(line, marker).ok()?;
    Some((name, value.trim())).filter(|(_, value)| !value.is_empty())
}

/// Whether there is a parser directive `name`, in any letter case.
pub(crate) fn is_directive_name(name: &str) -> bool {
    DirectiveName::of(name).is_some()
}

fn trim_newline(line: &[u8]) -> &[u8] {
    let end = line.iter().rposition(|byte| !matches!(byte, b'\r' | b'\n')).map_or(0, |last| last + 1);
    line.get(..end).unwrap_or_default()
}

fn trim_start(line: &[u8]) -> &[u8] {
    match std::str::from_utf8(line) {
        Ok(text) => text.trim_start().as_bytes(),
        Err(_) => line.trim_ascii_start(),
    }
}

fn trim_tabs(line: &[u8]) -> &[u8] {
    let start = line.iter().position(|byte| *byte != b'\t').unwrap_or(line.len());
    line.get(start..).unwrap_or_default()
}
