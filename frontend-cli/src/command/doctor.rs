//! `kiln doctor`: what this machine has of all that builds need, and the line that brings what is missing.

use std::path::{Path, PathBuf};

use kiln::rootless::{self, Finding, State};
use kiln::storage::CheckDepth;

use crate::args::DoctorArgs;
use crate::printable::printable;
use crate::report::Failure;

/// Succeeds when builds can work here.
pub(super) fn run(args: &DoctorArgs, root: Option<&Path>) -> Result<u8, Failure> {
    if args.check || args.repair {
        return check_store(args.repair, root);
    }
    let entered = rootless::enter();
    let root = root.map_or_else(kiln::default_root, Path::to_path_buf);
    let findings = rootless::examine(&entered, &nearest_folder(&root));
    super::print(&draw(&findings))?;
    Ok(u8::from(findings.iter().any(|finding| finding.state == State::Missing)))
}

/// Compares the store with what it says of itself. Succeeds when nothing is wrong, or nothing is left of it.
fn check_store(repair: bool, root: Option<&Path>) -> Result<u8, Failure> {
    let report = super::storage(root)?.check(CheckDepth::Trees, repair)?;
    let mut text: String =
        report.found.iter().map(|problem| format!("{}\n", printable(&problem.to_string()))).collect();
    text += &match (report.found.len(), repair) {
        (0, _) => "the store is sound\n".to_owned(),
        (found, false) => {
            format!("{found} found; `kiln doctor --repair` drops what is damaged, to be made again\n")
        }
        (found, true) if report.left.is_empty() => format!("{found} found and dropped\n"),
        (_, true) => "not all could be dropped; try again when no build is running\n".to_owned(),
    };
    super::print(&text)?;
    Ok(u8::from(!report.left.is_empty()))
}

/// The store's directory may not be there yet; what it would be made in has the same file system.
fn nearest_folder(root: &Path) -> PathBuf {
    root.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("/")).to_path_buf()
}

fn draw(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.subject.len()).max().unwrap_or_default();
    let mut text = String::new();
    for Finding { subject, state, detail, remedy } in findings {
        let word = match state {
            State::Works => "ok",
            State::Limited => "limited",
            State::Missing => "missing",
        };
        text += &format!("{word:<7}  {subject:<width$}  {}\n", printable(detail));
        if let Some(remedy) = remedy {
            text += &format!("{:<7}  {:<width$}  to get it: {}\n", "", "", printable(remedy));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finding_has_a_line_and_what_is_missing_one_more() {
        let finding = |subject, state, remedy: Option<&str>| Finding {
            subject,
            state,
            detail: "said so".into(),
            remedy: remedy.map(str::to_owned),
        };
        let findings = [
            finding("/proc", State::Works, None),
            finding("overlayfs", State::Missing, Some("sudo modprobe overlay")),
        ];
        insta::assert_snapshot!(draw(&findings), @r"
        ok       /proc      said so
        missing  overlayfs  said so
                            to get it: sudo modprobe overlay
        ");
    }
}
