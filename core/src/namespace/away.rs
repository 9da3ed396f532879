//! Names that are *away*: the doors of this segment pass over them, because others hold their data and the bucket gathers names, too
//! (`docs/notes/0009-gathering-names.md`). A matter of this segment alone, as pins are.
//!
//! A row of [`Space::Meta`] for each file says so, and nothing else: registers stay, what they show stays derived as everywhere, and no other segment hears
//! of it. By node and not by name, so a rename or an edit elsewhere does not bring it back. Conflict copies are seen, whatever node they are of.
//!
//! Who changes a row writes the file's entries again as they are, so that whoever keeps what they show hears of it, and moves the directories' times.

use super::keys::{self, BucketNumber};
use super::rows::{NodeRow, Shown};
use super::txn::Txn;
use crate::error::{Error, Result};
use crate::id::NodeId;
use crate::kv::{KeyRange, Snapshot, Space};
use bytes::{BufMut, Bytes, BytesMut};
use std::sync::Arc;

const FORMAT: u8 = 1;
const AWAY: u8 = 0;
const RECALLED: u8 = 1;
/// Rows that are read at once.
const SCAN_ROWS: usize = 1024;

/// `away/`, bucket (4): the prefix of all of them.
pub fn away_prefix(bucket: BucketNumber) -> Bytes {
    let mut key = BytesMut::from(&b"away/"[..]);
    key.put_u32(bucket);
    key.freeze()
}

fn away_row(bucket: BucketNumber, node: &NodeId) -> Bytes {
    let mut key = BytesMut::from(away_prefix(bucket).as_ref());
    key.put_slice(&node.0);
    key.freeze()
}

/// What a row says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It is passed over.
    Away,
    /// Somebody asked for it at this time, in nanoseconds: it is to stay as if it had been written then.
    Recalled(i64),
}

impl State {
    pub(super) fn encode(self) -> Bytes {
        let mut row = BytesMut::new();
        row.put_u8(FORMAT);
        match self {
            State::Away => row.put_u8(AWAY),
            State::Recalled(at_ns) => {
                row.put_u8(RECALLED);
                row.put_i64(at_ns);
            }
        }
        row.freeze()
    }

    pub(super) fn decode(row: &[u8]) -> Result<State> {
        match row.split_first_chunk::<2>() {
            Some(([FORMAT, AWAY], [])) => Ok(State::Away),
            Some(([FORMAT, RECALLED], time)) if time.len() == 8 => {
                let time = time.try_into().map_err(|_| Error::damaged("the time of a recalled name can't be read"))?;
                Ok(State::Recalled(i64::from_be_bytes(time)))
            }
            _ => Err(Error::damaged("whether a name is away can't be read")),
        }
    }
}

/// Whether a bucket has any such row.
pub async fn has_away(snapshot: &Arc<dyn Snapshot>, bucket: BucketNumber) -> Result<bool> {
    let prefix = KeyRange::prefix(&away_prefix(bucket));
    Ok(!snapshot.scan(Space::Meta, prefix, 1, false).await?.rows.is_empty())
}

/// Whether a file is passed over.
pub async fn is_away(snapshot: &Arc<dyn Snapshot>, bucket: BucketNumber, node: &NodeId) -> Result<bool> {
    let row = snapshot.get(Space::Meta, &away_row(bucket, node)).await?;
    Ok(row.map(|row| State::decode(&row)).transpose()? == Some(State::Away))
}

/// The node that may be passed over where this shows: that of a file, and of no conflict copy.
pub fn node_of_name(shown: &Shown) -> Option<&NodeId> {
    match shown {
        Shown::File(file) if file.content.is_none() => Some(&file.node),
        _ => None,
    }
}

