//! HTTP for registries, object stores and `ADD https://…`: blocking calls that can be cancelled.
//!
//! Redirects are followed by hand, so that `Authorization` never reaches another origin than the one it is meant for
//! and an encrypted request never goes on in the clear (THREATS C5, C6). What fails for a moment is tried again.

mod call;
mod certificates;
mod download;
mod exchange;
mod proxy;
mod source;
mod url;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ureq::http::header;
use ureq::http::{HeaderMap, HeaderName, Method};

pub use call::{Answer, Call, Payload, Signer};
pub use download::{Download, Fetch, Fetched};

pub(crate) use call::EXPECT_BYTES;
pub(crate) use certificates::{CertificateDirs, CertificateFiles};
pub(crate) use exchange::{
    Body, Connections, Outgoing, Pending, Request, Response, Tls, canceled, is_canceled,
};
pub(crate) use proxy::ProxyRules;
pub(crate) use source::Source;
pub use url::encode_query;
pub(crate) use url::{Origin, Url, is_loopback};

use crate::oci::escape;

/// Most redirects that are followed.
const MAX_REDIRECTS: usize = 10;
/// Longest part of an error's body that is read.
const MAX_ERROR_BODY_BYTES: u64 = 64 << 10;
/// Longest wait between two attempts.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(30);
/// How often a wait looks whether it is cancelled.
const CANCEL_POLL: Duration = Duration::from_millis(50);
/// Why something could not be fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// The user gave up.
    #[error("canceled")]
    Canceled,
    /// No http or https address.
    #[error("invalid address `{url}`: {reason}")]
    InvalidUrl {
        /// Without user name and password.
        url: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// `HTTP_PROXY` or `HTTPS_PROXY` is no proxy's address. The address may hold a password and is not repeated.
    #[error("the proxy's address in the environment is malformed or of an unsupported kind")]
    InvalidProxy,
    /// The host has no root certificates to check servers against.
    #[error("no root certificates found on this machine")]
    NoRootCertificates {
        /// What went wrong with the first of them.
        source: Option<Box<rustls_native_certs::Error>>,
    },
    /// A certificate in a `certs.d` directory cannot be used.
    #[error("{}: {reason}", path.display())]
    InvalidCertificate {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        reason: String,
    },
    /// No connection, or it broke too often.
    #[error("{host} cannot be reached: {source}")]
    Unreachable {
        /// The host and port.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// Who hands out credentials gives none.
    #[error("no credentials from {from}: {reason}")]
    Credentials {
        /// Whom they were asked of.
        from: String,
        /// Why not.
        reason: String,
    },
    /// What is to be sent cannot be read.
    #[error("what is to be sent cannot be read: {source}")]
    Source {
        /// Why.
        source: io::Error,
    },
    /// The server says no.
    #[error("{host} answered {status}{}", words(.detail))]
    Status {
        /// The host and port.
        host: String,
        /// HTTP's number.
        status: u16,
        /// The server's words, escaped; may be empty.
        detail: String,
    },
    /// The server sends the request somewhere it must not go.
    #[error("redirect from {from} to {to} refused: {reason}")]
    RedirectRefused {
        /// The host that redirects.
        from: String,
        /// Where to.
        to: String,
        /// Why not.
        reason: &'static str,
    },
    /// A circle, most likely.
    #[error("{host} redirects more than {limit} times")]
    TooManyRedirects {
        /// Where it began.
        host: String,
        /// How many are followed.
        limit: usize,
    },
}

impl HttpError {
    /// What the user can do, in one sentence.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::InvalidProxy => "check HTTPS_PROXY and HTTP_PROXY; http:// proxies are supported",
            Self::NoRootCertificates { .. } => {
                "install your system's ca-certificates, or name a bundle in SSL_CERT_FILE"
            }
            Self::Unreachable { source, .. } => match source.kind() {
                io::ErrorKind::ConnectionRefused => "is the server running, and the port right?",
                io::ErrorKind::NotFound => "check the name, and your DNS or proxy settings (HTTPS_PROXY)",
                io::ErrorKind::TimedOut => "check your network, firewall and proxy settings (HTTPS_PROXY)",
                _ if is_untrusted(source) => {
                    "add the authority that signed it to your system's certificates, or name a bundle in SSL_CERT_FILE"
                }
                _ if is_untrusting(source) => "the server wants another client certificate",
                _ => return None,
            },
            Self::Status { status: 401 | 403, .. } => "the server wants other credentials",
            Self::Status { status: 404 | 410, .. } => "check the address",
            Self::Status { status: 429, .. } => "the server limits how often it is asked; wait, or log in",
            Self::RedirectRefused { .. } => "use the address that it leads to, if you trust it",
            _ => return None,
        };
        Some(text.to_owned())
    }
}

