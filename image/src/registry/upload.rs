//! One upload (distribution-spec, "Pushing blobs"): whole in one PUT, in pieces where that fails, or as a stream.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use ureq::http::{HeaderName, Method, header};

use super::RegistryError;
use super::auth::Grant;
use super::client::success;
use super::push::{Push, PushBlob};
use crate::Digest;
use crate::http::{
    EXPECT_BYTES, Outgoing, Pending, Request, Response, Retry, Source, Tls, Url, is_canceled, is_transient,
    retry_after, text,
};

/// The least that is sent as one piece; it is kept in memory, so that it can be sent again.
const PIECE_BYTES: u64 = 16 << 20;
/// Larger pieces are asked for by no registry that is known.
const MAX_PIECE_BYTES: u64 = 256 << 20;
/// Registries move and verify what they were given before they answer.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// What a stream collects before it is handed over.
const CHUNK_BYTES: usize = 256 << 10;
/// So many of these wait for the network.
const CHUNKS_AHEAD: usize = 32;

/// An upload that the registry waits for.
#[derive(Clone, Debug)]
pub(super) struct Session {
    /// Where the next request goes; nothing is to be read into it.
    location: Url,
    /// Where the session was begun: a login goes there and nowhere else.
    home: Url,
    /// How that server was reached.
    tls: Tls,
    /// The least size of a piece, where the registry wants pieces (`OCI-Chunk-Min-Length`).
    min_piece: Option<u64>,
}

/// Why a body did not arrive.
enum Failure {
    /// Its bytes cannot be had, or the registry says no.
    Final(RegistryError),
    /// It may go better next time, after the time that the registry asks for.
    ForAMoment(RegistryError, Option<Duration>),
    /// Too large for one request, says the registry or a proxy before it.
    TooLarge(RegistryError),
    /// The token is too old.
    Unauthorized(RegistryError),
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        Self::Final(error)
    }
}

/// How the next attempt sends a blob.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Whole,
    Pieces,
}

impl Session {
    /// The session that an answer speaks of.
    pub(super) fn of(answer: &Response) -> Result<Self, RegistryError> {
        let min_piece = HeaderName::from_static("oci-chunk-min-length");
        Ok(Self {
            location: location(answer)?,
            home: answer.url.clone(),
            tls: answer.tls,
            min_piece: text(&answer.headers, &min_piece).and_then(|size| size.parse().ok()),
        })
    }
}

/// Where an answer says that the next request goes.
fn location(answer: &Response) -> Result<Url, RegistryError> {
    let refused = |to: String, reason| crate::http::HttpError::RedirectRefused {
        from: answer.url.origin().to_string(),
        to,
        reason,
    };
    let Some(location) = text(&answer.headers, &header::LOCATION) else {
        return Err(refused("nowhere".into(), "an upload's address is missing").into());
    };
    let location = answer.url.join(location)?;
    if answer.url.origin().https && !location.origin().https {
        return Err(refused(location.to_string(), "it leaves https").into());
    }
    Ok(location)
}

