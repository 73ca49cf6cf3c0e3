//! Directories of the host's as contexts, and what their ignore files hide.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_cache::{ContextTree, PathFilter, SourceTree, Verdict};
use kiln_parser::ignore::{self, IgnoreMemory, IgnoreRules};
use kiln_solver::solve::{CopyError, SolveError};

use super::text::read_text;
use crate::Error;
use crate::session::Session;

/// Why a file that people know of may not be in the context.
pub(crate) enum Hidden {
    /// An ignore file may leave it out.
    Ignored { root: PathBuf, ignore_file: String, rules: IgnoreRules },
    /// The Dockerfile came alone.
    NoContext,
}

/// A directory's tree, and what its ignore file hides.
pub(super) type Directory = (Arc<dyn SourceTree>, Option<Arc<Hidden>>);

/// Names of ignore files at a context's root. Docker's comes first, so that a context means the same to both.
const NAMES: [&str; 2] = [".dockerignore", ".containerignore"];

/// Which ignore file holds for a directory beside those at its root.
#[derive(Clone, Copy, Debug)]
pub(super) enum Own<'a> {
    /// None.
    None,
    /// That beside this Dockerfile (FEATURES CX13).
    Beside(&'a Path),
    /// This one and no other (`--ignorefile`).
    Given(&'a Path),
}

/// A directory of the host's with its ignore file: the first that is there holds, whatever is in it.
pub(super) fn directory(session: &Session<'_>, root: &Path, own: Own<'_>) -> Result<Directory, Error> {
    let index = session.store.context_index_path(root);
    let mut tree = ContextTree::open(root, None, Some(&index))?;
    let mut candidates = Vec::new();
    match own {
        Own::Given(path) if std::fs::symlink_metadata(path).is_err() => {
            return Err(Error::user(format!("the ignore file {} is not there", path.display())));
        }
        Own::Given(path) => candidates.push(path.to_owned()),
        Own::Beside(dockerfile) => {
            candidates.extend(NAMES.map(|name| {
                let mut own = dockerfile.as_os_str().to_owned();
                own.push(name);
                PathBuf::from(own)
            }));
        }
        Own::None => {}
    }
    if !matches!(own, Own::Given(_)) {
        for name in NAMES.map(Path::new) {
            // A link of that name must not lead out of the context (THREATS D6).
            if tree.entry(name)?.is_some() {
                candidates.push(root.join(tree.resolve(name)?));
            }
        }
    }
    let mut hidden = None;
    for path in candidates {
        let Some(text) = read_text(&path)? else { continue };
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let rules = IgnoreRules::parse(&text).map_err(|error| {
            Error::user(format!("{name}:{}: {error}", error.number)).hinted("mend the line or take it out")
        })?;
        if !rules.is_empty() {
            tree = tree.filtered(Box::new(Rules(IgnoreMemory::new(rules.clone()))));
            hidden = Some(Arc::new(Hidden::Ignored { root: root.to_owned(), ignore_file: name, rules }));
        }
        break;
    }
    Ok((Arc::new(tree), hidden))
}

/// Adds to "not found" that an ignore file hides the path, or that there is nothing to find it in.
pub(crate) fn explain_missing(error: &mut Error, hidden: Option<&Hidden>) {
    let Some(hidden) = hidden else { return };
    let mut cause = error.source.as_deref().map(|cause| cause as &(dyn std::error::Error + 'static));
    while let Some(current) = cause {
        let copy = match current.downcast_ref::<SolveError>().map(SolveError::root) {
            Some(SolveError::Copy(copy)) => Some(copy),
            _ => None,
        };
        if let Some(CopyError::NotFound { path, closest, .. }) = copy {
            match hidden {
                Hidden::Ignored { root, ignore_file, .. } => {
                    let below = path.strip_prefix("/").unwrap_or(path);
                    if root.join(below).symlink_metadata().is_ok() {
                        let below = below.display();
                        error.hint = Some(format!("`{below}` is there, but {ignore_file} leaves it out"));
                    }
                }
                // A near name is one in another stage or context.
                Hidden::NoContext if closest.is_none() => {
                    let hint =
                        "a Dockerfile on standard input has no context; with `-f - DIRECTORY` it has one";
                    error.hint = Some(hint.into());
                }
                Hidden::NoContext => {}
            }
            return;
        }
        cause = current.source();
    }
}

/// An ignore file's rules as a tree wants them.
#[derive(Debug)]
struct Rules(IgnoreMemory);

impl PathFilter for Rules {
    fn verdict(&self, path: &str) -> Verdict {
        match self.0.verdict(path) {
            ignore::Verdict::Keep => Verdict::Keep,
            ignore::Verdict::Skip => Verdict::Skip,
            ignore::Verdict::Prune => Verdict::Prune,
        }
    }
}
