//! What goes wrong between here and a registry.

use std::io;
use std::path::PathBuf;

use crate::http::{HttpError, is_untrusted, is_untrusting};
use crate::oci::DocumentError;
use crate::{Digest, Platform};

/// What went wrong between here and a registry.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// No such repository or tag.
    #[error("{image}: not found")]
    NotFound {
        /// What was asked for.
        image: String,
    },
    /// The registry wants credentials, or better ones.
    #[error("{image}: {host} refuses access{}", words(.detail))]
    Unauthorized {
        /// What was asked for.
        image: String,
        /// The registry.
        host: String,
        /// Whether it refused credentials, or there were none.
        had_credentials: bool,
        /// The registry's words, escaped; may be empty.
        detail: String,
    },
    /// No connection, or it broke too often.
    #[error("registry {host} cannot be reached: {source}")]
    Unreachable {
        /// The host and port.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// The registry limits how often it is asked.
    #[error("{image}: {host} was asked too often")]
    TooManyRequests {
        /// What was asked for.
        image: String,
        /// The registry.
        host: String,
    },
    /// What came is not what was asked for.
    #[error("{what} has digest {got} instead of {expected}")]
    DigestMismatch {
        /// What was read.
        what: String,
        /// The digest asked for.
        expected: Digest,
        /// The digest of what came.
        got: Digest,
    },
    /// What came is longer or shorter than its descriptor says.
    #[error("{what} has {got} bytes instead of {expected}")]
    SizeMismatch {
        /// What was read.
        what: String,
        /// As the descriptor says.
        expected: u64,
        /// As came, or as the server announced; reading stops one byte after the expected size.
        got: u64,
    },
    /// Longer than kiln reads.
    #[error("{what} is larger than {limit} bytes")]
    TooLarge {
        /// What was read.
        what: String,
        /// Bytes.
        limit: u64,
    },
    /// The image is not made for the platform.
    #[error("{image} has no image for platform {wanted}; it has: {}", crate::oci::list(.available))]
    NoMatchingPlatform {
        /// What was asked for.
        image: String,
        /// The platform asked for.
        wanted: Box<Platform>,
        /// What there is.
        available: Vec<Platform>,
    },
    /// A manifest or config that is refused.
    #[error("{image}: {source}")]
    Document {
        /// What was asked for.
        image: String,
        /// Why.
        source: DocumentError,
    },
    /// `registries.conf` forbids the registry.
    #[error("{image}: blocked by registries.conf (`{prefix}`)")]
    Blocked {
        /// What was asked for.
        image: String,
        /// The entry that does.
        prefix: String,
    },
    /// A name without a registry, which several may have.
    #[error("the short name `{name}` is ambiguous: it may be {}", candidates.join(" or "))]
    AmbiguousShortName {
        /// As it was written.
        name: String,
        /// Whole names.
        candidates: Vec<String>,
    },
    /// The server that gives out tokens did not.
    #[error("{host}: no access token: {reason}")]
    Token {
        /// The token server.
        host: String,
        /// Why.
        reason: String,
    },
    /// A credential helper cannot be used.
    #[error("credential helper `docker-credential-{helper}`: {reason}")]
    CredentialHelper {
        /// Its name after the prefix.
        helper: String,
        /// Why.
        reason: String,
    },
    /// A configuration file that cannot be read or parsed.
    #[error("{}: {reason}", path.display())]
    InvalidConfig {
        /// The file.
        path: PathBuf,
        /// Why; the file's contents, which may hold passwords, are not repeated.
        reason: String,
    },
    /// The registry knows no such user, or the password is another.
    #[error("{host} does not accept this login{}", words(.detail))]
    LoginRefused {
        /// The registry.
        host: String,
        /// The registry's words, escaped; may be empty.
        detail: String,
    },
    /// What answers there is something else.
    #[error("{host} is no registry: it knows no /v2/")]
    NotARegistry {
        /// The server.
        host: String,
    },
    /// A configuration file that cannot be written.
    #[error("{}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What is to be pushed cannot be read.
    #[error("what is to be pushed cannot be read: {source}")]
    Source {
        /// Why.
        source: io::Error,
    },
    /// The user gave up.
    #[error("canceled")]
    Canceled,
    /// Another failure of the transport.
    #[error(transparent)]
    Http(HttpError),
}

