//! Where a bucket stands: what is here, what was dropped because everybody had it, and whether this segment has been away so long that it has to compare.
//!
//! A dropped register leaves nothing behind, so two rules take the place of its tombstone (`docs/notes/0006-forgetting.md` has the argument):
//! * A write that vector and floor cover, and that its register has never seen, was replaced and dropped: it is old, and not taken in (`Register::merge_where`).
//! * Each segment keeps a *floor*: all that was ever dropped lies at or below it, and nothing live here was dropped below it elsewhere. A delta that was
//!   cut above a floor which this segment has not reached does not say what was dropped meanwhile. Then it begins anew, at the empty vector, and *compares*:
//!   what it holds in a range of the change index, and the sender does not, is gone. Its own changes that the sender has never seen stay.
//!
//! Who can be waited for: a sender that stands above its own floor can be compared with at once, and goes on being one while it compares with somebody itself. So no two
//! segments that can reach each other wait for each other; one that waits for a segment which it can't reach any more turns to another (`Patience`).

use super::delta::Delta;
use super::keys::{self, BucketNumber};
use super::ledger::Ledger;
use super::txn::{Field, Txn};
use crate::error::{Error, Result};
use crate::id::SegmentId;
use crate::kv::{KeyRange, Snapshot, Space};
use crate::register::{Dot, VersionVector};
use bytes::{BufMut, Bytes, BytesMut};
use std::ops::Bound;
use std::sync::Arc;

/// A bucket's rows about where it stands, at one instant.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    /// Up to where the changes of each segment are here, or were replaced and dropped.
    pub known: VersionVector,
    /// Up to where this segment also has what that replaced: `known`, or where it stood before it began to compare. What others are told.
    pub settled: VersionVector,
    /// After which vector deltas are to be cut: `known`, or less while this segment compares.
    pub position: VersionVector,
    /// See the module.
    pub floor: VersionVector,
    /// The part of the floor that was taken over from others, as long as this segment does not stand above it.
    pub approaching: VersionVector,
    /// Set while this segment compares.
    pub comparing: Option<Comparing>,
}

/// How often a segment that compares turns others away before it leaves those that it compares with: they may be gone for good.
#[derive(Debug)]
pub struct Patience {
    turned_away: u32,
    limit: u32,
}

/// At first. What a sender is refused it offers again after a quarter of a second, then after longer and longer, so this is a minute of one sender.
const PATIENCE: u32 = 8;
const PATIENCE_MAX: u32 = 1 << 20;

impl Default for Patience {
    fn default() -> Self {
        Patience { turned_away: 0, limit: PATIENCE }
    }
}

impl Patience {
    /// The comparison has got on.
    pub fn renew(&mut self) {
        self.turned_away = 0;
    }

    /// Another one was turned away. Returns whether that is enough; then it takes twice as many the next time, so that however slow those are that could
    /// be left, one of them is not in the end.
    pub fn turn_away(&mut self) -> bool {
        self.turned_away += 1;
        if self.turned_away < self.limit {
            return false;
        }
        self.turned_away = 0;
        self.limit = self.limit.saturating_mul(2).min(PATIENCE_MAX);
        true
    }
}

/// A comparison that is under way.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparing {
    /// The floor of those it compares with; empty: whoever sends next.
    pub floor: VersionVector,
    /// Where the bucket stood before: what is above it may not be all that others told of, because what they had dropped is still here.
    pub before: VersionVector,
    /// Up to where changes were here when it began, the last time.
    pub reached: VersionVector,
}

/// What is to be done with a delta.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// It can be merged.
    Merge,
    /// Not before something else is here; the reason.
    Wait(&'static str),
    /// This segment was away too long for it, and has to compare with those who have this floor.
    Compare(VersionVector),
    /// This segment compares with others. If those are not to be had, it can compare with those who have this floor.
    Other(VersionVector),
    /// This segment is on the way to where others have dropped something that the sender has not heard of. If those are not to be had, it can begin with nothing,
    /// and compare with those who have this floor.
    Abandon(VersionVector),
}

fn row(prefix: &[u8], bucket: BucketNumber) -> Bytes {
    let mut key = BytesMut::from(prefix);
    key.put_u32(bucket);
    key.freeze()
}

