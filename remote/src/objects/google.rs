//! Google's "Application Default Credentials": a key file, what `gcloud auth application-default login` left, or the
//! machine's own account (Google Cloud, "How Application Default Credentials works"); each is good for access tokens.

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use kiln_image::http::{Call, HttpError};
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use serde::Deserialize;
use serde_json::json;

use super::Secret;
use super::credentials::read;
use super::granted::{Granted, ask, ask_by_form, is_there};
use crate::InvalidSpec;
use crate::place::{Access, Env};

const TOKEN_URL: &str = "https://oauth2.googleapis.com/token";
/// Where a machine of Google's asks about itself, whatever its name server says.
const MACHINE_HOST: &str = "169.254.169.254";
const MACHINE_PATH: &str = "computeMetadata/v1/instance/service-accounts/default/token";
/// For how long a key file's holder says to ask, in seconds: the most that is allowed.
const CLAIM_SECONDS: i64 = 3600;
/// (RFC 7523, section 2.1)
const JWT_GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

/// Somebody who is given tokens.
#[derive(Debug)]
pub(super) struct Account {
    holder: Holder,
    scope: Scope,
    token: Granted<Secret>,
}

/// What tokens are for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Scope {
    ReadOnly,
    ReadWrite,
}

#[derive(Debug)]
enum Holder {
    Service(Box<ServiceAccount>),
    User {
        id: String,
        secret: Secret,
        refresh: Secret,
    },
    /// Host, and port unless it is 80.
    Machine(String),
}

struct ServiceAccount {
    email: String,
    key_id: Option<String>,
    key: RsaKeyPair,
    token_url: String,
}

impl std::fmt::Debug for ServiceAccount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceAccount").field("email", &self.email).finish_non_exhaustive()
    }
}

/// A file of credentials.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum File {
    ServiceAccount {
        client_email: String,
        private_key: String,
        private_key_id: Option<String>,
        token_uri: Option<String>,
    },
    AuthorizedUser {
        client_id: String,
        client_secret: String,
        refresh_token: String,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Token {
    access_token: String,
    expires_in: u64,
}

impl Account {
    /// The first there is. Asks nobody yet, but whether the machine is one of Google's.
    pub(super) fn find(access: &Access, env: &Env<'_>, scope: Scope) -> Result<Option<Self>, InvalidSpec> {
        let get = |name: &str| env(name).filter(|value| !value.is_empty());
        let account = |holder| Ok(Some(Self { holder, scope, token: Granted::new(access) }));
        if let Some(path) = get("GOOGLE_APPLICATION_CREDENTIALS") {
            let invalid = |what: &str| {
                InvalidSpec::new(format!("GOOGLE_APPLICATION_CREDENTIALS names {path}, which {what}"))
            };
            let text = read(PathBuf::from(&path)).ok_or_else(|| invalid("cannot be read"))?;
            return account(Holder::of_file(&text).map_err(invalid)?);
        }
        let folder = get("CLOUDSDK_CONFIG").map(PathBuf::from);
        let folder = folder.or_else(|| Some(PathBuf::from(get("HOME")?).join(".config/gcloud")));
        let of_gcloud = folder.and_then(|folder| read(folder.join("application_default_credentials.json")));
        if let Some(holder) = of_gcloud.and_then(|text| Holder::of_file(&text).ok()) {
            return account(holder);
        }
        let host = get("GCE_METADATA_HOST").unwrap_or_else(|| MACHINE_HOST.to_owned());
        // At this address other clouds tell their machines about themselves, too.
        let is_google = || {
            let call = Call::new("GET", &format!("http://{host}/")).ok()?;
            let call = call.header("metadata-flavor", "Google");
            let answer = access.registry.http().call(&call, &access.cancel).ok()?;
            Some(answer.header("metadata-flavor")? == "Google")
        };
        if is_there(&host) && is_google() == Some(true) {
            return account(Holder::Machine(host));
        }
        Ok(None)
    }

    pub(super) fn token(&self) -> Result<Secret, HttpError> {
        self.token.get(|access| self.holder.ask(access, self.scope))
    }
}

impl Holder {
    /// What is wrong with the file is said as the end of a sentence.
    fn of_file(text: &str) -> Result<Self, &'static str> {
        match serde_json::from_str(text).map_err(|_| "is no file of credentials")? {
            File::ServiceAccount { client_email, private_key, private_key_id, token_uri } => {
                // PEM (RFC 7468) of PKCS #8, as Google writes it.
                let lines = private_key.lines().filter(|line| !line.starts_with("-----"));
                let der = STANDARD.decode(lines.collect::<String>()).unwrap_or_default();
                let key = RsaKeyPair::from_pkcs8(&der).map_err(|_| "has no usable private key")?;
                let token_url = token_uri.unwrap_or_else(|| TOKEN_URL.to_owned());
                let (email, key_id) = (client_email, private_key_id);
                Ok(Self::Service(Box::new(ServiceAccount { email, key_id, key, token_url })))
            }
            File::AuthorizedUser { client_id, client_secret, refresh_token } => Ok(Self::User {
                id: client_id,
                secret: Secret::new(client_secret),
                refresh: Secret::new(refresh_token),
            }),
            File::Other => Err("is of a kind that kiln cannot use: set GOOGLE_OAUTH_ACCESS_TOKEN instead"),
        }
    }

    fn ask(&self, access: &Access, scope: Scope) -> Result<(Secret, Duration), HttpError> {
        let (answer, from) = match self {
            Self::Service(account) => {
                let claim = account.claim(scope, jiff::Timestamp::now())?;
                let fields = [("grant_type", JWT_GRANT), ("assertion", claim.reveal())];
                (ask_by_form(access, &account.token_url, &fields)?, account.token_url.as_str())
            }
            Self::User { id, secret, refresh } => {
                let fields = [
                    ("grant_type", "refresh_token"),
                    ("client_id", id),
                    ("client_secret", secret.reveal()),
                    ("refresh_token", refresh.reveal()),
                ];
                (ask_by_form(access, TOKEN_URL, &fields)?, TOKEN_URL)
            }
            Self::Machine(host) => {
                let call = Call::new("GET", &format!("http://{host}/{MACHINE_PATH}"))?;
                (ask(access, &call.header("metadata-flavor", "Google"))?, host.as_str())
            }
        };
        let token: Token =
            serde_json::from_slice(&answer).map_err(|_| refused(from, "its answer has no access token"))?;
        Ok((Secret::new(token.access_token), Duration::from_secs(token.expires_in)))
    }
}

