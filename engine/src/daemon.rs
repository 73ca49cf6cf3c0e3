//! Into a running docker or podman and out of it, by the Engine API's `POST /images/load` and `GET /images/NAME/get`
//! (docker's reference, "Import images", "Export an image"; podman answers them too, `podman-system-service`).

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_image::Digest;
use serde::Deserialize;

use crate::{Error, ErrorKind};

/// A daemon that can be asked.
pub(crate) struct Daemon {
    address: Address,
    purpose: Purpose,
}

/// What it is asked for: what is said where it does not answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    Load,
    Save,
}

impl Purpose {
    /// What else can be done.
    fn way_out(self) -> &'static str {
        match self {
            Self::Load => "write an archive with `-o type=docker,dest=FILE`",
            Self::Save => "save the image with `docker save -o FILE NAME` and use docker-archive:FILE",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Address {
    Unix(PathBuf),
    Tcp(String),
}

/// Finds the daemon: that of the context, or of `DOCKER_HOST`, `DOCKER_CONTEXT` and docker's current context, which must
/// then be there; else docker's or podman's usual socket. `None`: none is running.
pub(crate) fn find(context: Option<&str>, purpose: Purpose) -> Result<Option<Daemon>, Error> {
    let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let named = match context {
        Some(context) => Some(of_context(context, &env)?),
        None => chosen(&env)?,
    };
    if let Some(address) = named {
        return match address.connect() {
            Ok(_) => Ok(Some(Daemon { address, purpose })),
            Err(error) => Err(unreachable(&address, purpose, error)),
        };
    }
    let usual = [
        Some(PathBuf::from("/var/run/docker.sock")),
        env("XDG_RUNTIME_DIR").map(|dir| Path::new(&dir).join("docker.sock")),
        env("XDG_RUNTIME_DIR").map(|dir| Path::new(&dir).join("podman/podman.sock")),
        Some(PathBuf::from("/run/podman/podman.sock")),
    ];
    let sockets = usual.into_iter().flatten().map(Address::Unix);
    Ok(sockets.map(|address| Daemon { address, purpose }).find(|daemon| daemon.address.connect().is_ok()))
}

/// What the user's environment names.
fn chosen(env: &dyn Fn(&str) -> Option<String>) -> Result<Option<Address>, Error> {
    if let Some(host) = env("DOCKER_HOST") {
        return parse_host(&host).map(Some);
    }
    let configured = || {
        #[derive(Deserialize)]
        struct Config {
            #[serde(rename = "currentContext", default)]
            current_context: String,
        }
        let text = std::fs::read(docker_dir(env)?.join("config.json")).ok()?;
        let config: Config = serde_json::from_slice(&text).ok()?;
        Some(config.current_context).filter(|name| !name.is_empty())
    };
    match env("DOCKER_CONTEXT").or_else(configured) {
        Some(context) if context != "default" => of_context(&context, env).map(Some),
        _ => env("CONTAINER_HOST").map(|host| parse_host(&host)).transpose(),
    }
}

/// The folder of docker's own configuration.
pub(crate) fn docker_dir(env: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    env("DOCKER_CONFIG").map(PathBuf::from).or_else(|| Some(Path::new(&env("HOME")?).join(".docker")))
}

/// The endpoint of one of docker's contexts: a file under the hash of its name.
fn of_context(name: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Address, Error> {
    if name == "default" {
        let host = env("DOCKER_HOST").unwrap_or_else(|| "unix:///var/run/docker.sock".to_owned());
        return parse_host(&host);
    }
    #[derive(Deserialize)]
    struct Meta {
        #[serde(rename = "Endpoints")]
        endpoints: std::collections::BTreeMap<String, Endpoint>,
    }
    #[derive(Deserialize)]
    struct Endpoint {
        #[serde(rename = "Host", default)]
        host: String,
    }
    let unknown = || {
        Error::user(format!("there is no docker context `{name}`")).hinted("`docker context ls` lists them")
    };
    let meta = docker_dir(env)
        .ok_or_else(unknown)?
        .join("contexts/meta")
        .join(Digest::of(name.as_bytes()).hex())
        .join("meta.json");
    let text = std::fs::read(&meta).map_err(|_| unknown())?;
    let meta: Meta =
        serde_json::from_slice(&text).map_err(|error| Error::user(format!("{}: {error}", meta.display())))?;
    let endpoint = meta.endpoints.get("docker").ok_or_else(unknown)?;
    parse_host(&endpoint.host)
}

fn parse_host(host: &str) -> Result<Address, Error> {
    match host.split_once("://") {
        Some(("unix", path)) => Ok(Address::Unix(path.into())),
        Some(("tcp" | "http", address)) => Ok(Address::Tcp(address.trim_end_matches('/').to_owned())),
        _ => Err(Error::user(format!("a daemon at {host} cannot be asked")).hinted(
            "kiln speaks to unix:// and tcp:// addresses; archives go everywhere (`-o type=docker,dest=FILE`, `docker save`)",
        )),
    }
}

impl Address {
    fn connect(&self) -> io::Result<Stream> {
        Ok(match self {
            Self::Unix(path) => Stream::Unix(UnixStream::connect(path)?),
            Self::Tcp(address) => Stream::Tcp(TcpStream::connect(address)?),
        })
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

fn unreachable(address: &Address, purpose: Purpose, source: io::Error) -> Error {
    let mut error = Error::new(ErrorKind::Environment, format!("the daemon at {address}: {source}"))
        .hinted(format!("start it, or {}", purpose.way_out()));
    error.source = Some(Box::new(source));
    error
}

enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    fn set_timeouts(&self, read: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Unix(stream) => {
                stream.set_write_timeout(Some(WRITE_TIMEOUT)).and(stream.set_read_timeout(read))
            }
            Self::Tcp(stream) => {
                stream.set_write_timeout(Some(WRITE_TIMEOUT)).and(stream.set_read_timeout(read))
            }
        }
    }
}

impl Read for &Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => (&*stream).read(buffer),
            Stream::Tcp(stream) => (&*stream).read(buffer),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buffer)
    }
}

