//! Files that a step opens for writing: overlayfs copies those to the upper directory, written to or not (lock files,
//! above all), so they are part of the layer.

use std::collections::{HashMap, HashSet};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use super::copy::{by_descriptor, open_directory};
use super::listing::{Listing, Path};

/// A watch on the directories of a tree. Where the kernel allows no more of them the rest goes unnoticed.
pub(super) struct Watch {
    events: OwnedFd,
    directories: HashMap<i32, Path>,
}

/// Bytes of events that are read at once.
const EVENT_BYTES: usize = 64 * 1024;

impl Watch {
    /// Watches every directory that `listing` has of `tree`.
    pub(super) fn on(tree: BorrowedFd<'_>, listing: &Listing) -> io::Result<Option<Watch>> {
        let events = match inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK) {
            Err(Errno::MFILE | Errno::NOSYS | Errno::PERM) => return Ok(None),
            other => other?,
        };
        let mut directories = HashMap::new();
        let listed =
            listing.entries.iter().filter(|(_, mark)| mark.is_directory()).map(|(path, _)| path.clone());
        for path in std::iter::once(Path::default()).chain(listed) {
            let directory = open_directory(tree, &path.bytes())?;
            let flags = WatchFlags::CLOSE_WRITE | WatchFlags::ONLYDIR;
            match inotify::add_watch(&events, by_descriptor(directory.as_fd(), c"."), flags) {
                Ok(number) => drop(directories.insert(number, path)),
                Err(Errno::NOSPC) => break,
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(Some(Watch { events, directories }))
    }

    /// What has been closed after it was open for writing. A flood of them drops the rest.
    pub(super) fn written(self) -> io::Result<HashSet<Path>> {
        let mut buffer = [MaybeUninit::uninit(); EVENT_BYTES];
        let mut reader = Reader::new(&self.events, &mut buffer);
        let mut written = HashSet::new();
        loop {
            match reader.next() {
                Ok(event) if event.events().contains(ReadFlags::CLOSE_WRITE) => {
                    if let (Some(directory), Some(name)) =
                        (self.directories.get(&event.wd()), event.file_name())
                    {
                        written.insert(directory.join(name.to_bytes()));
                    }
                }
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(written),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}
