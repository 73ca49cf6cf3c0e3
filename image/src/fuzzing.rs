//! What the fuzz targets of bytes from outside hold kiln to; the tests replay their corpus (`fuzz/corpus`) by the same.
//!
//! Each function panics when a rule is broken: a panic inside, a file outside of the folder it may write to, bytes that
//! mean another thing when they are read again.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "a program for kiln's developers")]

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use ureq::http::{HeaderMap, HeaderValue, header};

use crate::http::{Url, retry_after};
use crate::layer::{ExtractOptions, OverlayXattrs, extract_archive, pack, unpack};
use crate::layout::{Layout, Selector};
use crate::oci::{Document, parse_config};
use crate::registry::challenges;
use crate::{Digest, ImageRef, Platform};

/// A folder to write to beside a file that must stay as it is.
struct Ground {
    folder: tempfile::TempDir,
}

impl Ground {
    fn new() -> Ground {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("tree")).unwrap();
        std::fs::write(folder.path().join("sentinel"), "untouched").unwrap();
        Ground { folder }
    }

    fn tree(&self) -> File {
        File::open(self.folder.path().join("tree")).unwrap()
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        assert_eq!(std::fs::read(self.folder.path().join("sentinel")).unwrap(), b"untouched");
        assert_eq!(std::fs::read_dir(self.folder.path()).unwrap().count(), 2);
    }
}

/// A layer: nothing leaves the folder, and what was unpacked is packed and unpacked to the same.
pub fn layer(bytes: &[u8]) {
    let (first, second) = (Ground::new(), Ground::new());
    let xattrs = OverlayXattrs::of_this_process();
    let Ok(unpacked) = unpack(&mut &*bytes, first.tree().as_fd(), xattrs) else { return };
    assert!(unpacked.entries <= bytes.len() as u64 * MOST_ENTRIES_A_BYTE);
    let mut packed = Vec::new();
    let diff_id = pack(first.tree().as_fd(), xattrs, &mut packed).unwrap().diff_id;
    unpack(&mut &*packed, second.tree().as_fd(), xattrs).unwrap();
    let mut again = Vec::new();
    assert_eq!(pack(second.tree().as_fd(), xattrs, &mut again).unwrap().diff_id, diff_id);
}

/// zstd's best: entries of half a kilobyte, tens of thousands to one.
const MOST_ENTRIES_A_BYTE: u64 = 1000;

/// An archive of ADD's, or a context by pipe.
pub fn context(bytes: &[u8]) {
    let ground = Ground::new();
    let _ = extract_archive(&mut &*bytes, ground.tree().as_fd(), ExtractOptions::default());
}

/// A manifest or an index, and an image's config. The first line is what its server said it is.
pub fn document(bytes: &[u8]) {
    let cut = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(0);
    let (kind, text) = bytes.split_at(cut);
    let announced = std::str::from_utf8(kind).ok().filter(|kind| !kind.is_empty());
    for announced in [announced, None] {
        if let Ok(document) = Document::parse(text, announced) {
            match document {
                Document::Manifest(manifest) => drop(manifest.check_image()),
                Document::Index(index) => {
                    let _ = index.candidates(&Platform::host());
                    let _ = index.platforms();
                }
            }
        }
    }
    let _ = parse_config(text);
}

/// An archive of images: every image it names is looked up, and every blob read to its end.
pub fn archive(bytes: &[u8]) {
    let ground = Ground::new();
    let never = AtomicBool::new(false);
    let spool = ground.folder.path().join("tree");
    let Ok(archive) = crate::archive::Archive::from_reader("fuzzed", Box::new(bytes), &spool, &never) else {
        return;
    };
    let reference: ImageRef = "fuzzed".parse().unwrap();
    let selectors = archive.names().into_iter().map(Selector::Name).chain([Selector::Only]);
    for selector in selectors {
        let _ = archive.resolve(&selector, &reference, &Platform::host());
    }
    for blob in &archive.index().manifests {
        if let Ok(mut blob) = archive.blob(blob) {
            let _ = std::io::copy(&mut blob, &mut std::io::sink());
        }
    }
}

/// An image layout whose `index.json` is the first line, and whose only blob the rest.
pub fn layout(bytes: &[u8]) {
    let cut = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (index, blob) = bytes.split_at(cut);
    let ground = Ground::new();
    let tree = ground.folder.path().join("tree");
    let write = |path: &Path, bytes: &[u8]| std::fs::write(path, bytes).unwrap();
    std::fs::create_dir_all(tree.join("blobs/sha256")).unwrap();
    write(&tree.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#);
    write(&tree.join("index.json"), index);
    write(&tree.join("blobs/sha256").join(Digest::of(blob).hex()), blob);
    let Ok(layout) = Layout::open(&tree) else { return };
    let reference: ImageRef = "fuzzed".parse().unwrap();
    for selector in [Selector::Only, Selector::Name("latest".into()), Selector::Digest(Digest::of(blob))] {
        let _ = layout.resolve(&selector, &reference, &Platform::host());
    }
}

/// A registry's headers: who is asked for what, when to come back, where to go.
pub fn headers(bytes: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(bytes) else { return };
    let mut headers = HeaderMap::new();
    for name in [header::WWW_AUTHENTICATE, header::RETRY_AFTER, header::CONTENT_RANGE, header::RANGE] {
        headers.append(name, value.clone());
    }
    let _ = challenges(&headers);
    let _ = retry_after(&headers);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let from = Url::parse("https://registry.example/v2/").unwrap();
    if let Ok(to) = from.join(text) {
        // What is printed never has a password, and leads to where the address does.
        let printed = Url::parse(&to.to_string()).unwrap();
        assert_eq!(printed.origin(), to.origin(), "{text}");
    }
}

#[cfg(test)]
mod tests {
    fn replay(target: &str, each: fn(&[u8])) {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
        let mut count = 0;
        for entry in std::fs::read_dir(&folder).unwrap() {
            each(&std::fs::read(entry.unwrap().path()).unwrap());
            count += 1;
        }
        assert!(count > 0, "{}", folder.display());
    }

    #[test]
    fn layers_of_the_corpus_stay_in_their_folder() {
        replay("layer", super::layer);
        replay("context", super::context);
    }

    #[test]
    fn documents_of_the_corpus_are_read_or_refused() {
        replay("document", super::document);
    }

    #[test]
    fn images_of_the_corpus_are_read_or_refused() {
        replay("archive", super::archive);
        replay("layout", super::layout);
    }

    #[test]
    fn headers_of_the_corpus_are_read_or_refused() {
        replay("headers", super::headers);
    }
}
