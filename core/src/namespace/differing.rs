//! Comparing: what this segment holds and those do not that it compares with, who once held it too.
//!
//! A delta says all that is live at its sender in a range of the change index. What is live here in that range, and not in the delta, was replaced
//! there, or replaced and dropped. While deltas come it is only noted, because what it was replaced by may come later; what is still live when
//! all has come was dropped, and is dropped here: entries first, so that it is known then which files still have a name. A content that goes while its file
//! has one, from a change that they had not seen when they dropped it, is written anew; and so are a file's attributes and tags if it lives on.

use super::BucketState;
use super::delta::{Delta, DeltaRegister, count_kept};
use super::keys::{self, BucketNumber};
use super::rows::NodeRow;
use super::standing::{differing_key, differing_prefix, parse_differing};
use super::txn::{Field, Txn};
use super::version::Version;
use super::wanted::want_copy;
use super::write::tags_of;
use crate::error::{Error, Result};
use crate::id::SegmentId;
use crate::kv::{KeyRange, Space};
use crate::object::Tags;
use crate::register::{Dot, Register, VersionVector, Write};
use bytes::Bytes;
use std::collections::HashSet;

const PASS_ROWS: usize = 1024;

/// Everything that is live in a delta.
pub fn live_in(delta: &Delta) -> HashSet<Dot> {
    let mut live = HashSet::new();
    for register in &delta.registers {
        match register {
            DeltaRegister::Entry(_, _, register) => live.extend(register.dots()),
            DeltaRegister::Home(_, register) => live.extend(register.dots()),
            DeltaRegister::Content(_, register) | DeltaRegister::History(_, register) => live.extend(register.dots()),
            DeltaRegister::Attributes(_, register) => live.extend(register.dots()),
            DeltaRegister::Tags(_, register) => live.extend(register.dots()),
        }
    }
    live
}

/// Notes a page of what the change index has of `segment` in the range that `delta` is about, behind the sequence number `after`, and `delta` has not. Returns where
/// the next page begins; `None`: there is none.
pub async fn note_differing(
    txn: &mut Txn,
    bucket: BucketNumber,
    delta: &Delta,
    live: &HashSet<Dot>,
    segment: &SegmentId,
    after: u64,
) -> Result<Option<u64>> {
    let (own, ledger) = (*txn.own(), txn.ledger().clone());
    let prefix = keys::index_of_segment(bucket, &own, segment);
    let range = KeyRange::prefix_after(&prefix, keys::index(bucket, &own, segment, after));
    let page = ledger.store().snapshot().await?.scan(Space::Index, range, PASS_ROWS, false).await?;
    let mut last = None;
    for (key, target) in &page.rows {
        let (_, sequence) = keys::parse_index(&own, key)?;
        if sequence > delta.to.get(segment) {
            return Ok(None);
        }
        let dot = Dot::new(*segment, sequence);
        if !live.contains(&dot) {
            txn.put(Space::Meta, differing_key(bucket, &dot, target)?, Bytes::new());
        }
        last = Some(sequence);
    }
    Ok(last.filter(|_| page.more))
}

/// Drops a page of what was noted and is still live. `known`: where those stand that it was compared with. Returns whether there is more.
pub async fn drop_differing(txn: &mut Txn, bucket: &BucketState, known: &VersionVector) -> Result<bool> {
    let ledger = txn.ledger().clone();
    let prefix = differing_prefix(bucket.number);
    let page = ledger.store().snapshot().await?.scan(Space::Meta, KeyRange::prefix(&prefix), PASS_ROWS, false).await?;
    let mut first = None;
    for (key, _) in &page.rows {
        let (field, dot, row_key) = parse_differing(bucket.number, key)?;
        // What becomes of a node depends on what has become of its names.
        if *first.get_or_insert(field) != field {
            super::show(txn, bucket).await?;
            return Ok(true);
        }
        drop_live(txn, bucket, field, &dot, row_key, known).await?;
        txn.delete(Space::Meta, key.clone());
    }
    super::show(txn, bucket).await?;
    Ok(page.more)
}

