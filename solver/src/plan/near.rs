//! The nearest of some names, for hints.

/// Names further away than this are no help (hcl and BuildKit use the same).
const MAX_DISTANCE: usize = 2;
/// Longer lists are not searched to their end: hints must not make planning quadratic.
const MAX_CANDIDATES: usize = 256;
/// Longer names are not compared.
const MAX_LENGTH: usize = 64;

/// The candidate nearest to `name`, if one is near; none when `name` itself is among them.
pub(super) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if name.len() > MAX_LENGTH {
        return None;
    }
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates.into_iter().take(MAX_CANDIDATES) {
        if candidate == name {
            return None;
        }
        if candidate.len().abs_diff(name.len()) > MAX_DISTANCE * 4 || candidate.len() > MAX_LENGTH {
            continue;
        }
        let distance = distance(name, candidate);
        if distance <= MAX_DISTANCE && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// Levenshtein's distance in characters.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transposed_letter_is_near_and_another_word_is_not() {
        assert_eq!(nearest("bulider", ["base", "builder"]), Some("builder"));
        assert_eq!(nearest("prod", ["base", "builder"]), None);
        assert_eq!(nearest("base", ["base", "bass"]), None);
    }
}
