//! One layer's directory, shared by all the views that it is part of.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::beneath::open_root;
use super::{At as _, TreeError};

/// So many names at a layer's top are remembered; one that has more is looked into each time.
const MAX_NAMES: usize = 256;

/// A layer's directory, opened when something is first looked for in it.
///
/// A build of many steps asks each layer again and again for paths that it does not have. A layer that one step made has
/// few names at its top, so these are read once and answer most of that.
#[derive(Debug)]
pub struct LayerDir {
    path: PathBuf,
    dir: OnceLock<OwnedFd>,
    /// `None`: too many.
    names: OnceLock<Option<HashSet<OsString>>>,
}

impl LayerDir {
    /// The layer whose tree is at `path`, which nobody writes to.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), dir: OnceLock::new(), names: OnceLock::new() }
    }

    pub(super) fn fd(&self) -> Result<BorrowedFd<'_>, TreeError> {
        if let Some(dir) = self.dir.get() {
            return Ok(dir.as_fd());
        }
        let dir = open_root(&self.path)?;
        Ok(self.dir.get_or_init(|| dir).as_fd())
    }

    /// Whether something may be called `name` at the top, whiteouts among it.
    pub(super) fn may_have(&self, name: &OsStr) -> Result<bool, TreeError> {
        let names = match self.names.get() {
            Some(names) => names,
            None => {
                let names = self.read_names()?;
                self.names.get_or_init(|| names)
            }
        };
        Ok(names.as_ref().is_none_or(|names| names.contains(name)))
    }

    fn read_names(&self) -> Result<Option<HashSet<OsString>>, TreeError> {
        let mut names = HashSet::new();
        for entry in rustix::fs::Dir::read_from(self.fd()?).at(&self.path)? {
            let entry = entry.at(&self.path)?;
            if names.len() == MAX_NAMES {
                return Ok(None);
            }
            names.insert(OsStr::from_bytes(entry.file_name().to_bytes()).to_owned());
        }
        Ok(Some(names))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_not_there_is_known_to_be_absent_and_one_among_very_many_is_not() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), "").unwrap();
        let few = LayerDir::new(dir.path());
        assert!(few.may_have(OsStr::new("a")).unwrap());
        assert!(!few.may_have(OsStr::new("b")).unwrap());
        for number in 0..=MAX_NAMES {
            std::fs::write(dir.path().join(number.to_string()), "").unwrap();
        }
        let many = LayerDir::new(dir.path());
        assert!(many.may_have(OsStr::new("a")).unwrap() && many.may_have(OsStr::new("b")).unwrap());
    }
}
