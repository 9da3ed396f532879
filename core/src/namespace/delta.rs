//! Deltas: what one segment knows of a bucket and another does not, and taking them in.
//!
//! Deltas are cut in `cut`. Merging is per register (see `register`), so deltas may come in any order, in parts and twice. What shows is derived
//! anew in the same commit (see `show`), which costs work and memory by what the delta changes.

use super::keep::{Keeping, keeping_in};
use super::keys::{self, BucketNumber};
use super::rows::{AttributesValue, TagsValue};
use super::standing::standing;
use super::txn::{Field, Txn};
use super::version::Version;
use super::wanted::{want, want_revived};
use super::{BucketState, Ledger};
use crate::error::{Error, Result};
use crate::id::{BucketId, NodeId};
use crate::kv::{KeyRange, Snapshot, Space};
use crate::register::{Dot, HybridClock, Register, VersionVector};
use crate::tree::EntryValue;
use bytes::Bytes;
use std::ops::Bound;
use std::sync::Arc;

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
    /// All that the sender stood at. (`to` may be a step on the way there.)
    pub knows: VersionVector,
    /// The sender's floor, see `standing`: what was dropped, which `registers` do not tell of, lies at or below it.
    pub floor: VersionVector,
    /// Whether `to` is all that the sender knew at the cut, and so a state that it showed; otherwise this is a step on the way there.
    pub is_whole: bool,
}

impl Delta {
    /// How many directory entries are in it.
    pub fn names(&self) -> u64 {
        self.registers.iter().filter(|register| matches!(register, DeltaRegister::Entry(..))).count() as u64
    }
}

/// The vector of a bucket: up to where all changes of each segment are here.
pub async fn vector(ledger: &Ledger, snapshot: &Arc<dyn Snapshot>, bucket: BucketNumber) -> Result<VersionVector> {
    Ok(standing(ledger, snapshot, bucket).await?.known)
}

/// The lowest vector with which all is known that is known here now: [`vector`], but for each segment not above the last of its changes that is of this bucket and
/// was not replaced. (A sequence number counts the changes of all buckets; what is in others need not come for this one to be whole.)
pub async fn effective_vector(
    ledger: &Ledger,
    snapshot: &Arc<dyn Snapshot>,
    bucket: BucketNumber,
) -> Result<VersionVector> {
    let own = ledger.own();
    let mut effective = VersionVector::new();
    for dot in vector(ledger, snapshot, bucket).await?.dots() {
        let start = Bound::Included(keys::index_of_segment(bucket, own, &dot.segment));
        let end = Bound::Included(keys::index(bucket, own, &dot.segment, dot.sequence));
        let last = snapshot.scan(Space::Index, KeyRange { start, end }, 1, true).await?;
        if let Some((key, _)) = last.rows.first() {
            effective.advance(Dot::new(dot.segment, keys::parse_index(own, key)?.1));
        }
    }
    Ok(effective)
}

/// Takes in a delta that the bucket's [`Standing`](super::Standing) admits; returns how many registers changed. The bucket stands at the union of its vector and the
/// delta's, if it stood at `from` at least.
pub async fn apply(txn: &mut Txn, bucket: &BucketState, delta: &Delta) -> Result<usize> {
    let ledger = txn.ledger().clone();
    let here = standing(&ledger, &ledger.store().snapshot().await?, bucket.number).await?;
    let keeps_data = keeping_in(txn, bucket.number).await? != Keeping::NamesOnly;
    txn.keep_replaced(bucket.number);
    let mut changed = 0;
    let mut latest = 0;
    let made = txn.ledger().sequence();
    let dropped = here.dropped();
    for register in &delta.registers {
        // A peer that lies, or this directory is an old copy: the numbers it would give out next are in use elsewhere, for something else.
        if context_of(register).get(txn.own()) > made {
            return Err(Error::invalid("a delta has changes of this segment that it has not made; is it an old copy?"));
        }
        let (is_news, time) = merge(txn, bucket.number, register, &dropped, keeps_data).await?;
        changed += usize::from(is_news);
        latest = latest.max(time);
    }
    if latest > HybridClock::REMOTE_TIME_MAX {
        return Err(Error::invalid("a delta has stamps from further ahead than any clock can be"));
    }
    txn.ledger().observe(latest);
    here.moved(txn, bucket.number, delta);
    super::show(txn, bucket).await?;
    if keeps_data {
        want_revived(txn, bucket).await?;
    }
    super::want_pinned(txn, bucket).await?;
    Ok(changed)
}

fn context_of(register: &DeltaRegister) -> &VersionVector {
    match register {
        DeltaRegister::Entry(_, _, register) => register.context(),
        DeltaRegister::Home(_, register) => register.context(),
        DeltaRegister::Content(_, register) | DeltaRegister::History(_, register) => register.context(),
        DeltaRegister::Attributes(_, register) => register.context(),
        DeltaRegister::Tags(_, register) => register.context(),
    }
}

async fn merge(
    txn: &mut Txn,
    bucket: BucketNumber,
    register: &DeltaRegister,
    dropped: &VersionVector,
    keeps_data: bool,
) -> Result<(bool, u64)> {
    Ok(match register {
        DeltaRegister::Entry(parent, name, theirs) => {
            (txn.edit_entry(bucket, parent, name).await?.register.merge_where(theirs, dropped), theirs.time_max())
        }
        DeltaRegister::Home(node, theirs) => {
            (txn.edit_node(bucket, node).await?.home.merge_where(theirs, dropped), theirs.time_max())
        }
        DeltaRegister::Content(node, theirs) => {
            let register = &mut txn.edit_node(bucket, node).await?.content;
            let before = register.dots();
            let is_news = register.merge_where(theirs, dropped);
            if keeps_data && is_news {
                let now = register.clone();
                want(txn, Field::Content, &keys::node(bucket, node), &before, &now, false);
            }
            (is_news, theirs.time_max())
        }
        DeltaRegister::Attributes(node, theirs) => {
            (txn.edit_node(bucket, node).await?.attributes.merge_where(theirs, dropped), theirs.time_max())
        }
        DeltaRegister::Tags(node, theirs) => {
            (txn.edit_node(bucket, node).await?.tags.merge_where(theirs, dropped), theirs.time_max())
        }
        DeltaRegister::History(key, theirs) => {
            let key = [&bucket.to_be_bytes()[..], key].concat();
            keys::parse_history(&key)?;
            let key = Bytes::from(key);
            let register = &mut txn.edit_history(key.clone()).await?.register;
            let dots = register.dots();
            let before = register.value().map(|version| version.size);
            let is_news = register.merge_where(theirs, dropped);
            let now = register.value().map(|version| version.size);
            if keeps_data && is_news {
                let register = register.clone();
                want(txn, Field::History, &key, &dots, &register, false);
            }
            count_kept(txn, bucket, before, now);
            (is_news, theirs.time_max())
        }
    })
}

/// A kept version, of this many bytes if there is one, was something else before.
pub(super) fn count_kept(txn: &mut Txn, bucket: BucketNumber, before: Option<u64>, now: Option<u64>) {
    txn.count(bucket, |usage| {
        usage.old_versions += i64::from(now.is_some()) - i64::from(before.is_some());
        let bytes = |size: Option<u64>| i64::try_from(size.unwrap_or_default()).unwrap_or(i64::MAX);
        usage.old_bytes += bytes(now) - bytes(before);
    });
}
