//! `kiln build`'s ways to take a context and to tell its result, and the commands on images.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use kiln_fixtures::Context;

use crate::kiln::{Ended, Kiln};

/// A call that reads `input`.
fn call_with_input(kiln: &Kiln, folder: &Path, words: &[&str], input: &[u8]) -> Ended {
    let mut command = kiln.command(folder, words);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap().into()
}

fn tar_of(folder: &Path, flag: &str) -> Vec<u8> {
    let tar = Command::new("tar").arg("-C").arg(folder).args([flag, "-", "."]).output().unwrap();
    assert!(tar.status.success());
    tar.stdout
}

#[test]
fn a_context_may_come_as_a_tar_and_a_dockerfile_alone_on_standard_input() {
    let Some(kiln) = Kiln::new("standard input") else { return };
    let context = Context::with_dockerfile("FROM busybox\nCOPY a /a\nCMD [\"cat\", \"/a\"]\n")
        .file("a", "from a tar\n");
    for flag in ["-cf", "-czf"] {
        let tar = tar_of(context.path(), flag);
        let ended = call_with_input(&kiln, Path::new("/"), &["build", "-t", "tar", "-"], &tar);
        assert_eq!(ended.status, 0, "{}", ended.stderr);
        assert_eq!(kiln.run(&["tar"]), "from a tar\n");
    }

    let text = b"FROM busybox\nCMD [\"echo\", \"no context\"]\n";
    let ended = call_with_input(&kiln, Path::new("/"), &["build", "-t", "text", "-"], text);
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    assert_eq!(kiln.run(&["text"]), "no context\n");

    let text = b"FROM busybox\nCOPY a /b\nCMD [\"cat\", \"/b\"]\n";
    let ended = call_with_input(&kiln, context.path(), &["build", "-t", "file", "-f", "-", "."], text);
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    assert_eq!(kiln.run(&["file"]), "from a tar\n");
}

#[test]
fn the_image_id_is_told_on_standard_output_in_a_file_and_as_metadata() {
    let Some(kiln) = Kiln::new("image id") else { return };
    let context = Context::with_dockerfile("FROM busybox\nRUN echo x > /x\n");
    let words =
        ["build", "-q", "-t", "one", "-t", "two:2", "--iidfile", "iid", "--metadata-file", "meta.json", "."];
    let id = kiln.ok(context.path(), &words).stdout;
    assert_eq!(std::fs::read_to_string(context.join("iid")).unwrap(), id.trim());
    let metadata = std::fs::read_to_string(context.join("meta.json")).unwrap();
    assert!(metadata.contains(id.trim()) && metadata.contains("docker.io/library/two:2"), "{metadata}");
    let metadata: serde_json::Value = serde_json::from_str(&metadata).unwrap();
    let build = metadata["buildx.build.ref"].as_str().unwrap().strip_prefix("kiln/kiln/").unwrap();
    kiln.ok(context.path(), &["logs", build]);
    // `kiln run $(kiln build -q .)`, as people write it.
    assert_eq!(kiln.run(&[id.trim(), "cat", "/x"]), "x\n");

    // A failed build leaves no id of an earlier one.
    context.write("Dockerfile", "FROM busybox\nRUN exit 1\n");
    assert_eq!(kiln.call(context.path(), &words).status, 1);
    assert!(!context.join("iid").exists());
}

#[test]
fn named_contexts_secrets_targets_and_labels_reach_the_build() {
    let Some(kiln) = Kiln::new("named contexts") else { return };
    let text = "FROM base AS first\nCOPY --from=more extra /extra\n\
        RUN --mount=type=secret,id=token --mount=type=secret,id=word,env=WORD \\\n\
          sha256sum < /run/secrets/token > /sum && echo $WORD | sha256sum >> /sum\n\
        FROM first AS last\nRUN echo never > /last\n";
    let context = Context::with_dockerfile(text).file("more/extra", "extra\n").file("secret", "hidden");
    let words = [
        "build",
        "--progress=plain",
        "-t",
        "named",
        "--target",
        "first",
        "--label",
        "who=me",
        "--build-context",
        "more=more",
        "--build-context",
        "base=docker-image://busybox",
        "--secret",
        "id=token,src=secret",
        "--secret",
        "id=word,env=A_WORD",
        ".",
    ];
    let ended: Ended = kiln.command(context.path(), &words).env("A_WORD", "spoken").output().unwrap().into();
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    let output =
        kiln.run(&["named", "sh", "-c", "cat /extra /sum; ls /last /run/secrets 2>/dev/null; exit 0"]);
    let lines: Vec<_> = output.lines().collect();
    assert_eq!(lines[0], "extra");
    assert!(lines[1].starts_with("e564b4081d7a9ea4"), "sha256 of `hidden`: {output}");
    assert_eq!(lines.len(), 3, "nothing of the secrets stays: {output}");
    let config = kiln.ok(Path::new("/"), &["inspect", "named"]).stdout;
    assert!(config.contains("\"who\": \"me\"") && !config.contains("spoken"), "{config}");

    // A secret's value is in no key: another one runs nothing again.
    context.write("secret", "changed");
    let again: Ended = kiln.command(context.path(), &words).env("A_WORD", "other").output().unwrap().into();
    assert_eq!(again.steps(), (0, 2), "{}", again.stderr);
}

