//! Tricky files, and what is read from them.

use std::fmt::Write;

use kiln_parser::{Dockerfile, Instruction, parse};

/// Shows a file: each instruction's lines, the text as joined, and its typed form without spans.
fn shown(text: &str) -> String {
    let file = parse(text.as_bytes()).unwrap();
    let mut out = String::new();
    let Dockerfile { directives, global_args, stages, .. } = &file;
    if directives.escape != '\\' || directives.syntax.is_some() {
        let _ = writeln!(out, "escape {} syntax {:?}", directives.escape, directives.syntax.as_deref());
    }
    for args in global_args {
        let _ = writeln!(out, "global {}", bare(&format!("{:?}", args.value)));
    }
    for stage in stages {
        let name = stage.name.as_deref().map_or_else(String::new, |name| format!("  ({name})"));
        let _ = writeln!(out, "{}-{} | {}{name}", stage.span.line, stage.span.end_line, stage.original);
        for Instruction { kind, span, original, comment } in &stage.instructions {
            let _ = writeln!(out, "{}-{} | {original}", span.line, span.end_line);
            let _ = writeln!(out, "  {}", bare(&format!("{kind:?}")));
            for line in comment {
                let _ = writeln!(out, "  # {line}");
            }
        }
    }
    out
}

/// Takes `Span` and `Spanned` out of a debug form.
pub fn bare(debug: &str) -> String {
    let mut out = String::new();
    let mut rest = debug;
    // What closes each brace that is open.
    let mut closers = Vec::new();
    while let Some(ch) = rest.chars().next() {
        let length = match ch {
            '"' => 1 + rest[1..].replace("\\\\", "__").replace("\\\"", "__").find('"').unwrap() + 1,
            _ if rest.starts_with(", span: Span {") => rest.find('}').unwrap() + 1,
            _ if rest.starts_with("Spanned { value: ") => "Spanned { value: ".len(),
            _ if rest.starts_with(" }") => 2,
            _ => ch.len_utf8(),
        };
        let (token, after) = rest.split_at(length);
        match token {
            "Spanned { value: " => closers.push(""),
            " }" => out.push_str(closers.pop().unwrap()),
            token if token.starts_with(", span: Span {") => {}
            token => {
                if token == "{" {
                    closers.push(" }");
                }
                out.push_str(token);
            }
        }
        rest = after;
    }
    out
}

