//! A layer as it was listed while its contents were digested: its DiffId comes from there, and what was read of it is not
//! read again.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};

use kiln_image::DiffId;
use kiln_image::layer::{ListedEntry, ListedFiles, ListedKind, digest_listed};

use crate::contents::{Found, LayerContents};
use crate::store::StoreError;
use crate::tree::{Entry, EntryKind, FileOpener, open_root};

/// Larger files are read again: that costs little beside their bytes.
const SMALL_FILE_BYTES: i64 = 64 << 10;
/// So many bytes of files are kept for one layer.
const KEPT_BYTES: i64 = 16 << 20;

/// How many bytes of files may still be kept.
#[derive(Debug)]
pub(crate) struct Room(AtomicI64);

impl Default for Room {
    fn default() -> Self {
        Self(AtomicI64::new(KEPT_BYTES))
    }
}

/// Whether a file of `size` bytes is read and kept as one piece.
pub(crate) fn is_small(size: i64) -> bool {
    size <= SMALL_FILE_BYTES
}

impl Room {
    /// For nothing.
    pub(crate) fn none() -> Self {
        Self(AtomicI64::new(0))
    }

    /// Makes room for a file of `size` bytes, and returns these, if there is as much.
    pub(crate) fn take(&self, size: i64) -> Option<usize> {
        if !is_small(size) || self.0.load(Ordering::Relaxed) <= 0 {
            return None;
        }
        // An empty file takes memory as well.
        let left = self.0.fetch_sub(size.max(1), Ordering::Relaxed);
        usize::try_from(size).ok().filter(|_| left >= size)
    }
}

/// What a layer's directory holds.
pub struct LayerListing(LayerContents);

impl LayerListing {
    /// Of what was found.
    pub(crate) fn new(found: LayerContents) -> Self {
        Self(found)
    }

    /// The DiffId of the layer, which is the directory `tree`.
    pub(crate) fn diff_id(self, tree: &Path) -> Result<DiffId, StoreError> {
        let root = open_root(tree)?;
        let InTar { entries, kept } = InTar::new(self.0);
        let mut files = Files { kept, opener: FileOpener::new(root.as_fd()) };
        Ok(digest_listed(&entries, None, &mut files)?.0.diff_id)
    }
}

impl std::fmt::Debug for LayerListing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LayerListing of {} entries", self.0.0.len())
    }
}

/// In the order of a layer's tar.
struct InTar {
    entries: Vec<ListedEntry>,
    /// The bytes of each entry that were kept.
    kept: Vec<Option<Vec<u8>>>,
}

impl InTar {
    fn new(LayerContents(found): LayerContents) -> Self {
        let (entries, kept) = (Vec::with_capacity(found.len()), Vec::with_capacity(found.len()));
        let mut listing = Self { entries, kept };
        let mut first_links: HashMap<(u64, u64), PathBuf> = HashMap::new();
        for Found { entry, is_opaque, bytes, .. } in found {
            let is_root = entry.path.as_os_str().is_empty();
            let opaque = is_opaque.then(|| mark(entry.path.clone()));
            if !is_root {
                let first = entry
                    .hard_link
                    .map(|link| &*first_links.entry(link).or_insert_with(|| entry.path.clone()));
                let first = first.filter(|first| **first != entry.path).cloned();
                listing.entries.push(listed(entry, first));
                listing.kept.push(bytes);
            }
            if let Some(opaque) = opaque {
                listing.entries.push(opaque);
                listing.kept.push(None);
            }
        }
        listing
    }
}

/// The mark of an opaque directory.
fn mark(path: PathBuf) -> ListedEntry {
    ListedEntry { path, kind: ListedKind::Opaque, mode: 0, uid: 0, gid: 0, mtime: 0, xattrs: Vec::new() }
}

/// The entry, a further name of `first` if there is one.
fn listed(entry: Entry, first: Option<PathBuf>) -> ListedEntry {
    let is_link = first.is_some();
    let kind = match (first, entry.kind) {
        (Some(first), _) => ListedKind::HardLink(first),
        (None, EntryKind::File { size }) => ListedKind::File(size),
        (None, EntryKind::Dir) => ListedKind::Dir,
        (None, EntryKind::Symlink(target)) => ListedKind::Symlink(target),
        (None, EntryKind::Fifo) => ListedKind::Fifo,
        (None, EntryKind::CharDevice { major: 0, minor: 0 }) => ListedKind::Whiteout,
        (None, EntryKind::CharDevice { major, minor }) => ListedKind::CharDevice(major, minor),
        (None, EntryKind::BlockDevice { major, minor }) => ListedKind::BlockDevice(major, minor),
    };
    ListedEntry {
        path: entry.path,
        kind,
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        mtime: i64::try_from(entry.mtime_ns.div_euclid(1_000_000_000)).unwrap_or_default(),
        xattrs: if is_link { Vec::new() } else { entry.xattrs },
    }
}

struct Files<'a> {
    kept: Vec<Option<Vec<u8>>>,
    opener: FileOpener<'a>,
}

