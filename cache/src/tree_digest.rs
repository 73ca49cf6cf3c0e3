//! Contents digests (design, "Contents, keys, records"): no times, everything else.
//!
//! One encoding serves layers and selections: entries in the order of their paths' components, each with fixed-width
//! little-endian numbers, and a length before whatever varies, so that two different lists never encode alike
//! (THREATS G1).

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use kiln_image::{ContentsDigest, Digest};
use sha2::{Digest as _, Sha256};

use crate::contents::{Found, LayerContents};
use crate::listing::Room;
use crate::space::Space;
use crate::tree::{Entry, EntryKind, TreeError, depth_first};

/// A layer directory's contents.
#[derive(Clone, Copy, Debug)]
pub struct TreeDigest {
    /// The digest, whiteouts and opaque marks included.
    pub contents: ContentsDigest,
    /// Bytes of file data.
    pub size_bytes: u64,
    /// Number of entries.
    pub entries: u64,
    /// Bytes of disk.
    pub disk_bytes: u64,
}

/// Hashes an unpacked layer (overlayfs format), files in parallel on the current rayon pool. The root directory's own
/// owner, mode and attributes count.
///
/// # Errors
/// When something in it cannot be read; when it is larger than a layer may be.
pub fn tree_digest(tree: &Path) -> Result<TreeDigest, TreeError> {
    Ok(LayerContents::read(tree, &Room::none())?.digest())
}

impl LayerContents {
    /// See [`tree_digest`].
    pub(crate) fn digest(&self) -> TreeDigest {
        let hashes = || self.0.iter().filter_map(|found| found.hash.as_ref());
        let mut encoder = Encoder::new(b"kiln layer 2");
        for Found { entry, is_opaque, hash, .. } in &self.0 {
            let link = entry.hard_link.map(|link| encoder.link(link));
            encoder.entry(&entry.path, entry, *is_opaque, link, hash.as_ref().map(|hash| &hash.digest));
        }
        TreeDigest {
            contents: encoder.finish(),
            size_bytes: hashes().map(|hash| hash.size_bytes).sum(),
            entries: self.0.len() as u64 - 1,
            disk_bytes: hashes().map(|hash| hash.disk_bytes).sum::<u64>() + of_others(&self.0),
        }
    }
}

/// The digest of selected entries of a source tree, `digests` as [`crate::SourceTree::digests`] gave them. Paths are
/// those of `entries`; their order does not matter.
pub fn selection_digest(entries: &[Entry], digests: &[Option<Digest>]) -> ContentsDigest {
    let mut selected: Vec<_> = entries.iter().zip(digests).collect();
    selected.sort_by(|(a, _), (b, _)| depth_first(&a.path, &b.path));
    let mut digest = SelectionDigest::new();
    for (entry, of_bytes) in selected {
        let link = entry.hard_link.map(|link| digest.0.link(link));
        digest.0.entry(&entry.path, entry, false, link, of_bytes.as_ref());
    }
    digest.finish()
}

/// As [`selection_digest`], for entries that come one by one and in order: by their paths' components' bytes.
pub struct SelectionDigest(Encoder);

impl SelectionDigest {
    /// Of nothing yet.
    pub fn new() -> Self {
        Self(Encoder::new(b"kiln selection 2"))
    }

    /// Adds `entry` as if it were at `path`. Entries of the same `file` are names of one file.
    pub fn add(&mut self, path: &Path, entry: &Entry, file: Option<usize>, of_bytes: Option<&Digest>) {
        let link = file.map(|file| self.0.link((0, file as u64)));
        self.0.entry(path, entry, false, link, of_bytes);
    }

    /// The digest of all that was added.
    pub fn finish(self) -> ContentsDigest {
        self.0.finish()
    }
}

impl Default for SelectionDigest {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for SelectionDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SelectionDigest of {} entries", self.0.entries)
    }
}

/// The disk space of all but files.
fn of_others(found: &[Found]) -> u64 {
    let of_entry = |found: &Found| match found.entry.kind {
        EntryKind::File { .. } => 0,
        EntryKind::Dir => Space::of_dir(),
        _ => Space::of_other(),
    };
    found.iter().map(of_entry).sum()
}

/// Writes entries into a hash.
struct Encoder {
    hash: Sha256,
    /// What is to be hashed next: tens of thousands of entries are millions of fields.
    pending: Vec<u8>,
    /// Inode → number of the entry that had it first.
    links: HashMap<(u64, u64), u64>,
    entries: u64,
}

impl Encoder {
    /// `domain` keeps digests of different meaning and of other versions of the encoding apart.
    fn new(domain: &[u8]) -> Self {
        let mut encoder = Self {
            hash: Sha256::new(),
            pending: Vec::with_capacity(2 * PENDING_BYTES),
            links: HashMap::new(),
            entries: 0,
        };
        encoder.bytes(domain);
        encoder
    }

