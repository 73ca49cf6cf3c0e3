//! `type=gha`: the cache service of GitHub Actions, version 2 of its protocol (the first one was switched off in 2025).
//!
//! Entries are immutable and found by key and version, or as the newest whose key begins with a prefix: blobs are entries
//! by digest, and each export of a scope is a new entry under the scope's prefix. The bytes are in Azure's blob store,
//! behind addresses that carry their own permission.

use std::io::{self, Read};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kiln_image::Digest;
use kiln_image::http::{Answer, Call, Payload};
use kiln_image::oci::Descriptor;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::config::Contents;
use crate::objects::{Secret, read_config};
use crate::place::{Access, Env, Found, NewBlob};
use crate::{CacheConfig, CacheError, CacheSpec, InvalidSpec, Place};

const KEYS: [&str; 8] = ["scope", "url", "url_v2", "token", "version", "repository", "ghtoken", "timeout"];
const SERVICE: &str = "twirp/github.actions.results.api.v1.CacheService";
/// Largest answer of the service.
const MAX_ANSWER_BYTES: u64 = 1 << 20;
/// Longest name of a scope: keys have 512 characters.
const MAX_SCOPE_CHARS: usize = 200;
/// An export that takes longer is given up.
const TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// One scope of a repository's cache.
#[derive(Debug)]
pub(crate) struct Actions {
    /// Ends in a slash.
    url: String,
    token: Secret,
    scope: String,
    /// Entries of other programs, or of another format, are not seen.
    version: String,
    timeout: Duration,
    /// When the export began.
    began: OnceLock<Instant>,
    access: Access,
}

/// An answer of the service; protobuf's JSON leaves out what is false or empty, and has two spellings.
#[derive(Default, Deserialize)]
struct Entry {
    #[serde(default)]
    ok: bool,
    #[serde(default, alias = "signedUploadUrl")]
    signed_upload_url: String,
    #[serde(default, alias = "signedDownloadUrl")]
    signed_download_url: String,
}

impl Actions {
    /// `None` outside of GitHub Actions: without a token there is nothing to ask (FEATURES CA23).
    pub(crate) fn new(spec: &CacheSpec, access: &Access, env: &Env<'_>) -> Result<Option<Self>, InvalidSpec> {
        spec.know(&[&KEYS])?;
        if !matches!(spec.value("version"), None | Some("2")) {
            return Err(InvalidSpec::new("there is only version=2 of GitHub's cache service"));
        }
        let scope = spec.value("scope").unwrap_or("buildkit").to_owned();
        if scope.chars().count() > MAX_SCOPE_CHARS || scope.contains([',', '\n', '\r']) {
            return Err(InvalidSpec::new(format!("scope={} is no scope", scope.escape_debug())));
        }
        let timeout = match spec.value("timeout") {
            None => TIMEOUT,
            Some(text) => crate::objects::spec_duration("timeout", text)?,
        };
        let field = |key: &str, name: &str| {
            spec.value(key).map(str::to_owned).or_else(|| env(name).filter(|value| !value.is_empty()))
        };
        let (Some(url), Some(token)) =
            (field("url_v2", "ACTIONS_RESULTS_URL"), field("token", "ACTIONS_RUNTIME_TOKEN"))
        else {
            return Ok(None);
        };
        Ok(Some(Self {
            url: if url.ends_with('/') { url } else { format!("{url}/") },
            token: Secret::new(token),
            scope,
            version: Digest::of(b"kiln cache 1").hex(),
            timeout,
            began: OnceLock::new(),
            access: access.clone(),
        }))
    }

    fn index_prefix(&self) -> String {
        format!("kiln-index-1-{}-", self.scope)
    }

    fn blob_key(digest: &Digest) -> String {
        format!("kiln-blob-1-{digest}")
    }

    fn send(&self, call: &Call<'_>) -> Result<Answer, CacheError> {
        Ok(self.access.registry.http().call(call, &self.access.cancel)?)
    }

