//! Corners of the language, each as BuildKit's sources have it.

use kiln_parser::expand::{Variables, expand, expand_to_words};
use kiln_parser::{Command, CopySource, Dockerfile, Instruction, InstructionKind, Run, parse};

fn read(text: &str) -> Dockerfile {
    parse(text.as_bytes()).unwrap()
}

fn first(text: &str) -> InstructionKind {
    let Instruction { kind, .. } =
        read(&format!("FROM scratch\n{text}")).stages.remove(0).instructions.remove(0);
    kind
}

fn run(text: &str) -> Run {
    let InstructionKind::Run(run) = first(text) else { panic!("{text} is no RUN") };
    *run
}

fn shell(text: &str) -> String {
    run(text).shell_text().unwrap().into_owned()
}

fn errors(text: &str) -> Vec<String> {
    parse(text.as_bytes()).unwrap_err().0.iter().map(ToString::to_string).collect()
}

fn value(word: &str) -> String {
    struct Some3;
    impl Variables for Some3 {
        fn get(&self, name: &str) -> Option<&str> {
            match name {
                "a" => Some("value"),
                "empty" => Some(""),
                "path" => Some("/usr/local/lib.so.1"),
                _ => None,
            }
        }
    }
    match expand(word, &Some3, '\\') {
        Ok(expanded) => expanded.value,
        Err(error) => error.to_string(),
    }
}

// LX3
#[test]
fn a_trigger_keeps_the_blanks_at_its_end() {
    for (line, trigger) in [("ONBUILD  RUN x  \t", "RUN x  \t"), ("ONBUILD RUN a \\\n b  ", "RUN a  b  ")] {
        let InstructionKind::Onbuild(onbuild) = first(line) else { unreachable!() };
        assert_eq!(onbuild.trigger, trigger);
    }
}

#[test]
fn the_longest_line_has_65535_bytes_and_a_line_feed() {
    let line = |length: usize| format!("FROM scratch\nRUN {}\n", "x".repeat(length - 4));
    assert!(parse(line(65_535).as_bytes()).is_ok());
    assert!(parse(line(65_535).trim_end().as_bytes()).is_ok());
    assert!(errors(&line(65_536)).concat().contains("65535"));
    // A carriage return counts, and so do the lines of a heredoc.
    assert!(parse(line(65_535).replace('\n', "\r\n").as_bytes()).is_err());
    assert!(parse(format!("FROM a\nRUN <<E\n{}\nE\n", "x".repeat(65_536)).as_bytes()).is_err());
}

// LX5
#[test]
fn carriage_returns_end_lines_and_stay_in_heredocs() {
    let file = read("FROM scratch\r\nRUN a \\\r\n  b\r\nRUN <<E\r\none\r\n\r\ntwo\nE\r\nUSER x\r\n");
    let kinds: Vec<_> = file.stages[0].instructions.iter().map(|instruction| &instruction.kind).collect();
    let [InstructionKind::Run(joined), InstructionKind::Run(script), InstructionKind::User(user)] =
        &kinds[..]
    else {
        panic!("{kinds:?}")
    };
    assert_eq!(joined.command, Command::Shell("a   b".into()));
    assert_eq!(script.heredocs[0].body, "one\r\n\r\ntwo\n");
    assert_eq!(user.value, "x");
}

// LX8, LX9, LX11, LX12
#[test]
fn continuations_join_with_what_the_next_line_begins_with() {
    assert_eq!(shell("  RUN a\\\nb"), "ab");
    assert_eq!(shell("RUN a\\\n\t b"), "a\t b");
    assert_eq!(shell("RUN a \\ \t \n  # comment \\\n\n   \n b"), "a  b");
    assert_eq!(shell("\\\nRUN a"), "a");
    assert_eq!(shell("RUN a\\\n\\\nb"), "ab");
    // An escape character behind another is data, also where three of them should be one and a continuation.
    assert_eq!(shell("RUN foo \\\\\nUSER x"), "foo \\\\");
    assert_eq!(shell("RUN foo \\\\\\\nUSER x"), "foo \\\\\\");
    assert_eq!(shell("RUN a # b \\\n c"), "a # b  c");
}

