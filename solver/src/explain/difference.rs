//! What two steps differ in.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

use super::facts::{Facts, FileFact};

/// Longer values are shortened where they are shown.
const SHOWN_CHARS: usize = 80;

/// One thing that two steps differ in; old before new.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Difference {
    /// What is written in the Dockerfile.
    Instruction {
        /// Before.
        old: String,
        /// Now.
        new: String,
    },
    /// What it is built for.
    Platform {
        /// Before.
        old: String,
        /// Now.
        new: String,
    },
    /// A build argument.
    BuildArg {
        /// Its name.
        name: String,
        /// Before; `None` where there was none.
        old: Option<String>,
        /// Now.
        new: Option<String>,
    },
    /// A variable of ENV.
    Env {
        /// Its name.
        name: String,
        /// Before.
        old: Option<String>,
        /// Now.
        new: Option<String>,
    },
    /// `user`, `working directory`, `network`, ….
    Setting {
        /// Its name.
        name: String,
        /// Before.
        old: Option<String>,
        /// Now.
        new: Option<String>,
    },
    /// A mount.
    Mount {
        /// Where.
        target: String,
        /// Before.
        old: Option<String>,
        /// Now.
        new: Option<String>,
    },
    /// What another stage has, and a mount shows.
    Mounted {
        /// Where.
        target: String,
    },
    /// Files that are copied or mounted.
    Files {
        /// The one that says most.
        first: FileChange,
        /// How many others changed too.
        others: usize,
    },
    /// Files behind so many that they are not told apart.
    MoreFiles,
    /// The root file system it starts from.
    Root {
        /// The first of its layers that differs, from 0. It may be the first that is missing.
        layer: usize,
    },
}

/// A file that changed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum FileChange {
    /// Bytes, link target, attributes.
    Changed {
        /// Which.
        path: String,
    },
    /// Is new.
    Added {
        /// Which.
        path: String,
    },
    /// Is gone.
    Removed {
        /// Which.
        path: String,
    },
    /// Is a directory and was a file, or the like.
    Kind {
        /// Which.
        path: String,
        /// What it is now.
        new: &'static str,
    },
    /// Permission bits.
    Mode {
        /// Which.
        path: String,
        /// Before, octal.
        old: String,
        /// Now.
        new: String,
    },
    /// Owner or group.
    Owner {
        /// Which.
        path: String,
        /// Before, `uid:gid`.
        old: String,
        /// Now.
        new: String,
    },
}

/// What `new` differs in from `old`: what the user wrote first, then what the step is given, last what it stands on.
pub fn differences(old: &Facts, new: &Facts) -> Vec<Difference> {
    let mut found = Vec::new();
    if old.platform != new.platform {
        found.push(Difference::Platform { old: old.platform.clone(), new: new.platform.clone() });
    }
    if old.instruction != new.instruction {
        found.push(Difference::Instruction { old: old.instruction.clone(), new: new.instruction.clone() });
    }
    // An argument that a variable of the same name takes the place of is a change of that variable.
    found.extend(
        map_changes(&old.build_args, &new.build_args).map(|(name, old, new)| Difference::BuildArg {
            name,
            old,
            new,
        }),
    );
    found.extend(map_changes(&old.env, &new.env).map(|(name, old, new)| Difference::Env { name, old, new }));
    found.extend(map_changes(&old.settings, &new.settings).map(|(name, old, new)| Difference::Setting {
        name,
        old,
        new,
    }));
    found.extend(map_changes(&old.mounts, &new.mounts).map(|(target, old, new)| Difference::Mount {
        target,
        old,
        new,
    }));
    let both = |target: &String| old.mounts.get(target) == new.mounts.get(target);
    found.extend(
        map_changes(&old.mounted, &new.mounted)
            .map(|(target, ..)| target)
            .filter(both)
            .map(|target| Difference::Mounted { target }),
    );
    let mut files = file_changes(&old.files, &new.files);
    files.sort();
    if let Some(others) = files.len().checked_sub(1) {
        found.push(Difference::Files { first: files.swap_remove(0), others });
    }
    if old.more_files != new.more_files {
        found.push(Difference::MoreFiles);
    }
    if old.root != new.root {
        let common = old.root.iter().zip(&new.root).take_while(|(old, new)| old == new).count();
        found.push(Difference::Root { layer: common });
    }
    found
}

type Change = (String, Option<String>, Option<String>);

