//! One request and its answer, on a thread of its own.
//!
//! ureq blocks, in name resolution, connecting and reading. A build that is cancelled must not wait for that, so the
//! thread does the blocking and hands over what arrives; the caller looks at its flag while it waits. It also means
//! that a blob is received while the part before is hashed and unpacked.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use ureq::http::{self, HeaderMap, Method};
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};

use super::HttpError;
use super::certificates::{CertificateDirs, HostCertificates};
use super::proxy::ProxyRules;
use super::url::{Origin, Url};

/// Time for name resolution, connecting and TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// A connection on which nothing comes for so long is dead.
const STALL_TIMEOUT: Duration = Duration::from_secs(45);
/// How often a waiting caller looks whether it is cancelled.
const CANCEL_POLL: Duration = Duration::from_millis(50);
/// Read at once from a connection.
const CHUNK_BYTES: usize = 64 << 10;
/// Chunks received ahead of the reader.
const CHUNKS_AHEAD: usize = 16;
/// Idle connections kept for each host.
const IDLE_CONNECTIONS: usize = 8;

/// A request for one address.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: Vec<(http::HeaderName, String)>,
    pub(crate) body: Arc<[u8]>,
    pub(crate) tls: Tls,
    /// So long may the server say nothing.
    pub(crate) patience: Duration,
}

/// A request's body that is not in memory; it can be sent once.
pub(crate) struct Outgoing {
    pub(crate) reader: Box<dyn Read + Send>,
    /// Bytes; without, the body is sent in HTTP's chunks.
    pub(crate) length: Option<u64>,
}

/// A request on its way.
#[derive(Debug)]
pub(crate) struct Pending {
    body: Body,
    url: Url,
    tls: Tls,
}

/// Whether the server must prove its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Tls {
    /// Against the host's root certificates.
    Verified,
    /// For registries that the user declared insecure, and for loopback.
    Unverified,
}

/// An answer whose body is still coming.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    /// Where it came from, after redirects.
    pub(crate) url: Url,
    /// Whether the server proved its name.
    pub(crate) tls: Tls,
    pub(crate) body: Body,
}

/// A body as sent: nothing is decompressed.
#[derive(Debug)]
pub(crate) struct Body {
    messages: Receiver<Message>,
    chunk: Vec<u8>,
    at: usize,
    state: BodyState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyState {
    Open,
    Ended,
    Failed,
}

enum Message {
    Head(Result<(u16, HeaderMap), HttpError>),
    Data(Vec<u8>),
    End,
    Failed(io::Error),
}

/// The connections: one pool for each way to reach a server.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    proxies: ProxyRules,
    certificates: CertificateDirs,
    agents: [OnceLock<ureq::Agent>; 6],
    /// For servers that have certificates of their own; `None` for those that were looked for and have none.
    own: Mutex<HashMap<(Origin, Tls), Option<ureq::Agent>>>,
}

impl Request {
    pub(crate) fn get(url: Url) -> Self {
        Self::new(Method::GET, url)
    }

    pub(crate) fn new(method: Method, url: Url) -> Self {
        let body = Arc::default();
        Self { method, url, headers: Vec::new(), body, tls: Tls::Verified, patience: STALL_TIMEOUT }
    }