fn vector_row(bucket: BucketNumber) -> Bytes {
    row(b"vector/", bucket)
}

fn floor_row(bucket: BucketNumber) -> Bytes {
    row(b"floor/", bucket)
}

fn comparing_row(bucket: BucketNumber) -> Bytes {
    row(b"comparing/", bucket)
}

/// `differing/`, bucket (4): see [`differing_key`].
pub(super) fn differing_prefix(bucket: BucketNumber) -> Bytes {
    row(b"differing/", bucket)
}

/// All rows of this module, of `drop` and of `replaced`, that a bucket has: for who erases it.
pub(super) fn standing_rows(bucket: BucketNumber) -> [Bytes; 8] {
    let carriers = super::drop::carriers_row(bucket);
    let mark = super::drop::mark_row(bucket);
    let dropped = super::drop::dropped_row(bucket);
    let replaced = super::replaced::replaced_prefix(bucket);
    let [vector, floor, comparing] = [vector_row(bucket), floor_row(bucket), comparing_row(bucket)];
    [vector, floor, comparing, differing_prefix(bucket), carriers, mark, dropped, replaced]
}

fn bytes_of(vectors: &[&VersionVector]) -> Vec<u8> {
    let mut out = Vec::new();
    vectors.iter().for_each(|vector| vector.encode(&mut out));
    out
}

async fn read_vector(snapshot: &Arc<dyn Snapshot>, key: &Bytes) -> Result<VersionVector> {
    match snapshot.get(Space::Meta, key).await? {
        Some(row) => VersionVector::decode(&mut row.as_ref()),
        None => Ok(VersionVector::new()),
    }
}

/// Where a bucket stands in a snapshot of the store.
pub async fn standing(ledger: &Ledger, snapshot: &Arc<dyn Snapshot>, bucket: BucketNumber) -> Result<Standing> {
    let mut position = read_vector(snapshot, &vector_row(bucket)).await?;
    let floors = snapshot.get(Space::Meta, &floor_row(bucket)).await?;
    let comparing = match snapshot.get(Space::Meta, &comparing_row(bucket)).await? {
        Some(row) => {
            let mut input = row.as_ref();
            let [floor, before, reached] = [(); 3].map(|()| VersionVector::decode(&mut input));
            Some(Comparing { floor: floor?, before: before?, reached: reached? })
        }
        None => None,
    };
    let own = Dot::new(*ledger.own(), ledger.sequence_at(snapshot).await?);
    let mut known = position.clone();
    known.advance(own);
    let settled = match &comparing {
        Some(comparing) => {
            known.merge(&comparing.reached);
            let mut settled = comparing.before.clone();
            settled.advance(own);
            settled
        }
        None => {
            position.advance(own);
            known.clone()
        }
    };
    let (floor, approaching) = match floors {
        Some(row) => {
            let mut input = row.as_ref();
            let floor = VersionVector::decode(&mut input)?;
            let approaching = match input {
                // As it was written before there was a part.
                [] => floor.clone(),
                _ => VersionVector::decode(&mut input)?,
            };
            (floor, if known.dominates(&approaching) { VersionVector::new() } else { approaching })
        }
        None => Default::default(),
    };
    Ok(Standing { known, settled, position, floor, approaching, comparing })
}

/// The same as a transaction has it, which fails if that changes.
pub(super) async fn standing_in(txn: &mut Txn, bucket: BucketNumber) -> Result<Standing> {
    for row in [vector_row(bucket), floor_row(bucket), comparing_row(bucket)] {
        txn.watch(Space::Meta, &row);
    }
    let ledger = txn.ledger().clone();
    standing(&ledger, &ledger.store().snapshot().await?, bucket).await
}

/// A bucket without rows stands at `known`, above this floor.
pub(super) fn put_standing(txn: &mut Txn, bucket: BucketNumber, mut known: VersionVector, floor: &VersionVector) {
    let approaching = if known.dominates(floor) { VersionVector::new() } else { floor.clone() };
    txn.put(Space::Meta, floor_row(bucket), bytes_of(&[floor, &approaching]));
    // This segment's own number stands elsewhere.
    known.remove(&txn.own().clone());
    txn.put(Space::Meta, vector_row(bucket), bytes_of(&[&known]));
}

