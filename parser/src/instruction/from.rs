//! FROM (Dockerfile reference, "FROM"; FEATURES FR1, FR2; `--after`: FR23).

use super::Request;
use crate::flags::{Known, Takes};
use crate::{ParseError, Spanned};

const FLAGS: Known = &[("platform", Takes::One), ("after", Takes::One)];

/// A FROM line.
#[derive(Debug)]
pub(crate) struct From {
    pub(crate) base: Spanned<String>,
    /// In lower case.
    pub(crate) name: Option<Spanned<String>>,
    pub(crate) platform: Option<Spanned<String>>,
    pub(crate) after: Option<Spanned<String>>,
}

pub(super) fn parse(mut request: Request<'_>) -> Result<From, ParseError> {
    let words = request.args.words();
    let (base, name) = match words.as_slice() {
        [base] => (base, None),
        [base, keyword, name] if keyword.as_str().eq_ignore_ascii_case("as") => (base, Some((keyword, name))),
        [] => return Err(ParseError::FromArguments { span: request.whole.span() }),
        _ => return Err(ParseError::FromArguments { span: request.args.span() }),
    };
    let flags = request.checked_flags(FLAGS)?;
    let stage = name.map(|(_, name)| Spanned { value: name.as_str().to_lowercase(), span: name.span() });
    if let Some((_, written)) = name
        && !stage.as_deref().is_some_and(|name| is_stage_name(name))
    {
        return Err(ParseError::InvalidStageName { name: written.as_str().to_owned(), span: written.span() });
    }
    let (platform, after) = (flags.one("platform"), flags.one("after"));
    Ok(From { base: base.spanned(), name: stage, platform, after })
}

fn is_stage_name(name: &str) -> bool {
    name.starts_with(|ch: char| ch.is_ascii_lowercase())
        && name
            .chars()
            .all(|ch| ch.is_ascii_lowercase() || ch.is_ascii_digit() || matches!(ch, '-' | '_' | '.'))
}
