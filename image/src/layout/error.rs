//! What goes wrong with images in directories and archives.

use std::io;
use std::path::PathBuf;

use crate::oci::DocumentError;
use crate::{Digest, Mismatch};

/// Why a layout or archive cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// Reading or writing.
    #[error("{}: {source}", path.display())]
    Io {
        /// What was touched.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No image there.
    #[error("{}: {reason}", path.display())]
    NotAnImage {
        /// The directory or archive.
        path: PathBuf,
        /// What is missing or wrong.
        reason: String,
    },
    /// No image of that name or digest there.
    #[error("no image `{wanted}` here; there are: {}", names(.available))]
    NotFound {
        /// What was asked for.
        wanted: String,
        /// What there is, escaped.
        available: Vec<String>,
    },
    /// The one image was asked for, but there are more.
    #[error("there are several images here: {}", names(.available))]
    Several {
        /// What there is, escaped.
        available: Vec<String>,
    },
    /// A manifest names a blob that is not there.
    #[error("blob {digest} is missing")]
    MissingBlob {
        /// The blob.
        digest: Digest,
    },
    /// A blob is not what its descriptor says.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// An index, manifest or config that is refused.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// Longer or more than kiln reads.
    #[error("{what} is larger than {limit}")]
    TooLarge {
        /// What.
        what: &'static str,
        /// Bytes or entries.
        limit: u64,
    },
    /// The user gave up.
    #[error("canceled")]
    Canceled,
}

impl LayoutError {
    /// What the user can do, in one sentence.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotFound { available, .. } | Self::Several { available } => {
                let first = available.first()?;
                Some(format!("name one of them, for example `{first}`"))
            }
            Self::Document(DocumentError::NoMatchingPlatform { available, .. }) => available
                .first()
                .map(|first| format!("choose one of them, for example with `--platform={first}`")),
            _ => None,
        }
    }
}

fn names(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// Gives I/O errors their path; a mismatch found while reading stays a mismatch.
pub(crate) trait At<T> {
    fn at(self, path: &std::path::Path) -> Result<T, LayoutError>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, path: &std::path::Path) -> Result<T, LayoutError> {
        self.map_err(|source| match source.get_ref().and_then(|inner| inner.downcast_ref::<Mismatch>()) {
            Some(mismatch) => LayoutError::Mismatch(mismatch.clone()),
            None => LayoutError::Io { path: path.to_owned(), source },
        })
    }
}

impl<T> At<T> for rustix::io::Result<T> {
    fn at(self, path: &std::path::Path) -> Result<T, LayoutError> {
        self.map_err(io::Error::from).at(path)
    }
}
