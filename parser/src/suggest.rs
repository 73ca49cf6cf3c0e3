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

/// Counts the insertions, deletions and replacements between two words (Levenshtein).
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (above, letter) in left.chars().enumerate() {
        let mut diagonal = above;
        let mut before = above + 1;
        if let Some(first) = row.first_mut() {
            *first = before;
        }
        for (cell, other) in row.iter_mut().skip(1).zip(&right) {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = *cell;
            *cell = replaced.min(before + 1).min(*cell + 1);
            before = *cell;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_counted_in_single_edits() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("copy", "copy"), 0);
    }

    #[test]
    fn the_nearest_word_wins_and_far_words_get_none() {
        let words = ["ADD", "COPY", "ENV", "RUN", "SHELL"];
        assert_eq!(closest("COYP", words), Some("COPY"));
        assert_eq!(closest("runn", words), Some("RUN"));
        assert_eq!(closest("hello", words), Some("SHELL"));
        assert_eq!(closest("echo", words), None);
        assert_eq!(closest("DEPLOY", words), None);
    }
}
