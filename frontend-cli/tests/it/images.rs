//! Builds from scratch and the commands on what they make.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// A context and a store of its own.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new(dockerfile: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("context")).unwrap();
        std::fs::write(dir.path().join("context/file"), "text").unwrap();
        std::fs::write(dir.path().join("context/Dockerfile"), dockerfile).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn kiln(&self, words: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_kiln"))
            .args(words)
            .current_dir(self.dir.path())
            .env("KILN_ROOT", self.path("store"))
            .env_remove("BUILDKIT_PROGRESS")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Owners and devices in layers are root's to make.
fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        eprintln!("skipped: layers are made as root");
    }
    is_root
}

#[test]
fn quiet_prints_the_id_and_nothing_else() {
    if !is_root() {
        return;
    }
    let place = Place::new("FROM scratch\nCOPY file /file\n");
    let output = place.kiln(&["build", "-q", "-t", "app", "--iidfile", "iid", "context"]);
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
    let id = text(&output.stdout);
    assert!(id.starts_with("sha256:") && id.len() == 72, "{id}");
    assert_eq!(std::fs::read_to_string(place.path("iid")).unwrap(), id.trim_end());
    assert_eq!(text(&place.kiln(&["images", "-q", "--no-trunc"]).stdout), id);
}

#[test]
fn a_step_that_is_known_is_told_as_cached() {
    if !is_root() {
        return;
    }
    let place = Place::new("FROM scratch\nCOPY file /file\n");
    let first = text(&place.kiln(&["build", "--progress=plain", "context"]).stderr);
    assert!(first.contains("[1/1] COPY file /file\n") && !first.contains("CACHED"), "{first}");
    let second = text(&place.kiln(&["build", "--progress=plain", "context"]).stderr);
    assert!(second.contains(" CACHED\n"), "{second}");
}

#[test]
fn a_mistake_in_the_dockerfile_is_shown_where_it_stands() {
    let place = Place::new("FROM scratch\nCOPPY file /file\n");
    std::fs::write(place.path("iid"), "of an earlier build").unwrap();
    let output = place.kiln(&["build", "-q", "--iidfile", "iid", "context"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let report = text(&output.stderr);
    assert!(report.starts_with("error: unknown instruction: COPPY\n"), "{report}");
    assert!(report.contains("Dockerfile:2:1\n2 | COPPY file /file\n  | ^^^^^"), "{report}");
    assert!(!place.path("iid").exists());
}

#[test]
fn what_is_saved_loads_elsewhere() {
    if !is_root() {
        return;
    }
    let place = Place::new("FROM scratch\nCOPY file /file\nLABEL a=b\n");
    assert!(place.kiln(&["build", "-t", "app:1", "context"]).status.success());
    assert!(place.kiln(&["save", "-o", "app.tar", "app:1"]).status.success());
    let loaded = place.kiln(&["--root", "other", "load", "-i", "app.tar"]);
    assert_eq!(text(&loaded.stdout), "Loaded image: app:1\n", "{}", text(&loaded.stderr));
    assert_eq!(
        text(&place.kiln(&["images", "-q"]).stdout),
        text(&place.kiln(&["--root", "other", "images", "-q"]).stdout)
    );
}

#[test]
fn commands_on_an_image_that_is_not_there_fail() {
    let place = Place::new("");
    for words in
        [&["history", "none"][..], &["tag", "none", "x"], &["rmi", "none"], &["save", "-o", "f", "none"]]
    {
        let output = place.kiln(words);
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        assert!(text(&output.stderr).starts_with("error: no such image: none\n"), "{words:?}");
    }
    assert!(!place.path("f").exists());
    let output = place.kiln(&["inspect", "none"]);
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(1), "[]\n"));
}
