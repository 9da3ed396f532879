//! How long what a version refers to stays here, and what other segments have promised to hold.
//!
//! A bucket that *gathers* gives local data up when it is old enough and enough other segments hold it (P11). Four rows of [`Space::Meta`] say so, each
//! durable before anything follows from it:
//!
//! * `gathers/`: that the bucket gathers, after which time and with how many receipts;
//! * `receipts/`, one for each segment: up to which vector it has promised to hold all data;
//! * `promised/`, one for each segment: up to which vector this segment has promised that to it; nothing of it is given up here, so two segments can't
//!   each rely on the other. A promise ends when whom it was given to no longer relies on it ([`release`]), or is declared gone;
//! * `given/`: that something was given up, so that what was written here is not taken to be here (P8).

use super::keep::{Keeping, keeping};
use super::keys::{self, BucketNumber};
use super::pin::{Pin, pins};
use super::rows::NodeRow;
use super::standing::{Standing, standing};
use super::txn::Txn;
use super::version::Version;
use super::wanted::pinned_place;
use super::{BucketState, Ledger, View};
use crate::error::{Error, Result};
use crate::id::{NodeId, SegmentId};
use crate::kv::{KeyRange, Snapshot, Space};
use crate::register::{Dot, HybridClock, VersionVector, Write};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::sync::Arc;

/// How long a chunk stays, by what refers to it; the strongest counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hold {
    /// It was given up: only in the cache it may stay.
    GivenUp,
    /// It came from elsewhere and nothing wants it here: what a pin brought goes.
    Loose,
    /// It stays.
    Needed,
}

/// When a bucket gives local data up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gather {
    /// How many other segments must hold it; at least 1.
    pub receipts: u32,
    /// How long ago it must have been written, in milliseconds.
    pub delay_ms: u64,
    /// Whether the names of what is given up go out of sight, too (`away.rs`).
    pub names: bool,
}

const FORMAT: u8 = 1;
/// Of a bucket that gathers names, too: a build that would show them refuses it.
const FORMAT_WITH_NAMES: u8 = 2;
/// In a row of `given/`: nothing was given up, but something that was written here is made of bytes that only others hold.
const MADE_OF_OTHERS: u8 = 2;

fn row(kind: &str, bucket: BucketNumber) -> Bytes {
    let mut key = BytesMut::from(kind.as_bytes());
    key.put_u32(bucket);
    key.freeze()
}

/// `gathers/`, bucket (4).
pub(super) fn gathers_row(bucket: BucketNumber) -> Bytes {
    row("gathers/", bucket)
}

/// `receipts/`, bucket (4): the prefix of all of them.
pub(super) fn receipts_prefix(bucket: BucketNumber) -> Bytes {
    row("receipts/", bucket)
}

/// `promised/`, bucket (4): the prefix of all of them.
pub(super) fn promised_prefix(bucket: BucketNumber) -> Bytes {
    row("promised/", bucket)
}

/// `given/`, bucket (4).
pub(super) fn given_row(bucket: BucketNumber) -> Bytes {
    row("given/", bucket)
}

pub(super) fn encode_gather(gather: &Gather) -> Bytes {
    let mut row = BytesMut::new();
    row.put_u8(if gather.names { FORMAT_WITH_NAMES } else { FORMAT });
    row.put_u32(gather.receipts);
    row.put_u64(gather.delay_ms);
    row.freeze()
}

pub(super) fn decode_gather(row: Option<Bytes>) -> Result<Option<Gather>> {
    let Some(mut row) = row else { return Ok(None) };
    let bad = |_| Error::damaged("how a bucket gathers can't be read");
    let format = row.try_get_u8().map_err(bad)?;
    if !matches!(format, FORMAT | FORMAT_WITH_NAMES) || row.len() != 12 {
        return Err(Error::damaged("how a bucket gathers is in an unknown format"));
    }
    let (receipts, delay_ms) = (row.try_get_u32().map_err(bad)?, row.try_get_u64().map_err(bad)?);
    Ok(Some(Gather { receipts, delay_ms, names: format == FORMAT_WITH_NAMES }))
}

fn decode_vector(row: Option<Bytes>) -> Result<VersionVector> {
    match row {
        Some(row) => VersionVector::decode(&mut row.as_ref()),
        None => Ok(VersionVector::new()),
    }
}

