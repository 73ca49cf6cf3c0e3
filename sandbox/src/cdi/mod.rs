//! Devices as their vendors describe them on the host: Container Device Interface (CDI, SPEC.md).
//!
//! A specification names devices (`vendor/class=name`) and says what a container needs to use one: variables, device
//! nodes, mounts, groups. Hooks are programs of the host's that a runtime runs; kiln runs none, so a device with hooks is
//! refused, as is what changes network interfaces or processor caches. Specifications are YAML or JSON, in files that end
//! in `.yaml` or `.json`.

mod document;
mod edits;
mod yaml;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

pub use edits::DeviceEdits;

use document::Document;

/// Where specifications are looked for; what stands in a later one takes the place of what stands in an earlier one.
pub const SPEC_DIRECTORIES: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

/// A specification may be so long.
const MAX_SPEC_BYTES: u64 = 4 << 20;
/// A directory may hold so many files.
const MAX_SPECS: usize = 1000;

/// BuildKit's annotation: another name that a device answers to.
const CLASS: &str = "org.mobyproject.buildkit.device.class";
/// BuildKit's annotation: builds may have the device without asking.
const AUTO_ALLOW: &str = "org.mobyproject.buildkit.device.autoallow";

/// Why a device cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// No specification describes it.
    #[error("required device {name:?} is not registered{}", unread(.problems))]
    NotRegistered {
        /// As it was asked for.
        name: String,
        /// Files that could not be used, each with the reason.
        problems: Vec<String>,
    },
    /// It needs something that kiln does not do.
    #[error("device {name} needs {what}, {why}")]
    Unsupported {
        /// Its whole name.
        name: String,
        /// What.
        what: &'static str,
        /// Why not.
        why: &'static str,
    },
    /// What its specification says makes no sense on this machine.
    #[error("device {name}: {what}: {reason}")]
    Unusable {
        /// Its whole name.
        name: String,
        /// The path or entry.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
}

fn unread(problems: &[String]) -> String {
    problems.iter().map(|problem| format!("; {problem}")).collect()
}

/// The devices that the host's specifications describe.
#[derive(Debug, Default)]
pub struct Devices {
    specs: Vec<Document>,
    /// Specification and place in it, by whole name.
    known: BTreeMap<String, (usize, usize)>,
    problems: Vec<String>,
}

impl Devices {
    /// Reads the specifications in `directories`; what cannot be read is told by [`DeviceError::NotRegistered`].
    pub fn read(directories: &[PathBuf]) -> Self {
        let mut devices = Self::default();
        for directory in directories {
            devices.add_directory(directory);
        }
        devices
    }

    /// The whole names of the devices that `wanted` means: `vendor/class=name`, the first of `vendor/class`, all of
    /// `vendor/class=*`, or all that have this class as an annotation.
    pub fn find(&self, wanted: &str) -> Vec<String> {
        let (kind, name) = wanted.split_once('=').unwrap_or((wanted, ""));
        let is_qualified = kind.split_once('/').is_some_and(|(v, c)| !v.is_empty() && !c.is_empty());
        let of_kind = || {
            let prefix = format!("{kind}=");
            self.known.keys().filter(move |known| known.starts_with(&prefix)).cloned()
        };
        let mut found: Vec<String> = match (is_qualified, name) {
            (false, _) => Vec::new(),
            (true, "") => of_kind().take(1).collect(),
            (true, "*") => of_kind().collect(),
            (true, _) => self.known.contains_key(wanted).then(|| wanted.to_owned()).into_iter().collect(),
        };
        if found.is_empty() {
            let has_class = |name: &&String| self.annotation(name, CLASS) == Some(wanted);
            found = self.known.keys().filter(has_class).cloned().collect();
        }
        found
    }

    /// Whether the host's administrator lets every build have the device.
    pub fn is_auto_allowed(&self, name: &str) -> bool {
        matches!(self.annotation(name, AUTO_ALLOW), Some("1" | "t" | "T" | "true" | "TRUE" | "True"))
    }

