//! Which servers to ask for an image: the `[[registry]]` entries of `registries.conf` (containers-registries.conf(5)) and
//! docker's rule for loopback.

use std::path::Path;

use serde::Deserialize;

use super::RegistryError;
use super::registries_conf::invalid;
use crate::ImageRef;
use crate::http::is_loopback;

/// Docker Hub's server; `docker.io` is only its name.
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";

/// The `[[registry]]` entries.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mirrors {
    rules: Vec<Rule>,
}

/// Where an image may be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Host and port to connect to.
    pub(crate) host: String,
    /// The registry's name as credentials know it.
    pub(crate) registry: String,
    /// The repository there.
    pub(crate) repository: String,
    /// Whether it must prove who it is.
    pub(crate) trust: Trust,
}

/// Whether a registry must prove who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    /// By a certificate.
    Proven,
    /// It is on this machine: plain HTTP and any certificate will do, unless the user named an authority for it.
    Loopback,
    /// The user declared it insecure: plain HTTP and any certificate will do.
    Insecure,
}

/// An entry: what it is for, and what is done then.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Rule {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror_by_digest_only: bool,
    #[serde(default)]
    mirror: Vec<Mirror>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Mirror {
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    pull_from_mirror: PullFrom,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum PullFrom {
    #[default]
    #[serde(alias = "")]
    All,
    DigestOnly,
    TagOnly,
}

impl Mirrors {
    /// Adds a file's entries; one with the same prefix replaces the earlier.
    pub(super) fn add(&mut self, path: &Path, rules: Vec<Rule>) -> Result<(), RegistryError> {
        let invalid = |reason: String| invalid(path, reason);
        for mut rule in rules {
            if rule.prefix.is_empty() {
                rule.prefix.clone_from(&rule.location);
            }
            if rule.prefix.is_empty() {
                return Err(invalid("a [[registry]] has neither `prefix` nor `location`".into()));
            }
            for location in rule.mirror.iter().map(|mirror| &mirror.location).chain([&rule.location]) {
                if location.contains("://") || location.contains([' ', '@', '?', '#', '%']) {
                    return Err(invalid(format!(
                        "`{}` is no registry location",
                        crate::oci::escape(location)
                    )));
                }
            }
            self.rules.retain(|earlier| earlier.prefix != rule.prefix);
            self.rules.push(rule);
        }
        Ok(())
    }

    /// The places to ask, mirrors first and the image's own registry last.
    pub(crate) fn endpoints(&self, image: &ImageRef) -> Result<Vec<Endpoint>, RegistryError> {
        let (name, full) = (image.name(), image.to_string());
        let matching = self.rules.iter().filter_map(|rule| Some((rule.matched(&full)?, rule)));
        let Some((matched, rule)) = matching.max_by_key(|(_, rule)| rule.prefix.len()) else {
            return Ok(vec![Endpoint::new(&name, false)]);
        };
        if rule.blocked {
            return Err(RegistryError::Blocked { image: image.familiar(), prefix: rule.prefix.clone() });
        }
        // A prefix may go as far as a tag or digest, which are no part of a place.
        let rest = name.get(matched..).unwrap_or_default();
        let by_digest = image.digest().is_some();
        let used = |mirror: &&Mirror| match mirror.pull_from_mirror {
            PullFrom::All => by_digest || !rule.mirror_by_digest_only,
            PullFrom::DigestOnly => by_digest,
            PullFrom::TagOnly => !by_digest,
        };
        let place = |location: &str, insecure| Endpoint::new(&format!("{location}{rest}"), insecure);
        let mut endpoints: Vec<_> =
            rule.mirror.iter().filter(used).map(|mirror| place(&mirror.location, mirror.insecure)).collect();
        endpoints.push(match rule.location.as_str() {
            "" => Endpoint::new(&name, rule.insecure),
            location => place(location, rule.insecure),
        });
        Ok(endpoints)
    }
}

impl Mirrors {
    /// A registry's own place, for what is not about an image.
    pub(crate) fn server(&self, registry: &str) -> Endpoint {
        let rule = self.rules.iter().find(|rule| rule.prefix == registry || rule.location == registry);
        Endpoint::new(registry, rule.is_some_and(|rule| rule.insecure))
    }
}

impl Rule {
    /// How many bytes of a whole name, tag and digest with it, the prefix covers, if it does.
    fn matched(&self, name: &str) -> Option<usize> {
        let (covered, rest) = match self.prefix.strip_prefix('*') {
            // `*.example.com` stands for subdomains, with any port.
            Some(domain) => {
                let host = name.find('/').unwrap_or(name.len());
                let covered =
                    name.find(domain).filter(|at| domain.starts_with('.') && *at < host)? + domain.len();
                (covered, name.get(covered..)?)
            }
            None => (self.prefix.len(), name.strip_prefix(&self.prefix)?),
        };
        // Behind a repository a colon begins a tag, behind the host of a wildcard a port.
        let may_have_colon = self.prefix.contains(['/', '*']);
        let ends =
            rest.is_empty() || rest.starts_with(['/', '@']) || (may_have_colon && rest.starts_with(':'));
        ends.then_some(covered)
    }
}

impl Endpoint {
    fn new(name: &str, insecure: bool) -> Self {
        let (registry, repository) = name.split_once('/').unwrap_or((name, ""));
        let host = if registry == "docker.io" { DOCKER_HUB_HOST } else { registry };
        let bare = match host.rsplit_once(':') {
            Some((bare, port)) if port.bytes().all(|c| c.is_ascii_digit()) => bare,
            _ => host,
        };
        Self {
            trust: match insecure {
                true => Trust::Insecure,
                false if is_loopback(bare) => Trust::Loopback,
                false => Trust::Proven,
            },
            host: host.to_owned(),
            registry: registry.to_owned(),
            repository: repository.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::registries_conf::parse;
    use super::*;

    fn mirrors(conf: &str) -> Result<Mirrors, RegistryError> {
        let path = Path::new("r");
        let mut mirrors = Mirrors::default();
        mirrors.add(path, parse(path, conf)?.registry)?;
        Ok(mirrors)
    }

    fn places(conf: &str, image: &str) -> Vec<String> {
        let mirrors = mirrors(conf).unwrap();
        let endpoints = mirrors.endpoints(&image.parse().unwrap()).unwrap();
        let show = |endpoint: &Endpoint| {
            format!(
                "{}/{}{}",
                endpoint.host,
                endpoint.repository,
                if endpoint.trust == Trust::Proven { "" } else { " insecure" }
            )
        };
        endpoints.iter().map(show).collect()
    }

    #[test]
    fn without_an_entry_the_images_own_registry_is_asked() {
        assert_eq!(places("", "busybox"), ["registry-1.docker.io/library/busybox"]);
        assert_eq!(places("", "localhost:5000/a"), ["localhost:5000/a insecure"]);
        assert_eq!(places("", "127.1.2.3/a"), ["127.1.2.3/a insecure"]);
        assert_eq!(places("", "quay.io/a"), ["quay.io/a"]);
    }

    #[test]
    fn mirrors_come_first_in_order_and_keep_the_rest_of_the_name() {
        let conf = r#"
            [[registry]]
            prefix = "docker.io"
            [[registry.mirror]]
            location = "mirror.example/hub"
            [[registry.mirror]]
            location = "10.0.0.1:5000"
            insecure = true
        "#;
        assert_eq!(
            places(conf, "busybox"),
            [
                "mirror.example/hub/library/busybox",
                "10.0.0.1:5000/library/busybox insecure",
                "registry-1.docker.io/library/busybox",
            ]
        );
    }

    #[test]
    fn the_longest_prefix_decides_and_ends_at_a_slash() {
        let conf = r#"
            [[registry]]
            location = "quay.io"
            insecure = true
            [[registry]]
            prefix = "quay.io/org"
            location = "other.example/x"
            [[registry]]
            prefix = "*.corp.example"
            location = "hub.example"
        "#;
        assert_eq!(places(conf, "quay.io/a"), ["quay.io/a insecure"]);
        assert_eq!(places(conf, "quay.io/org/a"), ["other.example/x/a"]);
        assert_eq!(places(conf, "quay.io/organ/a"), ["quay.io/organ/a insecure"]);
        assert_eq!(places(conf, "a.corp.example/b"), ["hub.example/b"]);
        assert_eq!(places(conf, "a.corp.example:5000/b"), ["hub.example:5000/b"]);
        assert_eq!(places(conf, "corp.example/b"), ["corp.example/b"]);
        assert_eq!(places(conf, "a.corp.example.com/b"), ["a.corp.example.com/b"]);
        assert_eq!(places(conf, "quay.io/x.corp.example"), ["quay.io/x.corp.example insecure"]);
    }

    #[test]
    fn a_prefix_may_name_subdomains_namespaces_and_one_tag_or_digest() {
        let digest = crate::Digest::of(b"");
        let conf = format!(
            r#"
            [[registry]]
            prefix = "*.example.com"
            location = "wild.example"
            [[registry]]
            prefix = "a.b.example.com"
            location = "exact.example"
            [[registry]]
            prefix = "*.example.com/team"
            location = "team.example/t"
            [[registry]]
            prefix = "quay.io/a/b:old"
            blocked = true
            [[registry]]
            prefix = "quay.io/a/c@{digest}"
            location = "kept.example/c"
        "#
        );
        assert_eq!(places(&conf, "x.example.com/a"), ["wild.example/a"]);
        assert_eq!(places(&conf, "a.b.example.com/a"), ["exact.example/a"]);
        assert_eq!(places(&conf, "x.example.com/team/a:1"), ["team.example/t/a"]);
        assert_eq!(places(&conf, "quay.io/a/b:older"), ["quay.io/a/b"]);
        assert!(mirrors(&conf).unwrap().endpoints(&"quay.io/a/b:old".parse().unwrap()).is_err());
        assert_eq!(places(&conf, "quay.io/a/c:1"), ["quay.io/a/c"]);
        assert_eq!(places(&conf, &format!("quay.io/a/c@{digest}")), ["kept.example/c"]);
    }

    #[test]
    fn mirrors_of_an_entry_for_digests_alone_are_not_asked_for_tags() {
        let conf = r#"
            [[registry]]
            location = "quay.io"
            mirror-by-digest-only = true
            [[registry.mirror]]
            location = "mirror.example"
        "#;
        assert_eq!(places(conf, "quay.io/a:1"), ["quay.io/a"]);
        let digest = crate::Digest::of(b"");
        assert_eq!(places(conf, &format!("quay.io/a@{digest}")), ["mirror.example/a", "quay.io/a"]);
    }

    #[test]
    fn a_mirror_may_be_for_digests_or_tags_only() {
        let conf = r#"
            [[registry]]
            location = "quay.io"
            [[registry.mirror]]
            location = "digests.example"
            pull-from-mirror = "digest-only"
            [[registry.mirror]]
            location = "tags.example"
            pull-from-mirror = "tag-only"
        "#;
        let digest = crate::Digest::of(b"");
        assert_eq!(places(conf, "quay.io/a")[0], "tags.example/a");
        assert_eq!(places(conf, &format!("quay.io/a@{digest}"))[0], "digests.example/a");
    }

    #[test]
    fn a_blocked_registry_is_named_with_the_entry_that_blocks_it() {
        let mirrors = mirrors("[[registry]]\nprefix = \"quay.io/bad\"\nblocked = true\n").unwrap();
        let error = mirrors.endpoints(&"quay.io/bad/a:1".parse().unwrap()).unwrap_err();
        insta::assert_snapshot!(error, @"quay.io/bad/a:1: blocked by registries.conf (`quay.io/bad`)");
        assert!(mirrors.endpoints(&"quay.io/badly".parse().unwrap()).is_ok());
    }

    #[test]
    fn a_location_with_a_scheme_is_refused() {
        let error = mirrors("[[registry]]\nlocation = \"http://h\"\n").unwrap_err();
        insta::assert_snapshot!(error, @"r: `http://h` is no registry location");
    }
}
