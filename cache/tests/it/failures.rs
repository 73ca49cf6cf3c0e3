use std::os::unix::fs::{PermissionsExt, chown, symlink};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::*;

/// A tmpfs that goes when dropped.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    /// `None`, with a word, if this user cannot mount.
    fn new(options: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let options = std::ffi::CString::new(options).unwrap();
        match mount("tmpfs", dir.path(), "tmpfs", MountFlags::empty(), options.as_c_str()) {
            Ok(()) => Some(Self(dir)),
            Err(error) => {
                eprintln!("skipped: mounting a tmpfs needs root: {error}");
                None
            }
        }
    }

    fn root(&self) -> std::path::PathBuf {
        self.0.path().join("store")
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = unmount(self.0.path(), UnmountFlags::DETACH);
    }
}

#[test]
fn a_full_disk_has_an_error_of_its_own_and_spoils_nothing() {
    let Some(tmpfs) = Tmpfs::new("size=2m,mode=0700") else { return };
    let store = Store::open(&tmpfs.root()).unwrap();
    let good = run_step(&store, "good");
    // Logs this large end the space soon, inside the database's transaction.
    let mut step = 0;
    let error = loop {
        let log = vec![b'x'; 100_000];
        let result = claim(&store, &format!("step {step}")).commit(
            match store.draft_layer() {
                Ok(draft) => draft,
                Err(error) => break error,
            },
            Some(contents("x")),
            NewRecord { log, ..NewRecord::default() },
        );
        if let Err(error) = result {
            break error;
        }
        step += 1;
        assert!(step < 100, "the disk never fills");
    };
    assert!(matches!(error, StoreError::DiskFull { .. }), "{error:?}");
    assert!(error.hint().unwrap().contains("--root"));
    assert!(store.find(&key(&format!("step {step}"))).unwrap().is_none());
    assert_eq!(store.find(&key("good")).unwrap().unwrap().layers, good.layers);
    assert_sound(&store);
    let refused = store.put_blob(&vec![0; 4 << 20]);
    assert!(matches!(refused, Err(StoreError::DiskFull { .. })), "{refused:?}");
    assert!(is_empty(&store.root().join("work")));
}

#[test]
fn a_disk_too_full_for_any_store_says_so() {
    let Some(tmpfs) = Tmpfs::new("size=32k,mode=0700") else { return };
    let error = Store::open(&tmpfs.root()).unwrap_err();
    assert!(matches!(error, StoreError::DiskFull { .. }), "{error:?}");
}

#[test]
fn a_read_only_store_says_so() {
    let Some(tmpfs) = Tmpfs::new("size=2m,mode=0700") else { return };
    drop(Store::open(&tmpfs.root()).unwrap());
    rustix::mount::mount_remount(tmpfs.0.path(), MountFlags::RDONLY, "").unwrap();
    let error = Store::open(&tmpfs.root()).unwrap_err();
    assert!(matches!(error, StoreError::NotWritable { .. }), "{error:?}");
    let error = Store::open(&tmpfs.0.path().join("other")).unwrap_err();
    assert!(matches!(error, StoreError::NotWritable { .. }), "{error:?}");
}

#[test]
fn a_store_of_somebody_elses_is_refused() {
    if !is_root() {
        eprintln!("skipped: giving a directory away needs root");
        return;
    }
    let (dir, store) = store();
    let root = store.root().to_path_buf();
    drop(store);
    chown(&root, Some(1234), None).unwrap();
    let error = Store::open(&root).unwrap_err();
    assert!(matches!(error, StoreError::ForeignOwner { owner: 1234, user: 0, .. }), "{error:?}");
    // A link that somebody else put there leads nowhere either.
    chown(&root, Some(0), None).unwrap();
    let link = dir.path().join("link");
    symlink(&root, &link).unwrap();
    assert!(Store::open(&link).is_ok());
    std::os::unix::fs::lchown(&link, Some(1234), None).unwrap();
    assert!(matches!(Store::open(&link), Err(StoreError::ForeignOwner { .. })));
}

#[test]
fn the_root_is_closed_to_others() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    std::fs::create_dir(&root).unwrap();
    std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o777)).unwrap();
    let store = Store::open(&root).unwrap();
    assert_eq!(store.root().metadata().unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_newer_format_is_left_alone() {
    let (_dir, store) = store();
    let root = store.root().to_path_buf();
    drop(store);
    tamper(&root, "PRAGMA user_version = 99");
    let error = Store::open(&root).unwrap_err();
    assert!(matches!(error, StoreError::NewerFormat { found: 99, .. }), "{error:?}");
}

#[test]
fn a_database_that_is_none_is_moved_aside_and_layers_swept() {
    let (_dir, store) = store();
    let blob = store.put_blob(b"blob").unwrap();
    let layer = run_step(&store, "a").layers[0];
    let root = store.root().to_path_buf();
    drop(store);
    for companion in ["db.sqlite-wal", "db.sqlite-shm"] {
        let _ = std::fs::remove_file(root.join(companion));
    }
    std::fs::write(root.join("db.sqlite"), vec![b'x'; 8192]).unwrap();
    let store = Store::open(&root).unwrap();
    assert!(store.find(&key("a")).unwrap().is_none());
    assert!(!store.layer_path(layer.id).exists());
    assert!(store.has_blob(&blob));
    assert!(root.join("db.sqlite.damaged").exists());
    run_step(&store, "a");
    assert_sound(&store);
}

#[test]
fn a_table_that_is_gone_is_damage_and_heals_at_the_next_opening() {
    let (_dir, store) = store();
    run_step(&store, "a");
    let root = store.root().to_path_buf();
    tamper(&root, "DROP TABLE record_layers");
    assert!(matches!(store.find(&key("a")), Err(StoreError::Corrupt { .. })));
    // Not while somebody else uses it.
    assert!(matches!(Store::open(&root), Err(StoreError::Corrupt { .. })));
    drop(store);
    let store = Store::open(&root).unwrap();
    assert!(store.find(&key("a")).unwrap().is_none());
    run_step(&store, "a");
    assert_sound(&store);
}

#[test]
fn flipped_bytes_in_the_database_never_panic() {
    for seed in 0..24_usize {
        let (_dir, store) = store();
        for step in 0..4 {
            run_step(&store, &format!("step {step}"));
        }
        let root = store.root().to_path_buf();
        drop(store);
        tamper(&root, "PRAGMA wal_checkpoint(TRUNCATE)");
        let path = root.join("db.sqlite");
        let mut bytes = std::fs::read(&path).unwrap();
        for flip in 0..40 {
            let at = (seed * 104_729 + flip * 7919 + seed * flip * 31) % bytes.len();
            bytes[at] ^= 1 << (flip % 8);
        }
        std::fs::write(&path, bytes).unwrap();
        // Whatever the first says, the second opening at the latest has a store that works or a reason.
        for _ in 0..2 {
            match Store::open(&root) {
                Ok(store) => {
                    for step in 0..4 {
                        let _ = store.find(&key(&format!("step {step}")));
                    }
                    let _ = store.images();
                }
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
    }
}
