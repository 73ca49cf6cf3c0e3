//! kiln in a container of Docker's, with the rights that Docker gives: no namespace and no mount can be made, so RUN steps
//! run by `--executor chroot`.

use std::path::Path;
use std::process::Command;

use kiln_fixtures::{Context, folder, tutorial};

use crate::daemons::{Dockerd, can_run, stdout};
use crate::kiln::{Ended, Kiln, nothing_is_in_progress};

/// A daemon with an image that kiln runs in, and kiln's own store on a volume.
struct Container {
    docker: Dockerd,
    /// The store and contexts.
    files: tempfile::TempDir,
    /// The host's, to compare with.
    own: Kiln,
}

impl Container {
    fn new(test: &str) -> Option<Self> {
        if !can_run("dockerd") {
            return None;
        }
        let own = Kiln::new(test)?;
        let docker = Dockerd::start();
        let context = Context::with_dockerfile("FROM debian\nRUN true\n");
        let words = ["build", "--load", "-t", "box", "."];
        stdout(own.command(context.path(), &words).env("DOCKER_HOST", docker.host()));
        let files = tempfile::tempdir().unwrap();
        std::fs::copy(own.bases().registries_conf(), files.path().join("registries.conf")).unwrap();
        Some(Self { docker, files, own })
    }

    /// A command line of kiln's in the container named `name`, not started yet; `folder` is the working directory.
    fn command(&self, name: &str, folder: &Path, words: &[&str]) -> Command {
        self.command_as(&[], name, folder, words)
    }

