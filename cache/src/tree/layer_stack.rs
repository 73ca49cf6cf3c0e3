//! What is known of layers that stand on each other, shared by the views of them.
//!
//! A build of a thousand steps has a thousand views, each of a layer more. To ask all layers below for every path would
//! be a million questions. So what layers have is remembered by path, with the number of the layer: the view of the first
//! `len` layers uses what is known of these and asks only those among them that nobody asked yet. And a layer that is
//! asked for several names in one directory is asked for all of them at once, so that it need not be asked for a name that
//! it does not have. Nobody writes to layers.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::ffi::{OsStr, OsString};
use std::hash::BuildHasher as _;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::{FileType, OFlags, Stat};

use super::beneath::{each_name, open_beneath, open_root, stat_at, stat_marked};
use super::layers::{Found, LayerTree};
use super::{At as _, Entry, EntryKind, TreeError};

/// One layer's directory, opened when something is first looked for in it; shared by all the views that it is part of.
#[derive(Debug)]
pub struct LayerDir {
    path: PathBuf,
    dir: OnceLock<OwnedFd>,
}

impl LayerDir {
    /// The layer whose tree is at `path`, which nobody writes to.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), dir: OnceLock::new() }
    }

    pub(super) fn fd(&self) -> Result<BorrowedFd<'_>, TreeError> {
        if let Some(dir) = self.dir.get() {
            return Ok(dir.as_fd());
        }
        let dir = open_root(&self.path)?;
        Ok(self.dir.get_or_init(|| dir).as_fd())
    }

    /// Opens its directory `at` for listing.
    pub(super) fn open(&self, at: &Path) -> Result<OwnedFd, TreeError> {
        open_beneath(self.fd()?, at, OFlags::RDONLY | OFlags::DIRECTORY).at(at)
    }

    /// What it has under `name` in its directory `at`, whatever is around it.
    fn look(&self, at: &Path, name: &OsStr) -> Result<Option<Seen>, TreeError> {
        let opened;
        let dir = if at.as_os_str().is_empty() {
            self.fd()?
        } else {
            opened = self.open(at)?;
            opened.as_fd()
        };
        let path = at.join(name);
        let Some(stat) = stat_at(dir, name).at(&path)? else { return Ok(None) };
        if is_whiteout(&stat) {
            return Ok(Some(Seen::Hidden));
        }
        let seen = stat_marked(dir, name, path, &stat)?;
        Ok(Some(seen.map_or(Seen::Hidden, |(entry, is_opaque)| Seen::Entry(Arc::new(entry), is_opaque))))
    }

    /// Calls `see` with all names in its directory `at`, whiteouts among them.
    fn names(&self, at: &Path, mut see: impl FnMut(&[u8])) -> Result<(), TreeError> {
        // Opened again, of the root too: where the one descriptor of all stands would be everybody's.
        each_name(self.open(at)?.as_fd(), at, |name, _| see(name))
    }
}

/// overlayfs.rst, "whiteouts and opaque directories".
pub(super) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// What one layer has under a name.
#[derive(Clone, Debug)]
enum Seen {
    /// Nothing, and nothing of what is below it shows: a whiteout; a socket, which no image holds.
    Hidden,
    /// This, and whether it is an opaque directory.
    Entry(Arc<Entry>, bool),
}

impl Seen {
    fn is_dir(&self) -> bool {
        matches!(self, Self::Entry(entry, _) if entry.kind == EntryKind::Dir)
    }

    /// What it is in a view, from this layer, merged down to `floor`.
    fn found(&self, layer: usize, floor: usize) -> Option<Found> {
        match self {
            Self::Hidden => None,
            Self::Entry(entry, _) => Some(Found { entry: Arc::clone(entry), layer, floor }),
        }
    }
}

/// What layers said of one name.
#[derive(Default)]
struct Answers {
    /// Topmost first, with the number of the layer.
    seen: Vec<(usize, Seen)>,
    /// The hashes of all names of a layer.
    listings: Vec<(usize, Vec<u64>)>,
}

