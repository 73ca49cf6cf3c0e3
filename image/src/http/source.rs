//! A body on its way out.

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::canceled;

/// The bytes of a body: so many and no more, counted, and stopped when the user gives up.
pub(crate) struct Source {
    reader: Box<dyn Read + Send>,
    left: u64,
    sent: u64,
    told: Arc<dyn Fn(u64) + Send + Sync>,
    cancel: Arc<AtomicBool>,
    failed: Arc<Mutex<Option<io::Error>>>,
}

/// Why a [`Source`] could not be read: for the connection that looks like one that broke.
pub(crate) struct SourceError(Arc<Mutex<Option<io::Error>>>);

impl Source {
    /// `told` hears how many bytes were sent.
    pub(crate) fn new(
        reader: Box<dyn Read + Send>,
        size_bytes: u64,
        told: Arc<dyn Fn(u64) + Send + Sync>,
        cancel: &Arc<AtomicBool>,
    ) -> (Self, SourceError) {
        let failed = Arc::new(Mutex::new(None));
        let error = SourceError(Arc::clone(&failed));
        (Self { reader, left: size_bytes, sent: 0, told, cancel: Arc::clone(cancel), failed }, error)
    }
}

impl SourceError {
    /// The error, once.
    pub(crate) fn take(&self) -> Option<io::Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = self.left.min(buffer.len() as u64) as usize;
        if room == 0 {
            return Ok(0);
        }
        let result = match self.reader.read(&mut buffer[..room]) {
            _ if self.cancel.load(Ordering::Relaxed) => Err(canceled()),
            Ok(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ends too early")),
            result => result,
        };
        match result {
            Ok(read) => {
                self.left -= read as u64;
                self.sent += read as u64;
                (self.told)(self.sent);
                Ok(read)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                Err(io::Error::other("the blob cannot be read"))
            }
        }
    }
}
