//! Images in files of the host as bases: what skopeo writes, and what kiln itself does.

use std::path::Path;
use std::process::{Command, Stdio};

use kiln_fixtures::Context;

use crate::kiln::{Ended, Kiln};

/// Writes the busybox image for `transport` in `folder`.
fn write_base(kiln: &Kiln, folder: &Path, transport: &str) {
    let from = format!("oci:{}:latest", kiln.bases().layout("busybox").display());
    let ended =
        Command::new("skopeo").args(["copy", "-q", &from, transport]).current_dir(folder).output().unwrap();
    assert!(ended.status.success(), "{transport}: {}", String::from_utf8_lossy(&ended.stderr));
}

fn dockerfile(base: &str) -> Context {
    Context::with_dockerfile(&format!("FROM {base}\nRUN test -x /bin/busybox && echo made > /made\n"))
}

#[test]
fn archives_layouts_and_directories_are_bases_and_one_image_is_one_step() {
    let Some(kiln) = Kiln::new("local images") else { return };
    let there = tempfile::tempdir().unwrap();
    for transport in ["oci-archive:a.tar:one", "docker-archive:d.tar:base:1", "oci:layout:2", "dir:plain"] {
        write_base(&kiln, there.path(), transport);
    }
    let packed = Command::new("gzip").args(["-k", "d.tar"]).current_dir(there.path()).status().unwrap();
    assert!(packed.success());
    let names = [
        "oci-archive:a.tar",
        "oci-archive:a.tar:one",
        "docker-archive:./d.tar",
        "docker-archive:d.tar.gz:base:1",
        "docker-archive:d.tar:@0",
        "oci:layout",
        "oci:layout:2",
        "dir:plain",
    ];
    for (number, name) in names.into_iter().enumerate() {
        let context = dockerfile(name);
        // Paths are relative to the working directory, not to the context.
        let ended = kiln.build(there.path(), &["-t", "made", &context.path().display().to_string()]);
        // The base is known by its contents, wherever it was read.
        assert_eq!(ended.steps(), if number == 0 { (1, 0) } else { (0, 1) }, "{name}: {}", ended.stderr);
        ended.says(&format!("[1/2] FROM {name}@sha256:"));
    }
    assert_eq!(kiln.run(&["made", "cat", "/made"]), "made\n");
}

#[test]
fn what_kiln_saves_is_a_base_and_can_be_copied_from() {
    let Some(kiln) = Kiln::new("saved images as bases") else { return };
    let first = Context::with_dockerfile("FROM busybox\nRUN echo one > /one\nONBUILD RUN echo two > /two\n");
    let archive = first.path().join("first.tar");
    kiln.build(first.path(), &["-t", "first", "-o", &format!("type=oci,dest={}", archive.display()), "."]);
    let text = format!(
        "ARG BASE=nothing\nFROM ${{BASE}}\nRUN cat /one /two > /both\nCOPY --from=oci-archive:{0} /one /copied\n",
        archive.display()
    );
    let second = Context::with_dockerfile(&text);
    let base = format!("BASE=oci-archive:{}", archive.display());
    // Another store knows nothing of the layers.
    let Some(other) = Kiln::new("saved images as bases") else { return };
    other.build(second.path(), &["--build-arg", &base, "-t", "second", "."]);
    assert_eq!(other.run(&["second", "cat", "/both", "/copied"]), "one\ntwo\none\n");
    // An image of a file goes out whole.
    other.build(second.path(), &["--build-arg", &base, "-o", "type=docker,dest=second.tar", "."]);
    other.ok(second.path(), &["load", "-i", "second.tar"]);
}

#[test]
fn a_context_may_be_a_local_image_and_comes_before_what_the_dockerfile_names() {
    let Some(kiln) = Kiln::new("local images as contexts") else { return };
    let there = tempfile::tempdir().unwrap();
    write_base(&kiln, there.path(), "docker-archive:d.tar");
    let context = dockerfile("base");
    let folder = context.path().display().to_string();
    kiln.build(there.path(), &["--build-context=base=docker-archive:d.tar", &folder]);
    let context = dockerfile("oci:not-there");
    let folder = context.path().display().to_string();
    kiln.build(there.path(), &["--build-context=oci:not-there=docker-archive:d.tar", &folder]);
}

#[test]
fn what_cannot_be_read_is_told_where_it_stands() {
    let Some(kiln) = Kiln::new("wrong local images") else { return };
    let there = tempfile::tempdir().unwrap();
    write_base(&kiln, there.path(), "oci:layout:2");
    let told = |base: &str| {
        let context = dockerfile(base);
        let folder = context.path().display().to_string();
        let ended = kiln.call(there.path(), &["build", "--progress=none", &folder]);
        assert_eq!(ended.status, 1);
        ended.stderr.replace(&folder, "CONTEXT")
    };
    insta::assert_snapshot!(told("oci:layout:3"), @r"
    error: oci:layout:3: no image `3` here; there are: 2
     --> Dockerfile:1:6
    1 | FROM oci:layout:3
      |      ^^^^^^^^^^^^
    hint: name one of them, for example `2`
    ");
    insta::assert_snapshot!(told("oci-archive:missing.tar"), @r"
    error: oci-archive:missing.tar: missing.tar: No such file or directory (os error 2)
     --> Dockerfile:1:6
    1 | FROM oci-archive:missing.tar
      |      ^^^^^^^^^^^^^^^^^^^^^^^
    ");
    insta::assert_snapshot!(told("containers-storage:localhost/app"), @r#"
    error: "containers-storage:localhost/app" names no image
     --> Dockerfile:1:6
    1 | FROM containers-storage:localhost/app
      |      ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    cause: images of another program's store (containers-storage:) are not read
    hint: save it with `podman save --format oci-archive -o base.tar NAME` and use oci-archive:base.tar
    "#);
}

#[test]
fn only_a_dockerfile_on_the_users_disk_names_files_of_the_host() {
    let Some(kiln) = Kiln::new("remote local images") else { return };
    let there = tempfile::tempdir().unwrap();
    write_base(&kiln, there.path(), "oci:layout:2");
    let mut command = kiln.command(there.path(), &["build", "--progress=none", "-"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"FROM oci:layout\n").unwrap();
    let ended: Ended = child.wait_with_output().unwrap().into();
    assert_eq!(ended.status, 1);
    insta::assert_snapshot!(ended.stderr, @r"
    error: oci:layout: only a Dockerfile that is a file of this machine may name images of this machine
     --> Dockerfile:1:6
    1 | FROM oci:layout
      |      ^^^^^^^^^^
    hint: give it by name: `--build-context base=oci:layout` and base in its place
    ");
}
