//! `RUN --device`: devices that specifications of the host describe, in the sandbox and by an OCI runtime.

use kiln_fixtures::Context;

use crate::kiln::Kiln;
use crate::ordinary::Ordinary;

/// Two devices: one that is the host's `/dev/full` under another name, one that is only a variable and a mount.
const SPEC: &str = r#"{
    "cdiVersion": "0.6.0",
    "kind": "acme.com/test",
    "containerEdits": {"env": ["KIND=all"]},
    "devices": [
        {"name": "node", "containerEdits": {
            "env": ["NODE=yes", "KIND=node"],
            "deviceNodes": [{"path": "/dev/acme/full", "hostPath": "/dev/full"}],
            "additionalGids": [4242]}},
        {"name": "file", "annotations": {"org.mobyproject.buildkit.device.class": "files"},
         "containerEdits": {"mounts": [{"hostPath": "@DIR@/data", "containerPath": "/opt/data", "options": ["ro"]}]}}
    ]
}"#;

/// A context with a folder of specifications in it.
fn context(dockerfile: &str) -> Context {
    let context = Context::with_dockerfile(dockerfile).file("data", "data of the host\n");
    let folder = context.path().join("cdi");
    std::fs::create_dir(&folder).unwrap();
    let spec = SPEC.replace("@DIR@", &context.path().display().to_string());
    std::fs::write(folder.join("acme.json"), spec).unwrap();
    context
}

const NODE: &str = "FROM busybox\n\
    ENV KIND=none\n\
    RUN --device=acme.com/test=node,required \
        test \"$KIND $NODE\" = 'node yes' && ! echo x 2>/dev/null >/dev/acme/full && \
        stat -c '%t:%T %A' /dev/acme/full >/seen && id -G >>/seen\n\
    RUN --device=files test ! -w /opt/data/x && cp /opt/data /copy && test ! -e /dev/acme && env | grep -x KIND=all\n";

#[test]
fn a_step_has_the_device_and_its_layer_has_no_trace_of_it() {
    let Some(kiln) = Kiln::new("devices") else { return };
    let context = context(NODE);
    for executor in ["embedded", "oci=/usr/bin/crun"] {
        let executor = format!("--executor={executor}");
        let words = ["--no-cache", &executor, "--cdi-spec-dir=cdi", "--allow=device", "-t", "d", "."];
        kiln.build(context.path(), &words);
        assert_eq!(kiln.run(&["d", "cat", "/seen", "/copy"]), "1:7 crw-rw-rw-\n0 4242\ndata of the host\n");
        assert_eq!(kiln.run(&["d", "sh", "-c", "ls -A /opt /dev/acme 2>&1 | wc -l"]), "2\n");
    }
}

#[test]
fn a_specification_may_be_yaml() {
    let Some(kiln) = Kiln::new("devices in YAML") else { return };
    let context = Context::with_dockerfile(
        "FROM busybox\nRUN --device=acme.com/zero=1 stat -c '%t:%T' /dev/zeros >/seen\n",
    );
    let folder = context.path().join("cdi");
    std::fs::create_dir(&folder).unwrap();
    let spec = "cdiVersion: 0.6.0\n\
        kind: acme.com/zero\n\
        devices:\n\
        - name: 1\n\
        \x20 containerEdits:\n\
        \x20   deviceNodes:\n\
        \x20   - {path: /dev/zeros, hostPath: /dev/zero, fileMode: 0640}\n";
    std::fs::write(folder.join("acme.yaml"), spec).unwrap();
    kiln.build(context.path(), &["--cdi-spec-dir=cdi", "--allow=device", "-t", "y", "."]);
    // Its mode is the host's where an ordinary user builds.
    assert_eq!(kiln.run(&["y", "cat", "/seen"]), "1:5\n");
}

