//! gzip on all processors (RFC 1952): blocks of the stream are compressed side by side, each to a member of its own, which
//! every reader takes for one stream (section 2.2). Where blocks end depends on the input alone, and so do the bytes.
//!
//! By libdeflate, which takes whole buffers only. Against one member by zlib at the same level it needs half of the time and the
//! result is smaller, although no member sees the bytes before it.

use std::io::{self, Write};

use libdeflater::{CompressionLvl, Compressor};

use super::in_order::InOrder;
use super::incompressible::parts;

/// Writes gzip members.
pub struct GzipWriter<W> {
    out: W,
    level: u32,
    block: Vec<u8>,
    members: InOrder<io::Result<Vec<u8>>>,
}

impl<W: Write> GzipWriter<W> {
    /// `level` is 0 to 9.
    pub(super) fn new(out: W, level: u32) -> Self {
        Self::with_queue(out, level, InOrder::new())
    }

    fn with_queue(out: W, level: u32, members: InOrder<io::Result<Vec<u8>>>) -> Self {
        Self { out, level, block: Vec::new(), members }
    }

    /// Writes what is left; of an empty stream, an empty member.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.submit()?;
        while let Some(member) = self.members.pop() {
            self.out.write_all(&member??)?;
        }
        self.out.flush()?;
        Ok(self.out)
    }

    fn submit(&mut self) -> io::Result<()> {
        let block = std::mem::take(&mut self.block);
        let level = self.level;
        match self.members.push(move || members(level, &block)) {
            Some(member) => self.out.write_all(&member??),
            None => Ok(()),
        }
    }
}

impl<W: Write> Write for GzipWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Only when more comes, so that no empty member ends the stream.
        if self.block.len() == BLOCK_BYTES && !bytes.is_empty() {
            self.submit()?;
            self.block.reserve_exact(BLOCK_BYTES);
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

/// `block` as gzip members: what deflate cannot make smaller is stored, in members of its own.
fn members(level: u32, block: &[u8]) -> io::Result<Vec<u8>> {
    // Level 0 stores everything.
    if level == 0 || block.is_empty() {
        return member(level, block);
    }
    let mut out = Vec::new();
    let mut deflate = compressor(level)?;
    let mut store = compressor(0)?;
    for (is_incompressible, part) in parts(block) {
        append_member(&mut out, if is_incompressible { &mut store } else { &mut deflate }, part)?;
    }
    Ok(out)
}

/// `bytes` as a gzip member with no time, no name and "unknown" as the system: nothing of this machine.
pub(super) fn member(level: u32, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    append_member(&mut out, &mut compressor(level)?, bytes)?;
    Ok(out)
}

fn append_member(out: &mut Vec<u8>, compressor: &mut Compressor, bytes: &[u8]) -> io::Result<()> {
    let start = out.len();
    out.resize(start + compressor.gzip_compress_bound(bytes.len()), 0);
    let length = compressor.gzip_compress(bytes, &mut out[start..]).map_err(|error| failed(&error))?;
    out.truncate(start + length);
    Ok(())
}

fn compressor(level: u32) -> io::Result<Compressor> {
    let level = i32::try_from(level).map_err(|error| failed(&error))?;
    Ok(Compressor::new(CompressionLvl::new(level).map_err(|error| failed(&error))?))
}

fn failed(error: &dyn std::fmt::Debug) -> io::Error {
    io::Error::other(format!("gzip failed: {error:?}"))
}

const BLOCK_BYTES: usize = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    fn compressed(bytes: &[u8], level: u32, workers: usize, piece: usize) -> Vec<u8> {
        let mut writer = GzipWriter::with_queue(Vec::new(), level, InOrder::with_workers(workers));
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
            flate2::read::MultiGzDecoder::new(one.as_slice()).read_to_end(&mut read).unwrap();
            assert!(read == bytes, "level {level}");
        }
    }

    #[test]
    fn what_cannot_be_made_smaller_is_stored_and_the_rest_is_compressed_as_ever() {
        let text: Vec<u8> =
            (0_u32..).flat_map(|i| format!("{i} {}\n", i % 977).into_bytes()).take(1 << 16).collect();
        let mut state = 1_u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
            (state >> 56) as u8
        })
        .take(1 << 16)
        .collect();
        let mixed = [&*noise, &text, &text, &noise, &noise[..5000], &text, &noise[..5000]].concat();
        let both = compressed(&mixed, 6, 2, 1 << 20);
        let plain = member(6, &mixed).unwrap();
        // At level 0 all is stored, and nothing is told apart.
        assert!(compressed(&mixed, 0, 2, 1 << 20) == member(0, &mixed).unwrap());
        assert!(both.len() < plain.len() + plain.len() / 100, "{} and {}", both.len(), plain.len());
        // As it is, but for the headers of stored blocks.
        let stored = &noise[1000..30_000];
        assert!(both.windows(stored.len()).any(|window| window == stored));
        let mut read = Vec::new();
        flate2::read::MultiGzDecoder::new(both.as_slice()).read_to_end(&mut read).unwrap();
        assert!(read == mixed);
    }

    #[test]
    fn a_stream_of_any_length_around_the_block_size_comes_back() {
        for length in [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 2 * BLOCK_BYTES] {
            let bytes = vec![b'x'; length];
            let mut read = Vec::new();
            flate2::read::MultiGzDecoder::new(compressed(&bytes, 6, 3, 8192).as_slice())
                .read_to_end(&mut read)
                .unwrap();
            assert!(read == bytes, "{length}");
        }
    }

    #[test]
    fn blocks_are_no_larger_than_one_member_by_zlib() {
        let text: Vec<u8> =
            (0..400_000_u32).flat_map(|i| format!("line {} of {}\n", i % 977, i / 3).into_bytes()).collect();
        let mut whole = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
        whole.write_all(&text).unwrap();
        let whole = whole.finish().unwrap().len();
        let blocks = compressed(&text, 6, 2, 1 << 20).len();
        assert!(blocks < whole, "{blocks} and {whole}");
    }
}