/// When a bucket gives local data up; `None`: never.
pub async fn gather(snapshot: &Arc<dyn Snapshot>, bucket: BucketNumber) -> Result<Option<Gather>> {
    decode_gather(snapshot.get(Space::Meta, &gathers_row(bucket)).await?)
}

/// Begins or ends giving up.
pub async fn set_gather(txn: &mut Txn, bucket: BucketNumber, gather: Option<Gather>) -> Result<()> {
    let key = gathers_row(bucket);
    match gather {
        Some(Gather { receipts: 0, .. }) => Err(Error::invalid("data is given up with one receipt at least")),
        Some(gather) => {
            txn.put(Space::Meta, key, encode_gather(&gather));
            Ok(())
        }
        None => {
            txn.delete(Space::Meta, key);
            Ok(())
        }
    }
}

/// Raises the vector in a row to `vector` too.
async fn raise(txn: &mut Txn, key: Bytes, vector: &VersionVector) -> Result<()> {
    let mut held = decode_vector(txn.read(Space::Meta, &key).await?)?;
    if held.merge(vector) {
        if held.len() > VersionVector::SEGMENTS_MAX {
            return Err(Error::invalid("a vector names more segments than there can be"));
        }
        let mut row = Vec::new();
        held.encode(&mut row);
        txn.put(Space::Meta, key, row);
    }
    Ok(())
}

/// `segment` has promised to hold all data up to `vector`.
pub async fn add_receipt(
    txn: &mut Txn,
    bucket: BucketNumber,
    segment: &SegmentId,
    vector: &VersionVector,
) -> Result<()> {
    let key = [receipts_prefix(bucket).as_ref(), &segment.0].concat();
    raise(txn, key.into(), vector).await
}

/// This segment promises `segment` to hold all data up to `vector`.
pub async fn promise(txn: &mut Txn, bucket: BucketNumber, segment: &SegmentId, vector: &VersionVector) -> Result<()> {
    let key = [promised_prefix(bucket).as_ref(), &segment.0].concat();
    raise(txn, key.into(), vector).await
}

/// `segment` relies no longer on what it was promised.
pub fn end_promise(txn: &mut Txn, bucket: BucketNumber, segment: &SegmentId) {
    txn.delete(Space::Meta, [promised_prefix(bucket).as_ref(), &segment.0].concat().into());
}

/// Vectors by the segments that the rows below a prefix name. Those of segments that are declared gone are left out.
async fn vectors(
    snapshot: &Arc<dyn Snapshot>,
    bucket: BucketNumber,
    prefix: &Bytes,
) -> Result<Vec<(SegmentId, VersionVector)>> {
    let carriers = super::carriers(snapshot, bucket).await?;
    let mut found = Vec::new();
    for (key, row) in snapshot.scan(Space::Meta, KeyRange::prefix(prefix), usize::MAX, false).await?.rows {
        // Rows of earlier builds name nobody: what they promise is for everybody, and has no end.
        let segment = match key.get(prefix.len()..) {
            None | Some([]) => SegmentId::default(),
            Some(rest) => SegmentId(rest.try_into().map_err(|_| Error::damaged("a promise is made to no segment"))?),
        };
        if !carriers.get(&segment).is_some_and(|carrier| carrier.is_forgotten()) {
            found.push((segment, decode_vector(Some(row))?));
        }
    }
    Ok(found)
}

/// What this segment has promised, and to whom.
pub async fn promises(snapshot: &Arc<dyn Snapshot>, bucket: BucketNumber) -> Result<Vec<(SegmentId, VersionVector)>> {
    vectors(snapshot, bucket, &promised_prefix(bucket)).await
}

/// What others have promised.
async fn receipts(snapshot: &Arc<dyn Snapshot>, bucket: BucketNumber) -> Result<Vec<(SegmentId, VersionVector)>> {
    vectors(snapshot, bucket, &receipts_prefix(bucket)).await
}

/// The receipts that count for a segment that stands at `here`. What a promise covers was there, or had been replaced there; whoever knows all that the promise
/// knew shows nothing that had been replaced. Whoever only sends never knows that, and takes promises as they are.
fn that_count(
    receipts: Vec<(SegmentId, VersionVector)>,
    own: &SegmentId,
    here: &Standing,
) -> Vec<(SegmentId, VersionVector)> {
    let only_sends = here.known.dots().all(|dot| dot.segment == *own);
    let is_clear = |(_, vector): &(SegmentId, VersionVector)| {
        here.comparing.is_none() && (only_sends || here.known.dominates(vector))
    };
    receipts.into_iter().filter(is_clear).collect()
}

