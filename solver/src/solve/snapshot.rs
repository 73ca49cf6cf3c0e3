//! Root file systems of steps.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use kiln_cache::{Layer, LayerDraft, LayerTree};

/// A root file system: layers on each other.
///
/// Every step has that of the step before and a layer more, so they are links of one chain: to make one or to copy it
/// costs the same however many layers there are, and what is found out of one is known of all that stand on it.
#[derive(Clone, Default)]
pub struct Snapshot(Option<Arc<Node>>);

/// The topmost layer.
pub(super) struct Node {
    pub(super) layer: Layer,
    below: Snapshot,
    /// How many layers there are with this one.
    count: usize,
    /// All of them were seen in the store by this build.
    is_here: AtomicBool,
    /// The merged view of all of them, once somebody wanted it.
    pub(super) tree: OnceLock<LayerTree>,
    /// This layer and some below it as one, once a process ran on so many.
    pub(super) squashed: Mutex<Option<LayerDraft>>,
}

impl Snapshot {
    /// Of layers, bottom first.
    pub fn of(layers: impl IntoIterator<Item = Layer>) -> Self {
        Self::default().with(layers)
    }

    /// With more layers on top, the lowest first.
    #[must_use]
    pub fn with(&self, layers: impl IntoIterator<Item = Layer>) -> Self {
        layers.into_iter().fold(self.clone(), |below, layer| {
            let count = below.len() + 1;
            let node = Node {
                layer,
                below,
                count,
                is_here: AtomicBool::new(false),
                tree: OnceLock::new(),
                squashed: Mutex::new(None),
            };
            Self(Some(Arc::new(node)))
        })
    }

    /// How many layers there are.
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |top| top.count)
    }

    /// Whether there is no layer: `FROM scratch`.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The layers, bottom first.
    pub fn layers(&self) -> Vec<Layer> {
        layers_of(self.top_down())
    }

    /// From the topmost layer down.
    pub(super) fn top_down(&self) -> impl Iterator<Item = &Node> {
        std::iter::successors(self.0.as_deref(), |node| node.below.0.as_deref())
    }

    /// The layers that it has above `lower`; `None` if it does not stand on that.
    pub(super) fn above(&self, lower: &Self) -> Option<Vec<Layer>> {
        let count = self.len().checked_sub(lower.len())?;
        let above = layers_of(self.top_down().take(count));
        let mut rest = self;
        for node in self.top_down().take(count) {
            rest = &node.below;
        }
        (rest == lower).then_some(above)
    }
}

impl Node {
    pub(super) fn is_here(&self) -> bool {
        self.is_here.load(Ordering::Relaxed)
    }

    pub(super) fn note_here(&self) {
        self.is_here.store(true, Ordering::Relaxed);
    }
}

/// Bottom first.
fn layers_of<'a>(top_down: impl Iterator<Item = &'a Node>) -> Vec<Layer> {
    let mut layers: Vec<_> = top_down.map(|node| node.layer).collect();
    layers.reverse();
    layers
}

impl PartialEq for Snapshot {
    fn eq(&self, other: &Self) -> bool {
        let is_same = match (&self.0, &other.0) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            _ => return false,
        };
        is_same || (self.len() == other.len() && self.layers() == other.layers())
    }
}

impl Eq for Snapshot {}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Snapshot").field(&self.layers()).finish()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // One after the other: a chain may be longer than a thread's stack is deep.
        let mut below = self.below.0.take();
        while let Some(mut node) = below.and_then(Arc::into_inner) {
            below = node.below.0.take();
        }
    }
}

#[cfg(test)]
mod tests {
    use kiln_cache::LayerId;
    use kiln_image::{ContentsDigest, DiffId, Digest};

    use super::*;

    fn layer(number: usize) -> Layer {
        let diff_id = DiffId(Digest::of(&number.to_le_bytes()));
        Layer { id: LayerId::from(diff_id), contents: ContentsDigest::from(diff_id) }
    }

    #[test]
    fn snapshots_that_grow_from_one_keep_their_own_layers() {
        let base = Snapshot::of([layer(0), layer(1)]);
        let (one, other) = (base.with([layer(2)]), base.with([layer(3), layer(4)]));
        assert_eq!(one.layers(), [layer(0), layer(1), layer(2)]);
        assert_eq!(other.layers(), [layer(0), layer(1), layer(3), layer(4)]);
        assert_eq!((base.len(), other.len(), Snapshot::default().is_empty()), (2, 4, true));
        assert_eq!(one, Snapshot::of([layer(0), layer(1), layer(2)]));
        assert_ne!(one, Snapshot::of([layer(0), layer(1), layer(3)]));
        assert_ne!(base, Snapshot::default());
    }

    #[test]
    fn what_stands_on_another_has_the_rest_above_it() {
        let base = Snapshot::of([layer(0), layer(1)]);
        assert_eq!(base.with([layer(2), layer(3)]).above(&base), Some(vec![layer(2), layer(3)]));
        assert_eq!(base.above(&Snapshot::of([layer(0), layer(1)])), Some(Vec::new()));
        assert_eq!(base.above(&Snapshot::of([layer(1)])), None);
        assert_eq!(base.above(&base.with([layer(2)])), None);
    }

    #[test]
    fn a_long_chain_is_dropped_without_a_deep_stack() {
        let chain = Snapshot::of((0..200_000).map(layer));
        let fork = chain.with([layer(0)]);
        drop(chain);
        assert_eq!(fork.len(), 200_001);
    }
}
