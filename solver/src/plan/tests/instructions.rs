use super::*;

#[test]
fn mistakes_are_told_with_their_lines() {
    let files = [
        "EXPOSE 99999",
        "EXPOSE 80/quic",
        "STOPSIGNAL SIGNOPE",
        "COPY --chmod=99z a b",
        "COPY https://x.org/a /b",
        "COPY https://x.org/a.git /b",
        "ADD --checksum=sha256:1 https://x.org/a /b",
        "ADD --checksum=abc a /b",
        "COPY --from=$x a b",
        "COPY ${D:?say-where} /",
        "RUN --mount=target=/ true",
        "RUN --security=insecure x",
        "RUN --network=host x",
    ];
    let mut all = String::new();
    for line in files {
        // The parser refuses some of these itself.
        match kiln_parser::parse(format!("FROM busybox\n{line}\n").as_bytes()) {
            Ok(file) => match plan(&file, &request(), &mut |name, _| Ok(image(&name.familiar(), &[]))) {
                Ok(_) => _ = writeln!(all, "{line}\n  planned"),
                Err(error) => _ = writeln!(all, "{line}\n  {}", told(&error).replace('\n', "\n  ")),
            },
            Err(_) => _ = writeln!(all, "{line}\n  refused by the parser"),
        }
    }
    assert_snapshot!(all, @r#"
    EXPOSE 99999
      line 2: invalid containerPort: 99999
      hint: a port is written 80, 80/udp or 7000-7010/tcp, up to 65535
    EXPOSE 80/quic
      line 2: invalid port: "80/quic": invalid proto: quic
      hint: a port is written 80, 80/udp or 7000-7010/tcp, up to 65535
    STOPSIGNAL SIGNOPE
      line 2: invalid signal: SIGNOPE
    COPY --chmod=99z a b
      line 2: invalid chmod parameter: '99z'. it should be octal string and between 0 and 07777
      hint: write octal digits such as 0755, or symbols such as u=rwX,go=rX
    COPY https://x.org/a /b
      line 2: source can't be a URL for COPY
      hint: use ADD to fetch it
    COPY https://x.org/a.git /b
      line 2: source can't be a git ref for COPY
      hint: use ADD to fetch it
    ADD --checksum=sha256:1 https://x.org/a /b
      line 2: invalid checksum "sha256:1": invalid checksum digest length
      hint: write sha256: and 64 hex digits for a URL, or a commit for a git source
    ADD --checksum=abc a /b
      line 2: checksum requires HTTP(S) or Git sources
    COPY --from=$x a b
      refused by the parser
    COPY ${D:?say-where} /
      line 2: D: say-where
    RUN --mount=target=/ true
      refused by the parser
    RUN --security=insecure x
      line 2: security.insecure is not allowed
      hint: allow it with `--allow security.insecure`
    RUN --network=host x
      line 2: network.host is not allowed
      hint: allow it with `--allow network.host`
    "#);
}

#[test]
fn privileges_are_given_by_the_user() {
    let text = "FROM busybox\nRUN --network=host --security=insecure x\n";
    let allow = vec!["network.host".into(), "security.insecure".into()];
    let plan = plan_with(text, &PlanRequest { allow, ..request() }).unwrap();
    let Op::Exec(exec) = &plan.graph[plan.result].op else { panic!("no RUN") };
    assert_eq!((exec.network, exec.insecure), (NetworkMode::Host, true));
    let host = PlanRequest { network: NetworkMode::Host, ..request() };
    assert!(plan_with("FROM busybox\nRUN --network=host x\n", &host).is_ok());
}

#[test]
fn an_entrypoint_clears_the_cmd_of_the_base_and_not_its_own() {
    assert_eq!(planned("FROM busybox\nENTRYPOINT [\"e\"]\n").config.config.cmd, None);
    let own = planned("FROM busybox\nCMD [\"c\"]\nENTRYPOINT [\"e\"]\n");
    assert_eq!(own.config.config.cmd, Some(vec!["c".into()]));
}

#[test]
fn labels_of_the_command_line_come_last() {
    let labels = vec![("a".into(), "cli".into()), ("c".into(), String::new())];
    let plan = plan_with("FROM scratch\nLABEL a=1 b=2\n", &PlanRequest { labels, ..request() }).unwrap();
    let labels: Vec<_> = plan.config.config.labels.unwrap().into_iter().collect();
    assert_eq!(labels, [("a".into(), "cli".into()), ("b".into(), "2".into()), ("c".into(), String::new())]);
}

#[test]
fn an_image_goes_without_what_is_unset_and_without_labels_that_it_would_inherit() {
    let text = "FROM scratch AS a\nLABEL old=1\nENV A=1 AB=2\nFROM a\nLABEL new=1 other=2\nENV B=$A\n";
    let trim = Trim { env: vec!["A".into()], labels: vec!["other".into(), "cli".into()], ..Trim::default() };
    let request = PlanRequest { labels: vec![("cli".into(), "1".into())], trim, ..request() };
    let trimmed = |request: &PlanRequest| {
        let config = plan_with(text, request).unwrap().config.config;
        let labels: Vec<String> = config.labels.unwrap_or_default().into_keys().collect();
        let env = config.env.unwrap_or_default().into_iter().filter(|pair| !pair.starts_with("PATH="));
        (labels, env.collect::<Vec<_>>())
    };
    assert_eq!(trimmed(&request), (vec!["new".into(), "old".into()], vec!["AB=2".into(), "B=1".into()]));
    let trim = Trim { inherited_labels: true, ..request.trim.clone() };
    assert_eq!(trimmed(&PlanRequest { trim, ..request }).0, ["new"]);
}

#[test]
fn a_variable_of_the_command_line_is_there_from_the_start_of_every_stage() {
    let text = "FROM scratch AS a\nENV B=$A\nFROM a\nENV C=$B$A A=own\n";
    let plan = plan_with(text, &PlanRequest { env: vec![("A".into(), "cli".into())], ..request() }).unwrap();
    let env = plan.config.config.env.unwrap();
    let own: Vec<_> = env.iter().map(String::as_str).filter(|pair| !pair.starts_with("PATH=")).collect();
    assert_eq!(own, ["A=own", "B=cli", "C=clicli"]);
}

#[test]
fn a_relative_workdir_stands_on_the_one_before() {
    let plan = planned("FROM scratch\nWORKDIR /a//b/\nWORKDIR ./c/.\n");
    assert_eq!(history(&plan), ["WORKDIR /a//b/", "WORKDIR /a/b/c"]);
    assert_eq!(plan.config.config.working_dir, "/a/b/c");
    assert_eq!(planned("FROM scratch\nWORKDIR /\n").graph.node_count(), 1);
}

#[test]
fn no_cache_holds_for_the_stages_named() {
    let text = "FROM busybox AS a\nRUN x\nFROM a\nRUN y\n";
    let plan = plan_with(text, &PlanRequest { no_cache_stages: vec!["A".into()], ..request() }).unwrap();
    let uses: Vec<_> = plan.graph.node_weights().map(|vertex| vertex.cache).collect();
    assert_eq!(uses, [CacheUse::Any, CacheUse::Never(NoCacheBy::Filter), CacheUse::Any]);
}

#[test]
fn a_trigger_of_a_base_image_gets_no_secret_that_the_file_does_not_name() {
    assert_snapshot!(told(&error("FROM curious\n")), @r#"
    line 1: onbuild trigger of the base image asks for the secret "npm", which the Dockerfile does not name
    hint: if the base image may have it, use it in the Dockerfile: `RUN --mount=type=secret,id=npm true`
    "#);
    let named = "FROM curious\nRUN --mount=type=secret,id=npm true\n";
    assert!(plan_with(named, &request()).is_ok());
}

#[test]
fn a_trigger_that_is_no_instruction_is_told_at_from() {
    assert_snapshot!(told(&error("# x\nFROM broken\n")), @r#"
    line 2: onbuild trigger of the base image cannot be parsed: "RUNN x"
    "#);
}

#[test]
fn onbuild_is_kept_for_the_next_image() {
    let plan = planned("FROM onbuild\nONBUILD RUN later\n");
    assert_eq!(plan.config.config.on_build, Some(vec!["RUN later".into()]));
}
