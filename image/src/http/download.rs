//! A download as `ADD https://…` needs it: contents, and what the headers say of name and time.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use ureq::http::header;

use super::exchange::{Body, Response};
use super::{Signer, content_length, text, url};

/// A file name is no longer on Linux.
const MAX_NAME_BYTES: usize = 255;

/// What to fetch, and when.
#[derive(Clone, Copy, Default)]
pub struct Fetch<'a> {
    /// The address.
    pub url: &'a str,
    /// `Authorization` for the address' own origin; goes before user name and password in the address.
    pub authorization: Option<&'a str>,
    /// Only if its `ETag` is another one (RFC 9110, `If-None-Match`).
    pub etag: Option<&'a str>,
    /// Only if it changed since this `Last-Modified`, as it was sent (RFC 9110, `If-Modified-Since`).
    pub last_modified: Option<&'a str>,
    /// Proves who asks where a header of one's own does not.
    pub signer: Option<&'a dyn Signer>,
}

impl std::fmt::Debug for Fetch<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Neither the address nor the header may be printed: both can hold passwords.
        f.debug_struct("Fetch").field("etag", &self.etag).finish_non_exhaustive()
    }
}

/// What became of a [`Fetch`].
#[derive(Debug)]
pub enum Fetched {
    /// It comes.
    Download(Download),
    /// It is what it was.
    NotModified,
}

/// A download that has begun.
pub struct Download {
    /// The body as sent. Reading fails when it ends early, stalls, or the build is cancelled.
    pub reader: Box<dyn Read + Send>,
    /// `Last-Modified`.
    pub last_modified: Option<SystemTime>,
    /// `Last-Modified`, as sent.
    pub last_modified_text: Option<String>,
    /// The file name in `Content-Disposition`: one path component, never `.` or `..`.
    pub content_disposition_name: Option<String>,
    /// `ETag`, as sent.
    pub etag: Option<String>,
    /// `Content-Length`.
    pub len: Option<u64>,
}

impl std::fmt::Debug for Download {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Download").field("etag", &self.etag).field("len", &self.len).finish_non_exhaustive()
    }
}

impl Download {
    pub(super) fn new(response: Response, cancel: &Arc<AtomicBool>) -> Self {
        let headers = &response.headers;
        Self {
            last_modified: text(headers, &header::LAST_MODIFIED).and_then(http_date),
            last_modified_text: text(headers, &header::LAST_MODIFIED).map(str::to_owned),
            content_disposition_name: text(headers, &header::CONTENT_DISPOSITION).and_then(disposition_name),
            etag: text(headers, &header::ETAG).map(str::to_owned),
            len: content_length(headers),
            reader: Box::new(DownloadReader { body: response.body, cancel: Arc::clone(cancel) }),
        }
    }
}

struct DownloadReader {
    body: Body,
    cancel: Arc<AtomicBool>,
}

impl Read for DownloadReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.body.read(buffer, &self.cancel)
    }
}

pub(super) fn http_date(text: &str) -> Option<SystemTime> {
    jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok().map(SystemTime::from)
}

/// The file name of a `Content-Disposition` (RFC 6266), if it is one harmless component.
fn disposition_name(header: &str) -> Option<String> {
    let mut plain = None;
    let mut extended = None;
    for parameter in split_parameters(header).into_iter().skip(1) {
        let Some((key, value)) = parameter.split_once('=') else { continue };
        let value = value.trim();
        match key.trim().to_ascii_lowercase().as_str() {
            "filename" => {
                let unquoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
                plain = Some(unquoted.map_or_else(|| value.to_owned(), |text| text.replace("\\\"", "\"")));
            }
            "filename*" => {
                let mut parts = value.splitn(3, '\'');
                let charset = parts.next().unwrap_or_default();
                if charset.eq_ignore_ascii_case("utf-8")
                    && let Some(encoded) = parts.nth(1)
                {
                    extended = String::from_utf8(url::decode(encoded)).ok();
                }
            }
            _ => {}
        }
    }
    let name = extended.or(plain)?;
    let harmless = !matches!(name.as_str(), "" | "." | "..")
        && name.len() <= MAX_NAME_BYTES
        && !name.chars().any(|c| matches!(c, '/' | '\\') || c.is_control());
    harmless.then_some(name)
}

/// Splits at semicolons outside of quotes.
fn split_parameters(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut quoted, mut escaped) = (0, false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ';' if !quoted => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_download_is_named_by_one_harmless_component_or_not_at_all() {
        for (header, name) in [
            ("attachment; filename=\"a b.tar\"", Some("a b.tar")),
            ("attachment; filename=a.tar; size=3", Some("a.tar")),
            ("attachment; filename=\"a;b\"", Some("a;b")),
            ("attachment; filename=\"x\"; filename*=UTF-8''%c3%a4.txt", Some("ä.txt")),
            ("attachment; filename=\"../../x\"", None),
            ("attachment; filename=\"a/b\"", None),
            ("attachment; filename=\"..\"", None),
            ("attachment; filename=\"\"", None),
            ("attachment; filename*=UTF-8''a%00b", None),
            ("attachment", None),
        ] {
            assert_eq!(disposition_name(header).as_deref(), name, "{header}");
        }
    }

    #[test]
    fn an_http_date_is_read() {
        let date = http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        assert_eq!(date.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs(), 784_111_777);
    }
}
