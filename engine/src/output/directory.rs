//! The root file system as a directory, over what is there (FEATURES EX5, EX6).

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, BufRead as _, BufReader};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use kiln_cache::{Entry, spread};
use kiln_image::layer::{Times, is_portable_xattr, unnoted};
use kiln_solver::solve::copy_out;
use rayon::prelude::*;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, Timespec, Timestamps, utimensat};
use rustix::io::Errno;

use super::tree::{ATTESTED_MODE, Origin, Tree};
use crate::Error;
use crate::session::Session;

/// The permission to remove files anywhere (buildx' name for it).
pub(crate) const DELETE_ENTITLEMENT: &str = "buildx.local.delete";

/// Writes the merged tree into `dest`, over what is there, as this user's; several platforms' each into a directory.
pub(super) fn export_dir(session: &Session<'_>, origin: &Origin<'_>, dest: &Path) -> Result<(), Error> {
    if origin.options.delete {
        guard_delete(dest, &session.build.allow)?;
    }
    fs::create_dir_all(dest).map_err(|error| Error::io(dest, error))?;
    let trees = origin.trees()?;
    let is_empty = fs::read_dir(dest).map_err(|error| Error::io(dest, error))?.next().is_none();
    if let ([only], true) = (trees.as_slice(), is_empty) {
        return write_tree(only, dest, &HashSet::new());
    }
    let mut unchanged = HashSet::new();
    for tree in &trees {
        unchanged.extend(unchanged_files(tree, dest)?);
    }
    // Beside the files that are there, so that each can be replaced by one rename.
    let staging = Staging(dest.join(format!(".kiln-{}", std::process::id())));
    fs::create_dir(&staging.0).map_err(|error| Error::io(&staging.0, error))?;
    for (index, tree) in trees.iter().enumerate() {
        write_tree(tree, &staging.0.join(index.to_string()), &unchanged)?;
    }
    if origin.options.delete {
        let kept = trees.iter().enumerate().map(|(index, _)| staging.0.join(index.to_string())).collect();
        let stays = |path: &Path| {
            path == staging.0 || path.strip_prefix(dest).is_ok_and(|path| unchanged.contains(path))
        };
        remove_others(kept, dest, &stays)?;
    }
    let replaced = staging.0.join("replaced");
    fs::create_dir(&replaced).map_err(|error| Error::io(&replaced, error))?;
    for index in 0..trees.len() {
        merge(&staging.0.join(index.to_string()), dest, &replaced)?;
    }
    Ok(())
}

/// The files of `dest` that are what they would be replaced by, by their paths there. They stay: what watches them has nothing to
/// do, nor has the file system, which needs longer to replace a file than to write one.
fn unchanged_files(tree: &Tree, dest: &Path) -> Result<HashSet<PathBuf>, Error> {
    let root = File::open(dest).map_err(|error| Error::io(dest, error))?;
    let entries = tree.tree.walk(Path::new(""))?;
    let own = own_ids();
    let unchanged = |entry: &Entry| {
        let path = tree.within.join(&entry.path);
        is_unchanged(tree, entry, own, root.as_fd(), &path).then_some(path)
    };
    Ok(spread(
        entries.len() >= PARALLEL_FROM,
        || entries.iter().filter_map(unchanged).collect(),
        || entries.par_iter().filter_map(unchanged).collect(),
    ))
}

/// Whether `path` below `root`, with no link on the way, is a file of `owner` (user and group) with the bytes and properties of
/// `entry`. Nothing is where that cannot be found out.
fn is_unchanged(tree: &Tree, entry: &Entry, owner: (u32, u32), root: BorrowedFd<'_>, path: &Path) -> bool {
    // Names of one file must stay so, and attributes are seldom.
    let Some(size) = entry.kind.file_bytes().filter(|_| entry.hard_link.is_none() && entry.xattrs.is_empty())
    else {
        return false;
    };
    // A pipe must not keep anybody waiting.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let open = |more| rustix::fs::openat2(root, path, flags | more, Mode::empty(), resolve);
    let Ok(there) = unnoted(open).map(File::from) else { return false };
    let Ok(found) = there.metadata() else { return false };
    let mtime_ns = i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec());
    let expected_ns = match tree.times {
        Times::Exactly(seconds) => i128::from(seconds) * 1_000_000_000,
        _ => entry.mtime_ns,
    };
    found.is_file()
        && (found.len(), found.nlink(), mtime_ns) == (size, 1, expected_ns)
        && (found.mode() & 0o7777, (found.uid(), found.gid())) == (entry.mode, owner)
        && !has_portable_xattrs(&there)
        && tree.tree.open_entry(entry).is_ok_and(|ours| has_same_bytes(&there, &ours).unwrap_or(false))
}

