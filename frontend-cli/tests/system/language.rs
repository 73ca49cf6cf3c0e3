//! What kiln takes beyond BuildKit's language: other tools' habits.

use kiln_fixtures::Context;

use crate::kiln::Kiln;

#[test]
fn several_dockerfiles_are_one_and_templates_go_through_the_preprocessor() {
    let Some(kiln) = Kiln::new("dockerfiles") else { return };
    let context = Context::with_dockerfile("FROM busybox AS first\nRUN echo 1 > /n");
    let folder = context.path();
    std::fs::write(folder.join("common.in"), "#define TEXT two\n").unwrap();
    let template = "#include \"common.in\"\nFROM busybox\n#ifdef EXTRA\nRUN echo TEXT > /t\n#endif\nCOPY --from=first /n /n\n";
    std::fs::write(folder.join("Last.in"), template).unwrap();
    kiln.build(folder, &["-f", "Dockerfile", "-f", "Last.in", "--cpp-flag=-DEXTRA", "-t", "joined", "."]);
    assert_eq!(kiln.run(&["joined", "cat", "/n", "/t"]), "1\ntwo\n");
}

#[test]
fn arguments_may_come_from_a_file_and_ignore_files_have_podmans_name() {
    let Some(kiln) = Kiln::new("arguments in files") else { return };
    let context = Context::with_dockerfile("FROM busybox\nARG A\nARG B\nCOPY . /c\nRUN echo $A$B > /ab\n");
    let folder = context.path();
    std::fs::write(folder.join("args"), "# both\nA=1\n\nB=2=2\n").unwrap();
    std::fs::write(folder.join(".containerignore"), "hidden\n").unwrap();
    std::fs::write(folder.join("other"), "args\n").unwrap();
    std::fs::write(folder.join("hidden"), "").unwrap();
    let words = ["--build-arg-file", "args", "--build-arg", "A=3", "-t", "ab", "."];
    kiln.build(folder, &words);
    // A name alone takes the environment's value, or none.
    std::fs::write(folder.join("args"), "A=1\nFROM_ENVIRONMENT\nB=2=2\n").unwrap();
    kiln.build(folder, &words);
    assert_eq!(kiln.run(&["ab", "sh", "-c", "cat /ab; ls /c"]), "32=2\nDockerfile\nargs\nother\n");
    kiln.build(folder, &["--ignorefile", "other", "-t", "named", "."]);
    assert_eq!(kiln.run(&["named", "ls", "/c"]), "Dockerfile\nhidden\nother\n");
    // Docker's own goes before.
    std::fs::write(folder.join(".dockerignore"), "other\n").unwrap();
    kiln.build(folder, &["-t", "docker", "."]);
    assert_eq!(kiln.run(&["docker", "ls", "/c"]), "Dockerfile\nargs\nhidden\n");
}

#[test]
fn output_beyond_the_limit_is_clipped_with_a_word() {
    let Some(kiln) = Kiln::new("clipped output") else { return };
    let context =
        Context::with_dockerfile("FROM busybox\nRUN head -c 3000000 /dev/zero | tr '\\0' x | fold -w 99\n");
    let ended = kiln.build(context.path(), &["."]);
    assert!(ended.stderr.len() < 2_900_000, "{}", ended.stderr.len());
    ended.says("[output clipped, log limit 200KiB/s reached]");
    let mut command = kiln.command(context.path(), &["build", "--no-cache", "--progress=plain", "."]);
    command.env("BUILDKIT_STEP_LOG_MAX_SIZE", "-1").env("BUILDKIT_STEP_LOG_MAX_SPEED", "-1");
    let ended: crate::kiln::Ended = command.output().unwrap().into();
    assert!(ended.stderr.len() > 3_000_000, "{}", ended.stderr.len());
}

#[test]
fn a_stage_after_another_is_built_when_that_one_is_complete() {
    let Some(kiln) = Kiln::new("after a stage") else { return };
    let dockerfile = "FROM busybox AS unneeded\nRUN false\nFROM busybox AS first\nRUN echo 1 > /n\n\
                      FROM --after=first busybox AS last\nRUN test ! -e /n\n";
    let context = Context::with_dockerfile(dockerfile);
    let ended = kiln.build(context.path(), &["-t", "after", "."]);
    let place = |text: &str| ended.stderr.find(text).unwrap_or_else(|| panic!("{text}: {}", ended.stderr));
    assert!(place("[first 2/2] RUN echo 1 > /n") < place("[last 2/2] RUN test ! -e /n"));
    // What fails there fails here, though nothing is copied from it.
    let context = Context::with_dockerfile("FROM busybox AS first\nRUN exit 7\nFROM --after=0 scratch\n");
    kiln.call(context.path(), &["build", "."]).says("exit code: 7");
}

#[test]
fn a_base_may_be_given_and_unneeded_stages_may_be_wanted() {
    let Some(kiln) = Kiln::new("bases and stages") else { return };
    let context = Context::with_dockerfile("FROM nowhere/at/all AS one\nRUN echo 1 > /n\nFROM busybox\n");
    let folder = context.path();
    kiln.build(folder, &["--from", "busybox", "--target", "one", "-t", "one", "."]);
    assert_eq!(kiln.run(&["one", "cat", "/n"]), "1\n");
    kiln.ok(folder, &["build", "."]);
    kiln.call(folder, &["build", "--skip-unused-stages=false", "."]).says("FROM nowhere/at/all AS one");
    let context = Context::with_dockerfile("FROM busybox\nRUN exit 7\nFROM busybox\n");
    kiln.call(context.path(), &["build", "--skip-unused-stages=false", "."]).says("exit code: 7");
}

#[test]
fn proxies_of_dockers_configuration_reach_steps_and_unused_arguments_are_told() {
    let Some(kiln) = Kiln::new("proxies") else { return };
    let context = Context::with_dockerfile("FROM busybox\nARG VERSION\nRUN env | grep -i proxy | sort\n");
    let home = tempfile::tempdir().unwrap();
    let text = r#"{"proxies": {"default": {"httpProxy": "http://p:1", "noProxy": "n"}}}"#;
    std::fs::write(home.path().join("config.json"), text).unwrap();
    let words = ["build", "--progress=plain", "--build-arg", "no_PROXY=own", "--build-arg", "VERSON=1", "."];
    let mut command = kiln.command(context.path(), &words);
    let ended: crate::kiln::Ended = command.env("DOCKER_CONFIG", home.path()).output().unwrap().into();
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    for line in ["HTTP_PROXY=http://p:1", "http_proxy=http://p:1", "NO_PROXY=own", "no_proxy=own"] {
        ended.says(line);
    }
    ended.says("the build argument VERSON is not used: no ARG has that name (did you mean VERSION?)");
}
