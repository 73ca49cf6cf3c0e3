//! Why a cache cannot be read or written.

use std::path::{Path, PathBuf};

use kiln_image::Digest;
use kiln_image::http::HttpError;
use kiln_image::layout::LayoutError;
use kiln_image::oci::DocumentError;
use kiln_image::registry::RegistryError;

/// What is wrong with a cache.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// The user gave up.
    #[error("canceled")]
    Canceled,
    /// There is no cache yet.
    #[error("there is no such cache")]
    Absent,
    /// A connection broke.
    #[error("it cannot be read to its end: {0}")]
    Interrupted(#[source] std::io::Error),
    /// A server that speaks HTTP.
    #[error(transparent)]
    Http(HttpError),
    /// The cache config is no such thing.
    #[error("its cache config is malformed: {0}")]
    Config(#[from] serde_json::Error),
    /// The cache config contradicts itself.
    #[error("its cache config is wrong: {0}")]
    Invalid(String),
    /// Larger than anything kiln writes.
    #[error("its {what} is larger than {limit}")]
    TooLarge {
        /// What.
        what: &'static str,
        /// Bytes or entries.
        limit: u64,
    },
    /// A manifest that is none.
    #[error("its manifest is not usable: {0}")]
    Document(#[from] DocumentError),
    /// What an image or manifest names is not there.
    #[error("blob {0} is missing")]
    MissingBlob(Digest),
    /// A directory cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A layout directory.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

impl CacheError {
    /// An I/O error at `path`.
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }

    /// Whether there simply is no cache yet.
    pub fn is_absent(&self) -> bool {
        match self {
            Self::Absent | Self::Registry(RegistryError::NotFound { .. }) => true,
            Self::Io { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
            _ => false,
        }
    }
}

impl From<HttpError> for CacheError {
    fn from(error: HttpError) -> Self {
        match error {
            HttpError::Canceled => Self::Canceled,
            error => Self::Http(error),
        }
    }
}
