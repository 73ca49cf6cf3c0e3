//! Cargo's lock files (The Cargo Book, "Cargo.toml vs Cargo.lock").

use std::path::Path;

use serde::Deserialize;

use super::{Ecosystem, Package, name_of};

/// A lock, wherever it is.
pub(super) fn is_lock(path: &Path) -> bool {
    name_of(path) == "Cargo.lock"
}

#[derive(Deserialize)]
struct Lock {
    #[serde(default)]
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    source: Option<String>,
    checksum: Option<String>,
}

/// What the lock names, but the crates that are beside it.
pub(super) fn read(text: &str) -> Vec<Package> {
    let Ok(lock) = toml::from_str::<Lock>(text) else { return Vec::new() };
    let packages = lock.package.into_iter().filter(|package| package.source.is_some());
    packages
        .map(|package| Package {
            sha256: package.checksum.filter(|sum| kiln_image::Digest::from_hex(sum).is_ok()),
            ..Package::new(Ecosystem::Cargo, &package.name, &package.version)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crates_from_elsewhere_are_read_with_their_checksums() {
        let sum = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        let text = format!(
            "version = 4\n[[package]]\nname = \"own\"\nversion = \"0.1.0\"\n[[package]]\nname = \"serde\"\n\
             version = \"1.0.1\"\nsource = \"registry+x\"\nchecksum = \"{sum}\"\n"
        );
        let found = read(&text);
        assert_eq!(
            (found.len(), found[0].name.as_str(), found[0].sha256.as_deref()),
            (1, "serde", Some(sum))
        );
    }

    #[test]
    fn what_is_malformed_is_no_package() {
        let deep = format!("a = {}", "[".repeat(100_000));
        for text in ["package = 1", "[[package]]\nname = 1", "[[package", deep.as_str()] {
            assert!(read(text).is_empty());
        }
    }
}
