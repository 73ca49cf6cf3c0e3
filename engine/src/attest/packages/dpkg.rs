//! dpkg's database: `var/lib/dpkg/status`, and `status.d/*` of images that have no dpkg (deb-control(5), dpkg(1)).

use std::path::Path;

use super::stanza::stanzas;
use super::{Ecosystem, Package, has_parent};

const DIRECTORY: &str = "var/lib/dpkg";

/// The whole database, which each step that installs something writes anew.
pub(super) fn is_status(path: &Path) -> bool {
    path == Path::new("var/lib/dpkg/status")
}

/// One package each; beside them are lists of checksums.
pub(super) fn is_single_status(path: &Path) -> bool {
    has_parent(path, &format!("{DIRECTORY}/status.d"))
        && path.extension().is_none_or(|extension| extension != "md5sums")
}

/// Packages that are installed; what only left its configuration behind is none. Of `status.d` none says so.
pub(super) fn read(text: &str) -> Vec<Package> {
    let installed = |status: Option<&str>| status.is_none_or(|status| status.ends_with(" installed"));
    stanzas(text, ':')
        .filter(|stanza| installed(stanza.get("Status")))
        .filter_map(|stanza| {
            Some(Package {
                architecture: stanza.get("Architecture").map(str::to_owned),
                supplier: stanza.get("Maintainer").map(str::to_owned),
                homepage: stanza.get("Homepage").map(str::to_owned),
                // `Source: name (version)`, where they are not the package's.
                source: stanza
                    .get("Source")
                    .map(|source| source.split(' ').next().unwrap_or(source).to_owned()),
                ..Package::new(Ecosystem::Deb, stanza.get("Package")?, stanza.get("Version")?)
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn installed_packages_are_read_and_removed_ones_are_not() {
        let found = read(
            "Package: bash\nStatus: install ok installed\nMaintainer: A B <a@b>\nArchitecture: amd64\n\
             Source: bash-src (5.2)\nVersion: 5.2.15-2+b2\nDescription: shell\n Version: not this\n\n\n\
             Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n\
             Package: base-files\nVersion: 12.4\n",
        );
        let shown: Vec<_> = found.iter().map(|one| format!("{} {}", one.name, one.version)).collect();
        assert_eq!(shown, ["bash 5.2.15-2+b2", "base-files 12.4"]);
        assert_eq!(found[0].source.as_deref(), Some("bash-src"));
        assert_eq!(found[0].supplier.as_deref(), Some("A B <a@b>"));
    }

    #[test]
    fn what_is_malformed_is_no_package() {
        for text in [
            "",
            ":",
            "\n\n\n",
            "Package\nVersion",
            "Package: a\n",
            "Version: 1\n\n continued\n",
            "\u{0}: \u{1}",
        ] {
            assert!(read(text).is_empty(), "{text:?}");
        }
    }

    #[test]
    fn the_databases_are_known_by_their_places() {
        assert!(is_status(Path::new("var/lib/dpkg/status")));
        assert!(!is_status(Path::new("x/var/lib/dpkg/status")));
        assert!(is_single_status(Path::new("var/lib/dpkg/status.d/base")));
        for path in
            ["var/lib/dpkg/status.d/base.md5sums", "var/lib/dpkg/status.d", "var/lib/dpkg/status.d/a/b"]
        {
            assert!(!is_single_status(Path::new(path)), "{path}");
        }
    }
}
