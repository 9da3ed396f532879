//! One node of a manifest's tree.

use super::extent::{Extent, Source, add_length, decode_extents, encode_extents, take_count};
use super::{DEPTH_MAX, NodeStore};
use crate::chunk::varint;
use crate::error::{Error, Result};
use crate::id::ChunkId;
use bytes::Bytes;
use std::sync::Arc;

/// The longest node, in bytes.
pub const NODE_BYTES_MAX: usize = 64 << 10;
/// The most entries of a node.
pub const NODE_ENTRIES_MAX: usize = 512;
/// A node with fewer entries does not end because an id says so; it may end because the content, or a graft, does.
pub const NODE_ENTRIES_MIN: usize = 32;

const VERSION: u8 = 1;
/// A node ends after an entry whose id's last byte has these bits clear: one in 128.
const END_MASK: u8 = 0x7f;
/// A length of one byte and an id.
const CHILD_BYTES_MIN: usize = 1 + ChunkId::LEN;

/// A node: entries in the order of the content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// Extents, at level 0.
    Leaf(Vec<Extent>),
    /// Nodes of the level below.
    Inner {
        /// Levels below this one, 1 or more.
        level: u8,
        /// The nodes.
        children: Vec<Child>,
    },
}

/// A node, as the level above lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Child {
    /// Bytes of content it covers; never 0.
    pub length: u64,
    /// The chunk it is stored as.
    pub id: ChunkId,
}

/// What nodes are lists of.
pub(super) trait Entry {
    /// Bytes of content it covers.
    fn length(&self) -> u64;
    /// Whether its id asks for a node to end after it.
    fn ends_node(&self) -> bool;
}

impl Entry for Extent {
    fn length(&self) -> u64 {
        self.length
    }

    fn ends_node(&self) -> bool {
        match &self.source {
            Source::Hole => false,
            Source::Chunk { id, .. } => ends_node(id),
        }
    }
}

impl Entry for Child {
    fn length(&self) -> u64 {
        self.length
    }

    fn ends_node(&self) -> bool {
        ends_node(&self.id)
    }
}

fn ends_node(id: &ChunkId) -> bool {
    id.0.last().is_some_and(|byte| byte & END_MASK == 0)
}

/// Whether a node of these entries takes no more. Without a least count, a content of one chunk over and over could make a tree
/// whose levels never get shorter.
pub(super) fn is_complete<T: Entry>(entries: &[T]) -> bool {
    let ends = entries.last().is_some_and(Entry::ends_node);
    entries.len() >= NODE_ENTRIES_MAX || (entries.len() >= NODE_ENTRIES_MIN && ends)
}

/// The length of all entries together.
pub(super) fn total<T: Entry>(entries: &[T]) -> Result<u64> {
    entries.iter().try_fold(0, |total, entry| add_length(total, entry.length()))
}

impl Node {
    /// Levels below this one; 0 for a leaf.
    pub fn level(&self) -> u8 {
        match self {
            Node::Leaf(_) => 0,
            Node::Inner { level, .. } => *level,
        }
    }

    /// Bytes of content it covers.
    pub fn length(&self) -> Result<u64> {
        match self {
            Node::Leaf(extents) => total(extents),
            Node::Inner { children, .. } => total(children),
        }
    }

    /// Whether it takes no more entries.
    pub(super) fn is_complete(&self) -> bool {
        match self {
            Node::Leaf(extents) => is_complete(extents),
            Node::Inner { children, .. } => is_complete(children),
        }
    }

    /// The node's bytes: version, level, then a count and the entries.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION, self.level()];
        match self {
            Node::Leaf(extents) => encode_extents(&mut out, extents),
            Node::Inner { children, .. } => {
                varint::put(&mut out, children.len() as u64);
                for child in children {
                    varint::put(&mut out, child.length);
                    out.extend(child.id.0);
                }
            }
        }
        out
    }

    /// Reads what [`Node::encode`] wrote, and nothing else: bounded, each number in its shortest form, lengths not 0 and
    /// summing up to a possible content, nothing left over. `Invalid` for a version this build does not know, else `Damaged`.
    pub fn decode(bytes: &[u8]) -> Result<Node> {
        let damaged = |what: &str| Error::damaged(format!("a manifest node {what}"));
        if bytes.len() > NODE_BYTES_MAX {
            return Err(damaged("is too long"));
        }
        let (level, mut input) = match bytes {
            [VERSION, level, rest @ ..] => (*level, rest),
            [version, _, ..] => {
                let message = format!("a manifest node has format version {version}; this build reads {VERSION}");
                return Err(Error::invalid(message));
            }
            _ => return Err(damaged("is cut off")),
        };
        let input = &mut input;
        let node = match level {
            0 => Node::Leaf(decode_extents(input, NODE_ENTRIES_MAX)?.0),
            1..DEPTH_MAX => {
                let count = take_count(input, NODE_ENTRIES_MAX, CHILD_BYTES_MIN)?;
                let mut children = Vec::with_capacity(count);
                for _ in 0..count {
                    let length = varint::take(input)?;
                    let (id, rest) = input.split_first_chunk().ok_or_else(|| damaged("is cut off"))?;
                    *input = rest;
                    if length == 0 {
                        return Err(damaged("has an empty child"));
                    }
                    children.push(Child { length, id: ChunkId(*id) });
                }
                total(&children)?;
                Node::Inner { level, children }
            }
            _ => return Err(damaged("is of an impossible level")),
        };
        if !input.is_empty() {
            return Err(damaged("has bytes left over"));
        }
        Ok(node)
    }

    /// Reads the node that `child` stands for, which must be of `level` and cover what `child` says.
    pub(crate) async fn read(store: &dyn NodeStore, child: &Child, level: u8) -> Result<Node> {
        let id = child.id;
        let node = Node::decode(&store.read_node(&id).await?)
            .map_err(|error| Error::new(error.kind(), format!("manifest node {id} can't be decoded")).because(error))?;
        node.must_be(child, level)?;
        Ok(node)
    }

    /// The same for who only looks: the store may have it decoded already.
    pub(super) async fn read_shared(store: &dyn NodeStore, child: &Child, level: u8) -> Result<Arc<Node>> {
        if let Some(node) = store.decoded(&child.id) {
            node.must_be(child, level)?;
            return Ok(node);
        }
        let node = Arc::new(Node::read(store, child, level).await?);
        store.keep_decoded(&child.id, &node);
        Ok(node)
    }

    fn must_be(&self, child: &Child, level: u8) -> Result<()> {
        if self.level() != level || self.length()? != child.length {
            return Err(Error::damaged(format!("manifest node {} is not what the node above it says", child.id)));
        }
        Ok(())
    }

    /// Stores the node.
    pub(super) async fn write(&self, store: &dyn NodeStore) -> Result<Child> {
        let length = self.length()?;
        let id = store.write_node(Bytes::from(self.encode())).await?;
        Ok(Child { length, id })
    }
}
