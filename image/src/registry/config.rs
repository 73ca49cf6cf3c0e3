//! What the user has configured for registries, read once.

use std::path::Path;

use super::RegistryError;
use super::credentials::CredentialStore;
use super::mirrors::Mirrors;
use crate::http::{ProxyRules, Retry};

/// Longest configuration file that is read.
const MAX_FILE_BYTES: u64 = 8 << 20;

/// Mirrors, insecure registries and credentials: `registries.conf`, `auth.json`, `~/.docker/config.json`.
///
/// The default is none of them: every registry by HTTPS, without a login and without proxies.
#[derive(Clone, Debug, Default)]
pub struct RegistryConfig {
    pub(crate) mirrors: Mirrors,
    pub(crate) credentials: CredentialStore,
    pub(crate) proxies: ProxyRules,
    pub(crate) retry: Retry,
}

impl RegistryConfig {
    /// Reads `CONTAINERS_REGISTRIES_CONF` (else `$XDG_CONFIG_HOME/containers/registries.conf`, else
    /// `/etc/containers/registries.conf`), docker's credentials (`DOCKER_AUTH_CONFIG`, `DOCKER_CONFIG`), podman's
    /// (`REGISTRY_AUTH_FILE`, `auth.json`) and the proxies. `env` looks variables up.
    ///
    /// # Errors
    /// A file that exists and cannot be read or parsed.
    pub fn load(env: &dyn Fn(&str) -> Option<String>) -> Result<Self, RegistryError> {
        Ok(Self {
            mirrors: Mirrors::load(env)?,
            credentials: CredentialStore::load(env)?,
            proxies: ProxyRules::from_env(env),
            retry: Retry::default(),
        })
    }

    /// Sets how often what failed for a moment is tried again.
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
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
    let mut text = String::new();
    file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(|error| invalid(error.to_string()))?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(invalid(format!("larger than {MAX_FILE_BYTES} bytes")));
    }
    Ok(Some(text))
}
