//! Everything a manifest refers to, for marking what is still needed.

use super::extent::{Extent, Source};
use super::node::{Child, Node};
use super::{Manifest, NodeStore, Root};
use crate::error::{ErrorKind, Result};
use crate::id::ChunkId;

/// Something a manifest refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reference {
    /// A chunk that holds a node of the tree.
    Node(ChunkId),
    /// A chunk of the content.
    Chunk(ChunkId),
}

impl Manifest {
    /// Calls `each` for every node and every chunk of the content, in order, as often as they occur. A node for which `is_seen`
    /// says yes is passed over with all below it. What lies below a node that `store` says is `Offline` can't be known, and is left out; the
    /// node itself is not. Holds the entries of one path.
    pub async fn for_each_reference(
        &self,
        store: &dyn NodeStore,
        is_seen: &mut (dyn FnMut(&ChunkId) -> bool + Send),
        each: &mut (dyn FnMut(Reference) -> Result<()> + Send),
    ) -> Result<()> {
        let mut waiting: Vec<(Child, u8)> = Vec::new();
        match &self.root {
            Root::Empty => {}
            Root::Extents(extents) => chunks(extents, each)?,
            Root::Tree { id, depth } => {
                waiting.push((Child { length: self.size, id: *id }, depth.saturating_sub(1)));
            }
        }
        while let Some((child, level)) = waiting.pop() {
            if is_seen(&child.id) {
                continue;
            }
            each(Reference::Node(child.id))?;
            match Node::read(store, &child, level).await {
                Ok(Node::Leaf(extents)) => chunks(&extents, each)?,
                Ok(Node::Inner { children, .. }) => {
                    waiting.extend(children.into_iter().rev().map(|child| (child, level - 1)));
                }
                Err(error) if error.kind() == ErrorKind::Offline => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn chunks(extents: &[Extent], each: &mut (dyn FnMut(Reference) -> Result<()> + Send)) -> Result<()> {
    for extent in extents {
        if let Source::Chunk { id, .. } = extent.source {
            each(Reference::Chunk(id))?;
        }
    }
    Ok(())
}
