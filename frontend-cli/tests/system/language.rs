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
fn what_is_told_of_several_dockerfiles_names_the_file_and_its_line() {
    let Some(kiln) = Kiln::new("places in dockerfiles") else { return };
    let context = Context::with_dockerfile("FROM scratch AS first\nCOPY . /x");
    let folder = context.path();
    let call = |more: &str, words: &[&str]| {
        std::fs::write(folder.join("More"), more).unwrap();
        kiln.call(folder, &[words, &["-f", "Dockerfile", "-f", "More", "."]].concat())
    };
    let ended = call("FROM scratch\n\nRUNN x\n", &["build"]);
    ended.says(" --> More:3:1\n3 | RUNN x\n  | ^^^^\n");
    let ended =
        call("FROM scratch\nMAINTAINER x\nCOPY --from=first /gone /\n", &["build", "--progress=plain"]);
    ended.says(" --> More:3:");
    ended.says("label (More:2)\n");
    let ended = call("FROM scratch\nMAINTAINER x\n", &["build", "--call=check,format=json"]);
    let told: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(told["warnings"][0]["location"]["sourceIndex"], 1);
    assert_eq!(told["warnings"][0]["location"]["ranges"][0]["start"]["line"], 2);
    assert_eq!([0, 1].map(|index| told["sources"][index]["filename"].clone()), ["Dockerfile", "More"]);
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
    command.env("BUILDKIT_STEP_LOG_MAX_SIZE", "-1");
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
fn a_stage_may_start_from_what_an_earlier_one_has_written_on_the_host() {
    let Some(kiln) = Kiln::new("bases that stages write") else { return };
    let dockerfile = "FROM busybox AS inner\nRUN echo inner > /inner\nFROM busybox AS writer\n\
        RUN echo run >> /out/runs && cp /context/image.tar /out/written.tar\n\
        FROM --after=writer oci-archive:out/written.tar\nRUN cat /inner > /seen\n";
    let dockerfile = dockerfile.replace("/context/image.tar", "/from/image.tar");
    let context = Context::with_dockerfile(&dockerfile);
    let folder = context.path();
    kiln.build(folder, &["--target=inner", "-o", "type=oci,dest=image.tar", "."]);
    std::fs::create_dir(folder.join("out")).unwrap();
    let volumes = [
        format!("--volume={}:/from:ro", folder.display()),
        format!("--volume={}:/out", folder.join("out").display()),
    ];
    let build = |flags: &[&str]| {
        let flags = [&[&*volumes[0], &volumes[1]], flags, &["-t", "after", "."]].concat();
        kiln.call(folder, &[&["build", "--progress=plain"], flags.as_slice()].concat())
    };
    let runs = || std::fs::read_to_string(folder.join("out/runs")).unwrap().lines().count();
    assert_eq!(build(&[]).status, 0);
    assert_eq!(kiln.run(&["after", "cat", "/seen"]), "inner\n");
    assert_eq!(runs(), 1);
    assert_eq!(build(&["--no-cache"]).status, 0);
    assert_eq!(runs(), 2);
    // What is cached writes nothing.
    std::fs::remove_file(folder.join("out/written.tar")).unwrap();
    build(&[]).says("`--no-cache-filter` runs them again");
    assert_eq!(build(&["--no-cache-filter=writer"]).status, 0);
    assert_eq!(runs(), 3);
    // As buildah's manual has it; with kiln what a step writes into a mount is lost.
    let context = Context::with_dockerfile(
        "FROM busybox AS writer\nRUN --mount=target=/src,rw cp /src/image.tar /src/out.tar\n\
         FROM --after=writer oci-archive:out.tar\n",
    )
    .file("image.tar", "");
    kiln.call(context.path(), &["build", "."]).says("that `--volume` gives it");
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
