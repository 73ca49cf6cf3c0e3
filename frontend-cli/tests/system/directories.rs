//! The root file system as a directory, over what is there.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use kiln_fixtures::Context;

use crate::kiln::Kiln;

#[test]
fn a_directory_that_is_mirrored_loses_what_is_not_in_the_result() {
    let Some(kiln) = Kiln::new("mode=delete") else { return };
    let context = Context::with_dockerfile("FROM scratch\nCOPY <<EOF /d/new\nnew\nEOF\n");
    let dest = context.path().join("out");
    std::fs::create_dir_all(dest.join("d/old-dir")).unwrap();
    std::fs::write(dest.join("d/old"), "old").unwrap();
    let output = format!("type=local,mode=delete,dest={}", dest.display());
    // Not below the current directory.
    let refused =
        kiln.call(Path::new("/usr"), &["build", "-o", &output, &context.path().display().to_string()]);
    assert_eq!(refused.status, 1);
    refused.says("buildx.local.delete");
    assert!(dest.join("d/old").exists());
    kiln.build(context.path(), &["-o", "type=local,mode=delete,dest=out", "."]);
    let left: Vec<_> =
        std::fs::read_dir(dest.join("d")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["new"]);
    assert_eq!(std::fs::read_dir(&dest).unwrap().count(), 1);
}

/// A context of which the files of `tree` are the image.
fn context() -> Context {
    let context = Context::with_dockerfile("FROM scratch\nCOPY tree /\n");
    let tree = context.path().join("tree");
    std::fs::create_dir_all(tree.join("dir")).unwrap();
    for name in ["same", "bytes", "mode", "time", "size", "linked", "dir/same", "dir/bytes"] {
        std::fs::write(tree.join(name), name.repeat(20_000)).unwrap();
    }
    std::fs::set_permissions(tree.join("dir"), std::fs::Permissions::from_mode(0o750)).unwrap();
    let early = SystemTime::UNIX_EPOCH + Duration::from_secs(1_500_000_000);
    std::fs::File::open(tree.join("dir")).unwrap().set_modified(early).unwrap();
    context
}

