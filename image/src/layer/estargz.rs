//! eStargz (stargz-snapshotter, `docs/estargz.md`): a gzip layer whose files can be read one by one out of the blob.
//!
//! Each chunk of a file's data begins a gzip member of its own. Behind the tar stands one more member with an entry
//! `stargz.index.json`, the table of contents, which names every entry and where its data begins; the last 51 bytes say
//! where that member is. Whoever knows nothing of it reads a gzip layer like any other.
//!
//! The tar goes in as it is, its end mark too, so that readers of tars stop before the table. The table counts for the
//! layer's DiffId, which therefore differs from that of the tar alone.

use std::collections::BTreeMap;
use std::io::{self, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

use super::gzip;
use super::in_order::InOrder;
use crate::{DiffId, Digest};

/// The annotation of the layer's descriptor that holds [`Stargz::toc_digest`].
pub const TOC_DIGEST_ANNOTATION: &str = "containerd.io/snapshot/stargz/toc.digest";
/// The annotation of the layer's descriptor that holds [`Stargz::uncompressed_bytes`].
pub const UNCOMPRESSED_SIZE_ANNOTATION: &str = "io.containers.estargz.uncompressed-size";

/// What is known of a finished blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stargz {
    /// Of all that is in the blob, uncompressed, the table too.
    pub diff_id: DiffId,
    /// Of the table's JSON.
    pub toc_digest: Digest,
    /// Bytes of all that is in the blob.
    pub uncompressed_bytes: u64,
}

/// Takes a plain tar and writes it as eStargz; call [`StargzWriter::finish`] at the end.
pub struct StargzWriter<W> {
    out: W,
    level: u32,
    members: InOrder<io::Result<Vec<u8>>>,
    member: Vec<u8>,
    /// Where the members that are written begin.
    offsets: Vec<u64>,
    written: u64,
    submitted: usize,
    hash: Sha256,
    uncompressed_bytes: u64,
    at: At,
    /// Part of a header block.
    block: Vec<u8>,
    extended: Extended,
    table: Vec<Entry>,
}

/// Where in the tar the writer stands.
enum At {
    Header,
    /// In the data of an extension header.
    Extension {
        kind: EntryType,
        data: Vec<u8>,
        left: u64,
        padding: u64,
    },
    /// In a file's data.
    Data {
        left: u64,
        padding: u64,
        chunk_left: u64,
        file: Sha256,
        chunk: Sha256,
        first: usize,
    },
    Padding(u64),
    /// Behind the end mark.
    End,
}

/// What extension headers say of the entry that follows.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pax: BTreeMap<String, Vec<u8>>,
}

impl<W: Write> StargzWriter<W> {
    /// `level` is gzip's, 0 to 9; the usual one if `None`.
    ///
    /// # Errors
    /// Another level.
    pub fn new(out: W, level: Option<i32>) -> Result<Self, super::LayerError> {
        Ok(Self {
            out,
            level: super::compression::gzip_level(level)?,
            members: InOrder::new(),
            member: Vec::new(),
            offsets: Vec::new(),
            written: 0,
            submitted: 0,
            hash: Sha256::new(),
            uncompressed_bytes: 0,
            at: At::Header,
            block: Vec::with_capacity(BLOCK),
            extended: Extended::default(),
            table: Vec::new(),
        })
    }

    /// Writes the table of contents and the footer.
    ///
    /// # Errors
    /// What was written is no whole tar; I/O.
    pub fn finish(mut self) -> io::Result<(W, Stargz)> {
        if !matches!(self.at, At::End) {
            return Err(invalid("the tar has no end"));
        }
        self.end_member()?;
        while let Some(member) = self.members.pop() {
            self.take(&member??)?;
        }
        let toc_offset = self.written;
        let toc = self.table_of_contents()?;
        let mut header = Header::new_ustar();
        header.set_path(TOC_NAME)?;
        header.set_size(toc.len() as u64);
        header.set_mode(0);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_cksum();
        let padding = (toc.len() as u64).wrapping_neg() % BLOCK as u64;
        let entry = [header.as_bytes(), toc.as_slice(), &vec![0; padding as usize + 2 * BLOCK]].concat();
        self.hash.update(&entry);
        self.uncompressed_bytes += entry.len() as u64;
        self.out.write_all(&gzip::member(self.level, &entry)?)?;
        self.out.write_all(&footer(toc_offset))?;
        self.out.flush()?;
        let known = Stargz {
            diff_id: DiffId(Digest::from_bytes(self.hash.finalize().into())),
            toc_digest: Digest::of(&toc),
            uncompressed_bytes: self.uncompressed_bytes,
        };
        Ok((self.out, known))
    }

