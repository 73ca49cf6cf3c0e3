//! A loopback registry that takes uploads and can be told to misbehave: to answer something else, or to hang up in the
//! middle of a body.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

use kiln_image::Digest;

use crate::support::{Seen, reply};

/// What to do in place of the right thing.
pub enum Fault {
    /// Answer so without reading the body.
    Answer(Vec<u8>),
    /// Keep so many bytes of the body, and hang up.
    HangUpAfter(usize),
}

#[derive(Default)]
pub struct State {
    pub seen: Vec<Seen>,
    /// By repository and digest.
    pub blobs: HashMap<(String, String), Vec<u8>>,
    pub manifests: HashMap<String, Vec<u8>>,
    pub uploads: HashMap<String, Vec<u8>>,
    begun: usize,
    /// Bytes of bodies received.
    pub received: usize,
}

type Misbehave = dyn Fn(&Seen, &State) -> Option<Fault> + Send + Sync;

pub struct UploadRegistry {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl UploadRegistry {
    pub fn start(misbehave: impl Fn(&Seen, &State) -> Option<Fault> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let (shared, misbehave) = (Arc::clone(&state), Arc::new(misbehave));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (shared, misbehave) = (Arc::clone(&shared), Arc::clone(&misbehave));
                std::thread::spawn(move || serve(stream, &shared, &*misbehave));
            }
        });
        Self { address, state }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// `PATCH /v2/a/blobs/uploads/1`, … in their order, without looking for blobs.
    pub fn requests(&self) -> Vec<String> {
        let state = self.state();
        let shown = state.seen.iter().filter(|seen| seen.method != "HEAD");
        shown.map(|seen| format!("{} {}", seen.method, seen.path)).collect()
    }
}

fn serve(mut stream: TcpStream, state: &Mutex<State>, misbehave: &Misbehave) {
    let Some(seen) = head(&mut stream) else { return };
    let fault = {
        let mut state = state.lock().unwrap();
        let fault = misbehave(&seen, &state);
        state.seen.push(seen.clone());
        fault
    };
    if let Some(Fault::Answer(bytes)) = fault {
        let _ = stream.write_all(&bytes);
        return;
    }
    if seen.header("expect").is_some() {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
    }
    let mut body = Vec::new();
    match (&fault, seen.header("content-length").map(|length| length.parse::<u64>().unwrap())) {
        (Some(Fault::HangUpAfter(kept)), _) => {
            (&mut stream).take(*kept as u64).read_to_end(&mut body).unwrap();
        }
        (_, Some(length)) => _ = (&mut stream).take(length).read_to_end(&mut body).unwrap(),
        _ if seen.header("transfer-encoding").is_some() => body = chunked(&mut stream),
        _ => {}
    }
    let mut state = state.lock().unwrap();
    state.received += body.len();
    let answer = state.answer(&seen, body);
    if fault.is_none() {
        let _ = stream.write_all(&answer);
    }
}

impl State {
    fn answer(&mut self, seen: &Seen, body: Vec<u8>) -> Vec<u8> {
        let (path, query) = seen.path.split_once('?').unwrap_or((&seen.path, ""));
        let query = query.replace("%3A", ":").replace("%2F", "/");
        let get = |key: &str| {
            query.split('&').find_map(|pair| Some(pair.strip_prefix(key)?.strip_prefix('=')?.to_owned()))
        };
        let rest = path.strip_prefix("/v2/").unwrap();
        if let Some((_, name)) = rest.split_once("/manifests/") {
            self.manifests.insert(name.to_owned(), body);
            return reply("201 Created", &[], b"");
        }
        let (repository, what) = rest.split_once("/blobs/").unwrap();
        let Some(upload) = what.strip_prefix("uploads/") else {
            return match self.blobs.contains_key(&(repository.to_owned(), what.to_owned())) {
                true => reply("200 OK", &[], b""),
                false => reply("404 Not Found", &[], b""),
            };
        };
        if seen.method == "POST" {
            if let (Some(digest), Some(from)) = (get("mount"), get("from"))
                && let Some(bytes) = self.blobs.get(&(from, digest.clone())).cloned()
            {
                self.blobs.insert((repository.to_owned(), digest), bytes);
                return reply("201 Created", &[], b"");
            }
            self.begun += 1;
            self.uploads.insert(self.begun.to_string(), Vec::new());
            let location = format!("/v2/{repository}/blobs/uploads/{}?s=x", self.begun);
            return reply("202 Accepted", &[("Location", &location)], b"");
        }
        let Some(bytes) = self.uploads.get_mut(upload) else { return reply("404 Not Found", &[], b"") };
        if let Some(range) = seen.header("content-range") {
            let start: usize = range.split('-').next().unwrap().parse().unwrap();
            if start != bytes.len() {
                return reply("416 Range Not Satisfiable", &[], b"");
            }
        }
        bytes.extend(body);
        let range = format!("0-{}", bytes.len().saturating_sub(1));
        let location = format!("/v2/{repository}/blobs/uploads/{upload}?s=x");
        match seen.method.as_str() {
            "PATCH" => reply("202 Accepted", &[("Location", &location), ("Range", &range)], b""),
            "GET" => reply("204 No Content", &[("Location", &location), ("Range", &range)], b""),
            "PUT" => {
                let digest = get("digest").unwrap();
                if Digest::of(bytes).to_string() != digest {
                    return reply("400 Bad Request", &[], br#"{"errors":[{"code":"DIGEST_INVALID"}]}"#);
                }
                let bytes = self.uploads.remove(upload).unwrap();
                self.blobs.insert((repository.to_owned(), digest), bytes);
                reply("201 Created", &[], b"")
            }
            "DELETE" => {
                self.uploads.remove(upload);
                reply("204 No Content", &[], b"")
            }
            other => panic!("{other}"),
        }
    }
}

fn head(stream: &mut TcpStream) -> Option<Seen> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            // A TLS hello is answered as Go's servers do.
            Ok(1) if head.is_empty() && byte[0] == 0x16 => {
                let _ = stream.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n");
                return None;
            }
            Ok(1) => head.push(byte[0]),
            _ => return None,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let mut words = head.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    Some(Seen { method, path, head: head.clone(), body: String::new() })
}

fn chunked(stream: &mut TcpStream) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            // A sender that hung up leaves what it had sent.
            if stream.read_exact(&mut byte).is_err() {
                return body;
            }
            line.push(byte[0]);
        }
        let length = u64::from_str_radix(std::str::from_utf8(&line).unwrap().trim(), 16).unwrap();
        stream.take(length).read_to_end(&mut body).unwrap();
        stream.read_exact(&mut [0; 2]).unwrap();
        if length == 0 {
            return body;
        }
    }
}