    /// The number of the entry that is the first name of the file the next entry is a name of; maybe its own.
    fn link(&mut self, inode: (u64, u64)) -> u64 {
        *self.links.entry(inode).or_insert(self.entries)
    }

    fn entry(
        &mut self,
        path: &Path,
        entry: &Entry,
        is_opaque: bool,
        first: Option<u64>,
        digest: Option<&Digest>,
    ) {
        self.bytes(path.as_os_str().as_bytes());
        let number = self.entries;
        self.entries += 1;
        // A further name of a file says which entry it is a name of: what is one file and what are two equal ones differ
        // for whoever writes to them.
        if let Some(first) = first.filter(|&first| first != number) {
            self.update(b"l");
            self.number(first);
            return;
        }
        let kind = match entry.kind {
            EntryKind::File { .. } => b'f',
            EntryKind::Dir if is_opaque => b'o',
            EntryKind::Dir => b'd',
            EntryKind::Symlink(_) => b's',
            EntryKind::Fifo => b'p',
            EntryKind::CharDevice { .. } => b'c',
            EntryKind::BlockDevice { .. } => b'b',
        };
        self.update(&[kind]);
        for field in [entry.mode, entry.uid, entry.gid] {
            self.update(&field.to_le_bytes());
        }
        self.number(entry.xattrs.len() as u64);
        for (name, value) in &entry.xattrs {
            self.bytes(name.as_bytes());
            self.bytes(value);
        }
        match &entry.kind {
            EntryKind::File { size } => {
                self.number(*size);
                // A file without a digest was never asked for; its own mark keeps it apart from any digest.
                self.update(&[u8::from(digest.is_some())]);
                self.update(&digest.map_or([0; 32], |digest| *digest.as_bytes()));
            }
            EntryKind::Symlink(target) => self.bytes(target.as_os_str().as_bytes()),
            EntryKind::CharDevice { major, minor } | EntryKind::BlockDevice { major, minor } => {
                self.update(&major.to_le_bytes());
                self.update(&minor.to_le_bytes());
            }
            EntryKind::Dir | EntryKind::Fifo => {}
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.update(bytes);
    }

    fn number(&mut self, number: u64) {
        self.update(&number.to_le_bytes());
    }

    fn update(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= PENDING_BYTES {
            self.hash.update(&self.pending);
            self.pending.clear();
        }
    }

    fn finish(mut self) -> ContentsDigest {
        self.number(self.entries);
        self.hash.update(&self.pending);
        ContentsDigest(Digest::from_bytes(self.hash.finalize().into()))
    }
}

/// So much is hashed at once.
const PENDING_BYTES: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::path::PathBuf;
    use std::time::{Duration, UNIX_EPOCH};

    use kiln_image::layer::MAX_LAYER_BYTES;
    use rustix::fs::OFlags;

    use proptest::prelude::*;

