//! Where AWS' keys come from: the environment, a role that a cluster's token stands for, the profile, the container's or
//! the machine's role; in this order, which is that of AWS' own tools (AWS SDKs and Tools Reference, "Standardized
//! credential providers").

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kiln_image::http::{Call, HttpError};
use serde::Deserialize;

use super::Secret;
use super::credentials::{AwsKeys, read};
use super::granted::{Granted, ask, ask_by_form, is_there};
use crate::place::{Access, Env};

/// Containers of ECS ask here (Amazon ECS Developer Guide, "Task IAM role").
const CONTAINER_HOST: &str = "http://169.254.170.2";
/// Machines of EC2 ask here (Amazon EC2 User Guide, "Instance metadata").
const MACHINE_HOST: &str = "http://169.254.169.254";
/// For how long a machine's token is asked for, in seconds: the most that is allowed.
const MACHINE_TOKEN_SECONDS: &str = "21600";
/// What a role's session is called in the account's logs.
const SESSION_NAME: &str = "kiln";
/// Keys without an end are asked for again after so long.
const USUAL_LIFETIME: Duration = Duration::from_secs(15 * 60);

/// Keys, or who has them.
#[derive(Clone, Debug)]
pub(super) enum Keys {
    Given(AwsKeys),
    Role(Arc<Role>),
}

#[derive(Debug)]
pub(super) struct Role {
    from: Origin,
    keys: Granted<AwsKeys>,
}

#[derive(Debug)]
enum Origin {
    /// A token in a file, which the cluster renews.
    WebIdentity {
        url: String,
        arn: String,
        token: PathBuf,
    },
    /// An address, and what it wants to see.
    Container {
        url: String,
        token: Option<Secret>,
        token_file: Option<PathBuf>,
    },
    Machine {
        url: String,
    },
}

impl Keys {
    /// The first there are. Asks nobody yet, but whether the machine is one of EC2.
    pub(super) fn find(access: &Access, env: &Env<'_>, region: &str) -> Option<Self> {
        let get = |name: &str| env(name).filter(|value| !value.is_empty());
        if let Some(keys) = AwsKeys::of_env(env) {
            return Some(Self::Given(keys));
        }
        let role = |from| Some(Self::Role(Arc::new(Role { from, keys: Granted::new(access) })));
        if let Some((arn, token)) = get("AWS_ROLE_ARN").zip(get("AWS_WEB_IDENTITY_TOKEN_FILE")) {
            let url =
                get("AWS_ENDPOINT_URL_STS").unwrap_or_else(|| format!("https://sts.{region}.amazonaws.com"));
            return role(Origin::WebIdentity { url, arn, token: token.into() });
        }
        if let Some(keys) = AwsKeys::of_profile(env) {
            return Some(Self::Given(keys));
        }
        let url = get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
            .map(|path| format!("{CONTAINER_HOST}{path}"))
            .or_else(|| get("AWS_CONTAINER_CREDENTIALS_FULL_URI"));
        if let Some(url) = url {
            let token = get("AWS_CONTAINER_AUTHORIZATION_TOKEN").map(Secret::new);
            let token_file = get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE").map(PathBuf::from);
            return role(Origin::Container { url, token, token_file });
        }
        if get("AWS_EC2_METADATA_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return None;
        }
        let url = get("AWS_EC2_METADATA_SERVICE_ENDPOINT").unwrap_or_else(|| MACHINE_HOST.to_owned());
        let url = url.trim_end_matches('/').to_owned();
        // At this address other clouds tell their machines about themselves, too; and not every machine has a role.
        let is_machine = is_there(url.split_once("://").map_or(&url, |(_, host)| host))
            && machine_role(access, &url).is_ok_and(|(_, role)| !role.is_empty());
        if is_machine { role(Origin::Machine { url }) } else { None }
    }

    pub(super) fn get(&self) -> Result<AwsKeys, HttpError> {
        match self {
            Self::Given(keys) => Ok(keys.clone()),
            Self::Role(role) => role.keys.get(|access| role.from.ask(access)),
        }
    }

    #[cfg(test)]
    pub(super) fn given(self) -> Option<AwsKeys> {
        match self {
            Self::Given(keys) => Some(keys),
            Self::Role(_) => None,
        }
    }
}

/// Keys as containers and machines are told them.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    access_key_id: String,
    secret_access_key: String,
    token: Option<String>,
    expiration: Option<String>,
}

