//! How registries are reached, said for one command (FEATURES CL54).

use std::path::PathBuf;

use clap::Args;
use kiln::{Login, RegistryConfig, Verify};

use super::parse_bool;
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
        Ok(match self.tls_verify {
            Some(true) => config.verify(Verify::All),
            Some(false) => config.verify(Verify::None),
            None => config,
        })
    }
}
