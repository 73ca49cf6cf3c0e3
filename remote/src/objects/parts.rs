//! Objects too large for one request, in parts: S3's multipart uploads ("Uploading and copying objects using multipart
//! upload", Amazon S3 User Guide; Google's XML API has the same ones) and Azure's blocks ("Put Block", "Put Block List").
//!
//! A part is read into memory, so that its digest is known before it is sent, and is sent again from there. An upload
//! that fails is aborted: S3 would keep, and charge for, its parts. Azure forgets blocks that no list names.

use std::io::{self, Cursor, Read};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kiln_image::Digest;
use kiln_image::http::{Answer, Call, Payload};

use super::Object;
use super::web::{Service, Web, encode_value};
use crate::spec::size;
use crate::{CacheError, CacheSpec, InvalidSpec};

/// How a service takes parts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts {
    dialect: Dialect,
    /// Larger objects are written in parts, in bytes.
    above: u64,
    /// Of all parts but the last.
    part_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    S3,
    Azure,
}

/// The key that all services with parts understand.
pub(super) const KEY: &str = "part_size";
/// S3 takes no smaller ones but for the last ("Amazon S3 multipart upload limits").
const MIN_PART_BYTES: u64 = 5 << 20;
/// So many are held in memory as layers are written at once.
const MAX_PART_BYTES: u64 = 1 << 30;
const PART_BYTES: u64 = 64 << 20;
/// Azure takes more.
const MAX_PARTS: u64 = 10_000;
/// Longest answer that is looked into; they have a few hundred bytes.
const MAX_ANSWER_BYTES: u64 = 64 << 10;

impl Parts {
    /// Objects of more than `limit_bytes`, or than `part_size=` says, go in parts.
    pub(super) fn of(spec: &CacheSpec, dialect: Dialect, limit_bytes: u64) -> Result<Self, InvalidSpec> {
        let Some(text) = spec.value(KEY) else {
            return Ok(Self { dialect, above: limit_bytes, part_bytes: PART_BYTES });
        };
        let range = MIN_PART_BYTES..=MAX_PART_BYTES;
        let bytes = size(text).filter(|bytes| range.contains(bytes)).ok_or_else(|| {
            InvalidSpec::new(format!("{KEY}={text} is no size of parts"))
                .hinted("from 5MB to 1GB; 64MB, for example")
        })?;
        Ok(Self { dialect, above: bytes, part_bytes: bytes })
    }

    /// Whether an object goes in parts.
    pub(super) fn are_for(&self, size: u64) -> bool {
        size > self.above
    }
}

/// An upload that has begun.
struct Upload<'a, S> {
    web: &'a Web<S>,
    dialect: Dialect,
    path: &'a str,
    /// S3's name of it, as an address has it.
    id: String,
}

impl<S: Service + 'static> Web<S> {
    /// Writes an object in parts, whole or not at all.
    pub(super) fn put_in_parts(
        &self,
        parts: Parts,
        path: &str,
        object: &Object<'_>,
    ) -> Result<(), CacheError> {
        let upload = Upload::begin(self, parts.dialect, path)?;
        let written = upload.send(parts, object).and_then(|names| upload.finish(&names));
        if written.is_err() {
            upload.abort();
        }
        // What finished it may have been done when its answer was lost, and then is no upload the second time.
        match written {
            Err(CacheError::Canceled) => Err(CacheError::Canceled),
            Err(error) => match self.has(path, object.size) {
                true => Ok(()),
                false => Err(error),
            },
            Ok(()) => Ok(()),
        }
    }

    fn has(&self, path: &str, size: u64) -> bool {
        use super::Store as _;
        matches!(self.size(path), Ok(Some(found)) if found == size)
    }

    fn exchange(&self, method: &'static str, url: &str, body: &[u8]) -> Result<Answer, CacheError> {
        let open = || Ok(Box::new(Cursor::new(body.to_vec())) as Box<dyn Read + Send>);
        let call = Call::new(method, url)?.body(Payload { size: body.len() as u64, open: &open });
        Ok(self.send(call, &Digest::of(body))?.success()?)
    }
}

