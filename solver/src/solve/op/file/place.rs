//! Where entries go: the new layer in memory.
//!
//! A layer holds what it changes and every directory above that. A directory that the parent has is repeated with the
//! parent's own mode, owner and attributes, since the topmost layer's word counts in the merged view.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use kiln_cache::{Entry, EntryKind, SourceTree};

use super::select::WithParents;
use super::{CREATED_DIR_MODE, CopyError, chmod};
use crate::graph::ModeChange;
use crate::solve::SolveError;

/// As many links as the kernel follows (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// `--chown` and `--chmod`, resolved.
#[derive(Clone, Debug, Default)]
pub(super) struct Meta {
    /// uid and gid.
    pub(super) owner: Option<(u32, u32)>,
    pub(super) mode: Option<ModeChange>,
}

/// What ADD took out of an archive.
pub(super) struct Unpacked {
    pub(super) tree: Arc<dyn SourceTree>,
    /// Directories without an entry of their own, which are there for what is in them.
    pub(super) implied: BTreeSet<PathBuf>,
}

/// Where a node's bytes come from.
#[derive(Clone, Debug)]
pub(super) enum Data {
    /// It has none.
    None,
    /// These.
    Inline(Arc<[u8]>),
    /// A file of a source tree.
    Source(SourceFile),
}

/// A file of a source tree, one of those that were listed with it: of tens of thousands none is kept twice.
#[derive(Clone, Debug)]
pub(super) struct SourceFile {
    pub(super) tree: Arc<dyn SourceTree>,
    listed: Arc<Vec<Entry>>,
    index: usize,
}

impl SourceFile {
    /// As the tree has it.
    pub(super) fn entry(&self) -> &Entry {
        &self.listed[self.index]
    }
}

/// One entry of the new layer.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// With the destination's metadata, and no path: the plan has it by that.
    pub(super) entry: Entry,
    pub(super) data: Data,
    /// Nodes of one group are one file.
    group: Option<usize>,
    /// Nothing of the parent shows below it.
    fresh: bool,
}

impl Node {
    pub(super) fn link_group(&self) -> Option<usize> {
        self.group
    }
}

/// A layer in the making.
pub(super) struct LayerPlan<'a> {
    parent: Option<&'a dyn SourceTree>,
    nodes: BTreeMap<PathBuf, Node>,
    /// What the parent answered.
    seen: HashMap<PathBuf, Option<Entry>>,
    /// Hard links hold within one source only: each is copied by itself.
    scope: usize,
    groups: HashMap<(usize, (u64, u64)), usize>,
    /// Directories of the destination to which the source under way has given what it will.
    settled_dirs: HashSet<PathBuf>,
    now_ns: i128,
}

