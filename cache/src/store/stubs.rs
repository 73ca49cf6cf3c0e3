//! Files that every step has something mounted on and most images lack.

use std::fs::{File, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::Store;
use super::draft::{LayerDraft, make_with_mode};
use super::error::{At, StoreError};

impl Store {
    /// A directory with an empty `etc/hosts` and `etc/resolv.conf`, to lie below the layers of a step.
    ///
    /// # Errors
    /// I/O.
    pub fn mount_stubs(&self) -> Result<PathBuf, StoreError> {
        if let Some(path) = self.inner.stubs.get() {
            return Ok(path.clone());
        }
        let path = self.root().join("stubs");
        if !path.is_dir() {
            // Made aside, so that a kill leaves all of it or nothing.
            let draft = LayerDraft::new(self.root())?;
            let (new, etc) = (draft.path().join("stubs"), draft.path().join("stubs/etc"));
            for folder in [&new, &etc] {
                make_with_mode(folder, 0o755)?;
            }
            for name in ["hosts", "resolv.conf"] {
                let file = etc.join(name);
                File::create_new(&file).at(&file)?;
                std::fs::set_permissions(&file, Permissions::from_mode(0o644)).at(&file)?;
            }
            match std::fs::rename(&new, &path) {
                // Another process was faster.
                Err(error)
                    if matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists) => {}
                renamed => renamed.at(&path)?,
            }
        }
        Ok(self.inner.stubs.get_or_init(|| path).clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stubs_are_made_once_for_all() {
        let root = tempfile::tempdir().unwrap();
        let stubs = Store::open(root.path()).unwrap().mount_stubs().unwrap();
        let hosts = std::fs::metadata(stubs.join("etc/hosts")).unwrap();
        assert_eq!(hosts.len(), 0);
        let store = Store::open(root.path()).unwrap();
        assert_eq!(
            (store.mount_stubs().unwrap(), store.mount_stubs().unwrap()),
            (stubs.clone(), stubs.clone())
        );
        use std::os::unix::fs::MetadataExt as _;
        assert_eq!(std::fs::metadata(stubs.join("etc/hosts")).unwrap().ino(), hosts.ino());
        assert!(stubs.join("etc/resolv.conf").exists());
        assert_eq!(std::fs::read_dir(root.path().join("work")).unwrap().count(), 0);
    }
}
