//! Image names (distribution's reference grammar with docker's defaults).

/// A normalised image name: `docker.io/library/busybox:latest`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageRef {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<crate::Digest>,
}

/// The text is no image name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid reference format: `{text}`: {reason}")]
pub struct InvalidReference {
    /// What was given.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl ImageRef {
    /// The registry's host and port, `docker.io` for Docker Hub.
    pub fn registry(&self) -> &str {
        &self.registry
    }
    /// The repository with `library/` where docker adds it.
    pub fn repository(&self) -> &str {
        &self.repository
    }
    /// The tag; `latest` is filled in when there is neither tag nor digest.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }
    /// The digest asked for.
    pub fn digest(&self) -> Option<&crate::Digest> {
        self.digest.as_ref()
    }
}
// Implementation to come: FromStr (docker's rules), Display (full), `familiar()` (without docker.io/library/),
// `with_digest`, `with_tag`.
