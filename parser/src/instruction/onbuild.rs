//! ONBUILD: an instruction kept for the build that starts from this image (FEATURES MI17).

use super::{Parsed, Request};
use crate::{Instruction, InstructionKind, Onbuild, ParseError};

pub(super) fn parse(mut request: Request<'_>) -> Result<InstructionKind, ParseError> {
    if request.args.is_empty() {
        return Err(request.no_arguments());
    }
    let span = request.args.span();
    request.checked_flags(&[])?;
    let mut inner = Request::new(request.args.clone(), request.escape)?;
    refuse(&inner)?;
    let mut trigger = request.args.as_str().to_owned();
    for heredoc in &request.heredocs {
        trigger.push('\n');
        trigger.push_str(&heredoc.raw);
        trigger.push_str(&heredoc.name);
    }
    let original = request.args.as_str().to_owned();
    inner.heredocs = std::mem::take(&mut request.heredocs);
    let kind = match inner.parse()? {
        Parsed::Other(kind) => kind,
        Parsed::From(_) => return Err(ParseError::ForbiddenTrigger { instruction: "FROM", span }),
    };
    let instruction = Box::new(Instruction { kind, span, original, comment: Vec::new() });
    Ok(InstructionKind::Onbuild(Onbuild { trigger, instruction }))
}

/// Refuses what cannot be a trigger.
pub(crate) fn refuse(request: &Request<'_>) -> Result<(), ParseError> {
    let span = request.whole.split_word().0.span();
    match request.keyword {
        "ONBUILD" => Err(ParseError::ChainedOnbuild { span }),
        "FROM" | "MAINTAINER" => Err(ParseError::ForbiddenTrigger { instruction: request.keyword, span }),
        _ => Ok(()),
    }
}
