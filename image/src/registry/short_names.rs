//! Names without a registry: aliases and where else to look for them (containers-registries.conf(5), "Short-Name
//! Resolution"). Docker's rule, that they are Docker Hub's, holds where nothing is configured.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;

use super::RegistryError;
use super::registries_conf::{File, invalid};
use crate::{ImageRef, InvalidReference};

/// What short names stand for.
#[derive(Clone, Debug, Default)]
pub(crate) struct ShortNames {
    /// By the name without tag and digest.
    aliases: HashMap<String, ImageRef>,
    /// Registries, in their order.
    search: Vec<String>,
    mode: Mode,
}

/// `short-name-mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mode {
    /// What several registries may have is nobody's guess, and kiln asks no questions.
    Enforcing,
    /// The first registry that has it.
    #[default]
    #[serde(alias = "")]
    Permissive,
    /// No aliases either.
    Disabled,
}

impl ShortNames {
    /// Adds what a file says.
    pub(super) fn add(&mut self, path: &Path, file: File) -> Result<(), RegistryError> {
        for (name, target) in file.aliases {
            // An empty one takes back what an earlier file says.
            if target.is_empty() {
                self.aliases.remove(&name);
                continue;
            }
            let shown = crate::oci::escape(&target);
            let full: ImageRef = target.parse().map_err(|_: InvalidReference| {
                invalid(path, format!("the alias `{shown}` is no image name"))
            })?;
            let is_repository =
                !target.contains('@') && full.tag() == Some("latest") && !target.ends_with(":latest");
            if full.short_name().is_some() || !is_repository {
                return Err(invalid(
                    path,
                    format!("the alias `{shown}` is no name of registry and repository"),
                ));
            }
            self.aliases.insert(name, full);
        }
        if let Some(registries) = file.unqualified_search_registries {
            for registry in &registries {
                if format!("{registry}/x").parse::<ImageRef>().is_err() || registry.contains('/') {
                    return Err(invalid(path, format!("`{}` is no registry", crate::oci::escape(registry))));
                }
            }
            self.search = registries;
        }
        self.mode = file.short_name_mode.unwrap_or(self.mode);
        Ok(())
    }

    /// What a name may stand for, in the order in which it is asked for; a name with a registry is itself.
    pub(crate) fn candidates(&self, image: &ImageRef) -> Result<Vec<ImageRef>, RegistryError> {
        let Some(short) = image.short_name() else { return Ok(vec![image.clone()]) };
        if let Some(alias) = self.aliases.get(short).filter(|_| self.mode != Mode::Disabled) {
            return Ok(vec![image.moved_to(alias)]);
        }
        if self.search.is_empty() {
            return Ok(vec![image.clone()]);
        }
        let full = |registry: &String| format!("{registry}/{short}").parse().ok();
        let candidates: Vec<ImageRef> =
            self.search.iter().filter_map(full).map(|full| image.moved_to(&full)).collect();
        if self.mode == Mode::Enforcing && candidates.len() > 1 {
            let names = candidates.iter().map(ToString::to_string).collect();
            return Err(RegistryError::AmbiguousShortName { name: short.to_owned(), candidates: names });
        }
        Ok(candidates)
    }
}

#[cfg(test)]
mod tests {
    use super::super::registries_conf::parse;
    use super::*;

    fn short_names(conf: &str) -> Result<ShortNames, RegistryError> {
        let mut names = ShortNames::default();
        names.add(Path::new("r"), parse(Path::new("r"), conf)?)?;
        Ok(names)
    }

    fn names(conf: &str, image: &str) -> Vec<String> {
        let names = short_names(conf).unwrap().candidates(&image.parse().unwrap()).unwrap();
        names.iter().map(ToString::to_string).collect()
    }

    const ALIASES: &str =
        "[aliases]\nfedora = \"registry.fedoraproject.org/fedora\"\n\"me/app\" = \"h:5000/app\"\n";

    #[test]
    fn an_alias_stands_for_a_name_without_a_registry_whatever_its_tag() {
        assert_eq!(names(ALIASES, "fedora"), ["registry.fedoraproject.org/fedora:latest"]);
        assert_eq!(names(ALIASES, "me/app:2"), ["h:5000/app:2"]);
        let digest = crate::Digest::of(b"");
        assert_eq!(
            names(ALIASES, &format!("fedora@{digest}")),
            [format!("registry.fedoraproject.org/fedora@{digest}")]
        );
        for full in ["docker.io/library/fedora:latest", "docker.io/me/app:1", "quay.io/fedora:latest"] {
            assert_eq!(names(ALIASES, full), [full]);
        }
        assert_eq!(names(ALIASES, "busybox"), ["docker.io/library/busybox:latest"]);
        let disabled = format!("short-name-mode = \"disabled\"\n{ALIASES}");
        assert_eq!(names(&disabled, "fedora"), ["docker.io/library/fedora:latest"]);
    }

    #[test]
    fn other_short_names_are_looked_for_in_the_registries_that_are_listed() {
        let conf = "unqualified-search-registries = [\"quay.io\", \"docker.io\"]\n";
        assert_eq!(names(conf, "a:1"), ["quay.io/a:1", "docker.io/library/a:1"]);
        assert_eq!(names(&format!("{conf}{ALIASES}"), "me/app").len(), 1);
        let enforcing = format!("short-name-mode = \"enforcing\"\n{conf}");
        let error = short_names(&enforcing).unwrap().candidates(&"a:1".parse().unwrap()).unwrap_err();
        insta::assert_snapshot!(error, @"the short name `a` is ambiguous: it may be quay.io/a:1 or docker.io/library/a:1");
        let one = "short-name-mode = \"enforcing\"\nunqualified-search-registries = [\"quay.io\"]\n";
        assert_eq!(names(one, "a/b"), ["quay.io/a/b:latest"]);
    }

    #[test]
    fn an_alias_that_is_no_repository_is_refused() {
        for target in ["short", "h.example/a:1", "h.example/a:latest", "H.example/A", "://"] {
            assert!(short_names(&format!("[aliases]\na = \"{target}\"\n")).is_err(), "{target}");
        }
        assert!(short_names("unqualified-search-registries = [\"http://h\"]\n").is_err());
    }
}