    /// Asks the service; a refusal that means that an entry is or is not there is an empty answer.
    fn ask(&self, method: &str, question: &Value) -> Result<Entry, CacheError> {
        let question = serde_json::to_vec(question)?;
        let open = || Ok(Box::new(io::Cursor::new(question.clone())) as Box<dyn Read + Send>);
        let call = Call::new("POST", &format!("{}{SERVICE}/{method}", self.url))?
            .header("authorization", format!("Bearer {}", self.token.reveal()))
            .header("content-type", "application/json")
            .body(Payload { size: question.len() as u64, open: &open });
        let answer = self.send(&call)?;
        match answer.status() {
            // `not_found`, `already_exists`: Twirp's numbers for these.
            404 | 409 => Ok(Entry::default()),
            _ => read(answer.success()?),
        }
    }

    /// Where an entry's bytes are, if there is such an entry.
    fn find(&self, key: &str, prefixes: &[&str]) -> Result<Option<String>, CacheError> {
        let question = json!({ "key": key, "restore_keys": prefixes, "version": self.version });
        let found = self.ask("GetCacheEntryDownloadURL", &question)?;
        Ok(Some(found.signed_download_url).filter(|url| found.ok && !url.is_empty()))
    }

    fn download(&self, url: &str) -> Result<Answer, CacheError> {
        Ok(self.send(&Call::new("GET", url)?)?.success()?)
    }

    /// Makes an entry. One that was made meanwhile is as good.
    fn save(&self, key: &str, payload: Payload<'_>) -> Result<(), CacheError> {
        if self.began.get_or_init(Instant::now).elapsed() > self.timeout {
            return Err(CacheError::Invalid(format!("it takes longer than {} s", self.timeout.as_secs())));
        }
        let refused = || CacheError::Invalid("the service takes no new entry".into());
        let created = self.ask("CreateCacheEntry", &json!({ "key": key, "version": self.version }))?;
        if !created.ok || created.signed_upload_url.is_empty() {
            return self.find(key, &[])?.map(drop).ok_or_else(refused);
        }
        let put = Call::new("PUT", &created.signed_upload_url)?.header("x-ms-blob-type", "BlockBlob");
        self.send(&put.body(payload))?.success()?;
        // 64-bit numbers are texts in protobuf's JSON.
        let size = payload.size.to_string();
        let question = json!({ "key": key, "size_bytes": size, "version": self.version });
        let finished = self.ask("FinalizeCacheEntryUpload", &question)?;
        finished.ok.then_some(()).ok_or_else(refused)
    }
}

fn read<T: DeserializeOwned>(answer: Answer) -> Result<T, CacheError> {
    let mut bytes = Vec::new();
    answer.take(MAX_ANSWER_BYTES + 1).read_to_end(&mut bytes).map_err(CacheError::Interrupted)?;
    if bytes.len() as u64 > MAX_ANSWER_BYTES {
        return Err(CacheError::TooLarge { what: "answer", limit: MAX_ANSWER_BYTES });
    }
    serde_json::from_slice(&bytes).map_err(CacheError::from)
}

impl Place for Actions {
    fn name(&self) -> String {
        format!("gha:{}", self.scope)
    }

    fn load(&self) -> Result<Found, CacheError> {
        let prefix = self.index_prefix();
        let url = self.find(&prefix, &[&prefix])?.ok_or(CacheError::Absent)?;
        Ok(Found { config: CacheConfig::parse(&read_config(self.download(&url)?)?)? })
    }

    fn open(&self, blob: &Descriptor) -> Result<Box<dyn Read + Send>, CacheError> {
        let url = self.find(&Self::blob_key(&blob.digest), &[])?;
        Ok(Box::new(self.download(&url.ok_or(CacheError::MissingBlob(blob.digest))?)?))
    }

    fn put(&self, blob: &NewBlob<'_>) -> Result<(), CacheError> {
        let key = Self::blob_key(&blob.descriptor.digest);
        if self.find(&key, &[])?.is_some() {
            return Ok(());
        }
        self.save(&key, Payload { size: blob.descriptor.size, open: blob.open })
    }

    fn publish(&self, contents: &Contents) -> Result<(), CacheError> {
        let config = CacheConfig::write(contents)?;
        let digest = Digest::of(&config).hex();
        // The newest is found; two of the same moment differ by what they say.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let key = format!("{}{since}-{}", self.index_prefix(), digest.get(..8).unwrap_or_default());
        let open = || Ok(Box::new(io::Cursor::new(config.clone())) as Box<dyn Read + Send>);
        self.save(&key, Payload { size: config.len() as u64, open: &open })
    }
}
