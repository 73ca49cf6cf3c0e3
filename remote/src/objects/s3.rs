//! `type=s3`: Amazon's S3 and whatever speaks its protocol; `type=gcs`: Google Cloud Storage, by the same requests (its
//! "XML API", with interoperable keys or an access token).

use std::time::Duration;

use kiln_image::Digest;
use kiln_image::http::{Answer, Call, HttpError};

use super::aws::Keys;
use super::credentials::AwsKeys;
use super::google::{Account, Scope};
use super::parts::{self, Dialect, Parts};
use super::sign::SigV4;
use super::web::{self, Service, Web};
use super::{Secret, Store};
use crate::place::{Access, Env};
use crate::{CacheSpec, InvalidSpec};

pub(super) const KEYS: [&str; 12] = [
    "bucket",
    "region",
    "endpoint_url",
    "use_path_style",
    "access_key_id",
    "secret_access_key",
    "session_token",
    "touch_refresh",
    parts::KEY,
    // Taken as BuildKit takes them: kiln's client has its own retries, and asks for no encoding anyway.
    "retry_mode",
    "retry_max_attempts",
    "disable_accept_encoding",
];
pub(super) const GCS_KEYS: [&str; 6] =
    ["bucket", "endpoint_url", "access_key_id", "secret_access_key", "token", parts::KEY];

/// What one PUT may write ("Uploading objects", Amazon S3 User Guide; "Quotas & limits", Cloud Storage).
const MAX_OBJECT_BYTES: u64 = 5 << 30;
/// Objects that were not written for so long are made young, for buckets that drop the old.
const TOUCH_REFRESH: Duration = Duration::from_secs(24 * 60 * 60);
pub(super) const GCS_ENDPOINT: &str = "https://storage.googleapis.com";

#[derive(Debug)]
struct Bucket {
    name: String,
    /// The bucket's address, without a slash at the end.
    url: String,
    /// The bucket and its slash in a source to copy from.
    bucket: String,
    auth: Auth,
    /// Zero: never.
    touch_refresh: Duration,
    parts: Parts,
}

#[derive(Debug)]
pub(super) enum Auth {
    Signature(SigV4),
    Token(Secret),
    Account(Box<Account>),
}

impl Auth {
    pub(super) fn sign<'a>(&self, call: Call<'a>, body: &Digest) -> Result<Call<'a>, HttpError> {
        let bearer = |token: &Secret| format!("Bearer {}", token.reveal());
        match self {
            Self::Signature(signer) => signer.sign(call, body, jiff::Timestamp::now()),
            Self::Token(token) => Ok(call.header("authorization", bearer(token))),
            Self::Account(account) => Ok(call.header("authorization", bearer(&account.token()?))),
        }
    }

    /// Google's token or account that the environment or the machine has.
    pub(super) fn of_google(
        access: &Access,
        env: &Env<'_>,
        scope: Scope,
    ) -> Result<Option<Self>, InvalidSpec> {
        let mut tokens = ["GOOGLE_OAUTH_ACCESS_TOKEN", "CLOUDSDK_AUTH_ACCESS_TOKEN"].into_iter();
        if let Some(token) = tokens.find_map(|name| env(name).filter(|value| !value.is_empty())) {
            return Ok(Some(Self::Token(Secret::new(token))));
        }
        Ok(Account::find(access, env, scope)?.map(|account| Self::Account(Box::new(account))))
    }
}

pub(super) fn open(spec: &CacheSpec, access: &Access, env: &Env<'_>) -> Result<Box<dyn Store>, InvalidSpec> {
    let bucket = field_or_env(spec, env, "bucket", &["AWS_BUCKET"])?;
    let region = field_or_env(spec, env, "region", &["AWS_REGION", "AWS_DEFAULT_REGION"])?;
    let endpoint = match spec.value("endpoint_url") {
        Some(endpoint) => endpoint.trim_end_matches('/').to_owned(),
        None => format!("https://s3.{region}.amazonaws.com"),
    };
    // A bucket with dots has no certificate for its name (Amazon S3 User Guide, "Virtual hosting of buckets").
    let in_path = spec.flag("use_path_style", false)? || bucket.contains('.');
    let given = AwsKeys::of_spec(spec)?.map(Keys::Given);
    let keys = given.or_else(|| Keys::find(access, env, &region)).ok_or_else(|| {
        InvalidSpec::new("the cache type=`s3` needs credentials").hinted(
            "access_key_id= and secret_access_key=, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, \
             or ~/.aws/credentials",
        )
    })?;
    let touch_refresh = match spec.value("touch_refresh") {
        None => TOUCH_REFRESH,
        Some(text) => spec_duration("touch_refresh", text)?,
    };
    let auth = Auth::Signature(SigV4 { keys, region });
    let url = bucket_url(&endpoint, &bucket, in_path)?;
    let parts = Parts::of(spec, Dialect::S3, MAX_OBJECT_BYTES)?;
    Web::boxed(Bucket { name: format!("s3://{bucket}"), url, bucket, auth, touch_refresh, parts }, access)
}

