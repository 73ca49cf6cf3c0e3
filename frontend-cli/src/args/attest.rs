//! `--attest`, `--provenance`, `--sbom` (FEATURES CL18–CL20).

use kiln::{Attestations, Provenance, Sbom};

use super::{BuildArgs, csv, parse_bool};

/// What the flags ask for together; of one type the last counts, and the short flags stand behind `--attest`.
pub(crate) fn asked(args: &BuildArgs) -> Result<Attestations, String> {
    let mut asked = Attestations::default();
    for text in &args.attest {
        take(&mut asked, &format!("--attest {text}"), &csv::fields(text)?)?;
    }
    for (kind, value) in [("provenance", &args.provenance), ("sbom", &args.sbom)] {
        let Some(value) = value.as_deref().filter(|value| !value.is_empty()) else { continue };
        let mut fields = vec![format!("type={kind}")];
        match parse_bool(value) {
            Ok(wanted) => fields.push(format!("disabled={}", !wanted)),
            Err(_) => fields.extend(csv::fields(value)?),
        }
        take(&mut asked, &format!("--{kind} {value}"), &fields)?;
    }
    Ok(asked)
}

/// Takes in one attestation's fields.
fn take(asked: &mut Attestations, flag: &str, fields: &[String]) -> Result<(), String> {
    let (mut kind, mut is_wanted, mut keys) = (None, true, Vec::new());
    for field in fields {
        let Some((key, value)) = field.split_once('=') else {
            return Err(format!("{flag}: `{field}` is no key=value"));
        };
        match key.trim().to_lowercase().as_str() {
            "type" => kind = Some(value),
            "disabled" => {
                is_wanted = !parse_bool(value).map_err(|error| format!("{flag}: disabled: {error}"))?
            }
            _ => keys.push((key, value)),
        }
    }
    match kind {
        Some("provenance") => {
            let mut provenance = Provenance::default();
            for (key, value) in keys {
                if !provenance.set(key, value).map_err(|error| problem(flag, &error))? {
                    return Err(format!("{flag}: there is no key `{key}`"));
                }
            }
            asked.provenance = is_wanted.then_some(provenance);
        }
        Some("sbom") => {
            let mut sbom = Sbom::default();
            keys.iter().for_each(|(key, _)| sbom.set(key));
            asked.sbom = is_wanted.then_some(sbom);
        }
        Some(other) => return Err(format!("{flag}: there is no type `{other}`, only provenance and sbom")),
        None => return Err(format!("{flag}: type is required (provenance or sbom)")),
    }
    Ok(())
}

fn problem(flag: &str, error: &kiln::Error) -> String {
    let hint = error.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
    format!("{flag}: {error}{hint}")
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use kiln::{ProvenanceMode, SlsaVersion};

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        build: BuildArgs,
    }

    fn read(flags: &[&str]) -> Result<Attestations, String> {
        let line = [&["build"], flags, &["."]].concat();
        asked(&Line::try_parse_from(line).unwrap().build)
    }

    #[test]
    fn nothing_is_attested_unless_it_is_asked_for() {
        assert!(read(&[]).unwrap().is_empty());
        assert!(read(&["--provenance=false", "--sbom=false"]).unwrap().is_empty());
        assert!(read(&["--attest", "type=sbom", "--attest", "type=sbom,disabled=true"]).unwrap().is_empty());
    }

    #[test]
    fn the_short_flags_are_booleans_or_keys() {
        let both = read(&["--provenance", "--sbom"]).unwrap();
        assert_eq!(both.provenance.unwrap().mode, ProvenanceMode::Max);
        assert!(both.sbom.is_some());
        let provenance = read(&["--provenance=mode=min,version=v0.2"]).unwrap().provenance.unwrap();
        assert_eq!((provenance.mode, provenance.version), (ProvenanceMode::Min, SlsaVersion::V02));
        let last = read(&["--attest", "type=provenance,mode=max", "--provenance=mode=min"]).unwrap();
        assert_eq!(last.provenance.unwrap().mode, ProvenanceMode::Min);
        assert_eq!(read(&["--sbom=generator=x/y"]).unwrap().sbom.unwrap().ignored, ["generator"]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = |flags: &[&str]| read(flags).unwrap_err();
        assert_eq!(
            error(&["--attest", "type=vsa"]),
            "--attest type=vsa: there is no type `vsa`, only provenance and sbom"
        );
        assert_eq!(
            error(&["--attest", "mode=min"]),
            "--attest mode=min: type is required (provenance or sbom)"
        );
        assert_eq!(
            error(&["--provenance=mode=mid"]),
            "--provenance mode=mid: unknown provenance mode `mid` (there are min and max)"
        );
        assert_eq!(error(&["--provenance=mod=min"]), "--provenance mod=min: there is no key `mod`");
    }
}
