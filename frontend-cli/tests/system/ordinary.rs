//! Calls the binary as an ordinary user made for the test.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use kiln_fixtures::Bases;

use crate::kiln::Ended;

/// A user of the host with a home folder, a copy of the binary that it may execute, and a store of its own.
pub struct Ordinary {
    name: String,
    home: tempfile::TempDir,
}

impl Ordinary {
    /// `None`, and a printed reason, where no user can be made.
    pub fn new(test: &str) -> Option<Self> {
        if !kiln_fixtures::is_root() {
            eprintln!("skipped {test}: needs root to make a user");
            return None;
        }
        let bases = Bases::get_or_skip(test)?;
        if let Err(error) = Command::new("useradd").arg("--help").output() {
            assert!(std::env::var_os("CI").is_none(), "{test}: useradd: {error}");
            eprintln!("skipped {test}: useradd: {error}");
            return None;
        }
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("kiln-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let home = tempfile::Builder::new().prefix("kiln-home-").tempdir().unwrap();
        let user = Self { name, home };
        let made = accounts("useradd")
            .args(["--no-create-home", "--shell", "/bin/sh", "--home-dir"])
            .arg(user.home())
            .arg(&user.name)
            .output()
            .unwrap();
        assert!(made.status.success(), "useradd: {}", String::from_utf8_lossy(&made.stderr));
        kiln_fixtures::copy_program(env!("CARGO_BIN_EXE_kiln").as_ref(), &user.home().join("kiln"));
        std::fs::copy(bases.registries_conf(), user.home().join("registries.conf")).unwrap();
        user.owns(user.home());
        host(&["chmod", "755"], &[user.home()]);
        Some(user)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Takes the user's subordinate ids away.
    pub fn without_ranges(self) -> Self {
        let ended = accounts("usermod")
            .args(["--del-subuids", "1-4294967294", "--del-subgids", "1-4294967294", &self.name])
            .output()
            .unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        self
    }

    /// A folder of the user's with these files.
    pub fn folder(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let folder = self.home().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        for (path, text) in files {
            let path = folder.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        self.owns(&folder);
        folder
    }

    /// The user's own copy of a folder, with all times.
    pub fn copy_of(&self, from: &Path, name: &str) -> PathBuf {
        let folder = self.home().join(name);
        host(&["cp", "-a", "--"], &[from, &folder]);
        self.owns(&folder);
        folder
    }

    fn owns(&self, path: &Path) {
        host(&["chown", "-Rh", &format!("{0}:{0}", self.name)], &[path]);
    }

    /// A command of the host run as this user, not started yet.
    pub fn command(&self, folder: &Path, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", &self.name, "--regid", &self.name, "--init-groups", "--", program])
            .current_dir(folder)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", self.home())
            .env("CONTAINERS_REGISTRIES_CONF", self.home().join("registries.conf"))
            .stdin(Stdio::null());
        command
    }

    /// `kiln` as this user.
    pub fn call(&self, folder: &Path, words: &[&str]) -> Ended {
        let kiln = self.home().join("kiln");
        self.command(folder, kiln.to_str().unwrap()).args(words).output().unwrap().into()
    }

    #[track_caller]
    pub fn ok(&self, folder: &Path, words: &[&str]) -> Ended {
        let ended = self.call(folder, words);
        assert_eq!(ended.status, 0, "kiln {}\n{}\n{}", words.join(" "), ended.stdout, ended.stderr);
        ended
    }

    #[track_caller]
    pub fn build(&self, folder: &Path, words: &[&str]) -> Ended {
        self.ok(folder, &[&["build", "--progress=plain"], words].concat())
    }

    #[track_caller]
    pub fn run(&self, words: &[&str]) -> String {
        self.ok(self.home(), &[&["run", "--rm"], words].concat()).stdout
    }
}

impl Drop for Ordinary {
    fn drop(&mut self) {
        // The folder goes with the field, as root: subordinate ids own part of it.
        let _ = accounts("userdel").arg("--force").arg(&self.name).output();
    }
}

/// A program that changes the host's accounts, after all those of other tests: by themselves they wait for each other for
/// seconds, and give up then.
fn accounts(program: &str) -> Command {
    let mut command = Command::new("flock");
    command.arg(std::env::temp_dir().join("kiln-test-accounts.lock")).arg(program);
    command
}

#[track_caller]
fn host(words: &[&str], paths: &[&Path]) {
    let ended = Command::new(words[0]).args(&words[1..]).args(paths).output().unwrap();
    assert!(ended.status.success(), "{words:?}: {}", String::from_utf8_lossy(&ended.stderr));
}
