//! BuildKit's rules, in its words.

use kiln_parser::{parse, parse_partly};

fn warnings(text: &str) -> String {
    let file = parse(text.as_bytes()).unwrap();
    let lines =
        file.warnings.iter().map(|found| format!("{} {}: {}\n", found.span.line, found.rule, found.message));
    lines.collect()
}

#[test]
fn a_clean_file_has_no_findings() {
    assert_eq!(warnings("FROM scratch AS a\nWORKDIR /x\nENV A=b\nCMD [\"x\"]\n"), "");
}

#[test]
fn letter_case_is_consistent() {
    insta::assert_snapshot!(warnings("from scratch AS Base\nLABEL a=1\nWorkdir /\n"), @r#"
1 ConsistentInstructionCasing: Command 'from' should match the case of the command majority (uppercase)
1 FromAsCasing: 'AS' and 'from' keywords' casing do not match
1 StageNameCasing: Stage name 'Base' should be lowercase
3 ConsistentInstructionCasing: Command 'Workdir' should match the case of the command majority (uppercase)
"#);
    insta::assert_snapshot!(warnings("from scratch as a\nENV b=2\nlabel c=3\n"), @r#"
2 ConsistentInstructionCasing: Command 'ENV' should match the case of the command majority (lowercase)
"#);
}

#[test]
fn stages_have_names_of_their_own() {
    let text = "FROM scratch AS a\nFROM scratch AS context\nFROM a AS A\nFROM scratch AS scratch\n";
    insta::assert_snapshot!(warnings(text), @r#"
2 ReservedStageName: Stage name should not use the same name as reserved stage "context"
3 DuplicateStageName: Duplicate stage name "a", stage names should be unique
3 StageNameCasing: Stage name 'A' should be lowercase
4 ReservedStageName: Stage name should not use the same name as reserved stage "scratch"
"#);
}

#[test]
fn blank_continuations_and_old_instructions_are_noticed() {
    let text = "FROM scratch\nLABEL a=1 \\\n\n  b=2\nMAINTAINER me\n";
    insta::assert_snapshot!(warnings(text), @r#"
4 NoEmptyContinuation: Empty continuation line
5 MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label
"#);
}

#[test]
fn blank_lines_at_the_end_of_the_file_continue_the_last_instruction() {
    let place = |text: &str| parse(text.as_bytes()).unwrap().warnings[0].span.line;
    assert_eq!(place("FROM scratch\nLABEL a=b\\\n\n"), 3);
    assert_eq!(place("FROM scratch\nLABEL a=b\\\n\n# x\n\n"), 5);
    assert_eq!(place("FROM scratch\nCOPY <<E /x \\\n\n\nhi\nE\n"), 5);
}

#[test]
fn letter_case_of_as_is_that_of_from_and_global_arguments_do_not_count() {
    insta::assert_snapshot!(warnings("arg A\narg B\nFROM scratch As a\nFrom scratch as b\nENV x=y\n"), @r#"
3 FromAsCasing: 'As' and 'FROM' keywords' casing do not match
4 ConsistentInstructionCasing: Command 'From' should match the case of the command majority (uppercase)
"#);
}

#[test]
fn what_stands_above_a_mistake_is_told_with_it() {
    let text = "FROM scratch AS Base\nMAINTAINER me\nlabel a=1\nRUNN x\nMAINTAINER me\n";
    let (file, errors) = parse_partly(text.as_bytes());
    let rules: Vec<_> = file.warnings.iter().map(|found| (found.span.line, found.rule)).collect();
    assert_eq!(rules, [(1, "StageNameCasing"), (2, "MaintainerDeprecated")]);
    assert_eq!(errors.unwrap().0.len(), 1);
}

#[test]
fn a_heredocs_body_is_not_judged() {
    assert_eq!(warnings("FROM scratch\nCOPY <<EOF /x\nMAINTAINER me\nfrom y as Z\nEOF\n"), "");
}