    fn table_of_contents(&mut self) -> io::Result<Vec<u8>> {
        for entry in &mut self.table {
            if let Some(member) = entry.member {
                entry.offset = self.offsets.get(member).copied().unwrap_or_default();
            }
        }
        let table = Table { version: 1, entries: &self.table };
        serde_json::to_vec(&table).map_err(io::Error::other)
    }

    /// Queues the member that is being filled; the next byte begins another.
    fn end_member(&mut self) -> io::Result<()> {
        if self.member.is_empty() {
            return Ok(());
        }
        let (bytes, level) = (std::mem::take(&mut self.member), self.level);
        self.submitted += 1;
        match self.members.push(move || gzip::member(level, &bytes)) {
            Some(member) => self.take(&member??),
            None => Ok(()),
        }
    }

    fn take(&mut self, member: &[u8]) -> io::Result<()> {
        self.offsets.push(self.written);
        self.written += member.len() as u64;
        self.out.write_all(member)
    }

    /// A whole header block is there.
    fn header(&mut self) -> io::Result<At> {
        let header = Header::from_byte_slice(&self.block).clone();
        self.block.clear();
        if header.as_bytes().iter().all(|byte| *byte == 0) {
            return Ok(At::End);
        }
        let size = header.entry_size()?;
        let padding = size.wrapping_neg() % BLOCK as u64;
        let kind = header.entry_type();
        if matches!(
            kind,
            EntryType::XHeader | EntryType::XGlobalHeader | EntryType::GNULongName | EntryType::GNULongLink
        ) {
            if size > super::MAX_EXTENSION_BYTES {
                return Err(invalid("an extension header is too long"));
            }
            return Ok(At::Extension { kind, data: Vec::new(), left: size, padding });
        }
        let extended = std::mem::take(&mut self.extended);
        let mut entry = Entry::of(&header, &extended)?;
        let size = if entry.kind == "reg" { extended.number("size").unwrap_or(size) } else { size };
        let padding = size.wrapping_neg() % BLOCK as u64;
        if entry.kind != "reg" {
            self.table.push(entry);
            return Ok(if size == 0 { At::Header } else { At::Padding(size + padding) });
        }
        entry.size = size;
        if size == 0 {
            entry.digest = Digest::of(&[]).to_string();
            self.table.push(entry);
            return Ok(At::Header);
        }
        let first = self.table.len();
        self.table.push(entry);
        self.begin_chunk(first, 0, size)?;
        Ok(At::Data {
            left: size,
            padding,
            chunk_left: size.min(CHUNK_BYTES),
            file: Sha256::new(),
            chunk: Sha256::new(),
            first,
        })
    }

    /// The next byte is the first of a chunk, and of a member.
    fn begin_chunk(&mut self, first: usize, offset: u64, left: u64) -> io::Result<()> {
        self.end_member()?;
        if offset > 0 {
            let name = self.table[first].name.clone();
            self.table.push(Entry { name, kind: "chunk", chunk_offset: offset, ..Entry::default() });
        }
        if let Some(entry) = self.table.last_mut() {
            entry.member = Some(self.submitted);
            // Of the last chunk it follows from the file's size.
            entry.chunk_size = if left > CHUNK_BYTES { CHUNK_BYTES } else { 0 };
        }
        Ok(())
    }

