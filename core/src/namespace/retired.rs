//! Where a bucket stood when it was deleted here, should it come back: another segment that held something in it outlives the deletion, and the bucket with it.
//!
//! A bucket is deleted when nothing shows in it any more; what is left are tombstones, and what deletions kept. When nobody relies on that (`engine/buried.rs`) its rows go. So it stands as one whose
//! dead registers were all dropped at once, and that is what is kept: the vector, and as its floor all that it had. If it is admitted again it goes on from there. Others
//! hold things that were deleted here, and compare, as with any segment that has dropped what they never saw deleted (`docs/notes/0006-forgetting.md`).
//! What they made of it meanwhile (an edit, another name) is theirs, above the vector, and comes. Without this row a segment would stand
//! nowhere but at its own number, and nobody would send it what it once wrote itself.

use super::keys::{self, BucketNumber};
use super::standing::{Standing, put_standing, standing_in, standing_rows};
use super::txn::Txn;
use crate::error::{Error, Result};
use crate::id::BucketId;
use crate::kv::{KeyRange, Space};
use crate::register::{Dot, VersionVector};
use bytes::{BufMut, Bytes, BytesMut};

/// Rows of the change index that are read at once.
const SCAN_ROWS: usize = 4096;

/// `retired/`, bucket id (16).
fn retired_row(id: &BucketId) -> Bytes {
    let mut key = BytesMut::from(&b"retired/"[..]);
    key.put_slice(&id.0);
    key.freeze()
}

/// The highest change of each segment that the bucket's change index names. Reads all of it.
async fn reached(txn: &Txn, bucket: BucketNumber) -> Result<VersionVector> {
    let (own, prefix) = (*txn.own(), keys::bucket_prefix(bucket));
    let snapshot = txn.ledger().store().snapshot().await?;
    let (mut reached, mut range) = (VersionVector::new(), KeyRange::prefix(&prefix));
    loop {
        let page = snapshot.scan(Space::Index, range, SCAN_ROWS, false).await?;
        for (key, _) in &page.rows {
            let (segment, sequence) = keys::parse_index(&own, key)?;
            reached.advance(Dot::new(segment, sequence));
        }
        match page.rows.last() {
            Some((last, _)) if page.more => range = KeyRange::prefix_after(&prefix, last.clone()),
            _ => return Ok(reached),
        }
    }
}

/// Notes where a bucket stands whose rows are about to go. Not if it was still being brought here: what came in part, and was deleted before the rest came, lies above
/// any floor that this segment could vouch for. Then it will begin with nothing. All up to `seen` is known to be dead.
pub async fn retire(txn: &mut Txn, bucket: BucketNumber, id: &BucketId, seen: &VersionVector) -> Result<()> {
    let Standing { mut known, floor, .. } = standing_in(txn, bucket).await?;
    let mut dropped = reached(txn, bucket).await?;
    known.merge(seen);
    dropped.merge(seen);
    if !known.dominates(&dropped) {
        return Ok(());
    }
    dropped.merge(&floor);
    let mut row = Vec::new();
    known.encode(&mut row);
    dropped.encode(&mut row);
    txn.put(Space::Meta, retired_row(id), row);
    Ok(())
}

/// The rows of [`Space::Meta`] that a bucket has, or what they begin with: for who erases it.
pub fn bucket_rows(bucket: BucketNumber) -> impl Iterator<Item = Bytes> {
    let rows = [
        super::wanted_prefix(bucket),
        super::keep::keeping_row(bucket),
        super::pin::pins_row(bucket),
        super::rules_row(bucket),
        super::hold::gathers_row(bucket),
        super::hold::receipts_prefix(bucket),
        super::hold::promised_prefix(bucket),
        super::hold::given_row(bucket),
        super::away::away_prefix(bucket),
    ];
    rows.into_iter().chain(standing_rows(bucket))
}

/// A bucket that was deleted here has this number from now on: it stands where it stood.
pub async fn take_up(txn: &mut Txn, bucket: BucketNumber, id: &BucketId) -> Result<()> {
    let key = retired_row(id);
    let Some(row) = txn.read(Space::Meta, &key).await? else { return Ok(()) };
    let mut input = row.as_ref();
    let (known, floor) = (VersionVector::decode(&mut input)?, VersionVector::decode(&mut input)?);
    if !input.is_empty() {
        return Err(Error::damaged("what is left of a deleted bucket has bytes after its end"));
    }
    put_standing(txn, bucket, known, &floor);
    txn.delete(Space::Meta, key);
    Ok(())
}
