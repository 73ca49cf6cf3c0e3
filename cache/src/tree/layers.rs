//! The merged view of layers, computed as overlayfs computes it but without a mount.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_image::Digest;
use rustix::fs::FileType;
use rustix::io::Errno;

use super::beneath::{has_opaque_mark, hash_file, list_dir, open_file, stat_at, stat_entry, stat_marked};
use super::layer_stack::{LayerDir, LayerStack, is_whiteout};
use super::resolve::{Follow, Step, resolve};
use super::{At as _, Entry, EntryKind, Listed, SourceTree, TreeError, clean, list_levels};

/// The merged view of unpacked layers in overlayfs' format, without mounting anything.
///
/// overlayfs.rst, "Directories", "whiteouts and opaque directories": of one name the topmost layer's counts; directories
/// are merged down to an opaque one, a whiteout or something that is no directory. A mark on a layer's own root means
/// nothing, as it does to the kernel. Layers made with `redirect_dir` or `metacopy` are not read (kiln makes none).
///
/// Views that grow from each other share what they found out: see [`LayerTree::with`].
#[derive(Clone, Debug)]
pub struct LayerTree {
    stack: Arc<LayerStack>,
    /// How many layers, from the bottom, are seen.
    len: usize,
}

/// What is at a path of a view.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// From the topmost layer that has it.
    pub(super) entry: Arc<Entry>,
    /// The number of that layer, from the bottom.
    pub(super) layer: usize,
    /// Of a directory: the lowest layer that is merged in it.
    pub(super) floor: usize,
}

impl Found {
    pub(super) fn is_dir(&self) -> bool {
        self.entry.kind == EntryKind::Dir
    }
}

impl LayerTree {
    /// Opens the layers' directories, bottom first.
    ///
    /// # Errors
    /// When one cannot be opened.
    pub fn open<P: AsRef<Path>>(layers: &[P]) -> Result<Self, TreeError> {
        let layers = layers.iter().map(|path| {
            let layer = LayerDir::new(path.as_ref());
            layer.fd()?;
            Ok(Arc::new(layer))
        });
        Ok(Self::of(layers.collect::<Result<_, TreeError>>()?))
    }

    /// The view of layers, bottom first, that are opened when they are looked into.
    pub fn of(layers: Vec<Arc<LayerDir>>) -> Self {
        let len = layers.len();
        Self { stack: Arc::new(LayerStack::new(layers)), len }
    }

