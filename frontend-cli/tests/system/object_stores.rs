//! `--cache-to` and `--cache-from` where objects are: directories, WebDAV, S3, Azure, GitHub Actions.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use kiln_fixtures::Context;
use serde_json::{Value, json};

use crate::kiln::Kiln;
use crate::remote_cache::{flags, folder, image_id, layers, project};

const CANARY: &str = "ObjectStoreCanary";

/// Writes the cache of one machine and reads it on another one.
fn shares(to: &str, from: &str) {
    let (Some(one), Some(two)) = (Kiln::new("object store"), Kiln::new("object store")) else { return };
    let context = project();
    let (to, from) = (format!("--cache-to={to}"), format!("--cache-from={from}"));
    two.build(context.path(), &flags(&[&from])).says("there is no cache");
    let Some(two) = Kiln::new("object store") else { return };
    let ended = one.build(context.path(), &["-t", "it", &to, "."]);
    assert!(!ended.stderr.contains("is not written"), "{}", ended.stderr);
    let id = image_id(&one, &context, &[]);

    let ended = two.build(context.path(), &flags(&[&from]));
    assert_eq!(ended.steps(), (0, 7), "{}", ended.stderr);
    assert_eq!(layers(&two), 0, "nothing is fetched before it is needed");
    let shown = |kiln: &Kiln| {
        let history = kiln.ok(context.path(), &["history", "--format=json", "--no-trunc", "it"]).stdout;
        format!("{}{history}", kiln.ok(context.path(), &["inspect", "it"]).stdout)
    };
    assert_eq!(image_id(&two, &context, &[&from]), id, "{}{}", shown(&one), shown(&two));
    assert_eq!(two.run(&["it"]), "lib\nmain\n");
    // What is there is not written again.
    let ended = one.build(context.path(), &flags(&[&to]));
    assert!(!ended.stderr.contains("is not written"), "{}", ended.stderr);
    assert!(!ended.stderr.contains(CANARY), "{}", ended.stderr);
}

#[test]
fn two_machines_share_a_directory_of_objects() {
    let shared = folder();
    let spec = format!("type=dir,path={},prefix=team/,name=main;latest", shared.path().display());
    shares(&format!("{spec},mode=max"), &spec);
    assert!(shared.path().join("team/manifests/main").is_file());
    assert!(shared.path().join("team/manifests/latest").is_file());
    let leftovers = std::fs::read_dir(shared.path().join("team/blobs")).unwrap();
    let names: Vec<_> = leftovers.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.iter().all(|name| name.starts_with("sha256:")), "{names:?}");
}

#[test]
fn two_machines_share_a_webdav_server() {
    let served = folder();
    let Some(server) = WebDav::start(served.path()) else { return };
    let spec =
        format!("type=webdav,url=http://{},username=ci,password={CANARY},prefix=kiln/", server.address);
    shares(&format!("{spec},mode=max"), &spec);
    // What has the folders already needs no more than PUT and GET.
    let Some(kiln) = Kiln::new("object store") else { return };
    let from = format!("--cache-from=type=http,url=http://ci:{CANARY}@{}/kiln", server.address);
    let ended = kiln.build(project().path(), &flags(&[&from]));
    assert_eq!(ended.steps(), (0, 7), "{}", ended.stderr);
    assert!(!ended.stderr.contains(CANARY), "{}", ended.stderr);
    // Who may not read builds all the same.
    let Some(kiln) = Kiln::new("object store") else { return };
    let from = format!("--cache-from=type=http,url=http://ci:wrong@{}/kiln", server.address);
    kiln.build(project().path(), &flags(&[&from])).says("answered 401");
}

