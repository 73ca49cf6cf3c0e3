//! Image names (distribution's reference grammar with docker's defaults).

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use crate::Digest;

/// The registry of a name that gives none.
const DEFAULT_REGISTRY: &str = "docker.io";
/// Docker Hub's former name, still found in files and scripts.
const LEGACY_DEFAULT_REGISTRY: &str = "index.docker.io";
/// Where Docker Hub keeps names without a namespace.
const OFFICIAL_NAMESPACE: &str = "library/";
/// The tag of a name that gives neither tag nor digest.
const DEFAULT_TAG: &str = "latest";
/// distribution's reference grammar, `RepositoryNameTotalLengthMax`.
const MAX_REPOSITORY_BYTES: usize = 255;
/// A DNS name is no longer (RFC 1035, 2.3.4); the port is on top.
const MAX_REGISTRY_BYTES: usize = 255;
/// distribution's reference grammar, `tag`.
const MAX_TAG_BYTES: usize = 128;

/// A normalised image name: `docker.io/library/busybox:latest`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageRef {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
    written: Written,
}

/// How the registry came into a name. No part of what the name is: all are equal.
#[derive(Clone, Copy, Debug)]
enum Written {
    /// The text has it.
    Whole,
    /// It is docker's default.
    Short,
}

impl PartialEq for Written {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Written {}

impl std::hash::Hash for Written {
    fn hash<H: std::hash::Hasher>(&self, _: &mut H) {}
}

impl PartialOrd for Written {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Written {
    fn cmp(&self, _: &Self) -> Ordering {
        Ordering::Equal
    }
}

/// The text is no image name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid reference format: `{text}`: {reason}")]
pub struct InvalidReference {
    /// What was given, shortened and with control characters escaped.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl ImageRef {
    /// The registry's host and port, `docker.io` for Docker Hub.
    pub fn registry(&self) -> &str {
        &self.registry
    }
    /// The repository with `library/` where docker adds it.
    pub fn repository(&self) -> &str {
        &self.repository
    }
    /// The tag; `latest` is filled in when there is neither tag nor digest.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }
    /// The digest asked for.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Registry and repository without tag and digest: `docker.io/library/busybox`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// [`Self::name`] as docker prints it: `busybox`, `user/app`, `ghcr.io/user/app`.
    pub fn familiar_name(&self) -> String {
        if self.registry != DEFAULT_REGISTRY {
            return self.name();
        }
        match self.repository.strip_prefix(OFFICIAL_NAMESPACE) {
            Some(rest) if !rest.contains('/') => rest.to_owned(),
            _ => self.repository.clone(),
        }
    }

    /// The whole name as docker prints it: `busybox:latest`.
    pub fn familiar(&self) -> String {
        self.suffixed(self.familiar_name())
    }

    /// The same repository under another tag, and no digest.
    ///
    /// # Errors
    /// When `tag` is none.
    pub fn with_tag(&self, tag: &str) -> Result<Self, InvalidReference> {
        check_tag(tag).map_err(|reason| InvalidReference::new(tag, reason))?;
        Ok(Self { tag: Some(tag.to_owned()), digest: None, ..self.clone() })
    }

    /// The same name pinned to `digest`; the tag stays.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { digest: Some(digest), ..self.clone() }
    }

    /// Registry and repository of `other`, tag and digest of this.
    #[must_use]
    pub fn moved_to(&self, other: &Self) -> Self {
        Self { tag: self.tag.clone(), digest: self.digest, ..other.clone() }
    }

    /// The name without tag and digest as it was written, if it was written without a registry.
    pub fn short_name(&self) -> Option<&str> {
        match self.written {
            Written::Whole => None,
            Written::Short => match self.repository.strip_prefix(OFFICIAL_NAMESPACE) {
                Some(rest) if !rest.contains('/') => Some(rest),
                _ => Some(&self.repository),
            },
        }
    }

    /// Registry and repository only, as a pull by digest needs them: no tag is made up.
    #[must_use]
    pub fn without_tag(&self) -> Self {
        Self { tag: None, ..self.clone() }
    }

    fn suffixed(&self, mut text: String) -> String {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(&digest.to_string());
        }
        text
    }
}

impl InvalidReference {
    fn new(text: &str, reason: &'static str) -> Self {
        let shown: String = text.chars().take(300).flat_map(char::escape_debug).collect();
        Self { text: shown, reason }
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.suffixed(self.name()))
    }
}

impl FromStr for ImageRef {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        parse(text).map_err(|reason| InvalidReference::new(text, reason))
    }
}

