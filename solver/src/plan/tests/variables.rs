use super::*;

#[test]
fn all_words_of_an_instruction_see_the_values_before_it() {
    let plan = planned("FROM scratch\nENV a=1\nENV a=2 b=$a\n");
    assert_eq!(env(&plan)[1..], ["a=2", "b=1"]);
}

#[test]
fn a_build_argument_wins_over_the_default_only_where_it_is_declared() {
    let text = "FROM busybox AS one\nARG V=d\nRUN x\nFROM busybox\nRUN y\n";
    let target = PlanRequest { target: Some("one".into()), ..with_args(&[("V", "cli")]) };
    assert_eq!(run_env(&plan_with(text, &target).unwrap()), ["PATH=/bin", "V=cli"]);
    assert_eq!(run_env(&plan_with(text, &with_args(&[("V", "cli")])).unwrap()), ["PATH=/bin"]);
}

#[test]
fn an_argument_without_a_value_takes_the_global_one_or_none() {
    let plan = planned("ARG G=g\nFROM busybox\nARG G N\nRUN x\n");
    assert_eq!(run_env(&plan), ["PATH=/bin", "G=g"]);
    assert_eq!(history(&plan)[0], "ARG G=g N");
    assert_eq!(history(&plan)[1], "RUN |2 G=g N= /bin/sh -c x # buildkit");
}

#[test]
fn a_default_that_is_not_needed_may_be_wrong() {
    let text = "FROM scratch\nARG V=\"${X:?must be given}\"\n";
    assert!(plan_with(text, &with_args(&[("V", "1")])).is_ok());
    assert_snapshot!(told(&error(text)), @r#"
    line 2: X: must be given
    "#);
}

#[test]
fn proxies_reach_steps_without_being_part_of_them() {
    let plan = plan_with("FROM busybox\nRUN x\n", &with_args(&[("http_proxy", "p")])).unwrap();
    let Op::Exec(exec) = &plan.graph[plan.result].op else { panic!("no RUN") };
    assert_eq!(exec.env, ["PATH=/bin"]);
    assert_eq!(exec.unkeyed_env, ["HTTP_PROXY=p", "http_proxy=p"]);
    assert_eq!(history(&plan), ["RUN /bin/sh -c x # buildkit"]);
}

#[test]
fn a_proxy_that_is_declared_is_an_argument_like_any_other() {
    let plan =
        plan_with("FROM busybox\nARG HTTP_PROXY\nRUN x\n", &with_args(&[("HTTP_PROXY", "p")])).unwrap();
    let Op::Exec(exec) = &plan.graph[plan.result].op else { panic!("no RUN") };
    assert_eq!(exec.env, ["PATH=/bin", "HTTP_PROXY=p"]);
    assert_eq!(exec.unkeyed_env, ["http_proxy=p"]);
}

#[test]
fn an_argument_over_an_env_ends_with_its_stage() {
    let plan = planned("FROM busybox AS a\nENV V=env\nARG V=arg\nFROM a\nRUN x\n");
    assert_eq!(run_env(&plan), ["PATH=/bin", "V=env"]);
    assert_eq!(env(&plan), ["PATH=/bin", "V=env"]);
}

#[test]
fn the_target_stage_is_a_variable() {
    let text = "FROM scratch AS x\nARG TARGETSTAGE\nLABEL s=$TARGETSTAGE\n";
    assert_eq!(history(&planned(text))[1], "LABEL s=x");
    assert_eq!(history(&planned(&text.replace(" AS x", "")))[1], "LABEL s=default");
}

#[test]
fn doubling_a_variable_again_and_again_is_stopped() {
    let mut text = String::from("FROM scratch\nENV A=0123456789abcdef\n");
    text.push_str(&"ENV A=$A$A\n".repeat(40));
    let error = error(&text);
    assert!(
        matches!(error, PlanError::ExpansionTooLong { .. } | PlanError::HistoryTooLong { .. }),
        "{error}"
    );
}

#[test]
fn exposing_everything_again_and_again_is_stopped() {
    let text = format!("FROM scratch\n{}", "EXPOSE 0-65535\n".repeat(40));
    assert!(matches!(error(&text), PlanError::HistoryTooLong { .. }));
}

#[test]
fn a_build_argument_that_nothing_takes_is_known() {
    let text = "ARG A\nFROM busybox AS unneeded\nARG VERSION\nFROM scratch\n";
    let given = [
        ("A", "1"),
        ("VERSION", "2"),
        ("VERSON", "3"),
        ("http_proxy", "p"),
        ("TARGETARCH", "x"),
        ("BUILDKIT_X", ""),
    ];
    let plan = plan_with(text, &with_args(&given)).unwrap();
    assert_eq!(plan.unused_args, [("VERSON".to_owned(), Some("VERSION".to_owned()))]);
}