/// Forgets a page of what was noted. Returns whether there is more.
pub async fn forget_differing(txn: &mut Txn, bucket: BucketNumber) -> Result<bool> {
    let prefix = KeyRange::prefix(&differing_prefix(bucket));
    let page = txn.ledger().store().snapshot().await?.scan(Space::Meta, prefix, PASS_ROWS, false).await?;
    for (key, _) in &page.rows {
        txn.delete(Space::Meta, key.clone());
    }
    Ok(page.more)
}

async fn drop_live(
    txn: &mut Txn,
    bucket: &BucketState,
    field: Field,
    dot: &Dot,
    row_key: Bytes,
    known: &VersionVector,
) -> Result<()> {
    match field {
        Field::Entry => {
            let (parent, name) = keys::parse_entry(&row_key)?;
            if txn.entry(bucket.number, &parent, name).await?.register.is_live(dot) {
                txn.edit_entry(bucket.number, &parent, name).await?.register.drop_write(dot, known);
            }
        }
        Field::History => {
            if txn.history(row_key.clone()).await?.register.is_live(dot) {
                let register = &mut txn.edit_history(row_key).await?.register;
                let before = register.value().map(|version| version.size);
                register.drop_write(dot, known);
                let now = register.value().map(|version| version.size);
                count_kept(txn, bucket.number, before, now);
            }
        }
        Field::Catalog => return Err(Error::damaged("a bucket's change index names a row of the catalog")),
        Field::Home | Field::Content | Field::Attributes | Field::Tags => {
            let (node, _) = keys::parse_entry(&row_key)?;
            let row = txn.node(bucket.number, &node).await?;
            let (is_live, has_name) = (is_live(row, field, dot), !row.names.is_empty());
            let lives_on = has_name || row.content.live_values().any(|(_, version)| version.deleted.is_none());
            if !is_live {
                return Ok(());
            }
            let is_kept = if field == Field::Content { has_name } else { lives_on };
            let write =
                row.content.ordered().iter().find(|write| write.dot == *dot && field == Field::Content).cloned();
            let anew = (is_kept && field != Field::Home).then(|| txn.dot());
            if let (Some(anew), Some(version)) = (anew, write.and_then(|write| write.value)) {
                want_copy(txn, bucket, anew, &version).await?;
            }
            let tags = write_tags(txn.node(bucket.number, &node).await?, dot);
            let row = txn.edit_node(bucket.number, &node).await?;
            match field {
                Field::Home => row.home.drop_write(dot, known),
                Field::Content => {
                    let keep = |version| Version { deleted: None, tags: tags.clone(), ..version };
                    drop_or_keep(&mut row.content, dot, known, anew, keep);
                }
                Field::Attributes => drop_or_keep(&mut row.attributes, dot, known, anew, |value| value),
                _ => drop_or_keep(&mut row.tags, dot, known, anew, |value| value),
            }
        }
    }
    Ok(())
}

fn is_live(row: &NodeRow, field: Field, dot: &Dot) -> bool {
    match field {
        Field::Home => row.home.is_live(dot),
        Field::Content => row.content.is_live(dot),
        Field::Attributes => row.attributes.is_live(dot),
        _ => row.tags.is_live(dot),
    }
}

/// The tags of the content that a write carries, which go by the write.
fn write_tags(row: &NodeRow, dot: &Dot) -> Tags {
    row.content.ordered().iter().find(|write| write.dot == *dot).map(|write| tags_of(row, write)).unwrap_or_default()
}

fn drop_or_keep<V: Clone>(
    register: &mut Register<V>,
    dot: &Dot,
    known: &VersionVector,
    anew: Option<Dot>,
    value: impl Fn(V) -> V,
) {
    let here = register.ordered().iter().find(|write| write.dot == *dot).and_then(|write| write.value.clone());
    match (anew, here) {
        (Some(anew), Some(here)) => {
            let slot = anew.slot().unwrap_or_default();
            register.local_write(Write::pending(slot, anew.segment, Some(value(here))), &[*dot]);
        }
        _ => register.drop_write(dot, known),
    }
}