/// Whether this segment need not rely on the promise of `holder`: it holds all data up to `held` itself, or enough others have promised what that one has. Then nothing
/// is given up for it any more. `false`: it still does.
pub async fn release(txn: &mut Txn, bucket: BucketNumber, holder: &SegmentId, held: &VersionVector) -> Result<bool> {
    let ledger = txn.ledger().clone();
    let snapshot = ledger.store().snapshot().await?;
    let key = Bytes::from([receipts_prefix(bucket).as_ref(), &holder.0].concat());
    let Some(row) = txn.read(Space::Meta, &key).await? else { return Ok(true) };
    let promised = decode_vector(Some(row))?;
    txn.watch(Space::Meta, &gathers_row(bucket));
    txn.watch(Space::Meta, &super::carriers_row(bucket));
    let wanted = gather(&snapshot, bucket).await?.map_or(1, |gather| gather.receipts);
    let here = standing(&ledger, &snapshot, bucket).await?;
    let others = that_count(receipts(&snapshot, bucket).await?, ledger.own(), &here);
    let is_held = |dot: Dot| {
        let holders = others.iter().filter(|(segment, vector)| segment != holder && vector.covers(&dot)).count();
        held.covers(&dot) || u32::try_from(holders).is_ok_and(|holders| holders >= wanted)
    };
    let is_released = promised.dots().all(is_held);
    if is_released {
        txn.delete(Space::Meta, key);
    }
    Ok(is_released)
}

/// This segment was declared gone and is back: what others had promised it counted for nothing meanwhile.
pub async fn forget_receipts(txn: &mut Txn, bucket: BucketNumber) -> Result<()> {
    let snapshot = txn.ledger().store().snapshot().await?;
    let prefix = receipts_prefix(bucket);
    for (key, _) in snapshot.scan(Space::Meta, KeyRange::prefix(&prefix), usize::MAX, false).await?.rows {
        txn.delete(Space::Meta, key);
    }
    Ok(())
}

/// Whether something written here may not be here.
pub(super) async fn is_given(snapshot: &Arc<dyn Snapshot>, bucket: BucketNumber) -> Result<bool> {
    Ok(snapshot.get(Space::Meta, &given_row(bucket)).await?.is_some())
}

/// What a row of `given/` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Given {
    /// All that was written here is here.
    Nothing,
    /// Something that was written here is made of bytes that only others hold.
    MadeOfOthers,
    /// Something that was written here may have been given up.
    Up,
}

impl Given {
    fn of(row: Option<Bytes>) -> Given {
        match row.as_deref() {
            None => Given::Nothing,
            Some([MADE_OF_OTHERS]) => Given::MadeOfOthers,
            Some(_) => Given::Up,
        }
    }
}

/// What was noted with [`give`] and [`distrust`].
pub(super) async fn given_in(txn: &mut Txn, bucket: BucketNumber) -> Result<Given> {
    Ok(Given::of(txn.read(Space::Meta, &given_row(bucket)).await?))
}

/// Notes that from now on something may be given up.
pub async fn give(txn: &mut Txn, bucket: BucketNumber) -> Result<()> {
    if given_in(txn, bucket).await? < Given::Up {
        txn.put(Space::Meta, given_row(bucket), vec![FORMAT]);
    }
    Ok(())
}

/// Notes that something written here is made of what others hold.
pub(super) async fn distrust(txn: &mut Txn, bucket: BucketNumber) -> Result<()> {
    if given_in(txn, bucket).await? == Given::Nothing {
        txn.put(Space::Meta, given_row(bucket), vec![MADE_OF_OTHERS]);
    }
    Ok(())
}

/// What decides about the versions of one bucket, at one instant.
pub struct Holds {
    view: View,
    keeping: Keeping,
    pins: Vec<Pin>,
    gather: Option<Gather>,
    receipts: Vec<VersionVector>,
    promised: Vec<VersionVector>,
    now_ns: i64,
}

