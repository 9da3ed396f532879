//! Watching: which entries and nodes were changed, whoever did it. What kernel caches are told by.

use crate::id::NodeId;
use bytes::Bytes;

/// One change, after it was committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowChange {
    /// The entry `name` (as POSIX sees it) of `directory` appeared, vanished or names another node.
    Entry {
        /// The directory.
        directory: NodeId,
        /// The name.
        name: Bytes,
        /// Who made the change, see [`FileSystem::with_origin`](super::FileSystem::with_origin).
        origin: u32,
    },
    /// Attributes or content of `node` changed.
    Node {
        /// The node.
        node: NodeId,
        /// Who made the change.
        origin: u32,
    },
    /// The watcher was too slow and missed some: everything may have changed.
    Everything,
}

/// Receives changes.
pub struct Watch {}

impl Watch {
    /// The next change; `None` when the segment closes.
    pub async fn next(&mut self) -> Option<RowChange> { todo!() }
}
