//! Row keys of the metadata store. Byte tables: `docs/format/metadata.md`.
//!
//! Every key of a bucket starts with the bucket's local number, so that a bucket is one range in each space.

use crate::error::{Error, Result};
use crate::id::{ChunkId, NodeId, SegmentId, VersionId};
use bytes::{BufMut, Bytes, BytesMut};

/// The number of a bucket inside this segment; never reused.
pub type BucketNumber = u32;

/// The bucket number under which the catalog's own registers are indexed.
pub const CATALOG: BucketNumber = 0;

/// `[bucket]`: the prefix of all rows of a bucket.
pub fn bucket_prefix(bucket: BucketNumber) -> Bytes {
    Bytes::copy_from_slice(&bucket.to_be_bytes())
}

/// Entries: `[bucket][parent][name]`.
pub fn entry(bucket: BucketNumber, parent: &NodeId, name: &[u8]) -> Bytes {
    let mut key = BytesMut::with_capacity(20 + name.len());
    key.put_u32(bucket);
    key.put_slice(&parent.0);
    key.put_slice(name);
    key.freeze()
}

/// The parent and name of an entry key.
pub fn parse_entry(key: &[u8]) -> Result<(NodeId, &[u8])> {
    let (_, rest) = key.split_first_chunk::<4>().ok_or_else(short)?;
    let (parent, name) = rest.split_first_chunk::<16>().ok_or_else(short)?;
    Ok((NodeId(*parent), name))
}

/// Nodes: `[bucket][node]`.
pub fn node(bucket: BucketNumber, node: &NodeId) -> Bytes {
    entry(bucket, node, b"")
}

/// Derived: `[bucket]t[directory]`, when a directory's entries last changed.
pub fn directory_time(bucket: BucketNumber, directory: &NodeId) -> Bytes {
    derived(bucket, b't', directory, b"")
}

/// Derived: `[bucket]s[directory]`, how many directories are in a directory.
pub fn directory_count(bucket: BucketNumber, directory: &NodeId) -> Bytes {
    derived(bucket, b's', directory, b"")
}

/// Derived: `[bucket]e[directory]`, how many entries of a directory show.
pub fn entry_count(bucket: BucketNumber, directory: &NodeId) -> Bytes {
    derived(bucket, b'e', directory, b"")
}

/// Derived: `[bucket]c[directory][name]`, what is in conflict about a name of a directory. With an empty name: whether derived names of the directory
/// are in each other's way.
pub fn contention(bucket: BucketNumber, directory: &NodeId, name: &[u8]) -> Bytes {
    derived(bucket, b'c', directory, name)
}

/// Derived: `[bucket]c`, the prefix of all that is in conflict in a bucket.
pub fn contentions(bucket: BucketNumber) -> Bytes {
    let mut key = BytesMut::with_capacity(5);
    key.put_u32(bucket);
    key.put_u8(b'c');
    key.freeze()
}

/// Directory and name of the key of a contention.
pub fn parse_contention(key: &[u8]) -> Result<(NodeId, &[u8])> {
    let (directory, name) = key.get(5..).and_then(|rest| rest.split_first_chunk::<16>()).ok_or_else(short)?;
    Ok((NodeId(*directory), name))
}

/// Derived: `[bucket]h[parent][name escaped][directory]`: the home of a directory is that place.
pub fn homed(bucket: BucketNumber, parent: &NodeId, name: &[u8], directory: &NodeId) -> Bytes {
    let mut key = BytesMut::from(homed_at(bucket, parent, name).as_ref());
    key.put_slice(&directory.0);
    key.freeze()
}

/// The prefix of all directories whose home is one place.
pub fn homed_at(bucket: BucketNumber, parent: &NodeId, name: &[u8]) -> Bytes {
    let mut key = BytesMut::from(derived(bucket, b'h', parent, b"").as_ref());
    escape(&mut key, name);
    key.freeze()
}

/// Derived: `[bucket]a[node]`, what a conflict copy is that goes by an id of its own.
pub fn alias(bucket: BucketNumber, id: &NodeId) -> Bytes {
    derived(bucket, b'a', id, b"")
}

fn derived(bucket: BucketNumber, kind: u8, node: &NodeId, name: &[u8]) -> Bytes {
    let mut key = BytesMut::with_capacity(21 + name.len());
    key.put_u32(bucket);
    key.put_u8(kind);
    key.put_slice(&node.0);
    key.put_slice(name);
    key.freeze()
}

