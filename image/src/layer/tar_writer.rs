//! Tar headers of one form: ustar, with PAX records only for what does not fit; the same bytes for the same entry always.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt as _;

use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

use super::digest_stream::{Fed, HashingWriter};
use super::{At as _, LayerError, Packed, owner};
use crate::DiffId;

/// Writes a tar of the entries that `body` gives, and hashes it on the way.
///
/// # Errors
/// What `body` says; I/O.
pub fn write_tar_of(
    out: &mut dyn Write,
    body: impl FnOnce(&mut TarWriter<'_>) -> Result<(), LayerError>,
) -> Result<Packed, LayerError> {
    Ok(write_rest_of_tar(Sha256::new(), out, body)?.0)
}

/// As [`write_tar_of`], behind the part of the tar that `hash` has seen. Returns the states at the
/// [marks](TarWriter::mark) too. The size is that of the rest.
pub(super) fn write_rest_of_tar(
    hash: Sha256,
    out: &mut dyn Write,
    body: impl FnOnce(&mut TarWriter<'_>) -> Result<(), LayerError>,
) -> Result<(Packed, Vec<Sha256>), LayerError> {
    let mut writer = TarWriter { out: HashingWriter::new(out, hash) };
    body(&mut writer)?;
    writer.write(&[0; 2 * BLOCK])?;
    let (size_bytes, hashed) = writer.out.finish().at(b"tar")?;
    Ok((Packed { diff_id: DiffId(hashed.digest), size_bytes }, hashed.marks))
}

/// A tar being written, see [`write_tar_of`].
pub struct TarWriter<'a> {
    out: HashingWriter<'a>,
}

impl TarWriter<'_> {
    /// Writes an entry without data.
    ///
    /// # Errors
    /// I/O.
    pub fn entry(&mut self, entry: TarEntry) -> Result<(), LayerError> {
        let (header, pax) = entry.encode();
        if !pax.is_empty() {
            let mut extension = Header::new_ustar();
            // The name that readers without PAX would see, and nobody else.
            set_field(&mut extension.as_old_mut().name, b"PaxHeaders.0/entry");
            extension.set_entry_type(EntryType::XHeader);
            extension.set_mode(0o644);
            (extension.as_old_mut().uid, extension.as_old_mut().gid) = (*b"0000000\0", *b"0000000\0");
            extension.set_mtime(0);
            extension.set_size(pax.len() as u64);
            extension.set_cksum();
            self.write(extension.as_bytes())?;
            self.write(&pax)?;
            self.pad(pax.len() as u64)?;
        }
        self.write(header.as_bytes())
    }

    /// Writes a file: the entry and as many bytes of `data` as it says.
    ///
    /// # Errors
    /// There are fewer; I/O.
    pub fn file(&mut self, entry: TarEntry, data: &File) -> Result<(), LayerError> {
        let (size, path) = (entry.size, entry.path.clone());
        self.entry(entry)?;
        self.contents(data, size, &path, &mut |_| Ok(size))
    }

    /// Writes a file: the entry, whose size is that of `data`, and these bytes.
    ///
    /// # Errors
    /// I/O.
    pub fn bytes(&mut self, entry: TarEntry, data: &[u8]) -> Result<(), LayerError> {
        self.entry(TarEntry { size: data.len() as u64, ..entry })?;
        self.write(data)?;
        self.pad(data.len() as u64)
    }

    /// The bytes of the file whose entry came last, exactly as many as that says. `in_place` says how far the file is
    /// written.
    pub(super) fn contents(
        &mut self,
        source: &File,
        size: u64,
        path: &[u8],
        in_place: &mut dyn FnMut(u64) -> io::Result<u64>,
    ) -> Result<(), LayerError> {
        self.out.copy_exactly(source, size, in_place).at(path)?;
        self.pad(size)
    }

    /// The bytes of the file whose entry came last, as they come out of `fed`.
    pub(super) fn fed(&mut self, fed: &Fed, size: u64, path: &[u8]) -> Result<(), LayerError> {
        self.out.pass_fed(fed, size).at(path)?;
        self.pad(size)
    }

    /// Has the hash's state kept behind the last entry; returns how many bytes were written so far.
    pub(super) fn mark(&mut self) -> Result<u64, LayerError> {
        self.out.mark().at(b"tar")
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), LayerError> {
        self.out.write_all(bytes).at(b"tar")
    }

    fn pad(&mut self, size: u64) -> Result<(), LayerError> {
        let padding = usize::try_from(size.wrapping_neg() % BLOCK as u64).unwrap_or_default();
        self.write(&[0; BLOCK][..padding])
    }
}

/// One entry.
#[derive(Clone, Debug)]
pub struct TarEntry {
    /// Relative, without a leading slash; a directory's ends in one.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryType,
    /// Where a link leads.
    pub link: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since the epoch.
    pub mtime: i64,
    /// Bytes of data that follow.
    pub size: u64,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Name and value.
    pub xattrs: Vec<(OsString, Vec<u8>)>,
}

