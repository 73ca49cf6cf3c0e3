//! A hash of Berkeley DB (its `dbinc/db_page.h`): pages of pairs, a large value in a list of pages of its own.

use super::{Order, Take};

/// Of a hash, in the byte order of the machine that wrote it.
const MAGIC: usize = 0x06_1561;
const PAGE_HEADER_BYTES: usize = 26;
/// Kinds of pages.
const HASH_UNSORTED: u8 = 2;
const OVERFLOW: u8 = 7;
const HASH: u8 = 13;
/// Kinds of items on them.
const KEY_DATA: u8 = 1;
const OFF_PAGE: u8 = 3;

const DAMAGED: &str = "a damaged Berkeley DB";

pub(super) fn is_one(bytes: &[u8]) -> bool {
    order(bytes).is_some()
}

fn order(bytes: &[u8]) -> Option<Order> {
    [Order::Little, Order::Big].into_iter().find(|order| order.u32(bytes, 12) == Some(MAGIC))
}

/// Gives out the pairs' values.
pub(super) fn read(bytes: &[u8], take: &mut Take<'_>) -> Result<(), &'static str> {
    let order = order(bytes).ok_or(DAMAGED)?;
    let page_bytes =
        order.u32(bytes, 20).filter(|size| (512..=65_536).contains(size) && size.is_power_of_two());
    let file = File { bytes, page_bytes: page_bytes.ok_or(DAMAGED)?, order };
    if bytes.get(24) != Some(&0) {
        return Err("an encrypted Berkeley DB");
    }
    for page in bytes.chunks_exact(file.page_bytes).skip(1) {
        if !matches!(page[25], HASH | HASH_UNSORTED) {
            continue;
        }
        let items = order.u16(page, 20).ok_or(DAMAGED)?;
        // Of a pair the value comes second.
        for index in (1..items).step_by(2) {
            let value = file.value(page, index).ok_or(DAMAGED)?;
            take(&value)?;
        }
    }
    Ok(())
}

struct File<'a> {
    bytes: &'a [u8],
    page_bytes: usize,
    order: Order,
}

impl File<'_> {
    fn value(&self, page: &[u8], index: usize) -> Option<Vec<u8>> {
        let at = |index: usize| self.order.u16(page, PAGE_HEADER_BYTES + 2 * index);
        let begin = at(index)?;
        match *page.get(begin)? {
            // Items are laid down from the page's end.
            KEY_DATA => page.get(begin + 1..at(index - 1)?).map(<[u8]>::to_vec),
            OFF_PAGE => self.overflow(self.order.u32(page, begin + 4)?, self.order.u32(page, begin + 8)?),
            _ => Some(Vec::new()),
        }
    }

    fn overflow(&self, mut number: usize, size: usize) -> Option<Vec<u8>> {
        if size > self.bytes.len() {
            return None;
        }
        let mut value = Vec::new();
        while value.len() < size {
            let begin = number.checked_mul(self.page_bytes)?;
            let page = self.bytes.get(begin..begin.checked_add(self.page_bytes)?)?;
            let length = self.order.u16(page, 22)?;
            // An empty page would be a way to go on for ever.
            if page[25] != OVERFLOW || length == 0 {
                return None;
            }
            value.extend_from_slice(page.get(PAGE_HEADER_BYTES..PAGE_HEADER_BYTES + length)?);
            number = self.order.u32(page, 16)?;
        }
        (value.len() == size).then_some(value)
    }
}