fn map_changes<'a>(
    old: &'a BTreeMap<String, String>,
    new: &'a BTreeMap<String, String>,
) -> impl Iterator<Item = Change> + 'a {
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    names
        .into_iter()
        .map(|name| (name.clone(), old.get(name).cloned(), new.get(name).cloned()))
        .filter(|(_, old, new)| old != new)
}

fn file_changes(old: &[FileFact], new: &[FileFact]) -> Vec<FileChange> {
    let by_path = |files: &'_ [FileFact]| files.iter().map(|file| (file.0.clone(), file.clone())).collect();
    let old: BTreeMap<String, FileFact> = by_path(old);
    let new: BTreeMap<String, FileFact> = by_path(new);
    let removed = old
        .iter()
        .filter(|(path, _)| !new.contains_key(*path))
        .map(|(_, file)| FileChange::Removed { path: shown_path(file) });
    let changed = new.iter().filter_map(|(path, now)| match old.get(path) {
        None => Some(FileChange::Added { path: shown_path(now) }),
        Some(before) => file_change(before, now),
    });
    removed.chain(changed).collect()
}

fn file_change(old: &FileFact, new: &FileFact) -> Option<FileChange> {
    let path = shown_path(new);
    if old.2 != new.2 {
        let new = match new.2 {
            'f' => "a file",
            'd' => "a directory",
            'l' => "a symbolic link",
            'a' => "an archive to extract",
            _ => "a special file",
        };
        return Some(FileChange::Kind { path, new });
    }
    if old.6 != new.6 {
        return Some(FileChange::Changed { path });
    }
    if old.3 != new.3 {
        return Some(FileChange::Mode { path, old: format!("{:o}", old.3), new: format!("{:o}", new.3) });
    }
    if (old.4, old.5) != (new.4, new.5) {
        let ids = |file: &FileFact| format!("{}:{}", file.4, file.5);
        return Some(FileChange::Owner { path, old: ids(old), new: ids(new) });
    }
    None
}

/// The path as the user knows it: in the context or stage it comes from, else where it goes.
fn shown_path(file: &FileFact) -> String {
    if file.1.is_empty() { file.0.clone() } else { file.1.clone() }
}

impl fmt::Display for FileChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed { path } => write!(f, "{path} changed"),
            Self::Added { path } => write!(f, "{path} added"),
            Self::Removed { path } => write!(f, "{path} removed"),
            Self::Kind { path, new } => write!(f, "{path} is now {new}"),
            Self::Mode { path, old, new } => write!(f, "mode of {path} {old} → {new}"),
            Self::Owner { path, old, new } => write!(f, "owner of {path} {old} → {new}"),
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instruction { old, new } => {
                write!(f, "instruction changed: `{}` → `{}`", shown(old), shown(new))
            }
            Self::Platform { old, new } => write!(f, "platform {old} → {new}"),
            Self::BuildArg { name, old, new } => change(f, &format!("build arg {name}"), old, new),
            Self::Env { name, old, new } => change(f, &format!("env {name}"), old, new),
            Self::Setting { name, .. } if name.starts_with("heredoc ") => write!(f, "{name} changed"),
            Self::Setting { name, old, new } => change(f, name, old, new),
            Self::Mount { target, old, new } => change(f, &format!("mount {target}"), old, new),
            Self::Mounted { target } => write!(f, "what is mounted at {target} changed"),
            Self::Files { first, others: 0 } => first.fmt(f),
            Self::Files { first, others: 1 } => write!(f, "{first} (+1 other)"),
            Self::Files { first, others } => write!(f, "{first} (+{others} others)"),
            Self::MoreFiles => write!(f, "a file changed (too many to say which)"),
            Self::Root { .. } => write!(f, "what it starts from changed"),
        }
    }
}

fn change(f: &mut fmt::Formatter<'_>, what: &str, old: &Option<String>, new: &Option<String>) -> fmt::Result {
    match (old, new) {
        (Some(old), Some(new)) => write!(f, "{what} {} → {}", value(old), value(new)),
        (None, Some(new)) => write!(f, "{what} added: {}", value(new)),
        (Some(old), None) => write!(f, "{what} removed (was {})", value(old)),
        (None, None) => f.write_str(what),
    }
}

/// A value as it is shown: nothing must be seen as such.
fn value(text: &str) -> String {
    if text.is_empty() { "\"\"".to_owned() } else { shown(text) }
}

/// One line of reasonable length.
fn shown(text: &str) -> String {
    let line = text.replace('\n', "⏎");
    match line.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}
