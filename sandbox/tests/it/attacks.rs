//! Attacks from inside, and by images.

use std::fs;
use std::os::unix::fs::symlink;

use kiln_sandbox::{MountKind, SandboxError};

use crate::support::{Store, go, mount, own_program, runtime, store};

/// A file outside whose bytes and existence must not change.
fn sentinel(store: &Store) -> std::path::PathBuf {
    let path = store.path("sentinel");
    fs::write(&path, "untouched").unwrap();
    path
}

#[test]
fn only_the_standard_descriptors_are_open() {
    let Some(store) = store() else { return };
    let _inheritable =
        rustix::fs::open(store.path("base").as_path(), rustix::fs::OFlags::PATH, rustix::fs::Mode::empty());
    // The last one is that of ls itself.
    assert_eq!(store.sh("ls /proc/self/fd; ls /proc/$$/fd; true"), "0\n1\n2\n3\n0\n1\n2\n");
}

#[test]
fn a_working_directory_by_a_descriptor_is_refused() {
    let Some(store) = store() else { return };
    symlink("/proc/self/fd/7", store.path("base/link")).unwrap();
    for number in 3..64 {
        let mut spec = store.shell("pwd; ls ../../..");
        spec.cwd = format!("/proc/self/fd/{number}").into();
        let error = go(&spec).unwrap_err();
        assert!(matches!(error, SandboxError::Setup { .. }), "{error}");
    }
    let mut spec = store.shell("pwd");
    spec.cwd = "/link".into();
    assert!(go(&spec).is_err());
}

#[test]
fn the_engines_program_cannot_be_executed_inside() {
    let Some(store) = store() else { return };
    let sh = store.path("base/bin/evil");
    symlink("/proc/self/exe", &sh).unwrap();
    fs::write(store.path("base/bin/script"), "#!/proc/self/exe\n").unwrap();
    fs::write(store.path("base/bin/nested"), "#!/bin/script x\n").unwrap();
    for name in ["script", "nested"] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(store.path("base/bin").join(name), mode).unwrap();
    }
    for command in ["evil", "/bin/evil", "script", "nested"] {
        let ended = go(&store.command(&[command]));
        if runtime().is_some() {
            // Runtimes have ways of their own against it: what is executed is not there, or a copy that fails.
            assert!(!ended.is_ok_and(|ran| ran.code() == 0), "{command}");
            continue;
        }
        let error = ended.unwrap_err();
        assert!(matches!(error, SandboxError::NotExecutable { .. }), "{command}: {error}");
    }
}

#[test]
fn the_engines_environment_and_program_cannot_be_read() {
    let Some(store) = store() else { return };
    // Cargo sets it in the test's own environment.
    assert!(std::env::var("CARGO_MANIFEST_DIR").is_ok(), "run by cargo");
    let ran =
        go(&store.shell("cat /proc/*/environ | tr '\\0' '\\n'; readlink /proc/1/exe; cat /proc/1/cmdline"))
            .unwrap();
    assert!(!ran.stdout.contains("CARGO"), "{ran:?}");
    assert!(!ran.stdout.contains("kiln"), "{ran:?}");
    // Not even of a parent: what watches the command is in another process namespace.
    assert_eq!(store.sh("echo $PPID"), "0\n");
}

#[test]
fn masks_do_not_use_the_images_files() {
    let Some(store) = store() else { return };
    fs::create_dir(store.path("base/dev")).unwrap();
    symlink("/proc/sys/kernel/core_pattern", store.path("base/dev/null")).unwrap();
    assert_eq!(
        store.sh("cat /proc/keys /proc/timer_list; stat -c %F /dev/null; echo x >/dev/null"),
        "character special file\n"
    );
}