impl Push {
    /// Sends a blob, as often as it takes.
    pub(super) fn upload(&self, blob: &PushBlob<'_>, mut session: Session) -> Result<(), RegistryError> {
        let retry = self.client.retry();
        let mut way = if session.min_piece.is_some() { Way::Pieces } else { Way::Whole };
        let (mut attempt, mut renewed) = (0, false);
        loop {
            let sent = match way {
                Way::Whole => self.put_whole(blob, &session),
                Way::Pieces => self.put_pieces(blob, session),
            };
            match sent {
                Ok(()) => return Ok(()),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::TooLarge(error)) if way == Way::Pieces => return Err(error),
                Err(Failure::TooLarge(_)) => way = Way::Pieces,
                Err(Failure::Unauthorized(error)) if renewed => return Err(error),
                // The next session's request gets a new one.
                Err(Failure::Unauthorized(_)) => renewed = true,
                Err(Failure::ForAMoment(error, asked)) => {
                    attempt += 1;
                    if attempt >= retry.attempts {
                        return Err(error);
                    }
                    tracing::debug!(digest = %blob.digest, %error, attempt, "sending the blob again");
                    retry.wait(attempt, asked, &self.cancel)?;
                    // What broke once is sent so that the next break costs a piece only.
                    way = Way::Pieces;
                    // All may have arrived, and the answer been lost.
                    if self.has_blob(&blob.digest)? {
                        return Ok(());
                    }
                }
            }
            session = self.begin()?;
        }
    }

    /// Gives an upload up (Docker Registry HTTP API V2, "Canceling an Upload"). Not all registries know that; they forget in
    /// time what nothing comes for.
    pub(super) fn give_up(&self, session: &Session) {
        let request = self.request(Method::DELETE, session, session.location.clone());
        if let Err(error) = self.send(&request, session) {
            tracing::debug!(%error, "an upload stays begun");
        }
    }

    /// One PUT with all bytes ("Monolithically: POST then PUT").
    fn put_whole(&self, blob: &PushBlob<'_>, session: &Session) -> Result<(), Failure> {
        let reader = (blob.open)().map_err(source_error)?;
        let (reader, failed) = Source::new(reader, blob.size, Arc::clone(&blob.told), &self.cancel);
        let mut request = self.request(Method::PUT, session, with_digest(&session.location, &blob.digest)?);
        request.patience = COMMIT_TIMEOUT;
        if blob.size > EXPECT_BYTES {
            request = request.header(header::EXPECT, "100-continue");
        }
        let outgoing = Outgoing { reader: Box::new(reader), length: Some(blob.size) };
        let answer = self.begin_request(&request, session, outgoing)?.answer(&self.cancel);
        // A source that failed looks like a connection that broke.
        if let Some(error) = failed.take() {
            return Err(source_error(error));
        }
        self.arrived(answer.map_err(RegistryError::from)).map(drop)
    }

    /// A PATCH for each piece and a PUT at the end ("Pushing a blob in chunks").
    fn put_pieces(&self, blob: &PushBlob<'_>, mut session: Session) -> Result<(), Failure> {
        let size = session.min_piece.unwrap_or(0).clamp(PIECE_BYTES, MAX_PIECE_BYTES);
        let mut reader = (blob.open)().map_err(source_error)?;
        let mut sent = 0;
        while sent < blob.size {
            let mut piece = Vec::new();
            let room = size.min(blob.size - sent);
            reader.by_ref().take(room).read_to_end(&mut piece).map_err(source_error)?;
            if piece.len() as u64 != room {
                return Err(source_error(io::ErrorKind::UnexpectedEof.into()));
            }
            self.put_piece(&mut session, &piece.into(), sent)?;
            sent += room;
            (blob.told)(sent);
        }
        self.commit(&session, &blob.digest)
    }

    /// Sends one piece that begins at byte `start`; what of it arrived before a connection broke is not sent again.
    fn put_piece(&self, session: &mut Session, piece: &Arc<[u8]>, start: u64) -> Result<(), Failure> {
        let end = start + piece.len() as u64;
        let (mut at, mut attempt) = (start, 0);
        while at < end {
            let rest = match at - start {
                0 => Arc::clone(piece),
                skipped => piece[skipped as usize..].into(),
            };
            let mut request = self.request(Method::PATCH, session, session.location.clone());
            request = request.header(header::CONTENT_RANGE, format!("{at}-{}", end - 1));
            request.body = rest;
            match self.arrived(self.send(&request, session)) {
                Ok(answer) => {
                    session.location = location(&answer)?;
                    return Ok(());
                }
                Err(Failure::ForAMoment(error, asked)) => {
                    attempt += 1;
                    let retry = self.client.retry();
                    if attempt >= retry.attempts {
                        return Err(Failure::ForAMoment(error, asked));
                    }
                    retry.wait(attempt, asked, &self.cancel).map_err(RegistryError::from)?;
                    match self.held(session) {
                        Ok(held) if (start..=end).contains(&held) => at = held,
                        // It has other bytes than were sent, or (docker-registry) ends a session whose last request broke:
                        // from the beginning, then.
                        Ok(_) | Err(Failure::ForAMoment(..)) => return Err(Failure::ForAMoment(error, None)),
                        Err(failure) => return Err(failure),
                    }
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }

    /// How many bytes the registry has of an upload (`GET <location>`).
    fn held(&self, session: &mut Session) -> Result<u64, Failure> {
        let request = self.request(Method::GET, session, session.location.clone());
        let answer = match self.arrived(self.send(&request, session)) {
            Ok(answer) => answer,
            // The session is gone; another may do.
            Err(Failure::Final(error @ RegistryError::NotFound { .. })) => {
                return Err(Failure::ForAMoment(error, None));
            }
            Err(failure) => return Err(failure),
        };
        if text(&answer.headers, &header::LOCATION).is_some() {
            session.location = location(&answer)?;
        }
        // `0-<last>`; nothing at all is `0-0` or no header.
        let last = text(&answer.headers, &header::RANGE)
            .and_then(|range| range.trim_start_matches("bytes=").split_once('-'))
            .and_then(|(_, last)| last.trim().parse::<u64>().ok());
        Ok(last.filter(|last| *last > 0).map_or(0, |last| last + 1))
    }

    /// Ends an upload: from now on the blob is there.
    fn commit(&self, session: &Session, digest: &Digest) -> Result<(), Failure> {
        let mut request = self.request(Method::PUT, session, with_digest(&session.location, digest)?);
        request.patience = COMMIT_TIMEOUT;
        self.arrived(self.send(&request, session)).map(drop)
    }

    fn request(&self, method: Method, session: &Session, url: Url) -> Request {
        // Insecurity was granted to one host, not to where it points.
        let is_home = url.origin() == session.home.origin();
        let mut request = Request::new(method, url).header(header::CONTENT_TYPE, "application/octet-stream");
        if is_home {
            request.tls = session.tls;
        }
        request
    }

    /// The login, for the registry itself and not for where it points.
    fn authorization(&self, request: &Request, session: &Session) -> Option<String> {
        let home = session.home.origin();
        let is_home = request.url.origin() == home;
        is_home.then(|| self.client.authorization(home, &self.endpoint, &Grant::Push)).flatten()
    }

    fn begin_request(
        &self,
        request: &Request,
        session: &Session,
        outgoing: Outgoing,
    ) -> Result<Pending, RegistryError> {
        let authorization = self.authorization(request, session);
        Ok(self.client.http.begin(request, authorization.as_deref(), outgoing)?)
    }

    fn send(&self, request: &Request, session: &Session) -> Result<Response, RegistryError> {
        let authorization = self.authorization(request, session);
        Ok(self.client.http.follow(request, authorization.as_deref(), Retry::ONCE, &self.cancel)?)
    }

    /// Sorts what became of a request.
    fn arrived(&self, answer: Result<Response, RegistryError>) -> Result<Response, Failure> {
        let answer = match answer {
            Ok(answer) => answer,
            Err(RegistryError::Unreachable { host, source }) if is_transient(&source) => {
                return Err(Failure::ForAMoment(RegistryError::Unreachable { host, source }, None));
            }
            Err(error) => return Err(Failure::Final(error)),
        };
        let (status, asked) = (answer.status, retry_after(&answer.headers));
        success(answer, &self.image, true, &self.cancel).map_err(|error| match status {
            401 => Failure::Unauthorized(error),
            413 => Failure::TooLarge(error),
            // A piece that is not where the registry wants it.
            416 => Failure::ForAMoment(error, None),
            status if crate::http::is_transient_status(status) => Failure::ForAMoment(error, asked),
            _ => Failure::Final(error),
        })
    }
}

/// A session's address with the digest that ends it; registries have parameters of their own in there.
fn with_digest(location: &Url, digest: &Digest) -> Result<Url, RegistryError> {
    let separator = if location.uri().query().is_some() { '&' } else { '?' };
    let digest = crate::http::encode_query(&digest.to_string());
    Ok(Url::parse(&format!("{}{separator}digest={digest}", location.uri()))?)
}

fn source_error(error: io::Error) -> Failure {
    Failure::Final(match error.downcast::<RegistryError>() {
        Ok(error) => error,
        Err(error) if is_canceled(&error) => RegistryError::Canceled,
        Err(source) => RegistryError::Source { source },
    })
}

/// A blob that is sent while it is made (a PATCH without a length); see [`Push::stream`].
#[derive(Debug)]
pub struct BlobStream {
    push: Push,
    session: Session,
    pending: Option<Pending>,
    chunks: SyncSender<Chunk>,
    buffer: Vec<u8>,
}

enum Chunk {
    Data(Vec<u8>),
    End,
}

impl BlobStream {
    pub(super) fn begin(push: &Push) -> Result<Self, RegistryError> {
        let session = push.begin()?;
        let (chunks, receiver) = sync_channel(CHUNKS_AHEAD);
        let request = push
            .request(Method::PATCH, &session, session.location.clone())
            .header(header::EXPECT, "100-continue");
        let reader = Chunks { receiver, chunk: io::Cursor::default(), ended: false };
        let outgoing = Outgoing { reader: Box::new(reader), length: None };
        let pending = push.begin_request(&request, &session, outgoing)?;
        Ok(Self { push: push.clone(), session, pending: Some(pending), chunks, buffer: Vec::new() })
    }

    /// Sends what is left, and makes the blob be there.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub fn finish(mut self, digest: &Digest) -> Result<(), RegistryError> {
        let unreachable =
            |source| RegistryError::Unreachable { host: self.session.home.origin().to_string(), source };
        let buffer = std::mem::take(&mut self.buffer);
        let sent = self.chunks.send(Chunk::Data(buffer)).and_then(|()| self.chunks.send(Chunk::End));
        let Some(pending) = self.pending.take() else {
            return Err(unreachable(io::ErrorKind::BrokenPipe.into()));
        };
        let answer = pending.answer(&self.push.cancel).map_err(RegistryError::from);
        let whole = match self.push.arrived(answer) {
            Ok(answer) if sent.is_ok() => {
                self.session.location = location(&answer)?;
                self.push.commit(&self.session, digest)
            }
            Ok(_) => return Err(unreachable(io::ErrorKind::BrokenPipe.into())),
            Err(failure) => Err(failure),
        };
        whole.map_err(|failure| match failure {
            Failure::Final(error)
            | Failure::ForAMoment(error, _)
            | Failure::TooLarge(error)
            | Failure::Unauthorized(error) => error,
        })
    }
}

impl Write for BlobStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK_BYTES {
            let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(2 * CHUNK_BYTES));
            // The other side ends when the connection does.
            self.chunks.send(Chunk::Data(chunk)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What the connection reads. A stream that was given up ends in an error, so that no half blob looks whole.
struct Chunks {
    receiver: Receiver<Chunk>,
    chunk: io::Cursor<Vec<u8>>,
    ended: bool,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.chunk.read(buffer)? {
                0 if self.ended || buffer.is_empty() => return Ok(0),
                0 => {}
                read => return Ok(read),
            }
            match self.receiver.recv() {
                Ok(Chunk::Data(bytes)) => self.chunk = io::Cursor::new(bytes),
                Ok(Chunk::End) => self.ended = true,
                Err(_) => return Err(io::ErrorKind::ConnectionAborted.into()),
            }
        }
    }
}
