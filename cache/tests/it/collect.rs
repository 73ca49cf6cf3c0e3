use kiln_cache::{ImageRule, Keep, Prune, Pruned, RemovedBy, UsageKind};

use super::images::image;
use super::*;

fn prune(store: &Store, images: ImageRule, keep: Keep) -> Pruned {
    store.prune(&Prune { select: &|_| true, images, keep, by: RemovedBy::Prune, is_dry_run: false }).unwrap()
}

/// All that no image holds and no other handle uses.
pub(crate) fn prune_all(store: &Store) -> Pruned {
    prune(store, ImageRule::Hold, Keep::Nothing)
}

fn reopened(store: Store) -> Store {
    let root = store.root().to_path_buf();
    drop(store);
    Store::open(&root).unwrap()
}

#[test]
fn what_images_need_stays_and_the_rest_goes() {
    let (_dir, store) = store();
    let kept = image(&store, Some("a"), "one");
    store.put_image(&kept).unwrap();
    let record = run_step(&store, "step");
    let loose = pull(&store, "loose");
    let blob = store.put_blob(b"loose blob").unwrap();
    let store = reopened(store);
    let pruned = prune_all(&store);
    assert_eq!(pruned.items.len(), 3, "{pruned:?}");
    assert!(!store.has_layer(loose.id).unwrap() && !store.has_blob(&blob));
    assert!(store.find(&record.key).unwrap().is_none());
    assert!(store.has_blob(&kept.config));
    assert!(kept.layers.iter().all(|id| store.has_layer(*id).unwrap()));
    assert!(is_empty(&store.root().join("work")), "the space is free when it returns");
    assert_sound(&store);
}

#[test]
fn a_dry_run_removes_nothing_and_says_the_same() {
    let (_dir, store) = store();
    run_step(&store, "step");
    let store = reopened(store);
    let would = store
        .prune(&Prune {
            select: &|_| true,
            images: ImageRule::Hold,
            keep: Keep::Nothing,
            by: RemovedBy::Prune,
            is_dry_run: true,
        })
        .unwrap();
    assert_eq!(store.usage().unwrap().iter().filter(|usage| usage.kind == UsageKind::Step).count(), 1);
    let did = prune_all(&store);
    assert_eq!((would.items.len(), would.size_bytes), (did.items.len(), did.size_bytes));
    assert!(did.size_bytes > 0);
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
    prune_all(&store);
    assert!([layer, config, manifest].iter().all(|blob| store.has_blob(blob)));
    store.remove_image(put.name.as_ref(), &config).unwrap();
    let store = reopened(store);
    prune_all(&store);
    assert!(![layer, config, manifest].iter().any(|blob| store.has_blob(blob)));
}

