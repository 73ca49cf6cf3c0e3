//! Platforms: `os/architecture[/variant]`.

/// A platform in containerd's normal form (`linux/amd64`, `linux/arm64`, `linux/arm/v7`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Platform {
    /// GOOS.
    pub os: String,
    /// GOARCH.
    pub architecture: String,
    /// `v7`, …; empty where there is none.
    pub variant: String,
}

/// The text is no platform.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a platform (os/architecture[/variant])")]
pub struct InvalidPlatform(pub String);
