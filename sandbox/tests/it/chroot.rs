//! Steps without namespaces: the same layers, and nothing left behind.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kiln_sandbox::{Chroot, ExitStatus, MountKind, Network, Output, SandboxError, Security, Spec, Trees};

use crate::support::{Ran, Store, mount, store};

/// A store, where device nodes can be made.
fn chroot_store() -> Option<Store> {
    let store = store()?;
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    if !map.split_whitespace().eq(["0", "0", "4294967295"]) {
        eprintln!("skipped: needs root to make device nodes");
        return None;
    }
    Some(store)
}

/// The spec of a script on the network that is there.
fn script(store: &Store, text: &str) -> Spec {
    let mut spec = store.shell(text);
    spec.network = Network::Host;
    spec
}

fn go(spec: &Spec) -> Result<Ran, SandboxError> {
    let _ = fs::remove_dir_all(&spec.rootfs.work);
    fs::create_dir_all(&spec.rootfs.work).unwrap();
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut output = |stream, bytes: &[u8]| match stream {
        Output::Stdout => stdout.extend_from_slice(bytes),
        Output::Stderr => stderr.extend_from_slice(bytes),
    };
    let exit = Chroot.run(spec, &mut output, &AtomicBool::new(false))?;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Ok(Ran { exit, stdout: text(&stdout), stderr: text(&stderr) })
}

/// All that a layer says of a tree, but times of directories that the test itself has made.
fn facts(root: &Path) -> Vec<String> {
    fn walk(at: &Path, root: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            let kind = meta.file_type();
            let what = if kind.is_char_device() && meta.rdev() == 0 {
                "whiteout".to_owned()
            } else if kind.is_dir() {
                let mut value = [0; 8];
                let opaque = rustix::fs::lgetxattr(&path, "trusted.overlay.opaque", &mut value).is_ok();
                format!("directory {}", if opaque { "opaque" } else { "" })
            } else if kind.is_symlink() {
                format!("link to {}", fs::read_link(&path).unwrap().display())
            } else {
                format!(
                    "file of {} {:?} links {}",
                    meta.size(),
                    kind.is_file().then(|| fs::read(&path).unwrap()),
                    meta.nlink()
                )
            };
            let owner = (meta.uid(), meta.gid(), meta.permissions().mode());
            let owner = if what == "whiteout" { (0, 0, 0) } else { owner };
            found.push(format!("{} {what} {owner:?}", path.strip_prefix(root).unwrap().display()));
            if kind.is_dir() {
                walk(&path, root, found);
            }
        }
    }
    let mut found = Vec::new();
    walk(root, root, &mut found);
    found.sort();
    found
}

#[test]
fn a_layer_is_what_the_embedded_executor_makes() {
    let Some(store) = chroot_store() else { return };
    let low = store.layer("low");
    fs::create_dir_all(low.join("d/sub/deep")).unwrap();
    for name in ["d/file", "d/locked", "d/sub/one", "d/sub/deep/two", "in-place", "moved", "linked"] {
        fs::write(low.join(name), name).unwrap();
    }
    fs::create_dir_all(low.join("run")).unwrap();
    let text = "set -e; echo more >>/in-place; : >>/d/locked; rm /d/file; rm -r /d/sub; mkdir /d/sub; echo new >/d/sub/new; \
                mv /moved /elsewhere; ln /linked /hard; chmod 700 /usr; mkdir -p /a/b; mkfifo /a/pipe; \
                ln -s /nowhere /a/link; chown 5:6 /a/b; chmod 6755 /a/b; echo x >/tmp/x; rm /tmp/x; echo y >/etc/passwd; \
                rm -r /work; echo z >/work; touch -t 200001010000 /a/old; dd if=/dev/zero of=/a/sparse bs=1 count=1 seek=100000 2>/dev/null";
    let mut spec = script(&store, text);
    spec.cwd = "/made/here".into();
    spec.rootfs.layers.push(low.clone());
    spec.mounts = vec![
        mount(
            "/run/secrets/key",
            MountKind::File { contents: b"canary".to_vec(), mode: 0o400, uid: 0, gid: 0 },
        ),
        mount("/cover", MountKind::Tmpfs { size: None, mode: 0o755, uid: 0, gid: 0, read_only: false }),
    ];
    assert_eq!(crate::support::go(&spec).unwrap().code(), 0);
    let by_embedded = facts(&store.upper());
    fs::rename(store.upper(), store.path("embedded")).unwrap();

    store.upper();
    let ran = go(&spec).unwrap();
    assert_eq!(ran.code(), 0, "{ran:?}");
    assert_eq!(facts(&store.upper()), by_embedded);
    let time = |upper: &Path| fs::metadata(upper.join("a/old")).unwrap().mtime();
    assert_eq!(time(&store.upper()), time(&store.path("embedded")));
    // The layers below are as they were.
    assert_eq!(fs::read_to_string(low.join("in-place")).unwrap(), "in-place");
}