    /// That there is no such device, and what may be the reason.
    pub fn not_registered(&self, wanted: &str) -> DeviceError {
        DeviceError::NotRegistered { name: wanted.to_owned(), problems: self.problems.clone() }
    }

    /// What a sandbox gets for the devices of these whole names.
    ///
    /// # Errors
    /// A device that is not there, or needs what kiln does not do.
    pub fn edits(&self, names: &[String]) -> Result<DeviceEdits, DeviceError> {
        let mut edits = DeviceEdits::default();
        let mut seen = BTreeSet::new();
        for name in names {
            let &(spec, device) = self.known.get(name).ok_or_else(|| self.not_registered(name))?;
            let (spec_number, spec) = (spec, &self.specs[spec]);
            // What is for all of a specification's devices is done once.
            if seen.insert(spec_number) {
                edits.add(name, &spec.container_edits)?;
            }
            edits.add(name, &spec.devices[device].container_edits)?;
        }
        Ok(edits)
    }

    fn annotation(&self, name: &str, key: &str) -> Option<&str> {
        let &(spec, device) = self.known.get(name)?;
        let spec = &self.specs[spec];
        let value = spec.devices[device].annotations.get(key).or_else(|| spec.annotations.get(key));
        value.map(String::as_str)
    }

    fn add_directory(&mut self, directory: &Path) {
        let entries = match std::fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(error) => return self.problems.push(format!("{}: {error}", directory.display())),
        };
        let mut paths: Vec<_> =
            entries.filter_map(|entry| Some(entry.ok()?.path())).take(MAX_SPECS).collect();
        paths.sort();
        // Two specifications of one directory that describe the same device: neither can be meant.
        let mut here: BTreeMap<String, PathBuf> = BTreeMap::new();
        let mut twice = BTreeSet::new();
        for path in paths {
            let document = match path.extension().and_then(|end| end.to_str()) {
                Some("json" | "yaml") => read(&path),
                Some("yml") => Err("specifications end in .yaml or .json".to_owned()),
                _ => continue,
            };
            let document = match document {
                Ok(document) => document,
                Err(problem) => {
                    self.problems.push(format!("{}: {problem}", path.display()));
                    continue;
                }
            };
            for (number, device) in document.devices.iter().enumerate() {
                let name = format!("{}={}", document.kind, device.name);
                if let Some(other) = here.insert(name.clone(), path.clone()) {
                    let other = other.display();
                    self.problems.push(format!("{}: {name} is described in {other} as well", path.display()));
                    twice.insert(name.clone());
                }
                self.known.insert(name, (self.specs.len(), number));
            }
            self.specs.push(document);
        }
        self.known.retain(|name, _| !twice.contains(name));
    }
}

