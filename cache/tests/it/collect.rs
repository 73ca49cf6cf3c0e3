use super::images::image;
use super::*;

#[test]
fn what_records_and_images_need_stays_and_the_rest_goes() {
    let (_dir, store) = store();
    let kept = image(&store, Some("a"), "one");
    store.put_image(&kept).unwrap();
    let record = run_step(&store, "step");
    let loose = pull(&store, "loose");
    let blob = store.put_blob(b"loose blob").unwrap();
    assert_eq!(store.remove_unreferenced().unwrap(), kiln_cache::Freed::default());
    let store = reopened(store);
    let freed = store.remove_unreferenced().unwrap();
    assert_eq!((freed.layers, freed.blobs, freed.size_bytes), (1, 1, 5 + 10));
    assert!(!store.has_layer(loose.id).unwrap() && !store.has_blob(&blob));
    assert!(store.has_blob(&kept.config));
    assert!(kept.layers.iter().all(|id| store.has_layer(*id).unwrap()));
    assert!(store.find(&record.key).unwrap().is_some());
    assert_sound(&store);
}

#[test]
fn a_manifests_parts_are_needed_as_it_is() {
    let (_dir, store) = store();
    let layer = store.put_blob(b"layer").unwrap();
    let config = store.put_blob(b"config").unwrap();
    let manifest = format!(r#"{{"config":{{"digest":"{config}"}},"layers":[{{"digest":"{layer}"}}]}}"#);
    let manifest = store.put_blob(manifest.as_bytes()).unwrap();
    let put = kiln_cache::ImageRecord {
        config,
        manifest: Some(manifest),
        layers: Vec::new(),
        ..image(&store, Some("a"), "one")
    };
    store.put_image(&put).unwrap();
    let store = reopened(store);
    store.remove_unreferenced().unwrap();
    assert!([layer, config, manifest].iter().all(|blob| store.has_blob(blob)));
    store.remove_image(put.name.as_ref(), &config).unwrap();
    store.remove_unreferenced().unwrap();
    assert!(![layer, config, manifest].iter().any(|blob| store.has_blob(blob)));
}

#[test]
fn nothing_young_goes_while_another_uses_the_store() {
    let (_dir, store) = store();
    let other = Store::open(store.root()).unwrap();
    let loose = pull(&other, "loose");
    let blob = other.put_blob(b"loose").unwrap();
    assert_eq!(store.remove_unreferenced().unwrap(), kiln_cache::Freed::default());
    assert!(other.has_layer(loose.id).unwrap() && other.has_blob(&blob));
    drop(other);
    let clone = store.clone();
    assert_eq!(store.remove_unreferenced().unwrap().layers, 0);
    drop(clone);
    assert_eq!(store.remove_unreferenced().unwrap().layers, 1);
}

#[test]
fn what_nobody_used_for_long_goes_whoever_builds() {
    let (_dir, store) = store();
    let other = Store::open(store.root()).unwrap();
    let (old, young) = (pull(&store, "old"), pull(&store, "young"));
    let found = run_step(&store, "found").layers[0];
    tamper(store.root(), &format!("UPDATE layers SET used_at = 1 WHERE id <> x'{}'", young.id));
    // A build finds the step, and another one replaces its record while the first still uses the layer.
    store.find(&key("found")).unwrap().unwrap();
    let claim = store.claim(&key("found"), &mut |_| {}, &AtomicBool::new(false)).unwrap();
    commit(&store, claim, "again").unwrap();
    assert_eq!(other.remove_unreferenced().unwrap().layers, 1);
    assert!(!other.has_layer(old.id).unwrap());
    assert!(other.has_layer(young.id).unwrap() && other.has_layer(found.id).unwrap());
}

#[test]
fn collecting_while_others_build_takes_nothing_from_them() {
    let (_dir, store) = store();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let store = Store::open(store.root()).unwrap();
            scope.spawn(move || {
                for round in 0..40 {
                    let layer = pull(&store, &format!("{} {round}", thread / 2));
                    store.put_blob(format!("{round}").as_bytes()).unwrap();
                    let record = run_step(&store, &format!("{round}"));
                    assert!(store.layer_path(layer.id).is_dir());
                    assert!(store.layer_path(record.layers[0].id).is_dir());
                }
            });
        }
        for _ in 0..20 {
            Store::open(store.root()).unwrap().remove_unreferenced().unwrap();
        }
    });
    assert_sound(&store);
}

#[test]
fn lock_files_of_killed_holders_go() {
    let (_dir, store) = store();
    let stale = store.root().join("locks").join(key("a").0.hex());
    std::fs::write(&stale, "1\n").unwrap();
    let held = claim(&store, "b");
    store.remove_unreferenced().unwrap();
    assert!(!stale.exists());
    assert!(store.root().join("locks").join(held.key().0.hex()).exists());
}

fn reopened(store: Store) -> Store {
    let root = store.root().to_path_buf();
    drop(store);
    Store::open(&root).unwrap()
}
