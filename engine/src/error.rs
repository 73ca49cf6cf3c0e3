//! Why something did not work, with what a report needs to show it.

use std::path::Path;

use kiln_cache::{StoreError, TreeError};
use kiln_image::http::HttpError;
use kiln_image::layer::LayerError;
use kiln_image::layout::LayoutError;
use kiln_image::registry::RegistryError;
use kiln_parser::{ParseErrors, Span};
use kiln_solver::git_url::masked;
use kiln_solver::plan::PlanError;
use kiln_solver::solve::SolveError;

use crate::DockerfileName;
use crate::bases::Unresolved;

/// Who can mend it; decides the exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The Dockerfile, the arguments or the files.
    User,
    /// A step of the build failed.
    Step,
    /// Registry, network, disk, kernel.
    Environment,
    /// The user stopped it.
    Canceled,
}

/// A failed build or command.
#[derive(Debug)]
pub struct Error {
    /// Who can mend it.
    pub kind: ErrorKind,
    /// What went wrong, in one sentence.
    pub message: String,
    /// What can be done.
    pub hint: Option<String>,
    /// The Dockerfile's name as given, and its text, where the cause stands in one.
    pub dockerfile: Option<(DockerfileName, String)>,
    /// Where in it; several for several mistakes.
    pub labels: Vec<ErrorLabel>,
    /// The end of the failed step's output.
    pub log_tail: Vec<u8>,
    /// The cause.
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// One place in the Dockerfile and what is wrong there.
#[derive(Clone, Debug)]
pub struct ErrorLabel {
    /// Where: the instruction, or a part on its first line.
    pub span: Span,
    /// The part there that is meant, where its place is known.
    pub part: Option<Span>,
    /// The word there that is meant, as written, where it is one; [`Span::narrowed`] finds it.
    pub word: Option<String>,
    /// What.
    pub message: String,
    /// What can be done.
    pub hint: Option<String>,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|cause| cause as _)
    }
}

impl Error {
    /// A mistake of the user's in what was asked for.
    pub(crate) fn user(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::User, message)
    }

    /// An error without a place in the Dockerfile.
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            hint: None,
            dockerfile: None,
            labels: Vec::new(),
            log_tail: Vec::new(),
            source: None,
        }
    }

    /// An I/O error at `path`.
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        let mut error = Self::new(ErrorKind::Environment, format!("{}: {source}", path.display()));
        error.source = Some(Box::new(source));
        error
    }

    /// Adds what can be done.
    #[must_use]
    pub(crate) fn hinted(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the Dockerfile whose places the labels name.
    #[must_use]
    pub(crate) fn in_dockerfile(mut self, name: &DockerfileName, text: &[u8]) -> Self {
        // A report shows lines of it, and often ends in a log that many read (THREATS D4).
        let shown = || (name.clone(), masked(&String::from_utf8_lossy(text)));
        self.dockerfile.get_or_insert_with(shown);
        self
    }

    fn from_cause<E>(kind: ErrorKind, error: E) -> Self
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        let message = error.to_string();
        let mut result = Self::new(kind, message);
        // The message is the error's own; what is behind it is the cause.
        result.source = Some(Box::new(error));
        result
    }

    fn from_look_up(Unresolved(error): Unresolved) -> Self {
        let mut result = Self::new(error.kind, error.message.clone());
        result.hint.clone_from(&error.hint);
        result.source = Some(Box::new(Unresolved(error)));
        result
    }

    /// Says where its cause stands; `word` is what is meant there.
    pub(crate) fn label(&mut self, span: Option<Span>, word: Option<&str>) {
        if let Some(span) = span {
            let (message, word) = (self.message.clone(), word.map(str::to_owned));
            self.labels.push(ErrorLabel { span, part: None, word, message, hint: None });
        }
    }
}

impl From<ParseErrors> for Error {
    fn from(errors: ParseErrors) -> Self {
        let mut result = Self::user(errors.to_string());
        result.hint = match errors.0.as_slice() {
            [only] => only.hint(),
            _ => None,
        };
        result.labels = errors
            .in_instructions()
            .map(|(error, instruction)| ErrorLabel {
                span: instruction,
                part: Some(error.span()),
                word: None,
                message: error.to_string(),
                hint: error.hint(),
            })
            .collect();
        result.source = Some(Box::new(errors));
        result
    }
}

