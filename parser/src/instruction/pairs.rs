//! ARG, ENV and LABEL: `name=value` words, and the old `ENV name value` (FEATURES LX24, LX25).

use super::Request;
use crate::lexer::Text;
use crate::{ArgPair, InstructionKind, KeyValue, ParseError, words};

pub(super) fn parse_arg(request: Request<'_>) -> Result<InstructionKind, ParseError> {
    let words = words::split(&request.args, request.escape);
    if words.is_empty() {
        return Err(request.no_arguments());
    }
    // BuildKit passes over flags of ARG without a look.
    let pairs = words.iter().map(|word| match cut(word) {
        Some((name, _)) if name.is_empty() => {
            Err(ParseError::BlankName { instruction: "ARG", span: word.span() })
        }
        Some((name, default)) => Ok(ArgPair { name: name.spanned(), default: Some(default.spanned()) }),
        None => Ok(ArgPair { name: word.spanned(), default: None }),
    });
    pairs.collect::<Result<_, _>>().map(InstructionKind::Arg)
}

pub(super) fn parse_env(request: Request<'_>) -> Result<InstructionKind, ParseError> {
    pairs(request).map(InstructionKind::Env)
}

pub(super) fn parse_label(request: Request<'_>) -> Result<InstructionKind, ParseError> {
    pairs(request).map(InstructionKind::Label)
}

/// Whether ENV's or LABEL's text is in the old form: a name, white space and a value that takes the rest.
fn is_legacy(first: &Text<'_>) -> bool {
    !first.as_str().contains('=')
}

fn pairs(mut request: Request<'_>) -> Result<Vec<KeyValue>, ParseError> {
    request.checked_flags(&[])?;
    let instruction = request.keyword;
    let words = words::split(&request.args, request.escape);
    let Some(first) = words.first() else { return Err(request.no_arguments()) };
    if is_legacy(first) {
        let (key, value) = request.args.split_word();
        if value.is_empty() {
            return Err(ParseError::NoValue { instruction, span: key.span() });
        }
        return Ok(vec![KeyValue { key: key.spanned(), value: value.spanned(), is_legacy: true }]);
    }
    let pairs = words.iter().map(|word| match cut(word) {
        Some((key, _)) if key.is_empty() => Err(ParseError::BlankName { instruction, span: word.span() }),
        Some((key, value)) => Ok(KeyValue { key: key.spanned(), value: value.spanned(), is_legacy: false }),
        None => Err(ParseError::NoEqualsSign { word: word.as_str().to_owned(), span: word.span() }),
    });
    pairs.collect()
}

/// Cuts a word at its first `=`.
fn cut<'a>(word: &Text<'a>) -> Option<(Text<'a>, Text<'a>)> {
    let at = word.as_str().find('=')?;
    Some((word.slice(0..at), word.from(at + 1)))
}
