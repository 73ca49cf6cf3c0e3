//! Python's metadata: `*.dist-info/METADATA`, `*.egg-info/PKG-INFO` and `*.egg-info` (PyPA, "Core metadata specifications").

use std::path::Path;

use super::stanza::stanzas;
use super::{Ecosystem, Package, name_of};

/// One distribution's.
pub(super) fn is_metadata(path: &Path) -> bool {
    let parent = path.parent().map(name_of).unwrap_or_default();
    match name_of(path) {
        "METADATA" => parent.ends_with(".dist-info"),
        "PKG-INFO" => parent.ends_with(".egg-info"),
        name => name.ends_with(".egg-info"),
    }
}

/// Headers up to the first empty line; a description may follow.
pub(super) fn read(text: &str) -> Vec<Package> {
    let package = |text| {
        let stanza = stanzas(text, ':').next()?;
        let field = |key| stanza.get(key).map(str::to_owned);
        Some(Package {
            license: field("License-Expression"),
            supplier: field("Author-email").or_else(|| field("Author")),
            homepage: field("Home-page"),
            ..Package::new(Ecosystem::Pypi, stanza.get("Name")?, stanza.get("Version")?)
        })
    };
    package(text).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distribution_is_read_from_its_headers_alone() {
        let text = "Metadata-Version: 2.1\nName: Flask_Login\nVersion: 0.6.3\nLicense-Expression: MIT\n\n\
                    Name: not this\nVersion: 9\n";
        let found = read(text);
        assert_eq!(
            (found.len(), found[0].name.as_str(), found[0].version.as_str()),
            (1, "Flask_Login", "0.6.3")
        );
    }

    #[test]
    fn what_is_malformed_is_no_package() {
        for text in ["", "\n\nName: a\n", "Name: a\nVersion:\n", "Version: 1\nName\n"] {
            assert!(read(text).is_empty(), "{text:?}");
        }
    }

    #[test]
    fn metadata_is_known_by_its_directory() {
        for path in ["a/x-1.dist-info/METADATA", "x.egg-info/PKG-INFO", "usr/lib/python3/x-1.egg-info"] {
            assert!(is_metadata(Path::new(path)), "{path}");
        }
        for path in ["METADATA", "a/PKG-INFO", "x.dist-info/RECORD"] {
            assert!(!is_metadata(Path::new(path)), "{path}");
        }
    }
}
