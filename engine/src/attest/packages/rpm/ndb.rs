//! rpm's own `ndb` (rpm, `lib/backend/ndb/rpmpkg.c`): slots of 16 bytes at the beginning, which say where packages are.

use super::Order::Little;
use super::Take;

const MAGIC: &[u8] = b"RpmP";
const SLOT_MAGIC: &[u8] = b"Slot";
const BLOB_MAGIC: &[u8] = b"BlbS";
const SLOT_BYTES: usize = 16;
/// What offsets count in.
const BLOCK_BYTES: usize = 16;
const PAGE_BYTES: usize = 4096;

const DAMAGED: &str = "a damaged ndb database";

pub(super) fn is_one(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

pub(super) fn read(bytes: &[u8], take: &mut Take<'_>) -> Result<(), &'static str> {
    if Little.u32(bytes, 4) != Some(0) {
        return Err("an ndb database of a version that is not known");
    }
    let pages = Little.u32(bytes, 12).ok_or(DAMAGED)?;
    let slots = bytes.get(..pages.saturating_mul(PAGE_BYTES)).ok_or(DAMAGED)?;
    // The file's header takes the place of two.
    for slot in slots.chunks_exact(SLOT_BYTES).skip(2) {
        let number = Little.u32(slot, 4).ok_or(DAMAGED)?;
        if !slot.starts_with(SLOT_MAGIC) {
            return Err(DAMAGED);
        }
        // A free one.
        if number == 0 {
            continue;
        }
        let blob = Little.u32(slot, 8).and_then(|block| blob(bytes, block, number));
        take(blob.ok_or(DAMAGED)?)?;
    }
    Ok(())
}

fn blob(bytes: &[u8], block: usize, number: usize) -> Option<&[u8]> {
    let blob = bytes.get(block.checked_mul(BLOCK_BYTES)?..)?;
    if !blob.starts_with(BLOB_MAGIC) || Little.u32(blob, 4)? != number {
        return None;
    }
    blob.get(16..)?.get(..Little.u32(blob, 12)?)
}