fn read(path: &Path) -> Result<Document, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let mut text = String::new();
    file.take(MAX_SPEC_BYTES + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > MAX_SPEC_BYTES {
        return Err(format!("it is larger than {MAX_SPEC_BYTES} bytes"));
    }
    Document::parse(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        directory
    }

    fn spec(kind: &str, devices: &str) -> String {
        format!(r#"{{"cdiVersion": "0.6.0", "kind": "{kind}", "devices": [{devices}]}}"#)
    }

    fn device(name: &str) -> String {
        format!(r#"{{"name": "{name}", "containerEdits": {{"env": ["DEVICE={name}"]}}}}"#)
    }

    #[test]
    fn a_device_is_found_by_name_as_the_first_of_its_kind_among_all_and_by_its_class() {
        let gpus = spec("acme.com/gpu", &[device("1"), device("0")].join(","));
        let other = spec(
            "acme.com/net",
            &format!(
                r#"{{"name": "a", "annotations": {{"{CLASS}": "fast", "{AUTO_ALLOW}": "true"}},
                     "containerEdits": {{"env": ["A=1"]}}}}"#
            ),
        );
        let there = directory(&[("gpu.json", &gpus), ("net.json", &other), ("notes.txt", "x")]);
        let devices = Devices::read(&[there.path().into(), "/nonexistent".into()]);
        assert_eq!(devices.find("acme.com/gpu=1"), ["acme.com/gpu=1"]);
        assert_eq!(devices.find("acme.com/gpu"), ["acme.com/gpu=0"]);
        assert_eq!(devices.find("acme.com/gpu=*"), ["acme.com/gpu=0", "acme.com/gpu=1"]);
        assert_eq!(devices.find("fast"), ["acme.com/net=a"]);
        assert!(devices.find("acme.com/gpu=2").is_empty());
        assert!(devices.is_auto_allowed("acme.com/net=a") && !devices.is_auto_allowed("acme.com/gpu=0"));
    }

    #[test]
    fn a_later_directory_comes_before_and_two_files_of_one_directory_are_neither() {
        let with = |value: &str| {
            spec("v.com/c", &format!(r#"{{"name": "d", "containerEdits": {{"env": ["V={value}"]}}}}"#))
        };
        let first = directory(&[("a.json", &with("first"))]);
        let second = directory(&[("a.json", &with("second"))]);
        let both = Devices::read(&[first.path().into(), second.path().into()]);
        assert_eq!(both.edits(&["v.com/c=d".into()]).unwrap().env, ["V=second"]);
        std::fs::write(second.path().join("b.json"), with("third")).unwrap();
        let both = Devices::read(&[first.path().into(), second.path().into()]);
        assert!(both.find("v.com/c=d").is_empty());
    }

    #[test]
    fn a_specification_in_yaml_says_the_same_as_one_in_json() {
        let yaml = "---\n\
            cdiVersion: 0.6.0\n\
            kind: v.com/c\n\
            containerEdits: {env: [ALL=1]}\n\
            devices:\n\
            - name: 0\n\
            \x20 annotations:\n\
            \x20   org.mobyproject.buildkit.device.autoallow: true\n\
            \x20 containerEdits:\n\
            \x20   deviceNodes:\n\
            \x20   - path: /dev/null\n\
            \x20     fileMode: 0620\n\
            \x20   hooks:\n";
        let there = directory(&[("c.yaml", yaml), ("d.json", &spec("v.com/d", &device("0")))]);
        let devices = Devices::read(&[there.path().into()]);
        assert!(devices.is_auto_allowed("v.com/c=0"));
        let edits = devices.edits(&["v.com/c=0".into(), "v.com/d=0".into()]).unwrap();
        assert_eq!(edits.env, ["ALL=1", "DEVICE=0"]);
        let crate::MountKind::Device(node) = &edits.mounts[0].kind else { panic!("{:?}", edits.mounts) };
        assert_eq!(node.mode, 0o620);
        // The two are one directory's, so that neither can be meant.
        std::fs::write(there.path().join("e.yaml"), spec("v.com/d", &device("0"))).unwrap();
        assert!(Devices::read(&[there.path().into()]).find("v.com/d=0").is_empty());
    }

    #[test]
    fn files_that_cannot_be_used_are_named_where_a_device_is_missing() {
        let files =
            [("a.yaml", "kind: x"), ("b.json", "{"), ("c.json", &*spec("bad", "")), ("d.yml", "kind: x")];
        let there = directory(&files);
        let devices = Devices::read(&[there.path().into()]);
        let told = devices.edits(&["v.com/c=d".into()]).unwrap_err().to_string();
        let told = told.replace(&there.path().display().to_string(), "/etc/cdi");
        assert_eq!(
            told,
            "required device \"v.com/c=d\" is not registered; \
             /etc/cdi/a.yaml: line 1: missing field `cdiVersion`; \
             /etc/cdi/b.json: line 2: while parsing a node, did not find expected node content; \
             /etc/cdi/c.json: the kind \"bad\" is not vendor/class; \
             /etc/cdi/d.yml: specifications end in .yaml or .json"
        );
    }
}
