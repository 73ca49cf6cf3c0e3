use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use kiln_cache::{Lookup, NewRecord, StoreError};

use super::*;

#[test]
fn a_committed_step_is_found_with_all_it_said() {
    let (_dir, store) = store();
    assert!(store.find(&key("a")).unwrap().is_none());
    let made = commit(&store, claim(&store, "a"), "a").unwrap();
    let found = store.find(&key("a")).unwrap().unwrap();
    assert_eq!(found.layers, made.layers);
    assert_eq!(found.layers[0].contents, contents("a"));
    assert_eq!((found.name.as_str(), found.duration), ("a", Duration::from_millis(7)));
    assert_eq!(store.details(&key("a")).unwrap().unwrap().log, b"log");
    assert_eq!(file_of(&store, &found.layers[0]), "a");
    assert_sound(&store);
}

#[test]
fn another_opening_of_the_store_finds_the_step() {
    let (_dir, store) = store();
    run_step(&store, "a");
    let other = Store::open(store.root()).unwrap();
    assert!(other.find(&key("a")).unwrap().is_some());
}

#[test]
fn a_dropped_claim_and_draft_leave_nothing() {
    let (_dir, store) = store();
    let claim_of_a = claim(&store, "a");
    let draft = draft(&store, "a");
    drop((claim_of_a, draft));
    assert!(is_empty(&store.root().join("work")));
    assert!(!store.root().join("locks").join(key("a").0.hex()).exists());
    drop(claim(&store, "a"));
}

#[test]
fn a_record_whose_layer_is_gone_is_a_miss_and_is_dropped() {
    let (_dir, store) = store();
    let record = run_step(&store, "a");
    std::fs::remove_dir_all(store.layer_path(record.layers[0].id)).unwrap();
    assert!(store.find(&key("a")).unwrap().is_none());
    let again = commit(&store, claim(&store, "a"), "a").unwrap();
    assert_ne!(again.layers[0].id, record.layers[0].id);
}

#[test]
fn a_claim_without_cache_replaces_the_record() {
    let (_dir, store) = store();
    let old = run_step(&store, "a");
    let claim = store.claim(&key("a"), &mut |_| {}, &AtomicBool::new(false)).unwrap();
    let new = commit(&store, claim, "b").unwrap();
    assert_ne!(old.layers, new.layers);
    assert_eq!(store.find(&key("a")).unwrap().unwrap().layers, new.layers);
}

#[test]
fn a_step_without_layers_is_a_result_too() {
    let (_dir, store) = store();
    let made = claim(&store, "a").commit_layers(Vec::new(), NewRecord::default()).unwrap();
    assert_eq!(store.find(&key("a")).unwrap().unwrap().layers, made.layers);
}

#[test]
fn a_step_may_share_an_equal_steps_layers_but_no_unknown_ones() {
    let (_dir, store) = store();
    let one = run_step(&store, "one");
    claim(&store, "two").commit_layers(one.layers.clone(), NewRecord::default()).unwrap();
    assert_eq!(store.find(&key("two")).unwrap().unwrap().layers, one.layers);
    let unknown = Layer { id: diff_id("x").into(), contents: contents("x") };
    let refused = claim(&store, "three").commit_layers(vec![unknown], NewRecord::default());
    assert!(matches!(refused, Err(StoreError::NoSuchLayer { .. })));
}

#[test]
fn equal_steps_run_once_among_many_threads() {
    let (_dir, store) = store();
    let runs = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for thread in 0..16_usize {
            // Half of them share an opening, half have their own, as processes do.
            let store = if thread % 2 == 0 { store.clone() } else { Store::open(store.root()).unwrap() };
            let runs = &runs;
            scope.spawn(move || {
                for step in 0..20 {
                    let name = format!("step {}", (step + thread) % 20);
                    let record = match lookup(&store, &name) {
                        Lookup::Found(record) => record,
                        Lookup::Missing(claim) => {
                            runs.fetch_add(1, Ordering::SeqCst);
                            commit(&store, claim, &name).unwrap()
                        }
                    };
                    assert_eq!(file_of(&store, &record.layers[0]), name);
                }
            });
        }
    });
    assert_eq!(runs.into_inner(), 20);
    let locks = std::fs::read_dir(store.root().join("locks")).unwrap();
    let left: Vec<_> =
        locks.map(|entry| entry.unwrap().file_name()).filter(|name| name.len() == 64).collect();
    assert_eq!(left, Vec::<std::ffi::OsString>::new());
    assert_sound(&store);
}

#[test]
fn a_waiter_is_told_who_holds_the_step_and_can_give_up() {
    let (_dir, store) = store();
    let _held = claim(&store, "a");
    let cancel = AtomicBool::new(false);
    let mut holders = Vec::new();
    let result = store.find_or_claim(
        &key("a"),
        &mut |wait| {
            let kiln_cache::Wait::Holder(holder) = wait else { return };
            holders.push(holder);
            cancel.store(true, Ordering::Relaxed);
        },
        &cancel,
    );
    assert!(matches!(result, Err(StoreError::Canceled)));
    assert_eq!(holders, [Some(std::process::id())]);
}
