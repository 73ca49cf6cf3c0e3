//! Logins: docker's `config.json`, podman's `auth.json`, and credential helpers.

use std::collections::HashMap;
use std::fmt;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use base64::Engine as _;
use serde::Deserialize;

use super::RegistryError;
use super::config::read_optional;

/// The key under which docker keeps Docker Hub's login.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";
/// What helpers give as user name when the secret is an identity token.
pub(crate) const TOKEN_USER: &str = "<token>";
/// How a helper says that it has no such login.
const NOT_FOUND: &str = "credentials not found in native keychain";
/// Longest answer of a helper.
const MAX_HELPER_BYTES: usize = 1 << 20;
/// How often a wait for a helper looks whether it is cancelled.
const CANCEL_POLL: Duration = Duration::from_millis(50);

/// A text that `Debug` does not show.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(pub(crate) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// What a registry is told about the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Credentials {
    /// User name and password.
    Basic {
        /// Who.
        username: String,
        /// The password.
        password: Secret,
    },
    /// A refresh token of OAuth2, exchanged at the registry's token server.
    IdentityToken(Secret),
}

impl Credentials {
    /// The `Authorization` header of HTTP's basic scheme, which identity tokens have none of.
    pub(crate) fn basic(&self) -> Option<String> {
        match self {
            Self::Basic { username, password } => {
                let pair = format!("{username}:{}", password.0);
                Some(format!("Basic {}", base64::prelude::BASE64_STANDARD.encode(pair)))
            }
            Self::IdentityToken(_) => None,
        }
    }
}

/// The files' contents, first asked first.
#[derive(Clone, Debug, Default)]
pub(crate) struct CredentialStore {
    /// For every registry, in place of what the files say.
    only: Option<Credentials>,
    files: Vec<AuthFile>,
    /// The file that a new login is written to.
    target: Option<PathBuf>,
    /// Directories to find helpers in, as the host's PATH names them.
    path: Vec<PathBuf>,
}

#[derive(Clone, Debug, Default)]
struct AuthFile {
    /// By host, or host and namespace.
    logins: HashMap<String, Credentials>,
    helpers: HashMap<String, String>,
    store: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(default)]
    auths: Option<HashMap<String, Option<Entry>>>,
    #[serde(default)]
    cred_helpers: Option<HashMap<String, String>>,
    #[serde(default)]
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

/// What a helper prints (docker-credential-helpers, "get").
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: String,
}

