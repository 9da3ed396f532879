//! The metadata seam: an ordered, transactional key-value store, narrow enough that a distributed one fits behind it.
//!
//! # Contract
//!
//! * Keys are byte strings of 1 to [`KEY_BYTES_MAX`] bytes, ordered as unsigned bytes, apart in each [`Space`]. Values have
//!   at most [`VALUE_BYTES_MAX`] bytes; an empty value is a value. A batch outside these limits is refused with
//!   [`ErrorKind::Invalid`] and changes nothing.
//! * [`Store::commit`] applies all of a batch or nothing, checks the batch's guards in the same step, and makes it visible
//!   to every later [`Store::get`] and [`Store::snapshot`] before it returns. With [`Durability::Sync`] it is also on disk, and
//!   so is every batch committed before it. After a crash the store holds a prefix of the sequence of commits that
//!   includes at least everything up to the last synced one.
//! * One operation per key and batch; a later one in the same batch replaces an earlier one.
//! * A snapshot sees all batches committed before it was taken and none after, for as long as it lives.
//! * A range whose end lies before its start is empty, not an error. A scan with limit 0 returns no rows, and `more` tells
//!   whether there are any.
//! * Calls may come from many tasks at once. No call assumes that the store is in this process.
//! * A commit that was refused (by a guard, a limit, or a lack of space noticed before anything was written) leaves the store as
//!   it was; [`ErrorKind::NoSpace`] always says that. A commit that fails otherwise fails with [`ErrorKind::Failed`], and so does every later one until
//!   the store is opened again; reads go on. What the failed commit itself carried may or may not be there after that.
//! * Embedded stores do their work in the calling thread: a read for as long as a few disk reads take, a
//!   commit for as long as the disk takes to sync. Commits belong on a thread of their own.

pub mod battery;
#[cfg(feature = "fjall")]
pub mod fjall;
pub mod memory;
#[cfg(feature = "redb")]
pub mod redb;

use crate::error::{Error, ErrorKind, Result};
use async_trait::async_trait;
use bytes::Bytes;
use std::collections::HashSet;
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
    /// [`ErrorKind::Busy`] and changes nothing.
    pub guards: Vec<(Space, Bytes, Option<Bytes>)>,
    /// New values; `None` deletes.
    pub writes: Vec<(Space, Bytes, Option<Bytes>)>,
}

impl Batch {
    /// Whether every key and value is within the limits; the error names the first that is not.
    pub fn check(&self) -> Result<()> {
        for (space, key, value) in self.guards.iter().chain(&self.writes) {
            if key.is_empty() || key.len() > KEY_BYTES_MAX {
                return Err(Error::invalid(format!(
                    "a key in {space:?} has {} bytes; keys have 1 to {KEY_BYTES_MAX}",
                    key.len()
                )));
            }
            let value_bytes = value.as_ref().map_or(0, Bytes::len);
            if value_bytes > VALUE_BYTES_MAX {
                return Err(Error::invalid(format!(
                    "a value in {space:?} has {value_bytes} bytes; values have at most {VALUE_BYTES_MAX}"
                )));
            }
        }
        Ok(())
    }

    /// The writes that count: of several to one key the last.
    #[cfg_attr(not(feature = "fjall"), expect(dead_code, reason = "only engines that can't take a key twice need it"))]
    pub(crate) fn last_writes(&self) -> impl Iterator<Item = &(Space, Bytes, Option<Bytes>)> {
        let mut seen = HashSet::with_capacity(self.writes.len());
        self.writes.iter().rev().filter(move |(space, key, _)| seen.insert((*space, key)))
    }
}

/// The error for a guard that does not hold.
pub(crate) fn guard_missed(space: Space) -> Error {
    Error::new(ErrorKind::Busy, format!("a row of {space:?} was changed by someone else; nothing was written"))
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

    /// Whether no key can lie in it, because its end is not after its start.
    pub fn is_empty(&self) -> bool {
        match (&self.start, &self.end) {
            (Bound::Included(start), Bound::Included(end)) => start > end,
            (Bound::Included(start), Bound::Excluded(end))
            | (Bound::Excluded(start), Bound::Included(end) | Bound::Excluded(end)) => start >= end,
            (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        }
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
