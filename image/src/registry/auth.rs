//! Answering a registry that asks who we are (distribution, "Token Authentication Specification"; RFC 7235).

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;
use ureq::http::{HeaderMap, Method, header};

use super::RegistryError;
use super::credentials::Credentials;
use crate::http::{Client, Origin, Request, Tls, Url, encode_query, status_error};
use crate::oci::escape;

/// Longest token answer that is read.
const MAX_TOKEN_BYTES: u64 = 1 << 20;
/// A token's life when its server does not tell (Token Authentication Specification).
const DEFAULT_LIFETIME: Duration = Duration::from_secs(60);
/// Tokens are renewed so long before they end.
const RENEW_BEFORE: Duration = Duration::from_secs(10);
/// Longest challenge that is looked at.
const MAX_CHALLENGE_BYTES: usize = 16 << 10;
/// How kiln names itself to OAuth2 servers.
const CLIENT_ID: &str = "kiln";

/// What a registry asks for in `WWW-Authenticate`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// A token, to be had at `realm`.
    Bearer {
        /// The token server.
        realm: String,
        /// The registry's name there.
        service: Option<String>,
        /// What the token must allow.
        scope: Option<String>,
    },
    /// User name and password.
    Basic,
}

/// What a request wants to do, and so what a token for it must allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Grant {
    /// Be known (`GET /v2/`).
    Login,
    /// Read the repository.
    Pull,
    /// Write it.
    Push,
    /// Write it with blobs of another one of the same registry.
    Mount {
        /// The other's name.
        from: String,
    },
}

impl Grant {
    /// Under what its authorization is kept: tokens of one kind do not serve for another.
    pub(crate) fn key(&self, repository: &str) -> String {
        match self {
            Self::Login => "login".to_owned(),
            Self::Pull => repository.to_owned(),
            Self::Push => format!("{repository} push"),
            Self::Mount { from } => format!("{repository} push {from}"),
        }
    }

    /// The scopes to ask for: the registry's own words, where it has any, and what they lack for a mount (distribution,
    /// "Token Scope Documentation").
    fn scopes(&self, repository: &str, asked: Option<&str>) -> Vec<String> {
        let own = match self {
            Self::Login => return Vec::new(),
            Self::Pull => format!("repository:{repository}:pull"),
            Self::Push | Self::Mount { .. } => format!("repository:{repository}:pull,push"),
        };
        let mut scopes: Vec<String> = match asked {
            Some(asked) => asked.split_ascii_whitespace().map(str::to_owned).collect(),
            None => vec![own],
        };
        if let Self::Mount { from } = self {
            let prefix = format!("repository:{from}:");
            if !scopes.iter().any(|scope| scope.starts_with(&prefix)) {
                scopes.push(format!("{prefix}pull"));
            }
        }
        scopes
    }
}

/// `Authorization` headers that worked, by registry and what they are for.
#[derive(Debug, Default)]
pub(crate) struct Authorizations {
    known: Mutex<HashMap<Place, Authorization>>,
    /// Who is asking for one.
    turns: Mutex<HashMap<Place, Arc<Mutex<()>>>>,
}

/// A registry and a [`Grant::key`].
type Place = (Origin, String);

#[derive(Clone)]
struct Authorization {
    header: String,
    expires: Option<Instant>,
}

impl std::fmt::Debug for Authorization {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authorization(***)")
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

impl Authorizations {
    pub(crate) fn get(&self, origin: &Origin, key: &str) -> Option<String> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known.get(&(origin.clone(), key.to_owned()))?;
        found.expires.is_none_or(|expires| Instant::now() < expires).then(|| found.header.clone())
    }

