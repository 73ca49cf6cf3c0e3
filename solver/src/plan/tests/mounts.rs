use super::*;

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

#[test]
fn what_a_mount_is_from_must_be_there_whatever_its_type_shows_of_it() {
    for mount in ["type=tmpfs,target=/t", "type=ssh", "type=cache,target=/t", "target=/t"] {
        let problem = |from: &str| {
            let text = format!(
                "FROM base AS early\nFROM base AS me\nRUN --mount={mount},from={from} true\n\
                 FROM base AS later\n"
            );
            let request = PlanRequest { target: Some("me".into()), ..request() };
            plan_with(&text, &request).err().map(|error| error.to_string())
        };
        let target = if mount == "type=ssh" { "" } else { "/t" };
        let later = format!(
            "cannot mount from stage \"later\" to \"{target}\", stage needs to be defined before current command"
        );
        assert_eq!(problem("early"), None, "{mount}");
        assert_eq!(problem("later"), Some(later), "{mount}");
        assert_eq!(problem("me").as_deref(), Some("circular dependency detected on stage: me"), "{mount}");
        assert_eq!(problem("absent").as_deref(), Some("absent: image cannot be used"), "{mount}");
    }
    // It is looked up and no more.
    let unused = planned(
        "FROM base AS early\nRUN make\nFROM base\nRUN --mount=type=tmpfs,target=/t,from=early true\n",
    );
    assert_eq!(crate::solve::needed(&unused.graph, &[unused.result]).len(), 2);
}

#[test]
fn any_value_of_a_mount_may_come_from_a_variable() {
    let text = "FROM base\nARG type=cache mode=locked readonly=true bits=0700\n\
                RUN --mount=type=$type,target=/c,sharing=${mode},ro=$readonly,mode=$bits true\n";
    let plan = planned(text);
    let Op::Exec(exec) = &plan.graph[plan.result].op else { unreachable!() };
    let ExecMountKind::Cache { sharing, read_only, mode, .. } = &exec.mounts[0].kind else {
        panic!("{:?}", exec.mounts)
    };
    assert_eq!((*sharing, *read_only, *mode), (kiln_parser::CacheSharing::Locked, true, 0o700));
}

#[test]
fn a_variable_that_makes_no_mount_is_refused() {
    for (option, problem) in [
        ("type=$x,target=/c", "unsupported mount type \"y\""),
        ("type=cache,target=/c,sharing=$x", "unsupported sharing value \"y\""),
        ("type=tmpfs,target=/c,size=${x}", "invalid value for size: y"),
    ] {
        let text = format!("FROM base\nARG x=y\nRUN --mount={option} true\n");
        assert_eq!(plan_with(&text, &request()).unwrap_err().to_string(), problem);
    }
}

#[test]
fn a_run_without_a_command_is_refused() {
    let error = plan_with("FROM base\nRUN []\n", &request()).unwrap_err();
    assert_eq!(error.to_string(), "RUN has no command: arguments are required");
    assert_eq!(error.span().unwrap().line, 2);
}