#[test]
fn what_is_attested_of_an_image_is_needed_as_it_is() {
    let (_dir, store) = store();
    let config = store.put_blob(b"config").unwrap();
    let manifest = store.put_blob(format!(r#"{{"config":{{"digest":"{config}"}}}}"#).as_bytes()).unwrap();
    let statement = store.put_blob(b"statement").unwrap();
    let attested =
        format!(r#"{{"layers":[{{"digest":"{statement}"}}],"subject":{{"digest":"{manifest}"}}}}"#);
    let attested = store.put_blob(attested.as_bytes()).unwrap();
    store.attest(&manifest, attested).unwrap();
    let put = kiln_cache::ImageRecord {
        config,
        manifest: Some(manifest),
        layers: Vec::new(),
        ..image(&store, Some("a"), "one")
    };
    store.put_image(&put).unwrap();
    let store = reopened(store);
    prune_all(&store);
    assert!([statement, attested].iter().all(|blob| store.has_blob(blob)));
    assert_eq!(store.attestations(&manifest).unwrap(), Some(attested));
    store.remove_image(put.name.as_ref(), &config).unwrap();
    let store = reopened(store);
    prune_all(&store);
    assert!(![statement, attested].iter().any(|blob| store.has_blob(blob)));
    assert_eq!(store.attestations(&manifest).unwrap(), None);
}

#[test]
fn what_another_handle_uses_stays_until_it_is_closed() {
    let (_dir, store) = store();
    let other = Store::open(store.root()).unwrap();
    let made = pull(&other, "made");
    let blob = other.put_blob(b"made").unwrap();
    let found = run_step(&store, "found");
    let store = reopened(store);
    other.find(&found.key).unwrap().unwrap();
    for keep in [Keep::Nothing, Keep::Store(0)] {
        prune(&store, ImageRule::Yield, keep);
        assert!(other.layer_path(made.id).is_dir() && other.has_blob(&blob));
        assert!(other.layer_path(found.layers[0].id).is_dir());
    }
    drop(other);
    prune_all(&store);
    assert!(!store.has_layer(made.id).unwrap() && !store.has_layer(found.layers[0].id).unwrap());
    assert_sound(&store);
}

#[test]
fn a_cache_mount_in_use_stays() {
    use kiln_cache::{CacheMountRequest, MountSharing};
    let (_dir, store) = store();
    let request =
        CacheMountRequest { id: "a".into(), sharing: MountSharing::Shared, mode: 0o755, uid: 0, gid: 0 };
    let take = || {
        store.cache_mount::<StoreError>(&request, |_| Ok(()), &mut |_| {}, &AtomicBool::new(false)).unwrap()
    };
    let mount = take();
    std::fs::write(mount.path().join("file"), vec![1; 10_000]).unwrap();
    assert!(prune_all(&store).items.is_empty());
    let path = mount.path().to_path_buf();
    drop(mount);
    let pruned = prune_all(&store);
    assert_eq!(pruned.items[0].kind, UsageKind::CacheMount);
    assert!(pruned.size_bytes >= 10_000 && !path.exists());
    assert!(is_empty(take().path()));
}

#[test]
fn collecting_while_others_build_takes_nothing_from_them() {
    let (_dir, store) = store();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let root = store.root();
            scope.spawn(move || {
                for build in 0..8 {
                    let store = Store::open(root).unwrap();
                    for round in 0..5 {
                        let layer = pull(&store, &format!("{} {build} {round}", thread / 2));
                        let blob = store.put_blob(format!("{round}").as_bytes()).unwrap();
                        let record = run_step(&store, &format!("{build} {round}"));
                        assert!(store.layer_path(layer.id).is_dir() && store.has_blob(&blob));
                        assert_eq!(file_of(&store, &record.layers[0]), format!("{build} {round}"));
                    }
                    for round in 0..5 {
                        let record = store.find(&key(&format!("{build} {round}"))).unwrap().unwrap();
                        assert_eq!(file_of(&store, &record.layers[0]), format!("{build} {round}"));
                    }
                }
            });
        }
        for round in 0..20 {
            let images = if round % 2 == 0 { ImageRule::Hold } else { ImageRule::Yield };
            prune(&store, images, Keep::Nothing);
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
    prune_all(&store);
    assert!(!stale.exists());
    assert!(store.root().join("locks").join(held.key().0.hex()).exists());
}

#[test]
fn notes_on_contexts_that_are_gone_go() {
    let (dir, store) = store();
    let context = |name: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("file"), "text").unwrap();
        let index = store.context_index_path(&path);
        let tree = kiln_cache::ContextTree::open(&path, None, Some(&index)).unwrap();
        // Old enough for its digest to be kept.
        let old = std::time::SystemTime::now() - Duration::from_secs(60);
        std::fs::File::open(path.join("file")).unwrap().set_modified(old).unwrap();
        (path, index, tree)
    };
    let (gone, gone_index, _tree) = context("gone");
    let (_kept, kept_index, _tree) = context("kept");
    for index in [&gone_index, &kept_index] {
        std::fs::write(index, index_of(if index == &gone_index { &gone } else { dir.path() })).unwrap();
    }
    let layer = run_step(&store, "copy").layers[0];
    let copy = store.copy_memory_path(&Digest::of(b"copy"));
    std::fs::write(&copy, format!("kilncpy1{}", layer.id)).unwrap();
    let lost = store.copy_memory_path(&Digest::of(b"lost"));
    std::fs::write(&lost, format!("kilncpy1{}", "00".repeat(32))).unwrap();
    std::fs::remove_dir_all(&gone).unwrap();
    let nothing = Prune {
        select: &|_| false,
        images: ImageRule::Hold,
        keep: Keep::Nothing,
        by: RemovedBy::Prune,
        is_dry_run: false,
    };
    store.prune(&nothing).unwrap();
    assert!(!gone_index.exists() && kept_index.exists() && copy.exists() && !lost.exists());
}

/// An index of no files of the directory `context`.
fn index_of(context: &Path) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt as _;
    let path = context.as_os_str().as_bytes();
    let mut bytes = b"kilnidx5".to_vec();
    bytes.extend(0_u64.to_le_bytes());
    bytes.extend(u32::try_from(path.len()).unwrap().to_le_bytes());
    bytes.extend(path);
    bytes
}

