//! Reading local bytes only as far as a descriptor promises, and checking that it told the truth.

use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

use crate::Digest;

/// What was read is not what its descriptor says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Mismatch {
    /// Longer or shorter.
    #[error("blob {digest} has not the {expected} bytes that its descriptor says")]
    Size {
        /// Of the blob.
        digest: Digest,
        /// As the descriptor says.
        expected: u64,
    },
    /// Other contents.
    #[error("blob {expected} has digest {got}")]
    Digest {
        /// Of the descriptor.
        expected: Digest,
        /// Of the bytes.
        got: Digest,
    },
}

/// Gives an error (a [`Mismatch`]) in place of the end of file when size or digest differ.
#[derive(Debug)]
pub struct Verified<R> {
    reader: R,
    digest: Digest,
    size: u64,
    read: u64,
    hash: Sha256,
    done: bool,
}

impl<R: Read> Verified<R> {
    /// Reads `size` bytes of `digest` from `reader`.
    pub fn new(reader: R, digest: Digest, size: u64) -> Self {
        Self { reader, digest, size, read: 0, hash: Sha256::new(), done: false }
    }

    fn finish(&mut self) -> Result<(), Mismatch> {
        let got = Digest::from_bytes(self.hash.finalize_reset().into());
        if got != self.digest {
            return Err(Mismatch::Digest { expected: self.digest, got });
        }
        self.done = true;
        Ok(())
    }
}

impl<R: Read> Read for Verified<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() || self.done {
            return Ok(0);
        }
        let wrong_size = Mismatch::Size { digest: self.digest, expected: self.size };
        let left = self.size - self.read;
        if left == 0 {
            if read_some(&mut self.reader, &mut [0])? > 0 {
                return Err(io::Error::other(wrong_size));
            }
            self.finish().map_err(io::Error::other)?;
            return Ok(0);
        }
        let room = left.min(buffer.len() as u64) as usize;
        match read_some(&mut self.reader, &mut buffer[..room])? {
            0 => Err(io::Error::other(wrong_size)),
            read => {
                self.hash.update(&buffer[..read]);
                self.read += read as u64;
                Ok(read)
            }
        }
    }
}

fn read_some(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match reader.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], digest: Digest, size: u64) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        Verified::new(bytes, digest, size).read_to_end(&mut all)?;
        Ok(all)
    }

    #[test]
    fn bytes_that_keep_the_promise_are_read_to_their_end() {
        assert_eq!(read(b"abc", Digest::of(b"abc"), 3).unwrap(), b"abc");
        assert_eq!(read(b"", Digest::of(b""), 0).unwrap(), b"");
    }

    #[test]
    fn one_byte_more_less_or_other_is_an_error() {
        let digest = Digest::of(b"abc");
        for (bytes, size) in [(&b"abcd"[..], 3), (b"ab", 3), (b"abd", 3), (b"abc", 4), (b"abc", 2)] {
            let error = read(bytes, digest, size).unwrap_err();
            assert!(error.get_ref().unwrap().is::<Mismatch>(), "{bytes:?} {size}");
        }
    }
}
