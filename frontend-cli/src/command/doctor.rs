//! `kiln doctor`: what this machine has of all that builds need, and the line that brings what is missing.

use std::path::{Path, PathBuf};

use kiln::rootless::{self, Finding, State};

use crate::report::Failure;

/// Succeeds when builds can work here.
pub(super) fn run(root: Option<&Path>) -> Result<u8, Failure> {
    let entered = rootless::enter();
    let root = root.map_or_else(kiln::default_root, Path::to_path_buf);
    let findings = rootless::examine(&entered, &nearest_folder(&root));
    super::print(&draw(&findings))?;
    Ok(u8::from(findings.iter().any(|finding| finding.state == State::Missing)))
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
        text += &format!("{word:<7}  {subject:<width$}  {}\n", crate::printable::printable(detail));
        if let Some(remedy) = remedy {
            text +=
                &format!("{:<7}  {:<width$}  to get it: {}\n", "", "", crate::printable::printable(remedy));
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
