//! Credentials that a service hands out for a while: asked for when they are first needed, and again before they end.

use std::io::{self, Cursor, Read};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use kiln_image::http::{Call, HttpError, Payload};

use super::web::encode_path;
use crate::place::Access;

/// Largest answer with credentials that is read.
const MAX_ANSWER_BYTES: u64 = 1 << 20;
/// So long before their end credentials are asked for again: a request that has begun must not outlive them.
const MARGIN: Duration = Duration::from_secs(300);
/// A machine of a cloud answers about itself at once; elsewhere nobody does.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// What was handed out, while it is good.
pub(super) struct Granted<T> {
    access: Access,
    held: Mutex<Option<(T, Instant)>>,
}

impl<T> std::fmt::Debug for Granted<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Granted")
    }
}

impl<T: Clone> Granted<T> {
    pub(super) fn new(access: &Access) -> Self {
        Self { access: access.clone(), held: Mutex::default() }
    }

    /// What is held, or what `ask` gets, with how long it is good.
    pub(super) fn get(
        &self,
        ask: impl FnOnce(&Access) -> Result<(T, Duration), HttpError>,
    ) -> Result<T, HttpError> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((value, until)) = held.as_ref()
            && Instant::now() < *until
        {
            return Ok(value.clone());
        }
        let (value, lifetime) = ask(&self.access)?;
        *held = Some((value.clone(), Instant::now() + lifetime.saturating_sub(MARGIN)));
        Ok(value)
    }
}

/// Sends a request and reads its answer.
pub(super) fn ask(access: &Access, call: &Call<'_>) -> Result<Vec<u8>, HttpError> {
    let refused = |reason| HttpError::Credentials { from: call.host().to_owned(), reason };
    let answer =
        access.registry.http().call(call, &access.cancel)?.success().map_err(|error| match error {
            // Not to be taken for what the store says of an object.
            HttpError::Status { status, detail, .. } => refused(format!("{status} {detail}")),
            error => error,
        })?;
    let mut bytes = Vec::new();
    let broken = |error: io::Error| refused(error.to_string());
    answer.take(MAX_ANSWER_BYTES).read_to_end(&mut bytes).map_err(broken)?;
    Ok(bytes)
}

/// Sends a form (WHATWG URL, "application/x-www-form-urlencoded").
pub(super) fn ask_by_form(access: &Access, url: &str, fields: &[(&str, &str)]) -> Result<Vec<u8>, HttpError> {
    // A slash may stand in a form's value.
    let pairs: Vec<_> = fields.iter().map(|(key, value)| format!("{key}={}", encode_path(value))).collect();
    let form = pairs.join("&").into_bytes();
    let open = || Ok(Box::new(Cursor::new(form.clone())) as Box<dyn Read + Send>);
    let call = Call::new("POST", url)?
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Payload { size: form.len() as u64, open: &open });
    ask(access, &call)
}

/// Whether somebody listens at `host` or `host:port`.
pub(super) fn is_there(host: &str) -> bool {
    let host = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
    let mut addresses = host.to_socket_addrs().into_iter().flatten();
    addresses.any(|address| TcpStream::connect_timeout(&address, PROBE_TIMEOUT).is_ok())
}
