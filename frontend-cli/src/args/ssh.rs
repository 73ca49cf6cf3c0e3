//! `--ssh default|id[=socket]` (FEATURES CL8).

use std::os::unix::fs::FileTypeExt as _;
use std::path::PathBuf;

/// Understands one `--ssh`: its id and the agent's socket.
pub(crate) fn parse(
    text: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<(String, PathBuf), String> {
    let (id, path) = text.split_once('=').unwrap_or((text, ""));
    let id = if id.is_empty() { "default" } else { id };
    if path.is_empty() {
        return match lookup("SSH_AUTH_SOCK").filter(|socket| !socket.is_empty()) {
            Some(socket) => Ok((id.to_owned(), socket.into())),
            None => Err(format!("--ssh {text}: no agent is running (SSH_AUTH_SOCK is not set)")),
        };
    }
    let socket = PathBuf::from(path);
    match std::fs::metadata(&socket) {
        Ok(metadata) if metadata.file_type().is_socket() => Ok((id.to_owned(), socket)),
        // `key,key` is no file itself.
        Ok(_) => Err(keys_are_not_supported(text)),
        Err(_) if path.contains(',') => Err(keys_are_not_supported(text)),
        Err(error) => Err(format!("--ssh {text}: {path}: {error}")),
    }
}

fn keys_are_not_supported(text: &str) -> String {
    format!("--ssh {text}: key files are not supported yet, only the socket of a running ssh-agent")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_is_the_running_agents_socket() {
        let lookup = |name: &str| (name == "SSH_AUTH_SOCK").then(|| "/run/agent".to_owned());
        assert_eq!(parse("default", &lookup).unwrap(), ("default".into(), "/run/agent".into()));
        assert_eq!(parse("git=", &lookup).unwrap(), ("git".into(), "/run/agent".into()));
        assert!(parse("default", &|_| None).unwrap_err().contains("SSH_AUTH_SOCK"));
    }

    #[test]
    fn a_key_file_is_refused_in_clear_words() {
        let key = tempfile::NamedTempFile::new().unwrap();
        let error = parse(&format!("default={}", key.path().display()), &|_| None).unwrap_err();
        assert!(error.contains("key files are not supported yet"), "{error}");
    }

    #[test]
    fn a_socket_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(parse(&format!("a={}", path.display()), &|_| None).unwrap(), ("a".into(), path));
    }
}
