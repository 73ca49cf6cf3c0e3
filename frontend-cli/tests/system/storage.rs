//! What the store takes, and keeping it within bounds.

use std::path::Path;
use std::process::Command;

use kiln_cache::Store;
use kiln_fixtures::Context;

use crate::kiln::{Kiln, is_root_to};

/// A file system of its own for the store, as small as a test wants it.
struct SmallDisk<'a>(&'a Kiln);

impl<'a> SmallDisk<'a> {
    fn mount(kiln: &'a Kiln, megabytes: u32) -> Self {
        std::fs::create_dir(kiln.root()).unwrap();
        let options = format!("size={megabytes}m,mode=0700");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(kiln.root());
        assert!(mount.status().unwrap().success());
        Self(kiln)
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.root()).status();
    }
}

fn assert_sound(kiln: &Kiln) {
    kiln.is_sound();
}

/// A step that writes `megabytes` under `/data`.
fn writing(name: &str, megabytes: u32) -> String {
    format!("FROM busybox\nRUN mkdir /data && head -c {megabytes}m /dev/urandom > /data/{name}\n")
}

#[test]
fn du_names_what_there_is_and_prune_frees_it() {
    let Some(kiln) = Kiln::new("du and prune") else { return };
    let here = Path::new("/");
    let context = Context::with_dockerfile(
        "FROM busybox\nCOPY big /big\nRUN --mount=type=cache,id=mine,target=/c head -c 3m /dev/urandom > /c/f\n\
         RUN head -c 2m /dev/urandom > /out\n",
    )
    .file("big", vec![7; 1_000_000]);
    kiln.build(context.path(), &["-t", "one", "."]);
    let table = kiln.ok(here, &["du"]);
    for words in
        ["ID", "RECLAIMABLE", "cache mount", "RUN head -c 2m", "COPY big", "Shared:", "Private:", "Total:"]
    {
        table.says(words);
    }
    kiln.ok(here, &["du", "--verbose"]).says("Images:       docker.io/library/one");
    let of_mount =
        kiln.ok(here, &["du", "--filter", "type=exec.cachemount", "--format", "{{.Size}} {{.Shared}}"]);
    let (size, shared) = of_mount.stdout.trim().split_once(' ').unwrap();
    assert!((3 << 20..4 << 20).contains(&size.parse::<u64>().unwrap()), "{size}");
    assert_eq!(shared, "false");

    // Within a tenth of what du(1) finds.
    let total: u64 = kiln
        .ok(here, &["du", "--format", "{{.Size}}"])
        .stdout
        .lines()
        .map(|line| line.parse::<u64>().unwrap())
        .sum();
    let du = Command::new("du").args(["-s", "-B1"]).arg(kiln.root()).output().unwrap();
    let found: u64 =
        String::from_utf8(du.stdout).unwrap().split_whitespace().next().unwrap().parse().unwrap();
    assert!(total.abs_diff(found) < found / 10, "kiln says {total}, du {found}");

    let dry = kiln.ok(here, &["prune", "--dry-run"]);
    dry.says("cache mount");
    assert!(kiln.ok(here, &["du"]).stdout.contains("cache mount"));
    // The answer to the question is not there.
    let asked = kiln.ok(here, &["prune"]);
    asked.says("Are you sure you want to continue? [y/N]");
    assert!(kiln.ok(here, &["du"]).stdout.contains("cache mount"));
    let pruned = kiln.ok(here, &["builder", "prune", "-f"]);
    assert!(!pruned.stdout.contains("RUN head"), "an image holds it: {}", pruned.stdout);
    assert!(!kiln.ok(here, &["du"]).stdout.contains("cache mount"));
    assert_eq!(kiln.run(&["one", "sh", "-c", "wc -c < /out"]).trim(), (2 << 20).to_string());
    // What the image holds is still found by builds.
    assert_eq!(kiln.build(context.path(), &["-t", "one", "."]).steps(), (0, 3));
    kiln.ok(here, &["prune", "-af"]);
    assert_eq!(kiln.build(context.path(), &["-t", "two", "."]).steps().0, 3);
    kiln.ok(here, &["rmi", "one", "two"]);
    kiln.ok(here, &["image", "prune", "-f"]).says("Total reclaimed space:");
    kiln.ok(here, &["prune", "-f"]);
    kiln.ok(here, &["system", "df"]).says("Build Cache");
    kiln.ok(here, &["system", "prune", "-af"]);
    let left = Store::open(&kiln.root()).unwrap().total_bytes().unwrap();
    assert!(left < 500_000, "{left} bytes are left");
    assert_sound(&kiln);
}

