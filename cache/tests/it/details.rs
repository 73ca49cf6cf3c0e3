use kiln_cache::RemovedBy;
use rusqlite::Connection;

use super::*;

#[test]
fn a_record_says_what_the_step_took_added_and_was_made_of() {
    let (_dir, store) = store();
    let cost = Cost {
        duration: Duration::from_secs(9),
        cpu: Duration::from_millis(1500),
        peak_memory_bytes: 3 << 20,
        read_bytes: 4096,
        written_bytes: 8192,
    };
    let record = NewRecord {
        name: "RUN make".into(),
        cost,
        added_bytes: None,
        log: vec![b'x'; 2 << 20],
        facts: b"facts".to_vec(),
        ..NewRecord::default()
    };
    claim(&store, "a").commit(draft(&store, "12345"), None, record).unwrap();
    let details = store.details(&key("a")).unwrap().unwrap();
    assert_eq!((details.name.as_str(), details.cost, details.added_bytes), ("RUN make", cost, Some(5)));
    assert_eq!((details.log.len(), details.facts.as_slice()), (2 << 20, &b"facts"[..]));
    assert!(details.made_at > 0);
    assert!(store.details(&key("b")).unwrap().is_none());
}

#[test]
fn a_lost_record_is_remembered_also_when_it_was_made_again() {
    let (_dir, store) = store();
    let record = run_step(&store, "a");
    assert_eq!(store.removed(&key("a")).unwrap(), None);
    std::fs::remove_dir_all(store.layer_path(record.layers[0].id)).unwrap();
    assert!(store.find(&key("a")).unwrap().is_none());
    assert_eq!(store.removed(&key("a")).unwrap().unwrap().by, RemovedBy::Damage);
    assert!(store.details(&key("a")).unwrap().is_none());
    run_step(&store, "a");
    assert!(store.removed(&key("a")).unwrap().is_some());
}

/// What format 2 had instead of what format 3 has.
const FORMAT_2: &str = "
DROP INDEX layers_shared_with; DROP INDEX layers_space; DROP INDEX blobs_space; DROP INDEX mounts_unsettled;
ALTER TABLE layers DROP COLUMN disk_bytes; ALTER TABLE layers DROP COLUMN shared_bytes;
ALTER TABLE layers DROP COLUMN shared_with; ALTER TABLE layers DROP COLUMN uses;
ALTER TABLE blobs DROP COLUMN used_at;
ALTER TABLE records DROP COLUMN used_at; ALTER TABLE records DROP COLUMN uses;
ALTER TABLE mounts DROP COLUMN used_at; ALTER TABLE mounts DROP COLUMN uses; ALTER TABLE mounts DROP COLUMN size_bytes;
ALTER TABLE mounts DROP COLUMN measured_at; ALTER TABLE mounts DROP COLUMN settled;
DROP TABLE record_details; DROP TABLE removed; DROP TABLE definitions;
ALTER TABLE records ADD COLUMN log BLOB NOT NULL DEFAULT x'6f6c64206c6f67';
PRAGMA user_version = 2;";

#[test]
fn a_store_of_the_format_before_is_taken_over_with_its_records_and_logs() {
    let (_dir, store) = store();
    let root = store.root().to_owned();
    let made = run_step(&store, "a");
    drop(store);
    Connection::open(root.join("db.sqlite")).unwrap().execute_batch(FORMAT_2).unwrap();
    let opened: Vec<_> = std::thread::scope(|scope| {
        let open = || scope.spawn(|| Store::open(&root).unwrap());
        [open(), open(), open()].map(|thread| thread.join().unwrap()).into()
    });
    for store in &opened {
        assert_eq!(store.find(&key("a")).unwrap().unwrap().layers, made.layers);
        assert_eq!(store.details(&key("a")).unwrap().unwrap().log, b"old log");
    }
    run_step(&opened[0], "b");
    opened[0].define(&key("definition"), &key("b")).unwrap();
    assert_eq!(opened[1].defined(&key("definition")).unwrap(), Some(key("b")));
    assert_sound(&opened[1]);
}
