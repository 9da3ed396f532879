//! Reading a range of a manifest, extent by extent.

use super::extent::Extent;
use super::node::{Child, Node};
use super::{Manifest, NodeStore, Root};
use crate::error::Result;
use crate::id::ChunkId;
use std::ops::Range;
use std::sync::Arc;

/// Goes through the extents of a range in order. Reads a node when it gets there, and only those that the range
/// touches; holds the entries of one path.
pub struct Cursor<S> {
    store: S,
    range: Range<u64>,
    /// Where the next extent or node starts in the content.
    position: u64,
    /// The leaf at hand, and its extent that comes next.
    leaf: Option<(Arc<Node>, usize)>,
    /// Nodes to come, the next one last, with their levels.
    waiting: Vec<(Child, u8)>,
}

impl Manifest {
    /// A cursor over `range`, cut to the size. `store` may be borrowed, or an `Arc` for a cursor that lives by itself.
    pub fn extents<S: NodeStore>(&self, store: S, range: Range<u64>) -> Cursor<S> {
        let (leaf, waiting) = match &self.root {
            Root::Empty => (None, Vec::new()),
            Root::Extents(extents) => (Some((Arc::new(Node::Leaf(extents.clone())), 0)), Vec::new()),
            Root::Tree { id, depth } => (None, vec![(Child { length: self.size, id: *id }, depth.saturating_sub(1))]),
        };
        let range = range.start..range.end.min(self.size);
        Cursor { store, range, position: 0, leaf, waiting }
    }
}

impl<S> Cursor<S> {
    /// The next extent of the leaf at hand, whole.
    fn extent(&self) -> Option<Extent> {
        match self.leaf.as_ref().map(|(node, next)| (&**node, *next)) {
            Some((Node::Leaf(extents), next)) => extents.get(next).copied(),
            _ => None,
        }
    }

    /// Passes over the node that comes next: one that [`Cursor::next`] could not read. Its id, and the part of the content that it
    /// stands for; `None` if the next thing is not a node.
    pub fn skip_node(&mut self) -> Option<(ChunkId, Range<u64>)> {
        if self.extent().is_some() {
            return None;
        }
        let (child, _) = self.waiting.pop()?;
        let start = self.position;
        self.position = start.saturating_add(child.length);
        Some((child.id, start..self.position))
    }
}

impl<S: NodeStore> Cursor<S> {
    /// The next extent, clipped to the range, and where it starts in the content; `None` at the end. After an error
    /// the cursor may be asked again: it tries the same node once more.
    pub async fn next(&mut self) -> Result<Option<(u64, Extent)>> {
        while self.position < self.range.end {
            if let Some(extent) = self.extent() {
                if let Some((_, next)) = &mut self.leaf {
                    *next += 1;
                }
                let start = self.position;
                self.position = start.saturating_add(extent.length);
                let from = self.range.start.saturating_sub(start);
                if let Some(part) = extent.part(from, self.range.end - start) {
                    return Ok(Some((start + from, part)));
                }
                continue;
            }
            let Some((child, level)) = self.waiting.last().copied() else {
                break;
            };
            let end = self.position.saturating_add(child.length);
            if end <= self.range.start {
                self.position = end;
                self.waiting.pop();
                continue;
            }
            let node = Node::read_shared(&self.store, &child, level).await?;
            self.waiting.pop();
            match &*node {
                Node::Leaf(_) => self.leaf = Some((node, 0)),
                Node::Inner { children, .. } => {
                    self.waiting.extend(children.iter().rev().map(|child| (*child, level - 1)));
                }
            }
        }
        Ok(None)
    }
}