impl ServiceAccount {
    /// A signed claim to be the account (RFC 7523, section 3; RFC 7515, section 3.1).
    fn claim(&self, scope: Scope, now: jiff::Timestamp) -> Result<Secret, HttpError> {
        let scope = match scope {
            Scope::ReadOnly => "https://www.googleapis.com/auth/devstorage.read_only",
            Scope::ReadWrite => "https://www.googleapis.com/auth/devstorage.read_write",
        };
        let header = json!({ "alg": "RS256", "typ": "JWT", "kid": self.key_id });
        let seconds = now.as_second();
        let claims = json!({
            "iss": self.email, "scope": scope, "aud": self.token_url, "iat": seconds, "exp": seconds + CLAIM_SECONDS,
        });
        let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", part(&header), part(&claims));
        let mut signature = vec![0; self.key.public().modulus_len()];
        let signed = self.key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature);
        signed.map_err(|_| refused(&self.email, "its private key does not sign"))?;
        Ok(Secret::new(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))))
    }
}

fn refused(from: &str, reason: &str) -> HttpError {
    HttpError::Credentials { from: super::web::shown(from), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_another_kind_says_what_else_there_is() {
        let refused = |text: &str| Holder::of_file(text).unwrap_err();
        assert!(refused(r#"{"type":"external_account"}"#).contains("GOOGLE_OAUTH_ACCESS_TOKEN"));
        assert_eq!(refused("{}"), "is no file of credentials");
        let service = r#"{"type":"service_account","client_email":"e","private_key":"CANARY"}"#;
        assert_eq!(refused(service), "has no usable private key");
        let user =
            r#"{"type":"authorized_user","client_id":"i","client_secret":"CANARY","refresh_token":"CANARY"}"#;
        assert!(!format!("{:?}", Holder::of_file(user).unwrap()).contains("CANARY"));
    }
}
