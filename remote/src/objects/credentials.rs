//! What proves who asks, and where it is looked for.

use std::path::PathBuf;

use crate::place::Env;
use crate::{CacheSpec, InvalidSpec};

/// Largest file of AWS profiles that is read.
const MAX_PROFILES_BYTES: u64 = 1 << 20;

/// A value that is not shown (THREATS F1).
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself, for a request.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// A pair of AWS keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AwsKeys {
    pub(crate) id: String,
    pub(crate) secret: Secret,
    pub(crate) session: Option<Secret>,
}

impl AwsKeys {
    /// The fields', else the environment's, else those of the profile.
    pub(crate) fn find(spec: &CacheSpec, env: &Env<'_>) -> Result<Option<Self>, InvalidSpec> {
        let get = |name: &str| env(name).filter(|value| !value.is_empty());
        let keys = |id: Option<String>, secret: Option<String>, session: Option<String>| {
            let (session, secret) = (session.map(Secret::new), secret.map(Secret::new));
            id.zip(secret).map(|(id, secret)| Self { id, secret, session })
        };
        let field = |key: &str| spec.value(key).map(str::to_owned);
        let (id, secret) = (field("access_key_id"), field("secret_access_key"));
        if id.is_some() != secret.is_some() {
            return Err(InvalidSpec::new("access_key_id= and secret_access_key= belong together"));
        }
        if let Some(found) = keys(id, secret, field("session_token")) {
            return Ok(Some(found));
        }
        let of_env = keys(get("AWS_ACCESS_KEY_ID"), get("AWS_SECRET_ACCESS_KEY"), get("AWS_SESSION_TOKEN"));
        if of_env.is_some() {
            return Ok(of_env);
        }
        let path = get("AWS_SHARED_CREDENTIALS_FILE")
            .map(PathBuf::from)
            .or_else(|| Some(PathBuf::from(get("HOME")?).join(".aws/credentials")));
        let Some(text) = path.and_then(read) else { return Ok(None) };
        let profile = get("AWS_PROFILE").unwrap_or_else(|| "default".to_owned());
        let entry = |key: &str| profile_entry(&text, &profile, key);
        Ok(keys(entry("aws_access_key_id"), entry("aws_secret_access_key"), entry("aws_session_token")))
    }
}

fn read(path: PathBuf) -> Option<String> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path).ok()?.take(MAX_PROFILES_BYTES).read_to_string(&mut text).ok()?;
    Some(text)
}

/// `key` in the section `[profile]`.
fn profile_entry(text: &str, profile: &str, key: &str) -> Option<String> {
    let mut is_meant = false;
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            is_meant = name.trim() == profile;
        } else if let Some((name, value)) = line.split_once('=')
            && is_meant
            && name.trim() == key
            && !line.starts_with(['#', ';'])
        {
            return Some(value.trim().to_owned()).filter(|value| !value.is_empty());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_before_the_environment_and_that_before_the_profile() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("credentials");
        std::fs::write(
            &file,
            "[default]\naws_access_key_id = d\naws_secret_access_key=ds\n[ci]\n# aws_access_key_id = no\n\
             aws_access_key_id=c\naws_secret_access_key = c=s \naws_session_token=t\n",
        )
        .unwrap();
        let found = |fields: &[(&str, &str)], vars: &[(&str, &str)]| {
            let mut spec = CacheSpec::new("s3");
            for (key, value) in fields {
                spec = spec.with(*key, *value);
            }
            let env = |name: &str| {
                let of_test = vars.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
                let path = || Some(file.display().to_string());
                of_test.or_else(|| if name == "AWS_SHARED_CREDENTIALS_FILE" { path() } else { None })
            };
            AwsKeys::find(&spec, &env)
        };
        let keys = |id: &str, secret: &str, session: Option<&str>| {
            let session = session.map(Secret::new);
            Some(AwsKeys { id: id.to_owned(), secret: Secret::new(secret), session })
        };
        let env = [("AWS_ACCESS_KEY_ID", "e"), ("AWS_SECRET_ACCESS_KEY", "es"), ("AWS_PROFILE", "ci")];
        let fields = [("access_key_id", "f"), ("secret_access_key", "fs")];
        assert_eq!(found(&fields, &env).unwrap(), keys("f", "fs", None));
        assert_eq!(found(&[], &env).unwrap(), keys("e", "es", None));
        assert_eq!(found(&[], &env[2..]).unwrap(), keys("c", "c=s", Some("t")));
        assert_eq!(found(&[], &[]).unwrap(), keys("d", "ds", None));
        assert_eq!(found(&[], &[("AWS_PROFILE", "other")]).unwrap(), None);
        assert!(found(&fields[..1], &env).is_err());
    }

    #[test]
    fn a_secret_is_in_no_debug_text() {
        let keys = AwsKeys { id: "id".into(), secret: Secret::new("CANARY"), session: None };
        assert!(!format!("{keys:?}").contains("CANARY"));
    }
}