#[test]
fn continuations_join_words_comments_drop_out_and_blanks_do_not_end_them() {
    insta::assert_snapshot!(shown("FROM scratch\nLABEL na\\\nme=va\\\nlue \\  \n# comment\n   # another\n\n  b=2\nRUN echo \"one\\\n   two\" \\\\\nCMD a\\"), @r#"
1-1 | FROM scratch
2-8 | LABEL name=value   b=2
  Label([KeyValue { key: "name", value: "value", is_legacy: false }, KeyValue { key: "b", value: "2", is_legacy: false }])
9-10 | RUN echo "one   two" \\
  Run(Run { command: Shell("echo \"one   two\" \\\\"), heredocs: [], mounts: [], network: None, security: None, devices: [], flags: [] })
11-11 | CMD a
  Cmd(Shell("a"))
"#);
}

#[test]
fn another_escape_character_leaves_backslashes_alone() {
    insta::assert_snapshot!(shown("#   EsCaPe   =   `\n# syntax = x/y:1\nFROM scratch\nLABEL a=x\\\nLABEL p=\"C:\\dir\" `\n  q=a` b\n"), @r#"
escape ` syntax Some("x/y:1")
3-3 | FROM scratch
4-4 | LABEL a=x\
  Label([KeyValue { key: "a", value: "x\\", is_legacy: false }])
5-6 | LABEL p="C:\dir"   q=a` b
  Label([KeyValue { key: "p", value: "\"C:\\dir\"", is_legacy: false }, KeyValue { key: "q", value: "a` b", is_legacy: false }])
"#);
}

#[test]
fn windows_line_ends_and_a_byte_order_mark_are_no_text() {
    insta::assert_snapshot!(shown("\u{feff}FROM scratch\r\nLABEL a=1 \\\r\n  b=2\r\nCOPY <<EOF /out\r\nline\r\nEOF\r\nENV C=3\r\n"), @r#"
1-1 | FROM scratch
2-3 | LABEL a=1   b=2
  Label([KeyValue { key: "a", value: "1", is_legacy: false }, KeyValue { key: "b", value: "2", is_legacy: false }])
4-6 | COPY <<EOF /out
  Copy(Copy { sources: [Heredoc(Heredoc { name: "EOF", fd: 0, expand: true, chomp: false, body: "line\r\n", raw: "line\r\n" })], dest: "/out", from: None, chown: None, chmod: None, link: false, parents: false, exclude: [] })
7-7 | ENV C=3
  Env([KeyValue { key: "C", value: "3", is_legacy: false }])
"#);
}

#[test]
fn heredocs_are_read_in_order() {
    insta::assert_snapshot!(shown("FROM scratch\nCOPY a.txt <<one <<\"two\" /x/\n1\none\n$2\ntwo\nRUN cat <<-EOF > /out\n\tx\n\tEOF\nRUN <<EOF\n#!/bin/sh\nFROM x\nEOF\nCMD cat <<EOF\n"), @r##"
1-1 | FROM scratch
2-6 | COPY a.txt <<one <<"two" /x/
  Copy(Copy { sources: [Path("a.txt"), Heredoc(Heredoc { name: "one", fd: 0, expand: true, chomp: false, body: "1\n", raw: "1\n" }), Heredoc(Heredoc { name: "two", fd: 0, expand: false, chomp: false, body: "$2\n", raw: "$2\n" })], dest: "/x/", from: None, chown: None, chmod: None, link: false, parents: false, exclude: [] })
7-9 | RUN cat <<-EOF > /out
  Run(Run { command: Shell("cat <<-EOF > /out"), heredocs: [Heredoc { name: "EOF", fd: 0, expand: true, chomp: true, body: "x\n", raw: "\tx\n" }], mounts: [], network: None, security: None, devices: [], flags: [] })
10-13 | RUN <<EOF
  Run(Run { command: Shell("<<EOF"), heredocs: [Heredoc { name: "EOF", fd: 0, expand: true, chomp: false, body: "#!/bin/sh\nFROM x\n", raw: "#!/bin/sh\nFROM x\n" }], mounts: [], network: None, security: None, devices: [], flags: [] })
14-14 | CMD cat <<EOF
  Cmd(Shell("cat <<EOF"))
"##);
}

#[test]
fn what_is_no_heredoc_stays_text() {
    insta::assert_snapshot!(shown("FROM scratch\nRUN cat <<<EOF\nRUN [\"cat\", \"<<EOF\"]\nRUN echo '<<EOF' $((1<<2))\nRUN echo it's <<EOF\nCOPY a<<b /x\n"), @r#"
1-1 | FROM scratch
2-2 | RUN cat <<<EOF
  Run(Run { command: Shell("cat <<<EOF"), heredocs: [], mounts: [], network: None, security: None, devices: [], flags: [] })
3-3 | RUN ["cat", "<<EOF"]
  Run(Run { command: Exec(["cat", "<<EOF"]), heredocs: [], mounts: [], network: None, security: None, devices: [], flags: [] })
4-4 | RUN echo '<<EOF' $((1<<2))
  Run(Run { command: Shell("echo '<<EOF' $((1<<2))"), heredocs: [], mounts: [], network: None, security: None, devices: [], flags: [] })
5-5 | RUN echo it's <<EOF
  Run(Run { command: Shell("echo it's <<EOF"), heredocs: [], mounts: [], network: None, security: None, devices: [], flags: [] })
6-6 | COPY a<<b /x
  Copy(Copy { sources: [Path("a<<b")], dest: "/x", from: None, chown: None, chmod: None, link: false, parents: false, exclude: [] })
"#);
}

#[test]
fn env_and_label_have_an_old_form_and_a_new_one() {
    insta::assert_snapshot!(shown("FROM scratch\nENV a hello  big=x \"world\"\nENV b=1 c=\"two words\" d='$x y' e=four\\ words f= \"g h\"=i\nLABEL x y\n"), @r#"
1-1 | FROM scratch
2-2 | ENV a hello  big=x "world"
  Env([KeyValue { key: "a", value: "hello  big=x \"world\"", is_legacy: true }])
3-3 | ENV b=1 c="two words" d='$x y' e=four\ words f= "g h"=i
  Env([KeyValue { key: "b", value: "1", is_legacy: false }, KeyValue { key: "c", value: "\"two words\"", is_legacy: false }, KeyValue { key: "d", value: "'$x y'", is_legacy: false }, KeyValue { key: "e", value: "four\\ words", is_legacy: false }, KeyValue { key: "f", value: "", is_legacy: false }, KeyValue { key: "\"g h\"", value: "i", is_legacy: false }])
4-4 | LABEL x y
  Label([KeyValue { key: "x", value: "y", is_legacy: true }])
"#);
}

#[test]
fn args_are_names_with_or_without_defaults() {
    insta::assert_snapshot!(shown("ARG A=1 B\nARG C=\"x y\"\nFROM $A AS Base\nARG D=${B:-z} E=\n"), @r#"
global [ArgPair { name: "A", default: Some("1") }, ArgPair { name: "B", default: None }]
global [ArgPair { name: "C", default: Some("\"x y\"") }]
3-3 | FROM $A AS Base  (base)
4-4 | ARG D=${B:-z} E=
  Arg([ArgPair { name: "D", default: Some("${B:-z}") }, ArgPair { name: "E", default: Some("") }])
"#);
}

#[test]
fn json_that_is_not_quite_json_is_the_shells() {
    insta::assert_snapshot!(shown("FROM scratch\nCMD [\"a\", \\\n  \"b\\t\\u00e9\"]\nCMD ['a']\nCMD [\"a\"] extra\nENTRYPOINT []\nCMD\nSHELL [\"/bin/sh\"]\nVOLUME [\"/a b\", \" /c \"]\nVOLUME /a /b\n"), @r#"
1-1 | FROM scratch
2-3 | CMD ["a",   "b\t\u00e9"]
  Cmd(Exec(["a", "b\té"]))
4-4 | CMD ['a']
  Cmd(Shell("['a']"))
5-5 | CMD ["a"] extra
  Cmd(Shell("[\"a\"] extra"))
6-6 | ENTRYPOINT []
  Entrypoint(Exec([]))
7-7 | CMD
  Cmd(Shell(""))
8-8 | SHELL ["/bin/sh"]
  Shell(["/bin/sh"])
9-9 | VOLUME ["/a b", " /c "]
  Volume(["/a b", "/c"])
10-10 | VOLUME /a /b
  Volume(["/a", "/b"])
"#);
}

#[test]
fn flags_end_where_arguments_begin() {
    insta::assert_snapshot!(shown("FROM --platform=$P scratch\nCOPY --from=x --chown=\"1:2\" --link --parents=false --exclude=*.md --exclude=a -- --b /c\nADD --checksum=sha256:1 --keep-git-dir --unpack=false u /d\nRUN --network=none --security=insecure --device=a/b=c --mount=type=cache,target=/c,id=x -x --y\n"), @r#"
1-1 | FROM --platform=$P scratch
2-2 | COPY --from=x --chown="1:2" --link --parents=false --exclude=*.md --exclude=a -- --b /c
  Copy(Copy { sources: [Path("--b")], dest: "/c", from: Some("x"), chown: Some("1:2"), chmod: None, link: true, parents: false, exclude: ["*.md", "a"] })
3-3 | ADD --checksum=sha256:1 --keep-git-dir --unpack=false u /d
  Add(Add { copy: Copy { sources: [Path("u")], dest: "/d", from: None, chown: None, chmod: None, link: false, parents: false, exclude: [] }, checksum: Some("sha256:1"), keep_git_dir: Some(true), unpack: Some(false) })
4-4 | RUN --network=none --security=insecure --device=a/b=c --mount=type=cache,target=/c,id=x -x --y
  Run(Run { command: Shell("-x --y"), heredocs: [], mounts: [Mount { kind: Cache { id: Some("x"), source: "/", sharing: Shared, read_only: false, mode: None, uid: None, gid: None }, from: None, target: Some("/c"), no_exec: false, of_user: false, written: "type=cache,target=/c,id=x" }], network: Some(None), security: Some(Insecure), devices: [Device { name: "a/b=c", required: false }], flags: ["--network=none", "--security=insecure", "--device=a/b=c", "--mount=type=cache,target=/c,id=x"] })
"#);
}

#[test]
fn healthchecks_have_times_and_a_command() {
    insta::assert_snapshot!(shown("FROM scratch\nHEALTHCHECK --interval=1m30s --timeout=500ms --retries=3 cmd curl  x\nHEALTHCHECK CMD [\"a\"]\nHEALTHCHECK --interval=x none\n"), @r#"
1-1 | FROM scratch
2-2 | HEALTHCHECK --interval=1m30s --timeout=500ms --retries=3 cmd curl  x
  Healthcheck(Check { command: Shell("curl  x"), interval: 90000000000, timeout: 500000000, start_period: 0, start_interval: 0, retries: 3 })
3-3 | HEALTHCHECK CMD ["a"]
  Healthcheck(Check { command: Exec(["a"]), interval: 0, timeout: 0, start_period: 0, start_interval: 0, retries: 0 })
4-4 | HEALTHCHECK --interval=x none
  Healthcheck(None)
"#);
}

#[test]
fn the_comment_right_above_describes_an_instruction() {
    insta::assert_snapshot!(shown("# licence\n#\n# what it is\nFROM scratch\n# one\n# two\n\nARG A\nARG B\n"), @r#"
4-4 | FROM scratch
8-8 | ARG A
  Arg([ArgPair { name: "A", default: None }])
  # one
  # two
9-9 | ARG B
  Arg([ArgPair { name: "B", default: None }])
"#);
}

#[test]
fn an_indented_comment_keeps_its_sign_as_in_buildkit() {
    let file = parse(b"FROM scratch\n  # check=skip=all\nENV a b\n").unwrap();
    assert_eq!(file.stages[0].instructions[0].comment, ["# check=skip=all"]);
}

#[test]
fn every_word_points_at_where_it_was_written() {
    let text = "FROM scratch\nCOPY --chown=1 \\\n   # note\n   a\\\nb \\\n  /dest\n";
    let file = parse(text.as_bytes()).unwrap();
    let instruction = &file.stages[0].instructions[0];
    let kiln_parser::InstructionKind::Copy(copy) = &instruction.kind else { unreachable!() };
    let chown = copy.chown.as_ref().unwrap();
    let kiln_parser::CopySource::Path(source) = &copy.sources[0] else { unreachable!() };
    assert_eq!((&text[chown.span.range()], chown.span.line), ("--chown=1", 2));
    assert_eq!((source.value.as_str(), &text[source.span.range()]), ("ab", "a\\\nb"));
    assert_eq!((source.span.line, source.span.end_line), (4, 5));
    assert_eq!((&text[copy.dest.span.range()], copy.dest.span.line), ("/dest", 6));
    assert_eq!((instruction.span.line, instruction.span.end_line), (2, 6));
}