    /// Takes in what `bytes` begins with, at least one of them; returns how many.
    fn step(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let upto = |most: u64| bytes.len().min(usize::try_from(most).unwrap_or(usize::MAX));
        match std::mem::replace(&mut self.at, At::End) {
            At::Header => {
                let taken = upto((BLOCK - self.block.len()) as u64);
                self.block.extend_from_slice(&bytes[..taken]);
                // Before the block's meaning is looked at: a file's data begins a member behind its header.
                self.member.extend_from_slice(&bytes[..taken]);
                self.at = if self.block.len() == BLOCK { self.header()? } else { At::Header };
                if self.member.len() as u64 > CHUNK_BYTES {
                    self.end_member()?;
                }
                Ok(taken)
            }
            At::Extension { kind, mut data, left, padding } => {
                let taken = upto(left);
                data.extend_from_slice(&bytes[..taken]);
                self.member.extend_from_slice(&bytes[..taken]);
                let left = left - taken as u64;
                self.at = if left > 0 {
                    At::Extension { kind, data, left, padding }
                } else {
                    self.extended.take(kind, data)?;
                    if padding == 0 { At::Header } else { At::Padding(padding) }
                };
                Ok(taken)
            }
            At::Data { left, padding, chunk_left, mut file, mut chunk, first } => {
                let taken = upto(chunk_left);
                let data = &bytes[..taken];
                file.update(data);
                chunk.update(data);
                self.member.extend_from_slice(data);
                let (left, chunk_left) = (left - taken as u64, chunk_left - taken as u64);
                if chunk_left > 0 {
                    self.at = At::Data { left, padding, chunk_left, file, chunk, first };
                    return Ok(taken);
                }
                let digest = Digest::from_bytes(chunk.finalize().into()).to_string();
                if let Some(entry) = self.table.last_mut() {
                    entry.chunk_digest = digest;
                }
                if left > 0 {
                    let offset = self.table[first].size - left;
                    self.begin_chunk(first, offset, left)?;
                    let chunk_left = left.min(CHUNK_BYTES);
                    self.at = At::Data { left, padding, chunk_left, file, chunk: Sha256::new(), first };
                    return Ok(taken);
                }
                self.table[first].digest = Digest::from_bytes(file.finalize().into()).to_string();
                self.at = if padding == 0 { At::Header } else { At::Padding(padding) };
                Ok(taken)
            }
            At::Padding(left) => {
                let taken = upto(left);
                self.member.extend_from_slice(&bytes[..taken]);
                let left = left - taken as u64;
                self.at = if left == 0 { At::Header } else { At::Padding(left) };
                Ok(taken)
            }
            At::End => {
                let taken = upto(CHUNK_BYTES);
                self.member.extend_from_slice(&bytes[..taken]);
                Ok(taken)
            }
        }
    }
}

impl<W: Write> Write for StargzWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let taken = self.step(rest)?;
            rest = &rest[taken..];
        }
        self.hash.update(bytes);
        self.uncompressed_bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Extended {
    fn take(&mut self, kind: EntryType, data: Vec<u8>) -> io::Result<()> {
        let text = |data: Vec<u8>| data.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
        match kind {
            EntryType::GNULongName => self.path = Some(text(data)),
            EntryType::GNULongLink => self.link = Some(text(data)),
            EntryType::XHeader => {
                for record in tar::PaxExtensions::new(&data) {
                    let record = record?;
                    let key = String::from_utf8_lossy(record.key_bytes()).into_owned();
                    self.pax.insert(key, record.value_bytes().to_vec());
                }
            }
            // Of no single entry.
            _ => {}
        }
        Ok(())
    }

    fn number(&self, key: &str) -> Option<u64> {
        std::str::from_utf8(self.pax.get(key)?).ok()?.parse().ok()
    }
}

/// One line of the table of contents.
#[derive(Default, Serialize)]
struct Entry {
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "is_zero")]
    size: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    modtime: String,
    #[serde(rename = "linkName", skip_serializing_if = "String::is_empty")]
    link_name: String,
    #[serde(skip_serializing_if = "is_zero")]
    mode: u64,
    #[serde(skip_serializing_if = "is_zero")]
    uid: u64,
    #[serde(skip_serializing_if = "is_zero")]
    gid: u64,
    #[serde(skip_serializing_if = "is_zero")]
    offset: u64,
    #[serde(rename = "devMajor", skip_serializing_if = "is_zero")]
    device_major: u64,
    #[serde(rename = "devMinor", skip_serializing_if = "is_zero")]
    device_minor: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    xattrs: BTreeMap<String, Base64>,
    #[serde(skip_serializing_if = "String::is_empty")]
    digest: String,
    #[serde(rename = "chunkOffset", skip_serializing_if = "is_zero")]
    chunk_offset: u64,
    #[serde(rename = "chunkSize", skip_serializing_if = "is_zero")]
    chunk_size: u64,
    #[serde(rename = "chunkDigest", skip_serializing_if = "String::is_empty")]
    chunk_digest: String,
    /// The gzip member that its data begins.
    #[serde(skip)]
    member: Option<usize>,
}