/// History: `[bucket][parent][name escaped][version, newest first]`.
pub fn history(bucket: BucketNumber, parent: &NodeId, name: &[u8], version: &HistoryOrder) -> Bytes {
    let mut key = BytesMut::from(history_of_name(bucket, parent, name).as_ref());
    key.put_slice(&version.0);
    key.freeze()
}

/// The prefix of the history of one name.
pub fn history_of_name(bucket: BucketNumber, parent: &NodeId, name: &[u8]) -> Bytes {
    let mut key = BytesMut::with_capacity(56 + name.len());
    key.put_u32(bucket);
    key.put_slice(&parent.0);
    escape(&mut key, name);
    key.freeze()
}

/// Parent, name and order of a history key.
pub fn parse_history(key: &[u8]) -> Result<(NodeId, Bytes, HistoryOrder)> {
    let (parent, rest) = parse_entry(key)?;
    let (name, order) = unescape(rest)?;
    Ok((parent, name, HistoryOrder(order.try_into().map_err(|_| short())?)))
}

/// The bytes that sort a key's versions newest first: stamp, segment and sequence, all inverted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HistoryOrder(pub [u8; 32]);

impl HistoryOrder {
    /// The order of a write.
    pub fn of(stamp: u64, segment: SegmentId, sequence: u64) -> HistoryOrder {
        HistoryOrder(VersionId::Id { stamp, segment, sequence }.to_bytes().map(|b| !b))
    }

    /// The id of the write.
    pub fn version(&self) -> VersionId {
        VersionId::from_bytes(&self.0.map(|b| !b)).unwrap_or(VersionId::Null)
    }
}

/// Index: `[bucket][0 | 1 segment][sequence]`; 0 stands for this segment.
pub fn index(bucket: BucketNumber, own: &SegmentId, segment: &SegmentId, sequence: u64) -> Bytes {
    let mut key = BytesMut::with_capacity(29);
    key.put_slice(&index_of_segment(bucket, own, segment));
    key.put_u64(sequence);
    key.freeze()
}

/// The prefix of one segment's rows in a bucket's index.
pub fn index_of_segment(bucket: BucketNumber, own: &SegmentId, segment: &SegmentId) -> Bytes {
    let mut key = BytesMut::with_capacity(29);
    key.put_u32(bucket);
    if segment == own {
        key.put_u8(0);
    } else {
        key.put_u8(1);
        key.put_slice(&segment.0);
    }
    key.freeze()
}

/// Segment and sequence of an index key.
pub fn parse_index(own: &SegmentId, key: &[u8]) -> Result<(SegmentId, u64)> {
    let (_, rest) = key.split_first_chunk::<4>().ok_or_else(short)?;
    let (tag, rest) = rest.split_first().ok_or_else(short)?;
    let (segment, rest) = match tag {
        0 => (*own, rest),
        1 => {
            let (segment, rest) = rest.split_first_chunk::<16>().ok_or_else(short)?;
            (SegmentId(*segment), rest)
        }
        _ => return Err(Error::damaged(format!("an index key has the unknown tag {tag}"))),
    };
    Ok((segment, u64::from_be_bytes(rest.try_into().map_err(|_| short())?)))
}

/// Chunks: the id.
pub fn chunk(id: &ChunkId) -> Bytes {
    Bytes::copy_from_slice(&id.0)
}

/// Uploads: `[bucket]u[key escaped][id]`.
pub fn upload(bucket: BucketNumber, key: &[u8], id: &str) -> Bytes {
    let mut out = BytesMut::from(upload_prefix(bucket).as_ref());
    escape(&mut out, key);
    out.put_slice(id.as_bytes());
    out.freeze()
}

/// The prefix of a bucket's uploads.
pub fn upload_prefix(bucket: BucketNumber) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u32(bucket);
    out.put_u8(b'u');
    out.freeze()
}

/// Key and id of an upload's key.
pub fn parse_upload(key: &[u8]) -> Result<(Bytes, String)> {
    let (name, id) = unescape(key.get(5..).ok_or_else(short)?)?;
    Ok((name, String::from_utf8_lossy(id).into_owned()))
}

