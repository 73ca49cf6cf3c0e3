//! `registries.conf` and what stands beside it (containers-registries.conf(5), version 2): which files, in which order.
//!
//! A user's own file takes the place of the system's and of what lies beside that; without one, the system's file counts,
//! then its `registries.conf.d`, then the user's.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde::Deserialize;

use super::RegistryError;
use super::config::read_optional;
use super::mirrors::{Mirrors, Rule};
use super::short_names::{Mode, ShortNames};

/// The system's directory.
const SYSTEM: &str = "/etc/containers";

/// One file.
#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct File {
    #[serde(default)]
    pub(super) registry: Vec<Rule>,
    #[serde(default)]
    pub(super) aliases: HashMap<String, String>,
    pub(super) unqualified_search_registries: Option<Vec<String>>,
    pub(super) short_name_mode: Option<Mode>,
}

/// What the user has configured, read when it is first asked for: a build that finds its bases in the store never does.
#[derive(Clone, Debug, Default)]
pub(crate) struct Registries {
    /// `None`: nothing is configured.
    places: Option<Places>,
    read: OnceLock<Conf>,
}

/// Where files are looked for.
#[derive(Clone, Debug)]
struct Places {
    /// `CONTAINERS_REGISTRIES_CONF`: the only file that counts.
    only: Option<PathBuf>,
    /// The user's directory beside [`SYSTEM`].
    user: Option<PathBuf>,
    /// Where an ordinary user's caches are.
    cache: Option<PathBuf>,
}

impl Registries {
    /// Those of a user with these variables.
    pub(super) fn of(env: &dyn Fn(&str) -> Option<String>) -> Self {
        let get = |name| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = get("HOME");
        let in_home = |folder| Some(home.as_ref()?.join(folder));
        let config = get("XDG_CONFIG_HOME").or_else(|| in_home(".config"));
        let places = Places {
            only: get("CONTAINERS_REGISTRIES_CONF"),
            user: config.map(|config| config.join("containers")),
            cache: get("XDG_CACHE_HOME").or_else(|| in_home(".cache")),
        };
        Self { places: Some(places), read: OnceLock::new() }
    }

    /// Which servers to ask for an image.
    pub(crate) fn mirrors(&self) -> Result<&Mirrors, RegistryError> {
        Ok(&self.read()?.mirrors)
    }

    /// What names without a registry stand for.
    pub(crate) fn short_names(&self) -> Result<&ShortNames, RegistryError> {
        Ok(&self.read()?.short_names)
    }

    fn read(&self) -> Result<&Conf, RegistryError> {
        if let Some(read) = self.read.get() {
            return Ok(read);
        }
        let read = self.places.as_ref().map(read).transpose()?;
        Ok(self.read.get_or_init(|| read.unwrap_or_default()))
    }
}

fn read(places: &Places) -> Result<Conf, RegistryError> {
    let mut conf = Conf::default();
    if let Some(path) = &places.only {
        // A file that the user names must be there.
        if !conf.read(path)? {
            let reason = "no such file, but CONTAINERS_REGISTRIES_CONF names it".into();
            return Err(RegistryError::InvalidConfig { path: path.clone(), reason });
        }
        return Ok(conf);
    }
    let has_own = match &places.user {
        Some(directory) => conf.read(&directory.join("registries.conf"))?,
        None => false,
    };
    if !has_own {
        conf.read(&Path::new(SYSTEM).join("registries.conf"))?;
        conf.read_all(&Path::new(SYSTEM).join("registries.conf.d"))?;
    }
    if let Some(directory) = &places.user {
        conf.read_all(&directory.join("registries.conf.d"))?;
    }
    // What podman's users chose when they were asked.
    // Root of a user namespace is an ordinary user, and the machine's root's file none of its business.
    let chosen = match rustix::process::geteuid().is_root() && crate::layer::is_in_first_namespace() {
        true => Some(Path::new("/var/cache")),
        false => places.cache.as_deref(),
    };
    if let Some(cache) = chosen {
        conf.read(&cache.join("containers/short-name-aliases.conf"))?;
    }
    Ok(conf)
}

#[derive(Clone, Debug, Default)]
struct Conf {
    mirrors: Mirrors,
    short_names: ShortNames,
}

impl Conf {
    /// Adds a file, if there is one; what it says counts before what was there.
    fn read(&mut self, path: &Path) -> Result<bool, RegistryError> {
        let Some(text) = read_optional(path)? else { return Ok(false) };
        let mut file = parse(path, &text)?;
        self.mirrors.add(path, std::mem::take(&mut file.registry))?;
        self.short_names.add(path, file)?;
        Ok(true)
    }

    /// The files of a directory whose names end in `.conf`, by name.
    fn read_all(&mut self, directory: &Path) -> Result<(), RegistryError> {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut paths: Vec<_> =
            entries.filter(|path| path.extension().is_some_and(|extension| extension == "conf")).collect();
        paths.sort();
        paths.iter().try_for_each(|path| self.read(path).map(drop))
    }
}

pub(super) fn parse(path: &Path, text: &str) -> Result<File, RegistryError> {
    toml::from_str(text).map_err(|error| invalid(path, error.message().to_owned()))
}

pub(super) fn invalid(path: &Path, reason: String) -> RegistryError {
    RegistryError::InvalidConfig { path: path.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_own_file_takes_the_place_of_the_systems_and_his_directory_counts_anyway() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join(".config/containers/registries.conf.d");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("1.conf"), "[aliases]\n\"kiln/alias\" = \"one.example/a\"\n").unwrap();
        let env = |name: &str| (name == "HOME").then(|| home.path().to_str().unwrap().to_owned());
        let names = || {
            let registries = Registries::of(&env);
            registries.short_names().unwrap().candidates(&"kiln/alias:2".parse().unwrap()).unwrap()
        };
        assert_eq!(names()[0].to_string(), "one.example/a:2");
        std::fs::write(folder.join("2.conf"), "[aliases]\n\"kiln/alias\" = \"two.example/a\"\n").unwrap();
        std::fs::write(folder.join("3.txt"), "[aliases]\n\"kiln/alias\" = \"no.example/a\"\n").unwrap();
        std::fs::write(folder.join("../registries.conf"), "[aliases]\n\"kiln/alias\" = \"no.example/a\"\n")
            .unwrap();
        assert_eq!(names()[0].to_string(), "two.example/a:2");
        std::fs::write(folder.join("2.conf"), "[aliases]\n\"kiln/alias\" = \"\"\n").unwrap();
        assert_eq!(names()[0].to_string(), "docker.io/kiln/alias:2");
    }
}
