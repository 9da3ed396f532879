//! The metadata seam: an ordered, transactional key-value store, narrow enough that a distributed one fits behind it.
//!
//! # Contract
//!
//! * Keys are byte strings of 1 to [`KEY_BYTES_MAX`] bytes, ordered as unsigned bytes, apart in each [`Space`]. Values have
//!   at most [`VALUE_BYTES_MAX`] bytes.
//! * [`Store::commit`] applies all of a batch or nothing, checks the batch's guards in the same step, and makes it visible
//!   to every later [`Store::get`] and [`Store::snapshot`] before it returns. With [`Durability::Sync`] it is also on disk, and
//!   so is every batch committed before it. After a crash the store holds a prefix of the sequence of commits that
//!   includes at least everything up to the last synced one.
//! * One operation per key and batch; a later one in the same batch replaces an earlier one.
//! * A snapshot sees all batches committed before it was taken and none after, for as long as it lives.
//! * Calls may come from many tasks at once. No call assumes that the store is in this process.
//! * After a failed commit that was not refused by a guard the store answers every commit with
//!   [`ErrorKind::Failed`](crate::ErrorKind::Failed) (or `NoSpace`, if that was the cause) until it is opened again; reads go on.

pub mod battery;
#[cfg(feature = "fjall")]
pub mod fjall;
pub mod memory;
#[cfg(feature = "redb")]
pub mod redb;

use crate::error::Result;
use async_trait::async_trait;
use bytes::Bytes;
use std::ops::Bound;
use std::sync::Arc;

/// The longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 4 << 10;
/// The longest value, in bytes.
pub const VALUE_BYTES_MAX: usize = 16 << 20;

/// Keys live in one of a fixed set of spaces, each ordered by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Space {
    /// Segment identity, counters, owner epoch, pack states.
    Meta = 0,
    /// Clusters, tenants, buckets, users, snapshots.
    Catalog = 1,
    /// Directory entries.
    Entries = 2,
    /// Nodes: contents, attributes, homes.
    Nodes = 3,
    /// The change index.
    Index = 4,
    /// Kept older versions and delete markers.
    History = 5,
    /// Rows as snapshots saw them.
    Past = 6,
    /// Where chunks are.
    Chunks = 7,
    /// Multipart uploads and their parts.
    Uploads = 8,
    /// Derived, local rows: directory times, extra names of nodes.
    Derived = 9,
}

impl Space {
    /// All spaces, in order.
    pub const ALL: [Space; 10] = [
        Space::Meta,
        Space::Catalog,
        Space::Entries,
        Space::Nodes,
        Space::Index,
        Space::History,
        Space::Past,
        Space::Chunks,
        Space::Uploads,
        Space::Derived,
    ];
}

/// How far a commit must have got when it returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Visible, and safe from a crash of the process.
    Buffered,
    /// On stable storage.
    Sync,
}

/// A set of changes that happen together or not at all.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// What the rows must hold for the batch to be applied; `None`: no such row. Otherwise the commit fails with
    /// [`ErrorKind::Busy`](crate::ErrorKind::Busy) and changes nothing.
    pub guards: Vec<(Space, Bytes, Option<Bytes>)>,
    /// New values; `None` deletes.
    pub writes: Vec<(Space, Bytes, Option<Bytes>)>,
}

/// A range of keys.
#[derive(Debug, Clone)]
pub struct KeyRange {
    /// Where it starts.
    pub start: Bound<Bytes>,
    /// Where it ends.
    pub end: Bound<Bytes>,
}

impl KeyRange {
    /// All keys that start with `prefix`.
    pub fn prefix(prefix: &[u8]) -> KeyRange {
        KeyRange { start: Bound::Included(Bytes::copy_from_slice(prefix)), end: end_of_prefix(prefix) }
    }

    /// The keys of `prefix` after `key` (which need not start with it).
    pub fn prefix_after(prefix: &[u8], key: Bytes) -> KeyRange {
        KeyRange { start: Bound::Excluded(key), end: end_of_prefix(prefix) }
    }
}

/// The bound behind the last key that starts with `prefix`.
pub fn end_of_prefix(prefix: &[u8]) -> Bound<Bytes> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return Bound::Excluded(end.into());
        }
    }
    Bound::Unbounded
}

/// Rows of a scan.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// Keys and values in order.
    pub rows: Vec<(Bytes, Bytes)>,
    /// Whether the range has more rows after the last one.
    pub more: bool,
}

/// A consistent view of the store.
#[async_trait]
pub trait Snapshot: Send + Sync {
    /// The value of `key`.
    async fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>>;

    /// Up to `limit` rows of `range` in ascending order (descending if `reverse`).
    async fn scan(&self, space: Space, range: KeyRange, limit: usize, reverse: bool) -> Result<Page>;
}

/// The store.
#[async_trait]
pub trait Store: Send + Sync {
    /// The latest value of `key`.
    async fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>>;

    /// A view of all that is committed now.
    async fn snapshot(&self) -> Result<Arc<dyn Snapshot>>;

    /// Applies `batch`.
    async fn commit(&self, batch: Batch, durability: Durability) -> Result<()>;

    /// Bytes on disk, for status.
    fn disk_bytes(&self) -> u64;
}
