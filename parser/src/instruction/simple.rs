//! The instructions that take their words as they are: EXPOSE, VOLUME, and those with exactly one argument
//! (MAINTAINER, STOPSIGNAL, USER, WORKDIR), which is the whole rest of the line.

use super::{Request, json_or_words};
use crate::lexer::Text;
use crate::{InstructionKind, ParseError, Spanned};

pub(super) fn one_argument(mut request: Request<'_>) -> Result<Spanned<String>, ParseError> {
    if request.args.is_empty() {
        let span = request.whole.span();
        return Err(ParseError::NotOneArgument { instruction: request.keyword, span });
    }
    request.checked_flags(&[])?;
    Ok(request.args.spanned())
}

pub(super) fn parse_expose(mut request: Request<'_>) -> Result<InstructionKind, ParseError> {
    if request.args.is_empty() {
        return Err(request.no_arguments());
    }
    request.checked_flags(&[])?;
    Ok(InstructionKind::Expose(request.args.words().iter().map(Text::spanned).collect()))
}

pub(super) fn parse_volume(mut request: Request<'_>) -> Result<InstructionKind, ParseError> {
    request.checked_flags(&[])?;
    let volumes: Vec<_> = json_or_words(&request.args)?
        .into_iter()
        .map(|volume| Spanned { value: volume.value.trim().to_owned(), span: volume.span })
        .collect();
    if volumes.is_empty() {
        return Err(request.no_arguments());
    }
    match volumes.iter().find(|volume| volume.value.is_empty()) {
        Some(empty) => Err(ParseError::EmptyVolume { span: empty.span }),
        None => Ok(InstructionKind::Volume(volumes)),
    }
}
