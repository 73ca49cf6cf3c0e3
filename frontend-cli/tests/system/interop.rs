//! skopeo, umoci and buildah read what kiln writes, and the other way round.

use std::path::Path;
use std::process::Command;

use kiln_fixtures::{Context, DockerRegistry};

use crate::kiln::{Kiln, is_root_to};

/// Runs a tool that must succeed.
#[track_caller]
fn tool(words: &[&str]) -> String {
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{words:?}\n{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn context() -> Context {
    Context::with_dockerfile(
        "FROM busybox\nRUN mkdir /made && echo kept > /made/kept && echo gone > /made/gone\n\
         RUN rm /made/gone && rm -r /root\nCOPY <<EOF /made/inline\ninline\nEOF\nENV A=b\nUSER 12:34\nCMD [\"cat\", \"/made/kept\"]\n",
    )
}

#[test]
fn skopeo_umoci_and_buildah_accept_an_oci_layout() {
    let Some(kiln) = Kiln::new("oci layout") else { return };
    let out = tempfile::tempdir().unwrap();
    let path = |name: &str| out.path().join(name).display().to_string();
    let (archive, layout) = (path("image.tar"), path("layout"));
    let context = context();
    kiln.build(context.path(), &["-t", "oci:1", "-o", &format!("type=oci,dest={archive}"), "."]);
    kiln.build(context.path(), &["-t", "oci:1", "-o", &format!("type=oci,tar=false,dest={layout}"), "."]);

    let inspected = tool(&["skopeo", "inspect", "--config", &format!("oci-archive:{archive}")]);
    assert!(inspected.contains("\"A=b\"") && inspected.contains("12:34"), "{inspected}");

    let reference = tool(&["umoci", "list", "--layout", &layout]);
    let image = format!("{layout}:{}", reference.trim());
    let rootless: &[&str] = if kiln_fixtures::is_root() { &[] } else { &["--rootless"] };
    tool(&[&["umoci", "unpack"], rootless, &["--image", &image, &path("bundle")]].concat());
    let root = out.path().join("bundle/rootfs");
    assert_eq!(std::fs::read_to_string(root.join("made/kept")).unwrap(), "kept\n");
    assert_eq!(std::fs::read_to_string(root.join("made/inline")).unwrap(), "inline\n");
    assert!(!root.join("made/gone").exists() && !root.join("root").exists());

    if !is_root_to("give buildah a store of its own", "buildah") {
        return;
    }
    let storage = path("storage");
    let buildah = ["buildah", "--root", &storage, "--storage-driver", "vfs"];
    tool(&[&buildah[..], &["pull", &format!("oci-archive:{archive}")]].concat());
}

#[test]
fn kiln_builds_on_loads_and_pulls_what_umoci_and_buildah_make() {
    let Some(kiln) = Kiln::new("others' images") else { return };
    let Some(registry) = DockerRegistry::start() else { return };
    let out = tempfile::tempdir().unwrap();
    let path = |name: &str| out.path().join(name).display().to_string();
    std::fs::write(out.path().join("added"), "by another\n").unwrap();
    let layout = path("layout");
    kiln.build(context().path(), &["-t", "a:1", "-o", &format!("type=oci,tar=false,dest={layout}"), "."]);

    let image = format!("{layout}:1");
    tool(&["umoci", "insert", "--image", &image, "--tag", "theirs", &path("added"), "/made/added"]);
    let on_it = Context::with_dockerfile("FROM base\nUSER 0\nRUN cat /made/kept /made/added > /made/both\n");
    let base = format!("--build-context=base=oci-layout://{layout}:theirs");
    kiln.build(on_it.path(), &["-t", "on:1", &base, "."]);
    assert_eq!(kiln.run(&["on:1", "cat", "/made/both"]), "kept\nby another\n");

    if !is_root_to("give buildah a store of its own", "buildah") {
        return;
    }
    let storage = path("storage");
    let buildah = |words: &[&str]| {
        tool(&[&["buildah", "--root", &storage, "--storage-driver", "vfs"], words].concat()).trim().to_owned()
    };
    let archive = path("image.tar");
    kiln.build(context().path(), &["-t", "a:1", "-o", &format!("type=oci,dest={archive}"), "."]);
    let container = buildah(&["from", "-q", &format!("oci-archive:{archive}")]);
    buildah(&["copy", "-q", &container, &path("added"), "/made/added"]);
    buildah(&["config", "--cmd", "cat /made/added", &container]);
    for (format, archive) in [("oci", "oci-archive"), ("docker", "docker-archive")] {
        let file = path(archive);
        buildah(&[
            "commit",
            "-q",
            "--format",
            format,
            &container,
            &format!("{archive}:{file}:theirs:{format}"),
        ]);
        let loaded = kiln.ok(Path::new("/"), &["load", "-i", &file]).stdout;
        let loaded = loaded.trim().split_once(": ").map_or("", |(_, name)| name);
        assert_eq!(kiln.run(&[loaded]), "by another\n", "{archive}");
        let name = format!("{}/theirs:{format}", registry.host);
        let target = format!("docker://{name}");
        buildah(&["commit", "-q", "--tls-verify=false", "--format", format, &container, &target]);
        kiln.ok(Path::new("/"), &["pull", "-q", &name]);
        assert_eq!(kiln.run(&[&name]), "by another\n");
    }
}

#[test]
fn docker_archives_go_both_ways() {
    let Some(kiln) = Kiln::new("docker archives") else { return };
    let out = tempfile::tempdir().unwrap();
    let path = |name: &str| out.path().join(name).display().to_string();
    let context = context();
    kiln.build(context.path(), &["-t", "there:1", "."]);

    // kiln save → skopeo → kiln load.
    kiln.ok(Path::new("/"), &["save", "-o", &path("saved.tar"), "there:1"]);
    let from = format!("docker-archive:{}", path("saved.tar"));
    tool(&["skopeo", "copy", &from, &format!("docker-archive:{}:back:2", path("copied.tar"))]);
    let loaded = kiln.ok(Path::new("/"), &["load", "-i", &path("copied.tar")]);
    loaded.says("back:2");
    assert_eq!(kiln.run(&["back:2"]), "kept\n");
    let listing = kiln.run(&["-u", "0", "back:2", "ls", "/made"]);
    assert_eq!(listing, "inline\nkept\n");

    // -o type=docker and an archive that skopeo made of a base.
    kiln.build(
        context.path(),
        &["-t", "there:1", "-o", &format!("type=docker,dest={}", path("docker.tar")), "."],
    );
    tool(&["skopeo", "inspect", &format!("docker-archive:{}", path("docker.tar"))]);
    let layout = format!("oci:{}:latest", kiln.bases().layout("busybox").display());
    tool(&["skopeo", "copy", &layout, &format!("docker-archive:{}:copied:3", path("base.tar"))]);
    kiln.ok(Path::new("/"), &["load", "-i", &path("base.tar")]);
    assert_eq!(kiln.run(&["copied:3", "echo", "ran"]), "ran\n");
}

#[test]
fn the_tree_of_a_result_comes_out_as_a_folder_and_as_a_tar() {
    let Some(kiln) = Kiln::new("local and tar outputs") else { return };
    let out = tempfile::tempdir().unwrap();
    let path = |name: &str| out.path().join(name).display().to_string();
    let context = Context::with_dockerfile(
        "FROM busybox AS made\nRUN mkdir -p /out/d && echo a > /out/d/a && ln -s a /out/d/link\n\
         FROM scratch\nCOPY --from=made /out /\n",
    );
    kiln.build(context.path(), &["-o", &path("folder"), "."]);
    assert_eq!(std::fs::read_to_string(out.path().join("folder/d/link")).unwrap(), "a\n");
    kiln.build(context.path(), &["-o", &format!("type=tar,dest={}", path("tree.tar")), "."]);
    let names = tool(&["tar", "-tf", &path("tree.tar")]);
    assert_eq!(names.lines().collect::<Vec<_>>(), ["d/", "d/a", "d/link"]);
}

#[test]
fn several_platforms_make_an_index_and_a_directory_each() {
    let Some(kiln) = Kiln::new("several platforms") else { return };
    let out = tempfile::tempdir().unwrap();
    let path = |name: &str| out.path().join(name).display().to_string();
    let (archive, local) = (path("image.tar"), path("local"));
    let context = Context::with_dockerfile(
        "FROM scratch\nARG TARGETARCH\nCOPY <<EOF /arch\n$TARGETARCH\nEOF\nLABEL arch=$TARGETARCH\n",
    );
    let platforms = ["--platform", "linux/amd64,linux/arm64"];
    let output = format!("type=oci,dest={archive}");
    kiln.build(context.path(), &[&platforms[..], &["-t", "two:1", "-o", &output, "."]].concat());
    let output = format!("type=local,dest={local}");
    kiln.build(context.path(), &[&platforms[..], &["-o", &output, "."]].concat());
    for arch in ["amd64", "arm64"] {
        let override_arch = format!("--override-arch={arch}");
        let inspected =
            tool(&["skopeo", &override_arch, "inspect", "--config", &format!("oci-archive:{archive}")]);
        assert!(inspected.contains(&format!("\"arch\": \"{arch}\"")), "{inspected}");
        let file = out.path().join(format!("local/linux_{arch}/arch"));
        assert_eq!(std::fs::read_to_string(file).unwrap(), format!("{arch}\n"));
    }
}
