//! Layouts and archives, written and read by us and by skopeo.

use std::io::{Read, Write};
use std::path::Path;

use kiln_image::archive::Archive;
use kiln_image::layout::{DockerImage, Layout, LayoutError, Selector, write_directory, write_tar};
use kiln_image::registry::RemoteImage;
use kiln_image::{Digest, ImageRef, Mismatch};

use crate::support::{Image, blob_inputs, cancel, index, platform, skopeo, two_platform_layout};

fn app() -> ImageRef {
    "app:1".parse().unwrap()
}

fn open(path: &Path) -> Result<Archive, LayoutError> {
    Archive::open(path, path.parent().unwrap(), &cancel())
}

fn check(archive: &Archive, selector: &Selector, image: &Image) -> RemoteImage {
    let found = archive.resolve(selector, &app(), &platform("linux/amd64")).unwrap();
    assert_eq!(found.config_bytes, image.config);
    let mut layer = Vec::new();
    archive.blob(&found.manifest.layers[0]).unwrap().read_to_end(&mut layer).unwrap();
    assert_eq!(Digest::of(&layer), found.manifest.layers[0].digest);
    found
}

fn tar_of(image: &Image) -> Vec<u8> {
    let diff_id = Digest::of(&image.layer);
    let docker = [DockerImage::new(&Digest::of(&image.config), &[diff_id], vec!["app:1".into()])];
    let mut tar = Vec::new();
    write_tar(&mut tar, &index(&[("amd64", image)], Some("1")), &docker, blob_inputs(&image.blobs()))
        .unwrap();
    tar
}

/// A tar with exactly these files.
fn tar_with(files: &[(&str, &[u8])]) -> tempfile::NamedTempFile {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, *bytes).unwrap();
    }
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&tar.into_inner().unwrap()).unwrap();
    file
}

#[test]
fn a_layout_is_read_by_tag_by_digest_and_for_a_platform() {
    let directory = tempfile::tempdir().unwrap();
    let (amd64, arm64) = two_platform_layout(directory.path());
    let layout = Layout::open(directory.path()).unwrap();
    let by_tag = layout.resolve(&Selector::Name("both".into()), &app(), &platform("linux/arm64")).unwrap();
    assert_eq!(by_tag.config_bytes, arm64.config);
    let by_digest = Selector::Digest(Digest::of(&amd64.manifest));
    let found = layout.resolve(&by_digest, &app(), &platform("linux/arm64")).unwrap();
    assert_eq!(found.config_bytes, amd64.config);
    let mut layer = Vec::new();
    layout.blob(&found.manifest.layers[0]).unwrap().read_to_end(&mut layer).unwrap();
    assert_eq!(layer, amd64.layer);
    let error = layout.resolve(&Selector::Name("none".into()), &app(), &platform("linux/amd64")).unwrap_err();
    insta::assert_snapshot!(error, @"no image `none` here; there are: both");
}

#[test]
fn a_changed_or_missing_blob_of_a_layout_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (amd64, _) = two_platform_layout(directory.path());
    let layout = Layout::open(directory.path()).unwrap();
    let found = layout.resolve(&Selector::Only, &app(), &platform("linux/amd64")).unwrap();
    let blob = |bytes: &[u8]| directory.path().join("blobs/sha256").join(Digest::of(bytes).hex());
    std::fs::write(blob(&amd64.layer), vec![b'x'; amd64.layer.len()]).unwrap();
    let error = layout.blob(&found.manifest.layers[0]).unwrap().read_to_end(&mut Vec::new()).unwrap_err();
    assert!(matches!(error.downcast::<Mismatch>().unwrap(), Mismatch::Digest { .. }));
    std::fs::remove_file(blob(&amd64.config)).unwrap();
    let error = layout.resolve(&Selector::Only, &app(), &platform("linux/amd64")).unwrap_err();
    assert!(matches!(error, LayoutError::MissingBlob { .. }), "{error:?}");
}

#[test]
fn a_directory_with_a_fifo_for_an_index_does_not_block() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let path = directory.path().join("index.json");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    assert!(matches!(Layout::open(directory.path()), Err(LayoutError::NotAnImage { .. })));
}

#[test]
fn a_blob_that_is_not_what_it_says_is_not_written() {
    let directory = tempfile::tempdir().unwrap();
    let image = Image::new("amd64");
    let mut blobs = blob_inputs(&image.blobs());
    blobs[0].as_mut().unwrap().reader = Box::new(&b"short"[..]);
    let error = write_directory(directory.path(), b"{}", &[], blobs).unwrap_err();
    assert!(matches!(error, LayoutError::Mismatch(Mismatch::Size { .. })), "{error:?}");
    assert!(!directory.path().join("index.json").exists());
    assert_eq!(std::fs::read_dir(directory.path().join("blobs/sha256")).unwrap().count(), 0);
}

#[test]
fn no_archive_is_made_of_a_blob_that_is_not_what_it_says() {
    let image = Image::new("amd64");
    for is_verified in [false, true] {
        for bytes in [&image.layer[1..], &[&image.layer[..], b"more"].concat()] {
            let mut blobs = blob_inputs(&image.blobs());
            let blob =
                blobs.iter_mut().flatten().find(|blob| blob.digest == Digest::of(&image.layer)).unwrap();
            (blob.reader, blob.is_verified) = (Box::new(bytes), is_verified);
            let error = write_tar(&mut Vec::new(), b"{}", &[], blobs).unwrap_err();
            assert!(matches!(error, LayoutError::Mismatch(Mismatch::Size { .. })), "{error:?}");
        }
    }
}