impl<'a, S: Service + 'static> Upload<'a, S> {
    fn begin(web: &'a Web<S>, dialect: Dialect, path: &'a str) -> Result<Self, CacheError> {
        let id = match dialect {
            Dialect::S3 => {
                let answer = web.exchange("POST", &web.service().url_with(path, "uploads="), b"")?;
                let answer = text(answer)?;
                let id = element(&answer, "UploadId").filter(|id| !id.is_empty());
                encode_value(&id.ok_or_else(|| CacheError::Invalid("an upload has no UploadId".into()))?)
            }
            Dialect::Azure => String::new(),
        };
        Ok(Self { web, dialect, path, id })
    }

    /// Sends the parts one after the other; returns what they are called.
    fn send(&self, parts: Parts, object: &Object<'_>) -> Result<Vec<String>, CacheError> {
        let part_bytes = parts.part_bytes.max(object.size.div_ceil(MAX_PARTS));
        let mut reader = (object.open)().map_err(CacheError::Interrupted)?;
        let mut names = Vec::new();
        let mut sent = 0;
        while sent < object.size {
            let length = part_bytes.min(object.size - sent);
            let mut part = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
            reader.by_ref().take(length).read_to_end(&mut part).map_err(CacheError::Interrupted)?;
            if part.len() as u64 != length {
                return Err(CacheError::Interrupted(io::ErrorKind::UnexpectedEof.into()));
            }
            names.push(self.part(names.len() + 1, &part)?);
            sent += length;
        }
        Ok(names)
    }

    /// Parts have numbers from 1.
    fn part(&self, number: usize, bytes: &[u8]) -> Result<String, CacheError> {
        match self.dialect {
            Dialect::S3 => {
                let query = format!("partNumber={number}&uploadId={}", self.id);
                let answer =
                    self.web.exchange("PUT", &self.web.service().url_with(self.path, &query), bytes)?;
                let tag = answer.header("etag").map(str::to_owned);
                tag.ok_or_else(|| CacheError::Invalid("a part has no ETag".into()))
            }
            Dialect::Azure => {
                // All of one length, and digits have no `+`, `/` and `=` in Base64, which an address would escape.
                let name = STANDARD.encode(format!("{number:09}"));
                let url = self.web.service().url_with(self.path, &format!("blockid={name}&comp=block"));
                self.web.making_parents(self.path, &|| self.web.exchange("PUT", &url, bytes))?;
                Ok(name)
            }
        }
    }

    /// Makes the parts an object.
    fn finish(&self, names: &[String]) -> Result<(), CacheError> {
        let answer = match self.dialect {
            Dialect::S3 => {
                let parts: String = (1..)
                    .zip(names)
                    .map(|(number, tag)| {
                        format!("<Part><PartNumber>{number}</PartNumber><ETag>{}</ETag></Part>", escape(tag))
                    })
                    .collect();
                let list = format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>");
                let url = self.web.service().url_with(self.path, &format!("uploadId={}", self.id));
                text(self.web.exchange("POST", &url, list.as_bytes())?)?
            }
            Dialect::Azure => {
                let blocks: String = names.iter().map(|name| format!("<Latest>{name}</Latest>")).collect();
                let list =
                    format!("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>{blocks}</BlockList>");
                let url = self.web.service().url_with(self.path, "comp=blocklist");
                text(self.web.exchange("PUT", &url, list.as_bytes())?)?
            }
        };
        // S3 begins its answer before it knows how it ends (API Reference, `CompleteMultipartUpload`).
        match element(&answer, "Code") {
            Some(code) if answer.contains("<Error>") => {
                Err(CacheError::Invalid(format!("an upload does not end: {}", code.escape_debug())))
            }
            _ => Ok(()),
        }
    }

    fn abort(&self) {
        if self.dialect == Dialect::S3 {
            let url = self.web.service().url_with(self.path, &format!("uploadId={}", self.id));
            let answer = Call::new("DELETE", &url).map_err(CacheError::from);
            let answer = answer.and_then(|call| self.web.send_at_the_end(call));
            tracing::debug!(status = ?answer.map(|answer| answer.status()), "upload aborted");
        }
    }
}

fn text(answer: Answer) -> Result<String, CacheError> {
    let mut bytes = Vec::new();
    answer.take(MAX_ANSWER_BYTES).read_to_end(&mut bytes).map_err(CacheError::Interrupted)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The text of the first element of a name.
fn element(xml: &str, name: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    Some(text.replace("&quot;", "\"").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_of_parts_is_within_what_services_take() {
        let of = |text: &str| Parts::of(&CacheSpec::new("s3").with(KEY, text), Dialect::S3, 100);
        let parts = of("5MB").unwrap();
        assert!(!parts.are_for(5 << 20) && parts.are_for((5 << 20) + 1));
        for text in ["4MB", "2GB", "x", ""] {
            assert!(of(text).is_err() || text.is_empty(), "{text}");
        }
        let parts = Parts::of(&CacheSpec::new("s3"), Dialect::S3, 100).unwrap();
        assert!(!parts.are_for(100) && parts.are_for(101));
    }

    #[test]
    fn an_elements_text_is_what_it_stands_for() {
        let xml = "<A><UploadId>a&amp;b/+=</UploadId></A>";
        assert_eq!(element(xml, "UploadId").as_deref(), Some("a&b/+="));
        assert_eq!(encode_value("a&b/+="), "a%26b%2F%2B%3D");
        assert_eq!((element(xml, "Code"), element("<Code>", "Code")), (None, None));
        assert_eq!(escape("\"a&<\""), "\"a&amp;&lt;\"");
    }
}