#[test]
fn images_are_tagged_listed_shown_and_removed() {
    let Some(kiln) = Kiln::new("image commands") else { return };
    let here = Path::new("/");
    kiln.ok(here, &["pull", "debian:bookworm-slim"]);
    kiln.ok(here, &["tag", "debian:bookworm-slim", "mine:1"]);
    let images = kiln.ok(here, &["images"]).stdout;
    assert!(images.contains("bookworm-slim") && images.contains("mine"), "{images}");
    assert_eq!(kiln.run(&["mine:1", "sh", "-c", "grep -o bookworm /etc/os-release | head -1"]), "bookworm\n");
    let history = kiln.ok(here, &["history", "mine:1"]).stdout;
    assert!(history.starts_with("IMAGE"), "{history}");
    kiln.ok(here, &["rmi", "mine:1"]).says("Untagged: mine:1");
    let missing = kiln.call(here, &["inspect", "mine:1"]);
    assert_eq!(missing.status, 1);
    missing.says("mine:1");
}

#[test]
fn a_container_has_its_own_options_and_exit_status() {
    let Some(kiln) = Kiln::new("run options") else { return };
    let context = Context::with_dockerfile(
        "FROM busybox\nENV A=image\nWORKDIR /w\nRUN echo 'worker:x:77:77::/:/bin/sh' >> /etc/passwd\nENTRYPOINT [\"echo\"]\nCMD [\"default\"]\n",
    )
    .file("shared/in", "outside\n");
    kiln.build(context.path(), &["-t", "c", "."]);
    let call = |words: &[&str]| kiln.call(context.path(), &[&["run", "--rm"][..], words].concat());
    assert_eq!(call(&["c"]).stdout, "default\n");
    assert_eq!(call(&["c", "given"]).stdout, "given\n");
    let script =
        |words: &[&str], text: &str| call(&[words, &["--entrypoint", "sh", "c", "-c", text]].concat());
    assert_eq!(script(&[], "exit 9").status, 9);
    // The command is process 1, which no signal of its own ends; a shell passes on how its child ended.
    assert_eq!(script(&[], "sh -c 'kill -9 $$'; exit $?").status, 137);
    assert_eq!(call(&["--entrypoint", "/no/such", "c"]).status, 127);
    assert_eq!(call(&["--entrypoint", "/etc/passwd", "c"]).status, 126);
    assert_eq!(
        script(&["-e", "A=mine", "-w", "/tmp", "-u", "worker"], "echo $A $(pwd) $(id -u)").stdout,
        "mine /tmp 77\n"
    );
    let volume = format!("{}:/v", context.join("shared").display());
    assert_eq!(script(&["-v", &volume], "cat /v/in && echo back > /v/out").stdout, "outside\n");
    assert_eq!(std::fs::read_to_string(context.join("shared/out")).unwrap(), "back\n");
    assert_ne!(script(&["-v", &format!("{volume}:ro")], "touch /v/no").status, 0);
    assert_eq!(script(&["--network", "none"], "ls /sys/class/net").stdout, "lo\n");
    // What a container writes to its own file system is gone with it.
    script(&[], "echo x > /trace");
    assert_ne!(script(&[], "cat /trace").status, 0);
}

