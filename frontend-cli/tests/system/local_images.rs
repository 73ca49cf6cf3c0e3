//! Images of the host's as bases: in files that skopeo writes, and kiln itself, and in podman's store.

use std::path::Path;
use std::process::{Command, Stdio};

use kiln_fixtures::{Bases, Context};

use crate::daemons::{can_run, with_own_mounts};
use crate::kiln::{Ended, Kiln};
use crate::ordinary::Ordinary;

/// Writes the busybox image for `transport` in `folder`.
fn write_base(kiln: &Kiln, folder: &Path, transport: &str) {
    write_base_by(Command::new("skopeo"), kiln, folder, transport);
}

fn write_base_by(mut skopeo: Command, kiln: &Kiln, folder: &Path, transport: &str) {
    let from = format!("oci:{}:latest", kiln.bases().layout("busybox").display());
    let ended = skopeo.args(["copy", "-q", &from, transport]).current_dir(folder).output().unwrap();
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
    insta::assert_snapshot!(told("containers-storage:[vfs@/no/such/store]app"), @r"
    error: containers-storage:[vfs@/no/such/store]app: /no/such/store: no store of images by overlay or vfs
     --> Dockerfile:1:6
    1 | FROM containers-storage:[vfs@/no/such/store]app
      |      ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    ");
    insta::assert_snapshot!(told("docker-daemon:"), @r#"
    error: "docker-daemon:" names no image
     --> Dockerfile:1:6
    1 | FROM docker-daemon:
      |      ^^^^^^^^^^^^^^
    cause: docker-daemon: names no image
    hint: write docker-daemon:NAME:TAG
    "#);
}

/// Copies the busybox image into a store of podman's kind in `root`, as `localhost/base:1`.
fn store_base(kiln: &Kiln, driver: &str, root: &Path) {
    let run = root.with_extension("run");
    let to = format!("containers-storage:[{driver}@{}+{}]localhost/base:1", root.display(), run.display());
    write_base_by(with_own_mounts("skopeo"), kiln, root.parent().unwrap(), &to);
}

#[test]
fn images_in_podmans_store_are_bases_and_the_same_as_in_an_archive() {
    if !can_run("skopeo") {
        return;
    }
    let Some(kiln) = Kiln::new("podman's store") else { return };
    let there = tempfile::tempdir().unwrap();
    write_base(&kiln, there.path(), "oci-archive:a.tar");
    let conf = there.path().join("storage.conf");
    let build = |base: &str| {
        let context = dockerfile(base);
        let folder = context.path().display().to_string();
        let words = ["build", "--progress=plain", "-t", "made", &folder];
        let mut command = kiln.command(there.path(), &words);
        let ended: Ended = command.env("CONTAINERS_STORAGE_CONF", &conf).output().unwrap().into();
        ended
    };
    let steps = |base: &str| {
        let ended = build(base);
        assert_eq!(ended.status, 0, "{base}: {}", ended.stderr);
        ended.steps()
    };
    assert_eq!(steps("oci-archive:a.tar"), (1, 0));
    for driver in ["overlay", "vfs"] {
        let root = there.path().join(driver);
        store_base(&kiln, driver, &root);
        std::fs::write(&conf, format!("[storage]\ngraphroot = \"{}\"\n", root.display())).unwrap();
        for name in ["base:1", "localhost/base:1", &format!("[{driver}@{}]base:1", root.display())] {
            assert_eq!(steps(&format!("containers-storage:{name}")), (0, 1), "{driver} {name}");
        }
    }
    let additional = format!(
        "[storage]\ngraphroot = \"/no/such/store\"\n[storage.options]\nadditionalimagestores = [\"{}\"]\n",
        there.path().join("overlay").display()
    );
    std::fs::write(&conf, additional).unwrap();
    assert_eq!(steps("containers-storage:base:1"), (0, 1));
    let ended = build("containers-storage:base:2");
    assert_eq!(ended.status, 1);
    ended.says("no image `base:2` here; there are: localhost/base:1");
}

#[test]
fn a_layer_of_podmans_store_that_was_changed_is_refused() {
    if !can_run("skopeo") {
        return;
    }
    let Some(kiln) = Kiln::new("a changed store") else { return };
    let there = tempfile::tempdir().unwrap();
    let root = there.path().join("overlay");
    store_base(&kiln, "overlay", &root);
    let layers: Vec<_> = std::fs::read_dir(root.join("overlay"))
        .unwrap()
        .map(|entry| entry.unwrap().path().join("diff/bin/busybox"))
        .filter(|path| path.exists())
        .collect();
    let program = layers.first().unwrap();
    let mut bytes = std::fs::read(program).unwrap();
    bytes[5000] ^= 1;
    std::fs::write(program, bytes).unwrap();
    let context = dockerfile(&format!("containers-storage:[overlay@{}]base:1", root.display()));
    let ended = kiln.call(context.path(), &["build", "--progress=none", "."]);
    assert_eq!(ended.status, 1, "{}", ended.stderr);
    ended.says("has digest sha256:");
}

#[test]
fn an_ordinary_users_own_store_is_read() {
    let Some(user) = Ordinary::new("an ordinary user's images") else { return };
    let from = format!("oci:{}:latest", Bases::get_or_skip("bases").unwrap().layout("busybox").display());
    let copy = user.copy_of(Path::new(from.split(':').nth(1).unwrap()), "layout");
    let words =
        ["copy", "-q", &format!("oci:{}:latest", copy.display()), "containers-storage:localhost/base:1"];
    let ended = user.command(user.home(), "skopeo").args(words).output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    assert!(user.home().join(".local/share/containers/storage").is_dir());
    let text = "FROM containers-storage:base:1\nRUN test -x /bin/busybox && echo made > /made\n";
    let folder = user.folder("context", &[("Dockerfile", text)]);
    user.build(&folder, &["-t", "made", "."]);
    assert_eq!(user.run(&["made", "cat", "/made"]), "made\n");
}

#[test]
fn only_a_dockerfile_on_the_users_disk_names_files_of_the_host() {
    let Some(kiln) = Kiln::new("remote local images") else { return };
    let there = tempfile::tempdir().unwrap();
    write_base(&kiln, there.path(), "oci:layout:2");
    let told = |base: &str| {
        let mut command = kiln.command(there.path(), &["build", "--progress=none", "-"]);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let text = format!("FROM {base}\n");
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes()).unwrap();
        let ended: Ended = child.wait_with_output().unwrap().into();
        assert_eq!(ended.status, 1);
        ended.stderr
    };
    for base in ["containers-storage:base", "docker-daemon:base:1"] {
        let refused =
            format!("error: {base}: only a Dockerfile that is a file of this machine may name images");
        assert!(told(base).starts_with(&refused), "{base}: {}", told(base));
    }
    insta::assert_snapshot!(told("oci:layout"), @r"
    error: oci:layout: only a Dockerfile that is a file of this machine may name images of this machine
     --> Dockerfile:1:6
    1 | FROM oci:layout
      |      ^^^^^^^^^^
    hint: give it by name: `--build-context base=oci:layout` and base in its place
    ");
}
