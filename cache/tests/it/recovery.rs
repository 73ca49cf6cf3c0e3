//! After the machine stopped: played by another boot id in the database.

use super::processes::stopped_store;
use super::*;

const REBOOT: &str = "UPDATE meta SET value = 'another boot' WHERE name = 'boot_id'";

/// What the disk looks like after a stop, before the store is opened again.
fn stopped(also: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let (dir, root) = stopped_store("stop");
    tamper(&root, REBOOT);
    tamper(&root, also);
    (dir, root)
}

#[test]
fn settled_results_survive_a_stop() {
    let (_dir, root) = stopped("UPDATE layers SET settled = 1; UPDATE blobs SET settled = 1");
    let store = Store::open(&root).unwrap();
    assert!(store.find(&key("a")).unwrap().is_some());
    assert!(store.has_layer(diff_id("base").into()).unwrap());
    assert_eq!(store.images().unwrap().len(), 1);
    assert_sound(&store);
}

#[test]
fn settling_covers_what_was_committed_before() {
    let (_dir, store) = store();
    run_step(&store, "a");
    store.put_blob(b"blob").unwrap();
    store.settle().unwrap();
    let connection = rusqlite::Connection::open(store.root().join("db.sqlite")).unwrap();
    for table in ["layers", "blobs"] {
        let unsettled: u32 = connection
            .query_row(&format!("SELECT count(*) FROM {table} WHERE settled = 0"), [], |row| row.get(0))
            .unwrap();
        assert_eq!(unsettled, 0, "{table}");
    }
}

#[test]
fn unsettled_layers_that_cannot_be_verified_are_dropped_with_their_records() {
    let (_dir, root) = stopped("UPDATE layers SET settled = 0 WHERE seq > 1");
    let store = Store::open(&root).unwrap();
    assert!(store.find(&key("a")).unwrap().is_none());
    assert!(!store.has_layer(diff_id("base").into()).unwrap());
    assert!(store.images().unwrap().is_empty());
    assert!(store.find(&key("settled")).unwrap().is_some());
    assert_sound(&store);
}

#[test]
fn unsettled_blobs_are_verified() {
    let (_dir, root) = stopped("UPDATE blobs SET settled = 0");
    let blob = |text: &str| root.join("blobs/sha256").join(Digest::of(text.as_bytes()).hex());
    std::fs::write(blob("bad"), b"").unwrap();
    let store = Store::open(&root).unwrap();
    assert!(store.has_blob(&Digest::of(b"good")) && !store.has_blob(&Digest::of(b"bad")));
    assert_sound(&store);
}

#[test]
fn a_layer_whose_row_was_lost_is_swept() {
    let (_dir, root) = stopped("DELETE FROM layers; DELETE FROM records; DELETE FROM record_layers");
    let store = Store::open(&root).unwrap();
    assert!(is_empty(&root.join("layers")));
    assert_sound(&store);
}

#[test]
fn what_a_killed_prune_threw_away_comes_back_if_its_row_is_there() {
    let (dir, store) = store();
    for step in ["a", "b"] {
        run_step(&store, step);
    }
    let blob = store.put_blob(b"blob").unwrap();
    let layer_of = |step: &str| store.find(&key(step)).unwrap().unwrap().layers[0].id;
    let (kept, gone) = (layer_of("a"), layer_of("b"));
    let root = store.root().to_owned();
    drop(store);
    let trash = root.join("work").join("ab".repeat(32));
    std::fs::create_dir(&trash).unwrap();
    for id in [kept, gone] {
        let place = root.join("layers").join(id.to_string());
        std::fs::rename(place, trash.join(format!("layer-{id}"))).unwrap();
    }
    let place = root.join("blobs/sha256").join(blob.hex());
    std::fs::rename(place, trash.join(format!("blob-{}", blob.hex()))).unwrap();
    tamper(&root, &format!("DELETE FROM layers WHERE id = x'{gone}'"));
    let store = Store::open(&root).unwrap();
    assert!(store.find(&key("a")).unwrap().is_some() && store.find(&key("b")).unwrap().is_none());
    assert!(store.has_blob(&blob));
    assert_sound(&store);
    drop(dir);
}
