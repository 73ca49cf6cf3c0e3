//! A loopback HTTP server that says what a test wants, a real registry, and small images.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub use kiln_fixtures::DockerRegistry;
use kiln_image::Digest;
use kiln_image::http::Retry;
use kiln_image::layout::{BlobInput, write_directory};
use kiln_image::registry::{Registry, RegistryConfig};

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub head: String,
    pub body: String,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

pub struct Server {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    /// Serves what `answer` returns, byte for byte, and closes. TLS hellos are answered as Go's servers do.
    pub fn start(answer: impl Fn(&Seen) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (answer, log) = (Arc::new(answer), Arc::clone(&seen));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, log) = (Arc::clone(&answer), Arc::clone(&log));
                std::thread::spawn(move || serve(stream, &*answer, &log));
            }
        });
        Self { address, seen }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

fn serve(mut stream: TcpStream, answer: &dyn Fn(&Seen) -> Vec<u8>, log: &Mutex<Vec<Seen>>) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) if head.is_empty() && byte[0] == 0x16 => {
                let _ = stream.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n");
                return;
            }
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let mut words = head.split(' ');
    let (method, path) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
    let mut seen = Seen { method, path, head: head.clone(), body: String::new() };
    let length = seen.header("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    seen.body = String::from_utf8(body).unwrap();
    log.lock().unwrap().push(seen.clone());
    let _ = stream.write_all(&answer(&seen));
}

/// An answer with a body and its length.
pub fn reply(status: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut all = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    for (key, value) in headers {
        all.push_str(&format!("{key}: {value}\r\n"));
    }
    all.push_str("\r\n");
    [all.as_bytes(), body].concat()
}

/// A registry client that tries twice and does not wait.
pub fn client(env: &[(&str, &str)]) -> Registry {
    let find = |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
    let config =
        RegistryConfig::load(&|name| find(name).or_else(|| (name == "HOME").then(|| "/nonexistent".into())));
    let retry = Retry { attempts: 3, first_delay: Duration::ZERO };
    Registry::new(config.unwrap().retry(retry)).unwrap()
}

pub fn cancel() -> Arc<std::sync::atomic::AtomicBool> {
    Arc::default()
}

pub fn platform(text: &str) -> kiln_image::Platform {
    text.parse().unwrap()
}

/// A one-layer image whose layer says what it is.
#[derive(Clone)]
pub struct Image {
    pub layer: Vec<u8>,
    pub config: Vec<u8>,
    pub manifest: Vec<u8>,
}

impl Image {
    pub fn new(architecture: &str) -> Self {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        let text = format!("made for {architecture}\n");
        header.set_path("arch").unwrap();
        header.set_mode(0o644);
        header.set_size(text.len() as u64);
        header.set_cksum();
        tar.append(&header, text.as_bytes()).unwrap();
        let layer = tar.into_inner().unwrap();
        let diff_id = Digest::of(&layer);
        let config = format!(
            r#"{{"architecture":"{architecture}","os":"linux","config":{{"Env":["PATH=/bin"],"Cmd":null}},"rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#
        )
        .into_bytes();
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{diff_id}","size":{}}}]}}"#,
            Digest::of(&config),
            config.len(),
            layer.len()
        )
        .into_bytes();
        Self { layer, config, manifest }
    }

    pub fn blobs(&self) -> [&[u8]; 3] {
        [&self.layer, &self.config, &self.manifest]
    }
}

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";

pub fn blob_inputs<'a>(blobs: &[&'a [u8]]) -> Vec<Result<BlobInput<'a>, kiln_image::layout::LayoutError>> {
    let input = |bytes: &&'a [u8]| {
        Ok(BlobInput {
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
            reader: Box::new(*bytes),
            is_verified: false,
        })
    };
    blobs.iter().map(input).collect()
}

/// `index.json` for manifests under a tag, each for an architecture.
pub fn index(manifests: &[(&str, &Image)], tag: Option<&str>) -> Vec<u8> {
    let entry = |(architecture, image): &(&str, &Image)| {
        let annotations = tag.map_or(String::new(), |tag| {
            format!(r#","annotations":{{"org.opencontainers.image.ref.name":"{tag}"}}"#)
        });
        format!(
            r#"{{"mediaType":"{MANIFEST}","digest":"{}","size":{},"platform":{{"os":"linux","architecture":"{architecture}"}}{annotations}}}"#,
            Digest::of(&image.manifest),
            image.manifest.len()
        )
    };
    let entries: Vec<_> = manifests.iter().map(entry).collect();
    format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{}]}}"#, entries.join(",")).into_bytes()
}

/// A layout with an index of two platforms, tagged `both`.
pub fn two_platform_layout(path: &Path) -> (Image, Image) {
    let (amd64, arm64) = (Image::new("amd64"), Image::new("arm64"));
    let inner = index(&[("amd64", &amd64), ("arm64", &arm64)], None);
    let outer = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{INDEX}","digest":"{}","size":{},"annotations":{{"org.opencontainers.image.ref.name":"both"}}}}]}}"#,
        Digest::of(&inner),
        inner.len()
    );
    let blobs: Vec<&[u8]> = [&inner[..]].into_iter().chain(amd64.blobs()).chain(arm64.blobs()).collect();
    write_directory(path, outer.as_bytes(), &[], blob_inputs(&blobs)).unwrap();
    (amd64, arm64)
}

/// `skopeo`, or `None` with a word on what is skipped.
pub fn skopeo(arguments: &[&str]) -> Option<String> {
    let output = match Command::new("skopeo").arg("--insecure-policy").args(arguments).output() {
        Ok(output) => output,
        Err(error) => {
            eprintln!("skipped: this test needs skopeo ({error})");
            return None;
        }
    };
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "skopeo {arguments:?}: {words}");
    Some(String::from_utf8(output.stdout).unwrap())
}
