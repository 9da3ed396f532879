//! Deltas: what one segment knows of a bucket and another does not, and taking them in.
//!
//! A delta is cut at one instant: all registers after the receiver's vector, from one scan per segment of the change index, and the
//! vector that it reaches. Merging is per register (see `register`), so deltas may come in any order, in parts and twice. What shows is derived
//! anew in the same commit (see `show`), which costs work and memory by what the delta changes.

use super::keys::{self, BucketNumber};
use super::rows::{AttributesValue, EntryRow, HistoryRow, NodeRow, TagsValue};
use super::txn::{Field, Txn};
use super::version::Version;
use super::wanted::{DataWanted, want};
use super::{BucketState, Ledger};
use crate::error::{Error, Result};
use crate::id::{BucketId, NodeId, SegmentId};
use crate::kv::{KeyRange, Snapshot, Space};
use crate::register::{HybridClock, Register, VersionVector};
use crate::tree::EntryValue;
use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::Arc;

const SCAN_ROWS: usize = 1024;

/// One register of a delta, whole.
#[derive(Debug, Clone, PartialEq)]
pub enum DeltaRegister {
    /// A directory entry.
    Entry(NodeId, Bytes, Register<EntryValue>),
    /// A directory's home.
    Home(NodeId, Register<(NodeId, Bytes)>),
    /// A node's content.
    Content(NodeId, Register<Version>),
    /// A node's attributes.
    Attributes(NodeId, Register<AttributesValue>),
    /// A node's tags.
    Tags(NodeId, Register<TagsValue>),
    /// A kept version: its row's key without the bucket.
    History(Bytes, Register<Version>),
}

/// What a segment that stands at `from` lacks to stand at `to`.
#[derive(Debug, Clone, PartialEq)]
pub struct Delta {
    /// The bucket.
    pub bucket: BucketId,
    /// The vector it was cut for.
    pub from: VersionVector,
    /// The vector that whoever stands at `from` reaches by taking in all of `registers`.
    pub to: VersionVector,
    /// The registers.
    pub registers: Vec<DeltaRegister>,
}

fn vector_row(bucket: BucketNumber) -> Bytes {
    let mut key = b"vector/".to_vec();
    key.extend_from_slice(&bucket.to_be_bytes());
    key.into()
}

/// The vector of a bucket: up to where all changes of each segment are here.
pub async fn vector(ledger: &Ledger, snapshot: &Arc<dyn Snapshot>, bucket: BucketNumber) -> Result<VersionVector> {
    let mut vector = match snapshot.get(Space::Meta, &vector_row(bucket)).await? {
        Some(row) => VersionVector::decode(&mut row.as_ref())?,
        None => VersionVector::new(),
    };
    let sequence = ledger.sequence_at(snapshot).await?;
    if sequence > 0 {
        vector.advance(crate::register::Dot::new(*ledger.own(), sequence));
    }
    Ok(vector)
}

/// Cuts a delta for a segment that stands at `from`.
pub async fn changes_since(ledger: &Ledger, bucket: &BucketState, from: &VersionVector) -> Result<Delta> {
    let snapshot = ledger.store().snapshot().await?;
    let own = *ledger.own();
    let to = vector(ledger, &snapshot, bucket.number).await?;
    let mut targets: BTreeSet<(u8, Bytes)> = BTreeSet::new();
    for dot in to.dots() {
        let prefix = keys::index_of_segment(bucket.number, &own, &dot.segment);
        let after = keys::index(bucket.number, &own, &dot.segment, from.get(&dot.segment));
        let mut range = KeyRange::prefix_after(&prefix, after);
        loop {
            let page = snapshot.scan(Space::Index, range, SCAN_ROWS, false).await?;
            for (_, target) in &page.rows {
                let (field, key) =
                    target.split_first().ok_or_else(|| Error::damaged("a row of the change index is empty"))?;
                targets.insert((*field, target.slice_ref(key)));
            }
            match page.rows.last() {
                Some((last, _)) if page.more => range = KeyRange::prefix_after(&prefix, last.clone()),
                _ => break,
            }
        }
    }
    let mut registers = Vec::with_capacity(targets.len());
    for (field, key) in targets {
        registers.push(read_register(&snapshot, bucket.number, &own, Field::from_byte(field)?, key).await?);
    }
    Ok(Delta { bucket: bucket.id, from: from.clone(), to, registers })
}