fn has_portable_xattrs(file: &File) -> bool {
    // More than these are more than labels and ACLs.
    let mut names = [0_u8; 1024];
    match rustix::fs::flistxattr(file, &mut names) {
        Ok(length) => names[..length].split(|&byte| byte == 0).any(is_portable_xattr),
        Err(error) => error != Errno::NOTSUP,
    }
}

fn has_same_bytes(one: &File, other: &File) -> io::Result<bool> {
    let mut one = BufReader::with_capacity(COMPARED_BYTES, one);
    let mut other = BufReader::with_capacity(COMPARED_BYTES, other);
    loop {
        let (ours, theirs) = (one.fill_buf()?, other.fill_buf()?);
        let length = ours.len().min(theirs.len());
        if length == 0 {
            return Ok(ours.is_empty() && theirs.is_empty());
        }
        if ours[..length] != theirs[..length] {
            return Ok(false);
        }
        one.consume(length);
        other.consume(length);
    }
}

/// Fewer files are compared sooner than threads are started.
const PARALLEL_FROM: usize = 64;
/// Compared at once.
const COMPARED_BYTES: usize = 64 * 1024;

/// User and group of whoever builds, who owns what is written, as BuildKit's client has it.
fn own_ids() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

/// Writes a tree, but for files that are `unchanged` where it goes in the end, into an empty directory.
fn write_tree(tree: &Tree, dest: &Path, unchanged: &HashSet<PathBuf>) -> Result<(), Error> {
    let dest = dest.join(&tree.within);
    fs::create_dir_all(&dest).map_err(|error| Error::io(&dest, error))?;
    copy_out(&tree.tree, "", &dest, Some(own_ids()), &|path| {
        unchanged.is_empty() || !unchanged.contains(&tree.within.join(path))
    })?;
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

/// Sets the times of all below and of `dir` itself.
fn set_times(dir: &Path, seconds: i64) -> Result<(), Error> {
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
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
        set_time(&path, time).map_err(|error| Error::io(&path, error.into()))?;
    }
    Ok(())
}

/// Sets the times of what is at `path` itself.
fn set_time(path: &Path, time: Timespec) -> rustix::io::Result<()> {
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
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

/// Removes what is in `from` and in none of `kept`, directory by directory, unless it `stays`. No link is followed.
fn remove_others(kept: Vec<PathBuf>, from: &Path, stays: &dyn Fn(&Path) -> bool) -> Result<(), Error> {
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
        if stays(&path) {
            continue;
        }
        let at = |error| Error::io(&path, error);
        let is_dir = entry.file_type().map_err(at)?.is_dir();
        match names.get(&entry.file_name()) {
            Some(below) if is_dir && !below.is_empty() => remove_others(below.clone(), &path, stays)?,
            Some(_) if !is_dir => {}
            _ if is_dir => fs::remove_dir_all(&path).map_err(at)?,
            _ => fs::remove_file(&path).map_err(at)?,
        }
    }
    Ok(())
}

/// Moves everything of `from` into `to`: directories are merged and get the properties of those of `from`, anything else is
/// replaced, a directory too, which goes to `replaced`. No link is followed.
fn merge(from: &Path, to: &Path, replaced: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(from).map_err(|error| Error::io(from, error))? {
        let entry = entry.map_err(|error| Error::io(from, error))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let source_is_dir = entry.file_type().map_err(|error| Error::io(&source, error))?.is_dir();
        match (source_is_dir, fs::symlink_metadata(&target)) {
            (true, Ok(found)) if found.is_dir() => {
                // Before it loses what is in it, which its time would tell.
                let wanted = entry.metadata().map_err(|error| Error::io(&source, error))?;
                merge(&source, &target, replaced)?;
                take_properties(&wanted, &target, &found)?;
                continue;
            }
            (true, Ok(_)) => fs::remove_file(&target).map_err(|error| Error::io(&target, error))?,
            (false, Ok(found)) if found.is_dir() => {
                let aside = replaced.join(found.ino().to_string());
                fs::rename(&target, aside).map_err(|error| Error::io(&target, error))?;
            }
            _ => {}
        }
        fs::rename(&source, &target).map_err(|error| Error::io(&target, error))?;
    }
    Ok(())
}

/// Gives directory `target`, as it was `found`, the mode and the time that are `wanted`.
fn take_properties(wanted: &Metadata, target: &Path, found: &Metadata) -> Result<(), Error> {
    if wanted.mode() != found.mode() {
        fs::set_permissions(target, wanted.permissions()).map_err(|error| Error::io(target, error))?;
    }
    let time = Timespec { tv_sec: wanted.mtime(), tv_nsec: wanted.mtime_nsec() };
    match set_time(target, time) {
        // Somebody else's, who lets this user write there.
        Err(Errno::PERM) => Ok(()),
        result => result.map_err(|error| Error::io(target, error.into())),
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
