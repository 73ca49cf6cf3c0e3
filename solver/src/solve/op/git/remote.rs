//! A remote without what must not be seen, and what proves who asks (FEATURES CP32).

use std::collections::HashMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::git_url::{percent_decoded, redacted};
use crate::solve::Secret;

/// A remote.
pub(super) struct Remote {
    /// For git: without a password, and for http without a user.
    pub(super) url: String,
    /// For people, keys and records.
    pub(super) shown: String,
    /// Git's setting and its value, `http.<address>.extraHeader`. Never in arguments: all users see those.
    pub(super) authorization: Option<(String, String)>,
}

impl Remote {
    /// Takes user name and password out of `remote`. Secrets of the build go before them.
    pub(super) fn of(remote: &str, secrets: &HashMap<String, Secret>) -> Self {
        let Some((scheme, rest)) = remote.split_once("://") else {
            return Self { url: remote.to_owned(), shown: remote.to_owned(), authorization: None };
        };
        let scheme = scheme.to_ascii_lowercase();
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        if !matches!(scheme.as_str(), "http" | "https") {
            let user = user.map(|user| user.split(':').next().unwrap_or(user));
            let url = match user {
                Some(user) => format!("{scheme}://{user}@{host}{path}"),
                None => format!("{scheme}://{host}{path}"),
            };
            return Self { shown: url.clone(), url, authorization: None };
        }
        let url = format!("{scheme}://{host}{path}");
        let header = secret_header(host, secrets).or_else(|| {
            let user = percent_decoded(user?);
            let user = if user.contains(':') { user } else { format!("{user}:") };
            Some(format!("Basic {}", base64(user.as_bytes())))
        });
        let authorization = header
            .map(|header| (format!("http.{}.extraHeader", scope(&url)), format!("Authorization: {header}")));
        Self { shown: redacted(&url), url, authorization }
    }
}

/// `GIT_AUTH_HEADER.<host>`, `GIT_AUTH_TOKEN.<host>`, `GIT_AUTH_HEADER`, `GIT_AUTH_TOKEN`: the first there is.
fn secret_header(host: &str, secrets: &HashMap<String, Secret>) -> Option<String> {
    let secret = |name: &str| {
        let value = String::from_utf8_lossy(&secrets.get(name)?.0).trim().to_owned();
        // A second line would be a header of its own.
        (!value.contains(char::is_control)).then_some(value)
    };
    let token = |name: &str| {
        secret(name).map(|token| format!("Basic {}", base64(format!("x-access-token:{token}").as_bytes())))
    };
    secret(&format!("GIT_AUTH_HEADER.{host}"))
        .or_else(|| token(&format!("GIT_AUTH_TOKEN.{host}")))
        .or_else(|| secret("GIT_AUTH_HEADER"))
        .or_else(|| token("GIT_AUTH_TOKEN"))
}

/// A token is for one repository, but for GitHub, whose tokens are for submodules as well (as actions/checkout has it).
fn scope(url: &str) -> &str {
    ["https://github.com/", "https://www.github.com/"]
        .into_iter()
        .find(|prefix| url.starts_with(prefix))
        .unwrap_or(url)
}

fn base64(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(url: &str, secrets: &[(&str, &str)]) -> Remote {
        let secrets =
            secrets.iter().map(|(name, value)| ((*name).to_owned(), Secret(value.as_bytes().to_vec())));
        Remote::of(url, &secrets.collect())
    }

    #[test]
    fn a_password_moves_from_the_address_to_a_header() {
        let remote = remote("https://user:p%40ss@h:8443/r.git", &[]);
        assert_eq!(
            (remote.url.as_str(), remote.shown.as_str()),
            ("https://h:8443/r.git", "https://h:8443/r.git")
        );
        let (name, value) = remote.authorization.unwrap();
        assert_eq!(name, "http.https://h:8443/r.git.extraHeader");
        assert_eq!(value, "Authorization: Basic dXNlcjpwQHNz");
    }

    #[test]
    fn secrets_for_the_host_go_before_general_ones() {
        let header = |url: &str, secrets: &[(&str, &str)]| remote(url, secrets).authorization;
        let token = Some((
            "http.https://github.com/.extraHeader".to_owned(),
            "Authorization: Basic eC1hY2Nlc3MtdG9rZW46VA==".to_owned(),
        ));
        let url = "https://github.com/o/r.git";
        assert_eq!(header(url, &[("GIT_AUTH_TOKEN", "x"), ("GIT_AUTH_TOKEN.github.com", "T\n")]), token);
        assert_eq!(header(url, &[("GIT_AUTH_TOKEN", "T"), ("GIT_AUTH_TOKEN.other", "x")]), token);
        assert_eq!(header(url, &[("GIT_AUTH_HEADER", "Bearer a\nX-Other: b")]), None);
        assert_eq!(header("git@github.com:o/r", &[("GIT_AUTH_TOKEN", "T")]), None);
    }

    #[test]
    fn an_ssh_user_stays_without_its_password() {
        assert_eq!(remote("ssh://git:p@h:22/r", &[]).url, "ssh://git@h:22/r");
    }
}
