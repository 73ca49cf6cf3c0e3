//! "Did you mean …?": the nearest known word.

/// Most edits between a word and what is suggested for it.
const MAX_DISTANCE: usize = 2;

/// Longest word that gets a suggestion; what is longer is no typing mistake, and the comparison is quadratic.
const MAX_WORD_BYTES: usize = 64;

/// Returns the candidate nearest to `word`, letter case aside; the first of several equals.
pub(crate) fn closest(
    word: &str,
    candidates: impl IntoIterator<Item = &'static str>,
) -> Option<&'static str> {
    if word.len() > MAX_WORD_BYTES {
        return None;
    }
    let word = word.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (distance(&word, &candidate.to_lowercase()), candidate))
        // Where every letter would change, nothing is near.
        .filter(|(edits, candidate)| {
            *edits <= MAX_DISTANCE && *edits < candidate.len().min(word.len()).max(1)
        })
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// Counts the insertions, deletions, replacements and swaps of neighbours between two words.
///
/// Levenshtein's distance, but for the swap, the commonest of typing mistakes, which counts once: `chwon` is nearer to
/// `chown` than to `chmod`.
fn distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.chars().collect();
    let right: Vec<char> = right.chars().collect();
    let mut rows: Vec<Vec<usize>> = vec![(0..=right.len()).collect()];
    for (above, letter) in left.iter().enumerate() {
        let mut row = vec![above + 1];
        for (before, other) in right.iter().enumerate() {
            let cell = |row: usize, column: usize| rows.get(row).and_then(|row| row.get(column)).copied();
            let steps = [
                cell(above, before).map(|edits| edits + usize::from(letter != other)),
                cell(above, before + 1).map(|edits| edits + 1),
                row.last().map(|edits| edits + 1),
                match (above.checked_sub(1), before.checked_sub(1)) {
                    (Some(up), Some(back))
                        if left.get(up) == Some(other) && right.get(back) == Some(letter) =>
                    {
                        cell(up, back).map(|edits| edits + 1)
                    }
                    _ => None,
                },
            ];
            row.push(steps.into_iter().flatten().min().unwrap_or(usize::MAX));
        }
        rows.push(row);
    }
    rows.last().and_then(|row| row.last()).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_counted_in_single_edits() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", ""), 3);
        assert_eq!(distance("coyp", "copy"), 1);
        assert_eq!(distance("copy", "copy"), 0);
    }

    #[test]
    fn a_swap_is_one_mistake() {
        assert_eq!(closest("chwon", ["chmod", "chown"]), Some("chown"));
    }

    #[test]
    fn the_nearest_word_wins_and_far_words_get_none() {
        let words = ["ADD", "COPY", "ENV", "RUN", "SHELL"];
        assert_eq!(closest("COYP", words), Some("COPY"));
        assert_eq!(closest("RNU", words), Some("RUN"));
        assert_eq!(closest("runn", words), Some("RUN"));
        assert_eq!(closest("hello", words), Some("SHELL"));
        assert_eq!(closest("echo", words), None);
        assert_eq!(closest("DEPLOY", words), None);
    }
}