    /// The view with a layer more on top. The two share what either finds out: of a path that was asked for before, only
    /// the new layer is asked, and of a new path only layers that may have it. So it costs the same however many there are.
    #[must_use]
    pub fn with(&self, layer: &Arc<LayerDir>) -> Self {
        if self.stack.grow(self.len, layer) {
            return Self { stack: Arc::clone(&self.stack), len: self.len + 1 };
        }
        // Another layer is there already: from here on two stacks have their own.
        Self { stack: Arc::new(LayerStack::branch(self, layer)), len: self.len + 1 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn stack(&self) -> &LayerStack {
        &self.stack
    }

    /// Reads a small regular file (`/etc/passwd`), links followed in the root, never blocking on a pipe or device.
    ///
    /// # Errors
    /// I/O, or a file over `limit` bytes; [`TreeError::NotAFile`].
    pub fn read_small(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>, TreeError> {
        let real = self.resolve(path)?;
        let Some(found) = self.find(&real)? else { return Ok(None) };
        let file = match found.entry.kind {
            EntryKind::File { .. } => open_file(self.stack.layer(found.layer).fd()?, &real)?,
            _ => return Err(TreeError::NotAFile(path.to_path_buf())),
        };
        let mut bytes = Vec::new();
        file.take(limit.saturating_add(1)).read_to_end(&mut bytes).at(path)?;
        if bytes.len() as u64 > limit {
            return Err(TreeError::TooLarge { path: path.to_path_buf(), limit });
        }
        Ok(Some(bytes))
    }

    /// What is at `path`, in which no component but the last is a link.
    pub(super) fn find(&self, path: &Path) -> Result<Option<Found>, TreeError> {
        let mut at = PathBuf::new();
        let mut found: Option<Found> = None;
        for name in path {
            let floor = match &found {
                Some(dir) if dir.is_dir() => dir.floor,
                None if at.as_os_str().is_empty() => 0,
                _ => return Ok(None),
            };
            let below = self.stack.child(self.len, &at, name)?.filter(|below| below.layer >= floor);
            let Some(below) = below else { return Ok(None) };
            found = Some(Found { floor: below.floor.max(floor), ..below });
            at.push(name);
        }
        if at.as_os_str().is_empty() { self.root() } else { Ok(found) }
    }

    fn root(&self) -> Result<Option<Found>, TreeError> {
        let Some(layer) = self.len.checked_sub(1) else {
            return Ok(Some(Found { entry: Arc::new(empty_root()), layer: 0, floor: 0 }));
        };
        let top = self.stack.layer(layer);
        let dir = top.fd()?;
        let Some(stat) = stat_at(dir, OsStr::new(".")).at(Path::new("/"))? else { return Ok(None) };
        let entry = stat_entry(dir, OsStr::new("."), PathBuf::new(), &stat)?;
        Ok(entry.map(|entry| Found { entry: Arc::new(entry), layer, floor: 0 }))
    }

    /// The layers that make up the directory that was `found` at `path`, topmost first.
    fn merged(&self, path: &Path, found: &Found) -> Vec<Arc<LayerDir>> {
        self.stack.merged(self.len, path, found.floor)
    }

    fn real_path(&self, path: &Path, follow: Follow) -> Result<PathBuf, TreeError> {
        resolve(path, follow, |path| {
            Ok(match self.find(path)?.map(|found| found.entry.kind.clone()) {
                None => Step::Missing,
                Some(EntryKind::Symlink(target)) => Step::Symlink(target),
                Some(_) => Step::Other,
            })
        })
    }
}

/// Layers that are listed together, topmost first.
struct Listing(Vec<Arc<LayerDir>>);

/// Which of a listing's layers make up a directory, topmost first.
type Places = Vec<usize>;

/// One name of a listed directory.
#[derive(Debug)]
struct Merged {
    /// What it is, from the topmost layer that has it.
    entry: Entry,
    /// Of a directory: the layers that are merged in it.
    places: Places,
}

impl Listing {
    /// Everything in the directory `at`, which `places` make up, by name; paths are below `shown`.
    fn children(&self, at: &Path, shown: &Path, places: &[usize]) -> Result<Vec<Merged>, TreeError> {
        let mut names: BTreeMap<OsString, NameState> = BTreeMap::new();
        for &place in places {
            let dir = self.0[place].open(at)?;
            for name in list_dir(dir.as_fd(), at)? {
                let state = names.entry(name.clone()).or_default();
                if state.is_closed {
                    continue;
                }
                state.look(place, dir.as_fd(), &name, &shown.join(&name))?;
            }
        }
        Ok(names.into_values().filter_map(|state| state.found).collect())
    }

    /// The places of all layers.
    fn all(&self) -> Places {
        (0..self.0.len()).collect()
    }

    /// Everything below the directory `at`, which all layers make up.
    fn walk(&self, at: &Path, shown: &Path) -> Result<Vec<Entry>, TreeError> {
        let top = (at.to_path_buf(), shown.to_path_buf(), self.all());
        list_levels(None, top, |(at, shown, places)| {
            let (mut entries, mut below) = (Vec::new(), Vec::new());
            for Merged { entry, places } in self.children(at, shown, places)? {
                if let (EntryKind::Dir, Some(name)) = (&entry.kind, entry.path.file_name()) {
                    below.push((entries.len(), (at.join(name), entry.path.clone(), places)));
                }
                entries.push(entry);
            }
            Ok(Listed { entries, below })
        })
    }
}

/// What the layers seen so far, topmost first, say of one name.
#[derive(Default)]
struct NameState {
    found: Option<Merged>,
    /// Nothing below shows any more.
    is_closed: bool,
}

impl NameState {
    /// Adds what the layer at `place`, of which `dir` is a directory, has under `name`.
    fn look(
        &mut self,
        place: usize,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
    ) -> Result<(), TreeError> {
        let Some(stat) = &stat_at(dir, name).at(path)? else { return Ok(()) };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            self.is_closed = true;
            if self.found.is_none() && !is_whiteout(stat) {
                let entry = stat_entry(dir, name, path.to_path_buf(), stat)?;
                self.found = entry.map(|entry| Merged { entry, places: Places::new() });
            }
            return Ok(());
        }
        if let Some(found) = &mut self.found {
            found.places.push(place);
            self.is_closed = has_opaque_mark(dir, name).at(path)?;
        } else if let Some((entry, is_opaque)) = stat_marked(dir, name, path.to_path_buf(), stat)? {
            self.found = Some(Merged { entry, places: vec![place] });
            self.is_closed = is_opaque;
        }
        Ok(())
    }
}

impl SourceTree for LayerTree {
    fn entry(&self, path: &Path) -> Result<Option<Entry>, TreeError> {
        let real = self.real_path(path, Follow::Parents)?;
        Ok(self.find(&real)?.map(|found| Entry { path: clean(path), ..Entry::clone(&found.entry) }))
    }

    fn resolve(&self, path: &Path) -> Result<PathBuf, TreeError> {
        self.real_path(path, Follow::All)
    }

    fn read_dir(&self, path: &Path) -> Result<Vec<Entry>, TreeError> {
        let real = self.real_path(path, Follow::Parents)?;
        let found = self.find(&real)?.ok_or(Errno::NOENT).at(path)?;
        if found.entry.kind != EntryKind::Dir {
            return Err(Errno::NOTDIR).at(path);
        }
        let listing = Listing(self.merged(&real, &found));
        let children = listing.children(&real, &clean(path), &listing.all())?;
        Ok(children.into_iter().map(|merged| merged.entry).collect())
    }

    fn walk(&self, path: &Path) -> Result<Vec<Entry>, TreeError> {
        let real = self.real_path(path, Follow::Parents)?;
        let Some(found) = self.find(&real)? else { return Ok(Vec::new()) };
        let shown = clean(path);
        let below = match found.entry.kind {
            EntryKind::Dir => Listing(self.merged(&real, &found)).walk(&real, &shown)?,
            _ => Vec::new(),
        };
        let mut entries = Vec::with_capacity(below.len() + 1);
        entries.push(Entry { path: shown, ..Entry::clone(&found.entry) });
        entries.extend(below);
        Ok(entries)
    }

    fn open(&self, path: &Path) -> Result<File, TreeError> {
        let real = self.real_path(path, Follow::Parents)?;
        let found = self.find(&real)?.ok_or(Errno::NOENT).at(path)?;
        open_file(self.stack.layer(found.layer).fd()?, &real)
    }

    fn open_entry(&self, entry: &Entry) -> Result<File, TreeError> {
        // What this tree gave is in the topmost layer that has anything there. To ask a few for that costs less than to find out
        // again what all is on the way; where there is a link on it, or something that hides what is below, only that will do.
        if self.len <= FEW_LAYERS {
            for number in (0..self.len).rev() {
                match open_file(self.stack.layer(number).fd()?, &entry.path) {
                    Ok(file) => return Ok(file),
                    Err(TreeError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
                    Err(_) => break,
                }
            }
        }
        self.open(&entry.path)
    }

    fn digest(&self, entry: &Entry) -> Result<Digest, TreeError> {
        Ok(hash_file(&self.open_entry(entry)?).at(&entry.path)?.digest)
    }

    fn digests(&self, entries: &[Entry]) -> Result<Vec<Option<Digest>>, TreeError> {
        super::digests_in_parallel(self, entries)
    }
}

/// To ask so many layers for a file is less than to look for it.
const FEW_LAYERS: usize = 8;

/// The root of no layers at all (`FROM scratch`).
fn empty_root() -> Entry {
    Entry {
        path: PathBuf::new(),
        kind: EntryKind::Dir,
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime_ns: 0,
        xattrs: Vec::new(),
        hard_link: None,
        digest: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    use rustix::fs::{CWD, Mode, XattrFlags};
    use rustix::mount::{MountFlags, UnmountFlags};

    fn is_root() -> bool {
        // In a user namespace, whose map is shorter, root has no trusted attributes.
        let has_all_ids =
            fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| map.contains("4294967295"));
        let root = rustix::process::geteuid().is_root() && has_all_ids;
        if !root {
            eprintln!("skipped: whiteouts, trusted attributes and mounts need root");
        }
        root
    }

    fn whiteout(path: PathBuf) {
        rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    }

    fn opaque(path: PathBuf, mark: &str) {
        rustix::fs::setxattr(path, mark, b"y", XattrFlags::empty()).unwrap();
    }

    /// Three layers with every way in which one can hide another.
    fn layers(root: &Path) -> Vec<PathBuf> {
        let layers: Vec<PathBuf> = ["l0", "l1", "l2"].iter().map(|name| root.join(name)).collect();
        let [low, middle, top] = layers.as_slice() else { unreachable!() };
        for dir in ["keep/sub", "opaque/sub", "removed/sub", "to-file", "bin", "again/old"] {
            fs::create_dir_all(low.join(dir)).unwrap();
            fs::write(low.join(dir).join("low"), dir).unwrap();
        }
        fs::write(low.join("file"), "low").unwrap();
        fs::write(low.join("to-dir"), "low").unwrap();
        fs::write(low.join("linked"), "two names").unwrap();
        fs::hard_link(low.join("linked"), low.join("linked2")).unwrap();
        std::os::unix::fs::chown(low.join("keep/sub/low"), Some(1000), Some(1001)).unwrap();
        symlink("/bin", low.join("sbin")).unwrap();
        symlink("../../../../etc/passwd", low.join("leak")).unwrap();

        for dir in ["keep/sub", "opaque", "to-dir", "new"] {
            fs::create_dir_all(middle.join(dir)).unwrap();
            fs::write(middle.join(dir).join("middle"), dir).unwrap();
        }
        opaque(middle.join("opaque"), "trusted.overlay.opaque");
        fs::write(middle.join("to-file"), "now a file").unwrap();
        whiteout(middle.join("removed"));
        whiteout(middle.join("keep/sub/low"));
        whiteout(middle.join("again"));
        fs::set_permissions(middle.join("keep"), fs::Permissions::from_mode(0o700)).unwrap();

        for dir in ["keep", "opaque/sub", "again"] {
            fs::create_dir_all(top.join(dir)).unwrap();
            fs::write(top.join(dir).join("top"), dir).unwrap();
        }
        fs::write(top.join("file"), "top").unwrap();
        fs::set_permissions(top.join("file"), fs::Permissions::from_mode(0o4711)).unwrap();
        opaque(top.to_path_buf(), "trusted.overlay.opaque");
        layers
    }

    /// A read-only overlay mount, gone with the value.
    struct Overlay(PathBuf);

    impl Overlay {
        fn new(layers: &[PathBuf], target: PathBuf) -> Self {
            fs::create_dir(&target).unwrap();
            let lower: Vec<&str> = layers.iter().rev().map(|path| path.to_str().unwrap()).collect();
            let options = std::ffi::CString::new(format!("lowerdir={}", lower.join(":"))).unwrap();
            let flags = MountFlags::RDONLY;
            rustix::mount::mount("overlay", &target, "overlay", flags, options.as_c_str()).unwrap();
            Self(target)
        }
    }

    impl Drop for Overlay {
        fn drop(&mut self) {
            let _ = rustix::mount::unmount(&self.0, UnmountFlags::DETACH);
        }
    }

    /// Everything the kernel shows, as a [`SourceTree`] would list it.
    fn kernel_view(root: &Path) -> Vec<(PathBuf, u32, u32, u32, String)> {
        let mut facts = Vec::new();
        let mut pending = vec![root.to_path_buf()];
        while let Some(path) = pending.pop() {
            let stat = fs::symlink_metadata(&path).unwrap();
            let content = if stat.is_file() {
                fs::read_to_string(&path).unwrap()
            } else if stat.is_symlink() {
                fs::read_link(&path).unwrap().display().to_string()
            } else {
                pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
                String::new()
            };
            let shown = path.strip_prefix(root).unwrap().to_path_buf();
            facts.push((shown, stat.mode() & 0o7777, stat.uid(), stat.gid(), content));
        }
        facts.sort();
        facts
    }

    #[test]
    fn the_merged_view_is_the_kernel_s() {
        if !is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let layers = layers(dir.path());
        let overlay = Overlay::new(&layers, dir.path().join("merged"));
        let tree = LayerTree::open(&layers).unwrap();
        let entries = tree.walk(Path::new("")).unwrap();
        let mut ours: Vec<_> = entries
            .iter()
            .map(|entry| {
                let content = match &entry.kind {
                    EntryKind::File { .. } => {
                        std::io::read_to_string(tree.open(&entry.path).unwrap()).unwrap()
                    }
                    EntryKind::Symlink(target) => target.display().to_string(),
                    _ => String::new(),
                };
                (entry.path.clone(), entry.mode, entry.uid, entry.gid, content)
            })
            .collect();
        assert!(ours.is_sorted_by(|a, b| a.0.iter().lt(b.0.iter())), "depth first, by components");
        ours.sort();
        assert_eq!(ours, kernel_view(&overlay.0));
        for entry in &entries {
            assert_eq!(tree.entry(&entry.path).unwrap().as_ref(), Some(entry));
            if matches!(entry.kind, EntryKind::File { .. }) {
                let read = |file: Result<File, TreeError>| std::io::read_to_string(file.unwrap()).unwrap();
                assert_eq!(read(tree.open_entry(entry)), read(tree.open(&entry.path)), "{entry:?}");
            }
        }
    }

    #[test]
    fn an_entry_behind_a_link_is_not_what_the_link_hides() {
        let dir = tempfile::tempdir().unwrap();
        let layers = [dir.path().join("low"), dir.path().join("top")];
        for (path, text) in [("low/a/x/f", "hidden"), ("top/c/x/f", "shown")] {
            let file = dir.path().join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        symlink("c", dir.path().join("top/a")).unwrap();
        let tree = LayerTree::open(&layers).unwrap();
        let entries = tree.walk(Path::new("a/x")).unwrap();
        let file = entries.iter().find(|entry| entry.path == Path::new("a/x/f")).unwrap();
        assert_eq!(std::io::read_to_string(tree.open_entry(file).unwrap()).unwrap(), "shown");
        assert_eq!(tree.digest(file).unwrap(), crate::bytes_digest(b"shown"));
    }

    #[test]
    fn the_mark_of_this_process_s_overlayfs_is_obeyed_and_no_other() {
        use kiln_image::layer::OverlayXattrs;
        let own = OverlayXattrs::of_this_process();
        let other = if own == OverlayXattrs::User { OverlayXattrs::Trusted } else { OverlayXattrs::User };
        let dir = tempfile::tempdir().unwrap();
        for layer in ["low", "top"] {
            fs::create_dir_all(dir.path().join(layer).join("d")).unwrap();
            fs::write(dir.path().join(layer).join("d").join(layer), "").unwrap();
        }
        let names = || -> Vec<PathBuf> {
            let tree = LayerTree::open(&[dir.path().join("low"), dir.path().join("top")]).unwrap();
            tree.read_dir(Path::new("d")).unwrap().into_iter().map(|entry| entry.path).collect()
        };
        // An ordinary user cannot even set it.
        let _ = rustix::fs::setxattr(dir.path().join("top/d"), other.opaque(), b"y", XattrFlags::empty());
        assert_eq!(names(), [Path::new("d/low"), Path::new("d/top")]);
        opaque(dir.path().join("top/d"), own.opaque());
        assert_eq!(names(), [Path::new("d/top")]);
    }

    #[test]
    fn links_are_followed_across_layers_and_never_out() {
        if !is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let tree = LayerTree::open(&layers(dir.path())).unwrap();
        assert_eq!(tree.read_small(Path::new("/sbin/low"), 100).unwrap().unwrap(), b"bin");
        assert_eq!(tree.read_small(Path::new("leak"), 100).unwrap(), None);
        assert_eq!(tree.resolve(Path::new("leak")).unwrap(), Path::new("etc/passwd"));
        let two = [tree.entry(Path::new("linked")), tree.entry(Path::new("linked2"))];
        let [a, b] = two.map(|entry| entry.unwrap().unwrap().hard_link);
        assert!(a.is_some() && a == b);
    }

    #[test]
    fn a_small_file_is_regular_and_small() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR, 0).unwrap();
        fs::write(dir.path().join("big"), [0; 101]).unwrap();
        let tree = LayerTree::open(&[dir.path()]).unwrap();
        assert!(matches!(tree.read_small(Path::new("fifo"), 100), Err(TreeError::NotAFile(_))));
        assert!(matches!(
            tree.read_small(Path::new("big"), 100),
            Err(TreeError::TooLarge { limit: 100, .. })
        ));
        assert_eq!(tree.read_small(Path::new("big"), 101).unwrap().unwrap().len(), 101);
    }

    #[test]
    fn no_layers_are_an_empty_root() {
        let tree = LayerTree::open::<PathBuf>(&[]).unwrap();
        assert_eq!(tree.walk(Path::new("")).unwrap().len(), 1);
        assert_eq!(tree.entry(Path::new("etc")).unwrap(), None);
    }
}
