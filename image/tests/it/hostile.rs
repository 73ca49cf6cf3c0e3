//! Servers that lie, stall, demand and redirect.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use base64::Engine as _;
use kiln_image::http::{Fetch, Fetched};
use kiln_image::oci::Descriptor;
use kiln_image::registry::{Registry, RegistryError};
use kiln_image::{Digest, ImageRef};

use crate::support::{Image, MANIFEST, Seen, Server, cancel, client, platform, reply};

fn name(server: &Server) -> ImageRef {
    format!("{}/app:1", server.address).parse().unwrap()
}

/// Serves the image without conditions.
fn serve_image(image: &Image, seen: &Seen) -> Vec<u8> {
    if seen.path.contains("/manifests/") {
        return reply("200 OK", &[("Content-Type", MANIFEST)], &image.manifest);
    }
    match image.blobs().into_iter().find(|blob| seen.path.ends_with(&Digest::of(blob).to_string())) {
        Some(blob) => reply("200 OK", &[], blob),
        None => reply("404 Not Found", &[], b""),
    }
}

fn blob(bytes: &[u8]) -> Descriptor {
    let media_type = "application/vnd.oci.image.layer.v1.tar".to_owned();
    let (digest, size) = (Digest::of(bytes), bytes.len() as u64);
    Descriptor { media_type, digest, size, annotations: Default::default(), platform: None }
}

fn read_blob(registry: &Registry, server: &Server, blob: &Descriptor) -> Result<Vec<u8>, RegistryError> {
    let mut all = Vec::new();
    let mut reader = registry.blob(&name(server), blob, &cancel())?;
    match reader.read_to_end(&mut all) {
        Ok(_) => Ok(all),
        Err(error) => Err(error.downcast::<RegistryError>().unwrap()),
    }
}

