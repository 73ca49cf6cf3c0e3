//! Loopback servers of files and of git repositories.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

/// What the web server knows and was asked.
#[derive(Default)]
struct Site {
    /// Path to bytes and `ETag`.
    files: BTreeMap<String, (Vec<u8>, String)>,
    /// Request lines with their status and `Authorization`.
    seen: Vec<String>,
}

/// A web server with `ETag`s.
pub(crate) struct Web {
    port: u16,
    site: Arc<Mutex<Site>>,
}

impl Web {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let site = Arc::<Mutex<Site>>::default();
        let served = Arc::clone(&site);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let site = Arc::clone(&served);
                std::thread::spawn(move || answer(stream, &site));
            }
        });
        Self { port, site }
    }

    pub(crate) fn put(&self, path: &str, bytes: impl AsRef<[u8]>) -> &Self {
        let bytes = bytes.as_ref().to_vec();
        let etag = format!("\"{}\"", kiln::Digest::of(&bytes).hex());
        self.site.lock().unwrap().files.insert(path.to_owned(), (bytes, etag));
        self
    }

    /// Serves all files below `dir`, as they are.
    pub(crate) fn put_dir(&self, path: &str, dir: &Path) {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let path = format!("{path}/{}", entry.file_name().to_str().unwrap());
            if entry.file_type().unwrap().is_dir() {
                self.put_dir(&path, &entry.path());
            } else {
                self.put(&path, fs::read(entry.path()).unwrap());
            }
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// What was asked since the last call.
    pub(crate) fn seen(&self) -> Vec<String> {
        std::mem::take(&mut self.site.lock().unwrap().seen)
    }
}

fn answer(mut stream: TcpStream, site: &Mutex<Site>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap());
    let mut request = String::new();
    if lines.read_line(&mut request).is_err() || request.is_empty() {
        return;
    }
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line).is_err() || line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    let path = request.split(' ').nth(1).unwrap_or("/");
    let mut site = site.lock().unwrap();
    let found = site.files.get(path.split('?').next().unwrap_or(path)).cloned();
    let (status, body, etag) = match found {
        Some((_, etag)) if headers.get("if-none-match") == Some(&etag) => ("304", Vec::new(), etag),
        Some((bytes, etag)) => ("200", bytes, etag),
        None => ("404", Vec::new(), String::new()),
    };
    let authorization = headers.get("authorization").map(|value| format!(" {value}")).unwrap_or_default();
    site.seen.push(format!("{path} {status}{authorization}"));
    let head = format!(
        "HTTP/1.1 {status} X\r\nETag: {etag}\r\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
}

/// Repositories on `git://`.
pub(crate) struct GitServer {
    dir: tempfile::TempDir,
    port: u16,
}

impl GitServer {
    /// `None`, with a word, where git cannot serve.
    pub(crate) fn start() -> Option<Self> {
        let Ok(version) = Command::new("git").arg("--exec-path").output() else {
            eprintln!("skipped: no git");
            return None;
        };
        let exec_path = String::from_utf8(version.stdout).unwrap();
        let daemon = Path::new(exec_path.trim()).join("git-daemon");
        if !daemon.exists() {
            eprintln!("skipped: no git daemon");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let served = dir.path().to_owned();
        // A daemon for each connection: one that listens by itself could find its port taken by then.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut daemon = Command::new(&daemon)
                    .args(["--inetd", "--export-all"])
                    .arg(format!("--base-path={}", served.display()))
                    .arg(&served)
                    .env("GIT_CONFIG_COUNT", "1")
                    .env("GIT_CONFIG_KEY_0", "safe.directory")
                    .env("GIT_CONFIG_VALUE_0", "*")
                    .stdin(OwnedFd::from(stream.try_clone().unwrap()))
                    .stdout(OwnedFd::from(stream))
                    .stderr(Stdio::null())
                    .spawn()
                    .unwrap();
                std::thread::spawn(move || daemon.wait());
            }
        });
        Some(Self { dir, port })
    }

    pub(crate) fn repository(&self, name: &str) -> Repository {
        let path = self.dir.path().join(name);
        fs::create_dir(&path).unwrap();
        let repository = Repository { path, url: format!("git://127.0.0.1:{}/{name}", self.port) };
        repository.git(&["init", "--quiet", "--initial-branch=main", "."]);
        repository
    }
}

/// A repository with a work tree.
pub(crate) struct Repository {
    path: PathBuf,
    pub(crate) url: String,
}

impl Repository {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn write(&self, path: &str, text: &str) -> &Self {
        let path = self.path.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    /// Commits all there is; returns the commit.
    pub(crate) fn commit(&self) -> String {
        self.git(&["add", "--all", "."]);
        self.git(&["commit", "--quiet", "--allow-empty", "-m", "x"]);
        self.git(&["rev-parse", "HEAD"])
    }

    pub(crate) fn git(&self, arguments: &[&str]) -> String {
        let output = Command::new("git")
            .args(["-c", "protocol.file.allow=always", "-c", "user.name=t", "-c", "user.email=t@example.org"])
            .args(arguments)
            .current_dir(&self.path)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_COMMITTER_DATE", "@1000000000 +0000")
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}
