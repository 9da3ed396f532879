//! Watching: which entries and nodes were changed, whoever did it. What kernel caches are told by.
//!
//! Changes are told after their commit shows. What is written to open files and not saved yet (`unsaved.rs`) is told a little later, many writes as one.

use super::names;
use super::unsaved::{Heard, Listener, Written};
use crate::id::NodeId;
use crate::kv::Space;
use crate::namespace::{ChangedRows, keys::BucketNumber};
use bytes::Bytes;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::sync::broadcast::{Receiver, error::RecvError};

/// A number that marks the changes of one door in this process, see [`FileSystem::with_origin`](super::FileSystem::with_origin); never 0.
pub fn new_origin() -> u32 {
    static LAST: AtomicU32 = AtomicU32::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowChange {
    /// The entry `name` (as POSIX sees it) of `directory` appeared, vanished or names another node; or what a listing shows of it changed. The directory's
    /// times may have changed with it.
    Entry {
        /// The directory.
        directory: NodeId,
        /// The name.
        name: Bytes,
        /// The name that a file has where a directory has `name`: the change may be of what is there.
        shadowed: Bytes,
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
    /// Somebody has written to an open file of `node`, or cut or extended it, and that is seen and not saved yet. Times have changed, too.
    Written {
        /// The node.
        node: NodeId,
        /// All bytes that changed lie in it; empty: none did.
        range: Range<u64>,
        /// Whether the size changed.
        is_resized: bool,
    },
    /// The watcher was too slow and missed some: everything may have changed.
    Everything,
}

/// Receives the changes of one bucket.
pub struct Watch {
    pub(super) bucket: BucketNumber,
    pub(super) changes: Receiver<ChangedRows>,
    pub(super) unsaved: Arc<Listener>,
    pub(super) ready: VecDeque<RowChange>,
}

impl Watch {
    /// The next change; `None` when the segment is gone.
    pub async fn next(&mut self) -> Option<RowChange> {
        loop {
            if let Some(change) = self.ready.pop_front() {
                return Some(change);
            }
            let rows = tokio::select! {
                rows = self.changes.recv() => rows,
                heard = self.unsaved.next() => return Some(written(heard)),
            };
            match rows {
                Ok(rows) => {
                    let bucket = self.bucket.to_be_bytes();
                    let ours = rows.iter().filter(|(_, key, _)| key.starts_with(&bucket));
                    self.ready.extend(ours.filter_map(|(space, key, origin)| change(*space, key, *origin)));
                }
                Err(RecvError::Lagged(_)) => return Some(RowChange::Everything),
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

fn written(heard: Heard) -> RowChange {
    match heard {
        Heard::Written(node, Written { range, is_resized }) => RowChange::Written { node, range, is_resized },
        Heard::Missed => RowChange::Everything,
    }
}

/// A row's key: bucket (4), node (16), name.
fn change(space: Space, key: &Bytes, origin: u32) -> Option<RowChange> {
    let node = NodeId(*key.get(4..)?.first_chunk::<16>()?);
    match space {
        Space::Nodes => Some(RowChange::Node { node, origin }),
        Space::Entries => {
            let stored = key.get(20..)?;
            let stored = stored.strip_suffix(b"/").unwrap_or(stored);
            let (name, shadowed) = (names::show(stored, false), names::show(stored, true));
            Some(RowChange::Entry { directory: node, name, shadowed, origin })
        }
        _ => None,
    }
}
