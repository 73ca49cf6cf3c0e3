//! The root file system itself, and its tar (FEATURES EX7, EX9); as a directory it is written by `directory`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_cache::{Entry, EntryKind, LayerTree, SourceTree};
use kiln_image::Digest;
use kiln_image::layer::{LayerError, TarEntry, TarWriter, Times, write_tar_of};
use kiln_solver::solve::Solver;
use tar::EntryType;

use super::ImageSet;
use super::options::TreeOptions;
use crate::Error;
use crate::assemble::Assembled;
use crate::attest::{Attestor, Place};
use crate::whole_file::write_to;

/// The images whose files are written, and how.
pub(super) struct Origin<'a> {
    pub(super) solver: &'a Solver<'a>,
    pub(super) images: &'a [Assembled],
    pub(super) set: ImageSet,
    pub(super) attestor: &'a Attestor<'a>,
    pub(super) options: &'a TreeOptions,
}

/// Writes the merged trees as one tar, of the same content as the directory. No file is copied on the way.
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
    pub(super) tree: Arc<dyn SourceTree>,
    /// `linux_arm_v7`, or nothing.
    pub(super) within: PathBuf,
    pub(super) times: Times,
    /// Names and bytes of files that say something of these.
    pub(super) attested: Vec<(String, Vec<u8>)>,
}

impl Tree {
    /// A tree as it is.
    pub(crate) fn whole(tree: Arc<dyn SourceTree>) -> Self {
        Self { tree, within: PathBuf::new(), times: Times::Kept, attested: Vec::new() }
    }
}

impl Origin<'_> {
    pub(super) fn trees(&self) -> Result<Vec<Tree>, Error> {
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

/// Of a file that attests something.
pub(super) const ATTESTED_MODE: u32 = 0o600;

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
