//! Booleans as Go reads them (`strconv.ParseBool`), which Dockerfiles, keys and flags of docker's tools keep to.

/// Whether `text` is a word for yes or for no; `None` for any other.
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_gos_words_are_booleans() {
        assert_eq!(["1", "t", "True", "TRUE"].map(boolean), [Some(true); 4]);
        assert_eq!(["0", "F", "false", "False"].map(boolean), [Some(false); 4]);
        assert_eq!(["", "yes", "tRUE", "on", "10"].map(boolean), [None; 5]);
    }
}