impl TarEntry {
    /// Adds the attributes; an owner that is only noted among them is the owner.
    pub(super) fn take_xattrs(&mut self, mut xattrs: Vec<(OsString, Vec<u8>)>) {
        if let Some((uid, gid)) = owner::take_noted(&mut xattrs) {
            (self.uid, self.gid) = (uid, gid);
        }
        self.xattrs = xattrs;
    }

    /// An empty file without owner, rights and time.
    pub fn new(path: Vec<u8>) -> Self {
        Self {
            path,
            kind: EntryType::Regular,
            link: Vec::new(),
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: 0,
            size: 0,
            device: (0, 0),
            xattrs: Vec::new(),
        }
    }

    /// The header, and PAX records for what does not fit in it, sorted by key.
    fn encode(self) -> (Header, Vec<u8>) {
        let mut header = Header::new_ustar();
        let mut pax = Vec::new();
        header.set_entry_type(self.kind);
        header.set_mode(self.mode);
        let old = header.as_old_mut();
        let mut number = |field: &mut [u8], value: i64, key: &str| {
            if !set_octal(field, value) {
                set_octal(field, 0);
                pax.push((key.as_bytes().to_vec(), value.to_string().into_bytes()));
            }
        };
        number(&mut old.uid, i64::from(self.uid), "uid");
        number(&mut old.gid, i64::from(self.gid), "gid");
        number(&mut old.size, i64::try_from(self.size).unwrap_or(i64::MAX), "size");
        number(&mut old.mtime, self.mtime, "mtime");
        if !set_field(&mut old.linkname, &self.link) {
            pax.push((b"linkpath".to_vec(), self.link));
        }
        if !set_path(&mut header, &self.path) {
            pax.push((b"path".to_vec(), self.path));
        }
        if let Some(ustar) = header.as_ustar_mut() {
            // Every kernel's numbers fit: 12 and 20 bits.
            ustar.set_device_major(self.device.0);
            ustar.set_device_minor(self.device.1);
        }
        header.set_cksum();
        for (name, value) in self.xattrs {
            pax.push(([b"SCHILY.xattr.", name.as_bytes()].concat(), value));
        }
        pax.sort();
        (header, pax.iter().flat_map(|(key, value)| pax_record(key, value)).collect())
    }
}

/// The path in the header's name, or split at a slash over prefix and name; false if it fits neither way.
fn set_path(header: &mut Header, path: &[u8]) -> bool {
    const NAME: usize = 100;
    const PREFIX: usize = 155;
    let Some(ustar) = header.as_ustar_mut() else { return false };
    if set_field(&mut ustar.name, path) {
        return true;
    }
    // A trailing slash belongs to the name.
    let body = &path[..path.len().saturating_sub(1)];
    let slash = body.iter().enumerate().position(|(at, &b)| b == b'/' && path.len() - at - 1 <= NAME);
    match slash {
        Some(at) if at > 0 && at <= PREFIX => {
            set_field(&mut ustar.prefix, &path[..at]) && set_field(&mut ustar.name, &path[at + 1..])
        }
        _ => {
            // Something for readers that ignore PAX; all others take the record.
            ustar.name = [0; NAME];
            ustar.name.copy_from_slice(&path[..NAME]);
            false
        }
    }
}

fn set_field(field: &mut [u8], value: &[u8]) -> bool {
    if value.len() > field.len() {
        return false;
    }
    field.fill(0);
    field[..value.len()].copy_from_slice(value);
    true
}

/// Octal digits filling the field but for a NUL; nothing where they do not fit.
fn set_octal(field: &mut [u8], value: i64) -> bool {
    let Some((end, digits)) = field.split_last_mut() else { return false };
    let fits = u64::try_from(value)
        .ok()
        .filter(|value| value.checked_ilog2().unwrap_or(0) as usize / 3 < digits.len());
    let Some(mut rest) = fits else { return false };
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (rest & 7) as u8;
        rest >>= 3;
    }
    *end = 0;
    true
}

/// The record's length counts its own digits.
fn pax_record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

const BLOCK: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_number_that_does_not_fit_changes_nothing() {
        for (value, digits) in [(-1, 11), (0o10, 1), (0o100_0000_0000, 10), (i64::MAX, 20)] {
            let mut field = vec![b'x'; digits + 1];
            assert!(!set_octal(&mut field, value), "{value}");
            assert!(field.iter().all(|&byte| byte == b'x'), "{value}");
        }
        assert!(!set_octal(&mut [], 0));
    }

    proptest! {
        #[test]
        fn a_number_that_fits_is_written_in_octal_with_leading_zeros(value: i64, width in 1_usize..24, bits in 1..64) {
            let value = value & (i64::MAX >> (63 - bits));
            let text = format!("{value:0width$o}\0");
            let mut field = vec![b'x'; width + 1];
            prop_assert_eq!(set_octal(&mut field, value), text.len() == width + 1);
            if text.len() == width + 1 {
                prop_assert_eq!(field, text.into_bytes());
            }
        }
    }
}
