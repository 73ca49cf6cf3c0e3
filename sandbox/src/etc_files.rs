//! `/etc/resolv.conf` and `/etc/hosts` of the sandbox; neither gets into a layer.

use std::net::{IpAddr, Ipv4Addr};

use crate::{Dns, HostAddress, HostEntry, Network};

/// Bytes read of a host's resolv.conf at most.
const RESOLV_CONF_LIMIT: u64 = 64 * 1024;
/// Where systemd-resolved keeps the servers behind its stub.
const SYSTEMD_RESOLVED: &str = "/run/systemd/resolve/resolv.conf";
/// The stub's address.
const SYSTEMD_STUB: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53));
/// What other builders use when the host has no server that the sandbox can reach.
const PUBLIC_SERVERS: [&str; 4] = ["8.8.8.8", "8.8.4.4", "2001:4860:4860::8888", "2001:4860:4860::8844"];

/// Returns the resolv.conf for a sandbox on `network`, from the host's and what `dns` says in its place.
pub(crate) fn resolv_conf(network: &Network, dns: &Dns) -> Vec<u8> {
    let host = read_limited("/etc/resolv.conf").unwrap_or_default();
    let from_host = match network {
        Network::Host if servers(&host).next().is_none() => without_loopback(&host, &PUBLIC_SERVERS),
        Network::Host => host,
        Network::None => without_loopback(&behind_systemd(host), &PUBLIC_SERVERS),
        Network::Isolated(network) => match network.name_server() {
            Some(server) => without_loopback(&behind_systemd(host), &[server]),
            None => without_loopback(&behind_systemd(host), &PUBLIC_SERVERS),
        },
    };
    with_choices(from_host, dns)
}

/// Whether the host asks servers on its loopback and no others.
pub(crate) fn host_servers_are_local() -> bool {
    let host = behind_systemd(read_limited("/etc/resolv.conf").unwrap_or_default());
    let mut servers = servers(&host).peekable();
    servers.peek().is_some() && servers.all(|server| server.is_loopback())
}

/// The conf of systemd-resolved itself, where the host's names nothing but its stub on loopback.
fn behind_systemd(host: Vec<u8>) -> Vec<u8> {
    let only_stub = servers(&host).all(|server| server == SYSTEMD_STUB) && servers(&host).next().is_some();
    only_stub.then(|| read_limited(SYSTEMD_RESOLVED)).flatten().unwrap_or(host)
}

/// Lines of `conf` whose keyword the user has said something about give way to it.
fn with_choices(conf: Vec<u8>, dns: &Dns) -> Vec<u8> {
    if *dns == Dns::default() {
        return conf;
    }
    let replaced: &[(&[u8], bool)] = &[
        (b"nameserver", !dns.servers.is_empty()),
        (b"search", !dns.search.is_empty()),
        // The older word for one domain to search.
        (b"domain", !dns.search.is_empty()),
        (b"options", !dns.options.is_empty()),
    ];
    let is_replaced = |line: &[u8]| {
        let word = line.trim_ascii_start().split(u8::is_ascii_whitespace).next().unwrap_or_default();
        replaced.iter().any(|(keyword, given)| *given && *keyword == word)
    };
    let mut text: Vec<u8> = conf
        .split_inclusive(|&byte| byte == b'\n')
        .filter(|line| !is_replaced(line))
        .flatten()
        .copied()
        .collect();
    if text.last().is_some_and(|&byte| byte != b'\n') {
        text.push(b'\n');
    }
    if !dns.search.is_empty() && dns.search != ["."] {
        text.extend(format!("search {}\n", dns.search.join(" ")).bytes());
    }
    for server in &dns.servers {
        text.extend(format!("nameserver {server}\n").bytes());
    }
    if !dns.options.is_empty() {
        text.extend(format!("options {}\n", dns.options.join(" ")).bytes());
    }
    text
}

/// A resolv.conf without servers on the host's loopback; `replacements` where none would be left.
fn without_loopback(conf: &[u8], replacements: &[&str]) -> Vec<u8> {
    let mut kept = Vec::with_capacity(conf.len());
    let mut any_server = false;
    for line in conf.split_inclusive(|&byte| byte == b'\n') {
        match server(line) {
            Some(address) if address.is_loopback() => continue,
            Some(_) => any_server = true,
            None => {}
        }
        kept.extend_from_slice(line);
    }
    if !any_server {
        if kept.last().is_some_and(|&byte| byte != b'\n') {
            kept.push(b'\n');
        }
        for address in replacements {
            kept.extend_from_slice(format!("nameserver {address}\n").as_bytes());
        }
    }
    kept
}

