//! What is installed in an image: its package databases, read in process.
//!
//! The databases are anybody's bytes: only regular files of the image's own tree are read, each up to a limit, and what is
//! malformed is no package. A new kind is a file here and a row of [`READERS`].

mod apk;
mod cargo;
mod dpkg;
mod npm;
mod python;
mod rpm;
mod stanza;

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use kiln_cache::{Entry, EntryKind, LayerTree, SourceTree};

use super::purl::{Purl, Qualifiers};
use crate::Error;

/// A package.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Package {
    pub(super) ecosystem: Ecosystem,
    pub(super) name: String,
    pub(super) version: String,
    pub(super) architecture: Option<String>,
    /// As the package has it: perhaps an SPDX expression.
    pub(super) license: Option<String>,
    pub(super) supplier: Option<String>,
    pub(super) homepage: Option<String>,
    /// The package that it was built from.
    pub(super) source: Option<String>,
    /// Of its archive, in hex.
    pub(super) sha256: Option<String>,
}

/// Whose packages they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ecosystem {
    Apk,
    Cargo,
    Deb,
    Npm,
    Pypi,
    Rpm,
}

/// A package in an image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Installed {
    pub(super) package: Package,
    /// The file that says so.
    pub(super) path: PathBuf,
    /// Which layer brought it, from 0 at the bottom.
    pub(super) layer: usize,
}

/// What an image has.
#[derive(Clone, Debug, Default)]
pub(super) struct Inventory {
    /// Sorted, each once.
    pub(super) installed: BTreeSet<Installed>,
    pub(super) distribution: Distribution,
    /// Files that were not read, and why.
    pub(super) left_out: Vec<String>,
}

/// The operating system, by `os-release`(5).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Distribution {
    id: Option<String>,
    version: Option<String>,
}

/// A kind of database.
struct Reader {
    /// Whether a file is one.
    is_database: fn(&Path) -> bool,
    format: Format,
    /// Larger ones are not read.
    limit_bytes: u64,
    /// It holds many packages, which came with different layers.
    grows: bool,
}

#[derive(Clone, Copy)]
enum Format {
    /// What is no UTF-8 is replaced.
    Text(fn(&str) -> Vec<Package>),
    /// The error says why it cannot be read.
    Binary(fn(&[u8]) -> Result<Vec<Package>, &'static str>),
}

const READERS: [Reader; 7] = [
    Reader {
        is_database: dpkg::is_status,
        format: Format::Text(dpkg::read),
        limit_bytes: MAX_DATABASE_BYTES,
        grows: true,
    },
    Reader {
        is_database: dpkg::is_single_status,
        format: Format::Text(dpkg::read),
        limit_bytes: MAX_METADATA_BYTES,
        grows: false,
    },
    Reader {
        is_database: apk::is_installed,
        format: Format::Text(apk::read),
        limit_bytes: MAX_DATABASE_BYTES,
        grows: true,
    },
    Reader {
        is_database: python::is_metadata,
        format: Format::Text(python::read),
        limit_bytes: MAX_METADATA_BYTES,
        grows: false,
    },
    Reader {
        is_database: npm::is_package,
        format: Format::Text(npm::read),
        limit_bytes: MAX_METADATA_BYTES,
        grows: false,
    },
    Reader {
        is_database: rpm::is_database,
        format: Format::Binary(rpm::read),
        limit_bytes: MAX_RPM_BYTES,
        grows: true,
    },
    Reader {
        is_database: cargo::is_lock,
        format: Format::Text(cargo::read),
        limit_bytes: MAX_METADATA_BYTES,
        grows: false,
    },
];

/// How many packages a database of rpm's has.
#[cfg(fuzzing)]
pub(super) fn rpm_packages(bytes: &[u8]) -> Result<usize, &'static str> {
    rpm::read(bytes).map(|packages| packages.len())
}

/// Looks for packages in a tree of unpacked layers, bottom first.
pub(super) fn of_layers(layers: &[PathBuf]) -> Result<Inventory, Error> {
    let tree = LayerTree::open(layers)?;
    let layers: Vec<LayerTree> =
        layers.iter().map(|layer| LayerTree::open(&[layer])).collect::<Result<_, _>>()?;
    take_inventory(&tree, &layers)
}

