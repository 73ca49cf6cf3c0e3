//! What hostile tars try (THREATS B1–B4): to leave the root, to be read in two ways, to be too much.

use super::*;

#[test]
fn names_with_dot_dot_are_refused() {
    for name in [&b"../x"[..], b"a/../../x", b"..", b"/../x", b"a/.."] {
        let error = Scene::new().unpack(&Tar::default().file(name, b"x").end()).unwrap_err();
        assert!(matches!(error, LayerError::Escape { .. }), "{error}");
    }
    let scene = Scene::new();
    assert!(scene.unpack(&Tar::default().file(b"a", b"x").hard(b"b", b"../outside/sentinel").end()).is_err());
}

#[test]
fn an_absolute_name_lands_in_the_root() {
    if !is_root() {
        return;
    }
    let scene = Scene::new();
    scene.unpack(&Tar::default().file(b"/etc/x", b"x").end()).unwrap();
    assert_eq!(fs::read(scene.root().join("etc/x")).unwrap(), b"x");
}

#[test]
fn a_file_behind_a_link_lands_where_the_link_points_inside_of_the_root() {
    if !is_root() {
        return;
    }
    let scene = Scene::new();
    let outside = scene.outside();
    let same_inside = &outside[1..];
    let tar = Tar::default().dir(same_inside).link(b"l", &outside).file(b"l/sentinel", b"new").end();
    scene.unpack(&tar).unwrap();
    let landed = scene.root().join(std::ffi::OsStr::from_bytes(same_inside)).join("sentinel");
    assert_eq!(fs::read(landed).unwrap(), b"new");
}

#[test]
fn a_link_that_leads_nowhere_is_no_parent() {
    if !is_root() {
        return;
    }
    let outside = Scene::new().outside();
    for tar in [
        Tar::default().link(b"l", &outside).file(b"l/x", b"new"),
        Tar::default().link(b"l", b"../outside").dir(b"l/x"),
        Tar::default().link(b"l", b"../../../../../..").link(b"m", b"l/outside").file(b"m/d/x", b""),
        Tar::default().link(b"l", &outside).file(b"l/.wh.sentinel", b""),
        Tar::default().link(b"l", &outside).file(b"l/.wh..wh..opq", b""),
    ] {
        assert!(Scene::new().unpack(&tar.end()).is_err());
    }
}

#[test]
fn magic_links_of_proc_lead_nowhere() {
    let tar = Tar::default().link(b"l", b"/proc/self/root").file(b"l/x", b"new").end();
    assert!(Scene::new().unpack(&tar).is_err());
}

#[test]
fn a_hard_link_stays_in_the_root() {
    if !is_root() {
        return;
    }
    for target in [&b"/etc/shadow"[..], b"missing", b"l/sentinel", b"."] {
        let scene = Scene::new();
        let outside = scene.outside();
        let tar = Tar::default().link(b"l", &outside).hard(b"h", target).end();
        assert!(scene.unpack(&tar).is_err());
        assert!(!scene.root().join("h").exists());
    }
}

#[test]
fn a_file_or_directory_replaces_a_link_and_never_goes_through_it() {
    if !is_root() {
        return;
    }
    let scene = Scene::new();
    let outside = scene.outside();
    let sentinel = [&outside[..], b"/sentinel"].concat();
    let tar = Tar::default()
        .link(b"d", &outside)
        .dir(b"d/")
        .link(b"f", &sentinel)
        .file(b"f", b"new")
        .link(b"n", &sentinel)
        .entry(EntryType::Fifo, b"n", b"", b"")
        .end();
    scene.unpack(&tar).unwrap();
    assert!(fs::symlink_metadata(scene.root().join("d")).unwrap().is_dir());
    assert_eq!(fs::read(scene.root().join("f")).unwrap(), b"new");
    assert!(fs::symlink_metadata(scene.root().join("n")).unwrap().file_type().is_fifo());
}

#[test]
fn what_other_readers_read_differently_is_refused() {
    let long = |tar: Tar, kind, name: &[u8]| tar.entry(kind, b"././@LongLink", b"", name);
    for (why, tar) in [
        (
            "two names",
            long(Tar::default().pax(&[(b"path", b"a")]), EntryType::GNULongName, b"b\0").file(b"c", b""),
        ),
        ("two records", Tar::default().pax(&[(b"path", b"a")]).pax(&[(b"path", b"b")]).file(b"c", b"")),
        ("bad record", Tar::default().entry(EntryType::XHeader, b"p", b"", b"99 path=a\n").file(b"c", b"")),
        ("record without an entry", Tar::default().pax(&[(b"path", b"a")])),
        (
            "global name",
            Tar::default().entry(EntryType::XGlobalHeader, b"g", b"", b"10 path=a\n").file(b"c", b""),
        ),
        ("data of a directory", Tar::default().entry(EntryType::Directory, b"d", b"", b"data")),
        ("unknown type", Tar::default().entry(EntryType::new(b'V'), b"d", b"", b"")),
        ("NUL in a name", Tar::default().pax(&[(b"path", b"a\0b")]).file(b"c", b"")),
        ("bad size", Tar::default().pax(&[(b"size", b"-1")]).file(b"c", b"")),
    ] {
        assert!(Scene::new().unpack(&tar.end()).is_err(), "{why}");
    }
}

