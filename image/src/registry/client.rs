//! Requests to one registry: scheme, login, and errors in the registry's terms.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use ureq::http::{HeaderName, Method, header};

use super::RegistryError;
use super::auth::{Authorizations, Challenge, Grant, Tokens, challenges};
use super::config::{RegistryConfig, Verify};
use super::credentials::Credentials;
use super::mirrors::{Endpoint, Trust};
use crate::ImageRef;
use crate::http::{
    CertificateDirs, CertificateFiles, Client as Http, HttpError, Origin, Request, Response, Retry, Tls, Url,
    status_error,
};

/// The shared part of a [`super::Registry`].
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) config: RegistryConfig,
    pub(crate) http: Http,
    /// Connections to token servers that are trusted in their own way, by registry.
    token_servers: HashMap<String, (Http, Tls)>,
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
        let http = Http::new(config.proxies.clone(), config.certificates.clone(), config.retry);
        let token_servers = config.token_servers.iter().map(|(registry, trust)| {
            let files = CertificateFiles { authority: trust.authority.clone(), client: trust.client.clone() };
            let http = Http::new(config.proxies.clone(), CertificateDirs::files(files), config.retry);
            (registry.clone(), (http, if trust.insecure { Tls::Unverified } else { Tls::Verified }))
        });
        let token_servers = token_servers.collect();
        Self {
            config,
            http,
            token_servers,
            authorizations: Authorizations::default(),
            schemes: Mutex::default(),
        }
    }

    fn tokens(&self, endpoint: &Endpoint) -> Tokens<'_> {
        let own =
            [&endpoint.host, &endpoint.registry].into_iter().find_map(|name| self.token_servers.get(name));
        match own {
            Some((http, tls)) => Tokens { http, tls: Some(*tls) },
            None => Tokens { http: &self.http, tls: None },
        }
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
        let call = Call { method: Method::GET, what, headers, body: Arc::default(), grant: Grant::Pull };
        self.call(endpoint, image, &call, cancel)
    }

    /// Sends a request for something of the endpoint's repository; the answer is a success (2xx).
    pub(crate) fn call(
        &self,
        endpoint: &Endpoint,
        image: &ImageRef,
        call: &Call<'_>,
        cancel: &AtomicBool,
    ) -> Result<Response, RegistryError> {
        let path = match endpoint.repository.as_str() {
            "" => format!("/v2/{}", call.what),
            repository => format!("/v2/{repository}/{}", call.what),
        };
        let remembered = self.schemes().get(&endpoint.host).copied();
        let schemes = match remembered {
            Some(scheme) => vec![scheme],
            None => self.possible_schemes(endpoint)?,
        };
        let last = schemes.len() - 1;
        let mut not_https = None;
        for (number, scheme) in schemes.into_iter().enumerate() {
            let (prefix, tls) = match scheme {
                Scheme::Https(tls) => ("https", tls),
                Scheme::Http => ("http", Tls::Verified),
            };
            let url = Url::parse(&format!("{prefix}://{}{path}", endpoint.host))?;
            let mut request = Request::new(call.method.clone(), url);
            request.headers = call.headers.to_vec();
            request.body = Arc::clone(&call.body);
            request.tls = tls;
            // A first guess at the scheme is made once; only what is known to be right is tried again.
            let retry = if number < last { Retry::ONCE } else { self.retry() };
            match self.send(endpoint, image, &request, &call.grant, retry, cancel) {
                Err(error @ RegistryError::Unreachable { .. }) if number < last => {
                    tracing::debug!(host = endpoint.host, %error, "not https, trying http");
                    not_https = Some(error);
                }
                // So servers of https answer to http: what went wrong is what went wrong with https.
                Err(RegistryError::Http(HttpError::Status { status: 400, .. })) if not_https.is_some() => {
                    break;
                }
                Err(error) => return Err(error),
                Ok(response) => {
                    if endpoint.trust != Trust::Proven {
                        self.schemes().insert(endpoint.host.clone(), scheme);
                    }
                    return Ok(response);
                }
            }
        }
        // `schemes` is never empty, and its last turn returns but for the one above.
        Err(not_https.unwrap_or_else(|| RegistryError::NotFound { image: image.familiar() }))
    }

    /// The header that opens the registry for `grant`, as far as it is known.
    pub(crate) fn authorization(
        &self,
        origin: &Origin,
        endpoint: &Endpoint,
        grant: &Grant,
    ) -> Option<String> {
        self.authorizations.get(origin, &grant.key(&endpoint.repository))
    }

    fn schemes(&self) -> std::sync::MutexGuard<'_, HashMap<String, Scheme>> {
        self.schemes.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// How docker reaches an insecure registry: by https if it can, whoever answers there, else in the clear.
    fn possible_schemes(&self, endpoint: &Endpoint) -> Result<Vec<Scheme>, RegistryError> {
        let insecure = match (self.config.verify, endpoint.trust) {
            (Some(verify), _) => verify == Verify::None,
            (None, Trust::Proven) => false,
            (None, Trust::Insecure) => true,
            // An authority that is named for it is there to be asked.
            (None, Trust::Loopback) => {
                let origin = Url::parse(&format!("https://{}/", endpoint.host))?.origin().clone();
                !self.http.has_authorities(&origin)?
            }
        };
        Ok(match endpoint.host.rsplit_once(':').map(|(_, port)| port) {
            _ if !insecure => vec![Scheme::Https(Tls::Verified)],
            Some("443") => vec![Scheme::Https(Tls::Unverified)],
            Some("80") => vec![Scheme::Http],
            _ => vec![Scheme::Https(Tls::Unverified), Scheme::Http],
        })
    }

    /// Sends a request to the registry, and once more with a login where it asks for one.
    pub(crate) fn send(
        &self,
        endpoint: &Endpoint,
        image: &ImageRef,
        request: &Request,
        grant: &Grant,
        retry: Retry,
        cancel: &AtomicBool,
    ) -> Result<Response, RegistryError> {
        let origin = request.url.origin();
        let authorization = self.authorization(origin, endpoint, grant);
        let response = self.http.follow(request, authorization.as_deref(), retry, cancel)?;
        // Only the registry itself may ask for a login, not where it redirects to.
        if response.status != 401 || response.url.origin() != origin {
            return success(response, image, authorization.is_some(), cancel);
        }
        let offers = challenges(&response.headers);
        if offers.is_empty() {
            return success(response, image, authorization.is_some(), cancel);
        }
        let turn = self.authorizations.turn(origin, &grant.key(&endpoint.repository));
        let _held = turn.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // Of several requests that were refused together one asks, and the others take what it was given.
        let renewed = self.authorization(origin, endpoint, grant);
        if renewed.is_some() && renewed != authorization {
            let response = self.http.follow(request, renewed.as_deref(), retry, cancel)?;
            if response.status != 401 {
                return success(response, image, true, cancel);
            }
        }
        // A helper that is not installed (a configuration brought from another machine) does no harm to public images.
        let (credentials, helper_error) =
            match self.config.credentials.find(&endpoint.registry, &endpoint.repository, cancel) {
                Ok(credentials) => (credentials, None),
                Err(error @ RegistryError::CredentialHelper { .. }) => (None, Some(error)),
                Err(error) => return Err(error),
            };
        let asked = Asked { endpoint, image, request, grant, retry };
        let result = self.answer(&asked, response, &offers, credentials.as_ref(), cancel);
        match (result, helper_error) {
            (Err(RegistryError::Unauthorized { .. } | RegistryError::Token { .. }), Some(cause)) => {
                Err(cause)
            }
            (result, _) => result,
        }
    }

    /// Answers the first of a registry's offers that we can, and asks again.
    fn answer(
        &self,
        asked: &Asked<'_>,
        refusal: Response,
        offers: &[Challenge],
        credentials: Option<&Credentials>,
        cancel: &AtomicBool,
    ) -> Result<Response, RegistryError> {
        let Asked { endpoint, image, request, grant, retry } = *asked;
        let tokens = self.tokens(endpoint);
        for offer in offers {
            let known = &self.authorizations;
            let header =
                known.answer(&tokens, request, &endpoint.repository, grant, offer, credentials, cancel)?;
            if let Some(header) = header {
                let response = self.http.follow(request, Some(&header), retry, cancel)?;
                return success(response, image, credentials.is_some(), cancel);
            }
        }
        success(refusal, image, credentials.is_some(), cancel)
    }
}

/// A request for something of a repository.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    /// What follows `/v2/<repository>/`.
    pub(crate) what: &'a str,
    pub(crate) headers: &'a [(HeaderName, String)],
    pub(crate) body: Arc<[u8]>,
    pub(crate) grant: Grant,
}

/// A request that was refused.
#[derive(Clone, Copy)]
struct Asked<'a> {
    endpoint: &'a Endpoint,
    image: &'a ImageRef,
    request: &'a Request,
    grant: &'a Grant,
    retry: Retry,
}

/// The answer if it is one (2xx), else the error that it stands for.
pub(crate) fn success(
    response: Response,
    image: &ImageRef,
    had_credentials: bool,
    cancel: &AtomicBool,
) -> Result<Response, RegistryError> {
    if matches!(response.status, 200..=299) {
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