fn words(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

/// How often, and after what time, something that failed for a moment is tried again.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// Attempts in all, at least 1.
    pub attempts: u32,
    /// Wait before the second attempt; it doubles with each further one.
    pub first_delay: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 5, first_delay: Duration::from_millis(500) }
    }
}

impl Retry {
    pub(crate) const ONCE: Self = Self { attempts: 1, first_delay: Duration::ZERO };

    /// Waits before another attempt after `attempt` ones, or as long as the server asks.
    pub(crate) fn wait(
        &self,
        attempt: u32,
        asked: Option<Duration>,
        cancel: &AtomicBool,
    ) -> Result<(), HttpError> {
        let doubled = self.first_delay.saturating_mul(1 << attempt.saturating_sub(1).min(16));
        let mut left = asked.unwrap_or_else(|| jittered(doubled)).min(MAX_RETRY_DELAY);
        while !left.is_zero() {
            if cancel.load(Ordering::Relaxed) {
                return Err(HttpError::Canceled);
            }
            let nap = left.min(CANCEL_POLL);
            std::thread::sleep(nap);
            left -= nap;
        }
        Ok(())
    }
}

/// Between half of `delay` and all of it: many that were turned away together do not come back together.
fn jittered(delay: Duration) -> Duration {
    use std::hash::{BuildHasher as _, RandomState};
    let share = RandomState::new().hash_one(delay) >> 33;
    delay.mul_f64(0.5 + share as f64 / f64::from(1u32 << 31) / 2.0)
}

/// A client with pooled connections; cheap to clone, shared by threads.
#[derive(Clone, Debug, Default)]
pub struct Client {
    connections: Arc<Connections>,
    retry: Retry,
}

impl Client {
    /// A client that uses the proxies of `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`; `env` looks variables up.
    pub fn from_env(env: &dyn Fn(&str) -> Option<String>, retry: Retry) -> Self {
        Self::new(ProxyRules::from_env(env), CertificateDirs::default(), retry)
    }

    pub(crate) fn new(proxies: ProxyRules, certificates: CertificateDirs, retry: Retry) -> Self {
        Self { connections: Arc::new(Connections::new(proxies, certificates)), retry }
    }

    /// Whether the user named authorities for the server.
    pub(crate) fn has_authorities(&self, origin: &Origin) -> Result<bool, HttpError> {
        self.connections.has_authorities(origin)
    }

    /// Begins to fetch an http or https address. User name and password in it go to its own origin only.
    ///
    /// # Errors
    /// See [`HttpError`]; [`HttpError::Status`] for whatever is no success.
    pub fn fetch_url(&self, url: &str, cancel: &Arc<AtomicBool>) -> Result<Download, HttpError> {
        match self.fetch(&Fetch { url, ..Fetch::default() }, cancel)? {
            Fetched::Download(download) => Ok(download),
            Fetched::NotModified => {
                // Nobody asked whether it changed.
                let host = host(url)?;
                Err(HttpError::Status { host, status: 304, detail: String::new() })
            }
        }
    }

    /// As [`Client::fetch_url`], with a header of one's own for the address' origin, and only if it has changed.
    ///
    /// # Errors
    /// As [`Client::fetch_url`].
    pub fn fetch(&self, fetch: &Fetch<'_>, cancel: &Arc<AtomicBool>) -> Result<Fetched, HttpError> {
        let headers = [
            ("if-none-match", fetch.etag),
            ("if-modified-since", fetch.last_modified),
            ("authorization", fetch.authorization),
        ];
        let mut call = Call::new("GET", fetch.url)?;
        for (name, value) in headers {
            call = value.into_iter().fold(call, |call, value| call.header(name, value));
        }
        if let Some(signer) = fetch.signer {
            call = signer.sign(call)?;
        }
        let conditional = fetch.etag.is_some() || fetch.last_modified.is_some();
        let (request, authorization) = call.request();
        let response = self.follow(&request, authorization.as_deref(), self.retry, cancel)?;
        match response.status {
            200 => Ok(Fetched::Download(Download::new(response, cancel))),
            304 if conditional => Ok(Fetched::NotModified),
            _ => Err(status_error(response, cancel)),
        }
    }

