use kiln_cache::BuildRow;

use super::*;

fn row(n: u32) -> BuildRow {
    BuildRow { id: format!("{n:012x}"), about: format!("build {n}").into_bytes() }
}

#[test]
fn builds_are_listed_newest_first_and_the_oldest_are_forgotten() {
    let (_dir, store) = store();
    for n in 0..300 {
        store.add_build(&row(n)).unwrap();
    }
    let builds = store.builds().unwrap();
    assert_eq!(builds.len(), 256);
    assert_eq!((&builds[0], &builds[255]), (&row(299), &row(44)));
}

#[test]
fn a_build_can_be_forgotten_and_a_huge_one_is_not_kept() {
    let (_dir, store) = store();
    store.add_build(&row(1)).unwrap();
    // What cannot be compressed.
    let huge: Vec<u8> = (0..40_000_u32).flat_map(|n| *Digest::of(&n.to_le_bytes()).as_bytes()).collect();
    store.add_build(&BuildRow { about: huge, ..row(2) }).unwrap();
    assert_eq!(store.builds().unwrap(), [row(1)]);
    assert_eq!(store.remove_builds(&[row(1).id, row(7).id]).unwrap(), 1);
    assert!(store.builds().unwrap().is_empty());
}
