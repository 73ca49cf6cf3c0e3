//! Docker's daemon and podman run what kiln makes, and kiln what they save.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kiln_fixtures::{Context, DockerRegistry};

use crate::kiln::{Ended, Kiln};
use crate::ordinary::Ordinary;

/// A daemon with a store and a socket of its own, and no network: gone with this.
pub struct Dockerd {
    process: Child,
    folder: tempfile::TempDir,
}

impl Dockerd {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let log = std::fs::File::create(at("log")).unwrap();
        let process = Command::new("dockerd")
            .args(["--iptables=false", "--ip6tables=false", "--bridge=none"])
            .arg("--data-root")
            .arg(at("data"))
            .arg("--exec-root")
            .arg(at("exec"))
            .arg("--pidfile")
            .arg(at("pid"))
            .arg(format!("--host=unix://{}", at("socket").display()))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut daemon = Self { process, folder };
        while !daemon.docker(&["version"]).output().unwrap().status.success() {
            let ended = daemon.process.try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?}: {}", daemon.log());
            std::thread::sleep(Duration::from_millis(100));
        }
        daemon
    }

    pub fn host(&self) -> String {
        format!("unix://{}", self.folder.path().join("socket").display())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    pub fn docker(&self, words: &[&str]) -> Command {
        let mut command = Command::new("docker");
        // The distribution's client, as the daemon is: newer ones build by a plugin.
        let path = format!("/usr/bin:{}", std::env::var("PATH").unwrap_or_default());
        command.args(words).env("DOCKER_HOST", self.host()).env("PATH", path);
        command
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        // It takes down its containerd and its mounts where it is asked to end.
        let _ = Command::new("kill").arg(self.process.id().to_string()).status();
        let _ = self.process.wait();
        let namespace = self.folder.path().join("exec/netns/default");
        let _ = Command::new("umount").arg(namespace).stderr(Stdio::null()).status();
    }
}

/// Whether root may run `program`; says if not. In CI it has to be there.
pub fn can_run(program: &str) -> bool {
    let is_root =
        std::fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0);
    let is_there = Command::new(program).arg("--version").output().is_ok();
    assert!(is_there || !is_root || std::env::var_os("CI").is_none(), "{program} is not installed");
    if !is_root || !is_there {
        eprintln!("skipped: {program} {}", if is_there { "runs as root here" } else { "is not installed" });
    }
    is_root && is_there
}

/// A tool with a store of podman's kind: it mounts the store on itself and leaves that so, which nobody could remove then.
pub fn with_own_mounts(program: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--", program]);
    command
}

