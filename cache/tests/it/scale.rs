//! A store of many images and records. `KILN_SCALE_RECORDS` says how many records (a hundredth as many images),
//! `KILN_SCALE_ROOT` where to leave the store, for measuring builds on it by hand.

use std::time::Instant;

use kiln_cache::{ImageRule, Keep, Prune, RemovedBy};

use super::images::image;
use super::*;

#[test]
fn many_records_are_listed_found_and_pruned() {
    let records: usize =
        std::env::var("KILN_SCALE_RECORDS").ok().and_then(|text| text.parse().ok()).unwrap_or(400);
    let dir = tempfile::tempdir().unwrap();
    let kept = std::env::var_os("KILN_SCALE_ROOT").map(std::path::PathBuf::from);
    let root = kept.clone().unwrap_or_else(|| dir.path().join("store"));
    let store = Store::open(&root).unwrap();
    let mut layers = Vec::new();
    for number in 0..records {
        let name = format!("step {number}");
        let record = NewRecord { name: format!("[stage 2/9] RUN {name}"), ..NewRecord::default() };
        let made = claim(&store, &name).commit(draft(&store, &name), Some(contents(&name)), record).unwrap();
        layers.push(made.record.layers[0].id);
    }
    let images = (records / 100).max(1);
    for (number, layers) in layers.chunks(10).take(images).enumerate() {
        let name = format!("image{number}");
        let put = kiln_cache::ImageRecord { layers: layers.to_vec(), ..image(&store, Some(&name), &name) };
        store.put_image(&put).unwrap();
    }
    drop(store);
    let timed = |what: &str, start: Instant| eprintln!("{records} records: {what} in {:?}", start.elapsed());
    let start = Instant::now();
    let store = Store::open(&root).unwrap();
    timed("opened", start);
    let start = Instant::now();
    for number in 0..20 {
        assert!(store.find(&key(&format!("step {}", number * records / 20))).unwrap().is_some());
    }
    timed("20 found", start);
    let start = Instant::now();
    store.note_uses().unwrap();
    let total = store.total_bytes().unwrap();
    timed("summed up", start);
    let start = Instant::now();
    let usage = store.usage().unwrap();
    timed("listed", start);
    assert!(usage.len() >= records);
    assert_eq!(usage.iter().filter(|usage| usage.in_use).count(), 20);
    // The database's log may be folded in before, between or after.
    let listed = usage.iter().map(|usage| usage.size_bytes).sum::<u64>();
    let later = store.total_bytes().unwrap();
    let (least, most) = (total.min(later), total.max(later));
    let slack = total / 10 + (1 << 20);
    assert!((least.saturating_sub(slack)..most + slack).contains(&listed), "{listed}, {total} and {later}");
    if kept.is_some() {
        return;
    }
    drop(store);
    let store = Store::open(&root).unwrap();
    // What the database takes is nothing to go by: its log is folded in at any time.
    let removable = usage.iter().filter(|usage| !usage.is_shared() && !usage.is_mutable());
    let layers = removable.map(|usage| usage.size_bytes).sum::<u64>();
    let start = Instant::now();
    let half = Prune {
        select: &|_| true,
        images: ImageRule::Hold,
        keep: Keep::Free(layers / 2),
        by: RemovedBy::Prune,
        is_dry_run: false,
    };
    let pruned = store.prune(&half).unwrap();
    timed(&format!("{} pruned", pruned.items.len()), start);
    assert!((records / 4..records).contains(&pruned.items.len()), "{}", pruned.items.len());
    let start = Instant::now();
    store.prune(&Prune { keep: Keep::Nothing, ..half }).unwrap();
    timed("the rest pruned", start);
    assert_eq!(store.usage().unwrap().iter().filter(|usage| !usage.is_shared()).count(), 1, "the database");
    assert_sound(&store);
}
