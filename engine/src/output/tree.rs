//! The root file system itself, as a directory or a tar (FEATURES EX5–EX7, EX9).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_cache::{Entry, EntryKind, LayerTree, SourceTree};
use kiln_image::Digest;
use kiln_image::layer::{LayerError, TarEntry, TarWriter, Times, write_tar_of};
use kiln_solver::solve::{Solver, copy_out};
use tar::EntryType;

use super::ImageSet;
use super::options::TreeOptions;
use crate::Error;
use crate::assemble::Assembled;
use crate::attest::{Attestor, Place};
use crate::session::Session;
use crate::whole_file::write_to;

/// The permission to remove files anywhere (buildx' name for it).
pub(crate) const DELETE_ENTITLEMENT: &str = "buildx.local.delete";

/// The images whose files are written, and how.
pub(super) struct Origin<'a> {
    pub(super) solver: &'a Solver<'a>,
    pub(super) images: &'a [Assembled],
    pub(super) set: ImageSet,
    pub(super) attestor: &'a Attestor<'a>,
    pub(super) options: &'a TreeOptions,
}

/// Writes the merged tree into `dest`, over what is there, as this user's; several platforms' each into a directory.
pub(super) fn export_dir(session: &Session<'_>, origin: &Origin<'_>, dest: &Path) -> Result<(), Error> {
    if origin.options.delete {
        guard_delete(dest, &session.build.allow)?;
    }
    fs::create_dir_all(dest).map_err(|error| Error::io(dest, error))?;
    let trees = origin.trees()?;
    let is_empty = fs::read_dir(dest).map_err(|error| Error::io(dest, error))?.next().is_none();
    if let ([only], true) = (trees.as_slice(), is_empty) {
        return write_tree(only, dest);
    }
    // Beside the files that are there, so that each can be replaced by one rename.
    let staging = Staging(dest.join(format!(".kiln-{}", std::process::id())));
    fs::create_dir(&staging.0).map_err(|error| Error::io(&staging.0, error))?;
    for (index, tree) in trees.iter().enumerate() {
        write_tree(tree, &staging.0.join(index.to_string()))?;
    }
    if origin.options.delete {
        let kept = trees.iter().enumerate().map(|(index, _)| staging.0.join(index.to_string())).collect();
        remove_others(kept, dest, &staging.0)?;
    }
    for index in 0..trees.len() {
        merge(&staging.0.join(index.to_string()), dest)?;
    }
    Ok(())
}

/// Writes the merged trees as one tar, as [`export_dir`] does. No file is copied on the way.
pub(super) fn export_tar(origin: &Origin<'_>, dest: Option<&Path>) -> Result<(), Error> {
    let trees = origin.trees()?;
    write_to(dest, |out| write_tar(out, &trees))
}

/// Writes trees as one tar, each below its directory.
pub(crate) fn write_tar(out: &mut dyn Write, trees: &[Tree]) -> Result<(), Error> {
    let mut failed = None;
    let written = write_tar_of(out, |writer| {
        trees.iter().try_for_each(|tree| {
            let packed = pack_tree(writer, tree.tree.as_ref(), &tree.within, tree.times);
            packed.map_err(|error| match error {
                PackError::Layer(error) => error,
                PackError::Other(error) => {
                    let source = std::io::Error::other(error.message.clone());
                    failed = Some(error);
                    LayerError::Io { path: "tree".to_owned(), source }
                }
            })?;
            tree.attested.iter().try_for_each(|(name, bytes)| {
                let path = tree.within.join(name).into_os_string().into_encoded_bytes();
                let entry = TarEntry { mode: ATTESTED_MODE, mtime: tree.times.of(0), ..TarEntry::new(path) };
                writer.bytes(entry, bytes)
            })
        })
    });
    match failed {
        Some(error) => Err(error),
        None => Ok(written.map(drop)?),
    }
}

