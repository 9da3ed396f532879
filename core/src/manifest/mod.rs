//! Manifests: which chunks, or parts of them, make up a content, as a Merkle tree.
//!
//! A small content's extents stand in the version record itself ([`Root::Extents`]). A larger one has a tree of nodes that are
//! stored as chunks: leaves list extents, inner nodes list nodes. Nodes end where the ids in them say so, so that two
//! versions of a content share all nodes but those around the difference, and every change rewrites one path.
//!
//! Nodes are read and written through [`NodeStore`]. Nothing here caches or retries, and nothing is ever changed in place:
//! an operation gives a new [`Manifest`], and until somebody commits it the old one is what counts.
//!
//! The format is in `docs/format/manifest.md`.

mod builder;
mod cursor;
mod edit;
mod extent;
mod node;
#[cfg(test)]
mod tests;
mod walk;

pub use builder::Builder;
pub use cursor::Cursor;
pub use extent::{Extent, Source};
pub use node::{Child, NODE_BYTES_MAX, NODE_ENTRIES_MAX, NODE_ENTRIES_MIN, Node};
pub use walk::Reference;

use crate::chunk::varint;
use crate::error::{Error, Result};
use crate::id::ChunkId;
use async_trait::async_trait;
use bytes::Bytes;
use extent::{decode_extents, encode_extents};
use std::sync::Arc;

/// The longest content, in bytes: what a signed 64-bit offset can address.
pub const CONTENT_BYTES_MAX: u64 = i64::MAX as u64;
/// A content of at most this many extents needs no node.
pub const EXTENTS_INLINE_MAX: usize = 32;
/// The most levels of a tree. With 32 entries in a node, even ones of one byte, 13 levels are enough for every content.
pub const DEPTH_MAX: u8 = 24;

const VERSION: u8 = 1;

/// Where nodes are kept.
#[async_trait]
pub trait NodeStore: Send + Sync {
    /// The bytes of a node, verified against `id`.
    async fn read_node(&self, id: &ChunkId) -> Result<Bytes>;
    /// Stores a node of at most [`NODE_BYTES_MAX`] bytes; durable when the metadata that refers to it is.
    async fn write_node(&self, data: Bytes) -> Result<ChunkId>;
    /// A node as it was given to [`NodeStore::keep_decoded`]; a store need not keep any.
    fn decoded(&self, _: &ChunkId) -> Option<Arc<Node>> {
        None
    }
    /// A node that was read and decoded, for those who will read it again.
    fn keep_decoded(&self, _: &ChunkId, _: &Arc<Node>) {}
}

#[async_trait]
impl<T: NodeStore + ?Sized> NodeStore for &T {
    async fn read_node(&self, id: &ChunkId) -> Result<Bytes> {
        (**self).read_node(id).await
    }

    async fn write_node(&self, data: Bytes) -> Result<ChunkId> {
        (**self).write_node(data).await
    }

    fn decoded(&self, id: &ChunkId) -> Option<Arc<Node>> {
        (**self).decoded(id)
    }

    fn keep_decoded(&self, id: &ChunkId, node: &Arc<Node>) {
        (**self).keep_decoded(id, node);
    }
}

#[async_trait]
impl<T: NodeStore + ?Sized> NodeStore for Arc<T> {
    async fn read_node(&self, id: &ChunkId) -> Result<Bytes> {
        (**self).read_node(id).await
    }

    async fn write_node(&self, data: Bytes) -> Result<ChunkId> {
        (**self).write_node(data).await
    }

    fn decoded(&self, id: &ChunkId) -> Option<Arc<Node>> {
        (**self).decoded(id)
    }

    fn keep_decoded(&self, id: &ChunkId, node: &Arc<Node>) {
        (**self).keep_decoded(id, node);
    }
}

/// What a content consists of.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Manifest {
    size: u64,
    root: Root,
}

/// How a manifest begins.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Root {
    /// No byte at all.
    #[default]
    Empty,
    /// 1 to [`EXTENTS_INLINE_MAX`] extents.
    Extents(Vec<Extent>),
    /// A tree.
    Tree {
        /// Its top node.
        id: ChunkId,
        /// Its levels, 1 to [`DEPTH_MAX`]: 1 if the top node is a leaf.
        depth: u8,
    },
}

impl Manifest {
    /// The manifest of an empty content.
    pub fn empty() -> Manifest {
        Manifest::default()
    }

    /// Length of the content in bytes, holes included.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// How it begins.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// The bytes to embed in a record: a version byte, the size as a varint, a kind byte, then nothing, the extents, or
    /// depth and id. At most about 1.7 KiB.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        varint::put(&mut out, self.size);
        match &self.root {
            Root::Empty => out.push(0),
            Root::Extents(extents) => {
                out.push(1);
                encode_extents(&mut out, extents);
            }
            Root::Tree { id, depth } => {
                out.extend([2, *depth]);
                out.extend(id.0);
            }
        }
        out
    }

    /// Reads what [`Manifest::encode`] wrote, and nothing else. `Invalid` for a version this build does not know, else `Damaged`.
    pub fn decode(bytes: &[u8]) -> Result<Manifest> {
        let damaged = |what: &str| Error::damaged(format!("a manifest {what}"));
        let mut input = match bytes.split_first() {
            Some((&VERSION, rest)) => rest,
            Some((version, _)) => {
                let message = format!("a manifest has format version {version}; this build reads {VERSION}");
                return Err(Error::invalid(message));
            }
            None => return Err(damaged("is empty")),
        };
        let size = varint::take(&mut input)?;
        let (kind, rest) = input.split_first().ok_or_else(|| damaged("is cut off"))?;
        let root = match kind {
            0 if rest.is_empty() && size == 0 => Root::Empty,
            1 => {
                let mut rest = rest;
                let (extents, total) = decode_extents(&mut rest, EXTENTS_INLINE_MAX)?;
                if !rest.is_empty() || total != size {
                    return Err(damaged("has extents that don't add up to its size"));
                }
                Root::Extents(extents)
            }
            2 => {
                let (depth, id) = rest.split_first().ok_or_else(|| damaged("is cut off"))?;
                let id = ChunkId::from_slice(id)?;
                if *depth == 0 || *depth > DEPTH_MAX || size == 0 || size > CONTENT_BYTES_MAX {
                    return Err(damaged("has an impossible tree"));
                }
                Root::Tree { id, depth: *depth }
            }
            _ => return Err(damaged("begins in no known way")),
        };
        Ok(Manifest { size, root })
    }
}