#[track_caller]
pub fn stdout(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}\n{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// What each engine has to make of it.
fn context() -> Context {
    Context::with_dockerfile(
        "FROM busybox\nRUN echo gone > /gone && echo kept > /kept && ln /kept /hard && chown 12:34 /kept\n\
         RUN rm /gone && mkdir -p /d && chmod 1777 /d\nENV WORD=said\n\
         CMD [\"sh\", \"-c\", \"cat /hard; stat -c '%u:%g %h' /kept; stat -c %a /d; ls /gone; echo $WORD\"]\n",
    )
}

const SAID: &str = "kept\n12:34 2\n1777\nsaid\n";

#[test]
fn docker_s_daemon_and_kiln_read_each_other_s_images() {
    if !can_run("dockerd") {
        return;
    }
    let Some(kiln) = Kiln::new("docker's daemon") else { return };
    let docker = Dockerd::start();
    let (context, files) = (context(), tempfile::tempdir().unwrap());
    let path = |name: &str| files.path().join(name).display().to_string();
    let id = kiln.ok(context.path(), &["build", "-q", "-t", "saved", "."]).stdout;
    kiln.ok(Path::new("/"), &["save", "-o", &path("kiln.tar"), "saved"]);
    stdout(&mut docker.docker(&["load", "-i", &path("kiln.tar")]));
    assert_eq!(stdout(&mut docker.docker(&["run", "--rm", "--network=none", "saved"])), SAID);
    let known = stdout(&mut docker.docker(&["image", "inspect", "--format", "{{.Id}}", "saved"]));
    assert_eq!(known, id, "the same image under the same id");

    // Straight into the daemon.
    let words = ["build", "--load", "-t", "loaded", "--label", "by=kiln", "."];
    stdout(kiln.command(context.path(), &words).env("DOCKER_HOST", docker.host()));
    assert_eq!(stdout(&mut docker.docker(&["run", "--rm", "--network=none", "loaded"])), SAID);

    stdout(&mut docker.docker(&["tag", "loaded", "back:2"]));
    stdout(&mut docker.docker(&["save", "-o", &path("docker.tar"), "back:2"]));
    kiln.ok(Path::new("/"), &["load", "-i", &path("docker.tar")]).says("back:2");
    assert_eq!(kiln.run(&["back:2"]), SAID);

    // Out of it, as a base: the layers are those that are known.
    let based = Context::with_dockerfile("FROM docker-daemon:back:2\nRUN cat /kept > /copied\n");
    let build = |words: &[&str]| -> Ended {
        let words = [&["build", "--progress=plain"], words, &["."]].concat();
        kiln.command(based.path(), &words).env("DOCKER_HOST", docker.host()).output().unwrap().into()
    };
    let ended = build(&["-t", "based"]);
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    assert_eq!(kiln.run(&["based"]), SAID);
    std::fs::write(based.path().join("Dockerfile"), "FROM docker-daemon:none:1\n").unwrap();
    let ended = build(&[]);
    assert_eq!(ended.status, 1, "{}", ended.stderr);
    ended.says("error: docker-daemon:none:1: the daemon at unix://");

    // Their flat file systems.
    kiln.ok(Path::new("/"), &["export", "-o", &path("files.tar"), "saved"]);
    let words = ["import", "-c", "CMD [\"cat\", \"/hard\"]", &path("files.tar"), "flat"];
    stdout(&mut docker.docker(&words));
    assert_eq!(stdout(&mut docker.docker(&["run", "--rm", "--network=none", "flat"])), "kept\n");
}

/// What a process finds out about its confinement, as tools for that do it: rights, filter, devices, what is hidden and what
/// can be written.
const LOOK_AROUND: &str = "sed -nE 's/^(Cap...|NoNewPrivs|Seccomp.*):\\s*(.*)/fact: \\1 \\2/p' /proc/self/status\n\
    for path in /dev/*; do case $path in /dev/console|/dev/core) ;; *) stat -c 'fact: %N %F %t:%T' $path;; esac; done\n\
    hides() { if [ -d $1 ]; then [ -z \"$(ls -A $1)\" ]; else [ -e $1 ] && ! head -c 1 $1 2>/dev/null | grep -q .; fi; }\n\
    for path in /proc/[a-z]* /sys/firmware /sys/devices/virtual/powercap; do hides $path && echo fact: hidden $path; done\n\
    for path in /proc/sys/kernel/core_pattern /proc/sysrq-trigger /proc/irq/default_smp_affinity /sys/kernel/mm /sys/fs/cgroup \
        /dev/shm /proc/kcore; do [ -w $path ] && echo fact: writable $path; done; true\n";

/// The facts in a step's or a container's output.
fn facts(said: &str) -> BTreeSet<String> {
    said.lines().filter_map(|line| Some(line.split_once("fact: ")?.1.to_owned())).collect()
}

#[test]
fn a_step_finds_about_itself_what_docker_s_containers_find() {
    if !can_run("dockerd") {
        return;
    }
    let Some(kiln) = Kiln::new("inspection beside docker's") else { return };
    let docker = Dockerd::start();
    let files = [("Dockerfile", "FROM busybox\nCOPY look /look\nRUN sh /look\n"), ("look", LOOK_AROUND)];
    let context = Context::with_dockerfile(files[0].1).file("look", LOOK_AROUND);
    stdout(
        kiln.command(context.path(), &["build", "--load", "-t", "x", "."]).env("DOCKER_HOST", docker.host()),
    );
    let of_docker =
        facts(&stdout(&mut docker.docker(&["run", "--rm", "--network=none", "x", "sh", "/look"])));
    assert!(
        of_docker.contains("CapEff 00000000a80425fb") && of_docker.contains("Seccomp 2"),
        "{of_docker:?}"
    );
    assert!(of_docker.contains("hidden /proc/keys"), "{of_docker:?}");
    // The list of what is hidden grows from release to release, and to an ordinary user the kernel shows less.
    let differs = |found: &BTreeSet<String>| {
        let more = found.difference(&of_docker).filter(|fact| !fact.starts_with("hidden "));
        let less = of_docker.difference(found).filter(|fact| !fact.starts_with("writable "));
        (more.cloned().collect::<Vec<_>>(), less.cloned().collect::<Vec<_>>())
    };
    let nothing = (Vec::<String>::new(), Vec::<String>::new());
    let of_root = facts(&kiln.build(context.path(), &["--no-cache", "."]).stderr);
    assert_eq!(differs(&of_root), nothing);
    let Some(user) = Ordinary::new("inspection beside docker's") else { return };
    let of_user = facts(&user.build(&user.folder("look", &files), &["--no-cache", "."]).stderr);
    assert_eq!(differs(&of_user), nothing);
}

/// Nothing of them is of use to it, as its steps have other keys: it must not be led astray by them either.
#[test]
fn the_buildkit_in_docker_s_daemon_reads_kiln_s_caches_and_kiln_its() {
    if !can_run("dockerd") {
        return;
    }
    let Some(kiln) = Kiln::new("docker's daemon") else { return };
    let Some(registry) = DockerRegistry::start() else { return };
    let docker = Dockerd::start();
    let context = Context::with_dockerfile(
        "FROM scratch AS first\nCOPY a /a\nCOPY b /d/b\nFROM scratch\nCOPY --from=first /d /d\nCOPY a /\n",
    )
    .file("a", "a")
    .file("b", "b");
    let name = |tag: &str| format!("{}/cache:{tag}", registry.host);
    let to = |tag: &str, more: &str| {
        let spec = format!("--cache-to=type=registry,ref={},{more}", name(tag));
        kiln.build(context.path(), &["-o", "type=cacheonly", &spec, "."]);
    };
    to("min", "mode=min");
    to("max", "mode=max,image-manifest=false");
    to("docker", "mode=max,oci-mediatypes=false,image-manifest=false");
    kiln.build(context.path(), &["--cache-to=type=inline", "--push", "-t", &name("inline"), "."]);
    for tag in ["min", "max", "docker", "inline"] {
        let mut build =
            docker.docker(&["build", "--progress=plain", "--cache-from", &name(tag), "-t", tag, "."]);
        let output = build.env("DOCKER_BUILDKIT", "1").current_dir(context.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{tag}: {said}");
        assert!(said.contains(&format!("importing cache manifest from {}", name(tag))), "{tag}: {said}");
        assert!(!said.contains("ERROR"), "{tag}: {said}");
    }
    // Its own inline cache.
    let words = [
        "build",
        "--build-arg",
        "BUILDKIT_INLINE_CACHE=1",
        "-t",
        &name("theirs"),
        "--label",
        "by=docker",
        ".",
    ];
    stdout(docker.docker(&words).env("DOCKER_BUILDKIT", "1").current_dir(context.path()));
    stdout(&mut docker.docker(&["push", &name("theirs")]));
    let Some(other) = Kiln::new("docker's daemon") else { return };
    let from = format!("--cache-from={}", name("theirs"));
    other.build(context.path(), &["-t", "it", &from, "."]).says("was written by another builder");
}

#[test]
fn podman_and_kiln_read_each_other_s_images() {
    if !can_run("podman") {
        return;
    }
    let Some(kiln) = Kiln::new("podman") else { return };
    let (context, files) = (context(), tempfile::tempdir().unwrap());
    let path = |name: &str| files.path().join(name).display().to_string();
    let storage: PathBuf = files.path().join("storage");
    let podman = |words: &[&str]| {
        let mut command = Command::new("podman");
        command.arg("--root").arg(&storage).args(["--storage-driver", "vfs"]).args(words);
        stdout(&mut command)
    };
    kiln.build(context.path(), &["-t", "there:1", "."]);
    kiln.ok(Path::new("/"), &["save", "-o", &path("kiln.tar"), "there:1"]);
    kiln.build(context.path(), &["-t", "other:1", "-o", &format!("type=oci,dest={}", path("oci.tar")), "."]);
    for (archive, format) in [("kiln.tar", "docker-archive"), ("oci.tar", "oci-archive")] {
        podman(&["load", "-q", "-i", &path(archive)]);
        let back = path(&format!("back-{archive}"));
        let name = if archive == "oci.tar" { "other:1" } else { "there:1" };
        podman(&["save", "-q", "--format", format, "-o", &back, name]);
        let loaded = kiln.ok(Path::new("/"), &["load", "-i", &back]).stdout;
        let loaded = loaded.trim().rsplit_once(": ").map_or("", |(_, name)| name);
        assert_eq!(kiln.run(&[loaded]), SAID, "{archive}");
    }
    let mounted = podman(&["image", "mount", "there:1"]);
    assert_eq!(std::fs::read_to_string(Path::new(mounted.trim()).join("hard")).unwrap(), "kept\n");
    podman(&["image", "umount", "there:1"]);
}
