//! What both directions promise together, and what hostile tars try (THREATS, section B). Here: tars and trees to try it on.

mod contents;
mod hostile;
mod round_trip;
mod whiteouts;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tar::{EntryType, Header};

use super::*;
use crate::Digest;

/// Builds tars that no decent writer would.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn entry(self, kind: EntryType, path: &[u8], link: &[u8], data: &[u8]) -> Self {
        self.with(kind, path, link, data, |_| ())
    }

    fn with(
        mut self,
        kind: EntryType,
        path: &[u8],
        link: &[u8],
        data: &[u8],
        change: impl FnOnce(&mut Header),
    ) -> Self {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(data.len() as u64);
        header.as_old_mut().name[..path.len()].copy_from_slice(path);
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link);
        change(&mut header);
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self.0.extend(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, path: &[u8], data: &[u8]) -> Self {
        self.entry(EntryType::Regular, path, b"", data)
    }
    fn dir(self, path: &[u8]) -> Self {
        self.with(EntryType::Directory, path, b"", b"", |header| header.set_mode(0o777))
    }
    fn link(self, path: &[u8], target: &[u8]) -> Self {
        self.entry(EntryType::Symlink, path, target, b"")
    }
    fn hard(self, path: &[u8], target: &[u8]) -> Self {
        self.entry(EntryType::Link, path, target, b"")
    }
    fn pax(self, records: &[(&[u8], &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = (1..).find(|digits| (rest + digits).to_string().len() == *digits).unwrap() + rest;
            data.extend([length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat());
        }
        self.entry(EntryType::XHeader, b"PaxHeaders/x", b"", &data)
    }
    fn end(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }
}

/// A tree to unpack into, beside a file and a directory that must never change.
struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/sentinel"), "untouched").unwrap();
        fs::set_permissions(dir.path().join("outside"), fs::Permissions::from_mode(0o750)).unwrap();
        fs::set_permissions(dir.path().join("outside/sentinel"), fs::Permissions::from_mode(0o640)).unwrap();
        Self { dir }
    }
    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }
    fn outside(&self) -> Vec<u8> {
        self.dir.path().join("outside").into_os_string().into_vec()
    }
    fn unpack(&self, tar: &[u8]) -> Result<Unpacked, LayerError> {
        let root = File::open(self.root()).unwrap();
        let result = unpack(&mut &tar[..], root.as_fd(), OverlayXattrs::of_this_process());
        let outside = self.dir.path().join("outside");
        assert_eq!(fs::read(outside.join("sentinel")).unwrap(), b"untouched");
        assert_eq!(fs::metadata(outside.join("sentinel")).unwrap().mode() & 0o7777, 0o640);
        assert_eq!(fs::metadata(outside.join("sentinel")).unwrap().nlink(), 1);
        assert_eq!(fs::metadata(&outside).unwrap().mode() & 0o7777, 0o750);
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        result
    }
    fn is_whiteout(&self, path: &str) -> bool {
        let stat = fs::symlink_metadata(self.root().join(path)).unwrap();
        stat.file_type().is_char_device() && stat.rdev() == 0
    }
    fn is_opaque(&self, path: &str) -> bool {
        let mut value = [0; 8];
        rustix::fs::getxattr(self.root().join(path), OverlayXattrs::of_this_process().opaque(), &mut value)
            == Ok(1)
            && value[0] == b'y'
    }
}

/// Everything a layer holds, by path; whiteouts have no properties but to be there.
fn facts(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut facts = BTreeMap::new();
    let mut inodes: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut pending = vec![root.to_path_buf()];
    while let Some(dir) = pending.pop() {
        let mut entries: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            let stat = fs::symlink_metadata(&path).unwrap();
            let kind = stat.file_type();
            let mut fact =
                format!("{kind:?} {:o} {} {} {}", stat.mode(), stat.uid(), stat.gid(), stat.mtime());
            if kind.is_char_device() {
                fact = "whiteout".to_owned();
            } else if kind.is_symlink() {
                fact += &format!("{:?}", fs::read_link(&path).unwrap());
            } else if kind.is_file() {
                let first = inodes.entry(stat.ino()).or_insert_with(|| path.clone());
                fact += &format!("{:?} {:?}", first.strip_prefix(root).unwrap(), fs::read(&path).unwrap());
            }
            if kind.is_dir() || kind.is_file() {
                for name in ["user.test", OverlayXattrs::of_this_process().opaque()] {
                    let mut value = vec![0; 100];
                    if let Ok(length) = rustix::fs::getxattr(&path, name, value.as_mut_slice()) {
                        fact += &format!(" {name} {:?}", &value[..length]);
                    }
                }
            }
            if kind.is_dir() {
                pending.push(path.clone());
            }
            facts.insert(path.strip_prefix(root).unwrap().to_path_buf(), fact);
        }
    }
    facts
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: owners, devices and trusted attributes need root");
    }
    root
}

/// Whether files can be given to any user: root of a user namespace has ids up to 65536 only.
fn has_all_ids() -> bool {
    let all = is_root() && super::is_in_first_namespace();
    if !all {
        eprintln!("skipped: needs root to give files to every user");
    }
    all
}
