//! The merged view of layers, computed as overlayfs computes it but without a mount.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kiln_image::Digest;
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::beneath::{
    has_opaque_mark, hash_file, list_dir, open_beneath, open_file, stat_at, stat_entry, stat_marked,
};
use super::layer_dir::{LayerDir, NameBit};
use super::resolve::{Follow, Step, resolve};
use super::{At as _, Entry, EntryKind, SourceTree, TreeError, clean, list_levels};

/// The merged view of unpacked layers in overlayfs' format, without mounting anything.
///
/// overlayfs.rst, "Directories", "whiteouts and opaque directories": of one name the topmost layer's counts; directories
/// are merged down to an opaque one, a whiteout or something that is no directory. A mark on a layer's own root means
/// nothing, as it does to the kernel. Layers made with `redirect_dir` or `metacopy` are not read (kiln makes none).
#[derive(Debug)]
pub struct LayerTree {
    /// Bottom first.
    layers: Vec<Arc<LayerDir>>,
    /// The directories that were found so far: every look-up goes through some of them, and nobody writes to layers.
    dirs: Mutex<HashMap<PathBuf, Arc<Merged>>>,
}

/// Which layers make up a directory, topmost first.
type Stack = Vec<usize>;

/// One name of the merged view.
#[derive(Debug)]
struct Merged {
    /// What it is, from the topmost layer that has it.
    entry: Entry,
    /// Which layer that is.
    layer: usize,
    /// Of a directory: the layers that are merged in it.
    stack: Stack,
}

impl LayerTree {
    /// Opens the layers' directories, bottom first.
    ///
    /// # Errors
    /// When one cannot be opened.
    pub fn open<P: AsRef<Path>>(layers: &[P]) -> Result<Self, TreeError> {
        let layers: Vec<_> = layers.iter().map(|path| Arc::new(LayerDir::new(path.as_ref()))).collect();
        for layer in &layers {
            layer.fd()?;
        }
        Ok(Self::of(layers))
    }

    /// The view of layers, bottom first, that are opened when they are looked into.
    pub fn of(layers: Vec<Arc<LayerDir>>) -> Self {
        Self { layers, dirs: Mutex::default() }
    }

