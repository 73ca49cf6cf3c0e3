use kiln_image::DiffId;
use kiln_image::oci::RootFs;

use super::*;

fn images() -> (tempfile::TempDir, Images) {
    let dir = tempfile::tempdir().unwrap();
    let images = Images::open(Some(dir.path())).unwrap();
    (dir, images)
}

/// An image of one layer with a file of `text`, made as a build makes one.
fn add(images: &Images, name: Option<&str>, text: &str) -> ImageRecord {
    let store = images.store();
    let draft = store.draft_layer().unwrap();
    std::fs::write(draft.fs().join("file"), text).unwrap();
    let layer = store.commit_layer(draft).unwrap();
    let diff_id: DiffId = store.diff_id(layer.id).unwrap();
    let host = Platform::host();
    let config = ImageConfig {
        created: Some("2026-01-01T00:00:00Z".into()),
        architecture: host.architecture.clone(),
        os: host.os.clone(),
        variant: host.variant.clone(),
        rootfs: RootFs { kind: "layers".into(), diff_ids: vec![diff_id] },
        ..ImageConfig::default()
    };
    let image = ImageRecord {
        name: name.map(|name| name.parse().unwrap()),
        platform: host,
        config: store.put_blob(&serde_json::to_vec(&config).unwrap()).unwrap(),
        manifest: None,
        remote_digest: None,
        layers: vec![layer.id],
        tagged_at: 1,
        size_bytes: text.len() as u64,
    };
    store.put_image(&image).unwrap();
    image
}

#[test]
fn an_image_is_found_by_name_id_and_prefix() {
    let (_dir, images) = images();
    let image = add(&images, Some("app"), "a");
    let hex = image.config.hex();
    for name in ["app", "app:latest", "docker.io/library/app", &image.config.to_string(), &hex, &hex[..12]] {
        assert_eq!(images.find(name).unwrap().config, image.config, "{name}");
    }
    for name in ["app:2", "other", "sha256:", ""] {
        assert!(!images.has(name).unwrap(), "{name}");
    }
}

#[test]
fn a_tag_is_another_name_and_the_last_name_takes_the_image_along() {
    let (_dir, images) = images();
    let image = add(&images, Some("app"), "a");
    images.tag("app", "app:2").unwrap();
    let conflict = images.remove(&image.config.hex()[..12], false).unwrap_err();
    assert!(conflict.hint.is_some(), "{conflict}");
    assert_eq!(images.remove("app", false).unwrap(), ["Untagged: app:latest"]);
    let deleted = format!("Deleted: {}", image.config);
    assert_eq!(images.remove("app:2", false).unwrap(), ["Untagged: app:2", deleted.as_str()]);
    assert!(images.list().unwrap().is_empty());
}

#[test]
fn an_id_with_several_names_goes_by_force() {
    let (_dir, images) = images();
    let image = add(&images, Some("app"), "a");
    images.tag("app", "b").unwrap();
    assert_eq!(images.remove(&image.config.to_string(), true).unwrap().len(), 3);
    assert!(!images.has("b").unwrap());
}

#[test]
fn a_digest_is_no_name_to_give() {
    let (_dir, images) = images();
    let image = add(&images, Some("app"), "a");
    assert!(images.tag("app", &format!("app@{}", image.config)).is_err());
    assert!(images.tag("app", "APP").is_err());
}

#[test]
fn what_is_saved_can_be_loaded_elsewhere() {
    let (_dir, here) = images();
    let image = add(&here, Some("app:1"), "a");
    here.tag("app:1", "app:2").unwrap();
    let mut archive = Vec::new();
    here.save(&["app:1".into(), "app:2".into()], &mut archive).unwrap();

    let (_dir, there) = images();
    let mut loaded = there.load(&mut archive.as_slice()).unwrap();
    loaded.sort();
    assert_eq!(loaded, ["app:1", "app:2"]);
    let found = there.find("app:2").unwrap();
    assert_eq!(found.config, image.config);
    let layer = there.store().layer_path(found.layers[0]);
    assert_eq!(std::fs::read(layer.join("file")).unwrap(), b"a");
    // And once more from there, where the layer is a pulled one.
    let mut again = Vec::new();
    there.save(&["app:1".into(), "app:2".into()], &mut again).unwrap();
    assert_eq!(archive, again);
}

#[test]
fn an_image_saved_by_its_id_has_no_name() {
    let (_dir, here) = images();
    let image = add(&here, Some("app"), "a");
    let mut archive = Vec::new();
    here.save(&[image.config.to_string()], &mut archive).unwrap();
    let (_dir, there) = images();
    assert_eq!(there.load(&mut archive.as_slice()).unwrap(), [image.config.to_string()]);
}

#[test]
fn a_file_that_is_no_archive_is_refused() {
    let (_dir, images) = images();
    assert!(images.load(&mut b"hello".as_slice()).is_err());
}

#[test]
fn inspect_has_dockers_fields() {
    let (_dir, images) = images();
    let image = add(&images, Some("app"), "a");
    let object: serde_json::Value = serde_json::from_str(&images.inspect("app").unwrap()).unwrap();
    assert_eq!(object["Id"], image.config.to_string());
    assert_eq!(object["RepoTags"][0], "app:latest");
    assert_eq!(object["RootFS"]["Layers"].as_array().map(Vec::len), Some(1));
    assert_eq!(object["Created"], "2026-01-01T00:00:00Z");
}
