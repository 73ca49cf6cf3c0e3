//! Every kind of mount, and what it leaves.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use kiln_sandbox::{Mount, MountKind, Security};

use crate::support::{go, mount, own_program, store};

#[test]
fn a_bind_shows_a_host_directory_or_a_part_of_it() {
    let Some(store) = store() else { return };
    let host = store.layer("host");
    fs::create_dir(host.join("sub")).unwrap();
    fs::write(host.join("sub/file"), "hi").unwrap();
    let bind = |subpath: &str, read_only| MountKind::Bind {
        source: host.clone(),
        subpath: subpath.into(),
        read_only,
    };
    let mut spec = store.shell("cat /a/sub/file /b/c/file /f; echo no >/a/x; echo yes >/b/c/x");
    spec.mounts = vec![
        mount("/a", bind("", true)),
        mount("/b/c", bind("sub", false)),
        mount("/f", bind("sub/file", true)),
    ];
    let ran = go(&spec).unwrap();
    assert_eq!(ran.stdout, "hihihi");
    assert!(ran.stderr.contains("Read-only"), "{ran:?}");
    assert_eq!(fs::read_to_string(host.join("sub/x")).unwrap(), "yes\n");
    assert_eq!(store.upper_entries(), [""; 0]);
}

#[test]
fn a_mount_within_a_mount_is_made_in_their_order() {
    let Some(store) = store() else { return };
    let host = store.layer("host");
    let kind = MountKind::Bind { source: host.clone(), subpath: "".into(), read_only: false };
    let mut spec = store.shell("grep -q ' /cache/in ' /proc/mounts && echo ok");
    spec.mounts = vec![
        mount("/cache", kind),
        mount("/cache/in", MountKind::Tmpfs { size: None, mode: 0o755, uid: 0, gid: 0, read_only: false }),
    ];
    assert_eq!(go(&spec).unwrap().stdout, "ok\n");
    assert_eq!(store.upper_entries(), [""; 0]);
}

#[test]
fn a_tmpfs_has_its_size_and_mode() {
    let Some(store) = store() else { return };
    let mut spec = store.shell("stat -c %a /t; df -k /t | tail -n 1 | awk '{print $2}'");
    spec.mounts = vec![mount(
        "/t",
        MountKind::Tmpfs { size: Some(1 << 20), mode: 0o1777, uid: 0, gid: 0, read_only: false },
    )];
    assert_eq!(go(&spec).unwrap().stdout, "1777\n1024\n");
}

#[test]
fn a_tmpfs_has_its_owner_and_nothing_is_started_where_that_is_forbidden() {
    let Some(store) = store() else { return };
    let command = "stat -c %u:%g /t; cp /bin/true /t; cp /bin/true /b; /b/true; echo $?; /t/true; echo $?";
    let mut spec = store.shell(command);
    let shared = store.layer("shared");
    let bind = |no_exec| Mount {
        target: "/b".into(),
        kind: MountKind::Bind { source: shared.clone(), subpath: PathBuf::new(), read_only: false },
        no_exec,
    };
    let tmpfs = MountKind::Tmpfs { size: None, mode: 0o1777, uid: 5, gid: 6, read_only: false };
    spec.mounts = vec![Mount { no_exec: true, ..mount("/t", tmpfs) }, bind(false)];
    assert_eq!(go(&spec).unwrap().stdout, "5:6\n0\n126\n");
    let mut spec = store.shell("/b/true; echo $?");
    spec.mounts = vec![bind(true)];
    assert_eq!(go(&spec).unwrap().stdout, "126\n");
}

#[test]
fn a_secret_is_a_read_only_file_of_its_owner() {
    let Some(store) = store() else { return };
    let mut spec = store.shell("cat /run/secrets/s; stat -c %u:%g:%a /run/secrets/s; echo x >/run/secrets/s");
    let kind = MountKind::File { contents: b"canary\n".to_vec(), mode: 0o400, uid: 5, gid: 6 };
    spec.mounts = vec![mount("/run/secrets/s", kind)];
    let ran = go(&spec).unwrap();
    assert_eq!(ran.stdout, "canary\n5:6:400\n");
    assert_eq!(ran.code(), 1);
    assert_eq!(store.upper_entries(), [""; 0]);
}

