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
             mount -t tmpfs x /tmp 2>/dev/null && echo mounted >>/status; :\n",
    );
    let said = |flags: &[&str]| {
        let ended = kiln.build(context.path(), &[flags, &["-t", "s", "."]].concat());
        assert_eq!(ended.steps().0, 1, "{}", ended.stderr);
        kiln.run(&["s", "cat", "/status"])
    };
    assert_eq!(said(&[]), "0\n2\n");
    assert_eq!(said(&["--security-opt=seccomp=unconfined", "--network=none"]), "0\n0\n");
    if is_root_to("mount in a step", "system calls that a capability opens") {
        for executor in EXECUTORS {
            let mounted = said(&["--no-cache", executor, "--cap-add=SYS_ADMIN"]);
            assert_eq!(mounted, "0\n2\nmounted\n", "{executor}");
        }
    }
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
    call(&[&volume("/x:shared")]).says("the option `shared` is not supported");
    call(&["--volume=/etc:/x:U"]).says(
        "error: --volume /etc:/x: `U` would give a directory of the system to the step's user\n\
         hint: leave out `U`, or give the step a directory that is there for the build\n",
    );
    call(&["--volume=data:/x"]).says("both paths begin with `/`");
}

#[test]
fn a_volume_is_given_to_the_user_of_the_step_and_starts_no_programs() {
    if !is_root_to("give files to others", "volumes of the step's user") {
        return;
    }
    let Some(kiln) = Kiln::new("volumes of the step's user") else { return };
    let context = Context::with_dockerfile(
        "FROM busybox\nRUN touch /seen && chmod 666 /seen\nUSER 7:8\n\
         RUN stat -c '%u:%g %n' /v /v/f /v/d/g > /seen && touch /v/mine && cp /bin/true /v/d/ && /v/d/true 2>&1; \
             echo $? >> /seen\n",
    );
    let host = tempfile::tempdir().unwrap();
    std::fs::create_dir(host.path().join("d")).unwrap();
    std::fs::write(host.path().join("f"), "").unwrap();
    std::fs::write(host.path().join("d/g"), "").unwrap();
    let outside = tempfile::NamedTempFile::new().unwrap();
    std::os::unix::fs::symlink(outside.path(), host.path().join("link")).unwrap();
    let volume = format!("--volume={}:/v:U,noexec", host.path().display());
    kiln.build(context.path(), &[&*volume, "-t", "s", "."]);
    assert_eq!(kiln.run(&["s", "cat", "/seen"]), "7:8 /v\n7:8 /v/f\n7:8 /v/d/g\n126\n");
    use std::os::unix::fs::MetadataExt as _;
    let owner = |path: &std::path::Path| std::fs::symlink_metadata(path).unwrap().uid();
    assert_eq!((owner(&host.path().join("link")), owner(outside.path())), (7, 0));
}

#[test]
fn every_step_mounts_what_the_user_says() {
    let Some(kiln) = Kiln::new("mounts of every step") else { return };
    let context = Context::with_dockerfile(
        "FROM busybox AS tools\nRUN echo tool > /tool\n\
         FROM busybox\nRUN cat /run/secrets/token | wc -c > /seen\nRUN cat /run/secrets/token | rev >> /seen\n",
    )
    .file("token", "drowssap");
    let flags = ["--secret=id=token,src=token", "--mount=type=secret,id=token", "-t", "m", "."];
    kiln.build(context.path(), &flags);
    assert_eq!(kiln.run(&["m", "cat", "/seen"]), "8\npassword");
    assert_eq!(kiln.build(context.path(), &flags).steps().0, 0);
    // A stage that nothing else asks for, by its name.
    let context = Context::with_dockerfile(
        "FROM busybox AS tools\nRUN echo tool > /tool\nFROM busybox\nRUN cat /t/tool > /seen\n",
    );
    let call = |mount: &str| kiln.call(context.path(), &["build", mount, "-t", "m", "."]);
    call("--mount=from=tools,target=/t").says("circular dependency detected on stage: tools");
    call("--mount=from=busybox,source=/bin,target=/t").says("can't open '/t/tool'");
    call("--mount=type=volume,target=/t").says("unsupported mount type \"volume\"");
}