#[test]
fn filters_choose_and_wrong_ones_are_refused() {
    let Some(kiln) = Kiln::new("filters") else { return };
    let here = Path::new("/");
    kiln.build(Context::with_dockerfile(&writing("a", 1)).path(), &["."]);
    assert!(!kiln.ok(here, &["du", "--filter", "until=24h"]).stdout.contains("RUN"));
    assert!(!kiln.ok(here, &["prune", "-f", "--older-than", "24h"]).stdout.contains("RUN"));
    let one = kiln.ok(here, &["du", "--filter", "description~=head", "--format", "{{.ID}}"]).stdout;
    kiln.ok(here, &["rmi", "-f", kiln.ok(here, &["images", "-q"]).stdout.lines().next().unwrap()]);
    let by_id = format!("id={}", &one.trim()[..12]);
    kiln.ok(here, &["prune", "-f", "--filter", &by_id]).says("RUN mkdir");
    let wrong = kiln.call(here, &["prune", "-f", "--filter", "colour=red"]);
    assert_eq!(wrong.status, 1);
    wrong.says("the keys are until, id, type");
    let wrong = kiln.call(here, &["prune", "-f", "--max-used-space", "much"]);
    assert_ne!(wrong.status, 0);
    wrong.says("`much` is no size");
}

#[test]
fn a_step_that_fills_the_disk_is_tried_again_once_the_cache_made_room() {
    if !is_root_to("mount a small disk", "room on a full disk") {
        return;
    }
    let Some(kiln) = Kiln::new("room on a full disk") else { return };
    let _disk = SmallDisk::mount(&kiln, 64);
    // An image without a name holds nothing against a full disk.
    for name in ["a", "b"] {
        kiln.build(Context::with_dockerfile(&writing(name, 15)).path(), &["."]);
    }
    let run = kiln.build(Context::with_dockerfile(&writing("c", 40)).path(), &["-t", "c", "."]);
    run.says("the disk is full");
    assert_eq!(kiln.run(&["c", "sh", "-c", "wc -c < /data/c"]).trim(), (40 << 20).to_string());
    assert_sound(&kiln);
    // The same for files: of the named image only the name goes first.
    kiln.ok(Path::new("/"), &["rmi", "c"]);
    let copy = Context::with_dockerfile("FROM busybox\nCOPY big /\n").file("big", vec![3; 30 << 20]);
    let copied = kiln.build(copy.path(), &["-t", "d", "."]);
    copied.says("the disk is full");
    assert_eq!(kiln.run(&["d", "sh", "-c", "wc -c < /big"]).trim(), (30 << 20).to_string());
    // What does not fit at all fails with a word, and leaves what is needed.
    let failed = kiln.call(Context::with_dockerfile(&writing("e", 100)).path(), &["build", "."]);
    assert_eq!(failed.status, 1);
    failed.says("the file system of kiln's store is full");
    assert_eq!(kiln.run(&["d", "echo", "still"]).trim(), "still");
    assert_sound(&kiln);
}

