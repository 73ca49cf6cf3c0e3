//! What comes out as it went in: digests, metadata, the archives of other tools.

use super::*;

#[test]
fn the_diff_id_is_of_all_uncompressed_bytes() {
    if !is_root() {
        return;
    }
    let mut tar = Tar::default().file(b"f", b"x").end();
    tar.extend([0; 8192]);
    tar.extend(b"and some more");
    for how in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let mut blob = compress(Vec::new(), how, None).unwrap();
        blob.write_all(&tar).unwrap();
        let mut blob = blob.finish().unwrap();
        assert_eq!(Scene::new().unpack(&blob).unwrap().diff_id.0, Digest::of(&tar));
        if how != Compression::None {
            blob.extend(b"garbage");
            assert!(Scene::new().unpack(&blob).is_err(), "{how:?}");
        }
    }
}

#[test]
fn metadata_comes_out_as_it_went_in() {
    if !has_all_ids() {
        return;
    }
    let scene = Scene::new();
    let tar = Tar::default()
        .with(EntryType::Directory, b"d/", b"", b"", |header| header.set_mode(0o1777))
        .pax(&[
            (b"mtime", b"123.25"),
            (b"uid", b"3000000"),
            (b"SCHILY.xattr.security.capability", CAPABILITY),
        ])
        .with(EntryType::Regular, b"d/f", b"", b"data", |header| header.set_mode(0o4755))
        .end();
    scene.unpack(&tar).unwrap();
    let file = fs::metadata(scene.root().join("d/f")).unwrap();
    assert_eq!((file.mode() & 0o7777, file.uid()), (0o4755, 3_000_000));
    assert_eq!((file.mtime(), file.mtime_nsec()), (123, 250_000_000));
    let mut value = [0; 64];
    let length = rustix::fs::getxattr(scene.root().join("d/f"), "security.capability", &mut value).unwrap();
    assert_eq!(&value[..length], CAPABILITY);
    let dir = fs::metadata(scene.root().join("d")).unwrap();
    assert_eq!((dir.mode() & 0o7777, dir.mtime()), (0o1777, 1_000_000_000));
}

/// cap_net_raw+ep, version 2.
const CAPABILITY: &[u8] = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

#[test]
fn of_two_entries_with_one_name_the_later_one_stays() {
    if !is_root() {
        return;
    }
    let scene = Scene::new();
    let tar = Tar::default()
        .dir(b"x")
        .file(b"x/deep/file", b"")
        .file(b"x", b"file")
        .file(b"y", b"1")
        .file(b"y", b"2");
    scene.unpack(&tar.end()).unwrap();
    assert_eq!(fs::read(scene.root().join("x")).unwrap(), b"file");
    assert_eq!(fs::read(scene.root().join("y")).unwrap(), b"2");
}

#[test]
fn an_archive_of_add_knows_no_whiteouts() {
    let scene = Scene::new();
    let root = File::open(scene.root()).unwrap();
    let tar = Tar::default().file(b".wh.x", b"plain").end();
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    extract_archive(&mut &tar[..], root.as_fd(), ExtractOptions { owner: Some((uid, gid)) }).unwrap();
    assert_eq!(fs::read(scene.root().join(".wh.x")).unwrap(), b"plain");
    let error = pack(root.as_fd(), OverlayXattrs::of_this_process(), &mut std::io::sink()).unwrap_err();
    assert!(matches!(error, LayerError::ReservedName(_)));
}

#[test]
fn directories_without_an_entry_are_told() {
    let scene = Scene::new();
    let root = File::open(scene.root()).unwrap();
    let tar = Tar::default().file(b"a/b/c/file", b"").dir(b"a/b").dir(b"d").file(b"d/e/file", b"").end();
    let extracted = extract_archive(&mut &tar[..], root.as_fd(), ExtractOptions::default()).unwrap();
    let implied: Vec<_> = extracted.implied.iter().map(|path| path.to_str().unwrap()).collect();
    assert_eq!(implied, ["a", "a/b/c", "d/e"]);
}