    fn put(&self, origin: &Origin, key: String, authorization: Authorization) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert((origin.clone(), key), authorization);
    }

    /// Held while a request asks for an authorization, so that others like it wait for the answer.
    pub(crate) fn turn(&self, origin: &Origin, key: &str) -> Arc<Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(turns.entry((origin.clone(), key.to_owned())).or_default())
    }

    /// Answers a registry's challenge; the header is kept for the next request.
    ///
    /// `None` when nothing that we have would satisfy it.
    #[allow(clippy::too_many_arguments, reason = "one request's whole state, used in one place")]
    pub(crate) fn answer(
        &self,
        tokens: &Tokens<'_>,
        registry: &Request,
        repository: &str,
        grant: &Grant,
        challenge: &Challenge,
        credentials: Option<&Credentials>,
        cancel: &AtomicBool,
    ) -> Result<Option<String>, RegistryError> {
        let origin = registry.url.origin();
        let authorization = match challenge {
            Challenge::Basic => match credentials.and_then(Credentials::basic) {
                Some(header) => Authorization { header, expires: None },
                None => return Ok(None),
            },
            Challenge::Bearer { realm, service, scope } => {
                let scopes = grant.scopes(repository, scope.as_deref());
                fetch_token(tokens, registry, realm, service.as_deref(), &scopes, credentials, cancel)?
            }
        };
        self.put(origin, grant.key(repository), authorization.clone());
        Ok(Some(authorization.header))
    }
}

/// How a registry's token server is reached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tokens<'a> {
    pub(crate) http: &'a Client,
    /// Where the user said how it is trusted.
    pub(crate) tls: Option<Tls>,
}

