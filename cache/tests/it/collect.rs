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
    assert!(store.has_layer(loose.id).unwrap() && store.has_blob(&blob));
    let clone = store.clone();
    drop(other);
    assert_eq!(store.remove_unreferenced().unwrap().layers, 0);
    drop(clone);
    assert_eq!(store.remove_unreferenced().unwrap().layers, 1);
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
