//! What both directions promise together, and what hostile tars try (THREATS, section B).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tar::{EntryType, Header};

use super::*;
use crate::Digest;

/// Builds tars that no decent writer would.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn entry(self, kind: EntryType, path: &[u8], link: &[u8], data: &[u8]) -> Self {
        self.with(kind, path, link, data, |_| ())
    }

    fn with(
        mut self,
        kind: EntryType,
        path: &[u8],
        link: &[u8],
        data: &[u8],
        change: impl FnOnce(&mut Header),
    ) -> Self {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(data.len() as u64);
        header.as_old_mut().name[..path.len()].copy_from_slice(path);
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link);
        change(&mut header);
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self.0.extend(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, path: &[u8], data: &[u8]) -> Self {
        self.entry(EntryType::Regular, path, b"", data)
    }
    fn dir(self, path: &[u8]) -> Self {
        self.with(EntryType::Directory, path, b"", b"", |header| header.set_mode(0o777))
    }
    fn link(self, path: &[u8], target: &[u8]) -> Self {
        self.entry(EntryType::Symlink, path, target, b"")
    }
    fn hard(self, path: &[u8], target: &[u8]) -> Self {
        self.entry(EntryType::Link, path, target, b"")
    }
    fn pax(self, records: &[(&[u8], &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = (1..).find(|digits| (rest + digits).to_string().len() == *digits).unwrap() + rest;
            data.extend([length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat());
        }
        self.entry(EntryType::XHeader, b"PaxHeaders/x", b"", &data)
    }
    fn end(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }
}

/// A tree to unpack into, beside a file and a directory that must never change.
struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/sentinel"), "untouched").unwrap();
        fs::set_permissions(dir.path().join("outside"), fs::Permissions::from_mode(0o750)).unwrap();
        fs::set_permissions(dir.path().join("outside/sentinel"), fs::Permissions::from_mode(0o640)).unwrap();
        Self { dir }
    }
    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }
    fn outside(&self) -> Vec<u8> {
        self.dir.path().join("outside").into_os_string().into_vec()
    }
    fn unpack(&self, tar: &[u8]) -> Result<Unpacked, LayerError> {
        let root = File::open(self.root()).unwrap();
        let result = unpack(&mut &tar[..], root.as_fd(), OverlayXattrs::of_this_process());
        let outside = self.dir.path().join("outside");
        assert_eq!(fs::read(outside.join("sentinel")).unwrap(), b"untouched");
        assert_eq!(fs::metadata(outside.join("sentinel")).unwrap().mode() & 0o7777, 0o640);
        assert_eq!(fs::metadata(outside.join("sentinel")).unwrap().nlink(), 1);
        assert_eq!(fs::metadata(&outside).unwrap().mode() & 0o7777, 0o750);
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        result
    }
    fn is_whiteout(&self, path: &str) -> bool {
        let stat = fs::symlink_metadata(self.root().join(path)).unwrap();
        stat.file_type().is_char_device() && stat.rdev() == 0
    }
    fn is_opaque(&self, path: &str) -> bool {
        let mut value = [0; 8];
        rustix::fs::getxattr(self.root().join(path), OverlayXattrs::of_this_process().opaque(), &mut value)
            == Ok(1)
            && value[0] == b'y'
    }
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: owners, devices and trusted attributes need root");
    }
    root
}

/// Whether files can be given to any user: root of a user namespace has ids up to 65536 only.
fn has_all_ids() -> bool {
    let all = is_root() && super::is_in_first_namespace();
    if !all {
        eprintln!("skipped: needs root to give files to every user");
    }
    all
}

// ---- B1, B2: leaving the root

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

// ---- B3, B4: what readers disagree on, and what is too much

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

// ---- B5, B6: whiteouts and overlayfs' own marks

#[test]
fn whiteouts_become_devices_and_opaque_marks_attributes() {
    if !is_root() {
        return;
    }
    let scene = Scene::new();
    scene
        .unpack(&Tar::default().file(b"d/.wh.gone", b"").dir(b"o").file(b"o/.wh..wh..opq", b"").end())
        .unwrap();
    assert!(scene.is_whiteout("d/gone"));
    assert!(scene.is_opaque("o"));
    assert!(!scene.root().join("o/.wh..wh..opq").exists());
}