/// Looks for packages in a tree that has no layers.
pub(super) fn of_tree(tree: &dyn SourceTree) -> Result<Inventory, Error> {
    take_inventory(tree, &[])
}

fn take_inventory(tree: &dyn SourceTree, layers: &[LayerTree]) -> Result<Inventory, Error> {
    let mut inventory = Inventory { distribution: distribution(tree)?, ..Inventory::default() };
    for entry in tree.walk(Path::new(""))? {
        if !matches!(entry.kind, EntryKind::File { .. }) {
            continue;
        }
        let Some(reader) = READERS.iter().find(|reader| (reader.is_database)(&entry.path)) else { continue };
        let path = entry.path.display();
        let Some(bytes) = read(tree, &entry, reader.limit_bytes)? else {
            inventory.left_out.push(format!("/{path} is larger than {} bytes", reader.limit_bytes));
            continue;
        };
        let packages = match reader.format.packages(&bytes) {
            Ok(packages) => packages,
            Err(reason) => {
                inventory.left_out.push(format!("/{path} is {reason}"));
                continue;
            }
        };
        drop(bytes);
        let origins = Origins::of(layers, &entry.path, reader)?;
        for package in packages.into_iter().filter(Package::is_plausible) {
            if inventory.installed.len() >= MAX_PACKAGES {
                inventory
                    .left_out
                    .push(format!("/{path} and others: there are more than {MAX_PACKAGES} packages"));
                return Ok(inventory);
            }
            let layer = origins.of_package(&package);
            inventory.installed.insert(Installed { package, path: entry.path.clone(), layer });
        }
    }
    Ok(inventory)
}

/// Which layers have a database, and what it said there.
struct Origins(Vec<(usize, BTreeSet<Package>)>);

impl Origins {
    fn of(layers: &[LayerTree], path: &Path, reader: &Reader) -> Result<Self, Error> {
        let mut origins = Vec::new();
        for (index, layer) in layers.iter().enumerate() {
            let Some(entry) = layer.entry(path)? else { continue };
            if !matches!(entry.kind, EntryKind::File { .. }) {
                continue;
            }
            let bytes = if reader.grows { read(layer, &entry, reader.limit_bytes)? } else { None };
            // What this layer's says is not in the image unless the topmost says so, too.
            let packages = bytes.and_then(|bytes| reader.format.packages(&bytes).ok()).unwrap_or_default();
            origins.push((index, packages.into_iter().collect()));
        }
        Ok(Self(origins))
    }

    /// The first layer that has the package, else the last that wrote the database.
    fn of_package(&self, package: &Package) -> usize {
        let first = self.0.iter().find(|(_, packages)| packages.contains(package));
        first.or(self.0.last()).map_or(0, |(layer, _)| *layer)
    }
}

impl Format {
    fn packages(self, bytes: &[u8]) -> Result<Vec<Package>, &'static str> {
        match self {
            Self::Text(read) => Ok(read(&String::from_utf8_lossy(bytes))),
            Self::Binary(read) => read(bytes),
        }
    }
}

/// A file's bytes. `None` if there are more than `limit_bytes`.
fn read(tree: &dyn SourceTree, entry: &Entry, limit_bytes: u64) -> Result<Option<Vec<u8>>, Error> {
    let mut bytes = Vec::new();
    let file = tree.open_entry(entry)?;
    let read = file.take(limit_bytes + 1).read_to_end(&mut bytes);
    read.map_err(|error| Error::io(&entry.path, error))?;
    Ok((bytes.len() as u64 <= limit_bytes).then_some(bytes))
}

fn distribution(tree: &dyn SourceTree) -> Result<Distribution, Error> {
    for path in ["etc/os-release", "usr/lib/os-release"] {
        if let Some(entry) = tree.entry(Path::new(path))?
            && matches!(entry.kind, EntryKind::File { .. })
            && let Some(bytes) = read(tree, &entry, MAX_METADATA_BYTES)?
        {
            return Ok(Distribution::parse(&String::from_utf8_lossy(&bytes)));
        }
    }
    Ok(Distribution::default())
}

