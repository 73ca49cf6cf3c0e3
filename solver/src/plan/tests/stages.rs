use super::*;

#[test]
fn an_unknown_target_names_the_nearest_stage() {
    let text = "FROM scratch AS builder\nFROM scratch\n";
    let request = PlanRequest { target: Some("bulider".into()), ..request() };
    assert_snapshot!(told(&plan_with(text, &request).unwrap_err()), @r#"
    target stage "bulider" could not be found
    hint: did you mean the stage builder?
    "#);
}

#[test]
fn a_target_is_found_in_any_case_but_not_by_number() {
    let text = "FROM scratch AS Dev\nLABEL s=1\nFROM scratch\nLABEL s=2\n";
    let target = |name: &str| PlanRequest { target: Some(name.into()), ..request() };
    assert_eq!(history(&plan_with(text, &target("DEV")).unwrap()), ["LABEL s=1"]);
    assert!(matches!(plan_with(text, &target("1")), Err(PlanError::UnknownTarget { .. })));
}

#[test]
fn a_stage_that_copies_from_itself_goes_in_a_circle() {
    assert_snapshot!(told(&error("FROM scratch AS me\nCOPY --from=me /a /b\n")), @r#"
    line 2: circular dependency detected on stage: me
    "#);
}

#[test]
fn stages_that_copy_from_each_other_go_in_a_circle_although_unneeded() {
    let text =
        "FROM scratch AS a\nCOPY --from=b /x /x\nFROM scratch AS b\nCOPY --from=a /x /x\nFROM scratch\n";
    assert_snapshot!(told(&error(text)), @r#"
    line 4: circular dependency detected on stage: a
    hint: a needs b on line 2, b needs a on line 4
    "#);
}

#[test]
fn a_later_stage_cannot_be_copied_from() {
    let text = "FROM scratch AS early\nCOPY --from=late /a /b\nFROM scratch AS late\n";
    let request = PlanRequest { target: Some("early".into()), ..request() };
    assert_snapshot!(told(&plan_with(text, &request).unwrap_err()), @r#"
    line 2: cannot copy from stage "late", it needs to be defined before current stage "early"
    hint: move the stage "late" up
    "#);
}

#[test]
fn of_stages_with_one_name_the_last_one_above_counts() {
    let text = "FROM scratch AS s\nCOPY one /\nFROM scratch AS s\nCOPY two /\nFROM s\nCOPY three /\n";
    assert_eq!(history(&planned(text)), ["COPY two / # buildkit", "COPY three / # buildkit"]);
}

#[test]
fn a_stage_is_copied_from_by_its_number() {
    let plan = planned("FROM busybox\nFROM scratch\nCOPY --from=0 /a /a\n");
    assert_eq!(plan.graph.edges(plan.result).count(), 2);
    let error = error("FROM scratch\nCOPY --from=7 /a /a\n");
    assert_snapshot!(told(&error), @r#"
    line 2: invalid stage index 7
    hint: stages are numbered from 0 to 0
    "#);
}

#[test]
fn an_unneeded_stage_resolves_nothing() {
    let plan = planned("FROM absent AS unused\nRUN x\nFROM scratch\nCOPY a /\n");
    assert_eq!(names(&plan).len(), 3);
}

#[test]
fn a_missing_base_names_the_stage_that_was_meant() {
    let error = plan_with("FROM scratch AS absant\nFROM absent\n", &request()).unwrap_err();
    assert_snapshot!(told(&error), @r#"
    line 2: absent: image cannot be used
    hint: did you mean the stage absant?
    "#);
}

#[test]
fn from_without_a_name_is_told_with_the_variable() {
    assert_snapshot!(told(&error("ARG BASE\nFROM ${BSE}\n")), @r#"
    line 2: base name (${BSE}) should not be blank
    hint: did you mean $BASE?
    "#);
    assert_snapshot!(told(&error("FROM scratch\nARG B=busybox\nFROM ${B}\n")), @r#"
    line 3: base name (${B}) should not be blank
    hint: declare `ARG B=…` before the first FROM, or pass `--build-arg B=…` for one declared there
    "#);
}

#[test]
fn a_platform_that_is_none_is_told() {
    assert_snapshot!(told(&error("FROM --platform=a/b/c/d scratch\n")), @r#"
    line 1: failed to parse platform a/b/c/d: "a/b/c/d" is not os/architecture[/variant]
    hint: a platform is written linux/amd64 or linux/arm/v7
    "#);
    assert_snapshot!(told(&error("ARG PLATFORM\nFROM --platform=$PLATFROM scratch\n")), @r#"
    line 2: empty platform value from expression $PLATFROM
    hint: did you mean $PLATFORM?
    "#);
}

#[test]
fn a_base_that_is_no_name_is_told_though_unneeded() {
    assert_snapshot!(told(&error("FROM UPPER/Case:tag AS x\nFROM scratch\n")), @r#"
    line 1: failed to parse stage name "UPPER/Case:tag"
    "#);
}

#[test]
fn the_names_to_resolve_are_those_that_the_target_needs() {
    let text = "ARG V=1\nFROM --platform=linux/arm64 a:$V AS a\nFROM unused\nFROM b\nCOPY --from=a / /\n\
                RUN --mount=from=c,target=/c true\nCOPY --from=b / /b\n";
    let names = base_names(&parse(text), &request()).unwrap();
    let names: Vec<String> =
        names.iter().map(|(name, platform)| format!("{} {platform}", name.familiar())).collect();
    assert_eq!(names, ["b:latest linux/amd64", "c:latest linux/amd64", "a:1 linux/arm64"]);
}

#[test]
fn each_image_is_resolved_once() {
    let text = "FROM busybox AS a\nFROM busybox AS b\nCOPY --from=busybox /x /x\nCOPY --from=a / /\n";
    let mut asked = Vec::new();
    plan(&parse(text), &request(), &mut |name, _| {
        asked.push(name.familiar());
        Ok(image(&name.familiar(), &[]))
    })
    .unwrap();
    assert_eq!(asked, ["busybox:latest"]);
}

#[test]
fn the_requested_platform_is_written_into_the_image() {
    let request = PlanRequest { platform: Some(platform("linux/arm/v7")), ..request() };
    let plan = plan_with("FROM busybox\n", &request).unwrap();
    assert_eq!((plan.config.architecture.as_str(), plan.config.variant.as_str()), ("arm", "v7"));
    assert_eq!(plan.platform, platform("linux/arm/v7"));
    assert_eq!(plan.warnings[0].rule, "InvalidBaseImagePlatform");
}

#[test]
fn a_base_without_layers_keeps_its_config() {
    let plan = plan(&parse("FROM empty\nLABEL a=b\n"), &request(), &mut |_, _| {
        let mut base = image("empty", &[]);
        base.config.rootfs = RootFs::default();
        base.config.history[0].empty_layer = true;
        Ok(base)
    })
    .unwrap();
    assert_eq!(plan.graph[plan.result].op, Op::Source(Source::Scratch));
    assert_eq!(plan.config.config.cmd, Some(vec!["/bin/sh".into()]));
    assert_eq!((plan.base_history, history(&plan)), (1, vec!["LABEL a=b"]));
}

#[test]
fn times_and_layers_are_left_to_the_engine() {
    let plan = planned("FROM busybox\nRUN x\n");
    assert_eq!(plan.config.created, None);
    assert!(plan.config.rootfs.diff_ids.is_empty());
    assert!(plan.config.history[1..].iter().all(|entry| entry.created.is_none()));
}

#[test]
fn twenty_thousand_stages_in_a_row_are_planned() {
    let mut text = String::from("FROM scratch AS s0\n");
    for number in 1..20_000 {
        _ = writeln!(text, "FROM s{} AS s{number}\nENV A{}=1", number - 1, number % 7);
    }
    assert_eq!(planned(&text).config.history.len(), 19_999);
}

#[test]
fn stages_that_copy_from_one_another_in_a_long_chain_are_planned() {
    let mut text = String::from("FROM scratch AS s0\nCOPY a /\n");
    for number in 1..5_000 {
        _ = writeln!(text, "FROM scratch AS s{number}\nCOPY --from=s{} / /{number}", number - 1);
    }
    assert_eq!(planned(&text).graph.node_count(), 5_002);
}

#[test]
fn a_stage_after_another_waits_for_it_and_takes_nothing_from_it() {
    let text = "ARG WHICH=First\nFROM scratch AS unneeded\nRUN x\nFROM busybox AS first\nRUN one\n\
                FROM --after=$WHICH debian\nRUN two\n";
    let plan = planned(text);
    let after = plan.graph.node_indices().find(|id| plan.graph[*id].op == Op::After).unwrap();
    let inputs: Vec<_> = crate::solve::inputs_of(&plan.graph, after)
        .into_iter()
        .map(|id| plan.graph[id].name.split('@').next().unwrap())
        .collect();
    assert_eq!(inputs, ["[stage-2 1/2] FROM docker.io/library/debian:latest", "[first 2/2] RUN one"]);
    assert!(!names(&plan).contains(&"[unneeded 1/1] RUN x"));
    assert_eq!(history(&plan), ["RUN /bin/sh -c two # buildkit"]);
    // By number, and with nothing of its own.
    let plan = planned("FROM busybox AS first\nRUN one\nFROM --after=0 debian\n");
    assert_eq!(plan.graph[plan.result].op, Op::After);
    let names = base_names(&parse(text), &request()).unwrap();
    assert_eq!(names.len(), 2);
}

#[test]
fn a_stage_can_only_be_after_one_above() {
    assert_snapshot!(told(&error("FROM scratch AS build\nFROM --after=biuld scratch\n")), @r#"
    line 2: stage "biuld" of --after could not be found
    hint: did you mean the stage build?
    "#);
    assert_snapshot!(told(&error("FROM --after=late scratch AS early\nFROM scratch AS late\n")), @r#"
    line 1: cannot start after stage "late", it needs to be defined before current stage "early"
    hint: move the stage "late" up
    "#);
    assert_snapshot!(told(&error("FROM --after=self scratch AS self\n")), @r#"
    line 1: cannot start after stage "self", it needs to be defined before current stage "self"
    "#);
    assert_snapshot!(told(&error("FROM --after=7 scratch\n")), @r"
    line 1: invalid stage index 7
    hint: stages are numbered from 0 to 0
    ");
    assert_snapshot!(told(&error("FROM --after=$NONE scratch\n")), @r#"
    line 1: stage "" of --after could not be found
    "#);
}

#[test]
fn unneeded_stages_may_be_built_for_their_own_sake() {
    let text = "FROM a AS one\nRUN x\nFROM b AS two\nRUN y\nFROM c\n";
    let request = PlanRequest { unneeded_stages: Unneeded::Built, target: Some("one".into()), ..request() };
    let plan = plan_with(text, &request).unwrap();
    let inputs = crate::solve::inputs_of(&plan.graph, plan.result);
    let inputs: Vec<_> = inputs.iter().map(|id| plan.graph[*id].name.split('@').next().unwrap()).collect();
    assert_eq!(
        inputs,
        ["[one 2/2] RUN x", "[two 2/2] RUN y", "[stage-2 1/1] FROM docker.io/library/c:latest"]
    );
    assert_eq!(history(&plan), ["RUN /bin/sh -c x # buildkit"]);
    assert_eq!(base_names(&parse(text), &request).unwrap().len(), 3);
}

#[test]
fn a_stage_with_other_letters_is_no_bad_default_of_an_argument() {
    assert_eq!(warnings("FROM scratch AS base\nFROM BASE\n"), [] as [&str; 0]);
}

#[test]
fn a_missing_base_names_the_usual_image_that_was_meant_or_why_it_is_not_there_yet() {
    let fail = |text: &str| {
        let contexts =
            with_contexts(&[("dir:/x", NamedContext::Layout("local.invalid/image-0".parse().unwrap()))]);
        told(&plan(&parse(text), &contexts, &mut |_, _| Err("not found".into())).unwrap_err())
    };
    assert_snapshot!(fail("FROM ubunut:24.04\n"), @r"
    line 1: ubunut:24.04: image cannot be used
    hint: did you mean the image ubuntu?
    ");
    assert_snapshot!(fail("FROM scratch AS one\nFROM --after=one dir:/x\n"), @r"
    line 2: dir:/x: image cannot be used
    hint: the earlier stage writes it into a directory of the host's that `--volume` gives it; where its steps are cached they write nothing, and `--no-cache-filter` runs them again
    ");
}

#[test]
fn a_stage_is_awaited_whose_follower_starts_from_an_image_of_the_host() {
    let layout = || NamedContext::Layout("made.up/image".parse().unwrap());
    let request = with_contexts(&[("oci-archive:x.tar", layout()), ("oci:y", layout())]);
    let awaited = |text: &str, target: &str| {
        let request = PlanRequest { target: Some(target.into()), ..request.clone() };
        awaited_stages(&parse(text), &request).unwrap().len()
    };
    let text = "FROM base AS one\nRUN a\nFROM --after=one oci-archive:x.tar AS two\nRUN b\n\
                FROM --after=two oci:y AS three\nFROM --after=one base AS four\nFROM --after=one oci:y AS five\n";
    let counts = ["one", "two", "three", "four", "five"].map(|target| awaited(text, target));
    assert_eq!(counts, [0, 1, 2, 0, 1]);
    let [one, two] =
        awaited_stages(&parse(text), &PlanRequest { target: Some("three".into()), ..request.clone() })
            .unwrap()[..]
    else {
        unreachable!()
    };
    let mut wanted = Vec::new();
    let mut resolve = |name: &ImageRef, _: &Platform| {
        wanted.push(name.familiar());
        Ok(image("base", &[]))
    };
    let first = plan_awaited(&parse(text), &request, one, &mut resolve).unwrap();
    assert_eq!(history(&first), ["RUN /bin/sh -c a # buildkit"]);
    plan_awaited(&parse(text), &request, two, &mut resolve).unwrap();
    // The first asks for nothing that is not there yet; a stage that is waited for is planned along.
    assert_eq!(wanted.len(), 3, "{wanted:?}");
    assert_eq!(wanted[0], "base:latest");
}
