//! The proxies that docker's configuration has for builds (docker's reference, "Configure the Docker CLI to use a proxy").

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::daemon::docker_dir;

/// docker's own limit is none; a configuration of more than this is somebody's mistake.
const MAX_CONFIG_BYTES: u64 = 4 << 20;

/// Build arguments for the proxies of `config.json`: those of the daemon in `DOCKER_HOST` if it has any, else the default's.
/// Each has both spellings, as in docker. `env` looks up the user's environment.
///
/// A configuration that cannot be read gives none: who needs it for more than this will tell.
pub fn docker_proxies(env: &dyn Fn(&str) -> Option<String>) -> Vec<(String, String)> {
    let path = docker_dir(env).map(|folder| folder.join("config.json"));
    let text =
        path.and_then(|path| crate::context::read_text_of_user(&path, MAX_CONFIG_BYTES).ok().flatten());
    let config = text.and_then(|text| serde_json::from_slice::<Config>(&text).ok()).unwrap_or_default();
    let own = env("DOCKER_HOST").and_then(|host| config.proxies.get(&host));
    let Some(proxies) = own.or_else(|| config.proxies.get("default")) else { return Vec::new() };
    let pairs = [
        ("HTTP_PROXY", &proxies.http),
        ("HTTPS_PROXY", &proxies.https),
        ("NO_PROXY", &proxies.no),
        ("FTP_PROXY", &proxies.ftp),
        ("ALL_PROXY", &proxies.all),
    ];
    let pairs = pairs.into_iter().filter(|(_, value)| !value.is_empty());
    pairs
        .flat_map(|(name, value)| [name.to_owned(), name.to_lowercase()].map(|name| (name, value.clone())))
        .collect()
}

#[derive(Default, Deserialize)]
struct Config {
    #[serde(default)]
    proxies: BTreeMap<String, Proxies>,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Proxies {
    #[serde(rename = "httpProxy")]
    http: String,
    #[serde(rename = "httpsProxy")]
    https: String,
    #[serde(rename = "noProxy")]
    no: String,
    #[serde(rename = "ftpProxy")]
    ftp: String,
    #[serde(rename = "allProxy")]
    all: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_has_its_own_proxies_or_the_defaults() {
        let folder = tempfile::tempdir().unwrap();
        let text = r#"{"auths": {}, "proxies": {
            "default": {"httpProxy": "http://a:1", "noProxy": "x"}, "tcp://b:2": {"allProxy": "c"}}}"#;
        std::fs::write(folder.path().join("config.json"), text).unwrap();
        let of = |host: Option<&str>| {
            docker_proxies(&|name| match name {
                "DOCKER_CONFIG" => Some(folder.path().display().to_string()),
                "DOCKER_HOST" => host.map(str::to_owned),
                _ => None,
            })
        };
        let named = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
        };
        let default = [
            ("HTTP_PROXY", "http://a:1"),
            ("http_proxy", "http://a:1"),
            ("NO_PROXY", "x"),
            ("no_proxy", "x"),
        ];
        assert_eq!(of(None), named(&default));
        assert_eq!(of(Some("tcp://other:1")), named(&default));
        assert_eq!(of(Some("tcp://b:2")), named(&[("ALL_PROXY", "c"), ("all_proxy", "c")]));
        std::fs::write(folder.path().join("config.json"), "{").unwrap();
        assert_eq!(of(None), []);
    }
}
