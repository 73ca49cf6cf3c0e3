//! RUN and its flags (FEATURES RN).

use super::{Request, device, exec, mount};
use crate::flags::{Flags, Known, Takes};
use crate::{InstructionKind, ParseError, Run, RunNetwork, RunSecurity, Spanned};

const FLAGS: Known =
    &[("device", Takes::Many), ("mount", Takes::Many), ("network", Takes::One), ("security", Takes::One)];

pub(super) fn parse(mut request: Request<'_>) -> Result<InstructionKind, ParseError> {
    let flags = request.checked_flags(FLAGS)?;
    let mounts = flags.values("mount").map(|flag| {
        let mount = mount::parse(&flag.value)
            .map_err(|problem| ParseError::InvalidMount { problem, span: flag.span })?;
        Ok(Spanned { value: mount, span: flag.span })
    });
    let devices = flags.many("device").into_iter().map(|Spanned { value, span }| {
        let device = device::parse(&value).map_err(|problem| ParseError::InvalidDevice { problem, span })?;
        Ok(Spanned { value: device, span })
    });
    Ok(InstructionKind::Run(Box::new(Run {
        mounts: mounts.collect::<Result<_, _>>()?,
        command: exec::command(&request.args)?,
        heredocs: std::mem::take(&mut request.heredocs),
        network: network(&flags)?,
        security: security(&flags)?,
        devices: devices.collect::<Result<_, _>>()?,
        flags: flags.written(),
    })))
}

fn network(flags: &Flags) -> Result<Option<Spanned<RunNetwork>>, ParseError> {
    let Some(Spanned { value, span }) = flags.values("network").next() else { return Ok(None) };
    let value = match value.as_str() {
        "default" => RunNetwork::Default,
        "none" => RunNetwork::None,
        "host" => RunNetwork::Host,
        _ => return Err(ParseError::InvalidNetwork { mode: value, span }),
    };
    Ok(Some(Spanned { value, span }))
}

fn security(flags: &Flags) -> Result<Option<Spanned<RunSecurity>>, ParseError> {
    let Some(Spanned { value, span }) = flags.values("security").next() else { return Ok(None) };
    let value = match value.as_str() {
        "sandbox" => RunSecurity::Sandbox,
        "insecure" => RunSecurity::Insecure,
        _ => return Err(ParseError::InvalidSecurity { mode: value, span }),
    };
    Ok(Some(Spanned { value, span }))
}
