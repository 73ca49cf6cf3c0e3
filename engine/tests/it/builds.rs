//! Stages, RUN, the cache, errors.

use std::sync::Arc;

use kiln::{ErrorKind, Event, OutputSpec};

use crate::support::Bench;

#[test]
fn a_dockerfile_becomes_an_oci_archive() {
    let Some(bench) = Bench::with_base() else { return };
    bench.write("hello.txt", "hello\n");
    let (result, image) = bench
        .image(
            "FROM BASE/busybox\nWORKDIR /app\nENV WHO=kiln\nCOPY hello.txt .\nRUN echo \"$WHO\" >> hello.txt && cat hello.txt\nCMD [\"cat\", \"/app/hello.txt\"]\n",
        )
        .unwrap();
    assert_eq!(image.text("app/hello.txt"), "hello\nkiln\n");
    assert_eq!(
        image.config.config.cmd.as_deref(),
        Some(&["cat".to_owned(), "/app/hello.txt".to_owned()][..])
    );
    let with_layer = image.config.history.iter().filter(|entry| !entry.empty_layer).count();
    assert_eq!(with_layer, image.layers.len());
    assert_eq!((result.steps_cached, result.steps_run), (0, 3));
    assert_eq!(bench.log(), "hello\nkiln\n");
}

#[test]
fn a_second_build_runs_nothing_and_gives_the_same_layers() {
    let Some(bench) = Bench::with_base() else { return };
    bench.write("a.txt", "A\n");
    let dockerfile = "FROM BASE/busybox\nCOPY a.txt /a\nRUN cat /a > /b\n";
    let (_, first) = bench.image(dockerfile).unwrap();
    let (result, second) = bench.image(dockerfile).unwrap();
    assert_eq!((result.steps_cached, result.steps_run), (2, 0));
    assert_eq!(first.config.rootfs, second.config.rootfs);
}

#[test]
fn a_step_that_gives_the_same_contents_again_stops_the_rebuild() {
    let Some(bench) = Bench::with_base() else { return };
    let dockerfile = "FROM BASE/busybox AS make\nCOPY in /in\nRUN head -c 1 /in > /out\nFROM BASE/busybox\nCOPY --from=make /out /out\nRUN cat /out > /end\n";
    bench.write("in", "x1");
    bench.image(dockerfile).unwrap();
    bench.write("in", "x2");
    let (result, _) = bench.image(dockerfile).unwrap();
    // The COPY of `in` and what reads it ran again; what comes below did not.
    assert_eq!((result.steps_cached, result.steps_run), (2, 2));
}

#[test]
fn stages_the_target_does_not_need_are_not_built() {
    let Some(bench) = Bench::with_base() else { return };
    let (result, _) =
        bench.image("FROM BASE/busybox AS never\nRUN exit 1\nFROM BASE/busybox\nRUN true\n").unwrap();
    assert_eq!(result.steps_run, 1);
}

#[test]
fn layers_with_the_same_contents_are_each_where_they_belong() {
    let Some(bench) = Bench::with_base() else { return };
    // Writing a file, a whiteout, and a directory that hides the one below, each twice with something else between.
    let (_, image) = bench
        .image(
            "FROM BASE/busybox\nRUN mkdir /d && echo 1 > /d/kept && echo a > /f\nRUN echo b > /f\nRUN echo a > /f\nRUN echo b > /f\n\
             RUN rm /f\nRUN echo b > /f\nRUN rm /f\nRUN test ! -e /f && echo gone > /seen\n\
             RUN rm -r /d && mkdir /d && echo 2 > /d/new\nRUN echo 1 > /d/kept\nRUN rm -r /d && mkdir /d && echo 2 > /d/new\n\
             RUN ls /d >> /seen\nRUN true\nRUN true\nRUN ls / | grep -c f$ >> /seen || true\n",
        )
        .unwrap();
    assert_eq!(image.text("seen"), "gone\nnew\n0\n");
}

