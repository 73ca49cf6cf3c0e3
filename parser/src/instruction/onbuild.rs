//! ONBUILD: an instruction kept for the build that starts from this image (FEATURES MI17).

use super::{Parsed, Request};
use crate::{Instruction, InstructionKind, Onbuild, ParseError};

pub(super) fn parse(mut request: Request<'_>) -> Result<InstructionKind, ParseError> {
    if request.args.is_empty() {
        return Err(request.no_arguments());
    }
    let span = request.args.span();
    request.checked_flags(&[])?;
    // BuildKit stores the blanks at the line's end as well.
    let mut trigger = request.args.untrimmed_end().as_str().to_owned();
    for heredoc in &request.heredocs {
        trigger.push('\n');
        trigger.push_str(&heredoc.raw);
        trigger.push_str(&heredoc.name);
    }
    let original = request.args.as_str().to_owned();
    let heredocs = std::mem::take(&mut request.heredocs);
    let parsed = Request::new(request.args, request.escape).and_then(|mut inner| {
        refuse(&inner)?;
        inner.heredocs = heredocs;
        inner.parse()
    });
    let instruction = match parsed {
        Ok(Parsed::Other(kind)) => Some(Box::new(Instruction { kind, span, original, comment: Vec::new() })),
        Ok(Parsed::From(_)) => return Err(ParseError::ForbiddenTrigger { instruction: "FROM", span }),
        Err(error) if is_seen_at_once(&error) => return Err(error),
        Err(_) => None,
    };
    Ok(InstructionKind::Onbuild(Onbuild { trigger, instruction }))
}

/// Whether BuildKit minds a trigger's mistake where ONBUILD stands: what its reading of words finds, and what can be no
/// trigger at all. Everything else is stored unseen.
fn is_seen_at_once(error: &ParseError) -> bool {
    matches!(
        error,
        ParseError::ChainedOnbuild { .. }
            | ParseError::ForbiddenTrigger { .. }
            | ParseError::NoValue { .. }
            | ParseError::NoEqualsSign { .. }
            | ParseError::NotOnlyStrings { .. }
    )
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
