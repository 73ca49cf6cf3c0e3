//! Builds of an ordinary user with ranges of subordinate ids, with none, and where the kernel forbids user namespaces.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use kiln_fixtures::{Context, tutorial};

use crate::kiln::Kiln;
use crate::ordinary::Ordinary;

#[test]
fn an_ordinary_users_app_is_built_with_apt_and_pip() {
    let Some(user) = Ordinary::new("rootless app") else { return };
    let app = user.copy_of(&tutorial("app"), "app");
    let line = ["-t", "hello", "-f", "Dockerfile.dev", "--build-arg", "UID=4711", "."];
    let first = user.build(&app, &line);
    assert_eq!(first.steps(), (5, 0), "{}", first.stderr);
    assert_eq!(user.run(&["hello"]), "hello from numpy 45\ndevelopment build for uid 4711\n");
    assert_eq!(user.build(&app, &line).steps(), (0, 5));
}

#[test]
fn an_ordinary_user_builds_the_user_and_entrypoint_tutorials() {
    let Some(user) = Ordinary::new("rootless user") else { return };
    let folder = user.copy_of(&tutorial("user"), "user");
    user.build(&folder, &["-t", "user", "--build-arg", "UID=1234", "."]);
    assert_eq!(user.run(&["user"]), "1234\nworker\n/home/worker/project\nmade-by-worker\nnotes\n");

    let folder = user.copy_of(&tutorial("entrypoint"), "entrypoint");
    user.build(&folder, &["-t", "entry", "."]);
    let id = user.run(&["-e", "UID=1001", "entry"]);
    assert!(id.starts_with("uid=1001(user) gid=1001(user)"), "{id}");
}

#[test]
fn ids_are_kept_and_apt_changes_users_and_owners() {
    let Some(user) = Ordinary::new("rootless ids") else { return };
    let dockerfile = "FROM debian\n\
        RUN apt-get update && apt-get install -y --no-install-recommends sudo\n\
        RUN useradd -u 2000 worker && chown worker:nogroup /srv\n\
        COPY --chown=33:44 --chmod=640 file /srv/file\n\
        USER worker\n\
        RUN id -u >/tmp/id\n\
        CMD stat -c '%u:%g %a %n' /srv /srv/file /tmp/id /usr/bin/sudo; id\n";
    let folder = user.folder("ids", &[("Dockerfile", dockerfile), ("file", "text")]);
    user.build(&folder, &["-t", "ids", "."]);
    assert_eq!(
        user.run(&["ids"]),
        "2000:65534 755 /srv\n33:44 640 /srv/file\n2000:2000 644 /tmp/id\n0:0 4755 /usr/bin/sudo\n\
         uid=2000(worker) gid=2000(worker) groups=2000(worker)\n"
    );
}

#[test]
fn a_users_store_is_shut_to_others_and_its_files_belong_to_nobody_on_the_host() {
    let Some(user) = Ordinary::new("rootless store") else { return };
    let dockerfile = "FROM busybox\nCOPY --chown=0:0 --chmod=4755 file /suid\nCOPY --chown=7:7 file /other\n";
    let folder = user.folder("store", &[("Dockerfile", dockerfile), ("file", "#!/bin/sh\nid -u\n")]);
    user.build(&folder, &["-t", "x", "."]);
    let store = user.home().join(".local/share/kiln");
    let own = std::fs::metadata(user.home()).unwrap().uid();
    let found = std::fs::metadata(&store).unwrap();
    assert_eq!((found.uid(), found.mode() & 0o7777), (own, 0o700));

    // Whatever an image says, nothing belongs to the host's root or to another of its users (THREATS B7).
    let listing = Command::new("find").arg(&store).args(["-printf", "%U\n"]).output().unwrap().stdout;
    let owners: std::collections::BTreeSet<u32> =
        String::from_utf8(listing).unwrap().lines().map(|line| line.parse().unwrap()).collect();
    let subordinate = 100_000..;
    assert!(owners.len() > 1, "{owners:?}");
    assert!(owners.iter().all(|owner| *owner == own || subordinate.contains(owner)), "{owners:?}");
    let others = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "ls"])
        .arg(store.join("layers"))
        .output()
        .unwrap();
    assert!(!others.status.success());
}

