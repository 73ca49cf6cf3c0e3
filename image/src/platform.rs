//! Platforms: `os/architecture[/variant]`.

use std::fmt;
use std::str::FromStr;

/// A platform in containerd's normal form (`linux/amd64`, `linux/arm64`, `linux/arm/v7`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Platform {
    /// GOOS.
    pub os: String,
    /// GOARCH.
    pub architecture: String,
    /// `v7`, …; empty where there is none.
    pub variant: String,
}

/// The text is no platform.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a platform (os/architecture[/variant])")]
pub struct InvalidPlatform(pub String);

impl Platform {
    /// A platform from its parts, brought into normal form.
    pub fn new(os: &str, architecture: &str, variant: &str) -> Self {
        let os = os.to_ascii_lowercase();
        let os = if os == "macos" { "darwin".to_owned() } else { os };
        let (architecture, variant) = normal_architecture(architecture, variant);
        Self { os, architecture, variant }
    }

    /// The platform that this process runs on.
    pub fn host() -> Self {
        Self::new(std::env::consts::OS, host_architecture(), "")
    }

    /// Whether something made for `image` runs where `self` is asked for (containerd, `platforms.Only`).
    pub fn matches(&self, image: &Self) -> bool {
        self.rank(image).is_some()
    }

    /// How well `image` serves a wish for `self`: 0 is the platform itself, more is worse, `None` does not run.
    pub fn rank(&self, image: &Self) -> Option<usize> {
        self.candidates().iter().position(|candidate| candidate == image)
    }

    /// Everything that runs on `self`, best first (containerd, `platforms/compare.go`).
    fn candidates(&self) -> Vec<Self> {
        let of = |architecture: &str, variant: String| Self {
            os: self.os.clone(),
            architecture: architecture.to_owned(),
            variant,
        };
        let mut all = vec![self.clone()];
        let level = self.variant.strip_prefix('v').and_then(|level| level.parse::<u8>().ok());
        match self.architecture.as_str() {
            "amd64" => {
                all.extend((2..level.unwrap_or(1)).rev().map(|level| of("amd64", format!("v{level}"))));
                if level.is_some_and(|level| level > 1) {
                    all.push(of("amd64", String::new()));
                }
                all.push(of("386", String::new()));
            }
            "arm" => all.extend((5..level.unwrap_or(7)).rev().map(|level| of("arm", format!("v{level}")))),
            "arm64" => {
                if !self.variant.is_empty() {
                    all.push(of("arm64", String::new()));
                }
                all.extend((5..=8).rev().map(|level| of("arm", format!("v{level}"))));
            }
            _ => {}
        }
        all
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

impl FromStr for Platform {
    type Err = InvalidPlatform;

    /// Reads `os/architecture[/variant]`, or one word that is a known system or architecture.
    fn from_str(text: &str) -> Result<Self, InvalidPlatform> {
        let invalid = || InvalidPlatform(text.chars().take(100).flat_map(char::escape_debug).collect());
        let parts: Vec<&str> = text.split('/').collect();
        let valid = |part: &&str| {
            !part.is_empty()
                && part.len() <= MAX_PART_BYTES
                && part.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-'))
        };
        if !parts.iter().all(valid) {
            return Err(invalid());
        }
        match *parts.as_slice() {
            [os] if KNOWN_SYSTEMS.contains(&os.to_ascii_lowercase().as_str()) => {
                Ok(Self::new(os, host_architecture(), ""))
            }
            [architecture] => {
                let platform = Self::new(std::env::consts::OS, architecture, "");
                if KNOWN_ARCHITECTURES.contains(&platform.architecture.as_str()) {
                    Ok(platform)
                } else {
                    Err(invalid())
                }
            }
            [os, architecture] => Ok(Self::new(os, architecture, "")),
            [os, architecture, variant] => Ok(Self::new(os, architecture, variant)),
            _ => Err(invalid()),
        }
    }
}

fn normal_architecture(architecture: &str, variant: &str) -> (String, String) {
    let architecture = architecture.to_ascii_lowercase();
    let variant = variant.to_ascii_lowercase();
    let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
        ("i386" | "386", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64" | "amd64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64", ""),
        ("aarch64" | "arm64", variant) => ("arm64", variant),
        ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
        ("armel", _) | ("arm", "6") => ("arm", "v6"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "8") => ("arm", "v8"),
        (architecture, variant) => (architecture, variant),
    };
    (architecture.to_owned(), variant.to_owned())
}

/// Go's name of what Rust calls `std::env::consts::ARCH`.
fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86" => "386",
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        "powerpc64" => "ppc64",
        "loongarch64" => "loong64",
        other => other,
    }
}

/// Longer than any name in use; what is printed stays short.
const MAX_PART_BYTES: usize = 64;

const KNOWN_SYSTEMS: &[&str] = &[
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "illumos",
    "linux",
    "macos",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "wasip1",
    "windows",
];

const KNOWN_ARCHITECTURES: &[&str] = &[
    "386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64", "ppc64le",
    "riscv64", "s390x", "wasm",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn names_are_brought_into_gos_form() {
        for (given, normal) in [
            ("linux/amd64", "linux/amd64"),
            ("Linux/x86_64", "linux/amd64"),
            ("linux/amd64/v1", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/6", "linux/arm/v6"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("linux/i386", "linux/386"),
            ("macos/arm64", "darwin/arm64"),
            ("riscv64", "linux/riscv64"),
        ] {
            assert_eq!(platform(given).to_string(), normal, "{given}");
        }
    }

    #[test]
    fn a_system_alone_means_the_hosts_architecture() {
        assert_eq!(platform("linux"), Platform::host());
    }

    #[test]
    fn what_is_no_platform_is_refused() {
        for text in ["", "/", "linux/", "linux//v7", "a/b/c/d", "nonsense", "linux/a b", "linux/\u{1b}[0m"] {
            assert!(text.parse::<Platform>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_smaller_cpu_level_runs_on_a_larger_one_but_not_the_other_way() {
        assert!(platform("linux/arm/v7").matches(&platform("linux/arm/v6")));
        assert!(!platform("linux/arm/v6").matches(&platform("linux/arm/v7")));
        assert!(platform("linux/amd64/v3").matches(&platform("linux/amd64")));
        assert!(!platform("linux/amd64").matches(&platform("linux/amd64/v3")));
        assert!(platform("linux/arm64").matches(&platform("linux/arm64/v8")));
    }

    #[test]
    fn the_platform_itself_is_preferred_to_one_that_merely_runs_there() {
        let wish = platform("linux/amd64/v3");
        assert_eq!(wish.rank(&wish), Some(0));
        assert!(wish.rank(&platform("linux/amd64/v2")) < wish.rank(&platform("linux/amd64")));
        assert!(wish.rank(&platform("linux/amd64")) < wish.rank(&platform("linux/386")));
        assert_eq!(wish.rank(&platform("windows/amd64")), None);
    }
}
