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

#[test]
fn a_line_that_was_cut_short_spoils_no_other() {
    let (_dir, store) = store();
    store.add_build(&row(1)).unwrap();
    let path = store.root().join("history");
    let whole = std::fs::read(&path).unwrap().len();
    store.add_build(&row(2)).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_len(whole as u64 + 9).unwrap();
    store.add_build(&row(3)).unwrap();
    assert_eq!(store.builds().unwrap(), [row(3), row(1)]);
}

#[test]
fn a_history_that_grows_long_is_cut() {
    let (_dir, store) = store();
    let about: Vec<u8> = (0..6_000_u32).flat_map(|n| *Digest::of(&n.to_le_bytes()).as_bytes()).collect();
    let long = |n| BuildRow { about: about.clone(), ..row(n) };
    for n in 0..40 {
        store.add_build(&long(n)).unwrap();
    }
    let builds = store.builds().unwrap();
    assert!((10..40).contains(&builds.len()), "{}", builds.len());
    assert_eq!((&builds[0], &builds[9]), (&long(39), &long(30)));
    assert!(std::fs::metadata(store.root().join("history")).unwrap().len() < 9 << 20);
}

#[test]
fn a_history_that_is_replaced_meanwhile_loses_nothing_that_is_added() {
    let (_dir, store) = store();
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let store = &store;
            scope.spawn(move || (0..50).for_each(|n| store.add_build(&row(thread * 100 + n)).unwrap()));
        }
        for _ in 0..50 {
            assert_eq!(store.remove_builds(&["unknown".to_owned()]).unwrap(), 0);
        }
    });
    assert_eq!(store.builds().unwrap().len(), 150);
}
