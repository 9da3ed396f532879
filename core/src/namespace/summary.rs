//! Summaries of what a bucket holds, for finding out whether two segments hold the same without telling each other all of it.
//!
//! A bucket's rows have one order on all segments: entries, nodes, older versions, each by key without the bucket's local number. The hash of a range of rows is
//! one over the hashes of its rows; two segments whose hashes of a range are equal hold the same in it. Where they are not, the range is cut in parts, and so
//! on: what is said is in proportion to what differs, and to the logarithm of what there is.
//!
//! A row's hash covers what its registers hold live. It leaves out what segments that have all changes may still have forgotten or not, each in its time: tombstones,
//! contexts, what deletions keep, nodes that nothing shows. And what is derived.

use super::codec::{put_bytes, put_varint};
use super::keys;
use super::place::{directory_place, path_of};
use super::rows::{EntryRow, HistoryRow, NodeRow, encode_attributes, encode_entry_value, encode_home, encode_tags};
use super::version::Version;
use super::view::View;
use crate::error::{Error, Result};
use crate::id::NodeId;
use crate::kv::{KeyRange, Space, end_of_prefix};
use crate::object::{Metadata, Tags};
use crate::register::{Register, VersionVector, Write};
use bytes::{BufMut, Bytes, BytesMut};
use std::ops::{Bound, ControlFlow};

const SCAN_ROWS: usize = 1024;
/// The kinds of rows in their order, as the first byte of a row's key says.
const SPACES: [Space; 3] = [Space::Entries, Space::Nodes, Space::History];

/// The rows from `start` on that are before `end`; empty: from the first, to the last.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct RowRange {
    /// The first key in it.
    pub start: Bytes,
    /// The first key behind it.
    pub end: Bytes,
}

/// What is in a range of rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeSummary {
    /// The range.
    pub range: RowRange,
    /// One hash for all of it.
    pub hash: [u8; 32],
    /// How many rows.
    pub rows: u64,
}

/// One row: its key, and the hash of what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowSummary {
    /// Kind (0 entry, 1 node, 2 older version), then the row's key without the bucket.
    pub key: Bytes,
    /// Of the live values.
    pub hash: [u8; 32],
}

/// What a row is about, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowName {
    /// The key that it shows under; `None`: nothing here shows it.
    pub path: Option<Bytes>,
    /// Which part of that.
    pub what: String,
}

/// A bucket at one instant, to be compared. It holds on to that instant's rows.
pub struct Summary {
    view: View,
    vector: VersionVector,
    effective: VersionVector,
}

impl Summary {
    /// The bucket that `view` shows, which stands at `vector`; `effective` as [`effective_vector`](super::effective_vector) says, at the same instant.
    pub fn new(view: View, vector: VersionVector, effective: VersionVector) -> Summary {
        Summary { view, vector, effective }
    }

    /// Up to where everything is here.
    pub fn vector(&self) -> &VersionVector {
        &self.vector
    }

    /// The lowest vector with which all of this is known.
    pub fn effective(&self) -> &VersionVector {
        &self.effective
    }

    /// A range as a whole.
    pub async fn whole(&self, range: &RowRange) -> Result<RangeSummary> {
        let parts = self.parts(range, u64::MAX).await?;
        parts.into_iter().next().ok_or_else(|| Error::damaged("a range of rows has no part"))
    }

    /// A range in parts of `rows` rows, the last of which may be shorter. Together they cover the range, which is one part if it is empty.
    pub async fn parts(&self, range: &RowRange, rows: u64) -> Result<Vec<RangeSummary>> {
        let mut parts: Vec<RangeSummary> = Vec::new();
        let mut part = Part::new(range.start.clone());
        self.walk(range, |row| {
            if part.rows == rows {
                let next = Part::new(row.key.clone());
                parts.push(std::mem::replace(&mut part, next).end(row.key.clone()));
            }
            part.add(&row);
            ControlFlow::Continue(())
        })
        .await?;
        parts.push(part.end(range.end.clone()));
        Ok(parts)
    }

