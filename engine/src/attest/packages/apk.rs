//! apk's database: `lib/apk/db/installed`, in newer images below `usr` (apk-tools, `apk_db_read`).

use std::path::Path;

use super::stanza::stanzas;
use super::{Ecosystem, Package};

/// The whole database.
pub(super) fn is_installed(path: &Path) -> bool {
    path == Path::new("lib/apk/db/installed") || path == Path::new("usr/lib/apk/db/installed")
}

/// Its packages: a line is one letter, a colon and the value.
pub(super) fn read(text: &str) -> Vec<Package> {
    stanzas(text, ':')
        .filter_map(|stanza| {
            let field = |key| stanza.get(key).map(str::to_owned);
            Some(Package {
                architecture: field("A"),
                license: field("L"),
                supplier: field("m"),
                homepage: field("U"),
                source: field("o"),
                ..Package::new(Ecosystem::Apk, stanza.get("P")?, stanza.get("V")?)
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_read_with_what_they_were_made_of() {
        let found = read(
            "C:Q1abc=\nP:musl\nV:1.2.4-r2\nA:x86_64\nL:MIT\no:musl\nU:https://musl.libc.org/\nF:lib\nR:libc.so\n\n\
             P:ssl_client\nV:1.36.1-r15\no:busybox\n\nP:half\n",
        );
        let shown: Vec<_> = found.iter().map(|one| format!("{} {}", one.name, one.version)).collect();
        assert_eq!(shown, ["musl 1.2.4-r2", "ssl_client 1.36.1-r15"]);
        assert_eq!((found[0].license.as_deref(), found[1].source.as_deref()), (Some("MIT"), Some("busybox")));
    }

    #[test]
    fn what_is_malformed_is_no_package() {
        for text in ["", "P:", "P:a", "V:1", "PV\n\n:::\n"] {
            assert!(read(text).is_empty(), "{text:?}");
        }
    }
}