    pub(crate) fn header(mut self, name: http::HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

impl Connections {
    pub(crate) fn new(proxies: ProxyRules, certificates: CertificateDirs) -> Self {
        Self { proxies, certificates, agents: Default::default(), own: Mutex::default() }
    }

    /// Whether the user named authorities for the server.
    pub(crate) fn has_authorities(&self, origin: &Origin) -> Result<bool, HttpError> {
        Ok(self.certificates.find(origin)?.is_some_and(|found| !found.authorities.is_empty()))
    }

    /// Sends the request and waits for the head of the answer. Redirects and error statuses are answers.
    pub(crate) fn exchange(&self, request: &Request, cancel: &AtomicBool) -> Result<Response, HttpError> {
        self.begin(request, None)?.answer(cancel)
    }

    /// Begins to send the request, with its own body or another.
    pub(crate) fn begin(&self, request: &Request, outgoing: Option<Outgoing>) -> Result<Pending, HttpError> {
        let agent = self.agent(request)?;
        let (sender, messages) = sync_channel(CHUNKS_AHEAD);
        let sent = request.clone();
        std::thread::Builder::new()
            .name("kiln-http".into())
            .spawn(move || run(&agent, &sent, outgoing, &sender))
            .map_err(|source| HttpError::Unreachable { host: request.url.origin().to_string(), source })?;
        let body = Body { messages, chunk: Vec::new(), at: 0, state: BodyState::Open };
        Ok(Pending { body, url: request.url.clone(), tls: request.tls })
    }

    fn agent(&self, request: &Request) -> Result<ureq::Agent, HttpError> {
        let origin = request.url.origin();
        if origin.https
            && let Some(agent) = self.own_agent(origin, request.tls)?
        {
            return Ok(agent);
        }
        let proxy = self.proxies.proxy_for(origin);
        let index = match (proxy.is_some(), origin.https, request.tls) {
            (false, _, Tls::Verified) if origin.https => 0,
            (false, _, _) if !origin.https => 1,
            (false, _, _) => 2,
            (true, true, Tls::Verified) => 3,
            (true, true, Tls::Unverified) => 4,
            (true, false, _) => 5,
        };
        if let Some(agent) = self.agents[index].get() {
            return Ok(agent.clone());
        }
        let tls = if origin.https { Some(tls_config(request.tls, None)?) } else { None };
        let agent = self.new_agent(origin, tls)?;
        Ok(self.agents[index].get_or_init(|| agent).clone())
    }

    /// The connections of a server with certificates of its own.
    fn own_agent(&self, origin: &Origin, tls: Tls) -> Result<Option<ureq::Agent>, HttpError> {
        let key = (origin.clone(), tls);
        let lock = || self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lock().get(&key) {
            return Ok(known.clone());
        }
        let agent = match self.certificates.find(origin)? {
            Some(found) => Some(self.new_agent(origin, Some(tls_config(tls, Some(found))?))?),
            None => None,
        };
        Ok(lock().entry(key).or_insert(agent).clone())
    }

    fn new_agent(&self, origin: &Origin, tls: Option<TlsConfig>) -> Result<ureq::Agent, HttpError> {
        let proxy = match self.proxies.proxy_for(origin) {
            Some(address) => Some(ureq::Proxy::new(address).map_err(|_| HttpError::InvalidProxy)?),
            None => None,
        };
        let config = ureq::Agent::config_builder()
            .tls_config(tls.unwrap_or_else(|| TlsConfig::builder().build()))
            .proxy(proxy)
            .http_status_as_error(false)
            // WebDAV's.
            .allow_non_standard_methods(true)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .accept_encoding("identity")
            .user_agent(concat!("kiln/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_per_read(Some(STALL_TIMEOUT))
            .timeout_per_write(Some(STALL_TIMEOUT))
            .max_idle_connections(4 * IDLE_CONNECTIONS)
            .max_idle_connections_per_host(IDLE_CONNECTIONS)
            .build();
        Ok(config.new_agent())
    }
}

impl Pending {
    /// Waits for the head of the answer.
    pub(crate) fn answer(mut self, cancel: &AtomicBool) -> Result<Response, HttpError> {
        let unreachable =
            |url: &Url, source| HttpError::Unreachable { host: url.origin().to_string(), source };
        match self.body.next(cancel) {
            Ok(Message::Head(head)) => {
                let (status, headers) = head?;
                Ok(Response { status, headers, url: self.url, tls: self.tls, body: self.body })
            }
            Ok(_) => Err(unreachable(&self.url, thread_ended())),
            Err(source) if is_canceled(&source) => Err(HttpError::Canceled),
            Err(source) => Err(unreachable(&self.url, source)),
        }
    }
}

/// ring is named here, so that neither an embedder's nor a process-wide choice of provider matters.
fn tls_config(tls: Tls, own: Option<HostCertificates>) -> Result<TlsConfig, HttpError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        TlsConfig::builder().provider(TlsProvider::Rustls).unversioned_rustls_crypto_provider(provider);
    let (authorities, client) = own.map_or((Vec::new(), None), |own| (own.authorities, own.client));
    let builder = builder.client_cert(client);
    Ok(match tls {
        Tls::Verified => builder.root_certs(root_certificates(&authorities)?).build(),
        Tls::Unverified => builder.disable_verification(true).build(),
    })
}

/// The system's authorities, and a server's own.
fn root_certificates(own: &[Certificate<'static>]) -> Result<RootCerts, HttpError> {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::debug!(%error, "root certificates");
    }
    if found.certs.is_empty() && own.is_empty() {
        return Err(HttpError::NoRootCertificates { source: found.errors.into_iter().next().map(Box::new) });
    }
    let owned =
        |certificate: &CertificateDer<'static>| Certificate::from_der(certificate.as_ref()).to_owned();
    let all: Vec<_> = found.certs.iter().map(owned).chain(own.iter().cloned()).collect();
    Ok(RootCerts::new_with_certs(&all))
}

/// The thread. It ends when the body has ended or nobody reads it any more.
fn run(agent: &ureq::Agent, request: &Request, outgoing: Option<Outgoing>, sender: &SyncSender<Message>) {
    let answer = match send(agent, request, outgoing) {
        Ok(answer) => answer,
        Err(error) => {
            let _ = sender.send(Message::Head(Err(error)));
            return;
        }
    };
    let (head, body) = answer.into_parts();
    if sender.send(Message::Head(Ok((head.status.as_u16(), head.headers)))).is_err() {
        return;
    }
    let mut reader = body.into_with_config().limit(u64::MAX).reader();
    // One for all: mostly less comes at once, and zeroing a new one each time would cost more than the copy.
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let (filled, end) = receive(&mut reader, &mut buffer);
        if filled > 0 && sender.send(Message::Data(buffer[..filled].to_vec())).is_err() {
            return;
        }
        if let Some(end) = end {
            let _ = sender.send(end);
            return;
        }
    }
}

/// Fills the buffer, unless the body ends before, in a way that is returned: a server sends as little at once as it likes, and
/// every message wakes a thread.
fn receive(reader: &mut impl Read, buffer: &mut [u8]) -> (usize, Option<Message>) {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => return (filled, Some(Message::End)),
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (filled, Some(Message::Failed(plain(error)))),
        }
    }
    (filled, None)
}

