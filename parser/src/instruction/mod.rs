//! One instruction's line to its typed form; a file for each family of instructions.

mod copy;
mod device;
mod exec;
mod from;
mod healthcheck;
pub(crate) mod mount;
mod onbuild;
mod pairs;
mod run;
mod simple;

pub(crate) use from::From;
pub(crate) use onbuild::refuse as refuse_trigger;

use std::borrow::Cow;

use crate::flags::{self, Flag, Flags, Known};
use crate::lexer::{Logical, Text};
use crate::suggest::closest;
use crate::{Heredoc, InstructionKind, ParseError, Spanned};

/// The instructions' keywords.
pub(crate) const KEYWORDS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// What a line can be.
#[derive(Debug)]
pub(crate) enum Parsed {
    From(From),
    Other(InstructionKind),
}

/// An instruction's line, cut into keyword, flags and arguments.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    /// In upper case.
    pub(crate) keyword: &'static str,
    pub(crate) flags: Vec<Flag>,
    pub(crate) args: Text<'a>,
    /// The line from the keyword on.
    pub(crate) whole: Text<'a>,
    /// Filled from the lines that follow.
    pub(crate) heredocs: Vec<Heredoc>,
    pub(crate) escape: char,
}

impl<'a> Request<'a> {
    /// Cuts `text` up; the first word must be an instruction.
    pub(crate) fn new(text: Text<'a>, escape: char) -> Result<Self, ParseError> {
        let (word, rest) = text.split_word();
        let written = word.as_str();
        let keyword = keyword(written).ok_or_else(|| ParseError::UnknownInstruction {
            word: written.to_owned(),
            span: word.span(),
            closest: closest(written, KEYWORDS),
        })?;
        let (flags, args) = flags::split(&rest, escape);
        Ok(Self { keyword, flags, args, whole: text, heredocs: Vec::new(), escape })
    }

    /// Parses what the keyword asks for.
    pub(crate) fn parse(self) -> Result<Parsed, ParseError> {
        Ok(Parsed::Other(match self.keyword {
            "FROM" => return from::parse(self).map(Parsed::From),
            "ADD" => copy::parse_add(self)?,
            "ARG" => pairs::parse_arg(self)?,
            "CMD" => exec::parse_cmd(self)?,
            "COPY" => copy::parse_copy(self)?,
            "ENTRYPOINT" => exec::parse_entrypoint(self)?,
            "ENV" => pairs::parse_env(self)?,
            "EXPOSE" => simple::parse_expose(self)?,
            "HEALTHCHECK" => healthcheck::parse(self)?,
            "LABEL" => pairs::parse_label(self)?,
            "MAINTAINER" => InstructionKind::Maintainer(simple::one_argument(self)?),
            "ONBUILD" => onbuild::parse(self)?,
            "RUN" => run::parse(self)?,
            "SHELL" => exec::parse_shell(self)?,
            "STOPSIGNAL" => InstructionKind::Stopsignal(simple::one_argument(self)?),
            "USER" => InstructionKind::User(simple::one_argument(self)?),
            "VOLUME" => simple::parse_volume(self)?,
            _ => InstructionKind::Workdir(simple::one_argument(self)?),
        }))
    }

    /// Whether `<<WORD` in this line opens a heredoc: only for ADD, COPY and RUN, also as triggers, and never in JSON.
    pub(crate) fn may_have_heredocs(&self) -> bool {
        match self.keyword {
            "ADD" | "COPY" | "RUN" => !matches!(json_array(&self.args), Ok(Some(_))),
            "ONBUILD" => Request::new(self.args.clone(), self.escape)
                .is_ok_and(|inner| inner.may_have_heredocs_inside()),
            _ => false,
        }
    }

    fn may_have_heredocs_inside(&self) -> bool {
        // A second ONBUILD is an error; looking into it would follow a chain of any length.
        self.keyword != "ONBUILD" && self.may_have_heredocs()
    }

    fn checked_flags(&mut self, known: Known) -> Result<Flags, ParseError> {
        Flags::check(self.keyword, std::mem::take(&mut self.flags), known)
    }

    fn no_arguments(&self) -> ParseError {
        ParseError::NoArguments { instruction: self.keyword, span: self.whole.span() }
    }
}

/// Returns the keyword that `word` spells in any letter case.
fn keyword(word: &str) -> Option<&'static str> {
    KEYWORDS.into_iter().find(|keyword| keyword.eq_ignore_ascii_case(word))
}

/// Reads `args` as a JSON array of strings.
///
/// `None` where it is no valid JSON array: such text is the shell's. An array that holds something else is an error.
fn json_array(args: &Text<'_>) -> Result<Option<Vec<String>>, ParseError> {
    if !args.as_str().starts_with('[') {
        return Ok(None);
    }
    let text = with_paired_surrogates(args.as_str());
    let Ok(values) = serde_json::from_str::<Vec<serde_json::Value>>(&text) else { return Ok(None) };
    let strings = values.into_iter().map(|value| match value {
        serde_json::Value::String(text) => Ok(text),
        _ => Err(ParseError::NotOnlyStrings { span: args.span() }),
    });
    strings.collect::<Result<_, _>>().map(Some)
}

/// Replaces `\uD800` to `\uDFFF` that stand alone by U+FFFD, as Go's decoder does; serde_json refuses them.
fn with_paired_surrogates(text: &str) -> Cow<'_, str> {
    let unit = |at: usize| {
        let digits = text.get(at..at + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'))
    };
    let mut out = String::new();
    let (mut copied, mut at) = (0, 0);
    while let Some(found) = text.get(at..).and_then(|rest| rest.find('\\')) {
        at += found;
        at += match unit(at) {
            Some(0xd800..0xdc00) if matches!(unit(at + 6), Some(0xdc00..0xe000)) => 12,
            Some(0xd800..0xe000) => {
                out.push_str(text.get(copied..at).unwrap_or_default());
                out.push_str("\\ufffd");
                copied = at + 6;
                6
            }
            // The escaped character, which may be a backslash.
            _ => 1 + text.get(at + 1..).and_then(|rest| rest.chars().next()).map_or(0, char::len_utf8),
        };
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(text.get(copied..).unwrap_or_default());
    Cow::Owned(out)
}

/// Reads `args` as a JSON array or as words between white space.
fn json_or_words(args: &Text<'_>) -> Result<Vec<Spanned<String>>, ParseError> {
    Ok(match json_array(args)? {
        Some(values) => {
            let span = args.span();
            values.into_iter().map(|value| Spanned { value, span }).collect()
        }
        None => args.words().iter().map(Text::spanned).collect(),
    })
}

/// Cuts a logical line up.
pub(crate) fn request(line: &Logical, escape: char) -> Result<Request<'_>, ParseError> {
    Request::new(line.text(), escape)
}