#[test]
fn a_failed_step_says_its_command_its_code_and_its_last_words() {
    let Some(bench) = Bench::with_base() else { return };
    let error = bench.image("FROM BASE/busybox\nRUN echo last words; exit 7\n").map(drop).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Step);
    assert_eq!(
        error.message,
        "process \"/bin/sh -c echo last words; exit 7\" did not complete successfully: exit code: 7"
    );
    assert_eq!(error.log_tail, b"last words\n");
    assert_eq!(error.labels[0].span.line, 2);
    assert!(bench.events().iter().any(|event| matches!(event, Event::Failed { .. })));
}

#[test]
fn a_run_without_a_shell_says_so() {
    let Some(bench) = Bench::with_base() else { return };
    let error = bench.image("FROM scratch\nRUN echo hi\n").map(drop).unwrap_err();
    assert_eq!(error.message, "/bin/sh: no such file or directory in the image");
    assert!(error.hint.is_some_and(|hint| hint.contains("JSON array")));
}

#[test]
fn a_failure_stops_what_runs_beside_it() {
    let Some(bench) = Bench::with_base() else { return };
    let error = bench
        .image("FROM BASE/busybox AS a\nRUN sleep 600; touch /x\nFROM BASE/busybox\nRUN exit 3\nCOPY --from=a /x /x\n")
        .map(drop)
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Step);
    assert!(error.message.ends_with("exit code: 3"), "{}", error.message);
}

#[test]
fn a_canceled_build_ends_as_such() {
    let Some(bench) = Bench::with_base() else { return };
    let build = bench.build("FROM BASE/busybox\nRUN echo ready; sleep 600\n");
    let handle = build.cancel_handle();
    let build = build.on_event(move |event| {
        if matches!(event, Event::Log { .. }) {
            handle.cancel();
        }
    });
    let error = build.output(OutputSpec::CacheOnly).run().unwrap_err();
    assert_eq!(error.kind, ErrorKind::Canceled);
}

