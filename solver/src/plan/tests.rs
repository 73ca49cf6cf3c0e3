//! The planner by sentences, and whole plans as people read them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use insta::assert_snapshot;
use kiln_image::oci::{ContainerConfig, History, ImageConfig, RootFs};
use kiln_image::{DiffId, Digest, Platform};
use kiln_parser::Dockerfile;
use petgraph::Direction;
use petgraph::visit::EdgeRef as _;

use super::*;
use crate::explain::NoCacheBy;
use crate::graph::{CacheUse, ExecMountKind, FileAction, Op, Source, Vertex};

fn platform(text: &str) -> Platform {
    text.parse().unwrap()
}

fn request() -> PlanRequest {
    PlanRequest {
        build_args: BTreeMap::new(),
        target: None,
        platform: None,
        build_platform: platform("linux/amd64"),
        labels: Vec::new(),
        no_cache: false,
        no_cache_stages: Vec::new(),
        cache_ttl: None,
        network: NetworkMode::Default,
        extra_hosts: Vec::new(),
        shm_bytes: None,
        ulimits: Vec::new(),
        allow: Vec::new(),
        contexts: BTreeMap::new(),
        ignore: IgnoreRules::default(),
    }
}

fn with_args(args: &[(&str, &str)]) -> PlanRequest {
    let build_args = args.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    PlanRequest { build_args, ..request() }
}

fn with_contexts(contexts: &[(&str, NamedContext)]) -> PlanRequest {
    let contexts = contexts.iter().map(|(name, context)| (name.to_string(), context.clone())).collect();
    PlanRequest { contexts, ..request() }
}

fn parse(text: &str) -> Dockerfile {
    kiln_parser::parse(text.as_bytes()).unwrap()
}

/// An image with one layer, PATH and CMD, and these triggers.
fn image(name: &str, triggers: &[&str]) -> BaseImage {
    let digest = Digest::of(name.as_bytes());
    let on_build: Vec<String> = triggers.iter().map(ToString::to_string).collect();
    let config = ContainerConfig {
        env: Some(vec!["PATH=/bin".into()]),
        cmd: Some(vec!["/bin/sh".into()]),
        on_build: (!on_build.is_empty()).then_some(on_build),
        ..ContainerConfig::default()
    };
    let config = ImageConfig {
        os: "linux".into(),
        architecture: "amd64".into(),
        created: Some("2020-01-01T00:00:00Z".into()),
        config,
        rootfs: RootFs { diff_ids: vec![DiffId(digest)], ..RootFs::default() },
        history: vec![History { created_by: "base".into(), ..History::default() }],
        ..ImageConfig::default()
    };
    BaseImage { digest, manifest: digest, config }
}

/// Plans with images of any name; `absent` is none, `onbuild` has triggers.
fn plan_with(text: &str, request: &PlanRequest) -> Result<Plan, PlanError> {
    plan(&parse(text), request, &mut |name, _| match name.familiar().as_str() {
        "absent:latest" => Err("not found".into()),
        "onbuild:latest" => Ok(image("onbuild", &["COPY . /app", "RUN make"])),
        "curious:latest" => Ok(image("curious", &["RUN --mount=type=secret,id=npm cat /run/secrets/npm"])),
        "broken:latest" => Ok(image("broken", &["RUNN x"])),
        name => Ok(image(name, &[])),
    })
}

fn planned(text: &str) -> Plan {
    plan_with(text, &request()).unwrap()
}

fn error(text: &str) -> PlanError {
    plan_with(text, &request()).unwrap_err()
}

/// The error with its line and hint, as a person reads it.
fn told(error: &PlanError) -> String {
    let line = error.span().map(|span| format!("line {}: ", span.line)).unwrap_or_default();
    let hint = error.hint().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
    format!("{line}{error}{hint}")
}

fn history(plan: &Plan) -> Vec<&str> {
    plan.config.history[plan.base_history..].iter().map(|entry| entry.created_by.as_str()).collect()
}

fn env(plan: &Plan) -> Vec<&str> {
    plan.config.config.env.iter().flatten().map(String::as_str).collect()
}

/// The environment of the last RUN.
fn run_env(plan: &Plan) -> Vec<&str> {
    let runs = plan.graph.node_weights().filter_map(|vertex| match &vertex.op {
        Op::Exec(exec) => Some(exec),
        _ => None,
    });
    runs.last().unwrap().env.iter().map(String::as_str).collect()
}

fn warnings(text: &str) -> Vec<String> {
    planned(text).warnings.into_iter().map(|w| format!("{} {}: {}", w.span.line, w.rule, w.message)).collect()
}

fn names(plan: &Plan) -> Vec<&str> {
    plan.graph.node_weights().map(|vertex| vertex.name.as_str()).collect()
}

