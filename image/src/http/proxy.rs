//! Which requests go through a proxy: `HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY` as Go's programs read them.

use super::url::Origin;

/// Proxies by scheme of the target, and the hosts that are reached without one.
#[derive(Clone, Default)]
pub(crate) struct ProxyRules {
    https: Option<String>,
    http: Option<String>,
    bypass: Vec<Bypass>,
}

impl std::fmt::Debug for ProxyRules {
    /// Proxy addresses may hold passwords.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProxyRules")
            .field("https", &self.https.is_some())
            .field("http", &self.http.is_some())
            .finish()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Bypass {
    All,
    /// The host itself (unless `subdomains_only`) and everything below, on `port` or all.
    Domain {
        name: String,
        subdomains_only: bool,
        port: Option<u16>,
    },
    /// Addresses that share the first bits.
    Network {
        address: std::net::IpAddr,
        bits: u8,
        port: Option<u16>,
    },
}

impl ProxyRules {
    pub(crate) fn from_env(env: &dyn Fn(&str) -> Option<String>) -> Self {
        let get = |upper: &str| {
            let value = env(upper).filter(|value| !value.is_empty());
            value.or_else(|| env(&upper.to_ascii_lowercase()).filter(|value| !value.is_empty()))
        };
        let bypass = get("NO_PROXY").unwrap_or_default();
        Self {
            https: get("HTTPS_PROXY"),
            http: get("HTTP_PROXY"),
            bypass: bypass.split([',', ' ']).filter_map(Bypass::parse).collect(),
        }
    }

    /// The proxy for a request to `origin`.
    pub(crate) fn proxy_for(&self, origin: &Origin) -> Option<&str> {
        let proxy = if origin.https { self.https.as_deref() } else { self.http.as_deref() }?;
        let bypassed = origin.is_loopback() || self.bypass.iter().any(|rule| rule.covers(origin));
        (!bypassed).then_some(proxy)
    }
}

impl Bypass {
    fn parse(entry: &str) -> Option<Self> {
        let entry = entry.trim().to_ascii_lowercase();
        if entry.is_empty() {
            return None;
        }
        if entry == "*" {
            return Some(Self::All);
        }
        if let Some((address, bits)) = entry.split_once('/') {
            return Some(Self::Network {
                address: address.parse().ok()?,
                bits: bits.parse().ok()?,
                port: None,
            });
        }
        if let Ok(address) = entry.trim_matches(['[', ']']).parse() {
            return Some(Self::Network { address, bits: 128, port: None });
        }
        let (host, port) = match entry.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().ok()?)),
            None => (entry.as_str(), None),
        };
        if let Ok(address) = host.trim_matches(['[', ']']).parse() {
            return Some(Self::Network { address, bits: 128, port });
        }
        let host = host.strip_prefix('*').unwrap_or(host);
        let name = host.strip_prefix('.').unwrap_or(host).to_owned();
        Some(Self::Domain { subdomains_only: host.starts_with('.'), name, port })
    }

    fn covers(&self, origin: &Origin) -> bool {
        let on_port = |port: &Option<u16>| port.is_none_or(|port| port == origin.port);
        match self {
            Self::All => true,
            Self::Domain { name, subdomains_only, port } => {
                let below = origin.host.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'));
                on_port(port) && (below || (!subdomains_only && origin.host == *name))
            }
            Self::Network { address, bits, port } => {
                let host = origin.host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
                on_port(port) && host.is_ok_and(|host| share_bits(&host, address, *bits))
            }
        }
    }
}

fn share_bits(a: &std::net::IpAddr, b: &std::net::IpAddr, bits: u8) -> bool {
    use std::net::IpAddr::{V4, V6};
    match (a, b) {
        (V4(a), V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros() >= u32::from(bits).min(32),
        (V6(a), V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros() >= u32::from(bits).min(128),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::url::Url;

    fn proxied(no_proxy: &str, url: &str) -> bool {
        let rules = ProxyRules::from_env(&|name| match name {
            "https_proxy" | "HTTP_PROXY" => Some("http://proxy:3128".into()),
            "NO_PROXY" => Some(no_proxy.into()),
            _ => None,
        });
        rules.proxy_for(Url::parse(url).unwrap().origin()).is_some()
    }

    #[test]
    fn loopback_is_never_reached_through_a_proxy() {
        assert!(proxied("", "https://quay.io/"));
        assert!(!proxied("", "http://127.0.0.1:5000/"));
        assert!(!proxied("", "http://localhost:5000/"));
    }

    #[test]
    fn no_proxy_lists_domains_networks_and_ports() {
        for (rule, url, expected) in [
            ("quay.io", "https://quay.io/", false),
            ("quay.io", "https://cdn.quay.io/", false),
            ("quay.io", "https://notquay.io/", true),
            (".quay.io", "https://quay.io/", true),
            ("*.quay.io", "https://a.quay.io/", false),
            ("x, 10.0.0.0/8", "http://10.2.3.4/", false),
            ("10.0.0.0/8", "http://11.2.3.4/", true),
            ("quay.io:8443", "https://quay.io/", true),
            ("quay.io:8443", "https://quay.io:8443/", false),
            ("*", "https://quay.io/", false),
        ] {
            assert_eq!(proxied(rule, url), expected, "{rule} {url}");
        }
    }
}
