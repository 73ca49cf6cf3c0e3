//! COPY and ADD (FEATURES CP).

use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::time::{Duration, SystemTime};

use kiln::{ErrorKind, Event};

use crate::support::Bench;

/// The top layer of an image from scratch, without its root.
fn top(bench: &Bench, instructions: &str) -> String {
    let (_, image) = bench.image(&format!("FROM scratch\n{instructions}\n")).unwrap();
    image.top()
}

#[test]
fn a_directory_gives_its_contents_and_made_directories_are_0755() {
    let bench = Bench::new();
    bench.write("d/a", "").write("d/s/b", "");
    assert_eq!(
        top(&bench, "COPY --chmod=go= d /out/x"),
        "d0755 0:0 out\nd0755 0:0 out/x\n-0600 0:0 out/x/a\nd0700 0:0 out/x/s\n-0600 0:0 out/x/s/b\n"
    );
    assert_eq!(
        top(&bench, "COPY --chmod=751 --chown=5:6 d /out/x"),
        "d0751 5:6 out\nd0751 5:6 out/x\n-0751 5:6 out/x/a\nd0751 5:6 out/x/s\n-0751 5:6 out/x/s/b\n"
    );
    // What is made by mkdir has no more than permissions.
    assert_eq!(
        top(&bench, "COPY --chmod=1751 d /out/x"),
        "d0751 0:0 out\nd0751 0:0 out/x\n-1751 0:0 out/x/a\nd1751 0:0 out/x/s\n-1751 0:0 out/x/s/b\n"
    );
}

#[test]
fn root_is_no_name_that_is_looked_up() {
    let bench = Bench::new();
    bench.write("a", "");
    assert_eq!(top(&bench, "COPY --chown=5:root a /x"), "-0644 5:0 x\n");
    assert_eq!(top(&bench, "COPY --chown=5: a /y"), "-0644 5:0 y\n");
}

#[test]
fn the_named_link_is_followed_and_links_in_a_tree_are_kept() {
    let bench = Bench::new();
    bench.write("d/a", "");
    symlink("a", bench.context().join("d/l")).unwrap();
    symlink("d", bench.context().join("link")).unwrap();
    assert_eq!(top(&bench, "COPY link /x"), "d0755 0:0 x\n-0644 0:0 x/a\nl0777 0:0 -> a x/l\n");
    assert_eq!(top(&bench, "COPY d/l /y"), "-0644 0:0 y\n");
}

#[test]
fn a_link_out_of_the_context_leads_nowhere() {
    let bench = Bench::new();
    symlink("/etc/hostname", bench.context().join("esc")).unwrap();
    let error = bench.image("FROM scratch\nCOPY esc /out\n").map(drop).unwrap_err();
    assert_eq!((error.kind, error.message.as_str()), (ErrorKind::User, "/esc: not found"));
}

#[test]
fn a_missing_source_names_what_may_have_been_meant() {
    let bench = Bench::new();
    bench.write("config.toml", "");
    let error = bench.image("FROM scratch\nCOPY conifg.toml /\n").map(drop).unwrap_err();
    assert_eq!(error.message, "/conifg.toml: not found");
    assert_eq!(error.hint.as_deref(), Some("did you mean `/config.toml`?"));
}

#[test]
fn an_ignored_source_is_said_to_be_ignored() {
    let bench = Bench::new();
    bench.write("a.txt", "").write(".dockerignore", "*.txt\n");
    let error = bench.image("FROM scratch\nCOPY a.txt /\n").map(drop).unwrap_err();
    assert_eq!(error.hint.as_deref(), Some("`a.txt` is there, but .dockerignore leaves it out"));
}