/// Uploads: `[bucket]p[id][0][number]`, a part.
pub fn part(bucket: BucketNumber, id: &str, number: u32) -> Bytes {
    let mut out = BytesMut::from(part_prefix(bucket, id).as_ref());
    out.put_u32(number);
    out.freeze()
}

/// The prefix of an upload's parts.
pub fn part_prefix(bucket: BucketNumber, id: &str) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u32(bucket);
    out.put_u8(b'p');
    out.put_slice(id.as_bytes());
    out.put_u8(0);
    out.freeze()
}

/// Past: `[bucket][space][row key without bucket, escaped][commit that superseded it]`.
pub fn past(space: u8, row_key: &[u8], superseded: u64) -> Bytes {
    let mut out = BytesMut::from(past_of_row(space, row_key).as_ref());
    out.put_u64(superseded);
    out.freeze()
}

/// The prefix of all past states of one row.
pub fn past_of_row(space: u8, row_key: &[u8]) -> Bytes {
    let (bucket, rest) = row_key.split_at_checked(4).unwrap_or((row_key, b""));
    let mut out = BytesMut::with_capacity(row_key.len() + 12);
    out.put_slice(bucket);
    out.put_u8(space);
    escape(&mut out, rest);
    out.freeze()
}

/// The prefix of the past states of all rows of `space` whose keys start with `row_prefix`.
pub fn past_of_prefix(space: u8, row_prefix: &[u8]) -> Bytes {
    let whole = past_of_row(space, row_prefix);
    // An escaped string without its terminator is a prefix of every longer one.
    whole.slice(..whole.len().saturating_sub(2))
}

/// Row key and superseding commit of a past key.
pub fn parse_past(key: &[u8]) -> Result<(u8, Bytes, u64)> {
    let (bucket, rest) = key.split_at_checked(4).ok_or_else(short)?;
    let (space, rest) = rest.split_first().ok_or_else(short)?;
    let (row, commit) = unescape(rest)?;
    let mut row_key = BytesMut::from(bucket);
    row_key.put_slice(&row);
    Ok((*space, row_key.freeze(), u64::from_be_bytes(commit.try_into().map_err(|_| short())?)))
}

/// Appends `bytes` so that the result sorts as `bytes` does and ends where nothing longer begins: 0 becomes 0 255, the end is 0 0.
fn escape(out: &mut BytesMut, bytes: &[u8]) {
    for &b in bytes {
        out.put_u8(b);
        if b == 0 {
            out.put_u8(255);
        }
    }
    out.put_slice(&[0, 0]);
}

fn unescape(bytes: &[u8]) -> Result<(Bytes, &[u8])> {
    let mut out = BytesMut::new();
    let mut rest = bytes;
    loop {
        match rest {
            [0, 0, tail @ ..] => return Ok((out.freeze(), tail)),
            [0, 255, tail @ ..] => {
                out.put_u8(0);
                rest = tail;
            }
            [0, ..] | [] => return Err(Error::damaged("an escaped name in a metadata key has no end")),
            [b, tail @ ..] => {
                out.put_u8(*b);
                rest = tail;
            }
        }
    }
}

fn short() -> Error {
    Error::damaged("a metadata key has the wrong length")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn escaped_names_sort_and_return(a in proptest::collection::vec(0u8..4, 0..8), b in proptest::collection::vec(0u8..4, 0..8)) {
            let mut x = BytesMut::new();
            let mut y = BytesMut::new();
            escape(&mut x, &a);
            escape(&mut y, &b);
            prop_assert_eq!(a.cmp(&b), x.cmp(&y));
            prop_assert_eq!(unescape(&x).unwrap().0.to_vec(), a);
        }

        #[test]
        fn hostile_keys_are_refused_not_fatal(key in proptest::collection::vec(any::<u8>(), 0..80)) {
            let own = SegmentId([1; 16]);
            let _ = (parse_entry(&key), parse_history(&key), parse_index(&own, &key), parse_upload(&key), parse_past(&key));
        }
    }

    #[test]
    fn history_sorts_newest_first() {
        let segment = SegmentId([3; 16]);
        let old = HistoryOrder::of(5, segment, 9);
        let new = HistoryOrder::of(6, segment, 1);
        assert!(new < old);
        assert_eq!(old.version(), VersionId::Id { stamp: 5, segment, sequence: 9 });
    }
}