impl Entry {
    fn of(header: &Header, extended: &Extended) -> io::Result<Self> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let pax = |key: &str| extended.pax.get(key).map(Vec::as_slice);
        let path = pax("path").or(extended.path.as_deref());
        let link = pax("linkpath").or(extended.link.as_deref());
        let kind = match header.entry_type() {
            EntryType::Regular | EntryType::Continuous => "reg",
            EntryType::Directory => "dir",
            EntryType::Symlink => "symlink",
            EntryType::Link => "hardlink",
            EntryType::Char => "char",
            EntryType::Block => "block",
            EntryType::Fifo => "fifo",
            _ => return Err(invalid("an entry of a kind that eStargz does not have")),
        };
        if extended.pax.keys().any(|key| key.starts_with("GNU.sparse.")) {
            return Err(invalid("a sparse file, which eStargz does not have"));
        }
        let name = path.map_or_else(|| text(&header.path_bytes()), text);
        if name.trim_start_matches(['.', '/']) == TOC_NAME {
            return Err(invalid("the layer has a file `stargz.index.json`, the name of eStargz's own table"));
        }
        let seconds = pax("mtime").map(text).and_then(|mtime| mtime.split('.').next()?.parse::<i64>().ok());
        let seconds = seconds.or_else(|| header.mtime().ok()?.try_into().ok()).unwrap_or_default();
        let is_device = matches!(kind, "char" | "block");
        let device = |number: io::Result<Option<u32>>| match number {
            Ok(Some(number)) if is_device => u64::from(number),
            _ => 0,
        };
        Ok(Self {
            name,
            kind,
            modtime: match jiff::Timestamp::from_second(seconds) {
                Ok(time) if seconds != 0 => time.to_string(),
                _ => String::new(),
            },
            link_name: match (kind, link) {
                ("symlink" | "hardlink", Some(link)) => text(link),
                ("symlink" | "hardlink", None) => text(&header.link_name_bytes().unwrap_or_default()),
                _ => String::new(),
            },
            // An empty field is a zero.
            mode: header.mode().unwrap_or_default().into(),
            uid: extended.number("uid").or_else(|| header.uid().ok()).unwrap_or_default(),
            gid: extended.number("gid").or_else(|| header.gid().ok()).unwrap_or_default(),
            device_major: device(header.device_major()),
            device_minor: device(header.device_minor()),
            xattrs: (extended.pax.iter())
                .filter_map(|(key, value)| {
                    Some((key.strip_prefix("SCHILY.xattr.")?.to_owned(), Base64(value.clone())))
                })
                .collect(),
            ..Self::default()
        })
    }
}

#[derive(Serialize)]
struct Table<'a> {
    version: u32,
    entries: &'a [Entry],
}

/// Bytes as Go's JSON has them.
struct Base64(Vec<u8>);

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

