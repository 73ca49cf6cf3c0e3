//! Addresses of git repositories, as the build context, named contexts and ADD have them (FEATURES CX5, CP28–CP31):
//! `https://host/repo.git`, `git://`, `ssh://` and `user@host:path`, each with `?query` and `#reference:directory`.
//!
//! What comes out of here is safe to hand to `git`: no word of it can be taken for an option or for a revision
//! expression (THREATS D1).

use crate::graph::{GitSource, GitTimes};
use crate::plan::paths;

/// Longer than any name of a reference that a server takes.
const MAX_REFERENCE_BYTES: usize = 1024;

/// A git tree's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitUrl {
    /// What is asked for. `keep_git_dir` is what the address says, or no.
    pub source: GitSource,
    /// What the address itself says of `.git`.
    pub keep_git_dir: Option<bool>,
}

impl GitUrl {
    /// Parses the address of a source of ADD or of a named context; `None` if it is none of a git repository.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Option<Self>, String> {
        if text.starts_with("./") || text.starts_with("../") {
            return Ok(None);
        }
        let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
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
        // kaniko's `#reference#commit`: the commit alone says all.
        let fragment = match fragment.rsplit_once('#') {
            Some((_, commit)) if is_commit(commit) => commit,
            _ => fragment,
        };
        let fragment = percent_decoded(fragment);
        let (reference, subdir) = fragment.split_once(':').unwrap_or((&fragment, ""));
        let mut url = Self {
            source: GitSource {
                remote: remote.to_owned(),
                reference: reference.to_owned(),
                subdir: clean(subdir),
                ..GitSource::default()
            },
            keep_git_dir: None,
        };
        url.read_query(query)?;
        url.check()?;
        Ok(Some(url))
    }

    /// As [`GitUrl::parse`], with the short form `github.com/owner/repo` that only the build context has (FEATURES CP31).
    ///
    /// # Errors
    /// As [`GitUrl::parse`].
    pub fn parse_context(text: &str) -> Result<Option<Self>, String> {
        let Some(rest) = text.strip_prefix("github.com/") else { return Self::parse(text) };
        let end = rest.find(['?', '#']).unwrap_or(rest.len());
        let (path, tail) = rest.split_at(end);
        let suffix = if path.ends_with(".git") { "" } else { ".git" };
        Self::parse(&format!("https://github.com/{path}{suffix}{tail}"))
    }

    /// Takes up what is below `path` of what it would have taken up.
    pub fn descend(&mut self, path: &str) {
        self.source.subdir = clean(&format!("{}/{path}", self.source.subdir));
    }

    fn read_query(&mut self, query: &str) -> Result<(), String> {
        let git = &mut self.source;
        let (mut tag, mut branch) = (None, None);
        let mut known = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let [key, value] = [key, value].map(|word| percent_decoded(&word.replace('+', " ")));
            if known.contains(&key) {
                return Err(format!("query {key:?} has multiple values"));
            }
            known.push(key.clone());
            if value.is_empty() && !matches!(key.as_str(), "submodules" | "keep-git-dir" | "fetch-by-commit")
            {
                return Err(format!("query {key:?} has no value"));
            }
            match key.as_str() {
                "ref" => set(&mut git.reference, "ref", value)?,
                "tag" => tag = Some(value),
                "branch" => branch = Some(value),
                "subdir" => set(&mut git.subdir, "subdir", clean(&value))?,
                "checksum" | "commit" => git.checksum = Some(value),
                "keep-git-dir" => {
                    git.keep_git_dir = boolean(&key, &value)?;
                    self.keep_git_dir = Some(git.keep_git_dir);
                }
                "submodules" => git.submodules = boolean(&key, &value)?,
                "fetch-by-commit" => git.fetch_by_commit = boolean(&key, &value)?,
                "mtime" => {
                    git.times = match value.as_str() {
                        "checkout" => GitTimes::Checkout,
                        "commit" => GitTimes::Commit,
                        _ => {
                            return Err(format!(
                                "invalid mtime value: {value:?} (must be \"checkout\" or \"commit\")"
                            ));
                        }
                    }
                }
                _ => return Err(format!("unexpected query {key:?}")),
            }
        }
        match (tag, branch) {
            (Some(_), Some(_)) => Err("branch conflicts with tag".into()),
            (Some(tag), None) => set(&mut git.reference, "ref", full_reference("refs/tags/", tag)),
            (None, Some(branch)) => set(&mut git.reference, "ref", full_reference("refs/heads/", branch)),
            (None, None) => Ok(()),
        }
    }

    fn check(&self) -> Result<(), String> {
        let git = &self.source;
        check_remote(&git.remote)?;
        if !git.reference.is_empty() {
            check_reference(&git.reference)?;
        }
        if let Some(checksum) = &git.checksum {
            check_checksum(checksum)?;
        }
        if git.subdir.contains(|c: char| c.is_control()) {
            return Err("the directory's name has a control character".into());
        }
        let is_pinned = is_commit(&git.reference) || git.checksum.as_deref().is_some_and(is_commit);
        if git.fetch_by_commit && !is_pinned {
            return Err("fetch-by-commit requires the full hash of a commit".into());
        }
        Ok(())
    }
}

