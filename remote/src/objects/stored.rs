//! One object by its address: `s3://bucket/key`, `gs://bucket/key`, `https://account.blob.core.windows.net/container/blob`.
//!
//! Credentials come from the environment, under the names that the services' own tools and kaniko read; without any the
//! object is asked for as everybody may. What identifies a version is the server's `ETag`, as with any download.

use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kiln_image::Digest;
use kiln_image::http::{Call, HttpError, Signer};

use super::aws::Keys;
use super::credentials::profile_region;
use super::google::Scope;
use super::s3::{self, GCS_ENDPOINT, bucket_url};
use super::sign::SigV4;
use super::{Secret, azblob, web};
use crate::InvalidSpec;
use crate::place::{Access, Env};

/// What an address without a key means (kaniko's name for contexts).
const DEFAULT_KEY: &str = "context.tar.gz";
/// Where a bucket is that no region is named for.
const DEFAULT_REGION: &str = "us-east-1";
/// Azure's clouds.
const AZURE_HOSTS: [&str; 4] = [
    ".blob.core.windows.net",
    ".blob.core.chinacloudapi.cn",
    ".blob.core.usgovcloudapi.net",
    ".blob.core.cloudapi.de",
];

/// An object in a store.
#[derive(Clone, Debug)]
pub struct StoredObject {
    /// As it was written.
    name: String,
    url: String,
    service: Service,
    /// `None`: as anybody.
    auth: Option<Arc<Auth>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    S3,
    Google,
    Azure,
}

#[derive(Debug)]
enum Auth {
    Bucket(s3::Auth),
    Azure(azblob::Auth),
}

impl StoredObject {
    /// Whether the address begins as only those of objects do.
    pub fn is_named(text: &str) -> bool {
        text.starts_with("s3://") || text.starts_with("gs://")
    }

    /// Reads an address, and finds the credentials for it; `None` if it is none of an object in a store.
    ///
    /// # Errors
    /// A bucket that can be none, or credentials that are unusable.
    pub fn parse(text: &str, access: &Access, env: &Env<'_>) -> Result<Option<Self>, InvalidSpec> {
        if let Some(rest) = text.strip_prefix("s3://") {
            return s3_object(text, rest, access, env).map(Some);
        }
        if let Some(rest) = text.strip_prefix("gs://") {
            return google_object(text, rest, access, env).map(Some);
        }
        azure_object(text, env)
    }

    /// The address that is asked, without anything secret.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// As it was written.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What an answer means for this object, and what can be done; `None` where the answer says it all.
    pub fn explain(&self, error: &HttpError) -> Option<(String, String)> {
        let HttpError::Status { status, detail, .. } = error else { return None };
        let said = if detail.is_empty() { String::new() } else { format!(" ({detail})") };
        let name = &self.name;
        let (what, hint) = match (status, &self.auth) {
            // Azure says 404 and 409 to whom it does not know.
            (401 | 403, None) | (404 | 409, None) if *status != 404 || self.service == Service::Azure => {
                (format!("access is denied without credentials{said}"), self.variables())
            }
            (401 | 403, _) => (format!("access is denied{said}"), self.permission()),
            (404, _) => (format!("there is no such object{said}"), "check the names of bucket and object"),
            (301 | 307 | 400, _) if self.service == Service::S3 => (
                format!("the store wants to be asked in another way: {status}{said}"),
                "is the bucket in another region? set AWS_REGION; another store: S3_ENDPOINT, S3_FORCE_PATH_STYLE",
            ),
            _ => return None,
        };
        Some((format!("{name}: {what}"), hint.to_owned()))
    }

    fn variables(&self) -> &'static str {
        match self.service {
            Service::S3 => {
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_REGION), or AWS_PROFILE for one of \
                 ~/.aws/credentials"
            }
            Service::Google => {
                "set GOOGLE_APPLICATION_CREDENTIALS to a key file, or GOOGLE_OAUTH_ACCESS_TOKEN, or run `gcloud auth \
                 application-default login`"
            }
            Service::Azure => "set AZURE_STORAGE_ACCESS_KEY to the account's key, or AZURE_STORAGE_SAS_TOKEN",
        }
    }

    fn permission(&self) -> &'static str {
        match self.service {
            Service::S3 => {
                "the credentials need s3:GetObject; without s3:ListBucket an object that is not there is denied, too"
            }
            Service::Google => "the account needs storage.objects.get",
            Service::Azure => "the credentials must be those of the account, and allow reading",
        }
    }
}

