//! Secrets stay where they were shown: a step's output is searched for their bytes before anybody sees it, and its new
//! files before they become a layer.
//!
//! A secret is looked for as it was given, without blanks around it. What a step makes of it (base64, a hash, a part) is
//! not found, and cache mounts, which are never part of an image, are not searched.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use kiln_image::layer::next_data;
use memchr::memmem::Finder;
use rustix::fs::{Mode, OFlags};

/// Shorter ones are in too many places that have nothing to do with them: they are not masked.
const SHORTEST: usize = 8;

/// Shorter ones may be in a layer. What machines hand out is longer; what people write into a file to see whether the mount
/// works is not, and BuildKit lets them.
const SHORTEST_IN_LAYER: usize = 16;

/// What stands in a log in a secret's place.
const MASK: &[u8] = b"***";

/// Bytes of a file looked at together.
const CHUNK_BYTES: usize = 256 * 1024;

/// The secrets that a step was shown.
#[derive(Default)]
pub(super) struct Shown(Vec<Needle>);

struct Needle {
    id: String,
    finder: Finder<'static>,
}

/// A secret and the file that has it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Leak {
    pub(super) id: String,
    /// From the image's root.
    pub(super) path: PathBuf,
}

impl Shown {
    pub(super) fn add(&mut self, id: &str, value: &[u8]) {
        let value = value.trim_ascii();
        let is_new = self.0.iter().all(|needle| needle.finder.needle() != value);
        if value.len() >= SHORTEST && is_new {
            self.0.push(Needle { id: id.to_owned(), finder: Finder::new(value).into_owned() });
        }
    }

    /// The first secret in `bytes`: where it begins, and how long it is.
    fn find(&self, bytes: &[u8]) -> Option<(usize, usize, &Needle)> {
        self.find_of(0, bytes)
    }

    /// The same among secrets of at least `shortest` bytes.
    fn find_of(&self, shortest: usize, bytes: &[u8]) -> Option<(usize, usize, &Needle)> {
        self.0
            .iter()
            .filter(|needle| needle.finder.needle().len() >= shortest)
            .filter_map(|needle| Some((needle.finder.find(bytes)?, needle.finder.needle().len(), needle)))
            .min_by_key(|&(at, length, _)| (at, usize::MAX - length))
    }

    /// Bytes at the end of `bytes` with which a secret may begin.
    fn begun(&self, bytes: &[u8]) -> usize {
        self.0
            .iter()
            .filter_map(|needle| {
                let needle = needle.finder.needle();
                let longest = bytes.len().min(needle.len() - 1);
                (1..=longest).rev().find(|&length| bytes.ends_with(&needle[..length]))
            })
            .max()
            .unwrap_or_default()
    }

    /// Looks through everything below `root`: contents, names, and where links lead.
    pub(super) fn search(&self, root: &Path) -> io::Result<Option<Leak>> {
        if self.0.iter().all(|needle| needle.finder.needle().len() < SHORTEST_IN_LAYER) {
            return Ok(None);
        }
        let find = |bytes: &[u8]| self.find_of(SHORTEST_IN_LAYER, bytes).map(|(.., needle)| needle);
        let mut pending = vec![PathBuf::new()];
        while let Some(folder) = pending.pop() {
            let mut entries = std::fs::read_dir(root.join(&folder))?.collect::<io::Result<Vec<_>>>()?;
            entries.sort_by_key(std::fs::DirEntry::file_name);
            for entry in entries {
                let path = folder.join(entry.file_name());
                let kind = entry.file_type()?;
                let mut found = find(entry.file_name().as_bytes());
                if kind.is_dir() {
                    pending.push(path.clone());
                } else if kind.is_symlink() {
                    let target = std::fs::read_link(entry.path())?;
                    found = found.or_else(|| find(target.as_os_str().as_bytes()));
                } else if kind.is_file() && found.is_none() {
                    found = self.find_in_file(&entry.path())?;
                }
                if let Some(needle) = found {
                    return Ok(Some(Leak { id: needle.id.clone(), path: Path::new("/").join(path) }));
                }
            }
        }
        Ok(None)
    }

    fn find_in_file(&self, path: &Path) -> io::Result<Option<&Needle>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
        let size = file.metadata()?.len();
        let mut done = 0;
        while done < size {
            let data = next_data(&file, done..size)?;
            // A secret that begins or ends in zeros may do so in a hole.
            let from = data.start.saturating_sub(self.overlap() as u64).max(done);
            (&file).seek(SeekFrom::Start(from))?;
            let found = self.find_in((&file).take(data.end + self.overlap() as u64 - from))?;
            if found.is_some() {
                return Ok(found);
            }
            done = data.end;
        }
        Ok(None)
    }

    /// Bytes of a piece that are looked at again with the next one.
    fn overlap(&self) -> usize {
        self.0.iter().map(|needle| needle.finder.needle().len() - 1).max().unwrap_or_default()
    }

    fn find_in(&self, mut input: impl Read) -> io::Result<Option<&Needle>> {
        let overlap = self.overlap();
        let mut buffer = vec![0; overlap + CHUNK_BYTES];
        let mut kept = 0;
        loop {
            let length = match input.read(&mut buffer[kept..]) {
                Ok(0) => return Ok(None),
                Ok(length) => kept + length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if let Some((.., needle)) = self.find_of(SHORTEST_IN_LAYER, &buffer[..length]) {
                return Ok(Some(needle));
            }
            // What may be a secret's beginning is looked at again with what follows.
            kept = overlap.min(length);
            buffer.copy_within(length - kept..length, 0);
        }
    }
}