/// Whether this is a whole object name, of SHA-1 or SHA-256.
pub fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Checks `--checksum` of a git source.
///
/// # Errors
/// It is no beginning of a commit's hash.
pub fn check_checksum(text: &str) -> Result<(), String> {
    let is_hex = !text.is_empty() && text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hex { Ok(()) } else { Err(format!("invalid checksum {text:?}, expected hex commit hash")) }
}

/// Replaces user names and passwords of http addresses, and passwords of all others, anywhere in `text`.
pub fn redacted(text: &str) -> String {
    replaced(text, |_| "xxxxx".to_owned())
}

/// As [`redacted`], with every byte in its place: spans of `text` are spans of this.
pub fn masked(text: &str) -> String {
    replaced(text, |secret| "x".repeat(secret.len()))
}

fn replaced(text: &str, hide: impl Fn(&str) -> String) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let is_http = ["http://", "https://"].iter().any(|scheme| ends_with_ignoring_case(before, scheme));
        let end = after.find(|c: char| matches!(c, '/' | '?' | '#' | '"' | '\'') || c.is_whitespace());
        let authority = &after[..end.unwrap_or(after.len())];
        let Some((user, _)) = authority.rsplit_once('@') else {
            rest = after;
            continue;
        };
        let (name, password) = match user.split_once(':') {
            Some((name, password)) => (name, Some(password)),
            None => (user, None),
        };
        // A token may stand where the name does.
        out.push_str(&if is_http { hide(name) } else { name.to_owned() });
        if let Some(password) = password {
            out.push(':');
            out.push_str(&hide(password));
        }
        rest = &after[user.len()..];
    }
    out.push_str(rest);
    out
}

