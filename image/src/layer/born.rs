//! What a new file has before anybody gives it anything: of tens of thousands most need nothing else, and each call that
//! sets what is set costs the file system a change of its journal.

use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, Mode, OFlags, Stat};

/// The owner of new files, and which of the permissions asked for they get.
#[derive(Clone, Copy, Debug)]
pub struct Born {
    /// Permission bits that neither the umask nor an inherited ACL takes.
    kept: u32,
    uid: u32,
    gid: u32,
}

impl Born {
    /// Asks the file system of `dir` by a file without a name. Where it has no such files nothing is sure.
    pub fn below(dir: BorrowedFd<'_>) -> Self {
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        let probe = rustix::fs::openat(dir, ".", flags, Mode::RWXU | Mode::RWXG | Mode::RWXO);
        let stat = probe.and_then(rustix::fs::fstat);
        Self {
            kept: stat.map_or(0, |stat| stat.st_mode & 0o777),
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        }
    }

    /// With which permissions a file of `mode` is to be made. If they are not `mode`, it has to be set later.
    pub fn mode(&self, mode: u32) -> Mode {
        if self.has_mode(mode) { Mode::from_raw_mode(mode) } else { Mode::RUSR | Mode::WUSR }
    }

    /// Whether a file that is made with the permissions `mode` has them.
    pub fn has_mode(&self, mode: u32) -> bool {
        mode & !self.kept == 0
    }

    /// Whether a file that is made in directory `parent` belongs to these. A new file has its directory's group if that has
    /// the set-group-id bit or the file system was mounted so.
    pub fn has_owner(&self, parent: &Stat, uid: u32, gid: u32) -> bool {
        debug_assert_eq!(FileType::from_raw_mode(parent.st_mode), FileType::Directory);
        (self.uid, self.gid, parent.st_gid) == (uid, gid, gid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown};

    #[test]
    fn it_is_true_of_files_that_are_made() {
        let dir = tempfile::tempdir().unwrap();
        let fd = std::fs::File::open(dir.path()).unwrap();
        let born = Born::below(fd.as_fd());
        for mode in [0o644, 0o666, 0o777, 0o400, 0o4755] {
            let path = dir.path().join(format!("{mode:o}"));
            let made = born.mode(mode).as_raw_mode();
            let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(made).open(&path);
            let found = file.unwrap().metadata().unwrap().mode() & 0o7777;
            if born.has_mode(mode) {
                assert_eq!(found, mode, "{mode:o}");
            }
        }
        assert!(!born.has_mode(0o4755), "set-user-id is set behind the owner");
        assert!(born.has_mode(0o400));
    }

    #[test]
    fn in_a_directory_of_another_group_nothing_is_sure() {
        let dir = tempfile::tempdir().unwrap();
        let fd = std::fs::File::open(dir.path()).unwrap();
        let born = Born::below(fd.as_fd());
        let (uid, gid) = (born.uid, born.gid);
        let owner = |parent: &std::path::Path| {
            let stat = rustix::fs::stat(parent).unwrap();
            (born.has_owner(&stat, uid, gid), born.has_owner(&stat, uid, gid + 1))
        };
        assert_eq!(owner(dir.path()), (true, false));
        if chown(dir.path(), None, Some(gid + 1)).is_err() {
            eprintln!("skipped: a directory of another group takes an administrator");
            return;
        }
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o2755)).unwrap();
        std::fs::write(dir.path().join("f"), "").unwrap();
        assert_eq!(dir.path().join("f").metadata().unwrap().gid(), gid + 1);
        assert_eq!(owner(dir.path()), (false, false));
    }
}