impl RegistryError {
    /// Whether asking again would bring the same answer until somebody logs in or changes a setting.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Unauthorized { .. }
            | Self::Blocked { .. }
            | Self::AmbiguousShortName { .. }
            | Self::CredentialHelper { .. }
            | Self::InvalidConfig { .. } => true,
            Self::Unreachable { source, .. } => is_untrusted(source) || is_untrusting(source),
            _ => false,
        }
    }

    /// What the user can do, in one sentence.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotFound { .. } => "check the name and tag; a private image may also need a login".into(),
            Self::Unauthorized { host, had_credentials: false, .. } => {
                format!("log in first, for example with `kiln login {host}`")
            }
            Self::Unauthorized { .. } => "the stored login may have expired or may not cover this repository; log in again".into(),
            Self::Unreachable { host, source } => match source.kind() {
                io::ErrorKind::ConnectionRefused => "is the registry running, and the port right?".into(),
                io::ErrorKind::NotFound => "check the name, and your DNS or proxy settings (HTTPS_PROXY)".into(),
                io::ErrorKind::TimedOut => "check your network, firewall and proxy settings (HTTPS_PROXY)".into(),
                _ if is_untrusted(source) => {
                    "add the authority that signed it to your system's certificates, or set `insecure = true` for the \
                     registry in registries.conf"
                        .into()
                }
                _ if is_untrusting(source) => format!(
                    "it wants a client certificate that it trusts: `client.cert` and `client.key` in \
                     ~/.config/containers/certs.d/{host} or /etc/docker/certs.d/{host}"
                ),
                io::ErrorKind::InvalidData => {
                    "if it speaks plain HTTP, set `insecure = true` for the registry in registries.conf".into()
                }
                _ => return None,
            },
            Self::TooManyRequests { .. } => "wait, log in for a higher limit, or name a mirror in registries.conf".into(),
            Self::DigestMismatch { .. } | Self::SizeMismatch { .. } => {
                "the registry, a mirror or a proxy on the way changes what it sends; nothing of it was used".into()
            }
            Self::NoMatchingPlatform { available, .. } => match available.first() {
                Some(first) => format!("choose one of them, for example with `--platform={first}`"),
                None => return None,
            },
            Self::Blocked { .. } => "remove `blocked = true` there, or use another registry".into(),
            Self::AmbiguousShortName { .. } => {
                "write the whole name, or give it an alias in registries.conf (`[aliases]`)".into()
            }
            Self::CredentialHelper { .. } => "install the helper on your PATH, or remove it from docker's config.json".into(),
            Self::Http(error) => return error.hint(),
            _ => return None,
        })
    }

    /// The registry's error inside of one that reading a blob gave.
    pub fn from_read(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    /// Whether another place may have what this one lacks.
    pub(crate) fn is_worth_another_endpoint(&self) -> bool {
        !matches!(self, Self::Canceled)
    }

    pub(crate) fn document(image: &str, source: DocumentError) -> Self {
        match source {
            DocumentError::NoMatchingPlatform { wanted, available } => {
                Self::NoMatchingPlatform { image: image.to_owned(), wanted, available }
            }
            source => Self::Document { image: image.to_owned(), source },
        }
    }
}

impl From<HttpError> for RegistryError {
    fn from(error: HttpError) -> Self {
        match error {
            HttpError::Canceled => Self::Canceled,
            HttpError::Unreachable { host, source } => Self::Unreachable { host, source },
            other => Self::Http(other),
        }
    }
}

/// Only until the image's name is known: `RegistryError::document` puts it in.
impl From<DocumentError> for RegistryError {
    fn from(source: DocumentError) -> Self {
        Self::document("", source)
    }
}

fn words(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}
