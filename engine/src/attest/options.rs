//! What can be asked for: the keys of `--attest` (FEATURES AT1, AT3, AS23).

use crate::Error;
use crate::output::flag;

/// What is to be attested of a build's images; nothing by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attestations {
    /// How they were made.
    pub provenance: Option<Provenance>,
    /// What is in them.
    pub sbom: Option<Sbom>,
}

/// A provenance attestation (SLSA, "Provenance").
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Provenance {
    /// How much it tells.
    pub mode: ProvenanceMode,
    /// In which form.
    pub version: SlsaVersion,
    /// Who built; nobody says so by default.
    pub builder_id: String,
    /// Its name beside a file tree.
    pub file_name: String,
    /// The user's word that another build makes the same.
    pub reproducible: bool,
    /// Only with images, not beside file trees.
    pub inline_only: bool,
    /// Fail where something went in that has no digest, such as a local context.
    pub complete_materials: bool,
}

/// How much a provenance tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProvenanceMode {
    /// Where everything came from; no build arguments, labels, ids of secrets, steps.
    Min,
    /// All of it, but never the value of a secret.
    #[default]
    Max,
}

/// A version of SLSA's provenance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SlsaVersion {
    /// `https://slsa.dev/provenance/v0.2`.
    V02,
    /// `https://slsa.dev/provenance/v1`.
    #[default]
    V1,
}

/// A list of the packages in an image (SPDX 2.3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sbom {
    /// Keys that are meant for BuildKit's scanner images; kiln reads the databases itself.
    pub ignored: Vec<String>,
}

impl Default for Provenance {
    fn default() -> Self {
        Self {
            mode: ProvenanceMode::default(),
            version: SlsaVersion::default(),
            builder_id: String::new(),
            file_name: "provenance.json".to_owned(),
            reproducible: false,
            inline_only: false,
            complete_materials: false,
        }
    }
}

impl Provenance {
    /// Takes in one key; `false` when it is none of a provenance's.
    ///
    /// # Errors
    /// The value is none of the key's.
    pub fn set(&mut self, key: &str, value: &str) -> Result<bool, Error> {
        match key {
            "mode" => {
                self.mode = match value {
                    "min" => ProvenanceMode::Min,
                    // `full` was its name once.
                    "max" | "full" => ProvenanceMode::Max,
                    _ => return Err(unknown("provenance mode", value, "min and max")),
                }
            }
            "version" => {
                self.version = match value {
                    "v0.2" => SlsaVersion::V02,
                    "v1" => SlsaVersion::V1,
                    _ => return Err(unknown("SLSA version", value, "v0.2 and v1")),
                }
            }
            "builder-id" => self.builder_id = value.to_owned(),
            "filename" if value.is_empty() || value.contains('/') || value.starts_with('.') => {
                return Err(Error::user(format!("filename: `{value}` is no name of a file")));
            }
            "filename" => self.file_name = value.to_owned(),
            "reproducible" => self.reproducible = flag(key, value)?,
            "inline-only" => self.inline_only = flag(key, value)?,
            "complete-materials" => self.complete_materials = flag(key, value)?,
            // What steps cost is in kiln's history (`kiln build --explain`), not in images.
            "capture-usage" => _ = flag(key, value)?,
            _ => return Ok(false),
        }
        Ok(true)
    }
}

impl Sbom {
    /// Takes in one key. BuildKit hands those that it does not know to its scanner.
    pub fn set(&mut self, key: &str) {
        self.ignored.push(key.to_owned());
    }
}

impl Attestations {
    /// Whether nothing is.
    pub fn is_empty(&self) -> bool {
        self.provenance.is_none() && self.sbom.is_none()
    }

    /// With what the build arguments `BUILDKIT_ATTEST_PROVENANCE` and `BUILDKIT_ATTEST_SBOM` ask for.
    pub(crate) fn with_arguments(&self, arguments: &[(String, String)]) -> Result<Self, Error> {
        let mut asked = self.clone();
        for (name, value) in arguments {
            let Some(kind) = name.strip_prefix("BUILDKIT_ATTEST_") else { continue };
            let fields = value.split(',').filter(|field| !field.is_empty());
            let fields = fields.map(|field| field.split_once('=').unwrap_or((field, "")));
            match kind {
                "SBOM" => _ = asked.sbom.get_or_insert_default(),
                "PROVENANCE" => {
                    let mut provenance = Provenance::default();
                    for (key, value) in fields {
                        provenance.set(key, value)?;
                    }
                    asked.provenance = Some(provenance);
                }
                _ => return Err(unknown("attestation", kind, "provenance and sbom")),
            }
        }
        Ok(asked)
    }
}

fn unknown(what: &str, word: &str, there_are: &str) -> Error {
    Error::user(format!("unknown {what} `{word}`")).hinted(format!("there are {there_are}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_buildkits() {
        let mut provenance = Provenance::default();
        for (key, value) in
            [("mode", "min"), ("version", "v0.2"), ("reproducible", ""), ("filename", "p.json")]
        {
            assert!(provenance.set(key, value).unwrap());
        }
        assert_eq!((provenance.mode, provenance.version), (ProvenanceMode::Min, SlsaVersion::V02));
        assert!(provenance.reproducible);
        assert!(!provenance.set("generator", "x").unwrap());
        for (key, value) in
            [("mode", "mid"), ("version", "2"), ("filename", "../x"), ("inline-only", "maybe")]
        {
            assert!(provenance.set(key, value).is_err(), "{key}={value}");
        }
    }

    #[test]
    fn build_arguments_may_ask_as_well() {
        let argument = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let asked = Attestations::default()
            .with_arguments(&[
                argument("BUILDKIT_ATTEST_PROVENANCE", "mode=min"),
                argument("BUILDKIT_ATTEST_SBOM", ""),
            ])
            .unwrap();
        assert_eq!(asked.provenance.map(|provenance| provenance.mode), Some(ProvenanceMode::Min));
        assert!(asked.sbom.is_some());
        assert!(Attestations::default().with_arguments(&[argument("BUILDKIT_ATTEST_X", "")]).is_err());
    }
}
