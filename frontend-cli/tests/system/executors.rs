//! Builds by an OCI runtime of the host's make what builds by the embedded executor make.

use kiln_fixtures::{Context, folder};

use crate::kiln::Kiln;
use crate::ordinary::Ordinary;

/// Debian's package crun, one of `fixtures/packages.sh`.
const RUNTIME: &str = "--executor=oci=/usr/bin/crun";

/// What a runtime may give that has namespaces: rights of its own choice, a step without a network.
const MORE_STEPS: &str = "\
    RUN grep -E 'Cap|Seccomp:|NoNewPrivs' /proc/self/status >/tmp/status\n\
    RUN --network=none ls /sys/class/net >/tmp/net && cat /etc/hosts >/tmp/hosts\n";

fn context() -> Context {
    let context = Context::copy_of(&folder().join("every-step"));
    let dockerfile = std::fs::read_to_string(context.path().join("Dockerfile")).unwrap();
    context.write("Dockerfile", dockerfile + MORE_STEPS);
    context
}

/// Flags of a build whose image has only what the steps made.
const FLAGS: &[&str] =
    &["-t", "x", "--secret=id=key,src=key", "--source-date-epoch=1700000000", "--rewrite-timestamp", "."];

#[test]
fn an_image_is_the_same_whoever_ran_its_steps() {
    let (Some(own), Some(by_runtime)) = (Kiln::new("own executor"), Kiln::new("crun")) else { return };
    let context = context();
    let id = |kiln: &Kiln, first: &[&str]| {
        let ended = kiln.build(context.path(), &[first, FLAGS].concat());
        assert_eq!(ended.steps().1, 0, "{}", ended.stderr);
        kiln.ok(context.path(), &["inspect", "--format={{.Id}}", "x"]).stdout
    };
    assert_eq!(id(&own, &[]), id(&by_runtime, &[RUNTIME]));
    // Who runs a step is no part of what it is.
    let again = by_runtime.build(context.path(), FLAGS);
    assert_eq!(again.steps().0, 0, "{}", again.stderr);
}

#[test]
fn an_ordinary_user_builds_by_a_runtime() {
    let Some(user) = Ordinary::new("rootless crun") else { return };
    let folder = user.copy_of(context().path(), "context");
    user.build(&folder, &[&[RUNTIME], FLAGS].concat());
    let said = user.run(&["x", "sh", "-c", "cat /tmp/id /tmp/net; stat -c '%u:%g %a' /srv"]);
    assert_eq!(said, "uid=2000(worker) gid=2000(worker) groups=2000(worker)\nlo\n2000:65534 2755\n");
}

#[test]
fn failures_of_steps_by_a_runtime_are_the_steps() {
    let Some(kiln) = Kiln::new("failures by crun") else { return };
    let build = |dockerfile: &str| {
        let context = Context::with_dockerfile(dockerfile);
        kiln.call(context.path(), &["build", "--progress=plain", "--no-cache", RUNTIME, "."])
    };
    let ended = build("FROM busybox\nRUN echo said; exit 42\n");
    assert_eq!(ended.status, 1);
    ended.says("said");
    ended.says("exit code: 42");
    build("FROM busybox\nRUN [\"no-such\"]\n").says("no-such: command not found in the image");
    build("FROM busybox\nRUN [\"/etc/passwd\"]\n").says("/etc/passwd: cannot be executed");
}

#[test]
fn a_runtime_that_is_not_there_is_a_mistake_in_the_call() {
    let Some(kiln) = Kiln::new("missing runtime") else { return };
    let context = Context::with_dockerfile("FROM busybox\nRUN true\n");
    let call = |executor: &str| kiln.call(context.path(), &["build", executor, "."]);
    let ended = call("--executor=oci=/nonexistent/crun");
    assert_ne!(ended.status, 0);
    ended.says("there is no OCI runtime at /nonexistent/crun: No such file or directory");
    call("--executor=crun")
        .says("--executor crun: expected `embedded`, `oci=/path/of/a/runtime` or `chroot`");
}
