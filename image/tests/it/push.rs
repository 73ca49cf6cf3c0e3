//! Pushing, to a registry that misbehaves and to Debian's docker-registry.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use kiln_image::registry::{Push, PushBlob, Pushed, Registry, RegistryError};
use kiln_image::{Digest, ImageRef};

use crate::support::{DockerRegistry, Image, MANIFEST, Server, cancel, client, platform, reply, skopeo};
use crate::upload_registry::{Fault, UploadRegistry};

const MIB: usize = 1 << 20;

fn push(client: &Registry, host: impl std::fmt::Display) -> Push {
    let target: ImageRef = format!("{host}/me/app:1").parse().unwrap();
    client.push_to(&target, &cancel()).unwrap()
}

fn blob(bytes: &[u8]) -> PushBlob<'static> {
    let owned = bytes.to_vec();
    PushBlob {
        digest: Digest::of(bytes),
        size: bytes.len() as u64,
        mount_from: Vec::new(),
        open: Box::new(move || Ok(Box::new(std::io::Cursor::new(owned.clone())))),
        told: Arc::new(|_| {}),
    }
}

/// A blob that must not be read.
fn unreadable(bytes: &[u8]) -> PushBlob<'static> {
    PushBlob { open: Box::new(|| panic!("it is read")), ..blob(bytes) }
}

fn noise(bytes: usize) -> Vec<u8> {
    (0..bytes as u32 / 4).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

#[track_caller]
fn assert_arrived(registry: &UploadRegistry, bytes: &[u8]) {
    let key = ("me/app".to_owned(), Digest::of(bytes).to_string());
    assert!(registry.state().blobs.get(&key).is_some_and(|found| found == bytes));
}

#[test]
fn a_blob_goes_whole_in_one_request_and_only_if_it_is_not_there() {
    let registry = UploadRegistry::start(|_, _| None);
    let client = client(&[]);
    let bytes = noise(3 * MIB);
    let told = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&told);
    let wanted = PushBlob {
        told: Arc::new(move |sent| counted.store(sent as usize, Ordering::Relaxed)),
        ..blob(&bytes)
    };
    let push = push(&client, registry.address);
    assert_eq!(push.blob(&wanted).unwrap(), Pushed::Uploaded);
    assert_arrived(&registry, &bytes);
    assert_eq!(told.load(Ordering::Relaxed), bytes.len());
    assert_eq!(push.blob(&unreadable(&bytes)).unwrap(), Pushed::Exists);
    let digest = wanted.digest.to_string().replace(':', "%3A");
    assert_eq!(
        registry.requests(),
        ["POST /v2/me/app/blobs/uploads/", &format!("PUT /v2/me/app/blobs/uploads/1?s=x&digest={digest}")]
    );
}

#[test]
fn a_repository_is_asked_whether_it_may_be_pushed_to_and_nothing_is_left_there() {
    let registry = UploadRegistry::start(|_, _| None);
    push(&client(&[]), registry.address).ask().unwrap();
    assert_eq!(
        registry.requests(),
        ["POST /v2/me/app/blobs/uploads/", "DELETE /v2/me/app/blobs/uploads/1?s=x"]
    );
    assert!(registry.state().uploads.is_empty());

    // One that does not know how to give an upload up.
    let answer = |status| {
        UploadRegistry::start(move |seen, _| {
            let is_asked = seen.method == "DELETE" || status != "405 Method Not Allowed";
            is_asked.then(|| Fault::Answer(reply(status, &[], b"")))
        })
    };
    let unable = answer("405 Method Not Allowed");
    push(&client(&[]), unable.address).ask().unwrap();

    for (status, is_refusal) in [
        ("401 Unauthorized", true),
        ("403 Forbidden", true),
        ("404 Not Found", false),
        ("400 Bad Request", false),
    ] {
        let registry = answer(status);
        let error = push(&client(&[]), registry.address).ask().unwrap_err();
        assert_eq!(error.is_refusal(), is_refusal, "{status}: {error}");
        assert_eq!(registry.requests(), ["POST /v2/me/app/blobs/uploads/"]);
    }
}

/// A body that begins when four of them do.
struct Together {
    bytes: std::io::Cursor<Vec<u8>>,
    count: Arc<(Mutex<Count>, Condvar)>,
}

#[derive(Default)]
struct Count {
    now: usize,
    most: usize,
}