/// One image's files and where they go.
pub(crate) struct Tree {
    tree: Arc<dyn SourceTree>,
    /// `linux_arm_v7`, or nothing.
    within: PathBuf,
    times: Times,
    /// Names and bytes of files that say something of these.
    attested: Vec<(String, Vec<u8>)>,
}

impl Tree {
    /// A tree as it is.
    pub(crate) fn whole(tree: Arc<dyn SourceTree>) -> Self {
        Self { tree, within: PathBuf::new(), times: Times::Kept, attested: Vec::new() }
    }
}

impl Origin<'_> {
    fn trees(&self) -> Result<Vec<Tree>, Error> {
        let Self { solver, images, set, options, .. } = *self;
        let is_split = options.platform_split.unwrap_or(set == ImageSet::Index);
        let mut trees = Vec::with_capacity(images.len());
        for (index, image) in images.iter().enumerate() {
            solver.ensure_layers(&image.layers)?;
            let paths: Vec<PathBuf> =
                image.layers.iter().map(|layer| solver.store.layer_path(layer.id)).collect();
            let tree = LayerTree::open(&paths)?;
            let platform = image.platform.to_string().replace('/', "_");
            let mark = (!is_split && images.len() > 1).then_some(platform.as_str());
            trees.push(Tree {
                attested: self.attested(index, image, &tree, mark)?,
                tree: Arc::new(tree),
                within: if is_split { platform.into() } else { PathBuf::new() },
                times: image.epoch.map_or(Times::Kept, Times::Exactly),
            });
        }
        if !is_split && images.len() > 1 {
            refuse_collisions(&trees, images)?;
        }
        Ok(trees)
    }

    /// What is attested of a tree's files (FEATURES EX15); with `mark` in the names where several trees are one.
    fn attested(
        &self,
        index: usize,
        image: &Assembled,
        tree: &LayerTree,
        mark: Option<&str>,
    ) -> Result<Vec<(String, Vec<u8>)>, Error> {
        if !self.attestor.is_asked(Place::Separate) {
            return Ok(Vec::new());
        }
        let entries = tree.walk(Path::new(""))?;
        let mut subjects = Vec::new();
        for entry in entries.iter().filter(|entry| matches!(entry.kind, EntryKind::File { .. })) {
            let digest = Digest::of_reader(&mut tree.open_entry(entry)?);
            let digest = digest.map_err(|error| Error::io(&entry.path, error))?;
            subjects.push((entry.path.to_string_lossy().into_owned(), digest));
        }
        let mut files = self.attestor.files(index, image, &subjects)?;
        for (name, _) in &mut files {
            *name = format!("{}{name}", self.options.attestation_prefix);
            if let (Some(mark), Some((stem, extension))) = (mark, name.rsplit_once('.')) {
                *name = format!("{stem}.{mark}.{extension}");
            }
            if tree.entry(Path::new(name))?.is_some() {
                return Err(Error::user(format!(
                    "the image has a file /{name}, as its attestation is called"
                ))
                .hinted("call it otherwise with `attestation-prefix=`"));
            }
        }
        Ok(files)
    }
}

/// Two platforms' files of one name cannot both be written (FEATURES EX9).
fn refuse_collisions(trees: &[Tree], images: &[Assembled]) -> Result<(), Error> {
    let mut known: HashMap<PathBuf, usize> = HashMap::new();
    for (index, tree) in trees.iter().enumerate() {
        for entry in tree.tree.walk(Path::new(""))? {
            if entry.kind == EntryKind::Dir {
                continue;
            }
            if let Some(other) = known.insert(entry.path.clone(), index) {
                let (path, one, two) =
                    (entry.path.display(), &images[other].platform, &images[index].platform);
                return Err(Error::user(format!("both {one} and {two} have a file /{path}"))
                    .hinted("leave out platform-split=false"));
            }
        }
    }
    Ok(())
}

