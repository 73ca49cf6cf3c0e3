//! rpm's databases: SQLite (rpm 4.16 and later), `ndb` (SUSE's) and Berkeley DB (before). Each keeps a header of every
//! package as a blob.
//!
//! An image's database is anybody's bytes, and of each format finding the blobs of one table is all that is wanted: that is
//! read here, in memory and without a library of the format's. None of it may give out more bytes than the file has.

mod berkeley;
mod header;
mod ndb;
mod sqlite;

use std::path::Path;

use super::{Package, has_parent, name_of};

/// Where rpm, rpm of image-based systems, and rpm-ostree keep it.
const DIRECTORIES: [&str; 3] = ["var/lib/rpm", "usr/lib/sysimage/rpm", "usr/share/rpm"];
const FILES: [&str; 3] = ["rpmdb.sqlite", "Packages.db", "Packages"];
/// Public keys are kept as packages of this name.
const KEY_NAME: &str = "gpg-pubkey";

/// The whole database.
pub(super) fn is_database(path: &Path) -> bool {
    FILES.contains(&name_of(path)) && DIRECTORIES.iter().any(|directory| has_parent(path, directory))
}

/// Its packages; the error says why there are none to be had.
pub(super) fn read(bytes: &[u8]) -> Result<Vec<Package>, &'static str> {
    let mut packages = Vec::new();
    let mut budget = Budget(bytes.len());
    let mut take = |blob: &[u8]| {
        budget.spend(blob.len())?;
        packages.extend(header::package(blob).filter(|package| package.name != KEY_NAME));
        Ok(())
    };
    if sqlite::is_one(bytes) {
        sqlite::read(bytes, &mut take)?;
    } else if ndb::is_one(bytes) {
        ndb::read(bytes, &mut take)?;
    } else if berkeley::is_one(bytes) {
        berkeley::read(bytes, &mut take)?;
    } else if !bytes.is_empty() {
        return Err("a format of rpm's databases that is not known");
    }
    Ok(packages)
}

/// Is given blobs.
type Take<'a> = dyn FnMut(&[u8]) -> Result<(), &'static str> + 'a;

/// How many bytes may still come out: blobs of a sound database share no pages.
struct Budget(usize);

impl Budget {
    fn spend(&mut self, bytes: usize) -> Result<(), &'static str> {
        self.0 = self.0.checked_sub(bytes).ok_or("it contradicts itself")?;
        Ok(())
    }
}

/// Numbers in a file, of either byte order.
#[derive(Clone, Copy)]
enum Order {
    Big,
    Little,
}

impl Order {
    fn u16(self, bytes: &[u8], at: usize) -> Option<usize> {
        let word = bytes.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(usize::from(match self {
            Self::Big => u16::from_be_bytes(word),
            Self::Little => u16::from_le_bytes(word),
        }))
    }

    fn u32(self, bytes: &[u8], at: usize) -> Option<usize> {
        let word = bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
        let number = match self {
            Self::Big => u32::from_be_bytes(word),
            Self::Little => u32::from_le_bytes(word),
        };
        usize::try_from(number).ok()
    }
}

#[cfg(test)]
mod tests;