/// The graph in order of its making, then what the image says.
fn render(plan: &Plan) -> String {
    let mut out = String::new();
    for id in plan.graph.node_indices() {
        let vertex = &plan.graph[id];
        let mut inputs: Vec<_> = plan.graph.edges_directed(id, Direction::Outgoing).collect();
        inputs.sort_by_key(|edge| edge.weight().0);
        let inputs: Vec<String> = inputs.iter().map(|edge| format!("#{}", edge.target().index())).collect();
        let inputs = if inputs.is_empty() { String::new() } else { format!("  <- {}", inputs.join(" ")) };
        _ = writeln!(out, "#{} {}{inputs}", id.index(), vertex.name);
        render_op(vertex, &mut out);
    }
    _ = writeln!(out, "result #{} for {}", plan.result.index(), plan.platform);
    let config = &plan.config.config;
    _ = writeln!(out, "env {:?}", env(plan));
    for (key, value) in [("cwd", &config.working_dir), ("user", &config.user)] {
        if !value.is_empty() {
            _ = writeln!(out, "{key} {value}");
        }
    }
    for (key, value) in [("entrypoint", &config.entrypoint), ("cmd", &config.cmd)] {
        if let Some(value) = value {
            _ = writeln!(out, "{key} {value:?}");
        }
    }
    for entry in &plan.config.history[plan.base_history..] {
        let empty = if entry.empty_layer { "(no layer) " } else { "" };
        _ = writeln!(out, "history {empty}{}", entry.created_by);
    }
    out
}

fn render_op(vertex: &Vertex, out: &mut String) {
    match &vertex.op {
        Op::Source(Source::Scratch) => _ = writeln!(out, "   scratch"),
        Op::Source(Source::Image { reference, .. }) => _ = writeln!(out, "   image {reference}"),
        Op::Source(Source::Context { name }) => _ = writeln!(out, "   context {name}"),
        Op::Source(source) => _ = writeln!(out, "   {source:?}"),
        Op::Exec(exec) => {
            _ = writeln!(out, "   exec {:?} in {} env {:?}", exec.argv, exec.cwd, exec.env);
            for mount in &exec.mounts {
                let kind = match &mount.kind {
                    ExecMountKind::Bind { input, source, writable } => {
                        format!("bind {source} of input {}, writable {writable}", input.0)
                    }
                    kind => format!("{kind:?}"),
                };
                _ = writeln!(out, "   mount {:?} {kind}", mount.target);
            }
            for (name, script) in &exec.scripts {
                _ = writeln!(out, "   script {name} {script:?}");
            }
        }
        Op::File(file) => {
            for action in &file.actions {
                match action {
                    FileAction::MakeDir { path, mode, owner } => {
                        _ = writeln!(out, "   mkdir {path} {mode:o} {owner:?}");
                    }
                    FileAction::MakeFile { name, dest, contents, .. } => {
                        _ = writeln!(out, "   write {name} {contents:?} to {dest}");
                    }
                    FileAction::Copy { input, source, dest, .. } => {
                        _ = writeln!(out, "   copy {source} of input {} to {dest}", input.0);
                    }
                }
            }
        }
        Op::Merge => _ = writeln!(out, "   merge"),
        Op::Diff => _ = writeln!(out, "   diff"),
    }
}

fn rendered(text: &str) -> String {
    let digest = Digest::of(b"busybox:latest").to_string();
    render(&planned(text)).replace(&digest, "sha256:…")
}

mod stages {
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
        assert!(matches!(error(text), PlanError::CircularStages { stage, .. } if stage == "a"));
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
}

mod variables {
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
}

mod instructions {
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
          line 2: invalid checksum "sha256:1": unsupported digest algorithm or format
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
        assert_eq!(
            labels,
            [("a".into(), "cli".into()), ("b".into(), "2".into()), ("c".into(), String::new())]
        );
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
}

mod warned {
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
}

mod outlined {
    use super::*;

    fn outlined(text: &str, request: &PlanRequest) -> Outline {
        outline(&parse(text), request, &mut |name, _| Ok(image(&name.familiar(), &[]))).unwrap()
    }

    const TEXT: &str = "\
# BASE the image to start from
ARG BASE=busybox:$TAG
# TAG its version
ARG TAG=1
ARG TAGS=$TAG
ARG UNUSED=1
ARG MODE=fast
FROM busybox:$TAGS AS tools
ARG ONLY_TOOLS
RUN --mount=type=cache,target=/root/.cache --mount=type=secret,id=npm,required=true true
FROM scratch AS unneeded
ARG NEVER=1
# app what ships
FROM busybox AS app
# LEVEL how loud
ARG LEVEL=$MODE TARGETARCH
ARG MODE
COPY --from=tools /a /b
RUN --mount=type=ssh --mount=type=secret,id=late,env=LATE true
";

