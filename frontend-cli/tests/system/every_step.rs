//! What the user gives to every RUN: capabilities and directories of the host's (`--cap-add`, `--volume` …).

use kiln_fixtures::Context;

use crate::kiln::{Kiln, is_root_to};
use crate::ordinary::Ordinary;

/// The executors that can do all of it.
const EXECUTORS: [&str; 2] = ["--executor=embedded", "--executor=oci=/usr/bin/crun"];

/// Writes what root holds, and all that any process may come to hold.
const CAPABILITIES: &str =
    "FROM busybox\nRUN grep -E 'Cap(Prm|Bnd)' /proc/self/status | cut -f2 | sort -u >/caps\n";

#[test]
fn capabilities_are_added_and_dropped_and_make_another_step() {
    let Some(kiln) = Kiln::new("capabilities") else { return };
    let context = Context::with_dockerfile(CAPABILITIES);
    let caps = |flags: &[&str]| {
        let ended = kiln.build(context.path(), &[flags, &["-t", "c", "."]].concat());
        (kiln.run(&["c", "cat", "/caps"]), ended.steps().0)
    };
    assert_eq!(caps(&[]), ("00000000a80425fb\n".to_owned(), 1));
    for executor in EXECUTORS {
        let of = |flags: &[&str]| caps(&[&["--no-cache", executor], flags].concat()).0;
        assert_eq!(of(&["--cap-add=CAP_NET_ADMIN", "--cap-drop=kill,mknod"]), "00000000a00435db\n");
        assert_eq!(of(&["--cap-drop=all", "--cap-add=chown"]), "0000000000000001\n");
    }
    assert_eq!(caps(&["--cap-drop=all", "--cap-add=chown"]).1, 0);
    assert_eq!(caps(&["--cap-drop=all"]), ("0000000000000000\n".to_owned(), 1));
    let call =
        |flag: &str| kiln.call(context.path(), &["build", "--no-cache", "--executor=chroot", flag, "."]);
    if is_root_to("make devices", "steps by chroot with fewer capabilities") {
        assert_eq!(call("--cap-drop=chown").status, 0);
    }
    call("--cap-add=sys_admin").says("capabilities beyond Docker's would lead out of the tree");
    call("--cap-add=sys_god").says("there is no capability `sys_god`");
}

#[test]
fn system_calls_are_not_filtered_and_set_id_programs_give_nothing_where_it_is_asked_for() {
    let Some(kiln) = Kiln::new("security options") else { return };
    let context = Context::with_dockerfile(
        "FROM busybox\nRUN grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status | cut -f2 >/status; \
             mount -t tmpfs x /mnt 2>/dev/null && echo mounted >>/status; :\n",
    );
    let said = |flags: &[&str]| {
        let ended = kiln.build(context.path(), &[flags, &["-t", "s", "."]].concat());
        assert_eq!(ended.steps().0, 1, "{}", ended.stderr);
        kiln.run(&["s", "cat", "/status"])
    };
    assert_eq!(said(&[]), "0\n2\n");
    assert_eq!(said(&["--security-opt=seccomp=unconfined", "--network=none"]), "0\n0\n");
    for executor in EXECUTORS {
        let of = |flags: &[&str]| said(&[&["--no-cache", executor], flags].concat());
        assert_eq!(of(&["--security-opt=no-new-privileges"]), "1\n2\n");
        let free = ["--security-opt=seccomp=unconfined", "--cap-add=SYS_ADMIN"];
        assert!(of(&free).starts_with("0\n0\n"));
    }
    let call = |option: &str| kiln.call(context.path(), &["build", "--security-opt", option, "."]);
    call("seccomp=/profile.json").says("`seccomp=unconfined` and `no-new-privileges` are supported");
}

/// One volume that is read, one that is written to, one whose changes are lost.
const VOLUMES: &str = "FROM busybox\n\
    RUN ! touch /ro/x 2>/dev/null && cp /ro/file /copy && touch /over/x && rm /over/file && ls /over >/seen && \
        echo step >/rw/made\n";

#[test]
fn volumes_are_the_hosts_directories() {
    let Some(kiln) = Kiln::new("volumes") else { return };
    let context = Context::with_dockerfile(VOLUMES).file("host/file", "the host's\n");
    let host = context.path().join("host");
    let out = tempfile::tempdir().unwrap();
    let volume = |to: &str| format!("--volume={}:{to}", host.display());
    let (ro, over) = (volume("/ro:ro,z"), volume("/over:O"));
    let rw = format!("--volume={}:/rw", out.path().display());
    let build = |flags: &[&str]| {
        kiln.build(context.path(), &[&[&*ro, &over, &rw], flags, &["-t", "v", "."]].concat())
    };
    for executor in EXECUTORS {
        build(&["--no-cache", executor]);
        assert_eq!(
            kiln.run(&["v", "sh", "-c", "cat /copy /seen; ls -d /ro /rw /over 2>/dev/null; :"]),
            "the host's\nx\n"
        );
        assert_eq!(std::fs::read_to_string(out.path().join("made")).unwrap(), "step\n");
        assert_eq!(std::fs::read_dir(&host).unwrap().count(), 1);
        std::fs::remove_file(out.path().join("made")).unwrap();
    }
    // The path is part of the step, what is there is not, and a step that is cached writes nothing.
    std::fs::write(host.join("file"), "changed\n").unwrap();
    assert_eq!(build(&[]).steps().0, 0);
    assert!(!out.path().join("made").exists());
    let call =
        |flags: &[&str]| kiln.call(context.path(), &[&["build", "--no-cache"], flags, &["."]].concat());
    call(&["--executor=chroot", &rw]).says("cannot be mounted for writing in a step by chroot");
    call(&[&volume("/x:U")]).says("the option `U` is not supported");
    call(&["--volume=data:/x"]).says("both paths begin with `/`");
}

#[test]
fn an_ordinary_user_gives_steps_what_he_has() {
    let Some(user) = Ordinary::new("rootless volumes") else { return };
    let context = Context::with_dockerfile(&format!("{CAPABILITIES}{}", VOLUMES.split_once('\n').unwrap().1))
        .file("host/file", "the host's\n");
    let folder = user.copy_of(context.path(), "context");
    let volume = |to: &str| format!("--volume={}/host:{to}", folder.display());
    let (ro, over, rw) = (volume("/ro:ro"), volume("/over:O"), volume("/rw"));
    user.build(&folder, &[&ro, &over, &rw, "--cap-add=net_admin", "--cap-drop=kill", "-t", "u", "."]);
    assert_eq!(user.run(&["u", "cat", "/caps", "/seen"]), "00000000a80435db\nx\n");
    assert_eq!(std::fs::read_to_string(folder.join("host/made")).unwrap(), "step\n");
}
