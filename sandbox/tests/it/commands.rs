//! Commands, streams, environment, users.

use std::fs;

use kiln_sandbox::{Identity, Limits, Network, SandboxError, Security};

use crate::support::{go, store};

#[test]
fn the_exit_status_is_the_commands() {
    let Some(store) = store() else { return };
    assert_eq!(go(&store.shell("exit 42")).unwrap().code(), 42);
    // The first process of a namespace is not killed from inside; its child is.
    assert_eq!(go(&store.shell("sh -c 'kill -9 $$'; exit $?")).unwrap().code(), 128 + 9);
    assert_eq!(go(&store.command(&["true"])).unwrap().code(), 0);
}

#[test]
fn streams_are_captured_apart_and_stdin_is_empty() {
    let Some(store) = store() else { return };
    let ran = go(&store.shell("cat; echo out; echo err >&2")).unwrap();
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("out\n", "err\n"));
}

#[test]
fn much_output_arrives_whole() {
    let Some(store) = store() else { return };
    let ran = go(&store.shell("head -c 5000000 /dev/zero")).unwrap();
    assert_eq!(ran.stdout.len(), 5_000_000);
}

#[test]
fn the_environment_is_what_is_given_and_home() {
    let Some(store) = store() else { return };
    let mut spec = store.command(&["env"]);
    spec.env = vec!["PATH=/bin".into(), "A=b c".into()];
    assert_eq!(go(&spec).unwrap().stdout, "PATH=/bin\nA=b c\nHOME=/root\n");
    spec.env.push("HOME=/x".into());
    assert_eq!(go(&spec).unwrap().stdout, "PATH=/bin\nA=b c\nHOME=/x\n");
}

#[test]
fn a_missing_command_is_not_found() {
    let Some(store) = store() else { return };
    let error = go(&store.command(&["no-such"])).unwrap_err();
    assert!(matches!(&error, SandboxError::CommandNotFound(name) if name == "no-such"), "{error}");
    let error = go(&store.command(&["/bin/no-such"])).unwrap_err();
    assert!(matches!(error, SandboxError::CommandNotFound(_)), "{error}");
    assert_eq!(store.upper_entries(), [""; 0]);
}

#[test]
fn a_file_that_is_no_program_is_not_executable() {
    let Some(store) = store() else { return };
    for command in ["/etc/passwd", "/etc"] {
        let error = go(&store.command(&[command])).unwrap_err();
        assert!(matches!(error, SandboxError::NotExecutable { .. }), "{error}");
    }
}

#[test]
fn a_step_that_changes_nothing_leaves_an_empty_upper_directory() {
    let Some(store) = store() else { return };
    // /etc exists in the layer and would be copied up for the files mounted there; /sys and /dev do not exist.
    let before = fs::metadata(store.upper()).unwrap().modified().unwrap();
    let script = "ls /sys /dev /etc/hosts /etc/resolv.conf >/dev/null";
    assert_eq!(store.sh(script), "");
    assert_eq!(store.upper_entries(), [""; 0]);
    assert_eq!(fs::metadata(store.upper()).unwrap().modified().unwrap(), before);
}

#[test]
fn what_the_step_writes_is_the_upper_directory() {
    let Some(store) = store() else { return };
    store.sh("echo x >/etc/new; mkdir -p /a/b; rm /etc/passwd");
    assert_eq!(store.upper_entries(), ["a", "a/b", "etc", "etc/new", "etc/passwd"]);
}

#[test]
fn a_parents_time_says_only_what_the_step_did() {
    let Some(store) = store() else { return };
    let time = |path: &std::path::Path| fs::metadata(path).unwrap().modified().unwrap();
    store.sh("chmod 700 /etc");
    assert_eq!(store.upper_entries(), ["etc"]);
    assert_eq!(time(&store.upper().join("etc")), time(&store.path("base/etc")));
}

#[test]
fn standard_files_of_etc_are_generated_and_read_only() {
    let Some(store) = store() else { return };
    // As BuildKit has it, /etc/hostname is the image's own.
    assert_eq!(store.sh("hostname; test ! -e /etc/hostname && echo own >/etc/hostname"), "box\n");
    assert!(store.sh("cat /etc/hosts").starts_with("127.0.0.1\tlocalhost box\n"));
    assert!(store.sh("cat /etc/resolv.conf").contains("nameserver"));
    let ran = go(&store.shell("echo x >/etc/hosts")).unwrap();
    assert!(ran.stderr.contains("Read-only"), "{ran:?}");
}

#[test]
fn root_has_dockers_capabilities_and_no_other_sets() {
    let Some(store) = store() else { return };
    let caps = store.sh("grep Cap /proc/self/status");
    let set = "00000000a80425fb";
    let none = "0000000000000000";
    assert_eq!(
        caps,
        format!("CapInh:\t{none}\nCapPrm:\t{set}\nCapEff:\t{set}\nCapBnd:\t{set}\nCapAmb:\t{none}\n")
    );
}