pub(super) fn open_gcs(
    spec: &CacheSpec,
    access: &Access,
    env: &Env<'_>,
) -> Result<Box<dyn Store>, InvalidSpec> {
    let bucket = spec.required("bucket")?.to_owned();
    let endpoint = spec.value("endpoint_url").unwrap_or(GCS_ENDPOINT).trim_end_matches('/').to_owned();
    let keys = spec.value("access_key_id").zip(spec.value("secret_access_key")).map(|(id, secret)| AwsKeys {
        id: id.to_owned(),
        secret: Secret::new(secret),
        session: None,
    });
    let auth = match (keys, spec.value("token")) {
        (Some(keys), _) => {
            Some(Auth::Signature(SigV4 { keys: Keys::Given(keys), region: "auto".to_owned() }))
        }
        (None, Some(token)) => Some(Auth::Token(Secret::new(token))),
        (None, None) => Auth::of_google(access, env, Scope::ReadWrite)?,
    };
    let auth = auth.ok_or_else(|| {
        InvalidSpec::new("the cache type=`gcs` needs credentials").hinted(
            "token=, GOOGLE_OAUTH_ACCESS_TOKEN or GOOGLE_APPLICATION_CREDENTIALS in the environment, or an HMAC \
             key as access_key_id= and secret_access_key=",
        )
    })?;
    let url = bucket_url(&endpoint, &bucket, true)?;
    let parts = Parts::of(spec, Dialect::S3, MAX_OBJECT_BYTES)?;
    let touch_refresh = Duration::ZERO;
    Web::boxed(Bucket { name: format!("gs://{bucket}"), url, bucket, auth, touch_refresh, parts }, access)
}

/// `https://bucket.host` or `https://host/bucket`.
pub(super) fn bucket_url(endpoint: &str, bucket: &str, in_path: bool) -> Result<String, InvalidSpec> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if !bucket.chars().all(is_name) || bucket.len() > 255 {
        return Err(InvalidSpec::new(format!("`{}` is no bucket's name", bucket.escape_debug())));
    }
    let Some((scheme, host)) = endpoint.split_once("://") else {
        return Err(InvalidSpec::new("endpoint_url= is no http or https address"));
    };
    Ok(match in_path {
        true => format!("{endpoint}/{bucket}"),
        false => format!("{scheme}://{bucket}.{host}"),
    })
}

impl Service for Bucket {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn parts(&self) -> Option<Parts> {
        Some(self.parts)
    }

    fn url(&self, path: &str) -> String {
        format!("{}/{}", self.url, web::encode_path(path))
    }

    fn sign<'a>(&self, call: Call<'a>, body: &Digest) -> Result<Call<'a>, HttpError> {
        self.auth.sign(call, body)
    }

    /// S3 does not say what is there to who may not list (API Reference, `HeadObject`).
    fn hides_absence(&self) -> bool {
        true
    }

    fn touch(&self, path: &str, head: &Answer) -> Option<Call<'static>> {
        let since =
            jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(head.header("last-modified")?).ok()?;
        let age = jiff::Timestamp::now().duration_since(since).unsigned_abs();
        if self.touch_refresh.is_zero() || age < self.touch_refresh {
            return None;
        }
        // A copy onto itself must change something (API Reference, `CopyObject`).
        let source = format!("/{}/{}", self.bucket, web::encode_path(path));
        let call = Call::new("PUT", &self.url(path)).ok()?;
        Some(call.header("x-amz-copy-source", source).header("x-amz-metadata-directive", "REPLACE"))
    }
}

fn field_or_env(spec: &CacheSpec, env: &Env<'_>, key: &str, names: &[&str]) -> Result<String, InvalidSpec> {
    let of_env = || names.iter().find_map(|name| env(name).filter(|value| !value.is_empty()));
    spec.value(key).map(str::to_owned).or_else(of_env).ok_or_else(|| {
        InvalidSpec::new(format!("the cache type=`{}` needs {key}=", spec.kind))
            .hinted(format!("or {} in the environment", names.join(" or ")))
    })
}

/// `24h`, `90m`, as Go writes durations.
pub(crate) fn spec_duration(key: &str, text: &str) -> Result<Duration, InvalidSpec> {
    let given: Option<jiff::SignedDuration> =
        if text == "0" { Some(jiff::SignedDuration::ZERO) } else { text.parse().ok() };
    given
        .and_then(|duration| Duration::try_from(duration).ok())
        .ok_or_else(|| InvalidSpec::new(format!("{key}={text} is no duration")).hinted("24h, for example"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_in_the_hosts_name_or_in_the_path() {
        let url =
            |bucket, in_path| bucket_url("https://s3.eu-west-1.amazonaws.com", bucket, in_path).unwrap();
        assert_eq!(url("ci", false), "https://ci.s3.eu-west-1.amazonaws.com");
        assert_eq!(url("ci", true), "https://s3.eu-west-1.amazonaws.com/ci");
        assert!(bucket_url("https://h", "a/b", true).is_err());
        assert!(bucket_url("https://h", "evil@host", false).is_err());
        assert!(bucket_url("h", "ci", true).is_err());
    }

    #[test]
    fn durations_are_read_as_go_writes_them() {
        assert_eq!(spec_duration("x", "24h").unwrap(), TOUCH_REFRESH);
        assert_eq!(spec_duration("x", "1h30m").unwrap(), Duration::from_secs(5400));
        assert_eq!(spec_duration("x", "0").unwrap(), Duration::ZERO);
        assert!(spec_duration("x", "-1h").is_err());
        assert!(spec_duration("x", "soon").is_err());
    }
}
