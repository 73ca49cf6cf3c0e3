//! The DiffId of a layer while it is written.
//!
//! SHA-256 of a tar is one thread's work, and a large COPY would wait for it after the last byte was copied. The plan is
//! the layer entry for entry, so the tar is known before it is there: a thread goes through it behind the writers and reads
//! what they have written. It reads the layer and never the source, so what is hashed is what was kept; a file that an
//! earlier layer has is read there, as it will be the same file. Where writers hold the bytes in their hands they feed them.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use kiln_cache::EntryKind;
use kiln_image::layer::{Fed, Feed, ListedEntry, ListedFiles, ListedKind, digest_listed, unnoted};
use rustix::fs::{self as sys, Mode, OFlags};

use super::Digests;
use super::earlier::Earlier;
use super::place::LayerPlan;
use super::resume::{Listed, Resume};
use crate::solve::diff_ids::JoinFollower;

/// Below so many bytes the DiffId is there soon enough.
const WORTH_BYTES: u64 = 16 << 20;

/// Seconds since the epoch that every file system keeps as they are.
const MAX_MTIME: i64 = i32::MAX as i64;

/// Set-user-id and set-group-id: the kernel may refuse to keep them.
const SET_ID_BITS: u32 = 0o6000;

/// The thread behind the writers. Dropped before everything is [written](Follower::written) it gives up.
pub(super) struct Follower {
    progress: Arc<Progress>,
    thread: Option<JoinFollower>,
}

impl Follower {
    /// Starts a thread for a plan that is about to be written below `root`; `None` where that is not worth it, or where the
    /// file system might keep something else than the plan says. `resume` looks for what is known of the tar. Of the nodes
    /// `fed` the writers hand the bytes over: the layer is not read for those.
    pub(super) fn start(
        plan: &LayerPlan<'_>,
        digests: Option<&Digests>,
        earlier: Option<&Arc<Earlier>>,
        root: &Path,
        fed: HashSet<usize>,
        resume: impl FnOnce(&Listed) -> Option<Resume>,
    ) -> Option<Self> {
        let bytes = plan.nodes().filter_map(|(_, node)| node.entry.kind.file_bytes());
        if bytes.sum::<u64>() < WORTH_BYTES {
            return None;
        }
        let listed = list(plan, digests, earlier.map(AsRef::as_ref))?;
        let resume = resume(&listed);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = sys::open(root, flags, Mode::empty()).ok()?;
        let (feed, bytes) = Feed::new();
        let progress = Arc::new(Progress::new(plan.len(), fed, feed));
        let (follower, earlier) = (Arc::clone(&progress), earlier.cloned());
        let thread = thread::Builder::new().name("kiln-diff-id".into()).spawn(move || {
            let mut files = Files { root, earlier, numbers: &listed.numbers, bytes, progress: follower };
            let known = resume.as_ref().and_then(Resume::last);
            let (packed, prefixes) = digest_listed(&listed.entries, known, &mut files).ok()?;
            if let Some(resume) = &resume {
                resume.remember(&listed, &prefixes);
            }
            Some(packed.diff_id)
        });
        Some(Self { progress, thread: Some(thread.ok()?) })
    }

    /// Whom the writers tell.
    pub(super) fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Everything is in place; returns the thread, which soon ends with the DiffId.
    pub(super) fn written(mut self) -> Option<JoinFollower> {
        self.progress.end();
        self.thread.take()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.progress.give_up();
            // While it has a file open the space of that is not free, which is what the layer may have failed for.
            drop(thread.join());
        }
    }
}

/// The plan as a list; `None` for a plan that cannot be followed.
fn list(plan: &LayerPlan<'_>, digests: Option<&Digests>, earlier: Option<&Earlier>) -> Option<Listed> {
    let mut entries = Vec::with_capacity(plan.len());
    let mut numbers = Vec::with_capacity(plan.len());
    let mut digests_of_entries = Vec::with_capacity(plan.len());
    let mut first_of_group: HashMap<usize, &PathBuf> = HashMap::new();
    for (number, (path, node)) in plan.nodes().enumerate() {
        if path.as_os_str().is_empty() {
            continue;
        }
        let entry = &node.entry;
        let first = node.link_group().map(|group| *first_of_group.entry(group).or_insert(path));
        let kind = match (&entry.kind, first) {
            (EntryKind::Dir, _) => ListedKind::Dir,
            (_, Some(first)) if first != path => ListedKind::HardLink(first.clone()),
            (EntryKind::File { size }, _) => ListedKind::File(*size),
            (EntryKind::Symlink(target), _) => ListedKind::Symlink(target.clone()),
            _ => return None,
        };
        let mtime_ns = earlier.map_or(entry.mtime_ns, |earlier| earlier.mtime_ns(number, entry));
        let mtime = i64::try_from(mtime_ns.div_euclid(1_000_000_000)).ok()?;
        let is_kept =
            entry.xattrs.is_empty() && entry.mode & SET_ID_BITS == 0 && (0..=MAX_MTIME).contains(&mtime);
        if !is_kept {
            return None;
        }
        let (mode, uid, gid) = (entry.mode, entry.uid, entry.gid);
        entries.push(ListedEntry { path: path.clone(), kind, mode, uid, gid, mtime, xattrs: Vec::new() });
        numbers.push(number);
        digests_of_entries.push(digests.and_then(|digests| *digests.files.get(number)?));
    }
    Some(Listed { entries, numbers, digests: digests_of_entries })
}

