//! Answering a registry that asks who we are (distribution, "Token Authentication Specification"; RFC 7235).

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use serde::Deserialize;
use ureq::http::{HeaderMap, Method, header};

use super::RegistryError;
use super::credentials::Credentials;
use crate::http::{Client, Origin, Request, Tls, Url, status_error};
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

/// `Authorization` headers that worked, by registry and repository.
#[derive(Debug, Default)]
pub(crate) struct Authorizations {
    known: Mutex<HashMap<(Origin, String), Authorization>>,
}

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
    pub(crate) fn get(&self, origin: &Origin, repository: &str) -> Option<String> {
        let known = self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let found = known.get(&(origin.clone(), repository.to_owned()))?;
        found.expires.is_none_or(|expires| Instant::now() < expires).then(|| found.header.clone())
    }

    fn put(&self, origin: &Origin, repository: &str, authorization: Authorization) {
        let mut known = self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        known.insert((origin.clone(), repository.to_owned()), authorization);
    }

    /// Answers a registry's challenge; the header is kept for the next request.
    ///
    /// `None` when nothing that we have would satisfy it.
    pub(crate) fn answer(
        &self,
        http: &Client,
        registry: &Request,
        repository: &str,
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
                let scope = scope.clone().unwrap_or_else(|| format!("repository:{repository}:pull"));
                fetch_token(http, registry, realm, service.as_deref(), &scope, credentials, cancel)?
            }
        };
        self.put(origin, repository, authorization.clone());
        Ok(Some(authorization.header))
    }
}

/// Asks the token server. It may be another host than the registry (Docker Hub's is), but it is the registry's own
/// word over the same connection that names it; the login goes there encrypted, or not further than the registry.
fn fetch_token(
    http: &Client,
    registry: &Request,
    realm: &str,
    service: Option<&str>,
    scope: &str,
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
    let tls = if at_home { registry.tls } else { Tls::Verified };
    let mut query = vec![("scope", scope)];
    query.extend(service.map(|service| ("service", service)));
    let (request, authorization) = match credentials {
        Some(Credentials::IdentityToken(token)) => {
            query.extend([
                ("grant_type", "refresh_token"),
                ("client_id", CLIENT_ID),
                ("refresh_token", &token.0),
            ]);
            let request = Request {
                method: Method::POST,
                body: form(&query).into_bytes(),
                ..Request::get(realm.clone())
            };
            (request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded"), None)
        }
        credentials => {
            let separator = if realm.uri().query().is_some() { '&' } else { '?' };
            let url = Url::parse(&format!("{}{separator}{}", realm.uri(), form(&query)))?;
            (Request::get(url), credentials.and_then(Credentials::basic))
        }
    };
    let request = Request { tls, ..request };
    let mut response = http.follow(&request, authorization.as_deref(), http.retry(), cancel)?;
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
    let encode = |text: &str| {
        text.bytes().fold(String::new(), |mut encoded, byte| {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    encoded.push(char::from(byte))
                }
                _ => encoded.push_str(&format!("%{byte:02X}")),
            }
            encoded
        })
    };
    fields.iter().map(|(key, value)| format!("{key}={}", encode(value))).collect::<Vec<_>>().join("&")
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
