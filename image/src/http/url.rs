//! Addresses: parsing, origins, and where a redirect leads.

use std::fmt;

use base64::Engine as _;
use ureq::http::Uri;

use super::HttpError;
use crate::oci::escape;

/// An http or https address. User name and password of its text are kept apart and never printed.
#[derive(Clone)]
pub(crate) struct Url {
    uri: Uri,
    origin: Origin,
    basic: Option<String>,
}

/// Scheme, host and port: what credentials belong to (RFC 6454).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    pub(crate) https: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// Longer addresses than any server takes.
const MAX_URL_BYTES: usize = 16 << 10;
/// The longest name of a host (RFC 1035, 2.3.4): what is shown of an address has it whole.
const MAX_HOST_BYTES: usize = 253;

impl Url {
    /// # Errors
    /// When it is no http or https address.
    pub(crate) fn parse(text: &str) -> Result<Self, HttpError> {
        let invalid = |reason: &'static str| HttpError::InvalidUrl { url: without_userinfo(text), reason };
        if text.len() > MAX_URL_BYTES {
            return Err(invalid("it is longer than 16 KiB"));
        }
        let uri: Uri = encode(text).parse().map_err(|_| invalid("it is malformed"))?;
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(invalid("only http and https addresses are fetched")),
        };
        let authority = uri.authority().ok_or_else(|| invalid("it has no host"))?;
        let (userinfo, host_and_port) = match authority.as_str().rsplit_once('@') {
            Some((userinfo, rest)) => (Some(userinfo), rest),
            None => (None, authority.as_str()),
        };
        let host = authority.host().to_ascii_lowercase();
        if host.is_empty() {
            return Err(invalid("it has no host"));
        }
        if host.len() > MAX_HOST_BYTES {
            return Err(invalid("its host is longer than 253 bytes"));
        }
        // The parser takes anything for a port and gives none back.
        let port = match host_and_port.get(host.len()..) {
            Some("") | None => None,
            Some(rest) => {
                let number = rest.strip_prefix(':').and_then(|port| port.parse::<u16>().ok());
                Some(number.ok_or_else(|| invalid("its port is no number"))?)
            }
        };
        let origin = Origin { https, port: port.unwrap_or(if https { 443 } else { 80 }), host };
        let basic = userinfo.map(|userinfo| {
            let userinfo = if userinfo.contains(':') { userinfo.to_owned() } else { format!("{userinfo}:") };
            format!("Basic {}", base64::prelude::BASE64_STANDARD.encode(decode(&userinfo)))
        });
        let bare = format!(
            "{}://{host_and_port}{}",
            if https { "https" } else { "http" },
            uri.path_and_query().map_or("/", |path| path.as_str())
        );
        let uri = bare.parse().map_err(|_| invalid("it is malformed"))?;
        Ok(Self { uri, origin, basic })
    }

    pub(crate) fn uri(&self) -> &Uri {
        &self.uri
    }

    pub(crate) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The `Authorization` that the address itself asks for.
    pub(crate) fn basic(&self) -> Option<&str> {
        self.basic.as_deref()
    }

    /// The same with this behind its query.
    ///
    /// # Errors
    /// When it is too long or malformed then.
    pub(crate) fn query_also(&self, query: &str) -> Result<Self, HttpError> {
        let separator = if self.uri.query().is_some() { '&' } else { '?' };
        Ok(Self { basic: self.basic.clone(), ..Self::parse(&format!("{}{separator}{query}", self.uri))? })
    }

    /// Where `location` leads from here (RFC 3986, 5.2, for what `Location` headers hold).
    ///
    /// # Errors
    /// When that is no http or https address.
    pub(crate) fn join(&self, location: &str) -> Result<Self, HttpError> {
        let scheme = if self.origin.https { "https" } else { "http" };
        let authority = self.uri.authority().map_or("", |authority| authority.as_str());
        let has_scheme = location.split(['/', '?', '#']).next().is_some_and(|first| first.contains(':'));
        if has_scheme {
            return Self::parse(location);
        }
        if let Some(rest) = location.strip_prefix("//") {
            return Self::parse(&format!("{scheme}://{rest}"));
        }
        let path = self.uri.path();
        let target = match location.chars().next() {
            Some('/') => location.to_owned(),
            Some('?') => format!("{path}{location}"),
            _ => format!("{}/{location}", path.rsplit_once('/').map_or("", |(directory, _)| directory)),
        };
        Self::parse(&format!("{scheme}://{authority}{target}"))
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape(&self.uri.to_string()))
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape(&self.host))?;
        if self.port == if self.https { 443 } else { 80 } { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

impl Origin {
    pub(crate) fn is_loopback(&self) -> bool {
        is_loopback(&self.host)
    }
}

/// `localhost`, 127.0.0.0/8 and ::1, as docker decides it: by the name alone.
pub(crate) fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// What browsers do with spaces and letters outside of ASCII.
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.split('#').next().unwrap_or_default().bytes() {
        match byte {
            0x21..=0x7e if !matches!(byte, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}') => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// A value of a query or form, or a part of a login: all but letters, digits and `-._~` escaped (RFC 3986, 2.3).
pub fn encode_query(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
        encoded
    })
}

pub(super) fn decode(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let escaped = || u8::from_str_radix(text.get(at + 1..at + 3)?, 16).ok();
        match (byte, escaped()) {
            (b'%', Some(value)) => {
                decoded.push(value);
                at += 3;
            }
            _ => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    decoded
}

fn without_userinfo(text: &str) -> String {
    match text.split_once("://") {
        Some((scheme, rest)) => {
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            let host = rest[..end].rsplit('@').next().unwrap_or_default();
            escape(&format!("{scheme}://{host}{}", &rest[end..]))
        }
        None => escape(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_where_browsers_go() {
        let base = Url::parse("https://h:8443/a/b?q").unwrap();
        for (location, target) in [
            ("/c", "https://h:8443/c"),
            ("c", "https://h:8443/a/c"),
            ("?x=1", "https://h:8443/a/b?x=1"),
            ("//o/p", "https://o/p"),
            ("http://o", "http://o/"),
            ("/x:y", "https://h:8443/x:y"),
        ] {
            assert_eq!(base.join(location).unwrap().to_string(), target, "{location}");
        }
    }

    #[test]
    fn what_is_shown_of_an_address_has_its_host_as_it_is() {
        let quotes = Url::parse("http://a'b.example/it's").unwrap();
        assert_eq!(quotes.to_string(), "http://a'b.example/it's");
        let long = Url::parse(&format!("http://{}.example/{}", "a".repeat(245), "b".repeat(1000))).unwrap();
        let shown = long.to_string();
        assert!(shown.contains(".example/b") && shown.ends_with('…'), "{shown}");
        let longer = Url::parse(&format!("http://{}.example/", "a".repeat(246))).unwrap_err();
        assert!(longer.to_string().contains("its host is longer than 253 bytes"), "{longer}");
    }

    #[test]
    fn only_http_and_https_are_addresses() {
        for text in [
            "file:///etc/passwd",
            "gopher://h/",
            "h",
            "",
            "http://",
            "https:///x",
            "http://h:x/",
            "http://h:99999/",
        ] {
            assert!(Url::parse(text).is_err(), "{text}");
        }
        let base = Url::parse("http://h/").unwrap();
        assert!(base.join("file:///sentinel").is_err());
    }

    #[test]
    fn a_password_is_never_printed() {
        let url = Url::parse("https://user:s%20cret@h/x").unwrap();
        assert_eq!(format!("{url} {url:?}"), "https://h/x https://h/x");
        assert_eq!(url.basic(), Some("Basic dXNlcjpzIGNyZXQ="));
        let error = Url::parse("ftp://user:secret@h/x").unwrap_err();
        insta::assert_snapshot!(error, @"invalid address `ftp://h/x`: only http and https addresses are fetched");
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let origin = |text: &str| Url::parse(text).unwrap().origin().clone();
        assert_eq!(origin("https://H/x"), origin("https://h:443/y"));
        assert_ne!(origin("https://h/"), origin("http://h/"));
        assert_ne!(origin("http://h/"), origin("http://h:81/"));
        assert!(origin("http://127.9.9.9:1/").is_loopback() && origin("http://[::1]/").is_loopback());
        assert!(!origin("http://localhost.evil.example/").is_loopback());
    }
}
