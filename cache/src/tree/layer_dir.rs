//! One layer's directory, shared by all the views that it is part of.

use std::ffi::OsStr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::OFlags;

use super::beneath::{each_name, open_beneath, open_root};
use super::{At as _, TreeError};

/// A layer's directory, opened when something is first looked for in it.
///
/// A build of many steps asks each layer again and again for paths that it does not have. A layer that one step made has
/// few names at its top, so these are read once and answer most of that, where it is asked often.
#[derive(Debug)]
pub struct LayerDir {
    path: PathBuf,
    dir: OnceLock<OwnedFd>,
    names: OnceLock<Names>,
    questions: AtomicU32,
}

/// To look for so many names takes no more than to list all.
const FEW_QUESTIONS: u32 = 4;

impl LayerDir {
    /// The layer whose tree is at `path`, which nobody writes to.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            dir: OnceLock::new(),
            names: OnceLock::new(),
            questions: AtomicU32::new(0),
        }
    }

    pub(super) fn fd(&self) -> Result<BorrowedFd<'_>, TreeError> {
        if let Some(dir) = self.dir.get() {
            return Ok(dir.as_fd());
        }
        let dir = open_root(&self.path)?;
        Ok(self.dir.get_or_init(|| dir).as_fd())
    }

    /// Whether something may be called so at the top, whiteouts among it.
    pub(super) fn may_have(&self, name: NameBit) -> Result<bool, TreeError> {
        if let Some(names) = self.names.get() {
            return Ok(names.may_have(name));
        }
        if self.questions.fetch_add(1, Ordering::Relaxed) < FEW_QUESTIONS {
            return Ok(true);
        }
        let mut names = Names::default();
        // Opened again: where the one descriptor of all stands would be everybody's.
        let dir =
            open_beneath(self.fd()?, Path::new(""), OFlags::RDONLY | OFlags::DIRECTORY).at(&self.path)?;
        each_name(dir.as_fd(), &self.path, |name| names.add(NameBit::of(OsStr::from_bytes(name))))?;
        Ok(self.names.get_or_init(|| names).may_have(name))
    }
}

/// Which of 256 bits a name sets.
#[derive(Clone, Copy, Debug)]
pub(super) struct NameBit(u8);

impl NameBit {
    /// FNV-1a, folded: who makes names that collide gets a look into the directory, as everybody would without this.
    pub(super) fn of(name: &OsStr) -> Self {
        let hash = name
            .as_bytes()
            .iter()
            .fold(0x811c_9dc5_u32, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        let [a, b, c, d] = hash.to_le_bytes();
        Self(a ^ b ^ c ^ d)
    }

    fn place(self) -> (usize, u64) {
        (usize::from(self.0 / 64), 1 << (self.0 % 64))
    }
}

/// The bits of all names of a directory.
#[derive(Debug, Default)]
struct Names([u64; 4]);

impl Names {
    fn add(&mut self, name: NameBit) {
        let (word, bit) = name.place();
        self.0[word] |= bit;
    }

    fn may_have(&self, name: NameBit) -> bool {
        let (word, bit) = name.place();
        self.0[word] & bit != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_may_be_there_and_most_of_what_is_not_is_known_not_to_be() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a", "usr", ".wh.like", "long-name-of-something"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let layer = LayerDir::new(dir.path());
        layer.questions.store(FEW_QUESTIONS, Ordering::Relaxed);
        let has = |name: &str| layer.may_have(NameBit::of(OsStr::new(name))).unwrap();
        assert!(has("a") && has("usr") && has(".wh.like") && has("long-name-of-something"));
        let doubtful = (0..1000).filter(|number| has(&number.to_string())).count();
        assert!(doubtful < 100, "{doubtful}");
    }
}
