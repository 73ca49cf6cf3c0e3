//! `--check` and `--call`: what is told about a Dockerfile that is not built.

use std::process::{Command, Output, Stdio};

use kiln_fixtures::Context;

fn kiln(context: &Context, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kiln"))
        .args(["build", "--progress=none"])
        .args(words)
        .arg(".")
        .current_dir(context.path())
        .env("KILN_ROOT", context.join(".store"))
        .env_remove("BUILDKIT_PROGRESS")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Standard output, standard error and the status.
fn told(context: &Context, words: &[&str]) -> (String, String, Option<i32>) {
    let output = kiln(context, words);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr), output.status.code())
}

const UNTIDY: &str = "\
# SIZE how much
ARG SIZE=1
# base the ground
FROM scratch AS Base
# check=skip=MaintainerDeprecated
MAINTAINER me
FROM base AS app
ARG SIZE
COPY a.log \\
  /
CMD run
";

fn untidy() -> Context {
    Context::with_dockerfile(UNTIDY).file("a.log", "").file(".dockerignore", "*.log\n")
}

#[test]
fn the_word_that_is_meant_is_underlined_on_whatever_line_it_stands() {
    let text =
        "FROM scratch AS one\nfrom scratch as two\nENV a=b \\\n  # why\n  c=$gone\nEXPOSE 80 \\\n  81/TCP\n";
    let (out, ..) = told(&Context::with_dockerfile(text), &["--check"]);
    insta::assert_snapshot!(out, @r"
    Check complete, 3 warnings have been found!

    warning: ConsistentInstructionCasing: Command 'from' should match the case of the command majority (uppercase)
     --> Dockerfile:2:1
    2 | from scratch as two
      | ^^^^
    see: https://docs.docker.com/go/dockerfile/rule/consistent-instruction-casing/

    warning: UndefinedVar: Usage of undefined variable '$gone'
     --> Dockerfile:3:1
    3 | ENV a=b \
    4 |   # why
    5 |   c=$gone
      |     ^^^^^
    see: https://docs.docker.com/go/dockerfile/rule/undefined-var/

    warning: ExposeProtoCasing: Defined protocol '81/TCP' in EXPOSE instruction should be lowercase
     --> Dockerfile:6:1
    6 | EXPOSE 80 \
    7 |   81/TCP
      |   ^^^^^^
    see: https://docs.docker.com/go/dockerfile/rule/expose-proto-casing/
    ");
    let text = "FROM scratch\nCOPY \\\n  --form=x a /b\nENV a=b \\\n  c\n";
    let (_, err, status) = told(&Context::with_dockerfile(text), &["--progress=none"]);
    assert_eq!(status, Some(1));
    insta::assert_snapshot!(err, @r#"
    error: unknown flag: --form
     --> Dockerfile:2:1
    2 | COPY \
    3 |   --form=x a /b
      |   ^^^^^^^^
    hint: did you mean --from?

    also: Syntax error - can't find = in "c". Must be of the form: name=value
     --> Dockerfile:4:1
    4 | ENV a=b \
    5 |   c
      |   ^
    hint: put quotes around a value that has spaces: name="two words"
    "#);
    let text = "FROM scratch\nCOPY a \\\n  --from \\\n  /b\n";
    let (_, err, status) = told(&Context::with_dockerfile(text).file("a", ""), &["--progress=none"]);
    assert_eq!(status, Some(1));
    insta::assert_snapshot!(err, @r"
    error: /--from: not found
     --> Dockerfile:2:1
    2 | COPY a \
    3 |   --from \
      |   ^^^^^^
    4 |   /b
    ");
}

#[test]
fn a_check_goes_on_without_a_registry_and_leaves_out_what_hangs_on_the_base() {
    // Nothing listens there.
    let text = "FROM 127.0.0.1:1/app\nWORKDIR x\nENV A=$OF_BASE\nCMD run\n";
    let (out, err, status) = told(&Context::with_dockerfile(text), &["--check", "--progress=plain"]);
    assert_eq!(status, Some(1));
    assert!(out.contains("1 warning has been found") && out.contains("JSONArgsRecommended"), "{out}");
    assert!(err.contains("127.0.0.1:1/app:latest cannot be looked up"), "{err}");
}

#[test]
fn findings_are_shown_with_their_lines() {
    let (out, err, status) = told(&untidy(), &["--check"]);
    assert_eq!((err.as_str(), status), ("", Some(1)));
    insta::assert_snapshot!(out, @r#"
    Check complete, 3 warnings have been found!

    warning: StageNameCasing: Stage name 'Base' should be lowercase
     --> Dockerfile:4:17
    4 | FROM scratch AS Base
      |                 ^^^^
    see: https://docs.docker.com/go/dockerfile/rule/stage-name-casing/

    warning: CopyIgnoredFile: Attempting to Copy file "a.log" that is excluded by .dockerignore
      --> Dockerfile:9:6
     9 | COPY a.log \
       |      ^^^^^
    10 |   /
    see: https://docs.docker.com/go/dockerfile/rule/copy-ignored-file/

    warning: JSONArgsRecommended: JSON arguments recommended for CMD to prevent unintended behavior related to OS signals
      --> Dockerfile:11:1
    11 | CMD run
       | ^^^^^^^
    see: https://docs.docker.com/go/dockerfile/rule/json-args-recommended/
    "#);
}

#[test]
fn a_target_narrows_the_check_and_a_status_can_be_ignored() {
    let (out, _, status) = told(&untidy(), &["--call=check,ignorestatus=true", "--target=base"]);
    assert_eq!(status, Some(0));
    assert!(out.starts_with("Check complete, 1 warning has been found!\n"), "{out}");
    let (out, _, status) = told(&Context::with_dockerfile("FROM scratch\n"), &["--check"]);
    assert_eq!((out.as_str(), status), ("Check complete, no warnings found.\n", Some(0)));
}

#[test]
fn the_json_is_one_document_with_buildx_keys() {
    let text = "FROM scratch\nLABEL a=1 \\\n  b=$X\nRUNN x\n";
    let context = Context::with_dockerfile(text);
    let (out, err, status) = told(&context, &["--check", "--format=json"]);
    assert_eq!(status, Some(1));
    assert!(err.starts_with("error: unknown instruction: RUNN\n --> Dockerfile:4:1\n"), "{err}");
    let document: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        document["buildError"]["message"],
        "dockerfile parse error on line 4: unknown instruction: RUNN (did you mean RUN?)"
    );
    assert_eq!(document["buildError"]["location"]["ranges"][0]["start"]["line"], 4);
    assert_eq!(document["warnings"], serde_json::json!([]));

    context.write("Dockerfile", text.replace("RUNN x\n", ""));
    let (out, _, _) = told(&context, &["--call=check,format=json"]);
    let document: serde_json::Value = serde_json::from_str(&out).unwrap();
    let line = |line| serde_json::json!({ "line": line, "character": 0 });
    assert_eq!(
        document["warnings"],
        serde_json::json!([{
            "ruleName": "UndefinedVar",
            "description": "Variables should be defined before their use",
            "url": "https://docs.docker.com/go/dockerfile/rule/undefined-var/",
            "detail": "Usage of undefined variable '$X'",
            "location": { "sourceIndex": 0, "ranges": [
                { "start": line(2), "end": line(2) },
                { "start": line(3), "end": line(3) },
            ] },
        }])
    );
    assert_eq!(document["sources"][0]["filename"], "Dockerfile");
    assert_eq!(document["buildError"], serde_json::Value::Null);
}

#[test]
fn findings_fail_a_build_where_the_file_says_so() {
    let context = Context::with_dockerfile("# check=error=true\nFROM scratch\nMAINTAINER me\nCMD a\n");
    let (out, err, status) = told(&context, &["--progress=plain"]);
    assert_eq!((out.as_str(), status), ("", Some(1)));
    let warnings = err.find(" 2 warnings found:").unwrap();
    insta::assert_snapshot!(&err[warnings..], @r"
     2 warnings found:
     - MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label (line 3)
     - JSONArgsRecommended: JSON arguments recommended for CMD to prevent unintended behavior related to OS signals (line 4)
    error: lint violation found for rules: JSONArgsRecommended, MaintainerDeprecated
    ");
    let (out, err, _) = told(&context, &["--check"]);
    assert!(out.starts_with("Check complete, 2 warnings have been found!"), "{out}");
    assert_eq!(err, "error: lint violation found for rules: JSONArgsRecommended, MaintainerDeprecated\n");
}

#[test]
fn a_build_argument_takes_the_directives_place() {
    let context = Context::with_dockerfile("# check=error=true\nFROM scratch\nMAINTAINER me\n");
    let skip = "BUILDKIT_DOCKERFILE_CHECK=skip=MaintainerDeprecated";
    assert_eq!(told(&context, &["--check", "--build-arg", skip]).2, Some(0));
    let (_, err, status) = told(&context, &["--check", "--build-arg", "BUILDKIT_DOCKERFILE_CHECK=skpi=all"]);
    assert_eq!(status, Some(1));
    insta::assert_snapshot!(err, @r#"
    error: BUILDKIT_DOCKERFILE_CHECK: failed to parse check options: invalid check option "skpi"
    hint: the options are skip, error and experimental
    "#);
}

#[test]
fn kilns_own_rules_are_asked_for() {
    let context = Context::with_dockerfile("FROM scratch\nADD a /\n").file("a", "");
    let check = |words: &[&str]| told(&context, words);
    assert_eq!(check(&["--check"]).2, Some(0));
    let (out, _, status) = check(&["--check", "--lint=own"]);
    assert_eq!(status, Some(1));
    insta::assert_snapshot!(out, @r"
    Check complete, 1 warning has been found!

    warning: AddInsteadOfCopy: ADD only copies here: write COPY, which never unpacks or downloads
     --> Dockerfile:2:1
    2 | ADD a /
      | ^^^^^^^
    ");
    let (_, err, _) = check(&["--check", "--lint=AddInsteadOfCpy"]);
    assert_eq!(err, "error: there is no lint rule `AddInsteadOfCpy`\nhint: did you mean AddInsteadOfCopy?\n");
}

#[test]
fn targets_and_an_outline_are_tables_or_documents() {
    let context = untidy();
    insta::assert_snapshot!(told(&context, &["--call=targets"]).0, @r"
    TARGET          DESCRIPTION
    base            the ground
    app (default)
    ");
    insta::assert_snapshot!(told(&context, &["--call=outline"]).0, @r"
    TARGET:      app

    BUILD ARG   VALUE     DESCRIPTION
    SIZE        1         how much
    ");
    let document = |call: &str| -> serde_json::Value {
        let (out, err, status) = told(&context, &[call]);
        assert_eq!((err.as_str(), status), ("", Some(0)));
        serde_json::from_str(&out).unwrap()
    };
    let targets = document("--call=targets,format=json");
    assert_eq!(targets["targets"][0]["name"], "base");
    assert_eq!(targets["targets"][0]["base"], "scratch");
    assert_eq!(targets["targets"][1]["default"], true);
    let outline = document("--call=outline,format=json");
    assert_eq!(outline["name"], "app");
    assert_eq!(outline["args"][0]["name"], "SIZE");
    assert_eq!(outline["args"][0]["location"]["ranges"][0]["start"]["line"], 2);
    let methods = document("--call=subrequests.describe,format=json");
    assert_eq!(methods[0]["name"], "frontend.outline");
    assert_eq!(methods[0]["opts"][0]["name"], "target");
    assert_eq!(methods[3]["opts"], serde_json::Value::Null);
    assert_eq!(methods[3]["metadata"][0]["name"], "result.json");
}
