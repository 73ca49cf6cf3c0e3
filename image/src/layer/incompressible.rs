//! Telling what deflate cannot make smaller, archives and pictures above all, from what it can: to try takes as long as to
//! compress, and to look a tenth of that.

/// `block` in parts, each with whether it is incompressible.
pub(super) fn parts(block: &[u8]) -> Vec<(bool, &[u8])> {
    let mut parts = Vec::new();
    let (mut start, mut before) = (0, None);
    for (number, piece) in block.chunks(PIECE_BYTES).enumerate() {
        let now = is_incompressible(piece);
        if let Some(before) = before.filter(|before| *before != now) {
            // The border is seldom where a piece begins, and half a kilobyte of noise spoils deflate's codes for what follows.
            let border = number * PIECE_BYTES + leading_bytes(piece, before);
            parts.push((before, &block[start..border]));
            start = border;
        }
        before = Some(now);
    }
    parts.extend(before.map(|before| (before, &block[start..])));
    parts
}

/// How far `piece` begins with what is `noise`, or is not; nothing where that is too far to believe.
fn leading_bytes(piece: &[u8], noise: bool) -> usize {
    let grains = piece.chunks_exact(GRAIN_BYTES).take_while(|grain| is_noise(grain) == noise).count();
    if grains < MOST_GRAINS { grains * GRAIN_BYTES } else { 0 }
}

/// Whether `grain` might be of random bytes: a fifth over their sum of squares is seven times what chance makes of it.
fn is_noise(grain: &[u8]) -> bool {
    let length = grain.len() as u64;
    sum_of_squares(grain) <= (length * length / 256 + length) * 6 / 5
}

/// So much is judged as one. Deflate looks back half as far (RFC 1951, section 2).
const PIECE_BYTES: usize = 64 * 1024;
/// What borders between parts are multiples of, as those between files in a tar are.
const GRAIN_BYTES: usize = 512;
/// A part begins in the first half of a piece: the half that tells of which kind that is comes behind.
const MOST_GRAINS: usize = PIECE_BYTES / 2 / GRAIN_BYTES;

/// Whether deflate would make `piece`, of at most [`PIECE_BYTES`], no smaller: all bytes are about as frequent, and hardly
/// any sequence of them comes twice. Says `false` where it is not sure.
fn is_incompressible(piece: &[u8]) -> bool {
    if !(SURE_BYTES..=PIECE_BYTES).contains(&piece.len()) {
        return false;
    }
    // Most pieces are of something else, which their middles tell: a beginning may be a tar's header, or the end of the file
    // before.
    let middle = (piece.len() - SURE_BYTES) / 2;
    has_flat_histogram(&piece[middle..middle + SURE_BYTES]) && has_flat_histogram(piece) && !repeats(piece)
}

/// By the sum of squared frequencies: of random bytes it is n²/256 + n, of a thirty-second more than that in the first term an
/// ideal code for single bytes saves 0.3%.
fn has_flat_histogram(piece: &[u8]) -> bool {
    let length = piece.len() as u64;
    sum_of_squares(piece) <= length * length / 256 * 33 / 32 + length
}

/// Of how often each byte comes.
fn sum_of_squares(piece: &[u8]) -> u64 {
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
    (0..256).map(|byte| of(byte).pow(2)).sum()
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
    use proptest::collection::vec;
    use proptest::prelude::*;
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

    /// With about as many repetitions as any language has.
    fn text(length: usize) -> Vec<u8> {
        let words: Vec<String> =
            noise(9000).chunks(3).map(|w| format!("{:x}{} ", w[0], w[1] ^ w[2])).collect();
        let order = noise(2 * length);
        order
            .chunks(2)
            .flat_map(|number| words[usize::from(u16::from_le_bytes([number[0], number[1]])) % 3000].bytes())
            .take(length)
            .collect()
    }

    #[test]
    fn a_piece_may_begin_and_end_with_a_little_of_something_else() {
        let (text, noise) = (text(PIECE_BYTES), noise(PIECE_BYTES));
        for length in [100, 512, 700] {
            let rest = &noise[..PIECE_BYTES - length];
            assert!(is_incompressible(&[&text[..length], rest].concat()), "{length} in front");
            assert!(is_incompressible(&[rest, &text[..length]].concat()), "{length} behind");
        }
        assert!(!is_incompressible(&[&noise[..512], &text[512..]].concat()));
    }

    #[test]
    fn parts_end_where_the_noise_does() {
        let (text, noise) = (text(2 * PIECE_BYTES), noise(2 * PIECE_BYTES));
        for shift in [0, 512, 1024] {
            let block = [&text[..PIECE_BYTES + shift], &noise, &text].concat();
            let found: Vec<_> = parts(&block).iter().map(|(noise, part)| (*noise, part.len())).collect();
            let expected = [(false, PIECE_BYTES + shift), (true, 2 * PIECE_BYTES), (false, 2 * PIECE_BYTES)];
            assert_eq!(found, expected, "{shift}");
            assert!(parts(&block).iter().flat_map(|(_, part)| *part).eq(&block));
        }
        // What comes twice is no noise, whatever it looks like.
        let twice = [&noise[..PIECE_BYTES], &noise[..PIECE_BYTES / 2].repeat(2)].concat();
        let found: Vec<_> = parts(&twice).iter().map(|(noise, part)| (*noise, part.len())).collect();
        assert_eq!(found, [(true, PIECE_BYTES), (false, PIECE_BYTES)]);
        assert_eq!(parts(&[]), []);
    }

    #[test]
    fn parts_are_the_whole_and_alternate() {
        let (text, noise) = (text(3 * PIECE_BYTES), noise(3 * PIECE_BYTES));
        proptest!(ProptestConfig::with_cases(64), |(runs in vec((any::<bool>(), 0..3 * PIECE_BYTES), 0..6))| {
            let run = |&(is_noise, length): &(bool, usize)| if is_noise { &noise[..length] } else { &text[..length] };
            let block: Vec<u8> = runs.iter().flat_map(run).copied().collect();
            let parts = parts(&block);
            prop_assert!(parts.iter().flat_map(|(_, part)| *part).eq(&block));
            prop_assert!(parts.iter().all(|(_, part)| !part.is_empty()));
            prop_assert!(parts.windows(2).all(|pair| pair[0].0 != pair[1].0));
        });
    }

    #[test]
    fn what_was_compressed_before_is_incompressible() {
        let text: String = noise(4 * PIECE_BYTES).iter().map(|byte| format!("{byte:02x}")).collect();
        let packed = zstd::bulk::compress(text.as_bytes(), 3).unwrap();
        let pieces: Vec<_> = packed.chunks_exact(PIECE_BYTES).map(is_incompressible).collect();
        assert!(pieces.len() > 3 && pieces.iter().all(|is_incompressible| *is_incompressible), "{pieces:?}");
    }
}