    #[test]
    fn the_target_and_what_it_needs() {
        let outline = outlined(TEXT, &with_args(&[("LEVEL", "9")]));
        assert_eq!((outline.name.as_str(), outline.description.as_deref()), ("app", Some("what ships")));
        let args = outline.args.iter().map(|arg| {
            let (value, about) = (arg.value.as_deref(), arg.description.as_deref());
            format!("{} {} {:?} {}\n", arg.span.line, arg.name, value, about.unwrap_or("-"))
        });
        assert_snapshot!(args.collect::<String>(), @r#"
        4 TAG Some("1") its version
        5 TAGS Some("1") -
        7 MODE Some("fast") -
        9 ONLY_TOOLS None -
        16 LEVEL Some("9") how loud
        "#);
        let mounts = |list: &[OutlineMount]| {
            let lines =
                list.iter().map(|mount| format!("{} {} {}", mount.span.line, mount.id, mount.required));
            lines.collect::<Vec<_>>()
        };
        assert_eq!(mounts(&outline.secrets), ["10 npm true", "19 late false"]);
        assert_eq!(mounts(&outline.ssh), ["19 default false"]);
        assert_eq!(mounts(&outline.caches), ["10 /root/.cache false"]);
    }

    #[test]
    fn another_target_has_its_own() {
        let request = PlanRequest { target: Some("unneeded".into()), ..request() };
        let outline = outlined(TEXT, &request);
        let names: Vec<_> = outline.args.iter().map(|arg| arg.name.as_str()).collect();
        assert_eq!(names, ["NEVER"]);
        assert!(outline.secrets.is_empty());
    }
}

mod graphs {
    use super::*;