impl Origin {
    fn ask(&self, access: &Access) -> Result<(AwsKeys, Duration), HttpError> {
        match self {
            Self::WebIdentity { url, arn, token } => {
                let identity = read(token.clone()).ok_or_else(|| HttpError::Credentials {
                    from: token.display().to_string(),
                    reason: "AWS_WEB_IDENTITY_TOKEN_FILE names it, and it cannot be read".to_owned(),
                })?;
                let fields = [
                    ("Action", "AssumeRoleWithWebIdentity"),
                    ("Version", "2011-06-15"),
                    ("RoleArn", arn),
                    ("RoleSessionName", SESSION_NAME),
                    ("WebIdentityToken", identity.trim()),
                ];
                let answer = String::from_utf8_lossy(&ask_by_form(access, url, &fields)?).into_owned();
                let element = |name: &str| {
                    let (_, rest) = answer.split_once(&format!("<{name}>"))?;
                    Some(rest.split_once("</")?.0.trim().to_owned())
                };
                let keys =
                    AwsKeys::of(element("AccessKeyId"), element("SecretAccessKey"), element("SessionToken"));
                Ok((keys.ok_or_else(|| unusable(url))?, lifetime(element("Expiration"))))
            }
            Self::Container { url, token, token_file } => {
                let of_file = token_file.clone().and_then(read).map(|text| text.trim().to_owned());
                let token = of_file.or_else(|| Some(token.as_ref()?.reveal().to_owned()));
                let call = Call::new("GET", url)?;
                let call = token.into_iter().fold(call, |call, token| call.header("authorization", token));
                keys_in(&ask(access, &call)?, url)
            }
            Self::Machine { url } => {
                let (token, role) = machine_role(access, url)?;
                keys_in(ask_machine(access, url, &token, &role)?.as_bytes(), url)
            }
        }
    }
}

/// The token that questions need, and the name of the machine's role; empty if it has none.
fn machine_role(access: &Access, url: &str) -> Result<(String, String), HttpError> {
    let call = Call::new("PUT", &format!("{url}/latest/api/token"))?
        .header("x-aws-ec2-metadata-token-ttl-seconds", MACHINE_TOKEN_SECONDS);
    let token = String::from_utf8_lossy(&ask(access, &call)?).trim().to_owned();
    let roles = ask_machine(access, url, &token, "")?;
    Ok((token, roles.lines().next().unwrap_or_default().to_owned()))
}

fn ask_machine(access: &Access, url: &str, token: &str, role: &str) -> Result<String, HttpError> {
    let call = Call::new("GET", &format!("{url}/latest/meta-data/iam/security-credentials/{role}"))?;
    let answer = ask(access, &call.header("x-aws-ec2-metadata-token", token))?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn keys_in(bytes: &[u8], url: &str) -> Result<(AwsKeys, Duration), HttpError> {
    let answer: Answer = serde_json::from_slice(bytes).map_err(|_| unusable(url))?;
    let secret = Secret::new(answer.secret_access_key);
    let keys = AwsKeys { id: answer.access_key_id, secret, session: answer.token.map(Secret::new) };
    Ok((keys, lifetime(answer.expiration)))
}

fn lifetime(until: Option<String>) -> Duration {
    let until: Option<jiff::Timestamp> = until.and_then(|text| text.parse().ok());
    let left = until.map(|until| until.duration_since(jiff::Timestamp::now()));
    left.map_or(USUAL_LIFETIME, |left| Duration::try_from(left).unwrap_or_default())
}

fn unusable(url: &str) -> HttpError {
    HttpError::Credentials { from: super::web::shown(url), reason: "its answer has no keys".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_comes_after_the_environments_keys_and_before_the_profiles() {
        let found = |vars: &[(&str, &str)]| {
            let env = |name: &str| {
                let found = vars.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
                found.or_else(|| (name == "AWS_EC2_METADATA_DISABLED").then(|| "true".to_owned()))
            };
            match Keys::find(&Access::for_tests(), &env, "eu-west-1") {
                None => "none".to_owned(),
                Some(Keys::Given(keys)) => keys.id,
                Some(Keys::Role(role)) => match &role.from {
                    Origin::WebIdentity { url, .. }
                    | Origin::Container { url, .. }
                    | Origin::Machine { url } => url.clone(),
                },
            }
        };
        let role = [("AWS_ROLE_ARN", "arn"), ("AWS_WEB_IDENTITY_TOKEN_FILE", "/t")];
        let keys = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "s")];
        let container = [("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/x")];
        assert_eq!(found(&[&role[..], &keys, &container].concat()), "id");
        assert_eq!(found(&[&role[..], &container].concat()), "https://sts.eu-west-1.amazonaws.com");
        assert_eq!(found(&container), "http://169.254.170.2/v2/x");
        assert_eq!(found(&[]), "none");
    }

    #[test]
    fn keys_of_a_machine_last_as_long_as_it_says() {
        let text = br#"{"Code":"Success","AccessKeyId":"A","SecretAccessKey":"S","Token":"T","Expiration":"2000-01-01T00:00:00Z"}"#;
        let (keys, lifetime) = keys_in(text, "http://h").unwrap();
        assert_eq!((keys.id.as_str(), keys.session.is_some(), lifetime), ("A", true, Duration::ZERO));
        assert!(keys_in(b"{}", "http://h").is_err());
    }
}
