//! BuildKit's rules, in its words.

use kiln_parser::parse;

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
fn commands_are_json_and_stand_once_in_a_stage() {
    let text = "FROM scratch AS a\nSHELL [\"/bin/bash\", \"-c\"]\nCMD a\nFROM a\nCMD b\nCMD c\nFROM scratch\nENTRYPOINT d\n";
    insta::assert_snapshot!(warnings(text), @r#"
5 MultipleInstructionsDisallowed: Multiple CMD instructions should not be used in the same stage because only the last one will be used
8 JSONArgsRecommended: JSON arguments recommended for ENTRYPOINT to prevent unintended behavior related to OS signals
"#);
}

#[test]
fn old_forms_and_blank_continuations_are_noticed() {
    let text = "FROM scratch\nENV a b\nLABEL a=1 \\\n\n  b=2\nMAINTAINER me\nWORKDIR x\nWORKDIR y\nONBUILD ENV a b\n";
    insta::assert_snapshot!(warnings(text), @r#"
2 LegacyKeyValueFormat: "ENV key=value" should be used instead of legacy "ENV key value" format
5 NoEmptyContinuation: Empty continuation line
6 MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label
7 WorkdirRelativePath: Relative workdir "x" can have unexpected results if the base image changes
"#);
}

#[test]
fn a_heredocs_body_is_not_judged() {
    assert_eq!(warnings("FROM scratch\nCOPY <<EOF /x\nMAINTAINER me\nfrom y as Z\nEOF\n"), "");
}
