//! Manifest nodes that were read and decoded lately: a random read looks at one entry of hundreds.

use crate::id::ChunkId;
use crate::manifest::{Extent, Node};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use std::mem::size_of;
use std::sync::Arc;

/// What a node costs beside its entries, in bytes.
const NODE_BYTES: u64 = 128;
/// Entries of a usual node.
const NODE_ENTRIES: u64 = 128;

/// A bounded cache of decoded nodes.
pub(crate) struct NodeCache(Cache<ChunkId, Arc<Node>, ByEntries>);

#[derive(Clone)]
struct ByEntries;

impl Weighter<ChunkId, Arc<Node>> for ByEntries {
    fn weight(&self, _: &ChunkId, node: &Arc<Node>) -> u64 {
        let entries = match &**node {
            Node::Leaf(extents) => extents.len(),
            Node::Inner { children, .. } => children.len(),
        };
        (entries * size_of::<Extent>()) as u64 + NODE_BYTES
    }
}

impl NodeCache {
    /// A cache for nodes of `bytes` altogether.
    pub(crate) fn new(bytes: u64) -> NodeCache {
        let nodes = bytes / (NODE_ENTRIES * size_of::<Extent>() as u64 + NODE_BYTES);
        NodeCache(Cache::with_weighter(usize::try_from(nodes).unwrap_or(usize::MAX).max(16), bytes, ByEntries))
    }

    pub(crate) fn get(&self, id: &ChunkId) -> Option<Arc<Node>> {
        self.0.get(id)
    }

    pub(crate) fn insert(&self, id: &ChunkId, node: &Arc<Node>) {
        self.0.insert(*id, node.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_within_its_bytes() {
        let cache = NodeCache::new(256 << 10);
        let node = Arc::new(Node::Leaf(vec![Extent::hole(5); 300]));
        for n in 0..1000u32 {
            let id = ChunkId::of(&n.to_le_bytes());
            cache.insert(&id, &node);
            assert!(cache.0.weight() <= 256 << 10);
        }
        let known = (0..1000u32).filter(|n| cache.get(&ChunkId::of(&n.to_le_bytes())).is_some()).count();
        assert!((4..20).contains(&known), "{known} nodes of {} bytes", ByEntries.weight(&ChunkId::of(b""), &node));
    }
}