    pub(crate) fn retry(&self) -> Retry {
        self.retry
    }

    /// Begins to send a request whose body streams; neither redirects nor failures are dealt with.
    pub(crate) fn begin(
        &self,
        request: &Request,
        authorization: Option<&str>,
        outgoing: Outgoing,
    ) -> Result<Pending, HttpError> {
        let mut request = request.clone();
        request.headers.extend(authorization.map(|value| (header::AUTHORIZATION, value.to_owned())));
        self.connections.begin(&request, Some(outgoing))
    }

    /// Sends a request, follows redirects and tries again what may succeed later. `authorization` is for the request's
    /// own origin. Statuses other than redirects are answers; so are 429 and 5xx when all attempts ended so.
    pub(crate) fn follow(
        &self,
        request: &Request,
        authorization: Option<&str>,
        retry: Retry,
        cancel: &AtomicBool,
    ) -> Result<Response, HttpError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let result = self.follow_once(request, authorization, cancel);
            let asked = match &result {
                Ok(response) if is_transient_status(response.status) => retry_after(&response.headers),
                Err(HttpError::Unreachable { source, .. }) if is_transient(source) => None,
                _ => return result,
            };
            if attempt >= retry.attempts {
                return result;
            }
            // Without path and query, which may prove who asks.
            tracing::debug!(host = %request.url.origin(), attempt, "trying again");
            drop(result);
            retry.wait(attempt, asked, cancel)?;
        }
    }

    fn follow_once(
        &self,
        request: &Request,
        authorization: Option<&str>,
        cancel: &AtomicBool,
    ) -> Result<Response, HttpError> {
        let home = request.url.origin();
        let mut hop = request.clone();
        for _ in 0..=MAX_REDIRECTS {
            let mut sent = hop.clone();
            if hop.url.origin() == home
                && let Some(authorization) = authorization
            {
                sent = sent.header(header::AUTHORIZATION, authorization);
            }
            let mut response = self.connections.exchange(&sent, cancel)?;
            let location = match response.status {
                301 | 302 | 303 | 307 | 308 => text(&response.headers, &header::LOCATION),
                _ => None,
            };
            let Some(location) = location else { return Ok(response) };
            let refused = |to: String, reason| HttpError::RedirectRefused {
                from: hop.url.origin().to_string(),
                to,
                reason,
            };
            // 307 and 308 keep the method (RFC 9110, 15.4); nothing that was meant for the first server goes along.
            let is_harmless = match request.method {
                Method::GET | Method::HEAD => true,
                _ => request.body.is_empty() && matches!(response.status, 307 | 308),
            };
            if !is_harmless {
                return Err(refused(escape(location), "the request carries data meant for the first server"));
            }
            let next = hop.url.join(location)?;
            if hop.url.origin().https && !next.origin().https {
                return Err(refused(next.to_string(), "it leaves https"));
            }
            // Read to its end, the connection can serve again.
            let _ = response.body.read_to_limit(MAX_ERROR_BODY_BYTES, cancel);
            // Insecurity was granted to one host, not to where it points.
            if next.origin() != home {
                hop.tls = Tls::Verified;
                // Session tokens and their like.
                hop.headers.retain(|(name, _)| !name.as_str().starts_with("x-"));
            } else {
                hop.tls = request.tls;
            }
            hop.url = next;
        }
        Err(HttpError::TooManyRedirects { host: home.to_string(), limit: MAX_REDIRECTS })
    }
}

/// The host of an http or https address, without its port.
///
/// # Errors
/// When it is no such address.
pub fn host(url: &str) -> Result<String, HttpError> {
    Ok(Url::parse(url)?.origin().host.clone())
}

