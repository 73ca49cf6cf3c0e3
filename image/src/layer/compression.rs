//! gzip and zstd, in and out; bzip2 and xz, in. Output is deterministic: the same bytes for the same input and level,
//! whatever the machine.

use std::io::{self, BufRead as _, BufReader, Cursor, Read, Write};

use super::gzip::GzipWriter;
use super::tar_reader::is_header_block;
use super::{At as _, Compression, LayerError};

/// What kiln reads. Layers are written as [`Compression`] says; the others come in archives that people made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Plain,
    Gzip,
    Zstd,
    Bzip2,
    Xz,
}

impl Format {
    /// What the first bytes of a stream say.
    fn sniff(head: &[u8]) -> Self {
        if head.starts_with(&[0x1f, 0x8b, 0x08]) {
            Self::Gzip
        } else if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) || is_skippable_zstd_frame(head) {
            Self::Zstd
        } else if matches!(head, [b'B', b'Z', b'h', b'1'..=b'9', ..]) {
            Self::Bzip2
        } else if head.starts_with(&[0xfd, b'7', b'z', b'X', b'Z', 0x00]) {
            Self::Xz
        } else {
            Self::Plain
        }
    }
}

/// zstd's frames for users' own data may come first; `zstd:chunked` layers and pzstd write them (RFC 8878, 3.1.2).
fn is_skippable_zstd_frame(head: &[u8]) -> bool {
    matches!(head, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

/// The uncompressed bytes of `input`, compressed as its first bytes say. Several members, frames or streams are
/// one; anything else behind them is an error when it is reached (THREATS B11).
///
/// # Errors
/// I/O while looking at the first bytes.
pub fn decompress<'a>(input: impl Read + 'a) -> Result<Box<dyn Read + 'a>, LayerError> {
    let mut input = BufReader::with_capacity(INPUT_BUFFER_BYTES, Peeked::new(input).at(b"archive")?);
    Ok(match Format::sniff(input.fill_buf().at(b"archive")?) {
        Format::Plain => Box::new(input),
        Format::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(input)),
        Format::Xz => {
            Box::new(UntilError::Reading(lzma_rust2::XzReader::new_mem_limit(input, true, XZ_MEMORY_KIB)))
        }
        Format::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Format::Zstd => {
            let mut decoder = zstd::Decoder::with_buffer(input).at(b"archive")?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).at(b"archive")?;
            Box::new(decoder)
        }
    })
}

/// How the layer is compressed whose blob begins with `head`. Give [`SNIFF_BYTES`] of it, or all if there are fewer.
pub fn compression_of(head: &[u8]) -> Compression {
    match Format::sniff(head) {
        Format::Gzip => Compression::Gzip,
        Format::Zstd => Compression::Zstd,
        // No media type says one of the others.
        Format::Plain | Format::Bzip2 | Format::Xz => Compression::None,
    }
}

/// Whether a stream that begins with `head` is compressed in a way that [`decompress`] knows.
pub(crate) fn is_compressed(head: &[u8]) -> bool {
    Format::sniff(head) != Format::Plain
}

/// Whether the file that begins with `head` is an archive that ADD unpacks (FEATURES CP22): its (uncompressed) bytes begin
/// with a tar header. Give [`ARCHIVE_HEAD_BYTES`] of it, or all if there are fewer.
pub fn is_archive(head: &[u8]) -> bool {
    let Ok(mut bytes) = decompress(head) else { return false };
    let mut block = [0; 512];
    bytes.read_exact(&mut block).is_ok() && is_header_block(&block)
}

/// A writer that compresses into `out`; call [`Compressor::finish`] at the end. `level` is gzip's (0–9) or zstd's (0–22),
/// the usual one if `None`.
///
/// # Errors
/// The level is none of the format's.
pub fn compress<W: Write>(
    out: W,
    compression: Compression,
    level: Option<i32>,
) -> Result<Compressor<W>, LayerError> {
    Ok(match compression {
        Compression::None => Compressor::Plain(out),
        Compression::Gzip => Compressor::Gzip(Box::new(GzipWriter::new(out, gzip_level(level)?))),
        Compression::Zstd => {
            let level = level.unwrap_or(ZSTD_LEVEL);
            if !(0..=22).contains(&level) {
                return Err(bad_level());
            }
            let mut encoder = zstd::Encoder::new(out, level).at(b"zstd")?;
            // zstd writes the same bytes for any number of workers, but others without any.
            let workers = std::thread::available_parallelism().map_or(1, |n| n.get().min(MAX_WORKERS));
            encoder.multithread(u32::try_from(workers).unwrap_or(1)).at(b"zstd")?;
            encoder.include_checksum(true).at(b"zstd")?;
            Compressor::Zstd(Box::new(encoder))
        }
    })
}

