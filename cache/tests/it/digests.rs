//! What needs whole trees read: contents digests taken by the store, DiffIds.

use kiln_cache::{Problem, tree_digest};

use super::processes::stopped_store;
use super::*;

fn commit_unknown(store: &Store, name: &str) -> Record {
    claim(store, name).commit(draft(store, name), None, NewRecord::default()).unwrap().record
}

#[test]
fn a_step_that_does_not_know_its_contents_has_them_digested() {
    let (_dir, store) = store();
    let layer = commit_unknown(&store, "a").layers[0];
    let found = tree_digest(&store.layer_path(layer.id)).unwrap();
    assert_eq!(layer.contents, found.contents);
    assert_eq!(store.layer_size(layer.id).unwrap(), Some(1));
    assert_eq!(store.check(CheckDepth::Trees).unwrap(), []);
}

#[test]
fn a_layer_without_a_record_is_kept_as_one_with() {
    let (_dir, store) = store();
    let layer = store.commit_layer(draft(&store, "a")).unwrap();
    assert!(store.has_layer(layer.id).unwrap());
    assert_eq!(layer.contents, commit_unknown(&store, "a").layers[0].contents);
}

#[test]
fn a_layer_that_was_changed_is_found_by_a_full_check() {
    let (_dir, store) = store();
    let layer = commit_unknown(&store, "a").layers[0];
    std::fs::write(store.layer_path(layer.id).join("file"), "b").unwrap();
    assert_sound(&store);
    let problems = store.check(CheckDepth::Trees).unwrap();
    assert!(matches!(problems[..], [Problem::ChangedLayer { id, .. }] if id == layer.id), "{problems:?}");
}

#[test]
fn an_unsettled_layer_survives_a_stop_if_it_is_still_what_it_was() {
    let (_dir, root) = stopped_store("stop digested");
    let bad = tampered_layer(&root);
    std::fs::write(root.join("layers").join(bad).join("file"), "").unwrap();
    tamper(
        &root,
        "UPDATE layers SET settled = 0; UPDATE meta SET value = 'another boot' WHERE name = 'boot_id'",
    );
    let again = Store::open(&root).unwrap();
    assert!(again.find(&key("good")).unwrap().is_some());
    assert!(again.find(&key("bad")).unwrap().is_none());
    assert_eq!(again.check(CheckDepth::Trees).unwrap(), []);
}

/// The layer of the step "bad".
fn tampered_layer(root: &Path) -> String {
    let connection = rusqlite::Connection::open(root.join("db.sqlite")).unwrap();
    let sql = "SELECT lower(hex(layer)) FROM record_layers WHERE key = ?1";
    connection.query_row(sql, [key("bad").0.as_bytes()], |row| row.get(0)).unwrap()
}

#[test]
fn a_diff_id_is_computed_once_and_remembered() {
    let (_dir, store) = store();
    let layer = commit_unknown(&store, "a").layers[0];
    let ids: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| store.diff_id(layer.id).unwrap())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(ids.iter().all(|id| *id == ids[0]));
    // Remembered: the tree is not looked at again.
    std::fs::write(store.layer_path(layer.id).join("file"), "b").unwrap();
    assert_eq!(store.diff_id(layer.id).unwrap(), ids[0]);
}

#[test]
fn a_small_layer_has_its_diff_id_with_its_record_and_a_large_one_a_list() {
    let (_dir, store) = store();
    let wanted = || NewRecord { wants_diff_id: true, ..NewRecord::default() };
    let commit = |name: &str, draft, record| claim(&store, name).commit(draft, None, record).unwrap();
    let packed = |id| {
        let tree = std::fs::File::open(store.layer_path(id)).unwrap();
        let xattrs = kiln_image::layer::OverlayXattrs::of_this_process();
        let packed =
            kiln_image::layer::pack(std::os::fd::AsFd::as_fd(&tree), xattrs, &mut std::io::sink()).unwrap();
        packed.diff_id
    };
    let small = commit("small", draft(&store, "a"), wanted());
    let (id, diff_id) = (small.record.layers[0].id, small.diff_id);
    assert_eq!(store.layer_facts(&[id]).unwrap()[0].as_ref().unwrap().diff_id, diff_id);
    assert_eq!(diff_id, Some(packed(id)));
    let not_wanted = commit("not wanted", draft(&store, "b"), NewRecord::default());
    assert!(not_wanted.diff_id.is_none() && not_wanted.listing.is_none());
    let large = store.draft_layer().unwrap();
    std::fs::write(large.fs().join("file"), vec![1; 1 << 20]).unwrap();
    let large = commit("large", large, wanted());
    assert_eq!(large.diff_id, None);
    let id = large.record.layers[0].id;
    assert_eq!(store.diff_id_of_listed(id, large.listing.unwrap()).unwrap(), packed(id));
    assert_eq!(store.layer_facts(&[id]).unwrap()[0].as_ref().unwrap().diff_id, Some(packed(id)));
}