    fn make(dir: &Path, names: &[&str]) {
        for name in names {
            let path = dir.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
    }

    const NAMES: [&str; 5] = ["a/b", "a.b", "a/c/d", "z", "a-b/x"];

    fn digest(dir: &Path) -> ContentsDigest {
        tree_digest(dir).unwrap().contents
    }

    #[test]
    fn more_than_a_layer_may_have_is_refused_and_not_hashed() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a", "b"] {
            File::create(dir.path().join(name)).unwrap().set_len(MAX_LAYER_BYTES / 2 + 1).unwrap();
        }
        let error = tree_digest(dir.path()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "b: with it the layer has more than 1099511627776 bytes, and no image's layer may"
        );
    }

    #[test]
    fn neither_the_order_of_making_nor_times_count() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        make(one.path(), &NAMES);
        let mut reversed = NAMES;
        reversed.reverse();
        make(two.path(), &reversed);
        for path in ["a/b", "a", "z", "."] {
            let file = File::open(two.path().join(path)).unwrap();
            file.set_modified(UNIX_EPOCH + Duration::from_secs(77)).unwrap();
        }
        assert_eq!(digest(one.path()), digest(two.path()));
        let counted = tree_digest(one.path()).unwrap();
        assert_eq!(counted.entries, 8);
        assert_eq!(counted.size_bytes, NAMES.iter().map(|name| name.len() as u64).sum::<u64>());
    }

    #[test]
    fn everything_else_counts() {
        type Change = fn(&Path);
        let changes: [(&str, Change); 9] = [
            ("nothing", |_| ()),
            ("bytes", |dir| fs::write(dir.join("z"), "y").unwrap()),
            ("name", |dir| fs::rename(dir.join("z"), dir.join("y")).unwrap()),
            ("mode", |dir| fs::set_permissions(dir.join("z"), fs::Permissions::from_mode(0o600)).unwrap()),
            ("root's mode", |dir| fs::set_permissions(dir, fs::Permissions::from_mode(0o711)).unwrap()),
            ("kind", |dir| {
                fs::remove_file(dir.join("z")).unwrap();
                symlink("z", dir.join("z")).unwrap();
            }),
            ("xattr", |dir| {
                rustix::fs::setxattr(dir.join("z"), "user.x", b"", rustix::fs::XattrFlags::empty()).unwrap();
            }),
            ("opaque mark", |dir| {
                let flags = rustix::fs::XattrFlags::empty();
                let mark = kiln_image::layer::OverlayXattrs::of_this_process().opaque();
                rustix::fs::setxattr(dir.join("a"), mark, b"y", flags).unwrap();
            }),
            ("hard link", |dir| {
                fs::remove_file(dir.join("z")).unwrap();
                fs::hard_link(dir.join("a.b"), dir.join("z")).unwrap();
            }),
        ];
        let mut seen: Vec<(&str, ContentsDigest)> = Vec::new();
        for (what, change) in changes {
            let dir = tempfile::tempdir().unwrap();
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
            make(dir.path(), &NAMES);
            change(dir.path());
            let digest = digest(dir.path());
            assert!(seen.iter().all(|(_, other)| *other != digest), "{what} is like one of {seen:?}");
            seen.push((what, digest));
        }
    }

    #[test]
    fn a_tree_as_deep_as_a_path_is_long_is_no_danger() {
        let dir = tempfile::tempdir().unwrap();
        let deep = "d/".repeat(1000);
        let mut at = rustix::fs::open(dir.path(), OFlags::DIRECTORY, rustix::fs::Mode::empty()).unwrap();
        for _ in 0..1000 {
            rustix::fs::mkdirat(&at, "d", rustix::fs::Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, "d", OFlags::DIRECTORY, rustix::fs::Mode::empty()).unwrap();
        }
        assert_eq!(tree_digest(dir.path()).unwrap().entries, 1000);
        let tree = crate::LayerTree::open(&[dir.path()]).unwrap();
        let last = crate::SourceTree::walk(&tree, Path::new("")).unwrap().pop().unwrap();
        assert_eq!(last.path, Path::new(&deep));
    }

    fn entry(path: &str, kind: EntryKind) -> Entry {
        let path = PathBuf::from(path);
        Entry {
            path,
            kind,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime_ns: 0,
            xattrs: Vec::new(),
            hard_link: None,
            digest: None,
        }
    }

    #[test]
    fn a_selection_does_not_depend_on_its_order_or_on_inodes() {
        let file = |path: &str, link| Entry { hard_link: link, ..entry(path, EntryKind::File { size: 1 }) };
        let digests = [Some(Digest::of(b"1")), Some(Digest::of(b"2"))];
        let one = selection_digest(&[file("a", Some((1, 1))), file("b", Some((1, 2)))], &digests);
        let mut in_order = SelectionDigest::new();
        for (path, digest) in ["a", "b"].into_iter().zip(&digests) {
            in_order.add(Path::new(path), &file("elsewhere", Some((1, 1))), None, digest.as_ref());
        }
        assert_eq!(one, in_order.finish());
        let linked = [file("a", Some((1, 1))), file("b", Some((1, 1)))];
        let mut in_order = SelectionDigest::new();
        for path in ["a", "b"] {
            in_order.add(Path::new(path), &file("elsewhere", None), Some(7), digests[0].as_ref());
        }
        assert_eq!(selection_digest(&linked, &[digests[0], digests[0]]), in_order.finish());
        let swapped = [digests[1], digests[0]];
        assert_eq!(one, selection_digest(&[file("b", None), file("a", None)], &swapped));
        assert_ne!(one, selection_digest(&[file("a", None), file("b", None)], &swapped));
    }

    proptest! {
        #[test]
        fn different_selections_have_different_digests(
            a in prop::collection::btree_map("[ab/]{1,4}", prop::option::of("[ab]{0,3}"), 0..4),
            b in prop::collection::btree_map("[ab/]{1,4}", prop::option::of("[ab]{0,3}"), 0..4),
        ) {
            let digest = |map: &std::collections::BTreeMap<String, Option<String>>| {
                let entries: Vec<_> = map
                    .iter()
                    .map(|(path, target)| match target {
                        Some(target) => entry(path, EntryKind::Symlink(PathBuf::from(target))),
                        None => entry(path, EntryKind::Dir),
                    })
                    .collect();
                selection_digest(&entries, &vec![None; entries.len()])
            };
            prop_assert_eq!(digest(&a) == digest(&b), a == b);
        }
    }
}
