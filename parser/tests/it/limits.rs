//! Hostile sizes: nothing panics, nothing takes more than linear time, limits are named.

use kiln_parser::expand::{Variables, expand};
use kiln_parser::{Checks, ParseError, parse, parse_trigger};
use proptest::prelude::*;

#[test]
fn a_megabyte_of_twenty_thousand_instructions_is_read() {
    let line = "RUN --mount=type=cache,target=/c echo \"$A\" && \\\n    ls\n";
    let text = format!("FROM scratch\n{}", line.repeat(20_000));
    assert!(text.len() > 1 << 20);
    assert_eq!(parse(text.as_bytes()).unwrap().stages[0].instructions.len(), 20_000);
}

#[test]
fn one_instruction_of_a_megabyte_is_read() {
    let text = format!("FROM scratch\nENV {}\n", "A=1 \\\n".repeat(150_000) + "B=2");
    assert_eq!(parse(text.as_bytes()).unwrap().stages[0].instructions[0].span.end_line, 150_002);
    let text = format!("FROM scratch\nCOPY {} /x/\n{}", "<<E ".repeat(2_000), "E\n".repeat(2_000));
    assert!(parse(text.as_bytes()).is_ok());
}

#[test]
fn a_hundred_thousand_stages_are_read() {
    let text: String = (0..100_000).map(|index| format!("FROM scratch AS s{index}\n")).collect();
    assert_eq!(parse(text.as_bytes()).unwrap().stages.len(), 100_000);
}

#[test]
fn rules_take_time_in_proportion_to_the_file() {
    // Each of these would take hours if every finding or step looked at all the others.
    let copies: String =
        (0..20_000).map(|index| format!("COPY a /d/{index}\nRUN chown -R 1 /e && pip install x\n")).collect();
    let comment = "# check=skip=Nothing\n# more\n".repeat(50_000);
    let text = format!("FROM a:1\n{copies}{comment}RUN sudo x\nMAINTAINER me\n");
    let found = parse(text.as_bytes()).unwrap().findings(&all_rules(), &[]);
    assert_eq!(found.len(), 20_002);
}

#[test]
fn a_line_and_a_file_have_a_longest_length() {
    let text = format!("FROM scratch\nLABEL a={}\n", "x".repeat(65_536));
    let error = parse(text.as_bytes()).unwrap_err();
    assert!(error.to_string().contains("65535"));
    let error = parse(&vec![b'#'; 17 << 20]).unwrap_err();
    assert!(matches!(error.0[0], ParseError::FileTooLong { .. }));
}

#[test]
fn a_chain_of_onbuild_is_no_recursion() {
    let text = format!("FROM scratch\n{}RUN x\n", "ONBUILD \\\n".repeat(100_000));
    assert!(parse(text.as_bytes()).is_err());
    assert!(parse(b"FROM scratch\nCMD [[[[[[[[[[\n").is_ok());
}

struct Echo;

impl Variables for Echo {
    fn get(&self, name: &str) -> Option<&str> {
        name.starts_with('a').then_some("a/b*c")
    }
}

/// Text made of what the parser looks for.
fn dockerfile() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "FROM",
        "from",
        "scratch",
        "AS",
        "RUN",
        "COPY",
        "ADD",
        "ONBUILD",
        "ENV",
        "ARG",
        "HEALTHCHECK",
        "CMD",
        "VOLUME",
        "SHELL",
        "a=b",
        "\"",
        "'",
        "\\",
        "\\\n",
        "\n",
        "\n\n",
        "\r\n",
        "#",
        "# escape=`\n",
        "`",
        "<<EOF",
        "<<-'E'",
        "EOF",
        "\tE",
        "--from=x",
        "--mount=type=bind,target=/x",
        "--",
        "--link",
        "[\"a\"]",
        "[",
        "]",
        "$",
        "${a:-",
        "}",
        "é",
        "\t",
    ]);
    prop::collection::vec((word, prop::sample::select(vec![" ", "", "\n"])), 0..60)
        .prop_map(|words| words.into_iter().map(|(word, gap)| format!("{word}{gap}")).collect())
}

fn all_rules() -> Checks {
    let mut checks = Checks::default();
    checks.enable("all").unwrap();
    checks
}

fn check_spans(text: &[u8]) {
    match parse(text) {
        Ok(file) => {
            for finding in file.findings(&all_rules(), &[]) {
                assert!(text.get(finding.span.range()).is_some(), "{finding:?}");
            }
            let spans = file.stages.iter().flat_map(|stage| {
                std::iter::once(stage.span)
                    .chain(stage.instructions.iter().map(|instruction| instruction.span))
            });
            let mut end = 0;
            for span in spans {
                assert!(span.start >= end && span.start <= span.end && span.end <= text.len(), "{span:?}");
                assert!(text.get(span.range()).is_some_and(|text| std::str::from_utf8(text).is_ok()));
                let line = 1 + text[..span.start].iter().filter(|byte| **byte == b'\n').count();
                assert_eq!(span.line as usize, line);
                end = span.end;
            }
        }
        Err(errors) => {
            assert!(!errors.0.is_empty());
            for error in &errors.0 {
                assert!(text.get(error.span().range()).is_some(), "{error:?}");
                assert!(error.span().line <= error.span().end_line, "{error:?}");
                let _ = (error.to_string(), error.hint());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn no_bytes_make_the_parser_panic(text in prop::collection::vec(any::<u8>(), 0..300)) {
        check_spans(&text);
    }

    #[test]
    fn no_dockerfile_makes_the_parser_panic(text in dockerfile()) {
        check_spans(text.as_bytes());
        check_spans(format!("FROM scratch\n{text}").as_bytes());
        let _ = parse_trigger(&text);
    }

    #[test]
    fn no_bytes_make_the_expansion_panic(word in any::<String>()) {
        let _ = expand(&word, &Echo, '\\');
        let _ = expand(&word, &Echo, '`');
    }

    #[test]
    fn what_onbuild_keeps_parses_to_what_it_showed(text in dockerfile()) {
        let Ok(file) = parse(format!("FROM scratch\nONBUILD {text}").as_bytes()) else { return Ok(()) };
        if let Some(kiln_parser::InstructionKind::Onbuild(onbuild)) =
            file.stages[0].instructions.first().map(|instruction| &instruction.kind)
            && file.directives.escape == '\\'
            // `a\ \` at the end of the file leaves an escape character that the next build takes for a continuation.
            && let Some(instruction) = &onbuild.instruction
            && !instruction.original.ends_with('\\')
        {
            let again = parse_trigger(&onbuild.trigger).unwrap();
            prop_assert_eq!(&again.original, &instruction.original);
        }
    }
}
