//! Addresses of repositories as the command line has them: docker's, and kaniko's `git://`.
//!
//! kaniko speaks https (or what `GIT_PULL_METHOD` says) to a `git://` address and logs in with `GIT_TOKEN`, or
//! `GIT_USERNAME` and `GIT_PASSWORD`. git's own protocol, which docker and git mean by it, knows neither users nor a
//! commit behind a reference. So kaniko's reading holds where one of these is there.

use kiln_image::http::encode_query;
use kiln_solver::git_url::GitUrl;

use crate::Error;
use crate::session::env;

/// The tree that an address of a context means; `None` if it is none of a repository. `what` says whose it is.
pub(super) fn parse_context(text: &str, what: &str) -> Result<Option<GitUrl>, Error> {
    let invalid = |problem| Error::user(format!("{what}: {problem}"));
    GitUrl::parse_context(&as_kaniko(text, &env)).map_err(invalid)
}

/// As [`parse_context`], without the short form of addresses.
pub(super) fn parse(text: &str, what: &str) -> Result<Option<GitUrl>, Error> {
    let invalid = |problem| Error::user(format!("{what}: {problem}"));
    GitUrl::parse(&as_kaniko(text, &env)).map_err(invalid)
}

/// The same address by https, with the login in it, where kaniko's meaning holds.
fn as_kaniko(text: &str, env: &dyn Fn(&str) -> Option<String>) -> String {
    let Some(rest) = text.strip_prefix("git://") else { return text.to_owned() };
    let get = |name: &str| env(name).filter(|value| !value.is_empty());
    let login = match (get("GIT_TOKEN"), get("GIT_USERNAME"), get("GIT_PASSWORD")) {
        (Some(token), _, _) => Some((token, String::new())),
        (None, None, None) => None,
        (None, name, password) => Some((name.unwrap_or_default(), password.unwrap_or_default())),
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let has_user = authority.contains('@');
    let method = get("GIT_PULL_METHOD").filter(|method| matches!(method.as_str(), "http" | "https"));
    let has_commit = rest.matches('#').count() > 1;
    if !has_user && !has_commit && method.is_none() && login.is_none() {
        return text.to_owned();
    }
    let method = method.unwrap_or_else(|| "https".to_owned());
    // The form that says "a repository" of an http address; servers know it by either name.
    let end = rest.find(['?', '#']).unwrap_or(rest.len());
    let (path, tail) = rest.split_at(end);
    let suffix = if path.ends_with(".git") { "" } else { ".git" };
    let login = match login.filter(|_| !has_user) {
        Some((name, password)) => format!("{}:{}@", encode_query(&name), encode_query(&password)),
        None => String::new(),
    };
    format!("{method}://{login}{path}{suffix}{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, vars: &[(&str, &str)]) -> String {
        as_kaniko(text, &|name| {
            vars.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn kanikos_git_is_https_where_only_kaniko_can_be_meant() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(read("git://h/r", &[]), "git://h/r");
        assert_eq!(read("git://h/r#main", &[("GIT_PULL_METHOD", "http")]), "http://h/r.git#main");
        assert_eq!(read("git://h/r#main", &[("GIT_PULL_METHOD", "ftp")]), "git://h/r#main");
        let with_commit = format!("git://h/r.git#refs/heads/main#{commit}");
        assert_eq!(read(&with_commit, &[]), with_commit.replace("git://", "https://"));
        assert_eq!(read("git://T@h/r", &[("GIT_TOKEN", "x")]), "https://T@h/r.git");
        assert_eq!(
            read("git://h/r", &[("GIT_TOKEN", "a/b"), ("GIT_USERNAME", "u")]),
            "https://a%2Fb:@h/r.git"
        );
        let user = [("GIT_USERNAME", "u"), ("GIT_PASSWORD", "p@")];
        assert_eq!(read("git://h/r", &user), "https://u:p%40@h/r.git");
        // Other addresses are asked for as they are: nobody expects the token there.
        assert_eq!(read("https://h/r.git", &[("GIT_TOKEN", "x")]), "https://h/r.git");
        let shown = kiln_solver::git_url::redacted(&read("git://h/r", &[("GIT_TOKEN", "CANARY")]));
        assert_eq!(shown, "https://xxxxx:xxxxx@h/r.git");
    }
}
