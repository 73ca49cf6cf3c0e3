//! Following links inside a root, in terms of what the tree shows: the kernel's own in-root resolution would pass through
//! what an ignore file hides and cannot see across layers.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use super::TreeError;

/// What one path of a tree is to the resolution.
pub(super) enum Step {
    /// Nothing is there.
    Missing,
    /// A link and its target.
    Symlink(PathBuf),
    /// Anything else.
    Other,
}

/// Which links are followed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Follow {
    /// All.
    All,
    /// All but one in the last component.
    Parents,
}

/// The clean path that `path` leads to. `look` tells what is at a path that has no link in it. Components that do not exist
/// are kept; `..` at the root stays there.
pub(super) fn resolve(
    path: &Path,
    follow: Follow,
    look: impl Fn(&Path) -> Result<Step, TreeError>,
) -> Result<PathBuf, TreeError> {
    let mut resolved = PathBuf::new();
    let mut pending: Vec<OsString> = Vec::new();
    push_reversed(&mut pending, path);
    let mut links = 0;
    // Below a missing component there is nothing to look at.
    let mut missing_depth = 0_usize;
    while let Some(name) = pending.pop() {
        if name == ".." {
            resolved.pop();
            missing_depth = missing_depth.saturating_sub(1);
            continue;
        }
        resolved.push(&name);
        if missing_depth > 0 || (follow == Follow::Parents && pending.is_empty()) {
            missing_depth += usize::from(missing_depth > 0);
            continue;
        }
        match look(&resolved)? {
            Step::Other => {}
            Step::Missing => missing_depth = 1,
            Step::Symlink(target) => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(TreeError::SymlinkLoop(path.to_path_buf()));
                }
                if target.is_absolute() {
                    resolved = PathBuf::new();
                } else {
                    resolved.pop();
                }
                push_reversed(&mut pending, &target);
            }
        }
    }
    Ok(resolved)
}

fn push_reversed(pending: &mut Vec<OsString>, path: &Path) {
    for component in path.components().rev() {
        match component {
            Component::Normal(name) => pending.push(name.to_owned()),
            Component::ParentDir => pending.push("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
}

/// As the kernel (path_resolution(7)).
const MAX_LINKS: usize = 40;

#[cfg(test)]
mod tests {
    use super::*;

    fn links(links: &'static [(&str, &str)]) -> impl Fn(&Path) -> Result<Step, TreeError> {
        move |path| {
            let path = path.to_str().unwrap();
            Ok(match links.iter().find(|(from, _)| *from == path) {
                Some((_, "")) => Step::Missing,
                Some((_, to)) => Step::Symlink(PathBuf::from(to)),
                None => Step::Other,
            })
        }
    }

    fn resolved(path: &str, of: &'static [(&str, &str)]) -> String {
        resolve(Path::new(path), Follow::All, links(of)).unwrap().to_str().unwrap().to_owned()
    }

    #[test]
    fn links_mean_the_tree_s_own_root() {
        assert_eq!(resolved("/a/b", &[("a", "/x")]), "x/b");
        assert_eq!(resolved("a/b", &[("a", "../../../x")]), "x/b");
        assert_eq!(resolved("d/a/../b", &[("d/a", "y/z")]), "d/y/b");
        assert_eq!(resolved("../../a", &[]), "a");
    }

    #[test]
    fn missing_components_stay() {
        assert_eq!(resolved("a/b/c", &[("a/b", "")]), "a/b/c");
        assert_eq!(resolved("a/b/../c", &[("a/b", ""), ("a/c", "/z")]), "z");
    }

    #[test]
    fn the_last_component_may_stay_a_link() {
        let path = resolve(Path::new("a/a"), Follow::Parents, links(&[("a", "x"), ("x/a", "y")])).unwrap();
        assert_eq!(path, Path::new("x/a"));
    }

    #[test]
    fn a_loop_is_an_error() {
        let result = resolve(Path::new("a"), Follow::All, links(&[("a", "b"), ("b", "a")]));
        assert!(matches!(result, Err(TreeError::SymlinkLoop(_))));
    }
}
