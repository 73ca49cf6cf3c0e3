use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::atomic::Ordering;

use kiln_cache::{CacheMount, CacheMountRequest, MountSharing};

use super::*;

fn request(sharing: MountSharing) -> CacheMountRequest {
    CacheMountRequest { id: "../../npm".into(), sharing, mode: 0o1750, uid: 0, gid: 0 }
}

fn unseeded(_: &std::path::Path) -> Result<(), StoreError> {
    Ok(())
}

fn mount(store: &Store, sharing: MountSharing) -> CacheMount {
    store.cache_mount(&request(sharing), unseeded, &mut |_| panic!("waits"), &AtomicBool::new(false)).unwrap()
}

/// Whether a mount must wait.
fn waits(store: &Store, sharing: MountSharing) -> bool {
    let cancel = AtomicBool::new(false);
    let result = store.cache_mount(
        &request(sharing),
        unseeded,
        &mut |_| cancel.store(true, Ordering::Relaxed),
        &cancel,
    );
    matches!(result, Err(StoreError::Canceled))
}

#[test]
fn a_cache_mount_outlives_its_step() {
    let (_dir, store) = store();
    let first = mount(&store, MountSharing::Shared);
    assert_eq!(first.path().parent().unwrap(), store.root().join("mounts"));
    std::fs::write(first.path().join("file"), "kept").unwrap();
    drop(first);
    let second = mount(&store, MountSharing::Locked);
    assert_eq!(std::fs::read_to_string(second.path().join("file")).unwrap(), "kept");
}

#[test]
fn a_new_cache_mount_has_the_mode_and_owner_asked_for() {
    if !is_root() {
        eprintln!("skipped: giving a directory away needs root");
        return;
    }
    let (_dir, store) = store();
    let wanted = CacheMountRequest { uid: 1234, gid: 2345, ..request(MountSharing::Shared) };
    let made = store.cache_mount(&wanted, unseeded, &mut |_| {}, &AtomicBool::new(false)).unwrap();
    let found = made.path().metadata().unwrap();
    assert_eq!((found.uid(), found.gid()), (1234, 2345));
    assert_eq!(found.permissions().mode() & 0o7777, 0o1750);
}

#[test]
fn shared_users_share_and_a_locked_one_waits() {
    let (_dir, store) = store();
    let one = mount(&store, MountSharing::Shared);
    let two = mount(&store, MountSharing::Shared);
    assert_eq!(one.path(), two.path());
    assert!(waits(&store, MountSharing::Locked));
    drop((one, two));
    let _locked = mount(&store, MountSharing::Locked);
    assert!(waits(&store, MountSharing::Locked) && waits(&store, MountSharing::Shared));
}

#[test]
fn private_users_get_siblings_and_take_them_again() {
    let (_dir, store) = store();
    let one = mount(&store, MountSharing::Private);
    let two = mount(&store, MountSharing::Private);
    assert_ne!(one.path(), two.path());
    let first = one.path().to_path_buf();
    drop(one);
    let three = mount(&store, MountSharing::Private);
    assert_eq!(three.path(), first);
}

#[test]
fn a_mount_whose_seeding_was_cut_short_is_seeded_by_the_next() {
    let (_dir, store) = store();
    let take = |seed: &dyn Fn(&Path) -> Result<(), StoreError>| {
        store.cache_mount(&request(MountSharing::Shared), seed, &mut |_| {}, &AtomicBool::new(false))
    };
    take(&|path| {
        std::fs::write(path.join("half"), "").unwrap();
        Err(StoreError::Canceled)
    })
    .unwrap_err();
    let seeded = take(&|path| {
        std::fs::write(path.join("seed"), "").unwrap();
        Ok(())
    })
    .unwrap();
    assert!(seeded.path().join("seed").exists() && !seeded.path().join("half").exists());
    take(&|_| panic!("seeded already")).unwrap();
}
