//! Which servers to ask for an image: `registries.conf` (containers-registries.conf(5), version 2) and docker's rule
//! for loopback.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::RegistryError;
use super::config::read_optional;
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

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    #[serde(default)]
    registry: Vec<Rule>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Rule {
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
    /// Reads the user's file or the system's, and what stands in `registries.conf.d` beside it.
    pub(crate) fn load(env: &dyn Fn(&str) -> Option<String>) -> Result<Self, RegistryError> {
        let get = |name| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(path) = get("CONTAINERS_REGISTRIES_CONF") {
            let mut mirrors = Self::default();
            // A file that the user names must be there.
            let text = read_optional(&path)?.ok_or_else(|| missing(&path))?;
            mirrors.add(&path, &text)?;
            return Ok(mirrors);
        }
        let user = get("XDG_CONFIG_HOME").or_else(|| get("HOME").map(|home| home.join(".config")));
        let mut mirrors = Self::default();
        for directory in
            user.map(|config| config.join("containers")).into_iter().chain(["/etc/containers".into()])
        {
            let path = directory.join("registries.conf");
            let Some(text) = read_optional(&path)? else { continue };
            mirrors.add(&path, &text)?;
            for path in drop_ins(&directory.join("registries.conf.d")) {
                if let Some(text) = read_optional(&path)? {
                    mirrors.add(&path, &text)?;
                }
            }
            break;
        }
        Ok(mirrors)
    }

    /// Adds a file's entries; one with the same prefix replaces the earlier.
    fn add(&mut self, path: &Path, text: &str) -> Result<(), RegistryError> {
        let invalid = |reason: String| RegistryError::InvalidConfig { path: path.to_owned(), reason };
        let file: File = toml::from_str(text).map_err(|error| invalid(error.message().to_owned()))?;
        for mut rule in file.registry {
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
        let name = image.name();
        let matching = self.rules.iter().filter_map(|rule| Some((rule.matched(&name)?, rule)));
        let Some((matched, rule)) = matching.max_by_key(|(matched, _)| *matched) else {
            return Ok(vec![Endpoint::new(&name, false)]);
        };
        if rule.blocked {
            return Err(RegistryError::Blocked { image: image.familiar(), prefix: rule.prefix.clone() });
        }
        let rest = &name[matched..];
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
    /// How many bytes of `name` the prefix covers, if it does.
    fn matched(&self, name: &str) -> Option<usize> {
        if let Some(domain) = self.prefix.strip_prefix('*') {
            // `*.example.com` stands for subdomains and covers the host only.
            let host = name.split('/').next().unwrap_or_default();
            let bare = host.split(':').next().unwrap_or_default();
            return (domain.starts_with('.') && bare.ends_with(domain)).then_some(host.len());
        }
        let rest = name.strip_prefix(&self.prefix)?;
        (rest.is_empty() || rest.starts_with('/')).then_some(self.prefix.len())
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

fn drop_ins(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut paths: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "conf")).collect();
    paths.sort();
    paths
}

fn missing(path: &Path) -> RegistryError {
    RegistryError::InvalidConfig {
        path: path.to_owned(),
        reason: "no such file, but CONTAINERS_REGISTRIES_CONF names it".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(conf: &str, image: &str) -> Vec<String> {
        let mut mirrors = Mirrors::default();
        mirrors.add(Path::new("registries.conf"), conf).unwrap();
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
        assert_eq!(places(conf, "a.corp.example:5000/b"), ["hub.example/b"]);
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
        let mut mirrors = Mirrors::default();
        mirrors.add(Path::new("r"), "[[registry]]\nprefix = \"quay.io/bad\"\nblocked = true\n").unwrap();
        let error = mirrors.endpoints(&"quay.io/bad/a:1".parse().unwrap()).unwrap_err();
        insta::assert_snapshot!(error, @"quay.io/bad/a:1: blocked by registries.conf (`quay.io/bad`)");
        assert!(mirrors.endpoints(&"quay.io/badly".parse().unwrap()).is_ok());
    }

    #[test]
    fn a_location_with_a_scheme_is_refused() {
        let mut mirrors = Mirrors::default();
        let error = mirrors.add(Path::new("r"), "[[registry]]\nlocation = \"http://h\"\n").unwrap_err();
        insta::assert_snapshot!(error, @"r: `http://h` is no registry location");
    }
}