/// One stream of a step's output on its way to the log.
pub(super) struct Masked<'a> {
    shown: &'a Shown,
    /// The beginning of what may become a secret.
    held: Vec<u8>,
}

impl<'a> Masked<'a> {
    pub(super) fn new(shown: &'a Shown) -> Self {
        Self { shown, held: Vec::new() }
    }

    /// What may be shown of the stream with `bytes` come.
    pub(super) fn push<'b>(&mut self, bytes: &'b [u8]) -> Cow<'b, [u8]> {
        if self.shown.0.is_empty() {
            return Cow::Borrowed(bytes);
        }
        self.held.extend_from_slice(bytes);
        let mut clean = Vec::with_capacity(self.held.len());
        let mut rest = self.held.as_slice();
        while let Some((at, length, _)) = self.shown.find(rest) {
            clean.extend_from_slice(&rest[..at]);
            clean.extend_from_slice(MASK);
            rest = &rest[at + length..];
        }
        let (sure, begun) = rest.split_at(rest.len() - self.shown.begun(rest));
        clean.extend_from_slice(sure);
        self.held = begun.to_vec();
        Cow::Owned(clean)
    }

    /// What was held back at the stream's end.
    pub(super) fn end(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown() -> Shown {
        let mut shown = Shown::default();
        shown.add("key", b"  canary-of-a-secret\n");
        shown.add("other", b"another-one-secret");
        shown.add("short", b"short");
        shown.add("medium", b"opensesame");
        shown
    }

    /// A reader that gives a few bytes at a time.
    struct Slow<'a>(&'a [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = self.1.min(self.0.len()).min(buffer.len());
            let (now, later) = self.0.split_at(length);
            buffer[..length].copy_from_slice(now);
            self.0 = later;
            Ok(length)
        }
    }

    #[test]
    fn a_secret_is_found_wherever_the_chunks_part_it() {
        let shown = shown();
        let text = [vec![b'c'; CHUNK_BYTES - 5], b"canary-of-a-secret".to_vec(), vec![b'x'; 10]].concat();
        assert_eq!(shown.find_in(&text[..]).unwrap().map(|needle| needle.id.as_str()), Some("key"));
        for step in 1..20 {
            assert!(
                shown.find_in(Slow(b"..canary-of-a-secre..canary-of-a-secret", step)).unwrap().is_some(),
                "{step}"
            );
            assert!(
                shown.find_in(Slow(b"..canary-of-a-secre..canary-of-a-secre", step)).unwrap().is_none(),
                "{step}"
            );
        }
        assert!(shown.find_in(&b"short opensesame"[..]).unwrap().is_none());
    }

    #[test]
    fn a_secret_is_found_between_holes() {
        use std::os::unix::fs::FileExt as _;
        let shown = shown();
        let folder = tempfile::tempdir().unwrap();
        let file = File::create(folder.path().join("f")).unwrap();
        file.set_len(64 << 20).unwrap();
        let id = || shown.search(folder.path()).unwrap().map(|leak| leak.id);
        assert_eq!(id(), None);
        file.write_all_at(b"nothing", 1 << 20).unwrap();
        file.write_all_at(b"canary-of-a-secret", 33 << 20).unwrap();
        assert_eq!(id().as_deref(), Some("key"));
    }

    #[test]
    fn names_and_links_are_looked_at_too() {
        let shown = shown();
        let leak = |make: &dyn Fn(&Path)| {
            let folder = tempfile::tempdir().unwrap();
            std::fs::create_dir(folder.path().join("d")).unwrap();
            make(&folder.path().join("d"));
            shown.search(folder.path()).unwrap().map(|leak| (leak.id, leak.path.display().to_string()))
        };
        let pair = |id: &str, path: &str| Some((id.to_owned(), path.to_owned()));
        assert_eq!(leak(&|d| std::fs::write(d.join("f"), "canary").unwrap()), None);
        assert_eq!(
            leak(&|d| std::fs::write(d.join("f"), "a canary-of-a-secret").unwrap()),
            pair("key", "/d/f")
        );
        let link = |d: &Path| std::os::unix::fs::symlink("/another-one-secret", d.join("l")).unwrap();
        assert_eq!(leak(&link), pair("other", "/d/l"));
        assert_eq!(
            leak(&|d| std::fs::create_dir(d.join("canary-of-a-secret")).unwrap()),
            pair("key", "/d/canary-of-a-secret")
        );
    }

    #[test]
    fn output_is_masked_and_nothing_else_is_held_back() {
        let shown = shown();
        let text =
            b"say opensesame canary-of-a-secret, canary-of-a-secre, another-one-secretanother-one-secret can";
        for step in 1..text.len() {
            let mut masked = Masked::new(&shown);
            let mut said: Vec<u8> =
                text.chunks(step).flat_map(|chunk| masked.push(chunk).into_owned()).collect();
            said.extend(masked.end());
            assert_eq!(
                String::from_utf8(said).unwrap(),
                "say *** ***, canary-of-a-secre, ****** can",
                "{step}"
            );
        }
        let mut masked = Masked::new(&shown);
        assert_eq!(&*masked.push(b"50% done\r"), b"50% done\r");
        assert_eq!(&*Masked::new(&Shown::default()).push(b"canary-of-a-secret"), b"canary-of-a-secret");
    }
}