#[test]
fn an_image_whose_kernel_directories_are_links_is_refused() {
    let Some(store) = store() else { return };
    for name in ["proc", "sys", "dev"] {
        let path = store.path("base").join(name);
        let _ = fs::remove_dir(&path);
        symlink("/../../tmp", &path).unwrap();
        let error = go(&store.command(&["true"])).unwrap_err();
        assert!(matches!(error, SandboxError::Setup { .. }), "{error}");
        fs::remove_file(&path).unwrap();
    }
    assert_eq!(store.upper_entries(), [""; 0]);
}

#[test]
fn nothing_is_mounted_into_proc() {
    let Some(store) = store() else { return };
    symlink("/proc/self", store.path("base/link")).unwrap();
    for target in ["/proc", "/proc/sys", "/link/attr", "/x/../proc/1"] {
        let mut spec = store.command(&["true"]);
        spec.mounts = vec![mount(
            target,
            MountKind::Tmpfs { size: None, mode: 0o755, uid: 0, gid: 0, read_only: false },
        )];
        assert!(go(&spec).is_err(), "{target}");
    }
}

#[test]
fn links_of_the_image_stay_in_the_root() {
    let Some(store) = store() else { return };
    let sentinel = sentinel(&store);
    let outside = store.layer("outside");
    let base = store.path("base");
    symlink(format!("/../../../..{}", outside.display()), base.join("app")).unwrap();
    symlink(&sentinel, base.join("etc/resolv.conf")).unwrap();
    let mut spec = store.shell("pwd; touch made");
    spec.cwd = "/app/new".into();
    spec.mounts = vec![mount(
        "/app/mount",
        MountKind::Tmpfs { size: None, mode: 0o755, uid: 0, gid: 0, read_only: false },
    )];
    let ran = go(&spec).unwrap();
    assert_eq!(ran.stdout.trim(), format!("{}/new", outside.display()));
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    assert_eq!(fs::read_to_string(&sentinel).unwrap(), "untouched");
}

#[test]
fn clean_up_removes_only_what_was_made() {
    let Some(store) = store() else { return };
    let sentinel = sentinel(&store);
    // The parent of the mount point is moved away and replaced by a link, then by a directory like it.
    for script in [
        format!("mv /made /moved; ln -s {} /made", store.directory.path().display()),
        "mv /made /moved; mkdir -p /made/point".to_owned(),
    ] {
        fs::remove_dir_all(store.upper()).unwrap();
        let mut spec = store.shell(&script);
        spec.rootfs.upper = store.upper();
        let bind = MountKind::Tmpfs { size: None, mode: 0o755, uid: 0, gid: 0, read_only: false };
        spec.mounts = vec![mount("/made/point", bind)];
        let ran = go(&spec).unwrap();
        assert_eq!(ran.code(), 0, "{ran:?}");
        assert_eq!(fs::read_to_string(&sentinel).unwrap(), "untouched");
        assert!(store.upper().join("made").symlink_metadata().is_ok());
    }
    assert!(store.upper().join("made/point").is_dir());
}

#[test]
fn a_source_that_is_a_link_stays_in_its_tree() {
    let Some(store) = store() else { return };
    let host = store.layer("host");
    symlink("/", host.join("d")).unwrap();
    fs::write(host.join("own"), "").unwrap();
    let kinds = [
        MountKind::Bind { source: host.clone(), subpath: "d".into(), read_only: false },
        MountKind::Layers { layers: vec![host.clone()], subpath: "d".into(), scratch: None },
        MountKind::Bind { source: host.clone(), subpath: "../../..".into(), read_only: false },
    ];
    for kind in kinds {
        let mut spec = store.shell("ls /x");
        spec.mounts = vec![mount("/x", kind)];
        assert_eq!(go(&spec).unwrap().stdout, "d\nown\n");
    }
}

#[test]
fn control_groups_and_sysfs_are_read_only() {
    let Some(store) = store() else { return };
    let ran = go(&store.shell("mkdir /sys/fs/cgroup/x; mount | grep -c ' /sys.*[(]ro'")).unwrap();
    assert!(ran.stderr.contains("Read-only"), "{ran:?}");
}