/// Asks the token server. It may be another host than the registry (Docker Hub's is), but it is the registry's own
/// word over the same connection that names it; the login goes there encrypted, or not further than the registry.
fn fetch_token(
    tokens: &Tokens<'_>,
    registry: &Request,
    realm: &str,
    service: Option<&str>,
    scopes: &[String],
    credentials: Option<&Credentials>,
    cancel: &AtomicBool,
) -> Result<Authorization, RegistryError> {
    let home = registry.url.origin();
    let realm = registry.url.join(realm)?;
    let failed = |reason: String| RegistryError::Token { host: realm.origin().to_string(), reason };
    let at_home = realm.origin().host == home.host;
    if home.https && !realm.origin().https {
        return Err(failed("the registry uses https, its token server does not".into()));
    }
    let trusted = realm.origin().https || at_home || (home.is_loopback() && realm.origin().is_loopback());
    let credentials = credentials.filter(|_| trusted);
    let tls = tokens.tls.unwrap_or(if at_home { registry.tls } else { Tls::Verified });
    let all_scopes = scopes.join(" ");
    let service = service.map(|service| ("service", service));
    let mut query = Vec::new();
    let (request, authorization) = match credentials {
        Some(Credentials::IdentityToken(token)) => {
            query.push(("scope", all_scopes.as_str()));
            query.extend(service);
            query.extend([
                ("grant_type", "refresh_token"),
                ("client_id", CLIENT_ID),
                ("refresh_token", &token.0),
            ]);
            let mut request = Request::new(Method::POST, realm.clone());
            request.body = form(&query).into_bytes().into();
            (request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded"), None)
        }
        credentials => {
            // One parameter for each scope here, one for all in the form above: so the two specifications have it.
            query.extend(scopes.iter().map(|scope| ("scope", scope.as_str())));
            query.extend(service);
            let separator = if realm.uri().query().is_some() { "&" } else { "?" };
            let separator = if query.is_empty() { "" } else { separator };
            let url = Url::parse(&format!("{}{separator}{}", realm.uri(), form(&query)))?;
            (Request::get(url), credentials.and_then(Credentials::basic))
        }
    };
    let request = Request { tls, ..request };
    let mut response = tokens.http.follow(&request, authorization.as_deref(), tokens.http.retry(), cancel)?;
    if response.status != 200 {
        return Err(failed(status_error(response, cancel).to_string()));
    }
    let body =
        response.body.read_to_limit(MAX_TOKEN_BYTES, cancel).map_err(|error| failed(error.to_string()))?;
    if body.len() as u64 > MAX_TOKEN_BYTES {
        return Err(RegistryError::TooLarge { what: "the token".into(), limit: MAX_TOKEN_BYTES });
    }
    let answer: TokenAnswer =
        serde_json::from_slice(&body).map_err(|_| failed("its answer is not the JSON expected".into()))?;
    let given = |token: Option<String>| token.filter(|token| !token.is_empty());
    let token = given(answer.token).or_else(|| given(answer.access_token));
    let token = token.ok_or_else(|| failed("its answer holds no token".into()))?;
    if !token.bytes().all(|c| c.is_ascii_graphic()) {
        return Err(failed("its token holds characters that no header may".into()));
    }
    let lifetime =
        answer.expires_in.filter(|seconds| *seconds > 0).map_or(DEFAULT_LIFETIME, Duration::from_secs);
    let expires = Instant::now().checked_add(lifetime.saturating_sub(RENEW_BEFORE));
    Ok(Authorization { header: format!("Bearer {token}"), expires })
}

fn form(fields: &[(&str, &str)]) -> String {
    fields.iter().map(|(key, value)| format!("{key}={}", encode_query(value))).collect::<Vec<_>>().join("&")
}

/// The challenges of an answer, tokens before passwords.
pub(crate) fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    let mut found: Vec<_> = headers
        .get_all(header::WWW_AUTHENTICATE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .filter(|value| value.len() <= MAX_CHALLENGE_BYTES)
        .flat_map(parse_challenges)
        .collect();
    found.sort_by_key(|challenge| matches!(challenge, Challenge::Basic));
    found
}

/// `scheme key="value", key=value, scheme …`
fn parse_challenges(text: &str) -> Vec<Challenge> {
    let mut schemes: Vec<(String, HashMap<String, String>)> = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', ',', '\t']);
        let end = rest.find([' ', '=', ',', '\t']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if word.is_empty() {
            break;
        }
        let Some(value) = after.trim_start().strip_prefix('=') else {
            schemes.push((word.to_ascii_lowercase(), HashMap::new()));
            rest = after;
            continue;
        };
        let (value, after) = parameter_value(value.trim_start());
        if let Some((_, parameters)) = schemes.last_mut() {
            parameters.entry(word.to_ascii_lowercase()).or_insert(value);
        }
        rest = after;
    }
    schemes
        .into_iter()
        .filter_map(|(scheme, mut parameters)| match scheme.as_str() {
            "bearer" => Some(Challenge::Bearer {
                realm: parameters.remove("realm").filter(|realm| !realm.is_empty())?,
                service: parameters.remove("service").filter(|service| !service.is_empty()),
                scope: parameters.remove("scope").filter(|scope| !scope.is_empty()),
            }),
            "basic" => Some(Challenge::Basic),
            other => {
                tracing::debug!(scheme = %escape(other), "unknown authentication scheme");
                None
            }
        })
        .collect()
}

fn parameter_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_bearer_challenge_names_realm_service_and_scope() {
        let text = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#;
        assert_eq!(
            parse_challenges(text),
            [Challenge::Bearer {
                realm: "https://auth.docker.io/token".into(),
                service: Some("registry.docker.io".into()),
                scope: Some("repository:a/b:pull,push".into()),
            }]
        );
    }

    #[test]
    fn one_header_may_hold_several_challenges_and_tokens_come_first() {
        let mut headers = HeaderMap::new();
        headers.append(
            header::WWW_AUTHENTICATE,
            r#"Basic realm="a, b", Negotiate, bEARER Realm=http://x/t"#.parse().unwrap(),
        );
        let found = challenges(&headers);
        assert!(matches!(&found[0], Challenge::Bearer { realm, .. } if realm == "http://x/t"));
        assert_eq!(found[1..], [Challenge::Basic]);
    }

    #[test]
    fn a_mount_needs_a_scope_for_each_of_the_two_repositories() {
        let mount = Grant::Mount { from: "lib/base".into() };
        let both = ["repository:me/app:pull,push", "repository:lib/base:pull"];
        assert_eq!(mount.scopes("me/app", None), both);
        assert_eq!(mount.scopes("me/app", Some(both[0])), both);
        assert_eq!(mount.scopes("me/app", Some(&both.join(" "))), both);
        assert_eq!(Grant::Push.scopes("me/app", None), both[..1]);
        assert_ne!(Grant::Push.key("me/app"), Grant::Pull.key("me/app"));
    }

    #[test]
    fn a_bearer_challenge_without_a_realm_is_none() {
        assert_eq!(parse_challenges("Bearer service=\"x\""), []);
    }

    proptest! {
        #[test]
        fn any_challenge_is_read_without_a_panic(text in "(Bearer|Basic|[ -~]{0,9})([ ,=\"\\\\a-z]{0,30})") {
            parse_challenges(&text);
        }
    }
}
