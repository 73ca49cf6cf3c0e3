//! Many layers as one: overlayfs mounts 500 at most, and every name that is nowhere is looked for in each.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use kiln_image::layer::{OverlayXattrs, owner};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use super::beneath::{list_dir, open_beneath, open_root, portable_xattrs, stat_at, stat_marked};
use super::layer_stack::LayerDir;
use super::{At as _, Entry, TreeError};

/// Makes the empty directory `target` a layer that shows, on whatever it stands, what `layers` show there together,
/// bottom first. Files get a further name, so both have to be on one file system; directories are made.
///
/// # Errors
/// I/O.
pub fn squash_layers<P: AsRef<Path>>(layers: &[P], target: &Path) -> Result<(), TreeError> {
    let mut squash = Squash { target: open_root(target)?, times: BTreeMap::new() };
    for layer in layers {
        squash.lay(&LayerDir::new(layer.as_ref()))?;
    }
    squash.set_times()
}

struct Squash {
    target: OwnedFd,
    /// Of directories, some of which may be gone again.
    times: BTreeMap<PathBuf, i128>,
}

impl Squash {
    /// Puts a layer on those that are there.
    fn lay(&mut self, layer: &LayerDir) -> Result<(), TreeError> {
        let mut pending = vec![PathBuf::new()];
        while let Some(at) = pending.pop() {
            let from = layer.open(&at)?;
            let into = open_beneath(self.target.as_fd(), &at, OFlags::RDONLY | OFlags::DIRECTORY).at(&at)?;
            if at.as_os_str().is_empty() {
                let root = Path::new("");
                let Some(stat) = stat_at(from.as_fd(), OsStr::new(".")).at(root)? else { continue };
                let Some((entry, _)) = stat_marked(from.as_fd(), OsStr::new("."), root.into(), &stat)? else {
                    continue;
                };
                // A mark on a layer's root means nothing.
                self.dress(into.as_fd(), &entry, false)?;
            }
            for name in list_dir(from.as_fd(), &at)? {
                let path = at.join(&name);
                let Some(stat) = stat_at(from.as_fd(), &name).at(&path)? else { continue };
                let there = stat_at(into.as_fd(), &name).at(&path)?;
                if !is_dir(&stat) {
                    // Whiteouts too: they hide what the squashed layers stand on.
                    remove(into.as_fd(), &name, there).at(&path)?;
                    let flags = AtFlags::empty();
                    rustix::fs::linkat(from.as_fd(), &name, into.as_fd(), &name, flags).at(&path)?;
                    continue;
                }
                let Some((entry, is_opaque)) = stat_marked(from.as_fd(), &name, path.clone(), &stat)? else {
                    continue;
                };
                let is_merged = there.as_ref().is_some_and(is_dir) && !is_opaque;
                // What hid the lower layers' directory of that name did not hide it from this one alone.
                let is_opaque = is_opaque || there.as_ref().is_some_and(|there| !is_dir(there));
                if !is_merged {
                    remove(into.as_fd(), &name, there).at(&path)?;
                    rustix::fs::mkdirat(into.as_fd(), &name, Mode::RWXU).at(&path)?;
                }
                let flags = OFlags::RDONLY | OFlags::DIRECTORY;
                let made = open_beneath(into.as_fd(), Path::new(&name), flags).at(&path)?;
                self.dress(made.as_fd(), &entry, is_opaque)?;
                pending.push(path);
            }
        }
        Ok(())
    }

    /// Gives a directory that was made here what the topmost layer says of it.
    fn dress(&mut self, dir: BorrowedFd<'_>, entry: &Entry, is_opaque: bool) -> Result<(), TreeError> {
        let set = || {
            for (name, _) in portable_xattrs(dir, OsStr::new(""))? {
                rustix::fs::fremovexattr(dir, name.as_os_str())?;
            }
            for (name, value) in &entry.xattrs {
                rustix::fs::fsetxattr(dir, name.as_os_str(), value, XattrFlags::empty())?;
            }
            if is_opaque {
                let mark = OverlayXattrs::of_this_process().opaque();
                rustix::fs::fsetxattr(dir, mark, b"y", XattrFlags::empty())?;
            }
            owner::give(dir, entry.uid, entry.gid)?;
            rustix::fs::fchmod(dir, Mode::from_raw_mode(entry.mode))
        };
        set().at(&entry.path)?;
        self.times.insert(entry.path.clone(), entry.mtime_ns);
        Ok(())
    }

    /// Sets the directories' times, which nothing changes any more.
    fn set_times(self) -> Result<(), TreeError> {
        for (path, mtime_ns) in &self.times {
            // Only of directories: whatever else is there is a layer's own file.
            let dir = match open_beneath(self.target.as_fd(), path, OFlags::RDONLY | OFlags::DIRECTORY) {
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                dir => dir.at(path)?,
            };
            let tv_sec = i64::try_from(mtime_ns.div_euclid(1_000_000_000)).unwrap_or_default();
            let tv_nsec = i64::try_from(mtime_ns.rem_euclid(1_000_000_000)).unwrap_or_default();
            let time = Timespec { tv_sec, tv_nsec };
            let times = Timestamps { last_access: time, last_modification: time };
            rustix::fs::futimens(dir, &times).at(path)?;
        }
        Ok(())
    }
}

fn is_dir(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// Removes what is `there` under `name`: a name of a layer's file, or a directory that was made here.
fn remove(dir: BorrowedFd<'_>, name: &OsStr, there: Option<Stat>) -> std::io::Result<()> {
    match there {
        None => Ok(()),
        Some(stat) if is_dir(&stat) => {
            // Its descriptor's name in /proc pins the directory; links are not followed.
            let path = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name);
            std::fs::remove_dir_all(path)
        }
        Some(_) => Ok(rustix::fs::unlinkat(dir, name, AtFlags::empty())?),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::layer_stack::tests::{make, path, thing};
    use super::super::{LayerTree, SourceTree as _};
    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn squashed_layers_show_what_they_showed(
            layers in prop::collection::vec(prop::collection::vec((path(), thing()), 0..12), 2..8),
            split in any::<prop::sample::Index>(),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let paths: Vec<PathBuf> = (0..layers.len()).map(|number| dir.path().join(number.to_string())).collect();
            for (number, things) in layers.iter().enumerate() {
                make(&paths[number], number, things);
            }
            let view = |layers: &[PathBuf]| {
                let tree = LayerTree::open(layers).unwrap();
                let entries = tree.walk(Path::new("")).unwrap().into_iter();
                entries.map(|entry| Entry { hard_link: None, ..entry }).collect::<Vec<_>>()
            };
            let expected = view(&paths);
            let (low, high) = paths.split_at(split.index(layers.len()));
            let squash = |name: &str, layers: &[PathBuf]| {
                let target = dir.path().join(name);
                std::fs::create_dir(&target).unwrap();
                squash_layers(layers, &target).unwrap();
                target
            };
            // Both what stands on others and what others stand on.
            prop_assert_eq!(&view(&[low, &[squash("high", high)]].concat()), &expected);
            if !low.is_empty() {
                prop_assert_eq!(&view(&[&[squash("low", low)], high].concat()), &expected);
            }
            prop_assert_eq!(&view(&paths), &expected);
        }
    }
}
