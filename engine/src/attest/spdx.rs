//! The packages of an image as an SPDX document (SPDX 2.3, the JSON form). Same packages, same bytes.

use kiln_image::Digest;
use serde_json::{Value, json};

use super::packages::{Ecosystem, Installed, Inventory};

/// The predicate's type in an attestation.
pub(super) const PREDICATE_TYPE: &str = "https://spdx.dev/Document";

/// What a document is about.
pub(super) struct About<'a> {
    /// The image's name.
    pub(super) name: &'a str,
    /// RFC 3339, whole seconds.
    pub(super) created: String,
    /// The image's layers as its manifest has them; none where there is no manifest.
    pub(super) layers: &'a [Digest],
}

/// Writes the document.
pub(super) fn document(inventory: &Inventory, about: &About<'_>) -> Value {
    const IMAGE: &str = "SPDXRef-Image";
    let mut packages = vec![json!({
        "name": about.name,
        "SPDXID": IMAGE,
        "downloadLocation": NO_ASSERTION,
        "filesAnalyzed": false,
        "licenseConcluded": NO_ASSERTION,
        "licenseDeclared": NO_ASSERTION,
        "copyrightText": NO_ASSERTION,
        "primaryPackagePurpose": "CONTAINER",
    })];
    let relates = |from: &str, kind: &str, to: &str| json!({"spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to});
    let mut relationships = vec![relates("SPDXRef-DOCUMENT", "DESCRIBES", IMAGE)];
    for installed in &inventory.installed {
        let package = package(installed, inventory, about);
        relationships.push(relates(IMAGE, "CONTAINS", package["SPDXID"].as_str().unwrap_or_default()));
        packages.push(package);
    }
    let packages = Value::from(packages);
    let id = Digest::of(packages.to_string().as_bytes()).hex();
    json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": about.name,
        // The form that SPDX gives to documents that are on no server of their maker's.
        "documentNamespace": format!("https://spdx.org/spdxdocs/kiln-{id}"),
        "creationInfo": {
            "created": about.created,
            "creators": [format!("Tool: kiln-{}", env!("CARGO_PKG_VERSION"))],
        },
        "packages": packages,
        "relationships": relationships,
    })
}

fn package(installed: &Installed, inventory: &Inventory, about: &About<'_>) -> Value {
    let Installed { package, path, layer } = installed;
    let purl = package.purl(&inventory.distribution);
    let mut id = Digest::of(format!("{purl} {}", path.display()).as_bytes()).hex();
    id.truncate(ID_DIGITS);
    let supplier = package.supplier.as_deref().map(|supplier| match package.ecosystem {
        // Its vendor.
        Ecosystem::Rpm => format!("Organization: {supplier}"),
        _ => person(supplier),
    });
    let license = package.license.as_deref().filter(|license| is_expression(license));
    let mut json = json!({
        "name": package.name,
        "SPDXID": format!("SPDXRef-Package-{id}"),
        "versionInfo": package.version,
        "supplier": supplier.unwrap_or_else(|| NO_ASSERTION.to_owned()),
        "downloadLocation": NO_ASSERTION,
        "filesAnalyzed": false,
        "licenseConcluded": NO_ASSERTION,
        "licenseDeclared": license.unwrap_or(NO_ASSERTION),
        "copyrightText": NO_ASSERTION,
        "sourceInfo": format!("read from /{}", path.display()),
        "externalRefs": [{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": purl,
        }],
    });
    if let Some(layer) = about.layers.get(*layer) {
        json["comment"] = format!("layerID: {layer}").into();
    }
    if let Some(homepage) = package.homepage.as_deref().filter(|text| is_web_address(text)) {
        json["homepage"] = homepage.into();
    }
    if let Some(sum) = &package.sha256 {
        json["checksums"] = json!([{"algorithm": "SHA256", "checksumValue": sum}]);
    }
    json
}

/// `Name <mail>` as SPDX has it.
fn person(text: &str) -> String {
    match text.strip_suffix('>').and_then(|text| text.split_once('<')) {
        Some((name, mail)) if !name.trim().is_empty() => format!("Person: {} ({mail})", name.trim()),
        _ => format!("Person: {text}"),
    }
}

/// Whether it has the form of an SPDX license expression (SPDX 2.3, annex D); other words would be taken for one.
fn is_expression(text: &str) -> bool {
    // `GPLv2+` and `MPLv2.0` are Fedora's words of before it took SPDX's.
    let is_id = |word: &str| {
        !word.is_empty()
            && !word.contains("PLv")
            && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-+".contains(&byte))
    };
    let text = text.replace(['(', ')'], " ");
    let words: Vec<&str> = text.split_whitespace().collect();
    let is_operator = |word: &str| matches!(word, "AND" | "OR" | "WITH");
    words.len() % 2 == 1
        && words.iter().enumerate().all(|(at, word)| is_operator(word) == (at % 2 == 1) && is_id(word))
}

fn is_web_address(text: &str) -> bool {
    ["http://", "https://"].iter().any(|scheme| text.starts_with(scheme))
        && !text.contains(|c: char| c.is_whitespace() || c.is_control())
}

const NO_ASSERTION: &str = "NOASSERTION";
/// Of the hash that tells packages apart.
const ID_DIGITS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn license_expressions_are_told_from_other_words() {
        for text in ["MIT", "(MIT OR Apache-2.0) AND BSD-3-Clause", "GPL-2.0+ WITH GCC-exception-3.1"] {
            assert!(is_expression(text), "{text}");
        }
        for text in
            ["", "MIT OR", "MIT Apache-2.0", "see LICENSE", "MIT/Apache-2.0", "BSD License", "LGPLv2+"]
        {
            assert!(!is_expression(text), "{text}");
        }
    }

    #[test]
    fn maintainers_are_persons() {
        assert_eq!(person("A B <a@b>"), "Person: A B (a@b)");
        assert_eq!(person("A B"), "Person: A B");
    }

    #[test]
    fn a_document_without_packages_describes_the_image() {
        let about = About { name: "app", created: "1970-01-01T00:00:00Z".to_owned(), layers: &[] };
        let document = document(&Inventory::default(), &about);
        assert_eq!(document["packages"].as_array().map(Vec::len), Some(1));
        assert_eq!(document["relationships"][0]["relatedSpdxElement"], "SPDXRef-Image");
    }
}
