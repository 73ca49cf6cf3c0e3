//! Limits of single processes, rlimits by Docker's names.

use std::io;

use crate::{Limits, SandboxError};

/// A limit as setrlimit(2) takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rlimit {
    pub(crate) resource: u32,
    pub(crate) soft: u64,
    pub(crate) hard: u64,
}

/// Docker's names (`--ulimit`) and the kernel's numbers.
#[allow(clippy::unnecessary_cast, reason = "their type depends on the C library")]
const RESOURCES: &[(&str, u32)] = &[
    ("as", libc::RLIMIT_AS as u32),
    ("core", libc::RLIMIT_CORE as u32),
    ("cpu", libc::RLIMIT_CPU as u32),
    ("data", libc::RLIMIT_DATA as u32),
    ("fsize", libc::RLIMIT_FSIZE as u32),
    ("locks", libc::RLIMIT_LOCKS as u32),
    ("memlock", libc::RLIMIT_MEMLOCK as u32),
    ("msgqueue", libc::RLIMIT_MSGQUEUE as u32),
    ("nice", libc::RLIMIT_NICE as u32),
    ("nofile", libc::RLIMIT_NOFILE as u32),
    ("nproc", libc::RLIMIT_NPROC as u32),
    ("rss", libc::RLIMIT_RSS as u32),
    ("rtprio", libc::RLIMIT_RTPRIO as u32),
    ("rttime", libc::RLIMIT_RTTIME as u32),
    ("sigpending", libc::RLIMIT_SIGPENDING as u32),
    ("stack", libc::RLIMIT_STACK as u32),
];

/// Resolves the names of `limits`.
pub(crate) fn rlimits(limits: &Limits) -> Result<Vec<Rlimit>, SandboxError> {
    limits
        .ulimits
        .iter()
        .map(|(name, soft, hard)| {
            let known = RESOURCES.iter().find(|(known, _)| known == name);
            let (_, resource) = known.ok_or_else(|| SandboxError::Setup {
                step: format!("ulimit `{name}`"),
                source: io::Error::new(io::ErrorKind::InvalidInput, "there is no such limit"),
            })?;
            Ok(Rlimit { resource: *resource, soft: *soft, hard: *hard })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::unnecessary_cast, reason = "the type depends on the C library")]
    fn ulimits_have_dockers_names() {
        let limits = Limits { ulimits: vec![("nofile".into(), 10, 20)], ..Limits::default() };
        let expected = Rlimit { resource: libc::RLIMIT_NOFILE as u32, soft: 10, hard: 20 };
        assert_eq!(rlimits(&limits).unwrap(), [expected]);
        let limits = Limits { ulimits: vec![("files".into(), 10, 20)], ..Limits::default() };
        let error = rlimits(&limits).unwrap_err();
        assert_eq!(error.to_string(), "sandbox: ulimit `files`: there is no such limit");
    }
}
