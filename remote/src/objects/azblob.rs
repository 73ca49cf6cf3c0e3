//! `type=azblob`: Azure Blob Storage, by account key ("Authorize with Shared Key") or shared access signature.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kiln_image::Digest;
use kiln_image::http::{Call, HttpError};

use super::parts::{self, Dialect, Parts};
use super::sign::hmac_sha256;
use super::web::{self, Service, Web};
use super::{Secret, Store};
use crate::place::{Access, Env};
use crate::{CacheSpec, InvalidSpec};

pub(super) const KEYS: [&str; 6] =
    ["account_url", "account_name", "secret_access_key", "sas_token", "container", parts::KEY];
/// The protocol's version that is spoken.
const VERSION: &str = "2021-12-02";
const CONTAINER: &str = "buildkit-cache";
/// What one PUT may write ("Put Blob", since version 2019-12-12).
const MAX_OBJECT_BYTES: u64 = 5000 << 20;

#[derive(Debug)]
struct Container {
    /// The account's address, without a slash at the end.
    url: String,
    container: String,
    auth: Auth,
    parts: Parts,
}

#[derive(Debug)]
pub(super) enum Auth {
    Key {
        account: String,
        key: Secret,
    },
    /// A query that proves what may be done.
    Sas(Secret),
}

pub(super) fn open(spec: &CacheSpec, access: &Access, env: &Env<'_>) -> Result<Box<dyn Store>, InvalidSpec> {
    let get = |name: &str| env(name).filter(|value| !value.is_empty());
    let url =
        spec.value("account_url").map(str::to_owned).or_else(|| get("BUILDKIT_AZURE_STORAGE_ACCOUNT_URL"));
    let url = url.ok_or_else(|| {
        InvalidSpec::new("the cache type=`azblob` needs account_url=").hinted(
            "https://ACCOUNT.blob.core.windows.net, or BUILDKIT_AZURE_STORAGE_ACCOUNT_URL in the environment",
        )
    })?;
    let (url, query) = url.split_once('?').map_or((url.as_str(), None), |(url, query)| (url, Some(query)));
    let container =
        spec.value("container").map(str::to_owned).or_else(|| get("BUILDKIT_AZURE_STORAGE_CONTAINER"));
    let container = container.unwrap_or_else(|| CONTAINER.to_owned());
    if !container.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '$')) {
        return Err(InvalidSpec::new(format!("`{}` is no container's name", container.escape_debug())));
    }
    let sas = spec.value("sas_token").or(query).map(|sas| sas.trim_start_matches('?'));
    let auth = match (spec.value("secret_access_key"), sas) {
        (Some(key), _) => {
            let account = spec.value("account_name").map(str::to_owned).or_else(|| account_of(url));
            let account =
                account.ok_or_else(|| InvalidSpec::new("the cache type=`azblob` needs account_name="))?;
            if STANDARD.decode(key).is_err() {
                return Err(InvalidSpec::new("secret_access_key= is no account key: these are in Base64"));
            }
            Auth::Key { account, key: Secret::new(key) }
        }
        (None, Some(sas)) => Auth::Sas(Secret::new(sas)),
        (None, None) => {
            return Err(InvalidSpec::new("the cache type=`azblob` needs credentials")
                .hinted("secret_access_key= with an account's key, or sas_token="));
        }
    };
    let parts = Parts::of(spec, Dialect::Azure, MAX_OBJECT_BYTES)?;
    Web::boxed(Container { url: url.trim_end_matches('/').to_owned(), container, auth, parts }, access)
}

/// The account is the first part of its host's name.
fn account_of(url: &str) -> Option<String> {
    let (_, host) = url.split_once("://")?;
    Some(host.split_once(".blob.")?.0.to_owned())
}

impl Container {
    fn at(&self, path_and_query: &str) -> String {
        format!("{}/{}{path_and_query}", self.url, self.container)
    }
}

impl Auth {
    pub(super) fn sign<'a>(&self, call: Call<'a>, now: jiff::Timestamp) -> Result<Call<'a>, HttpError> {
        let date = now.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let call = call.header("x-ms-date", date).header("x-ms-version", VERSION);
        match self {
            Self::Key { account, key } => {
                let to_sign = string_to_sign(&call, account);
                let key = STANDARD.decode(key.reveal()).unwrap_or_default();
                let signature = STANDARD.encode(hmac_sha256(&key, to_sign.as_bytes()));
                Ok(call.header("authorization", format!("SharedKey {account}:{signature}")))
            }
            Self::Sas(sas) => call.query_also(sas.reveal()),
        }
    }
}

