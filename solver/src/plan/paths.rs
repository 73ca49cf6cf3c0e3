//! Slash-separated paths inside images: Go's `path.Clean` and `path.Join`, as BuildKit uses them on Linux. No path
//! here is ever opened.

/// The shortest equal path: no `//`, `.` or inner `..`; never above `/`.
pub(super) fn clean(path: &str) -> String {
    let absolute = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => _ = parts.pop(),
            ".." if absolute => {}
            _ => parts.push(part),
        }
    }
    match (absolute, parts.join("/")) {
        (true, path) => format!("/{path}"),
        (false, path) if path.is_empty() => ".".into(),
        (false, path) => path,
    }
}

/// `path` in `directory`, cleaned, whether or not it begins with a slash.
pub(crate) fn join(directory: &str, path: &str) -> String {
    clean(&format!("{directory}/{path}"))
}

/// `path` as an instruction in `directory` means it. An absolute one is taken as written; a relative one is joined
/// and cleaned, except for a trailing `/` or `/.`, which says that it is a directory.
pub(super) fn destination(directory: &str, path: &str) -> String {
    let path = if path == "." || path.is_empty() { "./" } else { path };
    if path.starts_with('/') {
        return path.to_owned();
    }
    let mut joined = join(directory, path);
    if path.ends_with('/') && !joined.ends_with('/') {
        joined.push('/');
    } else if path.ends_with("/.") {
        joined.push_str(if joined == "/" { "." } else { "/." });
    }
    joined
}

/// WORKDIR `path` in `current`: absolute ones stay as written (so does the config).
pub(super) fn workdir(current: &str, path: &str) -> String {
    let current = if current.starts_with('/') { current.to_owned() } else { join("/", current) };
    match path {
        "" => current,
        path if path.starts_with('/') => path.to_owned(),
        path => join(&current, path),
    }
}

/// The last part, `/` for the root, as Go's `path.Base`.
pub(super) fn base_name(path: &str) -> &str {
    match path.trim_end_matches('/') {
        "" => {
            if path.is_empty() {
                "."
            } else {
                "/"
            }
        }
        path => path.rsplit('/').next().unwrap_or(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaning_never_leaves_the_root() {
        let cases =
            [("/a//b/", "/a/b"), ("/../x", "/x"), ("a/../..", ".."), ("", "."), ("/", "/"), ("./c/.", "c")];
        for (path, expected) in cases {
            assert_eq!(clean(path), expected, "{path}");
        }
    }

    #[test]
    fn a_trailing_slash_of_a_destination_is_kept() {
        assert_eq!(destination("/w", "x/"), "/w/x/");
        assert_eq!(destination("/w", "."), "/w/");
        assert_eq!(destination("/w", ""), "/w/");
        assert_eq!(destination("/w", "x/."), "/w/x/.");
        assert_eq!(destination("/w", "/abs"), "/abs");
        assert_eq!(destination("/", "./"), "/");
    }
}
