//! A network namespace with a way to the outside through pasta(1): packets of steps become sockets of an ordinary
//! process, so neither privileges nor changes of the host's network are needed.
//!
//! What a step reaches: whatever the user can reach beyond the host. What it does not reach: the host's loopback and its
//! abstract Unix sockets, and (unless the host's address was asked for) the host's own services, since the namespace has
//! the same address as the host.
//!
//! Starting pasta takes some 30 ms, most of them for its own tables, so it is started when it is first needed
//! ([`crate::on_demand`]). Not all of it is waited for: from the moment the namespace has its default routes the kernel keeps
//! packets for pasta until it reads them, and that is after 5 ms.
//!
//! Two processes belong to a network: pasta, and the init of its process namespace, which ends with the engine.

use std::ffi::CString;
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Access, CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountPropagationFlags, mount_change};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::etc_files::host_servers_are_local;
use crate::rootfs::{attach, clone_mount, new_mount};
use crate::socket::above_stdio;
use crate::supervise::{close_all_but, leave_the_engine};
use crate::sys::{self, Forked, PointerList, SignalsBlocked, StartStrings};
use crate::{enter, userns};

/// The program.
const PASTA: &str = "pasta";
/// What it talks to the namespace by.
const TUN: &str = "/dev/net/tun";
/// Queries to this address are passed on to the host's first name server where that listens on loopback; link-local, so
/// that no network can have it for a machine of its own.
///
/// A server that steps can reach themselves is not given this second address: pasta would then let its answers to
/// queries sent to its first one come from here, and programs that connect their sockets drop them.
const NAME_SERVER: &str = "169.254.1.1";
/// Addresses of a namespace that must not have the host's, with pasta's defaults of other builders for the rest.
const OWN_ADDRESS: [&str; 6] = ["-a", "10.0.2.100", "-n", "24", "-g", "10.0.2.2"];
/// How long pasta may take until the namespace has its routes.
const START_LIMIT: Duration = Duration::from_secs(5);
/// How long a second protocol is waited for when the first one is there.
const SECOND_PROTOCOL_LIMIT: Duration = Duration::from_millis(200);
/// Bytes of pasta's words that are kept.
const MESSAGE_LIMIT: usize = 4000;
/// A thread that makes three system calls needs little.
const THREAD_STACK_BYTES: usize = 64 * 1024;

/// Why there is no network of its own.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// The program is not installed.
    #[error("`pasta` is not installed")]
    NoPasta,
    /// It could not connect the namespace.
    #[error("`pasta` failed: {0}")]
    Pasta(String),
    /// The namespace could not be made.
    #[error("no network namespace can be made: {0}")]
    Namespace(#[source] io::Error),
}

impl NetworkError {
    /// The line that brings what is missing.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoPasta => Some("sudo apt-get install passt (or your system's package with pasta)"),
            Self::Pasta(said) if said.contains("/dev/net/tun") => {
                Some("sudo modprobe tun && sudo chmod 666 /dev/net/tun")
            }
            _ => None,
        }
    }
}

/// Whether a network of its own shows the host to what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostAccess {
    /// Nothing of the host's is reached.
    None,
    /// Services that listen on the host's address for the outside are reached by it; those on loopback are not.
    Address,
}

/// A network namespace and the processes that connect it; all are gone when this is dropped.
#[derive(Debug)]
pub struct IsolatedNetwork {
    program: PathBuf,
    access: HostAccess,
    namespace: OwnedFd,
    /// Tells of new routes in the namespace.
    routes: OwnedFd,
    host_addresses: Vec<IpAddr>,
    name_server: Option<&'static str>,
    connection: Mutex<Connection>,
}

