//! What a step left as it was. overlayfs copies a file up before it is written to, also where nothing comes of that: `chown -R`
//! to the owner that everything has would double an image. BuildKit compares and leaves such files out of the layer, and so
//! does kiln.

use std::path::PathBuf;
use std::time::SystemTime;

use kiln_image::layer::owner::take_noted;

use crate::contents::{Found, LayerContents};
use crate::tree::{Entry, EntryKind, FileHash, LayerTree, SourceTree, TreeError};

/// What a step starts from.
#[derive(Debug)]
pub(crate) struct Below {
    tree: LayerTree,
    /// When it started, in nanoseconds since the epoch: what was written since is not as it was.
    since_ns: i128,
}

impl Below {
    /// For a step that starts now.
    pub(crate) fn now(tree: LayerTree) -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { tree, since_ns: i128::try_from(since.as_nanos()).unwrap_or(i128::MAX) }
    }

    /// The numbers of the entries that are as they were: a whole view shows the same without them.
    pub(crate) fn unchanged(&self, layer: &LayerContents) -> Result<Vec<usize>, TreeError> {
        let mut unchanged = Vec::new();
        // The directories that the entry is in, and whether they show what is below.
        let mut within: Vec<(PathBuf, bool)> = Vec::new();
        for (number, Found { entry, is_opaque, hash, .. }) in layer.0.iter().enumerate() {
            let is_dir = entry.kind == EntryKind::Dir;
            // Of a file with several names each is the file.
            if !is_dir && (entry.mtime_ns >= self.since_ns || entry.hard_link.is_some()) {
                continue;
            }
            while within.last().is_some_and(|(dir, _)| !entry.path.starts_with(dir)) {
                within.pop();
            }
            // The root has nothing above itself that could hide it.
            let is_shown = within.last().is_none_or(|(_, is_shown)| *is_shown);
            if is_dir {
                let shows = is_shown && !is_opaque && self.has_dir(entry)?;
                within.push((entry.path.clone(), shows));
            } else if is_shown && self.has_same(entry, hash.as_ref())? {
                unchanged.push(number);
            }
        }
        Ok(unchanged)
    }

    fn has_dir(&self, entry: &Entry) -> Result<bool, TreeError> {
        Ok(self.tree.entry(&entry.path)?.is_some_and(|found| found.kind == EntryKind::Dir))
    }

    /// Whether the file, link, pipe or device is there below, with the same properties and bytes.
    fn has_same(&self, entry: &Entry, hash: Option<&FileHash>) -> Result<bool, TreeError> {
        let Some(found) = self.tree.entry(&entry.path)? else { return Ok(false) };
        let mut xattrs = entry.xattrs.clone();
        let (uid, gid) = take_noted(&mut xattrs).unwrap_or((entry.uid, entry.gid));
        let properties = (&found.kind, found.mode, found.uid, found.gid, found.mtime_ns, &found.xattrs);
        if properties != (&entry.kind, entry.mode, uid, gid, entry.mtime_ns, &xattrs) {
            return Ok(false);
        }
        match hash {
            Some(hash) => Ok(self.tree.digest(&found)? == hash.digest),
            None => Ok(true),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File, Permissions};
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
    use std::path::Path;
    use std::time::{Duration, UNIX_EPOCH};

    use kiln_image::layer::{OverlayXattrs, pack};

    use super::*;
    use crate::listing::{LayerListing, Room};

    /// A file of this text and age in days.
    fn write(path: &Path, text: &str, age: u64) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        date(path, age);
    }

    fn date(path: &Path, age: u64) {
        let time = UNIX_EPOCH + Duration::new(1_000_000_000 - age * 86_400, 5);
        File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    }

    /// The names of the files that stay in the layer.
    fn left(layer: &Path, below: &Path) -> Vec<String> {
        let below = Below::now(LayerTree::open(&[below]).unwrap());
        for dir in [layer.to_owned(), layer.join("d")] {
            let old = UNIX_EPOCH + Duration::from_millis(77_500);
            File::open(dir).unwrap().set_modified(old).unwrap();
        }
        let mut contents = LayerContents::read(layer, &Room::default()).unwrap();
        contents.drop_unchanged(layer, &below).unwrap();
        let again = LayerContents::read(layer, &Room::none()).unwrap();
        assert_eq!(contents.digest().contents, again.digest().contents);
        let entries = contents.0.iter().map(|found| &found.entry);
        let files = entries.filter(|entry| entry.kind != EntryKind::Dir);
        let left = files.map(|entry| entry.path.display().to_string()).collect();
        // Also the times of directories are as they were listed.
        let tree = File::open(layer).unwrap();
        let packed = pack(tree.as_fd(), OverlayXattrs::of_this_process(), &mut std::io::sink()).unwrap();
        assert_eq!(fs::metadata(layer.join("d")).unwrap().mtime_nsec(), 500_000_000);
        let listing = LayerListing::new(contents);
        assert_eq!(listing.diff_id(layer).unwrap(), packed.diff_id);
        left
    }

    #[test]
    fn what_is_as_it_was_is_left_out_and_everything_else_stays() {
        let (below, layer) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let both = [below.path(), layer.path()];
        for dir in both {
            for name in ["d/same", "bytes", "time", "mode", "size", "xattr", "two", "kind"] {
                write(&dir.join(name), "text", 1);
            }
            write(&dir.join("opaque/same"), "text", 1);
            symlink("there", dir.join("d/link")).unwrap();
            let link = fs::symlink_metadata(below.path().join("d/link")).unwrap();
            let time = rustix::fs::Timespec { tv_sec: link.mtime(), tv_nsec: link.mtime_nsec() };
            let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
            let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::utimensat(rustix::fs::CWD, dir.join("d/link"), &times, flags).unwrap();
        }
        let at = |name: &str| layer.path().join(name);
        write(&at("bytes"), "next", 1);
        date(&at("time"), 2);
        fs::set_permissions(at("mode"), Permissions::from_mode(0o604)).unwrap();
        write(&at("size"), "longer", 1);
        let set = |name: &str, xattr: &str, value: &[u8]| {
            rustix::fs::setxattr(at(name), xattr, value, rustix::fs::XattrFlags::empty()).unwrap();
        };
        set("xattr", "user.x", b"");
        fs::hard_link(at("two"), at("more")).unwrap();
        fs::remove_file(below.path().join("kind")).unwrap();
        symlink("text", below.path().join("kind")).unwrap();
        write(&at("new/file"), "text", 1);
        set("opaque", OverlayXattrs::of_this_process().opaque(), b"y");
        // The directory is new where there was a link: what was found behind that does not show.
        write(&below.path().join("behind/same"), "text", 1);
        symlink("behind", below.path().join("over")).unwrap();
        write(&at("over/same"), "text", 1);
        let left = left(layer.path(), below.path());
        let expected = [
            "bytes",
            "kind",
            "mode",
            "more",
            "new/file",
            "opaque/same",
            "over/same",
            "size",
            "time",
            "two",
            "xattr",
        ];
        assert_eq!(left, expected);
        assert!(!at("d/same").exists() && !at("d/link").is_symlink() && at("d").is_dir());
    }
}
