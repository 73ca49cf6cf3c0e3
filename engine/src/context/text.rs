//! Dockerfiles and ignore files as bytes, from places that are not trusted.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_cache::{ContextTree, SourceTree};

use crate::Error;

/// A Dockerfile or ignore file may be so long.
pub(super) const TEXT_LIMIT: u64 = 16 << 20;

/// Most are shorter: they are read at once.
const USUAL_BYTES: usize = 16 << 10;

/// A regular file's text in a tree, links followed within it; `None` when there is no such file.
pub(super) fn from_tree(tree: &Arc<dyn SourceTree>, name: &Path) -> Result<Option<Vec<u8>>, Error> {
    let path = tree.resolve(name.strip_prefix("/").unwrap_or(name))?;
    if tree.entry(&path)?.is_none() {
        return Ok(None);
    }
    let mut text = Vec::with_capacity(USUAL_BYTES);
    read_limited(&mut tree.open(&path)?.take(TEXT_LIMIT + 1), &mut text, &path)?;
    Ok(Some(text))
}

/// A path in an untrusted tree; links in it must not lead out.
pub(super) fn beneath(root: &Path, path: &Path) -> Result<PathBuf, Error> {
    let tree = ContextTree::open(root, None, None)?;
    Ok(root.join(tree.resolve(path)?))
}

/// A regular file's text; `None` when there is no such file.
pub(super) fn read_text(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    read_text_of_user(path, TEXT_LIMIT)
}

/// As [`read_text`], of up to so many bytes.
pub(crate) fn read_text_of_user(path: &Path, limit_bytes: u64) -> Result<Option<Vec<u8>>, Error> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => {
            return Err(Error::user(format!("{} is a directory", path.display())));
        }
        // A pipe in a context would be waited for. Below /dev/fd are the user's own, by a shell's `<(…)`.
        Ok(metadata) if !metadata.is_file() && !path.starts_with("/dev") && !path.starts_with("/proc") => {
            return Err(Error::user(format!("{} is no regular file", path.display())));
        }
        Ok(_) => {}
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(Error::io(path, error)),
    }
    let mut text = Vec::with_capacity(USUAL_BYTES);
    let file = File::open(path).map_err(|error| Error::io(path, error))?;
    read_limited(&mut file.take(limit_bytes + 1), &mut text, path)?;
    Ok(Some(text))
}

pub(super) fn read_limited(reader: &mut dyn Read, text: &mut Vec<u8>, path: &Path) -> Result<(), Error> {
    reader.read_to_end(text).map_err(|error| Error::io(path, error))?;
    if text.len() as u64 > TEXT_LIMIT {
        return Err(Error::user(format!("{} is longer than {TEXT_LIMIT} bytes", path.display())));
    }
    Ok(())
}
