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
