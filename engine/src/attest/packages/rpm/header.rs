//! A package's header as databases have it: numbers of index entries and of bytes, the entries, the bytes (rpm's
//! documentation, "Package format", Header; in a database without the magic in front).

use super::Order::Big;
use crate::attest::packages::{Ecosystem, Package};

/// Longest header that is looked into: the largest there are list some 100,000 files.
const MAX_HEADER_BYTES: usize = 64 << 20;
/// Most entries: rpm itself has a few hundred tags.
const MAX_ENTRIES: usize = 64 << 10;
const ENTRY_BYTES: usize = 16;

/// Tags ("rpmtags").
const NAME: usize = 1000;
const VERSION: usize = 1001;
const RELEASE: usize = 1002;
const EPOCH: usize = 1003;
const VENDOR: usize = 1011;
const LICENSE: usize = 1014;
const URL: usize = 1020;
const ARCHITECTURE: usize = 1022;
const SOURCE: usize = 1044;

/// Types of values.
const INT32: usize = 4;
const STRING: usize = 6;
const I18N_STRING: usize = 9;

/// The package that a header describes; `None` if it is no header.
pub(super) fn package(blob: &[u8]) -> Option<Package> {
    let header = Header::new(blob)?;
    let (name, version, release) = (header.text(NAME)?, header.text(VERSION)?, header.text(RELEASE)?);
    // `epoch:version-release`, the epoch only where there is one: how rpm and dnf write it.
    let version = match header.number(EPOCH) {
        Some(epoch) => format!("{epoch}:{version}-{release}"),
        None => format!("{version}-{release}"),
    };
    Some(Package {
        architecture: header.text(ARCHITECTURE),
        license: header.text(LICENSE),
        supplier: header.text(VENDOR),
        homepage: header.text(URL),
        source: header.text(SOURCE),
        ..Package::new(Ecosystem::Rpm, &name, &version)
    })
}

struct Header<'a> {
    entries: &'a [u8],
    data: &'a [u8],
}

impl<'a> Header<'a> {
    fn new(blob: &'a [u8]) -> Option<Self> {
        let (count, size) = (Big.u32(blob, 0)?, Big.u32(blob, 4)?);
        if blob.len() > MAX_HEADER_BYTES || count > MAX_ENTRIES {
            return None;
        }
        let (entries, data) = blob.get(8..)?.split_at_checked(count.checked_mul(ENTRY_BYTES)?)?;
        Some(Self { entries, data: data.get(..size)? })
    }

    /// Where the value of a tag begins, if it is of one of these types.
    fn value(&self, tag: usize, kinds: &[usize]) -> Option<&'a [u8]> {
        let is_meant = |entry: &&[u8]| Big.u32(entry, 0) == Some(tag);
        let entry = self.entries.chunks_exact(ENTRY_BYTES).find(is_meant)?;
        kinds.contains(&Big.u32(entry, 4)?).then_some(())?;
        self.data.get(Big.u32(entry, 8)?..)
    }

    /// A text; of one in several languages the first, which is English.
    fn text(&self, tag: usize) -> Option<String> {
        let value = self.value(tag, &[STRING, I18N_STRING])?;
        let end = value.iter().position(|byte| *byte == 0)?;
        let text = String::from_utf8_lossy(&value[..end]).into_owned();
        (!text.is_empty()).then_some(text)
    }

    fn number(&self, tag: usize) -> Option<usize> {
        Big.u32(self.value(tag, &[INT32])?, 0)
    }
}