#[test]
fn two_machines_share_a_bucket_and_every_request_is_signed() {
    let server = Server::start();
    let keys = format!("access_key_id=KEYID,secret_access_key={CANARY},session_token={CANARY}2");
    let endpoint = format!("endpoint_url=http://{},use_path_style=true", server.address);
    let spec = format!("type=s3,bucket=ci,region=eu-west-1,{endpoint},{keys}");
    shares(&format!("{spec},mode=max,upload_parallelism=2"), &spec);
    assert!(server.objects().iter().any(|(path, _)| path == "/ci/manifests/buildkit"));
    for request in server.seen() {
        let signed = request.header("authorization").unwrap_or_default();
        assert!(signed.starts_with("AWS4-HMAC-SHA256 Credential=KEYID/"), "{}", request.head);
        assert!(signed.contains("/eu-west-1/s3/aws4_request,"), "{signed}");
        let digest = ::kiln::Digest::of(&request.body).hex();
        assert_eq!(request.header("x-amz-content-sha256"), Some(digest.as_str()));
        let token = format!("{CANARY}2");
        assert!(!request.head.replace(&token, "").contains(CANARY), "{}", request.head);
    }
}

#[test]
fn two_machines_share_google_and_azure_buckets() {
    let server = Server::start();
    let spec = format!("type=gcs,bucket=ci,token={CANARY},endpoint_url=http://{}", server.address);
    shares(&format!("{spec},mode=max"), &spec);
    let token = format!("Bearer {CANARY}");
    assert!(server.seen().iter().all(|request| request.header("authorization") == Some(token.as_str())));

    let server = Server::start();
    let url = format!("http://{}/account", server.address);
    let spec = format!("type=azblob,account_url={url},container=ci,sas_token=sv=1&sig={CANARY}");
    shares(&format!("{spec},mode=max"), &spec);
    for request in server.seen() {
        assert!(request.path.starts_with("/account/ci/"), "{}", request.path);
        assert!(request.path.ends_with(&format!("?sv=1&sig={CANARY}")), "{}", request.path);
        assert_eq!(request.method == "PUT", request.header("x-ms-blob-type").is_some());
    }
}