#[test]
fn a_whiteout_never_deletes_what_its_own_layer_has() {
    if !is_root() {
        return;
    }
    for whiteout_first in [true, false] {
        let scene = Scene::new();
        let whiteouts = |tar: Tar| tar.file(b".wh.file", b"").file(b".wh.dir", b"");
        let files = |tar: Tar| tar.file(b"file", b"kept").dir(b"dir").file(b"dir/inner", b"kept");
        let tar = match whiteout_first {
            true => files(whiteouts(Tar::default())),
            false => whiteouts(files(Tar::default())),
        };
        scene.unpack(&tar.end()).unwrap();
        assert_eq!(fs::read(scene.root().join("file")).unwrap(), b"kept");
        assert_eq!(fs::read(scene.root().join("dir/inner")).unwrap(), b"kept");
        assert!(scene.is_opaque("dir"), "the lower directory must not show: {whiteout_first}");
    }
}

#[test]
fn odd_whiteouts_are_refused_or_foreign() {
    for name in [&b".wh."[..], b".wh..", b".wh...", b"a/.wh.../b", b"a/.wh.x/b"] {
        let error = Scene::new().unpack(&Tar::default().file(name, b"").end()).unwrap_err();
        assert!(matches!(error, LayerError::Escape { .. }), "{error}");
    }
    let scene = Scene::new();
    scene.unpack(&Tar::default().file(b".wh..wh.plnk/1.2", b"").file(b".wh..wh.aufs", b"").end()).unwrap();
    assert_eq!(fs::read_dir(scene.root()).unwrap().count(), 0);
}

#[test]
fn overlay_attributes_are_dropped_and_whiteout_devices_refused() {
    if !is_root() {
        return;
    }
    let scene = Scene::new();
    let marks: &[(&[u8], &[u8])] = &[
        (b"SCHILY.xattr.trusted.overlay.opaque", b"y"),
        (b"SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        (b"SCHILY.xattr.user.overlay.opaque", b"y"),
        (b"SCHILY.xattr.user.mine", b"with\nnewline"),
    ];
    scene.unpack(&Tar::default().pax(marks).dir(b"d").end()).unwrap();
    let mut names = [0; 256];
    let length = rustix::fs::listxattr(scene.root().join("d"), &mut names).unwrap();
    assert_eq!(&names[..length], b"user.mine\0");
    let device = Tar::default().entry(EntryType::Char, b"c", b"", b"").end();
    assert!(matches!(Scene::new().unpack(&device).unwrap_err(), LayerError::Escape { .. }));
    let linked = Tar::default().file(b".wh.a", b"").hard(b"b", b"a").end();
    assert!(Scene::new().unpack(&linked).is_err());
}

// ---- B11: the DiffId

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

// ---- metadata

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

// ---- other tools

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

// ---- pack ∘ unpack

#[derive(Clone, Debug)]
enum Node {
    File { data: Vec<u8>, mode: u32, uid: u32, xattr: Option<Vec<u8>>, mtime: u32 },
    Dir { mode: u32, opaque: bool },
    Symlink(Vec<u8>),
    Fifo,
    Whiteout,
    HardLink(prop::sample::Index),
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_map(|b| if b == 0 || b == b'/' { b'\n' } else { b });
    prop_oneof![4 => prop::collection::vec(byte.clone(), 1..6), 1 => prop::collection::vec(byte, 90..255)]
        .prop_filter("no name of its own", |name| {
            !matches!(name.as_slice(), b"." | b"..") && !name.starts_with(b".wh.")
        })
}

fn node() -> impl Strategy<Value = Node> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..2000);
    prop_oneof![
        4 => (bytes(), 0_u32..0o10000, prop_oneof![0_u32..2000, 3_000_000_u32..4_000_000_000],
            prop::option::of(prop::collection::vec(any::<u8>(), 0..50)), any::<u32>())
            .prop_map(|(data, mode, uid, xattr, mtime)| Node::File { data, mode, uid, xattr, mtime }),
        4 => (0_u32..0o10000, any::<bool>()).prop_map(|(mode, opaque)| Node::Dir { mode, opaque }),
        1 => prop::collection::vec(1_u8.., 1..150).prop_map(Node::Symlink),
        1 => Just(Node::Fifo),
        1 => Just(Node::Whiteout),
        1 => any::<prop::sample::Index>().prop_map(Node::HardLink),
    ]
}

