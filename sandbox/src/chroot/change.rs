//! What a step changed, written as overlayfs would have left it in the upper directory.
//!
//! As there: the directories above a change are part of it, what was removed is a whiteout, and a directory in the place
//! of something that was removed is opaque.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};

use rustix::fs::{AtFlags, FileType, Mode, XattrFlags};
use rustix::io::Errno;

use super::copy::{copy_directory_facts, copy_entry, is_directory, open_directory};
use super::listing::{Listing, Path};
use crate::rootfs::Marks;

/// What becomes of one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    /// It is as the tree has it.
    There { opaque: bool },
    /// It is gone.
    Whiteout,
}

/// The difference of two listings.
#[derive(Debug)]
pub(super) struct Change(BTreeMap<Path, Entry>);

impl Change {
    /// What differs, and what was `written`, even if that changed nothing.
    pub(super) fn between(before: &Listing, after: &Listing, written: &HashSet<Path>) -> Change {
        let (before, after) = (&before.entries, &after.entries);
        let mut changes = BTreeMap::new();
        for (path, mark) in after {
            let old = before.get(path);
            if old == Some(mark) && !written.contains(path) {
                continue;
            }
            let is_new = |old: &super::listing::Mark| old.identity != mark.identity || !old.is_directory();
            let opaque = mark.is_directory() && old.is_some_and(is_new);
            changes.insert(path.clone(), Entry::There { opaque });
        }
        // What was in a directory that is gone went with it.
        let stays = |directory: &Path| {
            let same = |old: &super::listing::Mark| {
                old.is_directory() && after.get(directory).is_some_and(|new| new.identity == old.identity)
            };
            *directory == Path::default() || before.get(directory).is_some_and(same)
        };
        for path in before.keys().filter(|path| !after.contains_key(path)) {
            if path.parent().is_some_and(|parent| stays(&parent)) {
                changes.insert(path.clone(), Entry::Whiteout);
            }
        }
        let paths: Vec<Path> = changes.keys().cloned().collect();
        for path in paths {
            let mut above = path.parent().filter(|parent| *parent != Path::default());
            while let Some(directory) = above.take().filter(|directory| !changes.contains_key(directory)) {
                changes.insert(directory.clone(), Entry::There { opaque: false });
                above = directory.parent().filter(|parent| *parent != Path::default());
            }
        }
        Change(changes)
    }

    /// Copies it from `tree` to the empty `upper`: nothing that a later step may change in the tree is shared.
    ///
    /// Answers whether the tree is what copies of its layers would be: names of one file are apart in those.
    pub(super) fn write(&self, tree: BorrowedFd<'_>, upper: &std::path::Path) -> io::Result<bool> {
        let upper = rustix::fs::open(upper, super::tree::DIRECTORY, Mode::empty())?;
        let mut links: HashMap<u64, Vec<u8>> = HashMap::new();
        let mut directories = vec![Vec::new()];
        for (path, entry) in &self.0 {
            let parent = path.parent().unwrap_or_default().bytes();
            let name = CString::new(path.name())?;
            let to = open_directory(upper.as_fd(), &parent)?;
            let Entry::There { opaque } = *entry else {
                whiteout(to.as_fd(), &name)?;
                continue;
            };
            let from = open_directory(tree, &parent)?;
            let found = rustix::fs::statat(&from, &name, AtFlags::SYMLINK_NOFOLLOW)?;
            if is_directory(&found) {
                rustix::fs::mkdirat(&to, &name, Mode::RWXU)?;
                if opaque {
                    let directory = open_directory(to.as_fd(), name.as_bytes())?;
                    let mark = Marks::of_this_process().opaque();
                    rustix::fs::fsetxattr(&directory, mark, b"y", XattrFlags::empty())?;
                }
                directories.push(path.bytes());
                continue;
            }
            if found.st_nlink > 1 {
                if let Some(first) = links.get(&found.st_ino) {
                    let first = Path::of(first);
                    let directory =
                        open_directory(upper.as_fd(), &first.parent().unwrap_or_default().bytes())?;
                    rustix::fs::linkat(&directory, first.name(), &to, &name, AtFlags::empty())?;
                    continue;
                }
                links.insert(found.st_ino, path.bytes());
            }
            copy_entry(from.as_fd(), &name, to.as_fd(), &name, &found)?;
        }
        for path in directories {
            copy_directory_facts(
                open_directory(tree, &path)?.as_fd(),
                open_directory(upper.as_fd(), &path)?.as_fd(),
            )?;
        }
        Ok(links.is_empty())
    }
}

