use kiln_cache::ImageRecord;
use kiln_image::{ImageRef, Platform};

use super::*;

pub(crate) fn amd64() -> Platform {
    Platform { os: "linux".into(), architecture: "amd64".into(), variant: String::new() }
}

pub(crate) fn image(store: &Store, name: Option<&str>, text: &str) -> ImageRecord {
    ImageRecord {
        name: name.map(|name| name.parse().unwrap()),
        platform: amd64(),
        config: store.put_blob(text.as_bytes()).unwrap(),
        manifest: None,
        remote_digest: None,
        layers: vec![run_step(store, text).layers[0].id, pull(store, "base").id],
        tagged_at: 1_700_000_000,
        size_bytes: 42,
    }
}

/// Name and config of all images.
fn listed(store: &Store) -> Vec<(Option<ImageRef>, Digest)> {
    store.images().unwrap().into_iter().map(|image| (image.name, image.config)).collect()
}

#[test]
fn an_image_is_found_by_name_and_platform() {
    let (_dir, store) = store();
    let put = image(&store, Some("a:1"), "one");
    store.put_image(&put).unwrap();
    let name = put.name.clone().unwrap();
    let found = store.image(&name, &amd64()).unwrap().unwrap();
    assert_eq!(
        (found.name, found.config, found.layers, found.tagged_at, found.size_bytes),
        (put.name, put.config, put.layers, put.tagged_at, put.size_bytes)
    );
    let arm = Platform { architecture: "arm64".into(), ..amd64() };
    assert!(store.image(&name, &arm).unwrap().is_none());
    assert_sound(&store);
}

#[test]
fn one_name_serves_several_platforms() {
    let (_dir, store) = store();
    let one = image(&store, Some("a"), "one");
    let two = ImageRecord {
        platform: Platform { architecture: "arm64".into(), ..amd64() },
        ..image(&store, Some("a"), "two")
    };
    store.put_image(&one).unwrap();
    store.put_image(&two).unwrap();
    let name = one.name.unwrap();
    assert_eq!(store.image(&name, &amd64()).unwrap().unwrap().config, one.config);
    assert_eq!(store.image(&name, &two.platform).unwrap().unwrap().config, two.config);
}

#[test]
fn the_image_that_loses_its_last_name_stays_unnamed() {
    let (_dir, store) = store();
    let (one, two) = (image(&store, Some("a"), "one"), image(&store, Some("a"), "two"));
    store.put_image(&one).unwrap();
    store.put_image(&two).unwrap();
    assert_eq!(listed(&store), [(two.name.clone(), two.config), (None, one.config)]);
    // Named again, it is unnamed no more.
    let again = ImageRecord { name: Some("b".parse().unwrap()), ..one.clone() };
    store.put_image(&again).unwrap();
    assert_eq!(listed(&store), [(again.name, one.config), (two.name, two.config)]);
    assert_sound(&store);
}

#[test]
fn an_image_with_another_name_does_not_become_unnamed() {
    let (_dir, store) = store();
    let one = image(&store, Some("a"), "one");
    store.put_image(&one).unwrap();
    store.put_image(&ImageRecord { name: Some("b".parse().unwrap()), ..one.clone() }).unwrap();
    store.put_image(&image(&store, Some("a"), "two")).unwrap();
    assert!(listed(&store).iter().all(|(name, _)| name.is_some()));
}

#[test]
fn the_same_image_put_again_under_its_name_is_there_once() {
    let (_dir, store) = store();
    let one = image(&store, Some("a"), "one");
    store.put_image(&one).unwrap();
    store.put_image(&ImageRecord { tagged_at: 1_800_000_000, ..one.clone() }).unwrap();
    store.put_image(&ImageRecord { name: None, ..one.clone() }).unwrap();
    assert_eq!(listed(&store), [(one.name.clone(), one.config)]);
    // What is there already is not written again, so a build of nothing new writes nothing.
    assert_eq!(store.images().unwrap(), [one]);
}

#[test]
fn removing_a_name_says_whether_it_was_there() {
    let (_dir, store) = store();
    let (one, two) = (image(&store, Some("a"), "one"), image(&store, None, "two"));
    store.put_image(&one).unwrap();
    store.put_image(&two).unwrap();
    assert!(!store.remove_image(one.name.as_ref(), &two.config).unwrap());
    assert!(store.remove_image(one.name.as_ref(), &one.config).unwrap());
    assert!(!store.remove_image(one.name.as_ref(), &one.config).unwrap());
    assert!(store.remove_image(None, &two.config).unwrap());
    assert_eq!(listed(&store), []);
}

#[test]
fn check_reports_what_an_image_lacks() {
    let (_dir, store) = store();
    let one = image(&store, Some("a"), "one");
    store.put_image(&one).unwrap();
    std::fs::remove_file(store.blob_path(&one.config)).unwrap();
    let problems: Vec<_> = store.check(CheckDepth::Blobs).unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[1].starts_with("image sha256:"), "{problems:?}");
}
