//! Which entries of a source tree a COPY or ADD means.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use kiln_cache::{Entry, EntryKind, SourceTree};
use kiln_parser::ignore::{IgnoreRules, Verdict};
use kiln_parser::pattern::Pattern;

use super::CopyError;
use crate::solve::SolveError;

/// One thing to copy: its name as it was asked for (a link's own name), and the entry it leads to.
#[derive(Debug)]
pub(super) struct Selected {
    pub(super) name: PathBuf,
    pub(super) entry: Entry,
}

/// One thing that `--parents` copies, below the pivot.
#[derive(Debug)]
pub(super) struct WithParents {
    /// The pivot's directory.
    pub(super) base: PathBuf,
    pub(super) entry: Entry,
    /// A directory stands for all below it; with `**` every entry was matched by itself.
    pub(super) recursive: bool,
}

/// A path as seen from the root of its tree: relative, without `.`; `..` stops at the root (FEATURES CP4).
pub(in crate::solve::op) fn clean(path: &str) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

/// Selects `source`. The named path's own link is followed; a pattern that matches nothing is no error, unless there is
/// not even the directory that it is to match in.
pub(super) fn select(
    tree: &Arc<dyn SourceTree>,
    source: &str,
    wildcard: bool,
) -> Result<Vec<Selected>, SolveError> {
    if !(wildcard && Pattern::is_wildcard(source)) {
        let path = clean(source);
        return Ok(vec![follow(tree, path, source)?]);
    }
    let parts = clean(source);
    let directory: PathBuf =
        parts.iter().take_while(|part| !Pattern::is_wildcard(&part.to_string_lossy())).collect();
    if !directory.as_os_str().is_empty() {
        follow(tree, directory.clone(), &directory.to_string_lossy())?;
    }
    let mut selected = Vec::new();
    for path in matches(tree, Path::new(""), source)? {
        let shown = path.to_string_lossy().into_owned();
        selected.push(follow(tree, path, &shown)?);
    }
    Ok(selected)
}

/// The only file of a download's tree.
pub(super) fn only_file(tree: &Arc<dyn SourceTree>) -> Result<Vec<Selected>, SolveError> {
    let files = tree.read_dir(Path::new(""))?;
    Ok(files.into_iter().take(1).map(|entry| Selected { name: entry.path.clone(), entry }).collect())
}

fn follow(tree: &Arc<dyn SourceTree>, path: PathBuf, shown: &str) -> Result<Selected, SolveError> {
    let resolved = tree.resolve(&path)?;
    let entry = tree.entry(&resolved)?.ok_or_else(|| CopyError::not_found(tree, shown))?;
    let name = path.file_name().map(PathBuf::from).unwrap_or_default();
    Ok(Selected { name, entry })
}

/// Selects `source` for `--parents`: what follows `/./` is kept as directories (FEATURES CP19).
pub(super) fn with_parents(
    tree: &Arc<dyn SourceTree>,
    source: &str,
    wildcard: bool,
) -> Result<Vec<WithParents>, SolveError> {
    // A leading `./` is no pivot.
    let trimmed = source.trim_start_matches("./");
    let (base, rest) = match trimmed.find("/./") {
        Some(pivot) => (&trimmed[..pivot], &trimmed[pivot + 3..]),
        None => ("", trimmed),
    };
    let pattern = clean(rest);
    let text = pattern.to_string_lossy().into_owned();
    let open = |path: &str| wildcard && Pattern::is_wildcard(path);
    let bases = match open(base) {
        true => matches(tree, Path::new(""), base)?,
        false => vec![clean(base)],
    };
    let mut found = Vec::new();
    for base in bases {
        let base = tree.resolve(&base)?;
        if !open(&text) {
            found.extend(literal(tree, base, &pattern, source, !open(source))?);
            continue;
        }
        let rules = IgnoreRules::from_patterns(std::slice::from_ref(&text)).map_err(CopyError::from)?;
        for entry in tree.walk(&base)? {
            let below = entry.path.strip_prefix(&base).unwrap_or(&entry.path);
            if !below.as_os_str().is_empty() && rules.verdict(&below.to_string_lossy()) != Verdict::Keep {
                found.push(WithParents { base: base.clone(), entry, recursive: false });
            }
        }
    }
    Ok(found)
}

/// What `pattern`, which has no wildcard, selects below `base`: nothing behind a link, which is not followed here.
fn literal(
    tree: &Arc<dyn SourceTree>,
    base: PathBuf,
    pattern: &Path,
    source: &str,
    is_required: bool,
) -> Result<Option<WithParents>, SolveError> {
    let path = base.join(pattern);
    if tree.entry(&tree.resolve(&path)?)?.is_none() && tree.entry(&path)?.is_none() {
        return if is_required { Err(CopyError::not_found(tree, source).into()) } else { Ok(None) };
    }
    for above in pattern.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()) {
        if tree.entry(&base.join(above))?.is_none_or(|entry| entry.kind != EntryKind::Dir) {
            return Ok(None);
        }
    }
    Ok(tree.entry(&path)?.map(|entry| WithParents { base, entry, recursive: true }))
}

/// The paths below `base` that `pattern` matches, in order. Links inside are matched, not descended into; those before
/// the first component with a wildcard are followed.
fn matches(tree: &Arc<dyn SourceTree>, base: &Path, pattern: &str) -> Result<Vec<PathBuf>, SolveError> {
    let pattern = clean(pattern);
    let components: Vec<String> =
        pattern.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
    let literal = components.iter().take_while(|part| !Pattern::is_wildcard(part)).count();
    let start = base.join(components[..literal].iter().collect::<PathBuf>());
    let mut found = vec![tree.resolve(&start)?];
    for (index, component) in components.iter().enumerate().skip(literal) {
        // Go's Match has no `**`: it is a `*` like any other.
        let pattern = Pattern::new(component).map_err(CopyError::from)?;
        let mut next = Vec::new();
        for dir in found {
            let is_dir = tree.entry(&dir)?.is_some_and(|entry| entry.kind == EntryKind::Dir);
            if !is_dir {
                continue;
            }
            for entry in tree.read_dir(&dir)? {
                let last = index + 1 == components.len();
                let name = entry.path.file_name().map(|name| name.to_string_lossy().into_owned());
                if (last || entry.kind == EntryKind::Dir) && name.is_some_and(|name| pattern.matches(&name)) {
                    next.push(entry.path);
                }
            }
        }
        found = next;
    }
    Ok(found)
}

/// `--exclude`, matched against paths below the source's root (FEATURES CP20).
pub(super) struct Excludes(Option<IgnoreRules>);

impl Excludes {
    pub(super) fn new(patterns: &[String]) -> Result<Self, SolveError> {
        if patterns.is_empty() {
            return Ok(Self(None));
        }
        Ok(Self(Some(IgnoreRules::from_patterns(patterns).map_err(CopyError::from)?)))
    }

    pub(super) fn keep(&self, path: &Path) -> bool {
        self.0.as_ref().is_none_or(|rules| rules.verdict(&path.to_string_lossy()) == Verdict::Keep)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_never_leave_the_root() {
        for (path, expected) in
            [("/a/b/", "a/b"), ("../../etc", "etc"), ("a/../../b", "b"), ("./", ""), ("/", "")]
        {
            assert_eq!(clean(path), Path::new(expected), "{path}");
        }
    }
}
