//! `type=webdav` (RFC 4918) and `type=http`: servers that take files by PUT; WebDAV's folders are made, others' are there.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kiln_image::Digest;
use kiln_image::http::{Call, HttpError};

use super::web::{self, Service, Web};
use super::{Secret, Store};
use crate::place::{Access, Env};
use crate::{CacheSpec, InvalidSpec};

pub(super) const KEYS: [&str; 4] = ["url", "username", "password", "token"];

#[derive(Debug)]
struct Files {
    /// Without a slash at the end.
    url: Secret,
    authorization: Option<Secret>,
    folders: Folders,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Folders {
    /// By MKCOL.
    Made,
    /// With what is in them.
    Implied,
}

pub(super) fn open(spec: &CacheSpec, access: &Access, _: &Env<'_>) -> Result<Box<dyn Store>, InvalidSpec> {
    Web::boxed(Files::new(spec, Folders::Made)?, access)
}

pub(super) fn open_http(
    spec: &CacheSpec,
    access: &Access,
    _: &Env<'_>,
) -> Result<Box<dyn Store>, InvalidSpec> {
    Web::boxed(Files::new(spec, Folders::Implied)?, access)
}

impl Files {
    fn new(spec: &CacheSpec, folders: Folders) -> Result<Self, InvalidSpec> {
        let url = spec.required("url")?.trim_end_matches('/');
        if url.contains(['?', '#']) {
            return Err(InvalidSpec::new("url= has a query, which has no place in a folder's address"));
        }
        let basic =
            |name: &str, password: &str| format!("Basic {}", STANDARD.encode(format!("{name}:{password}")));
        let authorization = match (spec.value("token"), spec.value("username"), spec.value("password")) {
            (Some(_), Some(_), _) => {
                return Err(InvalidSpec::new("token= and username= are two ways to log in"));
            }
            (Some(token), None, _) => Some(Secret::new(format!("Bearer {token}"))),
            (None, Some(name), password) => Some(Secret::new(basic(name, password.unwrap_or_default()))),
            (None, None, Some(_)) => return Err(InvalidSpec::new("password= needs username=")),
            // What the address itself says is sent by the client.
            (None, None, None) => None,
        };
        Ok(Self { url: Secret::new(url), authorization, folders })
    }
}

impl Service for Files {
    fn name(&self) -> String {
        web::shown(self.url.reveal())
    }

    fn url(&self, path: &str) -> String {
        format!("{}/{}", self.url.reveal(), web::encode_path(path))
    }

    fn sign<'a>(&self, call: Call<'a>, _: &Digest) -> Result<Call<'a>, HttpError> {
        Ok(match &self.authorization {
            Some(authorization) => call.header("authorization", authorization.reveal()),
            None => call,
        })
    }

    fn parents(&self, path: &str) -> Vec<Call<'static>> {
        if self.folders == Folders::Implied {
            return Vec::new();
        }
        let ends = path.match_indices('/').map(|(at, _)| at);
        // Outermost first; the address itself may be missing, too.
        let folders: BTreeSet<&str> = std::iter::once("").chain(ends.map(|at| &path[..=at])).collect();
        folders.into_iter().filter_map(|folder| Call::new("MKCOL", &self.url(folder)).ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_made_from_the_outermost_one() {
        let spec = CacheSpec::new("webdav").with("url", "http://u:p@h/dav/");
        let files = Files::new(&spec, Folders::Made).unwrap();
        let calls = files.parents("a/b c/d");
        let paths: Vec<_> = calls.iter().map(Call::path).collect();
        assert_eq!(paths, ["/dav/", "/dav/a/", "/dav/a/b%20c/"]);
        assert_eq!(files.name(), "http://h/dav");
        assert!(!format!("{files:?}").contains("u:p"));
    }
}