#[test]
fn layers_are_the_same_whoever_builds_them() {
    let Some(root) = Kiln::new("rootless diff ids") else { return };
    let Some(user) = Ordinary::new("rootless diff ids") else { return };
    let context = Context::default()
        .file(
            "Dockerfile",
            "FROM busybox\nCOPY --chown=12:34 --chmod=4711 a /d/a\nCOPY b /d/b\nCOPY --chown=65534 b /e\n",
        )
        .file("a", "one")
        .file("b", "two");
    let folder = user.copy_of(context.path(), "same");
    let layers = |text: &str| {
        let (_, rest) = text.split_once("\"Layers\"").unwrap();
        rest.split_once(']').unwrap().0.split_whitespace().collect::<String>()
    };
    // Times are those of the copies and of the directories made for them: they are set to one.
    let out = "type=docker,dest=same.tar,rewrite-timestamp=true";
    let line = ["-t", "same", "--build-arg", "SOURCE_DATE_EPOCH=1700000000", "-o", out, "."];
    root.build(context.path(), &line);
    root.ok(context.path(), &["load", "-i", "same.tar"]);
    user.build(&folder, &line);
    user.ok(&folder, &["load", "-i", "same.tar"]);
    let by_root = root.ok(Path::new("/"), &["inspect", "same"]).stdout;
    let by_user = user.ok(user.home(), &["inspect", "same"]).stdout;
    assert_eq!(layers(&by_root), layers(&by_user));
}

#[test]
fn deletions_of_a_user_are_whiteouts_that_root_unpacks_alike() {
    let Some(root) = Kiln::new("rootless whiteouts") else { return };
    let Some(user) = Ordinary::new("rootless whiteouts") else { return };
    let dockerfile = "FROM busybox\n\
        RUN mkdir -p /d/e /f && echo 1 >/d/one && echo 2 >/d/e/two && echo 3 >/f/three && chown -R 5:6 /f\n\
        RUN rm /d/one && rm -rf /d/e && mkdir /d/e && echo 4 >/d/e/four && rm -rf /f\n";
    let folder = user.folder("whiteouts", &[("Dockerfile", dockerfile)]);
    user.build(&folder, &["-t", "w", "-o", "type=docker,dest=image.tar", "-o", "type=local,dest=out", "."]);
    let found = std::fs::metadata(folder.join("image.tar")).unwrap();
    assert_eq!(found.uid(), std::fs::metadata(user.home()).unwrap().uid());
    assert_eq!(std::fs::read_to_string(folder.join("out/d/e/four")).unwrap(), "4\n");

    let script = "find /d /f -exec stat -c '%u:%g %a %n' {} + 2>&1 | sort";
    let seen_by_user = {
        user.build(&folder, &["-t", "w", "."]);
        user.run(&["w", "sh", "-c", script])
    };
    root.ok(&folder, &["load", "-i", "image.tar"]);
    let seen_by_root = root.run(&["w", "sh", "-c", script]);
    assert_eq!(seen_by_user, seen_by_root);
    assert!(seen_by_root.contains("/d/e/four") && !seen_by_root.contains("two"), "{seen_by_root}");
}

