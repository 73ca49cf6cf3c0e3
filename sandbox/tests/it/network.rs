//! Networks of steps: what is reached from each of them, and what is not.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use kiln_sandbox::{HostAccess, HostAddress, HostEntry, IsolatedNetwork, Network};

use crate::support::{Store, go, is_root_in_ci, own_program, store};

/// An isolated network; `None`, with a word why, without pasta.
fn isolated(access: HostAccess) -> Option<Network> {
    match IsolatedNetwork::new(access).and_then(|network| network.wait().map(|()| network)) {
        Ok(network) => Some(Network::Isolated(Arc::new(network))),
        Err(error) if is_root_in_ci() => panic!("{error}"),
        Err(error) => {
            eprintln!("skipped: {error}; {:?}", error.hint());
            None
        }
    }
}

/// A server on `address` that says `word` to everybody who asks; its port.
fn server(address: &str, word: &'static str) -> u16 {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            let _ = stream.read(&mut [0; 100]);
            let _ = stream.write_all(word.as_bytes());
        }
    });
    port
}

/// Whether a step on `network` hears `word` from `address`, which may be a name of its `/etc/hosts`.
#[track_caller]
fn hears(store: &Store, network: &Network, address: &str, port: u16, word: &str) {
    assert_eq!(heard(store, network, address, port, 300), word, "{address}");
}

#[track_caller]
fn hears_nothing(store: &Store, network: &Network, address: &str, port: u16) {
    assert_eq!(heard(store, network, address, port, 1), "", "{address}");
}

/// What a step hears within so many seconds.
fn heard(store: &Store, network: &Network, address: &str, port: u16, patience: u32) -> String {
    let (mounts, program) = own_program("network::a_program_that_asks");
    let mut spec = store.shell(&format!(
        "at=$(sed -n 's/\\t{address}$//p' /etc/hosts); KILN_TEST_ASK=\"${{at:-{address}}} {port} {patience}\" {program}"
    ));
    spec.network = network.clone();
    spec.mounts = mounts;
    spec.extra_hosts = vec![HostEntry { name: "host".into(), address: HostAddress::Gateway }];
    let ran = go(&spec).unwrap();
    let heard = ran.stdout.lines().find_map(|line| line.strip_prefix("heard: "));
    heard.unwrap_or_else(|| panic!("{ran:?}")).to_owned()
}

/// Not a test but the program that asks.
#[test]
fn a_program_that_asks() {
    let Ok(place) = std::env::var("KILN_TEST_ASK") else { return };
    let [address, port, patience] = place.split(' ').collect::<Vec<_>>()[..] else { panic!("{place}") };
    let address = std::net::SocketAddr::new(address.parse().unwrap(), port.parse().unwrap());
    let mut heard = String::new();
    // Where nobody is to be heard packets may lead nowhere, and who is to be heard may be slow.
    let patience = Duration::from_secs(patience.parse().unwrap());
    if let Ok(mut stream) = TcpStream::connect_timeout(&address, patience) {
        stream.write_all(b"?").unwrap();
        let _ = stream.read_to_string(&mut heard);
    }
    println!("heard: {heard}");
}

#[test]
fn loopback_of_the_host_is_reached_on_the_hosts_network_only() {
    let Some(store) = store() else { return };
    let port = server("127.0.0.1", "loopback");
    hears(&store, &Network::Host, "127.0.0.1", port, "loopback");
    hears_nothing(&store, &Network::None, "127.0.0.1", port);
    let Some(network) = isolated(HostAccess::None) else { return };
    let gateway = store.sh_on(&network, "ip route | sed -n 's/^default via \\([0-9.]*\\).*/\\1/p'");
    assert!(!gateway.is_empty());
    for address in ["127.0.0.1", gateway.trim(), "169.254.1.1", "169.254.1.2", "::1"] {
        hears_nothing(&store, &network, address, port);
    }
}

