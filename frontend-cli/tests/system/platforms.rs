//! Images for other machines: steps run by qemu's user mode, several platforms in one index.

use std::path::PathBuf;
use std::process::Command;

use kiln_fixtures::{Context, DockerRegistry};

use crate::kiln::Kiln;
use crate::ordinary::Ordinary;

const DOCKERFILE: &str = "\
FROM scratch
ARG TARGETARCH
COPY busybox-$TARGETARCH /bin/busybox
RUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]
RUN uname -m > /machine && sh -c 'ls /bin | wc -l' && mkdir /d
WORKDIR /d
CMD [\"uname\", \"-m\"]
";

/// A context with busybox for this machine and for arm64.
fn context(test: &str) -> Option<Context> {
    let foreign = kiln_fixtures::busybox_for("arm64", test)?;
    let emulator = ["/usr/bin/qemu-aarch64-static"].map(PathBuf::from).into_iter().find(|path| path.exists());
    if emulator.is_none() {
        assert!(std::env::var_os("CI").is_none(), "{test}: qemu-user-static is not installed");
        eprintln!("skipped {test}: qemu-user-static is not installed");
        return None;
    }
    let context = Context::with_dockerfile(DOCKERFILE);
    std::fs::copy(foreign, context.path().join("busybox-arm64")).unwrap();
    std::fs::copy("/bin/busybox", context.path().join("busybox-amd64")).unwrap();
    Some(context)
}

#[test]
fn steps_of_another_machine_run_by_emulation_and_go_into_one_index() {
    let Some(kiln) = Kiln::new("platforms") else { return };
    let Some(context) = context("platforms") else { return };
    let archive = context.path().join("out.tar");
    let output = format!("type=oci,dest={}", archive.display());
    kiln.build(context.path(), &["--platform", "linux/amd64,linux/arm64", "-o", &output, "."]);
    let inspect = |architecture: &str| {
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["--override-os", "linux", "--override-arch", architecture, "inspect", "--config"]);
        let output = skopeo.arg(format!("oci-archive:{}", archive.display())).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(inspect("arm64").contains("\"architecture\": \"arm64\""), "{}", inspect("arm64"));
    assert!(inspect("amd64").contains("\"architecture\": \"amd64\""));

    let files = context.path().join("files");
    let output = format!("type=local,dest={}", files.display());
    kiln.build(context.path(), &["--platform", "linux/arm64", "-o", &output, "."]);
    assert_eq!(std::fs::read_to_string(files.join("machine")).unwrap(), "aarch64\n");
    // Nothing of the emulator's is left.
    assert_eq!(std::fs::read_dir(files.join("dev")).unwrap().count(), 0);
    kiln.build(context.path(), &["--platform", "linux/arm64", "-t", "foreign", "."]);
    assert_eq!(kiln.run(&["foreign"]), "aarch64\n");
}

#[test]
fn all_platforms_are_those_that_all_bases_are_there_for() {
    let Some(kiln) = Kiln::new("all platforms") else { return };
    let Some(elsewhere) = Kiln::new("all platforms") else { return };
    let Some(registry) = DockerRegistry::start() else { return };
    let base = Context::with_dockerfile("FROM scratch\nCOPY Dockerfile /f\n");
    let name = |short: &str| format!("{}/{short}:1", registry.host);
    for (short, platforms) in [
        ("one", "linux/amd64,linux/arm64,linux/riscv64"),
        ("two", "linux/s390x,linux/riscv64,linux/arm64"),
        ("three", "linux/s390x"),
    ] {
        elsewhere.build(base.path(), &["--platform", platforms, "--push", "-t", &name(short), "."]);
    }
    let build = |text: &str, dest: &str| {
        let context = Context::with_dockerfile(&text.replace("NAME", &registry.host));
        let output = format!("type=oci,tar=false,dest={dest}");
        let words = ["build", "--progress=plain", "--all-platforms", "-o", &output, "."];
        (kiln.call(context.path(), &words), context)
    };
    let platforms = |text: &str| {
        let (ended, context) = build(text, "out");
        assert_eq!(ended.status, 0, "{}", ended.stderr);
        let read = |path: PathBuf| -> serde_json::Value {
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
        };
        let layout = context.path().join("out");
        let top = &read(layout.join("index.json"))["manifests"][0];
        let digest = top["digest"].as_str().unwrap().replace(':', "/");
        let index = read(layout.join("blobs").join(digest));
        let Some(entries) = index["manifests"].as_array() else {
            return vec![top["platform"]["architecture"].as_str().unwrap_or_default().to_owned()];
        };
        entries.iter().map(|entry| entry["platform"]["architecture"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(platforms("FROM NAME/one:1\nCOPY --from=NAME/two:1 /f /g\n"), ["arm64", "riscv64"]);
    // What is built on this machine whatever it is for says nothing of that.
    let cross = "FROM --platform=$BUILDPLATFORM NAME/one:1 AS b\nFROM NAME/two:1\nCOPY --from=b /f /g\n";
    assert_eq!(platforms(cross), ["arm64", "riscv64", "s390x"]);
    build("FROM NAME/one:1\nCOPY --from=NAME/three:1 /f /g\n", "x")
        .0
        .says("there is no platform that all of");
    build("FROM scratch\nCOPY Dockerfile /\n", "x").0.says("no base image that could tell the platforms");

    // A base that was made here is for what it was made for.
    kiln.build(base.path(), &["--platform", "linux/arm64,linux/riscv64", "-t", "own", "."]);
    assert_eq!(platforms("FROM own\nCOPY Dockerfile /g\n"), ["arm64", "riscv64"]);
}

#[test]
fn an_ordinary_user_runs_steps_of_another_machine_as_well() {
    let Some(user) = Ordinary::new("foreign steps of a user") else { return };
    let Some(context) = context("foreign steps of a user") else { return };
    let folder = user.copy_of(context.path(), "context");
    user.build(&folder, &["--platform", "linux/arm64", "-o", "type=local,dest=out", "."]);
    assert_eq!(std::fs::read_to_string(folder.join("out/machine")).unwrap(), "aarch64\n");
}

#[test]
fn a_machine_that_nothing_emulates_is_named() {
    let Some(kiln) = Kiln::new("unknown machines") else { return };
    let Some(busybox) = kiln_fixtures::busybox_for("arm64", "unknown machines") else { return };
    let context = Context::with_dockerfile("FROM scratch\nCOPY x /bin/x\nRUN [\"/bin/x\"]\n");
    std::fs::copy(busybox, context.path().join("x")).unwrap();
    let ended = kiln.call(context.path(), &["build", "--platform", "linux/wasm", "."]);
    assert_ne!(ended.status, 0);
    ended.says("this is a program for wasm, which this machine cannot run");
}