/// Whether anything is here of what lies at or below `floor`, be it from beyond the vector.
pub async fn holds_below(
    ledger: &Ledger,
    snapshot: &Arc<dyn Snapshot>,
    bucket: BucketNumber,
    floor: &VersionVector,
) -> Result<bool> {
    let own = ledger.own();
    for dot in floor.dots() {
        let start = Bound::Included(keys::index_of_segment(bucket, own, &dot.segment));
        let end = Bound::Included(keys::index(bucket, own, &dot.segment, dot.sequence));
        if !snapshot.scan(Space::Index, KeyRange { start, end }, 1, false).await?.rows.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether anything is here from beyond `known`: registers come whole, and in the middle of a way.
pub async fn holds_beyond(
    ledger: &Ledger,
    snapshot: &Arc<dyn Snapshot>,
    bucket: BucketNumber,
    known: &VersionVector,
) -> Result<bool> {
    let own = ledger.own();
    let mut range = KeyRange::prefix(&keys::bucket_prefix(bucket));
    loop {
        let first = snapshot.scan(Space::Index, range, 1, false).await?.rows.into_iter().next();
        let Some((key, _)) = first else { return Ok(false) };
        let (segment, _) = keys::parse_index(own, &key)?;
        // The last one of this segment, and on with the next segment.
        let of_segment = KeyRange::prefix(&keys::index_of_segment(bucket, own, &segment));
        let last = snapshot.scan(Space::Index, of_segment, 1, true).await?.rows.into_iter().next();
        let Some((key, _)) = last else { return Ok(false) };
        if !known.covers(&Dot { segment, sequence: keys::parse_index(own, &key)?.1 }) {
            return Ok(true);
        }
        range = KeyRange::prefix_after(&keys::bucket_prefix(bucket), key);
    }
}

impl Standing {
    /// Below this lies all that was dropped by those whose changes are here, and nothing is missing that is live. Above the floor a write that is missing may have been replaced by
    /// one that is still to come.
    pub fn dropped(&self) -> VersionVector {
        let mut dropped = VersionVector::new();
        for Dot { segment, sequence } in self.known.dots() {
            let compared = self.comparing.as_ref().map_or(0, |comparing| comparing.floor.get(&segment));
            let floor = self.floor.get(&segment).max(compared);
            dropped.advance(Dot { segment, sequence: sequence.min(floor) });
        }
        dropped
    }

    /// What is to be done with a delta. `holds_below`: its floor, see [`holds_below`].
    pub fn admits(&self, delta: &Delta, holds_below: bool) -> Admission {
        let ours = self.comparing.as_ref().map_or(&self.floor, |comparing| &comparing.floor);
        let is_above = |floor: &VersionVector| delta.knows.dominates(floor);
        // Who stands above a floor holds nothing that was dropped below it, whether it has heard of that or not.
        let mut theirs = delta.floor.clone();
        if is_above(&theirs) && is_above(ours) {
            theirs.merge(ours);
        }
        // Nor does who has taken that floor over.
        if !is_above(&self.approaching) && !delta.floor.dominates(&self.approaching) {
            return match is_above(&delta.floor) {
                true => Admission::Abandon(theirs),
                false => Admission::Wait("the sender has not heard yet what was dropped elsewhere"),
            };
        }
        let compare = |floor| {
            if is_above(&delta.floor) {
                Admission::Compare(floor)
            } else {
                // It has not got all that is left where something was dropped, and can't say of all that is here whether that was.
                Admission::Wait("the sender is still on the way to where others have dropped something")
            }
        };
        match &self.comparing {
            Some(comparing) if comparing.floor.is_empty() => compare(delta.knows.clone()),
            Some(comparing) if theirs == comparing.floor && self.position.dominates(&delta.from) => Admission::Merge,
            Some(comparing) if theirs == comparing.floor => {
                Admission::Wait("this segment compares all that it holds, and has not come this far")
            }
            Some(comparing) if theirs.dominates(&comparing.floor) => compare(theirs),
            Some(_) if is_above(&delta.floor) => Admission::Other(theirs),
            Some(_) => Admission::Wait("this segment compares what it holds with another one"),
            None if self.known.dominates(&delta.floor) || theirs == self.floor => Admission::Merge,
            // Whoever has a floor of its own would stand above one part of what it has then, and wait for others to stand above both.
            None if !holds_below && self.floor.is_empty() => Admission::Merge,
            None => compare(theirs),
        }
    }

    /// Whether a delta that this admits, and that its sender has nothing after, is the last one of the comparison.
    pub fn ends_with(&self, delta: &Delta) -> bool {
        let is_above = |comparing: &Comparing| delta.knows.dominates(&comparing.floor);
        delta.is_whole && self.comparing.as_ref().is_some_and(is_above)
    }

    /// Notes where the bucket stands when a delta that this admits has been merged.
    pub(super) fn moved(&self, txn: &mut Txn, bucket: BucketNumber, delta: &Delta) {
        let own = *txn.own();
        let mut known = self.known.clone();
        if self.position.dominates(&delta.from) {
            known.merge(&delta.to);
            let mut position = self.position.clone();
            position.merge(&delta.to);
            if self.comparing.is_none() {
                // This segment's own number stands elsewhere.
                position.remove(&own);
            }
            txn.put(Space::Meta, vector_row(bucket), bytes_of(&[&position]));
        }
        if self.comparing.is_some() {
            return;
        }
        let (mut floor, mut approaching) = (self.floor.clone(), self.approaching.clone());
        floor.merge(&delta.floor);
        if !known.dominates(&delta.floor) && !self.floor.dominates(&delta.floor) {
            approaching.merge(&delta.floor);
        }
        if known.dominates(&approaching) {
            approaching = VersionVector::new();
        }
        if floor != self.floor || approaching != self.approaching {
            txn.put(Space::Meta, floor_row(bucket), bytes_of(&[&floor, &approaching]));
        }
    }

    /// Whether to compare with segments that have this floor is to leave those that this segment compares with now: what was noted must be forgotten before.
    pub fn leaves(&self, floor: &VersionVector) -> bool {
        let goes_on = |now: &Comparing| !now.floor.is_empty() && floor.dominates(&now.floor);
        self.comparing.as_ref().is_some_and(|comparing| !goes_on(comparing))
    }

    /// Begins to compare with segments that have this floor.
    pub fn compare(&self, txn: &mut Txn, bucket: BucketNumber, floor: &VersionVector) {
        let (before, reached) = match &self.comparing {
            // It stands where it stood. What it has come to know since, of what those that it leaves had dropped, the others don't know, and may send.
            Some(comparing) if self.leaves(floor) => (&comparing.before, &comparing.before),
            Some(comparing) => (&comparing.before, &self.known),
            None => (&self.known, &self.known),
        };
        txn.delete(Space::Meta, vector_row(bucket));
        txn.put(Space::Meta, comparing_row(bucket), bytes_of(&[floor, before, reached]));
    }

    /// Where this segment stands when it gives up a floor that it is on the way to: nowhere, above nothing.
    pub fn abandoned(mut self, txn: &mut Txn, bucket: BucketNumber) -> Standing {
        let empty = VersionVector::new();
        txn.put(Space::Meta, floor_row(bucket), bytes_of(&[&empty, &empty]));
        (self.known, self.floor, self.approaching) = (empty.clone(), empty.clone(), empty.clone());
        self.comparing =
            self.comparing.map(|_| Comparing { floor: empty.clone(), before: empty.clone(), reached: empty });
        self
    }

    /// All is compared, and what differed was dropped: the bucket stands where it stood, and where those stand that it was compared with.
    pub fn compared(&self, txn: &mut Txn, bucket: BucketNumber) {
        let Some(comparing) = &self.comparing else { return };
        let mut vector = self.known.clone();
        vector.remove(txn.own());
        txn.put(Space::Meta, vector_row(bucket), bytes_of(&[&vector]));
        let mut floor = self.floor.clone();
        floor.merge(&comparing.floor);
        let is_there = self.known.dominates(&self.approaching);
        let approaching = if is_there { VersionVector::new() } else { self.approaching.clone() };
        txn.put(Space::Meta, floor_row(bucket), bytes_of(&[&floor, &approaching]));
        txn.delete(Space::Meta, comparing_row(bucket));
    }

    /// Those with whom this segment compares may be gone: it begins again with whoever sends next.
    pub fn compare_with_others(&self, txn: &mut Txn, bucket: BucketNumber) {
        let Some(comparing) = &self.comparing else { return };
        let row = bytes_of(&[&VersionVector::new(), &comparing.before, &comparing.reached]);
        txn.put(Space::Meta, comparing_row(bucket), row);
    }

    /// Notes that what is at or below `dropped` may be dropped from now on.
    pub fn raise_floor(&self, txn: &mut Txn, bucket: BucketNumber, dropped: &VersionVector) {
        let mut floor = self.floor.clone();
        if floor.merge(dropped) {
            txn.put(Space::Meta, floor_row(bucket), bytes_of(&[&floor, &self.approaching]));
        }
    }
}

/// Up to where all that ever happened in a bucket is here, as others are told it: what is alive there and is not here lies above it.
pub async fn told(
    ledger: &Ledger,
    snapshot: &Arc<dyn Snapshot>,
    bucket: BucketNumber,
    here: &Standing,
) -> Result<VersionVector> {
    let mut vector = tight(ledger, snapshot, bucket, &here.settled).await?;
    if here.settled.dominates(&here.floor) {
        vector.merge(&here.floor);
    }
    Ok(vector)
}

/// The same of now, for a transaction that fails if it changes.
pub async fn told_in(txn: &mut Txn, bucket: BucketNumber) -> Result<VersionVector> {
    let here = standing_in(txn, bucket).await?;
    let ledger = txn.ledger().clone();
    told(&ledger, &ledger.store().snapshot().await?, bucket, &here).await
}

/// The same vector, each segment at its last change that the bucket's change index still has: other buckets move a segment's number too.
pub async fn tight(
    ledger: &Ledger,
    snapshot: &Arc<dyn Snapshot>,
    bucket: BucketNumber,
    vector: &VersionVector,
) -> Result<VersionVector> {
    let own = ledger.own();
    let mut tight = VersionVector::new();
    for dot in vector.dots() {
        let start = Bound::Included(keys::index_of_segment(bucket, own, &dot.segment));
        let end = Bound::Included(keys::index(bucket, own, &dot.segment, dot.sequence));
        let page = snapshot.scan(Space::Index, KeyRange { start, end }, 1, true).await?;
        if let Some((key, _)) = page.rows.first() {
            let (segment, sequence) = keys::parse_index(own, key)?;
            tight.advance(Dot::new(segment, sequence));
        }
    }
    Ok(tight)
}

/// [`differing_prefix`], the field byte of the row in the change index, its dot, and the row that it names. Entries come first.
pub(super) fn differing_key(bucket: BucketNumber, dot: &Dot, target: &[u8]) -> Result<Bytes> {
    let (field, row) = target.split_first().ok_or_else(|| Error::damaged("a row of the change index is empty"))?;
    let mut key = BytesMut::from(differing_prefix(bucket).as_ref());
    key.put_u8(*field);
    key.put_slice(&dot.segment.0);
    key.put_u64(dot.sequence);
    key.put_slice(row);
    Ok(key.freeze())
}

/// Field, dot, and the key of the row with the bucket.
pub(super) fn parse_differing(bucket: BucketNumber, key: &[u8]) -> Result<(Field, Dot, Bytes)> {
    let bad = || Error::damaged("a row of a comparison has a key of the wrong length");
    let rest = key.strip_prefix(differing_prefix(bucket).as_ref()).ok_or_else(bad)?;
    let (field, rest) = rest.split_first().ok_or_else(bad)?;
    let (segment, rest) = rest.split_first_chunk::<16>().ok_or_else(bad)?;
    let (sequence, row) = rest.split_first_chunk::<8>().ok_or_else(bad)?;
    let dot = Dot { segment: SegmentId(*segment), sequence: u64::from_be_bytes(*sequence) };
    Ok((Field::from_byte(*field)?, dot, [&bucket.to_be_bytes()[..], row].concat().into()))
}