impl From<PlanError> for Error {
    fn from(error: PlanError) -> Self {
        let (span, hint) = (error.span(), error.hint());
        let word = error.word().map(str::to_owned);
        let look_up = match &error {
            PlanError::Base { cause, .. } => cause.downcast_ref::<Unresolved>().cloned(),
            _ => None,
        };
        // The look-up's own words say more than "cannot be used".
        let mut result = match look_up {
            Some(look_up) => Self::from_look_up(look_up),
            None => Self::from_cause(ErrorKind::User, error),
        };
        result.hint = hint.or(result.hint);
        result.label(span, word.as_deref());
        result
    }
}

impl From<SolveError> for Error {
    fn from(error: SolveError) -> Self {
        let (span, hint) = (error.span(), error.hint());
        let word = error.word().map(str::to_owned);
        let kind = match error.root() {
            SolveError::Canceled => ErrorKind::Canceled,
            SolveError::StepFailed { .. } | SolveError::NoSuchProgram { .. } => ErrorKind::Step,
            SolveError::Copy(_)
            | SolveError::MissingSecret { .. }
            | SolveError::MissingSsh { .. }
            | SolveError::SecretInLayer { .. }
            | SolveError::Identity(_)
            | SolveError::Device(_)
            | SolveError::Checksum { .. }
            | SolveError::GitChecksum { .. }
            | SolveError::GitDirectory { .. }
            | SolveError::GitReference { .. } => ErrorKind::User,
            SolveError::Sandbox(
                kiln_sandbox::SandboxError::CommandNotFound(_)
                | kiln_sandbox::SandboxError::NotExecutable { .. },
            ) => ErrorKind::Step,
            _ => ErrorKind::Environment,
        };
        let log_tail = match error.root() {
            SolveError::StepFailed { log_tail, .. } => log_tail.clone(),
            _ => Vec::new(),
        };
        let mut result = Self::from_cause(kind, error);
        result.hint = hint;
        result.log_tail = log_tail;
        result.label(span, word.as_deref());
        result
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        let kind = match error {
            StoreError::Canceled => ErrorKind::Canceled,
            StoreError::OverLimit { .. } => ErrorKind::User,
            _ => ErrorKind::Environment,
        };
        let hint = error.hint();
        Self { hint, ..Self::from_cause(kind, error) }
    }
}

impl From<RegistryError> for Error {
    fn from(error: RegistryError) -> Self {
        let kind = match error {
            RegistryError::Canceled => ErrorKind::Canceled,
            _ => ErrorKind::Environment,
        };
        let hint = error.hint();
        Self { hint, ..Self::from_cause(kind, error) }
    }
}

impl From<HttpError> for Error {
    fn from(error: HttpError) -> Self {
        let kind = match error {
            HttpError::Canceled => ErrorKind::Canceled,
            _ => ErrorKind::Environment,
        };
        let hint = error.hint();
        Self { hint, ..Self::from_cause(kind, error) }
    }
}

impl From<LayerError> for Error {
    fn from(error: LayerError) -> Self {
        let hint = error.hint();
        Self { hint, ..Self::from_cause(ErrorKind::Environment, error) }
    }
}

impl From<TreeError> for Error {
    fn from(error: TreeError) -> Self {
        Self::from_cause(ErrorKind::Environment, error)
    }
}

/// Of a layout or an archive.
pub(crate) fn layout_error(error: LayoutError) -> Error {
    let kind =
        if matches!(error, LayoutError::Canceled) { ErrorKind::Canceled } else { ErrorKind::Environment };
    let hint = error.hint();
    let message = error.to_string();
    Error { hint, source: Some(Box::new(error)), ..Error::new(kind, message) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_was_stopped_by_the_user_says_so() {
        assert_eq!(Error::from(RegistryError::Canceled).kind, ErrorKind::Canceled);
        assert_eq!(Error::from(HttpError::Canceled).kind, ErrorKind::Canceled);
        assert_eq!(Error::from(StoreError::Canceled).kind, ErrorKind::Canceled);
        assert_eq!(Error::from(SolveError::Canceled).kind, ErrorKind::Canceled);
    }
}