impl ListedFiles for Files<'_> {
    fn open(&mut self, _: usize, entry: &ListedEntry) -> io::Result<File> {
        Ok(self.opener.open(&entry.path).map_err(io::Error::other)?.0)
    }

    fn in_place(&mut self, _: usize, _: u64) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    fn bytes(&self, number: usize) -> Option<&[u8]> {
        self.kept.get(number)?.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::time::{Duration, UNIX_EPOCH};

    use kiln_image::layer::{OverlayXattrs, pack};
    use proptest::prelude::*;
    use rustix::fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat, setxattr};

    use super::*;
    use crate::tree_digest::{TreeDigest, tree_digest};

    fn list_layer(tree: &Path) -> (TreeDigest, LayerListing) {
        let read = LayerContents::read(tree, &Room::default()).unwrap();
        (read.digest(), LayerListing::new(read))
    }

    fn packed(tree: &Path) -> DiffId {
        let tree = fs::File::open(tree).unwrap();
        pack(tree.as_fd(), OverlayXattrs::of_this_process(), &mut io::sink()).unwrap().diff_id
    }

    /// The DiffId from the list, which has to be that of the tree itself.
    fn listed_as_packed(tree: &Path) -> DiffId {
        let (digest, listing) = list_layer(tree);
        let plain = tree_digest(tree).unwrap();
        assert_eq!(
            (digest.contents, digest.entries, digest.size_bytes, digest.disk_bytes),
            (plain.contents, plain.entries, plain.size_bytes, plain.disk_bytes)
        );
        let listed = listing.diff_id(tree).unwrap();
        assert_eq!(listed, packed(tree));
        listed
    }

    #[test]
    fn a_list_has_the_diff_id_of_its_tree_whatever_is_in_that() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let opaque = OverlayXattrs::of_this_process().opaque();
        let set = |name: &str, xattr: &str, value: &[u8]| {
            setxattr(at(name), xattr, value, XattrFlags::empty()).unwrap();
        };
        for name in ["a", "a/b", "a.b", "z"] {
            fs::create_dir(at(name)).unwrap();
        }
        for (name, size) in
            [("a/empty", 0), ("a/one", 1), ("a.b/large", 300_000), ("a-b", 65_536), ("z/c", 65_537)]
        {
            fs::write(at(name), vec![b'x'; size]).unwrap();
        }
        fs::hard_link(at("a/one"), at("a/another")).unwrap();
        fs::hard_link(at("a.b/large"), at("z/large")).unwrap();
        symlink("over/there", at("z/link")).unwrap();
        fs::hard_link(at("z/link"), at("a/link")).unwrap();
        fs::set_permissions(at("a/one"), fs::Permissions::from_mode(0o4711)).unwrap();
        mknodat(CWD, at("z/pipe"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
        set("a/empty", "user.x", b"1");
        set("a/b", "user.y", b"2");
        // Where there is one id, this is an owner.
        for name in ["a/one", "a/empty", "z"] {
            set(name, kiln_image::layer::owner::NOTE, b"5:6");
        }
        set("a.b", opaque, b"y");
        let old = fs::File::open(at("z")).unwrap();
        old.set_modified(UNIX_EPOCH - Duration::from_millis(1_500)).unwrap();
        drop(old);
        let _socket = std::os::unix::net::UnixListener::bind(at("z/socket")).unwrap();
        listed_as_packed(dir.path());
        if rustix::process::geteuid().is_root() {
            let device = |name: &str, kind, major, minor| {
                mknodat(CWD, at(name), kind, Mode::RUSR, makedev(major, minor))
            };
            // Root of a container may not.
            if device("a/zero", FileType::CharacterDevice, 1, 5).is_ok() {
                device("z/disk", FileType::BlockDevice, 7, 9).unwrap();
            }
            device("a/gone", FileType::CharacterDevice, 0, 0).unwrap();
            device("gone", FileType::CharacterDevice, 0, 0).unwrap();
            fs::hard_link(at("gone"), at("a/gone too")).unwrap();
        } else {
            eprintln!("skipped: devices and whiteouts need root");
        }
        let before = listed_as_packed(dir.path());
        set(".", opaque, b"y");
        assert_ne!(listed_as_packed(dir.path()), before);
        fs::write(at("a/.wh.x"), "").unwrap();
        let refused = list_layer(dir.path()).1.diff_id(dir.path()).unwrap_err();
        assert!(refused.to_string().contains(".wh.x"), "{refused}");
    }

    #[test]
    fn files_for_which_there_is_no_room_are_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let count = KEPT_BYTES / SMALL_FILE_BYTES + 20;
        for number in 0..count {
            let bytes = vec![number.to_le_bytes()[0]; usize::try_from(SMALL_FILE_BYTES).unwrap()];
            fs::write(dir.path().join(number.to_string()), bytes).unwrap();
        }
        let (_, listing) = list_layer(dir.path());
        let kept = listing.0.0.iter().filter(|found| found.bytes.is_some()).count();
        assert_eq!(kept, usize::try_from(count - 20).unwrap());
        assert_eq!(listing.diff_id(dir.path()).unwrap(), packed(dir.path()));
    }

    proptest! {
        #[test]
        fn any_tree_s_list_has_its_diff_id(
            paths in prop::collection::vec(("[a-b.]{1,3}(/[a-b-]{1,2}){0,3}", 0_usize..2000), 0..20),
        ) {
            let dir = tempfile::tempdir().unwrap();
            for (path, size) in &paths {
                let path = dir.path().join(path.replace("..", "_"));
                let made = path.parent().is_some_and(|parent| fs::create_dir_all(parent).is_ok());
                if made && !path.exists() {
                    fs::write(&path, vec![b'x'; *size]).unwrap();
                }
            }
            listed_as_packed(dir.path());
        }
    }
}