#[test]
fn every_step_has_the_devices_that_the_user_names() {
    let Some(kiln) = Kiln::new("devices of every step") else { return };
    let context = Context::with_dockerfile(
        "FROM busybox\nRUN head -c 3 /dev/nil/zero | wc -c > /seen && stat -c '%t,%T %a' /dev/nil/null >> /seen && \
         echo x > /dev/nil/null\nRUN test -c /dev/nil/zero\nRUN --network=none echo $ACME >> /seen\n",
    )
    .file("cdi/acme.json", r#"{"cdiVersion": "0.6.0", "kind": "acme.com/x", "devices":
        [{"name": "a", "containerEdits": {"env": ["ACME=here"]}}]}"#);
    let flags = [
        "--device=/dev/zero:/dev/nil/zero",
        "--device=/dev/null:/dev/nil/null:rw",
        "--device=acme.com/x=a",
        "--cdi-spec-dir=cdi",
    ];
    for executor in EXECUTORS {
        kiln.build(context.path(), &[&flags[..], &["--no-cache", executor, "-t", "d", "."]].concat());
        assert_eq!(kiln.run(&["d", "cat", "/seen"]), "3\n1,3 666\nhere\n", "{executor}");
    }
    let call = |device: &str| kiln.call(context.path(), &["build", "--no-cache", device, "."]);
    call("--device=/dev/zero:r").says("a device that may be read only, or written only, is not supported");
    call("--device=/dev/nothing").says("No such file or directory");
    call("--device=acme.com/y").says("acme.com/y");
}

#[test]
fn every_step_is_in_the_groups_that_the_user_adds() {
    let Some(kiln) = Kiln::new("groups of every step") else { return };
    let context = Context::with_dockerfile(
        "FROM busybox\nRUN echo tape:x:26: >> /etc/group && touch /seen && chmod 666 /seen\nUSER 7:8\nRUN id -G > /seen\n",
    );
    if !is_root_to("take any groups", "groups of every step") {
        return;
    }
    for executor in EXECUTORS {
        let groups = |flag: &[&str]| {
            kiln.build(context.path(), &[&["--no-cache", executor], flag, &["-t", "g", "."]].concat());
            kiln.run(&["g", "cat", "/seen"])
        };
        assert_eq!(groups(&[]), "8\n");
        assert_eq!(groups(&["--group-add=4711"]), "8 4711\n");
    }
    let by_name = ["build", "--group-add=tape", "."];
    kiln.call(context.path(), &by_name).says("unable to find group tape");
    let context = Context::with_dockerfile("FROM busybox\nUSER 7:8\nRUN id -G >&2\n");
    let command =
        kiln.command(context.path(), &["build", "--group-add=keep-groups", "--progress=plain", "."]);
    let ended = std::process::Command::new("setpriv")
        .args(["--groups", "4711,4712"])
        .arg(command.get_program())
        .args(command.get_args())
        .envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .current_dir(context.path())
        .output()
        .unwrap();
    let told = String::from_utf8(ended.stderr).unwrap();
    assert!(told.contains(" 8 4711 4712\n"), "{told}");
    kiln.call(context.path(), &["build", "--group-add=keep-groups,4", "."])
        .says("no other group can be added");
}

#[test]
fn a_step_with_all_rights_is_without_what_is_dropped() {
    if !is_root_to("give all rights", "insecure steps with fewer capabilities") {
        return;
    }
    let Some(kiln) = Kiln::new("insecure steps with fewer capabilities") else { return };
    let context = Context::with_dockerfile(
        "FROM busybox\nRUN --security=insecure grep -E 'Cap(Prm|Bnd)' /proc/self/status | cut -f2 | sort -u >/caps\n",
    );
    for executor in EXECUTORS {
        let caps = |flags: &[&str]| {
            let flags = [&["--allow=security.insecure", executor], flags, &["-t", "i", "."]].concat();
            let ran = kiln.build(context.path(), &flags).steps().0;
            let bits = kiln.run(&["i", "cat", "/caps"]);
            assert_eq!(bits.lines().count(), 1, "{bits}");
            (u64::from_str_radix(bits.trim(), 16).unwrap(), ran)
        };
        let (all, _) = caps(&["--no-cache"]);
        let (some, ran) = caps(&["--cap-drop=sys_admin,chown"]);
        // CAP_CHOWN is 0, CAP_SYS_ADMIN 21.
        assert_eq!((all & !some, some & !all), (1 | 1 << 21, 0), "{executor}");
        assert_eq!(ran, usize::from(executor == EXECUTORS[0]));
        assert_eq!(caps(&["--no-cache", "--cap-drop=all", "--cap-add=kill"]).0, 1 << 5, "{executor}");
    }
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