// LX13
#[test]
fn an_escape_character_with_nothing_to_continue_is_no_instruction() {
    for text in ["FROM scratch\n\\", "FROM scratch\n  \\ \n", "FROM scratch\n\\\n\n# x\n"] {
        assert_eq!(errors(text), ["unknown instruction: "], "{text:?}");
    }
    assert_eq!(read("\\\n\\\nFROM scratch\n").stages.len(), 1);
}

#[test]
fn another_escape_character_leaves_backslashes_alone() {
    let file = read("#  EsCaPe =  `  \nFROM scratch\nRUN dir C:\\\nRUN a `\n b\nENV A=x` y B=\"`\"\"\n");
    let texts: Vec<_> = file.stages[0].instructions.iter().map(|found| found.original.as_str()).collect();
    assert_eq!(texts, ["RUN dir C:\\", "RUN a  b", "ENV A=x` y B=\"`\"\""]);
    let InstructionKind::Env(pairs) = &file.stages[0].instructions[2].kind else { panic!() };
    assert_eq!(pairs.len(), 2);
}

// LX14, LX20, LX21
#[test]
fn directives_end_with_the_first_line_that_is_none() {
    let escape = |head: &str| read(&format!("{head}\nFROM scratch\n")).directives.escape;
    assert_eq!(escape("# check=skip=all\n#syntax=x\n# escape=`"), '`');
    for head in ["\n# escape=`", "# a comment\n# escape=`", "# other=x\n# escape=`", "#\n# escape=`"] {
        assert_eq!(escape(head), '\\', "{head}");
    }
    // BuildKit's parser does not know `#!` as its search for `syntax` does.
    assert_eq!(escape("#!/usr/bin/env x\n# escape=`"), '\\');
    assert_eq!(
        read("#!x\n# check=skip=all\n# check=error=true\nFROM a\n").directives.check.unwrap().value,
        "skip=all"
    );
    assert_eq!(errors("// syntax=a/b\nFROM a\n"), ["unknown instruction: //"]);
    assert_eq!(errors("# escape=\\\n# Escape=`\nFROM a\n"), ["only one escape parser directive can be used"]);
}

// LX25
#[test]
fn arg_has_no_flags_and_minds_none() {
    assert!(matches!(first("ARG --x=y a"), InstructionKind::Arg(pairs) if pairs[0].name.value == "a"));
    assert_eq!(errors("FROM scratch\nARG --x\n"), ["ARG requires at least one argument"]);
    assert_eq!(errors("FROM scratch\nENV --x a=b\n"), ["unknown flag: --x"]);
}

// LX22
#[test]
fn flags_lose_quotes_and_escapes() {
    let copy = |text: &str| match first(text) {
        InstructionKind::Copy(copy) => copy,
        other => panic!("{other:?}"),
    };
    assert_eq!(copy("COPY --chown='a b':c a b").chown.unwrap().value, "a b:c");
    assert_eq!(copy("COPY --ch\"own\"=a\\ b a b").chown.unwrap().value, "a b");
    assert_eq!(copy("COPY --chown=\"a\\\"b\" a b").chown.unwrap().value, "a\"b");
    assert!(copy("COPY --link=TRUE a b").link && !copy("COPY --link=False a b").link);
    let plain = copy("COPY --link -- --chown=x b");
    assert!(matches!(&plain.sources[..], [CopySource::Path(path)] if path.value == "--chown=x"));
    assert_eq!(shell("RUN -- --version"), "--version");
    assert!(errors("FROM a\nCOPY --link= a b\n")[0].contains("link"));
    assert!(errors("FROM a\nCOPY --link --link a b\n")[0].contains("link"));
    assert!(errors("FROM a\nRUN --mount= true\n")[0].contains("key=value"));
    assert!(errors("FROM a\nUSER --x y\n")[0].contains("--x"));
}