impl Together {
    fn begin(bytes: Vec<u8>, count: &Arc<(Mutex<Count>, Condvar)>) -> Self {
        let (counted, changed) = &**count;
        let mut all = counted.lock().unwrap();
        all.now += 1;
        all.most = all.most.max(all.now);
        changed.notify_all();
        // Only where fewer are sent at once does this ever wait so long.
        drop(changed.wait_timeout_while(all, Duration::from_secs(600), |all| all.most < 4).unwrap());
        Self { bytes: std::io::Cursor::new(bytes), count: Arc::clone(count) }
    }
}

impl Read for Together {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.bytes.read(buffer)
    }
}

impl Drop for Together {
    fn drop(&mut self) {
        self.count.0.lock().unwrap().now -= 1;
    }
}

#[test]
fn of_many_blobs_four_are_sent_at_once_and_no_more() {
    let registry = UploadRegistry::start(|_, _| None);
    let count: Arc<(Mutex<Count>, Condvar)> = Arc::default();
    let contents: Vec<Vec<u8>> = (0..12).map(|number| vec![number; 1000]).collect();
    let blobs: Vec<_> = contents
        .iter()
        .map(|bytes| {
            let (owned, count) = (bytes.clone(), Arc::clone(&count));
            let open = move || Ok(Box::new(Together::begin(owned.clone(), &count)) as Box<dyn Read + Send>);
            PushBlob { open: Box::new(open), ..blob(bytes) }
        })
        .collect();
    push(&client(&[]), registry.address).blobs(&blobs).unwrap();
    contents.iter().for_each(|bytes| assert_arrived(&registry, bytes));
    assert_eq!(count.0.lock().unwrap().most, 4);
}

#[test]
fn after_a_break_it_goes_in_pieces_and_a_second_break_costs_no_byte_twice() {
    let turn = AtomicUsize::new(0);
    let registry = UploadRegistry::start(move |seen, _| {
        let carries = matches!(seen.method.as_str(), "PUT" | "PATCH")
            && seen.header("content-range").is_some()
            || seen.header("expect").is_some();
        match carries.then(|| turn.fetch_add(1, Ordering::Relaxed)) {
            Some(0) => Some(Fault::HangUpAfter(MIB)),
            Some(2) => Some(Fault::HangUpAfter(5 * MIB)),
            _ => None,
        }
    });
    let bytes = noise(40 * MIB);
    assert_eq!(push(&client(&[]), registry.address).blob(&blob(&bytes)).unwrap(), Pushed::Uploaded);
    assert_arrived(&registry, &bytes);
    assert_eq!(registry.state().received, 41 * MIB);
    let ranges: Vec<_> = registry
        .state()
        .seen
        .iter()
        .filter_map(|seen| seen.header("content-range").map(str::to_owned))
        .collect();
    assert_eq!(ranges, ["0-16777215", "16777216-33554431", "22020096-33554431", "33554432-41943039"]);
}

#[test]
fn a_registry_that_asks_for_pieces_gets_them_and_so_does_one_behind_a_proxy_with_a_limit() {
    let asks = UploadRegistry::start(|seen, _| {
        let location = ("Location", "/v2/me/app/blobs/uploads/1");
        let answer = reply("202 Accepted", &[location, ("OCI-Chunk-Min-Length", "100")], b"");
        (seen.method == "POST" && seen.path.ends_with("uploads/")).then_some(Fault::Answer(answer))
    });
    // That session was never begun, which shows that the request was a piece.
    let bytes = noise(MIB);
    push(&client(&[]), asks.address).blob(&blob(&bytes)).unwrap_err();
    assert!(asks.requests().iter().any(|request| request.starts_with("PATCH ")), "{:?}", asks.requests());

    let limited = UploadRegistry::start(|seen, _| {
        let length: usize = seen.header("content-length").map_or(0, |length| length.parse().unwrap());
        (length > 16 * MIB).then(|| Fault::Answer(reply("413 Payload Too Large", &[], b"")))
    });
    let bytes = noise(20 * MIB);
    assert_eq!(push(&client(&[]), limited.address).blob(&blob(&bytes)).unwrap(), Pushed::Uploaded);
    assert_arrived(&limited, &bytes);
}