/// How far it is.
#[derive(Debug)]
enum Connection {
    /// The namespace has loopback only.
    None,
    Ready(#[expect(dead_code, reason = "its end is the network's")] Pasta),
    Failed(String),
}

/// Its processes; they end when this is dropped.
#[derive(Debug)]
struct Pasta {
    /// Init of its process namespace.
    init: Forked,
    messages: OwnedFd,
}

impl IsolatedNetwork {
    /// Makes one that is connected when somebody [waits](Self::wait) for that.
    ///
    /// # Errors
    /// See [`NetworkError`].
    pub fn new(access: HostAccess) -> Result<IsolatedNetwork, NetworkError> {
        let program = find_pasta().ok_or(NetworkError::NoPasta)?;
        // pasta's own word for it comes when a step is under way already.
        if rustix::fs::access(TUN, Access::READ_OK | Access::WRITE_OK).is_err() {
            return Err(NetworkError::Pasta(format!("{TUN} cannot be opened")));
        }
        let (namespace, routes) = make_namespace().map_err(NetworkError::Namespace)?;
        let host_addresses = match access {
            HostAccess::None => Vec::new(),
            HostAccess::Address => addresses_to_the_outside(),
        };
        let name_server = host_servers_are_local().then_some(NAME_SERVER);
        let connection = Mutex::new(Connection::None);
        Ok(IsolatedNetwork { program, access, namespace, routes, host_addresses, name_server, connection })
    }

    fn start(&self) -> io::Result<Pasta> {
        let (messages, child_messages) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        rustix::fs::fcntl_setfl(&messages, OFlags::NONBLOCK)?;
        let arrangement =
            Arrangement::new(&self.program, self.access, self.name_server, &self.namespace, child_messages)?;
        let arguments = PointerList::new(arrangement.arguments.iter().map(CString::as_c_str));
        let environment = PointerList::new(std::iter::empty());
        let blocked = SignalsBlocked::new()?;
        let namespaces = libc::CLONE_NEWPID | libc::CLONE_NEWNS;
        let init = sys::fork(namespaces, || match arrangement.serve(&arguments, &environment) {
            Ok(()) => 0,
            Err(errno) => errno.raw_os_error(),
        })?;
        drop(blocked);
        Ok(Pasta { init, messages })
    }

    /// Connects it if nobody has, and waits until it is; at once from then on.
    ///
    /// # Errors
    /// [`NetworkError::Pasta`], for good.
    pub fn wait(&self) -> Result<(), NetworkError> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        if let Connection::None = *connection {
            *connection = match self.start() {
                Ok(pasta) => match self.wait_for_routes(&pasta) {
                    Ok(()) => Connection::Ready(pasta),
                    Err(error) => Connection::Failed(pasta.said(&error)),
                },
                Err(error) => Connection::Failed(error.to_string()),
            };
        }
        match &*connection {
            Connection::Failed(said) => Err(NetworkError::Pasta(said.clone())),
            _ => Ok(()),
        }
    }

    /// Whether nothing is left to wait for.
    pub(crate) fn is_connected(&self) -> bool {
        matches!(*self.connection.lock().unwrap_or_else(PoisonError::into_inner), Connection::Ready(_))
    }

    pub(crate) fn namespace(&self) -> &OwnedFd {
        &self.namespace
    }

    /// The address that passes queries on to a name server on the host's loopback, if that is where it was.
    pub(crate) fn name_server(&self) -> Option<&'static str> {
        self.name_server
    }

    /// What the host is reached by, if it is.
    pub(crate) fn host_addresses(&self) -> &[IpAddr] {
        &self.host_addresses
    }

    fn wait_for_routes(&self, pasta: &Pasta) -> io::Result<()> {
        let mut missing = DefaultRoutes::of_the_host();
        let mut limit = Instant::now() + START_LIMIT;
        loop {
            let left = limit.saturating_duration_since(Instant::now());
            let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            let mut events =
                [PollFd::new(&self.routes, PollFlags::IN), PollFd::new(&pasta.init.pidfd, PollFlags::IN)];
            match poll(&mut events, Some(&timeout)) {
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
                // pasta did not take up the other protocol.
                Ok(0) if missing.any_found => return Ok(()),
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) => {}
            }
            if !events[1].revents().is_empty() {
                return Err(io::Error::other("it ended at once"));
            }
            let mut message = [0_u8; ROUTE_MESSAGE_LIMIT];
            let received = rustix::net::recv(&self.routes, &mut message[..], RecvFlags::DONTWAIT);
            let Ok((_, length)) = received else { continue };
            let had_none = !missing.any_found;
            missing.find(message.get(..length).unwrap_or_default());
            if missing.are_all_found() {
                return Ok(());
            }
            if had_none && missing.any_found {
                limit = limit.min(Instant::now() + SECOND_PROTOCOL_LIMIT);
            }
        }
    }
}

