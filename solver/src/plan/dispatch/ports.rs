//! EXPOSE (FEATURES MI8).

use std::net::IpAddr;

use kiln_image::oci::Empty;
use kiln_parser::Spanned;

use super::Step;
use crate::plan::PlanError;
use crate::plan::history::{self, Made};

/// Takes EXPOSE. The words are sorted before they are expanded, which is what the history shows.
pub(super) fn expose(step: &mut Step<'_, '_>, words: &[Spanned<String>]) -> Result<(), PlanError> {
    let mut sorted: Vec<&Spanned<String>> = words.iter().collect();
    sorted.sort_by(|left, right| left.value.cmp(&right.value));
    let span = step.span();
    let mut ports = Vec::new();
    for word in sorted {
        for port in step.expand_to_words(word)? {
            let place = step.place(word.span);
            let invalid = |problem| PlanError::InvalidPort { problem, span: place };
            let published = Published::parse(&port).map_err(invalid)?;
            // Before the numbers are looked at, as BuildKit does.
            if published.odd_casing {
                step.planner.warnings.protocol_casing(&port, span);
            }
            if published.is_mapped() {
                step.planner.warnings.port_mapping(&port, span);
            }
            let (first, last) = published.range().map_err(invalid)?;
            let protocol = &published.protocol;
            ports.extend((first..=last).map(|number| format!("{number}/{protocol}")));
        }
    }
    let text = format!("EXPOSE {}", history::bracketed(&ports));
    // Before the ports are kept: this is also the limit on them.
    step.planner.record(step.state, text, Made::Nothing, span)?;
    let exposed = step.state.image.config.exposed_ports.get_or_insert_default();
    exposed.extend(ports.into_iter().map(|port| (port, Empty {})));
    Ok(())
}

/// A word of EXPOSE: `[ip:][host:]port[-port][/protocol]`.
#[derive(Debug, PartialEq, Eq)]
struct Published<'a> {
    address: String,
    host: &'a str,
    ports: &'a str,
    protocol: String,
    odd_casing: bool,
}

impl<'a> Published<'a> {
    fn parse(text: &'a str) -> Result<Self, String> {
        let (address, host, container) = split(text);
        let (ports, protocol) = container.split_once('/').unwrap_or((container, ""));
        if ports.is_empty() {
            return Err(format!("invalid port: {text:?}: no port specified"));
        }
        let lower = protocol.to_ascii_lowercase();
        let odd_casing = lower != protocol;
        let protocol = match lower.as_str() {
            "" => "tcp".to_owned(),
            "tcp" | "udp" | "sctp" => lower,
            _ => return Err(format!("invalid port: {text:?}: invalid proto: {protocol}")),
        };
        Ok(Self { address, host, ports, protocol, odd_casing })
    }

    /// Whether an address or a host's port was given, which mean nothing here.
    fn is_mapped(&self) -> bool {
        !self.address.is_empty() || !self.host.is_empty()
    }

    /// The first and the last port.
    fn range(&self) -> Result<(u16, u16), String> {
        let Self { address, host, ports, .. } = self;
        if !address.is_empty() {
            let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
            bare.parse::<IpAddr>().map_err(|_| format!("invalid IP address: {address}"))?;
        }
        let (first, last) = range(ports).ok_or_else(|| format!("invalid containerPort: {ports}"))?;
        if !host.is_empty() {
            let (host_first, host_last) = range(host).ok_or_else(|| format!("invalid hostPort: {host}"))?;
            if first != last && last - first != host_last - host_first {
                return Err(format!(
                    "invalid ranges specified for container and host Ports: {ports} and {host}"
                ));
            }
        }
        Ok((first, last))
    }
}

/// Address (an IPv6 one has colons itself), host's port, container's port.
fn split(text: &str) -> (String, &str, &str) {
    match text.rsplit_once(':') {
        None => (String::new(), "", text),
        Some((rest, container)) => match rest.rsplit_once(':') {
            None => (String::new(), rest, container),
            Some((address, host)) => (address.to_owned(), host, container),
        },
    }
}

fn range(text: &str) -> Option<(u16, u16)> {
    let number = |text: &str| text.parse::<u16>().ok();
    match text.split_once('-') {
        None => number(text).map(|port| (port, port)),
        Some((first, last)) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some((first, last))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_may_be_a_range_with_a_protocol() {
        let published = Published::parse("7000-7003/UDP").unwrap();
        assert_eq!((published.range(), published.protocol.as_str()), (Ok((7000, 7003)), "udp"));
        assert!(published.odd_casing && !published.is_mapped());
        assert!(Published::parse("127.0.0.1:80:80").unwrap().is_mapped());
        assert!(Published::parse("[::1]:80:80").unwrap().is_mapped());
    }

    #[test]
    fn what_is_no_port_is_named() {
        let problem = |text| Published::parse(text).and_then(|published| published.range()).unwrap_err();
        assert_eq!(problem("99999"), "invalid containerPort: 99999");
        assert_eq!(problem("http"), "invalid containerPort: http");
        assert_eq!(problem("80/quic"), "invalid port: \"80/quic\": invalid proto: quic");
        assert_eq!(problem("90-80"), "invalid containerPort: 90-80");
        assert_eq!(problem("1.2.3:80:80"), "invalid IP address: 1.2.3");
    }
}
