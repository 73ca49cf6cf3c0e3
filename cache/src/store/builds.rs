//! Past builds, a line each in `history`; what is in it is the engine's business.
//!
//! Every build adds one, also one that found everything done and reads nothing but the database: hence a file of its own,
//! to which a line is appended and nothing else. A line that a kill or a power cut spoilt is none.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use rustix::fs::{FlockOperation, OFlags, flock};

use super::Store;
use super::error::{At, StoreError};
use super::locks::is_at;
use super::packed::{pack, unpack};

/// So many are remembered.
const MAX_BUILDS: usize = 256;
/// A build that takes more is not remembered.
const MAX_BUILD_BYTES: usize = 256 << 10;
/// A history that has grown longer is written anew, with what fits into half of this.
const MAX_HISTORY_BYTES: u64 = 8 << 20;

/// A past build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildRow {
    /// Its name among all, lower-case hex digits.
    pub id: String,
    /// What is known of it, as the engine wrote it.
    pub about: Vec<u8>,
}

impl Store {
    /// Remembers a build. Now and then the oldest are forgotten, all beyond 256 and those that take too much room.
    ///
    /// # Errors
    /// I/O.
    pub fn add_build(&self, build: &BuildRow) -> Result<(), StoreError> {
        let about = pack(&build.about);
        if about.len() > MAX_BUILD_BYTES {
            return Ok(());
        }
        let path = self.history_path();
        let mut file = open(&path, FlockOperation::LockShared)?;
        // The line's end is at its beginning: after one that was cut short this one is whole.
        let line = format!("\n{} {}", build.id, STANDARD_NO_PAD.encode(about));
        file.write_all(line.as_bytes()).at(&path)?;
        if file.stream_position().at(&path)? <= MAX_HISTORY_BYTES {
            return Ok(());
        }
        drop(file);
        rewrite(&path, |_| true).map(drop)
    }

    /// The remembered builds, newest first.
    ///
    /// # Errors
    /// I/O.
    pub fn builds(&self) -> Result<Vec<BuildRow>, StoreError> {
        let path = self.history_path();
        let mut text = Vec::new();
        match File::open(&path).and_then(|mut file| file.read_to_end(&mut text)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            read => read.at(&path).map(|_| newest_first(&text).map(|(row, _)| row).collect()),
        }
    }

    /// Forgets builds. Returns how many there were; unknown ids are none.
    ///
    /// # Errors
    /// I/O.
    pub fn remove_builds(&self, ids: &[String]) -> Result<usize, StoreError> {
        rewrite(&self.history_path(), |row| !ids.contains(&row.id))
    }

    fn history_path(&self) -> PathBuf {
        self.root().join("history")
    }
}

/// Opens the history for appending and locks it: shared to append, alone to replace it.
fn open(path: &Path, operation: FlockOperation) -> Result<File, StoreError> {
    loop {
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(path)
            .at(path)?;
        while let Err(error) = flock(&file, operation) {
            if error != rustix::io::Errno::INTR {
                return Err(error).at(path);
            }
        }
        // Somebody may have put another in its place before the lock was had.
        if is_at(&file, path)? {
            return Ok(file);
        }
    }
}

/// Writes the history anew with the builds that `keeps` wants. Returns how many it did not.
fn rewrite(path: &Path, keeps: impl Fn(&BuildRow) -> bool) -> Result<usize, StoreError> {
    let mut file = open(path, FlockOperation::LockExclusive)?;
    let mut text = Vec::new();
    file.read_to_end(&mut text).at(path)?;
    let (kept, unwanted): (Vec<_>, Vec<_>) = newest_first(&text).partition(|(row, _)| keeps(row));
    let mut room = MAX_HISTORY_BYTES as usize / 2;
    let mut lines: Vec<&[u8]> = Vec::with_capacity(2 * kept.len());
    for (_, line) in kept {
        let Some(left) = room.checked_sub(line.len() + 1) else { break };
        room = left;
        lines.extend([line, b"\n".as_slice()]);
    }
    lines.reverse();
    // Of this name there is one only: whoever writes it has the lock.
    let new = path.with_extension("new");
    std::fs::write(&new, lines.concat()).and_then(|()| std::fs::rename(&new, path)).at(&new)?;
    Ok(unwanted.len())
}

/// The last builds of a history's text, each with its line.
fn newest_first(text: &[u8]) -> impl Iterator<Item = (BuildRow, &[u8])> {
    text.rsplit(|&byte| byte == b'\n').filter_map(|line| Some((parse(line)?, line))).take(MAX_BUILDS)
}

fn parse(line: &[u8]) -> Option<BuildRow> {
    let (id, packed) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    let about = unpack(&STANDARD_NO_PAD.decode(packed).ok()?)?;
    Some(BuildRow { id: id.to_owned(), about })
}