#[test]
fn layers_are_shown_and_writes_to_them_are_lost() {
    let Some(store) = store() else { return };
    let (low, high) = (store.layer("low"), store.layer("high"));
    fs::create_dir(low.join("d")).unwrap();
    fs::write(low.join("d/low"), "").unwrap();
    fs::create_dir(high.join("d")).unwrap();
    fs::write(high.join("d/high"), "").unwrap();
    let layers = |subpath: &str, scratch| MountKind::Layers {
        layers: vec![low.clone(), high.clone()],
        subpath: subpath.into(),
        scratch,
    };
    let scratch = Some((store.layer("scratch-upper"), store.layer("scratch-work")));
    let one = MountKind::Layers { layers: vec![low.clone()], subpath: "d/low".into(), scratch: None };
    let mut spec = store.shell("ls /ro/d /part; touch /ro/x; touch /rw/x && ls /rw; ls /one");
    spec.mounts = vec![
        mount("/ro", layers("", None)),
        mount("/part", layers("/d", None)),
        mount("/rw", layers("", scratch)),
        mount("/one", one),
    ];
    let ran = go(&spec).unwrap();
    assert_eq!(ran.stdout, "/part:\nhigh\nlow\n\n/ro/d:\nhigh\nlow\nd\nx\n/one\n");
    assert!(ran.stderr.contains("Read-only"), "{ran:?}");
    assert!(!low.join("x").exists() && !high.join("x").exists());
    assert_eq!(store.upper_entries(), [""; 0]);
}

#[test]
fn a_socket_has_the_owner_asked_for_and_reaches_the_hosts() {
    let Some(store) = store() else { return };
    let path = store.path("agent");
    let listener = UnixListener::bind(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let agent = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 4];
        stream.read_exact(&mut request).unwrap();
        stream.write_all(b"answer to ").unwrap();
        stream.write_all(&request).unwrap();
    });
    // The client is this very test binary, with the host's libraries.
    let (mounts, client) = own_program("mounts::a_client_of_a_socket");
    let mut spec = store.shell(&format!("stat -c %u:%g:%a /run/agent; {client}"));
    spec.env.push("KILN_TEST_SOCKET=/run/agent".into());
    spec.identity.uid = 1000;
    spec.identity.gid = 1000;
    let kind = MountKind::Socket { source: path.clone(), mode: 0o600, uid: 1000, gid: 1000 };
    spec.mounts = mounts;
    spec.mounts.push(mount("/run/agent", kind));
    let ran = go(&spec).unwrap();
    assert!(ran.stdout.starts_with("1000:1000:600\n"), "{ran:?}");
    assert!(ran.stdout.contains("answer to ping"), "{ran:?}");
    agent.join().unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(store.upper_entries(), [""; 0]);
}

/// Not a test but the program that the one above runs inside.
#[test]
fn a_client_of_a_socket() {
    let Some(path) = std::env::var_os("KILN_TEST_SOCKET") else { return };
    let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
    stream.write_all(b"ping").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    println!("{answer}");
}

#[test]
fn what_a_step_puts_beside_a_mount_point_stays_and_the_mount_point_does_not() {
    let Some(store) = store() else { return };
    let mut spec = store.shell("echo x >/deep/er/file");
    spec.mounts = vec![mount(
        "/deep/er/mount",
        MountKind::Tmpfs { size: None, mode: 0o755, uid: 0, gid: 0, read_only: false },
    )];
    go(&spec).unwrap();
    assert_eq!(store.upper_entries(), ["deep", "deep/er", "deep/er/file"]);
}