fn servers(conf: &[u8]) -> impl Iterator<Item = IpAddr> {
    conf.split(|&byte| byte == b'\n').filter_map(server)
}

/// The address on a `nameserver` line; a line with something else on it names no server.
fn server(line: &[u8]) -> Option<IpAddr> {
    let rest = line.trim_ascii().strip_prefix(b"nameserver")?;
    rest.first().filter(|byte| byte.is_ascii_whitespace())?;
    let word = rest.split(u8::is_ascii_whitespace).find(|word| !word.is_empty())?;
    let without_zone = word.split(|&byte| byte == b'%').next()?;
    let address: IpAddr = std::str::from_utf8(without_zone).ok()?.parse().ok()?;
    Some(address.to_canonical())
}

fn read_limited(path: &str) -> Option<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(path).ok()?.take(RESOLV_CONF_LIMIT).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// Returns `/etc/hosts`: loopback, the multicast names Docker writes, `extra`, the sandbox itself. A gateway that
/// `network` does not have leaves its line out.
pub(crate) fn hosts(hostname: &str, extra: &[HostEntry], network: &Network) -> Vec<u8> {
    let mut text = format!("127.0.0.1\tlocalhost {hostname}").trim_end().to_owned();
    text.push_str("\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for entry in extra {
        let addresses = match entry.address {
            HostAddress::Ip(address) => vec![address],
            HostAddress::Gateway => match network {
                Network::None => Vec::new(),
                Network::Host => vec![Ipv4Addr::LOCALHOST.into()],
                Network::Isolated(network) => network.host_addresses().to_vec(),
            },
        };
        for address in addresses {
            text.push_str(&format!("{address}\t{}\n", entry.name));
        }
    }
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_servers_are_left_out() {
        let conf =
            b"search lan\nnameserver 127.0.0.1\nnameserver 10.0.0.2\nnameserver ::1\noptions ndots:2\n";
        assert_eq!(
            without_loopback(conf, &PUBLIC_SERVERS),
            b"search lan\nnameserver 10.0.0.2\noptions ndots:2\n"
        );
    }

    #[test]
    fn public_servers_replace_none() {
        let conf = without_loopback(b"options x\nnameserver\t127.0.0.53", &PUBLIC_SERVERS);
        let text = String::from_utf8(conf).unwrap();
        assert!(text.starts_with("options x\nnameserver 8.8.8.8\n"), "{text}");
    }

    #[test]
    fn what_is_no_address_is_no_server() {
        let conf = without_loopback(b"nameserver no\nnameserver ::ffff:127.0.0.1\n", &["10.0.0.1"]);
        assert_eq!(String::from_utf8(conf).unwrap(), "nameserver no\nnameserver 10.0.0.1\n");
        assert_eq!(server(b"nameserver fe80::1%eth0 # x"), "fe80::1".parse().ok());
    }

    #[test]
    fn hosts_have_the_extra_lines() {
        let address = |octets: [u8; 4]| HostAddress::Ip(octets.into());
        let extra = [
            HostEntry { name: "db".into(), address: address([10, 0, 0, 9]) },
            HostEntry { name: "host".into(), address: HostAddress::Gateway },
        ];
        let text = String::from_utf8(hosts("box", &extra, &Network::Host)).unwrap();
        assert_eq!(
            text,
            "127.0.0.1\tlocalhost box\n::1\tlocalhost ip6-localhost ip6-loopback\n10.0.0.9\tdb\n127.0.0.1\thost\n"
        );
        let text = String::from_utf8(hosts("box", &extra, &Network::None)).unwrap();
        assert!(text.ends_with("10.0.0.9\tdb\n"));
    }

    #[test]
    fn what_the_user_says_of_names_stands_for_the_hosts_words() {
        let conf = b"search lan\nnameserver 10.0.0.2\noptions ndots:2".to_vec();
        let text = |dns: Dns| String::from_utf8(with_choices(conf.clone(), &dns)).unwrap();
        let dns = Dns { servers: vec![[9, 9, 9, 9].into()], ..Dns::default() };
        assert_eq!(text(dns), "search lan\noptions ndots:2\nnameserver 9.9.9.9\n");
        let dns = Dns { search: vec![".".into()], options: vec!["rotate".into()], ..Dns::default() };
        assert_eq!(text(dns), "nameserver 10.0.0.2\noptions rotate\n");
        assert_eq!(text(Dns::default()).as_bytes(), conf);
    }
}
