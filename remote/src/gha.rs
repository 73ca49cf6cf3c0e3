//! `type=gha`: the cache service of GitHub Actions, in both versions of its protocol. github.com switched the first one off
//! in 2025; GitHub's Enterprise Server and programs that stand in for GitHub's speak it.
//!
//! Entries are immutable and found by key and version, or as the newest whose key begins with a prefix: blobs are entries
//! by digest, and each export of a scope is a new entry under the scope's prefix. The bytes are behind addresses that carry
//! their own permission; version 1 takes new ones itself, in chunks.

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
use crate::objects::{Secret, encode_value, read_config};
use crate::place::{Access, Env, Found, NewBlob};
use crate::{CacheConfig, CacheError, CacheSpec, InvalidSpec, Place};

const KEYS: [&str; 8] = ["scope", "url", "url_v2", "token", "version", "repository", "ghtoken", "timeout"];
/// Version 2, beneath `ACTIONS_RESULTS_URL`.
const SERVICE: &str = "twirp/github.actions.results.api.v1.CacheService";
/// Version 1, beneath `ACTIONS_CACHE_URL`.
const FIRST_SERVICE: &str = "_apis/artifactcache";
const FIRST_ACCEPT: &str = "application/json;api-version=6.0-preview.1";
/// Of version 1, and held in memory while it is sent.
const CHUNK_BYTES: u64 = 8 << 20;
/// Largest answer of the service.
const MAX_ANSWER_BYTES: u64 = 1 << 20;
/// Longest name of a scope: keys have 512 characters.
const MAX_SCOPE_CHARS: usize = 200;
/// An export that takes longer is given up.
const TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// Of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    One,
    Two,
}

/// One scope of a repository's cache.
#[derive(Debug)]
pub(crate) struct Actions {
    protocol: Protocol,
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

/// What version 1 found.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FirstEntry {
    cache_key: String,
    archive_location: String,
}

/// Where version 1 takes a new entry.
#[derive(Deserialize)]
struct Reserved {
    #[serde(rename = "cacheId", alias = "cacheID")]
    cache_id: u64,
}