impl Signer for StoredObject {
    fn sign<'a>(&self, call: Call<'a>) -> Result<Call<'a>, HttpError> {
        match self.auth.as_deref() {
            None => Ok(call),
            Some(Auth::Bucket(auth)) => auth.sign(call, &Digest::of(b"")),
            Some(Auth::Azure(auth)) => auth.sign(call, jiff::Timestamp::now()),
        }
    }
}

/// Bucket and key.
fn split(rest: &str) -> (&str, &str) {
    match rest.split_once('/') {
        Some((bucket, key)) if !key.is_empty() => (bucket, key),
        Some((bucket, _)) => (bucket, DEFAULT_KEY),
        None => (rest, DEFAULT_KEY),
    }
}

fn s3_object(name: &str, rest: &str, access: &Access, env: &Env<'_>) -> Result<StoredObject, InvalidSpec> {
    let get = |name: &str| env(name).filter(|value| !value.is_empty());
    let first = |names: &[&str]| names.iter().find_map(|name| get(name));
    let region = first(&["AWS_REGION", "AWS_DEFAULT_REGION"]).or_else(|| profile_region(env));
    let region = region.unwrap_or_else(|| DEFAULT_REGION.to_owned());
    let (bucket, key) = split(rest);
    let given = first(&["S3_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]);
    let endpoint = match &given {
        // As kaniko's library has it: without a scheme, https.
        Some(endpoint) if !endpoint.contains("://") => format!("https://{endpoint}"),
        Some(endpoint) => endpoint.trim_end_matches('/').to_owned(),
        None => format!("https://s3.{region}.amazonaws.com"),
    };
    let in_path = get("S3_FORCE_PATH_STYLE").is_some_and(|value| value.eq_ignore_ascii_case("true"))
        || bucket.contains('.')
        || has_no_names_below(&endpoint);
    let url = format!("{}/{}", url_of(&endpoint, bucket, in_path)?, web::encode_path(key));
    let keys = Keys::find(access, env, &region);
    let auth = keys.map(|keys| Arc::new(Auth::Bucket(s3::Auth::Signature(SigV4 { keys, region }))));
    Ok(StoredObject { name: name.to_owned(), url, service: Service::S3, auth })
}

fn google_object(
    name: &str,
    rest: &str,
    access: &Access,
    env: &Env<'_>,
) -> Result<StoredObject, InvalidSpec> {
    let (bucket, key) = split(rest);
    // Google's libraries ask an emulator for nobody's objects.
    let emulator = env("STORAGE_EMULATOR_HOST").filter(|value| !value.is_empty());
    let (endpoint, auth) = match emulator {
        Some(host) if host.contains("://") => (host.trim_end_matches('/').to_owned(), None),
        Some(host) => (format!("http://{host}"), None),
        None => (GCS_ENDPOINT.to_owned(), s3::Auth::of_google(access, env, Scope::ReadOnly)?),
    };
    let url = format!("{}/{}", url_of(&endpoint, bucket, true)?, web::encode_path(key));
    let auth = auth.map(|auth| Arc::new(Auth::Bucket(auth)));
    Ok(StoredObject { name: name.to_owned(), url, service: Service::Google, auth })
}

fn url_of(endpoint: &str, bucket: &str, in_path: bool) -> Result<String, InvalidSpec> {
    if bucket.is_empty() {
        return Err(InvalidSpec::new("the address names no bucket"));
    }
    bucket_url(endpoint, bucket, in_path)
}

/// An address in place of a name, which no bucket's name can stand before.
fn has_no_names_below(endpoint: &str) -> bool {
    let authority = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
    let authority = authority.split('/').next().unwrap_or_default();
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    host == "localhost" || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
}

/// A blob by its plain address: one that brings a query says by itself who may read it.
fn azure_object(text: &str, env: &Env<'_>) -> Result<Option<StoredObject>, InvalidSpec> {
    let Some((scheme, rest)) = text.split_once("://") else { return Ok(None) };
    let authority = rest.split('/').next().unwrap_or_default();
    if text.contains(['?', '#', '@']) || !matches!(scheme, "http" | "https") {
        return Ok(None);
    }
    let connection = env("AZURE_STORAGE_CONNECTION_STRING").unwrap_or_default();
    let connection = |wanted: &str| {
        let mut pairs = connection.split(';').filter_map(|pair| pair.split_once('='));
        pairs.find(|(name, _)| *name == wanted).map(|(_, value)| value.to_owned())
    };
    let at_endpoint = connection("BlobEndpoint").is_some_and(|endpoint| {
        text.strip_prefix(endpoint.trim_end_matches('/')).is_some_and(|path| path.starts_with('/'))
    });
    let of_host = AZURE_HOSTS.iter().find_map(|end| authority.strip_suffix(end));
    let account = match (at_endpoint, of_host) {
        (true, _) => connection("AccountName").or_else(|| of_host.map(str::to_owned)),
        (false, Some(account)) if scheme == "https" => Some(account.to_owned()),
        _ => return Ok(None),
    };
    // What is somebody else's is asked for without one's own credentials.
    let get = |name: &str| env(name).filter(|value| !value.is_empty());
    let is_own = |name: Option<String>| name.is_none() || name == account;
    let own = |name: &str| get(name).filter(|_| is_own(get("AZURE_STORAGE_ACCOUNT")));
    let connected =
        |name: &str| connection(name).filter(|_| at_endpoint || is_own(connection("AccountName")));
    let key = own("AZURE_STORAGE_ACCESS_KEY")
        .or_else(|| own("AZURE_STORAGE_KEY"))
        .or_else(|| connected("AccountKey"));
    let sas = own("AZURE_STORAGE_SAS_TOKEN").or_else(|| connected("SharedAccessSignature"));
    let auth = match (key.zip(account), sas) {
        (Some((key, account)), _) => {
            if STANDARD.decode(&key).is_err() {
                return Err(InvalidSpec::new(
                    "AZURE_STORAGE_ACCESS_KEY is no account key: these are in Base64",
                ));
            }
            Some(azblob::Auth::Key { account, key: Secret::new(key) })
        }
        (None, Some(sas)) => Some(azblob::Auth::Sas(Secret::new(sas.trim_start_matches('?')))),
        (None, None) => None,
    };
    let auth = auth.map(|auth| Arc::new(Auth::Azure(auth)));
    let (name, url) = (text.to_owned(), text.to_owned());
    Ok(Some(StoredObject { name, url, service: Service::Azure, auth }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_MACHINE: [(&str, &str); 2] =
        [("AWS_EC2_METADATA_DISABLED", "true"), ("GCE_METADATA_HOST", "127.0.0.1:1")];

    fn object(text: &str, vars: &[(&str, &str)]) -> Result<Option<StoredObject>, InvalidSpec> {
        let env = |name: &str| {
            let mut vars = vars.iter().chain(&NO_MACHINE);
            vars.find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        StoredObject::parse(text, &Access::for_tests(), &env)
    }

    #[test]
    fn a_buckets_object_is_where_the_environment_says() {
        let url = |text: &str, vars: &[(&str, &str)]| object(text, vars).unwrap().unwrap().url;
        assert_eq!(url("s3://b/a b/c.tgz", &[]), "https://b.s3.us-east-1.amazonaws.com/a%20b/c.tgz");
        assert_eq!(url("s3://b", &[("AWS_REGION", "r")]), "https://b.s3.r.amazonaws.com/context.tar.gz");
        assert_eq!(url("s3://b.c/k", &[]), "https://s3.us-east-1.amazonaws.com/b.c/k");
        let endpoint = ("S3_ENDPOINT", "http://minio.example:9000/");
        assert_eq!(url("s3://b/k", &[endpoint]), "http://b.minio.example:9000/k");
        let path = ("S3_FORCE_PATH_STYLE", "true");
        assert_eq!(url("s3://b/k", &[endpoint, path]), "http://minio.example:9000/b/k");
        for host in ["http://127.0.0.1:9000", "http://[::1]:9000", "http://localhost", "http://10.0.0.1"] {
            assert_eq!(url("s3://b/k", &[("S3_ENDPOINT", host)]), format!("{host}/b/k"));
        }
        assert_eq!(url("gs://b/k", &[]), "https://storage.googleapis.com/b/k");
        assert_eq!(url("gs://b/k", &[("STORAGE_EMULATOR_HOST", "h:1")]), "http://h:1/b/k");
    }

    #[test]
    fn only_plain_addresses_of_azures_accounts_are_objects() {
        let is_object = |text: &str| object(text, &[]).unwrap().is_some();
        assert!(is_object("https://acc.blob.core.windows.net/c/k.tgz"));
        assert!(!is_object("http://acc.blob.core.windows.net/c/k.tgz"));
        assert!(!is_object("https://acc.blob.core.windows.net/c/k.tgz?sv=1&sig=x"));
        assert!(!is_object("https://acc.blob.core.windows.net.example.org/c/k.tgz"));
        assert!(!is_object("https://user@acc.blob.core.windows.net/c/k.tgz"));
    }

    #[test]
    fn credentials_are_not_sent_to_another_account() {
        let has_auth = |vars: &[(&str, &str)]| {
            object("https://acc.blob.core.windows.net/c/k", vars).unwrap().unwrap().auth.is_some()
        };
        let key = ("AZURE_STORAGE_ACCESS_KEY", "a2V5");
        assert!(has_auth(&[key]) && has_auth(&[key, ("AZURE_STORAGE_ACCOUNT", "acc")]));
        assert!(!has_auth(&[key, ("AZURE_STORAGE_ACCOUNT", "other")]));
        let connection = |name: &str| format!("AccountName={name};AccountKey=a2V5==;EndpointSuffix=x");
        assert!(has_auth(&[("AZURE_STORAGE_CONNECTION_STRING", &connection("acc").replace("5==", "5"))]));
        assert!(!has_auth(&[("AZURE_STORAGE_CONNECTION_STRING", &connection("other"))]));
    }

    #[test]
    fn a_bucket_that_can_be_none_is_refused() {
        assert_eq!(object("s3:///k", &[]).unwrap_err().message, "the address names no bucket");
        assert_eq!(object("gs://u@h/k", &[]).unwrap_err().message, "`u@h` is no bucket's name");
    }

    #[test]
    fn an_answer_is_explained_with_what_can_be_done() {
        let told = |text: &str, vars: &[(&str, &str)], status, detail: &str| {
            let error = HttpError::Status { host: "h".into(), status, detail: detail.into() };
            let (message, hint) = object(text, vars).unwrap().unwrap().explain(&error).unwrap();
            format!("{message}\n{hint}")
        };
        let keys = [("AWS_ACCESS_KEY_ID", "i"), ("AWS_SECRET_ACCESS_KEY", "s")];
        insta::assert_snapshot!(told("s3://b/k", &[], 403, "AccessDenied: No"), @r"
        s3://b/k: access is denied without credentials (AccessDenied: No)
        set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_REGION), or AWS_PROFILE for one of ~/.aws/credentials
        ");
        insta::assert_snapshot!(told("s3://b/k", &keys, 403, ""), @r"
        s3://b/k: access is denied
        the credentials need s3:GetObject; without s3:ListBucket an object that is not there is denied, too
        ");
        insta::assert_snapshot!(told("s3://b/k", &keys, 404, "NoSuchKey: No"), @r"
        s3://b/k: there is no such object (NoSuchKey: No)
        check the names of bucket and object
        ");
        insta::assert_snapshot!(told("gs://b/k", &[], 401, ""), @r"
        gs://b/k: access is denied without credentials
        set GOOGLE_APPLICATION_CREDENTIALS to a key file, or GOOGLE_OAUTH_ACCESS_TOKEN, or run `gcloud auth application-default login`
        ");
        let blob = "https://acc.blob.core.windows.net/c/k";
        insta::assert_snapshot!(told(blob, &[], 409, "PublicAccessNotPermitted: No"), @r"
        https://acc.blob.core.windows.net/c/k: access is denied without credentials (PublicAccessNotPermitted: No)
        set AZURE_STORAGE_ACCESS_KEY to the account's key, or AZURE_STORAGE_SAS_TOKEN
        ");
        insta::assert_snapshot!(told(blob, &[("AZURE_STORAGE_SAS_TOKEN", "s")], 403, ""), @r"
        https://acc.blob.core.windows.net/c/k: access is denied
        the credentials must be those of the account, and allow reading
        ");
    }
}