/// A level of gzip's, the usual one if `None`.
pub(super) fn gzip_level(level: Option<i32>) -> Result<u32, LayerError> {
    let level = u32::try_from(level.unwrap_or(GZIP_LEVEL)).map_err(|_| bad_level())?;
    if level > 9 { Err(bad_level()) } else { Ok(level) }
}

fn bad_level() -> LayerError {
    LayerError::Io {
        path: "compression level".to_owned(),
        source: io::Error::new(io::ErrorKind::InvalidInput, "gzip has levels 0 to 9, zstd 0 to 22"),
    }
}

/// Compresses what is written to it.
pub enum Compressor<W: Write> {
    /// As it is.
    Plain(W),
    /// gzip.
    Gzip(Box<GzipWriter<W>>),
    /// zstd.
    Zstd(Box<zstd::Encoder<'static, W>>),
}

impl<W: Write> Compressor<W> {
    /// Writes the format's end and gives the writer back.
    ///
    /// # Errors
    /// I/O.
    pub fn finish(self) -> io::Result<W> {
        match self {
            Self::Plain(mut out) => out.flush().map(|()| out),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(out) => out.write(bytes),
            Self::Gzip(encoder) => encoder.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(out) => out.flush(),
            Self::Gzip(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
        }
    }
}

impl<W: Write> std::fmt::Debug for Compressor<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Compressor::Plain",
            Self::Gzip(_) => "Compressor::Gzip",
            Self::Zstd(_) => "Compressor::Zstd",
        })
    }
}

/// The first bytes read ahead: a pipe may give them one by one, and sniffing needs them all.
struct Peeked<R> {
    head: Cursor<Vec<u8>>,
    rest: R,
}

impl<R: Read> Peeked<R> {
    fn new(mut rest: R) -> io::Result<Self> {
        let mut head = Vec::with_capacity(SNIFF_BYTES);
        rest.by_ref().take(SNIFF_BYTES as u64).read_to_end(&mut head)?;
        Ok(Self { head: Cursor::new(head), rest })
    }
}

impl<R: Read> Read for Peeked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.head.read(buffer)? {
            0 => self.rest.read(buffer),
            read => Ok(read),
        }
    }
}

/// A decoder that must not be read again once it has failed.
enum UntilError<R> {
    Reading(R),
    Failed,
}

impl<R: Read> Read for UntilError<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Self::Reading(reader) = self else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the stream is damaged"));
        };
        let result = reader.read(buffer);
        if result.is_err() {
            *self = Self::Failed;
        }
        result
    }
}

/// The largest window of a zstd frame that is decoded, as a power of two: 128 MiB, what zstd's own tool takes unasked.
pub const ZSTD_WINDOW_LOG_MAX: u32 = 27;
/// The memory that decoding an xz stream may take, in KiB: enough for a dictionary of 128 MiB, twice that of `xz -9`.
const XZ_MEMORY_KIB: u32 = 130 * 1024;
/// How much of a file [`is_archive`] wants to see: more than one whole block of any format. bzip2 has the largest, of
/// 900 kB before it is compressed.
pub const ARCHIVE_HEAD_BYTES: usize = 1 << 20;