impl CredentialStore {
    pub(crate) fn load(env: &dyn Fn(&str) -> Option<String>) -> Result<Self, RegistryError> {
        let get = |name| env(name).filter(|value| !value.is_empty());
        let directory = |name| get(name).map(PathBuf::from);
        let home = directory("HOME");
        let mut files = Vec::new();
        if let Some(text) = get("DOCKER_AUTH_CONFIG") {
            files.push(parse(Path::new("$DOCKER_AUTH_CONFIG"), &text)?);
        }
        let docker = directory("DOCKER_CONFIG").or_else(|| Some(home.as_ref()?.join(".docker")));
        let config = directory("XDG_CONFIG_HOME").or_else(|| Some(home.as_ref()?.join(".config")));
        let docker = docker.map(|directory| directory.join("config.json"));
        let named = directory("REGISTRY_AUTH_FILE");
        let target = named.clone().or_else(|| docker.clone());
        let candidates = [
            named,
            docker,
            directory("XDG_RUNTIME_DIR").map(|directory| directory.join("containers/auth.json")),
            config.map(|directory| directory.join("containers/auth.json")),
        ];
        for path in candidates.into_iter().flatten() {
            if let Some(text) = read_optional(&path)? {
                files.push(parse(&path, &text)?);
            }
        }
        let path = get("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
        Ok(Self { only: None, files, target, path })
    }

    /// This login for every registry.
    pub(crate) fn only(credentials: Credentials) -> Self {
        Self { only: Some(credentials), ..Self::default() }
    }

    /// With what one file says in place of all others.
    pub(crate) fn with_file(self, path: PathBuf) -> Result<Self, RegistryError> {
        let found = read_optional(&path)?.map(|text| parse(&path, &text)).transpose()?;
        Ok(Self { only: None, files: found.into_iter().collect(), target: Some(path), path: self.path })
    }

    /// The file that a new login is written to.
    pub(crate) fn target(&self) -> Option<&Path> {
        self.target.as_deref()
    }

    /// The login for a repository: of the first file that has one; a helper wins over what stands in the file.
    pub(crate) fn find(
        &self,
        registry: &str,
        repository: &str,
        cancel: &AtomicBool,
    ) -> Result<Option<Credentials>, RegistryError> {
        if let Some(only) = &self.only {
            return Ok(Some(only.clone()));
        }
        for file in &self.files {
            let helper = file.helpers.get(registry).or_else(|| file.helpers.get(server_key(registry)));
            if let Some(helper) = helper.or(file.store.as_ref())
                && let Some(found) = self.ask_helper(helper, server_key(registry), cancel)?
            {
                return Ok(Some(found));
            }
            if let Some(found) = file.login(registry, repository) {
                return Ok(Some(found.clone()));
            }
        }
        Ok(None)
    }

    /// Asks a helper for a login; `None` when it knows none.
    fn ask_helper(
        &self,
        helper: &str,
        server: &str,
        cancel: &AtomicBool,
    ) -> Result<Option<Credentials>, RegistryError> {
        let answer = match self.run_helper(helper, "get", server.as_bytes(), cancel) {
            // The words that docker's helpers agree on.
            Err(RegistryError::CredentialHelper { reason, .. }) if reason.ends_with(NOT_FOUND) => {
                return Ok(None);
            }
            answer => answer?,
        };
        let answer: HelperAnswer = serde_json::from_slice(&answer)
            .map_err(|_| helper_error(helper, "its answer is not the JSON expected".into()))?;
        Ok(Some(match answer.username.as_str() {
            TOKEN_USER => Credentials::IdentityToken(Secret(answer.secret)),
            _ => Credentials::Basic { username: answer.username, password: Secret(answer.secret) },
        }))
    }

    /// Runs `docker-credential-<helper> <verb>`, `get`, `store` or `erase`; returns what it prints.
    pub(crate) fn run_helper(
        &self,
        helper: &str,
        verb: &str,
        input: &[u8],
        cancel: &AtomicBool,
    ) -> Result<Vec<u8>, RegistryError> {
        let failed = |reason: String| helper_error(helper, reason);
        // The name becomes part of a file's name.
        if helper.is_empty()
            || !helper.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
        {
            return Err(failed("not a helper's name".into()));
        }
        let program = self.find_program(&format!("docker-credential-{helper}"));
        let program = program.ok_or_else(|| failed("not found on PATH".into()))?;
        let mut child = Command::new(program)
            .arg(verb)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        if let Some(mut stdin) = child.stdin.take() {
            // A helper that does not read its input has its own reasons; its answer decides.
            let _ = stdin.write_all(input);
        }
        // A helper may ask for a passphrase in a window: the wait can be cancelled.
        let (sender, receiver) = sync_channel(1);
        std::thread::spawn(move || sender.send(child.wait_with_output()));
        let output = loop {
            match receiver.recv_timeout(CANCEL_POLL) {
                Ok(output) => break output.map_err(|error| failed(error.to_string()))?,
                Err(RecvTimeoutError::Timeout) if cancel.load(Ordering::Relaxed) => {
                    return Err(RegistryError::Canceled);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(failed("it ended without an answer".into()));
                }
            }
        };
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stdout);
            return Err(failed(format!("{}: {}", output.status, crate::oci::escape(words.trim()))));
        }
        if output.stdout.len() > MAX_HELPER_BYTES {
            return Err(failed(format!("its answer is larger than {MAX_HELPER_BYTES} bytes")));
        }
        Ok(output.stdout)
    }

    fn find_program(&self, name: &str) -> Option<PathBuf> {
        // A relative directory would mean the build context when kiln is started there.
        let absolute = self.path.iter().filter(|directory| directory.is_absolute());
        let executable = |path: &PathBuf| {
            path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
        };
        absolute.map(|directory| directory.join(name)).find(executable)
    }
}

impl AuthFile {
    /// The entry with the longest matching namespace (containers-auth.json(5)).
    fn login(&self, registry: &str, repository: &str) -> Option<&Credentials> {
        let mut name = format!("{registry}/{repository}");
        loop {
            if let Some(found) = self.logins.get(&name) {
                return Some(found);
            }
            name.truncate(name.rfind('/')?);
        }
    }
}

fn helper_error(helper: &str, reason: String) -> RegistryError {
    RegistryError::CredentialHelper { helper: crate::oci::escape(helper), reason }
}

/// The name under which helpers and docker know a registry.
pub(crate) fn server_key(registry: &str) -> &str {
    if registry == "docker.io" { DOCKER_HUB_KEY } else { registry }
}

/// A key of `auths` as host, or host and namespace.
pub(crate) fn normal_key(key: &str) -> String {
    let without_scheme = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
    let name = match without_scheme {
        // With a scheme it is an address, whose path (`/v1/`) means nothing.
        Some(rest) => rest.split('/').next().unwrap_or_default(),
        None => key.trim_end_matches('/'),
    };
    let name = name.strip_suffix("/v1").or_else(|| name.strip_suffix("/v2")).unwrap_or(name);
    match name.split_once('/') {
        Some((host, rest)) if is_docker_hub(host) => format!("docker.io/{rest}"),
        None if is_docker_hub(name) => "docker.io".to_owned(),
        _ => name.to_owned(),
    }
}

fn is_docker_hub(host: &str) -> bool {
    matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io")
}

