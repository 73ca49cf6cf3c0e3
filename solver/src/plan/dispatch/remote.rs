//! ADD's sources that are fetched: URLs and git (FEATURES CP24–CP31).

use crate::git_url::{GitUrl, percent_decoded};

/// What a source's text says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::plan) enum SourceKind {
    /// A path or pattern in the context.
    Local,
    /// A file by HTTP(S); `file_name` is what it is called in a directory.
    Url { file_name: String },
    /// A git tree.
    Git(GitUrl),
}

/// A URL's file without a name.
const UNNAMED: &str = "__unnamed__";

/// Tells what `source` is.
///
/// # Errors
/// What is wrong with a git URL.
pub(in crate::plan) fn kind(source: &str) -> Result<SourceKind, String> {
    if let Some(git) = GitUrl::parse(source)? {
        return Ok(SourceKind::Git(git));
    }
    if !source.starts_with("http://") && !source.starts_with("https://") {
        return Ok(SourceKind::Local);
    }
    let url = source.split(['?', '#']).next().unwrap_or_default();
    let path = url.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map_or("", |(_, path)| path);
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let name = percent_decoded(name);
    // A name that is no name of a file must not become a path.
    let usable = !matches!(name.as_str(), "" | "." | "..") && !name.contains(['/', '\0']);
    Ok(SourceKind::Url { file_name: if usable { name } else { UNNAMED.into() } })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(name: &str) -> SourceKind {
        SourceKind::Url { file_name: name.into() }
    }

    #[test]
    fn a_url_names_its_file_by_the_path() {
        assert_eq!(kind("https://x.org/a/b.tar.gz?x=/y#z"), Ok(url("b.tar.gz")));
        assert_eq!(kind("https://x.org/"), Ok(url("__unnamed__")));
        assert_eq!(kind("https://x.org"), Ok(url("__unnamed__")));
        assert_eq!(kind("https://x.org/a/%2e%2e"), Ok(url("__unnamed__")));
        assert_eq!(kind("src/http.c"), Ok(SourceKind::Local));
        assert_eq!(kind("github.com/o/r"), Ok(SourceKind::Local));
    }
}
