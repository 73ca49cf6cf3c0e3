//! `type=dir`: a directory that machines share. No table of contents, any number of writers.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::{Object, Store};
use crate::place::{Access, Env};
use crate::{CacheError, CacheSpec, InvalidSpec};

pub(super) const KEYS: [&str; 1] = ["path"];
/// Before the process' umask.
const FILE_MODE: u32 = 0o666;

#[derive(Debug)]
struct Directory {
    root: PathBuf,
}

pub(super) fn open(spec: &CacheSpec, _: &Access, _: &Env<'_>) -> Result<Box<dyn Store>, InvalidSpec> {
    Ok(Box::new(Directory { root: PathBuf::from(spec.required("path")?) }))
}

impl Directory {
    /// Names and prefixes are checked: they stay beneath the root.
    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }
}

impl Store for Directory {
    fn name(&self) -> String {
        self.root.display().to_string()
    }

    fn get(&self, path: &str) -> Result<Option<Box<dyn Read + Send>>, CacheError> {
        let path = self.path(path);
        match File::open(&path) {
            Ok(file) => Ok(Some(Box::new(file))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(CacheError::io(&path, error)),
        }
    }

    fn size(&self, path: &str) -> Result<Option<u64>, CacheError> {
        let path = self.path(path);
        match std::fs::metadata(&path) {
            Ok(found) => Ok(found.is_file().then_some(found.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(CacheError::io(&path, error)),
        }
    }

    fn put(&self, path: &str, object: &Object<'_>) -> Result<(), CacheError> {
        let path = self.path(path);
        let at = |error| CacheError::io(&path, error);
        let folder = path.parent().unwrap_or_else(|| Path::new("."));
        std::fs::create_dir_all(folder).map_err(at)?;
        // Readers on other machines see all of it or nothing.
        let mode = std::fs::Permissions::from_mode(FILE_MODE);
        let draft = tempfile::Builder::new().prefix(".draft-").permissions(mode).tempfile_in(folder);
        let mut draft = draft.map_err(at)?;
        let mut reader = (object.open)().map_err(at)?;
        let written = io::copy(&mut reader, &mut draft).map_err(at)?;
        if written != object.size {
            return Err(at(io::ErrorKind::UnexpectedEof.into()));
        }
        draft.persist(&path).map_err(|error| at(error.error))?;
        Ok(())
    }
}