#[test]
fn devices_need_permission_and_each_may_be_allowed_alone() {
    let Some(kiln) = Kiln::new("allowed devices") else { return };
    let context = context("FROM busybox\nRUN --device=acme.com/test=* env | grep NODE\n");
    let build = |allow: &[&str]| {
        let words = [&["build", "--progress=none", "--cdi-spec-dir=cdi"], allow, &["."]].concat();
        kiln.call(context.path(), &words)
    };
    insta::assert_snapshot!(build(&[]).stderr, @r"
    error: devices acme.com/test=file, acme.com/test=node are requested by the build but not allowed
     --> Dockerfile:2:14
    2 | RUN --device=acme.com/test=* env | grep NODE
      |              ^^^^^^^^^^^^^^^
    hint: allow it with `--allow device=acme.com/test=file`
    ");
    let one = build(&["--allow=device=acme.com/test=node"]);
    one.says("device acme.com/test=file is requested by the build but not allowed");
    let both = build(&["--allow=device=acme.com/test=node", "--allow=device=files"]);
    assert_eq!(both.status, 0, "{}", both.stderr);
}

#[test]
fn a_dockerfiles_word_for_a_device_is_what_the_user_says() {
    let Some(kiln) = Kiln::new("aliases of devices") else { return };
    let context = context("FROM busybox\nRUN --device=gpu,required env | grep -x NODE=yes\n");
    let build = |allow: &str| {
        kiln.call(context.path(), &["build", "--progress=none", "--cdi-spec-dir=cdi", allow, "."])
    };
    let named = build("--allow=device=acme.com/test=node,alias=gpu");
    assert_eq!(named.status, 0, "{}", named.stderr);
    build("--allow=device").says("required device \"gpu\" is not registered");
    build("--allow=device=acme.com/test=no,alias=gpu").says("\"acme.com/test=no\" is not registered");
    build("--allow=device=acme.com/test=node,name=gpu").says("unknown key `name=gpu`");
}

#[test]
fn a_device_that_is_not_there_is_an_error_only_where_it_is_required() {
    let Some(kiln) = Kiln::new("missing devices") else { return };
    let optional = context("FROM busybox\nRUN --device=acme.com/test=other env\n");
    let words = ["build", "--progress=plain", "--cdi-spec-dir=cdi", "."];
    let ended = kiln.ok(optional.path(), &words);
    ended.says("optional device \"acme.com/test=other\" is not registered");
    let required = context("FROM busybox\nRUN --device=acme.com/test=other,required env\n");
    std::fs::write(required.path().join("cdi/other.yaml"), "kind: acme.com/test\n").unwrap();
    let ended = kiln.call(required.path(), &["build", "--progress=none", "--cdi-spec-dir=cdi", "."]);
    assert_eq!(ended.status, 1);
    insta::assert_snapshot!(ended.stderr, @r#"
    error: required device "acme.com/test=other" is not registered; cdi/other.yaml: line 1: missing field `cdiVersion`
     --> Dockerfile:2:14
    2 | RUN --device=acme.com/test=other,required env
      |              ^^^^^^^^^^^^^^^^^^^
    hint: a device is described by a specification (*.yaml, *.json) in /etc/cdi or /var/run/cdi; `--cdi-spec-dir` names another directory
    "#);
}

#[test]
fn without_roots_rights_the_hosts_own_node_is_shown_if_it_may_be_opened() {
    let Some(user) = Ordinary::new("rootless devices") else { return };
    let spec = SPEC.replace("@DIR@", &user.home().join("context").display().to_string());
    // Among the host's devices, as a temporary directory may be mounted without any; its name is nobody else's.
    let folder = tempfile::Builder::new().prefix("kiln-test-").tempdir_in("/dev").unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open).unwrap();
    let node = folder.path().join("closed");
    let made =
        std::process::Command::new("mknod").args(["-m", "600"]).arg(&node).args(["c", "1", "7"]).status();
    assert!(made.unwrap().success());
    let closed = format!(
        r#"{{"cdiVersion": "0.6.0", "kind": "closed.com/test", "devices": [
        {{"name": "node", "containerEdits": {{"deviceNodes": [{{"path": "{}"}}]}}}}]}}"#,
        node.display()
    );
    let context = user.folder(
        "context",
        &[
            ("Dockerfile", NODE),
            ("data", "data of the host\n"),
            ("acme.json", &spec),
            ("closed.json", &closed),
        ],
    );
    user.build(&context, &["--cdi-spec-dir=.", "--allow=device", "."]);
    let text = "FROM busybox\nRUN --device=closed.com/test=node true\n";
    std::fs::write(context.join("Dockerfile"), text).unwrap();
    let words = ["build", "--progress=none", "--cdi-spec-dir=.", "--allow=device", "."];
    let ended = user.call(&context, &words);
    assert_eq!(ended.status, 1, "{}", ended.stderr);
    ended.says(&format!("opening the device {} of the host: Permission denied", node.display()));
}
