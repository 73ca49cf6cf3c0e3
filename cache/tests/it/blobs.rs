use std::io::{Read, Write};

use super::*;

#[test]
fn a_blob_is_read_as_it_was_written() {
    let (_dir, store) = store();
    let mut writer = store.blob_writer().unwrap();
    writer.write_all(b"hel").unwrap();
    writer.write_all(b"lo").unwrap();
    let digest = Digest::of(b"hello");
    assert!(!store.has_blob(&digest));
    assert_eq!(writer.finish(Some(digest)).unwrap(), (digest, 5));
    let mut text = String::new();
    store.open_blob(&digest).unwrap().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
    assert_eq!(store.put_blob(b"hello").unwrap(), digest);
    assert!(is_empty(&store.root().join("work")));
    assert_sound(&store);
}

#[test]
fn a_blob_with_another_digest_than_expected_is_never_visible() {
    let (_dir, store) = store();
    let mut writer = store.blob_writer().unwrap();
    writer.write_all(b"evil").unwrap();
    let result = writer.finish(Some(Digest::of(b"good")));
    assert!(matches!(result, Err(StoreError::DigestMismatch { .. })));
    assert!(!store.has_blob(&Digest::of(b"evil")) && !store.has_blob(&Digest::of(b"good")));
    assert!(is_empty(&store.root().join("work")));
}

#[test]
fn bytes_that_their_source_verified_are_a_blob_of_that_name_alone() {
    let (_dir, store) = store();
    let digest = Digest::of(b"pulled");
    let mut writer = store.verified_blob_writer(digest).unwrap();
    writer.write_all(b"pulled").unwrap();
    let result = writer.finish(Some(Digest::of(b"another")));
    assert!(matches!(result, Err(StoreError::DigestMismatch { .. })));
    assert!(!store.has_blob(&digest));
    let mut writer = store.verified_blob_writer(digest).unwrap();
    writer.write_all(b"pulled").unwrap();
    assert_eq!(writer.finish(Some(digest)).unwrap(), (digest, 6));
    assert_eq!(std::fs::read(store.blob_path(&digest)).unwrap(), b"pulled");
    assert_sound(&store);
}

#[test]
fn one_blob_may_be_written_by_many_at_once() {
    let (_dir, store) = store();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| store.put_blob(&[7; 100_000]).unwrap());
        }
    });
    assert_sound(&store);
}

#[test]
fn compression_is_remembered_as_long_as_its_blob_is_there() {
    let (_dir, store) = store();
    assert_eq!(store.compressed(diff_id("a"), "gzip").unwrap(), None);
    let blob = store.put_blob(b"compressed").unwrap();
    store.remember_compressed(diff_id("a"), "gzip", blob).unwrap();
    assert_eq!(store.compressed(diff_id("a"), "gzip").unwrap(), Some(blob));
    assert_eq!(store.compressed(diff_id("a"), "zstd").unwrap(), None);
    std::fs::remove_file(store.blob_path(&blob)).unwrap();
    assert_eq!(store.compressed(diff_id("a"), "gzip").unwrap(), None);
}

#[test]
fn check_reports_a_blob_that_was_changed() {
    let (_dir, store) = store();
    let blob = store.put_blob(b"good").unwrap();
    std::fs::write(store.blob_path(&blob), b"evil").unwrap();
    let problems = store.check(CheckDepth::Blobs).unwrap();
    assert_eq!(problems, [kiln_cache::Problem::DamagedBlob { expected: blob, actual: Digest::of(b"evil") }]);
}