#[test]
fn abstract_sockets_of_the_host_are_reached_on_the_hosts_network_only() {
    let Some(store) = store() else { return };
    let name = format!("kiln-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let _listener = UnixListener::bind_addr(&address).unwrap();
    let of_program = || own_program("network::a_program_that_looks_for_an_abstract_socket");
    let connects = |network: &Network| {
        let (mounts, program) = of_program();
        let mut spec = store.shell(&program);
        spec.network = network.clone();
        spec.env.push(format!("KILN_TEST_ABSTRACT={name}").into());
        spec.mounts = mounts;
        let ran = go(&spec).unwrap();
        assert!(ran.stdout.contains("looked: "), "{ran:?}");
        ran.stdout.contains("looked: there")
    };
    assert!(connects(&Network::Host));
    assert!(!connects(&Network::None));
    let Some(network) = isolated(HostAccess::None) else { return };
    assert!(!connects(&network));
}

/// Not a test but the program that the one above runs inside.
#[test]
fn a_program_that_looks_for_an_abstract_socket() {
    let Some(name) = std::env::var_os("KILN_TEST_ABSTRACT") else { return };
    let address = SocketAddr::from_abstract_name(name.as_encoded_bytes()).unwrap();
    let found = std::os::unix::net::UnixStream::connect_addr(&address);
    println!("looked: {}", if found.is_ok() { "there" } else { "not there" });
}

#[test]
fn the_hosts_address_is_reached_where_that_was_asked_for() {
    let Some(store) = store() else { return };
    let port = server("0.0.0.0", "outside");
    let inner = server("127.0.0.1", "inside");
    let Some(closed) = isolated(HostAccess::None) else { return };
    let Some(open) = isolated(HostAccess::Address) else { return };
    hears(&store, &open, "host", port, "outside");
    hears_nothing(&store, &open, "host", inner);
    let hosts = store.sh_on(&closed, "cat /etc/hosts");
    assert!(!hosts.contains("\thost\n"), "{hosts}");
    hears(&store, &Network::Host, "host", inner, "inside");
}

/// A network namespace of the test's own that stands for another machine: 198.51.100.2, behind 198.51.100.1 of the host.
struct OtherMachine {
    name: String,
}

impl OtherMachine {
    fn new() -> Self {
        let machine = Self { name: format!("kt{}", std::process::id()) };
        let name = &machine.name;
        for line in [
            format!("netns add {name}"),
            format!("link add {name} type veth peer name eth0 netns {name}"),
            format!("addr add 198.51.100.1/30 dev {name}"),
            format!("link set {name} up"),
            format!("-n {name} addr add 198.51.100.2/30 dev eth0"),
            format!("-n {name} link set eth0 up"),
        ] {
            let ended = Command::new("ip").args(line.split(' ')).output().unwrap();
            assert!(ended.status.success(), "ip {line}: {}", String::from_utf8_lossy(&ended.stderr));
        }
        machine
    }

    /// Serves `word` there; the port.
    fn serve(&self, word: &'static str) -> u16 {
        use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
        let namespace = std::fs::File::open(format!("/run/netns/{}", self.name)).unwrap();
        let serving = std::thread::spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            server("198.51.100.2", word)
        });
        serving.join().unwrap()
    }
}

impl Drop for OtherMachine {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

#[test]
fn other_machines_are_reached_from_an_isolated_network_and_not_without_one() {
    let Some(store) = store() else { return };
    let Some(network) = isolated(HostAccess::None) else { return };
    let first = std::fs::read_to_string("/proc/self/uid_map").unwrap();
    if !first.trim_end().ends_with("4294967295") {
        eprintln!("skipped: needs the rights to give the machine another address");
        return;
    }
    let machine = OtherMachine::new();
    let port = machine.serve("other");
    hears(&store, &network, "198.51.100.2", port, "other");
    hears_nothing(&store, &Network::None, "198.51.100.2", port);
}

#[test]
fn a_step_finds_nothing_of_the_one_before_it_on_its_network() {
    let Some(store) = store() else { return };
    let Some(network) = isolated(HostAccess::None) else { return };
    assert_eq!(store.sh_on(&network, "ls /sys/class/net"), "eth0\nlo\n");
    // A second step on it finds nothing of the first one's.
    let ran = store.sh_on(
        &network,
        "nc -l -p 7777 >/dev/null & sleep 0; ip addr add 10.9.9.9/32 dev lo || echo refused",
    );
    assert_eq!(ran, "refused\n");
    hears_nothing(&store, &network, "127.0.0.1", 7777);
}

#[test]
fn names_are_asked_for_through_a_server_on_the_hosts_loopback() {
    let Some(store) = store() else { return };
    let Some(network) = isolated(HostAccess::None) else { return };
    // What this machine's resolv.conf names is reached directly, or by the address that stands for its loopback.
    let conf = store.sh_on(&network, "cat /etc/resolv.conf");
    assert!(conf.contains("nameserver "), "{conf}");
    assert!(!conf.contains("nameserver 127."), "{conf}");
}

#[test]
fn a_network_is_connected_when_a_step_asks_for_a_socket_and_no_sooner() {
    let Some(store) = store() else { return };
    if isolated(HostAccess::None).is_none() {
        return;
    }
    let network = Network::Isolated(Arc::new(IsolatedNetwork::new(HostAccess::None).unwrap()));
    let by_runtime = std::env::var_os("KILN_TEST_RUNTIME").is_some();
    let look = "ls /sys/class/net";
    let before = store.sh_on(&network, look);
    let first = std::fs::read_to_string("/proc/self/uid_map").unwrap();
    if !by_runtime && !has_single_id(&first) {
        assert_eq!(before, "lo\n");
    }
    // Whoever asks first waits for it, and so does a second one at the same time.
    let ask = "ip route | grep -c ^default";
    let both = store.sh_on(&network, &format!("({ask}) & {ask}; wait; ls /sys/class/net"));
    assert_eq!(both, "1\n1\neth0\nlo\n");
    assert_eq!(store.sh_on(&network, look), "eth0\nlo\n");
}

/// By the words of `/proc/self/uid_map`.
fn has_single_id(map: &str) -> bool {
    map.lines().count() == 1 && map.trim_end().ends_with(" 1")
}