#[test]
fn steps_in_a_row_copy_their_base_once_and_see_what_was_made() {
    let Some(store) = chroot_store() else { return };
    let folder = store.layer("trees");
    let trees = Arc::new(Trees::new(&folder));
    let mut layers = vec![store.path("base")];
    let step = |layers: &[std::path::PathBuf], name: &str, text: &str| {
        let mut spec = script(&store, text);
        let upper = store.layer(name);
        spec.rootfs.layers = layers.to_vec();
        spec.rootfs.upper = upper.clone();
        spec.rootfs.trees = Some(Arc::clone(&trees));
        let ran = go(&spec).unwrap();
        assert_eq!(ran.code(), 0, "{ran:?}");
        // The store gives layers another name.
        let kept = store.path(&format!("layer-{name}"));
        fs::rename(upper, &kept).unwrap();
        kept
    };
    layers.push(step(&layers, "one", "echo 1 >/one"));
    // What COPY would make lies between.
    let copied = store.layer("copied");
    fs::write(copied.join("two"), "2\n").unwrap();
    layers.push(copied);
    layers.push(step(&layers, "three", "cat /one /two >/three; rm /one; echo x >>/two"));
    assert_eq!(fs::read_to_string(layers[3].join("three")).unwrap(), "1\n2\n");
    assert_eq!(facts(&layers[3]).len(), 3, "{:?}", facts(&layers[3]));
    assert_eq!(fs::read_to_string(layers[2].join("two")).unwrap(), "2\n", "layers are no part of the tree");
    // A layer made by a step is no part of it either.
    layers.push(step(&layers, "four", "echo changed >/three"));
    assert_eq!(fs::read_to_string(layers[3].join("three")).unwrap(), "1\n2\n");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    // A stage from the same base gets a tree of its own.
    let other = step(&layers[..1], "other", "! test -e /three && ! test -e /two && echo o >/o");
    assert_eq!(facts(&other).len(), 1);
}

#[test]
fn what_a_step_leaves_running_dies_with_it() {
    let Some(store) = chroot_store() else { return };
    let spec = script(
        &store,
        "for i in 1 2 3; do (setsid sh -c 'trap \"\" TERM HUP; while :; do (sleep 0.01; echo late >>/late) & sleep 0.01; done' &) ; done; \
         while ! test -s /late; do sleep 0.01; done; exit 0",
    );
    let ran = go(&spec).unwrap();
    assert_eq!(ran.code(), 0, "{ran:?}");
    let own = format!("{}/tree", spec.rootfs.work.display());
    let left: Vec<_> = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.unwrap().path().join("root")).ok())
        .filter(|root| root.to_string_lossy().starts_with(&own))
        .collect();
    assert_eq!(left, [""; 0].map(std::path::PathBuf::from));
}