fn send(
    agent: &ureq::Agent,
    request: &Request,
    outgoing: Option<Outgoing>,
) -> Result<http::Response<ureq::Body>, HttpError> {
    let host = || request.url.origin().to_string();
    let invalid =
        |error: http::Error| HttpError::Unreachable { host: host(), source: io::Error::other(error) };
    let mut builder = http::Request::builder().method(request.method.clone()).uri(request.url.uri().clone());
    for (name, value) in &request.headers {
        builder = builder.header(name, value);
    }
    let has_body = !matches!(request.method, Method::GET | Method::HEAD | Method::DELETE);
    let length = match &outgoing {
        Some(outgoing) => outgoing.length,
        None => Some(request.body.len() as u64),
    };
    if let Some(length) = length.filter(|_| has_body) {
        builder = builder.header(http::header::CONTENT_LENGTH, length);
    }
    let body = match outgoing {
        Some(outgoing) => ureq::SendBody::from_owned_reader(outgoing.reader),
        None if has_body => ureq::SendBody::from_owned_reader(io::Cursor::new(Arc::clone(&request.body))),
        None => ureq::SendBody::none(),
    };
    let sent = builder.body(body).map_err(invalid)?;
    let sent = agent.configure_request(sent).timeout_per_read(Some(request.patience)).build();
    let answer = agent.run(sent);
    answer.map_err(|error| HttpError::Unreachable { host: host(), source: plain(error.into_io()) })
}

/// Keeps the kind that ureq's time-outs and resolver errors have, so that callers can tell what to try again.
fn plain(error: io::Error) -> io::Error {
    let kind = match error.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>()) {
        Some(ureq::Error::Timeout(_)) => io::ErrorKind::TimedOut,
        Some(ureq::Error::HostNotFound) => io::ErrorKind::NotFound,
        Some(ureq::Error::Protocol(_)) => io::ErrorKind::InvalidData,
        _ => return error,
    };
    let text = match kind {
        io::ErrorKind::TimedOut => "no answer in time".to_owned(),
        io::ErrorKind::NotFound => "the host's name is not known".to_owned(),
        _ => error.to_string(),
    };
    io::Error::new(kind, text)
}

impl Body {
    /// Reads some bytes, 0 at the end. Gives up when `cancel` is set ([`is_canceled`]).
    pub(crate) fn read(&mut self, buffer: &mut [u8], cancel: &AtomicBool) -> io::Result<usize> {
        while self.at == self.chunk.len() {
            match self.state {
                BodyState::Open => {}
                BodyState::Ended => return Ok(0),
                BodyState::Failed => return Err(thread_ended()),
            }
            match self.next(cancel)? {
                Message::Data(chunk) => (self.chunk, self.at) = (chunk, 0),
                Message::End => self.state = BodyState::Ended,
                Message::Failed(error) => {
                    self.state = BodyState::Failed;
                    return Err(error);
                }
                Message::Head(_) => return Err(thread_ended()),
            }
        }
        let read = buffer.len().min(self.chunk.len() - self.at);
        buffer[..read].copy_from_slice(&self.chunk[self.at..self.at + read]);
        self.at += read;
        Ok(read)
    }

    /// Reads all, but at most `limit` bytes and one more.
    pub(crate) fn read_to_limit(&mut self, limit: u64, cancel: &AtomicBool) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        let mut buffer = vec![0; 16 << 10];
        loop {
            let room = (limit + 1).saturating_sub(all.len() as u64).min(buffer.len() as u64) as usize;
            match self.read(&mut buffer[..room], cancel)? {
                0 => return Ok(all),
                read => all.extend_from_slice(&buffer[..read]),
            }
        }
    }

    fn next(&mut self, cancel: &AtomicBool) -> io::Result<Message> {
        loop {
            if cancel.load(Ordering::Relaxed) {
                return Err(canceled());
            }
            match self.messages.recv_timeout(CANCEL_POLL) {
                Ok(message) => return Ok(message),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(thread_ended()),
            }
        }
    }
}

/// The cause inside of an [`io::Error`] when the caller's flag was set.
#[derive(Debug, thiserror::Error)]
#[error("canceled")]
struct CanceledRead;

pub(crate) fn canceled() -> io::Error {
    io::Error::other(CanceledRead)
}

/// Whether a read ended because of the caller's flag.
pub(crate) fn is_canceled(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<CanceledRead>())
}

fn thread_ended() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the connection ended unexpectedly")
}
