//! Errors of the crates below, in the words of a command on images.

use kiln_cache::StoreError;
use kiln_image::layer::LayerError;
use kiln_image::layout::LayoutError;
use kiln_image::registry::RegistryError;

use crate::{Error, ErrorKind};

/// An error in the making.
pub(crate) struct Failure(Error);

/// Begins an error.
pub(crate) fn failure(kind: ErrorKind, message: String) -> Failure {
    Failure(Error {
        kind,
        message,
        hint: None,
        dockerfile: None,
        labels: Vec::new(),
        log_tail: Vec::new(),
        source: None,
    })
}

impl Failure {
    /// What the user can do.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// The cause.
    pub(crate) fn cause(mut self, cause: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.0.source = Some(Box::new(cause));
        self
    }

    pub(crate) fn into_error(self) -> Error {
        self.0
    }
}

/// Makes a crate's error the engine's.
pub(crate) trait Explain {
    /// The same, for a report.
    fn explain(self) -> Error;
}

impl Explain for StoreError {
    fn explain(self) -> Error {
        let kind = if matches!(self, Self::Canceled) { ErrorKind::Canceled } else { ErrorKind::Environment };
        let hint = self.hint();
        Error { hint, ..failure(kind, self.to_string()).cause(self).into_error() }
    }
}

impl Explain for RegistryError {
    fn explain(self) -> Error {
        let kind = if matches!(self, Self::Canceled) { ErrorKind::Canceled } else { ErrorKind::Environment };
        let hint = self.hint();
        Error { hint, ..failure(kind, self.to_string()).cause(self).into_error() }
    }
}

impl Explain for LayerError {
    fn explain(self) -> Error {
        failure(ErrorKind::Environment, self.to_string()).cause(self).into_error()
    }
}

impl Explain for LayoutError {
    fn explain(self) -> Error {
        let kind = if matches!(self, Self::Canceled) { ErrorKind::Canceled } else { ErrorKind::Environment };
        let hint = self.hint();
        Error { hint, ..failure(kind, self.to_string()).cause(self).into_error() }
    }
}

impl Explain for std::io::Error {
    fn explain(self) -> Error {
        failure(ErrorKind::Environment, self.to_string()).cause(self).into_error()
    }
}

/// For [`kiln_cache::Store::add_pulled_layer`], whose closure and own failures share a type.
pub(crate) struct Explained(pub Error);

impl From<StoreError> for Explained {
    fn from(error: StoreError) -> Self {
        Self(error.explain())
    }
}