impl Pasta {
    /// Its own words, or else those of `error`.
    fn said(&self, error: &io::Error) -> String {
        let mut bytes = vec![0_u8; MESSAGE_LIMIT];
        let length = rustix::io::read(&self.messages, &mut bytes[..]).unwrap_or(0);
        let text = String::from_utf8_lossy(&bytes[..length]);
        let lines: Vec<String> = text
            .lines()
            // Of a machine without a system log, and of every start as root.
            .filter(|line| !line.contains("syslog") && !line.starts_with("Don't run as root"))
            .map(|line| line.trim().escape_debug().to_string())
            .filter(|line| !line.is_empty())
            .collect();
        if lines.is_empty() { error.to_string() } else { lines.join("; ") }
    }
}

impl Drop for Pasta {
    fn drop(&mut self) {
        let _ = pidfd_send_signal(&self.init.pidfd, Signal::KILL);
        // Its end is not waited for: the kernel first takes namespaces apart.
        let pid = self.init.pid;
        let waiter = std::thread::Builder::new().name("kiln-reaper".into()).stack_size(THREAD_STACK_BYTES);
        let _ = waiter.spawn(move || drop(sys::wait_for(pid)));
    }
}

/// Whether pasta is installed.
pub(crate) fn find_pasta() -> Option<PathBuf> {
    userns::find_program(PASTA)
}

/// What pasta's init needs, made before the fork.
struct Arrangement {
    program: CString,
    arguments: Vec<CString>,
    /// A folder that pasta needs nothing of; in a mount namespace of its own it holds the file that names the network.
    folder: CString,
    null: OwnedFd,
    messages: OwnedFd,
    engine: OwnedFd,
    namespace: OwnedFd,
    start_strings: Option<StartStrings>,
}

impl Arrangement {
    fn new(
        program: &Path,
        access: HostAccess,
        name_server: Option<&str>,
        namespace: &OwnedFd,
        messages: OwnedFd,
    ) -> io::Result<Arrangement> {
        // The place that AppArmor's profile of pasta lets it read from, where there is one.
        let folder = if Path::new("/run/user").is_dir() { "/run/user" } else { "/tmp" };
        let netns = format!("{folder}/0/netns/kiln");
        let mut words = vec![PASTA, "--foreground", "--quiet", "--config-net", "--ns-ifname", "eth0"];
        words.extend(["--netns", &netns, "--no-netns-quit"]);
        if let Some(address) = name_server {
            words.extend(["--dns-forward", address]);
        }
        // Nothing of the host's: no ports into it, none out of it, and no address for its loopback.
        words.extend(["-t", "none", "-u", "none", "-T", "none", "-U", "none", "--no-map-gw"]);
        if access == HostAccess::Address {
            words.extend(OWN_ADDRESS);
        }
        // As `nobody`, which it becomes by itself, it could not enter a network namespace of root's. It drops all
        // other rights and filters its own system calls.
        if userns::is_initial() {
            words.extend(["--runas", "0"]);
        }
        Ok(Arrangement {
            program: CString::new(program.as_os_str().as_bytes())?,
            arguments: words.into_iter().map(CString::new).collect::<Result<_, _>>()?,
            folder: CString::new(folder)?,
            null: above_stdio(rustix::fs::open(
                c"/dev/null",
                OFlags::RDWR | OFlags::CLOEXEC,
                Mode::empty(),
            )?)?,
            messages: above_stdio(messages)?,
            engine: above_stdio(pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?)?,
            namespace: above_stdio(namespace.try_clone()?)?,
            start_strings: StartStrings::of_this_process(),
        })
    }

