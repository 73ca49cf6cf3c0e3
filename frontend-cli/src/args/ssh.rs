//! `--ssh default|id[=socket|key[,key…]]` (FEATURES CL8).

use std::os::unix::fs::FileTypeExt as _;
use std::path::PathBuf;

/// What an `--ssh` stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ssh {
    /// The socket of a running agent.
    Socket(PathBuf),
    /// Files with private keys.
    Keys(Vec<PathBuf>),
}

/// Understands one `--ssh`: its id, and where the keys are.
pub(crate) fn parse(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<(String, Ssh), String> {
    let (id, paths) = text.split_once('=').unwrap_or((text, ""));
    let id = if id.is_empty() { "default" } else { id };
    if paths.is_empty() {
        return match lookup("SSH_AUTH_SOCK").filter(|socket| !socket.is_empty()) {
            Some(socket) => Ok((id.to_owned(), Ssh::Socket(socket.into()))),
            None => Err(format!("--ssh {text}: no agent is running (SSH_AUTH_SOCK is not set)")),
        };
    }
    let mut keys = Vec::new();
    for path in paths.split(',') {
        let metadata = std::fs::metadata(path).map_err(|error| format!("--ssh {text}: {path}: {error}"))?;
        if metadata.file_type().is_socket() {
            if paths.contains(',') {
                return Err(format!("--ssh {text}: only one agent, and no key beside it, can be given"));
            }
            return Ok((id.to_owned(), Ssh::Socket(path.into())));
        }
        keys.push(path.into());
    }
    Ok((id.to_owned(), Ssh::Keys(keys)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_is_the_running_agents_socket() {
        let lookup = |name: &str| (name == "SSH_AUTH_SOCK").then(|| "/run/agent".to_owned());
        assert_eq!(parse("default", &lookup).unwrap(), ("default".into(), Ssh::Socket("/run/agent".into())));
        assert_eq!(parse("git=", &lookup).unwrap(), ("git".into(), Ssh::Socket("/run/agent".into())));
        assert!(parse("default", &|_| None).unwrap_err().contains("SSH_AUTH_SOCK"));
    }

    #[test]
    fn keys_are_files_and_must_be_there() {
        let key = tempfile::NamedTempFile::new().unwrap();
        let path = key.path();
        let text = format!("git={0},{0}", path.display());
        assert_eq!(
            parse(&text, &|_| None).unwrap(),
            ("git".into(), Ssh::Keys(vec![path.to_owned(), path.to_owned()]))
        );
        let error = parse("default=/nonexistent/key", &|_| None).unwrap_err();
        assert_eq!(
            error,
            "--ssh default=/nonexistent/key: /nonexistent/key: No such file or directory (os error 2)"
        );
    }

    #[test]
    fn a_socket_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(
            parse(&format!("a={}", path.display()), &|_| None).unwrap(),
            ("a".into(), Ssh::Socket(path))
        );
    }
}
