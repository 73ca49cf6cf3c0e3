//! Command lines that cannot be understood, and help.

use std::path::Path;
use std::process::{Command, Output, Stdio};

fn kiln(words: &[&str]) -> Output {
    program(Path::new(env!("CARGO_BIN_EXE_kiln")), words)
}

fn program(program: &Path, words: &[&str]) -> Output {
    Command::new(program)
        .args(words)
        .env_remove("BUILDKIT_PROGRESS")
        .env_remove("SSH_AUTH_SOCK")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn an_unknown_flag_is_a_usage_error() {
    let output = kiln(&["build", "--nonsense", "."]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    insta::assert_snapshot!(stderr(&output), @r"
    error: unknown flag: --nonsense
    hint: See 'kiln build --help'
    ");
}

#[test]
fn a_missing_context_is_a_usage_error() {
    let output = kiln(&["build", "-t", "x"]);
    assert_eq!(output.status.code(), Some(1));
    insta::assert_snapshot!(stderr(&output), @r"
    error: `kiln build` requires exactly 1 argument: PATH, URL or `-`
    hint: See 'kiln build --help'
    ");
}

#[test]
fn a_context_that_is_not_there_is_named() {
    let output = kiln(&["build", "/surely/not/there"]);
    assert_eq!(output.status.code(), Some(1));
    insta::assert_snapshot!(stderr(&output), @r#"error: unable to prepare context: path "/surely/not/there" not found"#);
}

#[test]
fn a_bad_value_is_found_before_anything_is_done() {
    let cases = [
        (&["build", "--secret", "src=x", "."][..], "the id is missing"),
        (&["build", "--ssh", "default", "."], "no agent is running"),
        (&["build", "-o", "type=nothing,dest=x", "."], "there is no type `nothing`"),
        (&["build", "--network", "bridge", "."], "network mode `bridge` is not supported"),
        (&["build", "--shm-size", "x", "."], "invalid size"),
        (&["build", "--ulimit", "nofile", "."], "invalid ulimit argument"),
        (&["build", "--add-host", "x", "."], "expected host:ip"),
        (&["build", "--label", "=x", "."], "the key is empty"),
        (&["build", "--progress", "loud", "."], "there is no `loud`"),
        (&["build", "--progress=tty", "."], "needs a terminal"),
        (&["build", "-q", "--progress=plain", "."], "cannot be used together"),
        (&["build", "--pull=perhaps", "."], "invalid value 'perhaps'"),
        (&["build", "-f", "-", "-"], "cannot be both"),
        (&["build", "--call=outlin", "."], "--call=outlin: there is no such method"),
        (&["build", "--check", "--format=xml", "."], "there is no format `xml`"),
    ];
    for (words, expected) in cases {
        let output = kiln(words);
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        assert!(stderr(&output).starts_with("error: "), "{words:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(expected), "{words:?}: {}", stderr(&output));
    }
}

#[test]
fn run_has_statuses_of_its_own() {
    assert_eq!(kiln(&["run", "--nonsense", "x"]).status.code(), Some(125));
    assert_eq!(kiln(&["run", "-v", "name:/x", "x"]).status.code(), Some(125));
    assert_eq!(kiln(&["run"]).status.code(), Some(125));
}

#[test]
fn an_unknown_command_names_the_closest_one() {
    let output = kiln(&["buid", "."]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("did you mean `build`?"), "{}", stderr(&output));
}

#[test]
fn help_and_version_go_to_standard_output() {
    for words in [&["--help"][..], &["build", "--help"], &["run", "--help"], &["--version"], &["version"]] {
        let output = kiln(words);
        assert_eq!(output.status.code(), Some(0), "{words:?}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{words:?}");
    }
}

#[test]
fn called_by_the_name_build_it_is_kiln_build() {
    let dir = tempfile::tempdir().unwrap();
    let build = dir.path().join("build");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_kiln"), &build).unwrap();
    let output = program(
        &build,
        &["-t", "name", "-f", "Dockerfile.dev", "--build-arg", "UID=1000", "/surely/not/there"],
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("path \"/surely/not/there\" not found"), "{}", stderr(&output));
}
