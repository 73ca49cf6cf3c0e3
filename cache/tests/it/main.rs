//! The store as its callers see it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

mod blobs;
mod builds;
mod collect;
mod details;
mod digests;
mod failures;
mod images;
mod layers;
mod mounts;
mod processes;
mod recovery;
mod scale;
mod steps;

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use kiln_cache::{
    CheckDepth, Claim, Cost, Layer, LayerDraft, Lookup, NewRecord, Record, StepKey, Store, StoreError,
};
use kiln_image::layer::Unpacked;
use kiln_image::{ContentsDigest, DiffId, Digest};

/// A store in a directory of its own.
fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    (dir, store)
}

fn key(name: &str) -> StepKey {
    StepKey(Digest::of(name.as_bytes()))
}

fn contents(text: &str) -> ContentsDigest {
    ContentsDigest(Digest::of(text.as_bytes()))
}

fn diff_id(text: &str) -> DiffId {
    DiffId(Digest::of(text.as_bytes()))
}

fn lookup(store: &Store, name: &str) -> Lookup {
    store.find_or_claim(&key(name), &mut |_| {}, &AtomicBool::new(false)).unwrap()
}

fn claim(store: &Store, name: &str) -> Claim {
    match lookup(store, name) {
        Lookup::Missing(claim) => claim,
        Lookup::Found(_) => panic!("{name} is recorded"),
    }
}

/// A draft with `file` that says `text`.
fn draft(store: &Store, text: &str) -> LayerDraft {
    let draft = store.draft_layer().unwrap();
    std::fs::write(draft.fs().join("file"), text).unwrap();
    draft
}

fn commit(store: &Store, claim: Claim, text: &str) -> Result<Record, StoreError> {
    let cost = Cost { duration: Duration::from_millis(7), ..Cost::default() };
    let record = NewRecord { name: text.into(), cost, log: b"log".to_vec(), ..NewRecord::default() };
    Ok(claim.commit(draft(store, text), Some(contents(text)), record)?.record)
}

fn run_step(store: &Store, name: &str) -> Record {
    match lookup(store, name) {
        Lookup::Found(record) => record,
        Lookup::Missing(claim) => commit(store, claim, name).unwrap(),
    }
}

fn pull(store: &Store, text: &str) -> Layer {
    store
        .add_pulled_layer::<StoreError>(diff_id(text), &AtomicBool::new(false), |draft| {
            std::fs::write(draft.fs().join("file"), text).unwrap();
            Ok(unpacked_from(text))
        })
        .unwrap()
}

/// What a layer of one file was.
fn unpacked_from(text: &str) -> Unpacked {
    let size_bytes = text.len() as u64;
    Unpacked { diff_id: diff_id(text), size_bytes, entries: 1, directories: 0, blocks: 1 }
}

fn file_of(store: &Store, layer: &Layer) -> String {
    std::fs::read_to_string(store.layer_path(layer.id).join("file")).unwrap()
}

fn assert_sound(store: &Store) {
    assert_eq!(store.check(CheckDepth::Blobs).unwrap(), []);
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).unwrap().next().is_none()
}

/// Runs SQL on the store's database, as nobody but a test or an attacker does.
fn tamper(root: &Path, sql: &str) {
    let connection = rusqlite::Connection::open(root.join("db.sqlite")).unwrap();
    connection.busy_timeout(Duration::from_secs(30)).unwrap();
    connection.execute_batch(sql).unwrap();
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
