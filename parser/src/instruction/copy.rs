//! COPY and ADD (FEATURES CP).

use super::{Request, json_array, json_or_words};
use crate::flags::{Flags, Known, Takes};
use crate::{Add, Copy, CopySource, Heredoc, InstructionKind, ParseError, Spanned, heredoc};

const COPY_FLAGS: Known = &[
    ("chmod", Takes::One),
    ("chown", Takes::One),
    ("exclude", Takes::Many),
    ("from", Takes::One),
    ("link", Takes::Bool),
    ("parents", Takes::Bool),
];

const ADD_FLAGS: Known = &[
    ("checksum", Takes::One),
    ("chmod", Takes::One),
    ("chown", Takes::One),
    ("exclude", Takes::Many),
    ("keep-git-dir", Takes::Bool),
    ("link", Takes::Bool),
    ("unpack", Takes::Bool),
];

pub(super) fn parse_copy(request: Request<'_>) -> Result<InstructionKind, ParseError> {
    let (copy, _) = parse(request, COPY_FLAGS)?;
    // A name that depends on arguments would make the graph of stages depend on them (FEATURES VX15).
    match &copy.from {
        Some(from) if from.value.contains('$') => Err(ParseError::FromVariable { span: from.span }),
        _ => Ok(InstructionKind::Copy(copy)),
    }
}

pub(super) fn parse_add(request: Request<'_>) -> Result<InstructionKind, ParseError> {
    let (copy, flags) = parse(request, ADD_FLAGS)?;
    Ok(InstructionKind::Add(Add {
        copy,
        checksum: flags.one("checksum"),
        keep_git_dir: flags.switch("keep-git-dir"),
        unpack: flags.switch("unpack"),
    }))
}

fn parse(mut request: Request<'_>, known: Known) -> Result<(Copy, Flags), ParseError> {
    let instruction = request.keyword;
    let is_json = json_array(&request.args)?.is_some();
    let mut words = json_or_words(&request.args)?;
    let dest = match words.pop() {
        Some(dest) if !words.is_empty() => dest,
        _ => return Err(ParseError::NoDestination { instruction, span: request.whole.span() }),
    };
    let flags = request.checked_flags(known)?;
    if !is_json && heredoc::in_word(&dest.value).is_some() {
        return Err(ParseError::HeredocAsDestination { instruction, span: dest.span });
    }
    let mut heredocs = std::mem::take(&mut request.heredocs);
    let copy = Copy {
        sources: words.into_iter().map(|word| source(word, &mut heredocs)).collect(),
        dest,
        from: flags.one("from"),
        chown: flags.one("chown"),
        chmod: flags.one("chmod"),
        link: flags.switch("link").unwrap_or(false),
        parents: flags.switch("parents").unwrap_or(false),
        exclude: flags.many("exclude"),
    };
    Ok((copy, flags))
}

/// Takes the word's heredoc out of those read, or leaves the word a path.
fn source(word: Spanned<String>, heredocs: &mut Vec<Heredoc>) -> CopySource {
    if heredocs.is_empty() {
        return CopySource::Path(word);
    }
    let found = heredoc::in_word(&word.value)
        .and_then(|delimiter| heredocs.iter().position(|heredoc| heredoc.name == delimiter.name));
    match found {
        Some(index) => CopySource::Heredoc(heredocs.remove(index)),
        None => CopySource::Path(word),
    }
}