fn parse(text: &str) -> Result<ImageRef, &'static str> {
    if text.is_empty() {
        return Err("the name is empty");
    }
    if text.len() == 64 && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f')) {
        // Docker keeps such names for image ids.
        return Err("64 hex digits are an image id, not a name");
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => {
            let digest =
                digest.parse().map_err(|_| "the digest must be `sha256:` and 64 lower-case hex digits")?;
            (rest, Some(digest))
        }
        None => (text, None),
    };
    let (registry, path) = split_registry(rest);
    let written = if path.len() == rest.len() { Written::Short } else { Written::Whole };
    let (path, tag) = match path.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (path, None),
    };
    check_registry(registry)?;
    check_repository(path)?;
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    let registry = if registry == LEGACY_DEFAULT_REGISTRY { DEFAULT_REGISTRY } else { registry };
    let repository = if registry == DEFAULT_REGISTRY && !path.contains('/') {
        format!("{OFFICIAL_NAMESPACE}{path}")
    } else {
        path.to_owned()
    };
    if repository.len() > MAX_REPOSITORY_BYTES {
        return Err("the repository name is longer than 255 bytes");
    }
    let tag = match (tag, digest) {
        (None, None) => Some(DEFAULT_TAG.to_owned()),
        (tag, _) => tag.map(str::to_owned),
    };
    Ok(ImageRef { registry: registry.to_owned(), repository, tag, digest, written })
}

/// Docker's rule: what stands before the first slash is a host if it cannot be a namespace.
fn split_registry(text: &str) -> (&str, &str) {
    match text.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|c| c.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_REGISTRY, text),
    }
}

fn check_registry(registry: &str) -> Result<(), &'static str> {
    let (host, port) = match registry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            let port = match rest {
                "" => None,
                rest => Some(
                    rest.strip_prefix(':').ok_or("after an address in brackets only a port may follow")?,
                ),
            };
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return Err("the registry's address in brackets is no IPv6 address");
            }
            ("", port)
        }
        None => match registry.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (registry, None),
        },
    };
    if let Some(port) = port
        && (port.is_empty() || !port.bytes().all(|c| c.is_ascii_digit()) || port.parse::<u16>().is_err())
    {
        return Err("the registry's port is no number");
    }
    if host.len() > MAX_REGISTRY_BYTES {
        return Err("the registry's name is longer than 255 bytes");
    }
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if registry.starts_with('[') || host.split('.').all(label) {
        Ok(())
    } else {
        Err("the registry's name has letters, digits, dots and inner dashes only")
    }
}

fn check_repository(path: &str) -> Result<(), &'static str> {
    if path.is_empty() {
        return Err("the repository name is empty");
    }
    if path.bytes().any(|c| c.is_ascii_uppercase()) {
        return Err("the repository name must be lower case");
    }
    if path.split('/').all(is_path_component) {
        Ok(())
    } else {
        Err(
            "each part of a repository name is lower-case letters and digits, with single `.`, `_`, `__` or dashes between",
        )
    }
}

/// `alnum+ (("." | "_" | "__" | "-"+) alnum+)*`
fn is_path_component(component: &str) -> bool {
    let alphanumeric = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = component.as_bytes();
    let edges =
        bytes.first().is_some_and(|c| alphanumeric(*c)) && bytes.last().is_some_and(|c| alphanumeric(*c));
    edges
        && component.split(|c: char| c.is_ascii() && alphanumeric(c as u8)).all(|separator| {
            matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|c| c == b'-')
        })
}

