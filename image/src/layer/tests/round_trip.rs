//! Packing and unpacking undo each other.

use super::*;

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