// LX23
#[test]
fn what_is_almost_json_is_the_shells() {
    let command = |text: &str| run(&format!("RUN {text}")).command;
    assert_eq!(command("[\"a\", \"b\\u0041\\n\"]"), Command::Exec(vec!["a".into(), "bA\n".into()]));
    assert_eq!(
        command("[ \"\\ud800x\", \"\\ud83d\\ude00\" ]"),
        Command::Exec(vec!["\u{fffd}x".into(), "😀".into()])
    );
    for text in ["['a']", "[\"a\",]", "[\"a\"", "[\"a\"] b", "[ -f x ]", "[\"a\" \"b\"]", "[\"\\x\"]"] {
        assert_eq!(command(text), Command::Shell(text.into()));
    }
    for text in ["[1]", "[\"a\", null]", "[[\"a\"]]", "[{}]"] {
        assert!(parse(format!("FROM a\nRUN {text}\n").as_bytes()).is_err(), "{text}");
    }
}

// LX24, LX25
#[test]
fn pairs_are_split_at_blanks_outside_of_quotes() {
    let pairs = |text: &str| match first(text) {
        InstructionKind::Env(pairs) => {
            pairs.into_iter().map(|pair| (pair.key.value, pair.value.value)).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(pairs("ENV a   b  c=d "), [pair("a", "b  c=d")]);
    assert_eq!(pairs("ENV a\t\"b\""), [pair("a", "\"b\"")]);
    assert_eq!(pairs("ENV a=b\\ c d='e f'g h="), [pair("a", "b\\ c"), pair("d", "'e f'g"), pair("h", "")]);
    assert_eq!(pairs("ENV \"a b\"=c=d"), [pair("\"a b\"", "c=d")]);
    assert_eq!(pairs("ENV a=\"b\\\"c\" d='\\'"), [pair("a", "\"b\\\"c\""), pair("d", "'\\'")]);
    assert!(errors("FROM a\nENV a=b c\n")[0].contains("can't find = in \"c\""));
    assert!(parse(b"FROM a\nENV a\n").is_err());
    assert!(parse(b"FROM a\nENV =a\n").is_err());
}

// LX26 to LX29, LX32
#[test]
fn heredocs_have_many_forms() {
    assert_eq!(shell("RUN << EOF\na\nEOF\n"), "a\n");
    assert_eq!(
        shell("RUN cat <<one 3<<-'two' x\n1\none\n\t2\n\ttwo\n"),
        "cat <<one 3<<-'two' x\n1\none\n\t2\ntwo"
    );
    assert_eq!(shell("RUN <<-EOF\n\t\ta\n\t b\n\tEOF\n"), "a\n b\n");
    assert_eq!(shell("RUN echo ${x:=1} <<EOF\n$x\nEOF\n"), "echo ${x:=1} <<EOF\n$x\nEOF");
    assert_eq!(shell("RUN echo $((1<<2)) <<<word \\\n && true"), "echo $((1<<2)) <<<word  && true");
    assert_eq!(shell("RUN <<\"a b\"\nx\na b\n"), "x\n");
    assert!(!run("RUN <<\"E\"OF\nEOF\n").heredocs[0].expand);
    assert!(run("RUN <<\\EOF\nEOF\n").heredocs[0].expand);
    // The terminator is the whole line, but for a carriage return.
    assert_eq!(shell("RUN <<E\n E\nE \n#E\nE\r\n"), " E\nE \n#E\n");
    assert_eq!(errors("FROM a\nRUN <<E\na\n\tE\n"), ["unterminated heredoc"]);
    // Neither JSON nor other instructions have any.
    assert_eq!(first("CMD cat <<E\n"), InstructionKind::Cmd(Command::Shell("cat <<E".into())));
    assert!(run("RUN [\"a\", \"<<E\"]\n").heredocs.is_empty());
}

// LX33
#[test]
fn a_copied_heredoc_stands_among_paths() {
    let InstructionKind::Copy(copy) = first("COPY a <<one <<-\"two\" /d/\n1\none\n\t2\n\ttwo\n") else {
        panic!()
    };
    let shown = copy.sources.iter().map(|source| match source {
        CopySource::Path(path) => path.value.clone(),
        CopySource::Heredoc(file) => format!("{} {:?} {}", file.name, file.body, file.expand),
    });
    assert_eq!(shown.collect::<Vec<_>>(), ["a", "one \"1\\n\" true", "two \"2\\n\" false"]);
}

// VX1 to VX3
#[test]
fn names_end_early_after_digits_and_special_characters() {
    assert_eq!(value("$a$a-$a.$a"), "valuevalue-value.value");
    assert_eq!(value("$1a$22b${3}c$@d$*e$#f$?g$-h$$i$!j$0k"), "abcdefghijk");
    assert_eq!(value("$ $. a$ $% ${#}x"), "$ $. a$ $% x");
    assert_eq!(value("${a}${a"), "failed to process \"${a}${a\": syntax error: missing '}'");
}

// VX4 to VX6
#[test]
fn the_word_of_a_default_is_expanded_and_loses_its_quotes() {
    assert_eq!(value("${no:-\"$a b\" 'c'\\}}"), "value b c}");
    assert_eq!(value("${no-${empty:-${a:+x}}}"), "x");
    assert_eq!(value("${a:?x}${empty?x}"), "value");
    assert_eq!(value("${no:?\"say $a\"}"), "no: say value");
}

// VX7 to VX9
#[test]
fn patterns_have_stars_and_question_marks_only() {
    assert_eq!(
        value("${path##*/} ${path#*/} ${path%.*} ${path%%.*}"),
        "lib.so.1 usr/local/lib.so.1 /usr/local/lib.so /usr/local/lib"
    );
    assert_eq!(
        value("${path%.?} ${path%[0-9]} ${path##} ${path#}"),
        "/usr/local/lib.so /usr/local/lib.so.1 /usr/local/lib.so.1 /usr/local/lib.so.1"
    );
    assert_eq!(
        value("${path//\\//_} ${path/l*l/X} ${path/nothing/X}"),
        "_usr_local_lib.so.1 /usr/Xib.so.1 /usr/local/lib.so.1"
    );
    assert_eq!(value("${path/./\\}} ${path//./$a}"), "/usr/local/lib\\}so.1 /usr/local/libvaluesovalue1");
    assert_eq!(value("${path/${no:-.so}/} ${no/a/b}x"), "/usr/local/lib.1 x");
}

// VX10
#[test]
fn bad_forms_are_named() {
    for (word, problem) in [
        ("${}", "bad substitution"),
        ("${:x}", "bad substitution"),
        ("${{a}}", "bad substitution"),
        ("${", "missing '}'"),
        ("${a:-x", "missing '}'"),
        ("${a:#x}", "unsupported modifier (:#)"),
        ("${a:%x}", "unsupported modifier (:%)"),
        ("${a:=x}", "unsupported modifier (:=)"),
        ("${a=x}", "unsupported modifier (=)"),
        ("${a,,}", "unsupported modifier (,)"),
        ("${a:0:1}", "unsupported modifier (:0)"),
        ("${#a}", "unsupported modifier (a)"),
        ("${a/x}", "missing '/'"),
        ("${a/x/y", "missing '}'"),
        ("${a#\\x}", "invalid pattern"),
    ] {
        assert!(value(word).contains(problem), "{word}: {}", value(word));
    }
}

// VX11
#[test]
fn escapes_mean_less_inside_of_quotes() {
    assert_eq!(value("\\$a \\\\$a \"\\$a \\a \\\\\" '\\$a'"), "$a \\value $a \\a \\ \\$a");
    assert_eq!(value("a\\"), "a");
    assert_eq!(
        value("\"a\\"),
        "failed to process \"\\\"a\\\\\": unexpected end of statement while looking for matching double-quote"
    );
    struct Nothing;
    impl Variables for Nothing {
        fn get(&self, _: &str) -> Option<&str> {
            None
        }
    }
    assert_eq!(expand("C:\\x `$a '`'", &Nothing, '`').unwrap().value, "C:\\x $a `");
    assert_eq!(expand_to_words("a \"\" 'b c' d\\ e", &Nothing, '\\').unwrap(), ["a", "b c", "d e"]);
}
