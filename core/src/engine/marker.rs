//! Marking: walking what refers to chunks, a part of the range of ids at a time.

use super::contents::{Contents, LocalNodes};
use crate::error::{ErrorKind, Result};
use crate::id::ChunkId;
use crate::manifest::{Extent, Manifest, Node, NodeStore, Root, Source};
use crate::namespace::Hold;
use std::collections::HashMap;
use std::sync::Arc;

/// One of several parts of the range of chunk ids.
#[derive(Clone, Copy)]
pub(super) struct Part {
    pub(super) pass: u64,
    pub(super) passes: u64,
}

impl Part {
    pub(super) fn contains(&self, id: &ChunkId) -> bool {
        let head = id.0.first_chunk::<4>().map_or(0, |b| u64::from(u32::from_be_bytes(*b)));
        (head * self.passes) >> 32 == self.pass
    }
}

/// What a collection has found that something refers to.
pub(super) struct Marker {
    contents: Arc<Contents>,
    part: Part,
    marked: HashMap<ChunkId, Hold>,
    /// Manifest nodes that were walked already for no less: shared subtrees are walked once. Bounded; forgetting costs only time.
    seen: HashMap<ChunkId, Hold>,
}

const SEEN_MAX: usize = 1 << 18;

impl Marker {
    pub(super) fn new(contents: &Arc<Contents>, part: Part) -> Marker {
        Marker { contents: contents.clone(), part, marked: HashMap::new(), seen: HashMap::new() }
    }

    /// The chunks of the part, and how long they stay.
    pub(super) fn into_marked(self) -> HashMap<ChunkId, Hold> {
        self.marked
    }

    /// Marks what a manifest refers to, as far as that can be known; returns whether all of its nodes were here. It may have been made by somebody who means harm: what is no node
    /// has nothing below it, and a node where it should not be is walked all the same, because whoever refers to it rightly finds it seen.
    pub(super) async fn manifest(&mut self, manifest: &Manifest, hold: Hold) -> Result<bool> {
        if self.seen.len() >= SEEN_MAX {
            self.seen.clear();
        }
        let nodes = LocalNodes(self.contents.clone());
        let mut waiting = Vec::new();
        match manifest.root() {
            Root::Empty => {}
            Root::Extents(extents) => self.extents(extents, hold),
            Root::Tree { id, .. } => waiting.push(*id),
        }
        let mut is_whole = true;
        while let Some(id) = waiting.pop() {
            if !raise(&mut self.seen, &id, hold) {
                continue;
            }
            self.chunk(&id, hold);
            match nodes.read_node(&id).await.map(|bytes| Node::decode(&bytes)) {
                Ok(Ok(Node::Leaf(extents))) => self.extents(&extents, hold),
                Ok(Ok(Node::Inner { children, .. })) => waiting.extend(children.iter().rev().map(|child| child.id)),
                Ok(Err(error)) => tracing::debug!(%id, %error, "a content refers to what is no node"),
                Err(error) if error.kind() == ErrorKind::Offline => {
                    // It may come while others are walked.
                    self.seen.remove(&id);
                    is_whole = false;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(is_whole)
    }

    fn extents(&mut self, extents: &[Extent], hold: Hold) {
        for extent in extents {
            if let Source::Chunk { id, .. } = &extent.source {
                self.chunk(id, hold);
            }
        }
    }

    fn chunk(&mut self, id: &ChunkId, hold: Hold) {
        if self.part.contains(id) {
            raise(&mut self.marked, id, hold);
        }
    }
}

/// Notes a hold on a chunk unless there is one as strong; returns whether it did.
fn raise(holds: &mut HashMap<ChunkId, Hold>, id: &ChunkId, hold: Hold) -> bool {
    let is_stronger = holds.get(id).is_none_or(|now| *now < hold);
    if is_stronger {
        holds.insert(*id, hold);
    }
    is_stronger
}
