//! The graph while it grows: equal vertices are made once.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use crate::graph::{Graph, InputIndex, Vertex, VertexId};

/// A graph in which the same operation on the same inputs, for the same platform, is one vertex.
///
/// Since a vertex is added after its inputs, and equal inputs are one vertex, comparing their ids is enough.
#[derive(Debug, Default)]
pub(super) struct Vertices {
    graph: Graph,
    /// By vertex.
    inputs: Vec<Vec<VertexId>>,
    /// Vertices by their hash; randomly keyed, since the Dockerfile decides what is hashed.
    known: HashMap<u64, Vec<VertexId>>,
    hasher: RandomState,
}

impl Vertices {
    /// Adds a vertex, or finds the one that does the same; the first one's name stays.
    pub(super) fn add(&mut self, vertex: Vertex, inputs: &[VertexId]) -> VertexId {
        let hash = self.hasher.hash_one((&vertex.op, &vertex.platform, vertex.cache, inputs));
        let bucket = self.known.entry(hash).or_default();
        let same = bucket.iter().copied().find(|id| {
            let known = &self.graph[*id];
            self.inputs[id.index()] == inputs
                && known.cache == vertex.cache
                && known.platform == vertex.platform
                && known.op == vertex.op
        });
        if let Some(same) = same {
            return same;
        }
        let id = self.graph.add_node(vertex);
        for (number, input) in inputs.iter().enumerate() {
            self.graph.add_edge(id, *input, InputIndex(number));
        }
        self.inputs.push(inputs.to_vec());
        bucket.push(id);
        id
    }

    pub(super) fn into_graph(self) -> Graph {
        self.graph
    }
}
