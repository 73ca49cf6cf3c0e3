//! The plans of one file for several platforms as one graph (FEATURES MP).

use kiln_image::Platform;
use petgraph::Direction;
use petgraph::visit::EdgeRef as _;

use super::Plan;
use super::vertices::Vertices;
use crate::graph::{Graph, Op, Source, VertexId};

/// Joins plans into one graph, in which what several platforms need is there once; answers the plans' targets in it,
/// those of the first plan first.
///
/// Steps are named by their platform as well: `[linux/arm64 build 2/5] RUN make`.
pub fn join(plans: &[Plan]) -> (Graph, Vec<VertexId>) {
    let mut vertices = Vertices::default();
    // Of each joined vertex, the plan that it is for; `None` once it is for several.
    let mut owners: Vec<Option<usize>> = Vec::new();
    let mut targets = Vec::with_capacity(plans.len());
    for (number, plan) in plans.iter().enumerate() {
        let mut places: Vec<VertexId> = Vec::with_capacity(plan.graph.node_count());
        // A plan's vertices stand behind their inputs.
        for id in plan.graph.node_indices() {
            let mut vertex = plan.graph[id].clone();
            if is_the_same_everywhere(&vertex.op) {
                vertex.platform.clone_from(&plans[0].platform);
            }
            let mut inputs: Vec<_> = plan.graph.edges_directed(id, Direction::Outgoing).collect();
            inputs.sort_by_key(|edge| *edge.weight());
            let inputs: Vec<_> = inputs.into_iter().map(|edge| places[edge.target().index()]).collect();
            let place = vertices.add(vertex, &inputs);
            places.push(place);
            match owners.get_mut(place.index()) {
                None => owners.push(Some(number)),
                Some(owner) if *owner != Some(number) => *owner = None,
                Some(_) => {}
            }
        }
        targets.extend(plan.targets().map(|target| places[target.index()]));
    }
    let mut graph = vertices.into_graph();
    for (vertex, owner) in graph.node_weights_mut().zip(owners) {
        let target = owner.map(|number| &plans[number].platform);
        vertex.name = named(&vertex.name, &vertex.platform, target);
    }
    (graph, targets)
}

/// Whether an operation has nothing to do with a platform.
fn is_the_same_everywhere(op: &Op) -> bool {
    matches!(
        op,
        Op::Source(Source::Scratch | Source::Context { .. } | Source::Http { .. } | Source::Git { .. })
    )
}

/// The name of a step that runs on `platform` for the image of `target` alone.
fn named(name: &str, platform: &Platform, target: Option<&Platform>) -> String {
    let Some(rest) = name.strip_prefix('[').filter(|_| !name.starts_with("[internal]")) else {
        return name.to_owned();
    };
    let cross = match target {
        Some(target) if target.os != platform.os => format!("->{target}"),
        Some(target) if target != platform => {
            let variant = if target.variant.is_empty() { "" } else { "/" };
            format!("->{}{variant}{}", target.architecture, target.variant)
        }
        _ => String::new(),
    };
    format!("[{platform}{cross} {rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_named_by_where_it_runs_and_by_what_it_is_for() {
        let [amd, arm] = ["linux/amd64", "linux/arm/v7"].map(|name| name.parse::<Platform>().unwrap());
        assert_eq!(named("[1/2] RUN x", &amd, Some(&amd)), "[linux/amd64 1/2] RUN x");
        assert_eq!(named("[b 1/2] RUN x", &amd, Some(&arm)), "[linux/amd64->arm/v7 b 1/2] RUN x");
        assert_eq!(named("[b 1/2] RUN x", &amd, None), "[linux/amd64 b 1/2] RUN x");
        assert_eq!(named("[internal] scratch", &amd, None), "[internal] scratch");
    }
}