#[test]
fn a_step_of_a_user_has_no_more_rights_than_one_of_root() {
    let Some(user) = Ordinary::new("rootless rights") else { return };
    let dockerfile = "FROM busybox\n\
        RUN grep -E '^(Cap|Seccomp:)' /proc/self/status >/facts; id >>/facts; ls /proc/self/fd >>/facts\n\
        RUN touch /sys/fs/cgroup/x 2>>/facts; cat /proc/*/environ | grep -c CANARY >>/facts; \
            echo x 2>>/facts >/proc/sys/kernel/core_pattern; mount -t tmpfs none /tmp 2>>/facts; true\n\
        USER 1000\n\
        CMD cat /facts; grep -E '^Cap' /proc/self/status\n";
    let folder = user.folder("rights", &[("Dockerfile", dockerfile)]);
    let kiln = user.home().join("kiln");
    let built = user
        .command(&folder, kiln.to_str().unwrap())
        .args(["build", "-t", "rights", "."])
        .env("CANARY", "CANARY")
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    insta::assert_snapshot!(user.run(&["rights"]), @r"
    CapInh:	0000000000000000
    CapPrm:	00000000a80425fb
    CapEff:	00000000a80425fb
    CapBnd:	00000000a80425fb
    CapAmb:	0000000000000000
    Seccomp:	2
    uid=0(root) gid=0(root) groups=0(root)
    0
    1
    2
    3
    touch: /sys/fs/cgroup/x: Read-only file system
    0
    /bin/sh: can't create /proc/sys/kernel/core_pattern: Read-only file system
    mount: permission denied (are you root?)
    CapInh:	0000000000000000
    CapPrm:	0000000000000000
    CapEff:	0000000000000000
    CapBnd:	00000000a80425fb
    CapAmb:	0000000000000000
    ");
}

#[test]
fn doctor_says_that_everything_is_there() {
    let Some(user) = Ordinary::new("rootless doctor") else { return };
    let told = user.ok(user.home(), &["doctor"]);
    assert!(!told.stdout.contains("missing"), "{}", told.stdout);
    told.says("user and group ids");
}

#[test]
fn without_ranges_the_user_is_warned_and_told_the_line_that_adds_them() {
    let Some(user) = Ordinary::new("rootless single id").map(Ordinary::without_ranges) else { return };
    let folder = user.folder("single", &[("Dockerfile", "FROM scratch\nCOPY file /\n"), ("file", "x")]);
    let built = user.build(&folder, &["-t", "single", "."]);
    built.says(&format!("/etc/subuid has no range for user {}", user.name()));
    let line = format!("usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {}", user.name());
    built.says(&line);
    let told = user.ok(user.home(), &["doctor"]);
    told.says("limited");
    told.says(&line);
}

#[test]
fn with_a_single_id_owners_are_kept_beside_the_files() {
    let Some(root) = Kiln::new("rootless kept owners") else { return };
    let Some(user) = Ordinary::new("rootless kept owners").map(Ordinary::without_ranges) else { return };
    let dockerfile = "FROM debian AS base\nRUN echo x >>/etc/shadow && touch /made\n\
        FROM base\nCOPY --chown=12:34 file /d/file\nCOPY --from=base --chown=5 /etc/shadow /shadow\n";
    let folder = user.folder("kept", &[("Dockerfile", dockerfile), ("file", "text")]);
    user.build(&folder, &["-t", "kept", "-o", "type=docker,dest=image.tar", "."]);
    root.ok(&folder, &["load", "-i", "image.tar"]);
    let script = "stat -c '%u:%g %a %n' /etc/shadow /made /d/file /shadow /usr/bin/chage";
    assert_eq!(
        root.run(&["kept", "sh", "-c", script]),
        "0:42 640 /etc/shadow\n0:0 644 /made\n12:34 644 /d/file\n5:5 640 /shadow\n0:42 2755 /usr/bin/chage\n"
    );
}

#[test]
fn where_the_kernel_forbids_user_namespaces_the_switch_is_named() {
    let Some(user) = Ordinary::new("rootless forbidden") else { return };
    // The limit belongs to the namespace it is set in, so the machine's own is not touched.
    let script = "echo 0 >/proc/sys/user/max_user_namespaces && \
                  exec setpriv --reuid 1000 --regid 1000 --clear-groups ./kiln \"$@\"";
    for words in [&["doctor"][..], &["images"]] {
        let ended: crate::kiln::Ended = user
            .command(user.home(), "unshare")
            .args(["--user", "--map-root-user", "--map-auto", "sh", "-c", script, "sh"])
            .args(words)
            .output()
            .unwrap()
            .into();
        assert_eq!(ended.status, 1, "{}{}", ended.stdout, ended.stderr);
        ended.says("user.max_user_namespaces is 0");
        ended.says("sudo sysctl -w user.max_user_namespaces=15000");
    }
}