#[test]
fn an_interrupted_build_stops_its_steps_and_leaves_nothing_half_made() {
    let Some(kiln) = Kiln::new("interrupt") else { return };
    let step = format!("sleep 4000.{}", std::process::id());
    let context = Context::with_dockerfile(&format!("FROM busybox\nRUN echo started; exec {step}\n"));
    let mut command = kiln.command(context.path(), &["build", "--progress=plain", "."]);
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stderr.take().unwrap()));
    assert!(
        lines.by_ref().map_while(Result::ok).any(|line| line.ends_with(" started")),
        "the step never ran"
    );
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let rest: Vec<_> = lines.map_while(Result::ok).collect();
    assert!(rest.iter().any(|line| line.contains("CANCELED")), "{rest:?}");
    let left = Command::new("pgrep").args(["-xf", &step]).output().unwrap();
    assert!(left.stdout.is_empty(), "the step's process lives");
    kiln.is_sound();
}

#[test]
fn what_is_not_found_says_where_it_was_looked_for() {
    let Some(kiln) = Kiln::new("not found") else { return };
    let text = b"FROM scratch\nCOPY a /a\n";
    let ended = call_with_input(&kiln, Path::new("/"), &["build", "-"], text);
    assert_eq!(ended.status, 1);
    ended.says("hint: a Dockerfile on standard input has no context; with `-f - DIRECTORY` it has one");

    let context = Context::with_dockerfile("").file("app/Dockerfile.dev", "FROM scratch\n");
    let ended = kiln.call(context.path(), &["build", "app"]);
    ended.says("failed to read dockerfile: open Dockerfile: no such file or directory");
    ended.says("hint: there is `Dockerfile.dev`: name it with `-f`");
    let ended = kiln.call(context.path(), &["build", "-f", "app/dockerfile.DEV", "app"]);
    ended.says("hint: did you mean `app/Dockerfile.dev`?");

    let words = ["build", "-f", "app/Dockerfile.dev", "--build-context", "a b=app", "app"];
    kiln.call(context.path(), &words).says("invalid context name `a b`");
    let words = ["build", "-f", "app/Dockerfile.dev", "--build-context", "base=target:base", "app"];
    kiln.call(context.path(), &words).says("build context base: `target:base` is a target of a bake file");
}

#[test]
fn other_builders_flags_say_what_is_written_where() {
    let Some(kiln) = Kiln::new("other builders' flags") else { return };
    let text = "FROM busybox\nRUN grep -c localhost /etc/hosts > /hosts; echo in the log\nCMD [\"cat\", \"/hosts\"]\n";
    let context = Context::with_dockerfile(text);
    let words = [
        "build",
        "--manifest=several",
        "--destination=reg.example/app:1",
        "--no-push",
        "--no-hosts",
        "--logfile=log",
        "--digest-file=digest",
        "--image-name-with-digest-file=name",
        "--image-name-tag-with-digest-file=tag",
        "--compression-format=zstd",
        ".",
    ];
    let ended = kiln.ok(context.path(), &words);
    assert_eq!(ended.stderr, "", "it is in the file");
    let read = |name: &str| std::fs::read_to_string(context.join(name)).unwrap();
    assert!(read("log").contains(" in the log\n"), "{}", read("log"));
    let digest = read("digest");
    assert!(digest.starts_with("sha256:") && digest.len() == 71, "{digest}");
    assert_eq!(read("name"), format!("docker.io/library/several@{digest}\nreg.example/app@{digest}\n"),);
    assert!(read("tag").ends_with(&format!("reg.example/app:1@{digest}\n")), "{}", read("tag"));
    // The base has no such file, and kiln's own was not there.
    assert_eq!(kiln.run(&["several"]), "");

    let words =
        ["build", "-q", "--oci-layout-path=layout", "--tar-path=image.tar", "--disable-compression", "."];
    kiln.ok(context.path(), &words);
    assert!(context.join("layout/index.json").exists() && context.join("image.tar").exists());
    for blob in std::fs::read_dir(context.join("layout/blobs/sha256")).unwrap() {
        let bytes = std::fs::read(blob.unwrap().path()).unwrap();
        let is_compressed = bytes.starts_with(&[0x1f, 0x8b]) || bytes.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]);
        assert!(!is_compressed || bytes.len() > 100_000, "the step's layer is compressed");
    }
    let ended = kiln.call(context.path(), &["build", "--policy", "filename=p.rego", "."]);
    ended.says("--policy filename=p.rego: kiln reads no policies");
}