#[test]
fn packed_times_are_cut_to_seconds_and_clamped() {
    let scene = Scene::new();
    fs::write(scene.root().join("f"), "x").unwrap();
    let root = File::open(scene.root()).unwrap();
    let mut tar = Vec::new();
    let options = PackOptions { times: Times::AtMost(1234) };
    let packed = pack_with(root.as_fd(), OverlayXattrs::of_this_process(), options, &mut tar).unwrap();
    assert_eq!((packed.size_bytes, packed.diff_id.0), (tar.len() as u64, Digest::of(&tar)));
    let mut archive = tar::Archive::new(&tar[..]);
    let entry = archive.entries().unwrap().next().unwrap().unwrap();
    assert_eq!(entry.header().mtime().unwrap(), 1234);
    assert_eq!(entry.path_bytes().as_ref(), b"f");
}

#[test]
fn gnu_tar_reads_what_is_packed_and_its_archives_are_read() {
    let tar_version = std::process::Command::new("tar").arg("--version").output();
    if !has_all_ids() || !tar_version.is_ok_and(|out| out.stdout.starts_with(b"tar (GNU tar)")) {
        eprintln!("skipped: needs GNU tar");
        return;
    }
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let long = "long".repeat(30);
    fs::create_dir_all(from.path().join(&long).join(&long)).unwrap();
    fs::write(from.path().join(&long).join(&long).join("file\n\u{e4}"), "data").unwrap();
    symlink(format!("/{long}/{long}"), from.path().join("link")).unwrap();
    std::os::unix::fs::chown(from.path().join(&long), Some(3_000_000), Some(5)).unwrap();
    let now = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
    for dir in ["", long.as_str(), &format!("{long}/{long}"), &format!("{long}/{long}/file\n\u{e4}")] {
        File::open(from.path().join(dir)).unwrap().set_modified(now).unwrap();
    }
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(from.path().join(&long), "user.test", b"a\nb", flags).unwrap();

    let mut packed = File::create(to.path().join("packed.tar")).unwrap();
    pack(File::open(from.path()).unwrap().as_fd(), OverlayXattrs::of_this_process(), &mut packed).unwrap();
    let run = |script: &str| {
        let script = format!("set -e; cd '{}'; {script}", to.path().display());
        let status = std::process::Command::new("sh").args(["-c", &script]).status().unwrap();
        assert!(status.success(), "{script}");
    };
    run("mkdir extracted && tar --xattrs --xattrs-include='*' --numeric-owner -xpf packed.tar -C extracted");
    assert_eq!(facts(from.path()), facts(&to.path().join("extracted")));

    for format in ["gnu", "pax"] {
        let options = if format == "pax" { "--xattrs --xattrs-include='*'" } else { "" };
        run(&format!("tar {options} --format={format} -C '{}' -czf {format}.tar .", from.path().display()));
        let target = to.path().join(format);
        fs::create_dir(&target).unwrap();
        let mut archive = File::open(to.path().join(format!("{format}.tar"))).unwrap();
        unpack(&mut archive, File::open(&target).unwrap().as_fd(), OverlayXattrs::of_this_process()).unwrap();
        let mut expected = facts(from.path());
        if format == "gnu" {
            // GNU's own format has no attributes.
            expected.values_mut().for_each(|fact| *fact = fact.replace(" user.test [97, 10, 98]", ""));
        }
        assert_eq!(expected, facts(&target), "{format}");
    }
}

#[test]
fn zeros_become_holes() {
    if !is_root() {
        return;
    }
    let mut bytes = vec![0; 3 << 20];
    bytes[1 << 20] = 1;
    let scene = Scene::new();
    scene.unpack(&Tar::default().file(b"f", &bytes).end()).unwrap();
    let path = scene.root().join("f");
    assert!(fs::read(&path).unwrap() == bytes);
    let blocks = std::os::unix::fs::MetadataExt::blocks(&fs::metadata(&path).unwrap());
    assert!(blocks < 1000, "{blocks}");
}