/// Layers on each other, and what is known of them.
#[derive(Debug)]
pub(super) struct LayerStack {
    /// What it stands on; whose layers are numbered first.
    below: Option<LayerTree>,
    /// How many stacks stand on each other here.
    height: usize,
    /// How many layers that has.
    start: usize,
    known: Mutex<Known>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Known {
    /// Bottom first.
    layers: Vec<Arc<LayerDir>>,
    /// The directories that one of the layers at least has.
    dirs: HashMap<PathBuf, Dir>,
}

/// A directory, in all layers that are known to have it. Numbers of layers are in ascending order everywhere.
#[derive(Debug, Default)]
struct Dir {
    /// Layers whose names in it are not known, and how often they were asked for one.
    unlisted: Vec<(usize, u32)>,
    /// Those of the other layers that have a name, by its hash.
    listed: HashMap<u64, Vec<usize>>,
    /// The directories in it.
    dirs: HashMap<OsString, Records>,
}

/// What layers have under one name, of which one at least has a directory there.
#[derive(Debug)]
struct Records {
    /// What shows of the layers below the stack.
    below: Option<Found>,
    /// Layers before this one are recorded.
    end: usize,
    records: Vec<Record>,
}

#[derive(Debug)]
struct Record {
    layer: usize,
    seen: Seen,
    /// The lowest layer that shows through it.
    floor: usize,
}

/// Not more stacks stand on each other: a question goes through all of them, a call each.
const MAX_HEIGHT: usize = 32;

/// To look for so many names takes no more than to list all.
const FEW_QUESTIONS: u32 = 4;

/// Layers that may have a name, topmost first, and whether all their names shall be listed first.
type Candidates = Vec<(usize, Arc<LayerDir>, bool)>;

impl LayerStack {
    /// Of these layers, bottom first.
    pub(super) fn new(layers: Vec<Arc<LayerDir>>) -> Self {
        Self::on(None, layers)
    }

    /// The layers of `below` and `layer`, with what is known of the former.
    pub(super) fn branch(below: &LayerTree, layer: &Arc<LayerDir>) -> Self {
        if below.stack().height < MAX_HEIGHT {
            return Self::on(Some(below.clone()), vec![Arc::clone(layer)]);
        }
        let mut layers = below.stack().merged(below.len(), Path::new(""), 0);
        layers.reverse();
        layers.push(Arc::clone(layer));
        Self::new(layers)
    }

    fn on(below: Option<LayerTree>, layers: Vec<Arc<LayerDir>>) -> Self {
        let start = below.as_ref().map_or(0, LayerTree::len);
        let height = 1 + below.as_ref().map_or(0, |below| below.stack().height);
        let unlisted = (start..start + layers.len()).map(|layer| (layer, 0)).collect();
        let root = Dir { unlisted, ..Dir::default() };
        let known = Known { layers, dirs: HashMap::from([(PathBuf::new(), root)]) };
        Self { below, height, start, known: Mutex::new(known), hasher: RandomState::new() }
    }

    /// Puts `layer` on the first `len` layers; returns whether it is what stands there now.
    pub(super) fn grow(&self, len: usize, layer: &Arc<LayerDir>) -> bool {
        let Known { layers, dirs } = &mut *self.known();
        let Some(at) = len.checked_sub(self.start) else { return false };
        if at == layers.len() {
            layers.push(Arc::clone(layer));
            dirs.entry(PathBuf::new()).or_default().unlisted.push((len, 0));
            return true;
        }
        layers.get(at).is_some_and(|there| Arc::ptr_eq(there, layer))
    }

    /// The layer with this number, which there is.
    pub(super) fn layer(&self, number: usize) -> Arc<LayerDir> {
        match &self.below {
            Some(below) if number < self.start => below.stack().layer(number),
            _ => Arc::clone(&self.known().layers[number - self.start]),
        }
    }

