//! Bytes that are kept for people and seldom read: logs, what steps were made of, build histories.
//!
//! The first byte says how the rest is written: [`RAW`] or [`ZSTD`].

use std::io::Read as _;

const RAW: u8 = 0;
const ZSTD: u8 = 1;
/// Below so many bytes compressing gains nothing.
const WORTH_BYTES: usize = 256;
/// The fastest: a step's end waits for it.
const LEVEL: i32 = 1;
/// No more is unpacked, whatever the database holds: a log has 2 MB, what a step was made of some ten.
const MAX_UNPACKED_BYTES: u64 = 64 << 20;

/// As the database keeps `bytes`.
pub(super) fn pack(bytes: &[u8]) -> Vec<u8> {
    let packed = match bytes.len() {
        WORTH_BYTES.. => zstd::bulk::compress(bytes, LEVEL).ok(),
        _ => None,
    };
    let (how, body) = match &packed {
        Some(packed) if packed.len() < bytes.len() => (ZSTD, packed.as_slice()),
        _ => (RAW, bytes),
    };
    [&[how], body].concat()
}

/// What [`pack`] was given; `None` for what it cannot have written.
pub(super) fn unpack(packed: &[u8]) -> Option<Vec<u8>> {
    match packed.split_first()? {
        (&RAW, bytes) => Some(bytes.to_vec()),
        (&ZSTD, bytes) => {
            let mut unpacked = Vec::new();
            let decoder = zstd::Decoder::new(bytes).ok()?;
            decoder.take(MAX_UNPACKED_BYTES).read_to_end(&mut unpacked).ok()?;
            Some(unpacked)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_comes_back_and_repetition_costs_little() {
        for bytes in [&b""[..], b"short", &[7; 100_000]] {
            assert_eq!(unpack(&pack(bytes)).as_deref(), Some(bytes));
        }
        assert!(pack(&[7; 100_000]).len() < 1_000);
    }

    #[test]
    fn damaged_bytes_are_no_answer() {
        assert_eq!(unpack(b""), None);
        assert_eq!(unpack(b"\x09abc"), None);
        assert_eq!(unpack(b"\x01abc"), None);
    }
}
