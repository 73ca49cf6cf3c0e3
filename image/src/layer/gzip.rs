//! gzip on all processors (RFC 1951, RFC 1952): one member, whose blocks are compressed side by side. Each starts with the
//! end of the block before it as its dictionary, so that next to nothing is lost. Where blocks end depends on the input
//! alone, and so do the bytes.

use std::io::{self, Write};
use std::sync::Arc;

use flate2::{Compress, Compression, Crc, FlushCompress, Status};

use super::in_order::InOrder;

/// Writes one gzip member.
pub struct GzipWriter<W> {
    out: W,
    level: u32,
    block: Vec<u8>,
    /// The end of the block before.
    dictionary: Arc<Vec<u8>>,
    deflated: InOrder<io::Result<Deflated>>,
    crc: Crc,
}

struct Deflated {
    bytes: Vec<u8>,
    crc: Crc,
}

impl<W: Write> GzipWriter<W> {
    /// `level` is 0 to 9.
    pub(super) fn new(out: W, level: u32) -> io::Result<Self> {
        Self::with_queue(out, level, InOrder::new())
    }

    fn with_queue(mut out: W, level: u32, deflated: InOrder<io::Result<Deflated>>) -> io::Result<Self> {
        out.write_all(&HEADER)?;
        Ok(Self {
            out,
            level,
            block: Vec::with_capacity(BLOCK_BYTES),
            dictionary: Arc::default(),
            deflated,
            crc: Crc::new(),
        })
    }

    /// Writes what is left and the trailer.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.submit(Part::Last)?;
        while let Some(deflated) = self.deflated.pop() {
            self.take(deflated??)?;
        }
        self.out.write_all(&trailer(&self.crc))?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn submit(&mut self, part: Part) -> io::Result<()> {
        let block = std::mem::replace(&mut self.block, Vec::with_capacity(BLOCK_BYTES));
        let end = &block[block.len().saturating_sub(DICTIONARY_BYTES)..];
        let before = std::mem::replace(&mut self.dictionary, Arc::new(end.to_vec()));
        let level = self.level;
        let done = self.deflated.push(move || {
            let mut crc = Crc::new();
            crc.update(&block);
            Ok(Deflated { bytes: deflate(level, &before, &block, part)?, crc })
        });
        match done {
            Some(deflated) => self.take(deflated??),
            None => Ok(()),
        }
    }

    fn take(&mut self, deflated: Deflated) -> io::Result<()> {
        self.crc.combine(&deflated.crc);
        self.out.write_all(&deflated.bytes)
    }
}

impl<W: Write> Write for GzipWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Only when more comes: the last block is marked as such.
        if self.block.len() == BLOCK_BYTES && !bytes.is_empty() {
            self.submit(Part::NotLast)?;
        }
        let taken = bytes.len().min(BLOCK_BYTES - self.block.len());
        self.block.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        // A block ends where the input says, not where someone flushed.
        Ok(())
    }
}

/// Whether a block ends its deflate stream.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    NotLast,
    Last,
}

/// `bytes` as a whole gzip member.
pub(super) fn member(level: u32, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut crc = Crc::new();
    crc.update(bytes);
    let deflated = deflate(level, &[], bytes, Part::Last)?;
    Ok([&HEADER[..], &deflated, &trailer(&crc)].concat())
}

fn deflate(level: u32, dictionary: &[u8], block: &[u8], part: Part) -> io::Result<Vec<u8>> {
    let mut compress = Compress::new(Compression::new(level), false);
    if !dictionary.is_empty() {
        compress.set_dictionary(dictionary)?;
    }
    let flush = match part {
        Part::NotLast => FlushCompress::Sync,
        Part::Last => FlushCompress::Finish,
    };
    let mut out = Vec::with_capacity(block.len() / 2 + SPARE_BYTES);
    loop {
        let taken = usize::try_from(compress.total_in()).unwrap_or(usize::MAX).min(block.len());
        let status = compress.compress_vec(&block[taken..], &mut out, flush)?;
        let has_room = out.len() < out.capacity();
        let is_done = match part {
            // With room left, all that was to be flushed is out.
            Part::NotLast => has_room && compress.total_in() == block.len() as u64,
            Part::Last => status == Status::StreamEnd,
        };
        if is_done {
            return Ok(out);
        }
        out.reserve(out.capacity().max(SPARE_BYTES));
    }
}

fn trailer(crc: &Crc) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&crc.sum().to_le_bytes());
    bytes[4..].copy_from_slice(&crc.amount().to_le_bytes());
    bytes
}

/// No time, no name and "unknown" as the system: nothing of this machine.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
const BLOCK_BYTES: usize = 512 * 1024;
/// Deflate looks no farther back.
const DICTIONARY_BYTES: usize = 32 * 1024;
const SPARE_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    fn compressed(bytes: &[u8], level: u32, workers: usize, piece: usize) -> Vec<u8> {
        let mut writer = GzipWriter::with_queue(Vec::new(), level, InOrder::with_workers(workers)).unwrap();
        for piece in bytes.chunks(piece) {
            writer.write_all(piece).unwrap();
        }
        writer.finish().unwrap()
    }

    #[test]
    fn the_bytes_are_the_same_for_any_number_of_threads_and_any_sizes_of_writes() {
        let bytes: Vec<u8> =
            (0..3_000_000_u32).flat_map(|i| (i.wrapping_mul(i) >> 9).to_le_bytes()).take(3_000_000).collect();
        for level in [0, 1, 6, 9] {
            let one = compressed(&bytes, level, 1, 1 << 20);
            for (workers, piece) in [(2, 4096), (5, 1 << 22), (16, 700_001)] {
                assert!(compressed(&bytes, level, workers, piece) == one, "level {level}, {workers} threads");
            }
            let mut read = Vec::new();
            // One member: a reader that knows of no others reads all.
            flate2::read::GzDecoder::new(one.as_slice()).read_to_end(&mut read).unwrap();
            assert!(read == bytes, "level {level}");
        }
    }

    #[test]
    fn a_stream_of_any_length_around_the_block_size_comes_back() {
        for length in [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 2 * BLOCK_BYTES] {
            let bytes = vec![b'x'; length];
            let mut read = Vec::new();
            flate2::read::GzDecoder::new(compressed(&bytes, 6, 3, 8192).as_slice())
                .read_to_end(&mut read)
                .unwrap();
            assert!(read == bytes, "{length}");
        }
    }

    #[test]
    fn blocks_cost_next_to_nothing_in_size() {
        let text: Vec<u8> =
            (0..400_000_u32).flat_map(|i| format!("line {} of {}\n", i % 977, i / 3).into_bytes()).collect();
        let mut whole = flate2::write::GzEncoder::new(Vec::new(), Compression::new(6));
        whole.write_all(&text).unwrap();
        let whole = whole.finish().unwrap().len();
        let blocks = compressed(&text, 6, 2, 1 << 20).len();
        assert!(blocks < whole + whole / 100, "{blocks} and {whole}");
    }
}