impl<'a> LayerPlan<'a> {
    pub(super) fn new(parent: Option<&'a dyn SourceTree>) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            parent,
            nodes: BTreeMap::new(),
            seen: HashMap::new(),
            scope: 0,
            groups: HashMap::new(),
            settled_dirs: HashSet::new(),
            now_ns: i128::try_from(now.as_nanos()).unwrap_or(i128::MAX),
        }
    }

    /// All entries, directories before what is in them.
    pub(super) fn nodes(&self) -> impl Iterator<Item = (&PathBuf, &Node)> {
        self.nodes.iter()
    }

    /// Whether the entry is a directory that exists for the destination's sake only, and has no time but now.
    pub(super) fn is_made_now(&self, entry: &Entry) -> bool {
        entry.kind == EntryKind::Dir && entry.mtime_ns == self.now_ns
    }

    /// How many [`LayerPlan::nodes`] there are.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Bytes of file data, one file's further names not counted.
    pub(super) fn size_bytes(&self) -> u64 {
        let mut groups = HashSet::new();
        let files = self.nodes.values().filter(|node| node.group.is_none_or(|group| groups.insert(group)));
        files.filter_map(|node| node.entry.kind.file_bytes()).fold(0, u64::saturating_add)
    }

    /// Starts to copy a source, or what one match of a pattern is.
    pub(super) fn next_source(&mut self) {
        self.scope += 1;
        self.settled_dirs.clear();
    }

    /// The root directory looks like `entry`, and is `owner`'s if one is given.
    pub(super) fn root_from(&mut self, entry: &Entry, owner: Option<(u32, u32)>) {
        let mut entry = entry.clone();
        if let Some((uid, gid)) = owner {
            (entry.uid, entry.gid) = (uid, gid);
        }
        self.insert(Path::new(""), entry, Data::None, None, true);
    }

    /// Where `path` leads when every link is followed within the root; what does not exist is kept as it is.
    pub(super) fn resolve(&mut self, path: &Path) -> Result<PathBuf, SolveError> {
        let mut resolved = PathBuf::new();
        let mut rest: Vec<_> = components_reversed(path);
        let mut links = 0;
        while let Some(name) = rest.pop() {
            if name == ".." {
                resolved.pop();
                continue;
            }
            resolved.push(&name);
            let Some(Entry { kind: EntryKind::Symlink(target), .. }) = self.lookup(&resolved)? else {
                continue;
            };
            links += 1;
            if links > MAX_LINKS {
                return Err(CopyError::LinkLoop { dest: shown(path) }.into());
            }
            resolved.pop();
            if target.is_absolute() {
                resolved.clear();
            }
            rest.extend(components_reversed(&target));
        }
        Ok(resolved)
    }

    /// Whether a directory is at `path` (links are not followed).
    pub(super) fn is_dir(&mut self, path: &Path) -> Result<bool, SolveError> {
        Ok(path.as_os_str().is_empty()
            || self.lookup(path)?.is_some_and(|entry| entry.kind == EntryKind::Dir))
    }

    /// Whether something else is there.
    pub(super) fn is_other_than_dir(&mut self, path: &Path) -> Result<bool, SolveError> {
        Ok(!path.as_os_str().is_empty()
            && self.lookup(path)?.is_some_and(|entry| entry.kind != EntryKind::Dir))
    }

    /// Makes the directory `path` and those above it where absent.
    pub(super) fn make_dirs(
        &mut self,
        path: &Path,
        mode: u32,
        owner: Option<(u32, u32)>,
    ) -> Result<(), SolveError> {
        let mut prefix = PathBuf::new();
        for component in path.components() {
            prefix.push(component);
            match self.lookup(&prefix)? {
                Some(entry) if entry.kind == EntryKind::Dir => {}
                Some(_) => return Err(CopyError::Occupied { path: shown(&prefix) }.into()),
                None => {
                    let (uid, gid) = owner.unwrap_or((0, 0));
                    let entry = Entry {
                        path: PathBuf::new(),
                        kind: EntryKind::Dir,
                        mode,
                        uid,
                        gid,
                        mtime_ns: self.now_ns,
                        xattrs: Vec::new(),
                        hard_link: None,
                        digest: None,
                    };
                    self.insert(&prefix, entry, Data::None, None, true);
                }
            }
        }
        Ok(())
    }

    /// Gives the directory `dest` the time of `source`, whose contents it has got. The root of a tree has none that would be
    /// the same the next time.
    pub(super) fn date_dir(&mut self, dest: &Path, source: &Entry) -> Result<(), SolveError> {
        if source.path.as_os_str().is_empty() || dest.as_os_str().is_empty() {
            return Ok(());
        }
        if !self.nodes.contains_key(dest)
            && let Some(entry) = self.lookup(dest)?
        {
            self.insert(dest, entry, Data::None, None, false);
        }
        if let Some(node) = self.nodes.get_mut(dest) {
            node.entry.mtime_ns = source.mtime_ns;
        }
        Ok(())
    }

    /// Says that something was put into the directory above `dest`, whatever was copied into it before.
    pub(super) fn date_parent_now(&mut self, dest: &Path) {
        let now_ns = self.now_ns;
        if let Some(node) = dest.parent().and_then(|parent| self.nodes.get_mut(parent)) {
            node.entry.mtime_ns = now_ns;
        }
    }

    /// Puts a file with these bytes at `dest`.
    pub(super) fn put_inline(
        &mut self,
        dest: &Path,
        bytes: &[u8],
        mode: u32,
        meta: &Meta,
    ) -> Result<(), SolveError> {
        self.refuse_dir(dest)?;
        let entry = Entry {
            path: PathBuf::new(),
            kind: EntryKind::File { size: bytes.len() as u64 },
            mode,
            uid: 0,
            gid: 0,
            mtime_ns: self.now_ns,
            xattrs: Vec::new(),
            hard_link: None,
            digest: None,
        };
        let entry = with_meta(entry, meta)?;
        self.insert(dest, entry, Data::Inline(bytes.into()), None, true);
        Ok(())
    }

    /// Puts what is no directory at `dest`, in place of any other such thing.
    pub(super) fn put_entry(
        &mut self,
        tree: &Arc<dyn SourceTree>,
        source: &Entry,
        dest: &Path,
        meta: &Meta,
    ) -> Result<(), SolveError> {
        self.refuse_dir(dest)?;
        self.put_node(tree, source, dest, meta)
    }

    fn put_node(
        &mut self,
        tree: &Arc<dyn SourceTree>,
        source: &Entry,
        dest: &Path,
        meta: &Meta,
    ) -> Result<(), SolveError> {
        let group = source.hard_link.map(|inode| self.group(inode));
        let data = match source.kind {
            EntryKind::File { .. } => {
                let listed = Arc::new(vec![source.clone()]);
                Data::Source(SourceFile { tree: Arc::clone(tree), listed, index: 0 })
            }
            _ => Data::None,
        };
        self.insert(dest, with_meta(source.clone(), meta)?, data, group, true);
        Ok(())
    }

    /// Puts directory `source` at `dest`: made, or given this metadata where there is one.
    fn put_dir(&mut self, source: &Entry, dest: &Path, meta: &Meta) -> Result<(), SolveError> {
        let fresh = match self.lookup(dest)? {
            None => true,
            Some(entry) if entry.kind == EntryKind::Dir => {
                self.nodes.get(dest).is_some_and(|node| node.fresh)
            }
            Some(_) => return Err(CopyError::NotADirectory { dest: shown(dest) }.into()),
        };
        self.insert(dest, with_meta(source.clone(), meta)?, Data::None, None, fresh);
        Ok(())
    }

    /// [`LayerPlan::put_dir`] for a source whose time would not be the same the next time.
    pub(super) fn put_dir_now(&mut self, source: &Entry, dest: &Path, meta: &Meta) -> Result<(), SolveError> {
        self.put_dir(&Entry { mtime_ns: self.now_ns, ..source.clone() }, dest, meta)
    }

    /// Puts everything below directory `dir` below `dest`, which exists. `keep` judges paths below `dir`.
    pub(super) fn copy_children(
        &mut self,
        tree: &Arc<dyn SourceTree>,
        dir: &Entry,
        dest: &Path,
        meta: &Meta,
        keep: &dyn Fn(&Path) -> bool,
    ) -> Result<(), SolveError> {
        let sources = tree.walk(&dir.path)?;
        if self.is_empty_dir(dest) {
            return self.copy_into_empty(tree, dir, sources, dest, meta, keep);
        }
        sources.iter().try_for_each(|source| self.put_below(tree, &dir.path, source, dest, meta, keep))
    }

    /// Puts one thing at the place below `dest` that it has below `base` of the source, if `keep` wants it.
    fn put_below(
        &mut self,
        tree: &Arc<dyn SourceTree>,
        base: &Path,
        source: &Entry,
        dest: &Path,
        meta: &Meta,
        keep: &dyn Fn(&Path) -> bool,
    ) -> Result<(), SolveError> {
        let below = source.path.strip_prefix(base).unwrap_or(&source.path);
        if below.as_os_str().is_empty() || !keep(below) {
            return Ok(());
        }
        self.source_parents(tree, base, below, dest, meta)?;
        match source.kind {
            EntryKind::Dir => {
                self.settled_dirs.insert(dest.join(below));
                self.put_dir(source, &dest.join(below), meta)
            }
            _ => self.put_entry(tree, source, &dest.join(below), meta),
        }
    }

    /// Whether `dest` is a directory of this plan's with nothing in it, neither here nor in the parent.
    fn is_empty_dir(&self, dest: &Path) -> bool {
        use std::ops::Bound;
        let is_fresh = match self.nodes.get(dest) {
            Some(node) => node.fresh && node.entry.kind == EntryKind::Dir,
            // The root of a plan without a parent.
            None => dest.as_os_str().is_empty() && self.parent.is_none(),
        };
        let next = self.nodes.range::<Path, _>((Bound::Excluded(dest), Bound::Unbounded)).next();
        is_fresh && next.is_none_or(|(path, _)| !path.starts_with(dest))
    }

    /// [`LayerPlan::copy_children`] where nothing can be in the way: no entry is looked up, and the plan's map is put
    /// together once.
    fn copy_into_empty(
        &mut self,
        tree: &Arc<dyn SourceTree>,
        dir: &Entry,
        sources: Vec<Entry>,
        dest: &Path,
        meta: &Meta,
        keep: &dyn Fn(&Path) -> bool,
    ) -> Result<(), SolveError> {
        let strip = dir.path.as_os_str().len() + usize::from(!dir.path.as_os_str().is_empty());
        let sources = Arc::new(sources);
        // `dest`, and what comes behind all that is below it.
        let mut behind = self.nodes.split_off(dest).into_iter().peekable();
        let mut nodes = Vec::with_capacity(self.nodes.len() + sources.len() + behind.len());
        nodes.extend(std::mem::take(&mut self.nodes));
        nodes.extend(behind.next_if(|(path, _)| path == dest));
        // Directories that are left out, but may have to be made for what is in them, and how many are on the path to here.
        let mut left_out: Vec<usize> = Vec::new();
        for (index, source) in sources.iter().enumerate() {
            let Some(below) =
                source.path.as_os_str().as_bytes().get(strip..).filter(|below| !below.is_empty())
            else {
                continue;
            };
            let below = Path::new(OsStr::from_bytes(below));
            left_out.retain(|&above| source.path.starts_with(&sources[above].path));
            if !keep(below) {
                if source.kind == EntryKind::Dir {
                    left_out.push(index);
                }
                continue;
            }
            for above in left_out.drain(..) {
                let path = &sources[above].path;
                let target = dest.join(path.strip_prefix(&dir.path).unwrap_or(path));
                nodes.push(self.node(tree, &sources, above, target, meta)?);
            }
            nodes.push(self.node(tree, &sources, index, dest.join(below), meta)?);
        }
        nodes.extend(behind);
        self.nodes = nodes.into_iter().collect();
        Ok(())
    }

    /// What is listed with this number, as a node.
    fn node(
        &mut self,
        tree: &Arc<dyn SourceTree>,
        listed: &Arc<Vec<Entry>>,
        index: usize,
        dest: PathBuf,
        meta: &Meta,
    ) -> Result<(PathBuf, Node), SolveError> {
        let source = &listed[index];
        let entry = Entry {
            path: PathBuf::new(),
            kind: source.kind.clone(),
            xattrs: source.xattrs.clone(),
            hard_link: None,
            digest: None,
            ..*source
        };
        let entry = with_meta(entry, meta)?;
        let group = match source.kind {
            EntryKind::Dir => None,
            _ => source.hard_link.map(|inode| self.group(inode)),
        };
        let data = match source.kind {
            EntryKind::File { .. } => {
                Data::Source(SourceFile { tree: Arc::clone(tree), listed: Arc::clone(listed), index })
            }
            _ => Data::None,
        };
        Ok((dest, Node { entry, data, group, fresh: true }))
    }

    fn group(&mut self, inode: (u64, u64)) -> usize {
        let next = self.groups.len();
        *self.groups.entry((self.scope, inode)).or_insert(next)
    }

    /// Puts one thing below `dest` with the directories between the pivot and it.
    pub(super) fn copy_with_parents(
        &mut self,
        tree: &Arc<dyn SourceTree>,
        selected: &WithParents,
        dest: &Path,
        meta: &Meta,
        keep: &dyn Fn(&Path) -> bool,
    ) -> Result<(), SolveError> {
        let WithParents { base, entry, recursive } = selected;
        self.put_below(tree, base, entry, dest, meta, keep)?;
        if entry.kind == EntryKind::Dir && *recursive {
            let inner = tree.walk(&entry.path)?;
            let inner = inner.iter().filter(|source| source.path != entry.path);
            for source in inner {
                self.put_below(tree, base, source, dest, meta, keep)?;
            }
        }
        match tree.entry(base)? {
            Some(base) => self.date_dir(dest, &base),
            None => Ok(()),
        }
    }

    /// The directories between `base` and `below` of the source: made where the destination has none. One that is there
    /// gets the source's mode and keeps its owner, as with BuildKit, whatever `--chmod` and `--chown` say.
    fn source_parents(
        &mut self,
        tree: &Arc<dyn SourceTree>,
        base: &Path,
        below: &Path,
        dest: &Path,
        meta: &Meta,
    ) -> Result<(), SolveError> {
        let Some(parent) = below.parent() else { return Ok(()) };
        if self.settled_dirs.contains(&dest.join(parent)) {
            return Ok(());
        }
        let mut prefix = PathBuf::new();
        for component in parent.components() {
            prefix.push(component);
            let target = dest.join(&prefix);
            if !self.settled_dirs.insert(target.clone()) {
                continue;
            }
            let Some(source) = tree.entry(&base.join(&prefix))? else { continue };
            match self.lookup(&target)? {
                Some(there) if there.kind == EntryKind::Dir => {
                    if there.mode != source.mode {
                        let fresh = self.nodes.get(&target).is_some_and(|node| node.fresh);
                        self.insert(&target, Entry { mode: source.mode, ..there }, Data::None, None, fresh);
                    }
                }
                _ => self.put_dir(&source, &target, meta)?,
            }
        }
        Ok(())
    }

    /// Lays an extracted archive over `dest`: unlike a copy it replaces whatever is in its way, as tar does. Directories
    /// that the archive only implies are those of the destination, links to them followed, and root's where there are none.
    pub(super) fn lay_over(
        &mut self,
        archive: &Unpacked,
        dest: &Path,
        owner: Option<(u32, u32)>,
    ) -> Result<(), SolveError> {
        let meta = Meta { owner, mode: None };
        // Where the archive's directories are.
        let mut dirs = HashMap::from([(PathBuf::new(), dest.to_owned())]);
        for source in archive.tree.walk(Path::new(""))? {
            let (Some(parent), Some(name)) = (source.path.parent(), source.path.file_name()) else {
                continue;
            };
            let target = dirs.get(parent).map_or_else(|| dest.join(&source.path), |parent| parent.join(name));
            if source.kind == EntryKind::Dir && archive.implied.contains(&source.path) {
                let target = self.resolve(&target)?;
                if !self.is_dir(&target)? {
                    self.put_dir(&source, &target, &Meta::default())?;
                }
                dirs.insert(source.path, target);
                continue;
            }
            let present = self.lookup(&target)?.map(|entry| entry.kind == EntryKind::Dir);
            if source.kind == EntryKind::Dir {
                if present == Some(false) {
                    self.insert(&target, with_meta(source.clone(), &meta)?, Data::None, None, true);
                } else {
                    self.put_dir(&source, &target, &meta)?;
                }
                dirs.insert(source.path, target);
                continue;
            }
            if present == Some(true) {
                self.nodes.retain(|path, _| !path.starts_with(&target));
            }
            self.put_node(&archive.tree, &source, &target, &meta)?;
        }
        Ok(())
    }

    /// Adds the directories above every entry as the parent has them, and the root.
    pub(super) fn finish(&mut self) -> Result<(), SolveError> {
        let mut missing = Vec::new();
        let mut last_parent: Option<&Path> = None;
        for path in self.nodes.keys() {
            // Most have the parent of the one before; bytes are compared sooner than components.
            let parent = path.parent();
            if parent.map(Path::as_os_str) == last_parent.map(Path::as_os_str) {
                continue;
            }
            last_parent = parent;
            // Whatever is above a directory that is here already was looked at with it.
            let absent = path.ancestors().skip(1).take_while(|above| !self.nodes.contains_key(*above));
            missing.extend(absent.map(Path::to_owned));
        }
        if !self.nodes.contains_key(Path::new("")) {
            missing.push(PathBuf::new());
        }
        missing.sort();
        missing.dedup();
        for path in missing {
            let found = match self.parent {
                Some(parent) => parent.entry(&path)?,
                None => None,
            };
            let entry = found.filter(|entry| entry.kind == EntryKind::Dir).unwrap_or(Entry {
                path: PathBuf::new(),
                kind: EntryKind::Dir,
                mode: CREATED_DIR_MODE,
                uid: 0,
                gid: 0,
                mtime_ns: self.now_ns,
                xattrs: Vec::new(),
                hard_link: None,
                digest: None,
            });
            self.insert(&path, entry, Data::None, None, false);
        }
        Ok(())
    }

    fn refuse_dir(&mut self, dest: &Path) -> Result<(), SolveError> {
        if self.is_dir(dest)? {
            return Err(CopyError::IsADirectory { dest: shown(dest) }.into());
        }
        Ok(())
    }

    /// What is at `path`, seen through this plan.
    fn lookup(&mut self, path: &Path) -> Result<Option<Entry>, SolveError> {
        if let Some(node) = self.nodes.get(path) {
            return Ok(Some(node.entry.clone()));
        }
        let Some(parent) = self.parent else { return Ok(None) };
        for above in path.ancestors().skip(1) {
            if let Some(node) = self.nodes.get(above) {
                if node.fresh {
                    return Ok(None);
                }
                break;
            }
        }
        if let Some(seen) = self.seen.get(path) {
            return Ok(seen.clone());
        }
        let entry = parent.entry(path)?;
        self.seen.insert(path.to_owned(), entry.clone());
        Ok(entry)
    }

    fn insert(&mut self, dest: &Path, entry: Entry, data: Data, group: Option<usize>, fresh: bool) {
        let entry = Entry { path: PathBuf::new(), hard_link: None, ..entry };
        self.nodes.insert(dest.to_owned(), Node { entry, data, group, fresh });
    }
}

/// A path of the destination, for people.
pub(super) fn shown(path: &Path) -> PathBuf {
    Path::new("/").join(path)
}

fn with_meta(mut entry: Entry, meta: &Meta) -> Result<Entry, SolveError> {
    if let Some((uid, gid)) = meta.owner {
        (entry.uid, entry.gid) = (uid, gid);
    }
    if matches!(entry.kind, EntryKind::Symlink(_)) {
        return Ok(entry);
    }
    match &meta.mode {
        None => {}
        Some(ModeChange::Octal(mode)) => entry.mode = *mode & 0o7777,
        Some(ModeChange::Symbolic(change)) => {
            entry.mode = chmod::apply(change, entry.mode, entry.kind == EntryKind::Dir)
                .ok_or_else(|| CopyError::Mode(change.clone()))?;
        }
    }
    Ok(entry)
}

/// The names of a path, last first, `..` among them.
fn components_reversed(path: &Path) -> Vec<std::ffi::OsString> {
    let mut names: Vec<_> = path
        .components()
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir))
        .map(|part| part.as_os_str().to_owned())
        .collect();
    names.reverse();
    names
}