impl Write for &Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => (&*stream).write(bytes),
            Stream::Tcp(stream) => (&*stream).write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Daemon {
    /// Sends the archive that `write` makes; returns when the daemon has taken it in.
    pub(crate) fn load(&self, write: impl FnOnce(&mut dyn Write) -> Result<(), Error>) -> Result<(), Error> {
        let failed = |error| unreachable(&self.address, self.purpose, error);
        let stream = self.address.connect().map_err(failed)?;
        stream.set_timeouts(None).map_err(failed)?;
        let mut out = &stream;
        out.write_all(REQUEST.as_bytes()).map_err(failed)?;
        let mut body = io::BufWriter::with_capacity(CHUNK_BYTES, Chunks(&stream));
        let sent = write(&mut body).and_then(|()| {
            body.flush().map_err(failed)?;
            (&stream).write_all(b"0\r\n\r\n").map_err(failed)
        });
        // A daemon that hangs up has said why.
        match (sent, answer(BufReader::new(&stream))) {
            (_, Ok(Answer { status, message })) if status >= 400 => {
                Err(Error::new(ErrorKind::Environment, format!("the daemon at {}: {message}", self.address)))
            }
            (Err(error), _) => Err(error),
            (Ok(()), Ok(Answer { message, .. })) if !message.is_empty() => {
                Err(Error::new(ErrorKind::Environment, format!("the daemon at {}: {message}", self.address)))
            }
            (Ok(()), Ok(_)) => Ok(()),
            (Ok(()), Err(error)) => Err(failed(error)),
        }
    }
}

impl Daemon {
    /// An archive of the image, as `docker save` writes it, that is still coming.
    pub(crate) fn save(&self, image: &str) -> Result<Box<dyn Read>, Error> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/' | ':' | '@');
        if !image.chars().all(is_plain) || image.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(Error::user(format!("`{}` is no image's name", image.escape_debug())));
        }
        let failed = |error| unreachable(&self.address, self.purpose, error);
        let stream = self.address.connect().map_err(failed)?;
        stream.set_timeouts(Some(READ_TIMEOUT)).map_err(failed)?;
        let request = format!(
            "GET /images/{image}/get HTTP/1.1\r\nHost: docker\r\nUser-Agent: kiln\r\nConnection: close\r\n\r\n"
        );
        (&stream).write_all(request.as_bytes()).map_err(failed)?;
        let mut reader = BufReader::with_capacity(CHUNK_BYTES, stream);
        let head = Head::read(&mut reader).map_err(failed)?;
        if head.status < 400 {
            return Ok(Box::new(Body::new(reader, &head)));
        }
        let Answer { message, .. } = rest_of_answer(&head, reader).map_err(failed)?;
        let message = format!("the daemon at {}: {message}", self.address);
        Err(if head.status == 404 {
            Error::user(message)
        } else {
            Error::new(ErrorKind::Environment, message)
        })
    }
}