fn write_tree(tree: &Tree, dest: &Path) -> Result<(), Error> {
    let dest = dest.join(&tree.within);
    fs::create_dir_all(&dest).map_err(|error| Error::io(&dest, error))?;
    // As BuildKit's client has it: who builds owns the files.
    let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    copy_out(&tree.tree, "", &dest, Some(own))?;
    for (name, bytes) in &tree.attested {
        write_private(&dest.join(name), bytes)?;
    }
    match tree.times {
        Times::Exactly(seconds) => set_times(&dest, seconds),
        _ => Ok(()),
    }
}

/// Writes a new file. The mode is BuildKit's.
fn write_private(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    // Only a merge replaces what is there, and no link is followed.
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(ATTESTED_MODE).open(path);
    file.and_then(|mut file| file.write_all(bytes)).map_err(|error| Error::io(path, error))
}

/// Of a file that attests something.
const ATTESTED_MODE: u32 = 0o600;

/// Sets the times of all below and of `dir` itself.
fn set_times(dir: &Path, seconds: i64) -> Result<(), Error> {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    let mut pending = vec![dir.to_owned()];
    let mut found = Vec::new();
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).map_err(|error| Error::io(&dir, error))? {
            let entry = entry.map_err(|error| Error::io(&dir, error))?;
            match entry.file_type().map_err(|error| Error::io(&entry.path(), error))?.is_dir() {
                true => pending.push(entry.path()),
                false => found.push(entry.path()),
            }
        }
        found.push(dir);
    }
    for path in found {
        utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| Error::io(&path, error.into()))?;
    }
    Ok(())
}

/// Only what is strictly below the current directory may lose files unasked (FEATURES EX6).
fn guard_delete(dest: &Path, allowed: &[String]) -> Result<(), Error> {
    if allowed.iter().any(|name| name == DELETE_ENTITLEMENT) {
        return Ok(());
    }
    let at = |path: &Path| fs::canonicalize(path).map_err(|error| Error::io(path, error));
    let here = at(Path::new("."))?;
    // What does not exist yet stands below what does.
    let existing = dest.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
    let existing = if existing.as_os_str().is_empty() { Path::new(".") } else { existing };
    let is_new = existing != dest;
    let existing = at(existing)?;
    if existing.starts_with(&here) && (is_new || existing != here) {
        return Ok(());
    }
    Err(Error::user(format!(
        "mode=delete would remove files in {}, which is not below this directory",
        dest.display()
    ))
    .hinted(format!("allow it with `--allow {DELETE_ENTITLEMENT}`")))
}

/// Removes what is in `from` and in none of `kept`, directory by directory. No link is followed.
fn remove_others(kept: Vec<PathBuf>, from: &Path, staging: &Path) -> Result<(), Error> {
    let mut names: HashMap<OsString, Vec<PathBuf>> = HashMap::new();
    for dir in &kept {
        for entry in fs::read_dir(dir).map_err(|error| Error::io(dir, error))? {
            let entry = entry.map_err(|error| Error::io(dir, error))?;
            let is_dir = entry.file_type().map_err(|error| Error::io(&entry.path(), error))?.is_dir();
            let below = names.entry(entry.file_name()).or_default();
            if is_dir {
                below.push(entry.path());
            }
        }
    }
    for entry in fs::read_dir(from).map_err(|error| Error::io(from, error))? {
        let entry = entry.map_err(|error| Error::io(from, error))?;
        let path = entry.path();
        if path == staging {
            continue;
        }
        let at = |error| Error::io(&path, error);
        let is_dir = entry.file_type().map_err(at)?.is_dir();
        match names.get(&entry.file_name()) {
            Some(below) if is_dir && !below.is_empty() => remove_others(below.clone(), &path, staging)?,
            Some(_) if !is_dir => {}
            _ if is_dir => fs::remove_dir_all(&path).map_err(at)?,
            _ => fs::remove_file(&path).map_err(at)?,
        }
    }
    Ok(())
}

