//! Removals and overlayfs' own marks (THREATS B5, B6).

use super::*;

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