#[test]
fn mounts_leave_nothing_but_what_a_cache_keeps() {
    let Some(store) = chroot_store() else { return };
    let cache = store.layer("cache");
    fs::create_dir(cache.join("sub")).unwrap();
    fs::write(cache.join("sub/old"), "old").unwrap();
    fs::write(cache.join("settings"), "kept").unwrap();
    let (scripts, tools) = (store.layer("scripts"), store.layer("tools"));
    fs::write(scripts.join("s"), "script").unwrap();
    fs::create_dir_all(tools.join("opt/real")).unwrap();
    std::os::unix::fs::symlink("/opt/real", tools.join("opt/link")).unwrap();
    fs::write(tools.join("opt/real/tool"), "tool").unwrap();
    let with = |text: &str| {
        let mut spec = script(&store, text);
        let file =
            |contents: &[u8]| MountKind::File { contents: contents.to_vec(), mode: 0o440, uid: 7, gid: 8 };
        spec.mounts = vec![
            mount("/cache", MountKind::Bind { source: cache.clone(), subpath: "".into(), read_only: false }),
            mount("/cache/settings", file(b"canary")),
            mount(
                "/scripts",
                MountKind::Bind { source: scripts.clone(), subpath: "".into(), read_only: true },
            ),
            mount(
                "/opt/tools",
                MountKind::Layers { layers: vec![tools.clone()], subpath: "opt/link".into(), scratch: None },
            ),
            mount("/root/.key", file(b"canary")),
        ];
        spec
    };
    let spec = with(
        "set -e; cat /cache/sub/old /cache/settings /scripts/s /opt/tools/tool /root/.key; stat -c %u:%g:%a /root/.key; \
         echo new >/cache/new; rm /cache/sub/old; echo lost >/scripts/lost; rm -r /opt/tools/*; \
         echo out >/cache/out; mv /cache/out /out",
    );
    let ran = go(&spec).unwrap();
    assert_eq!((ran.code(), ran.stdout.as_str()), (0, "oldcanaryscripttoolcanary7:8:440\n"), "{ran:?}");
    assert_eq!(store.upper_entries(), ["out"]);
    let names = || {
        let mut names: Vec<_> =
            facts(&cache).iter().map(|fact| fact.split(' ').next().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(names(), ["new", "settings", "sub"]);
    assert_eq!(fs::read_to_string(cache.join("settings")).unwrap(), "kept");
    assert!(!scripts.join("lost").exists() && tools.join("opt/real/tool").exists());

    // However it ends, and wherever a secret was put: the file itself is no part of a layer.
    fs::remove_dir_all(store.upper()).unwrap();
    store.upper();
    let ran = go(&with("echo failed >/cache/failed; mv /root/.key /moved; ln /cache/settings /linked; mv /cache /gone; false")).unwrap();
    assert_eq!(ran.exit.status, ExitStatus::Code(1));
    assert_eq!(names(), ["failed", "new", "settings", "sub"]);
    assert_eq!(fs::read_to_string(cache.join("settings")).unwrap(), "kept");
    // Moving it changed the directory that it was shown in.
    assert_eq!(store.upper_entries(), ["root"]);
}

#[test]
fn a_step_does_not_come_out_of_its_root() {
    let Some(store) = chroot_store() else { return };
    let sentinel = store.path("sentinel");
    fs::write(&sentinel, "untouched").unwrap();
    let at = sentinel.display();
    let spec = script(
        &store,
        &format!(
            "mkdir /jail; chroot /jail /bin/true; echo $?; cd /; for up in .. ../.. ../../../../../..; do test -e $up{at} && echo escaped; done; \
             mknod /disk b 8 0; ls /proc /sys; ls /dev | sort | tr '\\n' ' '; echo x >/dev/null; cat /dev/null"
        ),
    );
    let ran = go(&spec).unwrap();
    assert!(
        ran.stderr.contains("chroot: can't change root directory to '/jail': Operation not permitted"),
        "{ran:?}"
    );
    assert!(!ran.stdout.contains("escaped"), "{ran:?}");
    assert!(
        ran.stdout
            .ends_with("core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero "),
        "{ran:?}"
    );
    assert_eq!(fs::read_to_string(&sentinel).unwrap(), "untouched");
}

#[test]
fn what_needs_a_namespace_is_refused() {
    let Some(store) = chroot_store() else { return };
    let said = |change: &dyn Fn(&mut Spec)| {
        let mut spec = script(&store, "true");
        change(&mut spec);
        go(&spec).unwrap_err().to_string()
    };
    let network = "sandbox: running by chroot: a step has the container's network: none of its own can be made, and it cannot be without";
    assert_eq!(said(&|spec| spec.network = Network::None), network);
    assert!(said(&|spec| spec.security = Security::Insecure).contains("all that kiln itself may do"));
}

#[test]
fn a_cancelled_step_is_gone_with_all_it_started_and_its_cache_stays() {
    let Some(store) = chroot_store() else { return };
    let cache = store.layer("cache");
    let mut spec = script(&store, "echo 1 >/cache/begun; echo ready; (setsid sleep 1000 &); sleep 1000");
    spec.mounts = vec![mount(
        "/cache",
        MountKind::Bind { source: cache.clone(), subpath: "".into(), read_only: false },
    )];
    fs::create_dir_all(&spec.rootfs.work).unwrap();
    let cancel = AtomicBool::new(false);
    let mut output = |_, _: &[u8]| cancel.store(true, Ordering::Relaxed);
    let ended = Chroot.run(&spec, &mut output, &cancel);
    assert!(matches!(ended, Err(SandboxError::Canceled)), "{ended:?}");
    assert_eq!(fs::read_to_string(cache.join("begun")).unwrap(), "1\n");
    let left = Command::new("find")
        .args(["/proc", "-maxdepth", "2", "-name", "root", "-lname"])
        .arg(format!("{}*", spec.rootfs.work.display()))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&left.stdout), "");
}