impl Distribution {
    fn parse(text: &str) -> Self {
        let field = |key: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
            let value = value.trim().trim_matches(['"', '\'']);
            is_plausible(value).then(|| value.to_owned())
        };
        Self { id: field("ID"), version: field("VERSION_ID") }
    }
}

impl Package {
    fn new(ecosystem: Ecosystem, name: &str, version: &str) -> Self {
        Self {
            ecosystem,
            name: name.to_owned(),
            version: version.to_owned(),
            architecture: None,
            license: None,
            supplier: None,
            homepage: None,
            source: None,
            sha256: None,
        }
    }

    /// Whether its words are such as names and versions are made of.
    fn is_plausible(&self) -> bool {
        let optional = [&self.architecture, &self.license, &self.supplier, &self.homepage, &self.source];
        is_plausible(&self.name)
            && is_plausible(&self.version)
            && optional.into_iter().flatten().all(|text| text.len() <= MAX_FIELD_BYTES)
    }

    /// Its package URL (purl-spec, "Package URL type definitions").
    pub(super) fn purl(&self, distribution: &Distribution) -> String {
        let Self { name, version, .. } = self;
        let lower = name.to_lowercase();
        let (kind, namespace, name) = match self.ecosystem {
            Ecosystem::Apk => ("apk", distribution.id.as_deref().unwrap_or("alpine"), lower.as_str()),
            Ecosystem::Cargo => ("cargo", "", name.as_str()),
            Ecosystem::Deb => ("deb", distribution.id.as_deref().unwrap_or("debian"), lower.as_str()),
            Ecosystem::Npm => match lower.split_once('/') {
                Some((scope, name)) => ("npm", scope, name),
                None => ("npm", "", lower.as_str()),
            },
            Ecosystem::Pypi => ("pypi", "", lower.as_str()),
            // Names of rpm's packages differ by case.
            Ecosystem::Rpm => ("rpm", distribution.id.as_deref().unwrap_or_default(), name.as_str()),
        };
        // PyPI takes `_`, `.` and `-` for one.
        let normal = match self.ecosystem {
            Ecosystem::Pypi => name.replace(['_', '.'], "-"),
            _ => name.to_owned(),
        };
        let mut qualifiers = Qualifiers::new();
        let version = match version.split_once(':') {
            Some((epoch, version)) if self.ecosystem == Ecosystem::Rpm => {
                qualifiers.insert("epoch", epoch.to_owned());
                version
            }
            _ => version,
        };
        if matches!(self.ecosystem, Ecosystem::Apk | Ecosystem::Deb | Ecosystem::Rpm) {
            qualifiers.extend(self.architecture.as_deref().map(|arch| ("arch", arch.to_owned())));
            if let (Some(id), Some(version)) = (&distribution.id, &distribution.version) {
                qualifiers.insert("distro", format!("{id}-{version}"));
            }
            let upstream = self.source.clone().filter(|source| *source != self.name);
            qualifiers.extend(upstream.map(|source| ("upstream", source)));
        }
        Purl { kind, namespace, name: &normal, version, qualifiers }.to_string()
    }
}

fn is_plausible(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_FIELD_BYTES && !text.contains(char::is_control)
}

/// The last component; empty where it is no UTF-8, which no database's name is.
fn name_of(path: &Path) -> &str {
    path.file_name().and_then(std::ffi::OsStr::to_str).unwrap_or_default()
}

fn has_parent(path: &Path, parent: &str) -> bool {
    path.parent() == Some(Path::new(parent))
}