/// The nodes that have a row, in their order, behind `after`; at most a page of them. And whether each is away.
pub async fn page(
    snapshot: &Arc<dyn Snapshot>,
    bucket: BucketNumber,
    after: Option<NodeId>,
) -> Result<Vec<(NodeId, bool)>> {
    let prefix = away_prefix(bucket);
    let range = match after {
        Some(node) => KeyRange::prefix_after(&prefix, away_row(bucket, &node)),
        None => KeyRange::prefix(&prefix),
    };
    let rows = snapshot.scan(Space::Meta, range, SCAN_ROWS, false).await?.rows;
    let node = |key: &Bytes| key.get(prefix.len()..).and_then(|node| node.try_into().ok()).map(NodeId);
    let bad = || Error::damaged("a name that is away has no node");
    rows.iter().map(|(key, row)| Ok((node(key).ok_or_else(bad)?, State::decode(row)? == State::Away))).collect()
}

/// Has a file passed over, unless it has changed since the commit that wrote `row`, or was recalled after `until_ns`. Returns whether it is news.
pub async fn put_away(txn: &mut Txn, bucket: BucketNumber, node: &NodeId, commit: u64, until_ns: i64) -> Result<bool> {
    let key = away_row(bucket, node);
    let state = txn.read(Space::Meta, &key).await?.map(|row| State::decode(&row)).transpose()?;
    match state {
        Some(State::Away) => return Ok(false),
        Some(State::Recalled(at_ns)) if at_ns > until_ns => return Ok(false),
        _ => {}
    }
    let row = txn.node(bucket, node).await?.clone();
    if row.commit != commit {
        return Ok(false);
    }
    txn.put(Space::Meta, key, State::Away.encode());
    tell(txn, bucket, node, &row).await?;
    Ok(true)
}

/// Has a file seen again. `at_ns`: it was asked for at that time; `None`: its row goes. Returns whether it was away.
pub async fn recall(txn: &mut Txn, bucket: BucketNumber, node: &NodeId, at_ns: Option<i64>) -> Result<bool> {
    let key = away_row(bucket, node);
    let Some(state) = txn.read(Space::Meta, &key).await? else { return Ok(false) };
    let was_away = State::decode(&state)? == State::Away;
    let row = txn.node(bucket, node).await?.clone();
    match at_ns.filter(|_| !row.names.is_empty()) {
        Some(at_ns) => txn.put(Space::Meta, key, State::Recalled(at_ns).encode()),
        None => txn.delete(Space::Meta, key),
    }
    if was_away {
        tell(txn, bucket, node, &row).await?;
    }
    Ok(was_away)
}

/// What a transaction changes of files here makes them seen again.
pub async fn recall_changed(txn: &mut Txn, bucket: BucketNumber) -> Result<()> {
    for key in txn.changed_nodes(bucket) {
        let (node, _) = keys::parse_entry(&key)?;
        recall(txn, bucket, &node, None).await?;
    }
    Ok(())
}

/// What a transaction of another segment's changes takes the last name of is not away any more: it is gone.
pub async fn forget_nameless(txn: &mut Txn, bucket: BucketNumber) -> Result<()> {
    for key in txn.changed_nodes(bucket) {
        let (node, _) = keys::parse_entry(&key)?;
        if txn.node(bucket, &node).await?.names.is_empty() {
            let row = away_row(bucket, &node);
            if txn.read(Space::Meta, &row).await?.is_some() {
                txn.delete(Space::Meta, row);
            }
        }
    }
    Ok(())
}

/// Whoever keeps what the file's names show hears of it.
async fn tell(txn: &mut Txn, bucket: BucketNumber, node: &NodeId, row: &NodeRow) -> Result<()> {
    for (parent, name) in row.names.clone() {
        let entry = txn.entry(bucket, &parent, &name).await?;
        if entry.shown.as_ref().and_then(node_of_name) == Some(node) {
            txn.edit_entry(bucket, &parent, &name).await?;
            txn.touch_directory(bucket, &parent);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_return_and_damaged_ones_are_refused() {
        for state in [State::Away, State::Recalled(7), State::Recalled(i64::MIN)] {
            assert_eq!(State::decode(&state.encode()).unwrap(), state);
        }
        let recalled = State::Recalled(7).encode();
        for bad in [&[][..], &[1], &[2, 0], &[1, 2], &[1, 0, 0], &recalled[..9], &[&recalled[..], &[0]].concat()] {
            assert!(State::decode(bad).is_err(), "{bad:?}");
        }
    }
}