/// Enough of a stream to tell its format.
pub const SNIFF_BYTES: usize = 8;
const INPUT_BUFFER_BYTES: usize = 128 * 1024;
/// libdeflate's makes layers about as small as zlib's usual 6: from 5% less for text to 4% more for many small sources.
const GZIP_LEVEL: i32 = 4;
const ZSTD_LEVEL: i32 = 3;
const MAX_WORKERS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn compressed(bytes: &[u8], how: Compression) -> Vec<u8> {
        let mut writer = compress(Vec::new(), how, None).unwrap();
        writer.write_all(bytes).unwrap();
        writer.finish().unwrap()
    }

    fn decompressed(bytes: &[u8]) -> Result<Vec<u8>, io::Error> {
        let mut out = Vec::new();
        decompress(bytes).unwrap().read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn every_format_is_found_by_its_first_bytes_and_comes_back_whole() {
        let bytes = vec![7; 300_000];
        for how in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let blob = compressed(&bytes, how);
            assert_eq!(compression_of(&blob[..SNIFF_BYTES]), how);
            assert_eq!(decompressed(&blob).unwrap(), bytes, "{how:?}");
        }
    }

    /// `printf one | bzip2`.
    const BZIP2_ONE: &[u8] = &[
        0x42, 0x5a, 0x68, 0x39, 0x31, 0x41, 0x59, 0x26, 0x53, 0x59, 0xbb, 0x70, 0x1b, 0x10, 0x00, 0x00, 0x01,
        0x01, 0x00, 0x02, 0x01, 0xa0, 0x00, 0x21, 0x98, 0x19, 0x81, 0x61, 0x77, 0x24, 0x53, 0x85, 0x09, 0x0b,
        0xb7, 0x01, 0xb1, 0x00,
    ];
    /// `printf one | xz`.
    const XZ_ONE: &[u8] = &[
        0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00, 0x00, 0x04, 0xe6, 0xd6, 0xb4, 0x46, 0x02, 0x00, 0x21, 0x01, 0x16,
        0x00, 0x00, 0x00, 0x74, 0x2f, 0xe5, 0xa3, 0x01, 0x00, 0x02, 0x6f, 0x6e, 0x65, 0x00, 0x00, 0x7e, 0xe5,
        0x10, 0xc5, 0xd5, 0x6a, 0x6c, 0x9a, 0x00, 0x01, 0x1b, 0x03, 0x0b, 0x2f, 0xb9, 0x10, 0x1f, 0xb6, 0xf3,
        0x7d, 0x01, 0x00, 0x00, 0x00, 0x00, 0x04, 0x59, 0x5a,
    ];

    #[test]
    fn bzip2_and_xz_are_read_streams_behind_each_other_too() {
        for one in [BZIP2_ONE, XZ_ONE] {
            assert_eq!(decompressed(one).unwrap(), b"one");
            assert_eq!(decompressed(&[one, one].concat()).unwrap(), b"oneone");
            assert!(decompressed(&one[..one.len() - 3]).is_err());
            assert!(decompressed(&[one, b"garbage behind it"].concat()).is_err());
            let mut damaged = one.to_vec();
            damaged[one.len() / 2] ^= 1;
            assert!(decompressed(&damaged).is_err());
        }
    }

    #[test]
    fn an_xz_dictionary_over_the_limit_is_refused() {
        // `printf one | xz --lzma2=dict=256MiB`.
        assert!(
            decompressed(&[
                0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00, 0x00, 0x04, 0xe6, 0xd6, 0xb4, 0x46, 0x02, 0x00, 0x21,
                0x01, 0x20, 0x00, 0x00, 0x00, 0x09, 0x88, 0xa5, 0x76, 0x01, 0x00, 0x02, 0x6f, 0x6e, 0x65,
                0x00, 0x00, 0x7e, 0xe5, 0x10, 0xc5, 0xd5, 0x6a, 0x6c, 0x9a, 0x00, 0x01, 0x1b, 0x03, 0x0b,
                0x2f, 0xb9, 0x10, 0x1f, 0xb6, 0xf3, 0x7d, 0x01, 0x00, 0x00, 0x00, 0x00, 0x04, 0x59, 0x5a
            ])
            .is_err()
        );
    }

    #[test]
    fn several_members_or_frames_are_one_stream() {
        for how in [Compression::Gzip, Compression::Zstd] {
            let mut twice = compressed(b"one", how);
            twice.extend(compressed(b"two", how));
            assert_eq!(decompressed(&twice).unwrap(), b"onetwo", "{how:?}");
        }
        let mut skippable = vec![0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
        skippable.extend(compressed(b"one", Compression::Zstd));
        assert_eq!(compression_of(&skippable), Compression::Zstd);
        assert_eq!(decompressed(&skippable).unwrap(), b"one");
    }

    #[test]
    fn garbage_behind_the_stream_and_a_cut_stream_are_errors() {
        for how in [Compression::Gzip, Compression::Zstd] {
            let whole = compressed(&[1; 1000], how);
            let mut trailing = whole.clone();
            trailing.extend(b"garbage behind it");
            assert!(decompressed(&trailing).is_err(), "{how:?}");
            assert!(decompressed(&whole[..whole.len() - 3]).is_err(), "{how:?}");
        }
    }

    #[test]
    fn a_zstd_window_over_the_limit_is_refused() {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(ZSTD_WINDOW_LOG_MAX + 1).unwrap();
        encoder.write_all(b"x").unwrap();
        encoder.flush().unwrap();
        let bytes = encoder.finish().unwrap();
        assert!(decompressed(&bytes).is_err());
    }

    #[test]
    fn compressing_twice_gives_the_same_bytes() {
        let bytes: Vec<u8> = (0..2_000_000_u32).map(|i| (i / 7 % 256) as u8).collect();
        for how in [Compression::Gzip, Compression::Zstd] {
            assert_eq!(compressed(&bytes, how), compressed(&bytes, how));
        }
    }

    #[test]
    fn an_archive_is_one_by_what_is_in_it() {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(0);
        header.set_cksum();
        tar.append_data(&mut header, "a", io::empty()).unwrap();
        let tar = tar.into_inner().unwrap();
        for how in [Compression::None, Compression::Gzip, Compression::Zstd] {
            assert!(is_archive(&compressed(&tar, how)), "{how:?}");
            assert!(!is_archive(&compressed(b"no tar at all", how)), "{how:?}");
        }
        assert!(!is_archive(b""));
        assert!(!is_archive(&[0; 10240]));
    }
}