#[test]
fn another_user_has_its_ids_and_no_capabilities() {
    let Some(store) = store() else { return };
    let mut spec = store
        .shell("grep -E '^(Uid|Gid|Groups|CapPrm|CapEff|CapAmb)' /proc/self/status; pwd; stat -c %u:%g:%a .");
    spec.identity =
        Identity { uid: 1000, gid: 100, groups: vec![4, 44], keeps_groups: false, home: "/".into() };
    spec.cwd = "/made/here".into();
    let none = "0000000000000000";
    assert_eq!(
        go(&spec).unwrap().stdout,
        format!(
            "Uid:\t1000\t1000\t1000\t1000\nGid:\t100\t100\t100\t100\nGroups:\t4 44 \nCapPrm:\t{none}\n\
             CapEff:\t{none}\nCapAmb:\t{none}\n/made/here\n1000:100:755\n"
        )
    );
}

#[test]
fn another_user_can_open_its_streams_by_name() {
    let Some(store) = store() else { return };
    let mut spec = store.shell("echo out >/dev/stdout; echo err >/dev/stderr");
    spec.identity.uid = 1000;
    let ran = go(&spec).unwrap();
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("out\n", "err\n"));
}

#[test]
fn an_insecure_step_has_all_capabilities_and_no_filter() {
    let Some(store) = store() else { return };
    let mut spec = store.shell("mount -t tmpfs none /tmp && grep Seccomp: /proc/self/status");
    spec.security = Security::Insecure;
    assert_eq!(go(&spec).unwrap().stdout, "Seccomp:\t0\n");
}

#[test]
fn limits_are_seen_from_inside() {
    let Some(store) = store() else { return };
    let mut spec = store.shell("ulimit -n; umask; df -k /dev/shm | tail -n 1 | awk '{print $2}'");
    spec.limits =
        Limits { ulimits: vec![("nofile".into(), 77, 99)], shm_bytes: Some(1 << 20), ..Limits::default() };
    assert_eq!(go(&spec).unwrap().stdout, "77\n0022\n1024\n");
}

#[test]
fn without_network_there_is_only_loopback() {
    let Some(store) = store() else { return };
    assert_eq!(store.sh("ls /sys/class/net"), "lo\n");
    assert!(store.sh("ip addr show lo").contains("inet 127.0.0.1/8"));
    let mut spec = store.shell("readlink /proc/self/ns/net");
    spec.network = Network::Host;
    let host = fs::read_link("/proc/self/ns/net").unwrap();
    assert_eq!(go(&spec).unwrap().stdout.trim(), host.to_str().unwrap());
}

#[test]
fn the_devices_work() {
    let Some(store) = store() else { return };
    let script = "echo x >/dev/null; head -c 2 /dev/zero | wc -c; head -c 3 /dev/urandom | wc -c; \
                  ls /dev | grep -v core";
    assert_eq!(
        store.sh(script),
        "2\n3\nfd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n"
    );
}

#[test]
fn many_layers_are_one_tree() {
    let Some(store) = store() else { return };
    let mut spec = store.shell("ls /many | wc -l; cat /many/top");
    for index in 0..130 {
        let layer = store.layer(&format!("layer-{index}"));
        fs::create_dir(layer.join("many")).unwrap();
        fs::write(layer.join("many").join(index.to_string()), "").unwrap();
        fs::write(layer.join("many/top"), index.to_string()).unwrap();
        spec.rootfs.layers.push(layer);
    }
    let ran = go(&spec).unwrap();
    assert_eq!(ran.stdout, "131\n129");
    assert_eq!(store.upper_entries(), [""; 0]);
}

#[test]
fn a_root_without_layers_is_the_upper_directory() {
    let Some(store) = store() else { return };
    fs::rename(store.path("base"), store.path("other")).unwrap();
    fs::remove_dir(store.upper()).unwrap();
    fs::rename(store.path("other"), store.upper()).unwrap();
    let before = store.upper_entries();
    let mut spec = store.command(&["true"]);
    spec.rootfs.layers.clear();
    assert_eq!(go(&spec).unwrap().code(), 0);
    assert_eq!(store.upper_entries(), before);
}

#[test]
fn several_threads_run_at_once() {
    let Some(store) = store() else { return };
    std::thread::scope(|scope| {
        for index in 0..8 {
            let mut spec = store.shell(&format!("echo {index}"));
            spec.rootfs.upper = store.layer(&format!("upper-{index}"));
            spec.rootfs.work = store.layer(&format!("work-{index}"));
            scope.spawn(move || {
                assert_eq!(go(&spec).unwrap().stdout, format!("{index}\n"));
            });
        }
    });
}

#[test]
fn what_a_command_used_is_told() {
    let Some(store) = store() else { return };
    let script = "head -c 5000000 /dev/zero > /big && sync; i=0; while [ $i -lt 50000 ]; do i=$((i+1)); done";
    let usage = go(&store.shell(script)).unwrap().exit.usage;
    assert!(usage.cpu > std::time::Duration::ZERO, "{usage:?}");
    assert!(usage.peak_memory_bytes > 100_000, "{usage:?}");
    // A store on memory alone writes nothing to any disk.
    assert!(usage.written_bytes == 0 || usage.written_bytes >= 5_000_000, "{usage:?}");
}
