//! Every mistake: its words (those of BuildKit, which people search for), the text it points at, the way out.

use kiln_parser::parse;

/// Returns the mistakes in `text` as `line: message [the text pointed at] hint`.
fn mistakes(text: &str) -> String {
    let errors = parse(text.as_bytes()).unwrap_err();
    let lines = errors.0.iter().map(|error| {
        let span = error.span();
        let at = text[span.range()].escape_debug();
        let hint = error.hint().map(|hint| format!(" -- {hint}")).unwrap_or_default();
        format!("{}: {error} [{at}]{hint}\n", span.line)
    });
    lines.collect()
}

/// Puts each line behind a FROM, as a file of its own.
fn each(lines: &[&str]) -> String {
    lines.iter().map(|line| mistakes(&format!("FROM scratch\n{line}\n"))).collect()
}

#[test]
fn a_file_without_stages_says_what_it_lacks() {
    let texts = ["", "# nothing\n\n# here\n", "ARG A=1\n", "RUN echo\n", "hello world\nFROM scratch\n"];
    let all: String = texts.into_iter().map(mistakes).collect();
    insta::assert_snapshot!(all, @r#"
1: the Dockerfile cannot be empty []
3: file with no instructions []
1: dockerfile contains no stages to build [] -- a build stage begins with FROM, such as `FROM debian:stable`
1: no build stage in current context [RUN echo] -- a build stage begins with FROM, such as `FROM debian:stable`
1: unknown instruction: hello [hello] -- did you mean shell?
"#);
}

#[test]
fn an_empty_network_or_security_is_no_mode() {
    insta::assert_snapshot!(each(&["RUN --network= x", "RUN --security= x"]), @r#"
    2: invalid network mode "" [--network=] -- the modes are default, none and host
    2: security "" is not valid [--security=] -- the modes are sandbox and insecure
    "#);
}

#[test]
fn directives_that_make_no_sense_are_refused() {
    let all = [mistakes("# escape=\\\n# escape=`\nFROM scratch\n"), mistakes("# escape=x\nFROM scratch\n")];
    insta::assert_snapshot!(all.concat(), @r#"
1: only one escape parser directive can be used [# escape=\\\n# escape=`]
1: invalid escape token 'x' does not match ` or \ [# escape=x]
"#);
}

#[test]
fn unknown_words_get_the_nearest_known_one() {
    insta::assert_snapshot!(each(&[
        "COYP a b",
        "DEPLOY now",
        "COPY --chwon=1000 . /app",
        "RUN --muont=type=cache,target=/x true",
        "HEALTHCHECK --intervall=1s CMD x",
        "ENV --x=1 A=b",
        "RUN --mount=type=cahce,target=/x true",
        "RUN --mount=type=bind,tagret=/x true",
    ]), @r#"
2: unknown instruction: COYP [COYP] -- did you mean COPY?
2: unknown instruction: DEPLOY [DEPLOY]
2: unknown flag: --chwon [--chwon=1000] -- did you mean --chown?
2: unknown flag: --muont [--muont=type=cache,target=/x] -- did you mean --mount?
2: unknown flag: --intervall [--intervall=1s] -- did you mean --interval?
2: unknown flag: --x [--x=1]
2: unsupported mount type "cahce" [--mount=type=cahce,target=/x] -- did you mean cache?
2: unexpected key 'tagret' in 'tagret=/x' [--mount=type=bind,tagret=/x] -- did you mean target?
"#);
}

#[test]
fn flags_are_checked() {
    insta::assert_snapshot!(each(&[
        "COPY --chown=1 --chown=2 a /x",
        "COPY --link=perhaps a /x",
        "COPY --from a /x",
        "COPY --from=${S} /f /g",
        "RUN --network=bridge true",
        "RUN --security=none true",
    ]), @r#"
2: duplicate flag specified: --chown [--chown=2]
2: expecting boolean value for flag --link, not: perhaps [--link=perhaps] -- write `--link`, or `--link=false`
2: missing a value on flag: --from [--from] -- write `--from=value`
2: variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround [--from=${S}] -- write `FROM ${VARIABLE} AS name` above and `COPY --from=name` here
2: invalid network mode "bridge" [--network=bridge] -- the modes are default, none and host
2: security "none" is not valid [--security=none] -- the modes are sandbox and insecure
"#);
}

#[test]
fn missing_arguments_are_named() {
    insta::assert_snapshot!(each(&[
        "ARG", "ARG =x", "COPY a", "COPY [\"a\"]", "ADD", "ENV", "ENV ONLY", "ENV A=1 broken B=2", "LABEL", "EXPOSE",
        "HEALTHCHECK", "HEALTHCHECK CMD", "HEALTHCHECK NONE x", "HEALTHCHECK RUN true", "MAINTAINER", "ONBUILD",
        "SHELL []", "SHELL /bin/bash -c", "STOPSIGNAL", "USER", "VOLUME", "VOLUME [\"\"]", "WORKDIR", "CMD [1, 2]",
        "COPY a <<EOF\nEOF",
    ]), @r#"
2: ARG requires at least one argument [ARG]
2: ARG names can not be blank [=x]
2: COPY requires at least two arguments, but only one was provided. Destination could not be determined [COPY a] -- write `COPY source… destination`
2: COPY requires at least two arguments, but only one was provided. Destination could not be determined [COPY [\"a\"]] -- write `COPY source… destination`
2: ADD requires at least two arguments, but only one was provided. Destination could not be determined [ADD] -- write `ADD source… destination`
2: ENV requires at least one argument [ENV]
2: ENV must have two arguments [ONLY] -- write `ENV name=value`
2: Syntax error - can't find = in "broken". Must be of the form: name=value [broken] -- put quotes around a value that has spaces: name="two words"
2: LABEL requires at least one argument [LABEL]
2: EXPOSE requires at least one argument [EXPOSE]
2: HEALTHCHECK requires at least one argument [HEALTHCHECK]
2: Missing command after HEALTHCHECK CMD [HEALTHCHECK CMD]
2: HEALTHCHECK NONE takes no arguments [x]
2: Unknown type "RUN" in HEALTHCHECK (try CMD) [RUN]
2: MAINTAINER requires exactly one argument [MAINTAINER]
2: ONBUILD requires at least one argument [ONBUILD]
2: SHELL requires at least one argument [SHELL []]
2: SHELL requires the arguments to be in JSON form [/bin/bash -c] -- write `SHELL ["/bin/bash", "-c"]`
2: STOPSIGNAL requires exactly one argument [STOPSIGNAL]
2: USER requires exactly one argument [USER]
2: VOLUME requires at least one argument [VOLUME]
2: VOLUME specified can not be an empty string [[\"\"]]
2: WORKDIR requires exactly one argument [WORKDIR]
2: when using JSON array syntax, arrays must be comprised of strings only [[1, 2]]
2: COPY cannot accept a heredoc as a destination [<<EOF]
"#);
}

#[test]
fn from_takes_a_base_and_perhaps_a_name() {
    let texts =
        ["FROM\n", "FROM scratch AS\n", "FROM scratch builder\n", "FROM a AS b c\n", "FROM scratch AS 1st\n"];
    let all: String = texts.into_iter().map(mistakes).collect();
    insta::assert_snapshot!(all, @r#"
1: FROM requires either one or three arguments [FROM] -- write `FROM image` or `FROM image AS name`
1: FROM requires either one or three arguments [scratch AS] -- write `FROM image` or `FROM image AS name`
1: FROM requires either one or three arguments [scratch builder] -- write `FROM image` or `FROM image AS name`
1: FROM requires either one or three arguments [a AS b c] -- write `FROM image` or `FROM image AS name`
1: invalid name for build stage: "1st", name can't start with a number or contain symbols [1st] -- a stage's name is a letter and then letters, digits, `-`, `_` or `.`
"#);
}

#[test]
fn healthcheck_options_are_durations_and_a_count() {
    insta::assert_snapshot!(each(&[
        "HEALTHCHECK --interval=5parsecs CMD x",
        "HEALTHCHECK --timeout=10us CMD x",
        "HEALTHCHECK --start-period=x CMD x",
        "HEALTHCHECK --retries=many CMD x",
        "HEALTHCHECK --retries=-1 CMD x",
    ]), @r#"
2: unknown unit "parsecs" in duration "5parsecs" of --interval [--interval=5parsecs] -- write a number and a unit: `500ms`, `30s`, `1m30s`
2: Interval "timeout" cannot be less than 1ms [--timeout=10us] -- write a number and a unit: `500ms`, `30s`, `1m30s`
2: invalid duration "x" of --start-period [--start-period=x] -- write a number and a unit: `500ms`, `30s`, `1m30s`
2: --retries needs a number (many) [--retries=many]
2: --retries cannot be negative (-1) [--retries=-1]
"#);
}

#[test]
fn an_unterminated_heredoc_names_its_delimiter() {
    insta::assert_snapshot!(each(&["COPY <<EOF /out\nhello", "RUN cat <<-END\n  END"]), @r#"
2: unterminated heredoc [COPY <<EOF /out\nhello] -- end the text with a line that holds `EOF` and nothing else, not even a space before it
2: unterminated heredoc [RUN cat <<-END\n  END] -- end the text with a line that holds `END` and nothing else, not even a space before it
"#);
}

#[test]
fn triggers_that_cannot_be_are_refused() {
    insta::assert_snapshot!(each(&["ONBUILD FROM x", "ONBUILD ONBUILD RUN x", "ONBUILD MAINTAINER x", "ONBUILD ENV a"]), @r#"
2: FROM isn't allowed as an ONBUILD trigger [FROM]
2: Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed [ONBUILD]
2: MAINTAINER isn't allowed as an ONBUILD trigger [MAINTAINER]
2: ENV must have two arguments [a] -- write `ENV name=value`
"#);
}

#[test]
fn several_mistakes_are_reported_at_once() {
    insta::assert_snapshot!(mistakes("FROM scratch\nRUNN x\nLABEL a=1\nCOPY \\\n  --lnik \\\n  a b\n"), @r#"
2: unknown instruction: RUNN [RUNN] -- did you mean RUN?
5: unknown flag: --lnik [--lnik] -- did you mean --link?
"#);
}

#[test]
fn bytes_that_are_no_text_are_pointed_at() {
    let errors = parse(b"FROM scratch\n# caf\xe9 is fine here\nLABEL a=caf\xe9\n").unwrap_err();
    assert_eq!((errors.0[0].span().line, errors.0[0].span().start), (3, 44));
}

#[test]
fn options_that_a_mount_has_not_are_told_in_buildkits_words() {
    let told = |mount: &str| {
        kiln_parser::parse(format!("FROM a\nRUN --mount={mount} true\n").as_bytes()).unwrap_err().to_string()
    };
    assert_eq!(told("type=tmpfs,target=/t,mode=0700"), "mode not allowed for \"tmpfs\" type mounts");
    assert_eq!(told("target=/t,uid=1"), "uid not allowed for \"bind\" type mounts");
    assert_eq!(told("type=secret,id=a,from=b"), "secret mount should not have a from");
    assert_eq!(told("type=secret,id=a,sharing=locked"), "secret mount should not define sharing");
    assert_eq!(told("target=/t,sharing=locked"), "invalid cache sharing set for bind mount");
    assert_eq!(told("type=ssh,source=/x"), "ssh does not support source");
    assert_eq!(told("type=cache,target=/t,mode=9"), "invalid value 9 for mode");
    assert_eq!(told("type=tmpfs,target=/t,size=x"), "invalid value for size: x");
}
