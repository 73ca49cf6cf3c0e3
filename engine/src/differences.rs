//! How two trees differ, file by file: what `kiln diff` and `--verify-reproducible` tell. Times count for nothing.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use kiln_cache::{Entry, EntryKind, Layer, LayerTree, SourceTree, Store};
use kiln_solver::graph::{Graph, VertexId};
use kiln_solver::solve::Output;

use crate::Error;

/// A file that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileDifference {
    /// Where, without a leading slash.
    pub path: PathBuf,
    /// In what.
    pub changes: Vec<Change>,
    /// Bytes in the first tree; `None` if it is no file there.
    pub old_bytes: Option<u64>,
    /// Bytes in the second tree; `None` if it is no file there.
    pub new_bytes: Option<u64>,
}

/// In what a file differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Only the second tree has it.
    Added,
    /// Only the first tree has it.
    Removed,
    /// It is a file here and something else there.
    Kind,
    /// Its bytes, a link's target, a device's number.
    Contents,
    /// Its size as well.
    Size,
    /// Its permissions.
    Mode,
    /// Its user or group.
    Owner,
    /// Its extended attributes.
    Attributes,
}

impl Change {
    /// As people call it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Kind => "kind",
            Self::Contents => "contents",
            Self::Size => "size",
            Self::Mode => "mode",
            Self::Owner => "owner",
            Self::Attributes => "attributes",
        }
    }
}

/// A step that made something else the second time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepDifference {
    /// The step's name.
    pub step: String,
    /// What it made that differs; empty if that is only what it removed.
    pub files: Vec<FileDifference>,
}

/// Compares two trees.
pub(crate) fn compare(old: &dyn SourceTree, new: &dyn SourceTree) -> Result<Vec<FileDifference>, Error> {
    let entries = |tree: &dyn SourceTree| {
        let entries =
            tree.walk(Path::new(""))?.into_iter().filter(|entry| !entry.path.as_os_str().is_empty());
        Ok::<BTreeMap<PathBuf, Entry>, Error>(entries.map(|entry| (entry.path.clone(), entry)).collect())
    };
    let (before, mut after) = (entries(old)?, entries(new)?);
    let mut found = Vec::new();
    for (path, one) in before {
        let other = after.remove(&path);
        let changes = match &other {
            None => vec![Change::Removed],
            Some(other) => changes(old, &one, new, other)?,
        };
        if !changes.is_empty() {
            let new_bytes = other.as_ref().and_then(|other| other.kind.file_bytes());
            found.push(FileDifference { path, changes, old_bytes: one.kind.file_bytes(), new_bytes });
        }
    }
    for (path, other) in after {
        let new_bytes = other.kind.file_bytes();
        found.push(FileDifference { path, changes: vec![Change::Added], old_bytes: None, new_bytes });
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(found)
}

fn changes(
    old: &dyn SourceTree,
    one: &Entry,
    new: &dyn SourceTree,
    other: &Entry,
) -> Result<Vec<Change>, Error> {
    let mut changes = Vec::new();
    match (&one.kind, &other.kind) {
        (EntryKind::File { size }, EntryKind::File { size: new_size }) => {
            if size != new_size {
                changes.extend([Change::Contents, Change::Size]);
            } else if !are_equal(&old.open_entry(one)?, &new.open_entry(other)?, &one.path)? {
                changes.push(Change::Contents);
            }
        }
        (kind, new_kind) if std::mem::discriminant(kind) != std::mem::discriminant(new_kind) => {
            changes.push(Change::Kind);
        }
        (kind, new_kind) if kind != new_kind => changes.push(Change::Contents),
        _ => {}
    }
    if one.mode != other.mode {
        changes.push(Change::Mode);
    }
    if (one.uid, one.gid) != (other.uid, other.gid) {
        changes.push(Change::Owner);
    }
    if one.xattrs != other.xattrs {
        changes.push(Change::Attributes);
    }
    Ok(changes)
}

/// Whether two files of one size hold the same bytes.
fn are_equal(one: &File, other: &File, path: &Path) -> Result<bool, Error> {
    let at = |error| Error::io(path, error);
    let (known, new) = (one.metadata().map_err(at)?, other.metadata().map_err(at)?);
    // Images share layers.
    if (known.dev(), known.ino()) == (new.dev(), new.ino()) {
        return Ok(true);
    }
    let mut one = BufReader::with_capacity(BUFFER_BYTES, one);
    let mut other = BufReader::with_capacity(BUFFER_BYTES, other);
    let (mut left, mut right) = (vec![0; BUFFER_BYTES], vec![0; BUFFER_BYTES]);
    loop {
        let read = one.read(&mut left).map_err(at)?;
        if read == 0 {
            return Ok(other.read(&mut right).map_err(at)? == 0);
        }
        match other.read_exact(&mut right[..read]) {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(false),
            result => result.map_err(at)?,
        }
        if left[..read] != right[..read] {
            return Ok(false);
        }
    }
}

/// Compares what `steps`, in their order, made in two runs. What follows from an earlier difference alone is its own only
/// where the step's own layer differs.
pub(crate) fn of_steps(
    store: &Store,
    graph: &Graph,
    steps: &[VertexId],
    first: &[Output],
    second: &[Output],
) -> Result<Vec<StepDifference>, Error> {
    let mut told: HashSet<(Option<Layer>, Option<Layer>)> = HashSet::new();
    let mut found = Vec::new();
    for ((step, one), other) in steps.iter().zip(first).zip(second) {
        let (Output::Snapshot(one), Output::Snapshot(other)) = (one, other) else { continue };
        let (one, other) = (one.layers(), other.layers());
        let mut files = Vec::new();
        let mut differs = false;
        for index in 0..one.len().max(other.len()) {
            let pair = (one.get(index).copied(), other.get(index).copied());
            let contents = |layer: Option<Layer>| layer.map(|layer| layer.contents);
            if contents(pair.0) == contents(pair.1) || !told.insert(pair) {
                continue;
            }
            differs = true;
            let tree = |layer: Option<Layer>| {
                let paths: Vec<PathBuf> = layer.iter().map(|layer| store.layer_path(layer.id)).collect();
                LayerTree::open(&paths)
            };
            files.extend(compare(&tree(pair.0)?, &tree(pair.1)?)?);
        }
        if differs {
            found.push(StepDifference { step: graph[*step].name.clone(), files });
        }
    }
    Ok(found)
}

const BUFFER_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn each_difference_is_named_and_times_are_none() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for (dir, text, longer) in [(&one, "a", "x"), (&other, "b", "xyz")] {
            let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
            write("same", "same");
            write("contents", text);
            write("size", longer);
            write("mode", "");
        }
        std::fs::write(one.path().join("gone"), "12").unwrap();
        std::os::unix::fs::symlink("x", other.path().join("new")).unwrap();
        let mode = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(other.path().join("mode"), mode).unwrap();
        let open = |dir: &tempfile::TempDir| LayerTree::open(&[dir.path().to_owned()]).unwrap();
        let found: Vec<String> = compare(&open(&one), &open(&other))
            .unwrap()
            .iter()
            .map(|file| {
                let words: Vec<_> = file.changes.iter().map(|change| change.word()).collect();
                format!(
                    "{} {} {:?} {:?}",
                    file.path.display(),
                    words.join("+"),
                    file.old_bytes,
                    file.new_bytes
                )
            })
            .collect();
        assert_eq!(
            found,
            [
                "contents contents Some(1) Some(1)",
                "gone removed Some(2) None",
                "mode mode Some(0) Some(0)",
                "new added None None",
                "size contents+size Some(1) Some(3)",
            ]
        );
    }
}