fn parse(path: &Path, text: &str) -> Result<AuthFile, RegistryError> {
    let invalid = |reason: String| RegistryError::InvalidConfig { path: path.to_owned(), reason };
    // The parser's message may quote a secret: only the place is told.
    let file: File = serde_json::from_str(text).map_err(|error| {
        invalid(format!("not valid JSON of docker's form, line {} column {}", error.line(), error.column()))
    })?;
    let mut logins = HashMap::new();
    for (key, entry) in file.auths.unwrap_or_default() {
        let found = credentials(entry.unwrap_or_default())
            .map_err(|reason| invalid(format!("the entry `{}` {reason}", crate::oci::escape(&key))))?;
        if let Some(found) = found {
            logins.insert(normal_key(&key), found);
        }
    }
    let helpers = file.cred_helpers.unwrap_or_default();
    let helpers = helpers.into_iter().map(|(host, helper)| (normal_key(&host), helper)).collect();
    Ok(AuthFile { logins, helpers, store: file.creds_store.filter(|store| !store.is_empty()) })
}

fn credentials(entry: Entry) -> Result<Option<Credentials>, &'static str> {
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    if let Some(token) = given(entry.identitytoken) {
        return Ok(Some(Credentials::IdentityToken(Secret(token))));
    }
    if let Some(auth) = given(entry.auth) {
        let decoded = base64::prelude::BASE64_STANDARD
            .decode(auth.trim())
            .map_err(|_| "has an `auth` that is no base64")?;
        let decoded = String::from_utf8(decoded).map_err(|_| "has an `auth` that is no text")?;
        let (username, password) = decoded.split_once(':').ok_or("has an `auth` without a colon")?;
        let password = Secret(password.trim_end_matches('\0').to_owned());
        return Ok(Some(Credentials::Basic { username: username.to_owned(), password }));
    }
    Ok(match (given(entry.username), given(entry.password)) {
        (Some(username), Some(password)) => Some(Credentials::Basic { username, password: Secret(password) }),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(text: &str) -> CredentialStore {
        CredentialStore {
            files: vec![parse(Path::new("config.json"), text).unwrap()],
            ..CredentialStore::default()
        }
    }

    fn user(store: &CredentialStore, registry: &str, repository: &str) -> Option<String> {
        match store.find(registry, repository, &AtomicBool::new(false)).unwrap()? {
            Credentials::Basic { username, .. } => Some(username),
            Credentials::IdentityToken(_) => Some("token".into()),
        }
    }

    #[test]
    fn docker_hubs_login_is_found_under_its_old_address() {
        let store = store(r#"{"auths":{"https://index.docker.io/v1/":{"auth":"aHViOnB3"},"quay.io":{}}}"#);
        assert_eq!(user(&store, "docker.io", "library/busybox").as_deref(), Some("hub"));
        assert_eq!(user(&store, "quay.io", "a"), None);
    }

    #[test]
    fn the_longest_namespace_decides() {
        let store = store(
            r#"{"auths":{"quay.io":{"auth":"YTpw"},"quay.io/org":{"auth":"Yjpw"},"http://h:5000/v2/":{"auth":"Yzpw"}}}"#,
        );
        assert_eq!(user(&store, "quay.io", "x/y").as_deref(), Some("a"));
        assert_eq!(user(&store, "quay.io", "org/y").as_deref(), Some("b"));
        assert_eq!(user(&store, "h:5000", "y").as_deref(), Some("c"));
    }

    #[test]
    fn an_identity_token_wins_over_a_password() {
        let store = store(r#"{"auths":{"h.io":{"auth":"YTpw","identitytoken":"t"}}}"#);
        assert_eq!(user(&store, "h.io", "a").as_deref(), Some("token"));
    }

    #[test]
    fn a_broken_file_is_an_error_that_quotes_no_secret() {
        let error = parse(Path::new("config.json"), "{\"auths\":{\"h\":{\"auth\":CANARY}}}").unwrap_err();
        insta::assert_snapshot!(error, @"config.json: not valid JSON of docker's form, line 1 column 23");
        let error = parse(Path::new("config.json"), r#"{"auths":{"h":{"auth":"CANARY!"}}}"#).unwrap_err();
        insta::assert_snapshot!(error, @"config.json: the entry `h` has an `auth` that is no base64");
        assert!(!format!("{:?}", store(r#"{"auths":{"h.io":{"auth":"YTpDQU5BUlk="}}}"#)).contains("CANARY"));
    }

    #[test]
    fn a_helper_is_found_on_path_and_given_the_server_on_its_input() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("docker-credential-test");
        kiln_fixtures::script(
            &program,
            "#!/bin/sh\nread -r s || true\ncase $s in *none*) echo credentials not found in native keychain; exit 1;; esac\nprintf '{\"ServerURL\":\"x\",\"Username\":\"%s\",\"Secret\":\"s\"}' \"$s$1\"\n",
        );
        let mut store = store(r#"{"credsStore":"test","credHelpers":{"bad.io":"../x","gone.io":"gone"}}"#);
        store.path = vec![".".into(), directory.path().into()];
        assert_eq!(user(&store, "quay.io", "a").as_deref(), Some("quay.ioget"));
        assert_eq!(user(&store, "docker.io", "a").as_deref(), Some("https://index.docker.io/v1/get"));
        assert_eq!(user(&store, "none.io", "a"), None);
        for registry in ["bad.io", "gone.io"] {
            assert!(store.find(registry, "a", &AtomicBool::new(false)).is_err());
        }
    }
}
