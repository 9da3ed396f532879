//! Where a bucket stands: what is here, what was dropped because everybody had it, and whether this segment has been away so long that it has to compare.
//!
//! A dropped register leaves nothing behind, so two rules take the place of its tombstone (`docs/notes/0006-forgetting.md` has the argument):
//! * A write that the vector covers, and that its register has never seen, was replaced and dropped: it is old, and not taken in (`Register::merge_at`).
//! * Each segment keeps a *floor*: all that was ever dropped lies at or below it, and nothing live here was dropped below it elsewhere. A delta that was
//!   cut above a floor which this segment has not reached does not say what was dropped meanwhile. Then it begins anew, at the empty vector, and *compares*:
//!   what it holds in a range of the change index, and the sender does not, is gone. Its own changes that the sender has never seen stay.

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
    /// Set while this segment compares.
    pub comparing: Option<Comparing>,
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
pub fn standing_rows(bucket: BucketNumber) -> [Bytes; 7] {
    let carriers = super::drop::carriers_row(bucket);
    let mark = super::drop::mark_row(bucket);
    let replaced = super::replaced::replaced_prefix(bucket);
    [vector_row(bucket), floor_row(bucket), comparing_row(bucket), differing_prefix(bucket), carriers, mark, replaced]
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
    let floor = read_vector(snapshot, &floor_row(bucket)).await?;
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
    Ok(Standing { known, settled, position, floor, comparing })
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
    /// What is to be done with a delta. `holds_below`: its floor, see [`holds_below`].
    pub fn admits(&self, delta: &Delta, holds_below: bool) -> Admission {
        let ours = self.comparing.as_ref().map_or(&self.floor, |comparing| &comparing.floor);
        let is_above = |floor: &VersionVector| delta.knows.dominates(floor);
        // Who stands above a floor holds nothing that was dropped below it, whether it has heard of that or not.
        let mut theirs = delta.floor.clone();
        if is_above(&theirs) && is_above(ours) {
            theirs.merge(ours);
        }
        let is_sender_clean = self.known.dominates(&self.floor) || is_above(&self.floor) || theirs == self.floor;
        match &self.comparing {
            Some(comparing) if comparing.floor.is_empty() => return Admission::Compare(delta.knows.clone()),
            Some(comparing) if theirs == comparing.floor => {
                if !self.position.dominates(&delta.from) {
                    return Admission::Wait("this segment compares all that it holds, and has not come this far");
                }
            }
            Some(comparing) if theirs.dominates(&comparing.floor) => return Admission::Compare(theirs),
            Some(_) => return Admission::Wait("this segment compares what it holds with another one"),
            None if self.known.dominates(&delta.floor) || theirs == self.floor || !holds_below => {}
            None => return Admission::Compare(theirs),
        }
        if is_sender_clean {
            Admission::Merge
        } else {
            Admission::Wait("the sender has not heard yet what was dropped elsewhere")
        }
    }

    /// Notes where the bucket stands when a delta that this admits has been merged.
    pub(super) fn moved(&self, txn: &mut Txn, bucket: BucketNumber, delta: &Delta) {
        let own = *txn.own();
        if self.position.dominates(&delta.from) {
            let mut position = self.position.clone();
            position.merge(&delta.to);
            if self.comparing.is_none() {
                // This segment's own number stands elsewhere.
                position.remove(&own);
            }
            txn.put(Space::Meta, vector_row(bucket), bytes_of(&[&position]));
        }
        let mut floor = self.floor.clone();
        if self.comparing.is_none() && floor.merge(&delta.floor) {
            txn.put(Space::Meta, floor_row(bucket), bytes_of(&[&floor]));
        }
    }

    /// Begins to compare with segments that have this floor.
    pub fn compare(&self, txn: &mut Txn, bucket: BucketNumber, floor: &VersionVector) {
        let before = self.comparing.as_ref().map_or(&self.known, |comparing| &comparing.before);
        txn.delete(Space::Meta, vector_row(bucket));
        txn.put(Space::Meta, comparing_row(bucket), bytes_of(&[floor, before, &self.known]));
    }

    /// All is compared, and what differed was dropped: the bucket stands where it stood, and where those stand that it was compared with.
    pub fn compared(&self, txn: &mut Txn, bucket: BucketNumber) {
        let Some(comparing) = &self.comparing else { return };
        let mut vector = self.known.clone();
        vector.remove(txn.own());
        txn.put(Space::Meta, vector_row(bucket), bytes_of(&[&vector]));
        self.raise_floor(txn, bucket, &comparing.floor);
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
            txn.put(Space::Meta, floor_row(bucket), bytes_of(&[&floor]));
        }
    }
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