/// Turns an answer that is no success into an error, with the server's words.
pub(crate) fn status_error(mut response: Response, cancel: &AtomicBool) -> HttpError {
    let words = response.body.read_to_limit(MAX_ERROR_BODY_BYTES, cancel).unwrap_or_default();
    HttpError::Status {
        host: response.url.origin().to_string(),
        status: response.status,
        detail: error_words(&words),
    }
}

/// The messages of a registry's JSON error (distribution-spec, "Error Codes"), else the first line of plain text.
fn error_words(body: &[u8]) -> String {
    if let Ok(json) = serde_json::from_slice::<serde_json::Value>(body) {
        let errors = json.get("errors").and_then(serde_json::Value::as_array);
        let word = |error: &serde_json::Value, key: &str| Some(error.get(key)?.as_str()?.to_owned());
        let one = |error: &serde_json::Value| {
            word(error, "message").filter(|text| !text.is_empty()).or_else(|| word(error, "code"))
        };
        let words: Vec<String> = errors.into_iter().flatten().filter_map(one).collect();
        let words = if words.is_empty() {
            one(&json).or_else(|| word(&json, "details")).into_iter().collect()
        } else {
            words
        };
        return escape(&words.join(", "));
    }
    let text = String::from_utf8_lossy(body);
    let line = text.trim().lines().next().unwrap_or_default();
    if !line.starts_with('<') {
        return escape(line);
    }
    // Object stores: `<Error><Code>…</Code><Message>…</Message>…`; of a page for browsers nothing is of use.
    let element = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        rest.split_once(&format!("</{name}>"))?.0.trim().lines().next()
    };
    escape(&["Code", "Message"].into_iter().filter_map(element).collect::<Vec<_>>().join(": "))
}

/// 423: somebody else writes just that file (RFC 4918, 11.3).
pub(crate) fn is_transient_status(status: u16) -> bool {
    matches!(status, 408 | 423 | 425 | 429 | 500 | 502 | 503 | 504)
}

/// Refused connections and unknown names are answers; time-outs and broken connections are accidents.
pub(crate) fn is_transient(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::TimedOut
            | Kind::WouldBlock
            | Kind::ConnectionReset
            | Kind::ConnectionAborted
            | Kind::BrokenPipe
            | Kind::UnexpectedEof
            | Kind::NotConnected
    )
}

/// Whether the server's certificate is what went wrong.
pub(crate) fn is_untrusted(error: &io::Error) -> bool {
    matches!(tls_error(error), Some(rustls::Error::InvalidCertificate(_)))
}

/// Whether the server refuses the client's certificate, or that there is none.
pub(crate) fn is_untrusting(error: &io::Error) -> bool {
    use rustls::AlertDescription as Alert;
    let refusals = [
        Alert::CertificateRequired,
        Alert::BadCertificate,
        Alert::UnsupportedCertificate,
        Alert::CertificateRevoked,
        Alert::CertificateExpired,
        Alert::CertificateUnknown,
        Alert::UnknownCA,
    ];
    matches!(tls_error(error), Some(rustls::Error::AlertReceived(alert)) if refusals.contains(alert))
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    let cause = error.get_ref()?;
    match cause.downcast_ref::<ureq::Error>() {
        Some(ureq::Error::Rustls(error)) => Some(error),
        _ => cause.downcast_ref::<rustls::Error>(),
    }
}

/// Seconds, or a date (RFC 9110, 10.2.3).
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let asked = text(headers, &header::RETRY_AFTER)?.trim();
    match asked.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => download::http_date(asked)?.duration_since(std::time::SystemTime::now()).ok(),
    }
}

pub(crate) fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

pub(crate) fn content_length(headers: &HeaderMap) -> Option<u64> {
    text(headers, &header::CONTENT_LENGTH)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_words_are_escaped_and_pages_are_left_out() {
        assert_eq!(
            error_words(br#"{"errors":[{"code":"DENIED","message":"no \u001b[2K"}]}"#),
            "no \\u{1b}[2K"
        );
        assert_eq!(error_words(br#"{"errors":[{"code":"DENIED"}]}"#), "DENIED");
        assert_eq!(error_words(b"<html>"), "");
        let error =
            b"<?xml version='1.0'?>\n<Error><Code>AccessDenied</Code><Message>No.\nTime</Message></Error>";
        assert_eq!(error_words(error), "AccessDenied: No.");
        assert_eq!(error_words(b"busy\r\nmore"), "busy");
    }
}
