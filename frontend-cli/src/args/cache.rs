//! `--cache-from` and `--cache-to`: `ref`, `a,b`, `type=…,key=value` (FEATURES CA17, CA18).

use kiln::CacheSpec;

use super::csv;

/// Understands one flag's value, which may name several registry caches.
pub(crate) fn parse(flag: &str, text: &str) -> Result<Vec<CacheSpec>, String> {
    let fields = csv::fields(text).map_err(|error| format!("{flag}: {error}"))?;
    // The text may hold secrets: only what is wrong with it is repeated.
    CacheSpec::from_fields(&fields).map_err(|error| format!("{flag}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_field_keeps_its_comma() {
        let specs = parse("--cache-from", r#"type=local,"src=a,b""#).unwrap();
        assert_eq!(specs, [CacheSpec::new("local").with("src", "a,b")]);
    }

    #[test]
    fn what_has_no_type_is_refused() {
        let error = parse("--cache-to", "dest=x").unwrap_err();
        assert_eq!(error, "--cache-to: type is required");
    }
}