/// Chunked transfer coding (RFC 9112, section 7.1), a chunk for each write.
struct Chunks<'a>(&'a Stream);

impl Write for Chunks<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !bytes.is_empty() {
            self.0.write_all(format!("{:x}\r\n", bytes.len()).as_bytes())?;
            self.0.write_all(bytes)?;
            self.0.write_all(b"\r\n")?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    /// What went wrong; empty if nothing.
    message: String,
}

/// How an answer begins.
#[derive(Debug)]
struct Head {
    status: u16,
    is_chunked: bool,
    length: Option<u64>,
}

impl Head {
    fn read(reader: &mut impl BufRead) -> io::Result<Self> {
        let mut head = reader.take(MOST_HEAD_BYTES);
        let mut line = String::new();
        head.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(no_http)?;
        let mut found = Self { status, is_chunked: false, length: None };
        loop {
            line.clear();
            if head.read_line(&mut line)? == 0 {
                return Err(no_http());
            }
            let Some((name, value)) = line.trim_end().split_once(':') else { return Ok(found) };
            match name.to_ascii_lowercase().as_str() {
                "transfer-encoding" => found.is_chunked = value.trim().eq_ignore_ascii_case("chunked"),
                "content-length" => found.length = value.trim().parse().ok(),
                _ => {}
            }
        }
    }
}

fn no_http() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP")
}

/// What follows, without its coding. One that ends early is an error.
struct Body<R> {
    reader: R,
    /// Of the chunk, or of all; `None` lasts as long as the connection.
    left: Option<u64>,
    more: Chunked,
}

/// Whether further chunks follow.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Chunked {
    No,
    First,
    Next,
}

impl<R: BufRead> Body<R> {
    fn new(reader: R, head: &Head) -> Self {
        match head.is_chunked {
            true => Self { reader, left: Some(0), more: Chunked::First },
            false => Self { reader, left: head.length, more: Chunked::No },
        }
    }

    /// The size of the next chunk.
    fn next_chunk(&mut self) -> io::Result<u64> {
        if self.more == Chunked::Next {
            self.reader.read_exact(&mut [0; 2])?;
        }
        let mut line = String::new();
        self.reader.by_ref().take(MOST_HEAD_BYTES).read_line(&mut line)?;
        let size = line.trim().split(';').next().and_then(|size| u64::from_str_radix(size, 16).ok());
        let size = size.ok_or_else(no_http)?;
        self.more = if size == 0 { Chunked::No } else { Chunked::Next };
        Ok(size)
    }
}

impl<R: BufRead> Read for Body<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == Some(0) && self.more != Chunked::No {
            self.left = Some(self.next_chunk()?);
        }
        let room = self.left.unwrap_or(u64::MAX).min(buffer.len() as u64) as usize;
        if room == 0 {
            return Ok(0);
        }
        let read = self.reader.read(&mut buffer[..room])?;
        if let Some(left) = &mut self.left {
            *left -= read as u64;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(read)
    }
}

/// Reads the daemon's answer: JSON values, of which any may be an error although the status is 200.
fn answer(mut reader: impl BufRead) -> io::Result<Answer> {
    let head = Head::read(&mut reader)?;
    rest_of_answer(&head, reader)
}