    /// The first `limit` rows of a range, and where to go on if there are more.
    pub async fn rows(&self, range: &RowRange, limit: usize) -> Result<(Vec<RowSummary>, Option<Bytes>)> {
        let (mut rows, mut next) = (Vec::new(), None);
        self.walk(range, |row| {
            if rows.len() == limit {
                next = Some(row.key);
                return ControlFlow::Break(());
            }
            rows.push(row);
            ControlFlow::Continue(())
        })
        .await?;
        Ok((rows, next))
    }

    /// What the row with this key is about. `Damaged` for what is no such key.
    pub async fn describe(&self, key: &Bytes) -> Result<RowName> {
        let (kind, rest) = key.split_first().ok_or_else(|| Error::damaged("a row's key is empty"))?;
        let key = [&self.view.bucket().to_be_bytes()[..], rest].concat();
        let named = |path, what: &str| Ok(RowName { path, what: what.into() });
        match SPACES.get(usize::from(*kind)) {
            Some(Space::Entries) => {
                let (parent, name) = keys::parse_entry(&key)?;
                let place = (parent, Bytes::copy_from_slice(name));
                match path_of(&self.view, &place).await? {
                    Some(path) => named(Some(path), "name"),
                    None => named(None, &format!("name '{}' in {parent}", String::from_utf8_lossy(name))),
                }
            }
            Some(Space::Nodes) => {
                let (node, _) = keys::parse_entry(&key)?;
                // It may be there and not here.
                let row = self.view.store_snapshot().get(Space::Nodes, &key).await?;
                let row = row.map(|row| NodeRow::decode(row, self.view.own())).transpose()?.unwrap_or_default();
                let place = match row.names.first() {
                    Some(place) => Some(place.clone()),
                    None if row.home.is_empty() => None,
                    None => directory_place(&self.view, &node).await?,
                };
                let path = match place {
                    Some(place) => path_of(&self.view, &place).await?,
                    None => None,
                };
                match path {
                    Some(path) => named(Some(path), "content or attributes"),
                    None => named(None, &format!("content or attributes of {node}")),
                }
            }
            Some(Space::History) => {
                let (parent, name, order) = keys::parse_history(&key)?;
                let path = path_of(&self.view, &(parent, name)).await?;
                named(path, &format!("version {}", order.version()))
            }
            _ => Err(Error::damaged(format!("a row has the unknown kind {kind}"))),
        }
    }

    /// Gives the rows of a range in order.
    async fn walk(&self, range: &RowRange, mut row: impl FnMut(RowSummary) -> ControlFlow<()>) -> Result<()> {
        let prefix = keys::bucket_prefix(self.view.bucket());
        for (kind, space) in (0u8..).zip(SPACES) {
            let Some(mut rows) = within(range, kind, &prefix) else { continue };
            loop {
                // It may take long, and others want the thread.
                tokio::task::yield_now().await;
                let page = self.view.store_snapshot().scan(space, rows.clone(), SCAN_ROWS, false).await?;
                for (key, value) in &page.rows {
                    let Some(bytes) = self.canonical(space, key, value.clone()).await? else { continue };
                    let mut name = BytesMut::with_capacity(key.len());
                    name.put_u8(kind);
                    name.put_slice(key.get(prefix.len()..).unwrap_or_default());
                    let mut hasher = blake3::Hasher::new();
                    hasher.update(&(name.len() as u64).to_be_bytes()).update(&name).update(&bytes);
                    let summary = RowSummary { key: name.freeze(), hash: *hasher.finalize().as_bytes() };
                    if row(summary).is_break() {
                        return Ok(());
                    }
                }
                match page.rows.last() {
                    Some((last, _)) if page.more => rows.start = Bound::Excluded(last.clone()),
                    _ => break,
                }
            }
        }
        Ok(())
    }

