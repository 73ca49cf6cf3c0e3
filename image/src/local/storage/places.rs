//! Where stores are (containers-storage.conf(5)).

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::layout::{At as _, LayoutError};

const SYSTEM_FILES: [&str; 2] = ["/etc/containers/storage.conf", "/usr/share/containers/storage.conf"];
const ROOTS_STORE: &str = "/var/lib/containers/storage";
const USERS_STORE: &str = "containers/storage";

/// Looks a variable of the environment up.
pub type Env<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// Whose stores are meant where a name does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// The machine's.
    Root,
    /// An ordinary user's, in the home directory.
    User,
}

#[derive(Default, Deserialize)]
struct File {
    #[serde(default)]
    storage: Storage,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Storage {
    graphroot: Option<String>,
    rootless_storage_path: Option<String>,
    options: Options,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Options {
    additionalimagestores: Vec<String>,
}

/// The stores' directories, the one that is written to first. They need not be there.
pub(super) fn roots(whose: Whose, env: &Env<'_>) -> Result<Vec<PathBuf>, LayoutError> {
    let get = |name: &str| env(name).filter(|value| !value.is_empty());
    let home = |folder: &str| Some(Path::new(&get("HOME")?).join(folder));
    let named = get("CONTAINERS_STORAGE_CONF").map(PathBuf::from);
    let folder = |variable: &str, folder: &str| get(variable).map(PathBuf::from).or_else(|| home(folder));
    let own = match whose {
        Whose::Root => None,
        Whose::User => folder("XDG_CONFIG_HOME", ".config").map(|dir| dir.join("containers/storage.conf")),
    };
    let own = match named {
        // Who names a file means it.
        Some(path) => Some(read(&path)?.unwrap_or_default()),
        None => own.map(|path| read(&path)).transpose()?.flatten(),
    };
    let is_own = own.is_some();
    let system = || SYSTEM_FILES.iter().find_map(|path| read(Path::new(path)).transpose()).transpose();
    let storage = match own {
        Some(storage) => storage,
        None => system()?.unwrap_or_default(),
    };
    let expanded = |text: &str| PathBuf::from(expand(text, env));
    let root = match whose {
        Whose::Root => storage.graphroot.as_deref().map(expanded).or_else(|| Some(ROOTS_STORE.into())),
        Whose::User => {
            let own_root = storage.graphroot.as_deref().filter(|_| is_own);
            own_root
                .or(storage.rootless_storage_path.as_deref())
                .map(expanded)
                .or_else(|| Some(folder("XDG_DATA_HOME", ".local/share")?.join(USERS_STORE)))
        }
    };
    Ok(root
        .into_iter()
        .chain(storage.options.additionalimagestores.iter().map(|text| expanded(text)))
        .collect())
}

fn read(path: &Path) -> Result<Option<Storage>, LayoutError> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        text => text.at(path)?,
    };
    let file: File = toml::from_str(&text).map_err(|error| LayoutError::NotAnImage {
        path: path.to_owned(),
        reason: error.message().to_owned(),
    })?;
    Ok(Some(file.storage))
}

/// `$HOME`, `$USER` and the like.
fn expand(text: &str, env: &Env<'_>) -> String {
    let mut parts = text.split('$');
    let mut expanded = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(part.len());
        expanded.push_str(
            &env(&part[..end]).or_else(|| uid().filter(|_| &part[..end] == "UID")).unwrap_or_default(),
        );
        expanded.push_str(&part[end..]);
    }
    expanded
}

/// The user's number outside of a user namespace (user_namespaces(7), "User and group ID mappings").
fn uid() -> Option<String> {
    let map = std::fs::read_to_string("/proc/self/uid_map").ok()?;
    let own = rustix::process::getuid().as_raw();
    map.lines().find_map(|line| {
        let mut numbers = line.split_whitespace().map(|text| text.parse::<u32>().unwrap_or(0));
        let (inside, outside, length) = (numbers.next()?, numbers.next()?, numbers.next()?);
        let offset = own.checked_sub(inside).filter(|offset| *offset < length)?;
        Some((outside.saturating_add(offset)).to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_where_the_users_file_says() {
        let there = tempfile::tempdir().unwrap();
        let home = there.path().display().to_string();
        let found = |whose, vars: &[(&str, &str)]| {
            let env = |name: &str| {
                let given = vars.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
                given.or_else(|| (name == "HOME").then(|| home.clone()))
            };
            let roots = roots(whose, &env).unwrap();
            roots.iter().map(|root| root.display().to_string().replace(&home, "HOME")).collect::<Vec<_>>()
        };
        assert_eq!(found(Whose::User, &[])[0], "HOME/.local/share/containers/storage");
        assert_eq!(found(Whose::User, &[("XDG_DATA_HOME", "/data")])[0], "/data/containers/storage");
        let conf = there.path().join("storage.conf");
        let text = "[storage]\ndriver = \"overlay\"\ngraphroot = \"$HOME/images\"\n[storage.options]\n\
                    additionalimagestores = [\"/usr/lib/shared\"]\n";
        std::fs::write(&conf, text).unwrap();
        let named = [("CONTAINERS_STORAGE_CONF", conf.to_str().unwrap())];
        for whose in [Whose::Root, Whose::User] {
            assert_eq!(found(whose, &named), ["HOME/images", "/usr/lib/shared"]);
        }
        let own = there.path().join(".config/containers");
        std::fs::create_dir_all(&own).unwrap();
        std::fs::write(own.join("storage.conf"), "[storage]\nrootless_storage_path = \"/s/$USER/x\"\n")
            .unwrap();
        assert_eq!(found(Whose::User, &[("USER", "me")]), ["/s/me/x"]);
    }
}
