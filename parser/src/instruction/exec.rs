//! CMD, ENTRYPOINT and SHELL: the shell form and the exec form (Dockerfile reference, "Shell and exec form").

use super::{Request, json_array};
use crate::lexer::Text;
use crate::{Command, InstructionKind, ParseError};

pub(super) fn parse_cmd(mut request: Request<'_>) -> Result<InstructionKind, ParseError> {
    request.checked_flags(&[])?;
    command(&request.args).map(InstructionKind::Cmd)
}

pub(super) fn parse_entrypoint(mut request: Request<'_>) -> Result<InstructionKind, ParseError> {
    request.checked_flags(&[])?;
    command(&request.args).map(InstructionKind::Entrypoint)
}

pub(super) fn parse_shell(mut request: Request<'_>) -> Result<InstructionKind, ParseError> {
    request.checked_flags(&[])?;
    match json_array(&request.args)? {
        Some(words) if words.is_empty() => Err(request.no_arguments()),
        Some(words) => Ok(InstructionKind::Shell(words)),
        None if request.args.is_empty() => Err(request.no_arguments()),
        None => Err(ParseError::ShellNotJson { span: request.args.span() }),
    }
}

/// Reads a command in either form.
pub(super) fn command(args: &Text<'_>) -> Result<Command, ParseError> {
    Ok(match json_array(args)? {
        Some(words) => Command::Exec(words),
        None => Command::Shell(args.as_str().to_owned()),
    })
}
