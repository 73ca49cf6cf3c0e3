//! Any request, for protocols that others speak over kiln's connections: object stores, WebDAV.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ureq::http::{HeaderName, Method, header};

use super::source::Source;
use super::{
    Client, HttpError, Outgoing, Request, Response, Url, content_length, is_canceled, is_transient,
    is_transient_status, retry_after, status_error, text,
};

/// Smaller bodies are sent without asking first whether they are welcome.
pub(crate) const EXPECT_BYTES: u64 = 1 << 20;

/// A request of somebody else's protocol.
#[derive(Clone)]
pub struct Call<'a> {
    method: Method,
    url: Url,
    headers: Vec<(HeaderName, String)>,
    body: Option<Payload<'a>>,
}

/// A request's body.
#[derive(Clone, Copy)]
pub struct Payload<'a> {
    /// Bytes.
    pub size: u64,
    /// Opens it; called again when a connection breaks.
    pub open: &'a (dyn Fn() -> io::Result<Box<dyn Read + Send>> + Send + Sync),
}

/// An answer whose body is still coming.
#[derive(Debug)]
pub struct Answer {
    response: Response,
    cancel: Arc<AtomicBool>,
}

/// Proves who asks, in the words of somebody else's protocol.
pub trait Signer: Send + Sync + std::fmt::Debug {
    /// Adds the proof, when all else of the request is in place; it has no body.
    ///
    /// # Errors
    /// What proves it cannot be had: a token that has to be asked for first.
    fn sign<'a>(&self, call: Call<'a>) -> Result<Call<'a>, HttpError>;
}

impl std::fmt::Debug for Call<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Addresses and headers can hold what proves who asks.
        let host = self.url.origin().to_string();
        f.debug_struct("Call").field("method", &self.method).field("host", &host).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Payload<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Payload").field("size", &self.size).finish_non_exhaustive()
    }
}

impl<'a> Call<'a> {
    /// A request without a body; `method` as it is written, `GET`.
    ///
    /// # Errors
    /// `url` is no http or https address. User name and password in it are sent to its origin.
    pub fn new(method: &'static str, url: &str) -> Result<Self, HttpError> {
        let url = Url::parse(url)?;
        let method = Method::from_bytes(method.as_bytes()).unwrap_or_default();
        Ok(Self { method, url, headers: Vec::new(), body: None })
    }

    /// The same address with this behind its query, encoded.
    ///
    /// # Errors
    /// No address is left.
    pub fn query_also(mut self, query: &str) -> Result<Self, HttpError> {
        self.url = self.url.query_also(query)?;
        Ok(self)
    }

    /// The same with a body.
    #[must_use]
    pub fn body(mut self, body: Payload<'a>) -> Self {
        self.body = Some(body);
        self
    }

    /// Adds a header; names are in lower case. `authorization` and `x-…` are for the address' own origin.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((HeaderName::from_static(name), value.into()));
        self
    }

    /// The method.
    pub fn method(&self) -> &str {
        self.method.as_str()
    }

    /// Host, and port unless it is the scheme's own, as the `Host` header says it.
    pub fn host(&self) -> &str {
        self.url.uri().authority().map_or("", |authority| authority.as_str())
    }

    /// The path as it is sent.
    pub fn path(&self) -> &str {
        self.url.uri().path()
    }

    /// The query as it is sent.
    pub fn query(&self) -> Option<&str> {
        self.url.uri().query()
    }

    /// The request without its body, and what is for its own origin only.
    pub(crate) fn request(&self) -> (Request, Option<String>) {
        let mut request = Request::new(self.method.clone(), self.url.clone());
        let mut authorization = request.url.basic().map(str::to_owned);
        for (name, value) in &self.headers {
            match *name {
                header::AUTHORIZATION => authorization = Some(value.clone()),
                _ => request = request.header(name.clone(), value.clone()),
            }
        }
        (request, authorization)
    }

    /// The body's size, in bytes.
    pub fn size(&self) -> u64 {
        self.body.map_or(0, |body| body.size)
    }

    /// The headers so far.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl Answer {
    /// HTTP's number.
    pub fn status(&self) -> u16 {
        self.response.status
    }

    /// A header's value; names are in lower case.
    pub fn header(&self, name: &'static str) -> Option<&str> {
        text(&self.response.headers, &HeaderName::from_static(name))
    }

    /// `Content-Length`.
    pub fn content_length(&self) -> Option<u64> {
        content_length(&self.response.headers)
    }

    /// Itself, if it says that all went well.
    ///
    /// # Errors
    /// [`HttpError::Status`], with the server's words.
    pub fn success(self) -> Result<Self, HttpError> {
        match self.response.status {
            200..=299 => Ok(self),
            _ => Err(status_error(self.response, &self.cancel)),
        }
    }
}

impl Read for Answer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.response.body.read(buffer, &self.cancel)
    }
}

impl Client {
    /// Sends a request and begins to read its answer, whatever its status. What fails for a moment is tried again;
    /// redirects are followed where no body would go along.
    ///
    /// # Errors
    /// See [`HttpError`]; [`HttpError::Source`] when the body cannot be read.
    pub fn call(&self, call: &Call<'_>, cancel: &Arc<AtomicBool>) -> Result<Answer, HttpError> {
        let (request, authorization) = call.request();
        let authorization = authorization.as_deref();
        let response = match call.body {
            None => self.follow(&request, authorization, self.retry(), cancel)?,
            Some(body) => self.send(request, authorization, body, cancel)?,
        };
        Ok(Answer { response, cancel: Arc::clone(cancel) })
    }

    fn send(
        &self,
        mut request: Request,
        authorization: Option<&str>,
        body: Payload<'_>,
        cancel: &Arc<AtomicBool>,
    ) -> Result<Response, HttpError> {
        if body.size > EXPECT_BYTES {
            request = request.header(header::EXPECT, "100-continue");
        }
        let mut attempt = 0;
        loop {
            attempt += 1;
            let reader = (body.open)().map_err(source_error)?;
            let (source, failed) = Source::new(reader, body.size, Arc::new(|_| {}), cancel);
            let outgoing = Outgoing { reader: Box::new(source), length: Some(body.size) };
            let result =
                self.begin(&request, authorization, outgoing).and_then(|pending| pending.answer(cancel));
            if let Some(error) = failed.take() {
                return Err(source_error(error));
            }
            let asked = match &result {
                Ok(response) if is_transient_status(response.status) => retry_after(&response.headers),
                Err(HttpError::Unreachable { source, .. }) if is_transient(source) => None,
                _ => return result,
            };
            if attempt >= self.retry().attempts {
                return result;
            }
            drop(result);
            self.retry().wait(attempt, asked, cancel)?;
        }
    }
}

fn source_error(source: io::Error) -> HttpError {
    if is_canceled(&source) { HttpError::Canceled } else { HttpError::Source { source } }
}