/// Moves everything of `from` into `to`: directories are merged, anything else is replaced. No link is followed.
fn merge(from: &Path, to: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(from).map_err(|error| Error::io(from, error))? {
        let entry = entry.map_err(|error| Error::io(from, error))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let source_is_dir = entry.file_type().map_err(|error| Error::io(&source, error))?.is_dir();
        let target_is_dir = fs::symlink_metadata(&target).map(|metadata| metadata.is_dir());
        match (source_is_dir, target_is_dir) {
            (true, Ok(true)) => {
                merge(&source, &target)?;
                continue;
            }
            (true, Ok(false)) => fs::remove_file(&target).map_err(|error| Error::io(&target, error))?,
            (false, Ok(true)) => {
                return Err(Error::user(format!("{} is a directory and would be a file", target.display())));
            }
            _ => {}
        }
        fs::rename(&source, &target).map_err(|error| Error::io(&target, error))?;
    }
    Ok(())
}

/// Why a tree cannot be packed.
pub(crate) enum PackError {
    Layer(LayerError),
    Other(Error),
}

impl From<LayerError> for PackError {
    fn from(error: LayerError) -> Self {
        Self::Layer(error)
    }
}

impl From<kiln_cache::TreeError> for PackError {
    fn from(error: kiln_cache::TreeError) -> Self {
        Self::Other(error.into())
    }
}

/// Writes all of a tree, below the directory `within`.
pub(crate) fn pack_tree(
    writer: &mut TarWriter<'_>,
    tree: &dyn SourceTree,
    within: &Path,
    times: Times,
) -> Result<(), PackError> {
    let mut links: BTreeMap<(u64, u64), Vec<u8>> = BTreeMap::new();
    let mut made = HashSet::new();
    if within != Path::new("") && made.insert(within.to_owned()) {
        let path = [within.as_os_str().as_bytes(), b"/"].concat();
        writer.entry(TarEntry {
            kind: EntryType::Directory,
            mode: 0o755,
            mtime: times.of(0),
            ..TarEntry::new(path)
        })?;
    }
    for entry in tree.walk(Path::new(""))? {
        if entry.path.as_os_str().is_empty() {
            continue;
        }
        let path = within.join(&entry.path).into_os_string().into_encoded_bytes();
        let mut record = record_of(&entry, path.clone(), times);
        if let Some(inode) = entry.hard_link.filter(|_| entry.kind != EntryKind::Dir) {
            if let Some(first) = links.get(&inode) {
                (record.kind, record.link, record.size) = (EntryType::Link, first.clone(), 0);
                record.xattrs.clear();
                writer.entry(record)?;
                continue;
            }
            links.insert(inode, path);
        }
        match entry.kind {
            EntryKind::File { .. } => writer.file(record, &tree.open_entry(&entry)?)?,
            _ => writer.entry(record)?,
        }
    }
    Ok(())
}

fn record_of(entry: &Entry, path: Vec<u8>, times: Times) -> TarEntry {
    let seconds = i64::try_from(entry.mtime_ns.div_euclid(1_000_000_000)).unwrap_or_default();
    let record = TarEntry {
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        mtime: times.of(seconds),
        xattrs: entry.xattrs.clone(),
        ..TarEntry::new(path)
    };
    match &entry.kind {
        EntryKind::File { size } => TarEntry { kind: EntryType::Regular, size: *size, ..record },
        EntryKind::Dir => {
            let path = [record.path.as_slice(), b"/"].concat();
            TarEntry { kind: EntryType::Directory, path, ..record }
        }
        EntryKind::Symlink(target) => {
            let link = target.as_os_str().as_bytes().to_vec();
            TarEntry { kind: EntryType::Symlink, link, ..record }
        }
        EntryKind::Fifo => TarEntry { kind: EntryType::Fifo, ..record },
        EntryKind::CharDevice { major, minor } => {
            TarEntry { kind: EntryType::Char, device: (*major, *minor), ..record }
        }
        EntryKind::BlockDevice { major, minor } => {
            TarEntry { kind: EntryType::Block, device: (*major, *minor), ..record }
        }
    }
}

/// Removed on drop.
struct Staging(PathBuf);

impl Drop for Staging {
    fn drop(&mut self) {
        // What cannot be removed is named like what it is.
        let _ = fs::remove_dir_all(&self.0);
    }
}
