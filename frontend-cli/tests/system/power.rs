//! The power fails: whatever of the last writes is on the disk, the store works afterwards, and says nothing false.
//!
//! Builds, prunes and cache mounts run on a disk that is recorded. Then the recording is cut at random, what came behind
//! the last flush before the cut is partly lost, and the file system is mounted as after a power failure: its journal is
//! replayed, kiln sees another boot id. `KILN_POWER_ROUNDS` says how many cuts are played.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use kiln_fixtures::Context;

use crate::kiln::{Kiln, is_root_to};
use crate::random::{Random, from_env};
use crate::recorded_disk::{Mounted, RecordedDisk};

const ROUNDS: u64 = 12;
/// One recording is cut so often.
const CUTS: u64 = 12;
const DISK_BYTES: u64 = 256 << 20;
const BUILDS: u64 = 8;

fn context() -> Context {
    let text = "FROM busybox\nARG ROUND\nCOPY data /data\n\
        RUN for i in 1 2 3 4; do echo $ROUND $i > /f$i; done\n\
        RUN rm /f3 && sha256sum /data/* > /sums\n\
        RUN --mount=type=cache,target=/c [ ! -e /c/round ] || grep -q whole /c/round || exit 9; \
        echo $ROUND whole > /c/round; echo $ROUND > /round\n";
    let context = Context::with_dockerfile(text);
    for file in 0..12_u8 {
        context.write(&format!("data/{file}"), vec![file; 30_000]);
    }
    context
}

/// A call in a machine whose boot id is `boot`.
fn call(kiln: &Kiln, folder: &Path, root: &Path, boot: &Path, words: &[&str]) -> Output {
    let inner = kiln.command(folder, words);
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", "mount --bind \"$0\" /proc/sys/kernel/random/boot_id && exec \"$@\""])
        .arg(boot)
        .arg(inner.get_program())
        .args(inner.get_args())
        .current_dir(folder)
        .stdin(Stdio::null());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.env("KILN_ROOT", root).output().unwrap()
}

#[test]
fn after_a_power_cut_nothing_is_wrong_and_nobody_is_needed() {
    if !is_root_to("mount disks that are recorded", "power cuts") {
        return;
    }
    let Some(kiln) = Kiln::new("power cuts") else { return };
    let scratch = tempfile::tempdir().unwrap();
    let boot = |number: u64| {
        let path = scratch.path().join(format!("boot-{number}"));
        std::fs::write(&path, format!("{number:08}-0000-4000-8000-000000000000\n")).unwrap();
        path
    };
    let rounds = from_env("KILN_POWER_ROUNDS", ROUNDS);
    let (mut hits, mut lost, mut broken) = (0, 0, 0);
    for recording in 0..rounds.div_ceil(CUTS) {
        let mut random = Random::new(recording);
        let disk = RecordedDisk::new(DISK_BYTES);
        let root = disk.mount_point().join("store");
        let context = context();
        let formatted = disk.told().len();
        let first = boot(0);
        for round in 0..BUILDS {
            let arg = format!("ROUND={round}");
            let line = ["build", "-t", "power", "--build-arg", &arg, "."];
            let built = call(&kiln, context.path(), &root, &first, &line);
            assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
            match random.below(5) {
                // What a machine does by itself every few seconds.
                0 | 1 => assert!(Command::new("sync").arg("-f").arg(&root).status().unwrap().success()),
                2 => assert!(call(&kiln, Path::new("/"), &root, &first, &["prune", "-af"]).status.success()),
                _ => {}
            }
        }
        let told = disk.told();
        for cut in 0..CUTS.min(rounds - recording * CUTS) {
            let count = formatted + random.below(told.len() - formatted + 1);
            // A file of its own for each cut: a loop device may outlive its mount.
            let image = scratch.path().join(format!("image-{recording}-{cut}"));
            disk.after_cut(&told, count, &mut random, &image);
            // Where the file system itself is lost nothing can be said about the store.
            if !Mounted::is_sound(&image) {
                broken += 1;
                std::fs::remove_file(&image).unwrap();
                continue;
            }
            let mounted = Mounted::new(&image);
            // Gone with its mount.
            std::fs::remove_file(&image).unwrap();
            let root = mounted.path().join("store");
            let place = format!("recording {recording}, cut {cut} after {count} of {}", told.len());
            let second = boot(1 + recording * CUTS + cut);
            let say = |output: &Output| {
                format!(
                    "{place}: {}{}",
                    String::from_utf8_lossy(&output.stdout),
                    String::from_utf8_lossy(&output.stderr)
                )
            };
            // The first look after the cut is a build's, as with people.
            for round in [BUILDS - 1, 0] {
                let arg = format!("ROUND={round}");
                let line = ["build", "--progress=plain", "-t", "power", "--build-arg", &arg, "."];
                let built = call(&kiln, context.path(), &root, &second, &line);
                assert!(built.status.success(), "{}", say(&built));
                match String::from_utf8_lossy(&built.stderr).contains("CACHED") {
                    true => hits += 1,
                    false => lost += 1,
                }
                let check =
                    "cat /round /f1 /f4 && ls / | grep -c '^f[0-9]' && sha256sum -c /sums | grep -c OK";
                let line = ["run", "--rm", "power", "sh", "-c", check];
                let ran = call(&kiln, Path::new("/"), &root, &second, &line);
                let expected = format!("{round}\n{round} 1\n{round} 4\n3\n12\n");
                assert_eq!(String::from_utf8_lossy(&ran.stdout), expected, "{}", say(&ran));
            }
            let checked = call(&kiln, Path::new("/"), &root, &second, &["doctor", "--check"]);
            assert!(checked.status.success(), "{}", say(&checked));
        }
    }
    eprintln!(
        "{rounds} cuts: {hits} builds found something, {lost} found nothing, {broken} file systems lost"
    );
    assert!(broken <= rounds / 8, "the cuts are such as a journal stands");
    assert!(hits > 0, "nothing ever survived");
}