async fn read_register(
    snapshot: &Arc<dyn Snapshot>,
    bucket: BucketNumber,
    own: &SegmentId,
    field: Field,
    key: Bytes,
) -> Result<DeltaRegister> {
    let row_key = [&bucket.to_be_bytes()[..], &key].concat();
    let space = match field {
        Field::Entry => Space::Entries,
        Field::History => Space::History,
        Field::Catalog => Space::Catalog,
        Field::Home | Field::Content | Field::Attributes | Field::Tags => Space::Nodes,
    };
    let row = snapshot.get(space, &row_key).await?;
    let row = row.ok_or_else(|| Error::damaged("the change index names a row that is not there"))?;
    let (node, name) = keys::parse_entry(&row_key)?;
    Ok(match field {
        Field::Entry => DeltaRegister::Entry(node, Bytes::copy_from_slice(name), EntryRow::decode(row, own)?.register),
        Field::Home => DeltaRegister::Home(node, NodeRow::decode(row, own)?.home),
        Field::Content => DeltaRegister::Content(node, NodeRow::decode(row, own)?.content),
        Field::Attributes => DeltaRegister::Attributes(node, NodeRow::decode(row, own)?.attributes),
        Field::Tags => DeltaRegister::Tags(node, NodeRow::decode(row, own)?.tags),
        Field::History => DeltaRegister::History(key, HistoryRow::decode(row, own)?.register),
        Field::Catalog => return Err(Error::damaged("a bucket's change index names a row of the catalog")),
    })
}

/// Takes a delta in; returns how many registers changed. The bucket stands at the union of its vector and the delta's, if it stood at `from` at least.
pub async fn apply(txn: &mut Txn, bucket: &BucketState, delta: &Delta, data: DataWanted) -> Result<usize> {
    if delta.bucket != bucket.id {
        return Err(Error::invalid("the delta is of another bucket"));
    }
    let mut changed = 0;
    let mut latest = 0;
    for register in &delta.registers {
        let (is_news, time) = merge(txn, bucket.number, register, data).await?;
        changed += usize::from(is_news);
        latest = latest.max(time);
    }
    if latest > HybridClock::REMOTE_TIME_MAX {
        return Err(Error::invalid("a delta has stamps from further ahead than any clock can be"));
    }
    txn.ledger().observe(latest);
    let snapshot = txn.ledger().store().snapshot().await?;
    let ledger = txn.ledger().clone();
    let mut here = vector(&ledger, &snapshot, bucket.number).await?;
    if here.dominates(&delta.from) {
        here.merge(&delta.to);
        here.remove(txn.own());
        let mut row = Vec::new();
        here.encode(&mut row);
        txn.put(Space::Meta, vector_row(bucket.number), row);
    }
    super::show(txn, bucket).await?;
    Ok(changed)
}

async fn merge(txn: &mut Txn, bucket: BucketNumber, register: &DeltaRegister, data: DataWanted) -> Result<(bool, u64)> {
    Ok(match register {
        DeltaRegister::Entry(parent, name, theirs) => {
            (txn.edit_entry(bucket, parent, name).await?.register.merge(theirs), theirs.time_max())
        }
        DeltaRegister::Home(node, theirs) => (txn.edit_node(bucket, node).await?.home.merge(theirs), theirs.time_max()),
        DeltaRegister::Content(node, theirs) => {
            let register = &mut txn.edit_node(bucket, node).await?.content;
            let before = register.dots();
            let is_news = register.merge(theirs);
            if data == DataWanted::Yes && is_news {
                let now = register.clone();
                want(txn, bucket, Field::Content, &keys::node(bucket, node), &before, &now);
            }
            (is_news, theirs.time_max())
        }
        DeltaRegister::Attributes(node, theirs) => {
            (txn.edit_node(bucket, node).await?.attributes.merge(theirs), theirs.time_max())
        }
        DeltaRegister::Tags(node, theirs) => (txn.edit_node(bucket, node).await?.tags.merge(theirs), theirs.time_max()),
        DeltaRegister::History(key, theirs) => {
            let key = [&bucket.to_be_bytes()[..], key].concat();
            keys::parse_history(&key)?;
            let key = Bytes::from(key);
            let register = &mut txn.edit_history(key.clone()).await?.register;
            let dots = register.dots();
            let before = register.value().map(|version| version.size);
            let is_news = register.merge(theirs);
            let now = register.value().map(|version| version.size);
            if data == DataWanted::Yes && is_news {
                let register = register.clone();
                want(txn, bucket, Field::History, &key, &dots, &register);
            }
            txn.count(bucket, |usage| {
                usage.old_versions += i64::from(now.is_some()) - i64::from(before.is_some());
                let bytes = |size: Option<u64>| i64::try_from(size.unwrap_or_default()).unwrap_or(i64::MAX);
                usage.old_bytes += bytes(now) - bytes(before);
            });
            (is_news, theirs.time_max())
        }
    })
}
