//! The table `Packages` of a SQLite database ("Database File Format", sqlite.org): its schema on the first page, a B-tree
//! of pages, values that run over into lists of pages. What waits in a `-wal` file beside it is not read: rpm leaves none
//! behind when it ends.

use super::Order::Big;
use super::{Budget, Take};

const MAGIC: &[u8] = b"SQLite format 3\0";
/// The file's own header stands before the first page's.
const HEADER_BYTES: usize = 100;
const TABLE: &[u8] = b"Packages";
/// A tree of 2^31 pages is not as deep.
const MAX_DEPTH: usize = 20;
const INTERIOR: u8 = 5;
const LEAF: u8 = 13;

const DAMAGED: &str = "a damaged SQLite database";

pub(super) fn is_one(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// The blobs of the table's second column.
pub(super) fn read(bytes: &[u8], take: &mut Take<'_>) -> Result<(), &'static str> {
    let file = File::new(bytes).ok_or(DAMAGED)?;
    let mut root = None;
    file.table(1, &mut |record| {
        let column = |index| value(record, index);
        if column(0) == Some(b"table") && column(1) == Some(TABLE) {
            // A number of as many bytes as it needs.
            let join = |number: usize, byte: &u8| (number << 8 | usize::from(*byte)) & 0xffff_ffff;
            root = column(3).map(|number| number.iter().fold(0, join));
        }
        Ok(())
    })?;
    match root {
        Some(root) => file.table(root, &mut |record| value(record, 1).map_or(Ok(()), &mut *take)),
        None => Err("a SQLite database without a table of packages"),
    }
}

struct File<'a> {
    bytes: &'a [u8],
    page_bytes: usize,
    /// Of a page, without what is reserved for extensions.
    usable: usize,
}

impl<'a> File<'a> {
    fn new(bytes: &'a [u8]) -> Option<Self> {
        let page_bytes = match Big.u16(bytes, 16)? {
            1 => 65_536,
            size if size >= 512 && size.is_power_of_two() => size,
            _ => return None,
        };
        let usable = page_bytes - usize::from(*bytes.get(20)?);
        // By the format at least.
        (usable >= 480).then_some(Self { bytes, page_bytes, usable })
    }

    fn pages(&self) -> usize {
        self.bytes.len() / self.page_bytes
    }

    /// Pages have numbers from 1.
    fn page(&self, number: usize) -> Option<&'a [u8]> {
        let at = number.checked_sub(1)?.checked_mul(self.page_bytes)?;
        self.bytes.get(at..at.checked_add(self.page_bytes)?)
    }

    /// Gives out the records of a table, in order.
    fn table(&self, root: usize, take: &mut Take<'_>) -> Result<(), &'static str> {
        // Pages and their depths that are still to be read, the next one last.
        let mut pending = vec![(root, 0)];
        let mut visited = 0;
        let mut budget = Budget(self.bytes.len());
        while let Some((number, depth)) = pending.pop() {
            visited += 1;
            if visited > self.pages() || depth > MAX_DEPTH {
                return Err(DAMAGED);
            }
            let page = self.page(number).ok_or(DAMAGED)?;
            let at = if number == 1 { HEADER_BYTES } else { 0 };
            let cells = Big.u16(page, at + 3).ok_or(DAMAGED)?;
            match page.get(at) {
                Some(&INTERIOR) => {
                    let mut children = Vec::with_capacity(cells + 1);
                    for index in 0..cells {
                        let cell = Big.u16(page, at + 12 + 2 * index).ok_or(DAMAGED)?;
                        children.push(Big.u32(page, cell).ok_or(DAMAGED)?);
                    }
                    children.push(Big.u32(page, at + 8).ok_or(DAMAGED)?);
                    pending.extend(children.into_iter().rev().map(|child| (child, depth + 1)));
                }
                Some(&LEAF) => {
                    for index in 0..cells {
                        let cell = Big.u16(page, at + 8 + 2 * index).ok_or(DAMAGED)?;
                        let record = self.payload(page, cell).ok_or(DAMAGED)?;
                        budget.spend(record.len())?;
                        take(&record)?;
                    }
                }
                _ => return Err(DAMAGED),
            }
        }
        Ok(())
    }

    /// A cell's record, put together from the page and those that it runs over into ("B-tree Cell Format").
    fn payload(&self, page: &'a [u8], mut at: usize) -> Option<Vec<u8>> {
        let size = varint(page, &mut at)?;
        let _row = varint(page, &mut at)?;
        if size > self.bytes.len() {
            return None;
        }
        let most = self.usable - 35;
        if size <= most {
            return page.get(at..at + size).map(<[u8]>::to_vec);
        }
        let least = (self.usable - 12) * 32 / 255 - 23;
        let fitting = least + (size - least) % (self.usable - 4);
        let local = if fitting <= most { fitting } else { least };
        let mut payload = page.get(at..at + local)?.to_vec();
        let mut next = Big.u32(page, at + local)?;
        while payload.len() < size {
            let page = self.page(next)?;
            let rest = (size - payload.len()).min(self.usable - 4);
            payload.extend_from_slice(page.get(4..4 + rest)?);
            next = Big.u32(page, 0)?;
        }
        Some(payload)
    }
}

/// The bytes of a record's column ("Record Format"); a number that the format keeps in no bytes has none.
fn value(record: &[u8], column: usize) -> Option<&[u8]> {
    let mut at = 0;
    let header = varint(record, &mut at)?;
    let mut begin = header;
    let mut index = 0;
    while at < header {
        let size = match varint(record, &mut at)? {
            kind @ 0..=4 => kind,
            5 => 6,
            6 | 7 => 8,
            8..=11 => 0,
            kind => (kind - 12) / 2,
        };
        if index == column {
            return record.get(begin..begin.checked_add(size)?);
        }
        begin = begin.checked_add(size)?;
        index += 1;
    }
    None
}

/// A number of up to nine bytes, the more significant ones first, seven bits in each but the ninth.
fn varint(bytes: &[u8], at: &mut usize) -> Option<usize> {
    let mut number = 0u64;
    for index in 0..9 {
        let byte = *bytes.get(*at)?;
        *at += 1;
        if index == 8 {
            number = number << 8 | u64::from(byte);
            break;
        }
        number = number << 7 | u64::from(byte & 0x7f);
        if byte < 0x80 {
            break;
        }
    }
    usize::try_from(number).ok()
}