/// Changes a file's first byte and nothing else that can be seen.
fn spoil(path: &Path) {
    let time = std::fs::metadata(path).unwrap().modified().unwrap();
    let mut bytes = std::fs::read(path).unwrap();
    bytes[0] ^= 1;
    std::fs::write(path, bytes).unwrap();
    std::fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

#[test]
fn files_that_are_as_they_shall_be_are_not_written_again() {
    let Some(kiln) = Kiln::new("type=local over what is there") else { return };
    let context = context();
    let (tree, out) = (context.path().join("tree"), context.path().join("out"));
    for output in ["type=local,dest=out", "type=local,mode=delete,dest=out"] {
        kiln.build(context.path(), &["-o", output, "."]);
        let inode = |name: &str| std::fs::metadata(out.join(name)).unwrap().ino();
        let names = ["same", "bytes", "mode", "time", "size", "linked", "dir/same", "dir/bytes"];
        let before = names.map(inode);
        spoil(&out.join("bytes"));
        spoil(&out.join("dir/bytes"));
        std::fs::set_permissions(out.join("mode"), std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::set_permissions(out.join("dir"), std::fs::Permissions::from_mode(0o711)).unwrap();
        let late = SystemTime::now() + Duration::from_secs(60);
        std::fs::File::open(out.join("time")).unwrap().set_modified(late).unwrap();
        std::fs::write(out.join("size"), "shorter").unwrap();
        // What is written into a file with two names is in both.
        std::fs::hard_link(out.join("linked"), context.path().join("other")).unwrap();
        kiln.build(context.path(), &["-o", output, "."]);
        std::fs::remove_file(context.path().join("other")).unwrap();
        let after = names.map(inode);
        let stayed: Vec<_> =
            (0..names.len()).filter(|&at| before[at] == after[at]).map(|at| names[at]).collect();
        assert_eq!(stayed, ["same", "dir/same"], "{output}");
        for name in names.into_iter().chain(["dir"]) {
            let (ours, theirs) =
                (std::fs::metadata(tree.join(name)).unwrap(), std::fs::metadata(out.join(name)).unwrap());
            assert_eq!(theirs.mode(), ours.mode(), "{output}: {name}");
            assert_eq!(theirs.mtime(), ours.mtime(), "{output}: {name}");
            if ours.is_file() {
                assert!(
                    std::fs::read(tree.join(name)).unwrap() == std::fs::read(out.join(name)).unwrap(),
                    "{output}: {name}"
                );
            }
        }
        let left = std::fs::read_dir(&out).unwrap().count();
        assert_eq!(left, std::fs::read_dir(&tree).unwrap().count(), "{output}");
    }
}

#[test]
fn a_file_behind_a_link_is_none_that_is_there_already() {
    let Some(kiln) = Kiln::new("type=local over links") else { return };
    let context = context();
    let out = context.path().join("out");
    kiln.build(context.path(), &["-o", "out", "."]);
    std::fs::rename(out.join("dir"), context.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink("../elsewhere", out.join("dir")).unwrap();
    kiln.build(context.path(), &["-o", "out", "."]);
    assert!(std::fs::symlink_metadata(out.join("dir")).unwrap().is_dir());
    for name in ["same", "bytes"] {
        assert!(out.join("dir").join(name).is_file(), "{name}");
        assert!(context.path().join("elsewhere").join(name).is_file(), "{name}");
    }
}

#[test]
fn what_is_of_another_kind_is_replaced() {
    let Some(kiln) = Kiln::new("type=local over other kinds") else { return };
    let context = context();
    let out = context.path().join("out");
    for output in ["type=local,dest=out", "type=local,mode=delete,dest=out"] {
        std::fs::create_dir_all(out.join("same/below")).unwrap();
        std::fs::write(out.join("same/below/file"), "old").unwrap();
        std::fs::create_dir_all(out.join("bytes")).unwrap();
        std::fs::write(out.join("dir"), "old").unwrap();
        kiln.build(context.path(), &["-o", output, "."]);
        for name in ["same", "bytes", "dir/same"] {
            assert!(out.join(name).is_file(), "{output}: {name}");
        }
        std::fs::remove_dir_all(&out).unwrap();
    }
}

#[test]
fn a_destination_that_cannot_be_written_is_refused_before_anything_is_built() {
    let Some(kiln) = Kiln::new("destinations") else { return };
    let context = Context::with_dockerfile("FROM busybox\nRUN echo ran > /x\n");
    std::fs::write(context.path().join("file"), "mine").unwrap();
    std::fs::create_dir(context.path().join("dir")).unwrap();
    for (flags, says) in [
        (["-o", "type=local,dest=file"], "file is a file, where a directory is to be written"),
        (["-o", "type=local,dest=file/below"], "file is a file, where a directory is to be written"),
        (["-o", "type=oci,tar=false,dest=file"], "file is a file, where a directory is to be written"),
        (["-o", "type=tar,dest=dir"], "dir is a directory, where a file is to be written"),
        (["-o", "type=oci,dest=dir"], "dir is a directory, where a file is to be written"),
        (["-o", "type=docker,dest=none/x.tar"], "none/x.tar: there is no directory none"),
        (["--iidfile", "dir"], "dir is a directory, where a file is to be written"),
        (["--metadata-file", "none/x"], "none/x: there is no directory none"),
    ] {
        let ended = kiln.call(context.path(), &[&["build", "--progress=plain"], &flags[..], &["."]].concat());
        assert_eq!(ended.status, 1, "{flags:?}: {}", ended.stderr);
        ended.says(says);
        assert!(!ended.stderr.contains("RUN echo"), "{flags:?}: {}", ended.stderr);
    }
    assert_eq!(std::fs::read_to_string(context.path().join("file")).unwrap(), "mine");
    assert_eq!(std::fs::read_dir(context.path()).unwrap().count(), 3);
}