    /// What `name` is in the directory `at` for the view of the first `len` layers, were all of them merged there.
    pub(super) fn child(&self, len: usize, at: &Path, name: &OsStr) -> Result<Option<Found>, TreeError> {
        let hash = self.hasher.hash_one(name.as_bytes());
        let (mut candidates, mut is_recorded) = (Candidates::new(), false);
        {
            let Known { layers, dirs } = &mut *self.known();
            if let Some(dir) = dirs.get_mut(at) {
                let mut from = self.start;
                if let Some(records) = dir.dirs.get(name) {
                    if records.end >= len {
                        return Ok(records.found(len));
                    }
                    (from, is_recorded) = (records.end, true);
                }
                candidates =
                    dir.candidates(from, len, hash, |number| Arc::clone(&layers[number - self.start]));
            }
        }
        // The lock is for memory only: whoever else asks for the same comes to the same.
        let Answers { seen, listings } = self.ask(at, name, hash, candidates, is_recorded)?;
        let path = at.join(name);
        let shows_below = seen.first().is_none_or(|(_, top)| top.is_dir());
        let below = match &self.below {
            Some(below) if shows_below && !is_recorded => below.find(&path)?,
            _ => None,
        };
        let mut known = self.known();
        let Some(dir) = known.dirs.get_mut(at) else { return Ok(below) };
        for (layer, hashes) in listings {
            dir.add_listing(layer, hashes);
        }
        if !is_recorded {
            match seen.first() {
                None => return Ok(below),
                Some((layer, top)) if !top.is_dir() => return Ok(top.found(*layer, *layer)),
                Some(_) => {}
            }
        }
        let new = || Records { below, end: self.start, records: Vec::new() };
        let records = dir.dirs.entry(name.to_owned()).or_insert_with(new);
        let new_dirs = records.add(seen, len);
        let found = records.found(len);
        if !new_dirs.is_empty() {
            let unlisted = &mut known.dirs.entry(path).or_default().unlisted;
            unlisted.extend(new_dirs.into_iter().map(|layer| (layer, 0)));
        }
        Ok(found)
    }

    /// Asks layers for `name`, whose hash is `hash`, in their directory `at`.
    fn ask(
        &self,
        at: &Path,
        name: &OsStr,
        hash: u64,
        candidates: Candidates,
        is_recorded: bool,
    ) -> Result<Answers, TreeError> {
        let mut answers = Answers::default();
        for (number, layer, is_to_be_listed) in candidates {
            if is_to_be_listed {
                let mut hashes = Vec::new();
                layer.names(at, |name| hashes.push(self.hasher.hash_one(name)))?;
                let has_name = hashes.contains(&hash);
                answers.listings.push((number, hashes));
                if !has_name {
                    continue;
                }
            }
            let Some(seen) = layer.look(at, name)? else { continue };
            let is_dir = seen.is_dir();
            answers.seen.push((number, seen));
            // Behind what is no directory nothing shows. Of directories all is recorded, for views of fewer layers too.
            if !is_recorded && !is_dir && answers.seen.len() == 1 {
                break;
            }
        }
        Ok(answers)
    }