#[test]
fn an_archive_has_the_same_bytes_every_time_and_is_read_back() {
    let directory = tempfile::tempdir().unwrap();
    let image = Image::new("amd64");
    assert_eq!(tar_of(&image), tar_of(&image));
    let path = directory.path().join("image.tar");
    std::fs::write(&path, tar_of(&image)).unwrap();
    check(&open(&path).unwrap(), &Selector::Only, &image);
    check(&open(&path).unwrap(), &Selector::Name("1".into()), &image);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn a_compressed_archive_or_one_from_a_pipe_is_read_too() {
    let directory = tempfile::tempdir().unwrap();
    let image = Image::new("amd64");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar_of(&image)).unwrap();
    let zstd = zstd::encode_all(&tar_of(&image)[..], 1).unwrap();
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip2.write_all(&tar_of(&image)).unwrap();
    for bytes in [gzip.finish().unwrap(), zstd, bzip2.finish().unwrap()] {
        let path = directory.path().join("image.tar.x");
        std::fs::write(&path, &bytes).unwrap();
        check(&open(&path).unwrap(), &Selector::Only, &image);
        let piped = Archive::from_reader("-", Box::new(&bytes[..]), directory.path(), &cancel()).unwrap();
        check(&piped, &Selector::Only, &image);
    }
}

#[test]
fn skopeo_reads_what_we_write_and_we_read_what_it_writes() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let image = Image::new("amd64");
    std::fs::write(at("ours.tar"), tar_of(&image)).unwrap();
    two_platform_layout(&directory.path().join("ours"));
    for (source, target) in [
        (format!("oci-archive:{}:1", at("ours.tar")), format!("oci-archive:{}:1", at("1.tar"))),
        (format!("docker-archive:{}:app:1", at("ours.tar")), format!("docker-archive:{}:app:1", at("2.tar"))),
        (format!("oci:{}:both", at("ours")), format!("docker-archive:{}:other:2", at("3.tar"))),
    ] {
        if skopeo(&["copy", "--override-arch=amd64", &source, &target]).is_none() {
            return;
        }
    }
    for (name, selector) in [
        ("1.tar", Selector::Name("1".into())),
        ("2.tar", Selector::Name("app:1".into())),
        ("3.tar", Selector::Name("docker.io/library/other:2".into())),
        ("3.tar", Selector::Only),
    ] {
        let archive = open(&directory.path().join(name)).unwrap();
        let found = archive.resolve(&selector, &app(), &platform("linux/amd64")).unwrap();
        assert_eq!(found.config.rootfs.diff_ids[0].0, Digest::of(&image.layer), "{name}");
        let mut layer = Vec::new();
        archive.blob(&found.manifest.layers[0]).unwrap().read_to_end(&mut layer).unwrap();
    }
}

#[test]
fn a_docker_archive_without_digests_is_verified_by_its_diff_ids() {
    let image = Image::new("amd64");
    let manifest = br#"[{"Config":"c.json","RepoTags":["app:1","app:2"],"Layers":["./l/layer.tar"]}]"#;
    let good =
        tar_with(&[("manifest.json", manifest), ("c.json", &image.config), ("l/layer.tar", &image.layer)]);
    let archive = open(good.path()).unwrap();
    assert_eq!(archive.names(), ["app:1", "app:2"]);
    check(&archive, &Selector::Only, &image);

    let mut changed = image.layer.clone();
    changed[600] ^= 1;
    let evil = tar_with(&[("manifest.json", manifest), ("c.json", &image.config), ("l/layer.tar", &changed)]);
    let archive = open(evil.path()).unwrap();
    let found = archive.resolve(&Selector::Only, &app(), &platform("linux/amd64")).unwrap();
    let error = archive.blob(&found.manifest.layers[0]).unwrap().read_to_end(&mut Vec::new()).unwrap_err();
    assert!(matches!(error.downcast::<Mismatch>().unwrap(), Mismatch::Digest { .. }));
}

#[test]
fn long_names_and_links_of_old_dockers_are_followed_within_the_archive() {
    let image = Image::new("amd64");
    let long = format!("{}/layer.tar", "d".repeat(150));
    let manifest = r#"[{"Config":"c.json","RepoTags":null,"Layers":["x/layer.tar"]}]"#;
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, name, bytes).unwrap();
    };
    add("manifest.json", manifest.as_bytes());
    add("c.json", &image.config);
    add(&long, &image.layer);
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    tar.append_link(&mut header, "x/layer.tar", format!("../{long}")).unwrap();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&tar.into_inner().unwrap()).unwrap();
    check(&open(file.path()).unwrap(), &Selector::Only, &image);
}

#[test]
fn what_is_no_archive_of_images_is_refused_with_the_reason() {
    let image = Image::new("amd64");
    let manifest = br#"[{"Config":"../../etc/passwd","RepoTags":[],"Layers":[]}]"#;
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path().join("x");
    let whole = tar_of(&image);
    for (bytes, reason) in [
        (b"hello".to_vec(), "not a tar archive"),
        (vec![b'x'; 2000], "not a tar archive, or a damaged one"),
        (whole[..2000].to_vec(), "the archive is cut off"),
        (
            std::fs::read(tar_with(&[("a", b"b")]).path()).unwrap(),
            "it has neither `index.json` nor `manifest.json`",
        ),
        (
            std::fs::read(tar_with(&[("manifest.json", manifest)]).path()).unwrap(),
            "`../../etc/passwd` is missing",
        ),
        (
            std::fs::read(tar_with(&[("manifest.json", b"[]"), ("manifest.json", b"[]")]).path()).unwrap(),
            "two entries have the same name",
        ),
    ] {
        std::fs::write(&at, &bytes).unwrap();
        let error = open(&at).unwrap_err().to_string();
        assert!(error.ends_with(reason), "{error} / {reason}");
    }
}
