//! npm's packages: `node_modules/NAME/package.json`, `node_modules/@SCOPE/NAME/package.json`.

use std::path::Path;

use serde_json::Value;

use super::{Ecosystem, Package, name_of};

/// The package's own; packages have more files of that name below.
pub(super) fn is_package(path: &Path) -> bool {
    if name_of(path) != "package.json" {
        return false;
    }
    let mut parents = path.ancestors().skip(2).map(name_of);
    match parents.next() {
        Some("node_modules") => true,
        Some(scope) if scope.starts_with('@') => parents.next() == Some("node_modules"),
        _ => false,
    }
}

/// The package, if it has a name and a version.
pub(super) fn read(text: &str) -> Vec<Package> {
    let Ok(Value::Object(json)) = serde_json::from_str(text) else { return Vec::new() };
    let field = |key: &str| json.get(key)?.as_str();
    let (Some(name), Some(version)) = (field("name"), field("version")) else { return Vec::new() };
    vec![Package {
        license: field("license").map(str::to_owned),
        homepage: field("homepage").map(str::to_owned),
        ..Package::new(Ecosystem::Npm, name, version)
    }]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_has_a_name_and_a_version() {
        let found = read(r#"{"name":"@babel/core","version":"7.1.0","license":"MIT","author":{"name":"x"}}"#);
        assert_eq!((found[0].name.as_str(), found[0].license.as_deref()), ("@babel/core", Some("MIT")));
    }

    #[test]
    fn what_is_malformed_is_no_package() {
        let deep = "[".repeat(100_000);
        for text in ["", "[]", "{", r#"{"name":1,"version":"1"}"#, r#"{"name":"a"}"#, deep.as_str()] {
            assert!(read(text).is_empty());
        }
    }

    #[test]
    fn a_package_is_known_by_its_place() {
        for path in ["app/node_modules/a/package.json", "node_modules/@s/a/package.json"] {
            assert!(is_package(Path::new(path)), "{path}");
        }
        for path in [
            "package.json",
            "app/package.json",
            "node_modules/a/lib/package.json",
            "node_modules/package.json",
        ] {
            assert!(!is_package(Path::new(path)), "{path}");
        }
    }
}