/// Specs of the services that take parts, and what their requests for parts have.
fn in_parts(server: &Server) -> [(String, &'static str); 3] {
    let endpoint = format!("http://{}", server.address);
    [
        (
            format!(
                "type=s3,bucket=ci,region=r,endpoint_url={endpoint},use_path_style=true,access_key_id=k,\
                 secret_access_key=s"
            ),
            "partNumber=",
        ),
        (format!("type=gcs,bucket=ci,token=t,endpoint_url={endpoint}"), "partNumber="),
        (format!("type=azblob,account_url={endpoint}/a,container=ci,sas_token=sv=1"), "comp=block&"),
    ]
}

/// A layer that no compression makes small: three parts of 5 MiB.
fn large() -> Context {
    let mut bytes = vec![0; 12 << 20];
    std::fs::File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
    let context = Context::with_dockerfile("FROM busybox\nCOPY large /\nCMD [\"sha256sum\", \"/large\"]\n");
    std::fs::write(context.path().join("large"), bytes).unwrap();
    context
}

#[test]
fn a_large_layer_goes_in_parts() {
    let Some(one) = Kiln::new("object store") else { return };
    let context = large();
    let digest = ::kiln::Digest::of(&std::fs::read(context.path().join("large")).unwrap());
    for which in 0..3 {
        let server = Server::start();
        let (spec, word) = in_parts(&server)[which].clone();
        let to = format!("--cache-to={spec},part_size=5MB,mode=max");
        let ended = one.build(context.path(), &flags(&[&to]));
        assert!(!ended.stderr.contains("is not written"), "{spec}: {}", ended.stderr);
        let sizes: Vec<_> = server
            .seen()
            .iter()
            .filter(|seen| seen.path.contains(word))
            .map(|seen| seen.body.len())
            .collect();
        let [first, second, last] = sizes[..] else { panic!("{spec}: {sizes:?}") };
        assert!(first == 5 << 20 && second == 5 << 20 && last < 5 << 20, "{sizes:?}");

        let Some(two) = Kiln::new("object store") else { return };
        let from = format!("--cache-from={spec}");
        let ended = two.build(context.path(), &["-t", "it", &from, "."]);
        assert_eq!(ended.steps(), (0, 1), "{spec}: {}", ended.stderr);
        assert_eq!(two.run(&["it"]), format!("{}  /large\n", digest.hex()));
    }
}

#[test]
fn an_upload_in_parts_that_fails_is_aborted() {
    let Some(kiln) = Kiln::new("object store") else { return };
    let context = large();
    let server = Server::with(Manner::RefusesSecondPart);
    let [(spec, _), ..] = in_parts(&server);
    let to = format!("--cache-to={spec},part_size=5MB,mode=max");
    kiln.build(context.path(), &flags(&[&to])).says("is not written");
    let aborted: Vec<_> = server.seen().into_iter().filter(|seen| seen.method == "DELETE").collect();
    assert_eq!(aborted.len(), 1);
    assert!(aborted[0].path.ends_with("?uploadId=up%2B1%2F%3D"), "{}", aborted[0].path);
    assert!(server.objects().is_empty(), "neither a part nor a config that names it");
}

#[test]
fn two_jobs_share_githubs_cache_by_scope() {
    for service in ["url_v2=", "version=1,url="] {
        shares_by_scope(service);
    }
}

fn shares_by_scope(service: &str) {
    let server = Server::start();
    let spec = format!("type=gha,scope=main,{service}http://{}/,token={CANARY}", server.address);
    shares(&format!("{spec},mode=max"), &spec);
    let Some(kiln) = Kiln::new("object store") else { return };
    let other = format!("--cache-from={}", spec.replace("scope=main", "scope=other"));
    let ended = kiln.build(project().path(), &flags(&[&other]));
    ended.says("there is no cache gha:other yet");
    // The token is for the service, not for where its bytes are.
    for request in server.seen() {
        let is_service = request.path.contains("/twirp/") || request.path.contains("/_apis/");
        assert_eq!(request.header("authorization").is_some(), is_service, "{}", request.path);
    }
}

#[test]
fn the_first_version_of_githubs_cache_takes_layers_in_chunks() {
    let Some(one) = Kiln::new("object store") else { return };
    let server = Server::start();
    let context = large();
    let digest = ::kiln::Digest::of(&std::fs::read(context.path().join("large")).unwrap());
    let spec = format!("type=gha,version=1,url=http://{},token=t", server.address);
    one.build(context.path(), &flags(&[&format!("--cache-to={spec},mode=max")]));
    let ranges: Vec<_> = server
        .seen()
        .iter()
        .filter(|seen| seen.method == "PATCH" && seen.body.len() > 1 << 20)
        .map(|seen| seen.header("content-range").unwrap_or_default().to_owned())
        .collect();
    let [first, second] = &ranges[..] else { panic!("{ranges:?}") };
    assert_eq!(first, "bytes 0-8388607/*");
    assert!(second.starts_with("bytes 8388608-"), "{second}");
    let Some(two) = Kiln::new("object store") else { return };
    let ended = two.build(context.path(), &["-t", "it", &format!("--cache-from={spec}"), "."]);
    assert_eq!(ended.steps(), (0, 1), "{}", ended.stderr);
    assert_eq!(two.run(&["it"]), format!("{}  /large\n", digest.hex()));
}

#[test]
fn a_cache_that_refuses_everything_is_a_warning() {
    let Some(kiln) = Kiln::new("object store") else { return };
    let server = Server::with(Manner::RefusesAll);
    let spec = format!("type=webdav,url=http://{}", server.address);
    let (to, from) = (format!("--cache-to={spec}"), format!("--cache-from={spec}"));
    let ended = kiln.build(project().path(), &flags(&[&to, &from]));
    ended.says("is not used");
    ended.says("is not written");
    ended.says("AccessDenied: No.");
}

/// What a RUN step finds in a cache mount, and how large it is.
fn counting(argument: &str) -> Context {
    Context::with_dockerfile(&format!(
        "FROM busybox\nRUN --mount=type=cache,id=count,target=/c echo {argument} >> /c/log && \
         head -c 4000 /dev/urandom > /c/data && wc -l < /c/log > /lines\nCMD [\"cat\", \"/lines\"]\n"
    ))
}

#[test]
fn cache_mounts_go_along_when_they_are_asked_for() {
    let shared = folder();
    let spec = format!("type=dir,path={}", shared.path().display());
    let from = format!("--cache-from={spec}");
    let to = |more: &str| format!("--cache-to={spec}{more}");
    let lines = |argument: &str, words: &[&str]| {
        let kiln = Kiln::new("cache mounts")?;
        let ended = kiln.build(counting(argument).path(), &[words, &["-t", "it", "."]].concat());
        Some((kiln.run(&["it"]).trim().to_owned(), ended))
    };
    let Some((one, _)) = lines("a", &[&to(",cache-mounts=count")]) else { return };
    assert_eq!(one, "1");
    // Another machine begins where the first one ended.
    let (two, _) = lines("b", &[&from, &to(",cache-mounts=count")]).unwrap();
    assert_eq!(two, "2");
    let (three, ended) = lines("c", &[&from, &to(",cache-mounts=count;other,cache-mounts-max=2KB")]).unwrap();
    assert_eq!(three, "3");
    ended.says("cache mount /count is not exported");
    // The last export has none.
    let (four, _) = lines("d", &[&from]).unwrap();
    assert_eq!(four, "1");
}

#[test]
fn a_cache_mount_stays_in_a_cache_whose_steps_are_all_found_and_a_damaged_one_is_a_warning() {
    let shared = folder();
    let spec = format!("type=dir,path={},mode=max", shared.path().display());
    let (from, to) = (format!("--cache-from={spec}"), format!("--cache-to={spec},cache-mounts=*"));
    let (Some(one), Some(two)) = (Kiln::new("cache mounts"), Kiln::new("cache mounts")) else { return };
    one.build(counting("a").path(), &flags(&[&to]));
    let ended = two.build(counting("a").path(), &flags(&[&from, &to]));
    assert_eq!(ended.steps(), (0, 1), "{}", ended.stderr);
    let manifest = shared.path().join("manifests/buildkit");
    let config: Value = serde_json::from_slice(&std::fs::read(manifest).unwrap()).unwrap();
    let blob = config["kiln"]["mounts"][0]["blob"].as_str().unwrap();
    let path = shared.path().join("blobs").join(blob);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let Some(three) = Kiln::new("cache mounts") else { return };
    let ended = three.build(counting("b").path(), &["-t", "it", &from, "."]);
    ended.says("cache mount /count is not restored");
    assert_eq!(three.run(&["it"]).trim(), "1", "nothing of it is there");
}

/// rclone's WebDAV server; its user is `ci`.
struct WebDav {
    address: String,
    child: Child,
}

impl WebDav {
    /// `None`, and a printed reason, where there is no rclone.
    fn start(folder: &std::path::Path) -> Option<Self> {
        let words = ["serve", "webdav", "--addr", "127.0.0.1:0", "--user", "ci", "--pass", CANARY];
        let started = Command::new("rclone")
            .args(words)
            .arg(folder)
            .env("RCLONE_CONFIG", "/dev/null")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = match started {
            Ok(child) => child,
            Err(error) => {
                eprintln!("skipped: this test needs rclone ({error})");
                return None;
            }
        };
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        let address = loop {
            line.clear();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "rclone ended");
            if let Some((_, rest)) = line.split_once("http://127.0.0.1:") {
                let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
                break format!("127.0.0.1:{port}");
            }
        };
        std::thread::spawn(move || log.lines().for_each(drop));
        while TcpStream::connect(&address).is_err() {
            std::thread::yield_now();
        }
        Some(Self { address, child })
    }
}