fn ends_with_ignoring_case(text: &str, end: &str) -> bool {
    let start = text.len().checked_sub(end.len());
    start.and_then(|start| text.get(start..)).is_some_and(|tail| tail.eq_ignore_ascii_case(end))
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

fn check_remote(remote: &str) -> Result<(), String> {
    if remote.contains(|c: char| c.is_control() || c.is_whitespace()) {
        return Err("the address has a space or a control character".into());
    }
    let (authority, path) = match remote.split_once("://") {
        Some((_, rest)) => rest.split_once('/').unwrap_or((rest, "")),
        None => remote.split_once(':').unwrap_or((remote, "")),
    };
    let host = authority.rsplit('@').next().unwrap_or_default();
    if host.is_empty() {
        return Err("the address has no host".into());
    }
    // ssh would take such a host for an option, the server's shell such a path.
    if [remote, authority, host, path].iter().any(|part| part.starts_with('-')) {
        return Err("a part of the address starts with `-`".into());
    }
    Ok(())
}

/// What git-check-ref-format(1) says of names, and that none is an option.
fn check_reference(name: &str) -> Result<(), String> {
    let forbidden = |c: char| c.is_control() || matches!(c, ' ' | '~' | '^' | ':' | '?' | '*' | '[' | '\\');
    let is_bad_part = |part: &str| part.is_empty() || part.starts_with('.') || part.ends_with(".lock");
    let is_bad = name.starts_with('-')
        || name.len() > MAX_REFERENCE_BYTES
        || name == "@"
        || name.ends_with('.')
        || name.contains("..")
        || name.contains("@{")
        || name.contains(forbidden)
        || name.split('/').any(is_bad_part);
    if is_bad { Err(format!("{name:?} is no name of a branch, tag or commit")) } else { Ok(()) }
}

fn clean(subdir: &str) -> String {
    paths::join("/", subdir).trim_matches('/').to_owned()
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
    let known = if value.is_empty() { Some(true) } else { kiln_parser::boolean(value) };
    known.ok_or_else(|| format!("invalid {key} value: {value:?}"))
}

/// Decodes `%20` and the like; what is no UTF-8 then stays as it was.
pub(crate) fn percent_decoded(text: &str) -> String {
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

    fn source(text: &str) -> GitSource {
        GitUrl::parse(text).unwrap().unwrap().source
    }

    #[test]
    fn a_git_url_has_a_reference_and_a_directory() {
        let git = source("https://x.org/o/r.git#v1:sub/dir");
        assert_eq!((git.remote.as_str(), git.reference.as_str()), ("https://x.org/o/r.git", "v1"));
        assert_eq!(git.subdir, "sub/dir");
        let git = source("git@x.org:o/r?tag=v1&keep-git-dir");
        assert_eq!((git.remote.as_str(), git.reference.as_str()), ("git@x.org:o/r", "refs/tags/v1"));
        assert!(git.keep_git_dir);
        assert_eq!(source("https://x.org/r.git?%72ef=a%2Fb").reference, "a/b");
    }

    #[test]
    fn a_commit_behind_a_reference_is_what_is_meant() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(source(&format!("git://h/r#refs/heads/main#{commit}")).reference, commit);
        assert_eq!(source("git://h/r#refs/heads/a#b").reference, "refs/heads/a#b");
    }

    #[test]
    fn a_directory_below_another_stays_in_the_repository() {
        let mut git = GitUrl::parse("https://x.org/r.git#:a").unwrap().unwrap();
        git.descend("b/../c/");
        assert_eq!(git.source.subdir, "a/c");
        git.descend("../../../..");
        assert_eq!(git.source.subdir, "");
    }

    #[test]
    fn the_query_says_all_that_can_be_asked_for() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let git = source(&format!(
            "https://x.org/r.git?branch=b&subdir=/d/&commit={commit}&submodules=false&mtime=commit&fetch-by-commit=1"
        ));
        let expected = GitSource {
            remote: "https://x.org/r.git".into(),
            reference: "refs/heads/b".into(),
            subdir: "d".into(),
            checksum: Some(commit.into()),
            keep_git_dir: false,
            submodules: false,
            times: GitTimes::Commit,
            fetch_by_commit: true,
        };
        assert_eq!(git, expected);
    }

    #[test]
    fn a_git_url_that_contradicts_itself_is_refused() {
        let error = |text: &str| GitUrl::parse(text).unwrap_err();
        assert_eq!(error("https://x.org/r.git?ref=a#b"), "ref conflicts: \"b\" vs \"a\"");
        assert_eq!(error("https://x.org/r.git?tag=a&branch=b"), "branch conflicts with tag");
        assert_eq!(error("https://x.org/r.git?color=red"), "unexpected query \"color\"");
        assert_eq!(error("https://x.org/r.git?ref=a&ref=a"), "query \"ref\" has multiple values");
        assert_eq!(error("https://x.org/r.git?ref="), "query \"ref\" has no value");
        assert_eq!(
            error("https://x.org/r.git?fetch-by-commit=1"),
            "fetch-by-commit requires the full hash of a commit"
        );
    }

    #[test]
    fn no_part_can_be_taken_for_an_option_or_an_expression() {
        for text in [
            "git://h/r#--upload-pack=touch${IFS}x",
            "git://h/r#-c",
            "git://h/r#a..b",
            "git://h/r#main@{1}",
            "git://h/r#a b",
            "git://h/r#a%0ab",
            "git://h/r#a^b",
            "git://h/r?ref=-x",
            "git://h/r?commit=zz",
            "git://-oProxyCommand=x/r",
            "ssh://u@-oProxyCommand=x/r",
            "git@h:-x",
            "git:///r",
            "git://h/a b",
            "git://h/r#:a%0ab",
        ] {
            assert!(GitUrl::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_short_form_is_for_contexts_only() {
        assert_eq!(GitUrl::parse("github.com/o/r"), Ok(None));
        for text in ["github.com/o/r#v1", "github.com/o/r.git#v1"] {
            let git = GitUrl::parse_context(text).unwrap().unwrap().source;
            assert_eq!((git.remote.as_str(), git.reference.as_str()), ("https://github.com/o/r.git", "v1"));
        }
    }

    #[test]
    fn other_addresses_are_none() {
        for text in ["https://h/r.tar.gz#x.git", "file:///r.git", "ext::sh -c x", "./a@b:c", "src/a.git"] {
            assert_eq!(GitUrl::parse(text), Ok(None), "{text}");
        }
    }

    #[test]
    fn passwords_are_hidden_wherever_they_stand() {
        for (text, shown) in [
            ("https://u:p@h/r.git#x", "https://xxxxx:xxxxx@h/r.git#x"),
            ("ADD https://TOKEN@h/r.git /x", "ADD https://xxxxx@h/r.git /x"),
            ("ADD [\"http://u:p@h/a@b\", \"/x\"]", "ADD [\"http://xxxxx:xxxxx@h/a@b\", \"/x\"]"),
            ("ssh://git@h/r", "ssh://git@h/r"),
            ("ssh://git:p@h/r", "ssh://git:xxxxx@h/r"),
            ("git@h:r", "git@h:r"),
            ("https://h/a@b", "https://h/a@b"),
            ("a://b@c://d", "a://b@c://d"),
        ] {
            assert_eq!(redacted(text), shown, "{text}");
        }
        let text = "ADD https://user:geheim\u{e4}@h/r.git /\n";
        assert_eq!(masked(text), "ADD https://xxxx:xxxxxxxx@h/r.git /\n");
        assert_eq!(masked(text).len(), text.len());
    }
}
