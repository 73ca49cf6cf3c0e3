//! Requests to one registry: scheme, login, and errors in the registry's terms.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use ureq::http::{HeaderName, header};

use super::RegistryError;
use super::auth::{Authorizations, Challenge, challenges};
use super::config::RegistryConfig;
use super::credentials::Credentials;
use super::mirrors::Endpoint;
use crate::ImageRef;
use crate::http::{Client as Http, HttpError, Request, Response, Retry, Tls, Url, status_error};

/// The shared part of a [`super::Registry`].
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) config: RegistryConfig,
    pub(crate) http: Http,
    authorizations: Authorizations,
    /// How insecure hosts were last reached.
    schemes: Mutex<HashMap<String, Scheme>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Https(Tls),
    Http,
}

impl Client {
    pub(crate) fn new(config: RegistryConfig) -> Self {
        let http = Http::new(config.proxies.clone(), config.retry);
        Self { config, http, authorizations: Authorizations::default(), schemes: Mutex::default() }
    }

    pub(crate) fn retry(&self) -> Retry {
        self.http.retry()
    }

    /// Sends `GET /v2/<repository>/<what>`; the answer is a success (2xx).
    pub(crate) fn get(
        &self,
        endpoint: &Endpoint,
        image: &ImageRef,
        what: &str,
        headers: &[(HeaderName, String)],
        cancel: &AtomicBool,
    ) -> Result<Response, RegistryError> {
        let path = format!("/v2/{}/{what}", endpoint.repository);
        let remembered = self.schemes().get(&endpoint.host).copied();
        let schemes = remembered.map_or_else(|| schemes(endpoint), |scheme| vec![scheme]);
        let last = schemes.len() - 1;
        for (number, scheme) in schemes.into_iter().enumerate() {
            let (prefix, tls) = match scheme {
                Scheme::Https(tls) => ("https", tls),
                Scheme::Http => ("http", Tls::Verified),
            };
            let mut request = Request::get(Url::parse(&format!("{prefix}://{}{path}", endpoint.host))?);
            request.headers = headers.to_vec();
            request.tls = tls;
            // A first guess at the scheme is made once; only what is known to be right is tried again.
            let retry = if number < last { Retry::ONCE } else { self.retry() };
            match self.get_authorized(endpoint, image, &request, retry, cancel) {
                Err(RegistryError::Unreachable { source, .. }) if number < last => {
                    tracing::debug!(host = endpoint.host, %source, "not https, trying http");
                }
                Err(error) => return Err(error),
                Ok(response) => {
                    if endpoint.insecure {
                        self.schemes().insert(endpoint.host.clone(), scheme);
                    }
                    return Ok(response);
                }
            }
        }
        // `schemes` is never empty, and its last turn returns.
        Err(RegistryError::NotFound { image: image.familiar() })
    }

    fn schemes(&self) -> std::sync::MutexGuard<'_, HashMap<String, Scheme>> {
        self.schemes.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn get_authorized(
        &self,
        endpoint: &Endpoint,
        image: &ImageRef,
        request: &Request,
        retry: Retry,
        cancel: &AtomicBool,
    ) -> Result<Response, RegistryError> {
        let origin = request.url.origin();
        let authorization = self.authorizations.get(origin, &endpoint.repository);
        let response = self.http.follow(request, authorization.as_deref(), retry, cancel)?;
        // Only the registry itself may ask for a login, not where it redirects to.
        if response.status != 401 || response.url.origin() != origin {
            return success(response, image, authorization.is_some(), cancel);
        }
        let offers = challenges(&response.headers);
        if offers.is_empty() {
            return success(response, image, authorization.is_some(), cancel);
        }
        // A helper that is not installed (a configuration brought from another machine) does no harm to public images.
        let (credentials, helper_error) =
            match self.config.credentials.find(&endpoint.registry, &endpoint.repository, cancel) {
                Ok(credentials) => (credentials, None),
                Err(error @ RegistryError::CredentialHelper { .. }) => (None, Some(error)),
                Err(error) => return Err(error),
            };
        let result = self.answer(endpoint, image, request, response, &offers, credentials.as_ref(), cancel);
        match (result, helper_error) {
            (Err(RegistryError::Unauthorized { .. } | RegistryError::Token { .. }), Some(cause)) => {
                Err(cause)
            }
            (result, _) => result,
        }
    }

    /// Answers the first of a registry's offers that we can, and asks again.
    #[allow(clippy::too_many_arguments, reason = "one request's whole state, used in one place")]
    fn answer(
        &self,
        endpoint: &Endpoint,
        image: &ImageRef,
        request: &Request,
        refusal: Response,
        offers: &[Challenge],
        credentials: Option<&Credentials>,
        cancel: &AtomicBool,
    ) -> Result<Response, RegistryError> {
        for offer in offers {
            let known = &self.authorizations;
            let header =
                known.answer(&self.http, request, &endpoint.repository, offer, credentials, cancel)?;
            if let Some(header) = header {
                let response = self.http.follow(request, Some(&header), self.retry(), cancel)?;
                return success(response, image, credentials.is_some(), cancel);
            }
        }
        success(refusal, image, credentials.is_some(), cancel)
    }
}

/// How docker reaches an insecure registry: by https if it can, whoever answers there, else in the clear.
fn schemes(endpoint: &Endpoint) -> Vec<Scheme> {
    let port = endpoint.host.rsplit_once(':').map(|(_, port)| port);
    match port {
        _ if !endpoint.insecure => vec![Scheme::Https(Tls::Verified)],
        Some("443") => vec![Scheme::Https(Tls::Unverified)],
        Some("80") => vec![Scheme::Http],
        _ => vec![Scheme::Https(Tls::Unverified), Scheme::Http],
    }
}

fn success(
    response: Response,
    image: &ImageRef,
    had_credentials: bool,
    cancel: &AtomicBool,
) -> Result<Response, RegistryError> {
    if matches!(response.status, 200 | 206) {
        return Ok(response);
    }
    let name = image.familiar();
    Err(match status_error(response, cancel) {
        HttpError::Status { status: 404, .. } => RegistryError::NotFound { image: name },
        HttpError::Status { status: 401 | 403, host, detail } => {
            RegistryError::Unauthorized { image: name, host, had_credentials, detail }
        }
        HttpError::Status { status: 429, host, .. } => RegistryError::TooManyRequests { image: name, host },
        other => other.into(),
    })
}

/// The `Accept` of a manifest request: everything that kiln reads.
pub(crate) fn accept_manifests() -> (HeaderName, String) {
    use crate::oci::media_type::{DOCKER_INDEX, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
    (header::ACCEPT, [OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST].join(", "))
}
