//! `--cache-to` on one machine, `--cache-from` on another.

use std::path::Path;

use kiln_fixtures::Context;
use serde_json::Value;

use crate::kiln::{Ended, Kiln};

/// Two stages: a program is made of a source, and what it prints goes into the image.
const DOCKERFILE: &str = "FROM busybox AS build\nWORKDIR /src\nCOPY lib.txt .\nRUN cat lib.txt > lib.out\n\
     COPY main.txt .\nRUN cat lib.out main.txt > /program\nFROM busybox\nRUN echo run > /runtime\n\
     COPY --from=build --chown=daemon /program /program\nCMD [\"cat\", \"/program\"]\n";

pub(crate) fn project() -> Context {
    Context::with_dockerfile(DOCKERFILE).file("lib.txt", "lib\n").file("main.txt", "main\n")
}

pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// Builds for nothing but the cache: with the cache flag of the other machine's words.
pub(crate) fn flags<'a>(words: &[&'a str]) -> Vec<&'a str> {
    let mut all = vec!["--output=type=cacheonly"];
    all.extend(words);
    all.push(".");
    all
}

pub(crate) fn image_id(kiln: &Kiln, context: &Context, words: &[&str]) -> String {
    let mut line = vec!["build", "-q", "-t", "it"];
    line.extend(words);
    line.push(".");
    kiln.ok(context.path(), &line).stdout.trim().to_owned()
}

/// How many layers are unpacked in the store.
pub(crate) fn layers(kiln: &Kiln) -> usize {
    std::fs::read_dir(kiln.root().join("layers")).unwrap().count()
}

/// The cache config of a directory, and where it is.
fn config(cache: &Path) -> (std::path::PathBuf, Value) {
    let read = |path: &Path| -> Value { serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap() };
    let blob = |digest: &Value| cache.join("blobs").join(digest.as_str().unwrap().replace(':', "/"));
    let index = read(&cache.join("index.json"));
    let manifest = read(&blob(&index["manifests"][0]["digest"]));
    let path = blob(&manifest["config"]["digest"]);
    let config = read(&path);
    (path, config)
}

#[test]
fn another_machine_finds_every_step_and_fetches_no_layer_until_one_is_needed() {
    let (Some(one), Some(two)) = (Kiln::new("remote cache"), Kiln::new("remote cache")) else { return };
    let (context, cache) = (project(), folder());
    let to = format!("--cache-to=type=local,dest={},mode=max", cache.path().display());
    let from = format!("--cache-from=type=local,src={}", cache.path().display());
    let id = image_id(&one, &context, &[&to]);

    let ended = two.build(context.path(), &flags(&[&from]));
    assert_eq!(ended.steps(), (0, 7), "{}", ended.stderr);
    assert_eq!(layers(&two), 0, "neither the base nor a step's layer was needed");

    assert_eq!(image_id(&two, &context, &[&from]), id, "the same image, times and all");
    assert_eq!(two.run(&["it"]), "lib\nmain\n");
    // What was fetched is the store's own from now on.
    let ended = two.build(context.path(), &["-t", "again", "."]);
    assert!(ended.steps().1 >= 2, "{}", ended.stderr);
}

#[test]
fn a_changed_source_runs_what_depends_on_it_and_nothing_else() {
    let (Some(one), Some(two)) = (Kiln::new("remote cache"), Kiln::new("remote cache")) else { return };
    let (context, cache) = (project(), folder());
    let to = format!("--cache-to=type=local,dest={},mode=max", cache.path().display());
    let from = format!("--cache-from=type=local,src={}", cache.path().display());
    one.build(context.path(), &flags(&[&to]));
    context.write("main.txt", "other\n");
    let ended = two.build(context.path(), &["-t", "it", &from, &to, "."]);
    // COPY main.txt, RUN cat, COPY --from=build.
    assert_eq!(ended.steps(), (3, 4), "{}", ended.stderr);
    assert_eq!(two.run(&["it"]), "lib\nother\n");
    // The second machine's export has what it took from the first one's.
    let Some(three) = Kiln::new("remote cache") else { return };
    let ended = three.build(context.path(), &flags(&[&from]));
    assert_eq!(ended.steps(), (0, 7), "{}", ended.stderr);
}

#[test]
fn a_cache_of_the_image_alone_has_no_steps_of_earlier_stages() {
    let (Some(one), Some(two)) = (Kiln::new("remote cache"), Kiln::new("remote cache")) else { return };
    let (context, cache) = (project(), folder());
    let to = format!("--cache-to=type=local,dest={}", cache.path().display());
    let from = format!("--cache-from=type=local,src={}", cache.path().display());
    let id = image_id(&one, &context, &[&to]);
    let ended = two.build(context.path(), &flags(&[&from]));
    assert_eq!(ended.steps(), (5, 2), "{}", ended.stderr);
    assert_eq!(image_id(&two, &context, &[&from]), id);
}

#[test]
fn no_cache_asks_no_cache_and_fills_it_all_the_same() {
    let (Some(one), Some(two)) = (Kiln::new("remote cache"), Kiln::new("remote cache")) else { return };
    let (context, cache) = (project(), folder());
    let to = format!("--cache-to=type=local,dest={},mode=max", cache.path().display());
    let from = format!("--cache-from=type=local,src={}", cache.path().display());
    one.build(context.path(), &flags(&["--no-cache", &to]));
    let ended = two.build(context.path(), &flags(&["--no-cache", &from]));
    // WORKDIR runs nothing.
    assert_eq!(ended.steps(), (6, 1), "{}", ended.stderr);
}