    /// What counts of a row, in one form; `None`: nothing.
    async fn canonical(&self, space: Space, key: &[u8], row: Bytes) -> Result<Option<Vec<u8>>> {
        let own = self.view.own();
        let mut out = Vec::new();
        match space {
            Space::Entries => put(&mut out, 0, &EntryRow::decode(row, own)?.register, |_| true, encode_entry_value),
            Space::Nodes => {
                let row = NodeRow::decode(row, own)?;
                let shown = row.current(self.view.rules()).map(|write| write.dot);
                let counts = |write: &Write<Version>| {
                    write.value.as_ref().is_some_and(|version| version.deleted.is_none()) || Some(write.dot) == shown
                };
                put(&mut out, 2, &row.content, counts, encode_version);
                let (node, _) = keys::parse_entry(key)?;
                let is_directory = !row.home.is_empty()
                    && (node == NodeId::ROOT || directory_place(&self.view, &node).await?.is_some());
                if is_directory {
                    put(&mut out, 1, &row.home, |_| true, encode_home);
                }
                if is_directory || node == NodeId::ROOT || !out.is_empty() {
                    put(&mut out, 3, &row.attributes, |_| true, encode_attributes);
                    put(&mut out, 4, &row.tags, |_| true, encode_tags);
                }
            }
            _ => put(&mut out, 5, &HistoryRow::decode(row, own)?.register, |_| true, encode_version),
        }
        Ok((!out.is_empty()).then_some(out))
    }
}

/// A part of a range, as it grows.
struct Part {
    start: Bytes,
    hasher: blake3::Hasher,
    rows: u64,
}

impl Part {
    fn new(start: Bytes) -> Part {
        Part { start, hasher: blake3::Hasher::new(), rows: 0 }
    }

    fn add(&mut self, row: &RowSummary) {
        self.hasher.update(&row.hash);
        self.rows += 1;
    }

    fn end(self, end: Bytes) -> RangeSummary {
        let range = RowRange { start: self.start, end };
        RangeSummary { range, hash: *self.hasher.finalize().as_bytes(), rows: self.rows }
    }
}

/// The part of a range that is rows of one kind; `None`: no row.
fn within(range: &RowRange, kind: u8, prefix: &[u8]) -> Option<KeyRange> {
    let key = |rest: &[u8]| Bytes::from([prefix, rest].concat());
    let start = match range.start.split_first() {
        Some((first, _)) if *first > kind => return None,
        Some((first, rest)) if *first == kind => Bound::Included(key(rest)),
        _ => Bound::Included(key(b"")),
    };
    let end = match range.end.split_first() {
        Some((first, _)) if *first < kind => return None,
        Some((first, rest)) if *first == kind => Bound::Excluded(key(rest)),
        _ => end_of_prefix(prefix),
    };
    Some(KeyRange { start, end }).filter(|range| !range.is_empty())
}

/// Appends the live values of a register that count, each with who wrote it and when.
fn put<V>(
    out: &mut Vec<u8>,
    field: u8,
    register: &Register<V>,
    counts: impl Fn(&Write<V>) -> bool,
    encode: impl Fn(&V, &mut Vec<u8>),
) {
    let mut bytes = Vec::new();
    for (write, value) in register.live_values().filter(|(write, _)| counts(write)) {
        out.push(field);
        out.extend_from_slice(&write.dot.segment.0);
        put_varint(out, write.dot.sequence);
        out.extend_from_slice(&write.stamp_time.to_be_bytes());
        bytes.clear();
        encode(value, &mut bytes);
        put_bytes(out, &bytes);
    }
}

/// A version in one form: maps have no order in its record.
fn encode_version(version: &Version, out: &mut Vec<u8>) {
    Version { metadata: Metadata::default(), tags: Tags::new(), ..version.clone() }.encode(out);
    for map in [&version.metadata.headers, &version.metadata.user, &version.tags] {
        put_varint(out, map.len() as u64);
        for (name, value) in map {
            put_bytes(out, name.as_bytes());
            put_bytes(out, value.as_bytes());
        }
    }
}
