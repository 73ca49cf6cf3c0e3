//! G: the cache and the store.

use super::Who;
use crate::kiln::is_root_to;

#[test]
fn g4_no_lock_and_no_file_of_the_store_is_within_a_steps_reach() {
    for who in Who::all("threat G4") {
        // A lock beside a cache mount's files could be held for ever by a step.
        let dockerfile = "FROM busybox\n\
            RUN --mount=type=cache,target=/c test -z \"$(ls -A /c)\" && test -z \"$(ls -A /c/.. | grep -E 'lock|sqlite|layers')\"\n\
            RUN ! grep -E 'sqlite|locks' /proc/*/mountinfo\n";
        who.survives("g4", dockerfile);
    }
}

#[test]
fn g5_a_store_of_somebody_elses_is_named_as_such() {
    if !is_root_to("give a store to somebody else", "threat G5") {
        return;
    }
    for who in Who::all("threat G5") {
        let folder = who.folder("g5", &[]);
        let (store, owner) = match who {
            Who::Root(..) => (folder.join("store"), "1234"),
            Who::User(_) => (std::env::temp_dir().join(format!("kiln-g5-{}", std::process::id())), "0"),
        };
        std::fs::create_dir_all(&store).unwrap();
        let owned = std::process::Command::new("chown").arg(owner).arg(&store).status().unwrap();
        assert!(owned.success());
        let ended = who.call(&folder, &["--root", store.to_str().unwrap(), "images"]);
        let expected = if owner == "0" { "belongs to another user" } else { "belongs to user 1234" };
        let _ = std::fs::remove_dir_all(&store);
        assert_ne!(ended.status, 0);
        ended.says(expected);
    }
}

#[test]
fn g6_nothing_is_written_to_a_shared_temporary_directory() {
    for who in Who::all("threat G6") {
        let folder = who.folder("g6", &[("Dockerfile", "FROM busybox\nRUN echo x >/x\nCOPY . /c\n")]);
        // Names there can be guessed and made first; without such a directory nothing must be missing.
        let words = ["-t", "g6", "-o", "type=oci,dest=out.tar", "."];
        let ended = who.build_with(&folder, ("TMPDIR", "/nonexistent"), &words);
        assert_eq!(ended.status, 0, "{}", ended.stderr);
    }
}
