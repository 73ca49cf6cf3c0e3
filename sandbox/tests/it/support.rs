//! A root file system of busybox, made anew for every test.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;

use kiln_sandbox::{
    Binfmt, Capabilities, Dns, Exit, ExitStatus, Identity, Io, Limits, Mount, MountKind, Network, OciRuntime,
    Output, Rootfs, SandboxError, Security, SecurityOptions, Spec,
};

/// Directories of one test's store.
pub struct Store {
    pub directory: tempfile::TempDir,
}

/// What a command said and how it ended.
#[derive(Debug)]
pub struct Ran {
    pub exit: Exit,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn code(&self) -> i32 {
        match self.exit.status {
            ExitStatus::Code(code) => code,
            ExitStatus::Signal(signal) => 128 + signal,
        }
    }
}

/// A store with one busybox layer; `None`, with a word why, where this machine cannot run the test.
pub fn store() -> Option<Store> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root (overlayfs and namespaces)");
        return None;
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].iter().find(|path| Path::new(path).exists());
    let Some(busybox) = busybox else {
        eprintln!("skipped: needs Debian's busybox-static");
        return None;
    };
    let directory = tempfile::tempdir().unwrap();
    let store = Store { directory };
    let layer = store.layer("base");
    for name in ["bin", "etc", "tmp", "root", "proc", "usr/bin", "work"] {
        fs::create_dir_all(layer.join(name)).unwrap();
    }
    // By another process: what this one has open for writing is, for a moment, open in every child that another thread
    // starts, and the kernel does not run it then (execve(2), ETXTBSY).
    let copied = Command::new("cp").arg(busybox).arg(layer.join("bin/busybox")).status().unwrap();
    assert!(copied.success());
    let list = Command::new(busybox).arg("--list").output().unwrap();
    for applet in String::from_utf8(list.stdout).unwrap().lines() {
        if applet != "busybox" {
            symlink("busybox", layer.join("bin").join(applet)).unwrap();
        }
    }
    fs::write(layer.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").unwrap();
    store.upper();
    Some(store)
}

impl Store {
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A layer's directory, made if absent.
    pub fn layer(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    pub fn upper(&self) -> PathBuf {
        self.layer("upper")
    }

    /// A spec that runs `script` by the shell as root.
    pub fn shell(&self, script: &str) -> Spec {
        self.command(&["/bin/sh", "-c", script])
    }

    pub fn command(&self, argv: &[&str]) -> Spec {
        let work = self.path("work-directory");
        let _ = fs::remove_dir_all(&work);
        fs::create_dir_all(&work).unwrap();
        Spec {
            rootfs: Rootfs {
                layers: vec![self.path("base")],
                upper: self.upper(),
                work,
                stubs: None,
                trees: None,
            },
            argv: argv.iter().map(OsString::from).collect(),
            env: vec!["PATH=/bin:/usr/bin".into()],
            cwd: "/".into(),
            identity: Identity { uid: 0, gid: 0, groups: vec![], keeps_groups: false, home: "/root".into() },
            hostname: "box".into(),
            mounts: vec![],
            network: Network::None,
            extra_hosts: vec![],
            dns: Dns::default(),
            security: Security::Sandbox,
            capabilities: Capabilities::default(),
            options: SecurityOptions::default(),
            binfmt: Binfmt::AsIs,
            limits: Limits::default(),
            io: Io::Captured,
        }
    }

    /// Runs a shell script and gives its standard output.
    pub fn sh(&self, script: &str) -> String {
        let ran = go(&self.shell(script)).unwrap();
        assert_eq!(ran.code(), 0, "{ran:?}");
        ran.stdout
    }

    /// The same on a network.
    pub fn sh_on(&self, network: &Network, script: &str) -> String {
        let mut spec = self.shell(script);
        spec.network = network.clone();
        let ran = go(&spec).unwrap();
        assert_eq!(ran.code(), 0, "{ran:?}");
        ran.stdout
    }

    /// Every path of the upper directory.
    pub fn upper_entries(&self) -> Vec<String> {
        fn walk(directory: &Path, base: &Path, found: &mut Vec<String>) {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                found.push(path.strip_prefix(base).unwrap().to_str().unwrap().to_owned());
                if path.symlink_metadata().unwrap().is_dir() {
                    walk(&path, base, found);
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.upper(), &self.upper(), &mut found);
        found.sort();
        found
    }
}

pub fn go(spec: &Spec) -> Result<Ran, SandboxError> {
    // overlayfs refuses a work directory that a volatile mount has used.
    let _ = fs::remove_dir_all(&spec.rootfs.work);
    fs::create_dir_all(&spec.rootfs.work).unwrap();
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut output = |stream, bytes: &[u8]| match stream {
        Output::Stdout => stdout.extend_from_slice(bytes),
        Output::Stderr => stderr.extend_from_slice(bytes),
    };
    let exit = run(spec, &mut output, &AtomicBool::new(false))?;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Ok(Ran { exit, stdout: text(&stdout), stderr: text(&stderr) })
}

/// Runs by the embedded sandbox, or by the OCI runtime that `KILN_TEST_RUNTIME` names: `.ci/run` does both.
pub fn run(
    spec: &Spec,
    output: &mut dyn FnMut(Output, &[u8]),
    cancel: &AtomicBool,
) -> Result<Exit, SandboxError> {
    match runtime() {
        Some(runtime) => runtime.run(spec, output, cancel),
        None => kiln_sandbox::run(spec, output, cancel),
    }
}

/// A time to sleep for that nothing else on this machine sleeps for: by it processes are known among all others.
pub fn long_time(seconds: u32) -> String {
    format!("{seconds}.{}", std::process::id())
}

/// Processes of this machine whose command line has that time.
pub fn processes_with(time: &str) -> usize {
    let command_line = |entry: fs::DirEntry| fs::read(entry.path().join("cmdline")).unwrap_or_default();
    let has_time = |line: &Vec<u8>| {
        let line = String::from_utf8_lossy(line);
        line.split(time).skip(1).any(|rest| !rest.starts_with(|next: char| next.is_ascii_digit()))
    };
    fs::read_dir("/proc").unwrap().flatten().map(command_line).filter(has_time).count()
}

/// The runtime that the tests are for.
pub fn runtime() -> Option<OciRuntime> {
    std::env::var_os("KILN_TEST_RUNTIME").map(|program| OciRuntime::new(program).unwrap())
}

/// Lets a shell script run a test of this very binary as a program inside: the mounts that it needs, and its command.
pub fn own_program(test: &str) -> (Vec<Mount>, String) {
    let own = std::env::current_exe().unwrap();
    let bind =
        |source: &Path| MountKind::Bind { source: source.to_owned(), subpath: "".into(), read_only: true };
    let mut mounts = vec![
        mount("/client", bind(own.parent().unwrap())),
        mount("/usr", bind("/usr".as_ref())),
        mount("/lib", bind("/lib".as_ref())),
    ];
    if fs::exists("/lib64").unwrap() {
        mounts.push(mount("/lib64", bind("/lib64".as_ref())));
    }
    let command = format!("/client/{} --exact {test} --nocapture", own.file_name().unwrap().display());
    (mounts, command)
}

pub fn mount(target: &str, kind: MountKind) -> Mount {
    Mount { target: target.into(), kind, no_exec: false }
}

/// Whether what a test needs has to be there: in CI, for the machine's own root. Root of a user namespace may lack it.
pub fn is_root_in_ci() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let is_initial = map.split_whitespace().eq(["0", "0", "4294967295"]);
    std::env::var_os("CI").is_some() && is_initial && rustix::process::geteuid().is_root()
}