    /// Reads a small regular file (`/etc/passwd`), links followed in the root, never blocking on a pipe or device.
    ///
    /// # Errors
    /// I/O, or a file over `limit` bytes; [`TreeError::NotAFile`].
    pub fn read_small(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>, TreeError> {
        let real = self.resolve(path)?;
        let Some(found) = self.find(&real)? else { return Ok(None) };
        let file = match found.entry.kind {
            EntryKind::File { .. } => open_file(self.layers[found.layer].fd()?, &real)?,
            _ => return Err(TreeError::NotAFile(path.to_path_buf())),
        };
        let mut bytes = Vec::new();
        file.take(limit.saturating_add(1)).read_to_end(&mut bytes).at(path)?;
        if bytes.len() as u64 > limit {
            return Err(TreeError::TooLarge { path: path.to_path_buf(), limit });
        }
        Ok(Some(bytes))
    }

    fn root_stack(&self) -> Stack {
        (0..self.layers.len()).rev().collect()
    }

    /// What is at `path`, in which no component but the last is a link.
    fn find(&self, path: &Path) -> Result<Option<Arc<Merged>>, TreeError> {
        let mut at = PathBuf::new();
        let mut found = self.known_or(&at, || self.root())?;
        for name in path {
            let Some(dir) = found.filter(|found| found.entry.kind == EntryKind::Dir) else { return Ok(None) };
            let path = at.join(name);
            found = self.known_or(&path, || self.child(&at, &dir.stack, name))?;
            at = path;
        }
        Ok(found)
    }

    /// The directory that `path` is known to be, or what `look` finds there.
    fn known_or(
        &self,
        path: &Path,
        look: impl FnOnce() -> Result<Option<Merged>, TreeError>,
    ) -> Result<Option<Arc<Merged>>, TreeError> {
        if let Some(dir) = self.dirs().get(path) {
            return Ok(Some(Arc::clone(dir)));
        }
        let found = look()?.map(Arc::new);
        if let Some(dir) = found.as_ref().filter(|found| found.entry.kind == EntryKind::Dir) {
            self.dirs().insert(path.to_path_buf(), Arc::clone(dir));
        }
        Ok(found)
    }

    fn dirs(&self) -> MutexGuard<'_, HashMap<PathBuf, Arc<Merged>>> {
        // Whole after any panic: every change of it is one call.
        self.dirs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn root(&self) -> Result<Option<Merged>, TreeError> {
        let stack = self.root_stack();
        let Some(&top) = stack.first() else { return Ok(Some(empty_root())) };
        let dir = self.layers[top].fd()?;
        let Some(stat) = stat_at(dir, OsStr::new(".")).at(Path::new("/"))? else { return Ok(None) };
        let entry = stat_entry(dir, OsStr::new("."), PathBuf::new(), &stat)?;
        Ok(entry.map(|entry| Merged { entry, layer: top, stack }))
    }

    /// What `name` is in the directory `at`, which `stack` makes up.
    fn child(&self, at: &Path, stack: &[usize], name: &OsStr) -> Result<Option<Merged>, TreeError> {
        let path = at.join(name);
        let bit = NameBit::of(name);
        let mut name_state = NameState::default();
        for &layer in stack {
            if name_state.is_closed {
                break;
            }
            if at.as_os_str().is_empty() {
                if self.layers[layer].may_have(bit)? {
                    name_state.look(layer, self.layers[layer].fd()?, name, &path)?;
                }
            } else {
                name_state.look(layer, self.open_dir(layer, at)?.as_fd(), name, &path)?;
            }
        }
        Ok(name_state.found)
    }

    /// Everything in the directory `at`, which `stack` makes up, by name; paths are below `shown`.
    fn children(&self, at: &Path, shown: &Path, stack: &[usize]) -> Result<Vec<Merged>, TreeError> {
        let mut names: BTreeMap<OsString, NameState> = BTreeMap::new();
        for &layer in stack {
            let dir = self.open_dir(layer, at)?;
            for name in list_dir(dir.as_fd(), at)? {
                let state = names.entry(name.clone()).or_default();
                if state.is_closed {
                    continue;
                }
                state.look(layer, dir.as_fd(), &name, &shown.join(&name))?;
            }
        }
        Ok(names.into_values().filter_map(|state| state.found).collect())
    }

    fn walk_dir(&self, at: &Path, shown: &Path, stack: Stack) -> Result<Vec<Entry>, TreeError> {
        let top = (at.to_path_buf(), shown.to_path_buf(), stack);
        list_levels(top, |(at, shown, stack)| {
            let children = self.children(at, shown, stack)?.into_iter().map(|merged| {
                let below = match (&merged.entry.kind, merged.entry.path.file_name()) {
                    (EntryKind::Dir, Some(name)) => {
                        Some((at.join(name), merged.entry.path.clone(), merged.stack))
                    }
                    _ => None,
                };
                (merged.entry, below)
            });
            Ok(children.collect())
        })
    }

    fn open_dir(&self, layer: usize, at: &Path) -> Result<OwnedFd, TreeError> {
        open_beneath(self.layers[layer].fd()?, at, OFlags::RDONLY | OFlags::DIRECTORY).at(at)
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

/// What the layers seen so far, topmost first, say of one name.
#[derive(Default)]
struct NameState {
    found: Option<Merged>,
    /// Nothing below shows any more.
    is_closed: bool,
}

impl NameState {
    /// Adds what `layer`, of which `dir` is a directory, has under `name`.
    fn look(
        &mut self,
        layer: usize,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
    ) -> Result<(), TreeError> {
        let Some(stat) = &stat_at(dir, name).at(path)? else { return Ok(()) };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::Directory {
            self.is_closed = true;
            let is_whiteout = kind == FileType::CharacterDevice && stat.st_rdev == 0;
            if self.found.is_none() && !is_whiteout {
                let entry = stat_entry(dir, name, path.to_path_buf(), stat)?;
                self.found = entry.map(|entry| Merged { entry, layer, stack: Stack::new() });
            }
            return Ok(());
        }
        if let Some(found) = &mut self.found {
            found.stack.push(layer);
            self.is_closed = has_opaque_mark(dir, name).at(path)?;
        } else if let Some((entry, is_opaque)) = stat_marked(dir, name, path.to_path_buf(), stat)? {
            self.found = Some(Merged { entry, layer, stack: vec![layer] });
            self.is_closed = is_opaque;
        }
        Ok(())
    }
}

impl SourceTree for LayerTree {
    fn entry(&self, path: &Path) -> Result<Option<Entry>, TreeError> {
        let real = self.real_path(path, Follow::Parents)?;
        Ok(self.find(&real)?.map(|found| Entry { path: clean(path), ..found.entry.clone() }))
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
        let children = self.children(&real, &clean(path), &found.stack)?;
        Ok(children.into_iter().map(|merged| merged.entry).collect())
    }

    fn walk(&self, path: &Path) -> Result<Vec<Entry>, TreeError> {
        let real = self.real_path(path, Follow::Parents)?;
        let Some(found) = self.find(&real)? else { return Ok(Vec::new()) };
        let shown = clean(path);
        let below = match found.entry.kind {
            EntryKind::Dir => self.walk_dir(&real, &shown, found.stack.clone())?,
            _ => Vec::new(),
        };
        let mut entries = Vec::with_capacity(below.len() + 1);
        entries.push(Entry { path: shown, ..found.entry.clone() });
        entries.extend(below);
        Ok(entries)
    }

    fn open(&self, path: &Path) -> Result<File, TreeError> {
        let real = self.real_path(path, Follow::Parents)?;
        let found = self.find(&real)?.ok_or(Errno::NOENT).at(path)?;
        open_file(self.layers[found.layer].fd()?, &real)
    }

    fn digest(&self, entry: &Entry) -> Result<Digest, TreeError> {
        Ok(hash_file(&self.open(&entry.path)?).at(&entry.path)?.digest)
    }

    fn digests(&self, entries: &[Entry]) -> Result<Vec<Option<Digest>>, TreeError> {
        super::digests_in_parallel(self, entries)
    }
}

/// The root of no layers at all (`FROM scratch`).
fn empty_root() -> Merged {
    let entry = Entry {
        path: PathBuf::new(),
        kind: EntryKind::Dir,
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime_ns: 0,
        xattrs: Vec::new(),
        hard_link: None,
        digest: None,
    };
    Merged { entry, layer: 0, stack: Stack::new() }
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
        }
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
