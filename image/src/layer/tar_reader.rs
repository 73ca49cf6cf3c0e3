//! Reads tar streams entry by entry: ustar, PAX, GNU long names, GNU and PAX sparse files.
//!
//! `tar::Header` gives the layout of a block; what several blocks mean together is read here and not by `tar::Archive`,
//! which holds extension records of any size in memory and splits them at newlines, although values (file capabilities,
//! names) may contain some. Where known readers disagree on what an archive holds, it is refused (THREATS B3): nobody
//! shall see other files in a layer than kiln does.

use std::collections::BTreeMap;
use std::io::{self, BufRead};

use tar::{EntryType, GnuExtSparseHeader, GnuSparseHeader, Header};

use super::{At as _, LayerError, shown};

/// One entry, its extensions applied.
#[derive(Clone, Debug)]
pub(super) struct TarEntry {
    /// As stored: nothing is cleaned or checked but that it holds no NUL and is not too long.
    pub(super) path: Vec<u8>,
    pub(super) kind: TarKind,
    /// Permission bits, 0–07777.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Mtime,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Since the epoch; nanoseconds count upwards also before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mtime {
    pub(super) seconds: i64,
    pub(super) nanoseconds: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TarKind {
    /// A regular file. Its data are the segments one after another; between them are holes.
    File {
        size: u64,
        segments: Vec<Segment>,
    },
    HardLink(Vec<u8>),
    Symlink(Vec<u8>),
    Dir,
    Fifo,
    CharDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
}

/// A piece of a file that is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// Reads entries from a stream.
pub(super) struct TarReader<R> {
    input: R,
    /// Of the current entry: data not yet read, and the padding behind them.
    data_left: u64,
    padding: u64,
    entries: u64,
}

impl<R: BufRead> TarReader<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, data_left: 0, padding: 0, entries: 0 }
    }

    /// The next entry; `None` at the end of the archive (two zero blocks, or the end of the stream between entries).
    pub(super) fn next_entry(&mut self) -> Result<Option<TarEntry>, LayerError> {
        let mut extensions = Extensions::default();
        loop {
            self.skip_data()?;
            let Some(header) = self.next_header()? else {
                return match extensions.is_empty() {
                    true => Ok(None),
                    false => Err(malformed(b"archive", "extension records without their entry")),
                };
            };
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                return Err(too_large(b"archive", "entries", MAX_ENTRIES));
            }
            match header.entry_type() {
                EntryType::XGlobalHeader => refuse_meaningful_globals(&self.extension(&header)?)?,
                EntryType::XHeader => extensions.set_pax(parse_pax(&self.extension(&header)?)?)?,
                EntryType::GNULongName => {
                    let name = until_nul(&self.extension(&header)?).to_vec();
                    set_once(&mut extensions.long_name, name)?;
                }
                EntryType::GNULongLink => {
                    let name = until_nul(&self.extension(&header)?).to_vec();
                    set_once(&mut extensions.long_link, name)?;
                }
                _ => return self.entry(&header, extensions).map(Some),
            }
        }
    }

    /// Hands the data of the current entry's next `length` bytes to `sink`, piece by piece.
    pub(super) fn copy_data(
        &mut self,
        path: &[u8],
        length: u64,
        mut sink: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), LayerError> {
        let mut left = length;
        while left > 0 {
            let available = self.input.fill_buf().map_err(read_error)?;
            if available.is_empty() || self.data_left == 0 {
                return Err(truncated());
            }
            let take = left.min(self.data_left).min(available.len() as u64);
            // At most the length of `available`, which is a `usize`.
            let amount = usize::try_from(take).unwrap_or(available.len());
            sink(&available[..amount]).at(path)?;
            self.input.consume(amount);
            left -= take;
            self.data_left -= take;
        }
        Ok(())
    }

    /// Reads the rest of the stream, so that all of it is hashed and its compression's end is checked.
    pub(super) fn drain(mut self) -> Result<u64, LayerError> {
        loop {
            let length = self.input.fill_buf().map_err(read_error)?.len();
            if length == 0 {
                return Ok(self.entries);
            }
            self.input.consume(length);
        }
    }

    fn skip_data(&mut self) -> Result<(), LayerError> {
        let mut left = self.data_left.saturating_add(self.padding);
        while left > 0 {
            let available = self.input.fill_buf().map_err(read_error)?.len();
            if available == 0 {
                // umoci ends a layer with the last file's last byte, which Go's readers take for an end.
                if left <= self.padding {
                    break;
                }
                return Err(truncated());
            }
            let amount = usize::try_from(left).unwrap_or(available).min(available);
            self.input.consume(amount);
            left -= amount as u64;
        }
        (self.data_left, self.padding) = (0, 0);
        Ok(())
    }

    fn next_header(&mut self) -> Result<Option<Header>, LayerError> {
        let Some(block) = self.block()? else { return Ok(None) };
        if block == [0; BLOCK] {
            return match self.block()? {
                Some(second) if second != [0; BLOCK] => {
                    Err(malformed(b"archive", "a zero block that does not end the archive"))
                }
                _ => Ok(None),
            };
        }
        if !is_header_block(&block) {
            return Err(malformed(b"archive", "not a tar header (wrong checksum)"));
        }
        Ok(Some(Header::from_byte_slice(&block).clone()))
    }

    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, LayerError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.input.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(truncated()),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(read_error(error)),
            }
        }
        Ok(Some(block))
    }

    fn set_data(&mut self, size: u64) {
        self.data_left = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    /// The data of an extension entry.
    fn extension(&mut self, header: &Header) -> Result<Vec<u8>, LayerError> {
        let size = unsigned(b"archive", &header.as_old().size)?;
        if size > MAX_EXTENSION_BYTES {
            return Err(too_large(b"archive", "bytes of extension records", MAX_EXTENSION_BYTES));
        }
        self.set_data(size);
        let mut bytes = Vec::new();
        self.copy_data(b"archive", size, |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(bytes)
    }

    fn entry(&mut self, header: &Header, extensions: Extensions) -> Result<TarEntry, LayerError> {
        let Extensions { pax, long_name, long_link } = extensions;
        let mut pax = pax.unwrap_or_default();
        let sparse_name = pax.remove(&b"GNU.sparse.name"[..]);
        if usize::from(long_name.is_some())
            + usize::from(pax.contains_key(&b"path"[..]) && sparse_name.is_none())
            + usize::from(sparse_name.is_some())
            > 1
            || (long_link.is_some() && pax.contains_key(&b"linkpath"[..]))
        {
            return Err(malformed(b"archive", "two extended names for one entry"));
        }
        let path = sparse_name
            .or(long_name)
            .or(pax.remove(&b"path"[..]))
            .unwrap_or_else(|| header.path_bytes().into_owned());
        check_name(&path, &path)?;
        let link = long_link
            .or(pax.remove(&b"linkpath"[..]))
            .unwrap_or_else(|| header.link_name_bytes().map(|link| link.into_owned()).unwrap_or_default());
        check_name(&path, &link)?;

        let old = header.as_old();
        let size = match pax.get(&b"size"[..]) {
            Some(text) => decimal(&path, text)?,
            None => unsigned(&path, &old.size)?,
        };
        let id = |key: &[u8], field: &[u8]| -> Result<u32, LayerError> {
            let id = match pax.get(key) {
                Some(text) => decimal(&path, text)?,
                None => unsigned(&path, field)?,
            };
            // The last one means "leave it" to chown(2).
            u32::try_from(id)
                .ok()
                .filter(|id| *id != u32::MAX)
                .ok_or_else(|| malformed(&path, "an owner that is no 32-bit number"))
        };
        let (uid, gid) = (id(b"uid", &old.uid)?, id(b"gid", &old.gid)?);
        let mtime = match pax.get(&b"mtime"[..]) {
            Some(text) => parse_mtime(text).ok_or_else(|| malformed(&path, "a time that is no number"))?,
            None => Mtime { seconds: number(&path, &old.mtime)?, nanoseconds: 0 },
        };
        // Some writers put the file type's bits into the mode as well.
        let mode = u32::try_from(unsigned(&path, &old.mode)? & 0o7777).unwrap_or_default();

        let kind = match header.entry_type() {
            // Before POSIX a directory was a file whose name ends in a slash.
            EntryType::Regular if path.ends_with(b"/") && header.as_bytes()[156] == 0 && size == 0 => {
                TarKind::Dir
            }
            EntryType::Regular | EntryType::Continuous => {
                self.set_data(size);
                match self.pax_sparse(&path, &pax)? {
                    Some(sparse) => sparse,
                    None => TarKind::File { size, segments: whole(size) },
                }
            }
            EntryType::GNUSparse => {
                self.set_data(size);
                self.gnu_sparse(&path, header)?
            }
            // Known readers agree that a hard link's size is that of the file it names and that no data follow.
            EntryType::Link => TarKind::HardLink(link),
            other => {
                if size != 0 {
                    return Err(malformed(&path, "data in an entry that is no file"));
                }
                match other {
                    EntryType::Symlink => TarKind::Symlink(link),
                    EntryType::Directory => TarKind::Dir,
                    EntryType::Fifo => TarKind::Fifo,
                    EntryType::Char | EntryType::Block => {
                        let ustar = header.as_bytes();
                        let device = |field: &[u8], bits: u32| {
                            let number = unsigned(&path, field)?;
                            u32::try_from(number)
                                .ok()
                                .filter(|number| number >> bits == 0)
                                .ok_or_else(|| malformed(&path, "a device number that Linux does not have"))
                        };
                        let (major, minor) = (device(&ustar[329..337], 12)?, device(&ustar[337..345], 20)?);
                        match other {
                            EntryType::Char => TarKind::CharDevice { major, minor },
                            _ => TarKind::BlockDevice { major, minor },
                        }
                    }
                    _ => return Err(malformed(&path, "an entry of unknown type")),
                }
            }
        };
        if let TarKind::File { size, .. } = kind
            && size > MAX_FILE_BYTES
        {
            return Err(too_large(&path, "bytes in a file", MAX_FILE_BYTES));
        }
        let xattrs = pax
            .into_iter()
            .filter_map(|(key, value)| Some((key.strip_prefix(b"SCHILY.xattr.")?.to_vec(), value)))
            .collect();
        Ok(TarEntry { path, kind, mode, uid, gid, mtime, xattrs })
    }

    /// A sparse file of GNU's own format: four pieces in the header, more in blocks behind it.
    fn gnu_sparse(&mut self, path: &[u8], header: &Header) -> Result<TarKind, LayerError> {
        let gnu = header.as_gnu().ok_or_else(|| malformed(path, "a sparse file without GNU's header"))?;
        let size = unsigned(path, &gnu.realsize)?;
        let mut segments = Segments::new(path);
        segments.add_all(&gnu.sparse)?;
        let mut more = gnu.is_extended();
        while more {
            let block = self.block()?.ok_or_else(truncated)?;
            let mut extended = GnuExtSparseHeader::new();
            extended.as_mut_bytes().copy_from_slice(&block);
            segments.add_all(&extended.sparse)?;
            more = extended.is_extended();
        }
        segments.finish(size, self.data_left)
    }

    /// A sparse file of GNU's PAX formats 0.1 (the map is a record) and 1.0 (the map precedes the data).
    fn pax_sparse(&mut self, path: &[u8], pax: &Pax) -> Result<Option<TarKind>, LayerError> {
        let value = |key: &str| pax.get(key.as_bytes());
        if let Some(map) = value("GNU.sparse.map") {
            let size =
                value("GNU.sparse.size").ok_or_else(|| malformed(path, "a sparse file without its size"))?;
            let mut numbers = map.split(|&b| b == b',').map(|text| decimal(path, text));
            let mut segments = Segments::new(path);
            while let Some(offset) = numbers.next() {
                let length =
                    numbers.next().ok_or_else(|| malformed(path, "half a piece of a sparse file"))?;
                segments.add(offset?, length?)?;
            }
            return segments.finish(decimal(path, size)?, self.data_left).map(Some);
        }
        match (value("GNU.sparse.major").map(Vec::as_slice), value("GNU.sparse.minor").map(Vec::as_slice)) {
            (None, None) if value("GNU.sparse.size").is_none() && value("GNU.sparse.realsize").is_none() => {
                Ok(None)
            }
            (Some(b"1"), Some(b"0")) => {
                let size = value("GNU.sparse.realsize")
                    .ok_or_else(|| malformed(path, "a sparse file without its size"))?;
                let size = decimal(path, size)?;
                let before = self.data_left;
                let count = self.sparse_number(path)?;
                let mut segments = Segments::new(path);
                for _ in 0..count {
                    let (offset, length) = (self.sparse_number(path)?, self.sparse_number(path)?);
                    segments.add(offset, length)?;
                }
                // The map is padded to a block.
                let padding = (before - self.data_left).wrapping_neg() % BLOCK as u64;
                self.copy_data(path, padding, |_| Ok(()))?;
                segments.finish(size, self.data_left).map(Some)
            }
            _ => Err(malformed(path, "a sparse file of unknown format")),
        }
    }

    /// A decimal number and a newline out of the entry's data.
    fn sparse_number(&mut self, path: &[u8]) -> Result<u64, LayerError> {
        let mut digits = Vec::new();
        loop {
            let mut byte = 0;
            self.copy_data(path, 1, |piece| {
                byte = piece[0];
                Ok(())
            })?;
            if byte == b'\n' {
                return decimal(path, &digits);
            }
            digits.push(byte);
            if digits.len() > 20 {
                return Err(malformed(path, "a bad number in a sparse file's map"));
            }
        }
    }
}

/// Whether the block is a tar header by its checksum, which some old writers summed over signed bytes.
pub(super) fn is_header_block(block: &[u8; BLOCK]) -> bool {
    let Some(stored) = parse_number(&block[148..156]) else { return false };
    let (mut unsigned, mut signed) = (0_i64, 0_i64);
    for (index, &byte) in block.iter().enumerate() {
        let byte = if (148..156).contains(&index) { b' ' } else { byte };
        unsigned += i64::from(byte);
        signed += i64::from(i8::from_ne_bytes([byte]));
    }
    // A block of zeros sums to that of the eight spaces, and stores nothing.
    block[0..148] != [0; 148] && (stored == unsigned || stored == signed)
}

type Pax = BTreeMap<Vec<u8>, Vec<u8>>;

/// What extension entries said of the entry that follows them.
#[derive(Default)]
struct Extensions {
    pax: Option<Pax>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl Extensions {
    fn is_empty(&self) -> bool {
        self.pax.is_none() && self.long_name.is_none() && self.long_link.is_none()
    }

    fn set_pax(&mut self, pax: Pax) -> Result<(), LayerError> {
        match self.pax.replace(pax) {
            None => Ok(()),
            Some(_) => Err(malformed(b"archive", "two extension records for one entry")),
        }
    }
}

fn set_once(slot: &mut Option<Vec<u8>>, name: Vec<u8>) -> Result<(), LayerError> {
    match slot.replace(name) {
        None => Ok(()),
        Some(_) => Err(malformed(b"archive", "two extended names for one entry")),
    }
}

/// Collects and checks the pieces of a sparse file.
struct Segments<'a> {
    path: &'a [u8],
    segments: Vec<Segment>,
    end: u64,
    stored: u64,
}

impl<'a> Segments<'a> {
    fn new(path: &'a [u8]) -> Self {
        Self { path, segments: Vec::new(), end: 0, stored: 0 }
    }

    fn add_all(&mut self, headers: &[GnuSparseHeader]) -> Result<(), LayerError> {
        // The first empty one ends the list.
        for header in headers.iter().take_while(|header| !header.is_empty()) {
            self.add(unsigned(self.path, &header.offset)?, unsigned(self.path, &header.numbytes)?)?;
        }
        Ok(())
    }

    fn add(&mut self, offset: u64, length: u64) -> Result<(), LayerError> {
        let end = offset.checked_add(length);
        if offset < self.end || end.is_none() {
            return Err(malformed(self.path, "pieces of a sparse file that overlap"));
        }
        if self.segments.len() >= MAX_SPARSE_SEGMENTS {
            return Err(too_large(self.path, "pieces in a sparse file", MAX_SPARSE_SEGMENTS as u64));
        }
        self.end = end.unwrap_or(offset);
        self.stored += length;
        if length > 0 {
            self.segments.push(Segment { offset, length });
        }
        Ok(())
    }

    fn finish(self, size: u64, data: u64) -> Result<TarKind, LayerError> {
        if self.end > size || self.stored != data {
            return Err(malformed(self.path, "pieces of a sparse file that do not fit its size"));
        }
        Ok(TarKind::File { size, segments: self.segments })
    }
}

fn whole(size: u64) -> Vec<Segment> {
    if size == 0 { Vec::new() } else { vec![Segment { offset: 0, length: size }] }
}

/// Records are `<length> <key>=<value>\n`, the length counting all of it (POSIX pax, "Extended Header"). The last of equal
/// keys counts and an empty value means none, as GNU tar and Go's reader have it.
fn parse_pax(mut bytes: &[u8]) -> Result<Pax, LayerError> {
    let bad = || malformed(b"archive", "a malformed extension record");
    let mut pax = Pax::new();
    while !bytes.is_empty() {
        let space = bytes.iter().take(20).position(|&b| b == b' ').ok_or_else(bad)?;
        let length = usize::try_from(decimal(b"archive", &bytes[..space])?).map_err(|_| bad())?;
        if length <= space + 1 || length > bytes.len() || bytes[length - 1] != b'\n' {
            return Err(bad());
        }
        let record = &bytes[space + 1..length - 1];
        bytes = &bytes[length..];
        let equals = record.iter().position(|&b| b == b'=').ok_or_else(bad)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        // The oldest of GNU's sparse formats repeats keys; nobody has written it since 2006.
        if key.is_empty() || key == b"GNU.sparse.offset" || key == b"GNU.sparse.numbytes" {
            return Err(bad());
        }
        if value.is_empty() && !key.starts_with(b"SCHILY.xattr.") {
            pax.remove(key);
        } else {
            pax.insert(key.to_vec(), value.to_vec());
        }
    }
    Ok(pax)
}

/// GNU tar applies global records to all that follows, Go's reader to nothing: fine as long as they say nothing of it (git
/// leaves its commit in one).
fn refuse_meaningful_globals(bytes: &[u8]) -> Result<(), LayerError> {
    let meaningful = |key: &[u8]| {
        matches!(key, b"path" | b"linkpath" | b"size" | b"uid" | b"gid" | b"hdrcharset")
            || key.starts_with(b"GNU.sparse.")
            || key.starts_with(b"SCHILY.xattr.")
    };
    match parse_pax(bytes)?.keys().any(|key| meaningful(key)) {
        true => Err(malformed(b"archive", "global records that change the entries behind them")),
        false => Ok(()),
    }
}

/// Seconds with a fraction, maybe negative.
fn parse_mtime(text: &[u8]) -> Option<Mtime> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let negative = whole.starts_with('-');
    let digits = whole.strip_prefix('-').unwrap_or(whole);
    if !digits.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) || digits.is_empty() {
        return None;
    }
    let seconds: i64 = digits.parse().ok()?;
    let nanoseconds = fraction.bytes().chain(std::iter::repeat(b'0')).take(9);
    let nanoseconds = nanoseconds.fold(0_u32, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    Some(match (negative, nanoseconds) {
        (false, _) => Mtime { seconds, nanoseconds },
        (true, 0) => Mtime { seconds: -seconds, nanoseconds: 0 },
        (true, _) => Mtime { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

/// A header's number: octal text, or GNU's big-endian binary with the first bit set.
fn parse_number(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 != 0 {
        let start =
            if first & 0x40 == 0 { i128::from(first & 0x3f) } else { i128::from(first & 0x3f) - 0x40 };
        let value = field[1..].iter().fold(start, |sum, &byte| sum << 8 | i128::from(byte));
        return i64::try_from(value).ok();
    }
    let text = until_nul(field).trim_ascii();
    text.iter().try_fold(0_i64, |sum, &digit| match digit {
        b'0'..=b'7' => sum.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

fn number(path: &[u8], field: &[u8]) -> Result<i64, LayerError> {
    parse_number(field).ok_or_else(|| malformed(path, "a field that should be a number"))
}

fn unsigned(path: &[u8], field: &[u8]) -> Result<u64, LayerError> {
    u64::try_from(number(path, field)?).map_err(|_| malformed(path, "a negative number"))
}

fn decimal(path: &[u8], text: &[u8]) -> Result<u64, LayerError> {
    // `parse` alone would take a plus sign.
    let digits = text.iter().all(u8::is_ascii_digit).then_some(text);
    digits
        .and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<u64>().ok())
        .filter(|&number| i64::try_from(number).is_ok())
        .ok_or_else(|| malformed(path, "a record that should be a number"))
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|&b| b == 0).next().unwrap_or_default()
}

fn check_name(path: &[u8], name: &[u8]) -> Result<(), LayerError> {
    if name.contains(&0) {
        return Err(malformed(path, "a name with a NUL"));
    }
    if name.len() > MAX_PATH_BYTES {
        return Err(too_large(path, "bytes in a name", MAX_PATH_BYTES as u64));
    }
    Ok(())
}

fn malformed(entry: &[u8], problem: &'static str) -> LayerError {
    LayerError::Malformed { entry: shown(entry), problem }
}

fn too_large(entry: &[u8], what: &'static str, limit: u64) -> LayerError {
    LayerError::TooLarge { entry: shown(entry), what, limit }
}

fn truncated() -> LayerError {
    malformed(b"archive", "it ends in the middle of an entry")
}

fn read_error(source: io::Error) -> LayerError {
    match source.kind() {
        io::ErrorKind::FileTooLarge => {
            too_large(b"archive", "bytes uncompressed", super::unpack::MAX_LAYER_BYTES)
        }
        _ => LayerError::Io { path: "archive".to_owned(), source },
    }
}

/// The longest name or link target: what the kernel takes in one call (`PATH_MAX` less its NUL).
pub const MAX_PATH_BYTES: usize = 4095;
/// The most bytes of one entry's PAX records or GNU long name; Go's reader has the same.
pub const MAX_EXTENSION_BYTES: u64 = 1 << 20;
/// The most entries in one archive, extension entries counted.
pub const MAX_ENTRIES: u64 = 10_000_000;
/// The largest file.
pub const MAX_FILE_BYTES: u64 = 1 << 40;
/// The most pieces of one sparse file.
pub const MAX_SPARSE_SEGMENTS: usize = 1 << 18;

const BLOCK: usize = 512;
