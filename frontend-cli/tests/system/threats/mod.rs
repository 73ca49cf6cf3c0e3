//! What a hostile Dockerfile, base image or step tries (the rows of SECURITY.md), as root and as an ordinary user.

mod archives;
mod dockerfile;
mod kernel;
mod page;
mod root_fs;
mod secrets;
mod sources;
mod store;

use std::path::{Path, PathBuf};

use crate::kiln::{Ended, Kiln, facts};
use crate::ordinary::Ordinary;

/// Who builds.
enum Who {
    Root(Kiln, tempfile::TempDir),
    User(Ordinary),
}

impl Who {
    /// Root, and an ordinary user where one can be made; none where there are no base images.
    fn all(test: &str) -> Vec<Who> {
        let root = Kiln::new(test).map(|kiln| Who::Root(kiln, tempfile::tempdir().unwrap()));
        root.into_iter().chain(Ordinary::new(test).map(Who::User)).collect()
    }

    fn folder(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        match self {
            Who::User(user) => user.folder(name, files),
            Who::Root(_, home) => {
                let folder = home.path().join(name);
                std::fs::create_dir_all(&folder).unwrap();
                for (path, text) in files {
                    let path = folder.join(path);
                    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                    std::fs::write(path, text).unwrap();
                }
                folder
            }
        }
    }

    fn store(&self) -> PathBuf {
        match self {
            Who::User(user) => user.home().join(".local/share/kiln"),
            Who::Root(kiln, _) => kiln.root(),
        }
    }

    /// `kiln build` with a variable in its environment.
    fn build_with(&self, folder: &Path, env: (&str, &str), words: &[&str]) -> Ended {
        let line = [&["build", "--progress=plain"], words].concat();
        let mut command = match self {
            Who::User(user) => {
                let kiln = user.home().join("kiln");
                let mut command = user.command(folder, kiln.to_str().unwrap());
                command.args(line);
                command
            }
            Who::Root(kiln, _) => kiln.command(folder, &line),
        };
        command.env(env.0, env.1).output().unwrap().into()
    }

    /// `kiln` as this user.
    fn call(&self, folder: &Path, words: &[&str]) -> Ended {
        match self {
            Who::User(user) => user.call(folder, words),
            Who::Root(kiln, _) => kiln.call(folder, words),
        }
    }

    fn try_build(&self, folder: &Path, words: &[&str]) -> Ended {
        self.build_with(folder, ("UNUSED", ""), words)
    }

    #[track_caller]
    fn build(&self, folder: &Path, words: &[&str]) -> Ended {
        let ended = self.try_build(folder, words);
        assert_eq!(ended.status, 0, "{}\n{}", ended.stdout, ended.stderr);
        ended
    }

    /// Builds a Dockerfile that must succeed, with a sentinel beside whose path is in place of `SENTINEL`, and looks
    /// that nothing has become of the sentinel.
    #[track_caller]
    fn survives(&self, name: &str, dockerfile: &str) -> Ended {
        let (ended, sound) = self.attempt(name, dockerfile);
        assert!(sound, "the sentinel was changed\n{}", ended.stderr);
        assert_eq!(ended.status, 0, "{}", ended.stderr);
        ended
    }

    /// As [`Who::survives`], of a build that must fail with an error that has `words`.
    #[track_caller]
    fn refuses(&self, name: &str, dockerfile: &str, words: &str) -> Ended {
        let (ended, sound) = self.attempt(name, dockerfile);
        assert!(sound, "the sentinel was changed\n{}", ended.stderr);
        assert_ne!(ended.status, 0, "{}", ended.stderr);
        let error = ended.stderr.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
        assert!(error.contains(words), "`{words}` is not in `{error}`\n{}", ended.stderr);
        ended
    }

    /// Runs commands in a step, each of which must fail with its words.
    #[track_caller]
    fn denies(&self, name: &str, before: &str, commands: &[(&str, &str)]) {
        let lines: String = commands
            .iter()
            .map(|(command, words)| {
                format!("if said=$({command} 2>&1); then echo did: '{command}'; exit 1; fi\ncase $said in *'{words}'*) ;; *) echo said: $said; exit 1;; esac\n")
            })
            .collect();
        self.survives(name, &format!("FROM busybox\n{before}\nRUN <<EOF\n{lines}EOF\n"));
    }

    fn attempt(&self, name: &str, dockerfile: &str) -> (Ended, bool) {
        let sentinel =
            self.folder(&format!("{name}-sentinel"), &[("file", "untouched"), ("dir/x", "untouched")]);
        let text = dockerfile.replace("SENTINEL", sentinel.to_str().unwrap());
        let folder = self.folder(name, &[("Dockerfile", &text), ("file", "context")]);
        let before = facts(&sentinel);
        let ended = self.try_build(&folder, &["-t", name, "."]);
        assert!(!ended.stderr.contains("untouched"), "the sentinel was read\n{}", ended.stderr);
        (ended, before == facts(&sentinel))
    }
}
