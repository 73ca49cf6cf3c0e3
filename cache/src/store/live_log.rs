//! What a running step prints, for those who wait for its result.
//!
//! The step's claim writes to `locks/<key>.log`, made when there is something to write and gone before the claim is let
//! go. Whoever waits reads on at each look at the lock; a file that another one replaced is of a runner that died.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use rustix::fs::OFlags;

use super::locks::is_at;

/// Ending of these files.
pub(super) const SUFFIX: &str = ".log";
/// A flood of output is not kept twice.
const MAX_BYTES: u64 = 2 << 20;
/// Read at once.
const READ_BYTES: usize = 64 << 10;

/// The runner's end.
#[derive(Debug)]
pub(super) struct Writer {
    path: PathBuf,
    file: Option<File>,
    written: u64,
}

impl Writer {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, file: None, written: 0 }
    }

    /// Best effort: who cannot follow still gets the result.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.written >= MAX_BYTES {
            return;
        }
        self.written += bytes.len() as u64;
        if self.file.is_none() {
            // What a killed runner left is another file: its readers see the end of it.
            let _ = std::fs::remove_file(&self.path);
            self.file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&self.path).ok();
        }
        if let Some(file) = &mut self.file {
            let _ = file.write_all(bytes);
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.file.is_some() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// A waiter's end.
#[derive(Debug)]
pub(super) struct Reader {
    path: PathBuf,
    file: Option<File>,
}

impl Reader {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, file: None }
    }

    /// Tells what came since the last call.
    pub(super) fn read(&mut self, tell: &mut dyn FnMut(&[u8])) {
        self.read_open(tell);
        let is_current = self.file.as_ref().is_some_and(|file| is_at(file, &self.path).unwrap_or(false));
        if !is_current {
            let flags = OFlags::NOFOLLOW.bits().cast_signed();
            if let Ok(file) = OpenOptions::new().read(true).custom_flags(flags).open(&self.path) {
                self.file = Some(file);
                self.read_open(tell);
            }
        }
    }

    /// What is left in the file that was open last, be it removed meanwhile.
    pub(super) fn read_open(&mut self, tell: &mut dyn FnMut(&[u8])) {
        let Some(file) = &mut self.file else { return };
        let mut buffer = vec![0; READ_BYTES];
        while let Ok(read @ 1..) = file.read(&mut buffer) {
            tell(&buffer[..read]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_once_and_to_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut reader = Reader::new(path.clone());
        let mut seen = Vec::new();
        reader.read(&mut |bytes| seen.extend_from_slice(bytes));
        let mut writer = Writer::new(path.clone());
        writer.push(b"one ");
        reader.read(&mut |bytes| seen.extend_from_slice(bytes));
        writer.push(b"two ");
        drop(writer);
        assert!(!path.exists());
        reader.read_open(&mut |bytes| seen.extend_from_slice(bytes));
        // Another runner.
        let mut writer = Writer::new(path);
        writer.push(b"three");
        reader.read(&mut |bytes| seen.extend_from_slice(bytes));
        assert_eq!(seen, b"one two three");
    }
}