/// Debian's largest status files have some 10 MB.
const MAX_DATABASE_BYTES: u64 = 64 << 20;
/// A distribution's whole build root has some 100 MB.
const MAX_RPM_BYTES: u64 = 256 << 20;
/// A description is part of Python's metadata; locks of large programs have 1 MB.
const MAX_METADATA_BYTES: u64 = 8 << 20;
/// No image has so many.
const MAX_PACKAGES: usize = 200_000;
/// A name, a version, a maintainer: longer ones are nonsense.
const MAX_FIELD_BYTES: usize = 1024;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn purl(package: &Package) -> String {
        package.purl(&Distribution::parse("NAME=x\nID=debian\nVERSION_ID=\"12\"\n"))
    }

    #[test]
    fn packages_have_urls() {
        let deb = Package {
            architecture: Some("amd64".into()),
            source: Some("src".into()),
            ..Package::new(Ecosystem::Deb, "bash", "1:5.2+b2")
        };
        assert_eq!(purl(&deb), "pkg:deb/debian/bash@1:5.2%2Bb2?arch=amd64&distro=debian-12&upstream=src");
        let rpm = Package {
            architecture: Some("x86_64".into()),
            source: Some("perl-5.36.src.rpm".into()),
            ..Package::new(Ecosystem::Rpm, "perl-IO", "4:1.50-1")
        };
        assert_eq!(
            purl(&rpm),
            "pkg:rpm/debian/perl-IO@1.50-1?arch=x86_64&distro=debian-12&epoch=4&upstream=perl-5.36.src.rpm"
        );
        assert_eq!(purl(&Package::new(Ecosystem::Npm, "@a/b", "1")), "pkg:npm/%40a/b@1");
        assert_eq!(purl(&Package::new(Ecosystem::Pypi, "Flask_Login", "1")), "pkg:pypi/flask-login@1");
        assert_eq!(purl(&Package::new(Ecosystem::Cargo, "serde", "1.0.1")), "pkg:cargo/serde@1.0.1");
    }

    #[test]
    fn a_package_comes_with_the_layer_that_first_lists_it_so() {
        let dir = tempfile::tempdir().unwrap();
        let layers: Vec<PathBuf> = ["low", "middle", "top"].map(|name| dir.path().join(name)).into();
        let status = |layer: usize, text: &str| {
            let file = layers[layer].join("var/lib/dpkg/status");
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        status(0, "Package: a\nVersion: 1\n\nPackage: b\nVersion: 1\n");
        fs::create_dir_all(layers[1].join("app/node_modules/x")).unwrap();
        fs::write(layers[1].join("app/node_modules/x/package.json"), r#"{"name":"x","version":"3"}"#)
            .unwrap();
        status(2, "Package: a\nVersion: 1\n\nPackage: b\nVersion: 2\n");
        let found = of_layers(&layers).unwrap();
        let shown: Vec<_> = found
            .installed
            .iter()
            .map(|one| format!("{} {} {}", one.package.name, one.package.version, one.layer))
            .collect();
        assert_eq!(shown, ["a 1 0", "b 2 2", "x 3 1"]);
    }

    #[test]
    fn databases_that_are_no_files_or_too_large_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let layer = dir.path().join("layer");
        fs::create_dir_all(layer.join("var/lib/dpkg/status.d")).unwrap();
        fs::create_dir_all(layer.join("lib/apk/db")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", layer.join("var/lib/dpkg/status")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            layer.join("lib/apk/db/installed"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        let large = fs::File::create(layer.join("Cargo.lock")).unwrap();
        large.set_len(MAX_METADATA_BYTES + 1).unwrap();
        fs::write(layer.join("var/lib/dpkg/status.d/ok"), "Package: ok\nVersion: 1\n").unwrap();
        fs::write(layer.join("var/lib/dpkg/status.d/control"), "Package: a\u{7}b\nVersion: 1\n").unwrap();
        let long = format!("Package: {}\nVersion: 1\n", "x".repeat(MAX_FIELD_BYTES + 1));
        fs::write(layer.join("var/lib/dpkg/status.d/long"), long).unwrap();
        fs::write(layer.join("var/lib/dpkg/status.d/bytes"), b"\xff\xfe\0Package: a").unwrap();
        let found = of_layers(&[layer]).unwrap();
        let names: Vec<_> = found.installed.iter().map(|one| one.package.name.as_str()).collect();
        assert_eq!(names, ["ok"]);
        assert_eq!(found.left_out, ["/Cargo.lock is larger than 8388608 bytes"]);
    }
}
