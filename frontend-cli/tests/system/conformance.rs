//! The conformance corpus (`fixtures/conformance`): what kiln builds is what a real BuildKit built.

use std::collections::BTreeSet;
use std::process::Command;

use crate::kiln::Kiln;

#[test]
fn every_recorded_case_gives_buildkits_result_but_those_that_differ_on_purpose() {
    let Some(kiln) = Kiln::new("conformance") else { return };
    let corpus = kiln_fixtures::folder().join("conformance");
    let scratch = tempfile::tempdir().unwrap();
    let failures = scratch.path().join("failures");
    let mut command = Command::new("python3");
    command
        .arg(corpus.join("compare.py"))
        .args(["--engine", env!("CARGO_BIN_EXE_kiln"), "--jobs", "2", "--list-failures"])
        .arg(&failures)
        .env("KILN_ROOT", kiln.root())
        .env("TMPDIR", scratch.path())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("CONTAINERS_REGISTRIES_CONF", kiln.bases().registries_conf())
        .env("CONFORMANCE_REGISTRY", kiln.bases().registry())
        .env("CONFORMANCE_HTTP_PORT", "0");
    for name in ["CONFORMANCE_BUSYBOX", "CONFORMANCE_DEBIAN", "CONFORMANCE_TMP", "BUILDKIT_PROGRESS"] {
        command.env_remove(name);
    }
    if Command::new("ssh-keygen").arg("-?").output().is_err() {
        eprintln!("the conformance cases with keys are skipped: there is no ssh-keygen");
        command.args(["--skip-needs", "ssh"]);
    }
    let output = match command.output() {
        Ok(output) => output,
        Err(error) if std::env::var_os("CI").is_none() => {
            eprintln!("skipped conformance: python3: {error}");
            return;
        }
        Err(error) => panic!("python3: {error}"),
    };
    let report = String::from_utf8_lossy(&output.stdout);
    let summary = report.lines().last().unwrap_or_default();
    assert!(summary.ends_with(" failed"), "{report}\n{}", String::from_utf8_lossy(&output.stderr));
    let failed = std::fs::read_to_string(&failures).unwrap();
    let failed: BTreeSet<&str> = failed.lines().collect();
    let differences =
        std::fs::read_to_string(kiln_fixtures::folder().join("../docs/differences.md")).unwrap();
    let mut excused: BTreeSet<&str> = excused(&differences).collect();
    assert!(excused.len() <= 5, "the list of excused cases is no dump: {excused:?}");
    if !kiln_fixtures::is_root() {
        // Only the machine's root makes device nodes.
        excused.extend(MAKE_DEVICES);
    }
    let wrong: Vec<_> = failed.difference(&excused).collect();
    assert!(wrong.is_empty(), "{} cases: {wrong:?}\n{report}", wrong.len());
    let stale: Vec<_> = excused.difference(&failed).collect();
    assert!(stale.is_empty(), "these pass and need no excuse any more: {stale:?}");
    eprintln!("conformance: {summary}");
}

/// Cases whose steps make device nodes.
const MAKE_DEVICES: [&str; 1] = ["run-device"];

/// The items of the list under "Conformance cases".
fn excused(differences: &str) -> impl Iterator<Item = &str> {
    let lines = differences.lines().skip_while(|line| *line != "## Conformance cases").skip(1);
    let section = lines.take_while(|line| !line.starts_with("## "));
    section.filter_map(|line| line.strip_prefix("- `")?.split('`').next())
}