/// Makes the nodes, each in one of the directories made before it.
fn make_tree(root: &Path, nodes: &[(prop::sample::Index, Vec<u8>, Node)]) {
    let mut dirs = vec![root.to_path_buf()];
    let mut files: Vec<PathBuf> = Vec::new();
    let mut modes = Vec::new();
    for (parent, name, node) in nodes {
        let parent = parent.get(&dirs);
        let path = parent.join(std::ffi::OsStr::from_bytes(name));
        if path.as_os_str().len() > 3000 || fs::symlink_metadata(&path).is_ok() {
            continue;
        }
        match node {
            Node::File { data, mode, uid, xattr, mtime } => {
                let mut file = File::create(&path).unwrap();
                file.write_all(data).unwrap();
                // A user namespace has fewer ids.
                let uid = if super::is_in_first_namespace() { *uid } else { *uid % (1 << 16) };
                std::os::unix::fs::chown(&path, Some(uid), Some(uid / 2)).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
                if let Some(value) = xattr {
                    rustix::fs::fsetxattr(&file, "user.test", value, rustix::fs::XattrFlags::empty())
                        .unwrap();
                }
                let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(u64::from(*mtime));
                file.set_modified(time).unwrap();
                files.push(path);
            }
            Node::Dir { mode, opaque } => {
                fs::create_dir(&path).unwrap();
                if *opaque {
                    let flags = rustix::fs::XattrFlags::empty();
                    rustix::fs::setxattr(&path, OverlayXattrs::of_this_process().opaque(), b"y", flags)
                        .unwrap();
                }
                modes.push((path.clone(), *mode));
                dirs.push(path);
            }
            Node::Symlink(target) => symlink(std::ffi::OsStr::from_bytes(target), &path).unwrap(),
            Node::Fifo | Node::Whiteout => {
                let kind = match node {
                    Node::Fifo => rustix::fs::FileType::Fifo,
                    _ => rustix::fs::FileType::CharacterDevice,
                };
                let mode = rustix::fs::Mode::from_raw_mode(0o600);
                rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, 0).unwrap();
            }
            Node::HardLink(target) => {
                if !files.is_empty() {
                    fs::hard_link(target.get(&files), &path).unwrap();
                }
            }
        }
    }
    for (path, mode) in modes {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
}

/// Everything a layer holds, by path; whiteouts have no properties but to be there.
fn facts(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut facts = BTreeMap::new();
    let mut inodes: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut pending = vec![root.to_path_buf()];
    while let Some(dir) = pending.pop() {
        let mut entries: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            let stat = fs::symlink_metadata(&path).unwrap();
            let kind = stat.file_type();
            let mut fact =
                format!("{kind:?} {:o} {} {} {}", stat.mode(), stat.uid(), stat.gid(), stat.mtime());
            if kind.is_char_device() {
                fact = "whiteout".to_owned();
            } else if kind.is_symlink() {
                fact += &format!("{:?}", fs::read_link(&path).unwrap());
            } else if kind.is_file() {
                let first = inodes.entry(stat.ino()).or_insert_with(|| path.clone());
                fact += &format!("{:?} {:?}", first.strip_prefix(root).unwrap(), fs::read(&path).unwrap());
            }
            if kind.is_dir() || kind.is_file() {
                for name in ["user.test", OverlayXattrs::of_this_process().opaque()] {
                    let mut value = vec![0; 100];
                    if let Ok(length) = rustix::fs::getxattr(&path, name, value.as_mut_slice()) {
                        fact += &format!(" {name} {:?}", &value[..length]);
                    }
                }
            }
            if kind.is_dir() {
                pending.push(path.clone());
            }
            facts.insert(path.strip_prefix(root).unwrap().to_path_buf(), fact);
        }
    }
    facts
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn unpacking_what_was_packed_gives_the_same_tree_and_the_same_tar(
        nodes in prop::collection::vec((any::<prop::sample::Index>(), name(), node()), 0..25)
    ) {
        if is_root() {
            let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            make_tree(from.path(), &nodes);
            let mut tar = Vec::new();
            let packed =
                pack(File::open(from.path()).unwrap().as_fd(), OverlayXattrs::of_this_process(), &mut tar).unwrap();
            let root = File::open(to.path()).unwrap();
            let unpacked = unpack(&mut &tar[..], root.as_fd(), OverlayXattrs::of_this_process()).unwrap();
            prop_assert_eq!(packed.diff_id, unpacked.diff_id);
            prop_assert_eq!(facts(from.path()), facts(to.path()));
            let again = pack(root.as_fd(), OverlayXattrs::of_this_process(), &mut std::io::sink()).unwrap();
            prop_assert_eq!(again.diff_id, packed.diff_id);
        }
    }
}
