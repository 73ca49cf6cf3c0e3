//! How registries are reached, said for one command (FEATURES CL54).

use std::path::PathBuf;

use clap::Args;
use kiln::{Login, RegistryConfig, Retry, Server, TokenServer, Verify};

use super::limits::duration;
use super::{csv, parse_bool};
use crate::report::Failure;

/// The flags that `podman` and `buildah` have for it.
#[derive(Debug, Default, Args)]
pub(crate) struct RegistryArgs {
    /// The file that logins are kept in (in place of docker's config.json)
    #[arg(long, value_name = "FILE")]
    pub authfile: Option<PathBuf>,
    /// Log in so for this command (`USER:PASSWORD`)
    #[arg(long, value_name = "USER:PASSWORD", allow_hyphen_values = true)]
    pub creds: Option<String>,
    /// A folder with authorities (*.crt) and client certificates (*.cert, *.key)
    #[arg(long, value_name = "DIR")]
    pub cert_dir: Option<PathBuf>,
    /// Whether registries must prove who they are (default: as configured for each)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = parse_bool, hide_possible_values = true)]
    pub tls_verify: Option<bool>,
    /// How often to try again what a registry refuses for a moment (default: 4)
    #[arg(long, value_name = "NUMBER")]
    pub retry: Option<u32>,
    /// How long to wait before that; each further wait is twice as long (default: 500ms)
    #[arg(long, value_name = "DURATION")]
    pub retry_delay: Option<String>,
    /// How the server of a registry's tokens is trusted, if not as others are
    /// (`host=REGISTRY[,ca=FILE][,cert=FILE,key=FILE][,insecure=true]`)
    #[arg(long, value_name = "TRUST", allow_hyphen_values = true)]
    pub registry_auth_tlscontext: Vec<String>,
}

impl RegistryArgs {
    /// What the environment and its files say, and what was said here.
    pub(crate) fn config(&self) -> Result<RegistryConfig, Failure> {
        let mut config = RegistryConfig::load(&crate::command::env).map_err(kiln::Error::from)?;
        if let Some(path) = &self.authfile {
            config = config.auth_file(path).map_err(kiln::Error::from)?;
        }
        if let Some(creds) = &self.creds {
            let (username, password) =
                creds.split_once(':').ok_or_else(|| Failure::usage("--creds takes USER:PASSWORD"))?;
            config = config.login(Login { username: username.to_owned(), password: password.to_owned() });
        }
        if let Some(directory) = &self.cert_dir {
            config = config.certificate_dir(directory);
        }
        let mut retry = Retry::default();
        retry.attempts = self.retry.map_or(retry.attempts, |times| times.saturating_add(1));
        if let Some(text) = &self.retry_delay {
            retry.first_delay = duration("--retry-delay", text)?;
        }
        config = config.retry(retry);
        for text in &self.registry_auth_tlscontext {
            let (registry, trust) = token_server(text)
                .map_err(|problem| Failure::usage(format!("--registry-auth-tlscontext {text}: {problem}")))?;
            config = config.token_server(&registry, trust);
        }
        Ok(match self.tls_verify {
            Some(true) => config.verify(Verify::All),
            Some(false) => config.verify(Verify::None),
            None => config,
        })
    }
}

/// buildctl's spelling: `host=` and how that registry's token server is trusted.
fn token_server(text: &str) -> Result<(Server, TokenServer), String> {
    let (mut host, mut certificate, mut key) = (None, None, None);
    let mut trust = TokenServer::default();
    for field in csv::fields(text)? {
        let (name, value) = field.split_once('=').ok_or_else(|| format!("`{field}` is no key=value"))?;
        match name.to_lowercase().as_str() {
            "host" => host = Some(Server::parse(value)),
            "ca" => trust.authority = Some(value.into()),
            "cert" => certificate = Some(value.into()),
            "key" => key = Some(value.into()),
            "insecure" => trust.insecure = parse_bool(value).map_err(|error| format!("insecure: {error}"))?,
            _ => return Err(format!("there is no key `{name}`")),
        }
    }
    trust.client = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => return Err("cert= and key= belong together".into()),
    };
    if trust == TokenServer::default() {
        return Err("it says neither ca=, nor cert= and key=, nor insecure=true".into());
    }
    Ok((host.ok_or("host= is missing")?, trust))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_server_is_trusted_by_authority_certificate_or_blindly() {
        let (server, trust) = token_server("host=https://r.example:5000,ca=/ca,cert=/c,key=/k").unwrap();
        assert_eq!(server.host(), "r.example:5000");
        let client = Some(("/c".into(), "/k".into()));
        assert_eq!(trust, TokenServer { insecure: false, authority: Some("/ca".into()), client });
        assert!(token_server("host=r,insecure=true").unwrap().1.insecure);
        for wrong in ["ca=/ca", "host=r", "host=r,cert=/c", "host=r,ca", "host=r,insecure=x", "host=r,x=y"] {
            assert!(token_server(wrong).is_err(), "{wrong}");
        }
    }
}