#[test]
fn what_is_used_is_noted_once_an_hour_and_in_one_go() {
    let (_dir, store) = store();
    let record = run_step(&store, "step");
    let age = |seconds: i64| {
        tamper(
            store.root(),
            &format!(
                "UPDATE layers SET used_at = used_at - {seconds}, uses = 1; UPDATE records SET used_at = used_at - {seconds}"
            ),
        );
    };
    let used = || {
        let usage = store.usage().unwrap().into_iter().find(|usage| usage.kind == UsageKind::Step).unwrap();
        (usage.made_at - usage.used_at < 60, usage.uses)
    };
    age(600);
    store.find(&record.key).unwrap().unwrap();
    store.note_uses().unwrap();
    assert_eq!(used(), (false, 1), "ten minutes are not worth a write");
    age(7200);
    store.find(&record.key).unwrap().unwrap();
    assert_eq!(used(), (false, 1), "not before it is said");
    store.note_uses().unwrap();
    assert_eq!(used(), (true, 2));
}

#[test]
fn a_limit_holds_whatever_images_hold() {
    let (_dir, store) = store();
    let big = |store: &Store, name: &str| {
        let draft = store.draft_layer().unwrap();
        std::fs::write(draft.fs().join("file"), vec![1; 1 << 20]).unwrap();
        claim(store, name).commit(draft, Some(contents(name)), NewRecord::default())
    };
    let limit = 4 << 20;
    let mut images = Vec::new();
    for round in 0..8_u64 {
        let store = Store::open(store.root()).unwrap();
        store.set_max_bytes(Some(limit));
        let layer = big(&store, &format!("{round}")).unwrap().record.layers[0];
        let name = format!("i{round}");
        let put = kiln_cache::ImageRecord {
            layers: vec![layer.id],
            tagged_at: round,
            ..image(&store, Some(&name), &name)
        };
        store.put_image(&put).unwrap();
        images.push(layer.id);
        assert!(store.total_bytes().unwrap() <= limit, "round {round}");
    }
    let left: Vec<_> = store.images().unwrap().into_iter().filter_map(|image| image.name).collect();
    assert!(left.len() >= 2 && left.iter().any(|name| name.to_string().contains("i7")), "{left:?}");
    assert_sound(&store);
    // What one build needs at once is not there to be taken.
    let store = reopened(store);
    store.set_max_bytes(Some(limit));
    let error = (0..8).find_map(|round| big(&store, &format!("more {round}")).err()).unwrap();
    assert!(matches!(error, StoreError::OverLimit { max_bytes, .. } if max_bytes == limit), "{error}");
    assert!(store.total_bytes().unwrap() <= limit);
    assert_sound(&store);
}
