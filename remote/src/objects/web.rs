//! Objects by GET, HEAD and PUT: what all services over HTTP have in common.

use std::fmt::Debug;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use kiln_image::Digest;
use kiln_image::http::{Answer, Call, HttpError, Payload};

use super::parts::Parts;
use super::{Object, Store};
use crate::place::Access;
use crate::{CacheError, InvalidSpec};

/// What is special about a service.
pub(super) trait Service: Send + Sync + Debug {
    /// What people call the place.
    fn name(&self) -> String;

    /// How objects go that are too large for one request; `None` if none is.
    fn parts(&self) -> Option<Parts> {
        None
    }

    /// The address of an object, encoded.
    fn url(&self, path: &str) -> String;

    /// The same with an encoded query, whose keys are sorted.
    fn url_with(&self, path: &str, query: &str) -> String {
        format!("{}?{query}", self.url(path))
    }

    /// Adds what proves who asks, when all else is in place; `body` is the digest of the request's.
    fn sign<'a>(&self, call: Call<'a>, body: &Digest) -> Result<Call<'a>, HttpError>;

    /// Adds what a PUT needs.
    fn for_put<'a>(&self, call: Call<'a>) -> Call<'a> {
        call
    }

    /// Whether a refusal may mean that there is no such object.
    fn hides_absence(&self) -> bool {
        false
    }

    /// What must be there before an object: tried after a PUT that found it missing.
    fn parents(&self, _path: &str) -> Vec<Call<'static>> {
        Vec::new()
    }

    /// The request that makes an object young, if `head`, the answer about it, says that it is old.
    fn touch(&self, _path: &str, _head: &Answer) -> Option<Call<'static>> {
        None
    }
}

/// A place that a service is.
#[derive(Debug)]
pub(super) struct Web<S> {
    service: S,
    access: Access,
}

impl<S: Service + 'static> Web<S> {
    /// # Errors
    /// The addresses are none of http or https.
    pub(super) fn boxed(service: S, access: &Access) -> Result<Box<dyn Store>, InvalidSpec> {
        Call::new("GET", &service.url("x")).map_err(|error| InvalidSpec::new(error.to_string()))?;
        Ok(Box::new(Self { service, access: access.clone() }))
    }

    pub(super) fn service(&self) -> &S {
        &self.service
    }

    /// Signs and sends.
    pub(super) fn send(&self, call: Call<'_>, body: &Digest) -> Result<Answer, CacheError> {
        let call = self.service.sign(call, body)?;
        Ok(self.access.registry.http().call(&call, &self.access.cancel)?)
    }

    /// Sends what must be sent even when the user has given up; it has no body.
    pub(super) fn send_at_the_end(&self, call: Call<'_>) -> Result<Answer, CacheError> {
        let call = self.service.sign(call, &Digest::of(b""))?;
        Ok(self.access.registry.http().call(&call, &Arc::new(AtomicBool::new(false)))?)
    }

    /// The answer about an object, if it is there.
    fn ask(&self, method: &'static str, path: &str) -> Result<Option<Answer>, CacheError> {
        let answer = self.send(Call::new(method, &self.service.url(path))?, &Digest::of(b""))?;
        match answer.status() {
            404 | 410 => Ok(None),
            403 if self.service.hides_absence() && method == "HEAD" => Ok(None),
            _ => Ok(Some(answer.success()?)),
        }
    }

    fn write(&self, path: &str, object: &Object<'_>) -> Result<Answer, CacheError> {
        let body = Payload { size: object.size, open: object.open };
        let call = Call::new("PUT", &self.service.url(path))?.body(body);
        Ok(self.send(self.service.for_put(call), &object.digest)?.success()?)
    }

    /// Writes; where something must be there first, makes that and writes again.
    pub(super) fn making_parents(
        &self,
        path: &str,
        write: &dyn Fn() -> Result<Answer, CacheError>,
    ) -> Result<Answer, CacheError> {
        let parents = match write() {
            // WebDAV says 409 (RFC 4918, 9.7.1), servers that think of files 404 or 403.
            Err(CacheError::Http(HttpError::Status { status: 403 | 404 | 409, .. })) => {
                self.service.parents(path)
            }
            done => return done,
        };
        for parent in parents {
            // Most are there already; what is really wrong, the next PUT says.
            let made = self.send(parent, &Digest::of(b""))?;
            tracing::debug!(status = made.status(), "parent");
        }
        write()
    }
}

impl<S: Service + 'static> Store for Web<S> {
    fn name(&self) -> String {
        self.service.name()
    }

    fn get(&self, path: &str) -> Result<Option<Box<dyn Read + Send>>, CacheError> {
        Ok(self.ask("GET", path)?.map(|answer| Box::new(answer) as Box<dyn Read + Send>))
    }

    fn size(&self, path: &str) -> Result<Option<u64>, CacheError> {
        let Some(answer) = self.ask("HEAD", path)? else { return Ok(None) };
        if let Some(call) = self.service.touch(path, &answer)
            && let Err(error) = self.send(call, &Digest::of(b"")).and_then(|done| Ok(done.success()?))
        {
            tracing::debug!(%error, "the object is not made young");
        }
        Ok(answer.content_length())
    }

    fn put(&self, path: &str, object: &Object<'_>) -> Result<(), CacheError> {
        match self.service.parts().filter(|parts| parts.are_for(object.size)) {
            Some(parts) => self.put_in_parts(parts, path, object),
            None => self.making_parents(path, &|| self.write(path, object)).map(drop),
        }
    }
}

/// A path as an address has it: all but letters, digits, `-._~` and `/` escaped (RFC 3986, 2.3), which is what signatures
/// are made of, too.
pub(super) fn encode_path(path: &str) -> String {
    path.bytes().fold(String::new(), |mut encoded, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
        encoded
    })
}

/// A value as a query has it, and as signatures are made of it.
pub(crate) fn encode_value(value: &str) -> String {
    encode_path(value).replace('/', "%2F")
}

/// An address without a slash at its end, and without user name and password, to be shown.
pub(super) fn shown(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let end = rest.find('/').unwrap_or(rest.len());
            let host = rest[..end].rsplit('@').next().unwrap_or_default();
            format!("{scheme}://{host}{}", &rest[end..])
        }
        None => url.to_owned(),
    }
}