    /// The whole life of pasta's init, in a forked copy of the engine: nothing here allocates. With this first process
    /// of their namespace the kernel kills all others.
    fn serve(&self, arguments: &PointerList<'_>, environment: &PointerList<'_>) -> Result<(), Errno> {
        close_all_but(&self.null, || {
            [&self.null, &self.messages, &self.engine, &self.namespace].into_iter().map(AsFd::as_fd)
        })?;
        leave_the_engine(self.start_strings)?;
        mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        // pasta wants a path, and may not look into the engine's descriptors.
        let place = new_mount(c"tmpfs", &[], MountAttrFlags::MOUNT_ATTR_NOSUID)?;
        rustix::fs::mkdirat(&place, c"0", Mode::from_raw_mode(0o755))?;
        rustix::fs::mkdirat(&place, c"0/netns", Mode::from_raw_mode(0o755))?;
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
        rustix::fs::openat(&place, c"0/netns/kiln", flags, Mode::from_raw_mode(0o644))?;
        attach(place.as_fd(), CWD, &self.folder)?;
        let namespace = clone_mount(self.namespace.as_fd(), c"")?;
        attach(namespace.as_fd(), place.as_fd(), c"0/netns/kiln")?;
        drop((place, namespace));
        let pasta = sys::fork(0, || {
            let arranged = rustix::stdio::dup2_stdout(&self.messages)
                .and_then(|()| rustix::stdio::dup2_stderr(&self.messages));
            if arranged.is_err() || sys::close_range(3, u32::MAX).is_err() {
                return 126;
            }
            sys::reset_signals();
            sys::execve(&self.program, arguments, environment);
            127
        })
        .map_err(|_| Errno::AGAIN)?;
        let mut events = [PollFd::new(&self.engine, PollFlags::IN), PollFd::new(&pasta.pidfd, PollFlags::IN)];
        while let Err(Errno::INTR) = poll(&mut events, None) {}
        Ok(())
    }
}

/// Makes a network namespace with loopback up; answers it and a socket in it that tells of new routes.
fn make_namespace() -> io::Result<(OwnedFd, OwnedFd)> {
    let in_it = || -> io::Result<(OwnedFd, OwnedFd)> {
        sys::unshare_network()?;
        enter::loopback_up()?;
        let namespace =
            rustix::fs::open(c"/proc/thread-self/ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let routes = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            // NETLINK_ROUTE
            None,
        )?;
        rustix::net::bind(&routes, &SocketAddrNetlink::new(0, ROUTE_GROUPS))?;
        Ok((namespace, routes))
    };
    // A thread of its own: coming back to the host's network would take rights over it.
    let thread = std::thread::Builder::new().name("kiln-network".into()).stack_size(THREAD_STACK_BYTES);
    match thread.spawn(in_it)?.join() {
        Ok(made) => made,
        Err(_) => Err(io::Error::other("the thread that makes it ended")),
    }
}

/// `RTMGRP_IPV4_ROUTE` and `RTMGRP_IPV6_ROUTE` of rtnetlink(7).
const ROUTE_GROUPS: u32 = 0x40 | 0x400;
/// Bytes of a message on routes.
const ROUTE_MESSAGE_LIMIT: usize = 8192;

/// The default routes that a namespace still lacks.
#[derive(Clone, Copy, Debug)]
struct DefaultRoutes {
    v4_missing: bool,
    v6_missing: bool,
    any_found: bool,
}

