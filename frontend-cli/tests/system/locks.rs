//! `kiln lock` and builds that keep to it.

use kiln_fixtures::{Context, FileServer};

use crate::kiln::Kiln;

#[test]
fn a_locked_build_takes_what_the_sources_were_and_needs_no_network() {
    let Some(kiln) = Kiln::new("locks") else { return };
    let site = tempfile::tempdir().unwrap();
    std::fs::write(site.path().join("f"), "one").unwrap();
    let url = FileServer::start(site.path()).url();
    let context = Context::with_dockerfile(&format!("FROM busybox AS tools\nFROM busybox\nADD {url}/f /f\n"));
    let folder = context.path();

    let refused = kiln.call(folder, &["build", "--locked", "."]);
    refused.says("there is no lock");
    let told = kiln.ok(folder, &["lock", "."]).stdout;
    assert!(told.contains("+ image docker.io/library/busybox:latest sha256:"), "{told}");
    assert!(told.contains(&format!("+ http {url}/f sha256:")), "{told}");
    let lock = std::fs::read_to_string(folder.join("Dockerfile.lock")).unwrap();
    assert_eq!(lock.lines().count(), 4, "{lock}");
    // Nothing changed: nothing is told, and the file is the same.
    assert_eq!(kiln.ok(folder, &["lock", "--verify", "."]).stdout, "");
    kiln.build(folder, &["--locked", "-t", "locked", "."]);
    kiln.build(folder, &["--locked", "--offline", "--no-cache", "."]);

    // The file is another one now: a build that may, takes it, a locked one has the one that it knows.
    std::fs::write(site.path().join("f"), "two").unwrap();
    kiln.build(folder, &["--locked", "."]);
    kiln.build(folder, &["-t", "moved", "."]);
    assert_eq!(kiln.run(&["moved", "cat", "/f"]), "two");
    let drifted = kiln.call(folder, &["lock", "--verify", "."]);
    assert_ne!(drifted.status, 0);
    drifted.says(&format!("~ http {url}/f sha256:"));

    // Another store has to ask, and says which source it was.
    let Some(other) = Kiln::new("locks") else { return };
    let drifted = other.call(folder, &["build", "--locked", "."]);
    assert_ne!(drifted.status, 0);
    drifted.says(&format!("{url}/f"));
    drifted.says("sha256:");

    // A source that the lock does not have.
    std::fs::write(folder.join("Dockerfile"), "FROM busybox:musl\n").unwrap();
    let drifted = kiln.call(folder, &["build", "--locked", "."]);
    assert_ne!(drifted.status, 0);
    drifted.says("the lock does not have this source: image docker.io/library/busybox:musl");
}
