//! What proves who asks, and where it is looked for.

use std::path::PathBuf;

use crate::place::Env;
use crate::{CacheSpec, InvalidSpec};

/// Largest file of credentials that is read.
const MAX_FILE_BYTES: u64 = 1 << 20;

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
    /// Those that a flag's fields hold.
    pub(crate) fn of_spec(spec: &CacheSpec) -> Result<Option<Self>, InvalidSpec> {
        let field = |key: &str| spec.value(key).map(str::to_owned);
        let (id, secret) = (field("access_key_id"), field("secret_access_key"));
        if id.is_some() != secret.is_some() {
            return Err(InvalidSpec::new("access_key_id= and secret_access_key= belong together"));
        }
        Ok(Self::of(id, secret, field("session_token")))
    }

    /// The environment's.
    pub(super) fn of_env(env: &Env<'_>) -> Option<Self> {
        let get = |name: &str| env(name).filter(|value| !value.is_empty());
        Self::of(get("AWS_ACCESS_KEY_ID"), get("AWS_SECRET_ACCESS_KEY"), get("AWS_SESSION_TOKEN"))
    }

    /// Those of the profile.
    pub(super) fn of_profile(env: &Env<'_>) -> Option<Self> {
        let text = aws_file(env, "AWS_SHARED_CREDENTIALS_FILE", "credentials")?;
        let entry = |key: &str| profile_entry(&text, &profile(env), key);
        Self::of(entry("aws_access_key_id"), entry("aws_secret_access_key"), entry("aws_session_token"))
    }

    pub(super) fn of(id: Option<String>, secret: Option<String>, session: Option<String>) -> Option<Self> {
        let (session, secret) = (session.map(Secret::new), secret.map(Secret::new));
        id.zip(secret).map(|(id, secret)| Self { id, secret, session })
    }
}

/// The region of the profile.
pub(super) fn profile_region(env: &Env<'_>) -> Option<String> {
    let text = aws_file(env, "AWS_CONFIG_FILE", "config")?;
    let name = profile(env);
    // Only the credentials' file has plain names (AWS CLI User Guide, "Configuration and credential file settings").
    let section = if name == "default" { name } else { format!("profile {name}") };
    profile_entry(&text, &section, "region")
}

fn profile(env: &Env<'_>) -> String {
    env("AWS_PROFILE").filter(|name| !name.is_empty()).unwrap_or_else(|| "default".to_owned())
}

/// The file that a variable names, else that in `~/.aws`.
fn aws_file(env: &Env<'_>, variable: &str, name: &str) -> Option<String> {
    let get = |name: &str| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    read(get(variable).or_else(|| Some(get("HOME")?.join(".aws").join(name)))?)
}

/// A short text.
pub(super) fn read(path: PathBuf) -> Option<String> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path).ok()?.take(MAX_FILE_BYTES).read_to_string(&mut text).ok()?;
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
    use super::super::aws::Keys;
    use super::*;
    use crate::place::Access;

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
                of_test.or_else(|| match name {
                    "AWS_SHARED_CREDENTIALS_FILE" => path(),
                    "AWS_EC2_METADATA_DISABLED" => Some("true".to_owned()),
                    _ => None,
                })
            };
            let given = AwsKeys::of_spec(&spec)?;
            Ok::<_, InvalidSpec>(given.or_else(|| Keys::find(&Access::for_tests(), &env, "r")?.given()))
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