#[test]
fn a_parent_that_is_there_gets_the_sources_mode_and_keeps_its_owner() {
    let bench = Bench::new();
    bench.write("d/e/y", "").write("d/e/z", "").write("d/f", "");
    for (path, mode) in [("d", 0o700), ("d/e", 0o750)] {
        let path = bench.context().join(path);
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let below = "COPY --chown=7:8 --chmod=755 d /t/d\n";
    for (copy, expected) in [
        ("--parents d/e/y /t/", "d0755 7:8 t\nd0700 7:8 t/d\nd0750 7:8 t/d/e\n-0644 0:0 t/d/e/y\n"),
        (
            "--parents --chmod=604 --chown=1:2 d/e/y d/e/z /t/",
            "d0755 7:8 t\nd0700 7:8 t/d\nd0750 7:8 t/d/e\n-0604 1:2 t/d/e/y\n-0604 1:2 t/d/e/z\n",
        ),
        (
            "--parents --chmod=701 d/e /t/",
            "d0755 7:8 t\nd0700 7:8 t/d\nd0701 0:0 t/d/e\n-0701 0:0 t/d/e/y\n-0701 0:0 t/d/e/z\n",
        ),
        (
            "--exclude=* --exclude=!e/y d /t/d",
            "d0755 7:8 t\nd0755 7:8 t/d\nd0750 7:8 t/d/e\n-0644 0:0 t/d/e/y\n",
        ),
    ] {
        assert_eq!(top(&bench, &format!("{below}COPY {copy}")), expected, "{copy}");
    }
}

#[test]
fn parents_are_kept_from_the_pivot_on() {
    let bench = Bench::new();
    bench.write("d/sub/three.txt", "").write("d/one.txt", "").write("top.txt", "");
    assert_eq!(
        top(&bench, "COPY --parents ./d/./sub/three.txt /out/"),
        "d0755 0:0 out\nd0755 0:0 out/sub\n-0644 0:0 out/sub/three.txt\n"
    );
    assert_eq!(
        top(&bench, "COPY --parents **/*.txt /out/"),
        "d0755 0:0 out\nd0755 0:0 out/d\n-0644 0:0 out/d/one.txt\nd0755 0:0 out/d/sub\n-0644 0:0 out/d/sub/three.txt\n-0644 0:0 out/top.txt\n"
    );
}

#[test]
fn excludes_hold_below_the_source() {
    let bench = Bench::new();
    bench.write("a.txt", "").write("b.md", "").write("s/c.md", "");
    assert_eq!(
        top(&bench, "COPY --exclude=*.md . /out/"),
        "d0755 0:0 out\n-0644 0:0 out/a.txt\nd0755 0:0 out/s\n-0644 0:0 out/s/c.md\n"
    );
}

#[test]
fn hard_links_hold_within_one_copy() {
    let bench = Bench::new();
    bench.write("d/a", "A");
    std::fs::hard_link(bench.context().join("d/a"), bench.context().join("d/b")).unwrap();
    assert_eq!(top(&bench, "COPY d /"), "-0644 0:0 a\nh0644 0:0 -> a b\n");
}

#[test]
fn an_archive_is_extracted_by_its_contents() {
    let bench = Bench::new();
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(3);
    header.set_mode(0o600);
    header.set_uid(3);
    header.set_gid(4);
    tar.append_data(&mut header, "s/two", &b"two"[..]).unwrap();
    std::fs::write(bench.context().join("arc"), tar.into_inner().unwrap()).unwrap();
    bench.write("plain", "");
    assert_eq!(
        top(&bench, "ADD arc plain /out/"),
        "d0755 0:0 out\n-0644 0:0 out/plain\nd0755 0:0 out/s\n-0600 3:4 out/s/two\n"
    );
}

#[test]
fn what_is_written_alike_is_one_layer() {
    let bench = Bench::new();
    bench.write("a", "A").write("d/a", "A");
    bench.image("FROM scratch\nCOPY a /x/a\n").unwrap();
    let (result, _) = bench.image("FROM scratch\nADD d /x\n").unwrap();
    assert_eq!((result.steps_cached, result.steps_run), (1, 0));
}

#[test]
fn a_destination_is_resolved_in_the_parent() {
    let Some(bench) = Bench::with_base() else { return };
    bench.write("a", "A\n");
    let (_, image) = bench
        .image("FROM BASE/busybox\nRUN mkdir -m 711 /real && ln -s /real /link && echo old > /real/f && ln -s /real/f /file\nCOPY a /link/\nCOPY a /file\n")
        .unwrap();
    let layers = image.layers.len();
    assert_eq!(crate::support::listing(&image.layers[layers - 2]), "d0711 0:0 real\n-0644 0:0 real/a\n");
    assert_eq!(image.top(), "d0711 0:0 real\n-0644 0:0 real/f\n");
}

#[test]
fn what_a_copy_cannot_do_is_told() {
    let Some(bench) = Bench::with_base() else { return };
    bench.write("a.txt", "").write("d/f", "");
    for (dockerfile, message) in [
        (
            "FROM BASE/busybox\nRUN mkdir -p /x/a.txt\nCOPY a.txt /x\n",
            "cannot replace to directory /x/a.txt with file",
        ),
        ("FROM BASE/busybox\nRUN echo x > /x\nCOPY d /x\n", "cannot copy to non-directory: /x"),
        ("FROM scratch\nCOPY c/d/*.txt /x/\n", "/c/d: not found"),
        ("FROM scratch AS s\nFROM scratch\nCOPY --from=s /c/* /x/\n", "/c: not found"),
        ("FROM BASE/busybox\nRUN echo x > /x\nCOPY a.txt /x/y\n", "mkdir /x: not a directory"),
        ("FROM BASE/busybox\nRUN echo x > /x\nWORKDIR /x\n", "mkdir /x: not a directory"),
    ] {
        let error = bench.image(dockerfile).map(drop).unwrap_err();
        assert_eq!(error.message, message);
    }
}

#[test]
fn parents_are_kept_below_a_pivot_and_no_link_is_followed() {
    let bench = Bench::new();
    bench.write("d/e/a.txt", "").write("d/e/b.md", "").write("d/c.txt", "");
    symlink("d", bench.context().join("link")).unwrap();
    assert_eq!(
        top(&bench, "COPY --parents d*/./e/*.txt /o/"),
        "d0755 0:0 o\nd0755 0:0 o/e\n-0644 0:0 o/e/a.txt\n"
    );
    assert_eq!(
        top(&bench, "COPY --parents d/c.txt link/c.txt /o/"),
        "d0755 0:0 o\nd0755 0:0 o/d\n-0644 0:0 o/d/c.txt\n"
    );
    let error = bench.image("FROM scratch\nCOPY --parents link/none /o/\n").map(drop).unwrap_err();
    assert_eq!(error.message, "/link/none: not found");
}

/// The names that the file `path` has in the layers of the bench's store, by inode.
fn inodes(bench: &Bench, path: &str) -> Vec<(u64, u64)> {
    let layers = std::fs::read_dir(bench.dir().join("store/layers")).unwrap();
    let found = layers.filter_map(|layer| layer.unwrap().path().join(path).symlink_metadata().ok());
    found.map(|file| (file.ino(), file.nlink())).collect()
}

#[test]
fn a_copy_after_an_edit_holds_the_context_as_it_is_and_shares_the_files_that_stayed() {
    let bench = Bench::new();
    let dir = bench.context().join("d");
    for number in 0..400 {
        bench.write(&format!("d/f{number}"), &format!("file {number}"));
    }
    let dockerfile = "FROM scratch\nCOPY d /src/\n";
    let (_, first) = bench.image(dockerfile).unwrap();
    assert_eq!(first.layers[0].len(), 401);
    let mtime = std::fs::metadata(dir.join("f1")).unwrap().modified().unwrap();
    // Size and time stay what they were.
    std::fs::write(dir.join("f1"), "FILE 1").unwrap();
    std::fs::File::options().append(true).open(dir.join("f1")).unwrap().set_modified(mtime).unwrap();
    std::fs::set_permissions(dir.join("f2"), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::rename(dir.join("f3"), dir.join("f4")).unwrap();
    std::fs::remove_file(dir.join("f5")).unwrap();
    std::fs::create_dir(dir.join("f5")).unwrap();
    bench.write("d/f5/new", "new");

    let (_, second) = bench.image(dockerfile).unwrap();
    assert_eq!(second.layers[0].len(), 401);
    for (path, file) in &second.layers[0] {
        let Some(name) = path.strip_prefix("src/").filter(|name| *name != "f5") else { continue };
        assert_eq!(file.bytes, std::fs::read(dir.join(name)).unwrap(), "{path}");
        // Files of two layers are no hard links within either of them.
        assert_eq!(file.line, if name == "f2" { "-0755 0:0" } else { "-0644 0:0" }, "{path}");
    }
    assert_eq!((second.text("src/f1"), second.text("src/f4")), ("FILE 1".into(), "file 3".into()));
    let [one, other] = inodes(&bench, "src/f7")[..] else { panic!("two layers have it") };
    assert_eq!((one, one.1), (other, 2), "a file that stayed is there once");
    for changed in ["src/f1", "src/f2", "src/f4"] {
        assert!(inodes(&bench, changed).iter().all(|(_, links)| *links == 1), "{changed}");
    }
}

/// Large enough that its DiffId is computed while it is written: the image that is named after it must be the one that is
/// exported, for which the layer is packed.
#[test]
fn a_large_layer_is_what_its_diff_id_says() {
    let bench = Bench::new();
    bench.write("d/big", &"0123456789abcdef".repeat(10 << 20 >> 4));
    for number in 0..40 {
        bench.write(&format!("d/many/{number}"), &"x".repeat(number * 20_000));
    }
    bench.write("d.e", "sorted behind what is in d").write("d/empty", "");
    let context = bench.context();
    std::fs::hard_link(context.join("d/big"), context.join("d/again")).unwrap();
    symlink("big", context.join("d/link")).unwrap();
    std::fs::set_permissions(context.join("d/many"), std::fs::Permissions::from_mode(0o750)).unwrap();
    let dockerfile = "FROM scratch\nCOPY --chown=7:8 . /x\n";
    let built = bench.build(dockerfile).run().unwrap();
    let (_, image) = bench.image(dockerfile).unwrap();
    assert_eq!(built.config_digest, image.config_digest);
    let layer = image.layers.last().unwrap();
    assert_eq!(layer["x/d/big"].line, "h0644 7:8 -> x/d/again");
    assert_eq!(layer["x/d/again"].bytes.len(), 10 << 20);
    assert_eq!(layer["x/d/many/39"].bytes.len(), 39 * 20_000);
}

/// Nothing in the store has as many bytes: the file is hashed for the key while it is written.
#[test]
fn a_large_file_that_is_new_is_read_once_and_found_again() {
    const SIZE: u64 = 70 << 20;
    let bench = Bench::new();
    let path = bench.context().join("big");
    let write = |mark: u8| {
        let file = std::fs::File::create(&path).unwrap();
        for at in [1 << 20, (33 << 20) + 5, SIZE - 400_000] {
            file.write_all_at(&[mark; 300_000], at).unwrap();
        }
        file.set_len(SIZE).unwrap();
    };
    write(1);
    bench.write("small", "s").write("middle", &"m".repeat(1 << 20));
    let dockerfile = "FROM scratch\nCOPY big middle small /x/\n";
    let is_cached = || {
        let built = bench.build(dockerfile).run().unwrap();
        (built.config_digest, bench.events().iter().any(|event| matches!(event, Event::Cached { .. })))
    };
    // One of two waits for the other and finds what that made.
    let both: Vec<_> = std::thread::scope(|scope| {
        let builds = [(); 2].map(|()| scope.spawn(|| bench.build(dockerfile).run().unwrap().config_digest));
        builds.into_iter().map(|build| build.join().unwrap()).collect()
    });
    assert_eq!(both[0], both[1]);
    let layers = || {
        let layers = std::fs::read_dir(bench.dir().join("store/layers")).unwrap();
        layers.map(|layer| layer.unwrap().path().join("x/big")).collect::<Vec<_>>()
    };
    let [copy] = &layers()[..] else { panic!("one layer") };
    let (copy, source) = (std::fs::metadata(copy).unwrap(), std::fs::metadata(&path).unwrap());
    assert_eq!((copy.size(), copy.mtime_nsec()), (SIZE, source.mtime_nsec()));
    assert!(copy.blocks() * 512 < 4 << 20, "holes are kept");

    let image = || {
        let (_, image) = bench.image(dockerfile).unwrap();
        assert!(image.layers[0]["x/big"].bytes == std::fs::read(&path).unwrap());
        assert_eq!(image.layers[0]["x/middle"].bytes.len(), 1 << 20);
        image.config_digest
    };
    assert_eq!(image(), both[0]);
    bench.events();
    assert_eq!(is_cached(), (both[0], true));
    // Another time is no other file, other bytes of as many are.
    std::fs::File::open(&path).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(is_cached(), (both[0], true));
    write(2);
    assert_ne!(image(), both[0]);
    assert_eq!(layers().len(), 2);
}

/// Hashing of the second and later layers begins behind what they have in common with the one before, and again the image
/// must be the one that is exported.
#[test]
fn a_large_layer_after_an_edit_is_what_its_diff_id_says() {
    let bench = Bench::new();
    let text = |number: usize, edit: &str| format!("{edit}{number} ").repeat(16_000);
    for number in 0..300 {
        bench.write(&format!("d/s{}/f{number:03}", number / 50), &text(number, ""));
    }
    let dockerfile = "FROM scratch\nCOPY d /src/\n";
    let builds_what_it_says = || {
        let built = bench.build(dockerfile).run().unwrap();
        let (_, image) = bench.image(dockerfile).unwrap();
        assert_eq!(built.config_digest, image.config_digest);
        image
    };
    let first = builds_what_it_says();
    let states = || {
        let files = std::fs::read_dir(bench.dir().join("store/contexts")).unwrap();
        let files = files.map(|file| std::fs::read(file.unwrap().path()).unwrap());
        files.filter(|bytes| bytes.starts_with(b"kilntar1")).collect::<Vec<_>>()
    };
    let [before] = &states()[..] else { panic!("one layer is remembered") };

    // Directories that a COPY makes are of now.
    let second = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let built = second(SystemTime::now());
    while second(SystemTime::now()) == built {
        std::thread::sleep(Duration::from_millis(20));
    }
    bench.write("d/s4/f230", &text(230, "edited "));
    let edited = builds_what_it_says();
    assert_ne!(edited.config_digest, first.config_digest);
    assert_eq!(edited.text("src/s4/f230"), text(230, "edited "));
    let [after] = &states()[..] else { panic!("one layer is remembered") };
    let (head, common) = (8 + 64, before.iter().zip(after).skip(8 + 64).take_while(|(a, b)| a == b).count());
    assert!(common > (before.len() - head) / 2, "{common} of {} bytes", before.len());

    // In front of everything, a change of rights only, a file that goes, one that comes, a name that changes.
    bench.write("d/s0/f000", &text(0, "edited "));
    builds_what_it_says();
    let rights = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(bench.context().join("d/s3/f170"), rights).unwrap();
    let image = builds_what_it_says();
    assert_eq!(image.layers[0]["src/s3/f170"].line, "-0600 0:0");
    std::fs::remove_file(bench.context().join("d/s3/f160")).unwrap();
    builds_what_it_says();
    bench.write("d/s3/f160x", "new");
    builds_what_it_says();
    std::fs::rename(bench.context().join("d/s5"), bench.context().join("d/s6")).unwrap();
    let last = builds_what_it_says();
    assert_eq!(last.text("src/s6/f299"), text(299, ""));

    // A file with other words is as good as none.
    for file in std::fs::read_dir(bench.dir().join("store/contexts")).unwrap() {
        let path = file.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        if bytes.starts_with(b"kilntar1") {
            *bytes.last_mut().unwrap() ^= 1;
            bytes[200] ^= 1;
            std::fs::write(&path, bytes).unwrap();
        }
    }
    bench.write("d/s6/f299", "last");
    assert_eq!(builds_what_it_says().text("src/s6/f299"), "last");
}

#[test]
fn a_copy_from_a_stage_that_was_made_before_reads_nothing_of_it() {
    let bench = Bench::new();
    bench.write("in/needle", "one");
    let dockerfile = "FROM scratch AS a\nCOPY in /src\nFROM scratch\nCOPY --from=a /src /dst\n";
    let (_, first) = bench.image(dockerfile).unwrap();
    let layers = std::fs::read_dir(bench.dir().join("store/layers")).unwrap();
    let mut sources = layers.map(|layer| layer.unwrap().path().join("src/needle"));
    let source = sources.find(|source| source.exists()).unwrap();
    // Whoever looked would not find it.
    let aside = bench.dir().join("aside");
    std::fs::rename(&source, &aside).unwrap();
    let (result, second) = bench.image(dockerfile).unwrap();
    assert_eq!((result.steps_cached, result.steps_run), (2, 0));
    assert_eq!(first.config.rootfs, second.config.rootfs);
    std::fs::rename(&aside, &source).unwrap();

    bench.write("in/needle", "two");
    let (result, edited) = bench.image(dockerfile).unwrap();
    assert_eq!((result.steps_cached, result.steps_run), (0, 2));
    assert_eq!(edited.text("dst/needle"), "two");
    // Back again, and the instruction another one.
    bench.write("in/needle", "one");
    let (result, _) = bench.image(dockerfile).unwrap();
    assert_eq!((result.steps_cached, result.steps_run), (2, 0));
    let (result, other) = bench.image(&dockerfile.replace("--from=a", "--chmod=600 --from=a")).unwrap();
    assert_eq!((result.steps_cached, result.steps_run), (1, 1));
    assert_eq!(other.top(), "d0600 0:0 dst\n-0600 0:0 dst/needle\n");
    let (result, _) = bench.image(&dockerfile.replace("--from=a", "--chmod=600 --from=a")).unwrap();
    assert_eq!((result.steps_cached, result.steps_run), (2, 0));
}