fn rest_of_answer(head: &Head, reader: impl BufRead) -> io::Result<Answer> {
    let status = head.status;
    let mut body = Vec::new();
    Body::new(reader, head).take(MOST_ANSWER_BYTES).read_to_end(&mut body)?;
    let values = serde_json::Deserializer::from_slice(&body).into_iter::<serde_json::Value>();
    let mut message = String::new();
    for value in values.map_while(Result::ok) {
        let text = value.pointer("/errorDetail/message").or(value.get("error")).or(value.get("message"));
        if let Some(text) = text.and_then(serde_json::Value::as_str) {
            message = text
                .chars()
                .take(SHOWN_CHARS)
                .flat_map(|char| {
                    if char.is_control() { char.escape_default().collect::<Vec<_>>() } else { vec![char] }
                })
                .collect();
        }
    }
    if status >= 400 && message.is_empty() {
        message = format!("status {status}");
    }
    Ok(Answer { status, message })
}

/// Without a version the daemon's newest is meant. The connection ends with the answer.
const REQUEST: &str = "POST /images/load?quiet=1 HTTP/1.1\r\nHost: docker\r\nUser-Agent: kiln\r\n\
    Content-Type: application/x-tar\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
const CHUNK_BYTES: usize = 256 << 10;
/// Of no progress while sending; unpacking a layer may keep a daemon from reading for long.
const WRITE_TIMEOUT: Duration = Duration::from_secs(600);
/// Of silence while an image comes.
const READ_TIMEOUT: Duration = Duration::from_secs(600);
const MOST_HEAD_BYTES: u64 = 64 << 10;
const MOST_ANSWER_BYTES: u64 = 16 << 20;
const SHOWN_CHARS: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_socket_or_a_port() {
        assert_eq!(parse_host("unix:///run/x.sock").unwrap(), Address::Unix("/run/x.sock".into()));
        assert_eq!(parse_host("tcp://127.0.0.1:2375").unwrap(), Address::Tcp("127.0.0.1:2375".into()));
        assert!(parse_host("ssh://host").unwrap_err().hint.is_some());
    }

    #[test]
    fn a_context_names_its_endpoint_under_the_hash_of_its_name() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("contexts/meta").join(Digest::of(b"remote").hex());
        std::fs::create_dir_all(&dir).unwrap();
        let meta = r#"{"Name":"remote","Metadata":{},"Endpoints":{"docker":{"Host":"unix:///run/r.sock"}}}"#;
        std::fs::write(dir.join("meta.json"), meta).unwrap();
        std::fs::write(home.path().join("config.json"), r#"{"currentContext":"remote"}"#).unwrap();
        let env = |name: &str| (name == "DOCKER_CONFIG").then(|| home.path().display().to_string());
        assert_eq!(chosen(&env).unwrap(), Some(Address::Unix("/run/r.sock".into())));
        assert!(of_context("other", &env).is_err());
        let host = |name: &str| (name == "DOCKER_HOST").then(|| "unix:///run/h.sock".to_owned());
        assert_eq!(chosen(&host).unwrap(), Some(Address::Unix("/run/h.sock".into())));
    }

    #[test]
    fn an_error_may_come_with_a_status_that_says_all_is_well() {
        let body =
            "{\"stream\":\"Loading\"}\n{\"errorDetail\":{\"message\":\"no space\"},\"error\":\"no space\"}\n";
        let text = format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
            body.len()
        );
        assert_eq!(answer(text.as_bytes()).unwrap(), Answer { status: 200, message: "no space".into() });
        let text = "HTTP/1.1 400 Bad\r\nContent-Length: 17\r\n\r\n{\"message\":\"what\"}";
        assert_eq!(answer(text.as_bytes()).unwrap().status, 400);
        assert!(answer(&b"hello"[..]).is_err());
    }

    #[test]
    fn a_body_ends_where_it_says() {
        let body = |text: &str| {
            let mut reader = text.as_bytes();
            let head = Head::read(&mut reader).unwrap();
            let mut body = String::new();
            Body::new(reader, &head).read_to_string(&mut body).map(|_| body)
        };
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n";
        assert_eq!(body(&format!("{chunked}0\r\n\r\n")).unwrap(), "abcde");
        assert_eq!(body("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nabc").unwrap(), "ab");
        assert_eq!(body("HTTP/1.0 200 OK\r\n\r\nabc").unwrap(), "abc");
        assert!(body(chunked).is_err());
        assert!(body("HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nabc").is_err());
    }
}