/// The layer's files as the writers make them.
struct Files<'a> {
    root: OwnedFd,
    earlier: Option<Arc<Earlier>>,
    /// Of the list's entries among the plan's nodes.
    numbers: &'a [usize],
    /// Of the nodes that are fed.
    bytes: Fed,
    progress: Arc<Progress>,
}

impl ListedFiles for Files<'_> {
    fn open(&mut self, number: usize, entry: &ListedEntry) -> io::Result<File> {
        self.in_place(number, 0)?;
        let dir = self.earlier_with(number).map_or(self.root.as_fd(), Earlier::dir);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(unnoted(|more| sys::openat(dir, &entry.path, flags | more, Mode::empty()))?.into())
    }

    fn in_place(&mut self, number: usize, read: u64) -> io::Result<u64> {
        match self.earlier_with(number) {
            Some(_) => self.progress.whole(),
            None => self.progress.wait(self.node(number), read),
        }
    }

    fn fed(&self, number: usize) -> Option<&Fed> {
        self.progress.fed.contains(&self.node(number)).then_some(&self.bytes)
    }
}

impl Files<'_> {
    /// The entry's number among the plan's nodes.
    fn node(&self, number: usize) -> usize {
        self.numbers.get(number).copied().unwrap_or_default()
    }

    /// The earlier layer, if it has the entry's file.
    fn earlier_with(&self, number: usize) -> Option<&Earlier> {
        self.earlier.as_deref().filter(|earlier| earlier.has(self.node(number)))
    }
}

/// How far each of the plan's nodes is written.
pub(super) struct Progress {
    /// Bytes, by node.
    written: Vec<AtomicU64>,
    /// Nodes whose bytes are handed over.
    fed: HashSet<usize>,
    /// The way there, until the end.
    feed: Mutex<Option<Feed>>,
    has_ended: AtomicBool,
    /// Nobody wants to know any more.
    is_given_up: AtomicBool,
    /// Whether the follower sleeps, which is rare enough that writers need no lock to find out.
    is_awaited: AtomicBool,
    lock: Mutex<()>,
    changed: Condvar,
}

impl Progress {
    fn new(nodes: usize, fed: HashSet<usize>, feed: Feed) -> Self {
        Self {
            written: std::iter::repeat_with(AtomicU64::default).take(nodes).collect(),
            fed,
            feed: Mutex::new(Some(feed)),
            has_ended: AtomicBool::new(false),
            is_given_up: AtomicBool::new(false),
            is_awaited: AtomicBool::new(false),
            lock: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// `bytes` of the node are in place.
    pub(super) fn advance(&self, node: usize, bytes: u64) {
        if let Some(written) = self.written.get(node) {
            written.store(bytes, Ordering::SeqCst);
            self.wake();
        }
    }

    /// Whether nodes have to be written in their order.
    pub(super) fn is_in_order(&self) -> bool {
        !self.fed.is_empty()
    }

    /// Where the bytes of the node go while they are written; `None` if the layer is read for them.
    pub(super) fn feed(&self, node: usize) -> Option<MutexGuard<'_, Option<Feed>>> {
        self.fed.contains(&node).then(|| self.feed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Nothing more comes.
    fn end(&self) {
        *self.feed.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.has_ended.store(true, Ordering::SeqCst);
        self.wake();
    }

    fn give_up(&self) {
        self.is_given_up.store(true, Ordering::SeqCst);
        self.end();
    }

    fn wake(&self) {
        // Sequentially consistent with `wait`: either this sees that somebody waits, or that one sees what is new.
        if self.is_awaited.load(Ordering::SeqCst) {
            let _guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
            self.changed.notify_all();
        }
    }

    /// What is in place of a file that nobody writes: all of it, while anybody wants to know.
    fn whole(&self) -> io::Result<u64> {
        if self.is_given_up.load(Ordering::SeqCst) {
            Err(io::ErrorKind::BrokenPipe.into())
        } else {
            Ok(u64::MAX)
        }
    }

    /// How many bytes of the node are in place, as soon as they are more than `than`.
    fn wait(&self, node: usize, than: u64) -> io::Result<u64> {
        let now = || self.written.get(node).map_or(0, |written| written.load(Ordering::SeqCst));
        self.whole()?;
        if now() > than {
            return Ok(now());
        }
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_awaited.store(true, Ordering::SeqCst);
        while now() <= than && !self.has_ended.load(Ordering::SeqCst) {
            guard = self.changed.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.is_awaited.store(false, Ordering::SeqCst);
        drop(guard);
        if now() > than { Ok(now()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    }
}