impl DefaultRoutes {
    /// Those that the host has.
    fn of_the_host() -> DefaultRoutes {
        let table =
            |name: &str| std::fs::read_to_string(Path::new("/proc/self/net").join(name)).unwrap_or_default();
        DefaultRoutes {
            // Columns: interface, destination, gateway, flags, …, mask.
            v4_missing: table("route").lines().skip(1).any(|line| {
                let mut fields = line.split_ascii_whitespace().skip(1);
                fields.next() == Some("00000000") && fields.nth(5) == Some("00000000")
            }),
            // Columns: destination, its length, …, interface. The kernel keeps rejecting ones on loopback.
            v6_missing: table("ipv6_route").lines().any(|line| {
                let mut fields = line.split_ascii_whitespace();
                let destination = fields.next().unwrap_or("1");
                destination.bytes().all(|digit| digit == b'0')
                    && fields.next() == Some("00")
                    && fields.next_back() != Some("lo")
            }),
            any_found: false,
        }
    }

    fn are_all_found(self) -> bool {
        self.any_found && !self.v4_missing && !self.v6_missing
    }

    /// Looks through messages of rtnetlink(7).
    fn find(&mut self, mut messages: &[u8]) {
        const RTM_NEWROUTE: u16 = 24;
        const UNICAST: u8 = 1;
        /// Bytes of `struct nlmsghdr`; `struct rtmsg` follows: family, length of the destination, …, type.
        const HEADER: usize = 16;
        while let Some(&[a, b, c, d, kind_low, kind_high]) = messages.first_chunk::<6>() {
            let length = u32::from_ne_bytes([a, b, c, d]) as usize;
            let Some(message) = messages.get(..length).filter(|message| message.len() >= HEADER + 8) else {
                return;
            };
            let route = &message[HEADER..];
            let is_default = u16::from_ne_bytes([kind_low, kind_high]) == RTM_NEWROUTE
                && route[1] == 0
                && route[7] == UNICAST;
            if is_default {
                self.any_found = true;
                match i32::from(route[0]) {
                    libc::AF_INET => self.v4_missing = false,
                    _ => self.v6_missing = false,
                }
            }
            messages = messages.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// The host's addresses on its way to the outside. No packet is sent: connecting a datagram socket only looks the route
/// up; the addresses are those of the documentation (RFC 5737, RFC 3849).
fn addresses_to_the_outside() -> Vec<IpAddr> {
    let own = |any: &str, far: &str| -> io::Result<IpAddr> {
        let socket = UdpSocket::bind(any)?;
        socket.connect(far)?;
        Ok(socket.local_addr()?.ip())
    };
    [own("0.0.0.0:0", "192.0.2.1:9"), own("[::]:0", "[2001:db8::1]:9")]
        .into_iter()
        .flatten()
        .filter(|address| !address.is_loopback() && !address.is_unspecified())
        // The namespace has the host's own address of the newer protocol.
        .filter(IpAddr::is_ipv4)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_route_is_found_among_messages() {
        let message = |kind: u16, family: u8, length: u8| {
            let mut bytes = vec![0_u8; 28];
            bytes[..4].copy_from_slice(&28_u32.to_ne_bytes());
            bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
            (bytes[16], bytes[17], bytes[23]) = (family, length, 1);
            bytes
        };
        let mut missing = DefaultRoutes { v4_missing: true, v6_missing: true, any_found: false };
        missing.find(&message(24, 2, 24));
        missing.find(&message(25, 2, 0));
        assert!(!missing.any_found);
        missing.find(&[message(24, 2, 24), message(24, 2, 0)].concat());
        assert!(missing.any_found && !missing.v4_missing && !missing.are_all_found());
        missing.find(&message(24, 10, 0));
        assert!(missing.are_all_found());
        // What is cut short or lies about its length is nothing.
        missing.find(&[0xff; 40]);
        missing.find(&[0; 40]);
    }
}
