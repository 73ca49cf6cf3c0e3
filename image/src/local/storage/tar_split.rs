//! A layer's archive put together again, byte for byte (tar-split): what is no file's contents was kept, in order, as lines
//! of JSON; the contents are in the layer's directory.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Cursor, Read};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::fs::{Mode, OFlags};
use serde::Deserialize;

use crate::layer::open_in_root;
use crate::layout::{At as _, LayoutError, open_regular};

/// A longer line is refused: headers and padding are short.
const MAX_LINE_BYTES: u64 = 64 << 20;
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];

/// An archive that is read as if it were there. What comes out has to be verified: files may have changed since.
pub(super) struct TarSplit {
    record: BufReader<Box<dyn Read + Send>>,
    path: PathBuf,
    files: OwnedFd,
    part: Part,
}

enum Part {
    Bytes(Cursor<Vec<u8>>),
    /// The bytes that are left of it.
    File {
        name: Vec<u8>,
        file: File,
        left: u64,
    },
}

/// A line of the record.
#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "type")]
    kind: u8,
    name: Option<String>,
    /// A name that is no UTF-8.
    name_raw: Option<String>,
    size: Option<u64>,
    payload: Option<String>,
}

/// Kinds of entries.
const FILE: u8 = 1;
const BYTES: u8 = 2;

impl TarSplit {
    /// `record` is the kept record, `files` the layer's directory.
    pub(super) fn open(record: &Path, files: &Path) -> Result<Self, LayoutError> {
        let mut file = BufReader::new(open_regular(record)?);
        let plain: Box<dyn Read + Send> = match file.fill_buf().at(record)?.starts_with(GZIP_MAGIC) {
            true => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
            // Since version 1.52 of the library that writes them; the name has not changed.
            false => Box::new(zstd::Decoder::with_buffer(file).at(record)?),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let files = rustix::fs::open(files, flags, Mode::empty()).at(files)?;
        let part = Part::Bytes(Cursor::default());
        Ok(Self { record: BufReader::new(plain), path: record.to_owned(), files, part })
    }

    /// The next part that is not empty.
    fn advance(&mut self) -> io::Result<bool> {
        loop {
            let mut line = Vec::new();
            if self.record.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line)? == 0 {
                return Ok(false);
            }
            let entry: Entry =
                serde_json::from_slice(&line).map_err(|error| self.malformed(&error.to_string()))?;
            let decoded = |text: &str| STANDARD.decode(text).map_err(|_| self.malformed("no Base64"));
            match (entry.kind, entry.size.unwrap_or(0)) {
                (BYTES, _) => {
                    let bytes = decoded(entry.payload.as_deref().unwrap_or_default())?;
                    if !bytes.is_empty() {
                        self.part = Part::Bytes(Cursor::new(bytes));
                        return Ok(true);
                    }
                }
                (FILE, 0) => {}
                (FILE, left) => {
                    let name = match (&entry.name_raw, entry.name) {
                        (Some(raw), _) => decoded(raw)?,
                        (None, name) => name.unwrap_or_default().into_bytes(),
                    };
                    let file = self.open_file(&name).map_err(|error| named(&name, &error))?;
                    self.part = Part::File { name, file, left };
                    return Ok(true);
                }
                _ => return Err(self.malformed("an entry of an unknown kind")),
            }
        }
    }

    /// No link leads out of the layer.
    fn open_file(&self, name: &[u8]) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = File::from(open_in_root(self.files.as_fd(), name, flags)?);
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(io::Error::other("not a regular file")),
        }
    }

    fn malformed(&self, what: &str) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, format!("{}: {what}", self.path.display()))
    }
}

fn named(name: &[u8], error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", String::from_utf8_lossy(name).escape_debug()))
}

impl Read for TarSplit {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match &mut self.part {
                Part::Bytes(bytes) => match bytes.read(buffer)? {
                    0 => {}
                    read => return Ok(read),
                },
                Part::File { left: 0, .. } => {}
                Part::File { name, file, left } => {
                    let room = (*left).min(buffer.len() as u64) as usize;
                    match file.read(&mut buffer[..room]).map_err(|error| named(name, &error))? {
                        0 => return Err(named(name, &io::ErrorKind::UnexpectedEof.into())),
                        read => {
                            *left -= read as u64;
                            return Ok(read);
                        }
                    }
                }
            }
            if !self.advance()? {
                return Ok(0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(record: &str, files: &[(&str, &str)]) -> io::Result<Vec<u8>> {
        let there = tempfile::tempdir().unwrap();
        let dir = there.path().join("diff");
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(there.path().join("secret"), "secret").unwrap();
        std::os::unix::fs::symlink("../secret", dir.join("link")).unwrap();
        for (name, contents) in files {
            std::fs::write(dir.join(name), contents).unwrap();
        }
        let path = there.path().join("x.tar-split.gz");
        std::fs::write(&path, zstd::encode_all(record.as_bytes(), 1).unwrap()).unwrap();
        let mut bytes = Vec::new();
        TarSplit::open(&path, &dir).unwrap().read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    #[test]
    fn kept_bytes_and_files_are_one_archive() {
        let record = "{\"type\":2,\"payload\":\"aGVhZA==\",\"position\":0}\n\
                      {\"type\":1,\"name\":\"./a\",\"size\":2,\"payload\":\"x\",\"position\":1}\n\
                      {\"type\":2,\"payload\":\"\",\"position\":2}\n\
                      {\"type\":1,\"name\":\"dir/\",\"payload\":null,\"position\":3}\n\
                      {\"type\":1,\"name_raw\":\"Yg==\",\"size\":1,\"position\":4}\n\
                      {\"type\":2,\"payload\":\"ZW5k\",\"position\":5}\n";
        assert_eq!(archive(record, &[("a", "AAAA"), ("b", "B")]).unwrap(), b"headAABend");
    }

    #[test]
    fn a_layer_that_has_changed_is_no_archive() {
        let file = |name: &str| format!("{{\"type\":1,\"name\":\"{name}\",\"size\":5}}\n");
        let refused = |record: &str| archive(record, &[("short", "x")]).unwrap_err().to_string();
        assert!(refused(&file("short")).starts_with("short: "));
        assert!(refused(&file("gone")).contains("No such file"));
        // What a link leads to outside is not there.
        for name in ["link", "../secret"] {
            assert!(refused(&file(name)).contains("No such file"), "{name}");
        }
        assert!(refused("{\"type\":7}\n").contains("unknown kind"));
        assert!(refused("x\n").contains("tar-split"));
    }
}