#[test]
fn two_builds_at_once_share_a_step() {
    let Some(bench) = Bench::with_base() else { return };
    let dockerfile = "FROM BASE/busybox\nRUN sleep 1; head -c 8 /dev/urandom > /random\n";
    let images = std::thread::scope(|scope| {
        let builds: Vec<_> = (0..2)
            .map(|_| {
                let build = bench.build(dockerfile).output(OutputSpec::CacheOnly);
                scope.spawn(|| build.run().unwrap())
            })
            .collect();
        builds.into_iter().map(|build| build.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(images.iter().map(|image| image.steps_run).sum::<usize>(), 1);
}

#[test]
fn an_image_in_the_store_is_a_base_of_the_next_build() {
    let Some(bench) = Bench::with_base() else { return };
    let first = bench.build("FROM BASE/busybox\nRUN echo one > /one\n").tag("kiln-test/one").run().unwrap();
    assert_eq!(first.names.len(), 1);
    let (_, image) = bench.image("FROM kiln-test/one\nRUN cat /one /one > /two\n").unwrap();
    assert_eq!(image.text("two"), "one\none\n");
}

#[test]
fn secrets_and_cache_mounts_leave_nothing_in_the_layer() {
    let Some(bench) = Bench::with_base() else { return };
    let dockerfile = "FROM BASE/busybox\nRUN --mount=type=secret,id=key --mount=type=cache,target=/c cat /run/secrets/key > /c/seen; wc -c < /c/seen; cat /c/seen\n";
    let build = bench.build(dockerfile).secret("key", kiln::SecretSource::Value(b"opensesame".to_vec()));
    let (_, image) = bench.image_of(build).unwrap();
    assert_eq!(bench.log(), "10\n***");
    assert!(!image.top().contains("seen") && !image.top().contains("secrets"), "{}", image.top());
}

#[test]
fn a_bind_mount_of_the_context_shows_what_the_ignore_file_leaves() {
    let Some(bench) = Bench::with_base() else { return };
    bench.write("a", "").write("b", "").write(".dockerignore", "b\n.dockerignore\n");
    bench.image("FROM BASE/busybox\nRUN --mount=target=/c ls /c\n").unwrap();
    assert_eq!(bench.log(), "a\n");
}

#[test]
fn a_secret_that_was_not_given_leaves_its_variable_empty() {
    let Some(bench) = Bench::with_base() else { return };
    bench.image("FROM BASE/busybox\nRUN --mount=type=secret,id=no,env=NO,target=/no env | grep ^NO; test ! -e /no\n").unwrap();
    assert_eq!(bench.log(), "NO=\n");
}

#[test]
fn a_stage_without_files_can_be_mounted() {
    let Some(bench) = Bench::with_base() else { return };
    for more in ["", ",rw"] {
        let mount = format!("--mount=from=nothing,target=/c{more}");
        bench
            .image(&format!(
                "FROM scratch AS nothing\nFROM BASE/busybox\nRUN {mount} ls -A /c && echo none\n"
            ))
            .unwrap();
        assert_eq!(bench.log(), "none\n");
    }
}

#[test]
fn a_mount_of_a_directory_hides_no_file_and_says_so() {
    let Some(bench) = Bench::with_base() else { return };
    bench.write("a", "");
    for (mount, said) in [
        ("target=/etc/passwd", "/etc/passwd: Not a directory"),
        ("source=a,target=/etc", "/etc: Is a directory"),
    ] {
        let error =
            bench.image(&format!("FROM BASE/busybox\nRUN --mount={mount} true\n")).map(drop).unwrap_err();
        assert!(error.message.contains(said), "{}", error.message);
    }
}

#[test]
fn a_script_is_run_by_its_own_interpreter() {
    let Some(bench) = Bench::with_base() else { return };
    bench.image("FROM BASE/busybox\nRUN <<EOF\n#!/bin/awk -f\nBEGIN { print \"from awk\" }\nEOF\n").unwrap();
    assert_eq!(bench.log(), "from awk\n");
}

#[test]
fn standard_input_that_is_no_archive_is_the_dockerfile() {
    let bench = Bench::new();
    let text = std::io::Cursor::new(b"FROM scratch\nCOPY <<EOF /x\nhi\nEOF\n".to_vec());
    let build = kiln::Build::new(kiln::ContextSource::Stream(Arc::new(std::sync::Mutex::new(text))))
        .root(bench.dir().join("store"));
    let (_, image) = bench.image_of(build).unwrap();
    assert_eq!(image.text("x"), "hi\n");
}

#[test]
fn an_epoch_makes_times_and_digests_reproducible() {
    let build = || {
        let bench = Bench::new();
        bench.write("a", "A");
        let build = bench.build("FROM scratch\nCOPY a /a\n").arg("SOURCE_DATE_EPOCH", "1700000000");
        let (result, image) = bench.image_of(build).unwrap();
        (result.config_digest, image.config.created)
    };
    let (_, created) = build();
    assert_eq!(created.as_deref(), Some("2023-11-14T22:13:20Z"));
}

#[test]
fn the_root_file_system_is_exported_as_a_directory() {
    let bench = Bench::new();
    bench.write("d/a", "A");
    let dest = bench.dir().join("out");
    let build = bench.build("FROM scratch\nCOPY d /d\nCOPY d/a /b\n");
    build.output(OutputSpec::Local { dest: dest.clone(), options: Default::default() }).run().unwrap();
    assert_eq!(std::fs::read(dest.join("d/a")).unwrap(), b"A");
    // Again, over what is there.
    let build = bench.build("FROM scratch\nCOPY d /d\nCOPY d/a /c\n");
    build.output(OutputSpec::Local { dest: dest.clone(), options: Default::default() }).run().unwrap();
    assert!(dest.join("b").exists() && dest.join("c").exists());
}

#[test]
fn a_program_of_another_architecture_says_what_it_needs() {
    let bench = Bench::new();
    // An ELF header of a machine that no handler is registered for.
    bench.write("alien", "\x7fELF\x02\x01\x01alien");
    let text = "FROM scratch\nCOPY --chmod=755 alien /alien\nRUN [\"/alien\"]\n";
    let error = bench.image(text).map(drop).unwrap_err();
    assert!(error.hint.is_some_and(|hint| hint.contains("binfmt_misc")), "{}", error.message);
}
