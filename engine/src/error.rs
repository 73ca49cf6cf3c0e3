//! Why something did not work, with what a report needs to show it.

use kiln_parser::Span;

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
    pub dockerfile: Option<(String, String)>,
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
    /// Where.
    pub span: Span,
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
