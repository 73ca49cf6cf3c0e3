//! Package URLs (purl-spec): what packages and images are called in attestations.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Write as _};

use kiln_image::{ImageRef, Platform};

/// In the order of their keys, as the specification wants them.
pub(super) type Qualifiers = BTreeMap<&'static str, String>;

/// A package URL; its parts are escaped when it is shown.
pub(super) struct Purl<'a> {
    pub(super) kind: &'a str,
    /// May hold slashes; may be empty.
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    /// May be empty.
    pub(super) version: &'a str,
    pub(super) qualifiers: Qualifiers,
}

impl Display for Purl<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pkg:{}", self.kind)?;
        for segment in self.namespace.split('/').filter(|segment| !segment.is_empty()) {
            write!(f, "/{}", Escaped(segment))?;
        }
        write!(f, "/{}", Escaped(self.name))?;
        if !self.version.is_empty() {
            write!(f, "@{}", Escaped(self.version))?;
        }
        for (index, (key, value)) in self.qualifiers.iter().enumerate() {
            write!(f, "{}{key}={}", if index == 0 { '?' } else { '&' }, Escaped(value))?;
        }
        Ok(())
    }
}

/// With `%` for all but what the specification names, the colon among it.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.bytes().try_for_each(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'~' | b':' => {
                f.write_char(byte.into())
            }
            _ => write!(f, "%{byte:02X}"),
        })
    }
}

/// An image's of a layout on this machine, by the name of its context.
pub(super) fn of_layout(context: &str, platform: &Platform) -> String {
    let qualifiers = Qualifiers::from([("platform", platform.to_string())]);
    Purl { kind: "oci", namespace: "", name: context, version: "", qualifiers }.to_string()
}

/// An image's of a registry.
pub(super) fn of_image(image: &ImageRef, platform: &Platform) -> String {
    let name = image.familiar_name();
    let (namespace, name) = name.rsplit_once('/').unwrap_or(("", &name));
    let mut qualifiers = Qualifiers::from([("platform", platform.to_string())]);
    if let Some(digest) = image.digest() {
        qualifiers.insert("digest", digest.to_string());
    }
    let version = match (image.tag(), image.digest()) {
        (Some(tag), _) => tag,
        (None, Some(_)) => "",
        (None, None) => "latest",
    };
    Purl { kind: "docker", namespace, name, version, qualifiers }.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_called_as_buildkit_calls_them() {
        let of = |name: &str| of_image(&name.parse().unwrap(), &"linux/amd64".parse().unwrap());
        assert_eq!(of("alpine:3.17"), "pkg:docker/alpine@3.17?platform=linux%2Famd64");
        assert_eq!(of("127.0.0.1:5000/a/b"), "pkg:docker/127.0.0.1:5000/a/b@latest?platform=linux%2Famd64");
        let digest = format!("sha256:{}", "0".repeat(64));
        assert_eq!(
            of(&format!("a/b@{digest}")),
            format!("pkg:docker/a/b?digest={digest}&platform=linux%2Famd64")
        );
    }
}
