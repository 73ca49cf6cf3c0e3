//! What a runtime says when it could not do what it was asked.

use std::io;

use serde_json::Value;

use crate::{SandboxError, Spec};

/// The failure that a runtime which ended with an error has logged, if the fault was not the command's own.
pub(crate) fn failure(name: &str, log: &[u8], spec: &Spec) -> Option<SandboxError> {
    let message = log.split(|&byte| byte == b'\n').filter_map(error_of_line).next_back()?;
    let command = spec.argv.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
    // The specification says nothing of errors; this is how docker tells its statuses 126 and 127 apart.
    let says = |words: &[&str]| words.iter().any(|word| message.to_ascii_lowercase().contains(word));
    let is_of_command = says(&["exec", "open executable"]);
    if is_of_command && says(&["not found", "no such file or directory"]) {
        return Some(SandboxError::CommandNotFound(command));
    }
    let not_executable =
        |errno| SandboxError::NotExecutable { command, source: io::Error::from_raw_os_error(errno) };
    if is_of_command && says(&["exec format error"]) {
        return Some(not_executable(libc::ENOEXEC));
    }
    if is_of_command && says(&["not permitted", "permission denied", "is a directory"]) {
        return Some(not_executable(libc::EACCES));
    }
    Some(SandboxError::Setup { step: name.to_owned(), source: io::Error::other(message) })
}

/// The text of a log line about an error: `msg` of runc and crun, `fields.message` of youki.
fn error_of_line(line: &[u8]) -> Option<String> {
    let line: Value = serde_json::from_slice(line).ok()?;
    let level = line.get("level")?.as_str()?.to_ascii_lowercase();
    let text = line.get("msg").or_else(|| line.get("fields")?.get("message"))?;
    matches!(level.as_str(), "error" | "fatal").then(|| text.as_str().map(str::to_owned))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Binfmt, Capabilities, Dns, Identity, Io, Limits, Network, Rootfs, Security, SecurityOptions,
    };

    fn spec() -> Spec {
        Spec {
            rootfs: Rootfs {
                layers: vec![],
                upper: "/u".into(),
                work: "/w".into(),
                stubs: None,
                trees: None,
            },
            argv: vec!["tool".into()],
            env: vec![],
            cwd: "/".into(),
            identity: Identity::default(),
            hostname: "box".into(),
            mounts: vec![],
            network: Network::None,
            extra_hosts: vec![],
            dns: Dns::default(),
            security: Security::Sandbox,
            capabilities: Capabilities::default(),
            options: SecurityOptions::default(),
            binfmt: Binfmt::AsIs,
            limits: Limits::default(),
            io: Io::Captured,
        }
    }

    #[test]
    fn errors_of_runtimes_are_told_apart() {
        let text = |log: &str| failure("crun", log.as_bytes(), &spec()).map(|error| error.to_string());
        let crun = r#"{"msg":"executable file `tool` not found in $PATH: No such file or directory","level":"error"}"#;
        let runc = r#"{"level":"error","msg":"runc run failed: exec: \"tool\": executable file not found in $PATH"}"#;
        for log in [crun, runc] {
            assert_eq!(text(log).unwrap(), "tool: command not found in the image");
        }
        let refused = r#"{"level":"error","msg":"open executable: Permission denied"}"#;
        assert_eq!(text(refused).unwrap(), "tool: cannot be executed: Permission denied (os error 13)");
        let youki = r#"{"level":"ERROR","fields":{"message":"failed to mount"},"target":"x"}"#;
        assert_eq!(text(youki).unwrap(), "sandbox: crun: failed to mount");
        assert_eq!(text("{\"level\":\"warning\",\"msg\":\"slow\"}\nno JSON\n"), None);
    }
}