#[test]
fn a_store_with_a_limit_stays_below_it() {
    let Some(kiln) = Kiln::new("a store with a limit") else { return };
    let limit: u64 = 40_000_000;
    for round in 0..8 {
        let context = Context::with_dockerfile(&writing(&round.to_string(), 6));
        let tag = format!("i{round}");
        kiln.build(context.path(), &["--max-size", "40MB", "-t", &tag, "."]);
        let total = Store::open(&kiln.root()).unwrap().total_bytes().unwrap();
        assert!(total <= limit, "round {round}: {total}");
    }
    assert_eq!(kiln.run(&["i7", "ls", "/data"]).trim(), "7");
    let images = kiln.ok(Path::new("/"), &["images"]).stdout;
    assert!(images.contains("i6") && !images.contains("i0"), "{images}");
    let context = Context::with_dockerfile(&writing("large", 60));
    let failed = kiln.call(context.path(), &["build", "--max-size", "40MB", "-t", "large", "."]);
    assert_eq!(failed.status, 1);
    failed.says("and may take 40000000");
    failed.says("`--max-size`");
    assert!(Store::open(&kiln.root()).unwrap().total_bytes().unwrap() <= limit);
    assert_sound(&kiln);
}

#[test]
fn builds_keep_the_cache_within_what_the_configuration_says() {
    let Some(kiln) = Kiln::new("the configured cache size") else { return };
    let config = tempfile::tempdir().unwrap();
    std::fs::create_dir(config.path().join("kiln")).unwrap();
    std::fs::write(
        config.path().join("kiln/config.toml"),
        "[gc]\nreservedSpace = \"1MB\"\nmaxUsedSpace = \"20MB\"\nminFreeSpace = 0\n",
    )
    .unwrap();
    for round in 0..6 {
        let context = Context::with_dockerfile(&writing(&round.to_string(), 6));
        let mut build = kiln.command(context.path(), &["build", "-t", "same", "."]);
        assert!(build.env("XDG_CONFIG_HOME", config.path()).output().unwrap().status.success());
    }
    let usage = Store::open(&kiln.root()).unwrap().usage().unwrap();
    let cache: u64 = usage.iter().filter(|usage| !usage.is_named).map(|usage| usage.size_bytes).sum();
    assert!(cache <= 20_000_000, "{cache} bytes of cache");
    assert!(cache > 6_000_000, "and not all of it is gone");
    assert_eq!(kiln.run(&["same", "ls", "/data"]).trim(), "5");
}

#[test]
fn doctor_finds_damage_and_repairs_by_dropping() {
    let Some(kiln) = Kiln::new("doctor --repair") else { return };
    let here = Path::new("/");
    let context = Context::with_dockerfile("FROM busybox\nCOPY a /a\nRUN echo text > /b\n").file("a", "aaa");
    kiln.build(context.path(), &["-t", "sound", "."]);
    kiln.ok(here, &["doctor", "--check"]).says("the store is sound");
    // One byte in a copied file, one in what a step wrote.
    let mut changed = 0;
    for layer in std::fs::read_dir(kiln.root().join("layers")).unwrap() {
        for name in ["a", "b"] {
            let path = layer.as_ref().unwrap().path().join(name);
            if path.is_file() && !layer.as_ref().unwrap().path().join("bin").exists() {
                std::fs::write(&path, "xxx").unwrap();
                changed += 1;
            }
        }
    }
    assert_eq!(changed, 2);
    // No image is made of it.
    let words = ["build", "--progress=plain", "-o", "type=oci,dest=image.tar", "."];
    let refused = kiln.call(context.path(), &words);
    assert_eq!(refused.status, 1, "{refused:?}");
    refused.says("has changed in the store");
    assert!(!context.join("image.tar").exists());
    let checked = kiln.call(here, &["doctor", "--check"]);
    assert_eq!(checked.status, 1, "{checked:?}");
    checked.says("2 found; `kiln doctor --repair`");
    kiln.ok(here, &["doctor", "--repair"]).says("found and dropped");
    kiln.ok(here, &["doctor", "--check"]).says("the store is sound");
    assert_eq!(kiln.build(context.path(), &["-t", "sound", "."]).steps(), (2, 0));
    assert_eq!(kiln.run(&["sound", "cat", "/a", "/b"]), "aaatext\n");
}
