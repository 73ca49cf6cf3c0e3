//! `KEY=VALUE`, in the ways the flags spell it.

/// `--build-arg`, `-e`: `NAME=VALUE`, or `NAME` with the value `lookup` finds; `None` where it finds none.
pub(crate) fn variable(
    flag: &str,
    text: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<(String, String)>, String> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, lookup(text)),
    };
    if name.is_empty() {
        return Err(format!("invalid argument `{text}` for {flag}: the name is empty"));
    }
    Ok(value.map(|value| (name.to_owned(), value)))
}

/// `--label`: `KEY=VALUE`, or `KEY` with an empty value.
pub(crate) fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if key.is_empty() {
        return Err(format!("invalid argument `{text}` for --label: the key is empty"));
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// `--build-context`: `NAME=VALUE`, both there.
pub(crate) fn context(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => {
            Ok((name.to_owned(), value.to_owned()))
        }
        _ => Err(format!("invalid context value `{text}` for --build-context, expected name=value")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_without_a_value_takes_the_environments_or_is_not_passed() {
        let lookup = |name: &str| (name == "SET").then(|| "yes".to_owned());
        let read = |text| variable("--build-arg", text, &lookup).unwrap();
        assert_eq!(read("A=b=c"), Some(("A".into(), "b=c".into())));
        assert_eq!(read("SET"), Some(("SET".into(), "yes".into())));
        assert_eq!(read("UNSET"), None);
        assert_eq!(read("EMPTY="), Some(("EMPTY".into(), String::new())));
        assert!(variable("--build-arg", "=x", &lookup).is_err());
    }

    #[test]
    fn a_label_may_have_no_value_but_needs_a_key() {
        assert_eq!(label("k").unwrap(), ("k".into(), String::new()));
        assert!(label("=v").is_err());
    }
}
