//! What the user has configured for registries, each file read once.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::RegistryError;
use super::credentials::CredentialStore;
use super::login::{Login, Server};
use super::registries_conf::Registries;
use crate::http::{CertificateDirs, ProxyRules, Retry};

/// Longest configuration file that is read.
const MAX_FILE_BYTES: u64 = 8 << 20;

/// Mirrors, insecure registries and credentials: `registries.conf`, `auth.json`, `~/.docker/config.json`.
///
/// The default is none of them: every registry by HTTPS, without a login and without proxies.
#[derive(Clone, Debug, Default)]
pub struct RegistryConfig {
    pub(crate) registries: Registries,
    pub(crate) credentials: CredentialStore,
    pub(crate) proxies: ProxyRules,
    pub(crate) certificates: CertificateDirs,
    /// For all registries: whether they must prove who they are, in place of what is configured for each.
    pub(crate) verify: Option<Verify>,
    pub(crate) retry: Retry,
    /// By registry.
    pub(crate) token_servers: BTreeMap<String, TokenServer>,
}

/// How the server is trusted that gives a registry's tokens, where it is another one than the registry
/// (`--registry-auth-tlscontext`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenServer {
    /// Take whoever answers.
    pub insecure: bool,
    /// A file with authorities whose word counts beside the system's.
    pub authority: Option<PathBuf>,
    /// Files with the client's own certificate and its key.
    pub client: Option<(PathBuf, PathBuf)>,
}

impl RegistryConfig {
    /// Finds `CONTAINERS_REGISTRIES_CONF` (else `$XDG_CONFIG_HOME/containers/registries.conf`, else
    /// `/etc/containers/registries.conf`, and the directories beside them), which is read when it is first needed; reads
    /// docker's credentials (`DOCKER_AUTH_CONFIG`, `DOCKER_CONFIG`), podman's
    /// (`REGISTRY_AUTH_FILE`, `auth.json`), the proxies, and where certificates lie (`certs.d`). `env` looks variables up.
    ///
    /// # Errors
    /// A file that exists and cannot be read or parsed.
    pub fn load(env: &dyn Fn(&str) -> Option<String>) -> Result<Self, RegistryError> {
        Ok(Self {
            registries: Registries::of(env),
            credentials: CredentialStore::load(env)?,
            proxies: ProxyRules::from_env(env),
            certificates: CertificateDirs::from_env(env),
            verify: None,
            retry: Retry::default(),
            token_servers: BTreeMap::new(),
        })
    }

    /// Sets how often what failed for a moment is tried again.
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }
}

/// Whether registries must prove who they are (`--tls-verify`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// Also those on loopback and those that are declared insecure.
    All,
    /// None; plain HTTP will do.
    None,
}

impl RegistryConfig {
    /// One folder with authorities (`*.crt`) and client certificates (`*.cert`, `*.key`) for all registries
    /// (`--cert-dir`).
    #[must_use]
    pub fn certificate_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.certificates = CertificateDirs::only(directory.into());
        self
    }

    /// Says for all registries whether they must prove who they are.
    #[must_use]
    pub fn verify(mut self, verify: Verify) -> Self {
        self.verify = Some(verify);
        self
    }

    /// Says how the server of `registry`'s tokens is trusted.
    #[must_use]
    pub fn token_server(mut self, registry: &Server, trust: TokenServer) -> Self {
        self.token_servers.insert(registry.host().to_owned(), trust);
        self
    }

    /// Uses this login with every registry and no other (`--creds`).
    #[must_use]
    pub fn login(mut self, login: Login) -> Self {
        self.credentials = CredentialStore::only(login.into());
        self
    }

    /// Reads logins from this file only, which `kiln login` writes as well (`--authfile`).
    ///
    /// # Errors
    /// It cannot be read or parsed.
    pub fn auth_file(mut self, path: impl Into<PathBuf>) -> Result<Self, RegistryError> {
        self.credentials = self.credentials.with_file(path.into())?;
        Ok(self)
    }
}

/// A configuration file's text, `None` when there is none.
pub(crate) fn read_optional(path: &Path) -> Result<Option<String>, RegistryError> {
    use std::io::Read as _;
    let invalid = |reason: String| RegistryError::InvalidConfig { path: path.to_owned(), reason };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error)
            if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(invalid(error.to_string())),
    };
    // Most are shorter: they are read at once.
    let mut text = String::with_capacity(16 << 10);
    file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(|error| invalid(error.to_string()))?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(invalid(format!("larger than {MAX_FILE_BYTES} bytes")));
    }
    Ok(Some(text))
}
