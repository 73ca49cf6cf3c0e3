//! Telling what deflate cannot make smaller, archives and pictures above all, from what it can: to try takes as long as to
//! compress, and to look a tenth of that.

/// So much is judged as one. Deflate looks back half as far (RFC 1951, section 2).
pub(super) const PIECE_BYTES: usize = 64 * 1024;

/// Whether deflate would make `piece`, of at most [`PIECE_BYTES`], no smaller: all bytes are about as frequent, and hardly
/// any sequence of them comes twice. Says `false` where it is not sure.
pub(super) fn is_incompressible(piece: &[u8]) -> bool {
    // Most pieces are of something else, which their beginnings tell.
    (SURE_BYTES..=PIECE_BYTES).contains(&piece.len())
        && has_flat_histogram(&piece[..SURE_BYTES])
        && has_flat_histogram(piece)
        && !repeats(piece)
}

/// By the sum of squared frequencies: of random bytes it is n²/256 + n, of a thirty-second more than that in the first term an
/// ideal code for single bytes saves 0.3%.
fn has_flat_histogram(piece: &[u8]) -> bool {
    // Several, as one would wait for itself where a byte comes twice.
    let mut counts = [[0_u32; 256]; 4];
    let mut quads = piece.chunks_exact(4);
    for quad in &mut quads {
        for (counts, &byte) in counts.iter_mut().zip(quad) {
            counts[usize::from(byte)] += 1;
        }
    }
    for &byte in quads.remainder() {
        counts[0][usize::from(byte)] += 1;
    }
    let of = |byte: usize| counts.iter().map(|counts| u64::from(counts[byte])).sum::<u64>();
    let squares: u64 = (0..256).map(|byte| of(byte).pow(2)).sum();
    let length = piece.len() as u64;
    squares <= length * length / 256 * 33 / 32 + length
}

/// Whether four bytes that came before come again at more than about one place of 256; those of random bytes do at one of
/// millions.
fn repeats(piece: &[u8]) -> bool {
    const TABLE_BITS: u32 = 12;
    // Of sixteen places one is looked at, chosen by what is there: it is looked at again where that is again.
    const CHOSEN_BITS: u32 = 4;
    // Where the bytes of each hash came last: half of what is remembered at a place is still so 32 KiB later.
    let mut last = [0_u16; 1 << TABLE_BITS];
    let mut found = 0;
    for (place, four) in piece.windows(4).enumerate() {
        let hash = u32::from_le_bytes([four[0], four[1], four[2], four[3]]).wrapping_mul(0x9E37_79B1);
        let (slot, chosen) = (hash >> (32 - TABLE_BITS), hash >> (32 - TABLE_BITS - CHOSEN_BITS));
        if chosen % (1 << CHOSEN_BITS) != 0 {
            continue;
        }
        // A piece has no more places than there are numbers.
        let before = usize::from(std::mem::replace(&mut last[slot as usize], place as u16));
        found += usize::from(before < place && piece[before..].starts_with(four));
    }
    found > piece.len() >> (8 + CHOSEN_BITS)
}

/// Fewer bytes are too few to tell.
const SURE_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest as _, Sha256};

    /// As good as random.
    fn noise(length: usize) -> Vec<u8> {
        (0_u64..).flat_map(|number| Sha256::digest(number.to_le_bytes())).take(length).collect()
    }

    #[test]
    fn noise_of_any_length_is_incompressible() {
        let noise = noise(3 * PIECE_BYTES);
        for length in [SURE_BYTES, SURE_BYTES + 1, 10_003, PIECE_BYTES - 1, PIECE_BYTES] {
            for start in [0, 77, PIECE_BYTES] {
                assert!(is_incompressible(&noise[start..start + length]), "{length} from {start}");
            }
        }
    }

    #[test]
    fn what_deflate_saves_something_on_is_not() {
        let noise = noise(PIECE_BYTES);
        let twice: Vec<_> = noise[..PIECE_BYTES / 2].repeat(2);
        let ascii: Vec<_> = noise.iter().map(|byte| byte & 0x7f).collect();
        // One of thirty bytes is a zero, as between words.
        let words: Vec<_> =
            noise.iter().enumerate().map(|(at, b)| if at % 30 == 0 { 0 } else { *b }).collect();
        let mut tail = noise.clone();
        tail.copy_within(40_000..45_000, 60_000);
        for (name, bytes) in [("twice", twice), ("ascii", ascii), ("words", words), ("tail", tail)] {
            assert!(!is_incompressible(&bytes), "{name}");
        }
        assert!(!is_incompressible(&[]) && !is_incompressible(&noise[..100]));
        assert!(!is_incompressible(&vec![0; PIECE_BYTES]));
    }

    #[test]
    fn what_was_compressed_before_is_incompressible() {
        let text: String = noise(4 * PIECE_BYTES).iter().map(|byte| format!("{byte:02x}")).collect();
        let packed = zstd::bulk::compress(text.as_bytes(), 3).unwrap();
        let pieces: Vec<_> = packed.chunks_exact(PIECE_BYTES).map(is_incompressible).collect();
        assert!(pieces.len() > 3 && pieces.iter().all(|is_incompressible| *is_incompressible), "{pieces:?}");
    }
}