#[test]
fn what_is_refused_for_a_moment_is_tried_again() {
    for status in ["429 Too Many Requests", "503 Service Unavailable", "500 Oops"] {
        for method in ["POST", "PUT"] {
            let turn = AtomicUsize::new(0);
            let registry = UploadRegistry::start(move |seen, _| {
                let answer = || Fault::Answer(reply(status, &[("Retry-After", "0")], b""));
                (seen.method == method && turn.fetch_add(1, Ordering::Relaxed) < 2).then(answer)
            });
            let bytes = noise(MIB / 4);
            let client = client(&[]);
            let push = push(&client, registry.address);
            assert_eq!(push.blob(&blob(&bytes)).unwrap(), Pushed::Uploaded, "{status} {method}");
            assert_arrived(&registry, &bytes);
            push.manifest("1", MANIFEST, b"{}").unwrap();
            assert_eq!(registry.state().manifests["1"], b"{}");
        }
    }
    let registry = UploadRegistry::start(|seen, _| {
        (seen.method == "POST").then(|| Fault::Answer(reply("429 No", &[("Retry-After", "0")], b"")))
    });
    let error = push(&client(&[]), registry.address).blob(&blob(b"x")).unwrap_err();
    assert!(matches!(error, RegistryError::TooManyRequests { .. }), "{error:?}");
    assert_eq!(registry.requests().len(), 3);
}

#[test]
fn a_registrys_no_is_an_error_in_its_words() {
    let registry = UploadRegistry::start(|seen, _| {
        let no = br#"{"errors":[{"code":"DENIED","message":"quota exceeded"}]}"#;
        (seen.method == "PUT").then(|| Fault::Answer(reply("403 Forbidden", &[], no)))
    });
    let error = push(&client(&[]), registry.address).blob(&blob(b"x")).unwrap_err();
    let text = error.to_string().replace(&registry.address.to_string(), "HOST");
    insta::assert_snapshot!(text, @"HOST/me/app:1: HOST refuses access: quota exceeded");
    let broken = PushBlob { open: Box::new(|| Ok(Box::new(Failing))), ..blob(b"x") };
    let error = push(&client(&[]), registry.address).blob(&broken).unwrap_err();
    insta::assert_snapshot!(error, @"what is to be pushed cannot be read: bad sector");
}

struct Failing;

impl Read for Failing {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        Err(std::io::Error::other("bad sector"))
    }
}