impl Drop for WebDav {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A request as it came.
#[derive(Clone)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub head: String,
    pub body: Vec<u8>,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// Path and contents.
type Object = (String, Vec<u8>);

/// Objects by their paths, for everybody; and GitHub's cache service in front of them.
#[derive(Clone)]
pub struct Server {
    pub address: String,
    /// In the order in which they were written.
    objects: Arc<Mutex<Vec<Object>>>,
    /// Of uploads that have not ended, in the order of their numbers or names.
    parts: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
    manner: Manner,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    Serves,
    RefusesAll,
    RefusesSecondPart,
}

impl Server {
    pub fn start() -> Self {
        Self::with(Manner::Serves)
    }

    pub fn with(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server =
            Self { address, objects: Arc::default(), parts: Arc::default(), seen: Arc::default(), manner };
        let shared = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = shared.clone();
                std::thread::spawn(move || server.answer(stream));
            }
        });
        server
    }

    pub fn put(&self, path: &str, contents: impl Into<Vec<u8>>) {
        self.objects.lock().unwrap().push((path.to_owned(), contents.into()));
    }

    fn objects(&self) -> Vec<Object> {
        self.objects.lock().unwrap().clone()
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    fn answer(&self, mut stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
        }
        let mut words = head.split(' ').map(str::to_owned);
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        let mut seen = Seen { method, path, head: head.clone(), body: Vec::new() };
        if seen.header("expect").is_some() {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
        }
        seen.body = vec![0; seen.header("content-length").map_or(0, |length| length.parse().unwrap())];
        reader.read_exact(&mut seen.body).unwrap();
        self.seen.lock().unwrap().push(seen.clone());
        let (mut status, mut body) = self.reply(&seen);
        let tag = format!("\"{}\"", ::kiln::Digest::of(&body).hex());
        if status == 200 && seen.header("if-none-match") == Some(&tag) {
            (status, body) = (304, Vec::new());
        }
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status} -\r\nConnection: close\r\nETag: {tag}\r\nContent-Length: {length}\r\n\r\n"
        );
        let body = if seen.method == "HEAD" { Vec::new() } else { body };
        let _ = stream.write_all(&[head.into_bytes(), body].concat());
    }

    fn reply(&self, seen: &Seen) -> (u16, Vec<u8>) {
        if self.manner == Manner::RefusesAll {
            let words = "<Error><Code>AccessDenied</Code><Message>No.</Message></Error>";
            return (403, words.into());
        }
        if let Some((_, method)) = seen.path.split_once("/github.actions.results.api.v1.CacheService/") {
            return (200, self.twirp(method, &serde_json::from_slice(&seen.body).unwrap()));
        }
        if let Some(asked) = seen.path.strip_prefix("/_apis/artifactcache/") {
            return self.first_service(seen, asked);
        }
        let (path, query) = seen.path.split_once('?').unwrap_or((&seen.path, ""));
        let path = path.replace("%3A", ":");
        let mut objects = self.objects.lock().unwrap();
        if let Some(answer) = self.reply_about_parts(seen, query) {
            return answer;
        }
        // What ends an upload has the names of its parts.
        let is_end =
            query.contains("comp=blocklist") || (seen.method == "POST" && query.contains("uploadId="));
        if is_end {
            let parts = std::mem::take(&mut *self.parts.lock().unwrap());
            let list = String::from_utf8_lossy(&seen.body).into_owned();
            assert_eq!(list.matches("</ETag>").count() + list.matches("</Latest>").count(), parts.len());
            assert!(parts.keys().all(|name| list.contains(&format!(">{name}<"))), "{list}");
            objects.push((path, parts.into_values().flatten().collect()));
            return (201, Vec::new());
        }
        let found = objects.iter().find(|(name, _)| *name == path).map(|(_, body)| body.clone());
        match seen.method.as_str() {
            "PUT" => {
                objects.retain(|(name, _)| *name != path);
                objects.push((path, seen.body.clone()));
                (201, Vec::new())
            }
            _ => found.map_or((404, Vec::new()), |body| (200, body)),
        }
    }

    /// Uploads in parts of S3 and Azure.
    fn reply_about_parts(&self, seen: &Seen, query: &str) -> Option<(u16, Vec<u8>)> {
        let value = |key: &str| query.split('&').find_map(|pair| pair.strip_prefix(key));
        let part = value("partNumber=").or(value("blockid="));
        match (seen.method.as_str(), part) {
            ("POST", None) if query.starts_with("uploads") => {
                Some((200, "<R><UploadId>up+1/=</UploadId></R>".into()))
            }
            ("DELETE", None) => {
                self.parts.lock().unwrap().clear();
                Some((204, Vec::new()))
            }
            ("PUT", Some("2")) if self.manner == Manner::RefusesSecondPart => Some((400, Vec::new())),
            ("PUT", Some(name)) => {
                if value("partNumber=").is_some() {
                    assert_eq!(value("uploadId="), Some("up%2B1%2F%3D"));
                }
                self.parts.lock().unwrap().insert(name.to_owned(), seen.body.clone());
                Some((200, Vec::new()))
            }
            _ => None,
        }
    }

    /// Version 1 of GitHub's service; an upload is a part by its number and key.
    fn first_service(&self, seen: &Seen, asked: &str) -> (u16, Vec<u8>) {
        let (mut objects, mut parts) = (self.objects.lock().unwrap(), self.parts.lock().unwrap());
        let question = || serde_json::from_slice::<Value>(&seen.body).unwrap();
        let answer = |body: Value| (200, body.to_string().into_bytes());
        match (seen.method.as_str(), asked.split_once('?').unwrap_or((asked, ""))) {
            ("GET", ("cache", query)) => {
                let value = |key: &str| query.split('&').find_map(|pair| pair.strip_prefix(key)).unwrap();
                assert_eq!(value("version=").len(), 64);
                let keys = value("keys=").replace("%3A", ":");
                let newest = |key: &str| {
                    objects.iter().rev().find(|(name, _)| name.starts_with(&format!("/entries/{key}")))
                };
                match keys.split(',').find_map(newest) {
                    Some((name, _)) => answer(json!({
                        "cacheKey": name.strip_prefix("/entries/"),
                        "archiveLocation": format!("http://{}{name}?sig=x", self.address),
                    })),
                    None => (204, Vec::new()),
                }
            }
            ("POST", ("caches", _)) => {
                let key = question()["key"].as_str().unwrap().to_owned();
                if objects.iter().any(|(name, _)| *name == format!("/entries/{key}")) {
                    return (409, Vec::new());
                }
                let number = parts.len() + 1;
                parts.insert(format!("{number} {key}"), Vec::new());
                answer(json!({ "cacheId": number }))
            }
            (method, (place, _)) => {
                let number = place.strip_prefix("caches/").unwrap();
                let (name, bytes) =
                    parts.iter_mut().find(|(name, _)| name.starts_with(&format!("{number} "))).unwrap();
                match method {
                    "PATCH" => {
                        let end = bytes.len() + seen.body.len() - 1;
                        let range = format!("bytes {}-{end}/*", bytes.len());
                        assert_eq!(seen.header("content-range"), Some(range.as_str()));
                        bytes.extend_from_slice(&seen.body);
                    }
                    _ => {
                        assert_eq!(question()["size"], bytes.len());
                        let key = name.split_once(' ').unwrap().1;
                        objects.push((format!("/entries/{key}"), bytes.clone()));
                    }
                }
                (200, Vec::new())
            }
        }
    }

    /// The three calls that a client makes; an entry's object is named by its key.
    fn twirp(&self, method: &str, question: &Value) -> Vec<u8> {
        let text = |key: &str| question[key].as_str().unwrap().to_owned();
        assert_eq!(text("version").len(), 64);
        let prefixes = question["restore_keys"].as_array().cloned().unwrap_or_default();
        let objects = self.objects.lock().unwrap();
        let path = |key: &str| format!("/entries/{key}");
        let url = |path: &str| format!("http://{}{path}?sig=x", self.address);
        let exact = objects.iter().find(|(name, _)| *name == path(&text("key")));
        let answer = match method {
            "CreateCacheEntry" if exact.is_some() => json!({ "ok": false }),
            "CreateCacheEntry" => json!({ "ok": true, "signed_upload_url": url(&path(&text("key"))) }),
            "FinalizeCacheEntryUpload" => {
                let size = exact.unwrap().1.len().to_string();
                json!({ "ok": question["size_bytes"] == size, "entry_id": "1" })
            }
            "GetCacheEntryDownloadURL" => {
                let begins = |name: &str| {
                    prefixes.iter().any(|prefix| name.starts_with(&path(prefix.as_str().unwrap())))
                };
                let newest = || objects.iter().rev().find(|(name, _)| begins(name));
                match exact.or_else(newest) {
                    Some((name, _)) => json!({ "ok": true, "signed_download_url": url(name) }),
                    None => json!({ "ok": false }),
                }
            }
            other => panic!("no such method: {other}"),
        };
        answer.to_string().into_bytes()
    }
}