/// A docker configuration with one login.
fn login(server: &Server, entry: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let text = format!(r#"{{"auths":{{"{}":{entry}}}}}"#, server.address);
    std::fs::write(directory.path().join("config.json"), text).unwrap();
    directory
}

fn basic(pair: &str) -> String {
    format!("Basic {}", base64::prelude::BASE64_STANDARD.encode(pair))
}

#[test]
fn a_manifest_other_than_the_one_asked_for_is_refused_whatever_the_header_says() {
    let image = Image::new("amd64");
    let wanted = Digest::of(b"another manifest");
    let served = image.clone();
    let server = Server::start(move |_| {
        let headers = [("Content-Type", MANIFEST), ("Docker-Content-Digest", &wanted.to_string())];
        reply("200 OK", &headers, &served.manifest)
    });
    let error = client(&[])
        .resolve(&name(&server).with_digest(wanted), &platform("linux/amd64"), &cancel())
        .unwrap_err();
    let RegistryError::DigestMismatch { expected, got, .. } = error else { panic!("{error:?}") };
    assert_eq!((expected, got), (wanted, Digest::of(&image.manifest)));
}

#[test]
fn a_blob_with_other_bytes_gives_an_error_instead_of_its_end() {
    let server = Server::start(|_| reply("200 OK", &[], b"evil"));
    let error = read_blob(&client(&[]), &server, &blob(b"good")).unwrap_err();
    assert!(matches!(error, RegistryError::DigestMismatch { .. }), "{error:?}");
}

#[test]
fn a_blob_of_another_length_is_refused() {
    let server = Server::start(|_| reply("200 OK", &[], b"too long"));
    let error = read_blob(&client(&[]), &server, &blob(b"too")).unwrap_err();
    assert!(matches!(error, RegistryError::SizeMismatch { expected: 3, got: 8, .. }), "{error:?}");

    // Without a length it shows only while reading, which stops one byte later.
    let server = Server::start(|_| b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\ntoo long".to_vec());
    let error = read_blob(&client(&[]), &server, &blob(b"too")).unwrap_err();
    assert!(matches!(error, RegistryError::SizeMismatch { expected: 3, got: 4, .. }), "{error:?}");
}

#[test]
fn a_manifest_that_never_ends_is_refused_at_the_limit() {
    let server = Server::start(|_| {
        let body = vec![b' '; (kiln_image::oci::MAX_MANIFEST_BYTES + 2) as usize];
        reply("200 OK", &[("Content-Type", MANIFEST)], &body)
    });
    let error = client(&[]).resolve(&name(&server), &platform("linux/amd64"), &cancel()).unwrap_err();
    assert!(matches!(error, RegistryError::TooLarge { limit: 4_194_304, .. }), "{error:?}");
}

#[test]
fn a_broken_connection_is_replaced_and_reading_goes_on_where_it_stopped() {
    let body: Vec<u8> = (0..200_000u32).flat_map(u32::to_le_bytes).collect();
    for honours_range in [true, false] {
        let (served, turn) = (body.clone(), AtomicUsize::new(0));
        let server = Server::start(move |seen| {
            let start = seen.header("range").map_or(0, |range| {
                range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse::<usize>().unwrap()
            });
            let cut = turn.fetch_add(1, Ordering::Relaxed) == 0;
            let (status, from, range) = match start {
                0 => ("200 OK", 0, String::new()),
                _ if !honours_range => ("200 OK", 0, String::new()),
                start => (
                    "206 Partial Content",
                    start,
                    format!("bytes {start}-{}/{}", served.len() - 1, served.len()),
                ),
            };
            let mut answer = reply(status, &[("Content-Range", &range)], &served[from..]);
            if cut {
                answer.truncate(300_000);
            }
            answer
        });
        assert_eq!(read_blob(&client(&[]), &server, &blob(&body)).unwrap(), body);
        assert!(server.seen()[1].header("range").is_some());
    }
}

#[test]
fn a_server_that_always_breaks_off_is_given_up() {
    let server = Server::start(|_| b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n".to_vec());
    let error = read_blob(&client(&[]), &server, &blob(b"good")).unwrap_err();
    assert!(matches!(error, RegistryError::Unreachable { .. }), "{error:?}");
    assert_eq!(server.seen().len(), 3);
}

#[test]
fn a_busy_server_is_asked_again_and_in_the_end_named() {
    let (image, turn) = (Image::new("amd64"), AtomicUsize::new(0));
    let served = image.clone();
    let server = Server::start(move |seen| match turn.fetch_add(1, Ordering::Relaxed) {
        0 => reply("429 Too Many Requests", &[("Retry-After", "0")], b""),
        1 => reply("503 Service Unavailable", &[], b""),
        _ => serve_image(&served, seen),
    });
    let found = client(&[]).resolve(&name(&server), &platform("linux/amd64"), &cancel()).unwrap();
    assert_eq!(found.config_bytes, image.config);

    let server = Server::start(|_| reply("429 Too Many Requests", &[("Retry-After", "0")], b""));
    let error = client(&[]).resolve(&name(&server), &platform("linux/amd64"), &cancel()).unwrap_err();
    assert!(matches!(error, RegistryError::TooManyRequests { .. }), "{error:?}");
    assert!(error.hint().unwrap().contains("mirror"));
}

#[test]
fn an_authorization_never_follows_a_redirect_to_another_origin() {
    let image = Image::new("amd64");
    let served = image.clone();
    let storage = Server::start(move |seen| serve_image(&served, seen));
    let (address, served) = (storage.address, image.clone());
    let server = Server::start(move |seen| match seen.header("authorization") {
        None => reply("401 Unauthorized", &[("WWW-Authenticate", "Basic realm=\"x\"")], b""),
        Some(_) if seen.path.contains("/blobs/") => {
            reply("307 Temporary Redirect", &[("Location", &format!("http://{address}{}", seen.path))], b"")
        }
        Some(_) => serve_image(&served, seen),
    });
    let config = login(&server, r#"{"auth":"dXNlcjpDQU5BUlk="}"#);
    let client = client(&[("DOCKER_CONFIG", config.path().to_str().unwrap())]);
    let found = client.resolve(&name(&server), &platform("linux/amd64"), &cancel()).unwrap();
    assert_eq!(found.config_bytes, image.config);
    assert!(server.seen().iter().any(|seen| seen.header("authorization") == Some(&basic("user:CANARY"))));
    assert!(!storage.seen().is_empty());
    assert!(storage.seen().iter().all(|seen| seen.header("authorization").is_none()));
}

#[test]
fn a_login_asked_for_by_where_a_redirect_leads_is_not_given() {
    let thief =
        Server::start(|_| reply("401 Unauthorized", &[("WWW-Authenticate", "Basic realm=\"x\"")], b""));
    let address = thief.address;
    let server = Server::start(move |seen| {
        reply("302 Found", &[("Location", &format!("http://{address}{}", seen.path))], b"")
    });
    let config = login(&server, r#"{"auth":"dXNlcjpDQU5BUlk="}"#);
    let client = client(&[("DOCKER_CONFIG", config.path().to_str().unwrap())]);
    let error = client.resolve(&name(&server), &platform("linux/amd64"), &cancel()).unwrap_err();
    assert!(matches!(error, RegistryError::Unauthorized { .. }), "{error:?}");
    assert!(thief.seen().iter().all(|seen| seen.header("authorization").is_none()));
}

#[test]
fn redirects_lead_to_http_only_and_not_in_circles() {
    for (location, expected) in [
        ("file:///etc/passwd", "invalid address `file:///etc/passwd`: it is malformed"),
        ("gopher://h/", "invalid address `gopher://h/`: only http and https addresses are fetched"),
        ("/again", "HOST redirects more than 10 times"),
    ] {
        let server = Server::start(move |_| reply("302 Found", &[("Location", location)], b""));
        let error =
            client(&[]).http().fetch_url(&format!("http://{}/", server.address), &cancel()).unwrap_err();
        let text = error.to_string().replace(&server.address.to_string(), "HOST");
        assert_eq!(text, expected);
    }
}

#[test]
fn a_token_is_fetched_once_and_used_for_all_requests() {
    let image = Image::new("amd64");
    for (entry, token_request) in [("{}", None), (r#"{"auth":"dXNlcjpwdw=="}"#, Some(basic("user:pw")))] {
        let served = image.clone();
        let server = Server::start(move |seen| {
            if seen.path.starts_with("/token") {
                return reply("200 OK", &[], br#"{"token":"T0K","expires_in":300}"#);
            }
            if seen.header("authorization") == Some("Bearer T0K") {
                return serve_image(&served, seen);
            }
            let host = seen.header("host").unwrap();
            let challenge =
                format!(r#"Bearer realm="http://{host}/token",service="reg x",scope="repository:app:pull""#);
            reply("401 Unauthorized", &[("WWW-Authenticate", &challenge)], b"")
        });
        let config = login(&server, entry);
        let client = client(&[("DOCKER_CONFIG", config.path().to_str().unwrap())]);
        client.resolve(&name(&server), &platform("linux/amd64"), &cancel()).unwrap();
        let paths: Vec<String> =
            server.seen().iter().map(|seen| seen.path.split("sha256").next().unwrap().to_owned()).collect();
        assert_eq!(
            paths,
            [
                "/v2/app/manifests/1",
                "/token?scope=repository%3Aapp%3Apull&service=reg%20x",
                "/v2/app/manifests/1",
                "/v2/app/blobs/",
            ]
        );
        assert_eq!(server.seen()[1].header("authorization"), token_request.as_deref());
    }
}

#[test]
fn an_identity_token_is_exchanged_by_post() {
    let image = Image::new("amd64");
    let server = Server::start(move |seen| {
        if seen.method == "POST" {
            return reply("200 OK", &[], br#"{"access_token":"T0K"}"#);
        }
        match seen.header("authorization") {
            Some("Bearer T0K") => serve_image(&image, seen),
            _ => reply(
                "401 Unauthorized",
                &[("WWW-Authenticate", "Bearer realm=\"/token\",service=\"s\"")],
                b"",
            ),
        }
    });
    let config = login(&server, r#"{"identitytoken":"REFRESH"}"#);
    let client = client(&[("DOCKER_CONFIG", config.path().to_str().unwrap())]);
    client.resolve(&name(&server), &platform("linux/amd64"), &cancel()).unwrap();
    let posted = server.seen().into_iter().find(|seen| seen.method == "POST").unwrap();
    insta::assert_snapshot!(posted.body, @"scope=repository%3Aapp%3Apull&service=s&grant_type=refresh_token&client_id=kiln&refresh_token=REFRESH");
}

#[test]
fn a_refused_login_and_a_missing_one_are_told_apart() {
    let deny = |_: &Seen| {
        let body = br#"{"errors":[{"code":"UNAUTHORIZED","message":"access \u001b[31mdenied"}]}"#;
        reply("401 Unauthorized", &[("WWW-Authenticate", "Basic realm=\"x\"")], body)
    };
    let server = Server::start(deny);
    let host = server.address.to_string();
    let error = client(&[]).resolve(&name(&server), &platform("linux/amd64"), &cancel()).unwrap_err();
    insta::assert_snapshot!(error.to_string().replace(&host, "HOST"), @r"HOST/app:1: HOST refuses access: access \u{1b}[31mdenied");
    insta::assert_snapshot!(error.hint().unwrap().replace(&host, "HOST"), @"log in first, for example with `kiln login HOST`");
    let config = login(&server, r#"{"auth":"dXNlcjpwdw=="}"#);
    let client = client(&[("DOCKER_CONFIG", config.path().to_str().unwrap())]);
    let error = client.resolve(&name(&server), &platform("linux/amd64"), &cancel()).unwrap_err();
    insta::assert_snapshot!(error.hint().unwrap(), @"the stored login may have expired or may not cover this repository; log in again");
}

#[test]
fn an_ambiguous_manifest_is_refused() {
    let server = Server::start(|_| {
        reply("200 OK", &[("Content-Type", MANIFEST)], br#"{"schemaVersion":2,"manifests":[],"layers":[]}"#)
    });
    let error = client(&[]).resolve(&name(&server), &platform("linux/amd64"), &cancel()).unwrap_err();
    let text = error.to_string().replace(&server.address.to_string(), "HOST");
    insta::assert_snapshot!(text, @"HOST/app:1: the document is both a manifest and an index");
}

#[test]
fn cancelling_ends_a_read_that_waits_for_a_silent_server() {
    // The server's turn ends only with the test, so that the wait can end by the flag alone.
    let (done, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let flag = Arc::new(AtomicBool::new(false));
    let raised = Arc::clone(&flag);
    let server = Server::start(move |_| {
        raised.store(true, Ordering::Relaxed);
        let _ = wait.lock().unwrap().recv();
        Vec::new()
    });
    let error = client(&[]).resolve(&name(&server), &platform("linux/amd64"), &flag).unwrap_err();
    assert!(matches!(error, RegistryError::Canceled), "{error:?}");
    drop(done);
}

#[test]
fn nobody_listening_is_told_at_once_with_the_hosts_name() {
    let name: ImageRef = "127.0.0.1:1/app:1".parse().unwrap();
    let error = client(&[]).resolve(&name, &platform("linux/amd64"), &cancel()).unwrap_err();
    assert!(matches!(&error, RegistryError::Unreachable { host, .. } if host == "127.0.0.1:1"), "{error:?}");
    insta::assert_snapshot!(error.hint().unwrap(), @"is the registry running, and the port right?");
}

#[test]
fn a_download_tells_what_add_needs_and_comes_as_sent() {
    let server = Server::start(|_| {
        let headers = [
            ("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT"),
            ("ETag", "\"e\""),
            ("Content-Disposition", "attachment; filename=\"a.tgz\""),
            ("Content-Encoding", "gzip"),
        ];
        reply("200 OK", &headers, b"not gzip at all")
    });
    let url = format!("http://user:CANARY@{}/x", server.address);
    let mut download = client(&[]).http().fetch_url(&url, &cancel()).unwrap();
    let mut body = String::new();
    download.reader.read_to_string(&mut body).unwrap();
    assert_eq!(body, "not gzip at all");
    assert_eq!(download.etag.as_deref(), Some("\"e\""));
    assert_eq!(download.content_disposition_name.as_deref(), Some("a.tgz"));
    assert_eq!(download.len, Some(15));
    assert!(download.last_modified.is_some());
    assert_eq!(server.seen()[0].header("authorization"), Some(&*basic("user:CANARY")));

    let missing = Server::start(|_| reply("404 Not Found", &[], b"<html>"));
    let error = client(&[])
        .http()
        .fetch_url(&format!("http://u:CANARY@{}/x", missing.address), &cancel())
        .unwrap_err();
    let text = error.to_string().replace(&missing.address.to_string(), "HOST");
    insta::assert_snapshot!(text, @"HOST answered 404");
}

#[test]
fn a_download_is_asked_for_only_if_it_changed_and_with_its_own_header() {
    let server = Server::start(|seen| match seen.header("if-none-match") {
        Some("\"e\"") => reply("304 Not Modified", &[], b""),
        _ => reply("200 OK", &[("ETag", "\"e\"")], b"x"),
    });
    let elsewhere = server.address;
    let first = Server::start(move |_| {
        reply("302 Found", &[("Location", &format!("http://{elsewhere}/there"))], b"")
    });
    let (url, client) = (format!("http://{}/x", server.address), client(&[]));
    let fetch = |fetch: &Fetch<'_>| client.http().fetch(fetch, &cancel()).unwrap();
    let unchanged =
        Fetch { url: &url, authorization: Some("Bearer CANARY"), etag: Some("\"e\""), ..Fetch::default() };
    assert!(matches!(fetch(&unchanged), Fetched::NotModified));
    assert!(matches!(fetch(&Fetch { etag: Some("\"f\""), ..unchanged }), Fetched::Download(_)));
    let redirected = format!("http://{}/x", first.address);
    fetch(&Fetch { url: &redirected, ..unchanged });
    let sent: Vec<_> =
        server.seen().iter().map(|seen| seen.header("authorization").map(str::to_owned)).collect();
    let canary = Some("Bearer CANARY".to_owned());
    // Another origin gets no header that was meant for the first.
    assert_eq!(sent, [canary.clone(), canary, None]);
    assert!(!format!("{unchanged:?}").contains("CANARY"));
}

#[test]
fn a_download_that_breaks_off_is_an_error_and_not_a_short_file() {
    for cut_off in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"[..],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ] {
        let server = Server::start(move |_| cut_off.to_vec());
        let mut download =
            client(&[]).http().fetch_url(&format!("http://{}/", server.address), &cancel()).unwrap();
        let error = download.reader.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    }
}

#[test]
fn a_tag_whose_manifest_breaks_off_is_asked_for_again() {
    let (image, turn) = (Image::new("amd64"), AtomicUsize::new(0));
    let served = image.clone();
    let server = Server::start(move |seen| {
        let mut answer = serve_image(&served, seen);
        if turn.fetch_add(1, Ordering::Relaxed) == 0 {
            answer.truncate(answer.len() - 9);
        }
        answer
    });
    let found = client(&[]).resolve(&name(&server), &platform("linux/amd64"), &cancel()).unwrap();
    assert_eq!(found.manifest_bytes, image.manifest);
}

#[test]
fn requests_go_through_the_proxy_of_the_environment() {
    let proxy = Server::start(|seen| match seen.method.as_str() {
        "CONNECT" => b"HTTP/1.1 403 Forbidden\r\n\r\n".to_vec(),
        _ => reply("200 OK", &[], b"by proxy"),
    });
    let address = format!("http://{}", proxy.address);
    let client =
        client(&[("HTTP_PROXY", &address), ("HTTPS_PROXY", &address), ("NO_PROXY", "direct.invalid")]);
    let fetch = |url: &str| client.http().fetch_url(url, &cancel()).map(drop);
    let _ = fetch("http://plain.invalid/x");
    let _ = fetch("https://secret.invalid/x");
    let _ = fetch("http://direct.invalid/x");
    let seen: Vec<String> =
        proxy.seen().iter().map(|seen| format!("{} {}", seen.method, seen.path)).collect();
    // Both are tunnelled: ureq knows no other way to use a proxy.
    assert_eq!(seen, ["CONNECT plain.invalid:80", "CONNECT secret.invalid:443"]);
}

#[test]
fn a_missing_credential_helper_matters_only_when_a_login_is_needed() {
    let image = Image::new("amd64");
    let private = Arc::new(AtomicBool::new(false));
    let closed = Arc::clone(&private);
    let server = Server::start(move |seen| match seen.header("authorization") {
        _ if seen.path.starts_with("/token") && closed.load(Ordering::Relaxed) => {
            reply("401 Unauthorized", &[], b"")
        }
        _ if seen.path.starts_with("/token") => reply("200 OK", &[], br#"{"token":"T0K","expires_in":1}"#),
        Some("Bearer T0K") => serve_image(&image, seen),
        _ => reply("401 Unauthorized", &[("WWW-Authenticate", "Bearer realm=\"/token\"")], b""),
    });
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("config.json"), r#"{"credsStore":"desktop"}"#).unwrap();
    let client = client(&[("DOCKER_CONFIG", directory.path().to_str().unwrap())]);
    client.resolve(&name(&server), &platform("linux/amd64"), &cancel()).unwrap();
    private.store(true, Ordering::Relaxed);
    let error = client.resolve(&name(&server), &platform("linux/amd64"), &cancel()).unwrap_err();
    insta::assert_snapshot!(error, @"credential helper `docker-credential-desktop`: not found on PATH");
}

#[test]
fn a_registry_that_is_not_on_loopback_is_never_asked_in_the_clear() {
    // The proxy makes a foreign name lead here.
    let proxy = Server::start(|_| reply("200 OK", &[("Content-Type", MANIFEST)], b"{}"));
    let address = format!("http://{}", proxy.address);
    let client = client(&[("HTTP_PROXY", &address), ("HTTPS_PROXY", &address)]);
    let name: ImageRef = "registry.invalid:5000/app:1".parse().unwrap();
    assert!(client.resolve(&name, &platform("linux/amd64"), &cancel()).is_err());
    assert!(proxy.seen().iter().all(|seen| seen.method == "CONNECT" && seen.path == "registry.invalid:5000"));
}