    #[test]
    fn one_stage() {
        assert_snapshot!(rendered("FROM busybox\nWORKDIR /src\nCOPY a b ./\nRUN make -C $PWD\nCMD [\"x\"]\n"), @r#"
        #0 [1/4] FROM docker.io/library/busybox:latest@sha256:…
           image docker.io/library/busybox:latest
        #1 [2/4] WORKDIR /src  <- #0
           mkdir /src 755 None
        #2 [internal] load build context
           context context
        #3 [3/4] COPY a b ./  <- #1 #2
           copy /a of input 1 to /src/
           copy /b of input 1 to /src/
        #4 [4/4] RUN make -C $PWD  <- #3
           exec ["/bin/sh", "-c", "make -C $PWD"] in /src env ["PATH=/bin"]
        result #4 for linux/amd64
        env ["PATH=/bin"]
        cwd /src
        cmd ["x"]
        history WORKDIR /src
        history COPY a b ./ # buildkit
        history RUN /bin/sh -c make -C $PWD # buildkit
        history (no layer) CMD ["x"]
        "#);
    }

    #[test]
    fn a_builder_and_its_result() {
        assert_snapshot!(rendered(
            "FROM busybox AS build\nCOPY src /src\nRUN cc -o /app /src/*.c\n\
             FROM scratch AS unused\nCOPY nothing /\n\
             FROM scratch\nCOPY --from=build --chown=1000 /app /app\nENTRYPOINT [\"/app\"]\n"
        ), @r#"
        #0 [build 1/3] FROM docker.io/library/busybox:latest@sha256:…
           image docker.io/library/busybox:latest
        #1 [internal] load build context
           context context
        #2 [build 2/3] COPY src /src  <- #0 #1
           copy /src of input 1 to /src
        #3 [build 3/3] RUN cc -o /app /src/*.c  <- #2
           exec ["/bin/sh", "-c", "cc -o /app /src/*.c"] in / env ["PATH=/bin"]
        #4 [internal] scratch
           scratch
        #5 [stage-2 1/1] COPY --from=build --chown=1000 /app /app  <- #4 #3
           copy /app of input 1 to /app
        result #5 for linux/amd64
        env ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
        cwd /
        entrypoint ["/app"]
        history COPY --chown=1000 /app /app # buildkit
        history (no layer) ENTRYPOINT ["/app"]
        "#);
    }

    #[test]
    fn a_stage_on_a_stage() {
        assert_snapshot!(rendered(
            "FROM busybox AS base\nARG V=1\nENV A=$V\nWORKDIR w\n\
             FROM base AS left\nRUN left\nFROM base AS right\nRUN right\n\
             FROM left\nCOPY --from=right /r /r\nRUN both $V\n"
        ), @r#"
        #0 [base 1/2] FROM docker.io/library/busybox:latest@sha256:…
           image docker.io/library/busybox:latest
        #1 [base 2/2] WORKDIR w  <- #0
           mkdir /w 755 None
        #2 [left 1/1] RUN left  <- #1
           exec ["/bin/sh", "-c", "left"] in /w env ["PATH=/bin", "V=1", "A=1"]
        #3 [right 1/1] RUN right  <- #1
           exec ["/bin/sh", "-c", "right"] in /w env ["PATH=/bin", "V=1", "A=1"]
        #4 [stage-3 1/2] COPY --from=right /r /r  <- #2 #3
           copy /r of input 1 to /r
        #5 [stage-3 2/2] RUN both 1  <- #4
           exec ["/bin/sh", "-c", "both $V"] in /w env ["PATH=/bin", "V=1", "A=1"]
        result #5 for linux/amd64
        env ["PATH=/bin", "A=1"]
        cwd /w
        cmd ["/bin/sh"]
        history (no layer) ARG V=1
        history (no layer) ENV A=1
        history WORKDIR /w
        history RUN |1 V=1 /bin/sh -c left # buildkit
        history COPY /r /r # buildkit
        history RUN |1 V=1 /bin/sh -c both $V # buildkit
        "#);
    }

    #[test]
    fn equal_steps_of_two_stages_are_one() {
        assert_snapshot!(rendered(
            "FROM busybox AS a\nRUN same\nFROM busybox AS b\nRUN same\nRUN other\n\
             FROM scratch\nCOPY --from=a /x /a\nCOPY --from=b /x /b\n"
        ), @r#"
        #0 [a 1/2] FROM docker.io/library/busybox:latest@sha256:…
           image docker.io/library/busybox:latest
        #1 [a 2/2] RUN same  <- #0
           exec ["/bin/sh", "-c", "same"] in / env ["PATH=/bin"]
        #2 [b 3/3] RUN other  <- #1
           exec ["/bin/sh", "-c", "other"] in / env ["PATH=/bin"]
        #3 [internal] scratch
           scratch
        #4 [stage-2 1/2] COPY --from=a /x /a  <- #3 #1
           copy /x of input 1 to /a
        #5 [stage-2 2/2] COPY --from=b /x /b  <- #4 #2
           copy /x of input 1 to /b
        result #5 for linux/amd64
        env ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
        cwd /
        history COPY /x /a # buildkit
        history COPY /x /b # buildkit
        "#);
    }

    #[test]
    fn linked_copies() {
        assert_snapshot!(rendered(
            "FROM busybox\nWORKDIR /w\nCOPY --link a ./\nCOPY --link --chmod=600 b /b\nADD --link c /c/\n"
        ), @r#"
        #0 [1/5] FROM docker.io/library/busybox:latest@sha256:…
           image docker.io/library/busybox:latest
        #1 [2/5] WORKDIR /w  <- #0
           mkdir /w 755 None
        #2 [internal] load build context
           context context
        #3 [internal] scratch
           scratch
        #4 [3/5] COPY --link a ./  <- #3 #2
           copy /a of input 1 to /w/
        #5 [3/5] LINK COPY --link a ./  <- #1 #4
           merge
        #6 [4/5] COPY --link --chmod=600 b /b  <- #5 #2
           copy /b of input 1 to /b
        #7 [5/5] ADD --link c /c/  <- #3 #2
           copy /c of input 1 to /c/
        #8 [5/5] LINK ADD --link c /c/  <- #6 #7
           merge
        result #8 for linux/amd64
        env ["PATH=/bin"]
        cwd /w
        cmd ["/bin/sh"]
        history WORKDIR /w
        history COPY a ./ # buildkit
        history COPY --chmod=600 b /b # buildkit
        history ADD c /c/ # buildkit
        "#);
    }

    #[test]
    fn heredocs() {
        assert_snapshot!(rendered(
            "FROM busybox\nARG who=world\nRUN <<EOF\necho one\necho two\nEOF\nRUN <<EOF\n#!/bin/awk -f\nBEGIN {}\nEOF\n\
             RUN cat <<A >/a && cat <<B >/b\n1\nA\n2\nB\nCOPY <<hello.txt <<'raw.txt' /etc/\n\"$who\"\nhello.txt\n$who\nraw.txt\n"
        ), @r##"
        #0 [1/5] FROM docker.io/library/busybox:latest@sha256:…
           image docker.io/library/busybox:latest
        #1 [2/5] RUN <<EOF (echo one...)  <- #0
           exec ["/bin/sh", "-c", "echo one\necho two\n"] in / env ["PATH=/bin", "who=world"]
        #2 [3/5] RUN <<EOF (#!/bin/awk -f...)  <- #1
           exec ["/bin/sh", "-c", "/dev/pipes/EOF"] in / env ["PATH=/bin", "who=world"]
           script EOF "#!/bin/awk -f\nBEGIN {}\n"
        #3 [4/5] RUN cat <<A >/a && cat <<B >/b  <- #2
           exec ["/bin/sh", "-c", "cat <<A >/a && cat <<B >/b\n1\nA\n2\nB"] in / env ["PATH=/bin", "who=world"]
        #4 [5/5] COPY <<hello.txt <<'raw.txt' /etc/  <- #3
           write hello.txt "\"world\"\n" to /etc/
           write raw.txt "$who\n" to /etc/
        result #4 for linux/amd64
        env ["PATH=/bin"]
        cmd ["/bin/sh"]
        history (no layer) ARG who=world
        history RUN |1 who=world /bin/sh -c echo one
        echo two
         # buildkit
        history RUN |1 who=world /bin/sh -c /dev/pipes/EOF # buildkit
        history RUN |1 who=world /bin/sh -c cat <<A >/a && cat <<B >/b
        1
        A
        2
        B # buildkit
        history COPY <<hello.txt <<raw.txt /etc/ # buildkit
        "##);
    }

    #[test]
    fn triggers_of_an_image() {
        assert_snapshot!(rendered("FROM onbuild\nRUN after\n")
            .replace(&Digest::of(b"onbuild").to_string(), "sha256:…"), @r#"
        #0 [1/4] FROM docker.io/library/onbuild:latest@sha256:…
           image docker.io/library/onbuild:latest
        #1 [internal] load build context
           context context
        #2 [2/4] ONBUILD COPY . /app  <- #0 #1
           copy / of input 1 to /app
        #3 [3/4] ONBUILD RUN make  <- #2
           exec ["/bin/sh", "-c", "make"] in / env ["PATH=/bin"]
        #4 [4/4] RUN after  <- #3
           exec ["/bin/sh", "-c", "after"] in / env ["PATH=/bin"]
        result #4 for linux/amd64
        env ["PATH=/bin"]
        cmd ["/bin/sh"]
        history COPY . /app # buildkit
        history RUN /bin/sh -c make # buildkit
        history RUN /bin/sh -c after # buildkit
        "#);
    }

    #[test]
    fn triggers_of_a_stage() {
        assert_snapshot!(rendered(
            "FROM busybox AS tool\nRUN build\nFROM busybox AS parent\nONBUILD COPY --from=tool /t /t\nONBUILD ENV T=1\n\
             FROM parent AS child\nRUN child\nFROM child\nRUN grandchild\n"
        ), @r#"
        #0 [tool 1/2] FROM docker.io/library/busybox:latest@sha256:…
           image docker.io/library/busybox:latest
        #1 [tool 2/2] RUN build  <- #0
           exec ["/bin/sh", "-c", "build"] in / env ["PATH=/bin"]
        #2 [child 1/2] ONBUILD COPY --from=tool /t /t  <- #0 #1
           copy /t of input 1 to /t
        #3 [child 2/2] RUN child  <- #2
           exec ["/bin/sh", "-c", "child"] in / env ["PATH=/bin", "T=1"]
        #4 [stage-3 1/1] RUN grandchild  <- #3
           exec ["/bin/sh", "-c", "grandchild"] in / env ["PATH=/bin", "T=1"]
        result #4 for linux/amd64
        env ["PATH=/bin", "T=1"]
        cmd ["/bin/sh"]
        history COPY /t /t # buildkit
        history (no layer) ENV T=1
        history RUN /bin/sh -c child # buildkit
        history RUN /bin/sh -c grandchild # buildkit
        "#);
    }

    #[test]
    fn mounts() {
        assert_snapshot!(rendered(
            "FROM busybox AS deps\nFROM busybox\nWORKDIR /w\nARG ID=npm\n\
             RUN --mount=target=ctx --mount=type=bind,from=deps,source=lib,target=/lib,rw \
             --mount=type=cache,id=$ID,target=.cache --mount=type=cache,target=/c/,from=deps,source=/seed,mode=0700 \
             --mount=type=tmpfs,target=/tmp --mount=type=secret,id=s --mount=type=secret,id=t,env=TOKEN \
             --mount=type=ssh build $TOKEN\n"
        ), @r#"
        #0 [deps 1/1] FROM docker.io/library/busybox:latest@sha256:…
           image docker.io/library/busybox:latest
        #1 [stage-1 2/3] WORKDIR /w  <- #0
           mkdir /w 755 None
        #2 [internal] load build context
           context context
        #3 [stage-1 3/3] RUN --mount=target=ctx --mount=type=bind,from=deps,source=lib,target=/lib,rw --mount=type=cache,id=npm,target=.cache --mount=type=cache,target=/c/,from=deps,source=/seed,mode=0700 --mount=type=tmpfs,target=/tmp --mount=type=secret,id=s --mount=type=secret,id=t,env=TOKEN --mount=type=ssh build ****  <- #1 #2 #0
           exec ["/bin/sh", "-c", "build $TOKEN"] in /w env ["PATH=/bin", "ID=npm", "SSH_AUTH_SOCK=/run/buildkit/ssh_agent.0"]
           mount "/w/ctx" bind / of input 1, writable false
           mount "/lib" bind /lib of input 2, writable true
           mount "/w/.cache" Cache { id: "/npm", seed: None, sharing: Shared, read_only: false, mode: 493, uid: 0, gid: 0 }
           mount "/c" Cache { id: "//c", seed: Some((InputIndex(2), "/seed")), sharing: Shared, read_only: false, mode: 448, uid: 0, gid: 0 }
           mount "/tmp" Tmpfs { size: None }
           mount "/run/secrets/s" Secret { id: "s", env: None, required: false, mode: 256, uid: 0, gid: 0 }
           mount "" Secret { id: "t", env: Some("TOKEN"), required: false, mode: 256, uid: 0, gid: 0 }
           mount "/run/buildkit/ssh_agent.0" Ssh { id: "default", required: false, mode: 384, uid: 0, gid: 0 }
        result #3 for linux/amd64
        env ["PATH=/bin"]
        cwd /w
        cmd ["/bin/sh"]
        history WORKDIR /w
        history (no layer) ARG ID=npm
        history RUN |1 ID=npm /bin/sh -c build $TOKEN # buildkit
        "#);
    }

    #[test]
    fn sources_that_are_fetched() {
        assert_snapshot!(rendered(
            "FROM scratch\nADD https://example.org/a.tar.gz?x=1 /dl/\n\
             ADD --keep-git-dir https://example.org/o/r.git#v1:sub /src\nADD --unpack=true https://example.org/b.tgz local /x/\n"
        ), @r#"
        #0 [internal] scratch
           scratch
        #1 [1/3] ADD https://example.org/a.tar.gz?x=1 /dl/
           Http { url: "https://example.org/a.tar.gz?x=1", checksum: None }
        #2 [1/3] ADD https://example.org/a.tar.gz?x=1 /dl/  <- #0 #1
           copy /a.tar.gz of input 1 to /dl/
        #3 [2/3] ADD --keep-git-dir https://example.org/o/r.git#v1:sub /src
           Git(GitSource { remote: "https://example.org/o/r.git", reference: "v1", subdir: "sub", keep_git_dir: true, checksum: None, submodules: true, times: Checkout, fetch_by_commit: false })
        #4 [2/3] ADD --keep-git-dir https://example.org/o/r.git#v1:sub /src  <- #2 #3
           copy / of input 1 to /src
        #5 [3/3] ADD --unpack=true https://example.org/b.tgz local /x/
           Http { url: "https://example.org/b.tgz", checksum: None }
        #6 [internal] load build context
           context context
        #7 [3/3] ADD --unpack=true https://example.org/b.tgz local /x/  <- #4 #5 #6
           copy /b.tgz of input 1 to /x/
           copy /local of input 2 to /x/
        result #7 for linux/amd64
        env ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
        cwd /
        history ADD https://example.org/a.tar.gz?x=1 /dl/ # buildkit
        history ADD https://example.org/o/r.git#v1:sub /src # buildkit
        history ADD https://example.org/b.tgz local /x/ # buildkit
        "#);
    }

    #[test]
    fn shell_forms() {
        assert_snapshot!(rendered(
            "FROM busybox\nRUN [\"a\", \"b c\"]\nSHELL [\"/bin/bash\", \"-ec\"]\nRUN x | y\nENTRYPOINT run me\nCMD [\"arg\"]\n"
        ), @r#"
        #0 [1/3] FROM docker.io/library/busybox:latest@sha256:…
           image docker.io/library/busybox:latest
        #1 [2/3] RUN ["a", "b c"]  <- #0
           exec ["a", "b c"] in / env ["PATH=/bin"]
        #2 [3/3] RUN x | y  <- #1
           exec ["/bin/bash", "-ec", "x | y"] in / env ["PATH=/bin"]
        result #2 for linux/amd64
        env ["PATH=/bin"]
        entrypoint ["/bin/bash", "-ec", "run me"]
        cmd ["arg"]
        history RUN a b c # buildkit
        history (no layer) SHELL [/bin/bash -ec]
        history RUN /bin/bash -ec x | y # buildkit
        history (no layer) ENTRYPOINT ["/bin/bash" "-ec" "run me"]
        history (no layer) CMD ["arg"]
        "#);
    }

    #[test]
    fn arguments() {
        let text = "ARG TAG=1 BASE=busybox\nFROM $BASE:$TAG\nARG TAG\nARG A=a B C=$A-$TARGETARCH\nARG TARGETARCH\n\
                    RUN go\nENV A=env\nRUN again\n";
        let plan = plan_with(text, &with_args(&[("TAG", "2"), ("B", "b b"), ("HTTP_PROXY", "p")])).unwrap();
        assert_snapshot!(render(&plan).replace(&Digest::of(b"busybox:2").to_string(), "sha256:…"), @r#"
        #0 [1/3] FROM docker.io/library/busybox:2@sha256:…
           image docker.io/library/busybox:2
        #1 [2/3] RUN go  <- #0
           exec ["/bin/sh", "-c", "go"] in / env ["PATH=/bin", "TAG=2", "A=a", "B=b b", "C=a-", "TARGETARCH=amd64"]
        #2 [3/3] RUN again  <- #1
           exec ["/bin/sh", "-c", "again"] in / env ["PATH=/bin", "TAG=2", "B=b b", "C=a-", "TARGETARCH=amd64", "A=env"]
        result #2 for linux/amd64
        env ["PATH=/bin", "A=env"]
        cmd ["/bin/sh"]
        history (no layer) ARG TAG=2
        history (no layer) ARG A=a B=b b C=a-
        history (no layer) ARG TARGETARCH=amd64
        history RUN |5 TAG=2 A=a B=b b C=a- TARGETARCH=amd64 /bin/sh -c go # buildkit
        history (no layer) ENV A=env
        history RUN |5 TAG=2 A=env B=b b C=a- TARGETARCH=amd64 /bin/sh -c again # buildkit
        "#);
    }

    #[test]
    fn named_contexts() {
        let text = "FROM busybox AS base\nRUN base\nFROM base\nCOPY --from=data /f /f\nCOPY --from=replaced /g /g\n\
                    FROM busybox AS replaced\nRUN never\n";
        let text = format!("{text}FROM src\nCOPY --from=1 / /one\nCOPY --from=replaced /r /r\n");
        let alpine = NamedContext::Image("alpine:3".parse().unwrap());
        let contexts = [
            ("base", alpine),
            ("data", NamedContext::Tree),
            ("src", NamedContext::Tree),
            ("replaced", NamedContext::Tree),
        ];
        let text = text.replace("COPY --from=replaced /g /g\n", "");
        let plan = plan_with(&text, &with_contexts(&contexts)).unwrap();
        assert_snapshot!(render(&plan).replace(&Digest::of(b"alpine:3").to_string(), "sha256:…"), @r#"
        #0 [context base] docker.io/library/alpine:3@sha256:…
           image docker.io/library/alpine:3
        #1 [context data] load from client
           context data
        #2 [stage-1 1/1] COPY --from=data /f /f  <- #0 #1
           copy /f of input 1 to /f
        #3 [context replaced] load from client
           context replaced
        #4 [context src] load from client
           context src
        #5 [internal] scratch
           scratch
        #6 [internal] copy named context  <- #5 #4
           copy / of input 1 to /
        #7 [stage-3 1/2] COPY --from=1 / /one  <- #6 #2
           copy / of input 1 to /one
        #8 [stage-3 2/2] COPY --from=replaced /r /r  <- #7 #3
           copy /r of input 1 to /r
        result #8 for linux/amd64
        env ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
        cwd /
        history COPY / /one # buildkit
        history COPY /r /r # buildkit
        "#);
    }

    #[test]
    fn parents_and_excludes() {
        assert_snapshot!(rendered("FROM scratch\nCOPY --parents --exclude=*.md a/./b/*.c ../x/ /out\nCOPY a/../../b /.\n"), @r#"
        #0 [internal] scratch
           scratch
        #1 [internal] load build context
           context context
        #2 [1/2] COPY --parents --exclude=*.md a/./b/*.c ../x/ /out  <- #0 #1
           copy /a/./b/*.c of input 1 to /out
           copy /x of input 1 to /out
        #3 [2/2] COPY a/../../b /.  <- #2 #1
           copy /b of input 1 to /.
        result #3 for linux/amd64
        env ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
        cwd /
        history COPY --parents a/./b/*.c ../x/ /out # buildkit
        history COPY a/../../b /. # buildkit
        "#);
    }

    #[test]
    fn metadata() {
        let text = "FROM scratch\nLABEL a=\"b c\" d=e\nEXPOSE 80 53/udp 7000-7001\nVOLUME /v \"/w\"\nUSER 1:2\nWORKDIR /d\n\
                    STOPSIGNAL SIGINT\nHEALTHCHECK --interval=90s --retries=2 CMD true\nONBUILD RUN x\nCMD a \"b\"\nMAINTAINER me\n";
        assert_snapshot!(rendered(text), @r#"
        #0 [internal] scratch
           scratch
        #1 [1/1] WORKDIR /d  <- #0
           mkdir /d 755 Some(Owner("1:2"))
        result #1 for linux/amd64
        env ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
        cwd /d
        user 1:2
        cmd ["/bin/sh", "-c", "a \"b\""]
        history (no layer) LABEL a=b c d=e
        history (no layer) EXPOSE [53/udp 7000/tcp 7001/tcp 80/tcp]
        history (no layer) VOLUME [/v /w]
        history (no layer) USER 1:2
        history WORKDIR /d
        history (no layer) STOPSIGNAL SIGINT
        history (no layer) HEALTHCHECK {Test:[CMD-SHELL true] Interval:1m30s Timeout:0s StartPeriod:0s StartInterval:0s Retries:2}
        history (no layer) CMD ["/bin/sh" "-c" "a \"b\""]
        history (no layer) MAINTAINER me
        "#);
    }
}

#[test]
fn a_cache_mount_with_a_shape_is_empty_and_a_cache_of_its_own() {
    let text = "FROM base AS deps\nFROM base\n\
                RUN --mount=type=cache,target=/c,from=deps,mode=0700 true\n\
                RUN --mount=type=cache,target=/c,uid=5,gid=6 true\n\
                RUN --mount=type=cache,target=/c,from=deps,source=/s,uid=5 true\n";
    let plan = planned(text);
    let mut caches = Vec::new();
    for vertex in plan.graph.node_weights() {
        let Op::Exec(exec) = &vertex.op else { continue };
        for mount in &exec.mounts {
            let ExecMountKind::Cache { id, seed, .. } = &mount.kind else { continue };
            caches.push((id.as_str(), seed.is_some()));
        }
    }
    assert_eq!(caches, [("//c:700:0:0", false), ("//c:755:5:6", false), ("//c", true)]);
}

fn epoch(text: &str, args: &[(&str, &str)]) -> Result<Option<EpochSource>, PlanError> {
    source_date_epoch(&parse(text), &with_args(args))
}

#[test]
fn the_epoch_is_an_argument_or_a_global_default_of_one() {
    let text = "ARG SOURCE_DATE_EPOCH=5\nFROM scratch\n";
    assert_eq!(epoch(text, &[]).unwrap(), Some(EpochSource::Seconds(5)));
    assert_eq!(epoch(text, &[("SOURCE_DATE_EPOCH", "7")]).unwrap(), Some(EpochSource::Seconds(7)));
    assert_eq!(epoch(text, &[("SOURCE_DATE_EPOCH", "")]).unwrap(), None);
    assert_eq!(epoch("FROM scratch\nARG SOURCE_DATE_EPOCH=5\n", &[]).unwrap(), None);
    let context = EpochSource::Context("context".into());
    assert_eq!(epoch(text, &[("SOURCE_DATE_EPOCH", "context")]).unwrap(), Some(context));
}

#[test]
fn the_epoch_may_be_that_of_a_stage_with_one_remote_add() {
    let args = [("SOURCE_DATE_EPOCH", "Src"), ("V", "2")];
    let text = "FROM scratch AS src\nARG V=1\nADD https://x.org/a-$V.tar /\nFROM scratch\n";
    let Ok(Some(EpochSource::Url { url, .. })) = epoch(text, &args) else { panic!("no URL") };
    assert_eq!(url, "https://x.org/a-2.tar");
    let problem = |text: &str| told(&epoch(text, &args).unwrap_err());
    assert_snapshot!(problem("FROM scratch\n"), @"invalid SOURCE_DATE_EPOCH: Src");
    assert_snapshot!(
        problem("FROM base AS src\nADD https://x.org/a /\n"),
        @"line 1: SOURCE_DATE_EPOCH stage must use FROM scratch"
    );
    assert_snapshot!(
        problem("FROM scratch AS src\nCOPY a /\n"),
        @"line 1: SOURCE_DATE_EPOCH stage does not meet source-only requirements: unsupported COPY instruction"
    );
}

#[test]
fn what_several_platforms_need_is_in_their_graph_once() {
    let text =
        "FROM --platform=$BUILDPLATFORM base AS tools\nRUN build\nFROM scratch\nCOPY --from=tools /x /\n";
    let of = |name: &str| {
        let request = PlanRequest { platform: Some(platform(name)), ..request() };
        plan_with(text, &request).unwrap()
    };
    let (graph, results) = join(&[of("linux/amd64"), of("linux/arm64")]);
    let names: Vec<&str> = graph
        .node_weights()
        .map(|vertex| vertex.name.as_str())
        .filter(|name| !name.contains("FROM") && !name.contains("internal"))
        .collect();
    assert_eq!(
        names,
        [
            "[linux/amd64 tools 2/2] RUN build",
            "[linux/amd64 stage-1 1/1] COPY --from=tools /x /",
            "[linux/arm64 stage-1 1/1] COPY --from=tools /x /",
        ]
    );
    assert_ne!(results[0], results[1]);
}