    /// The layers from `floor` on, of the first `len`, that have the directory `path`, topmost first. It was found there.
    pub(super) fn merged(&self, len: usize, path: &Path, floor: usize) -> Vec<Arc<LayerDir>> {
        let mut merged = Vec::new();
        {
            let known = self.known();
            let own = |number: &usize| Arc::clone(&known.layers[*number - self.start]);
            match (path.parent(), path.file_name()) {
                (Some(parent), Some(name)) => {
                    let records = known.dirs.get(parent).and_then(|dir| dir.dirs.get(name));
                    let records = records.map(|records| records.records.as_slice()).unwrap_or_default();
                    let records =
                        records.iter().rev().filter(|record| record.layer < len && record.seen.is_dir());
                    merged.extend(
                        records.map(|record| &record.layer).take_while(|layer| **layer >= floor).map(own),
                    );
                }
                _ => merged.extend((self.start.max(floor)..len).rev().map(|number| own(&number))),
            }
        }
        if let Some(below) = &self.below
            && floor < self.start
        {
            merged.extend(below.stack().merged(below.len(), path, floor));
        }
        merged
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Whole after any panic: nothing between its changes can.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Dir {
    /// The layers from `from` to before `end` that may have the name with this hash, topmost first.
    fn candidates(
        &mut self,
        from: usize,
        end: usize,
        hash: u64,
        layer: impl Fn(usize) -> Arc<LayerDir>,
    ) -> Candidates {
        let listed = self.listed.get(&hash).map(Vec::as_slice).unwrap_or_default();
        let first = listed.partition_point(|number| *number < from);
        let listed = listed[first..].iter().take_while(|number| **number < end);
        let mut candidates: Candidates = listed.map(|&number| (number, layer(number), false)).collect();
        let first = self.unlisted.partition_point(|(number, _)| *number < from);
        for (number, questions) in self.unlisted[first..].iter_mut().take_while(|(number, _)| *number < end) {
            candidates.push((*number, layer(*number), *questions >= FEW_QUESTIONS));
            *questions += 1;
        }
        candidates.sort_by_key(|(number, ..)| std::cmp::Reverse(*number));
        candidates
    }

    /// All names of `layer` have these hashes.
    fn add_listing(&mut self, layer: usize, hashes: Vec<u64>) {
        // Another thread may have come first.
        let Ok(at) = self.unlisted.binary_search_by_key(&layer, |(number, _)| *number) else { return };
        self.unlisted.remove(at);
        for hash in hashes {
            let layers = self.listed.entry(hash).or_default();
            let at = layers.partition_point(|number| *number < layer);
            layers.insert(at, layer);
        }
    }
}

impl Records {
    /// Adds what was seen, topmost first, in all layers before `end` but those that are recorded; returns the new ones
    /// that have a directory.
    fn add(&mut self, seen: Vec<(usize, Seen)>, end: usize) -> Vec<usize> {
        let mut dirs = Vec::new();
        for (layer, seen) in seen.into_iter().rev().filter(|(layer, _)| *layer >= self.end) {
            let shows_more = matches!(&seen, Seen::Entry(_, is_opaque) if seen.is_dir() && !is_opaque);
            let floor_below = match self.records.last() {
                Some(last) => last.seen.is_dir().then_some(last.floor),
                None => self.below.as_ref().filter(|below| below.is_dir()).map(|below| below.floor),
            };
            let floor = floor_below.filter(|_| shows_more).unwrap_or(layer);
            if seen.is_dir() {
                dirs.push(layer);
            }
            self.records.push(Record { layer, seen, floor });
        }
        self.end = self.end.max(end);
        dirs
    }

    /// What the first `len` layers show.
    fn found(&self, len: usize) -> Option<Found> {
        let count = self.records.partition_point(|record| record.layer < len);
        match self.records[..count].last() {
            None => self.below.clone(),
            Some(Record { layer, seen, floor }) => seen.found(*layer, *floor),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};

    use kiln_image::layer::OverlayXattrs;
    use proptest::prelude::*;
    use rustix::fs::{CWD, Mode, XattrFlags};

    use super::*;

    #[derive(Clone, Copy, Debug)]
    pub(in crate::tree) enum Thing {
        File,
        Link,
        Whiteout,
        Dir,
        Opaque,
    }

    /// Paths of one to three names out of five.
    pub(in crate::tree) fn path() -> impl Strategy<Value = PathBuf> {
        prop::collection::vec(prop::sample::select(vec!["a", "b", "c", "d", "e"]), 1..4)
            .prop_map(|names| names.iter().collect())
    }

    pub(in crate::tree) fn thing() -> impl Strategy<Value = Thing> {
        use Thing::{Dir, File, Link, Opaque, Whiteout};
        prop::sample::select(vec![File, File, Link, Whiteout, Dir, Dir, Opaque])
    }

    /// Makes a layer whose directories have a mode of their own; what does not go together with what is there is left out.
    pub(in crate::tree) fn make(layer: &Path, number: usize, things: &[(PathBuf, Thing)]) {
        fs::create_dir(layer).unwrap();
        let set_mode = |path: &Path| {
            let mode = 0o700 + u32::try_from(number).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        for (path, thing) in things {
            let mut above = layer.to_owned();
            for name in path.parent().unwrap() {
                above.push(name);
                if fs::create_dir(&above).is_ok() {
                    set_mode(&above);
                }
            }
            let path = layer.join(path);
            match thing {
                Thing::File if !path.exists() => drop(fs::write(&path, "")),
                Thing::Link => drop(symlink("/a/b", &path)),
                Thing::Whiteout => {
                    let _ = rustix::fs::mknodat(CWD, &path, FileType::CharacterDevice, Mode::empty(), 0);
                }
                Thing::Dir | Thing::Opaque if fs::create_dir(&path).is_ok() => set_mode(&path),
                _ => {}
            }
            if matches!(thing, Thing::Opaque) && path.is_dir() && !path.is_symlink() {
                let mark = OverlayXattrs::of_this_process().opaque();
                rustix::fs::setxattr(&path, mark, b"y", XattrFlags::empty()).unwrap();
            }
        }
    }

    /// What is at each path: its layer, whether it is a directory.
    type View = BTreeMap<PathBuf, (usize, bool)>;

    /// Puts all of a layer's directory on a view, as overlayfs.rst says.
    fn lay(view: &mut View, layer: &Path, number: usize, at: &Path) {
        for entry in fs::read_dir(layer.join(at)).unwrap() {
            let entry = entry.unwrap();
            let path = at.join(entry.file_name());
            let kind = entry.file_type().unwrap();
            let mut mark = [0; 1];
            let is_opaque =
                rustix::fs::lgetxattr(entry.path(), OverlayXattrs::of_this_process().opaque(), &mut mark);
            if !kind.is_dir() || is_opaque.is_ok() || view.get(&path).is_some_and(|(_, is_dir)| !is_dir) {
                view.retain(|other, _| !other.starts_with(&path));
            }
            if !kind.is_char_device() || fs::symlink_metadata(entry.path()).unwrap().rdev() != 0 {
                view.insert(path.clone(), (number, kind.is_dir()));
            }
            if kind.is_dir() {
                lay(view, layer, number, &path);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn views_that_share_what_they_know_show_what_each_would_show_alone(
            layers in prop::collection::vec(prop::collection::vec((path(), thing()), 0..12), 1..9),
            parents in prop::collection::vec(any::<prop::sample::Index>(), 9),
            questions in prop::collection::vec((any::<prop::sample::Index>(), path()), 1..150),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let mut views: Vec<(LayerTree, Vec<usize>)> = vec![(LayerTree::of(Vec::new()), Vec::new())];
            for (number, things) in layers.iter().enumerate() {
                let path = dir.path().join(number.to_string());
                make(&path, number, things);
                // Mostly on the latest.
                let parent = parents[number].index(2 * views.len()).min(views.len() - 1);
                let (tree, below) = &views[parent];
                let tree = tree.with(&Arc::new(LayerDir::new(&path)));
                let stack = [below.as_slice(), &[number]].concat();
                views.push((tree, stack));
            }
            for (view, path) in &questions {
                let (tree, stack) = view.get(&views);
                let mut expected = View::new();
                for &number in stack {
                    lay(&mut expected, &dir.path().join(number.to_string()), number, Path::new(""));
                }
                let found = tree.find(path).unwrap();
                let shown = found.as_ref().map(|found| (stack[found.layer], found.is_dir()));
                prop_assert_eq!(shown, expected.get(path).copied(), "{:?} in {:?}", path, stack);
                let Some(found) = found.filter(Found::is_dir) else { continue };
                prop_assert_eq!(found.entry.mode as usize, 0o700 + stack[found.layer]);
                let names: Vec<PathBuf> =
                    super::super::SourceTree::read_dir(tree, path).unwrap().into_iter().map(|entry| entry.path).collect();
                let expected: Vec<PathBuf> =
                    expected.into_keys().filter(|other| other.parent() == Some(path)).collect();
                prop_assert_eq!(names, expected);
            }
        }
    }
}