/// What a hostile cache may be, and what the user reads.
#[test]
fn a_hostile_cache_is_a_warning_and_a_normal_build() {
    let Some(one) = Kiln::new("remote cache") else { return };
    let (context, cache) = (project(), folder());
    let to = format!("--cache-to=type=local,dest={},mode=max", cache.path().display());
    let from = format!("--cache-from=type=local,src={}", cache.path().display());
    one.build(context.path(), &flags(&[&to]));
    let (config_path, document) = config(cache.path());
    let blobs = cache.path().join("blobs/sha256");
    let is_layer = |path: &Path| std::fs::read(path).unwrap().starts_with(&[0x1f, 0x8b]);
    let layer_blobs: Vec<_> = std::fs::read_dir(&blobs)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| is_layer(path))
        .collect();
    assert!(layer_blobs.len() >= 5, "{document}");

    let build = |what: &str, words: &str| {
        let Some(kiln) = Kiln::new("remote cache") else { return };
        let ended: Ended = kiln.build(context.path(), &["-t", "it", &from, "."]);
        assert!(ended.stderr.contains(words), "{what}: `{words}` is not in:\n{}", ended.stderr);
        assert_eq!(kiln.run(&["it"]), "lib\nmain\n", "{what}");
    };
    // Bytes that are not what their digest says.
    let kept: Vec<_> = layer_blobs.iter().map(|path| std::fs::read(path).unwrap()).collect();
    for (path, bytes) in layer_blobs.iter().zip(&kept) {
        let mut bytes = bytes.clone();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(path, bytes).unwrap();
    }
    build("other bytes", "is not used");
    // Layers that nobody has.
    layer_blobs.iter().for_each(|path| std::fs::remove_file(path).unwrap());
    build("absent blobs", "is not used");
    for (path, bytes) in layer_blobs.iter().zip(&kept) {
        std::fs::write(path, bytes).unwrap();
    }
    // A config that is not what its digest says.
    let text = serde_json::to_string(&document).unwrap();
    std::fs::write(&config_path, &text[..text.len() / 2]).unwrap();
    build("half a config", "is not used");
    // No layout at all.
    std::fs::write(cache.path().join("index.json"), "[[[[").unwrap();
    build("no index", "is not used");
    std::fs::remove_dir_all(cache.path().join("blobs")).unwrap();
    build("nothing", "is not used");
}

#[test]
fn two_machines_write_one_directory_at_once() {
    let (Some(one), Some(two)) = (Kiln::new("remote cache"), Kiln::new("remote cache")) else { return };
    let (context, cache) = (project(), folder());
    let to = |tag: &str| format!("--cache-to=type=local,dest={},mode=max,tag={tag}", cache.path().display());
    let spawn = |kiln: &Kiln, tag: &str| {
        let to = to(tag);
        let words = ["build", "--progress=plain", "--output=type=cacheonly", &to, "."];
        kiln.command(context.path(), &words).stderr(std::process::Stdio::piped()).spawn().unwrap()
    };
    for child in [spawn(&one, "a"), spawn(&two, "b")] {
        let ended = Ended::from(child.wait_with_output().unwrap());
        assert_eq!(ended.status, 0, "{}", ended.stderr);
    }
    for tag in ["a", "b"] {
        let Some(three) = Kiln::new("remote cache") else { return };
        let from = format!("--cache-from=type=local,src={},tag={tag}", cache.path().display());
        let ended = three.build(context.path(), &flags(&[&from]));
        assert_eq!(ended.steps(), (0, 7), "{tag}: {}", ended.stderr);
    }
}

#[test]
fn the_old_argument_asks_for_an_inline_cache_and_another_names_the_build() {
    let Some(kiln) = Kiln::new("inline cache") else { return };
    let context = Context::with_dockerfile("FROM scratch\nCOPY <<EOF /x\nEOF\n");
    let has_cache = |value: &str| {
        let dest = context.path().join(value);
        let output = format!("--output=type=oci,tar=false,dest={}", dest.display());
        let argument = format!("--build-arg=BUILDKIT_INLINE_CACHE={value}");
        kiln.build(context.path(), &[&output, &argument, "--build-arg=BUILDKIT_BUILD_NAME=nightly", "."]);
        let blobs = std::fs::read_dir(dest.join("blobs/sha256")).unwrap();
        let mut texts = blobs.map(|blob| std::fs::read(blob.unwrap().path()).unwrap());
        texts.any(|text| String::from_utf8_lossy(&text).contains("moby.buildkit.cache.v0"))
    };
    assert!(has_cache("1") && !has_cache("0"));
    kiln.ok(context.path(), &["builds"]).says("nightly");
}

#[test]
fn a_cache_that_cannot_be_read_or_written_is_a_warning_unless_the_user_relies_on_it() {
    let Some(kiln) = Kiln::new("remote cache") else { return };
    let context = project();
    let ended = kiln.build(context.path(), &flags(&["--cache-from=type=local,src=/nowhere"]));
    ended.says("there is no cache /nowhere yet");
    let words = [
        "build",
        "--output=type=cacheonly",
        "--cache-to=type=local,dest=/proc/nowhere,ignore-error=false",
        ".",
    ];
    let ended = kiln.call(context.path(), &words);
    assert_ne!(ended.status, 0);
    ended.says("/proc/nowhere");
    let to = "--cache-to=type=local,dest=/proc/nowhere";
    kiln.build(context.path(), &flags(&[to])).says("cache /proc/nowhere is not written");
}
