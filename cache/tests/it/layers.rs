use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Cursor, Read};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use kiln_image::Verified;
use kiln_image::layer::{Compression, OverlayXattrs, pack};
use kiln_image::oci::Descriptor;

use super::*;

#[test]
fn a_draft_is_an_empty_root_directory_whatever_the_umask() {
    let (_dir, store) = store();
    let draft = store.draft_layer().unwrap();
    assert!(is_empty(&draft.fs()) && is_empty(&draft.work()));
    assert_eq!(draft.fs().metadata().unwrap().permissions().mode() & 0o7777, 0o755);
}

#[test]
fn a_pulled_layer_is_unpacked_once_among_many_threads() {
    let (_dir, store) = store();
    let unpacked = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let (store, unpacked) = (Store::open(store.root()).unwrap(), &unpacked);
            scope.spawn(move || {
                let layer = store
                    .add_pulled_layer::<StoreError>(diff_id("a"), &AtomicBool::new(false), |draft| {
                        unpacked.fetch_add(1, Ordering::SeqCst);
                        std::fs::write(draft.fs().join("file"), "a").unwrap();
                        Ok(unpacked_from("a"))
                    })
                    .unwrap();
                assert_eq!(file_of(&store, &layer), "a");
            });
        }
    });
    assert_eq!(unpacked.into_inner(), 1);
    assert_eq!(store.layer_size(diff_id("a").into()).unwrap(), Some(1));
    assert_eq!(store.diff_id(diff_id("a").into()).unwrap(), diff_id("a"));
    assert_sound(&store);
}

#[test]
fn a_pulled_layer_that_is_not_what_was_asked_for_is_refused() {
    let (_dir, store) = store();
    let result = store.add_pulled_layer::<StoreError>(diff_id("good"), &AtomicBool::new(false), |_| {
        Ok(unpacked_from("evil"))
    });
    assert!(matches!(result, Err(StoreError::OtherLayer { .. })));
    assert!(!store.has_layer(diff_id("good").into()).unwrap());
    assert!(is_empty(&store.root().join("layers")) && is_empty(&store.root().join("work")));
}

#[test]
fn a_pulled_layer_whose_directory_was_lost_is_pulled_again() {
    let (_dir, store) = store();
    let layer = pull(&store, "a");
    std::fs::remove_dir_all(store.layer_path(layer.id)).unwrap();
    assert!(!store.has_layer(layer.id).unwrap());
    assert_eq!(file_of(&store, &pull(&store, "a")), "a");
    assert_sound(&store);
}

#[test]
fn a_directory_that_no_commit_finished_is_no_layer_and_is_replaced() {
    let (_dir, store) = store();
    let path = store.layer_path(diff_id("a").into());
    std::fs::create_dir(&path).unwrap();
    std::fs::write(path.join("file"), "half").unwrap();
    assert!(!store.has_layer(diff_id("a").into()).unwrap());
    assert_eq!(file_of(&store, &pull(&store, "a")), "a");
    assert_sound(&store);
}

#[test]
fn the_diff_id_of_an_unknown_layer_is_an_error() {
    let (_dir, store) = store();
    assert!(matches!(store.diff_id(diff_id("x").into()), Err(StoreError::NoSuchLayer { .. })));
}

/// A layer with `file`, as its tar.
fn tar_of(text: &str) -> (DiffId, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), text).unwrap();
    let (tree, mut tar) = (File::open(dir.path()).unwrap(), Vec::new());
    let packed = pack(tree.as_fd(), OverlayXattrs::of_this_process(), &mut tar).unwrap();
    (packed.diff_id, tar)
}

fn descriptor(digest: Digest, tar: &[u8]) -> Descriptor {
    let media_type = "application/vnd.oci.image.layer.v1.tar".to_owned();
    Descriptor { media_type, digest, size: tar.len() as u64, annotations: BTreeMap::new(), platform: None }
}

#[test]
fn a_layer_s_blob_is_unpacked_and_kept_and_asked_for_once() {
    let (_dir, store) = store();
    let (diff_id, tar) = tar_of("a");
    let blob = descriptor(Digest::of(&tar), &tar);
    let (asked, told) = (AtomicU32::new(0), AtomicU64::new(0));
    let pull = || {
        let open = || {
            asked.fetch_add(1, Ordering::SeqCst);
            let reader = Verified::new(Cursor::new(tar.clone()), blob.digest, blob.size);
            Ok::<_, StoreError>(Box::new(reader) as Box<dyn Read + Send>)
        };
        let mut tell = |done| told.store(done, Ordering::SeqCst);
        store.add_pulled_layer(diff_id, &AtomicBool::new(false), |draft| {
            store.unpack_blob(draft, diff_id, &blob, open, &mut tell)
        })
    };
    let layer = pull().unwrap();
    assert_eq!((file_of(&store, &layer).as_str(), told.load(Ordering::SeqCst)), ("a", blob.size));
    assert_eq!(store.compressed(diff_id, "none").unwrap(), Some(blob.digest));
    assert_eq!(store.blob_of(diff_id).unwrap(), Some((Compression::None, blob.digest)));
    std::fs::remove_dir_all(store.layer_path(layer.id)).unwrap();
    assert_eq!(file_of(&store, &pull().unwrap()), "a");
    assert_eq!(asked.into_inner(), 1);
    assert_sound(&store);
}

#[test]
fn nothing_is_kept_of_a_blob_that_is_another_layer_s_or_not_what_it_should_be() {
    let (_dir, store) = store();
    let ((wanted, _), (_, tar)) = (tar_of("a"), tar_of("b"));
    let of = |digest| descriptor(digest, &tar);
    let pull = |blob: &Descriptor| {
        let reader = Verified::new(Cursor::new(tar.clone()), blob.digest, blob.size);
        let open = || Ok::<_, StoreError>(Box::new(reader) as Box<dyn Read + Send>);
        store
            .add_pulled_layer(wanted, &AtomicBool::new(false), |draft| {
                store.unpack_blob(draft, wanted, blob, open, &mut |_| {})
            })
            .unwrap_err()
    };
    let error = pull(&of(Digest::of(&tar)));
    assert!(matches!(error, StoreError::OtherLayer { expected, .. } if expected == wanted), "{error}");
    let error = pull(&of(Digest::of(b"another")));
    assert!(error.to_string().contains("digest"), "{error}");
    assert_eq!(store.blob_of(wanted).unwrap(), None);
    assert!(!store.has_blob(&Digest::of(&tar)) && !store.has_layer(wanted.into()).unwrap());
    for dir in ["layers", "work"] {
        assert!(is_empty(&store.root().join(dir)), "{dir}");
    }
    assert_sound(&store);
}