/// Method, eleven standard headers of which these requests have three, the service's headers, and what it is about.
fn string_to_sign(call: &Call<'_>, account: &str) -> String {
    let length = match call.size() {
        0 => String::new(),
        size => size.to_string(),
    };
    let mut own: Vec<(&str, &str)> = call.headers().filter(|(name, _)| name.starts_with("x-ms-")).collect();
    own.sort_unstable();
    let own: String = own.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let (method, path) = (call.method(), call.path());
    let mut about = format!("/{account}{path}");
    if let Some(query) = call.query() {
        let mut parameters: Vec<String> = query.split('&').map(|pair| pair.replacen('=', ":", 1)).collect();
        parameters.sort_unstable();
        about.extend(parameters.iter().map(|pair| format!("\n{pair}")));
    }
    let header =
        |wanted: &str| call.headers().find(|(name, _)| *name == wanted).map_or("", |(_, value)| value);
    let (since, none_match) = (header("if-modified-since"), header("if-none-match"));
    format!("{method}\n\n\n{length}\n\n\n\n{since}\n\n{none_match}\n\n\n{own}{about}")
}

impl Service for Container {
    fn name(&self) -> String {
        format!("{}/{}", web::shown(&self.url), self.container)
    }

    fn parts(&self) -> Option<Parts> {
        Some(self.parts)
    }

    fn url(&self, path: &str) -> String {
        self.at(&format!("/{}", web::encode_path(path)))
    }

    fn url_with(&self, path: &str, query: &str) -> String {
        self.at(&format!("/{}?{query}", web::encode_path(path)))
    }

    fn sign<'a>(&self, call: Call<'a>, _: &Digest) -> Result<Call<'a>, HttpError> {
        self.auth.sign(call, jiff::Timestamp::now())
    }

    fn for_put<'a>(&self, call: Call<'a>) -> Call<'a> {
        call.header("x-ms-blob-type", "BlockBlob")
    }

    /// The container, as BuildKit makes it.
    fn parents(&self, _: &str) -> Vec<Call<'static>> {
        Call::new("PUT", &self.at("?restype=container")).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container() -> Container {
        let auth = Auth::Key { account: "acc".into(), key: Secret::new(STANDARD.encode(b"key")) };
        let parts = Parts::of(&CacheSpec::new("azblob"), Dialect::Azure, MAX_OBJECT_BYTES).unwrap();
        Container { url: "https://acc.blob.core.windows.net".into(), container: "c".into(), auth, parts }
    }

    /// "Authorize with Shared Key", "Specifying the Authorization header": where each part stands.
    #[test]
    fn a_request_is_signed_in_the_order_that_the_service_reads_it_in() {
        let container = container();
        let open = || Err(std::io::ErrorKind::Other.into());
        let body = kiln_image::http::Payload { size: 5, open: &open };
        let call = Call::new("PUT", &container.url("blobs/sha256:0")).unwrap().body(body);
        let now: jiff::Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        let call = container.auth.sign(container.for_put(call), now).unwrap();
        insta::assert_snapshot!(string_to_sign(&call, "acc").replace('\n', "|"), @"PUT|||5|||||||||x-ms-blob-type:BlockBlob|x-ms-date:Sat, 21 Nov 2026 12:00:00 GMT|x-ms-version:2021-12-02|/acc/c/blobs/sha256%3A0");
        let [make] = container.parents("x").try_into().unwrap();
        assert!(string_to_sign(&make, "acc").ends_with("/acc/c\nrestype:container"));
        let block = Call::new("PUT", &container.url_with("b", "blockid=MDAx&comp=block")).unwrap();
        assert!(string_to_sign(&block, "acc").ends_with("/acc/c/b\nblockid:MDAx\ncomp:block"));
    }

    #[test]
    fn conditions_of_a_get_are_signed() {
        let call = Call::new("GET", &container().url("a")).unwrap();
        let call = call.header("if-none-match", "\"e\"").header("if-modified-since", "Sun");
        assert_eq!(string_to_sign(&call, "acc").replace('\n', "|"), "GET|||||||Sun||\"e\"|||/acc/c/a");
    }

    #[test]
    fn a_shared_access_signature_is_in_the_address_and_nowhere_else() {
        let sas = Container { auth: Auth::Sas(Secret::new("sv=1&sig=CANARY")), ..container() };
        let signed = |url: &str| sas.auth.sign(Call::new("GET", url).unwrap(), jiff::Timestamp::UNIX_EPOCH);
        let (object, container) =
            (signed(&sas.url("a")).unwrap(), signed(&sas.at("?restype=container")).unwrap());
        assert_eq!((object.path(), object.query()), ("/c/a", Some("sv=1&sig=CANARY")));
        assert_eq!(container.query(), Some("restype=container&sv=1&sig=CANARY"));
        assert!(!format!("{sas:?} {object:?} {}", sas.name()).contains("CANARY"));
    }
}