    /// The same with further options of `docker run`.
    fn command_as(&self, options: &[&str], name: &str, folder: &Path, words: &[&str]) -> Command {
        let volume = |from: &Path, to: &str| format!("--volume={}:{to}", from.display());
        let mut line = vec![
            "run".to_owned(),
            "--rm".to_owned(),
            "--network=host".to_owned(),
            format!("--name={name}"),
            volume(env!("CARGO_BIN_EXE_kiln").as_ref(), "/usr/bin/kiln:ro"),
            volume(self.files.path(), "/files"),
            volume(folder, "/context"),
            "--workdir=/context".to_owned(),
            "--env=KILN_ROOT=/files/store".to_owned(),
            "--env=CONTAINERS_REGISTRIES_CONF=/files/registries.conf".to_owned(),
        ];
        line.extend(options.iter().chain(&["box", "kiln"]).map(|word| (*word).to_owned()));
        line.extend(words.iter().map(|word| (*word).to_owned()));
        self.docker.docker(&line.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn call(&self, folder: &Path, words: &[&str]) -> Ended {
        self.command("call", folder, words).output().unwrap().into()
    }

    /// `kiln build` by chroot that must succeed.
    #[track_caller]
    fn build(&self, folder: &Path, words: &[&str]) -> Ended {
        let ended = self.call(folder, &[&["build", "--progress=plain", "--executor=chroot"], words].concat());
        assert_eq!(ended.status, 0, "{}\n{}", ended.stdout, ended.stderr);
        ended
    }
}

/// The secret of `every-step`, which is in no file of an image.
const SECRET: &str = "canary-of-every-step-of-a-build";

/// Flags of a build whose image has only what the steps made.
const FLAGS: &[&str] = &[
    "-t",
    "x",
    "--secret=id=key,src=key",
    "--network=host",
    "--source-date-epoch=1700000000",
    "--rewrite-timestamp",
    ".",
];

#[test]
fn an_image_built_in_a_container_is_the_one_built_outside() {
    let Some(container) = Container::new("in a container") else { return };
    let context = Context::copy_of(&folder().join("every-step"));
    let inspect = &["inspect", "--format={{.Id}} {{json .RootFS.Layers}}", "x"];

    // Nothing weaker is used without a word.
    let refused = container.call(context.path(), &[&["build", "--progress=plain"], FLAGS].concat());
    assert_ne!(refused.status, 0);
    refused.says("no namespace can be made for the step: Operation not permitted");
    refused.says("hint: inside of a container, `--executor chroot` (or KILN_EXECUTOR=chroot)");
    container.call(context.path(), &["doctor"]).says("--executor chroot");

    let built = container.build(context.path(), FLAGS);
    built.says("RUN steps run by chroot");
    let inside = container.call(context.path(), inspect).stdout;
    container.own.build(context.path(), FLAGS);
    assert_eq!(inside, container.own.ok(context.path(), inspect).stdout);
    assert_eq!(container.build(context.path(), FLAGS).steps().0, 0);

    // A secret is nowhere, and of the trees that steps ran in nothing is left.
    let found = Command::new("grep").args(["-rl", SECRET]).arg(container.files.path()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    assert_eq!(std::fs::read_dir(container.files.path().join("store/work")).unwrap().count(), 0);

    let none = Context::with_dockerfile("FROM debian\nRUN --network=none true\n");
    let refused = container.call(none.path(), &["build", "--executor=chroot", "."]);
    refused.says("a step has the container's network");

    an_ordinary_user_builds(&container);
}

/// What lets an ordinary user of a container make namespaces, but for the last one, which lets it mount `/proc`.
const UNCONFINED: &[&str] = &[
    "--user=1000",
    "--env=KILN_ROOT=/files/own/store",
    "--security-opt=seccomp=unconfined",
    "--security-opt=apparmor=unconfined",
    "--security-opt=systempaths=unconfined",
];

/// The container's ordinary user builds where it may make namespaces, and is told what is missing where it may not.
#[track_caller]
fn an_ordinary_user_builds(container: &Container) {
    std::fs::create_dir(container.files.path().join("own")).unwrap();
    stdout(Command::new("chown").arg("1000").arg(container.files.path().join("own")));
    stdout(Command::new("chmod").arg("-R").arg("a+rX").arg(container.files.path()));
    let context = Context::with_dockerfile(
        "FROM debian\nRUN useradd -u 2000 worker && chown worker:nogroup /srv && stat -c owner:%u:%g /srv\n",
    );
    stdout(Command::new("chmod").arg("-R").arg("a+rX").arg(context.path()));
    let call = |options: &[&str], words: &[&str]| -> Ended {
        let words = [&["build", "--progress=plain", "--network=host"], words, &["."]].concat();
        container.command_as(options, "user", context.path(), &words).output().unwrap().into()
    };
    // With what Docker allows there is no way, and the two that there are get named.
    let refused = call(&UNCONFINED[..2], &["--executor=chroot"]);
    assert_ne!(refused.status, 0);
    refused.says("error: user namespaces are refused here: Operation not permitted");
    refused.says("--security-opt seccomp=unconfined");
    refused.says("or run kiln as root, there with --executor chroot");

    let masked = call(&UNCONFINED[..4], &[]);
    assert_ne!(masked.status, 0);
    masked.says("error: sandbox: mounting /proc: Operation not permitted");
    masked.says("hint: inside a container, let its /proc be whole (docker, podman: --security-opt systempaths=unconfined)");

    let built = call(UNCONFINED, &[]);
    assert_eq!(built.status, 0, "{}", built.stderr);
    built.says("owner:2000:65534");
}

#[test]
fn tutorials_build_in_a_container() {
    let Some(container) = Container::new("tutorials in a container") else { return };
    let (app, user, entrypoint) = (
        Context::copy_of(&tutorial("app")),
        Context::copy_of(&tutorial("user")),
        Context::copy_of(&tutorial("entrypoint")),
    );
    let dest = "type=docker,dest=/files/image.tar";
    let run = |words: &[&str]| {
        container.own.ok(container.files.path(), &["load", "-i", "image.tar"]);
        container.own.run(words)
    };
    let line = ["-t", "hello", "-f", "Dockerfile.dev", "--build-arg", "UID=4711", "-o", dest, "."];
    assert_eq!(container.build(app.path(), &line).steps(), (5, 0));
    assert_eq!(run(&["hello"]), "hello from numpy 45\ndevelopment build for uid 4711\n");
    assert_eq!(container.build(app.path(), &line).steps(), (0, 5));

    container.build(user.path(), &["-t", "user", "--build-arg", "UID=1234", "-o", dest, "."]);
    assert_eq!(run(&["user"]), "1234\nworker\n/home/worker/project\nmade-by-worker\nnotes\n");

    container.build(entrypoint.path(), &["-t", "entry", "-o", dest, "."]);
    let id = run(&["-e", "UID=1001", "entry"]);
    assert!(id.starts_with("uid=1001(user) gid=1001(user)"), "{id}");

    // Login shells, and a profile that one step writes and the next one reads.
    let conda = Context::copy_of(&tutorial("conda"));
    let line = ["-t", "conda", "-f", "images/Dockerfile", "--build-arg", "uid=4321", "-o", dest, "project"];
    container.build(conda.path(), &line);
    let said = run(&["conda"]);
    assert_eq!(said, "tool activate /home/analyst/env\ntool install --file /tmp/environment.yml\n");
}

#[test]
fn a_container_that_is_killed_in_a_step_leaves_a_store_that_works() {
    let Some(container) = Container::new("killed in a container") else { return };
    let context = Context::with_dockerfile(
        "FROM debian\nRUN --mount=type=cache,target=/cache echo kept >/cache/kept\n\
         RUN --mount=type=cache,target=/cache --mount=type=bind,target=/context,rw --mount=type=secret,id=key \\\n\
             echo half >/half && echo more >/cache/more && echo started && { test -e /context/go || sleep 1000; }\n\
         RUN --mount=type=cache,target=/cache cat /cache/kept && cp /cache/kept /kept\n",
    )
    .file(".dockerignore", "key\n").file("key", SECRET);
    let words = ["build", "--progress=plain", "--executor=chroot", "--secret=id=key,src=key", "-t", "x", "."];
    let mut running = container
        .command("killed", context.path(), &words)
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let said = std::io::BufReader::new(running.stderr.take().unwrap());
    let mut said = std::io::BufRead::lines(said).map(Result::unwrap);
    assert!(said.any(|line| line.ends_with("started")));
    stdout(&mut container.docker.docker(&["kill", "killed"]));
    // Read to its end: Docker's client does not outlive a pipe that nobody reads, and only it knows that the container is gone.
    said.for_each(drop);
    let _ = running.wait();

    let context = context.file("go", "");
    let ended = container.build(context.path(), &words[3..]);
    ended.says("kept");
    nothing_is_in_progress(&container.files.path().join("store"), || {
        assert_eq!(container.call(context.path(), &["images"]).status, 0);
    });
    let found = Command::new("grep").args(["-rl", SECRET]).arg(container.files.path()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    container.call(context.path(), &["doctor", "--check"]).says("the store is sound");
}
