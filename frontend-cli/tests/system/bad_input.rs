//! Mistakes and accidents: each message names what is wrong, where, and the way out.

use std::path::Path;
use std::process::Command;

use kiln_fixtures::{Context, FileServer, redact};

use crate::kiln::{Ended, Kiln, is_root_to};

/// Builds a context that must fail; the report without what changes from run to run.
#[track_caller]
fn fails(kiln: &Kiln, context: &Context, words: &[&str]) -> (Ended, String) {
    let mut line = vec!["build", "--progress=plain", "-t", "bad"];
    line.extend(words);
    line.push(".");
    let ended = kiln.call(context.path(), &line);
    assert_ne!(ended.status, 0, "{}", ended.stderr);
    let report = ended.stderr.find("error: ").map_or("", |at| &ended.stderr[at..]);
    let report = redact(report, &[(context.path(), "context"), (&kiln.root(), "store")]);
    (ended, report)
}

#[test]
fn an_unknown_instruction_is_shown_with_the_nearest_one() {
    let Some(kiln) = Kiln::new("unknown instruction") else { return };
    let context = Context::with_dockerfile("FROM busybox\nCPOY a b\n");
    let (_, report) = fails(&kiln, &context, &[]);
    insta::assert_snapshot!(report, @r"
    error: unknown instruction: CPOY
     --> Dockerfile:2:1
    2 | CPOY a b
      | ^^^^
    hint: did you mean COPY?
    ");
}

#[test]
fn a_missing_copy_source_lists_near_names() {
    let Some(kiln) = Kiln::new("missing source") else { return };
    let context =
        Context::with_dockerfile("FROM busybox\nCOPY requirement.txt /\n").file("requirements.txt", "x");
    let (_, report) = fails(&kiln, &context, &[]);
    insta::assert_snapshot!(report, @r"
    error: /requirement.txt: not found
     --> Dockerfile:2:6
    2 | COPY requirement.txt /
      |      ^^^^^^^^^^^^^^^
    hint: did you mean `/requirements.txt`?
    ");
}

#[test]
fn an_ignored_copy_source_says_that_dockerignore_hid_it() {
    let Some(kiln) = Kiln::new("ignored source") else { return };
    let context = Context::with_dockerfile("FROM busybox\nCOPY app.log /\n")
        .file("app.log", "x")
        .file(".dockerignore", "*.log\n");
    let (_, report) = fails(&kiln, &context, &[]);
    insta::assert_snapshot!(report, @r"
    error: /app.log: not found
     --> Dockerfile:2:6
    2 | COPY app.log /
      |      ^^^^^^^
    hint: `app.log` is there, but .dockerignore leaves it out
    ");
}

#[test]
fn a_base_that_no_registry_has_is_named() {
    let Some(kiln) = Kiln::new("missing base") else { return };
    let context = Context::with_dockerfile(&format!("FROM {}/no-such-image:1\n", kiln.bases().registry()));
    let (_, report) = fails(&kiln, &context, &[]);
    insta::assert_snapshot!(report, @r"
    error: 127.0.0.1:[port]/no-such-image:1: not found
     --> Dockerfile:1:6
    1 | FROM 127.0.0.1:[port]/no-such-image:1
      |      ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    hint: check the name and tag; a private image may also need a login
    ");
}

#[test]
fn a_registry_that_is_down_is_named_with_its_address() {
    let Some(kiln) = Kiln::new("registry down") else { return };
    // A port that was free a moment ago may be another test's by now.
    let context = Context::with_dockerfile("FROM 127.0.0.1:1/app\n");
    let (_, report) = fails(&kiln, &context, &[]);
    insta::assert_snapshot!(report, @r"
    error: registry 127.0.0.1:[port] cannot be reached: Connection refused (os error 111)
     --> Dockerfile:1:6
    1 | FROM 127.0.0.1:[port]/app
      |      ^^^^^^^^^^^^^^^
    hint: is the registry running, and the port right?
    ");
}

#[test]
fn a_base_pinned_to_a_digest_that_is_not_served_is_refused() {
    let Some(kiln) = Kiln::new("wrong digest") else { return };
    let digest = "0".repeat(64);
    let image = format!("{}/busybox@sha256:{digest}", kiln.bases().registry());
    let context = Context::with_dockerfile(&format!("FROM {image}\n"));
    let (_, report) = fails(&kiln, &context, &[]);
    insta::assert_snapshot!(report, @r"
    error: 127.0.0.1:[port]/busybox@sha256:[digest]: not found
     --> Dockerfile:1:6
    1 | FROM 127.0.0.1:[port]/busybox@sha256:[digest]
      |      ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    hint: check the name and tag; a private image may also need a login
    ");
}

#[test]
fn a_manifest_with_another_digest_than_asked_for_is_refused() {
    let Some(kiln) = Kiln::new("changed manifest") else { return };
    let digest = format!("sha256:{}", "1".repeat(64));
    let registry = Context::default().file(&format!("v2/app/manifests/{digest}"), "{\"schemaVersion\": 2}");
    let server = FileServer::start(registry.path());
    let host = server.url().replace("http://", "");
    let context = Context::with_dockerfile(&format!("FROM {host}/app@{digest}\n"));
    let (_, report) = fails(&kiln, &context, &[]);
    insta::assert_snapshot!(report, @r"
    error: 127.0.0.1:[port]/app (manifests/sha256:[digest]) has digest sha256:[digest] instead of sha256:[digest]
     --> Dockerfile:1:6
    1 | FROM 127.0.0.1:[port]/app@sha256:[digest]
      |      ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    hint: the registry, a mirror or a proxy on the way changes what it sends; nothing of it was used
    ");
}

#[test]
fn a_failed_run_shows_its_exit_code_line_and_last_output() {
    let Some(kiln) = Kiln::new("exit 7") else { return };
    let context = Context::with_dockerfile("FROM busybox\nRUN echo about to fail && \\\n    exit 7\n");
    let (ended, report) = fails(&kiln, &context, &[]);
    ended.says("about to fail");
    insta::assert_snapshot!(report, @r#"
    error: process "/bin/sh -c echo about to fail &&     exit 7" did not complete successfully: exit code: 7
     --> Dockerfile:2:1
    2 | RUN echo about to fail && \
      | ^^^^^^^^^^^^^^^^^^^^^^^^^^^
    3 |     exit 7
    "#);
}

#[test]
fn a_required_variable_that_is_unset_fails_with_its_message() {
    let Some(kiln) = Kiln::new("required variable") else { return };
    let context = Context::with_dockerfile(
        "FROM busybox\nARG VERSION\nWORKDIR /opt/${VERSION:?give --build-arg VERSION}\n",
    );
    let (_, report) = fails(&kiln, &context, &[]);
    insta::assert_snapshot!(report, @r"
    error: VERSION: give --build-arg VERSION
     --> Dockerfile:3:9
    3 | WORKDIR /opt/${VERSION:?give --build-arg VERSION}
      |         ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    ");
}

#[test]
fn stages_that_need_each_other_are_named() {
    let Some(kiln) = Kiln::new("circular stages") else { return };
    let text = "FROM scratch AS a\nCOPY --from=b /x /x\nFROM scratch AS b\nCOPY --from=a /x /x\n";
    let (_, report) = fails(&kiln, &Context::with_dockerfile(text), &[]);
    insta::assert_snapshot!(report, @r"
    error: circular dependency detected on stage: a
     --> Dockerfile:4:1
    4 | COPY --from=a /x /x
      | ^^^^^^^^^^^^^^^^^^^
    hint: a needs b on line 2, b needs a on line 4
    ");
}

#[test]
fn a_context_that_does_not_exist_is_named() {
    let Some(kiln) = Kiln::new("missing context") else { return };
    let ended = kiln.call(Path::new("/"), &["build", "--progress=plain", "no/such/folder"]);
    assert_ne!(ended.status, 0);
    insta::assert_snapshot!(ended.stderr, @r#"
    error: unable to prepare context: path "no/such/folder" not found
    "#);
}

#[test]
fn a_store_that_cannot_be_written_is_named() {
    let Some(kiln) = Kiln::new("store not writable") else { return };
    let context = Context::with_dockerfile("FROM busybox\n");
    // A file where a directory must be is not writable for root either.
    let (ended, _) = fails(&kiln, &context, &["--root", "Dockerfile/store"]);
    insta::assert_snapshot!(redact(&ended.stderr, &[(context.path(), "context")]), @r"
    error: Dockerfile/store: the store is not writable
    hint: choose a store of your own with `--root` or KILN_ROOT
    ");
}

#[test]
fn a_full_disk_is_told_as_such_and_leaves_a_store_that_works() {
    if !is_root_to("mount a small disk", "disk full") {
        return;
    }
    let Some(kiln) = Kiln::new("disk full") else { return };
    std::fs::create_dir(kiln.root()).unwrap();
    let mount = |words: &[&str]| {
        assert!(Command::new("mount").args(words).arg(kiln.root()).status().unwrap().success())
    };
    mount(&["-t", "tmpfs", "-o", "size=24m,mode=0700", "tmpfs"]);
    let context = Context::with_dockerfile("FROM busybox\nRUN head -c 64m /dev/zero > /big\n");
    let (_, report) = fails(&kiln, &context, &[]);
    let copied = Context::with_dockerfile("FROM busybox\nCOPY big /\n").file("big", vec![0; 64 << 20]);
    let (_, copy_report) = fails(&kiln, &copied, &[]);
    let small = Context::with_dockerfile("FROM busybox\nRUN echo small > /small\n");
    kiln.build(small.path(), &["-t", "small", "."]);
    let output = kiln.run(&["small", "cat", "/small"]);
    assert!(Command::new("umount").arg("-l").arg(kiln.root()).status().unwrap().success());
    assert_eq!(output, "small\n");
    insta::assert_snapshot!(report, @r#"
    error: process "/bin/sh -c head -c 64m /dev/zero > /big" did not complete successfully: exit code: 1
     --> Dockerfile:2:1
    2 | RUN head -c 64m /dev/zero > /big
      | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    hint: the file system of kiln's store is full: free some space, or choose another store with `--root`
    "#);
    insta::assert_snapshot!(copy_report, @r"
    error: big: No space left on device (os error 28)
     --> Dockerfile:2:1
    2 | COPY big /
      | ^^^^^^^^^^
    hint: the file system of kiln's store is full: free some space, or choose another store with `--root`
    ");
}