/// An empty gzip member whose header's extra field says where the table's member begins.
fn footer(toc_offset: u64) -> Vec<u8> {
    let place = format!("{toc_offset:016x}STARGZ");
    let mut bytes = vec![0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255];
    let length = u16::try_from(place.len()).unwrap_or_default();
    bytes.extend((length + 4).to_le_bytes());
    bytes.extend(b"SG");
    bytes.extend(length.to_le_bytes());
    bytes.extend(place.as_bytes());
    // One stored block, the last, of nothing; its check sum and length.
    bytes.extend([1, 0, 0, 0xff, 0xff]);
    bytes.extend([0; 8]);
    bytes
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn invalid(problem: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

/// The table's name in the tar.
const TOC_NAME: &str = "stargz.index.json";
/// As containerd's own writer has it.
const CHUNK_BYTES: u64 = 4 << 20;
const BLOCK: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    fn tar() -> (Vec<u8>, Vec<u8>) {
        let large: Vec<u8> = (0..2_300_000_u32).flat_map(|i| (i / 5).to_le_bytes()).collect();
        let mut tar = tar::Builder::new(Vec::new());
        let mut put = |name: &str, kind, bytes: &[u8]| {
            let mut header = Header::new_ustar();
            header.set_entry_type(kind);
            header.set_mode(0o755);
            header.set_mtime(1_700_000_000);
            header.set_size(bytes.len() as u64);
            tar.append_data(&mut header, name, bytes).unwrap();
        };
        put("d/", EntryType::Directory, b"");
        put("d/small", EntryType::Regular, b"small");
        put("d/empty", EntryType::Regular, b"");
        put("d/large", EntryType::Regular, &large);
        put(&format!("d/{}", "long/".repeat(60)), EntryType::Regular, b"behind a long name");
        (tar.into_inner().unwrap(), large)
    }

    fn stargz(tar: &[u8], piece: usize) -> (Vec<u8>, Stargz) {
        let mut writer = StargzWriter::new(Vec::new(), None).unwrap();
        for piece in tar.chunks(piece) {
            writer.write_all(piece).unwrap();
        }
        writer.finish().unwrap()
    }

    fn toc(blob: &[u8]) -> (serde_json::Value, Vec<u8>) {
        let footer = &blob[blob.len() - 51..];
        assert_eq!(&footer[32..38], b"STARGZ");
        let offset = usize::from_str_radix(std::str::from_utf8(&footer[16..32]).unwrap(), 16).unwrap();
        let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(&blob[offset..]));
        let mut entry = tar.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(&*entry.path_bytes(), b"stargz.index.json");
        let mut json = Vec::new();
        entry.read_to_end(&mut json).unwrap();
        (serde_json::from_slice(&json).unwrap(), json)
    }

    #[test]
    fn every_file_can_be_read_from_where_the_table_says() {
        let (tar, large) = tar();
        let (blob, known) = stargz(&tar, 1 << 16);
        let (table, json) = toc(&blob);
        assert_eq!(Digest::of(&json), known.toc_digest);
        let entries = table["entries"].as_array().unwrap();
        let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        let mut chunks = 0;
        for entry in entries {
            let name = entry["name"].as_str().unwrap().to_owned();
            let size = |key: &str| entry[key].as_u64().unwrap_or_default();
            if entry["type"] == "dir" || (entry["type"] == "reg" && size("size") == 0) {
                continue;
            }
            let file = files.entry(name).or_default();
            let whole = if entry["type"] == "reg" { size("size") } else { large.len() as u64 };
            let length = match size("chunkSize") {
                0 => whole - size("chunkOffset"),
                length => length,
            };
            let at = usize::try_from(size("offset")).unwrap();
            let mut chunk = Vec::new();
            flate2::read::GzDecoder::new(&blob[at..]).take(length).read_to_end(&mut chunk).unwrap();
            assert_eq!(entry["chunkDigest"], Digest::of(&chunk).to_string());
            assert_eq!(file.len() as u64, size("chunkOffset"));
            file.extend(chunk);
            chunks += 1;
        }
        assert_eq!(chunks, 5);
        assert_eq!(files["d/small"], b"small");
        assert!(files["d/large"] == large);
        let long = files.iter().find(|(name, _)| name.len() > 300).unwrap();
        assert_eq!(long.1, b"behind a long name");
        let large = entries.iter().find(|entry| entry["name"] == "d/large").unwrap();
        assert_eq!(large["digest"], Digest::of(&files["d/large"]).to_string());
        assert_eq!(large["modtime"], "2023-11-14T22:13:20Z");
    }

    #[test]
    fn it_is_the_tar_in_gzip_with_the_table_behind_it() {
        let (tar, _) = tar();
        let (blob, known) = stargz(&tar, 1 << 16);
        let mut plain = Vec::new();
        flate2::read::MultiGzDecoder::new(blob.as_slice()).read_to_end(&mut plain).unwrap();
        assert!(plain.starts_with(&tar));
        assert_eq!(known.diff_id.0, Digest::of(&plain));
        assert_eq!(known.uncompressed_bytes, plain.len() as u64);
        assert!(stargz(&tar, 333).0 == blob);
    }

    #[test]
    fn a_tar_without_an_end_is_refused() {
        let (tar, _) = tar();
        for length in [100, tar.len() / 2] {
            let mut writer = StargzWriter::new(Vec::new(), None).unwrap();
            writer.write_all(&tar[..length]).unwrap();
            assert!(writer.finish().is_err());
        }
    }
}