#[test]
fn an_upload_that_leads_to_another_host_goes_there_without_the_login() {
    let elsewhere = UploadRegistry::start(|seen, _| {
        (seen.method == "PUT").then(|| Fault::Answer(reply("201 Created", &[], b"")))
    });
    let location = format!("http://{}/v2/me/app/blobs/uploads/1", elsewhere.address);
    let registry = UploadRegistry::start(move |seen, _| {
        if seen.header("authorization").is_none() {
            let challenge = ("WWW-Authenticate", "Basic realm=\"r\"");
            return Some(Fault::Answer(reply("401 Unauthorized", &[challenge], b"")));
        }
        let answer = || Fault::Answer(reply("202 Accepted", &[("Location", &location)], b""));
        (seen.method == "POST").then(answer)
    });
    let auth = format!(r#"{{"auths":{{"{}":{{"auth":"bWU6Q0FOQVJZ"}}}}}}"#, registry.address);
    let client = client(&[("DOCKER_AUTH_CONFIG", &auth)]);
    push(&client, registry.address).blob(&blob(b"bytes")).unwrap();
    assert!(registry.state().seen.iter().any(|seen| seen.header("authorization").is_some()));
    let there = elsewhere.state();
    assert_eq!(there.seen.len(), 1);
    assert_eq!(there.seen[0].header("authorization"), None);
}

#[test]
fn a_mount_asks_for_both_repositories_and_sends_nothing() {
    let tokens = Server::start(|_| reply("200 OK", &[], br#"{"token":"t"}"#));
    let realm = format!("Bearer realm=\"http://{}/token\",service=\"s\"", tokens.address);
    let registry = UploadRegistry::start(move |seen, _| {
        let challenge = || Fault::Answer(reply("401 Unauthorized", &[("WWW-Authenticate", &realm)], b""));
        seen.header("authorization").is_none().then(challenge)
    });
    let lent = noise(MIB);
    let key = ("lib/base".to_owned(), Digest::of(&lent).to_string());
    registry.state().blobs.insert(key, lent.clone());
    let from: ImageRef = format!("{}/lib/base:1", registry.address).parse().unwrap();
    let other: ImageRef = "elsewhere.example/base:1".parse().unwrap();
    let client = client(&[]);
    let push = push(&client, registry.address);
    let wanted = PushBlob { mount_from: vec![other, from.clone()], ..unreadable(&lent) };
    assert_eq!(push.blob(&wanted).unwrap(), Pushed::Mounted { from: "lib/base".into() });
    assert_arrived(&registry, &lent);
    let asked: Vec<_> = tokens
        .seen()
        .iter()
        .map(|seen| seen.path.replace("%3A", ":").replace("%2F", "/").replace("%2C", ","))
        .collect();
    assert_eq!(
        asked,
        [
            "/token?scope=repository:me/app:pull,push&service=s",
            "/token?scope=repository:me/app:pull,push&scope=repository:lib/base:pull&service=s",
        ]
    );
    // What the other repository lacks is sent.
    let own = PushBlob { mount_from: vec![from], ..blob(b"own") };
    assert_eq!(push.blob(&own).unwrap(), Pushed::Uploaded);
    assert_arrived(&registry, b"own");
}

#[test]
fn of_many_that_are_refused_together_one_asks_for_a_token() {
    let tokens = Server::start(|_| reply("200 OK", &[], br#"{"token":"t"}"#));
    let realm = format!("Bearer realm=\"http://{}/token\"", tokens.address);
    let registry = UploadRegistry::start(move |seen, _| {
        let challenge = || Fault::Answer(reply("401 Unauthorized", &[("WWW-Authenticate", &realm)], b""));
        seen.header("authorization").is_none().then(challenge)
    });
    let blobs: Vec<_> = (0..12u8).map(|number| blob(&[number; 100])).collect();
    let pushed = push(&client(&[]), registry.address).blobs(&blobs).unwrap();
    assert_eq!(pushed, vec![Pushed::Uploaded; 12]);
    assert_eq!(tokens.seen().len(), 1);
}

#[test]
fn a_token_that_ends_in_the_middle_of_a_push_is_renewed() {
    let given = AtomicUsize::new(0);
    let tokens = Server::start(move |_| {
        let number = given.fetch_add(1, Ordering::Relaxed);
        reply("200 OK", &[], format!(r#"{{"token":"t{number}"}}"#).as_bytes())
    });
    let realm = format!("Bearer realm=\"http://{}/token\"", tokens.address);
    let ended = AtomicBool::new(false);
    let registry = UploadRegistry::start(move |seen, _| {
        // The first token lives until the first bytes come.
        if seen.method == "PUT" && seen.header("authorization") == Some("Bearer t0") {
            ended.store(true, Ordering::Relaxed);
        }
        let is_good = match seen.header("authorization") {
            Some("Bearer t0") => !ended.load(Ordering::Relaxed),
            Some("Bearer t1") => true,
            _ => false,
        };
        let challenge = || Fault::Answer(reply("401 Unauthorized", &[("WWW-Authenticate", &realm)], b""));
        (!is_good).then(challenge)
    });
    let bytes = noise(2 * MIB);
    assert_eq!(push(&client(&[]), registry.address).blob(&blob(&bytes)).unwrap(), Pushed::Uploaded);
    assert_arrived(&registry, &bytes);
    assert_eq!(tokens.seen().len(), 2);
}

#[test]
fn a_blocked_registry_is_not_pushed_to_and_a_mirror_is_not_either() {
    let registry = UploadRegistry::start(|_, _| None);
    let conf = tempfile::NamedTempFile::new().unwrap();
    let text = format!(
        "[[registry]]\nprefix = \"blocked.example\"\nblocked = true\n[[registry]]\nlocation = \"{}\"\n\
         [[registry.mirror]]\nlocation = \"mirror.invalid\"\n",
        registry.address
    );
    std::fs::write(conf.path(), text).unwrap();
    let client = client(&[("CONTAINERS_REGISTRIES_CONF", conf.path().to_str().unwrap())]);
    let error = client.push_to(&"blocked.example/a".parse().unwrap(), &cancel()).unwrap_err();
    assert!(matches!(error, RegistryError::Blocked { .. }), "{error:?}");
    push(&client, registry.address).blob(&blob(b"own")).unwrap();
    assert_arrived(&registry, b"own");
}

#[test]
fn tags_are_listed_page_by_page_and_from_the_same_registry() {
    let server = Server::start(|seen| match seen.path.as_str() {
        "/v2/app/tags/list?n=1000" => reply(
            "200 OK",
            &[("Link", "<http://elsewhere.invalid/v2/app/tags/list?last=b&n=2>; rel=\"next\"")],
            br#"{"name":"app","tags":["a","b"]}"#,
        ),
        "/v2/app/tags/list?last=b&n=2" => reply("200 OK", &[], br#"{"name":"app","tags":["c"]}"#),
        _ => reply("404 Not Found", &[], b""),
    });
    let tags = |name: &str| {
        let image: ImageRef = format!("{}/{name}", server.address).parse().unwrap();
        client(&[]).tags(&image, &cancel())
    };
    assert_eq!(tags("app").unwrap(), ["a", "b", "c"]);
    assert!(matches!(tags("other").unwrap_err(), RegistryError::NotFound { .. }));
}

#[test]
fn a_stream_is_sent_while_it_is_made() {
    let registry = UploadRegistry::start(|_, _| None);
    let bytes = noise(5 * MIB);
    let client = client(&[]);
    let mut stream = push(&client, registry.address).stream().unwrap();
    for part in bytes.chunks(70_000) {
        stream.write_all(part).unwrap();
    }
    stream.finish(&Digest::of(&bytes)).unwrap();
    assert_arrived(&registry, &bytes);

    // One that is given up does not become a blob, and one that breaks says so.
    let mut stream = push(&client, registry.address).stream().unwrap();
    stream.write_all(&bytes[..2 * MIB]).unwrap();
    drop(stream);
    let broken = UploadRegistry::start(|seen, _| (seen.method == "PATCH").then_some(Fault::HangUpAfter(MIB)));
    let mut stream = push(&client, broken.address).stream().unwrap();
    let written = bytes.chunks(70_000).try_for_each(|part| stream.write_all(part));
    let finished = stream.finish(&Digest::of(&bytes));
    assert!(written.is_err() || finished.is_err());
    assert!(finished.is_err());
    assert!(broken.state().blobs.is_empty());
}

#[test]
fn docker_registry_takes_blobs_streams_mounts_and_manifests_and_skopeo_reads_them() {
    let Some(registry) = DockerRegistry::start() else { return };
    let client = client(&[]);
    let push = push(&client, &registry.host);
    let image = Image::new("amd64");
    let mut stream = push.stream().unwrap();
    stream.write_all(&image.layer).unwrap();
    stream.finish(&Digest::of(&image.layer)).unwrap();
    let large = noise(20 * MIB);
    let pushed = push.blobs(&[blob(&image.config), blob(&large)]).unwrap();
    assert_eq!(pushed, [Pushed::Uploaded, Pushed::Uploaded]);
    let digest = push.manifest("1", MANIFEST, &image.manifest).unwrap();
    assert_eq!(digest, Digest::of(&image.manifest));
    assert!(push.has_manifest(&digest).unwrap());
    let name = format!("{}/me/app:1", registry.host);
    let Some(raw) = skopeo(&["inspect", "--raw", "--tls-verify=false", &format!("docker://{name}")]) else {
        return;
    };
    assert_eq!(raw.as_bytes(), image.manifest);

    let target: ImageRef = format!("{}/other/app:1", registry.host).parse().unwrap();
    let other = client.push_to(&target, &cancel()).unwrap();
    let from: ImageRef = name.parse().unwrap();
    let lent = PushBlob { mount_from: vec![from], ..unreadable(&large) };
    assert_eq!(other.blob(&lent).unwrap(), Pushed::Mounted { from: "me/app".into() });
    let resolved = client.resolve(&name.parse().unwrap(), &platform("linux/amd64"), &cancel()).unwrap();
    assert_eq!(resolved.manifest_digest, digest);
}

#[test]
fn a_push_to_docker_registry_survives_broken_connections() {
    let Some(registry) = DockerRegistry::start() else { return };
    let proxy = breaking_proxy(&registry.host, 2, 2 * MIB);
    let bytes = noise(36 * MIB);
    let client = client(&[]);
    assert_eq!(push(&client, &proxy).blob(&blob(&bytes)).unwrap(), Pushed::Uploaded);
    let direct = push(&client, &registry.host);
    assert_eq!(direct.blob(&unreadable(&bytes)).unwrap(), Pushed::Exists);
}

/// Passes connections on, and breaks the first `breaks` that send more than `limit` bytes.
fn breaking_proxy(target: &str, breaks: usize, limit: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (target, left) = (target.to_owned(), Arc::new(AtomicUsize::new(breaks)));
    std::thread::spawn(move || {
        for mut inner in listener.incoming().flatten() {
            let mut outer = TcpStream::connect(&target).unwrap();
            let (mut from, mut to) = (outer.try_clone().unwrap(), inner.try_clone().unwrap());
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(std::net::Shutdown::Both);
            });
            let left = Arc::clone(&left);
            std::thread::spawn(move || {
                let sent = std::io::copy(&mut (&mut inner).take(limit as u64), &mut outer).unwrap_or(0);
                let breaks = |left: usize| left.checked_sub(1);
                let whole = sent < limit as u64
                    || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, breaks).is_err();
                if whole {
                    let _ = std::io::copy(&mut inner, &mut outer);
                }
                let _ = outer.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    address
}
