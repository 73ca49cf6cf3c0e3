//! What can be wrong with a COPY, ADD or WORKDIR.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_cache::SourceTree;

/// A source or a destination does not allow the copy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// The source is not there (or the ignore file hides it).
    #[error("{}: not found", .path.display())]
    NotFound {
        /// From the source's root.
        path: PathBuf,
        /// An entry of a near name in the same directory.
        closest: Option<PathBuf>,
    },
    /// A directory's contents cannot go where something else is.
    #[error("cannot copy to non-directory: {}", .dest.display())]
    NotADirectory {
        /// Where.
        dest: PathBuf,
    },
    /// A directory cannot be made where something else is.
    #[error("mkdir {}: not a directory", .path.display())]
    Occupied {
        /// What is there.
        path: PathBuf,
    },
    /// A file cannot go where a directory is.
    #[error("cannot replace to directory {} with file", .dest.display())]
    IsADirectory {
        /// Where.
        dest: PathBuf,
    },
    /// More links than the kernel would follow.
    #[error("{}: too many levels of symbolic links", .dest.display())]
    LinkLoop {
        /// Where.
        dest: PathBuf,
    },
    /// The pattern cannot be parsed.
    #[error(transparent)]
    Pattern(#[from] kiln_parser::pattern::BadPattern),
    /// An `--exclude` cannot be parsed.
    #[error(transparent)]
    Exclude(#[from] kiln_parser::ignore::BadRule),
    /// `--chmod` is none.
    #[error("invalid mode `{0}` for --chmod")]
    Mode(String),
    /// `--chown` needs a file of the destination that cannot be used.
    #[error("--chown={owner}: {reason}")]
    Owner {
        /// As written.
        owner: String,
        /// What is wrong.
        reason: String,
    },
    /// A source file changed between being read for the key and being copied.
    #[error("{} changed while it was being copied", .0.display())]
    Changed(PathBuf),
    /// More bytes than a layer may have.
    #[error("the files have {size_bytes} bytes, and an image's layer at most {limit}")]
    TooLarge {
        /// Bytes of file data.
        size_bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// Writing.
    #[error("{}: {source}", .path.display())]
    Io {
        /// What was touched.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl CopyError {
    /// A missing source, with what may have been meant.
    pub(super) fn not_found(tree: &Arc<dyn SourceTree>, path: &str) -> Self {
        let path = super::select::clean(path);
        let closest = closest(tree, &path).map(|near| Path::new("/").join(near));
        Self::NotFound { path: Path::new("/").join(path), closest }
    }

    /// The word of the instruction that is meant, where it is one; a path without the slash it may begin with.
    pub fn word(&self) -> Option<&str> {
        match self {
            Self::NotFound { path, .. } => path.to_str().map(|path| path.trim_start_matches('/')),
            Self::Mode(mode) => Some(mode),
            Self::Owner { owner, .. } => Some(owner),
            _ => None,
        }
    }

    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotFound { closest: Some(near), .. } => Some(format!("did you mean `{}`?", near.display())),
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                Some(crate::solve::error::FULL_DISK.into())
            }
            Self::Changed(_) => Some("build again once nothing writes to the context".into()),
            _ => None,
        }
    }
}

/// The entry beside a missing one whose name is nearest.
fn closest(tree: &Arc<dyn SourceTree>, path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_string_lossy().into_owned();
    let parent = path.parent().unwrap_or(Path::new(""));
    let entries = tree.resolve(parent).and_then(|parent| tree.read_dir(&parent)).ok()?;
    let limit = (name.chars().count() / 3).max(1);
    entries
        .into_iter()
        .filter_map(|entry| {
            let candidate = entry.path.file_name()?.to_string_lossy().into_owned();
            let distance = edit_distance(&name.to_lowercase(), &candidate.to_lowercase());
            // The same name is a link that leads nowhere.
            (1..=limit).contains(&distance).then_some((distance, entry.path))
        })
        .min()
        .map(|(_, path)| path)
}

/// Levenshtein's distance.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let cost = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