#[test]
fn a_mount_point_that_a_link_leads_to_is_made_where_the_image_sees_it() {
    let Some(store) = store() else { return };
    std::os::unix::fs::symlink("../run/resolv/real", store.path("base/etc/resolv.conf")).unwrap();
    std::os::unix::fs::symlink("/somewhere", store.path("base/link")).unwrap();
    let mut spec =
        store.shell("grep -c nameserver /run/resolv/real; grep -q ' /somewhere/x ' /proc/mounts && echo ok");
    spec.mounts = vec![mount(
        "/link/x",
        MountKind::Tmpfs { size: None, mode: 0o755, uid: 0, gid: 0, read_only: false },
    )];
    let ran = go(&spec).unwrap();
    assert!(ran.stdout.ends_with("ok\n"), "{ran:?}");
    assert_eq!(store.upper_entries(), [""; 0]);
}

#[test]
fn a_source_that_is_not_there_is_named() {
    let Some(store) = store() else { return };
    let mut spec = store.command(&["true"]);
    let kind = MountKind::Bind { source: store.layer("host"), subpath: "none".into(), read_only: true };
    spec.mounts = vec![mount("/x", kind)];
    let error = go(&spec).unwrap_err().to_string();
    assert_eq!(error, "sandbox: opening the source of the mount /x: No such file or directory (os error 2)");
    assert_eq!(store.upper_entries(), [""; 0]);
}

#[test]
fn an_insecure_step_sees_what_is_masked_otherwise() {
    let Some(store) = store() else { return };
    let script = "head -c 1 /proc/kcore | wc -c; ls /sys/firmware | wc -l; [ -w /proc/sys/kernel/hostname ] && echo rw; \
                  [ -w /proc/sysrq-trigger ] && echo rw; true";
    let masked = store.sh(script);
    assert_eq!(masked.lines().next(), Some("0"));
    assert!(masked.lines().count() >= 2);
    let mut spec = store.shell("echo x >/proc/sys/kernel/domainname && cat /proc/sys/kernel/domainname");
    assert_ne!(go(&spec).unwrap().code(), 0);
    spec.security = Security::Insecure;
    // The host's settings belong to the host's root; to that of a user namespace they stay shut.
    let is_hosts_root = fs::read_to_string("/proc/self/uid_map").unwrap().contains("4294967295");
    assert_eq!(go(&spec).unwrap().stdout, if is_hosts_root { "x\n" } else { "" });
}

#[test]
fn stubs_below_the_layers_take_the_place_of_those_above_unless_they_would_be_seen() {
    let Some(store) = store() else { return };
    for name in ["etc/hosts", "etc/resolv.conf"] {
        let file = store.layer("stubs/etc").parent().unwrap().join(name);
        fs::write(file, "").unwrap();
    }
    let with_stubs = |script: &str| {
        let mut spec = store.shell(script);
        spec.rootfs.stubs = Some(store.path("stubs"));
        spec
    };
    let ran =
        go(&with_stubs("grep -c localhost /etc/hosts; ls /etc; echo x > /etc/new; rm /etc/hosts")).unwrap();
    assert_eq!(ran.stdout, "2\nhosts\npasswd\nresolv.conf\n");
    assert!(ran.stderr.contains("busy"), "{}", ran.stderr);
    assert_eq!(store.upper_entries(), ["etc", "etc/new"]);

    // The image's own is meant, and there is none.
    let mut spec = with_stubs("ls /etc");
    spec.dns.image_hosts = true;
    assert_eq!(go(&spec).unwrap().stdout, "new\npasswd\nresolv.conf\n");
    assert_eq!(store.upper_entries(), ["etc", "etc/new"]);

    // What hides them in a layer hides them from the step, which has its stubs above then.
    let mut spec = with_stubs("cat /else/hosts /etc/resolv.conf > /dev/null && ls -d /etc/hosts");
    fs::create_dir_all(store.path("link/else")).unwrap();
    symlink("else", store.path("link/etc")).unwrap();
    fs::remove_dir_all(store.path("upper/etc")).unwrap();
    spec.rootfs.layers.push(store.path("link"));
    let ran = go(&spec).unwrap();
    assert_eq!((ran.code(), ran.stdout.as_str()), (0, "/etc/hosts\n"), "{ran:?}");
    assert_eq!(store.upper_entries(), [""; 0]);
}