#[test]
fn the_filter_refuses_mounts_namespaces_and_device_nodes_do_not_work() {
    let Some(store) = store() else { return };
    for (script, words) in [
        ("mount -t tmpfs none /tmp", "permission denied"),
        ("unshare -m true", "Operation not permitted"),
        ("unshare -U true", "Operation not permitted"),
        ("umount /proc", "Operation not permitted"),
        ("hostname x", "Operation not permitted"),
    ] {
        let ran = go(&store.shell(script)).unwrap();
        assert!(ran.code() != 0 && ran.stderr.contains(words), "{script}: {ran:?}");
    }
    for place in ["/tmp", "/dev"] {
        // The first loop device: without a rule it would open, or say that it has no such driver.
        let ran = go(&store.shell(&format!("mknod {place}/x b 7 0 && head -c 1 {place}/x"))).unwrap();
        // In a user namespace the kernel refuses to make the node at all.
        let refused = ["Permission denied", "Operation not permitted"];
        assert!(refused.iter().any(|words| ran.stderr.contains(words)), "{ran:?}");
    }
}

#[test]
fn nothing_of_the_hosts_mounts_is_seen() {
    let Some(store) = store() else { return };
    let mounts = store.sh("cat /proc/self/mountinfo");
    assert!(mounts.lines().all(|line| !line.contains(" /sandboxing")), "{mounts}");
    assert_eq!(mounts.lines().filter(|line| line.split(' ').nth(4) == Some("/")).count(), 1, "{mounts}");
}

#[test]
fn the_filter_refuses_kernel_crypto_sockets() {
    let Some(store) = store() else { return };
    let (mounts, program) = own_program("attacks::a_program_that_opens_sockets");
    let mut spec = store.shell(&program);
    spec.env.push("KILN_TEST_SOCKETS=1".into());
    spec.mounts = mounts;
    let ran = go(&spec).unwrap();
    assert!(ran.stdout.contains("alg PERM unix ok"), "{ran:?}");
}

/// Not a test but the program that the one above runs inside.
#[test]
fn a_program_that_opens_sockets() {
    use rustix::net::{AddressFamily, SocketType, socket};
    if std::env::var_os("KILN_TEST_SOCKETS").is_none() {
        return;
    }
    let alg = socket(AddressFamily::from_raw(38), SocketType::SEQPACKET, None);
    let unix = socket(AddressFamily::UNIX, SocketType::STREAM, None);
    let alg = if alg.err() == Some(rustix::io::Errno::PERM) { "PERM" } else { "not refused" };
    println!("alg {alg} unix {}", if unix.is_ok() { "ok" } else { "no" });
}

#[test]
fn a_mount_point_that_is_swapped_for_a_link_never_leads_out() {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use std::sync::atomic::{AtomicBool, Ordering};
    let Some(store) = store() else { return };
    let outside = store.layer("outside");
    let cache = store.layer("cache");
    fs::create_dir(cache.join("sub")).unwrap();
    let up = "../".repeat(20);
    symlink(format!("{up}{}", outside.display()), cache.join("link")).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let (a, b) = (cache.join("sub"), cache.join("link"));
                renameat_with(CWD, &a, CWD, &b, RenameFlags::EXCHANGE).unwrap();
            }
        });
        for _ in 0..20 {
            let bind = |subpath: &str| MountKind::Bind {
                source: cache.clone(),
                subpath: subpath.into(),
                read_only: false,
            };
            let mut spec = store.shell("touch /cache/sub/made/BREAKOUT /source/BREAKOUT");
            spec.mounts = vec![
                mount("/cache", bind("")),
                mount(
                    "/cache/sub/made",
                    MountKind::Tmpfs { size: None, mode: 0o755, uid: 0, gid: 0, read_only: false },
                ),
                mount("/source", bind("sub")),
            ];
            // Either it works inside or it fails; what matters is outside.
            let _ = go(&spec);
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}