fn check_tag(tag: &str) -> Result<(), &'static str> {
    let word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    if tag.is_empty() {
        Err("the tag is empty")
    } else if tag.len() > MAX_TAG_BYTES {
        Err("the tag is longer than 128 bytes")
    } else if !word(tag.as_bytes()[0]) || !tag.bytes().all(|c| word(c) || c == b'.' || c == b'-') {
        Err("a tag has letters, digits, `_`, `.` and `-` only, and does not start with `.` or `-`")
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn full(text: &str) -> String {
        text.parse::<ImageRef>().unwrap().to_string()
    }

    #[test]
    fn a_short_name_is_an_official_image_of_docker_hub() {
        assert_eq!(full("busybox"), "docker.io/library/busybox:latest");
        assert_eq!(full("index.docker.io/busybox"), "docker.io/library/busybox:latest");
        assert_eq!(full("docker.io/busybox:1"), "docker.io/library/busybox:1");
        assert_eq!(full("user/app"), "docker.io/user/app:latest");
    }

    #[test]
    fn the_first_part_is_a_host_if_it_cannot_be_a_namespace() {
        assert_eq!(full("localhost/app"), "localhost/app:latest");
        assert_eq!(full("localhost:5000/app"), "localhost:5000/app:latest");
        assert_eq!(full("ghcr.io/a/b/c"), "ghcr.io/a/b/c:latest");
        assert_eq!(full("[::1]:5000/app:v1"), "[::1]:5000/app:v1");
        assert_eq!(full("HOST/app"), "HOST/app:latest");
        assert_eq!(full("host/app"), "docker.io/host/app:latest");
        assert_eq!(full("host:5000"), "docker.io/library/host:5000");
    }

    #[test]
    fn a_digest_keeps_latest_from_being_added_and_a_tag_beside_it_stays() {
        assert_eq!(full(&format!("a@sha256:{HEX}")), format!("docker.io/library/a@sha256:{HEX}"));
        assert_eq!(full(&format!("a:1@sha256:{HEX}")), format!("docker.io/library/a:1@sha256:{HEX}"));
    }

    #[test]
    fn the_familiar_form_leaves_out_what_docker_adds() {
        let familiar = |text: &str| text.parse::<ImageRef>().unwrap().familiar();
        assert_eq!(familiar("docker.io/library/busybox"), "busybox:latest");
        assert_eq!(familiar("docker.io/user/app:1"), "user/app:1");
        assert_eq!(familiar("docker.io/library/a/b"), "library/a/b:latest");
        assert_eq!(familiar("quay.io/app"), "quay.io/app:latest");
    }

    #[test]
    fn a_new_tag_drops_the_digest_and_a_new_digest_keeps_the_tag() {
        let name: ImageRef = format!("a:1@sha256:{HEX}").parse().unwrap();
        assert_eq!(name.with_tag("2").unwrap().familiar(), "a:2");
        let tagged: ImageRef = "a:1".parse().unwrap();
        assert_eq!(tagged.with_digest(Digest::from_hex(HEX).unwrap()), name);
        assert!(tagged.with_tag("-x").is_err());
    }

    #[test]
    fn upper_case_is_named_as_the_mistake() {
        let error = "quay.io/Busybox".parse::<ImageRef>().unwrap_err();
        insta::assert_snapshot!(error, @"invalid reference format: `quay.io/Busybox`: the repository name must be lower case");
    }

    #[test]
    fn what_the_grammar_does_not_know_is_refused() {
        let long_tag = format!("a:{}", "t".repeat(129));
        let long_name = format!("quay.io/{}", "a/".repeat(127) + "bb");
        let short_digest = format!("a@sha256:{}", &HEX[1..]);
        let upper_digest = format!("a@sha256:{}", HEX.to_uppercase());
        let sha512 = format!("a@sha512:{HEX}{HEX}");
        let digest_before_tag = format!("a@sha256:{HEX}:tag");
        for text in [
            "",
            ":",
            "a:",
            "a@",
            "/a",
            "a/",
            "a//b",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "a._b",
            "A",
            "a b",
            "a\n",
            "\u{430}",
            "a:t\u{2024}g",
            "a:.x",
            "host:port/a",
            "host:99999/a",
            "-h.io/a",
            "h..io/a",
            "[::1/a",
            "[x]/a",
            "[::1]x/a",
            "../a",
            "quay.io/../a",
            "a@sha256:../../x",
            HEX,
            &long_tag,
            &long_name,
            &short_digest,
            &upper_digest,
            &sha512,
            &digest_before_tag,
        ] {
            assert!(text.parse::<ImageRef>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn separators_inside_a_part_are_dots_underscores_and_dashes() {
        for text in ["a.b", "a_b", "a__b", "a---b", "x/a.b_c-d/e9", "a:T_1.x-"] {
            assert!(text.parse::<ImageRef>().is_ok(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_what_is_read_prints_to_itself(text in ".{0,80}") {
            if let Ok(name) = text.parse::<ImageRef>() {
                prop_assert_eq!(name.to_string().parse::<ImageRef>().unwrap(), name);
            }
        }

        #[test]
        fn full_and_familiar_forms_mean_the_same_name(
            text in "([a-z]{1,5}(\\.io|:50)/)?([a-z]{1,4}/)?[a-z]{1,4}([._-][a-z0-9]{1,3}){0,2}(:[A-Za-z0-9_][a-z.-]{0,4})?"
        ) {
            let name = text.parse::<ImageRef>().unwrap();
            prop_assert_eq!(&name.to_string().parse::<ImageRef>().unwrap(), &name);
            prop_assert_eq!(&name.familiar().parse::<ImageRef>().unwrap(), &name);
        }
    }
}