fn whiteout(directory: BorrowedFd<'_>, name: &CString) -> io::Result<()> {
    match rustix::fs::mknodat(directory, name, FileType::CharacterDevice, Mode::empty(), 0) {
        Err(Errno::PERM) => Err(io::Error::other(
            "the store's file system takes no whiteouts, as a container's own root does not: put KILN_ROOT on a volume",
        )),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::sync::atomic::AtomicBool;

    use crate::chroot::copy::{How, fill};

    struct Scene(tempfile::TempDir);

    impl Scene {
        fn new() -> Scene {
            let scene = Scene(tempfile::tempdir().unwrap());
            for name in ["tree", "upper", "again"] {
                fs::create_dir(scene.0.path().join(name)).unwrap();
            }
            scene
        }

        fn tree(&self, path: &str) -> std::path::PathBuf {
            self.0.path().join("tree").join(path)
        }

        fn root(&self, name: &str) -> std::os::fd::OwnedFd {
            rustix::fs::open(self.0.path().join(name), crate::chroot::tree::DIRECTORY, Mode::empty()).unwrap()
        }

        fn listing(&self) -> Listing {
            Listing::of(self.root("tree").as_fd(), &[]).unwrap()
        }
    }

    #[test]
    fn a_change_says_what_overlayfs_would() {
        let scene = Scene::new();
        for directory in ["kept/deep", "gone/a", "anew", "plain"] {
            fs::create_dir_all(scene.tree(directory)).unwrap();
        }
        for file in ["kept/deep/file", "kept/same", "gone/a/b", "anew/old", "plain/removed", "was-file"] {
            fs::write(scene.tree(file), "one").unwrap();
        }
        let before = scene.listing();
        // Far enough in time, whatever the file system's clock ticks by.
        let probe = scene.0.path().join("probe");
        loop {
            fs::write(&probe, "").unwrap();
            let file = fs::File::open(&probe).unwrap();
            if crate::chroot::listing::time_of_change(file.as_fd()).unwrap() > before.last_change() {
                break;
            }
        }
        fs::write(scene.tree("kept/deep/file"), "two").unwrap();
        fs::remove_dir_all(scene.tree("gone")).unwrap();
        fs::remove_dir_all(scene.tree("anew")).unwrap();
        fs::create_dir(scene.tree("anew")).unwrap();
        fs::write(scene.tree("anew/new"), "x").unwrap();
        fs::remove_file(scene.tree("plain/removed")).unwrap();
        fs::remove_file(scene.tree("was-file")).unwrap();
        fs::create_dir(scene.tree("was-file")).unwrap();
        fs::create_dir(scene.tree("first")).unwrap();
        fs::write(scene.tree("first/file"), "linked").unwrap();
        fs::hard_link(scene.tree("first/file"), scene.tree("first/link")).unwrap();
        symlink("../..", scene.tree("first/out")).unwrap();

        let change = Change::between(&before, &scene.listing(), &HashSet::new());
        let said: Vec<String> = change
            .0
            .iter()
            .map(|(path, entry)| {
                let word = match entry {
                    Entry::There { opaque: true } => "opaque",
                    Entry::There { opaque: false } => "there",
                    Entry::Whiteout => "gone",
                };
                format!("{word} {}", String::from_utf8(path.bytes()).unwrap())
            })
            .collect();
        let expected = [
            "opaque anew",
            "there anew/new",
            "there first",
            "there first/file",
            "there first/link",
            "there first/out",
            "gone gone",
            "there kept",
            "there kept/deep",
            "there kept/deep/file",
            "there plain",
            "gone plain/removed",
            "opaque was-file",
        ];
        assert_eq!(said, expected);

        // The layer above what was there makes the tree again.
        if !crate::userns::is_initial() || rustix::process::geteuid().is_root() {
            change.write(scene.root("tree").as_fd(), &scene.0.path().join("upper")).unwrap();
            let cancel = AtomicBool::new(false);
            fs::create_dir_all(scene.0.path().join("again/gone/a")).unwrap();
            fs::create_dir_all(scene.0.path().join("again/anew")).unwrap();
            fs::write(scene.0.path().join("again/anew/old"), "").unwrap();
            fill(scene.root("upper").as_fd(), scene.root("again").as_fd(), How::Layer, &cancel).unwrap();
            let again = Listing::of(scene.root("again").as_fd(), &[]).unwrap();
            let names: Vec<_> =
                again.entries.keys().map(|path| String::from_utf8(path.bytes()).unwrap()).collect();
            assert_eq!(
                names,
                [
                    "anew",
                    "anew/new",
                    "first",
                    "first/file",
                    "first/link",
                    "first/out",
                    "kept",
                    "kept/deep",
                    "kept/deep/file",
                    "plain",
                    "was-file"
                ]
            );
        } else {
            eprintln!("skipped: needs root or a user namespace to write whiteouts");
        }
    }
}
