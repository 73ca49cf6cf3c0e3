//! ADD's sources that are fetched: URLs and git (FEATURES CP24–CP31).

/// What a source's text says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::plan) enum SourceKind {
    /// A path or pattern in the context.
    Local,
    /// A file by HTTP(S); `file_name` is what it is called in a directory.
    Url { file_name: String },
    /// A git tree.
    Git(GitSource),
}

/// A git tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::plan) struct GitSource {
    pub(in crate::plan) remote: String,
    pub(super) reference: String,
    pub(super) subdir: String,
    pub(super) keep_git_dir: Option<bool>,
    pub(super) checksum: Option<String>,
}

/// A URL's file without a name.
const UNNAMED: &str = "__unnamed__";

/// Tells what `source` is.
///
/// # Errors
/// What is wrong with a git URL.
pub(in crate::plan) fn kind(source: &str) -> Result<SourceKind, String> {
    if let Some(git) = git(source)? {
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

/// Parses `https://host/repo.git`, `ssh://`, `git://` and `user@host:path`, each with `?query` and
/// `#reference:directory`.
fn git(source: &str) -> Result<Option<GitSource>, String> {
    if source.starts_with("./") || source.starts_with("../") {
        return Ok(None);
    }
    let (rest, fragment) = source.split_once('#').unwrap_or((source, ""));
    let (remote, query) = rest.split_once('?').unwrap_or((rest, ""));
    let is_git = match remote.split_once("://") {
        Some((scheme, rest)) => match scheme.to_ascii_lowercase().as_str() {
            "http" | "https" => rest.split_once('/').is_some_and(|(_, path)| path.ends_with(".git")),
            "ssh" | "git" => true,
            _ => false,
        },
        None => is_scp_style(remote),
    };
    if !is_git {
        return Ok(None);
    }
    let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
    let mut git = GitSource {
        remote: remote.to_owned(),
        reference: reference.to_owned(),
        subdir: crate::plan::paths::join("/", subdir).trim_start_matches('/').to_owned(),
        ..GitSource::default()
    };
    read_query(&mut git, query)?;
    Ok(Some(git))
}

/// `user@host:path`, as ssh's scp has it.
fn is_scp_style(text: &str) -> bool {
    let name = |text: &str, extra: &[char]| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || extra.contains(&c))
    };
    text.split_once('@').is_some_and(|(user, rest)| {
        let host = rest.split_once(':').map_or("", |(host, _)| host);
        name(user, &['-', '_']) && name(host, &['-', '.'])
    })
}

fn read_query(git: &mut GitSource, query: &str) -> Result<(), String> {
    let (mut tag, mut branch) = (None, None);
    let mut known: Vec<&str> = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = percent_decoded(value);
        if known.contains(&key) {
            return Err(format!("query {key:?} has multiple values"));
        }
        known.push(key);
        if value.is_empty() && !matches!(key, "submodules" | "keep-git-dir" | "fetch-by-commit") {
            return Err(format!("query {key:?} has no value"));
        }
        match key {
            "ref" => set(&mut git.reference, "ref", value)?,
            "tag" => tag = Some(value),
            "branch" => branch = Some(value),
            "subdir" => set(&mut git.subdir, "subdir", value)?,
            "checksum" | "commit" => git.checksum = Some(value),
            "keep-git-dir" => git.keep_git_dir = Some(boolean(key, &value)?),
            // Submodules are fetched, times are those of the checkout: what is asked for is what is done.
            "submodules" if boolean(key, &value)? => {}
            "fetch-by-commit" => _ = boolean(key, &value)?,
            "mtime" if value == "checkout" => {}
            "submodules" | "mtime" => return Err(format!("query {key}={value} is not supported")),
            _ => return Err(format!("unexpected query {key:?}")),
        }
    }
    match (tag, branch) {
        (Some(_), Some(_)) => return Err("branch conflicts with tag".into()),
        (Some(tag), None) => set(&mut git.reference, "ref", full_reference("refs/tags/", tag))?,
        (None, Some(branch)) => set(&mut git.reference, "ref", full_reference("refs/heads/", branch))?,
        (None, None) => {}
    }
    Ok(())
}

fn full_reference(prefix: &str, name: String) -> String {
    if name.starts_with(prefix) { name } else { format!("{prefix}{name}") }
}

fn set(field: &mut String, name: &str, value: String) -> Result<(), String> {
    if !field.is_empty() && *field != value {
        return Err(format!("{name} conflicts: {field:?} vs {value:?}"));
    }
    *field = value;
    Ok(())
}

fn boolean(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("invalid {key} value: {value:?}")),
    }
}

fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let decoded = bytes.get(at..at + 3).filter(|code| code[0] == b'%').and_then(|code| {
            let digits = std::str::from_utf8(&code[1..]).ok()?;
            u8::from_str_radix(digits, 16).ok()
        });
        match decoded {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
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

    #[test]
    fn a_git_url_has_a_reference_and_a_directory() {
        let Ok(SourceKind::Git(git)) = kind("https://x.org/o/r.git#v1:sub/dir") else {
            panic!("no git source")
        };
        assert_eq!((git.remote.as_str(), git.reference.as_str()), ("https://x.org/o/r.git", "v1"));
        assert_eq!(git.subdir, "sub/dir");
        let Ok(SourceKind::Git(git)) = kind("git@x.org:o/r?tag=v1&keep-git-dir") else {
            panic!("no git source")
        };
        assert_eq!((git.remote.as_str(), git.reference.as_str()), ("git@x.org:o/r", "refs/tags/v1"));
        assert_eq!(git.keep_git_dir, Some(true));
    }

    #[test]
    fn a_git_url_that_contradicts_itself_is_refused() {
        assert_eq!(kind("https://x.org/r.git?ref=a#b"), Err("ref conflicts: \"b\" vs \"a\"".into()));
        assert_eq!(kind("https://x.org/r.git?tag=a&branch=b"), Err("branch conflicts with tag".into()));
        assert_eq!(kind("https://x.org/r.git?color=red"), Err("unexpected query \"color\"".into()));
    }
}