#[test]
fn the_size_in_a_record_counts_and_hides_nothing() {
    if !is_root() {
        return;
    }
    let scene = Scene::new();
    let inner = Tar::default().file(b"hidden", b"x").end();
    let mut tar = Tar::default().pax(&[(b"size", inner.len().to_string().as_bytes())]);
    tar = tar.with(EntryType::Regular, b"outer", b"", b"", |header| header.set_size(0));
    tar.0.extend(&inner);
    scene.unpack(&tar.file(b"after", b"").end()).unwrap();
    assert!(!scene.root().join("hidden").exists());
    assert_eq!(fs::read(scene.root().join("outer")).unwrap(), inner);
    assert!(scene.root().join("after").exists());
}

#[test]
fn a_limit_is_named_in_the_error() {
    let sizes = |size: u64| {
        Tar::default().with(EntryType::Regular, b"f", b"", b"", |header| header.set_size(size)).end()
    };
    let huge = Scene::new().unpack(&sizes(MAX_FILE_BYTES + 1)).unwrap_err();
    assert!(huge.to_string().contains("more than 1099511627776 bytes in a file"), "{huge}");
    let extension = Tar::default()
        .with(EntryType::XHeader, b"x", b"", b"", |header| header.set_size(MAX_EXTENSION_BYTES + 1))
        .end();
    assert!(matches!(Scene::new().unpack(&extension).unwrap_err(), LayerError::TooLarge { .. }));
    let name = vec![b'a'; MAX_PATH_BYTES + 1];
    let long = Tar::default().pax(&[(b"path", &name)]).file(b"f", b"").end();
    assert!(matches!(Scene::new().unpack(&long).unwrap_err(), LayerError::TooLarge { .. }));
}

#[test]
fn holes_count_for_a_layers_size() {
    const SIZE: u64 = MAX_LAYER_BYTES / 2;
    let size = SIZE.to_string();
    let sparse = |tar: Tar, name: &[u8]| {
        let records: [(&[u8], &[u8]); 3] =
            [(b"GNU.sparse.map", b"0,1"), (b"GNU.sparse.name", name), (b"GNU.sparse.size", size.as_bytes())];
        tar.pax(&records).file(b"GNUSparseFile.0/x", b"!")
    };
    let two = sparse(sparse(Tar::default(), b"a"), b"b");
    if is_root() {
        assert!(Scene::new().unpack(&two.0).is_ok());
    }
    let error = Scene::new().unpack(&sparse(two, b"c").end()).unwrap_err();
    assert_eq!(error.to_string(), "c: more than 1099511627776 bytes in files");
}

#[test]
fn a_cut_archive_is_an_error() {
    let tar = Tar::default().file(b"f", &[1; 2000]).end();
    for length in [100, 700, 1600] {
        assert!(Scene::new().unpack(&tar[..length]).is_err(), "{length}");
    }
}

#[test]
fn an_archive_may_end_with_the_last_byte_of_its_last_file() {
    let tar = Tar::default().file(b"a", b"data").0;
    let target = tempfile::tempdir().unwrap();
    let folder = File::open(target.path()).unwrap();
    for end in [516, 600] {
        let unpacked = unpack(&mut &tar[..end], folder.as_fd(), OverlayXattrs::of_this_process()).unwrap();
        assert_eq!(unpacked.diff_id.0, Digest::of(&tar[..end]));
        assert_eq!(fs::read(target.path().join("a")).unwrap(), b"data");
        fs::remove_file(target.path().join("a")).unwrap();
    }
    assert!(unpack(&mut &tar[..515], folder.as_fd(), OverlayXattrs::of_this_process()).is_err());
}

#[test]
fn sparse_files_of_every_format_come_out_the_same() {
    if !is_root() {
        return;
    }
    let mut expected = vec![0; 100_000];
    expected[4096..4098].copy_from_slice(b"hi");
    expected[90_000..90_001].copy_from_slice(b"!");
    let mut map = b"2\n4096\n2\n90000\n1\n".to_vec();
    map.resize(512, 0);
    map.extend(b"hi!");
    let one = Tar::default()
        .pax(&[
            (b"GNU.sparse.major", b"1"),
            (b"GNU.sparse.minor", b"0"),
            (b"GNU.sparse.name", b"sparse"),
            (b"GNU.sparse.realsize", b"100000"),
        ])
        .file(b"GNUSparseFile.0/sparse", &map);
    let zero = Tar::default()
        .pax(&[
            (b"GNU.sparse.map", b"4096,2,90000,1"),
            (b"GNU.sparse.name", b"sparse"),
            (b"GNU.sparse.size", b"100000"),
        ])
        .file(b"GNUSparseFile.0/sparse", b"hi!");
    let gnu = {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::GNUSparse);
        header.set_path("sparse").unwrap();
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(3);
        let gnu = header.as_gnu_mut().unwrap();
        for (at, (offset, length)) in [(4096, 2), (90_000, 1)].into_iter().enumerate() {
            gnu.sparse[at].set_offset(offset);
            gnu.sparse[at].set_length(length);
        }
        gnu.set_real_size(100_000);
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend(b"hi!");
        bytes.resize(1024, 0);
        Tar(bytes)
    };
    for (format, tar) in [("1.0", one), ("0.1", zero), ("GNU", gnu)] {
        let scene = Scene::new();
        scene.unpack(&tar.end()).unwrap();
        assert!(fs::read(scene.root().join("sparse")).unwrap() == expected, "{format}");
    }
}