impl Actions {
    /// `None` outside of GitHub Actions: without a token there is nothing to ask (FEATURES CA23).
    pub(crate) fn new(spec: &CacheSpec, access: &Access, env: &Env<'_>) -> Result<Option<Self>, InvalidSpec> {
        spec.know(&[&KEYS])?;
        let wanted = match spec.value("version") {
            Some("1") => Some(Protocol::One),
            Some("2") => Some(Protocol::Two),
            Some(other) => {
                return Err(InvalidSpec::new(format!(
                    "there is no version={other} of GitHub's cache service"
                ))
                .hinted("1 or 2"));
            }
            None => env("ACTIONS_CACHE_SERVICE_V2")
                .and_then(|value| kiln_parser::boolean(&value))
                .map(|is_two| if is_two { Protocol::Two } else { Protocol::One }),
        };
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
        let second = || Some((Protocol::Two, field("url_v2", "ACTIONS_RESULTS_URL")?));
        let first = || Some((Protocol::One, field("url", "ACTIONS_CACHE_URL")?));
        let place = match wanted {
            Some(Protocol::One) => first(),
            Some(Protocol::Two) => second(),
            None => second().or_else(first),
        };
        let (Some((protocol, url)), Some(token)) = (place, field("token", "ACTIONS_RUNTIME_TOKEN")) else {
            return Ok(None);
        };
        Ok(Some(Self {
            protocol,
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

    /// Asks version 1 of the service, with JSON or a chunk of an entry.
    fn ask_first(
        &self,
        method: &'static str,
        path: &str,
        headers: &[(&'static str, String)],
        body: &[u8],
    ) -> Result<Answer, CacheError> {
        let mut call = Call::new(method, &format!("{}{FIRST_SERVICE}/{path}", self.url))?
            .header("authorization", format!("Bearer {}", self.token.reveal()))
            .header("accept", FIRST_ACCEPT);
        for (name, value) in headers {
            call = call.header(name, value.clone());
        }
        let open = || Ok(Box::new(io::Cursor::new(body.to_vec())) as Box<dyn Read + Send>);
        if !body.is_empty() {
            return self.send(&call.body(Payload { size: body.len() as u64, open: &open }));
        }
        self.send(&call)
    }

    /// Where an entry's bytes are, if there is such an entry.
    fn find(&self, key: &str, prefixes: &[&str]) -> Result<Option<String>, CacheError> {
        match self.protocol {
            Protocol::One => self.find_first(key, prefixes),
            Protocol::Two => self.find_second(key, prefixes),
        }
    }

    fn find_first(&self, key: &str, prefixes: &[&str]) -> Result<Option<String>, CacheError> {
        let keys: Vec<String> = [key].iter().chain(prefixes).map(|key| encode_value(key)).collect();
        let path = format!("cache?keys={}&version={}", keys.join(","), self.version);
        let answer = self.ask_first("GET", &path, &[], b"")?;
        if matches!(answer.status(), 204 | 404) {
            return Ok(None);
        }
        let found: FirstEntry = read(answer.success()?)?;
        // To it every key is what an entry's may begin with.
        let is_meant = found.cache_key == key || !prefixes.is_empty();
        Ok(Some(found.archive_location).filter(|url| is_meant && !url.is_empty()))
    }

    fn find_second(&self, key: &str, prefixes: &[&str]) -> Result<Option<String>, CacheError> {
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
        let is_made = match self.protocol {
            Protocol::One => self.save_first(key, payload)?,
            Protocol::Two => self.save_second(key, payload)?,
        };
        let refused = || CacheError::Invalid("the service takes no new entry".into());
        if is_made { Ok(()) } else { self.find(key, &[])?.map(drop).ok_or_else(refused) }
    }

    /// `false` where the service takes no such entry.
    fn save_first(&self, key: &str, payload: Payload<'_>) -> Result<bool, CacheError> {
        let json = [("content-type", "application/json".to_owned())];
        let question = json!({ "key": key, "version": self.version, "cacheSize": payload.size });
        let answer = self.ask_first("POST", "caches", &json, &serde_json::to_vec(&question)?)?;
        if answer.status() == 409 {
            return Ok(false);
        }
        let reserved: Reserved = read(answer.success()?)?;
        let path = format!("caches/{}", reserved.cache_id);
        let mut reader = (payload.open)().map_err(CacheError::Interrupted)?;
        let mut sent = 0;
        while sent < payload.size {
            let length = CHUNK_BYTES.min(payload.size - sent);
            let mut chunk = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
            reader.by_ref().take(length).read_to_end(&mut chunk).map_err(CacheError::Interrupted)?;
            if chunk.len() as u64 != length {
                return Err(CacheError::Interrupted(io::ErrorKind::UnexpectedEof.into()));
            }
            let headers = [
                ("content-type", "application/octet-stream".to_owned()),
                ("content-range", format!("bytes {sent}-{}/*", sent + length - 1)),
            ];
            self.ask_first("PATCH", &path, &headers, &chunk)?.success()?;
            sent += length;
        }
        let question = serde_json::to_vec(&json!({ "size": payload.size }))?;
        self.ask_first("POST", &path, &json, &question)?.success()?;
        Ok(true)
    }

    /// `false` where the service takes no such entry.
    fn save_second(&self, key: &str, payload: Payload<'_>) -> Result<bool, CacheError> {
        let created = self.ask("CreateCacheEntry", &json!({ "key": key, "version": self.version }))?;
        if !created.ok || created.signed_upload_url.is_empty() {
            return Ok(false);
        }
        let put = Call::new("PUT", &created.signed_upload_url)?.header("x-ms-blob-type", "BlockBlob");
        self.send(&put.body(payload))?.success()?;
        // 64-bit numbers are texts in protobuf's JSON.
        let size = payload.size.to_string();
        let question = json!({ "key": key, "size_bytes": size, "version": self.version });
        Ok(self.ask("FinalizeCacheEntryUpload", &question)?.ok)
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
