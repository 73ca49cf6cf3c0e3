use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU32, Ordering};

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
    assert!(matches!(result, Err(StoreError::DigestMismatch { .. })));
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