impl Holds {
    /// As `snapshot` has it. Nothing is given up unless `given/` says so.
    pub async fn new(
        snapshot: &Arc<dyn Snapshot>,
        ledger: &Ledger,
        bucket: &BucketState,
        now_ns: i64,
    ) -> Result<Holds> {
        let number = bucket.number;
        let here = standing(ledger, snapshot, number).await?;
        let receipts = that_count(receipts(snapshot, number).await?, ledger.own(), &here);
        let gather = match Given::of(snapshot.get(Space::Meta, &given_row(number)).await?) {
            Given::Up => gather(snapshot, number).await?,
            Given::Nothing | Given::MadeOfOthers => None,
        };
        Ok(Holds {
            view: View::new(snapshot.clone(), *ledger.own(), bucket, None),
            keeping: keeping(snapshot, number).await?,
            pins: pins(snapshot, number).await?,
            gather,
            receipts: receipts.into_iter().map(|(_, vector)| vector).collect(),
            promised: promises(snapshot, number).await?.into_iter().map(|(_, vector)| vector).collect(),
            now_ns,
        })
    }

    /// How long a live content of a node stays. `key`: that of the node's row.
    pub async fn of_content(&self, key: &[u8], row: &NodeRow, write: &Write<Version>) -> Result<Hold> {
        let by_write = self.of_write(write);
        if by_write == Hold::Needed || self.pins.is_empty() {
            return Ok(by_write);
        }
        let (node, _): (NodeId, _) = keys::parse_entry(key)?;
        let is_pinned = |path: &Bytes| self.pins.iter().any(|pin| pin.covers(path));
        let pinned = pinned_place(&self.view, &node, row, write, &is_pinned).await?;
        Ok(if pinned { Hold::Needed } else { by_write })
    }

    /// How long a content stays that was replaced: others may have taken bytes from it. Receipts are about what was not replaced.
    pub fn of_replaced(&self, write: &Write<Version>) -> Hold {
        let is_own = write.dot.segment == *self.view.own();
        let is_held = self.keeping != Keeping::NamesOnly || is_own || self.is_promised(&write.dot);
        if is_held { Hold::Needed } else { Hold::Loose }
    }

    /// How long a version stays that nothing can pin.
    pub fn of_write(&self, write: &Write<Version>) -> Hold {
        let is_own = write.dot.segment == *self.view.own();
        let is_deleted = write.value.as_ref().is_some_and(|version| version.deleted.is_some());
        if self.keeping != Keeping::NamesOnly {
            Hold::Needed
        } else if !is_deleted && self.is_given_up(write) {
            // What a deletion kept is held by nobody else for sure.
            Hold::GivenUp
        } else if is_own || self.is_promised(&write.dot) {
            Hold::Needed
        } else {
            Hold::Loose
        }
    }

    /// How a bucket gives up; `None`: not at all, for now.
    pub fn gather(&self) -> Option<Gather> {
        self.gather.filter(|_| self.keeping == Keeping::NamesOnly)
    }

    /// The rows that a transaction depends on which follows from what this says of a bucket.
    pub fn watch(txn: &mut Txn, bucket: BucketNumber) {
        for row in [gathers_row(bucket), super::pin::pins_row(bucket), super::keeping_row(bucket)] {
            txn.watch(Space::Meta, &row);
        }
    }

    fn is_given_up(&self, write: &Write<Version>) -> bool {
        let Some(gather) = self.gather else { return false };
        let holders = self.receipts.iter().filter(|held| held.covers(&write.dot)).count();
        let age_ms = self.now_ns.saturating_sub(HybridClock::wall_ns(write.stamp_time)) / 1_000_000;
        holders >= usize::try_from(gather.receipts).unwrap_or(usize::MAX)
            && u64::try_from(age_ms).is_ok_and(|age_ms| age_ms >= gather.delay_ms)
            && !self.is_promised(&write.dot)
    }

    fn is_promised(&self, dot: &Dot) -> bool {
        self.promised.iter().any(|vector| vector.covers(dot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_another_format_are_refused() {
        let mut row = vec![FORMAT];
        row.extend_from_slice(&2u32.to_be_bytes());
        row.extend_from_slice(&9u64.to_be_bytes());
        let read = |row: &[u8]| decode_gather(Some(Bytes::copy_from_slice(row)));
        assert_eq!(read(&row).unwrap(), Some(Gather { receipts: 2, delay_ms: 9, names: false }));
        let with_names = [&[FORMAT_WITH_NAMES], &row[1..]].concat();
        assert_eq!(read(&with_names).unwrap(), Some(Gather { receipts: 2, delay_ms: 9, names: true }));
        assert_eq!(decode_gather(None).unwrap(), None);
        for bad in [&row[..12], &[], &[3; 13], &[&row[..], &[0]].concat()] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }
}
