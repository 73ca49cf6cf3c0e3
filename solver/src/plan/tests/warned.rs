use super::*;

#[test]
fn variables_that_are_not_set() {
    assert_snapshot!(warnings(
        "ARG VERSION=1\nFROM busybox:${VERSOIN:-1}\nENV P=$PAHT\nARG NAME\nLABEL n=$NAME o=$NAEM\nCOPY ${X:-a} /\n"
    ).join("\n"), @r#"
    2 UndefinedArgInFrom: FROM argument 'VERSOIN' is not declared (did you mean VERSION?)
    3 UndefinedVar: Usage of undefined variable '$PAHT' (did you mean $PATH?)
    5 UndefinedVar: Usage of undefined variable '$NAEM'
    6 UndefinedVar: Usage of undefined variable '$X' (did you mean $P?)
    "#);
}

#[test]
fn platforms_that_need_not_or_should_not_be_written() {
    assert_snapshot!(warnings(
        "FROM --platform=$TARGETPLATFORM scratch AS a\nFROM --platform=linux/arm64 scratch AS bin-arm64\n\
         FROM --platform=linux/amd64 scratch\n"
    ).join("\n"), @r#"
    1 RedundantTargetPlatform: Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior
    3 FromPlatformFlagConstDisallowed: FROM --platform flag should not use constant value "linux/amd64"
    "#);
}

#[test]
fn instructions_of_which_only_the_last_counts() {
    assert_snapshot!(warnings("FROM scratch\nCMD [\"a\"]\nWORKDIR x\nCMD b\nENV API_TOKEN=x\nEXPOSE 80/TCP 1:2\n").join("\n"), @r#"
    3 WorkdirRelativePath: Relative workdir "x" can have unexpected results if the base image changes
    2 MultipleInstructionsDisallowed: Multiple CMD instructions should not be used in the same stage because only the last one will be used
    4 JSONArgsRecommended: JSON arguments recommended for CMD to prevent unintended behavior related to OS signals
    5 SecretsUsedInArgOrEnv: Do not use ARG or ENV instructions for sensitive data (ENV "API_TOKEN")
    6 ExposeInvalidFormat: EXPOSE instruction should not define an IP address or host-port mapping, found '1:2'
    6 ExposeProtoCasing: Defined protocol '80/TCP' in EXPOSE instruction should be lowercase
    "#);
}

#[test]
fn pairs_in_the_old_form_in_stages_that_are_built() {
    let text = "FROM scratch AS unused\nENV a b\nFROM scratch\nLABEL c d\nENV e=f\n";
    assert_snapshot!(warnings(text).join("\n"), @r#"
    4 LegacyKeyValueFormat: "LABEL key=value" should be used instead of legacy "LABEL key value" format
    "#);
}

#[test]
fn sources_that_the_ignore_file_hides() {
    let told = |ignore: &str| {
        let ignore = IgnoreRules::parse(ignore.as_bytes()).unwrap();
        let text = "FROM scratch AS a\nCOPY ./dir/f b.log /\nADD a.log https://x/y.log /\n\
                    FROM scratch\nCOPY --from=a b.log /\nCOPY . /\n";
        let plan = plan_with(text, &PlanRequest { ignore, ..request() }).unwrap();
        let lines = plan.warnings.iter().map(|warning| format!("{}\n", warning.message));
        lines.collect::<String>()
    };
    assert_snapshot!(told("dir\n*.log\n"), @r#"
    Attempting to Copy file "dir/f" that is excluded by .dockerignore
    Attempting to Copy file "b.log" that is excluded by .dockerignore
    Attempting to Add file "a.log" that is excluded by .dockerignore
    "#);
    assert_eq!(told("dir\n*.log\n!b.log\n"), "");
    assert!(told("*\n").contains("Copy file \".\""));
    assert!(!told("?\n").contains("Copy file \".\""));
}

#[test]
fn the_shell_form_unless_a_shell_is_named() {
    let text = "FROM scratch\nCMD a\nSHELL [\"/bin/bash\", \"-c\"]\nENTRYPOINT b\n";
    assert_snapshot!(warnings(text).join("\n"), @"2 JSONArgsRecommended: JSON arguments recommended for CMD to prevent unintended behavior related to OS signals");
}

#[test]
fn bases_that_need_a_build_argument() {
    let text = "ARG TAG\nFROM busybox:$TAG\n";
    let plan = plan_with(text, &with_args(&[("TAG", "1")])).unwrap();
    let rules: Vec<_> = plan.warnings.iter().map(|warning| warning.rule).collect();
    assert_eq!(rules, ["InvalidDefaultArgInFrom"]);
}

#[test]
fn a_check_looks_at_all_stages_and_tells_warnings_with_an_error() {
    let file = parse("FROM scratch\nCOPY $A /\nFROM scratch\nCOPY $B /\nSTOPSIGNAL NOPE\n");
    let (warnings, error) = check(&file, &request(), &mut |_, _| Err("offline".into()));
    let lines: Vec<_> = warnings.iter().map(|warning| (warning.rule, warning.span.line)).collect();
    assert_eq!(lines, [("UndefinedVar", 2), ("UndefinedVar", 4)]);
    assert!(matches!(error, Some(PlanError::InvalidSignal { .. })));
}

#[test]
fn the_comment_above_the_last_of_several_judges_those_before_it() {
    let told = |text: &str| {
        let file = parse(text);
        let plan = plan(&file, &request(), &mut |_, _| Err("none".into())).unwrap();
        file.findings(&kiln_parser::Checks::default(), &plan.warnings).len()
    };
    let comment = "# check=skip=MultipleInstructionsDisallowed\n";
    assert_eq!(told(&format!("FROM scratch\nCMD [\"a\"]\n{comment}CMD [\"b\"]\n")), 0);
    assert_eq!(told(&format!("FROM scratch\n{comment}CMD [\"a\"]\nCMD [\"b\"]\n")), 1);
}

#[test]
fn words_of_findings_have_the_files_letter_case_and_come_before_a_mistake() {
    assert_snapshot!(warnings("FROM scratch\nEnv a b\ncmd x\ncmd [\"y\"]\n").join("\n"), @r#"
    2 LegacyKeyValueFormat: "Env key=value" should be used instead of legacy "Env key value" format
    3 JSONArgsRecommended: JSON arguments recommended for cmd to prevent unintended behavior related to OS signals
    3 MultipleInstructionsDisallowed: Multiple cmd instructions should not be used in the same stage because only the last one will be used
    "#);
    for (text, rule) in [
        ("FROM scratch\nEXPOSE 80:80-81\n", "ExposeInvalidFormat"),
        ("FROM scratch\nVOLUME $a /x $b\n", "UndefinedVar"),
    ] {
        let (warnings, error) = check(&parse(text), &request(), &mut |_, _| unreachable!("no base"));
        assert!(
            error.is_some() && warnings.iter().all(|warning| warning.rule == rule),
            "{text}: {warnings:?}"
        );
        assert_eq!(warnings.len(), if rule == "UndefinedVar" { 2 } else { 1 }, "{text}");
    }
}

#[test]
fn a_check_tells_of_a_base_for_another_platform() {
    let request = PlanRequest { platform: Some(platform("linux/arm/v7")), ..request() };
    let (warnings, error) = check(&parse("FROM busybox\n"), &request, &mut |_, _| Ok(image("busybox", &[])));
    assert!(error.is_none());
    assert_eq!(warnings.iter().map(|warning| warning.rule).collect::<Vec<_>>(), ["InvalidBaseImagePlatform"]);
}
