//! Users and groups as an image's own files name them; no NSS, no host look-up.

/// A process's user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups, exactly those of the image's group file.
    pub groups: Vec<u32>,
    /// Home directory from passwd, `/` where there is none.
    pub home: String,
}

/// The image has no such user or group.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// Not in passwd.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    UnknownUser(String),
    /// Not in group.
    #[error("unable to find group {0}: no matching entries in group file")]
    UnknownGroup(String),
}

/// Resolves `user[:group]` (names or numbers; numbers are never looked up as names; empty is root).
///
/// # Errors
/// See [`IdentityError`].
pub fn resolve_user(text: &str, passwd: &[u8], group: &[u8]) -> Result<Identity, IdentityError> {
    let _ = (text, passwd, group);
    todo!()
}
