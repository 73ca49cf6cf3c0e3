use super::*;

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
